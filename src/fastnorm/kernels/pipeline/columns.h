/* The pipeline of columns, forward.
 *
 * A strip of columns is applied while the next one is summed, eight rows of the one after eight
 * rows of the other.  Where strips do not stay in the cache from being summed to being applied,
 * chunks of rows are measured, pooled, and applied by whole rows. */
#ifndef FASTNORM_PIPELINE_COLUMNS_H
#define FASTNORM_PIPELINE_COLUMNS_H

#include "../forward/column.h"

typedef struct {
    const Job *job;
    const Plan *plan;
    Strip strip[2];
    real *tile, *exceptional, *stage;
    double *m2;
    Moments *moments, *merged; /* of sets: of a chunk, of all so far */
    Sink sink;
    ptrdiff_t size, ahead;
    int abreast, alike; /* several rows at a time; rows begin at the same place of a line */
    ApplyRows *apply_rows;
} ColumnRange;

INLINE int columns_how(const Plan *plan) {
    return (plan->centre ? CENTRE : 0) |
           (!plan->along && (plan->weight || plan->bias) ? ACROSS : 0) | store_flags(plan) |
           (plan->dtype != REAL_DTYPE ? CONVERT : 0);
}

/* Bytes that columns_begin takes of the arena. */
INLINE size_t columns_arena_bytes(ptrdiff_t columns) {
    const size_t real_bytes = sizeof(real);
    const size_t room = (size_t)(up(columns, 16) + 2) * 16;
    const size_t bytes = 2 * strip_bytes(columns, real_bytes) +
                         room * (COLUMN_CHAIN + 2) * real_bytes + room * sizeof(double) +
                         2 * room * sizeof(Moments) + STAGE_ROOM * real_bytes + 16 * LINE_BYTES;
    return bytes / LINE_BYTES * LINE_BYTES;
}

INLINE char *columns_begin(ColumnRange *r, const Job *job, char *arena, ptrdiff_t columns) {
    const size_t room = (size_t)(up(columns, 16) + 2) * 16;
    r->job = job;
    r->plan = &job->plan;
    arena = strip_begin(&r->strip[0], arena, columns);
    arena = strip_begin(&r->strip[1], arena, columns);
    r->tile = strip_array(&arena, room * COLUMN_CHAIN * sizeof(real));
    r->exceptional = strip_array(&arena, room * sizeof(real));
    r->m2 = strip_array(&arena, room * sizeof(double));
    r->moments = strip_array(&arena, room * sizeof(Moments));
    r->merged = strip_array(&arena, room * sizeof(Moments));
    r->stage = strip_array(&arena, (STAGE_ROOM + room) * sizeof(real));
    r->size = ELEMENT_BYTES(r->plan->dtype);
    /* Streamed results are taken sooner in the order of memory; with parameters to load for each
     * row, several at a time are even. */
    r->abreast =
        features_on(FEATURE_ABREAST) && (!r->plan->stream || columns_how(r->plan) & ACROSS);
    r->alike = inner_step(&r->plan->columns.rows).y % LINE_BYTES == 0;
    r->ahead = 0;
    r->apply_rows = apply_rows_for(columns_how(r->plan));
    sink_begin(&r->sink, r->plan, r->stage);
    return arena;
}

INLINE ptrdiff_t strip_columns(const Plan *plan, ptrdiff_t first, ptrdiff_t width) {
    return MIN(width, plan->columns.width - first);
}

/* ---- measure ---- */

NOINLINE void strip_sum(int how, const Plan *plan, Strip *s, const char *base, ptrdiff_t first,
                        ptrdiff_t count, real *tile, ptrdiff_t ahead) {
    Cursor rows;
    cursor_at(&rows, &plan->columns.rows, first);
    for (ptrdiff_t row = first; row < first + count;) {
        RowBlock b;
        row_block_take(&b, plan, s, &rows, row, first + count);
        row += b.count;
        if (b.width > 0)
            strip_add_block(how, plan, s, &b, base, tile, ahead);
    }
    if (s->open)
        strip_close(s, how & CENTRE ? 0 : 1, 2);
}

/* The column, in the strip, of a member of a set: packed rows outside, the group inside. */
INLINE ptrdiff_t set_column(const Plan *plan, const Strip *s, ptrdiff_t set, ptrdiff_t member) {
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t channels = c->packed > 1 ? c->width / c->packed : s->width;
    return member / c->group * channels + set * c->group + member % c->group;
}

/* The elements of a set that is out of range, as rows of one element. */
NOINLINE void strip_exceptional_moments(const Plan *plan, const Strip *s, const char *base,
                                        ptrdiff_t set, ptrdiff_t first, ptrdiff_t count,
                                        Moments *out) {
    const ColumnsPlan *c = &plan->columns;
    RowsPlan column = {.length = 1, .piece = 1, .pieces = 1};
    column.runs = c->rows;
    out->n = 0;
    for (ptrdiff_t i = 0; i < c->group * c->packed; i++) {
        const ptrdiff_t k = set_column(plan, s, set, i);
        const ptrdiff_t end =
            first + count - (first + count == c->rows.count && k >= c->last_width && c->packed > 1);
        Moments m;
        if (end <= first)
            continue;
        exceptional_moments(plan, &column, base + k * ELEMENT_BYTES(plan->dtype), first, end, &m);
        if (out->n == 0)
            *out = m;
        else
            moments_merge(out, &m);
    }
}

/* Sets whose pivot was far are summed again, with what shares a line with them, and those that are
 * out of range element by element. */
NOINLINE void strip_fix(int how, ColumnRange *r, Strip *s, const char *base, ptrdiff_t first,
                        ptrdiff_t count, double n) {
    const Plan *plan = r->plan;
    const ptrdiff_t members = plan->columns.group * plan->columns.packed;
    const double share = 1 / n;
    memset(s->is_exceptional, 0, (size_t)s->width);
    for (ptrdiff_t set = 0; set < s->sets && how & CENTRE; set++) {
        const double s1 = s->total[0][set], s2 = s->total[1][set];
        if (!(s2 - s2 == 0) || !(s1 * (s1 * share) > 0.5 * s2))
            continue;
        for (ptrdiff_t i = 0; i < members; i++) {
            const ptrdiff_t k = set_column(plan, s, set, i);
            const real pivot = (real)((double)s->pivot[k] + s1 * share / (double)s->scale[k]);
            s->pivot[k] = pivot;
            s->shift[k] = -pivot * s->scale[k];
            s->is_exceptional[k] = 1;
        }
    }
    if (!strip_is_plain(plan)) { /* the sums of columns have been pooled */
        strip_clear(s, 2);
        strip_sum(how, plan, s, base, first, count, r->tile, 0);
        strip_pool(plan, s, 2);
        return;
    }
    for (ptrdiff_t i = 0; i < s->width; i += LINE) {
        int again = 0;
        for (ptrdiff_t k = i; k < MIN(i + LINE, s->width); k++)
            again |= s->is_exceptional[k];
        if (!again)
            continue;
        Strip part = strip_part(s, i);
        strip_clear(&part, 2);
        strip_sum(how, plan, &part, base + i * r->size, first, count, r->tile, 0);
    }
}

/* The moments of a strip from its sums, as far as they are in range; the others are in float64. */
NOINLINE void strip_end_chunk(int how, ColumnRange *r, Strip *s, const char *base, ptrdiff_t first,
                              ptrdiff_t count, Moments *out) {
    const Plan *plan = r->plan;
    const double n = strip_count(plan, first, count), floor = square_floor(plan->eps);
    if (s->open)
        strip_close(s, how & CENTRE ? 0 : 1, 2);
    strip_pool(plan, s, 2);
    int doubt = strip_moments(plan, s, n, r->m2);
    if (__builtin_expect(doubt, 0)) {
        strip_fix(how, r, s, base, first, count, n);
        doubt = strip_moments(plan, s, n, r->m2);
    }
    if (!out)
        strip_finish(plan, s, n, r->m2);
    for (ptrdiff_t set = 0; out && set < s->sets; set++)
        out[set] = (Moments){n, s->mean[set], s->rest[set], r->m2[set],
                             (double)s->scale[set * plan->columns.group]};
    for (ptrdiff_t set = 0; doubt && set < s->sets; set++) {
        if (!out_of_range(n, s->total[1][set], floor))
            continue;
        Moments m;
        Stat stat;
        strip_exceptional_moments(plan, s, base, set, first, count, &m);
        if (out) {
            out[set] = m;
            continue;
        }
        moments_finish(&m, plan->eps, &stat);
        strip_set_stat(s, set, &stat);
    }
}

INLINE void strip_begin_chunk(int how, ColumnRange *r, Strip *s, const char *base, ptrdiff_t first,
                              ptrdiff_t count) {
    strip_pivots(r->plan, how, s, base, first, count, r->tile);
    strip_clear(s, 2);
}

/* ---- apply ---- */

/* The results of columns that the arithmetic has no room for, before the row is overwritten. */
NOINLINE void row_exceptions(ColumnRange *r, const Strip *s, const char *x, ptrdiff_t width,
                             ptrdiff_t param) {
    const Plan *plan = r->plan;
    Column c;
    column_at(&c, plan, s);
    for (ptrdiff_t i = 0; i < width; i++, column_next(&c, plan)) {
        if (!s->is_exceptional[i])
            continue;
        const Stat stat = {s->mean[c.set], s->rest[c.set], s->var[c.set], s->rstd[c.set]};
        const ptrdiff_t at = param + (plan->along ? c.param : 0);
        const real *weight = plan->weight, *bias = plan->bias;
        r->exceptional[i] =
            (real)exceptional_result(element_at(plan->dtype, x + i * r->size), &stat,
                                     weight ? (double)weight[at] : 1, bias ? (double)bias[at] : 0);
    }
}

NOINLINE void strip_apply_block(int how, ColumnRange *r, Strip *s, const RowBlock *b,
                                ptrdiff_t block_param, const char *base, char *out) {
    const Plan *plan = r->plan;
    const real *weight = plan->weight, *bias = plan->bias;
    const int staged = how & STAGED && !(how & STREAMED);
    ptrdiff_t stride;
    const char *x =
        how & CONVERT ? row_block_elements(how, plan, b, base, 0, r->tile, &stride) : NULL;
    for (int k = 0; k < b->count;) {
        const int rows = !staged && !s->exceptional && r->abreast &&
                                 (!(how & STAGED) || r->alike) && b->count - k >= ROWS_ABREAST
                             ? ROWS_ABREAST
                             : 1;
        AppliedRows a;
        for (int i = 0; i < rows; i++) {
            const Place *at = &b->at[k + i];
            const ptrdiff_t param = block_param + at->param;
            a.x[i] = (const real *)(how & CONVERT ? x + (k + i) * stride : base + at->x);
            if (!staged)
                a.to[i] = (real *)(out + at->y);
            if (how & ACROSS) {
                a.weight[i] = line_splat(weight ? weight[param] : 1);
                a.bias[i] = line_splat(bias ? bias[param] : 0);
            }
        }
        if (staged)
            a.to[0] = sink_at(&r->sink, out + b->at[k].y);
        if (__builtin_expect(s->exceptional != 0, 0)) {
            row_exceptions(r, s, base + b->at[k].x, b->width, block_param + b->at[k].param);
            r->apply_rows(1, &a, s, b->width);
            for (ptrdiff_t i = 0; i < b->width; i++)
                if (s->is_exceptional[i])
                    a.to[0][i] = r->exceptional[i];
        } else {
            r->apply_rows(rows, &a, s, b->width);
        }
        if (staged)
            sink_put(&r->sink, b->width);
        k += rows;
    }
}

/* Rows that follow each other, seen from the first line of the output that is theirs alone: no line
 * is stored in two parts but the first and the last. */
NOINLINE void strip_apply_chain(ColumnRange *r, Strip *s, const char *x, char *y, ptrdiff_t rows) {
    const ptrdiff_t width = s->width, bytes = width * r->size;
    const ptrdiff_t lead = (LINE_BYTES - (ptrdiff_t)((uintptr_t)y % LINE_BYTES)) % LINE_BYTES;
    const ptrdiff_t head = lead / r->size;
    Strip from_line = *s;
    AppliedRows a;
    a.x[0] = (const real *)x;
    a.to[0] = (real *)y;
    r->apply_rows(1, &a, s, head);
    line_store(s->hi + width, line_load(s->hi)); /* a row ends with the first columns of the next */
    line_store(s->factor + width, line_load(s->factor));
    line_store(s->term + width, line_load(s->term));
    from_line.hi += head;
    from_line.factor += head;
    from_line.term += head;
    for (ptrdiff_t k = 0; k < rows; k++) {
        a.x[0] = (const real *)(x + lead + k * bytes);
        a.to[0] = (real *)(y + lead + k * bytes);
        r->apply_rows(1, &a, &from_line, k + 1 < rows ? width : width - head);
    }
}

INLINE int strip_is_chain(int how, const ColumnRange *r, const Strip *s) {
    const Plan *plan = r->plan;
    const Place step = inner_step(&plan->columns.rows);
    return plan->store == STORE_SEAMS && !(how & ACROSS) && !s->exceptional && r->alike &&
           plan->columns.rows.ndim == 1 && s->width == plan->columns.width &&
           step.x == s->width * r->size && step.y == step.x &&
           plan->columns.last_width == plan->columns.width;
}

INLINE void strip_apply(int how, ColumnRange *r, Strip *s, const Place *block, ptrdiff_t first,
                        ptrdiff_t count) {
    const Plan *plan = r->plan;
    const ptrdiff_t bytes = s->first * r->size;
    Cursor rows;
    cursor_at(&rows, &plan->columns.rows, first);
    if (strip_is_chain(how, r, s)) {
        strip_apply_chain(r, s, plan->x + block->x + bytes + rows.at.x,
                          plan->y + block->y + bytes + rows.at.y, count);
        return;
    }
    for (ptrdiff_t row = first; row < first + count;) {
        RowBlock b;
        row_block_take(&b, plan, s, &rows, row, first + count);
        row += b.count;
        if (b.width > 0)
            strip_apply_block(how, r, s, &b, block->param, plan->x + block->x + bytes,
                              plan->y + block->y + bytes);
    }
}

/* ---- strips measured and applied in one go ---- */

typedef struct {
    Place block;
    const char *base;
    Strip *strip;
} Tile;

INLINE void tile_at(ColumnRange *r, Tile *t, Strip *s, ptrdiff_t item) {
    const ColumnsPlan *c = &r->plan->columns;
    const ptrdiff_t strips = up(c->width, c->strip), first = item % strips * c->strip;
    Cursor block;
    cursor_at(&block, &r->plan->sets, item / strips);
    t->block = block.at;
    t->strip = s;
    strip_at(s, r->plan, first, strip_columns(r->plan, first, c->strip));
    t->base = r->plan->x + block.at.x + first * r->size;
}

INLINE void tile_finish(ColumnRange *r, const Tile *t) {
    const Strip *s = t->strip;
    Stat *stats = r->job->stats;
    for (ptrdiff_t i = 0; stats && i < s->sets; i++)
        stats[t->block.stat + s->first_set + i] =
            (Stat){s->mean[i], s->rest[i], s->var[i], s->rstd[i]};
    strip_coefs(r->plan, t->strip, t->block.param);
}

/* Apply one strip while another is summed: eight rows of each in turn. */
INLINE void tile_pass(int how, ColumnRange *r, Tile *applied, Tile *measured, ptrdiff_t first,
                      ptrdiff_t count) {
    const Plan *plan = r->plan;
    const ptrdiff_t bytes = applied->strip->first * r->size;
    Cursor of_applied, of_measured;
    cursor_at(&of_applied, &plan->columns.rows, first);
    cursor_at(&of_measured, &plan->columns.rows, first);
    for (ptrdiff_t row = first; row < first + count;) {
        RowBlock a, m;
        row_block_take(&m, plan, measured->strip, &of_measured, row, first + count);
        row_block_take(&a, plan, applied->strip, &of_applied, row, first + count);
        row += a.count;
        strip_add_block(how, plan, measured->strip, &m, measured->base, r->tile, r->ahead);
        strip_apply_block(how, r, applied->strip, &a, applied->block.param,
                          plan->x + applied->block.x + bytes, plan->y + applied->block.y + bytes);
    }
}

/* Sum a strip, and apply another meanwhile, if there is one. */
INLINE void tile_measure(int how, ColumnRange *r, Tile *applied, Tile *measured) {
    const ColumnsPlan *c = &r->plan->columns;
    Strip *s = measured->strip;
    for (ptrdiff_t chunk = 0; chunk < c->chunks; chunk++) {
        const ptrdiff_t first = chunk * c->row_chunk;
        const ptrdiff_t count = MIN(c->row_chunk, c->rows.count - first);
        strip_begin_chunk(how, r, s, measured->base, first, count);
        if (applied)
            tile_pass(how, r, applied, measured, first, count);
        else
            strip_sum(how, r->plan, s, measured->base, first, count, r->tile, r->ahead);
        strip_end_chunk(how, r, s, measured->base, first, count, c->chunks > 1 ? r->moments : NULL);
        for (ptrdiff_t set = 0; c->chunks > 1 && set < s->sets; set++) {
            if (chunk == 0)
                r->merged[set] = r->moments[set];
            else
                moments_merge(&r->merged[set], &r->moments[set]);
        }
    }
    for (ptrdiff_t set = 0; c->chunks > 1 && set < s->sets; set++) {
        Stat stat;
        moments_finish(&r->merged[set], r->plan->eps, &stat);
        strip_set_stat(s, set, &stat);
    }
}

static void columns_fused(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const int how = columns_how(&job->plan), lookahead = features_on(FEATURE_LOOKAHEAD);
    const ptrdiff_t count = job->plan.columns.rows.count;
    ColumnRange r;
    Tile tile[2];
    int applies = 0, k = 0;
    columns_begin(&r, job, arena, job->plan.columns.strip);
    if (how & (STREAMED | STAGED) && features_on(FEATURE_PREFETCH))
        r.ahead = COLUMN_CHAIN * inner_step(&job->plan.columns.rows).x;
    for (ptrdiff_t i = first; i < last || applies; i++) {
        Tile *applied = applies ? &tile[k] : NULL, *measured = i < last ? &tile[!k] : NULL;
        if (applied && !(measured && lookahead)) {
            strip_apply(how, &r, applied->strip, &applied->block, 0, count);
            applied = NULL;
        }
        if (measured) {
            tile_at(&r, measured, &r.strip[!k], i);
            tile_measure(how, &r, applied, measured);
            tile_finish(&r, measured);
        }
        applies = measured != NULL;
        k = !k;
    }
    sink_end(&r.sink);
}

/* ---- chunks of rows measured apart, and applied when all are pooled ---- */

static void columns_measure(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const int how = columns_how(&job->plan);
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t strips = up(c->width, c->strip);
    ColumnRange r;
    Strip *s = &r.strip[0];
    columns_begin(&r, job, arena, c->strip);
    if (features_on(FEATURE_PREFETCH) && c->strip < c->width)
        r.ahead = COLUMN_CHAIN * inner_step(&c->rows).x;
    for (ptrdiff_t i = first; i < last; i++) {
        const ptrdiff_t chunk = i / strips % c->chunks, row = chunk * c->row_chunk;
        const ptrdiff_t rows = MIN(c->row_chunk, c->rows.count - row);
        Tile t;
        tile_at(&r, &t, s, i / strips / c->chunks * strips + i % strips);
        strip_begin_chunk(how, &r, s, t.base, row, rows);
        strip_sum(how, r.plan, s, t.base, row, rows, r.tile, r.ahead);
        strip_end_chunk(how, &r, s, t.base, row, rows,
                        job->moments +
                            (i / strips / c->chunks * c->chunks + chunk) * c->sets_per_block +
                            s->first_set);
    }
}

static void columns_apply(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const int how = columns_how(&job->plan);
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t strips = up(c->width, c->apply_strip);
    const ptrdiff_t parts = up(c->rows.count, c->apply_rows);
    const ptrdiff_t end = job->plan.sets.count * parts * strips;
    ptrdiff_t known = -1;
    ColumnRange r;
    Strip *s = &r.strip[0];
    columns_begin(&r, job, arena, c->apply_strip);
    for (ptrdiff_t i = first; i < last; i++) {
        /* Backwards: what was measured last is still in the cache. */
        const ptrdiff_t item = job->given ? i : end - 1 - i;
        const ptrdiff_t part = item / strips % parts, block = item / strips / parts;
        const ptrdiff_t at = item % strips * c->apply_strip;
        const ptrdiff_t row = part * c->apply_rows;
        Cursor cursor;
        cursor_at(&cursor, &job->plan.sets, block);
        if (known != block * strips + item % strips) {
            known = block * strips + item % strips;
            strip_at(s, &job->plan, at, strip_columns(&job->plan, at, c->apply_strip));
            for (ptrdiff_t k = 0; k < s->sets; k++)
                strip_set_stat(s, k, &job->stats[cursor.at.stat + s->first_set + k]);
            strip_coefs(&job->plan, s, cursor.at.param);
        }
        strip_apply(how, &r, s, &cursor.at, row, MIN(c->apply_rows, c->rows.count - row));
    }
    sink_end(&r.sink);
}

#endif
