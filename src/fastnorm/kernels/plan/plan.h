/* What the kernels share with each other and with _core.pyx: the view of an array as rows or
 * columns (Plan), measurements (Moments, Stat, GradSums), and a call as work for threads (Job). */
#ifndef FASTNORM_PLAN_H
#define FASTNORM_PLAN_H

#include "numerics.h"
#include <stddef.h>

enum { MAX_AXES = 65 /* NumPy's 64, and one more when groups split the channel axis */ };

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* a / b, rounded up. */
static inline ptrdiff_t up(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* Element types, in the order of every table that is indexed by them. */
enum Dtype { F32, F64, F16, BF16, DTYPES };

/* Count, mean and sum of squared deviations of some elements.  The mean is the unevaluated sum
 * mean + rest: at mean/std = 10^6 one double is too coarse for results right to 10^-12.  m2 is that
 * of the elements times `scale`, a power of two. */
typedef struct {
    double n, mean, rest, m2, scale;
} Moments;

/* What applying needs to know about a set. */
typedef struct {
    double mean, rest, var, rstd;
} Stat;

/* The sums of a backward pass over some elements: of the gradient (times the weight), of that times
 * xhat, and of xhat. */
typedef struct {
    double g, gx, x;
    int beyond; /* a Beyond */
} GradSums;

/* Whether the sums of a backward pass have left the range of the arithmetic. */
enum Beyond {
    WITHIN,
    WIDENED, /* they have been made again in float64, */
    SHRUNK   /* or of gradient and weight times GRAD_SHRINK each, which float64 needs itself */
};

/* A loop nest over some axes of the array, outermost first: sizes, strides of the input and the
 * output (bytes), of the parameters and of the statistics (elements). */
typedef struct {
    int ndim;
    ptrdiff_t count;
    ptrdiff_t size[MAX_AXES], x[MAX_AXES], y[MAX_AXES], param[MAX_AXES], stat[MAX_AXES];
} Nest;

/* Rows: a set is every index of Plan.sets, and consists of the runs of `runs`, of `length`
 * contiguous elements.  Parameters are constant along a run, or contiguous (Plan.along). */
typedef struct {
    Nest runs;
    ptrdiff_t length;
    ptrdiff_t piece, pieces; /* elements summed without a break, and how many a run has of them */
    ptrdiff_t per_chunk;     /* pieces around one pivot */
    ptrdiff_t chunks;        /* of a set */
    int batch;               /* sets applied together; 16 at most */
} RowsPlan;

/* Columns: a sample block is every index of Plan.sets; it consists of `rows`, of `width` contiguous
 * columns.  `group` adjacent columns are a set, in each of the `packed` rows that lie side by side;
 * `repeat` adjacent ones share a weight. */
typedef struct {
    Nest rows;
    ptrdiff_t width, group, repeat, packed;
    ptrdiff_t last_width;        /* of the last row, which packing may leave shorter */
    ptrdiff_t row_chunk, chunks; /* rows around one pivot */
    ptrdiff_t strip;             /* columns measured together, whole sets */
    ptrdiff_t apply_strip, apply_rows;
    ptrdiff_t sets_per_block;
} ColumnsPlan;

typedef enum { ROWS, COLUMNS } Family;

/* How results get into the output. */
typedef enum {
    STORE_CACHED, /* by ordinary stores, where they belong */
    STORE_STREAM, /* whole lines, past the cache */
    STORE_STAGED, /* by way of a buffer, which leaves by whole lines */
    STORE_SEAMS   /* whole lines of a run past the cache, its ends by way of the buffer */
} Store;

typedef struct {
    Family family;
    int dtype;
    int along;  /* parameters vary along the run (of columns: along the row) */
    int centre; /* subtract the mean (0: RMS norm) */
    int stream; /* results go past the cache */
    Store store;
    Nest sets;
    RowsPlan rows;
    ColumnsPlan columns;
    ptrdiff_t count; /* elements of a set */
    ptrdiff_t stats; /* number of sets */
    double eps;
    const char *x;
    char *y;
    const void *weight, *bias; /* of the type of the arithmetic; NULL: none */
} Plan;

/* A backward pass: what it has besides the plan, whose y is dx. */
typedef struct {
    const char *grad;        /* laid out like y */
    const void *mean, *rstd; /* in the kernels' order; mean is NULL for RMS norm */
    int frozen;              /* the statistics do not depend on x */
    ptrdiff_t params;
    ptrdiff_t sums_per_set; /* of rows: chunks, or runs that have a weight each */
    /* of rows that gather dweight and dbias along the run: tasks with tables of their own; if sets
     * are measured before, a task is cut into parts of so many pieces of its sets */
    ptrdiff_t tasks, sets_per_task, param_pieces, param_piece;
    ptrdiff_t strips; /* of columns whose rows have a weight each: tables of a block */
} Backward;

typedef struct Job Job;

/* Do the items first..last-1 of some kind; `arena` is the thread's own memory. */
typedef void Kernel(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last);

typedef struct {
    Kernel *kernel;
    ptrdiff_t items;
} Stage;

enum { MAX_STAGES = 6 };

/* The functions that a tier offers for each type of the arithmetic; see target/kernels.def. */
typedef struct {
#define KERNEL(name) Kernel *name;
#include "../target/kernels.def"
#undef KERNEL
    /* bytes of a thread's own memory; of strips of so many columns */
    size_t (*rows_arena)(const Job *job);
    size_t (*columns_arena)(const Job *job, ptrdiff_t columns);
    /* elements to reals, by element type */
    void (*load[DTYPES])(const void *x, void *reals, ptrdiff_t n);
} Kernels;

/* A call: its plan, the memory between its stages, and the stages, one after the other. */
struct Job {
    Plan plan;
    Backward backward;
    const Kernels *kernels;
    int is_backward, given, threads;
    Moments *moments; /* of chunks */
    Stat *stats;      /* of sets, in the kernels' order; NULL: not wanted */
    GradSums *sums;   /* of sets (and their chunks, and runs that have a weight each) */
    double *tables;   /* partial sums of dweight and dbias */
    double *dweight, *dbias;
    ptrdiff_t moments_count, stats_count, sums_count, tables_count;
    size_t arena_bytes;
    Stage stages[MAX_STAGES];
    int stage_count;
};

#endif
