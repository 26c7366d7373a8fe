/* The backward pass of columns: the pipeline of columns.h with two inputs and three sums. */
#ifndef FASTNORM_PIPELINE_GRAD_COLUMNS_H
#define FASTNORM_PIPELINE_GRAD_COLUMNS_H

#include "../backward/column.h"
#include "columns.h"

typedef struct {
    ColumnRange base;
    real *grad_tile;
    GradDx *dx;
    GradStat *stats; /* of the strip's sets */
    int how;
} GradColumns;

INLINE int grad_columns_how(const Job *job) {
    const Plan *plan = &job->plan;
    return store_flags(plan) | (plan->centre ? CENTRE : 0) | (!plan->along ? ACROSS : 0) |
           (job->backward.frozen ? FROZEN : 0) | (plan->dtype != REAL_DTYPE ? CONVERT : 0);
}

INLINE size_t grad_columns_arena_bytes(ptrdiff_t columns) {
    const size_t room = (size_t)(up(columns, 16) + 2) * 16;
    return columns_arena_bytes(columns) + room * (COLUMN_CHAIN * sizeof(real) + sizeof(GradStat)) +
           6 * LINE_BYTES;
}

INLINE void grad_columns_begin(GradColumns *g, const Job *job, char *arena, ptrdiff_t columns) {
    const size_t room = (size_t)(up(columns, 16) + 2) * 16;
    arena = columns_begin(&g->base, job, arena, columns);
    g->grad_tile = strip_array(&arena, room * COLUMN_CHAIN * sizeof(real));
    g->stats = strip_array(&arena, room * sizeof(GradStat));
    g->how = grad_columns_how(job);
    g->dx = grad_dx_for(g->how);
    if (features_on(FEATURE_PREFETCH) && job->plan.stream && !(g->how & CONVERT))
        g->base.ahead = COLUMN_CHAIN;
}

/* ---- sums ---- */

typedef struct {
    ptrdiff_t first, count;
} RowRange;

/* Offsets of a tile: its first column in x, and in the gradient and dx. */
typedef struct {
    Place block;
    const char *x, *grad;
    char *dx;
    ptrdiff_t number; /* of the block */
    Strip *strip;
} GradTile;

INLINE void grad_tile_at(GradColumns *g, GradTile *t, Strip *s, ptrdiff_t block, ptrdiff_t first,
                         ptrdiff_t width) {
    const Job *job = g->base.job;
    const Plan *plan = &job->plan;
    const ptrdiff_t bytes = first * g->base.size;
    Cursor cursor;
    cursor_at(&cursor, &plan->sets, block);
    t->block = cursor.at;
    t->number = block;
    t->strip = s;
    t->x = plan->x + cursor.at.x + bytes;
    t->grad = job->backward.grad + cursor.at.y + bytes;
    t->dx = plan->y + cursor.at.y + bytes;
    strip_at(s, plan, first, strip_columns(plan, first, width));
    strip_given(job, s, cursor.at.stat);
}

NOINLINE void grad_add_block(GradColumns *g, const GradTile *t, const RowBlock *b) {
    const Plan *plan = g->base.plan;
    GradRows rows;
    rows.x = row_block_elements(g->how, plan, b, t->x, 0, g->base.tile, &rows.x_stride);
    rows.grad = row_block_elements(g->how, plan, b, t->grad, 1, g->grad_tile, &rows.grad_stride);
    rows.count = b->count;
    rows.width = b->width;
    rows.ahead = b->even && b->count == COLUMN_CHAIN ? g->base.ahead : 0;
    for (int k = 0; k < b->count && g->how & ACROSS; k++)
        rows.weight[k] = (real)grad_weight(g->base.job, t->block.param + b->at[k].param);
    if (!(g->how & CENTRE))
        strip_grad_rms_across(&rows, t->strip);
    else if (g->how & ACROSS)
        strip_grad_centred_across(&rows, t->strip);
    else
        strip_grad_centred(&rows, t->strip);
    if (++t->strip->open == COLUMN_LEVEL)
        strip_close(t->strip, 0, SUMS);
}

NOINLINE void grad_sum(GradColumns *g, const GradTile *t, ptrdiff_t first, ptrdiff_t count) {
    Cursor rows;
    cursor_at(&rows, &g->base.plan->columns.rows, first);
    for (ptrdiff_t row = first; row < first + count;) {
        RowBlock b;
        row_block_take(&b, g->base.plan, t->strip, &rows, row, first + count);
        row += b.count;
        if (b.width > 0)
            grad_add_block(g, t, &b);
    }
}

/* The sums of column i, element by element, shrunk if `beyond` says so. */
NOINLINE GradSums grad_column_sums(const GradColumns *g, const GradTile *t, ptrdiff_t set,
                                   ptrdiff_t i, const RowRange *range, int beyond) {
    const Plan *plan = g->base.plan;
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t offset = i * g->base.size, end = range->first + range->count;
    GradSums sums = {0, 0, 0, beyond};
    Cursor rows;
    cursor_at(&rows, &c->rows, range->first);
    for (ptrdiff_t k = range->first; k < end; k++) {
        const ptrdiff_t param = t->block.param + rows.at.param;
        const ElementPair e = {t->x + rows.at.x + offset, t->grad + rows.at.y + offset,
                               t->strip->mean[set], t->strip->rstd[set]};
        const ElementParams params = {
            g->how & ACROSS && plan->weight ? (const real *)plan->weight + param : NULL, NULL, 0};
        if (k + 1 == c->rows.count && i >= c->last_width && c->packed > 1)
            break;
        exceptional_grad_sums(g->base.job, &e, 1, &params, &sums);
        if (k + 1 < end)
            cursor_next(&rows);
    }
    return sums;
}

INLINE void strip_set_total(Strip *s, ptrdiff_t i, const GradSums *sums) {
    s->total[0][i] = sums->g;
    s->total[1][i] = sums->gx;
    s->total[2][i] = sums->x;
}

INLINE int strip_total_within(const Strip *s, ptrdiff_t i) {
    return grad_sums_within(s->total[0][i], s->total[1][i], s->total[2][i]);
}

/* The sums of exceptional columns, and of those whose sums have left the range: as of rows, see
 * grad_exceptional_sums; but all columns of a set are shrunk, if one is, because they are added. */
NOINLINE void grad_exceptional_columns(GradColumns *g, const GradTile *t, const RowRange *range) {
    const Plan *plan = g->base.plan;
    const int is_double = plan->dtype == F64;
    Strip *s = t->strip;
    Column c;
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; i < s->width; i++, column_next(&c, plan)) {
        const int exceptional = s->is_exceptional[i];
        if (!exceptional && strip_total_within(s, i))
            continue;
        if (exceptional || !is_double) {
            const GradSums sums = grad_column_sums(g, t, c.set, i, range, WITHIN);
            const int within = grad_sums_within(sums.g, sums.gx, sums.x);
            if (exceptional || within)
                strip_set_total(s, i, &sums);
            if (!exceptional && within)
                s->beyond[c.set] = WIDENED;
            if (!is_double || within)
                continue;
        }
        const GradSums sums = grad_column_sums(g, t, c.set, i, range, SHRUNK);
        if (grad_sums_within(sums.g, sums.gx, sums.x))
            s->beyond[c.set] = SHRUNK;
    }
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; is_double && i < s->width; i++, column_next(&c, plan)) {
        if (s->beyond[c.set] == SHRUNK) {
            const GradSums sums = grad_column_sums(g, t, c.set, i, range, SHRUNK);
            strip_set_total(s, i, &sums);
        }
    }
}

/* All rows of a chunk have been added. */
INLINE void grad_end_chunk(GradColumns *g, const GradTile *t, ptrdiff_t first, ptrdiff_t count) {
    const RowRange range = {first, count};
    Strip *s = t->strip;
    int within = !s->exceptional;
    memset(s->beyond, WITHIN, (size_t)s->sets);
    if (s->open)
        strip_close(s, 0, SUMS);
    for (ptrdiff_t i = 0; i < s->width; i++)
        within &= strip_total_within(s, i);
    if (__builtin_expect(!within, 0))
        grad_exceptional_columns(g, t, &range);
    if (!grad_by_column(g->base.plan))
        strip_pool(g->base.plan, s, SUMS);
}

/* To the sums of the job: those of sets, or of columns that have a weight each. */
INLINE void grad_keep_chunk(GradColumns *g, const GradTile *t, ptrdiff_t chunk) {
    const Plan *plan = g->base.plan;
    const Strip *s = t->strip;
    const ptrdiff_t per_block = grad_block_sums(plan);
    const int by_column = grad_by_column(plan);
    GradSums *sums = g->base.job->sums + (t->number * plan->columns.chunks + chunk) * per_block +
                     (by_column ? s->first : s->first_set);
    for (ptrdiff_t i = 0; i < (by_column ? s->width : s->sets); i++)
        sums[i] = (GradSums){s->total[0][i], s->total[1][i], s->total[2][i],
                             s->beyond[by_column ? i / plan->columns.group : i]};
}

/* Sums of all chunks to statistics, and to what dx is made with. */
INLINE void grad_strip_finish(GradColumns *g, const GradTile *t) {
    const Job *job = g->base.job;
    Strip *s = t->strip;
    for (ptrdiff_t set = 0; set < s->sets; set++) {
        const GradSums sums = {s->total[0][set], s->total[1][set], s->total[2][set],
                               s->beyond[set]};
        g->stats[set] =
            job->sums ? grad_finish_column_set(job, t->number, s->first_set + set, t->block.param)
                      : grad_finish(job, (double)job->plan.count, &sums);
    }
    strip_grad_coefs(job, s, g->stats, t->block.param);
}

/* ---- dx ---- */

/* dx of the exceptional columns of a row, before it is overwritten. */
NOINLINE void grad_row_exceptions(GradColumns *g, const GradTile *t, const Place *row,
                                  ptrdiff_t width, real weight, GradApplied *a) {
    const Job *job = g->base.job;
    const Plan *plan = &job->plan;
    const Strip *s = t->strip;
    Column c;
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; i < width; i++, column_next(&c, plan)) {
        const ptrdiff_t offset = i * g->base.size;
        if (!s->is_exceptional[i])
            continue;
        const double w =
            g->how & ACROSS ? (double)weight : grad_weight(job, t->block.param + c.param);
        const GradStat *stat = &g->stats[c.set];
        const double grad = element_at(plan->dtype, t->grad + row->y + offset);
        const double xhat = job->backward.frozen
                                ? 0
                                : exceptional_xhat(element_at(plan->dtype, t->x + row->x + offset),
                                                   s->mean[c.set], 0, s->rstd[c.set]) -
                                      stat->shift;
        g->base.exceptional[i] = (real)exceptional_dx(grad, w, xhat, s->rstd[c.set], stat);
        a->dweight[0] += grad * xhat;
    }
}

NOINLINE void grad_apply_block(GradColumns *g, const GradTile *t, const RowBlock *b, ptrdiff_t row,
                               double *table) {
    const Plan *plan = g->base.plan;
    Strip *s = t->strip;
    const int staged = g->how & STAGED;
    const ptrdiff_t all = plan->columns.rows.count;
    ptrdiff_t x_stride = 0, grad_stride = 0;
    const char *x = NULL, *grad = NULL;
    if (g->how & CONVERT) {
        x = row_block_elements(g->how, plan, b, t->x, 0, g->base.tile, &x_stride);
        grad = row_block_elements(g->how, plan, b, t->grad, 1, g->grad_tile, &grad_stride);
    }
    for (int k = 0; k < b->count;) {
        const int rows =
            !staged && !s->exceptional && g->base.abreast && b->count - k >= ROWS_ABREAST
                ? ROWS_ABREAST
                : 1;
        GradApplied a;
        memset(a.dweight, 0, sizeof a.dweight);
        memset(a.dbias, 0, sizeof a.dbias);
        for (int i = 0; i < rows; i++) {
            const Place *at = &b->at[k + i];
            a.x[i] = (const real *)(x ? x + (k + i) * x_stride : t->x + at->x);
            a.grad[i] = (const real *)(grad ? grad + (k + i) * grad_stride : t->grad + at->y);
            a.to[i] = (real *)(t->dx + at->y);
            a.weight[i] =
                g->how & ACROSS ? (real)grad_weight(g->base.job, t->block.param + at->param) : 1;
        }
        if (staged)
            a.to[0] = sink_at(&g->base.sink, t->dx + b->at[k].y);
        if (__builtin_expect(s->exceptional != 0, 0))
            grad_row_exceptions(g, t, &b->at[k], b->width, a.weight[0], &a);
        g->dx(rows, &a, s, b->width);
        for (ptrdiff_t i = 0; __builtin_expect(s->exceptional != 0, 0) && i < b->width; i++)
            if (s->is_exceptional[i])
                a.to[0][i] = g->base.exceptional[i];
        if (staged)
            sink_put(&g->base.sink, b->width);
        for (int i = 0; table && i < rows; i++) {
            table[row + k + i] = a.dweight[i];
            table[all + row + k + i] = a.dbias[i];
        }
        k += rows;
    }
}

/* Where dweight and dbias of the rows of a tile go, if they have one each. */
INLINE double *grad_row_table(const GradColumns *g, const GradTile *t) {
    const Job *job = g->base.job;
    if (!(g->how & ACROSS))
        return NULL;
    return job->tables +
           (t->number * job->backward.strips + t->strip->first / job->plan.columns.strip) * 2 *
               job->plan.columns.rows.count;
}

INLINE void grad_apply(GradColumns *g, const GradTile *t, ptrdiff_t first, ptrdiff_t count) {
    Cursor rows;
    cursor_at(&rows, &g->base.plan->columns.rows, first);
    for (ptrdiff_t row = first; row < first + count;) {
        RowBlock b;
        row_block_take(&b, g->base.plan, t->strip, &rows, row, first + count);
        if (b.width > 0)
            grad_apply_block(g, t, &b, row, grad_row_table(g, t));
        row += b.count;
    }
}

/* ---- the kernels ---- */

/* Sum a strip, and make dx of another meanwhile, if there is one. */
INLINE void grad_tile_pass(GradColumns *g, const GradTile *applied, const GradTile *measured) {
    const ColumnsPlan *c = &g->base.plan->columns;
    for (ptrdiff_t chunk = 0; chunk < c->chunks; chunk++) {
        const ptrdiff_t first = chunk * c->row_chunk,
                        end = MIN(first + c->row_chunk, c->rows.count);
        strip_clear(measured->strip, SUMS);
        if (!applied) {
            grad_sum(g, measured, first, end - first);
        } else {
            Cursor of_applied, of_measured;
            cursor_at(&of_applied, &c->rows, first);
            cursor_at(&of_measured, &c->rows, first);
            for (ptrdiff_t row = first; row < end;) {
                RowBlock a, m;
                row_block_take(&m, g->base.plan, measured->strip, &of_measured, row, end);
                row_block_take(&a, g->base.plan, applied->strip, &of_applied, row, end);
                grad_add_block(g, measured, &m);
                grad_apply_block(g, applied, &a, row, grad_row_table(g, applied));
                row += a.count;
            }
        }
        grad_end_chunk(g, measured, first, end - first);
        if (g->base.job->sums)
            grad_keep_chunk(g, measured, chunk);
    }
}

static void grad_columns_fused(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t strips = up(c->width, c->strip);
    const int lookahead = features_on(FEATURE_LOOKAHEAD);
    GradColumns g;
    GradTile tile[2];
    int applies = 0, k = 0;
    grad_columns_begin(&g, job, arena, c->strip);
    for (ptrdiff_t i = first; i < last || applies; i++) {
        GradTile *applied = applies ? &tile[k] : NULL, *measured = i < last ? &tile[!k] : NULL;
        if (applied && (!measured || !lookahead || applied->strip->exceptional)) {
            grad_apply(&g, applied, 0, c->rows.count);
            applied = NULL;
        }
        if (measured) {
            grad_tile_at(&g, measured, &g.base.strip[!k], i / strips, i % strips * c->strip,
                         c->strip);
            grad_tile_pass(&g, applied, measured);
            grad_strip_finish(&g, measured);
        }
        applies = measured != NULL;
        k = !k;
    }
    sink_end(&g.base.sink);
}

static void grad_columns_measure(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t strips = up(c->width, c->strip);
    GradColumns g;
    grad_columns_begin(&g, job, arena, c->strip);
    for (ptrdiff_t i = first; i < last; i++) {
        const ptrdiff_t chunk = i / strips % c->chunks, row = chunk * c->row_chunk;
        const ptrdiff_t count = MIN(c->row_chunk, c->rows.count - row);
        GradTile t;
        grad_tile_at(&g, &t, &g.base.strip[0], i / strips / c->chunks, i % strips * c->strip,
                     c->strip);
        strip_clear(t.strip, SUMS);
        grad_sum(&g, &t, row, count);
        grad_end_chunk(&g, &t, row, count);
        grad_keep_chunk(&g, &t, chunk);
    }
}

static void grad_columns_pool(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t per_block = job->plan.columns.sets_per_block;
    (void)arena;
    for (ptrdiff_t i = first; i < last; i++) {
        Cursor block;
        cursor_at(&block, &job->plan.sets, i / per_block);
        const GradStat s =
            grad_finish_column_set(job, i / per_block, i % per_block, block.at.param);
        job->stats[i] = grad_stat_pack(&s);
    }
}

/* Items are strips of some rows of a block. */
static void grad_columns_apply(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t strips = up(c->width, c->apply_strip), parts = up(c->rows.count, c->apply_rows);
    const ptrdiff_t end = job->plan.sets.count * parts * strips;
    ptrdiff_t known = -1;
    GradColumns g;
    GradTile t;
    grad_columns_begin(&g, job, arena, c->apply_strip);
    for (ptrdiff_t i = first; i < last; i++) {
        const ptrdiff_t item = end - 1 - i, strip = item % strips;
        const ptrdiff_t row = item / strips % parts * c->apply_rows, block = item / strips / parts;
        if (known != block * strips + strip) {
            known = block * strips + strip;
            grad_tile_at(&g, &t, &g.base.strip[0], block, strip * c->apply_strip, c->apply_strip);
            for (ptrdiff_t k = 0; k < t.strip->sets; k++)
                g.stats[k] = grad_stat_unpack(
                    &job->stats[block * c->sets_per_block + t.strip->first_set + k]);
            strip_grad_coefs(job, t.strip, g.stats, t.block.param);
        }
        grad_apply(&g, &t, row, MIN(c->apply_rows, c->rows.count - row));
    }
    sink_end(&g.base.sink);
}

#endif
