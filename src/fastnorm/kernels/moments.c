/* Pooling after a parallel measurement. */
#include "moments.h"

void pool_unit(const Plan *plan, const Moments *moments, Stat *stats, ptrdiff_t unit) {
    pool_rows(plan, moments + unit * plan->measure.chunks, &stats[unit]);
}

/* The statistics first..last-1, numbered through all blocks; their columns' chunks are pooled in
 * place, into the first. */
void pool_block(const Plan *plan, Moments *moments, Stat *stats, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t chunks = row_chunks(plan);
    const ptrdiff_t channels = plan->width / plan->fold;
    for (ptrdiff_t i = first; i < last; i++) {
        ptrdiff_t block = i / plan->stats_per_block, stat = i - block * plan->stats_per_block;
        Moments *columns = moments + block * chunks * plan->width;
        for (ptrdiff_t f = 0; f < plan->fold; f++) {
            for (ptrdiff_t g = 0; g < plan->group; g++) {
                Moments *column = columns + f * channels + stat * plan->group + g;
                for (ptrdiff_t chunk = 1; chunk < plan->chunks; chunk++)
                    moments_merge(column, column + chunk * plan->width);
            }
        }
        pool_columns(plan, columns, columns + plan->chunks * plan->width, stat, &stats[i]);
    }
}
