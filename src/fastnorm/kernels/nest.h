/* Walking a loop nest: a position that knows its offsets (x and y in bytes). */
#ifndef FASTNORM_NEST_H
#define FASTNORM_NEST_H

#include "kernels.h"

typedef struct {
    ptrdiff_t x, y, param, stat;
} Place;

typedef struct {
    Place at;
    const Nest *nest;
    ptrdiff_t index[MAX_AXES];
} Cursor;

static inline void cursor_at(Cursor *c, const Nest *nest, ptrdiff_t position) {
    c->nest = nest;
    c->at.x = c->at.y = c->at.param = c->at.stat = 0;
    for (int d = nest->ndim - 1; d >= 0; d--) {
        ptrdiff_t i = position;
        if (d > 0) {
            position /= nest->size[d];
            i -= position * nest->size[d];
        }
        c->index[d] = i;
        c->at.x += i * nest->x[d];
        c->at.y += i * nest->y[d];
        c->at.param += i * nest->param[d];
        c->at.stat += i * nest->stat[d];
    }
}

static inline void cursor_next(Cursor *c) {
    const Nest *nest = c->nest;
    for (int d = nest->ndim - 1; d >= 0; d--) {
        c->at.x += nest->x[d];
        c->at.y += nest->y[d];
        c->at.param += nest->param[d];
        c->at.stat += nest->stat[d];
        if (++c->index[d] < nest->size[d] || d == 0)
            return;
        c->at.x -= nest->x[d] * nest->size[d];
        c->at.y -= nest->y[d] * nest->size[d];
        c->at.param -= nest->param[d] * nest->size[d];
        c->at.stat -= nest->stat[d] * nest->size[d];
        c->index[d] = 0;
    }
}

/* From a position to the next in the innermost loop; nothing without loops. */
static inline void inner_step(const Nest *nest, Place *step) {
    const int last = nest->ndim - 1;
    step->x = last < 0 ? 0 : nest->x[last];
    step->y = last < 0 ? 0 : nest->y[last];
    step->param = last < 0 ? 0 : nest->param[last];
    step->stat = last < 0 ? 0 : nest->stat[last];
}

/* Positions from here to the end of the innermost loop. */
static inline ptrdiff_t inner_left(const Cursor *c) {
    const int last = c->nest->ndim - 1;
    return last < 0 ? 1 : c->nest->size[last] - c->index[last];
}

/* n positions on, no more than are left in the innermost loop. */
static inline void cursor_skip(Cursor *c, ptrdiff_t n) {
    Place step;
    inner_step(c->nest, &step);
    if (c->nest->ndim > 0)
        c->index[c->nest->ndim - 1] += n - 1;
    c->at.x += (n - 1) * step.x;
    c->at.y += (n - 1) * step.y;
    c->at.param += (n - 1) * step.param;
    c->at.stat += (n - 1) * step.stat;
    cursor_next(c);
}

/* Walking the rows of a nest by their addresses alone: cheaper than a cursor. */
typedef struct {
    const Nest *nest;
    const char *base, *at;
    ptrdiff_t position, left, stride; /* rows left in the innermost loop, and their distance */
} RowWalk;

static inline void rows_seek(RowWalk *w, ptrdiff_t position) {
    Cursor cursor;
    Place step;
    cursor_at(&cursor, w->nest, position);
    inner_step(w->nest, &step);
    w->position = position;
    w->at = w->base + cursor.at.x;
    w->left = inner_left(&cursor);
    w->stride = step.x;
}

/* Past n rows, of which at least so many are left. */
static inline void rows_skip(RowWalk *w, ptrdiff_t n) {
    w->position += n;
    w->at += n * w->stride;
    w->left -= n;
    if (w->left == 0 && w->position < w->nest->count)
        rows_seek(w, w->position);
}

static inline const char *rows_next(RowWalk *w) {
    const char *row = w->at;
    rows_skip(w, 1);
    return row;
}

static inline int any_param(const Nest *nest) {
    for (int d = 0; d < nest->ndim; d++)
        if (nest->param[d])
            return 1;
    return 0;
}

/* Walking the columns of a strip, because divisions are slow: a column's channel, and the number of
 * its statistic after that of the first. */
typedef struct {
    ptrdiff_t channel, stat;
    ptrdiff_t member, group, channels; /* of its group; how many a group and a row have */
} Column;

static inline void column_at(Column *c, const Plan *plan, ptrdiff_t channel) {
    c->channel = channel;
    c->stat = c->member = 0;
    c->group = plan->group;
    c->channels = plan->width / plan->fold;
}

static inline void column_next(Column *c) {
    c->channel++;
    if (++c->member == c->group) {
        c->member = 0;
        c->stat++;
    }
    if (c->channel == c->channels) /* the next of the folded rows */
        c->channel = c->member = c->stat = 0;
}

/* The piece of a run, or the several runs, that make one chunk of a walk. */
typedef struct {
    ptrdiff_t first, count;  /* runs */
    ptrdiff_t start, length; /* elements of each */
} Chunk;

/* Results go through pointers here and below: a struct returned is a struct copied, by a load
 * wider than the stores before it, which waits for all of those to reach the cache. */
static inline void chunk_of(const Walk *walk, ptrdiff_t chunk, Chunk *c) {
    if (walk->pieces > 1) {
        c->first = chunk / walk->pieces;
        c->count = 1;
        c->start = (chunk - c->first * walk->pieces) * CHUNK;
        c->length = walk->length - c->start < CHUNK ? walk->length - c->start : CHUNK;
    } else {
        c->first = chunk * walk->per_chunk;
        c->count = walk->runs.count - c->first;
        if (c->count > walk->per_chunk)
            c->count = walk->per_chunk;
        c->start = 0;
        c->length = walk->length;
    }
}

/* From a run of the output to the one after the next (or from a unit to such a unit, if units are
 * runs), in bytes; a guess, for what is fetched ahead. */
static inline ptrdiff_t two_runs(const Plan *plan) {
    Place step;
    inner_step(plan->apply.runs.ndim ? &plan->apply.runs : &plan->kept, &step);
    return 2 * step.y;
}

#endif
