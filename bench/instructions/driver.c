/* Runs single kernels so that their instructions can be counted: by callgrind, which is told to
 * count what happens in counted(), or by the processor, which stops after each instruction.
 *
 *     driver compiler        what compiled this
 *     driver tiers           the tiers that can run here, one a line
 *     driver TIER [steps]    run the kernels that the standard input names; with steps, count
 *
 * A line of the input: KERNEL DTYPE FLAGS AXES, such as
 *
 *     rows_apply float32 cpwb 8k 768p
 *
 * Flags: centre, precise (float32), weight, bias, stream (as in Plan).  An axis is its size and
 * roles: kept, param, split (as in layout.h).  The memory is in C order.  Kernels of the backward
 * pass, whose names begin with grad, always make gradients of parameters. */
#include "backward.h"
#include "layout.h"
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 256, PAGE = 4096, NUMPY_OFFSET = 16, MANY_THREADS = 1 << 20 };

static const char *const dtype_names[DTYPES] = {"float32", "float64", "float16", "bfloat16"};
static const ptrdiff_t itemsizes[DTYPES] = {4, 8, 2, 2};

/* A kernel's arguments. */
typedef struct {
    Plan plan;
    const Kernels *kernels;
    Moments *moments;
    Stat *stats;
    void *converted;
    Backward b;
    ptrdiff_t total, chunks, strips;
} Work;

static void die(const char *what, const char *which) {
    fprintf(stderr, "%s: %s\n", what, which);
    exit(2);
}

/* One function for each line of kernels.def. */
#include "runs.inc"

typedef void Run(const Work *);

static const struct {
    const char *name;
    Run *run;
} runs[] = {
#define KERNEL(ret, name, params) {#name, run_##name},
#include "kernels.def"
#undef KERNEL
};

/* ---- counting */

/* callgrind knows it by its name, and by a return of its own: hence no inlining, no tail call. */
__attribute__((noinline)) void counted(Run *run, const Work *w);
void counted(Run *run, const Work *w) {
    run(w);
    __asm__ volatile("");
}

#if defined(__x86_64__)
static volatile long long steps;

static void count_step(int number) {
    (void)number;
    steps++;
}

/* With the trap flag set, the processor interrupts after each instruction; the signal's handler
 * itself runs without. */
static void count_by_steps(Run *run, const Work *w) {
    enum { TRAP = 0x100 };
    const unsigned long long flags = __builtin_ia32_readeflags_u64();
    signal(SIGTRAP, count_step);
    steps = 0;
    __builtin_ia32_writeeflags_u64(flags | TRAP);
    counted(run, w);
    __builtin_ia32_writeeflags_u64(flags);
    printf("%lld\n", steps);
}
#else
static void count_by_steps(Run *run, const Work *w) {
    (void)run, (void)w;
    die("steps", "only x86-64 is counted so");
}
#endif

/* ---- from a line to arguments */

/* The offset is where NumPy's large arrays begin, and the same in every run: how long a part of a
 * vector there is at either end of a run of elements depends on it. */
static void *room(ptrdiff_t bytes) {
    char *p = aligned_alloc(PAGE, (size_t)((bytes + NUMPY_OFFSET + PAGE) / PAGE * PAGE));
    if (!p)
        die("memory", "none left");
    return p + NUMPY_OFFSET;
}

static void release(const void *p) {
    if (p)
        free((char *)p - NUMPY_OFFSET);
}

/* Numbers of all digits that a type has, between 0.25 and 2, of both signs: round ones would take
 * ways through the kernels that are rare with real data. */
static void fill(void *to, int dtype, ptrdiff_t count, uint64_t random) {
    for (ptrdiff_t i = 0; i < count; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const uint64_t exponent = 1021 + (random >> 8) % 3;
        const uint64_t bits64 = (random & 1ull << 63) | exponent << 52 | random << 1 >> 12;
        double wide;
        memcpy(&wide, &bits64, sizeof wide);
        const float value = (float)wide;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (dtype == F64)
            ((double *)to)[i] = wide;
        else if (dtype == F32)
            ((float *)to)[i] = value;
        else if (dtype == F16) /* the sign, and 8 bits of exponent as 5 */
            ((uint16_t *)to)[i] = (uint16_t)(bits >> 16 & 0x8000) |
                                  (uint16_t)(((bits & 0x7fffffff) - (112u << 23)) >> 13);
        else
            ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    }
}

/* In the type of the arithmetic, as the kernels want it. */
static const void *parameter(int dtype, ptrdiff_t count, uint64_t random) {
    void *p = room(count * (ptrdiff_t)sizeof(double));
    fill(p, dtype == F64 ? F64 : F32, count, random);
    return p;
}

/* As many times the same, likewise. */
static const void *statistic(int dtype, ptrdiff_t count, double value) {
    void *p = room(count * (ptrdiff_t)sizeof(double));
    for (ptrdiff_t i = 0; i < count; i++) {
        if (dtype == F64)
            ((double *)p)[i] = value;
        else
            ((float *)p)[i] = (float)value;
    }
    return p;
}

static int role_of(char letter) {
    switch (letter) {
    case 'k':
        return KEPT;
    case 'p':
        return PARAM;
    case 's':
        return SPLIT;
    }
    return 0;
}

static int read_axes(Axis *axes, char *text) {
    int n = 0, params = 0;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "), n++) {
        char *roles;
        if (n == MAX_AXES)
            die("too many axes", word);
        axes[n] = (Axis){.size = strtol(word, &roles, 10)};
        while (*roles)
            axes[n].role |= role_of(*roles++);
        if (axes[n].role & PARAM)
            axes[n].param_axis = params++;
    }
    if (n == 0)
        die("no axes", text);
    return n;
}

/* C order; the number of parameters. */
static ptrdiff_t set_strides(Axis *axes, int n, ptrdiff_t itemsize, int has_params) {
    ptrdiff_t bytes = itemsize, stat = 1, param = 1;
    for (Axis *a = axes + n - 1; a >= axes; a--) {
        a->x = a->y = bytes;
        bytes *= a->size;
        if (a->role & KEPT) {
            a->stat = stat;
            stat *= a->size;
        }
        if (a->role & PARAM && has_params) {
            a->param = param;
            param *= a->size;
        }
    }
    return param;
}

static void set_up_forward(Work *w, ptrdiff_t itemsize) {
    Plan *plan = &w->plan;
    layout_schedule(plan, itemsize, 1, 1);
    w->chunks = row_chunks(plan);
    w->strips = plan->columns ? strip_count(&plan->strips) : 0;
    const ptrdiff_t moments =
        plan->kept.count * (plan->columns ? w->chunks * plan->width : plan->measure.chunks);
    w->moments = room(moments * (ptrdiff_t)sizeof(Moments));
    w->stats = room(plan->stats * (ptrdiff_t)sizeof(Stat));
    for (ptrdiff_t i = 0; i < plan->stats; i++)
        w->stats[i] = (Stat){.mean = 0.1, .var = 1.3, .rstd = 0.9};
    w->converted = room(w->total * (ptrdiff_t)sizeof(double));
}

/* As in _backward.pxi.  Threads without number leave no statistic to a single one of them, so that
 * there are two passes. */
static void set_up_backward(Work *w, const char *kernel, int dtype, ptrdiff_t params) {
    Plan *plan = &w->plan;
    Backward *b = &w->b;
    const int gathers = !strcmp(kernel, "grad_rows_gather");
    const int fused = gathers || strstr(kernel, "fused") != NULL;
    if (!plan->columns && strcmp(kernel, "grad_rows_measure") && gathers != plan->param_vector)
        die(kernel, gathers ? "no parameters along the rows" : "parameters along the rows");
    void *grad = room(w->total * itemsizes[dtype]);
    fill(grad, dtype, w->total, 4);
    b->grad = grad;
    b->mean = statistic(dtype, plan->stats, 0.1);
    b->rstd = statistic(dtype, plan->stats, 0.9);
    b->wide = dtype == F64;
    b->params = params;
    backward_schedule(b, plan, itemsizes[dtype], fused ? 1 : MANY_THREADS);
    if (fused != b->fused)
        die(kernel, fused ? "these axes take two passes" : "these axes take one pass");
    if (b->sums_count)
        b->sums = room(b->sums_count * (ptrdiff_t)sizeof(GradSums));
    if (b->stats_count)
        b->stats = room(b->stats_count * (ptrdiff_t)sizeof(GradStat));
    for (ptrdiff_t i = 0; i < b->stats_count; i++)
        b->stats[i] = (GradStat){.shift = 0.001, .g = 0.01, .gx = 0.02};
    if (b->tables_count)
        b->tables = room(b->tables_count * (ptrdiff_t)sizeof(double));
}

static void tear_down(const Work *w) {
    const void *const rooms[] = {w->plan.x, w->plan.y,    w->plan.weight, w->plan.bias, w->moments,
                                 w->stats,  w->converted, w->b.grad,      w->b.mean,    w->b.rstd,
                                 w->b.sums, w->b.stats,   w->b.tables};
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++)
        release(rooms[i]);
}

static void run_line(const char *kernel, int dtype, const char *flags, char *text, int tier,
                     int by_steps) {
    const ptrdiff_t itemsize = itemsizes[dtype];
    const int backward = !strncmp(kernel, "grad_", 5);
    const char *family = kernel + (backward ? 5 : 0);
    Work w = {.kernels = isa_kernels(tier, dtype)};
    Plan *plan = &w.plan;
    Order order;
    Axis axes[MAX_AXES];
    Run *run = NULL;
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        if (!strcmp(runs[i].name, kernel))
            run = runs[i].run;
    if (!run)
        die("no such kernel", kernel);

    const int n = read_axes(axes, text);
    const int has_weight = strchr(flags, 'w') != NULL, has_bias = strchr(flags, 'b') != NULL;
    const ptrdiff_t params = set_strides(axes, n, itemsize, has_weight || has_bias || backward);
    w.total = axes[0].size * axes[0].x / itemsize;

    void *x = room(w.total * itemsize);
    fill(x, dtype, w.total, 1);
    plan->x = x;
    plan->y = room(w.total * itemsize);
    if (!layout_plan(plan, &order, axes, n, itemsize, 0))
        die("no axes that can be walked", kernel);
    if (!strncmp(family, plan->columns ? "rows" : "columns", 4))
        die(kernel, plan->columns ? "the axes are columns" : "the axes are rows");
    plan->centre = strchr(flags, 'c') != NULL;
    plan->precise = dtype == F32 && strchr(flags, 'p') != NULL;
    plan->stream = strchr(flags, 's') != NULL;
    plan->eps = 1e-5;
    plan->floor = 0;
    plan->weight = has_weight ? parameter(dtype, params, 2) : NULL;
    plan->bias = has_bias ? parameter(dtype, params, 3) : NULL;
    if (backward)
        set_up_backward(&w, kernel, dtype, params);
    else
        set_up_forward(&w, itemsize);

    run(&w); /* the first call of a library function also links it */
    if (by_steps)
        count_by_steps(run, &w);
    else
        counted(run, &w);
    tear_down(&w);
}

static void print_compiler(void) {
#if defined(__clang__)
    printf("Clang %d\n", __clang_major__);
#else
    printf("GCC %d\n", __GNUC__);
#endif
}

int main(int argc, char **argv) {
    char line[LINE], kernel[LINE], dtype[LINE], flags[LINE];
    int tier = 0;
    if (argc < 2)
        die("usage", "driver compiler | tiers | TIER [steps]");
    if (!strcmp(argv[1], "compiler")) {
        print_compiler();
        return 0;
    }
    if (!strcmp(argv[1], "tiers")) {
        for (; tier < isa_count(); tier++)
            if (isa_available(tier))
                puts(isa_name(tier));
        return 0;
    }
    while (tier < isa_count() && strcmp(isa_name(tier), argv[1]))
        tier++;
    if (tier == isa_count() || !isa_available(tier))
        die("cannot run here", argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        int code = 0, rest = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%s %s %s %n", kernel, dtype, flags, &rest) != 3)
            die("not KERNEL DTYPE FLAGS AXES", line);
        while (code < DTYPES && strcmp(dtype_names[code], dtype))
            code++;
        if (code == DTYPES)
            die("no such dtype", dtype);
        run_line(kernel, code, flags, line + rest, tier, argc > 2);
    }
    return 0;
}
