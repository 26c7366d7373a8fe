/* A strip: adjacent columns that are measured or applied together, and what is known of them.
 * `group` adjacent columns, in each of the `packed` rows that lie side by side, are a set. */
#ifndef FASTNORM_STRIP_H
#define FASTNORM_STRIP_H

#include "../plan/machine.h"
#include "../stats/exceptional.h"
#include "batch.h"

typedef struct {
    ptrdiff_t first, width; /* columns of the block */
    ptrdiff_t sets, first_set;
    ptrdiff_t exceptional; /* sets that the arithmetic has no room for */
    int open;              /* additions to the float32 sums of columns */
    /* by column: sums in float32, then float64 */
    real *sum[SUMS];
    double *total[SUMS];
    /* measuring: see Batch */
    real *pivot, *scale, *unscale, *shift;
    /* applying: see Batch */
    real *hi, *factor, *term, *of_grad, *xhat_shift;
    /* by set */
    double *mean, *rest, *var, *rstd;
    unsigned char *is_exceptional;
    unsigned char *beyond; /* by set; backward: of the sums */
} Strip;

/* Bytes for a strip of so many columns. */
#define STRIP_ARRAYS (SUMS + 9)
#define STRIP_DOUBLES (SUMS + 4)
static inline size_t strip_bytes(ptrdiff_t columns, size_t real_bytes) {
    const size_t room = (size_t)(up(columns, 16) + 1) * 16;
    return room * (STRIP_ARRAYS * real_bytes + STRIP_DOUBLES * sizeof(double) + 2) +
           (STRIP_ARRAYS + STRIP_DOUBLES + 3) * 2 * LINE_BYTES;
}

/* Arrays begin with lines, and not all in the same sets of the cache. */
INLINE void *strip_array(char **p, size_t bytes) {
    void *array = *p;
    *p += up((ptrdiff_t)bytes, LINE_BYTES) * LINE_BYTES + LINE_BYTES;
    return array;
}

INLINE char *strip_begin(Strip *s, char *arena, ptrdiff_t columns) {
    const size_t room = (size_t)(up(columns, 16) + 1) * 16;
    real **reals[] = {&s->pivot,  &s->scale, &s->unscale, &s->shift,     &s->hi,
                      &s->factor, &s->term,  &s->of_grad, &s->xhat_shift};
    double **doubles[] = {&s->mean, &s->rest, &s->var, &s->rstd};
    for (int k = 0; k < SUMS; k++) {
        s->sum[k] = strip_array(&arena, room * sizeof(real));
        s->total[k] = strip_array(&arena, room * sizeof(double));
    }
    for (int k = 0; k < 9; k++)
        *reals[k] = strip_array(&arena, room * sizeof(real));
    for (int k = 0; k < 4; k++)
        *doubles[k] = strip_array(&arena, room * sizeof(double));
    s->is_exceptional = strip_array(&arena, room);
    s->beyond = strip_array(&arena, room);
    s->exceptional = 0;
    return arena;
}

INLINE void strip_at(Strip *s, const Plan *plan, ptrdiff_t first, ptrdiff_t width) {
    const ColumnsPlan *c = &plan->columns;
    s->first = first;
    s->width = width;
    s->sets = c->packed > 1 ? c->sets_per_block : width / c->group;
    s->first_set = first / c->group;
}

/* Part of a strip: the columns of a line, from column k on. */
INLINE Strip strip_part(const Strip *s, ptrdiff_t k) {
    Strip part = *s;
    part.width = MIN(LINE, s->width - k);
    for (int i = 0; i < SUMS; i++) {
        part.sum[i] += k;
        part.total[i] += k;
    }
    part.pivot += k;
    part.scale += k;
    part.unscale += k;
    part.shift += k;
    return part;
}

INLINE void strip_set_stat(Strip *s, ptrdiff_t set, const Stat *stat) {
    s->mean[set] = stat->mean;
    s->rest[set] = stat->rest;
    s->var[set] = stat->var;
    s->rstd[set] = stat->rstd;
}

INLINE int strip_is_plain(const Plan *plan) {
    return plan->columns.group == 1 && plan->columns.packed == 1;
}

/* Walking the columns of a strip with the set and the parameter of each, without divisions. */
typedef struct {
    ptrdiff_t set, param;
    ptrdiff_t member, repeated, left; /* in the group, with this parameter, until rows repeat */
} Column;

INLINE void column_at(Column *c, const Plan *plan, const Strip *s) {
    c->set = c->member = c->repeated = 0;
    c->param = s->first / plan->columns.repeat;
    c->left = plan->columns.width / plan->columns.packed;
}

INLINE void column_next(Column *c, const Plan *plan) {
    if (++c->member == plan->columns.group) {
        c->member = 0;
        c->set++;
    }
    if (++c->repeated == plan->columns.repeat) {
        c->repeated = 0;
        c->param++;
    }
    if (plan->columns.packed > 1 && --c->left == 0) {
        c->set = c->param = c->member = c->repeated = 0;
        c->left = plan->columns.width / plan->columns.packed;
    }
}

/* The sums of columns become those of sets, in their place: column by column, packed rows outside.
 */
INLINE void strip_pool(const Plan *plan, Strip *s, int sums) {
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t channels = c->packed > 1 ? c->width / c->packed : s->width;
    if (strip_is_plain(plan))
        return;
    for (int k = 0; k < sums; k++) {
        double *total = s->total[k];
        for (ptrdiff_t f = 1; f < c->packed; f++)
            for (ptrdiff_t i = 0; i < channels; i++)
                total[i] += total[f * channels + i];
        for (ptrdiff_t set = 0; set < s->sets; set++) {
            double sum = 0;
            for (ptrdiff_t i = 0; i < c->group; i++)
                sum += total[set * c->group + i];
            total[set] = sum;
        }
    }
}

/* ---- rows of a strip, up to eight at a time ---- */

typedef struct {
    const char *x, *grad; /* even: of the first row */
    ptrdiff_t stride, grad_stride;
    Place at[COLUMN_CHAIN]; /* of each row */
    int count, even;
    ptrdiff_t width; /* of these rows in the strip: less where the last packed row is shorter */
} RowBlock;

/* The rows from the cursor on; the last one of packed rows is a block of its own. */
NOINLINE void row_block_take(RowBlock *b, const Plan *plan, const Strip *s, Cursor *rows,
                             ptrdiff_t row, ptrdiff_t end) {
    const ColumnsPlan *c = &plan->columns;
    const int ragged = c->last_width != c->width;
    const ptrdiff_t full = ragged ? c->rows.count - 1 : c->rows.count;
    const Place step = inner_step(&c->rows);
    b->width = s->width;
    b->count = (int)MIN(COLUMN_CHAIN, end - row);
    if (ragged && row + b->count > full) {
        b->count = (int)MAX(full - row, 0);
        if (b->count == 0) {
            b->count = 1;
            b->width = c->last_width;
        }
    }
    b->even = inner_left(rows) >= b->count;
    b->stride = step.x;
    b->grad_stride = step.y;
    if (b->even) {
        for (int k = 0; k < b->count; k++)
            b->at[k] = (Place){rows->at.x + k * step.x, rows->at.y + k * step.y,
                               rows->at.param + k * step.param, 0};
        cursor_skip(rows, b->count);
        return;
    }
    for (int k = 0; k < b->count; k++, cursor_next(rows))
        b->at[k] = rows->at;
}

/* Rows that are not of the arithmetic's type, or not evenly spaced, are read by way of a tile. */
INLINE const char *row_block_elements(int how, const Plan *plan, const RowBlock *b,
                                      const char *base, int grad, real *tile, ptrdiff_t *stride) {
    const ptrdiff_t room = (up(b->width, LINE) + 1) * LINE;
    if (!(how & CONVERT) && b->even) {
        *stride = grad ? b->grad_stride : b->stride;
        return base + (grad ? b->at[0].y : b->at[0].x);
    }
    for (int k = 0; k < b->count; k++) {
        const char *row = base + (grad ? b->at[k].y : b->at[k].x);
        if (how & CONVERT)
            load_elements(plan->dtype, row, tile + k * room, b->width);
        else
            memcpy(tile + k * room, row, (size_t)b->width * sizeof(real));
    }
    *stride = room * (ptrdiff_t)sizeof(real);
    return (const char *)tile;
}

/* Sums of `open` chains go from float32 to float64. */
NOINLINE void strip_close(Strip *s, int first_sum, int sums) {
    for (int k = first_sum; k < sums; k++) {
        real *restrict sum = s->sum[k];
        double *restrict total = s->total[k];
        for (ptrdiff_t i = 0; i < s->width; i++) {
            total[i] += (double)sum[i];
            sum[i] = 0;
        }
    }
    s->open = 0;
}

INLINE void strip_clear(Strip *s, int sums) {
    for (int k = 0; k < sums; k++) {
        memset(s->sum[k], 0, (size_t)s->width * sizeof(real));
        memset(s->total[k], 0, (size_t)s->width * sizeof(double));
    }
    s->open = 0;
}

#endif
