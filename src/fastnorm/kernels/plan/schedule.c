#include "schedule.h"
#include "../stats/gradients.h"
#include "../stats/moments.h"
#include "machine.h"
#include "nest.h"
#include "threads.h"
#include <stdint.h>

static ptrdiff_t element_bytes(const Plan *plan) {
    return plan->dtype == F64 ? 8 : plan->dtype == F32 ? 4 : 2;
}

static ptrdiff_t real_bytes(const Plan *plan) { return plan->dtype == F64 ? 8 : 4; }

static int is_real(const Plan *plan) { return plan->dtype == F32 || plan->dtype == F64; }

/* Whether so many equal tasks keep all threads busy to the end. */
static int balanced(ptrdiff_t tasks, int threads) {
    return tasks >= 4 * (ptrdiff_t)threads || tasks % threads == 0;
}

static void add_stage(Job *job, Kernel *kernel, ptrdiff_t items) {
    if (items > 0)
        job->stages[job->stage_count++] = (Stage){kernel, items};
}

/* ---- stores ---- */

static int nest_keeps_lines(const Nest *nest) {
    for (int d = 0; d < nest->ndim; d++)
        if (nest->y[d] % LINE_BYTES)
            return 0;
    return 1;
}

/* Whether everything that is stored at a time is whole lines of the output. */
static int stores_whole_lines(const Plan *plan, ptrdiff_t strip) {
    const ptrdiff_t size = element_bytes(plan);
    if ((uintptr_t)plan->y % LINE_BYTES || !nest_keeps_lines(&plan->sets))
        return 0;
    if (plan->family == ROWS)
        return plan->rows.length * size % LINE_BYTES == 0 && nest_keeps_lines(&plan->rows.runs);
    return plan->columns.width * size % LINE_BYTES == 0 && strip * size % LINE_BYTES == 0 &&
           plan->columns.last_width == plan->columns.width && nest_keeps_lines(&plan->columns.rows);
}

/* Whether runs are so long that most of their lines are whole. */
static int has_seams(const Job *job, ptrdiff_t strip) {
    const Plan *plan = &job->plan;
    const ptrdiff_t bytes =
        element_bytes(plan) * (plan->family == ROWS ? plan->rows.length : strip);
    return features_on(FEATURE_SEAMS) && !job->is_backward && bytes > SEAMS_ABOVE_BYTES;
}

static void choose_store(Job *job, int arrays, Measures measures, ptrdiff_t strip) {
    Plan *plan = &job->plan;
    const ptrdiff_t block = plan->family == ROWS ? plan->rows.runs.count * plan->rows.length
                                                 : plan->columns.rows.count * plan->columns.width;
    const double bytes =
        (double)arrays * (double)element_bytes(plan) * (double)block * (double)plan->sets.count;
    const int streams = features_on(FEATURE_STREAM) && plan->stream &&
                        bytes > (double)stream_above(job->threads, measures);
    plan->stream = streams;
    plan->store = STORE_CACHED;
    if (!is_real(plan))
        plan->store = STORE_STAGED;
    else if (streams && stores_whole_lines(plan, strip))
        plan->store = STORE_STREAM;
    else if (streams && features_on(FEATURE_STAGE))
        plan->store = has_seams(job, MIN(strip, plan->columns.width)) ? STORE_SEAMS : STORE_STAGED;
    else
        plan->stream = 0;
}

/* ---- rows ---- */

static int batch_for(const Plan *plan, ptrdiff_t bytes) {
    const RowsPlan *r = &plan->rows;
    if (piece_count(r) > 1 || !features_on(FEATURE_BATCH))
        return 1;
    int batch = 1;
    while (batch < BATCH && 2 * batch * r->length * real_bytes(plan) <= bytes)
        batch *= 2;
    return batch;
}

static void schedule_rows(Job *job) {
    Plan *plan = &job->plan;
    RowsPlan *r = &plan->rows;
    const ptrdiff_t set_bytes = r->runs.count * r->length * element_bytes(plan);
    r->batch = batch_for(plan, BATCH_BYTES);
    job->arena_bytes = job->kernels->rows_arena(job);
    if (job->given) {
        add_stage(job, job->kernels->rows_apply, plan->sets.count * r->chunks);
        return;
    }
    const int fits = 2 * set_bytes <= cache_bytes(job->threads);
    if (features_on(FEATURE_FUSE) &&
        (r->batch > 1 || job->threads == 1 || (fits && balanced(plan->sets.count, job->threads)))) {
        add_stage(job, job->kernels->rows_fused, plan->sets.count);
        return;
    }
    job->moments_count = plan->sets.count * r->chunks;
    job->stats_count = plan->stats;
    add_stage(job, job->kernels->rows_measure, plan->sets.count * r->chunks);
    add_stage(job, pool_rows, plan->sets.count);
    add_stage(job, job->kernels->rows_apply, plan->sets.count * r->chunks);
}

/* ---- columns ---- */

static ptrdiff_t common_divisor(ptrdiff_t a, ptrdiff_t b) {
    return b ? common_divisor(b, a % b) : a;
}

/* At most so many columns: whole sets, and whole lines of the output, if there can be. */
static ptrdiff_t strip_of(const Plan *plan, ptrdiff_t most) {
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t per_line = LINE_BYTES / element_bytes(plan);
    const ptrdiff_t unit = c->group * (per_line / common_divisor(c->group, per_line));
    if (c->packed > 1)
        return c->width;
    const ptrdiff_t strip = unit <= most ? most / unit * unit : MAX(most / c->group, 1) * c->group;
    return MIN(c->width, strip);
}

/* More and narrower strips where a thread would be left without one, if rows do not get too short.
 */
static ptrdiff_t even_strip(const Job *job, ptrdiff_t strip) {
    const Plan *plan = &job->plan;
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t blocks = plan->sets.count;
    ptrdiff_t strips = up(c->width, strip);
    if (job->threads == 1 || c->packed > 1 || balanced(blocks * strips, job->threads) ||
        !features_on(FEATURE_EVEN_STRIPS))
        return strip;
    while (blocks * strips % job->threads)
        strips++;
    const ptrdiff_t narrower = strip_of(plan, MAX(up(c->width, strips), c->group));
    return narrower * element_bytes(plan) >= STRIP_LEAST_BYTES / 2 &&
                   balanced(blocks * up(c->width, narrower), job->threads)
               ? narrower
               : strip;
}

static void schedule_columns(Job *job) {
    Plan *plan = &job->plan;
    ColumnsPlan *c = &plan->columns;
    const ptrdiff_t size = element_bytes(plan), rows = c->rows.count, blocks = plan->sets.count;
    const ptrdiff_t cache = cache_bytes(job->threads);
    const ptrdiff_t widest = c->group > 1 ? STRIP_COLUMNS_APART : STRIP_COLUMNS;
    ptrdiff_t fitting = MIN(widest, cache / 2 / MAX(rows * size, 1));
    if (fitting * size < STRIP_LEAST_BYTES)
        fitting = STRIP_LEAST_BYTES / size;
    c->strip = even_strip(job, strip_of(plan, fitting));
    const int fits = 2 * rows * c->strip * size <= cache;
    const int fused = !job->given && features_on(FEATURE_FUSE) && fits &&
                      balanced(blocks * up(c->width, c->strip), job->threads);
    c->apply_strip = strip_of(plan, APPLY_BYTES / real_bytes(plan));
    const ptrdiff_t tasks = (ptrdiff_t)job->threads * PARTS_PER_THREAD;
    const ptrdiff_t share = up(up(blocks * up(c->width, c->apply_strip) * rows, tasks), 16) * 16;
    c->apply_rows =
        job->threads == 1 ? c->row_chunk : MAX(APPLY_LEAST_ROWS, MIN(share, c->row_chunk));
    if (!fused)
        c->strip = strip_of(plan, STRIP_COLUMNS_APART);
    job->arena_bytes = job->kernels->columns_arena(job, MAX(c->strip, c->apply_strip));
    if (fused) {
        add_stage(job, job->kernels->columns_fused, blocks * up(c->width, c->strip));
        return;
    }
    if (!job->given) {
        job->moments_count = blocks * c->chunks * c->sets_per_block;
        job->stats_count = plan->stats;
        add_stage(job, job->kernels->columns_measure, blocks * c->chunks * up(c->width, c->strip));
        add_stage(job, pool_columns, blocks * c->sets_per_block);
    }
    add_stage(job, job->kernels->columns_apply,
              blocks * up(rows, c->apply_rows) * up(c->width, c->apply_strip));
}

void schedule_forward(Job *job, int kept_stats) {
    Plan *plan = &job->plan;
    job->stage_count = 0;
    job->moments_count = job->sums_count = job->tables_count = 0;
    job->stats_count = kept_stats ? plan->stats : 0;
    if (plan->family == ROWS) {
        schedule_rows(job);
        choose_store(job, 2, job->given ? MEASURES_NOTHING : MEASURES_ROWS, 0);
    } else {
        schedule_columns(job);
        const int fused = job->stage_count == 1 && !job->given;
        choose_store(job, 2, job->given ? MEASURES_NOTHING : MEASURES_COLUMNS,
                     fused ? plan->columns.strip : plan->columns.apply_strip);
    }
}

/* ---- backward ---- */

/* Tasks that gather dweight and dbias along the run: by the shape alone. */
static void share_sets(Job *job) {
    const Plan *plan = &job->plan;
    Backward *b = &job->backward;
    const double sets = (double)plan->sets.count, params = (double)b->params;
    const double traffic = 3.0 * sets * (double)plan->count * (double)element_bytes(plan);
    const double most = traffic / GRAD_TABLE_SHARE / (2.0 * params * (double)sizeof(double));
    const ptrdiff_t tasks = most < 1 ? 1 : most > GRAD_TASKS ? GRAD_TASKS : (ptrdiff_t)most;
    b->sets_per_task = up(up(plan->sets.count, tasks), GRAD_ROWS) * GRAD_ROWS;
    b->tasks = up(plan->sets.count, b->sets_per_task);
    /* Pieces of one run, of parameters that all sets share. */
    const int in_parts = plan->rows.runs.count == 1 && !has_param(&plan->sets);
    b->param_piece = in_parts ? 1 : piece_count(&plan->rows);
    b->param_pieces = up(piece_count(&plan->rows), b->param_piece);
}

static void schedule_grad_rows(Job *job) {
    enum { GATHERED = 16384 }; /* parameters whose sums stay in the L2 cache */
    Plan *plan = &job->plan;
    RowsPlan *r = &plan->rows;
    Backward *b = &job->backward;
    const Kernels *k = job->kernels;
    const ptrdiff_t sets = plan->sets.count;
    const int per_run = !plan->along && has_param(&r->runs);
    const int fits =
        4 * r->runs.count * r->length * element_bytes(plan) <= cache_bytes(job->threads);
    r->batch = batch_for(plan, BATCH_BYTES_GRAD);
    b->sums_per_set = per_run ? r->runs.count : r->chunks;
    ptrdiff_t items = sets;
    if (plan->along) {
        share_sets(job);
        items = b->tasks;
        job->tables_count = b->tasks > 1 ? b->tasks * 2 * b->params : 0;
    }
    const int fused = features_on(FEATURE_FUSE) && (!plan->along || b->params <= GATHERED) &&
                      (job->threads == 1 || (fits && balanced(items, job->threads)));
    if (fused) {
        b->param_pieces = 1;
        add_stage(job, k->grad_rows_fused, items);
    } else {
        job->stats_count = sets;
        add_stage(job, k->grad_rows_measure, per_run ? sets : sets * r->chunks);
        add_stage(job, k->grad_rows_pool, sets);
        add_stage(job, k->grad_rows_apply,
                  plan->along ? b->tasks * b->param_pieces : sets * r->chunks);
    }
    if (!(plan->along && fused && r->chunks == 1))
        job->sums_count = sets * b->sums_per_set;
    if (!plan->along)
        add_stage(job, grad_reduce_rows, 1);
    else if (b->tasks > 1)
        add_stage(job, grad_reduce_tables, b->params);
    job->arena_bytes = k->rows_arena(job);
}

static void schedule_grad_columns(Job *job) {
    Plan *plan = &job->plan;
    ColumnsPlan *c = &plan->columns;
    Backward *b = &job->backward;
    const Kernels *k = job->kernels;
    const ptrdiff_t size = element_bytes(plan), rows = c->rows.count, blocks = plan->sets.count;
    const ptrdiff_t widest = c->group > 1 ? STRIP_COLUMNS_APART : STRIP_COLUMNS;
    c->strip = strip_of(plan, widest);
    if (plan->along)
        c->strip = even_strip(job, c->strip);
    const int fits = 4 * rows * c->strip * size <= cache_bytes(job->threads);
    const int fused = features_on(FEATURE_FUSE) && fits &&
                      balanced(blocks * up(c->width, c->strip), job->threads);
    const ptrdiff_t tasks = (ptrdiff_t)job->threads * PARTS_PER_THREAD;
    /* Tables of rows that have a weight each are by strips. */
    c->apply_strip = plan->along ? strip_of(plan, APPLY_BYTES / 2 / real_bytes(plan)) : c->strip;
    const ptrdiff_t share = up(up(blocks * up(c->width, c->apply_strip) * rows, tasks), 16) * 16;
    c->apply_rows =
        job->threads == 1 ? c->row_chunk : MAX(APPLY_LEAST_ROWS, MIN(share, c->row_chunk));
    b->strips = up(c->width, c->strip);
    if (fused) {
        add_stage(job, k->grad_columns_fused, blocks * b->strips);
    } else {
        job->stats_count = blocks * c->sets_per_block;
        add_stage(job, k->grad_columns_measure, blocks * c->chunks * b->strips);
        add_stage(job, k->grad_columns_pool, job->stats_count);
        add_stage(job, k->grad_columns_apply,
                  blocks * up(rows, c->apply_rows) * up(c->width, c->apply_strip));
    }
    if (plan->along || !fused || c->chunks > 1)
        job->sums_count = blocks * c->chunks * grad_block_sums(plan);
    if (!plan->along)
        job->tables_count = blocks * b->strips * 2 * rows;
    add_stage(job, plan->along ? grad_reduce_columns : grad_reduce_row_tables, 1);
    job->arena_bytes = k->columns_arena(job, MAX(c->strip, c->apply_strip));
}

void schedule_backward(Job *job) {
    Plan *plan = &job->plan;
    job->stage_count = 0;
    job->moments_count = job->sums_count = job->tables_count = job->stats_count = 0;
    if (plan->family == ROWS) {
        schedule_grad_rows(job);
        choose_store(job, 3, MEASURES_ROWS, 0);
    } else {
        schedule_grad_columns(job);
        const int fused = job->stages[0].kernel == job->kernels->grad_columns_fused;
        choose_store(job, 3, MEASURES_COLUMNS,
                     fused ? plan->columns.strip : plan->columns.apply_strip);
    }
}
