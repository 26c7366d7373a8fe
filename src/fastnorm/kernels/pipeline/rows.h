/* The pipeline of rows.
 *
 *   sums    [k+1 . . . .][k+2 . . . .]        arithmetic
 *   results [k   . . . .][k+1 . . . .]        stores
 *
 * A batch of sets is applied in the loop that sums the next one: sums need arithmetic, results wait
 * for memory. */
#ifndef FASTNORM_PIPELINE_ROWS_H
#define FASTNORM_PIPELINE_ROWS_H

#include "passes.h"

/* ---- the chunks of a batch ---- */

typedef struct {
    ptrdiff_t first, last; /* pieces */
    double n;              /* elements of it, in a set */
} RowChunk;

INLINE RowChunk row_chunk(const RowsPlan *rows, ptrdiff_t chunk) {
    RowChunk c;
    c.first = chunk * rows->per_chunk;
    c.last = MIN(c.first + rows->per_chunk, piece_count(rows));
    const ptrdiff_t ends = rows->pieces == 1 ? 0 : c.last / rows->pieces - c.first / rows->pieces;
    c.n = rows->pieces == 1 ? (double)((c.last - c.first) * rows->length)
                            : (double)((c.last - c.first) * rows->piece -
                                       ends * (rows->pieces * rows->piece - rows->length));
    return c;
}

static void chunk_begin(int how, Range *r, Batch *b, const RowChunk *c) {
    Samples s;
    const Plan *plan = r->plan;
    if (how & CONVERT && r->resident) {
        real *tile = r->arena->resident[b - r->arena->batch];
        const ptrdiff_t n = plan->rows.length;
        const char *x = plan->x + b->at.x;
        if (b->step.x == n * r->size)
            load_elements(plan->dtype, x, tile, b->count * n);
        else
            for (int j = 0; j < (int)b->count; j++)
                load_elements(plan->dtype, x + j * b->step.x, tile + j * n, n);
    }
    samples_of(plan, c->first, c->last, &s);
    choose_pivots(plan, how, b, &s);
    batch_clear_sums(b, 2);
}

/* Set j of a chunk again: around a better pivot, or element by element. */
NOINLINE void chunk_fix(int how, Range *r, Batch *b, const RowChunk *c, int j, Moments *out) {
    const Plan *plan = r->plan;
    double s1 = b->sum[0][j], s2 = b->sum[1][j];
    real pivot = b->pivot[j];
    if (how & CENTRE && s2 - s2 == 0 && pivot_is_far(c->n, s1, s2)) {
        Range own = *r;
        Batch one;
        own.resident = own.short_rows = 0;
        one.count = 1;
        one.at = b->at;
        one.step = b->step;
        one.at.x += j * b->step.x;
        pivot = (real)((double)pivot + s1 / c->n / (double)b->scale[j]);
        one.scale[0] = b->scale[j];
        one.pivot[0] = pivot;
        one.shift[0] = -pivot * one.scale[0];
        batch_clear_sums(&one, 2);
        const Span all = {c->first, c->last, 0, 1};
        pass_for((how & (CENTRE | CONVERT)) | MEASURE)(&own, NULL, &one, &all);
        s1 = one.sum[0][0];
        s2 = one.sum[1][0];
    }
    if (out_of_range(c->n, s2, square_floor(plan->eps)))
        exceptional_moments(plan, &plan->rows, plan->x + b->at.x + j * b->step.x, c->first, c->last,
                            out);
    else
        moments_of_sums(out, c->n, (double)pivot, (double)b->scale[j], s1, s2);
}

/* All has been summed: the moments of a set of several chunks, which join those before. */
static void chunk_moments(int how, Range *r, Batch *b, const RowChunk *c, Moments *merged) {
    double m2[BATCH];
    const unsigned doubtful = row_moments(r->plan, b, c->n, m2);
    Moments m = {c->n, b->mean[0], b->rest[0], m2[0], (double)b->scale[0]};
    if (doubtful)
        chunk_fix(how, r, b, c, 0, &m);
    if (merged->n == 0)
        *merged = m;
    else
        moments_merge(merged, &m);
}

static void chunk_end(int how, Range *r, Batch *b, const RowChunk *c, Moments *merged) {
    double m2[BATCH];
    if (r->plan->rows.chunks > 1) {
        chunk_moments(how, r, b, c, merged);
        return;
    }
    const unsigned doubtful = row_moments(r->plan, b, c->n, m2);
    row_finish(r->plan, b, c->n, m2);
    for (int j = 0; __builtin_expect(doubtful != 0, 0) && j < (int)b->count; j++) {
        if (doubtful >> j & 1) {
            Moments m;
            Stat s;
            chunk_fix(how, r, b, c, j, &m);
            moments_finish(&m, r->plan->eps, &s);
            row_set_stat(b, j, &s);
        }
    }
}

/* What is applied, or, if that changes from run to run, whether there is an exceptional run. */
NOINLINE void batch_coefs(const Range *r, Batch *b) {
    const Plan *plan = r->plan;
    if (plan->along || !(plan->weight || plan->bias)) {
        b->exceptional = row_coefs(b);
        return;
    }
    Cursor run;
    cursor_at(&run, &plan->rows.runs, 0);
    b->exceptional = 0;
    for (ptrdiff_t i = 0; i < (r->per_run ? plan->rows.runs.count : 1); i++, cursor_next(&run))
        b->exceptional |= row_coefs_of_run(plan, b, b->at.param + run.at.param);
}

/* The statistics of a batch are known. */
static void batch_finish(Range *r, Batch *b, const Moments *merged) {
    if (r->plan->rows.chunks > 1) {
        Stat s;
        moments_finish(merged, r->plan->eps, &s);
        row_set_stat(b, 0, &s);
    }
    Stat *stats = r->job->stats;
    for (int j = 0; stats && j < (int)b->count; j++)
        stats[b->at.stat + j * b->step.stat] =
            (Stat){b->mean[j], b->rest[j], b->var[j], b->rstd[j]};
    batch_coefs(r, b);
}

/* ---- batches, one after the other ---- */

INLINE int rows_how(const Plan *plan) {
    return (plan->centre ? CENTRE : 0) | (plan->along && plan->weight ? ACROSS : 0) |
           store_flags(plan) | (plan->dtype != REAL_DTYPE ? CONVERT : 0);
}

/* What a direction does: the passes of a call, and what comes before and after sums. */
typedef struct {
    Pass *measure, *apply, *both;
    void (*begin)(int how, Range *r, Batch *b, const RowChunk *c);
    void (*end)(int how, Range *r, Batch *b, const RowChunk *c, Moments *merged);
    void (*finish)(Range *r, Batch *b, const Moments *merged);
    void (*applied)(Range *r, const Batch *b, int last); /* NULL: nothing */
    int how;
} Direction;

INLINE void direction_of(Direction *d, int how) {
    d->how = how;
    d->measure = pass_for((how & ~(STREAMED | STAGED)) | MEASURE);
    d->apply = pass_for(how | APPLY);
    d->both = pass_for(how | APPLY | MEASURE);
}

INLINE void forward_rows(Direction *d, const Plan *plan) {
    direction_of(d, rows_how(plan));
    d->measure = pass_for((d->how & (CENTRE | CONVERT)) | MEASURE);
    d->begin = chunk_begin;
    d->end = chunk_end;
    d->finish = batch_finish;
    d->applied = NULL;
}

/* Apply one batch, sum another, or both; NULL: none. */
INLINE void pass_chunk(const Direction *d, Range *r, Batch *applied, Batch *measured,
                       const RowChunk *c) {
    const int applies = applied ? (int)applied->count : 0;
    const int measures = measured ? (int)measured->count : 0;
    const int both = applied && measured && applied->exceptional ? 0 : MIN(applies, measures);
    if (both > 0)
        d->both(r, applied, measured, &(Span){c->first, c->last, 0, both});
    if (measures > both)
        d->measure(r, NULL, measured, &(Span){c->first, c->last, both, measures});
    if (applies > both)
        d->apply(r, applied, NULL, &(Span){c->first, c->last, both, applies});
}

/* Sets of the next batch, after so many: no batch reaches over a flush of dweight and dbias. */
INLINE ptrdiff_t sets_of_batch(const Range *r, ptrdiff_t taken) {
    const ptrdiff_t batch = r->plan->rows.batch;
    return r->params ? MIN(batch, GRAD_ROWS - taken % GRAD_ROWS) : batch;
}

/* Sum and apply the sets first..last-1. */
static void rows_drive(const Direction *d, Range *r, ptrdiff_t first, ptrdiff_t last) {
    const RowsPlan *rows = &r->plan->rows;
    const int lookahead = features_on(FEATURE_LOOKAHEAD);
    const RowChunk all = {0, piece_count(rows), 0};
    const ptrdiff_t start = first;
    Batch *applied = NULL, *next = &r->arena->batch[0];
    Cursor sets;
    cursor_at(&sets, &r->plan->sets, first);
    while (first < last || applied) {
        Batch *measured = first < last ? next : NULL;
        Moments merged = {0, 0, 0, 0, 1};
        if (measured) {
            batch_take(measured, &sets, first, MIN(sets_of_batch(r, first - start), last - first));
            first += measured->count;
        }
        next = applied ? applied : &r->arena->batch[measured == &r->arena->batch[0]];
        Batch *before = applied;
        if (applied && measured && !lookahead) {
            pass_chunk(d, r, applied, NULL, &all);
            applied = NULL;
        }
        for (ptrdiff_t k = 0; k < rows->chunks; k++) {
            const RowChunk c = row_chunk(rows, k);
            if (measured)
                d->begin(d->how, r, measured, &c);
            pass_chunk(d, r, applied, measured, &c);
            if (measured)
                d->end(d->how, r, measured, &c, &merged);
        }
        if (before && d->applied)
            d->applied(r, before, !measured);
        if (measured)
            d->finish(r, measured, &merged);
        applied = measured;
    }
}

static void rows_fused(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Direction d;
    range_begin(&r, job, arena);
    forward_rows(&d, r.plan);
    rows_drive(&d, &r, first, last);
    sink_end(&r.sink);
}

/* ---- chunks measured apart, and applied when all are pooled ---- */

static void rows_measure(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Direction d;
    range_begin(&r, job, arena);
    forward_rows(&d, r.plan);
    r.resident = r.short_rows = 0;
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    for (ptrdiff_t i = first; i < last; i++) {
        const RowChunk c = row_chunk(rows, i % rows->chunks);
        Cursor set;
        cursor_at(&set, &r.plan->sets, i / rows->chunks);
        batch_take(b, &set, i / rows->chunks, 1);
        d.begin(d.how, &r, b, &c);
        pass_chunk(&d, &r, NULL, b, &c);
        job->moments[i].n = 0;
        chunk_moments(d.how, &r, b, &c, &job->moments[i]);
    }
}

static void rows_apply(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Direction d;
    Cursor sets;
    range_begin(&r, job, arena);
    forward_rows(&d, r.plan);
    r.resident = 0; /* nothing was converted while it was summed */
    r.short_rows &= r.plan->dtype == REAL_DTYPE;
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    /* Backwards: what was measured last is still in the cache. */
    const ptrdiff_t end = r.plan->sets.count * rows->chunks;
    const ptrdiff_t from = job->given ? first : end - last, to = job->given ? last : end - first;
    cursor_at(&sets, &r.plan->sets, from / rows->chunks);
    for (ptrdiff_t i = from; i < to;) {
        const RowChunk c = row_chunk(rows, i % rows->chunks);
        Cursor here = sets;
        batch_take(b, &here, i / rows->chunks, rows->chunks > 1 ? 1 : MIN(rows->batch, to - i));
        i += b->count;
        if (rows->chunks == 1 || i % rows->chunks == 0)
            sets = here;
        for (int j = 0; j < BATCH; j++)
            row_set_stat(b, j, &job->stats[b->at.stat + MIN(j, b->count - 1) * b->step.stat]);
        batch_coefs(&r, b);
        pass_chunk(&d, &r, b, NULL, &c);
    }
    sink_end(&r.sink);
}

#endif
