/* Walking a loop nest: a position that knows its offsets. */
#ifndef FASTNORM_NEST_H
#define FASTNORM_NEST_H

#include "kernels.h"

typedef struct {
    const Nest *nest;
    ptrdiff_t x, y, param, stat;
    ptrdiff_t index[MAX_AXES];
} Cursor;

static inline void cursor_at(Cursor *c, const Nest *nest, ptrdiff_t position) {
    c->nest = nest;
    c->x = c->y = c->param = c->stat = 0;
    for (int d = nest->ndim - 1; d >= 0; d--) {
        ptrdiff_t i = position;
        if (d > 0) {
            position /= nest->size[d];
            i -= position * nest->size[d];
        }
        c->index[d] = i;
        c->x += i * nest->x[d];
        c->y += i * nest->y[d];
        c->param += i * nest->param[d];
        c->stat += i * nest->stat[d];
    }
}

static inline void cursor_next(Cursor *c) {
    const Nest *nest = c->nest;
    for (int d = nest->ndim - 1; d >= 0; d--) {
        c->x += nest->x[d];
        c->y += nest->y[d];
        c->param += nest->param[d];
        c->stat += nest->stat[d];
        if (++c->index[d] < nest->size[d] || d == 0)
            return;
        c->x -= nest->x[d] * nest->size[d];
        c->y -= nest->y[d] * nest->size[d];
        c->param -= nest->param[d] * nest->size[d];
        c->stat -= nest->stat[d] * nest->size[d];
        c->index[d] = 0;
    }
}

/* The piece of a run, or the several runs, that make one chunk of a walk. */
typedef struct {
    ptrdiff_t first, count;  /* runs */
    ptrdiff_t start, length; /* elements of each */
} Chunk;

static inline Chunk chunk_of(const Walk *walk, ptrdiff_t chunk) {
    Chunk c = {0, 1, 0, walk->length};
    if (walk->pieces > 1) {
        c.first = chunk / walk->pieces;
        c.start = (chunk - c.first * walk->pieces) * CHUNK;
        c.length = walk->length - c.start < CHUNK ? walk->length - c.start : CHUNK;
    } else {
        c.first = chunk * walk->per_chunk;
        c.count = walk->runs.count - c.first;
        if (c.count > walk->per_chunk)
            c.count = walk->per_chunk;
    }
    return c;
}

#endif
