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
    const double scale = a->scale < b->scale ? a->scale : b->scale;
    const double of_a = scale / a->scale, of_b = scale / b->scale;
    /* Scaled first: means of opposite signs may be farther apart than the range is wide. */
    const double delta = (b->mean * scale - a->mean * scale) + (b->rest - a->rest) * scale;
    a->m2 = a->m2 * of_a * of_a + b->m2 * of_b * of_b + delta * delta * a->n * share;
    double rest;
    a->mean = two_sum(a->mean, a->rest + delta * share / scale, &rest);
    a->rest = rest;
    a->scale = scale;
    a->n = n;
}

/* 1/sqrt(var + eps) from the variance of scaled elements, and the variance itself.  Where a scaled
 * eps leaves the range, one of the two vanishes beside the other. */
static inline double rstd_of(double scaled_var, double scale, double var, double eps) {
    const double sum = scaled_var + eps * scale * scale;
    const int in_range = (scaled_var > 0) & (sum < INFINITY);
    const double numerator = in_range ? scale : 1;
    return numerator / sqrt(in_range ? sum : var + eps);
}

static inline void moments_finish(const Moments *m, double eps, Stat *s) {
    const double var = m->m2 * (1 / m->n);
    s->mean = m->mean;
    s->rest = m->rest;
    s->var = var / m->scale / m->scale;
    s->rstd = rstd_of(var, m->scale, s->var, eps);
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
static inline double square_floor(double eps) { return eps < EPS_OUTWEIGHS ? SQUARE_FLOOR : 0; }

/* pool.c */
Kernel pool_rows, pool_columns;

#endif
