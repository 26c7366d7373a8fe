/* What the kernels share with each other and with _core.pyx: the view of an array as rows or
 * columns (Plan), the measurements (Moments, Stat), and the table of functions of a tier. */
#ifndef FASTNORM_KERNELS_H
#define FASTNORM_KERNELS_H

#include <stddef.h>

/* A line of the cache, which streaming stores should fill. */
#define LINE_BYTES 64

enum {
    MAX_AXES = 65,        /* NumPy's 64, and one more when groups split the channel axis */
    CHUNK = 65536,        /* elements measured together: enough to amortise a merge, and in L2 */
    STRIP = 512,          /* columns at a time: their sums stay in L1 */
    WIDEST = 1024,        /* in two passes: longer pieces of rows, from memory, are read faster */
    APPLIED_BYTES = 8192, /* of columns applied at a time: their coefficients stay in L2 */
    STRIP_ROOM = STRIP + LINE_BYTES / 2, /* the last strip may have a line more */
    WIDEST_ROOM = WIDEST + LINE_BYTES / 2,
    FOLD_WIDTH = 128, /* few columns are laid side by side up to this many */
    SHORT_ROW = 32    /* shorter rows are turned into columns */
};

/* Element types, in the order of every table that is indexed by them. */
enum Dtype { F32, F64, F16, BF16, DTYPES };

/* count, mean and sum of squared deviations of some elements.  The mean is the unevaluated sum
 * mean + rest: at mean/std = 10^6 one double is too coarse for results right to 10^-12. */
typedef struct {
    double n, mean, rest, m2;
} Moments;

/* What applying needs to know about the elements normalised together. */
typedef struct {
    double mean, rest, var, rstd;
} Stat;

/* A loop nest over some axes of the array, outermost first: sizes, strides of the input and the
 * output (bytes), of the parameters and of the statistics (elements). */
typedef struct {
    int ndim;
    ptrdiff_t count;
    ptrdiff_t size[MAX_AXES], x[MAX_AXES], y[MAX_AXES], param[MAX_AXES], stat[MAX_AXES];
} Nest;

/* The runs of contiguous elements that one statistic covers, cut into chunks by shape alone. */
typedef struct {
    Nest runs;
    ptrdiff_t length;    /* elements of a run */
    ptrdiff_t pieces;    /* chunks of a run, when a run is longer than a chunk */
    ptrdiff_t per_chunk; /* runs of a chunk, when a chunk takes several */
    ptrdiff_t chunks;
} Walk;

/* How the columns of a block are cut: strips of `width`, a multiple of the group; the first has
 * `shift` fewer, so that all others begin a line of the output, and the last as many more, if need
 * be. */
typedef struct {
    ptrdiff_t columns, width, shift;
} Strips;

/* An array as normalisation sees it.  Rows: every index of `kept` has its own statistic, over the
 * runs of `measure` (and the shorter ones of `apply`, along which the parameters are either
 * constant or contiguous).  Columns: every index of `kept` is a block of rows of `width` columns,
 * and each column, or `group` adjacent ones together, has its own statistic. */
typedef struct {
    int columns;      /* the family: columns, or rows */
    int param_vector; /* parameters vary along the run */
    int centre;       /* subtract the mean (0: RMS norm) */
    int precise;      /* float32 sums of so few elements have rounding errors: float64 for d */
    int stream;       /* store past the cache */
    int short_rows;   /* rows: each statistic is of one run, shorter than SHORT_ROW */
    Nest kept;
    Walk measure, apply; /* rows */
    Nest rows;           /* columns: the rows of a block, `fold` to one */
    int dense;           /* which follow each other without gaps */
    ptrdiff_t row_chunk, chunks;
    ptrdiff_t width, group, fold; /* width is that of `fold` rows side by side */
    ptrdiff_t tail_rows;          /* rows left over by folding */
    Strips strips;                /* what is measured together, and applied if it is fused; */
    Strips apply_strips;          /* and else applied together, `apply_rows` at a time */
    ptrdiff_t apply_rows;
    int abreast; /* several rows at a time, if they can be */
    ptrdiff_t stats_per_block;
    ptrdiff_t count; /* elements of a statistic */
    ptrdiff_t stats; /* number of statistics */
    double eps;
    double floor; /* a mean square below this has lost digits in float32 */
    const char *x;
    char *y;
    const void *weight, *bias; /* float, or double for float64 data; NULL: none */
} Plan;

/* a / b, rounded up. */
static inline ptrdiff_t up(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

static inline ptrdiff_t strip_count(const Strips *s) { return up(s->columns, s->width); }

static inline ptrdiff_t strip_first(const Strips *s, ptrdiff_t strip) {
    return strip ? strip * s->width - s->shift : 0;
}

static inline ptrdiff_t strip_width(const Strips *s, ptrdiff_t strip) {
    const int last = (strip + 1) * s->width >= s->columns;
    return (last ? s->columns : strip_first(s, strip + 1)) - strip_first(s, strip);
}

/* Whether statistics and parameters vary along different directions. */
static inline int is_split(const Plan *plan) {
    return (plan->weight || plan->bias) && !plan->param_vector;
}

/* The chunks of rows of a block of columns; one more are those left over by folding. */
static inline ptrdiff_t row_chunks(const Plan *plan) {
    return plan->chunks + (plan->tail_rows > 0);
}

/* The same of what is applied together. */
static inline ptrdiff_t apply_chunks(const Plan *plan) {
    return up(plan->rows.count, plan->apply_rows) + (plan->tail_rows > 0);
}

typedef struct Backward Backward; /* backward.h */

/* The functions that a tier offers for each element type; see kernels.def. */
typedef struct {
#define KERNEL(ret, name, params) ret(*name) params;
#include "kernels.def"
#undef KERNEL
} Kernels;

/* dispatch.c */
int isa_count(void);
const char *isa_name(int tier);
int isa_available(int tier);
const Kernels *isa_kernels(int tier, int dtype);

#endif
