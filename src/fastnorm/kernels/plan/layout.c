/* Sorting, dropping and joining axes until an array is rows or columns. */
#include "layout.h"
#include "nest.h"

static ptrdiff_t magnitude_of(ptrdiff_t stride) { return stride < 0 ? -stride : stride; }

/* Whether stepping over a goes around stepping over b.  A broadcast axis (stride 0) goes outside,
 * so that it is not taken for a contiguous one. */
static int is_outside(const Axis *a, const Axis *b) {
    if (a->x == 0 || b->x == 0)
        return a->x == 0 && b->x != 0;
    return magnitude_of(a->x) > magnitude_of(b->x);
}

/* Axes of one index have no say in the layout, and NumPy gives them any stride.  One exception: a
 * batch of one (axis 0) cut from memory where the batch is innermost is walked by columns, like
 * the batch that it was cut from, so that it gets the same bits. */
static int drop_single(Axis *axes, int n) {
    int kept = 0, innermost = axes[0].size == 1 && axes[0].role == KEPT && axes[0].x > 0;
    for (int i = 1; i < n && innermost; i++)
        innermost = axes[i].size == 1 || magnitude_of(axes[i].x) > axes[0].x;
    for (int i = 0; i < n; i++)
        if (axes[i].size != 1 || (i == 0 && innermost))
            axes[kept++] = axes[i];
    return kept;
}

static int has_kept(const Axis *axes, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        kept |= axes[i].role & KEPT;
    return kept != 0;
}

static void sort_outermost_first(Axis *axes, int n) {
    for (int i = 1; i < n; i++) {
        Axis a = axes[i];
        int j = i;
        for (; j > 0 && is_outside(&a, &axes[j - 1]); j--)
            axes[j] = axes[j - 1];
        axes[j] = a;
    }
}

/* Join neighbours that are one contiguous axis for input, output, parameters and statistics. */
static int join(Axis *axes, int n) {
    int last = 0;
    for (int i = 1; i < n; i++) {
        Axis *outer = &axes[last], *inner = &axes[i];
        ptrdiff_t k = inner->size;
        if (outer->x == inner->x * k && outer->y == inner->y * k &&
            outer->param == inner->param * k && outer->stat == inner->stat * k) {
            inner->size *= outer->size;
            *outer = *inner;
        } else {
            axes[++last] = *inner;
        }
    }
    return n ? last + 1 : 0;
}

static void add_loop(Nest *nest, const Axis *axis) {
    const int d = nest->ndim++;
    nest->size[d] = axis->size;
    nest->x[d] = axis->x;
    nest->y[d] = axis->y;
    nest->param[d] = axis->param;
    nest->stat[d] = axis->stat;
    nest->count *= axis->size;
}

static void make_nest(Nest *nest, const Axis *axes, int n) {
    nest->ndim = 0;
    nest->count = 1;
    for (int i = 0; i < n; i++)
        add_loop(nest, &axes[i]);
}

/* Parameters are laid out like the array's memory, so that they too are read in order. */
static void order_parameters(Order *order, Axis *axes, int n) {
    ptrdiff_t stride = 1;
    order->param_reordered = 0;
    order->param_ndim = 0;
    for (int i = 0; i < n; i++)
        if (axes[i].param)
            order->param_axis[order->param_ndim++] = axes[i].param_axis;
    for (int i = n - 1; i >= 0; i--) {
        if (!axes[i].param)
            continue;
        order->param_reordered |= axes[i].param != stride;
        axes[i].param = stride;
        stride *= axes[i].size;
    }
}

/* Number the statistics in memory order; remember the caller's order. */
static void order_statistics(Plan *plan, Order *order, Axis *axes, int n) {
    ptrdiff_t stride = 1;
    make_nest(&order->stats, axes, 0);
    for (int i = 0; i < n; i++)
        if (axes[i].role & KEPT)
            add_loop(&order->stats, &axes[i]);
    plan->stats = order->stats.count;
    order->stats_reordered = 0;
    for (int i = n - 1; i >= 0; i--) {
        if (!(axes[i].role & KEPT))
            continue;
        order->stats_reordered |= axes[i].stat != stride;
        axes[i].stat = stride;
        stride *= axes[i].size;
    }
}

/* Lay rows of few columns side by side: k rows become one, and each of its columns has every k-th
 * row.  Only where the columns are the channels: their number must not depend on the batch, or the
 * bits would. */
static void pack_rows(ColumnsPlan *c, ptrdiff_t itemsize) {
    Nest *rows = &c->rows;
    const ptrdiff_t bytes = c->width * itemsize, channels = c->width;
    if (c->width >= PACK_COLUMNS || rows->ndim != 1 || rows->x[0] != bytes || rows->y[0] != bytes)
        return;
    const ptrdiff_t k = MIN(PACKED_COLUMNS / c->width, rows->size[0] / COLUMN_CHAIN);
    if (k * c->width < PACK_COLUMNS)
        return;
    const ptrdiff_t left = rows->size[0] % k;
    c->packed = k;
    c->width *= k;
    c->last_width = left ? left * channels : c->width;
    rows->count = rows->size[0] = up(rows->size[0], k);
    rows->x[0] *= k;
    rows->y[0] *= k;
}

static void plan_columns(Plan *plan, Axis *kept, int nkept, Axis *reduced, int nreduced,
                         ptrdiff_t itemsize) {
    ColumnsPlan *c = &plan->columns;
    const Axis channel = kept[nkept - 1];
    nkept = join(kept, nkept);
    nreduced = join(reduced, nreduced);
    const Axis run = kept[nkept - 1];
    make_nest(&plan->sets, kept, nkept - 1);
    make_nest(&c->rows, reduced, nreduced);
    c->width = c->last_width = run.size;
    c->packed = 1;
    plan->along = run.param != 0;
    c->sets_per_block = run.size / c->group;
    if (channel.role & PARAM && channel.size == run.size && c->group == 1)
        pack_rows(c, itemsize);
    const ptrdiff_t share = up(c->rows.count, ROW_CHUNKS);
    c->row_chunk = MAX(ROW_CHUNK, up(share, 64) * 64);
    c->chunks = up(c->rows.count, c->row_chunk);
}

static void plan_rows(Plan *plan, Axis *kept, int nkept, Axis *reduced, int nreduced,
                      ptrdiff_t real_bytes) {
    RowsPlan *r = &plan->rows;
    const ptrdiff_t lane_block = LINE_BYTES / real_bytes;
    nkept = join(kept, nkept);
    make_nest(&plan->sets, kept, nkept);
    plan->along = reduced[nreduced - 1].param != 0;
    nreduced = join(reduced, nreduced);
    make_nest(&r->runs, reduced, nreduced - 1);
    r->length = reduced[nreduced - 1].size;
    r->piece = LEVEL * CHAINS * CHAIN * lane_block;
    r->pieces = up(r->length, r->piece);
    r->per_chunk = MAX(1, CHUNK / MIN(r->length, r->piece));
    if (r->pieces == 1)
        r->piece = r->length;
    r->chunks = up(piece_count(r), r->per_chunk);
}

/* Batch norm of small maps, channels first: the elements of one sample are columns, which are
 * pooled for each channel.  Makes the axes of a map one, if so. */
static int join_maps(Axis *axes, int *n, ptrdiff_t itemsize) {
    const int first = 2; /* after samples and channels */
    ptrdiff_t size = 1;
    if (*n <= first)
        return 0;
    for (int i = *n - 1; i >= first; i--) {
        if (axes[i].role & (KEPT | PARAM) || axes[i].x != size * itemsize || axes[i].y != axes[i].x)
            return 0;
        size *= axes[i].size;
    }
    const Axis *channel = &axes[1], *samples = &axes[0];
    if (channel->role != (KEPT | PARAM) || samples->role & (KEPT | PARAM) ||
        samples->size < MAP_SAMPLES || size >= MAP_COLUMNS || channel->x != size * itemsize ||
        channel->y != channel->x)
        return 0;
    axes[first] = axes[*n - 1];
    axes[first].size = size;
    *n = first + 1;
    return 1;
}

/* Join the two innermost axes, of which the inner one is pooled, to columns. */
static int join_group(Plan *plan, Axis *axes, int n, ptrdiff_t repeat) {
    Axis *last = &axes[n - 1];
    plan->columns.group = last->size;
    plan->columns.repeat = repeat;
    last->size *= (last - 1)->size;
    last->role = KEPT | PARAM;
    last->param = (last - 1)->param || last->param; /* walked by the columns themselves */
    last->stat = 0;                                 /* a column knows its set */
    *(last - 1) = *last;
    return n - 1;
}

int layout_plan(Plan *plan, Order *order, Axis *axes, int n, ptrdiff_t itemsize, int given) {
    Axis kept[MAX_AXES], reduced[MAX_AXES];
    int nkept = 0, nreduced = 0;

    const int any_kept = has_kept(axes, n);
    n = drop_single(axes, n);
    if (n == 0) /* one element: a batch of one, or a run of one that is normalised over */
        axes[n++] = (Axis){.size = 1,
                           .x = itemsize,
                           .y = itemsize,
                           .role = any_kept ? KEPT : PARAM,
                           .param = !any_kept};
    sort_outermost_first(axes, n);
    if (axes[n - 1].x != itemsize || axes[n - 1].y != itemsize)
        return 0;
    order_parameters(order, axes, n);

    plan->columns.group = plan->columns.repeat = 1;
    plan->count = 1;
    for (int i = 0; i < n; i++)
        if (!(axes[i].role & KEPT))
            plan->count *= axes[i].size;
    const int maps = join_maps(axes, &n, itemsize);

    if (!given || maps) {
        order_statistics(plan, order, axes, n);
    } else if (!(axes[n - 1].role & KEPT)) {
        /* Nothing is measured, so rows need not be visited set by set: all axes around the channels
         * are walked in the order of memory. */
        int channel = n - 1;
        while (channel > 0 && !(axes[channel].role & KEPT))
            channel--;
        for (int i = 0; i < channel; i++)
            axes[i].role |= KEPT;
    }

    Axis *last = &axes[n - 1];
    const int by_columns = n > 1 && last->role & SPLIT && last->size <= GROUP_COLUMNS &&
                           plan->count >= last->size * GROUP_ROWS;
    if (maps) {
        n = join_group(plan, axes, n, last->size);
    } else if (by_columns && (last - 1)->role == (KEPT | PARAM) &&
               (last - 1)->x == last->x * last->size && (last - 1)->y == last->y * last->size) {
        n = join_group(plan, axes, n, 1);
    } else if (by_columns && (last - 1)->role != (KEPT | PARAM)) { /* one group */
        plan->columns.group = last->size;
        last->role = KEPT | PARAM;
        last->stat = 0;
    }

    for (int i = 0; i < n; i++) {
        if (axes[i].role & KEPT)
            kept[nkept++] = axes[i];
        else
            reduced[nreduced++] = axes[i];
    }
    plan->family = axes[n - 1].role & KEPT ? COLUMNS : ROWS;
    if (plan->family == COLUMNS)
        plan_columns(plan, kept, nkept, reduced, nreduced, itemsize);
    else
        plan_rows(plan, kept, nkept, reduced, nreduced, itemsize == 8 ? 8 : 4);
    return 1;
}
