/* Sorting, dropping and joining axes until an array is rows or columns. */
#include "layout.h"
#include "nest.h"
#include "processor.h"
#include <stdint.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

enum {
    FEW_COLUMNS = 32,  /* fewer than this leave vectors half empty: fold rows */
    GROUP_MAX = STRIP, /* a group of more channels has runs long enough to be rows */
    GROUP_ROWS = 16    /* with fewer positions, moments per column do not pay */
};

static ptrdiff_t magnitude(ptrdiff_t stride) { return stride < 0 ? -stride : stride; }

/* Whether stepping over a goes around stepping over b.  A broadcast axis (stride 0) goes outside,
 * so that it is not taken for a contiguous one. */
static int is_outside(const Axis *a, const Axis *b) {
    if (a->x == 0 || b->x == 0)
        return a->x == 0 && b->x != 0;
    return magnitude(a->x) > magnitude(b->x);
}

/* Axes of one index have no say in the layout, and NumPy gives them any stride.  One exception: a
 * batch of one (axis 0) cut from memory where the batch is innermost is walked by columns, like
 * the batch that it was cut from, so that it gets the same bits. */
static int drop_single(Axis *axes, int n) {
    int kept = 0, innermost = axes[0].size == 1 && axes[0].role == KEPT && axes[0].x > 0;
    for (int i = 1; i < n && innermost; i++)
        innermost = axes[i].size == 1 || magnitude(axes[i].x) > axes[0].x;
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

static void make_walk(Walk *walk, Axis *axes, int n) {
    n = join(axes, n);
    make_nest(&walk->runs, axes, n - 1);
    walk->length = axes[n - 1].size;
    walk->pieces = walk->chunks = 1;
    walk->per_chunk = walk->runs.count;
    if (walk->runs.count * walk->length <= CHUNK)
        return;
    if (walk->length > CHUNK) {
        walk->pieces = (walk->length + CHUNK - 1) / CHUNK;
        walk->chunks = walk->runs.count * walk->pieces;
    } else {
        walk->per_chunk = CHUNK / walk->length;
        walk->chunks = (walk->runs.count + walk->per_chunk - 1) / walk->per_chunk;
    }
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

/* Lay rows of few columns side by side: k rows become one, and each of its columns has the
 * moments of every k-th row.  Only where the columns are the channels: their number must not
 * depend on the batch, or the bits would. */
static void fold_rows(Plan *plan, ptrdiff_t itemsize) {
    Nest *rows = &plan->rows;
    ptrdiff_t bytes = plan->width * itemsize;
    if (plan->width >= FEW_COLUMNS || rows->ndim != 1 || rows->x[0] != bytes || rows->y[0] != bytes)
        return;
    ptrdiff_t k = MIN(FOLD_WIDTH / plan->width, rows->size[0] / 8);
    if (k * plan->width < FEW_COLUMNS)
        return;
    plan->fold = k;
    plan->width *= k;
    plan->tail_rows = rows->size[0] % k;
    rows->count = rows->size[0] /= k;
    rows->x[0] *= k;
    rows->y[0] *= k;
}

static void plan_columns(Plan *plan, Axis *kept, int nkept, Axis *reduced, int nreduced,
                         ptrdiff_t itemsize) {
    Axis channel = kept[nkept - 1];
    nkept = join(kept, nkept);
    nreduced = join(reduced, nreduced);
    Axis run = kept[nkept - 1];
    make_nest(&plan->kept, kept, nkept - 1);
    make_nest(&plan->rows, reduced, nreduced);
    plan->width = run.size;
    plan->param_vector = run.param != 0;
    plan->stats_per_block = run.size / plan->group;
    if (channel.role & PARAM && channel.size == run.size)
        fold_rows(plan, itemsize);
    plan->dense = plan->rows.ndim == 1 && plan->rows.x[0] == plan->width * itemsize &&
                  plan->rows.y[0] == plan->rows.x[0];
    ptrdiff_t share = (plan->rows.count + 63) / 64;
    plan->row_chunk = MAX(1024, (share + 63) / 64 * 64);
    plan->chunks = (plan->rows.count + plan->row_chunk - 1) / plan->row_chunk;
}

static void plan_rows(Plan *plan, Axis *kept, int nkept, Axis *reduced, int nreduced) {
    Axis copy[MAX_AXES];
    nkept = join(kept, nkept);
    make_nest(&plan->kept, kept, nkept);
    for (int i = 0; i < nreduced; i++) {
        copy[i] = reduced[i];
        copy[i].param = 0;
    }
    make_walk(&plan->measure, copy, nreduced);
    plan->param_vector = reduced[nreduced - 1].param != 0;
    make_walk(&plan->apply, reduced, nreduced);
    int alike = 1; /* parameters that vary along the row are the same for all rows */
    for (int d = 0; d < plan->kept.ndim; d++)
        alike &= !plan->param_vector || plan->kept.param[d] == 0;
    plan->short_rows = plan->measure.length == plan->count && plan->apply.length == plan->count &&
                       plan->count < SHORT_ROW && alike;
}

int layout_plan(Plan *plan, Order *order, Axis *axes, int n, ptrdiff_t itemsize, int given) {
    Axis kept[MAX_AXES], reduced[MAX_AXES];
    int nkept = 0, nreduced = 0;

    const int any_kept = has_kept(axes, n);
    n = drop_single(axes, n);
    if (n == 0) /* one element: a batch of one, as far as there is one */
        axes[n++] = (Axis){.size = 1, .x = itemsize, .y = itemsize, .role = any_kept ? KEPT : 0};
    sort_outermost_first(axes, n);
    if (axes[n - 1].x != itemsize || axes[n - 1].y != itemsize)
        return 0;
    order_parameters(order, axes, n);

    if (!given) {
        order_statistics(plan, order, axes, n);
    } else if (!(axes[n - 1].role & KEPT)) {
        /* Nothing is measured, so rows need not be visited statistic by statistic: all axes
         * around the channels are walked in the order of memory. */
        int channel = n - 1;
        while (channel > 0 && !(axes[channel].role & KEPT))
            channel--;
        for (int i = 0; i < channel; i++)
            axes[i].role |= KEPT;
    }

    plan->group = plan->fold = 1;
    plan->tail_rows = 0;
    plan->count = 1;
    for (int i = 0; i < n; i++)
        if (!(axes[i].role & KEPT))
            plan->count *= axes[i].size;

    Axis *last = &axes[n - 1];
    if (n > 1 && last->role & SPLIT && last->size <= GROUP_MAX &&
        plan->count >= last->size * GROUP_ROWS && (last - 1)->role == (KEPT | PARAM) &&
        (last - 1)->x == last->x * last->size && (last - 1)->y == last->y * last->size) {
        /* groups of adjacent channels: columns, pooled afterwards */
        plan->group = last->size;
        last->size *= (last - 1)->size;
        last->role = KEPT | PARAM;
        last->stat = 0; /* never walked: a column knows its group */
        *(last - 1) = *last;
        n--;
    }

    for (int i = 0; i < n; i++) {
        if (axes[i].role & KEPT)
            kept[nkept++] = axes[i];
        else
            reduced[nreduced++] = axes[i];
    }
    plan->columns = (axes[n - 1].role & KEPT) != 0;
    if (plan->columns)
        plan_columns(plan, kept, nkept, reduced, nreduced, itemsize);
    else
        plan_rows(plan, kept, nkept, reduced, nreduced);
    return 1;
}

int layout_balanced(ptrdiff_t tasks, int threads) {
    return tasks >= 4 * threads || tasks % threads == 0;
}

enum { STRIP_BYTES = 1 << 20, LEAST_RUN_BYTES = 2048 };

/* The width of so many strips that are equal as far as whole groups, or whole lines, allow. */
static ptrdiff_t equal_strip(const Plan *plan, ptrdiff_t strips, ptrdiff_t line) {
    const ptrdiff_t unit = plan->group > 1 ? plan->group : line;
    return MIN(plan->width, up(up(plan->width, strips), unit) * unit);
}

/* Few strips may leave a thread without one: more and narrower ones, if they fit in the cache and
 * the pieces of rows do not get too short. */
static void even_strips(Plan *plan, ptrdiff_t itemsize, int threads) {
    const ptrdiff_t blocks = plan->kept.count;
    ptrdiff_t strips = strip_count(&plan->strips);
    if (threads == 1 || plan->fold > 1 || layout_balanced(blocks * strips, threads))
        return;
    while (blocks * strips % threads)
        strips++;
    const ptrdiff_t strip = equal_strip(plan, strips, LINE_BYTES / itemsize);
    if (strip * itemsize >= LEAST_RUN_BYTES / 2 && strip <= plan->strips.width &&
        plan->rows.count * strip * itemsize <= cache_bytes(threads) &&
        layout_balanced(blocks * up(plan->width, strip), threads))
        plan->strips.width = strip;
}

/* In two passes strips are measured from memory, which gives more of longer pieces.
 * Returns whether that is so. */
static int widen_strips(Plan *plan, int threads) {
    const ptrdiff_t strip = MIN(plan->width, MAX(WIDEST / plan->group, 1) * plan->group);
    const ptrdiff_t tasks = plan->kept.count * up(plan->width, strip) * row_chunks(plan);
    if (plan->fold > 1 || is_split(plan) || strip <= plan->strips.width || tasks < 3 * threads)
        return 0;
    plan->strips.width = strip;
    return 1;
}

/* Let all strips but the first begin with a line of the output, as far as they can (rows begin
 * alike, mostly): a line on two strips would be stored in two parts. */
static void align_strips(const Plan *plan, ptrdiff_t itemsize, Strips *strips) {
    if (plan->stream && plan->group == 1 && strips->width % (LINE_BYTES / itemsize) == 0)
        strips->shift = (ptrdiff_t)((uintptr_t)plan->y % LINE_BYTES) / itemsize;
}

/* Whether the threads' caches together hold so many arrays of columns. */
static int stay_cached(const Plan *plan, ptrdiff_t arrays, ptrdiff_t itemsize, int threads) {
    const ptrdiff_t bytes = plan->kept.count * plan->rows.count * plan->width * itemsize;
    return arrays * bytes <= threads * cache_bytes(threads);
}

/* What is applied after all has been measured: whole rows, or pieces as wide as their coefficients
 * may be.  Threads that store neighbouring pieces of rows would take the lines around their seams
 * from each other, because processors fetch more of them than are stored. */
static void plan_apply(Plan *plan, ptrdiff_t itemsize, int threads) {
    enum { LEAST_ROWS = 64, PARTS_PER_THREAD = 8, LONG_ROW = 1024 };
    const ptrdiff_t columns = is_split(plan) ? STRIP : APPLIED_BYTES / MAX(itemsize, 4);
    const ptrdiff_t most = MAX(columns / plan->group, 1) * plan->group;
    plan->apply_strips =
        (Strips){plan->width, equal_strip(plan, up(plan->width, most), LINE_BYTES / itemsize), 0};
    align_strips(plan, itemsize, &plan->apply_strips);
    const ptrdiff_t rows = plan->kept.count * strip_count(&plan->apply_strips) * plan->rows.count;
    const ptrdiff_t share = up(up(rows, (ptrdiff_t)threads * PARTS_PER_THREAD), 16) * 16;
    plan->apply_rows =
        threads == 1 ? plan->row_chunk : MIN(plan->row_chunk, MAX(LEAST_ROWS, share));
    /* In the order of memory, if the results come near to filling a cache that threads share, or go
     * past it: a tenth to a third faster there, unless rows are so long that their coefficients
     * leave no room for them in the L1 cache.  With parameters to load for each row, it is even. */
    const int filling = shares_cache() && !stay_cached(plan, 2, itemsize, threads) &&
                        plan->apply_strips.width < LONG_ROW;
    plan->abreast = is_split(plan) || !(plan->stream || filling);
}

/* Whether columns are better applied after all have been measured, although a strip of them would
 * stay in the cache: it is one that all threads share, so that they need not apply what they
 * measured, and may store whole rows (a quarter faster; groups gain nothing). */
static int stores_apart(const Plan *plan, ptrdiff_t itemsize, int threads) {
    return shares_cache() && plan->group == 1 && !is_split(plan) &&
           strip_count(&plan->strips) > 1 && stay_cached(plan, 1, itemsize, threads);
}

int layout_schedule(Plan *plan, ptrdiff_t itemsize, int threads, int forward) {
    if (!plan->columns)
        return threads == 1 || plan->short_rows ||
               (plan->count * itemsize <= cache_bytes(threads) &&
                layout_balanced(plan->kept.count, threads));

    /* As many columns as stay in the cache from being measured to being applied, but not so few
     * that rows are short pieces of memory; if that is still too much, as many as there is room
     * for. */
    const ptrdiff_t group = plan->group, column_bytes = plan->rows.count * itemsize;
    ptrdiff_t columns = MIN(STRIP, STRIP_BYTES / MAX(column_bytes, 1) / 32 * 32);
    if (columns * itemsize < LEAST_RUN_BYTES)
        columns = STRIP;
    plan->strips = (Strips){plan->width, MIN(plan->width, MAX(columns / group, 1) * group), 0};
    if (plan->fold > 1)
        plan->strips.width = plan->width;
    if (forward) {
        plan_apply(plan, itemsize, threads);
        even_strips(plan, itemsize, threads);
    } else if (plan->fold == 1) { /* an item is one of the input and one of the gradient */
        plan->strips.width =
            equal_strip(plan, strip_count(&plan->strips), 2 * LINE_BYTES / itemsize);
    }
    const ptrdiff_t bytes = plan->rows.count * plan->strips.width * itemsize;
    const int widened = forward && bytes > CORE_CACHE_BYTES && widen_strips(plan, threads);
    if (forward || plan->param_vector) /* otherwise gradients of parameters depend on strips */
        align_strips(plan, forward ? itemsize : itemsize / 2, &plan->strips);
    if (widened)
        return 0;
    if (forward && threads > 1 && stores_apart(plan, itemsize, threads))
        return 0;
    return threads == 1 ||
           (bytes <= cache_bytes(threads) &&
            layout_balanced(plan->kept.count * strip_count(&plan->strips), threads));
}
