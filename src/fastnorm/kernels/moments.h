/* Counting, merging and finishing moments: the statistics of everything, written once. */
#ifndef FASTNORM_MOMENTS_H
#define FASTNORM_MOMENTS_H

#if defined(__clang__) /* clang-cl ignores -ffp-contract=off */
#pragma STDC FP_CONTRACT OFF
#endif

#include "kernels.h"
#include <math.h>

/* a + b as the unevaluated sum of the rounded sum and what was rounded away (Knuth's TwoSum). */
static inline double two_sum(double a, double b, double *rest) {
    double s = a + b;
    double t = s - a;
    *rest = (a - (s - t)) + (b - t);
    return s;
}

/* a / n for a count n.  in_range: of numbers far from the ends of float64's range, as sums of
 * float32 data are, by multiplications, which loops over many do many times as fast: they bring the
 * quotient within an ulp, from where one more step rounds it correctly (Markstein, "Computation of
 * elementary functions on the IBM RISC System/6000 processor", 1990).  So the bits are those of the
 * division. */
static inline double over(int in_range, double a, double n) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    if (in_range) {
        const double share = 1 / n;
        double q = a * share;
        q = __builtin_fma(__builtin_fma(-q, n, a), share, q);
        return __builtin_fma(__builtin_fma(-q, n, a), share, q);
    }
#endif
    (void)in_range;
    return a / n;
}

/* The moments of n elements from the sums of d and d*d, where d = x - reference; in_range: see
 * over. */
static inline void moments_of_sums(int in_range, Moments *m, double n, double reference, double s1,
                                   double s2) {
    const double d = over(in_range, s1, n), m2 = s2 - s1 * d;
    m->n = n;
    m->mean = two_sum(reference, d, &m->rest);
    m->m2 = m2 < 0 ? 0 : m2;
}

/* Chan, Golub and LeVeque (1979): add b's elements to a. */
static inline void moments_merge(Moments *a, const Moments *b) {
    double n = a->n + b->n;
    double share = b->n / n;
    double delta = (b->mean - a->mean) + (b->rest - a->rest);
    double rest;
    a->mean = two_sum(a->mean, a->rest + delta * share, &rest);
    a->rest = rest;
    a->m2 = a->m2 + b->m2 + delta * delta * a->n * share;
    a->n = n;
}

static inline void moments_finish(int in_range, const Moments *m, double eps, Stat *s) {
    s->mean = m->mean;
    s->rest = m->rest;
    s->var = over(in_range, m->m2, m->n);
    s->rstd = 1.0 / sqrt(s->var + eps);
}

/* Pool the chunks of a unit of rows: in the order of the shape, whoever measured them. */
static inline void pool_rows(const Plan *plan, const Moments *chunks, Stat *out) {
    Moments m = chunks[0];
    for (ptrdiff_t i = 1; i < plan->measure.chunks; i++)
        moments_merge(&m, &chunks[i]);
    moments_finish(0, &m, plan->eps, out);
}

/* Pool the columns of one statistic: its channels, the rows that lie side by side (`fold`), and
 * those left over (`tail`). */
static inline void pool_columns(const Plan *plan, const Moments *columns, const Moments *tail,
                                ptrdiff_t stat, Stat *out) {
    ptrdiff_t channels = plan->width / plan->fold, first = stat * plan->group;
    Moments m = columns[first];
    for (ptrdiff_t c = first; c < first + plan->group; c++) {
        for (ptrdiff_t f = c == first; f < plan->fold; f++)
            moments_merge(&m, &columns[f * channels + c]);
        if (plan->tail_rows)
            moments_merge(&m, &tail[c]);
    }
    moments_finish(0, &m, plan->eps, out);
}

/* ---- moments.c ---- */

/* The two above for measurements made in parallel. */
void pool_unit(const Plan *plan, const Moments *moments, Stat *stats, ptrdiff_t unit);
void pool_block(const Plan *plan, Moments *moments, Stat *stats, ptrdiff_t first, ptrdiff_t last);

/* ---- statistics.c: those of the caller, and for the caller ---- */

/* One number for each channel: float, or double if `wide`, `stride` bytes apart. */
typedef struct {
    char *data;
    ptrdiff_t stride;
    int wide;
} Reals;

/* n statistics from means and variances handed in. */
void stats_given(Stat *stats, ptrdiff_t n, const Reals *mean, const Reals *var, double eps);

/* n statistics of no elements, which are NaN. */
void stats_unknown(Stat *stats, ptrdiff_t n);

/* Statistics in the kernels' order, to the caller's. */
void stats_reorder(const Nest *order, const Stat *from, Stat *to);

/* One number (float, or double if `wide`) for each statistic, in the caller's order, to the
 * kernels'. */
void reals_reorder(const Nest *order, const void *from, void *to, int wide);

/* What to take from statistics. */
enum { MEAN, VARIANCE, RSTD };

/* One of the three from n statistics, to the start of `to`. */
void stats_take(const Stat *stats, ptrdiff_t n, int what, const Reals *to);

/* running = (1 - momentum) * running + momentum * batch, in float64, for the mean or the variance.
 * The batch's are averages over `samples` statistics of each of n channels, times `factor`. */
void stats_average(const Stat *stats, ptrdiff_t samples, ptrdiff_t n, int what, double factor,
                   double momentum, const Reals *running);

#endif
