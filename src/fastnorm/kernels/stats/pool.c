/* Pooling what was measured by chunks: in the order of the shape, whoever measured it. */
#include "../plan/nest.h"
#include "moments.h"

static void pool_chunks(const Job *job, const Moments *chunks, ptrdiff_t count, ptrdiff_t step,
                        Stat *out) {
    Moments m = chunks[0];
    for (ptrdiff_t i = 1; i < count; i++)
        moments_merge(&m, &chunks[i * step]);
    moments_finish(&m, job->plan.eps, out);
}

void pool_rows(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t chunks = job->plan.rows.chunks;
    Cursor set;
    (void)arena;
    cursor_at(&set, &job->plan.sets, first);
    for (ptrdiff_t i = first; i < last; i++, cursor_next(&set))
        pool_chunks(job, job->moments + i * chunks, chunks, 1, &job->stats[set.at.stat]);
}

void pool_columns(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    (void)arena;
    for (ptrdiff_t i = first; i < last; i++) {
        const ptrdiff_t block = i / c->sets_per_block, set = i % c->sets_per_block;
        Cursor cursor;
        cursor_at(&cursor, &job->plan.sets, block);
        pool_chunks(job, job->moments + block * c->chunks * c->sets_per_block + set, c->chunks,
                    c->sets_per_block, &job->stats[cursor.at.stat + set]);
    }
}
