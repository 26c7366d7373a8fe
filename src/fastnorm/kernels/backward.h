/* The backward pass: its view of a call, and what is done once its sums are known.
 *
 * With xhat = (x - mean) * rstd and gw = grad * weight, over the n elements of a statistic:
 *
 *     dx      = rstd * (gw - mean(gw) - xhat * mean(gw * xhat))
 *     dweight = the sum of grad * xhat, and dbias = the sum of grad, of each parameter's elements.
 *
 * So there are three sums to measure: of gw, of gw * xhat, and of xhat, which would be zero if the
 * mean that was handed in were not rounded; with it, xhat is corrected.  (RMS norm has no mean;
 * where the statistics are constants, dx = rstd * gw.) */
#ifndef FASTNORM_BACKWARD_H
#define FASTNORM_BACKWARD_H

#include "moments.h"

enum {
    GRAD_TOGETHER = 8, /* units whose gradients of parameters are added in float32, at most */
    GRAD_CHUNKS = 64   /* chunks of a unit that is measured and applied in one go, at most */
};

/* Sums over some elements, where xhat still has the rounded mean. */
typedef struct {
    double g, gx, x;
} GradSums;

/* What applying needs of a statistic: xhat is off by `shift`; means of gw and of gw * xhat. */
typedef struct {
    double shift, g, gx;
} GradStat;

/* A call.  Its plan has the input as x, and dx as y; the gradient is laid out like dx, and may be
 * dx. */
struct Backward {
    const Plan *plan;
    const char *grad;
    const void *mean, *rstd; /* float (double for float64 data), in the kernels' order */
    int wide;                /* those and the weight are double */
    int constant;            /* the statistics do not depend on x */
    int fused;               /* each statistic is measured and applied in one go */
    ptrdiff_t params;        /* number of weights */
    ptrdiff_t strips;        /* columns */
    /* Rows with one parameter for a run: the sums of a chunk, one for each of its runs if these
     * have different parameters. */
    ptrdiff_t sums_per_chunk;
    /* Rows with parameters that vary along them: units of a task, units that are added to each
     * other in the type of the arithmetic, pieces into which a unit can be cut, and how many of
     * them have tables of their own. */
    ptrdiff_t share, together, tasks, pieces, tables_per_task;
    /* Columns with one parameter for a row: how many of them the rows of a block have. */
    ptrdiff_t row_params;
    GradSums *sums;  /* rows: of chunks; columns: of chunks, or (fused) of blocks */
    GradStat *stats; /* in two passes */
    /* Gradients of the parameters from parts of the array: all dweight, then all dbias. */
    double *tables;
    ptrdiff_t sums_count, stats_count, tables_count; /* how much of them; of tables in doubles */
};

/* ---- backward.c ---- */

/* How the work is divided: by shape alone where it decides what is added to what. */
void backward_schedule(Backward *b, Plan *plan, ptrdiff_t itemsize, int threads);

/* The statistic of a unit of rows, from the sums of its chunks, in which gx is corrected. */
void grad_finish_unit(const Backward *b, ptrdiff_t param, GradSums *sums, GradStat *out);

/* Statistics of columns, of which the first is number `first` in its block, from the sums of
 * `width` columns; those of folded columns are added to those of the channels. */
void grad_finish_columns(const Backward *b, ptrdiff_t param, ptrdiff_t first, ptrdiff_t width,
                         GradSums *columns, GradStat *out);

/* Add the sums of a chunk to those before it. */
void grad_add_columns(const Backward *b, ptrdiff_t chunk, ptrdiff_t width, const GradSums *from,
                      GradSums *to);

/* In two passes: pool the chunks of a strip of columns into the first, and finish. */
void grad_pool_columns(const Backward *b, ptrdiff_t block, ptrdiff_t strip);

/* Begin the tables of tasks first..last-1 of rows with zeros. */
void grad_clear_tables(const Backward *b, ptrdiff_t first, ptrdiff_t last);

/* In two passes: finish units first..last-1. */
void grad_pool_rows(const Backward *b, ptrdiff_t first, ptrdiff_t last);

/* Gradients of parameters first..last-1, in the kernels' order, from what the tasks left. */
void grad_params(const Backward *b, ptrdiff_t first, ptrdiff_t last, double *weight, double *bias);

/* A weight; 1 where there is none. */
static inline double grad_weight(const Backward *b, ptrdiff_t param) {
    const void *w = b->plan->weight;
    return !w ? 1 : b->wide ? ((const double *)w)[param] : (double)((const float *)w)[param];
}

static inline void grad_add_sums(GradSums *to, const GradSums *from, double weight) {
    to->g += weight * from->g;
    to->gx += weight * from->gx;
    to->x += from->x;
}

/* A statistic of n elements, from all their sums (without branches, for loops over units); the sum
 * of xhat is zero without a mean. */
static inline void grad_finish(int centre, int constant, double n, const GradSums *sums,
                               GradStat *out) {
    const double shift = sums->x / n, g = sums->g / n, gx = (sums->gx - shift * sums->g) / n;
    out->shift = constant ? 0 : shift;
    out->g = constant || !centre ? 0 : g;
    out->gx = constant ? 0 : gx;
}

/* Where a walk of rows has its sums. */
static inline GradSums *grad_unit_sums(const Backward *b, ptrdiff_t unit) {
    return b->sums + unit * b->plan->apply.chunks * b->sums_per_chunk;
}

/* Where a chunk of rows of columns leaves the gradients of its rows' parameters. */
static inline double *grad_row_table(const Backward *b, ptrdiff_t block, ptrdiff_t strip,
                                     ptrdiff_t chunk) {
    const ptrdiff_t tile = (block * b->strips + strip) * row_chunks(b->plan) + chunk;
    return b->tables ? b->tables + tile * 2 * b->row_params : NULL;
}

#endif
