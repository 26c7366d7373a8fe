/* The arithmetic of the forward pass of columns: pivots, sums of eight rows, statistics, and the
 * rows to which they are applied.  A column is summed by itself. */
#ifndef FASTNORM_FORWARD_COLUMN_H
#define FASTNORM_FORWARD_COLUMN_H

#include "../pipeline/strip.h"
#include "row.h"

/* ---- pivots ---- */

/* Add up to eight rows, spread over the chunk, to the columns' sums. */
INLINE int strip_sample(int how, const Plan *plan, Strip *s, const char *base, ptrdiff_t first,
                        ptrdiff_t count, real *tile) {
    const int n = (int)MIN(count, COLUMN_CHAIN);
    memset(s->sum[0], 0, (size_t)s->width * sizeof(real));
    for (int k = 0; k < n; k++) {
        const ptrdiff_t row = first + count / n * k;
        Cursor rows;
        cursor_at(&rows, &plan->columns.rows, row);
        const ptrdiff_t width = row + 1 == plan->columns.rows.count && plan->columns.packed > 1
                                    ? plan->columns.last_width
                                    : s->width;
        const real *x = (const real *)(base + rows.at.x);
        if (how & CONVERT) {
            load_elements(plan->dtype, base + rows.at.x, tile, width);
            x = tile;
        }
        for (ptrdiff_t i = 0; i < width; i += LINE) {
            const ptrdiff_t part = MIN(LINE, width - i);
            line e = part < LINE ? line_load_part(x + i, part) : line_load(x + i);
            if (!(how & CENTRE))
                e = line_abs(e);
            line_store(s->sum[0] + i, line_add(line_load(s->sum[0] + i), e));
        }
    }
    return n;
}

INLINE void strip_set_pivot(const int how, Strip *s, ptrdiff_t i, real mean) {
    s->scale[i] = scale_for(mean < 0 ? -mean : mean, &s->unscale[i]);
    s->pivot[i] = how & CENTRE ? without_low_digits(mean) : 0;
    s->shift[i] = -s->pivot[i] * s->scale[i];
}

/* All columns of a set have the same pivot, so that their sums can be added. */
NOINLINE void strip_pivots(const Plan *plan, int how, Strip *s, const char *base, ptrdiff_t first,
                           ptrdiff_t count, real *tile) {
    const ColumnsPlan *c = &plan->columns;
    const int n = strip_sample(how, plan, s, base, first, count, tile);
    const real share = 1 / (real)(n * c->group * c->packed);
    const ptrdiff_t channels = c->packed > 1 ? c->width / c->packed : s->width;
    real *sum = s->sum[0];
    if (strip_is_plain(plan)) {
        for (ptrdiff_t i = 0; i < s->width; i++)
            strip_set_pivot(how, s, i, sum[i] * share);
        return;
    }
    for (ptrdiff_t f = 1; f < c->packed; f++)
        for (ptrdiff_t i = 0; i < channels; i++)
            sum[i] += sum[f * channels + i];
    for (ptrdiff_t set = s->sets - 1; set >= 0; set--) {
        double total = 0;
        for (ptrdiff_t i = 0; i < c->group; i++)
            total += (double)sum[set * c->group + i];
        for (ptrdiff_t f = 0; f < c->packed; f++)
            for (ptrdiff_t i = 0; i < c->group; i++)
                strip_set_pivot(how, s, f * channels + set * c->group + i,
                                (real)(total * (double)share));
    }
}

/* ---- sums ---- */

INLINE void strip_add_line(const int how, int rows, const char *x, ptrdiff_t stride, Strip *s,
                           ptrdiff_t i, ptrdiff_t n, ptrdiff_t ahead) {
    const line scale = line_load(s->scale + i), shift = line_load(s->shift + i), zero = {0};
    const real *at = (const real *)x + i;
    line d = zero, dd = zero;
#pragma GCC unroll 8
    for (int k = 0; k < rows; k++, at = (const real *)((const char *)at + stride)) {
        line e = n < LINE ? line_load_part(at, n) : line_load(at);
        if (ahead)
            __builtin_prefetch((const char *)at + ahead, 0, 3);
        e = how & CENTRE ? line_scale_add(e, scale, shift) : line_mul(e, scale);
        if (how & CENTRE) {
            if (n < LINE)
                e = line_first(e, n);
            d = line_add(d, e);
        }
        dd = line_fma(e, e, dd);
    }
    if (how & CENTRE)
        line_store(s->sum[0] + i, line_add(line_load(s->sum[0] + i), d));
    line_store(s->sum[1] + i, line_add(line_load(s->sum[1] + i), dd));
}

INLINE void strip_add_rows(const int how, int rows, const char *x, ptrdiff_t stride, Strip *s,
                           ptrdiff_t width, ptrdiff_t ahead) {
    ptrdiff_t i = 0;
    for (; i + LINE <= width; i += LINE)
        strip_add_line(how, rows, x, stride, s, i, LINE, ahead);
    if (i < width)
        strip_add_line(how, rows, x, stride, s, i, width - i, 0);
}

NOINLINE void strip_add_centred(int rows, const char *x, ptrdiff_t stride, Strip *s,
                                ptrdiff_t width, ptrdiff_t ahead) {
    if (rows == COLUMN_CHAIN && ahead)
        strip_add_rows(CENTRE, COLUMN_CHAIN, x, stride, s, width, ahead);
    else if (rows == COLUMN_CHAIN)
        strip_add_rows(CENTRE, COLUMN_CHAIN, x, stride, s, width, 0);
    else
        strip_add_rows(CENTRE, rows, x, stride, s, width, 0);
}

NOINLINE void strip_add_rms(int rows, const char *x, ptrdiff_t stride, Strip *s, ptrdiff_t width,
                            ptrdiff_t ahead) {
    if (rows == COLUMN_CHAIN && ahead)
        strip_add_rows(0, COLUMN_CHAIN, x, stride, s, width, ahead);
    else if (rows == COLUMN_CHAIN)
        strip_add_rows(0, COLUMN_CHAIN, x, stride, s, width, 0);
    else
        strip_add_rows(0, rows, x, stride, s, width, 0);
}

/* A block of rows of the strip whose first column is at `base`. */
NOINLINE void strip_add_block(int how, const Plan *plan, Strip *s, const RowBlock *b,
                              const char *base, real *tile, ptrdiff_t ahead) {
    ptrdiff_t stride;
    const char *x = row_block_elements(how, plan, b, base, 0, tile, &stride);
    if (how & CENTRE)
        strip_add_centred(b->count, x, stride, s, b->width, how & CONVERT ? 0 : ahead);
    else
        strip_add_rms(b->count, x, stride, s, b->width, how & CONVERT ? 0 : ahead);
    if (++s->open == COLUMN_LEVEL)
        strip_close(s, how & CENTRE ? 0 : 1, 2);
}

/* ---- statistics ---- */

/* Elements of a set in so many rows, of which the last may be shorter. */
INLINE double strip_count(const Plan *plan, ptrdiff_t first, ptrdiff_t count) {
    const ColumnsPlan *c = &plan->columns;
    const int ragged = c->last_width != c->width && first + count == c->rows.count;
    const ptrdiff_t rows =
        (count - ragged) * c->packed + (ragged ? c->last_width / (c->width / c->packed) : 0);
    return (double)(rows * c->group);
}

/* Sums to moments of sets; returns whether one of them is doubtful. */
INLINE int strip_moments(const Plan *plan, Strip *s, double n, double *restrict m2) {
    const double floor = square_floor(plan->eps) * n, share = 1 / n;
    const double *restrict t1 = s->total[0], *restrict t2 = s->total[1];
    const real *restrict pivot = s->pivot, *restrict unscale = s->unscale;
    double *restrict mean = s->mean, *restrict rest = s->rest;
    const ptrdiff_t group = plan->columns.group;
    int64_t doubt = 0;
#define STRIP_MOMENTS(k)                                                                           \
    for (ptrdiff_t i = 0; i < s->sets; i++) {                                                      \
        const double s1 = t1[i], s2 = t2[i], d = s1 * share, left = s2 - s1 * d;                   \
        m2[i] = left < 0 ? 0 : left;                                                               \
        mean[i] = two_sum((double)pivot[k], d * (double)unscale[k], &rest[i]);                     \
        doubt |= (s1 * d > 0.5 * s2) | !(s2 - s2 == 0) | (s2 < floor);                             \
    }
    if (group == 1)
        STRIP_MOMENTS(i)
    else
        STRIP_MOMENTS(i * group)
#undef STRIP_MOMENTS
    return doubt != 0;
}

INLINE void strip_finish(const Plan *plan, Strip *s, double n, const double *restrict m2) {
    const double share = 1 / n, eps = plan->eps;
    const real *restrict scales = s->scale, *restrict unscale = s->unscale;
    double *restrict out = s->var, *restrict rstd = s->rstd;
    const ptrdiff_t group = plan->columns.group;
#define STRIP_FINISH(k)                                                                            \
    for (ptrdiff_t i = 0; i < s->sets; i++) {                                                      \
        const double scale = (double)scales[k], inverse = (double)unscale[k];                      \
        const double var = m2[i] * share;                                                          \
        out[i] = var * inverse * inverse;                                                          \
        rstd[i] = rstd_of(var, scale, out[i], eps);                                                \
    }
    if (group == 1)
        STRIP_FINISH(i)
    else
        STRIP_FINISH(i * group)
#undef STRIP_FINISH
}

/* From a statistic to what is applied: with weight and bias where they vary along the row. */
typedef struct {
    real hi, factor, term;
    int64_t exceptional;
} ColumnCoef;

INLINE ColumnCoef column_coef(double mean, double rest, double rstd, double weight, double bias) {
    const double factor = rstd * weight;
    const real hi = (real)mean;
    const double lo = (mean - (double)hi) + rest;
    return (ColumnCoef){hi, (real)factor, term_without_subnormals(bias - lo * factor, weight),
                        no_room_for_stat(mean, rstd) | no_room(factor)};
}

INLINE int64_t strip_plain_coefs(Strip *s, const real *restrict weight, const real *restrict bias) {
    const double *restrict mean = s->mean, *restrict rest = s->rest, *restrict rstd = s->rstd;
    real *restrict hi = s->hi, *restrict factor = s->factor, *restrict term = s->term;
    int64_t exceptional = 0;
    for (ptrdiff_t i = 0; i < s->width; i++) {
        const ColumnCoef c = column_coef(mean[i], rest[i], rstd[i], weight ? (double)weight[i] : 1,
                                         bias ? (double)bias[i] : 0);
        hi[i] = c.hi;
        factor[i] = c.factor;
        term[i] = c.term;
        exceptional |= c.exceptional;
    }
    return exceptional;
}

NOINLINE void strip_coefs(const Plan *plan, Strip *s, ptrdiff_t param) {
    const real *weight = plan->along && plan->weight ? (const real *)plan->weight + param : NULL;
    const real *bias = plan->along && plan->bias ? (const real *)plan->bias + param : NULL;
    s->exceptional = 0;
    if (strip_is_plain(plan) && plan->columns.repeat == 1) {
        const real *w = weight + (weight ? s->first : 0), *v = bias + (bias ? s->first : 0);
        if (!(w && v   ? strip_plain_coefs(s, w, v)
              : w || v ? strip_plain_coefs(s, w, v)
                       : strip_plain_coefs(s, NULL, NULL)))
            return;
    }
    Column at;
    column_at(&at, plan, s);
    for (ptrdiff_t i = 0; i < s->width; i++, column_next(&at, plan)) {
        const ptrdiff_t set = at.set;
        const ColumnCoef c =
            column_coef(s->mean[set], s->rest[set], s->rstd[set],
                        weight ? (double)weight[at.param] : 1, bias ? (double)bias[at.param] : 0);
        s->hi[i] = c.hi;
        s->factor[i] = c.factor;
        s->term[i] = c.term;
        s->is_exceptional[i] = (unsigned char)c.exceptional;
        s->exceptional += c.exceptional;
    }
}

/* ---- applying ---- */

typedef struct {
    const real *x[ROWS_ABREAST];
    real *to[ROWS_ABREAST];
    line weight[ROWS_ABREAST], bias[ROWS_ABREAST]; /* of rows that have one each */
} AppliedRows;

INLINE void strip_apply_line(const int how, int rows, const AppliedRows *a, const Strip *s,
                             ptrdiff_t i, ptrdiff_t n) {
    const RowCoefs c = {line_load(s->hi + i), line_load(s->factor + i), line_load(s->term + i)};
    UNROLL
    for (int r = 0; r < rows; r++) {
        if (how & STREAMED && rows == 1)
            __builtin_prefetch((const char *)(a->x[r] + i) + AHEAD_BYTES, 0, 3);
        const line e = n < LINE ? line_load_part(a->x[r] + i, n) : line_load(a->x[r] + i);
        const line y = row_result(how, e, &c, a->weight[r], a->bias[r]);
        if (n < LINE && !(how & STAGED))
            line_store_part(a->to[r] + i, y, n);
        else
            row_put(how, a->to[r] + i, y);
    }
}

INLINE void strip_apply_rows(const int how, int rows, const AppliedRows *a, const Strip *s,
                             ptrdiff_t width) {
    const int ends = has_seams(how) ? how & ~(STREAMED | STAGED) : how;
    ptrdiff_t i = 0;
    if (has_seams(how)) {
        i = (LINE_BYTES - (ptrdiff_t)((uintptr_t)a->to[0] % LINE_BYTES)) % LINE_BYTES /
            (ptrdiff_t)sizeof(real);
        i = MIN(i, width);
        if (i > 0)
            strip_apply_line(ends, rows, a, s, 0, i);
    }
    for (; i + LINE <= width; i += LINE)
        strip_apply_line(how, rows, a, s, i, LINE);
    if (i < width)
        strip_apply_line(ends, rows, a, s, i, width - i);
}

#define APPLY_ROWS(name, how)                                                                      \
    NOINLINE void name(int rows, const AppliedRows *a, const Strip *s, ptrdiff_t width) {          \
        if (rows == ROWS_ABREAST && (how) != (((how) & ~STREAMED) | STAGED))                       \
            strip_apply_rows(how, ROWS_ABREAST, a, s, width);                                      \
        else                                                                                       \
            strip_apply_rows(how, 1, a, s, width);                                                 \
    }
#define APPLY_ROWS_OF(name, how)                                                                   \
    APPLY_ROWS(name##_cached, how)                                                                 \
    APPLY_ROWS(name##_streamed, (how) | STREAMED)                                                  \
    APPLY_ROWS(name##_staged, (how) | STAGED)                                                      \
    APPLY_ROWS(name##_seams, (how) | STREAMED | STAGED)
APPLY_ROWS_OF(apply_rms, 0)
APPLY_ROWS_OF(apply_rms_across, ACROSS)
APPLY_ROWS_OF(apply_centred, CENTRE)
APPLY_ROWS_OF(apply_centred_across, CENTRE | ACROSS)
#undef APPLY_ROWS_OF
#undef APPLY_ROWS

typedef void ApplyRows(int rows, const AppliedRows *a, const Strip *s, ptrdiff_t width);

INLINE ApplyRows *apply_rows_for(int how) {
#define STORES(name)                                                                               \
    (has_seams(how)   ? name##_seams                                                               \
     : how & STREAMED ? name##_streamed                                                            \
     : how & STAGED   ? name##_staged                                                              \
                      : name##_cached)
    if (how & CENTRE)
        return how & ACROSS ? STORES(apply_centred_across) : STORES(apply_centred);
    return how & ACROSS ? STORES(apply_rms_across) : STORES(apply_rms);
#undef STORES
}

#endif
