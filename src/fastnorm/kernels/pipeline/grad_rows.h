/* The backward pass of rows: the pipeline of rows.h, and what becomes of its sums. */
#ifndef FASTNORM_PIPELINE_GRAD_ROWS_H
#define FASTNORM_PIPELINE_GRAD_ROWS_H

#include "rows.h"

INLINE int grad_rows_how(const Job *job) {
    const Plan *plan = &job->plan;
    return BACKWARD | (plan->centre ? CENTRE : 0) | (plan->along ? ACROSS : 0) |
           (job->backward.frozen ? FROZEN : 0) | store_flags(plan) |
           (plan->dtype != REAL_DTYPE ? CONVERT : 0);
}

/* The statistics that were handed in. */
INLINE void grad_given(const Range *r, Batch *b) {
    const Backward *backward = &r->job->backward;
    const real *mean = backward->mean, *rstd = backward->rstd;
    b->exceptional = 0;
    for (int j = 0; j < (int)b->count; j++) {
        b->beyond[j] = WITHIN;
        const ptrdiff_t at = b->at.stat + j * b->step.stat;
        const double m = mean ? (double)mean[at] : 0;
        b->hi[j] = mean ? mean[at] : 0;
        b->scale[j] = rstd[at];
        b->mean[j] = m;
        b->rstd[j] = (double)rstd[at];
        b->exceptional |= (unsigned)(no_room((double)rstd[at]) | ((m < 0 ? -m : m) > MEAN_MOST))
                          << j;
    }
}

static void grad_chunk_begin(int how, Range *r, Batch *b, const RowChunk *c) {
    (void)how;
    if (c->first == 0)
        grad_given(r, b);
    batch_clear_sums(b, SUMS);
}

/* The sums of set j of a chunk. */
INLINE GradSums grad_chunk_sums(const Range *r, const Batch *b, const RowChunk *c, int j) {
    GradSums sums = {b->sum[0][j], b->sum[1][j], b->sum[2][j], WITHIN};
    const int within = grad_sums_within(sums.g, sums.gx, sums.x);
    if (__builtin_expect((b->exceptional >> j & 1) | !within, 0))
        grad_exceptional_sums(r, b, j, c->first, c->last, &sums);
    return sums;
}

/* Sums are kept where dweight will be made of them, or where a set has several chunks. */
INLINE int grad_keeps_sums(const Range *r) { return r->job->sums != NULL; }

/* All runs of a set, which have a weight each, have been added: those that have left the range, or
 * all of an exceptional set, again. */
NOINLINE void grad_mend_runs(const Range *r, const Batch *b) {
    const RowsPlan *rows = &r->plan->rows;
    GradSums *sums = grad_row_sums(r->job, b->set);
    for (ptrdiff_t i = 0; i < rows->runs.count; i++)
        if (b->exceptional || !grad_sums_within(sums[i].g, sums[i].gx, sums[i].x))
            grad_exceptional_sums(r, b, 0, i * rows->pieces, (i + 1) * rows->pieces, &sums[i]);
}

static void grad_chunk_end(int how, Range *r, Batch *b, const RowChunk *c, Moments *merged) {
    (void)how;
    (void)merged;
    if (r->per_run) {
        if (c->last == piece_count(&r->plan->rows))
            grad_mend_runs(r, b);
        return;
    }
    const ptrdiff_t chunk = c->first / r->plan->rows.per_chunk;
    for (int j = 0; j < (int)b->count; j++) {
        const GradSums sums = grad_chunk_sums(r, b, c, j);
        if (grad_keeps_sums(r))
            grad_row_sums(r->job, b->set + j)[chunk] = sums;
        b->sum[0][j] = sums.g;
        b->sum[1][j] = sums.gx;
        b->sum[2][j] = sums.x;
        b->beyond[j] = sums.beyond;
    }
}

static void grad_batch_finish(Range *r, Batch *b, const Moments *merged) {
    (void)merged;
    for (int j = 0; j < (int)b->count; j++) {
        const GradSums sums = {b->sum[0][j], b->sum[1][j], b->sum[2][j], b->beyond[j]};
        b->grad[j] = grad_keeps_sums(r)
                         ? grad_finish_row_set(r->job, b->set + j, b->at.param + j * b->step.param)
                         : grad_finish(r->job, (double)r->plan->count, &sums);
    }
    Cursor run;
    cursor_at(&run, &r->plan->rows.runs, 0);
    for (ptrdiff_t i = 0; i < (r->per_run ? r->plan->rows.runs.count : 1); i++, cursor_next(&run))
        b->exceptional |= grad_coefs_of_run(r, b, b->at.param + run.at.param);
}

/* ---- dweight and dbias along the run ---- */

static void grad_applied(Range *r, const Batch *b, int last) {
    if (!r->by_run)
        r->gathered += b->count;
    if (r->gathered == GRAD_ROWS || last)
        grad_flush(r);
}

/* Bytes for the sums of dweight and dbias of a task, or of a part of one. */
static size_t gather_bytes(const Job *job) {
    const RowsPlan *rows = &job->plan.rows;
    ptrdiff_t params = job->backward.params;
    if (!job->plan.along)
        return 0;
    if (job->backward.param_pieces > 1)
        params = job->backward.param_piece * rows->piece;
    return 2 * (size_t)(up(params, LINE) + 2) * LINE * sizeof(real);
}

/* Clear the sums of a task, of the parameters that it gathers. */
INLINE void grad_gather(Range *r, ptrdiff_t task, ptrdiff_t first_param, ptrdiff_t params) {
    const ptrdiff_t all = r->job->backward.params, room = (up(params, LINE) + 2) * LINE;
    r->table = (r->job->tables ? r->job->tables : r->job->dweight) + task * 2 * all;
    r->first_param = first_param;
    r->params = params;
    r->gathered = 0;
    r->by_run = 0;
    for (int d = 0; d < r->plan->rows.runs.ndim; d++)
        r->by_run |= r->plan->rows.runs.param[d] == 0;
    r->dweight = (real *)((char *)r->arena + sizeof(RowsArena));
    r->dbias = r->dweight + room;
    memset(r->dweight, 0, 2 * (size_t)room * sizeof(real));
    for (int k = 0; k < 2; k++)
        memset(r->table + k * all + first_param, 0, (size_t)params * sizeof(double));
}

INLINE void backward_rows(Direction *d, const Job *job) {
    direction_of(d, grad_rows_how(job));
    d->begin = grad_chunk_begin;
    d->end = grad_chunk_end;
    d->finish = grad_batch_finish;
    d->applied = job->plan.along ? grad_applied : NULL;
}

/* Items are sets, or tasks of them that gather dweight and dbias. */
static void grad_rows_fused(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t share = job->backward.sets_per_task;
    Range r;
    Direction d;
    range_begin(&r, job, arena);
    backward_rows(&d, job);
    if (!job->plan.along) {
        if (r.per_run)
            memset(grad_row_sums(job, first), 0,
                   (size_t)((last - first) * job->backward.sums_per_set) * sizeof(GradSums));
        rows_drive(&d, &r, first, last);
    }
    for (ptrdiff_t task = first; job->plan.along && task < last; task++) {
        grad_gather(&r, task, 0, job->backward.params);
        rows_drive(&d, &r, task * share, MIN((task + 1) * share, job->plan.sets.count));
    }
    sink_end(&r.sink);
}

/* Items are chunks of sets; of runs that have a weight each, sets. */
static void grad_rows_measure(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Direction d;
    range_begin(&r, job, arena);
    backward_rows(&d, job);
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    for (ptrdiff_t i = first; i < last; i++) {
        const RowChunk c =
            r.per_run ? (RowChunk){0, piece_count(rows), 0} : row_chunk(rows, i % rows->chunks);
        const ptrdiff_t set = r.per_run ? i : i / rows->chunks;
        Cursor cursor;
        cursor_at(&cursor, &r.plan->sets, set);
        batch_take(b, &cursor, set, 1);
        if (r.per_run)
            memset(grad_row_sums(job, set), 0,
                   (size_t)job->backward.sums_per_set * sizeof(GradSums));
        grad_given(&r, b);
        batch_clear_sums(b, SUMS);
        pass_chunk(&d, &r, NULL, b, &c);
        grad_chunk_end(d.how, &r, b, &c, NULL);
    }
}

/* Sums to statistics of sets: shift, g and gx, in the fields of a Stat. */
static void grad_rows_pool(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Cursor set;
    (void)arena;
    cursor_at(&set, &job->plan.sets, first);
    for (ptrdiff_t i = first; i < last; i++, cursor_next(&set)) {
        const GradStat s = grad_finish_row_set(job, i, set.at.param);
        job->stats[i] = grad_stat_pack(&s);
    }
}

INLINE void grad_take_set(Range *r, Batch *b, ptrdiff_t set) {
    Cursor cursor;
    cursor_at(&cursor, &r->plan->sets, set);
    batch_take(b, &cursor, set, 1);
    grad_given(r, b);
    b->grad[0] = grad_stat_unpack(&r->job->stats[set]);
    Cursor run;
    cursor_at(&run, &r->plan->rows.runs, 0);
    for (ptrdiff_t i = 0; i < (r->per_run ? r->plan->rows.runs.count : 1); i++, cursor_next(&run))
        b->exceptional |= grad_coefs_of_run(r, b, b->at.param + run.at.param);
}

/* Items are chunks of sets; along the run, tasks and pieces of their parameters. */
static void grad_rows_apply(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const Backward *backward = &job->backward;
    Range r;
    Direction d;
    range_begin(&r, job, arena);
    backward_rows(&d, job);
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    const ptrdiff_t end = r.plan->sets.count * rows->chunks - 1;
    for (ptrdiff_t i = first; !r.plan->along && i < last; i++) {
        const RowChunk c = row_chunk(rows, (end - i) % rows->chunks);
        grad_take_set(&r, b, (end - i) / rows->chunks);
        pass_chunk(&d, &r, b, NULL, &c);
    }
    for (ptrdiff_t i = first; r.plan->along && i < last; i++) {
        const ptrdiff_t task = i / backward->param_pieces, part = i % backward->param_pieces;
        const ptrdiff_t share = backward->sets_per_task, piece = backward->param_piece;
        const ptrdiff_t stop = MIN((task + 1) * share, r.plan->sets.count);
        const RowChunk c = {part * piece, MIN((part + 1) * piece, piece_count(rows)), 0};
        const ptrdiff_t start = c.first * rows->piece;
        const ptrdiff_t params = backward->param_pieces > 1
                                     ? MIN(c.last * rows->piece, rows->length) - start
                                     : backward->params;
        grad_gather(&r, task, start, params);
        for (ptrdiff_t set = task * share; set < stop; set++) {
            grad_take_set(&r, b, set);
            pass_chunk(&d, &r, b, NULL, &c);
            grad_applied(&r, b, set + 1 == stop);
        }
    }
    sink_end(&r.sink);
}

#endif
