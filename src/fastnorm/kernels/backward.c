/* What the backward pass does with its sums, and how it is divided. */
#include "backward.h"
#include "layout.h"
#include "nest.h"
#include "processor.h"
#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum {
    TOGETHER_SIZE = 65536, /* elements of units gathered together: they stay cached */
    PIECE = 8192,          /* elements of a unit, which several threads may share */
    TASKS = 64,            /* more threads than this find no work in rows with long parameters */
    TABLE_SHARE = 16       /* the part of the traffic that tables may be */
};

static ptrdiff_t param_extent(const Nest *nest) {
    ptrdiff_t extent = 1;
    for (int d = 0; d < nest->ndim; d++)
        extent += (nest->size[d] - 1) * nest->param[d];
    return extent;
}

/* Rows with parameters along them.  Tasks must not store to the same table at the same time. */
static void share_units(Backward *b, ptrdiff_t itemsize) {
    const Plan *plan = b->plan;
    const Nest *runs = &plan->apply.runs;
    const ptrdiff_t units = plan->kept.count;
    int repeats = 0; /* parameters that several runs of a unit have */
    for (int d = 0; d < runs->ndim; d++)
        repeats |= runs->param[d] == 0;
    b->pieces = runs->count == 1 ? up(plan->apply.length, PIECE) : plan->apply.chunks;
    b->tables_per_task = repeats ? b->pieces : 1;
    const double traffic = 3.0 * (double)units * (double)plan->count * (double)itemsize;
    const double table = 16.0 * (double)b->params * (double)b->tables_per_task;
    const double most = traffic / TABLE_SHARE / table;
    const ptrdiff_t tasks = most >= TASKS ? TASKS : MAX((ptrdiff_t)most, 1);
    b->together =
        any_param(&plan->kept) ? 1 : MAX(1, MIN(GRAD_TOGETHER, TOGETHER_SIZE / plan->count));
    b->share = up(up(units, tasks), b->together) * b->together;
    b->tasks = up(units, b->share);
    b->tables_count = b->tasks * b->tables_per_task * 2 * b->params;
}

void backward_schedule(Backward *b, Plan *plan, ptrdiff_t itemsize, int threads) {
    const Nest *kept = &plan->kept;
    b->plan = plan;
    b->stats_count = b->tables_count = 0;
    b->sums_per_chunk = 1;
    b->fused = layout_schedule(plan, 2 * itemsize, threads, 0);
    if (plan->columns) {
        b->strips = strip_count(&plan->strips);
        if (plan->param_vector) {
            b->sums_count = kept->count * (b->fused ? plan->width : row_chunks(plan) * plan->width);
        } else {
            b->row_params = param_extent(&plan->rows);
            b->tables_count = kept->count * b->strips * row_chunks(plan) * 2 * b->row_params;
            b->sums_count = b->fused ? 0 : kept->count * row_chunks(plan) * plan->width;
        }
    } else {
        const Walk *walk = &plan->apply;
        const int fits =
            2 * plan->count * itemsize <= cache_bytes(threads) && walk->chunks <= GRAD_CHUNKS;
        if (plan->param_vector) {
            share_units(b, itemsize);
            b->fused = fits && (threads == 1 || layout_balanced(b->tasks, threads));
            b->sums_count = b->fused ? 0 : kept->count * walk->chunks;
        } else {
            b->fused = threads == 1 || (fits && layout_balanced(kept->count, threads));
            if (walk->pieces == 1 && any_param(&walk->runs))
                b->sums_per_chunk = walk->per_chunk;
            b->sums_count = kept->count * walk->chunks * b->sums_per_chunk;
        }
    }
    if (!b->fused)
        b->stats_count = plan->stats;
}

/* ---- statistics ---- */

/* Visit the sums of a unit of rows with one parameter for a run; `param` is that of the unit. */
typedef void Visit(const Backward *b, GradSums *sums, ptrdiff_t param, void *to);

static void visit_sums(const Backward *b, ptrdiff_t param, GradSums *sums, Visit *visit, void *to) {
    const Walk *walk = &b->plan->apply;
    for (ptrdiff_t chunk = 0; chunk < walk->chunks; chunk++, sums += b->sums_per_chunk) {
        Chunk c;
        Cursor run;
        chunk_of(walk, chunk, &c);
        cursor_at(&run, &walk->runs, c.first);
        for (ptrdiff_t r = 0; r < MIN(b->sums_per_chunk, c.count); r++, cursor_next(&run))
            visit(b, &sums[r], param + run.at.param, to);
    }
}

static void add_to_total(const Backward *b, GradSums *sums, ptrdiff_t param, void *total) {
    grad_add_sums(total, sums, grad_weight(b, param));
}

void grad_finish_unit(const Backward *b, ptrdiff_t param, GradSums *sums, GradStat *out) {
    GradSums total = {0, 0, 0};
    if (b->plan->param_vector) { /* the weight is in them */
        for (ptrdiff_t i = 0; i < b->plan->apply.chunks; i++)
            grad_add_sums(&total, &sums[i], 1);
        grad_finish(b->plan->centre, b->constant, (double)b->plan->count, &total, out);
        return;
    }
    visit_sums(b, param, sums, add_to_total, &total);
    grad_finish(b->plan->centre, b->constant, (double)b->plan->count, &total, out);
    for (ptrdiff_t i = 0; i < b->plan->apply.chunks * b->sums_per_chunk; i++)
        sums[i].gx -= out->shift * sums[i].g;
}

void grad_pool_rows(const Backward *b, ptrdiff_t first, ptrdiff_t last) {
    Cursor cursor;
    cursor_at(&cursor, &b->plan->kept, first);
    for (ptrdiff_t unit = first; unit < last; unit++, cursor_next(&cursor))
        grad_finish_unit(b, cursor.at.param, grad_unit_sums(b, unit), &b->stats[cursor.at.stat]);
}

void grad_finish_columns(const Backward *b, ptrdiff_t param, ptrdiff_t first, ptrdiff_t width,
                         GradSums *columns, GradStat *out) {
    const Plan *plan = b->plan;
    const int own = plan->param_vector; /* each column has its parameter */
    const ptrdiff_t channels = width / plan->fold;
    for (ptrdiff_t f = 1; f < plan->fold; f++)
        for (ptrdiff_t i = 0; i < channels; i++)
            grad_add_sums(&columns[i], &columns[f * channels + i], 1);
    for (ptrdiff_t start = 0; start < channels; start += plan->group, out++) {
        GradSums total = {0, 0, 0};
        for (ptrdiff_t i = start; i < start + plan->group; i++)
            grad_add_sums(&total, &columns[i], own ? grad_weight(b, param + first + i) : 1);
        grad_finish(plan->centre, b->constant, (double)plan->count, &total, out);
        for (ptrdiff_t i = start; i < start + plan->group; i++)
            columns[i].gx -= out->shift * columns[i].g;
    }
}

void grad_add_columns(const Backward *b, ptrdiff_t chunk, ptrdiff_t width, const GradSums *from,
                      GradSums *to) {
    const Plan *plan = b->plan;
    if (chunk == plan->chunks)
        width = plan->tail_rows * (plan->width / plan->fold);
    for (ptrdiff_t i = 0; i < width; i++)
        grad_add_sums(&to[i], &from[i], 1);
}

void grad_pool_columns(const Backward *b, ptrdiff_t block, ptrdiff_t strip) {
    const Plan *plan = b->plan;
    const ptrdiff_t first = strip_first(&plan->strips, strip),
                    width = strip_width(&plan->strips, strip);
    GradSums *columns = b->sums + block * row_chunks(plan) * plan->width + first;
    Cursor cursor;
    cursor_at(&cursor, &plan->kept, block);
    for (ptrdiff_t chunk = 1; chunk < row_chunks(plan); chunk++)
        grad_add_columns(b, chunk, width, columns + chunk * plan->width, columns);
    grad_finish_columns(b, cursor.at.param, first, width, columns,
                        b->stats + cursor.at.stat + first / plan->fold / plan->group);
}

/* ---- gradients of the parameters ---- */

void grad_clear_tables(const Backward *b, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t size = b->tables_per_task * 2 * b->params;
    memset(b->tables + first * size, 0, (size_t)((last - first) * size) * sizeof(double));
}

/* Gradients of all weights and biases. */
typedef struct {
    double *weight, *bias;
} Gradients;

static void add_to_params(const Backward *b, GradSums *sums, ptrdiff_t param, void *to) {
    (void)b;
    ((Gradients *)to)->weight[param] += sums->gx;
    ((Gradients *)to)->bias[param] += sums->g;
}

static void params_of_rows(const Backward *b, double *weight, double *bias) {
    const Nest *kept = &b->plan->kept;
    Gradients to = {weight, bias};
    Cursor unit;
    cursor_at(&unit, kept, 0);
    for (ptrdiff_t u = 0; u < kept->count; u++, cursor_next(&unit))
        visit_sums(b, unit.at.param, grad_unit_sums(b, u), add_to_params, &to);
}

static void params_of_columns(const Backward *b, double *weight, double *bias) {
    const Plan *plan = b->plan;
    const ptrdiff_t channels = plan->width / plan->fold;
    const ptrdiff_t step = plan->width * (b->fused ? 1 : row_chunks(plan));
    Cursor block;
    cursor_at(&block, &plan->kept, 0);
    for (ptrdiff_t i = 0; i < plan->kept.count; i++, cursor_next(&block)) {
        const GradSums *sums = b->sums + i * step;
        for (ptrdiff_t k = 0; k < channels; k++) {
            weight[block.at.param + k] += sums[k].gx;
            bias[block.at.param + k] += sums[k].g;
        }
    }
}

static void params_of_column_rows(const Backward *b, double *weight, double *bias) {
    const Plan *plan = b->plan;
    const double *table = b->tables;
    Cursor block;
    cursor_at(&block, &plan->kept, 0);
    for (ptrdiff_t i = 0; i < plan->kept.count; i++, cursor_next(&block)) {
        const ptrdiff_t tables = b->strips * row_chunks(plan);
        for (ptrdiff_t t = 0; t < tables; t++, table += 2 * b->row_params) {
            for (ptrdiff_t k = 0; k < b->row_params; k++) {
                weight[block.at.param + k] += table[k];
                bias[block.at.param + k] += table[b->row_params + k];
            }
        }
    }
}

void grad_params(const Backward *b, ptrdiff_t first, ptrdiff_t last, double *weight, double *bias) {
    const size_t bytes = (size_t)(last - first) * sizeof(double);
    memset(weight + first, 0, bytes);
    memset(bias + first, 0, bytes);
    if (b->plan->columns && b->plan->param_vector) {
        params_of_columns(b, weight, bias);
    } else if (b->plan->columns) {
        params_of_column_rows(b, weight, bias);
    } else if (!b->plan->param_vector) {
        params_of_rows(b, weight, bias);
    } else {
        const double *table = b->tables;
        for (ptrdiff_t t = 0; t < b->tasks * b->tables_per_task; t++, table += 2 * b->params) {
            for (ptrdiff_t i = first; i < last; i++) {
                weight[i] += table[i];
                bias[i] += table[b->params + i];
            }
        }
    }
}
