/* All kernels for all element types, compiled once per tier: TIER is its name in identifiers, and
 * the compiler's flags say which instructions it may use. */
#include "backward.h"
#include "lanes.h"
#include "nest.h"
#include "processor.h"
#include "vec.h"

#ifndef TIER
#define TIER generic
#endif

#define PASTE2(a, b) a##_##b
#define EXPAND2(a, b) PASTE2(a, b)
#define PASTE3(a, b, c) a##_##b##_##c
#define EXPAND3(a, b, c) PASTE3(a, b, c)
#define NAME(name) EXPAND3(name, TAG, TIER)

/* The vectors that hold 16 float64 sums. */
enum { SUM_VECTORS = 16 * 8 / VBYTES };

/* What is summed: d*d, and d, or instead of d the elements themselves, in float64. */
enum { SQUARES, CENTRED, PRECISE };

/* Backward of columns: a line that two strips share, or two rows that follow each other, is stored
 * with the second of them, if the results of both are streamed one after the other. */
enum { SHARED_BEFORE = 1, SHARED_AFTER = 2 };

#define ONES_16 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255
#define ZEROS_16 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
#define FOUR(x) x, x, x, x
#define ONES_AFTER_ZEROS FOUR(ZEROS_16), FOUR(ZEROS_16), FOUR(ONES_16), FOUR(ONES_16)

/* The ways to apply, as bits. */
enum {
    WIDE = 1,         /* the float64 form */
    STAT_VECTOR = 2,  /* statistics vary along the run */
    PARAM_VECTOR = 4, /* weight and bias do */
    NO_WEIGHT = 8,    /* that vary, but are not there */
    NO_BIAS = 16,
    PERIODIC = 32,  /* coefficients repeat with a period */
    STREAM = 64,    /* store past the cache */
    PRODUCT = 128,  /* the product form; else, if not wide, the folded one */
    NO_MEAN = 256,  /* RMS norm */
    CONSTANT = 512, /* backward: statistics that do not depend on the input */
    GATHER = 1024,  /* backward: gradients of the parameters along the run as well */
    FETCH = 2048    /* of a call that streams, but not these results */
};

/* The mathematics is the same text for every element type.
 * ELEM: an element in memory.  REAL: the type of the arithmetic.  NEEDS_RANGE: squares may leave
 * the range of REAL. */

#define TAG f32
#define ELEM float
#define REAL float
#define VREAL vf32
#define VBITS vu32
#define FMA(a, b, c) f32_fma(a, b, c)
#define MINUS(a, b) f32_minus(a, b)
#define SUM_REAL(v) f32_sum(v)
#define SUMS_REAL(v, out) f32_sums(v, out)
#define TO_WIDE(v, out) f32_to_f64(v, out)
#define LOAD_WIDE(p, out) f32_load_f64(p, out)
#define FROM_WIDE(v) f64_to_f32(v)
#define VELEM vf32
#define TILES TILES_OF_VECTOR
#define TO_REAL(v) (v)
#define FROM_REAL(v) (v)
#define STREAM_REAL(p, v) stream_vector(p, v)
#define NEEDS_RANGE 1
#include "kernels.inc"

#define TAG f64
#define ELEM double
#define REAL double
#define VREAL vf64
#define VBITS vu64
#define FMA(a, b, c) ((a) * (b) + (c))
#define MINUS(a, b) ((a) - (b))
#define SUM_REAL(v) f64_sum(v)
#define SUMS_REAL(v, out) f64_sums(v, out)
#define TO_WIDE(v, out) (void)((out)[0] = (v))
#define LOAD_WIDE(p, out) NAME(to_wide)(NAME(load)(p), out)
#define FROM_WIDE(v) (v)[0]
#define VELEM vf64
#define TILES TILES_OF_VECTOR
#define TO_REAL(v) (v)
#define FROM_REAL(v) (v)
#define STREAM_REAL(p, v) stream_vector(p, (vf32)(v))
#define NEEDS_RANGE 0
#include "kernels.inc"

#define TAG f16
#define ELEM uint16_t
#define REAL float
#define VREAL vf32
#define VBITS vu32
#define FMA(a, b, c) f32_fma(a, b, c)
#define MINUS(a, b) f32_minus(a, b)
#define SUM_REAL(v) f32_sum(v)
#define SUMS_REAL(v, out) f32_sums(v, out)
#define TO_WIDE(v, out) f32_to_f64(v, out)
#define LOAD_WIDE(p, out) NAME(to_wide)(NAME(load)(p), out)
#define FROM_WIDE(v) f64_to_f32(v)
#define VELEM vu16
#define TILES TILES_OF_HALF
#define TO_REAL(v) f16_to_f32(v)
#define FROM_REAL(v) f32_to_f16(v)
#define STREAM_REAL(p, v) stream_half(p, FROM_REAL(v))
#define NEEDS_RANGE 1
#include "kernels.inc"

#define TAG bf16
#define ELEM uint16_t
#define REAL float
#define VREAL vf32
#define VBITS vu32
#define FMA(a, b, c) f32_fma(a, b, c)
#define MINUS(a, b) f32_minus(a, b)
#define SUM_REAL(v) f32_sum(v)
#define SUMS_REAL(v, out) f32_sums(v, out)
#define TO_WIDE(v, out) f32_to_f64(v, out)
#define LOAD_WIDE(p, out) NAME(to_wide)(NAME(load)(p), out)
#define FROM_WIDE(v) f64_to_f32(v)
#define VELEM vu16
#define TILES TILES_OF_HALF
#define TO_REAL(v) bf16_to_f32(v)
#define FROM_REAL(v) f32_to_bf16(v)
#define STREAM_REAL(p, v) stream_half(p, FROM_REAL(v))
#define NEEDS_RANGE 1
#include "kernels.inc"

extern const Kernels EXPAND2(kernels, TIER)[DTYPES];
const Kernels EXPAND2(kernels, TIER)[DTYPES] = {
#define KERNEL(ret, name, params) EXPAND3(name, f32, TIER),
    {
#include "kernels.def"
    },
#undef KERNEL
#define KERNEL(ret, name, params) EXPAND3(name, f64, TIER),
    {
#include "kernels.def"
    },
#undef KERNEL
#define KERNEL(ret, name, params) EXPAND3(name, f16, TIER),
    {
#include "kernels.def"
    },
#undef KERNEL
#define KERNEL(ret, name, params) EXPAND3(name, bf16, TIER),
    {
#include "kernels.def"
    },
#undef KERNEL
};
