/* The backward pass of statistics: from sums to what dx is made with, and dweight and dbias.
 *
 * With g the gradient by the result, w the weight and xhat = (x - mean) * rstd:
 *
 *     dx = rstd * (g*w - mean(g*w) - xhat * mean(g*w*xhat))
 *     dweight = sum of g*xhat,   dbias = sum of g
 *
 * The mean that comes back is rounded, so that xhat is off by a little, the same for all elements
 * of a set: the mean of xhat, `shift`, which corrects the rest. */
#ifndef FASTNORM_GRADIENTS_H
#define FASTNORM_GRADIENTS_H

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include "../plan/plan.h"

/* Of a set: how far xhat is off, and the means of g*w and of g*w*xhat. */
typedef struct {
    double shift, g, gx;
    int beyond;
} GradStat;

static inline GradStat grad_finish(const Job *job, double n, const GradSums *sums) {
    const double share = 1 / n;
    GradStat s = {0, 0, 0, WITHIN}; /* of statistics that do not depend on x */
    if (job->backward.frozen)
        return s;
    if (job->plan.centre) {
        s.shift = sums->x * share;
        s.g = sums->g * share;
    }
    s.gx = (sums->gx - s.shift * sums->g) * share;
    s.beyond = sums->beyond;
    return s;
}

/* As stages leave it to each other. */
static inline Stat grad_stat_pack(const GradStat *s) {
    return (Stat){s->shift, s->g, s->gx, (double)s->beyond};
}

static inline GradStat grad_stat_unpack(const Stat *s) {
    return (GradStat){s->mean, s->rest, s->var, (int)s->rstd};
}

/* False for a NaN. */
static inline int grad_sums_within(double g, double gx, double x) {
    return (g < GRAD_SUM_MOST) & (g > -GRAD_SUM_MOST) & (gx < GRAD_SUM_MOST) &
           (gx > -GRAD_SUM_MOST) & (x < GRAD_SUM_MOST) & (x > -GRAD_SUM_MOST);
}

static inline double grad_shrink(double sum) { return sum * GRAD_SHRINK * GRAD_SHRINK; }
static inline double grad_unshrink(double sum) { return sum / GRAD_SHRINK / GRAD_SHRINK; }

/* What dweight and dbias are made of. */
static inline double grad_term(const GradSums *sums, double sum) {
    return sums->beyond == SHRUNK ? grad_unshrink(sum) : sum;
}

/* Add b's elements to a. */
static inline void grad_sums_add(GradSums *a, const GradSums *b) {
    const int shrunk = a->beyond == SHRUNK || b->beyond == SHRUNK;
    if (shrunk && a->beyond != SHRUNK) {
        a->g = grad_shrink(a->g);
        a->gx = grad_shrink(a->gx);
    }
    a->g += shrunk && b->beyond != SHRUNK ? grad_shrink(b->g) : b->g;
    a->gx += shrunk && b->beyond != SHRUNK ? grad_shrink(b->gx) : b->gx;
    a->x += b->x;
    a->beyond = MAX(a->beyond, b->beyond);
}

/* The sums with a weight, which they do not have yet: shrunk only where they have to be. */
static inline GradSums grad_sums_weighted(const GradSums *sums, double w) {
    const int shrunk = sums->beyond == SHRUNK;
    const double plain = shrunk ? 1 / GRAD_SHRINK : 1, small = shrunk ? 1 : GRAD_SHRINK;
    GradSums s = {sums->g * plain * (w * plain), sums->gx * plain * (w * plain), sums->x,
                  shrunk ? WIDENED : sums->beyond};
    const GradSums less = {sums->g * small * (w * small), sums->gx * small * (w * small), sums->x,
                           SHRUNK};
    if (!grad_sums_within(s.g, s.gx, 0) && grad_sums_within(less.g, less.gx, 0))
        return less;
    return s;
}

/* Parameter i as a double; 1 without weights. */
static inline double grad_weight(const Job *job, ptrdiff_t i) {
    const void *weight = job->plan.weight;
    return !weight                  ? 1
           : job->plan.dtype == F64 ? ((const double *)weight)[i]
                                    : (double)((const float *)weight)[i];
}

/* The statistic of a set of rows from its sums, of which those that dweight is made of are
 * corrected.  `set` counts sets in the order of Plan.sets, `param` is the set's. */
GradStat grad_finish_row_set(const Job *job, ptrdiff_t set, ptrdiff_t param);

/* The same of a set of columns, of which `first` is its first column in the block. */
GradStat grad_finish_column_set(const Job *job, ptrdiff_t block, ptrdiff_t set, ptrdiff_t param);

/* Where the sums of a chunk begin. */
static inline GradSums *grad_row_sums(const Job *job, ptrdiff_t set) {
    return job->sums + set * job->backward.sums_per_set;
}

/* Of columns: sums of a chunk of a block, of sets, or of columns that have a weight each. */
static inline int grad_by_column(const Plan *plan) {
    return plan->columns.group > 1 && plan->columns.repeat == 1;
}

static inline ptrdiff_t grad_block_sums(const Plan *plan) {
    return grad_by_column(plan) ? plan->columns.width : plan->columns.sets_per_block;
}

/* From all sums, or tables, to dweight and dbias. */
Kernel grad_reduce_rows, grad_reduce_columns, grad_reduce_tables, grad_reduce_row_tables;

#endif
