/* Statistics that the caller hands in, asks for, or lets follow the batches. */
#ifndef FASTNORM_STATISTICS_H
#define FASTNORM_STATISTICS_H

#include "../plan/plan.h"

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

/* running = (1 - momentum) * running + momentum * batch, in float64, for the mean or the variance;
 * a momentum of 0 leaves it alone, and of 1 replaces it, whatever it is.  The batch's are averages
 * over `samples` statistics of each of n channels, times `factor`. */
void stats_average(const Stat *stats, ptrdiff_t samples, ptrdiff_t n, int what, double factor,
                   double momentum, const Reals *running);

#endif
