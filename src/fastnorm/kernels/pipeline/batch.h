/* A batch: up to 16 sets of rows that lie at one distance from each other, and what is known of
 * them.  Numbers of sets are arrays, so that they are made by vectors. */
#ifndef FASTNORM_BATCH_H
#define FASTNORM_BATCH_H

#include "../plan/nest.h"
#include "../plan/tuning.h"
#include "../simd/memory.h"
#include "../simd/reduce.h"
#include "../stats/gradients.h"

/* What a kernel is compiled for; flags of `how`. */
enum {
    MEASURE = 1,
    APPLY = 2,
    CENTRE = 4,    /* subtract the mean */
    ACROSS = 8,    /* parameters vary along the run */
    STREAMED = 16, /* Store of the results; none of the two: CACHED */
    STAGED = 32,   /* with STREAMED: seams */
    CONVERT = 64,  /* elements are not of the arithmetic's type */
    BACKWARD = 128,
    FROZEN = 256 /* backward: the statistics do not depend on x */
};

INLINE int store_flags(const Plan *plan) {
    return plan->store == STORE_STREAM   ? STREAMED
           : plan->store == STORE_STAGED ? STAGED
           : plan->store == STORE_SEAMS  ? STREAMED | STAGED
                                         : 0;
}

enum { SUMS = 3 /* of d and d*d; backward: of g, g*xhat and xhat */ };

typedef struct {
    ptrdiff_t set, count; /* the number of the first, in the order of Plan.sets; sets */
    Place at, step;       /* of the first, and to the next */
    unsigned exceptional; /* a bit for each set */
    int beyond[BATCH];    /* backward: of the sums */
    /* sums: of pieces, by lanes; of sets */
    _Alignas(LINE_BYTES) line lanes[SUMS][BATCH];
    double sum[SUMS][BATCH];
    /* measuring: (x - pivot) * scale is x * scale + shift; backward: x - pivot, times scale */
    real pivot[BATCH], scale[BATCH], unscale[BATCH], shift[BATCH];
    /* statistics */
    double mean[BATCH], rest[BATCH], var[BATCH], rstd[BATCH];
    /* applying: x - hi, times `factor`, plus `term` */
    real hi[BATCH], factor[BATCH], term[BATCH];
    /* backward: see backward/row.h */
    real of_grad[BATCH], xhat_shift[BATCH];
    GradStat grad[BATCH];
} Batch;

/* Up to `most` sets from the cursor on. */
INLINE void batch_take(Batch *b, Cursor *sets, ptrdiff_t set, ptrdiff_t most) {
    b->set = set;
    b->count = MIN(most, inner_left(sets));
    b->at = sets->at;
    b->step = inner_step(sets->nest);
    cursor_skip(sets, b->count);
}

INLINE void batch_clear_sums(Batch *b, int sums) {
    for (int k = 0; k < sums; k++)
        for (int j = 0; j < BATCH; j++)
            b->sum[k][j] = 0;
}

/* The lanes' sums of the sets from..to-1 join those of the sets. */
NOINLINE void batch_add_lanes(Batch *b, int k, int from, int to) {
    _Alignas(LINE_BYTES) real total[BATCH] = {0};
    const int count = to - from;
    if (count == 1) {
        reduce_lines(1, b->lanes[k] + from, total);
        b->sum[k][from] += (double)total[0];
        return;
    }
    if (count <= 4 && from + 4 <= BATCH) {
        reduce_lines(4, b->lanes[k] + from, total);
        for (int j = from; j < to; j++)
            b->sum[k][j] += (double)total[j - from];
        return;
    }
    reduce_lines(16, b->lanes[k], total);
    for (int j = from; j < to; j++)
        b->sum[k][j] += (double)total[j];
}

/* A bit for each set whose flag is set. */
INLINE unsigned flagged_sets(const Batch *b, const int64_t *flags) {
    int64_t any = 0;
    unsigned bits = 0;
    for (int j = 0; j < BATCH; j++)
        any |= flags[j];
    for (int j = 0; __builtin_expect(any != 0, 0) && j < (int)b->count; j++)
        bits |= (unsigned)(flags[j] != 0) << j;
    return bits;
}

#endif
