/* The arithmetic of the forward pass of rows: pivots, the loop that sums elements of one set and
 * applies those of another, statistics, and what they are applied as.
 *
 * Sums of d and d*d, where d = (x - pivot) * scale, correct both the mean and the sum of squares,
 * so the pivot need only be near, and one pass is enough. */
#ifndef FASTNORM_FORWARD_ROW_H
#define FASTNORM_FORWARD_ROW_H

#include "../pipeline/batch.h"
#include "../stats/moments.h"

/* ---- pivots ---- */

/* Where a chunk is sampled: lines, or shorter runs, at these bytes from the set. */
typedef struct {
    ptrdiff_t at[4];
    int count;
    ptrdiff_t length;
} Samples;

INLINE void samples_of(const Plan *plan, ptrdiff_t first, ptrdiff_t last, Samples *s) {
    const ptrdiff_t size = ELEMENT_BYTES(plan->dtype), pieces = last - first;
    PieceWalk walk;
    pieces_at(&walk, &plan->rows, first, size);
    const ptrdiff_t length = walk.length, spare = MAX(length - LINE, 0);
    s->length = MIN(length, LINE);
    s->count = pieces >= 4 || length >= 8 * LINE ? 4 : length >= 4 * LINE ? 2 : 1;
    for (int k = 0; k < s->count; k++) {
        const ptrdiff_t step = s->count == 4 ? spare / 3 * k : spare * k;
        if (pieces >= 4)
            pieces_at(&walk, &plan->rows, first + pieces / 4 * k, size);
        s->at[k] = walk.at.x + MIN(step, MAX(walk.length - LINE, 0)) * size;
    }
}

INLINE line sample_at(int how, const Plan *plan, const char *x, ptrdiff_t n) {
    line r;
    if (how & CONVERT) {
        _Alignas(LINE_BYTES) real tile[LINE] = {0};
        load_elements(plan->dtype, x, tile, n);
        r = line_load(tile);
    } else {
        r = n == LINE ? line_load((const real *)x) : line_load_part((const real *)x, n);
    }
    return how & CENTRE ? r : line_abs(r);
}

/* Samples of all sets of a batch, as lanes; of four lines the two in the middle, lane by lane: a
 * pivot far from most elements because of a few would cost the sums of squares digits. */
INLINE void sample_sets(const int how, const Plan *plan, Batch *b, const Samples *s) {
    const char *x = plan->x + b->at.x;
    const ptrdiff_t step = b->step.x, next = b->count * step, n = s->length;
    for (int j = 0; j < (int)b->count; j++, x += step) {
        line r = sample_at(how, plan, x + s->at[0], n);
        if (how & (STREAMED | STAGED)) /* of the next batch */
            for (int k = 0; k < s->count; k++)
                __builtin_prefetch(x + next + s->at[k], 0, 3);
        if (s->count == 2)
            r = line_add(r, sample_at(how, plan, x + s->at[1], n));
        if (s->count == 4) {
            line least = r, most = r;
            UNROLL
            for (int k = 1; k < 4; k++) {
                const line e = sample_at(how, plan, x + s->at[k], n);
                r = line_add(r, e);
                least = line_min(least, e);
                most = line_max(most, e);
            }
            r = line_sub(line_sub(r, least), most);
        }
        b->lanes[0][j] = r;
    }
}

/* 2 to the power that brings a sampled mean near 1; 1 if it is near enough.  And its inverse. */
INLINE real scale_for(real magnitude, real *inverse) {
#ifdef ARITHMETIC_F64
    const int64_t most = (int64_t)(1023 + 500) << 52, least = (int64_t)1 << 52;
    const int64_t exponent = (int64_t)0x7ff << 52, one = (int64_t)1023 << 52;
    int64_t bits, power, other;
    const int near = (magnitude >= SCALE_ABOVE_F64) & (magnitude <= SCALE_BELOW_F64);
#else
    const int32_t most = (127 + 126) << 23, least = 1 << 23;
    const int32_t exponent = 0xff << 23, one = 127 << 23;
    int32_t bits, power, other;
    const int near = (magnitude >= SCALE_ABOVE_F32) & (magnitude <= SCALE_BELOW_F32);
#endif
    real scale;
    memcpy(&bits, &magnitude, sizeof bits);
    power = 2 * one - (bits & exponent);
    power = power < least ? least : power > most ? most : power;
    power = near | (magnitude == 0) ? one : power;
    other = 2 * one - power;
    memcpy(&scale, &power, sizeof scale);
    memcpy(inverse, &other, sizeof other);
    return scale;
}

/* The pivot's last digits are not below those of the elements: with digits below, x - pivot would
 * be rounded the same way for most x. */
INLINE real without_low_digits(real p) {
#ifndef ARITHMETIC_F64
    const real top = 4 * (p < 0 ? -p : p), high = p + top;
    p = high - top;
#endif
    return p;
}

NOINLINE void choose_pivots(const Plan *plan, const int how, Batch *b, const Samples *s) {
    _Alignas(LINE_BYTES) real sum[BATCH];
    const real share = 1 / (real)(MIN(s->count, 2) * s->length);
    switch (how & (CENTRE | CONVERT)) {
    case CENTRE:
        sample_sets(CENTRE | STREAMED, plan, b, s);
        break;
    case 0:
        sample_sets(STREAMED, plan, b, s);
        break;
    default:
        sample_sets(how, plan, b, s);
    }
    if (b->count == 1)
        reduce_lines(1, b->lanes[0], sum);
    else
        reduce_lines(16, b->lanes[0], sum);
    for (int j = 0; j < BATCH; j++) {
        const real mean = sum[j] * share, p = without_low_digits(mean);
        b->scale[j] = scale_for(mean < 0 ? -mean : mean, &b->unscale[j]);
        b->pivot[j] = how & CENTRE ? p : 0;
        b->shift[j] = -b->pivot[j] * b->scale[j];
    }
}

/* ---- one piece of a run ---- */

/* Elements to be summed, or to be applied, as the loop reads them. */
typedef struct {
    const char *raw; /* of CONVERT: where they come from */
    const real *x;
} Elems;

typedef struct {
    Elems from;
    real hi, factor, term;
    const real *weight, *bias;
    real *to;
    Sink *sink;
} RowApply;

typedef struct {
    Elems from;
    real scale, shift;
    ptrdiff_t prefetch_bytes;
    line *d, *dd; /* the sums are put there, or added */
    int add;
} RowMeasure;

typedef struct {
    line hi, factor, term;
} RowCoefs;

INLINE line row_result(const int how, line x, const RowCoefs *c, line weight, line bias) {
    if (!(how & CENTRE)) {
        const line t = line_mul(x, c->factor);
        return how & ACROSS ? line_mul(t, weight) : t;
    }
    const line t = line_fma(line_sub(x, c->hi), c->factor, c->term);
    return how & ACROSS ? line_fma(t, weight, bias) : t;
}

INLINE void row_put(const int how, real *to, line result) {
    if (how & STREAMED)
        line_stream(to, result);
    else
        line_store(to, result);
}

typedef struct {
    line d, dd;
} RowSums;

INLINE void row_add_line(const int how, const real *x, ptrdiff_t n, line scale, line shift,
                         RowSums *s) {
    line d = n < LINE ? line_load_part(x, n) : line_load(x);
    d = how & CENTRE ? line_scale_add(d, scale, shift) : line_mul(d, scale);
    if (n < LINE && how & CENTRE)
        d = line_first(d, n);
    if (how & CENTRE)
        s->d = line_add(s->d, d);
    s->dd = line_fma(d, d, s->dd);
}

INLINE int has_seams(const int how) { return how & STREAMED && how & STAGED; }

/* What one segment needs: elements, where results go, and n <= SEGMENT. */
typedef struct {
    const real *x, *measured;
    real *to;
    const real *weight, *bias;
    ptrdiff_t n, prefetch_bytes;
    ptrdiff_t applied; /* seams: elements that are applied, whole lines */
} RowSegment;

/* The line at i, or its first n elements. */
INLINE void row_apply_line(const int how, const RowSegment *g, ptrdiff_t i, ptrdiff_t n,
                           const RowCoefs *c) {
    const line none = {0};
    const int part = n < LINE;
    const line e = part ? line_load_part(g->x + i, n) : line_load(g->x + i);
    line weight = none, bias = none;
    if (how & ACROSS) {
        weight = part ? line_load_part(g->weight + i, n) : line_load(g->weight + i);
        if (how & CENTRE)
            bias = part ? line_load_part(g->bias + i, n) : line_load(g->bias + i);
    }
    const line r = row_result(how, e, c, weight, bias);
    if (part && !(how & STAGED))
        line_store_part(g->to + i, r, n);
    else
        row_put(how, g->to + i, r);
}

/* Of a run with seams, n elements from i on, less than a line. */
INLINE void row_apply_end(const int how, const RowApply *a, char *y, ptrdiff_t i, ptrdiff_t n,
                          const RowCoefs *c) {
    const RowSegment g = {.x = a->from.x + i,
                          .to = sink_at(a->sink, y + i * (ptrdiff_t)sizeof(real)),
                          .weight = a->weight + i,
                          .bias = a->bias + i};
    row_apply_line(how & ~STREAMED, &g, 0, n, c);
    sink_put(a->sink, n);
}

/* The line at i of a segment, or its first n elements: summed by chain, and applied. */
INLINE void row_step(const int how, const RowSegment *g, ptrdiff_t i, ptrdiff_t n,
                     const RowCoefs *c, const RowCoefs *scaling, RowSums *s) {
    if (how & MEASURE) {
        if (how & (STREAMED | STAGED) && !(how & CONVERT))
            __builtin_prefetch((const char *)(g->measured + i) + g->prefetch_bytes, 0, 3);
        row_add_line(how, g->measured + i, n, scaling->factor, scaling->term, s);
    }
    if (!(how & MEASURE) && how & STREAMED)
        __builtin_prefetch((const char *)(g->x + i) + AHEAD_BYTES, 0, 3);
    if (how & APPLY && (!has_seams(how) || i < g->applied))
        row_apply_line(how, g, i, n, c);
}

INLINE RowSums row_segment(const int how, const RowSegment *g, const RowCoefs *c,
                           const RowCoefs *scaling) {
    const line zero = {0};
    RowSums s[CHAINS] = {{zero, zero}, {zero, zero}};
    const ptrdiff_t n = g->n;
    ptrdiff_t i = 0;
    for (; i + 2 * LINE <= n; i += 2 * LINE) {
        row_step(how, g, i, LINE, c, scaling, &s[0]);
        row_step(how, g, i + LINE, LINE, c, scaling, &s[1]);
    }
    if (i + LINE <= n) {
        row_step(how, g, i, LINE, c, scaling, &s[0]);
        i += LINE;
        if (i < n)
            row_step(how, g, i, n - i, c, scaling, &s[1]);
    } else if (i < n) {
        row_step(how, g, i, n - i, c, scaling, &s[0]);
    }
    if (how & MEASURE) {
        if (how & CENTRE)
            s[0].d = line_add(s[0].d, s[1].d);
        s[0].dd = line_add(s[0].dd, s[1].dd);
    }
    return s[0];
}

INLINE void row_piece(const int how, const RowApply *a, const RowMeasure *m, real *tiles, int dtype,
                      ptrdiff_t n) {
    const line zero = {0};
    const RowCoefs c = {line_splat(a->hi), line_splat(a->factor), line_splat(a->term)};
    const RowCoefs scaling = {zero, line_splat(m->scale), line_splat(m->shift)};
    RowSums total = {zero, zero};
    RowSegment g = {.to = a->to, .prefetch_bytes = m->prefetch_bytes};
    ptrdiff_t head = 0, lines = 0;
    if (has_seams(how) && how & APPLY) {
        head = (LINE_BYTES - (ptrdiff_t)((uintptr_t)a->to % LINE_BYTES)) % LINE_BYTES /
               (ptrdiff_t)sizeof(real);
        head = MIN(head, n);
        lines = (n - head) / LINE * LINE;
        if (head)
            row_apply_end(how, a, (char *)a->to, 0, head, &c);
        g.to += head;
    }
    for (ptrdiff_t start = 0; start < n; start += SEGMENT) {
        g.n = MIN(n - start, SEGMENT);
        if (how & MEASURE) {
            g.measured = m->from.x + start;
            if (how & CONVERT && m->from.raw) {
                load_elements(dtype, m->from.raw + 2 * start, tiles, g.n);
                g.measured = tiles;
            }
        }
        if (how & APPLY) {
            g.x = a->from.x + head + start;
            g.applied = MIN(lines - start, SEGMENT);
            if (how & CONVERT && a->from.raw) {
                load_elements(dtype, a->from.raw + 2 * start, tiles + SEGMENT, g.n);
                g.x = tiles + SEGMENT;
            }
            if (how & ACROSS) {
                g.weight = a->weight + head + start;
                g.bias = a->bias + head + start;
            }
        }
        const RowSums s = row_segment(how, &g, &c, &scaling);
        if (how & MEASURE) {
            if (how & CENTRE)
                total.d = line_add(total.d, s.d);
            total.dd = line_add(total.dd, s.dd);
        }
        if (how & APPLY)
            g.to = how & STAGED && !has_seams(how) ? sink_put(a->sink, g.n) : g.to + g.n;
    }
    if (has_seams(how) && how & APPLY && head + lines < n)
        row_apply_end(how, a, (char *)a->to, head + lines, n - head - lines, &c);
    if (how & MEASURE) {
        if (m->add) {
            total.d = line_add(*m->d, total.d);
            total.dd = line_add(*m->dd, total.dd);
        }
        if (how & CENTRE)
            *m->d = total.d;
        *m->dd = total.dd;
    }
}

/* ---- statistics ---- */

/* From the sums of n elements to moments; out of range, or far from the pivot: a bit of the result
 * for each set. */
INLINE unsigned row_moments(const Plan *plan, Batch *b, double n, double *m2) {
    const double floor = square_floor(plan->eps) * n, share = 1 / n;
    int64_t flags[BATCH];
    for (int j = 0; j < BATCH; j++) {
        const double s1 = b->sum[0][j], s2 = b->sum[1][j], d = s1 * share, left = s2 - s1 * d;
        m2[j] = left < 0 ? 0 : left;
        b->mean[j] = two_sum((double)b->pivot[j], d * (double)b->unscale[j], &b->rest[j]);
        flags[j] = (s1 * d > 0.5 * s2) | !(s2 - s2 == 0) | (s2 < floor);
    }
    return flagged_sets(b, flags);
}

/* Statistics of a batch whose sets are one chunk each. */
INLINE void row_finish(const Plan *plan, Batch *b, double n, const double *m2) {
    const double share = 1 / n;
    for (int j = 0; j < BATCH; j++) {
        const double scale = (double)b->scale[j], inverse = (double)b->unscale[j];
        const double var = m2[j] * share;
        b->var[j] = var * inverse * inverse;
        b->rstd[j] = rstd_of(var, scale, b->var[j], plan->eps);
    }
}

INLINE void row_set_stat(Batch *b, int j, const Stat *s) {
    b->mean[j] = s->mean;
    b->rest[j] = s->rest;
    b->var[j] = s->var;
    b->rstd[j] = s->rstd;
}

/* ---- from statistics to what is applied ---- */

#define LEAST BY_TYPE(FACTOR_LEAST_F32, FACTOR_LEAST_F64)
#define MOST BY_TYPE(FACTOR_MOST_F32, FACTOR_MOST_F64)
#define FACTOR_NORMAL BY_TYPE(FACTOR_NORMAL_F32, FACTOR_NORMAL_F64)
#define MEAN_MOST BY_TYPE(MEAN_MOST_F32, MEAN_MOST_F64)

/* No room for a factor in the arithmetic, or for a statistic; a NaN has. */
INLINE int64_t no_room(double factor) {
    const double a = fabs(factor);
    return (a > MOST) | ((a < LEAST) & (a != 0));
}

INLINE int64_t no_room_for_stat(double mean, double rstd) {
    return no_room(rstd) | (rstd == 0) | (fabs(mean) > MEAN_MOST);
}

/* A subnormal term takes processors long, in each element.  One that is less than a unit of the
 * weight can go. */
INLINE real term_without_subnormals(double term, double weight) {
    const double size = fabs(term), unit = fabs(weight);
    return (size < FACTOR_NORMAL) & (size <= BY_TYPE(0x1p-24, 0x1p-53) * unit) ? 0 : (real)term;
}

/* The statistic alone, where weight and bias vary along the run or there are none. */
INLINE unsigned row_coefs(Batch *b) {
    int64_t flags[BATCH] = {0};
    for (int j = 0; j < BATCH; j++) {
        const real hi = (real)b->mean[j];
        const double lo = (b->mean[j] - (double)hi) + b->rest[j];
        b->hi[j] = hi;
        b->factor[j] = (real)b->rstd[j];
        b->term[j] = (real)(-lo * b->rstd[j]);
        flags[j] = no_room_for_stat(b->mean[j], b->rstd[j]);
    }
    return flagged_sets(b, flags);
}

/* With the weight and bias of the run, `param` being that of the first set's. */
NOINLINE unsigned row_coefs_of_run(const Plan *plan, Batch *b, ptrdiff_t param) {
    const real *weight = plan->weight, *bias = plan->bias;
    const int sets = b->count == 1 ? 1 : BATCH;
    double w[BATCH], v[BATCH];
    int64_t flags[BATCH] = {0};
    for (int j = 0; j < sets; j++) {
        const ptrdiff_t k = param + MIN(j, b->count - 1) * b->step.param;
        w[j] = weight ? (double)weight[k] : 1;
        v[j] = bias ? (double)bias[k] : 0;
    }
    for (int j = 0; j < sets; j++) {
        const real hi = (real)b->mean[j];
        const double lo = (b->mean[j] - (double)hi) + b->rest[j];
        const double factor = b->rstd[j] * w[j];
        b->hi[j] = hi;
        b->factor[j] = (real)factor;
        b->term[j] = term_without_subnormals(v[j] - lo * factor, w[j]);
        flags[j] = no_room_for_stat(b->mean[j], b->rstd[j]) | no_room(factor);
    }
    return flagged_sets(b, flags);
}

#endif
