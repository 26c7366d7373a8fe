/* Thresholds that only speed depends on, each with its reason; no bit depends on them.  What
 * differs between processors is in machine.c. */
#ifndef FASTNORM_TUNING_H
#define FASTNORM_TUNING_H

/* Special cases of the schedule, which tests and the benchmark can switch off one by one.  With all
 * of them off, sets are measured, pooled and applied one after the other. */
#define FEATURES(X)                                                                                \
    X(FUSE, "fuse")               /* a set is applied right after it was measured */               \
    X(LOOKAHEAD, "lookahead")     /* the next sets are measured in the loop that applies these */  \
    X(BATCH, "batch")             /* several sets are applied together */                          \
    X(STREAM, "stream")           /* large results go past the cache */                            \
    X(STAGE, "stage")             /* results that are not whole lines are staged in L1 */          \
    X(SEAMS, "seams")             /* of long runs only the ends are staged */                      \
    X(PREFETCH, "prefetch")       /* the sums fetch ahead */                                       \
    X(ABREAST, "abreast")         /* several rows of columns share a load of coefficients */       \
    X(EVEN_STRIPS, "even_strips") /* strips are cut so that all threads have as many */

enum FeatureNumber {
#define NUMBER(name, text) FEATURE_NUMBER_##name,
    FEATURES(NUMBER)
#undef NUMBER
        FEATURE_COUNT
};

enum Feature {
#define BIT(name, text) FEATURE_##name = 1 << FEATURE_NUMBER_##name,
    FEATURES(BIT)
#undef BIT
        FEATURES_ALL = (1 << FEATURE_COUNT) -
    1
};

enum {
    BATCH = 16,              /* sets whose statistics are lanes of a vector or two */
    BATCH_BYTES = 16384,     /* they are read again from the L1 cache */
    BATCH_BYTES_GRAD = 8192, /* of two arrays */
    STAGE_BYTES = 8192,      /* staged before it leaves: few branches, and in L1 */
    SEAMS_ABOVE_BYTES = 512, /* shorter runs are mostly ends */
    TILE_BYTES = 16384,      /* converted elements of a batch */
    AHEAD_BYTES = 4096,      /* from the sums to what is fetched: a page of memory, at most */
    PARTS_PER_THREAD =
        8, /* ranges of items handed to each: a thread that is slowed down does less */
    STRIP_COLUMNS = 512,        /* columns at a time: their sums stay in L1 */
    STRIP_COLUMNS_APART = 1024, /* measured from memory in pieces that are longer */
    STRIP_LEAST_BYTES = 2048,   /* shorter pieces of rows cost more than they save */
    ROWS_ABREAST = 4,           /* rows of columns that share a load of coefficients */
    APPLY_BYTES = 8192,         /* of a row applied at a time: its coefficients stay in L2 */
    APPLY_LEAST_ROWS = 64       /* of columns, for which a task makes the coefficients once */
};

#endif
