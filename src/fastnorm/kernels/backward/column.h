/* The arithmetic of the backward pass of columns: sums of eight rows, what dx is made with, and the
 * rows of dx.  Where rows have a weight each, their dweight and dbias are summed across the strip.
 */
#ifndef FASTNORM_BACKWARD_COLUMN_H
#define FASTNORM_BACKWARD_COLUMN_H

#include "../pipeline/strip.h"
#include "row.h"

/* ---- sums ---- */

/* Eight rows, or fewer: two arrays, and the weight of each row. */
typedef struct {
    const char *x, *grad;
    ptrdiff_t x_stride, grad_stride;
    int count;
    ptrdiff_t width, ahead; /* ahead: rows to what is fetched; 0: nothing is */
    real weight[COLUMN_CHAIN];
} GradRows;

INLINE void strip_grad_line(const int how, const int rows, const GradRows *b, Strip *s, ptrdiff_t i,
                            ptrdiff_t n) {
    const line zero = {0};
    const GradCoefs c = {line_load(s->hi + i), line_load(s->scale + i), zero, zero, zero, zero};
    const char *x = b->x + i * (ptrdiff_t)sizeof(real), *g = b->grad + i * (ptrdiff_t)sizeof(real);
    GradLines sum = {zero, zero, zero};
#pragma GCC unroll 8
    for (int k = 0; k < rows; k++, x += b->x_stride, g += b->grad_stride) {
        line gradient = grad_load((const real *)g, n);
        if (how & ACROSS)
            gradient = line_mul(gradient, line_splat(b->weight[k]));
        if (b->ahead && n == LINE) {
            __builtin_prefetch(x + b->ahead * b->x_stride, 0, 3);
            __builtin_prefetch(g + b->ahead * b->grad_stride, 0, 3);
        }
        grad_add_line(how, grad_load((const real *)x, n), gradient, n, &c, &sum);
    }
    line_store(s->sum[0] + i, line_add(line_load(s->sum[0] + i), sum.g));
    line_store(s->sum[1] + i, line_add(line_load(s->sum[1] + i), sum.gx));
    if (how & CENTRE)
        line_store(s->sum[2] + i, line_add(line_load(s->sum[2] + i), sum.x));
}

INLINE void strip_grad_lines(const int how, const int rows, const GradRows *b, Strip *s) {
    ptrdiff_t i = 0;
    for (; i + LINE <= b->width; i += LINE)
        strip_grad_line(how, rows, b, s, i, LINE);
    if (i < b->width)
        strip_grad_line(how, rows, b, s, i, b->width - i);
}

#define GRAD_SUMS(name, how)                                                                       \
    NOINLINE void name(const GradRows *b, Strip *s) {                                              \
        if (b->count == COLUMN_CHAIN)                                                              \
            strip_grad_lines(how, COLUMN_CHAIN, b, s);                                             \
        else                                                                                       \
            strip_grad_lines(how, b->count, b, s);                                                 \
    }
GRAD_SUMS(strip_grad_rms_across, ACROSS)
GRAD_SUMS(strip_grad_centred, CENTRE)
GRAD_SUMS(strip_grad_centred_across, CENTRE | ACROSS)
#undef GRAD_SUMS

/* ---- statistics ---- */

/* Those that were handed in, by column. */
NOINLINE void strip_given(const Job *job, Strip *s, ptrdiff_t stat) {
    const Plan *plan = &job->plan;
    const real *mean = job->backward.mean, *rstd = job->backward.rstd;
    Column c;
    s->exceptional = 0;
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; i < s->width; i++, column_next(&c, plan)) {
        const ptrdiff_t at = stat + s->first_set + c.set;
        const real m = mean ? mean[at] : 0;
        s->hi[i] = m;
        s->scale[i] = rstd[at];
        s->mean[c.set] = (double)m;
        s->rstd[c.set] = (double)rstd[at];
        s->is_exceptional[i] = (unsigned char)(no_room((double)rstd[at]) |
                                               ((m < 0 ? -(double)m : (double)m) > MEAN_MOST));
        s->exceptional += s->is_exceptional[i];
        s->beyond[c.set] = WITHIN;
    }
}

/* From statistics of sets, `stats` being that of the strip's first, to columns. */
NOINLINE void strip_grad_coefs(const Job *job, Strip *s, const GradStat *stats, ptrdiff_t param) {
    const Plan *plan = &job->plan;
    Column c;
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; i < s->width; i++, column_next(&c, plan)) {
        const double weight = plan->along ? grad_weight(job, param + c.param) : 1;
        const GradCoef coef = grad_coef(&stats[c.set], s->rstd[c.set], weight, !plan->along);
        s->xhat_shift[i] = coef.xhat_shift;
        s->of_grad[i] = coef.of_grad;
        s->factor[i] = coef.factor;
        s->term[i] = coef.term;
        s->exceptional += coef.exceptional && !s->is_exceptional[i];
        s->is_exceptional[i] |= (unsigned char)coef.exceptional;
    }
    /* Exceptional columns take no part in the sums across a row: their xhat is 0. */
    for (ptrdiff_t i = 0; s->exceptional && i < s->width; i++)
        if (s->is_exceptional[i])
            s->hi[i] = s->scale[i] = s->factor[i] = s->term[i] = s->xhat_shift[i] = s->of_grad[i] =
                0;
}

/* ---- dx ---- */

typedef struct {
    const real *x[ROWS_ABREAST], *grad[ROWS_ABREAST];
    real *to[ROWS_ABREAST];
    real weight[ROWS_ABREAST];
    double dweight[ROWS_ABREAST], dbias[ROWS_ABREAST]; /* ACROSS: of each row */
} GradApplied;

INLINE void strip_dx_line(const int how, const int rows, GradApplied *a, const Strip *s,
                          ptrdiff_t i, ptrdiff_t n, line *sums) {
    const line zero = {0};
    const int across = how & ACROSS;
    const GradCoefs c = {line_load(s->hi + i),
                         across ? line_load(s->scale + i) : zero,
                         across ? line_load(s->xhat_shift + i) : zero,
                         across ? zero : line_load(s->of_grad + i),
                         line_load(s->factor + i),
                         line_load(s->term + i)};
    UNROLL
    for (int r = 0; r < rows; r++) {
        const line g = grad_load(a->grad[r] + i, n);
        line xhat = zero, weight = zero;
        if (across)
            weight = line_splat(a->weight[r]);
        const line dx = grad_result(how, grad_load(a->x[r] + i, n), g, weight, &c, &xhat);
        if (n < LINE && !(how & STAGED))
            line_store_part(a->to[r] + i, dx, n);
        else
            row_put(how, a->to[r] + i, dx);
        if (across) {
            if (n < LINE)
                xhat = line_first(xhat, n);
            sums[2 * r] = line_fma(g, xhat, sums[2 * r]);
            sums[2 * r + 1] = line_add(sums[2 * r + 1], g);
        }
    }
}

INLINE void strip_dx_rows(const int how, const int rows, GradApplied *a, const Strip *s,
                          ptrdiff_t width) {
    for (ptrdiff_t start = 0; start < width; start += GRAD_STRIP) {
        const ptrdiff_t end = MIN(width, start + GRAD_STRIP);
        line sums[2 * ROWS_ABREAST];
        _Alignas(LINE_BYTES) real total[16];
        memset(sums, 0, sizeof sums);
        ptrdiff_t i = start;
        for (; i + LINE <= end; i += LINE)
            strip_dx_line(how, rows, a, s, i, LINE, sums);
        if (i < end)
            strip_dx_line(how, rows, a, s, i, end - i, sums);
        if (!(how & ACROSS))
            continue;
        reduce_lines(2 * ROWS_ABREAST, sums, total);
        for (int r = 0; r < rows; r++) {
            a->dweight[r] += (double)total[2 * r];
            a->dbias[r] += (double)total[2 * r + 1];
        }
    }
}

typedef void GradDx(int rows, GradApplied *a, const Strip *s, ptrdiff_t width);

#define GRAD_DX(name, how)                                                                         \
    NOINLINE void name(int rows, GradApplied *a, const Strip *s, ptrdiff_t width) {                \
        if (rows == ROWS_ABREAST && !((how) & STAGED))                                             \
            strip_dx_rows(how, ROWS_ABREAST, a, s, width);                                         \
        else                                                                                       \
            strip_dx_rows(how, 1, a, s, width);                                                    \
    }
#define GRAD_DX_OF(name, how)                                                                      \
    GRAD_DX(name##_cached, how)                                                                    \
    GRAD_DX(name##_streamed, (how) | STREAMED)                                                     \
    GRAD_DX(name##_staged, (how) | STAGED)
GRAD_DX_OF(dx_rms_across, ACROSS)
GRAD_DX_OF(dx_centred, CENTRE)
GRAD_DX_OF(dx_frozen, CENTRE | FROZEN)
GRAD_DX_OF(dx_centred_across, CENTRE | ACROSS)
#undef GRAD_DX_OF
#undef GRAD_DX

INLINE GradDx *grad_dx_for(int how) {
#define STORES(name)                                                                               \
    (how & STREAMED ? name##_streamed : how & STAGED ? name##_staged : name##_cached)
    if (!(how & CENTRE))
        return STORES(dx_rms_across);
    return how & ACROSS   ? STORES(dx_centred_across)
           : how & FROZEN ? STORES(dx_frozen)
                          : STORES(dx_centred);
#undef STORES
}

#endif
