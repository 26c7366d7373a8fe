/* From the axes of an array to the matrix view that the kernels walk. */
#ifndef FASTNORM_LAYOUT_H
#define FASTNORM_LAYOUT_H

#include "plan.h"

/* What an axis means to an operation. */
enum {
    KEPT = 1,  /* every index has its own statistics */
    PARAM = 2, /* every index has its own weight and bias */
    SPLIT = 4  /* the channels within a group: follows the axis of the groups */
};

typedef struct {
    ptrdiff_t size, x, y; /* strides in bytes */
    ptrdiff_t param;      /* stride in the weight as the caller sees it, 0 without PARAM */
    ptrdiff_t stat;       /* stride in the statistics as the caller sees them, 0 without KEPT */
    int role;
    int param_axis; /* which axis of the weight this is */
} Axis;

/* How the caller's statistics and parameters are ordered, compared with the kernels'. */
typedef struct {
    Nest stats;          /* visits the kernels' statistics in order; stat: the caller's stride */
    int stats_reordered; /* the caller's order is another */
    int param_reordered; /* the kernels want the weight with its axes in the order below */
    int param_ndim, param_axis[MAX_AXES];
} Order;

/* Fill in the plan's loops from n axes (which are overwritten).  given: the statistics are handed
 * in, one per channel.  Returns 0 when the array cannot be walked in place: no run of elements is
 * contiguous in x and y. */
int layout_plan(Plan *plan, Order *order, Axis *axes, int n, ptrdiff_t itemsize, int given);

#endif
