/* Walking a loop nest: a position that knows its offsets (x and y in bytes). */
#ifndef FASTNORM_NEST_H
#define FASTNORM_NEST_H

#include "plan.h"

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
static inline Place inner_step(const Nest *nest) {
    const int last = nest->ndim - 1;
    return last < 0 ? (Place){0, 0, 0, 0}
                    : (Place){nest->x[last], nest->y[last], nest->param[last], nest->stat[last]};
}

/* Positions from here to the end of the innermost loop. */
static inline ptrdiff_t inner_left(const Cursor *c) {
    const int last = c->nest->ndim - 1;
    return last < 0 ? 1 : c->nest->size[last] - c->index[last];
}

/* n positions on, no more than are left in the innermost loop. */
static inline void cursor_skip(Cursor *c, ptrdiff_t n) {
    const Place step = inner_step(c->nest);
    if (c->nest->ndim > 0)
        c->index[c->nest->ndim - 1] += n - 1;
    c->at.x += (n - 1) * step.x;
    c->at.y += (n - 1) * step.y;
    c->at.param += (n - 1) * step.param;
    c->at.stat += (n - 1) * step.stat;
    cursor_next(c);
}

static inline int has_param(const Nest *nest) {
    for (int d = 0; d < nest->ndim; d++)
        if (nest->param[d])
            return 1;
    return 0;
}

/* The pieces of a set of rows, one after the other: offsets from the set, elements. */
typedef struct {
    Cursor run;
    const RowsPlan *rows;
    ptrdiff_t part;
    Place at;
    ptrdiff_t start, length;
} PieceWalk;

static inline void piece_place(PieceWalk *w, ptrdiff_t size) {
    w->start = w->part * w->rows->piece;
    w->length = MIN(w->rows->piece, w->rows->length - w->start);
    w->at = w->run.at;
    w->at.x += w->start * size;
    w->at.y += w->start * size;
}

static inline void pieces_at(PieceWalk *w, const RowsPlan *rows, ptrdiff_t piece, ptrdiff_t size) {
    w->rows = rows;
    w->part = rows->pieces == 1 ? 0 : piece % rows->pieces;
    cursor_at(&w->run, &rows->runs, rows->pieces == 1 ? piece : piece / rows->pieces);
    piece_place(w, size);
}

static inline void pieces_next(PieceWalk *w, ptrdiff_t size) {
    if (++w->part == w->rows->pieces) {
        w->part = 0;
        cursor_next(&w->run);
    }
    piece_place(w, size);
}

static inline ptrdiff_t piece_count(const RowsPlan *rows) {
    return rows->runs.count * rows->pieces;
}

#endif
