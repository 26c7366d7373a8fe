/* Counting, merging and finishing moments: the statistics of everything, written once. */
#ifndef FASTNORM_MOMENTS_H
#define FASTNORM_MOMENTS_H

#if defined(__clang__) /* clang-cl ignores -ffp-contract=off */
#pragma STDC FP_CONTRACT OFF
#endif

#include "../plan/plan.h"
#include <math.h>

/* a + b as the unevaluated sum of the rounded sum and what was rounded away (Knuth's TwoSum). */
static inline double two_sum(double a, double b, double *rest) {
    const double s = a + b, t = s - a;
    *rest = (a - (s - t)) + (b - t);
    return s;
}

/* The moments of n elements from the sums of d and d*d, where d = (x - pivot) * scale. */
static inline void moments_of_sums(Moments *m, double n, double pivot, double scale, double s1,
                                   double s2) {
    const double d = s1 * (1 / n), m2 = s2 - s1 * d;
    m->n = n;
    m->mean = two_sum(pivot, d / scale, &m->rest);
    m->m2 = m2 < 0 ? 0 : m2;
    m->scale = scale;
}

/* Chan, Golub and LeVeque (1979): add b's elements to a. */
static inline void moments_merge(Moments *a, const Moments *b) {
    const double n = a->n + b->n, share = b->n / n;
    const double delta = (b->mean - a->mean) + (b->rest - a->rest);
    const double scale = a->scale < b->scale ? a->scale : b->scale;
    const double of_a = scale / a->scale, of_b = scale / b->scale, scaled = delta * scale;
    a->m2 = a->m2 * of_a * of_a + b->m2 * of_b * of_b + scaled * scaled * a->n * share;
    double rest;
    a->mean = two_sum(a->mean, a->rest + delta * share, &rest);
    a->rest = rest;
    a->scale = scale;
    a->n = n;
}

/* eps as it is added to a variance of scaled elements. */
static inline double scaled_eps(double eps, double scale) {
    return eps == 0 ? 0 : eps * scale * scale;
}

static inline void moments_finish(const Moments *m, double eps, Stat *s) {
    const double var = m->m2 * (1 / m->n);
    s->mean = m->mean;
    s->rest = m->rest;
    s->var = var / m->scale / m->scale;
    s->rstd = m->scale / sqrt(var + scaled_eps(eps, m->scale));
}

/* A pivot that was far off costs digits of the sum of squares. */
static inline int pivot_is_far(double n, double s1, double s2) {
    return s1 * (s1 * (1 / n)) > 0.5 * s2;
}

/* Squares have overflowed or vanished, or there is a NaN or an infinity. */
static inline int out_of_range(double n, double s2, double floor) {
    return !(s2 - s2 == 0) | (s2 < n * floor);
}

/* Mean squares below this have lost digits. */
static inline double square_floor(double eps) {
    return eps < EPS_OUTWEIGHS ? SQUARE_FLOOR : 0;
}

/* pool.c */
Kernel pool_rows, pool_columns;

#endif
