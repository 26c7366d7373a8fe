/* A pass over a batch of rows that is applied and the batch after it, which is summed: pieces of
 * runs outside, sets inside.  Compiled for each combination of flags that it meets. */
#ifndef FASTNORM_PIPELINE_PASS_H
#define FASTNORM_PIPELINE_PASS_H

#include "../forward/row.h"
#include "../plan/machine.h"
#include "../stats/exceptional.h"

/* What a thread has of its own. */
typedef struct {
    Batch batch[2];
    _Alignas(LINE_BYTES) real stage[STAGE_ROOM];
    real tiles[4 * SEGMENT];       /* converted pieces, of two arrays in a backward pass */
    real resident[2][TILE + LINE]; /* converted batches */
} RowsArena;

/* A range of work. */
typedef struct {
    const Job *job;
    const Plan *plan;
    RowsArena *arena;
    Sink sink;
    ptrdiff_t size;  /* bytes of an element */
    int resident;    /* a batch is converted once */
    int short_rows;  /* sets are one segment each */
    int per_run;     /* coefficients change from run to run */
    ptrdiff_t close; /* pieces that are added in float32 */
    ptrdiff_t prefetch_bytes;
    /* backward, parameters along the run: sums of some sets, and where they go */
    real *dweight, *dbias;
    ptrdiff_t first_param, params;
    ptrdiff_t gathered; /* additions since the last time */
    int by_run;         /* runs of a set share parameters */
    double *table;
} Range;

INLINE void range_begin(Range *r, const Job *job, char *arena) {
    const Plan *plan = &job->plan;
    const RowsPlan *rows = &plan->rows;
    r->job = job;
    r->plan = plan;
    r->arena = (RowsArena *)arena;
    r->size = ELEMENT_BYTES(plan->dtype);
    r->resident = piece_count(rows) == 1 && rows->batch * rows->length <= TILE;
    r->short_rows = piece_count(rows) == 1 && rows->length <= SEGMENT &&
                    plan->store != STORE_SEAMS && (plan->dtype == REAL_DTYPE || r->resident);
    r->per_run = !plan->along && has_param(&rows->runs);
    r->close = MAX(1, LEVEL / up(MIN(rows->length, rows->piece), SEGMENT));
    r->prefetch_bytes = AHEAD_BYTES;
    if (rows->runs.ndim > 0)
        r->prefetch_bytes = rows->runs.x[rows->runs.ndim - 1];
    if (!features_on(FEATURE_PREFETCH))
        r->prefetch_bytes = 0;
    r->first_param = r->params = r->gathered = 0;
    sink_begin(&r->sink, plan, r->arena->stage);
}

/* ---- one set of a batch, in one piece ---- */

/* The elements of set j, or where to convert them from. */
INLINE void elems_of(const int how, const Range *r, const Batch *b, const PieceWalk *piece, int j,
                     Elems *e) {
    const char *x = r->plan->x + b->at.x + j * b->step.x + piece->at.x;
    e->raw = NULL;
    e->x = (const real *)x;
    if (how & CONVERT && r->resident)
        e->x = r->arena->resident[b - r->arena->batch] + j * r->plan->rows.length;
    else if (how & CONVERT)
        e->raw = x;
}

INLINE char *output_of(const Range *r, const Batch *b, const PieceWalk *piece, int j) {
    return r->plan->y + b->at.y + j * b->step.y + piece->at.y;
}

INLINE ptrdiff_t param_of(const Batch *b, const PieceWalk *piece, int j) {
    return b->at.param + j * b->step.param + piece->at.param + piece->start;
}

INLINE void measure_of(const int how, Range *r, Batch *b, const PieceWalk *piece, int j, int add,
                       RowMeasure *m) {
    elems_of(how, r, b, piece, j, &m->from);
    m->scale = b->scale[j];
    m->shift = b->shift[j];
    m->prefetch_bytes = r->prefetch_bytes;
    m->d = &b->lanes[0][j];
    m->dd = &b->lanes[1][j];
    m->add = add;
}

INLINE void apply_of(const int how, Range *r, const Batch *b, const PieceWalk *piece, int j,
                     RowApply *a) {
    const Plan *plan = r->plan;
    elems_of(how, r, b, piece, j, &a->from);
    a->hi = b->hi[j];
    a->factor = b->factor[j];
    a->term = b->term[j];
    if (how & ACROSS) {
        const ptrdiff_t param = param_of(b, piece, j);
        a->weight = (const real *)plan->weight + param;
        a->bias = (const real *)plan->bias + param;
    }
    char *y = output_of(r, b, piece, j);
    a->sink = &r->sink;
    a->to = how & STAGED && !has_seams(how) ? sink_at(&r->sink, y) : (real *)y;
}

NOINLINE void apply_exceptional(const Range *r, const Batch *b, const PieceWalk *piece, int j) {
    const Plan *plan = r->plan;
    const Stat s = {b->mean[j], b->rest[j], b->var[j], b->rstd[j]};
    const ptrdiff_t param =
        b->at.param + j * b->step.param + piece->at.param + (plan->along ? piece->start : 0);
    const ElementParams params = {plan->weight ? (const real *)plan->weight + param : NULL,
                                  plan->bias ? (const real *)plan->bias + param : NULL,
                                  plan->along};
    exceptional_apply(plan->dtype, plan->x + b->at.x + j * b->step.x + piece->at.x,
                      output_of(r, b, piece, j), piece->length, &s, &params);
}

/* ---- a batch and the next ---- */

/* Pieces of all sets, and which of the batch's sets. */
typedef struct {
    ptrdiff_t first, last;
    int from, to;
} Span;

typedef void Pass(Range *r, Batch *applied, Batch *measured, const Span *span);

/* Sets of one segment each, which little must be done for: their addresses are evenly spaced. */
INLINE void short_rows_pass(const int how, Range *r, Batch *applied, Batch *measured,
                            const Span *span) {
    const RowsPlan *rows = &r->plan->rows;
    const line zero = {0};
    const int from = span->from;
    PieceWalk piece;
    RowApply a = {0};
    RowMeasure m = {0};
    pieces_at(&piece, rows, 0, r->size);
    if (how & MEASURE)
        measure_of(how, r, measured, &piece, from, 0, &m);
    if (how & APPLY)
        apply_of(how, r, applied, &piece, from, &a);
    const ptrdiff_t bytes = how & CONVERT ? rows->length * (ptrdiff_t)sizeof(real) : 0;
    const ptrdiff_t x_step = how & APPLY ? bytes ? bytes : applied->step.x : 0;
    const ptrdiff_t measured_step = how & MEASURE ? bytes ? bytes : measured->step.x : 0;
    const ptrdiff_t y_step = how & APPLY ? applied->step.y : 0;
    const ptrdiff_t param_step = how & ACROSS && how & APPLY ? applied->step.param : 0;
    RowSegment g = {.x = a.from.x,
                    .measured = m.from.x,
                    .to = a.to,
                    .weight = a.weight,
                    .bias = a.bias,
                    .n = rows->length,
                    .prefetch_bytes = m.prefetch_bytes};
    for (int j = from; j < span->to; j++) {
        RowCoefs c = {zero, zero, zero}, scaling = c;
        if (how & APPLY)
            c = (RowCoefs){line_splat(applied->hi[j]), line_splat(applied->factor[j]),
                           line_splat(applied->term[j])};
        if (how & MEASURE) {
            scaling.factor = line_splat(measured->scale[j]);
            scaling.term = line_splat(measured->shift[j]);
        }
        const RowSums s = row_segment(how, &g, &c, &scaling);
        if (how & MEASURE) {
            if (how & CENTRE)
                measured->lanes[0][j] = s.d;
            measured->lanes[1][j] = s.dd;
            g.measured = (const real *)((const char *)g.measured + measured_step);
        }
        if (how & APPLY) {
            g.x = (const real *)((const char *)g.x + x_step);
            g.weight += param_step;
            g.bias += param_step;
            if (how & STAGED) {
                g.to = sink_put(&r->sink, g.n);
                if (j + 1 < span->to && y_step != g.n * r->size)
                    g.to = sink_at(&r->sink, output_of(r, applied, &piece, j + 1));
            } else {
                g.to = (real *)((char *)g.to + y_step);
            }
        }
    }
}

INLINE void rows_pass(const int how, Range *r, Batch *applied, Batch *measured, const Span *span) {
    ptrdiff_t open = 0;
    PieceWalk piece;
    if (r->short_rows && (how & MEASURE || !applied->exceptional)) {
        short_rows_pass(how, r, applied, measured, span);
        if (how & MEASURE) {
            if (how & CENTRE)
                batch_add_lanes(measured, 0, span->from, span->to);
            batch_add_lanes(measured, 1, span->from, span->to);
        }
        return;
    }
    pieces_at(&piece, &r->plan->rows, span->first, r->size);
    for (ptrdiff_t i = span->first; i < span->last; i++) {
        if (how & APPLY && !(how & ACROSS) && r->per_run)
            row_coefs_of_run(r->plan, applied, applied->at.param + piece.at.param);
        for (int j = span->from; j < span->to; j++) {
            RowApply a = {0};
            RowMeasure m = {0};
            if (!(how & MEASURE) && __builtin_expect(applied->exceptional >> j & 1, 0)) {
                apply_exceptional(r, applied, &piece, j);
                continue;
            }
            if (how & MEASURE)
                measure_of(how, r, measured, &piece, j, open > 0, &m);
            if (how & APPLY)
                apply_of(how, r, applied, &piece, j, &a);
            row_piece(how, &a, &m, r->arena->tiles, r->plan->dtype, piece.length);
        }
        if (how & MEASURE && (++open == r->close || i + 1 == span->last)) {
            if (how & CENTRE)
                batch_add_lanes(measured, 0, span->from, span->to);
            batch_add_lanes(measured, 1, span->from, span->to);
            open = 0;
        }
        if (i + 1 < span->last)
            pieces_next(&piece, r->size);
    }
}

#endif
