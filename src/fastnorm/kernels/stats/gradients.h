/* The backward pass of statistics: from sums to what dx is made with, and dweight and dbias.
 *
 * With g the gradient by the result, w the weight and xhat = (x - mean) * rstd:
 *
 *     dx = rstd * (g*w - mean(g*w) - xhat * mean(g*w*xhat))
 *     dweight = sum of g*xhat,   dbias = sum of g
 *
 * The mean that comes back is rounded, so that xhat is off by a little, the same for all elements of
 * a set: the mean of xhat, `shift`, which corrects the rest. */
#ifndef FASTNORM_GRADIENTS_H
#define FASTNORM_GRADIENTS_H

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include "../plan/plan.h"

/* Of a set: how far xhat is off, and the means of g*w and of g*w*xhat. */
typedef struct {
    double shift, g, gx;
} GradStat;

static inline GradStat grad_finish(const Job *job, double n, double g, double gx, double x) {
    const double share = 1 / n;
    GradStat s = {0, 0, 0}; /* of statistics that do not depend on x */
    if (job->backward.frozen)
        return s;
    if (job->plan.centre) {
        s.shift = x * share;
        s.g = g * share;
    }
    s.gx = (gx - s.shift * g) * share;
    return s;
}

/* Parameter i as a double; 1 without weights. */
static inline double grad_weight(const Job *job, ptrdiff_t i) {
    const void *weight = job->plan.weight;
    return !weight                     ? 1
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
