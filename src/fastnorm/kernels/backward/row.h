/* The arithmetic of the backward pass of rows: the loop that sums elements of one set and makes dx
 * of those of another, and what dx is made with.  See stats/gradients.h for the formula. */
#ifndef FASTNORM_BACKWARD_ROW_H
#define FASTNORM_BACKWARD_ROW_H

#include "../forward/row.h"
#include "../stats/gradients.h"

typedef struct {
    Elems x, grad;
    real hi, rstd;
    const real *weight; /* ACROSS */
    ptrdiff_t prefetch_bytes;
    line *sum[SUMS];
    int add;
} GradMeasure;

/* dx = grad * of_grad + (x - hi) * factor + term; ACROSS:
 * dx = grad * weight * rstd + xhat * factor + term, where xhat = (x - hi) * rstd + xhat_shift. */
typedef struct {
    Elems x, grad;
    real hi, rstd, xhat_shift, of_grad, factor, term;
    const real *weight;
    real *dweight, *dbias; /* ACROSS: sums of some rows */
    real *to;
    Sink *sink;
} GradApply;

typedef struct {
    line hi, rstd, xhat_shift, of_grad, factor, term;
} GradCoefs;

typedef struct {
    line g, gx, x;
} GradLines;

INLINE GradLines grad_add_lines(const GradLines *a, const GradLines *b) {
    return (GradLines){line_add(a->g, b->g), line_add(a->gx, b->gx), line_add(a->x, b->x)};
}

INLINE line grad_load(const real *p, ptrdiff_t n) {
    return n < LINE ? line_load_part(p, n) : line_load(p);
}

INLINE line grad_xhat(const int how, line x, const GradCoefs *c) {
    return how & CENTRE ? line_mul(line_sub(x, c->hi), c->rstd) : line_mul(x, c->rstd);
}

/* Elements beyond n are zeros, but x - hi is not: that of the gradient makes their products zero.
 */
INLINE void grad_add_line(const int how, line x, line g, ptrdiff_t n, const GradCoefs *c,
                          GradLines *s) {
    line t = grad_xhat(how, x, c);
    if (n < LINE && how & CENTRE)
        t = line_first(t, n);
    s->g = line_add(s->g, g);
    s->gx = line_fma(g, t, s->gx);
    if (how & CENTRE)
        s->x = line_add(s->x, t);
}

/* dx; and xhat, which dweight needs. */
INLINE line grad_result(const int how, line x, line g, line weight, const GradCoefs *c,
                        line *xhat) {
    if (how & FROZEN)
        return line_mul(g, c->of_grad);
    const line d = how & CENTRE ? line_sub(x, c->hi) : x;
    if (!(how & ACROSS)) {
        const line rest = how & CENTRE ? line_fma(d, c->factor, c->term) : line_mul(d, c->factor);
        return line_fma(g, c->of_grad, rest);
    }
    *xhat = how & CENTRE ? line_fma(d, c->rstd, c->xhat_shift) : line_mul(d, c->rstd);
    const line rest =
        how & CENTRE ? line_fma(*xhat, c->factor, c->term) : line_mul(*xhat, c->factor);
    /* The sums say of g * weight whether it has room, of no other product. */
    return line_fma(line_mul(g, weight), c->rstd, rest);
}

INLINE void grad_apply_line(const int how, const GradApply *a, const real *x, const real *g,
                            real *to, ptrdiff_t i, ptrdiff_t n, const GradCoefs *c) {
    const line zero = {0};
    const line gradient = grad_load(g, n);
    line xhat = zero, weight = zero;
    if (how & ACROSS)
        weight = grad_load(a->weight + i, n);
    const line r = grad_result(how, grad_load(x, n), gradient, weight, c, &xhat);
    if (n < LINE && !(how & STAGED))
        line_store_part(to, r, n);
    else
        row_put(how, to, r);
    if (how & ACROSS) { /* there is room beyond the last parameter */
        if (n < LINE)
            xhat = line_first(xhat, n);
        line_store(a->dweight + i, line_fma(gradient, xhat, line_load(a->dweight + i)));
        line_store(a->dbias + i, line_add(gradient, line_load(a->dbias + i)));
    }
}

INLINE const real *grad_elements(const int how, const Elems *e, real *tile, int dtype,
                                 ptrdiff_t start, ptrdiff_t n) {
    if (!(how & CONVERT))
        return e->x + start;
    load_elements(dtype, e->raw + 2 * start, tile, n);
    return tile;
}

INLINE void grad_row_piece(const int how, const GradApply *a, const GradMeasure *m, real *tiles,
                           int dtype, ptrdiff_t n) {
    enum { PART = CHAIN * LINE, PARTS = 4 }; /* one chain: there are three sums */
    const line zero = {0};
    GradCoefs c = {zero, zero, zero, zero, zero, zero}, of_sums = c;
    GradLines total = {zero, zero, zero},
              some = total; /* xhat of sorted elements grows, and cancels */
    real *to = NULL;
    if (how & APPLY) {
        c = (GradCoefs){line_splat(a->hi),      line_splat(a->rstd),   line_splat(a->xhat_shift),
                        line_splat(a->of_grad), line_splat(a->factor), line_splat(a->term)};
        to = a->to;
    }
    if (how & MEASURE) {
        of_sums.hi = line_splat(m->hi);
        of_sums.rstd = line_splat(m->rstd);
    }
    for (ptrdiff_t start = 0; start < n;) {
        const ptrdiff_t length = MIN(n - start, PART);
        const real *x = NULL, *g = NULL, *measured = NULL, *measured_g = NULL;
        GradLines s = {zero, zero, zero};
        if (how & MEASURE) {
            measured = grad_elements(how, &m->x, tiles, dtype, start, length);
            measured_g = grad_elements(how, &m->grad, tiles + PART, dtype, start, length);
        }
        if (how & APPLY) {
            x = grad_elements(how, &a->x, tiles + 2 * PART, dtype, start, length);
            g = grad_elements(how, &a->grad, tiles + 3 * PART, dtype, start, length);
        }
#define STEP(i, n)                                                                                 \
    do {                                                                                           \
        if (how & MEASURE) {                                                                       \
            line gradient = grad_load(measured_g + (i), n);                                        \
            if (how & ACROSS)                                                                      \
                gradient = line_mul(gradient, grad_load(m->weight + start + (i), n));              \
            if (how & (STREAMED | STAGED) && !(how & CONVERT)) {                                   \
                __builtin_prefetch((const char *)(measured + (i)) + m->prefetch_bytes, 0, 3);      \
                __builtin_prefetch((const char *)(measured_g + (i)) + m->prefetch_bytes, 0, 3);    \
            }                                                                                      \
            grad_add_line(how, grad_load(measured + (i), n), gradient, n, &of_sums, &s);           \
        }                                                                                          \
        if (how & APPLY)                                                                           \
            grad_apply_line(how, a, x + (i), g + (i), to + (i), start + (i), n, &c);               \
    } while (0)
        ptrdiff_t i = 0;
        for (; i + LINE <= length; i += LINE)
            STEP(i, LINE);
        if (i < length)
            STEP(i, length - i);
#undef STEP
        some = grad_add_lines(&some, &s);
        if (start / PART % PARTS == PARTS - 1 || start + length == n) {
            total = grad_add_lines(&total, &some);
            some = (GradLines){zero, zero, zero};
        }
        if (how & APPLY)
            to = how & STAGED ? sink_put(a->sink, length) : to + length;
        start += length;
    }
    if (how & MEASURE) {
        if (m->add) {
            total.g = line_add(*m->sum[0], total.g);
            total.gx = line_add(*m->sum[1], total.gx);
            total.x = line_add(*m->sum[2], total.x);
        }
        *m->sum[0] = total.g;
        *m->sum[1] = total.gx;
        *m->sum[2] = total.x;
    }
}

typedef struct {
    real xhat_shift, of_grad, factor, term;
    int exceptional;
} GradCoef;

/* From the statistic of a set to what dx is made with; weight 1 where weights vary inside the set.
 * A factor that is no normal number has lost digits, all of them if it has become zero. */
INLINE GradCoef grad_coef(const GradStat *s, double rstd, double weight, int across) {
    const double of_x = -s->gx * rstd;
    const double factor = across ? of_x : of_x * rstd, of_grad = rstd * weight;
    const double size = factor < 0 ? -factor : factor;
    const int lost = (size < FACTOR_NORMAL) & (s->gx != 0);
    return (GradCoef){(real)-s->shift, (real)of_grad, (real)factor,
                      (real)(across ? -s->g * rstd : -s->g * rstd - of_x * s->shift),
                      no_room(of_grad) | (size > MOST) | lost | (s->beyond != WITHIN)};
}

/* The same of set j of a batch; returns whether it is exceptional. */
INLINE int grad_set_coefs(Batch *b, int j, const GradStat *s, double weight, int across) {
    const GradCoef c = grad_coef(s, (double)b->scale[j], weight, across);
    b->xhat_shift[j] = c.xhat_shift;
    b->of_grad[j] = c.of_grad;
    b->factor[j] = c.factor;
    b->term[j] = c.term;
    return c.exceptional;
}

#endif
