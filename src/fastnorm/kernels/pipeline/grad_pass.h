/* A pass of the backward: see pass.h.  There are three sums for two, and two inputs for one. */
#ifndef FASTNORM_PIPELINE_GRAD_PASS_H
#define FASTNORM_PIPELINE_GRAD_PASS_H

#include "../backward/row.h"
#include "pass.h"

INLINE const char *gradient_of(const Range *r, const Batch *b, const PieceWalk *piece, int j) {
    return r->job->backward.grad + b->at.y + j * b->step.y + piece->at.y;
}

INLINE void grad_elems_of(const int how, const Range *r, const Batch *b, const PieceWalk *piece,
                          int j, Elems *x, Elems *grad) {
    x->raw = r->plan->x + b->at.x + j * b->step.x + piece->at.x;
    grad->raw = gradient_of(r, b, piece, j);
    x->x = how & CONVERT ? NULL : (const real *)x->raw;
    grad->x = how & CONVERT ? NULL : (const real *)grad->raw;
}

INLINE void grad_measure_of(const int how, Range *r, Batch *b, const PieceWalk *piece, int j,
                            int add, GradMeasure *m) {
    grad_elems_of(how, r, b, piece, j, &m->x, &m->grad);
    m->hi = b->hi[j];
    m->rstd = b->scale[j];
    if (how & ACROSS)
        m->weight = (const real *)r->plan->weight + param_of(b, piece, j);
    m->prefetch_bytes = r->prefetch_bytes;
    for (int k = 0; k < SUMS; k++)
        m->sum[k] = &b->lanes[k][j];
    m->add = add;
}

INLINE void grad_apply_of(const int how, Range *r, const Batch *b, const PieceWalk *piece, int j,
                          GradApply *a) {
    grad_elems_of(how, r, b, piece, j, &a->x, &a->grad);
    a->hi = b->hi[j];
    a->rstd = b->scale[j];
    a->xhat_shift = b->xhat_shift[j];
    a->of_grad = b->of_grad[j];
    a->factor = b->factor[j];
    a->term = b->term[j];
    if (how & ACROSS) {
        const ptrdiff_t param = param_of(b, piece, j);
        a->weight = (const real *)r->plan->weight + param;
        a->dweight = r->dweight + (param - r->first_param);
        a->dbias = r->dbias + (param - r->first_param);
    }
    char *y = output_of(r, b, piece, j);
    a->sink = &r->sink;
    a->to = how & STAGED ? sink_at(&r->sink, y) : (real *)y;
}

INLINE ElementPair exceptional_pair(const Range *r, const Batch *b, const PieceWalk *piece, int j) {
    return (ElementPair){r->plan->x + b->at.x + j * b->step.x + piece->at.x,
                         gradient_of(r, b, piece, j), b->mean[j], b->rstd[j]};
}

/* The sums of some pieces of set j of a batch in float64. */
NOINLINE void grad_exceptional_pieces(const Range *r, const Batch *b, int j, ptrdiff_t first,
                                      ptrdiff_t last, GradSums *sums) {
    const Plan *plan = r->plan;
    PieceWalk piece;
    pieces_at(&piece, &plan->rows, first, r->size);
    for (ptrdiff_t i = first; i < last; i++) {
        const ElementPair e = exceptional_pair(r, b, &piece, j);
        const ElementParams params = {
            plan->along ? (const real *)plan->weight + param_of(b, &piece, j) : NULL, NULL, 1};
        exceptional_grad_sums(r->job, &e, piece.length, &params, sums);
        if (i + 1 < last)
            pieces_next(&piece, r->size);
    }
}

/* The sums of an exceptional set, or of one whose sums have left the range; those stay as they are
 * if it is an element that is not finite. */
NOINLINE void grad_exceptional_sums(const Range *r, const Batch *b, int j, ptrdiff_t first,
                                    ptrdiff_t last, GradSums *sums) {
    const int exceptional = b->exceptional >> j & 1, is_double = r->plan->dtype == F64;
    GradSums again = {0, 0, 0, exceptional ? WITHIN : WIDENED};
    if (exceptional || !is_double) {
        grad_exceptional_pieces(r, b, j, first, last, &again);
        if (exceptional || grad_sums_within(again.g, again.gx, again.x))
            *sums = again;
        if (!is_double || grad_sums_within(again.g, again.gx, again.x))
            return;
    }
    again = (GradSums){0, 0, 0, SHRUNK};
    grad_exceptional_pieces(r, b, j, first, last, &again);
    if (grad_sums_within(again.g, again.gx, again.x))
        *sums = again;
}

NOINLINE void grad_apply_exceptional(Range *r, const Batch *b, const PieceWalk *piece, int j) {
    const Plan *plan = r->plan;
    const ElementPair e = exceptional_pair(r, b, piece, j);
    const ptrdiff_t param =
        b->at.param + j * b->step.param + piece->at.param + (plan->along ? piece->start : 0);
    const ElementParams params = {plan->weight ? (const real *)plan->weight + param : NULL, NULL,
                                  plan->along};
    for (ptrdiff_t i = 0; plan->along && i < piece->length; i++) {
        const double g = element_at(plan->dtype, e.grad + i * r->size);
        const double x = element_at(plan->dtype, e.x + i * r->size);
        r->dbias[param + i - r->first_param] += (real)g;
        r->dweight[param + i - r->first_param] +=
            (real)(g * (exceptional_xhat(x, e.mean, 0, e.rstd) - b->grad[j].shift));
    }
    exceptional_grad_apply(r->job, &e, output_of(r, b, piece, j), piece->length, &params,
                           &b->grad[j]);
}

/* With the weight of a run; returns whether there is no room for some. */
NOINLINE unsigned grad_coefs_of_run(const Range *r, Batch *b, ptrdiff_t param) {
    unsigned exceptional = 0;
    for (int j = 0; j < (int)b->count; j++) {
        const double weight = r->plan->along ? 1 : grad_weight(r->job, param + j * b->step.param);
        exceptional |= (unsigned)grad_set_coefs(b, j, &b->grad[j], weight, r->plan->along) << j;
    }
    return exceptional;
}

/* The sums of a run that has a weight of its own. */
NOINLINE void grad_keep_run(Range *r, Batch *b, ptrdiff_t run) {
    GradSums *sums = grad_row_sums(r->job, b->set) + run;
    sums->g += b->sum[0][0];
    sums->gx += b->sum[1][0];
    sums->x += b->sum[2][0];
    batch_clear_sums(b, SUMS);
}

/* What has been gathered in float32 goes to the table. */
NOINLINE void grad_flush(Range *r) {
    double *to[2] = {r->table + r->first_param,
                     r->table + r->job->backward.params + r->first_param};
    real *from[2] = {r->dweight, r->dbias};
    for (int k = 0; k < 2; k++) {
        double *restrict table = to[k];
        real *restrict sums = from[k];
        for (ptrdiff_t i = 0; i < r->params; i++) {
            table[i] += (double)sums[i];
            sums[i] = 0;
        }
    }
    r->gathered = 0;
}

INLINE void grad_pass(const int how, Range *r, Batch *applied, Batch *measured, const Span *span) {
    ptrdiff_t open = 0;
    PieceWalk piece;
    pieces_at(&piece, &r->plan->rows, span->first, r->size);
    for (ptrdiff_t i = span->first; i < span->last; i++) {
        if (how & APPLY && !(how & ACROSS) && r->per_run)
            grad_coefs_of_run(r, applied, applied->at.param + piece.at.param);
        for (int j = span->from; j < span->to; j++) {
            GradApply a = {0};
            GradMeasure m = {0};
            if (!(how & MEASURE) && __builtin_expect(applied->exceptional >> j & 1, 0)) {
                grad_apply_exceptional(r, applied, &piece, j);
                continue;
            }
            if (how & MEASURE)
                grad_measure_of(how, r, measured, &piece, j, open > 0, &m);
            if (how & APPLY)
                grad_apply_of(how, r, applied, &piece, j, &a);
            grad_row_piece(how, &a, &m, r->arena->tiles, r->plan->dtype, piece.length);
        }
        if (how & APPLY && how & ACROSS && r->by_run && ++r->gathered == GRAD_ROWS)
            grad_flush(r);
        if (how & MEASURE && (++open == r->close || i + 1 == span->last ||
                              (r->per_run && piece.part + 1 == r->plan->rows.pieces))) {
            for (int k = 0; k < SUMS; k++)
                batch_add_lanes(measured, k, span->from, span->to);
            open = 0;
            if (r->per_run)
                grad_keep_run(r, measured, i / r->plan->rows.pieces);
        }
        if (i + 1 < span->last)
            pieces_next(&piece, r->size);
    }
}

#endif
