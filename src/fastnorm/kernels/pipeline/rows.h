/* The pipeline of rows, forward.
 *
 *   sums    [k+1 . . . .][k+2 . . . .]        arithmetic
 *   results [k   . . . .][k+1 . . . .]        stores
 *
 * A batch of sets is applied in the loop that sums the next one: sums need arithmetic, results wait
 * for memory. */
#ifndef FASTNORM_PIPELINE_ROWS_H
#define FASTNORM_PIPELINE_ROWS_H

#include "pass.h"

/* ---- the chunks of a batch ---- */

typedef struct {
    ptrdiff_t first, last; /* pieces */
    double n;              /* elements of a set */
} RowChunk;

INLINE RowChunk row_chunk(const RowsPlan *rows, ptrdiff_t chunk) {
    RowChunk c;
    c.first = chunk * rows->per_chunk;
    c.last = MIN(c.first + rows->per_chunk, piece_count(rows));
    const ptrdiff_t ends = rows->pieces == 1 ? 0 : c.last / rows->pieces - c.first / rows->pieces;
    c.n = rows->pieces == 1
              ? (double)((c.last - c.first) * rows->length)
              : (double)((c.last - c.first) * rows->piece -
                         ends * (rows->pieces * rows->piece - rows->length));
    return c;
}

NOINLINE void chunk_begin(int how, Range *r, Batch *b, const Samples *s) {
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
    choose_pivots(plan, how, b, s);
    batch_clear_sums(b, 2);
}

/* Set j of a chunk again: around a better pivot, or element by element. */
NOINLINE void chunk_fix(const int how, Range *r, Batch *b, const RowChunk *c, int j, Moments *out) {
    const Plan *plan = r->plan;
    double s1 = b->sum[0][j], s2 = b->sum[1][j];
    real pivot = b->pivot[j];
    if (how & CENTRE && s2 - s2 == 0 && pivot_is_far(c->n, s1, s2)) {
        Range own = *r;
        Batch one;
        own.resident = 0;
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

/* All has been summed; the moments of sets of several chunks go to `merged`. */
NOINLINE void chunk_end(const int how, Range *r, Batch *b, const RowChunk *c, Moments *merged) {
    double m2[BATCH];
    const unsigned doubtful = row_moments(r->plan, b, c->n, m2);
    if (merged) {
        Moments m = {c->n, b->mean[0], b->rest[0], m2[0], (double)b->scale[0]};
        if (doubtful)
            chunk_fix(how, r, b, c, 0, &m);
        if (merged->n == 0)
            *merged = m;
        else
            moments_merge(merged, &m);
        return;
    }
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
NOINLINE void batch_finish(Range *r, Batch *b) {
    Stat *stats = r->job->stats;
    for (int j = 0; stats && j < (int)b->count; j++)
        stats[b->at.stat + j * b->step.stat] =
            (Stat){b->mean[j], b->rest[j], b->var[j], b->rstd[j]};
    batch_coefs(r, b);
}

/* ---- batches, one after the other ---- */

INLINE int rows_how(const Plan *plan) {
    return (plan->centre ? CENTRE : 0) | (plan->along && plan->weight ? ACROSS : 0) |
           (plan->store == STORE_STREAM   ? STREAMED
            : plan->store == STORE_STAGED ? STAGED
                                          : 0) |
           (plan->dtype != REAL_DTYPE ? CONVERT : 0);
}

/* The passes of a call. */
typedef struct {
    Pass *measure, *apply, *both;
    int how;
} Passes;

INLINE void passes_of(Passes *p, const Plan *plan) {
    p->how = rows_how(plan);
    p->measure = pass_for((p->how & (CENTRE | CONVERT)) | MEASURE);
    p->apply = pass_for(p->how | APPLY);
    p->both = pass_for(p->how | APPLY | MEASURE);
}

/* Apply one batch, sum another, or both; NULL: none. */
INLINE void pass_chunk(const Passes *p, Range *r, Batch *applied, Batch *measured,
                       const RowChunk *c) {
    const int applies = applied ? (int)applied->count : 0;
    const int measures = measured ? (int)measured->count : 0;
    const int both = applied && measured && applied->exceptional ? 0 : MIN(applies, measures);
    if (both > 0)
        p->both(r, applied, measured, &(Span){c->first, c->last, 0, both});
    if (measures > both)
        p->measure(r, NULL, measured, &(Span){c->first, c->last, both, measures});
    if (applies > both)
        p->apply(r, applied, NULL, &(Span){c->first, c->last, both, applies});
}

static void rows_fused(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Passes passes;
    Cursor sets;
    Samples samples;
    range_begin(&r, job, arena);
    passes_of(&passes, r.plan);
    const RowsPlan *rows = &r.plan->rows;
    const int lookahead = features_on(FEATURE_LOOKAHEAD);
    const RowChunk all = {0, piece_count(rows), 0};
    Batch *applied = NULL, *next = &r.arena->batch[0];
    cursor_at(&sets, &r.plan->sets, first);
    samples_of(r.plan, 0, row_chunk(rows, 0).last, &samples);
    while (first < last || applied) {
        Batch *measured = first < last ? next : NULL;
        Moments merged = {0, 0, 0, 0, 1};
        if (measured) {
            batch_take(measured, &sets, MIN(rows->batch, last - first));
            first += measured->count;
        }
        next = applied ? applied : &r.arena->batch[measured == &r.arena->batch[0]];
        if (applied && measured && !lookahead) {
            pass_chunk(&passes, &r, applied, NULL, &all);
            applied = NULL;
        }
        for (ptrdiff_t k = 0; k < rows->chunks; k++) {
            const RowChunk c = row_chunk(rows, k);
            if (measured) {
                if (rows->chunks > 1)
                    samples_of(r.plan, c.first, c.last, &samples);
                chunk_begin(passes.how, &r, measured, &samples);
            }
            pass_chunk(&passes, &r, applied, measured, &c);
            if (measured)
                chunk_end(passes.how, &r, measured, &c, rows->chunks > 1 ? &merged : NULL);
        }
        if (measured && rows->chunks > 1) {
            Stat s;
            moments_finish(&merged, r.plan->eps, &s);
            row_set_stat(measured, 0, &s);
        }
        if (measured)
            batch_finish(&r, measured);
        applied = measured;
    }
    sink_end(&r.sink);
}

/* ---- chunks measured apart, and applied when all are pooled ---- */

static void rows_measure(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Passes passes;
    range_begin(&r, job, arena);
    passes_of(&passes, r.plan);
    r.resident = 0;
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    for (ptrdiff_t i = first; i < last; i++) {
        const RowChunk c = row_chunk(rows, i % rows->chunks);
        Samples samples;
        Cursor set;
        cursor_at(&set, &r.plan->sets, i / rows->chunks);
        batch_take(b, &set, 1);
        samples_of(r.plan, c.first, c.last, &samples);
        chunk_begin(passes.how, &r, b, &samples);
        pass_chunk(&passes, &r, NULL, b, &c);
        job->moments[i].n = 0;
        chunk_end(passes.how, &r, b, &c, &job->moments[i]);
    }
}

static void rows_apply(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    Range r;
    Passes passes;
    Cursor sets;
    range_begin(&r, job, arena);
    passes_of(&passes, r.plan);
    r.resident = 0;
    const RowsPlan *rows = &r.plan->rows;
    Batch *b = &r.arena->batch[0];
    /* Backwards: what was measured last is still in the cache. */
    const ptrdiff_t end = r.plan->sets.count * rows->chunks;
    const ptrdiff_t from = job->given ? first : end - last, to = job->given ? last : end - first;
    cursor_at(&sets, &r.plan->sets, from / rows->chunks);
    for (ptrdiff_t i = from; i < to;) {
        const RowChunk c = row_chunk(rows, i % rows->chunks);
        Cursor here = sets;
        batch_take(b, &here, rows->chunks > 1 ? 1 : MIN(rows->batch, to - i));
        i += b->count;
        if (rows->chunks == 1 || i % rows->chunks == 0)
            sets = here;
        for (int j = 0; j < BATCH; j++)
            row_set_stat(b, j, &job->stats[b->at.stat + MIN(j, b->count - 1) * b->step.stat]);
        batch_coefs(&r, b);
        pass_chunk(&passes, &r, b, NULL, &c);
    }
    sink_end(&r.sink);
}

#endif
