/* The vector of this tier, and the line: the lane block of 64 bytes that every tier sums side by
 * side, of as many vectors as it takes.
 *
 * GCC and Clang vector extensions: one text becomes SSE, AVX2, AVX-512 or NEON.  Intrinsics appear
 * only in this folder, where compilers have no expression for something or make poor code of it. */
#ifndef FASTNORM_VECTOR_H
#define FASTNORM_VECTOR_H

#if defined(__clang__) /* clang-cl ignores -ffp-contract=off */
#pragma STDC FP_CONTRACT OFF
#endif

#include "../plan/numerics.h"
#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "float arithmetic with excess precision (x87) would break the promise of equal bits"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* For loops over a few vectors, which then stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The vector stays at the register's width: a wider type is legal but is lowered badly. */
#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX2__)
#define VBYTES 32
#else
#define VBYTES 16
#endif

typedef float vf32 __attribute__((vector_size(VBYTES)));
typedef double vf64 __attribute__((vector_size(VBYTES)));
typedef int32_t vi32 __attribute__((vector_size(VBYTES)));
typedef uint32_t vu32 __attribute__((vector_size(VBYTES)));
typedef int64_t vi64 __attribute__((vector_size(VBYTES)));
typedef uint64_t vu64 __attribute__((vector_size(VBYTES)));
typedef uint16_t vu16 __attribute__((vector_size(VBYTES / 2)));

enum { F64_LANES = VBYTES / 8 };

#include "convert.h"

/* The type of the arithmetic: a translation unit is compiled for one of the two. */
#ifdef ARITHMETIC_F64
typedef double real;
typedef vf64 vreal;
typedef vi64 vmask;
#define REAL_DTYPE F64
#define FMA(a, b, c) ((a) * (b) + (c))
#define BY_TYPE(f32, f64) f64
#else
typedef float real;
typedef vf32 vreal;
typedef vi32 vmask;
#define REAL_DTYPE F32
#define FMA(a, b, c) f32_fma(a, b, c)
#define BY_TYPE(f32, f64) f32
#endif

enum {
    VL = VBYTES / (int)sizeof(real),       /* elements of a vector */
    LINE = LINE_BYTES / (int)sizeof(real), /* of a line */
    NV = LINE_BYTES / VBYTES,              /* vectors of a line */
    SEGMENT = CHAINS * CHAIN * LINE        /* elements of a run added by chains */
};

typedef struct {
    vreal v[NV];
} line;

#define EACH_VECTOR UNROLL for (int k = 0; k < NV; k++)

INLINE vreal splat(real a) { return a - (vreal){0}; }

INLINE line line_splat(real a) {
    line r;
    EACH_VECTOR r.v[k] = splat(a);
    return r;
}

INLINE line line_load(const real *p) {
    line r;
    EACH_VECTOR memcpy(&r.v[k], p + k * VL, sizeof r.v[k]);
    return r;
}

INLINE void line_store(real *p, line a) { EACH_VECTOR memcpy(p + k * VL, &a.v[k], sizeof a.v[k]); }

INLINE line line_add(line a, line b) {
    EACH_VECTOR a.v[k] += b.v[k];
    return a;
}

INLINE line line_sub(line a, line b) {
    EACH_VECTOR a.v[k] -= b.v[k];
    return a;
}

INLINE line line_mul(line a, line b) {
    EACH_VECTOR a.v[k] *= b.v[k];
    return a;
}

/* a * b + c, rounded once for float32; float64 has digits to spare. */
INLINE line line_fma(line a, line b, line c) {
    EACH_VECTOR a.v[k] = FMA(a.v[k], b.v[k], c.v[k]);
    return a;
}

/* a * b + c where a * b is exact. */
INLINE line line_scale_add(line a, line b, line c) {
#if VBYTES >= 32
    return line_fma(a, b, c);
#else
    return line_add(line_mul(a, b), c);
#endif
}

INLINE vreal vector_select(vmask which, vreal yes, vreal no) {
    return (vreal)((which & (vmask)yes) | (~which & (vmask)no));
}

/* b where one of the two is a NaN. */
INLINE line line_min(line a, line b) {
    EACH_VECTOR a.v[k] = vector_select(a.v[k] < b.v[k], a.v[k], b.v[k]);
    return a;
}

INLINE line line_max(line a, line b) {
    EACH_VECTOR a.v[k] = vector_select(a.v[k] > b.v[k], a.v[k], b.v[k]);
    return a;
}

INLINE line line_abs(line a) {
    const vmask sign = (vmask)splat((real)-0.0);
    EACH_VECTOR a.v[k] = (vreal)((vmask)a.v[k] & ~sign);
    return a;
}

/* ---- the first n elements of a line; nothing else is touched ---- */

#if VBYTES == 64

INLINE line line_load_part(const real *p, ptrdiff_t n) {
    line r;
    const unsigned mask = (1u << n) - 1;
    r.v[0] = BY_TYPE((vreal)_mm512_maskz_loadu_ps((__mmask16)mask, p),
                     (vreal)_mm512_maskz_loadu_pd((__mmask8)mask, p));
    return r;
}

INLINE void line_store_part(real *p, line a, ptrdiff_t n) {
    const unsigned mask = (1u << n) - 1;
    BY_TYPE(_mm512_mask_storeu_ps(p, (__mmask16)mask, (__m512)a.v[0]),
            _mm512_mask_storeu_pd(p, (__mmask8)mask, (__m512d)a.v[0]));
}

/* Zeros from element n on. */
INLINE line line_first(line a, ptrdiff_t n) {
    const unsigned mask = (1u << n) - 1;
    a.v[0] = BY_TYPE((vreal)_mm512_maskz_mov_ps((__mmask16)mask, (__m512)a.v[0]),
                     (vreal)_mm512_maskz_mov_pd((__mmask8)mask, (__m512d)a.v[0]));
    return a;
}

#else

/* Ones in the first n lanes, from element LINE - n of this on. */
static const _Alignas(LINE_BYTES) int32_t ones_then_zeros[2 * LINE_BYTES / 4] = {
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

INLINE vmask first_lanes(ptrdiff_t n, int k) {
    vmask m;
    memcpy(&m,
           (const char *)ones_then_zeros + LINE_BYTES - n * (ptrdiff_t)sizeof(real) + k * VBYTES,
           sizeof m);
    return m;
}

INLINE line line_first(line a, ptrdiff_t n) {
    EACH_VECTOR a.v[k] = (vreal)((vmask)a.v[k] & first_lanes(n, k));
    return a;
}

#if VBYTES == 32

INLINE line line_load_part(const real *p, ptrdiff_t n) {
    line r;
    EACH_VECTOR r.v[k] = BY_TYPE((vreal)_mm256_maskload_ps(p + k * VL, (__m256i)first_lanes(n, k)),
                                 (vreal)_mm256_maskload_pd(p + k * VL, (__m256i)first_lanes(n, k)));
    return r;
}

INLINE void line_store_part(real *p, line a, ptrdiff_t n) {
    EACH_VECTOR BY_TYPE(
        _mm256_maskstore_ps(p + k * VL, (__m256i)first_lanes(n, k), (__m256)a.v[k]),
        _mm256_maskstore_pd(p + k * VL, (__m256i)first_lanes(n, k), (__m256d)a.v[k]));
}

#else

INLINE line line_load_part(const real *p, ptrdiff_t n) {
    line r;
    EACH_VECTOR {
        const ptrdiff_t left = n - k * VL;
        r.v[k] = (vreal){0};
        if (left >= VL)
            memcpy(&r.v[k], p + k * VL, VBYTES);
        else if (left > 0)
            memcpy(&r.v[k], p + k * VL, (size_t)left * sizeof(real));
    }
    return r;
}

INLINE void line_store_part(real *p, line a, ptrdiff_t n) {
    EACH_VECTOR {
        const ptrdiff_t left = n - k * VL;
        if (left >= VL)
            memcpy(p + k * VL, &a.v[k], VBYTES);
        else if (left > 0)
            memcpy(p + k * VL, &a.v[k], (size_t)left * sizeof(real));
    }
}

#endif
#endif

/* ---- streaming stores: past the cache, for output too large to stay in it; p is aligned ---- */

INLINE void line_stream(void *p, line a) {
    EACH_VECTOR {
#if VBYTES == 64
        _mm512_stream_si512((void *)((char *)p + k * VBYTES), (__m512i)a.v[k]);
#elif VBYTES == 32
        _mm256_stream_si256((__m256i *)((char *)p + k * VBYTES), (__m256i)a.v[k]);
#elif defined(__SSE2__)
        _mm_stream_si128((__m128i *)((char *)p + k * VBYTES), (__m128i)a.v[k]);
#else
        memcpy((char *)p + k * VBYTES, &a.v[k], sizeof a.v[k]);
#endif
    }
}

#endif
