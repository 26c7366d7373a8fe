/* Constants that bits depend on: how sums are grouped, by the shape of a set alone.  Change one,
 * and the golden bits of the tests change with it. */
#ifndef FASTNORM_NUMERICS_H
#define FASTNORM_NUMERICS_H

enum {
    LINE_BYTES = 64,   /* a lane block: the lanes that are summed side by side on every tier */
    CHAINS = 2,        /* lane blocks are added to so many sums in turn, which hides latency */
    CHAIN = 8,         /* additions to one float32 sum before it joins the next level, */
    LEVEL = 16,        /* and of such sums before they go to float64 */
    CHUNK = 65536,     /* elements around one pivot */
    COLUMN_CHAIN = 8,  /* rows added to one float32 sum of a column, */
    COLUMN_LEVEL = 4,  /* and of such sums before they go to float64: a column has one lane only */
    ROW_CHUNK = 1024,  /* least rows of a column around one pivot, and of the tasks that measure */
    ROW_CHUNKS = 64,   /* most of them */
    PACK_COLUMNS = 32, /* fewer columns than this leave vectors empty: rows are packed */
    PACKED_COLUMNS = 128, /* up to so many side by side */
    GROUP_COLUMNS = 512,  /* a group of more channels has runs long enough to be rows */
    GROUP_ROWS = 16,      /* groups of channels with fewer positions are rows, too */
    MAP_COLUMNS = 128,    /* batch norm of smaller maps pools columns */
    MAP_SAMPLES = 4,      /* if there are so many samples */
    GRAD_ROWS = 32,       /* rows whose dweight and dbias are added in float32 */
    GRAD_TASKS = 64,      /* most tasks with partial sums of dweight and dbias of their own */
    GRAD_TABLE_SHARE = 8, /* the partial sums are at most this part of what is read and written */
    GRAD_STRIP = 256      /* columns whose dweight and dbias are summed across a row */
};

/* Float32 data whose sampled mean is between these powers of two is summed as it is; other data is
 * scaled by a power of two first, so that squares neither overflow nor vanish. */
#define SCALE_ABOVE_F32 0x1p-30
#define SCALE_BELOW_F32 0x1p40
#define SCALE_ABOVE_F64 0x1p-200
#define SCALE_BELOW_F64 0x1p200

/* A scaled mean square below this has lost digits, if eps does not outweigh it. */
#define SQUARE_FLOOR 0x1p-100
#define EPS_OUTWEIGHS 0x1p-70

/* Statistics outside of these have no room in the arithmetic: exceptional.c computes the set. */
#define MEAN_MOST_F32 0x1p102
#define FACTOR_MOST_F32 0x1p120
#define FACTOR_LEAST_F32 0x1p-120
#define FACTOR_NORMAL_F32 0x1p-126
#define FACTOR_NORMAL_F64 0x1p-1022
#define MEAN_MOST_F64 0x1p1000
#define FACTOR_MOST_F64 0x1p1010
#define FACTOR_LEAST_F64 0x1p-1010

/* Sums of a backward pass beyond this have left the range, or may when they are added up; then the
 * gradient and the weight are multiplied by the other. */
#define GRAD_SUM_MOST 0x1p1000
#define GRAD_SHRINK 0x1p-600

#endif
