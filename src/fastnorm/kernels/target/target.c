/* One tier and one type of the arithmetic: all that is exported is a table of kernels.  TARGET
 * names it; with ARITHMETIC_F64 it is for float64. */
#include "../pipeline/columns.h"
#include "../pipeline/grad_columns.h"
#include "../pipeline/grad_rows.h"
#include "../pipeline/rows.h"

#ifndef ARITHMETIC_F64
static void load_f32(const void *x, void *reals, ptrdiff_t n) {
    memcpy(reals, x, (size_t)n * sizeof(float));
}
#endif

static size_t rows_arena(const Job *job) {
    return sizeof(RowsArena) + (job->is_backward ? gather_bytes(job) : 0);
}

static size_t columns_arena(const Job *job, ptrdiff_t columns) {
    return job->is_backward ? grad_columns_arena_bytes(columns) : columns_arena_bytes(columns);
}

extern const Kernels TARGET;
const Kernels TARGET = {
#define KERNEL(name) name,
#include "kernels.def"
#undef KERNEL
    rows_arena,
    columns_arena,
#ifdef ARITHMETIC_F64
    {0},
#else
    {load_f32, 0, load_f16, load_bf16},
#endif
};
