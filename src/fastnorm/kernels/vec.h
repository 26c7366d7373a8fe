/* The native vector of this tier, and how the four element types pass through it.
 *
 * GCC and Clang vector extensions: the same lines become SSE, AVX2, AVX-512 or NEON.  Intrinsics
 * appear only where compilers have no expression for them, or make poor code from it: conversions
 * between widths, and streaming stores.
 */
#ifndef FASTNORM_VEC_H
#define FASTNORM_VEC_H

#if defined(__clang__) /* clang-cl ignores -ffp-contract=off */
#pragma STDC FP_CONTRACT OFF
#endif

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0
#error "float arithmetic with excess precision (x87) would break the promise of equal bits"
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* For loops over a few vectors, which then stay in registers; for longer ones, whose counting takes
 * as long as what they do; and for loops around those, which would need more registers than there
 * are. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_4 _Pragma("clang loop unroll_count(4)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_4 _Pragma("GCC unroll 4")
#define ROLLED _Pragma("GCC unroll 1")
#endif

/* Keeps the compiler from computing a vector earlier than it is written: GCC would begin all leaves
 * of a tree of sums at once, and store them on the stack for want of registers. */
#if defined(__x86_64__)
#define IN_ORDER(v) __asm__ volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define IN_ORDER(v) __asm__ volatile("" : "+w"(v))
#else
#define IN_ORDER(v) (void)(v)
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* How far ahead to fetch what is read in an order that processors do not foresee. */
#define AHEAD_BYTES 4096

/* The vector stays at the register's width: a wider type is legal but is lowered badly. */
#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX2__)
#define VBYTES 32
#else
#define VBYTES 16
#endif

/* Sums run over this many bytes of logical lanes on every tier (32 floats or 16 doubles), so that
 * every tier adds the same numbers in the same order. */
#define WIDE_BYTES 128
#define NV (WIDE_BYTES / VBYTES)

enum { F64_LANES = VBYTES / 8 };

typedef float vf32 __attribute__((vector_size(VBYTES)));
typedef double vf64 __attribute__((vector_size(VBYTES)));
typedef int32_t vi32 __attribute__((vector_size(VBYTES)));
typedef uint32_t vu32 __attribute__((vector_size(VBYTES)));
typedef int64_t vi64 __attribute__((vector_size(VBYTES)));
typedef uint64_t vu64 __attribute__((vector_size(VBYTES)));
typedef uint16_t vu16 __attribute__((vector_size(VBYTES / 2)));

/* ---- n bytes of a vector (`size` is the vector's, a constant) ---- */

/* The other bytes are zeros when loaded, and stay where they are when stored. */
#if VBYTES == 64
INLINE void load_bytes(void *v, size_t size, const void *p, size_t n) {
    const __mmask64 mask = _bzhi_u64(~UINT64_C(0), (unsigned)n);
    if (size == 64) {
        const __m512i r = _mm512_maskz_loadu_epi8(mask, p);
        memcpy(v, &r, sizeof r);
    } else {
        const __m256i r = _mm256_maskz_loadu_epi8((__mmask32)mask, p);
        memcpy(v, &r, sizeof r);
    }
}
INLINE void store_bytes(void *p, const void *v, size_t size, size_t n) {
    const __mmask64 mask = _bzhi_u64(~UINT64_C(0), (unsigned)n);
    if (size == 64) {
        __m512i r;
        memcpy(&r, v, sizeof r);
        _mm512_mask_storeu_epi8(p, mask, r);
    } else {
        __m256i r;
        memcpy(&r, v, sizeof r);
        _mm256_mask_storeu_epi8(p, (__mmask32)mask, r);
    }
}
#else
INLINE void load_bytes(void *v, size_t size, const void *p, size_t n) {
    memset(v, 0, size);
    memcpy(v, p, n);
}
INLINE void store_bytes(void *p, const void *v, size_t size, size_t n) {
    (void)size;
    memcpy(p, v, n);
}
#endif

/* ---- 16-bit types, as many at a time as a vector has floats ---- */

/* Round to nearest even on the bits; a NaN is made quiet so that rounding cannot make it inf. */
#if VBYTES == 64
/* One permutation of 16-bit elements moves the halves, where conversion and shift take four
 * operations. */
INLINE vf32 bf16_to_f32(vu16 h) {
    const __m512i to_high_half =
        _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4,
                         0, 3, 0, 2, 0, 1, 0, 0, 0);
    return (vf32)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, to_high_half,
                                                _mm512_castsi256_si512((__m256i)h));
}
INLINE vu16 f32_to_bf16(vf32 f) {
    const __m512i high_halves = _mm512_castsi256_si512(
        _mm256_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1));
    const __m512i bits = (__m512i)f;
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)f, (__m512)f, _CMP_UNORD_Q);
    __m512i r = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    r = _mm512_mask_add_epi32(r, odd, r, _mm512_set1_epi32(1));
    r = _mm512_mask_or_epi32(r, nan, bits, _mm512_set1_epi32(0x400000));
    return (vu16)_mm512_castsi512_si256(_mm512_permutexvar_epi16(high_halves, r));
}
#else
INLINE vu32 select_u32(vi32 condition, vu32 yes, vu32 no) {
    return ((vu32)condition & yes) | (~(vu32)condition & no);
}
INLINE vf32 bf16_to_f32(vu16 h) { return (vf32)(__builtin_convertvector(h, vu32) << 16); }
INLINE vu16 f32_to_bf16(vf32 f) {
    vu32 bits = (vu32)f;
    vu32 rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return __builtin_convertvector(select_u32(f == f, rounded, bits | 0x400000) >> 16, vu16);
}
#endif

#if VBYTES == 64
INLINE vf32 f16_to_f32(vu16 h) { return (vf32)_mm512_cvtph_ps((__m256i)h); }
INLINE vu16 f32_to_f16(vf32 f) {
    return (vu16)_mm512_cvtps_ph((__m512)f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif VBYTES == 32
INLINE vf32 f16_to_f32(vu16 h) { return (vf32)_mm256_cvtph_ps((__m128i)h); }
INLINE vu16 f32_to_f16(vf32 f) {
    return (vu16)_mm256_cvtps_ph((__m256)f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
INLINE vf32 f16_to_f32(vu16 h) { return (vf32)vcvt_f32_f16((float16x4_t)h); }
INLINE vu16 f32_to_f16(vf32 f) { return (vu16)vcvt_f16_f32((float32x4_t)f); }
#else
/* Exponents are moved between biases 15 and 127 in the bits; subnormal halves, whose exponent
 * does not say where the first bit is, are normalised (or rounded) by one float addition. */
INLINE vf32 f16_to_f32(vu16 h) {
    vu32 wide = __builtin_convertvector(h, vu32);
    vu32 sign = (wide & 0x8000) << 16;
    vu32 magnitude = (wide & 0x7fff) << 13;
    vu32 normal = magnitude + ((127 - 15) << 23);
    vu32 special = magnitude + ((255 - 31) << 23); /* inf and NaN */
    vf32 smallest_normal = (vf32)((magnitude ^ magnitude) + ((127 - 14) << 23));
    vu32 subnormal = (vu32)((vf32)(magnitude + ((127 - 14) << 23)) - smallest_normal);
    vu32 r = select_u32((vi32)magnitude >= 0x0f800000, special, normal);
    r = select_u32((vi32)magnitude < 0x00800000, subnormal, r);
    return (vf32)(r | sign);
}

INLINE vu16 f32_to_f16(vf32 f) {
    vu32 bits = (vu32)f;
    vu32 sign = bits & 0x80000000u;
    vu32 magnitude = bits ^ sign;
    vu32 odd = (magnitude >> 13) & 1;
    vu32 normal = (magnitude - ((127 - 15) << 23) + 0xfff + odd) >> 13;
    /* 0.5 has its last bit at 2^-24, where float16's subnormals have theirs */
    vf32 half = (vf32)((magnitude ^ magnitude) + (126 << 23));
    vu32 subnormal = (vu32)((vf32)magnitude + half) - (vu32)half;
    vu32 special =
        select_u32((vi32)magnitude > 0x7f800000, (bits ^ bits) + 0x7e00, (bits ^ bits) + 0x7c00);
    vu32 r = select_u32((vi32)magnitude < ((127 - 14) << 23), subnormal, normal);
    r = select_u32((vi32)magnitude >= ((127 + 16) << 23), special, r);
    return __builtin_convertvector(r | (sign >> 16), vu16);
}
#endif

/* ---- float32 to float64, which takes two vectors, and back ---- */

/* From memory it takes fewer instructions than from a vector, whose upper half must be moved. */
#if VBYTES == 64
INLINE void f32_load_f64(const float *p, vf64 *out) {
    out[0] = (vf64)_mm512_cvtps_pd(_mm256_loadu_ps(p));
    out[1] = (vf64)_mm512_cvtps_pd(_mm256_loadu_ps(p + 8));
}
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    out[0] = (vf64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    out[1] = (vf64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    __m512 low = _mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)v[0]));
    return (vf32)_mm512_insertf32x8(low, _mm512_cvtpd_ps((__m512d)v[1]), 1);
}
#elif VBYTES == 32
INLINE void f32_load_f64(const float *p, vf64 *out) {
    out[0] = (vf64)_mm256_cvtps_pd(_mm_loadu_ps(p));
    out[1] = (vf64)_mm256_cvtps_pd(_mm_loadu_ps(p + 4));
}
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    out[0] = (vf64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    out[1] = (vf64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    return (vf32)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)v[1]), _mm256_cvtpd_ps((__m256d)v[0]));
}
#elif defined(__SSE2__)
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    out[0] = (vf64)_mm_cvtps_pd((__m128)v);
    out[1] = (vf64)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    return (vf32)_mm_movelh_ps(_mm_cvtpd_ps((__m128d)v[0]), _mm_cvtpd_ps((__m128d)v[1]));
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    out[0] = (vf64)vcvt_f64_f32(vget_low_f32((float32x4_t)v));
    out[1] = (vf64)vcvt_high_f64_f32((float32x4_t)v);
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    return (vf32)vcvt_high_f32_f64(vcvt_f32_f64((float64x2_t)v[0]), (float64x2_t)v[1]);
}
#else
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    for (int i = 0; i < 2 * F64_LANES; i++)
        out[i / F64_LANES][i % F64_LANES] = (double)v[i];
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    vf32 r;
    for (int i = 0; i < 2 * F64_LANES; i++)
        r[i] = (float)v[i / F64_LANES][i % F64_LANES];
    return r;
}
#endif

#if VBYTES == 16
INLINE void f32_load_f64(const float *p, vf64 *out) {
    vf32 v;
    memcpy(&v, p, sizeof v);
    f32_to_f64(v, out);
}
#endif

/* ---- a * b + c, rounded once ---- */

#if VBYTES == 64
INLINE vf32 f32_fma(vf32 a, vf32 b, vf32 c) {
    return (vf32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#elif VBYTES == 32
INLINE vf32 f32_fma(vf32 a, vf32 b, vf32 c) {
    return (vf32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#elif defined(__ARM_NEON) && defined(__aarch64__)
INLINE vf32 f32_fma(vf32 a, vf32 b, vf32 c) {
    return (vf32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#else
/* Without the instruction: products of float32 are exact in float64, and adding c rounds to 53
 * bits, which may only be rounded again, to 24, after a last bit has been made to say that digits
 * were dropped (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008). */
NOINLINE vf32 f32_fma_odd(vf32 a, vf32 b, vf32 c) {
    vf32 r;
    for (int i = 0; i < VBYTES / 4; i++) {
        double p = (double)a[i] * (double)b[i], q = (double)c[i], s = p + q;
        double t = s - p, dropped = (p - (s - t)) + (q - t);
        uint64_t bits;
        memcpy(&bits, &s, sizeof bits);
        if (s - s == 0 && dropped != 0 && !(bits & 1))
            bits += (dropped > 0) == (s > 0) ? 1 : (uint64_t)-1;
        memcpy(&s, &bits, sizeof s);
        r[i] = (float)s;
    }
    return r;
}

/* That matters only where the 53 bits lie halfway between two floats, or where floats have fewer
 * than 24. */
INLINE vf32 f32_fma(vf32 a, vf32 b, vf32 c) {
    vf64 p[2], q[2], r[2];
    vi64 doubt = {0};
    f32_to_f64(a, p);
    f32_to_f64(b, q);
    f32_to_f64(c, r);
    for (int h = 0; h < 2; h++) {
        p[h] = p[h] * q[h] + r[h];
        vu64 bits = (vu64)p[h];
        vf64 magnitude = (vf64)(bits & 0x7fffffffffffffff);
        doubt |= ((bits & 0x1fffffff) == 0x10000000) | ((magnitude < 0x1p-126) & (magnitude > 0.0));
    }
    int64_t any = 0;
    for (int i = 0; i < F64_LANES; i++)
        any |= doubt[i];
    return __builtin_expect(any != 0, 0) ? f32_fma_odd(a, b, c) : f64_to_f32(p);
}
#endif

/* ---- a - b, by the multiplier: AMD's additions have units of their own, which sums keep busy
 * while those for products idle (4 % of a layer norm on Zen 4).  The one is hidden, or compilers
 * would make a subtraction of it; rounded once, it is the same. ---- */

#if VBYTES >= 32
INLINE vf32 f32_minus(vf32 a, vf32 b) {
    vf32 one = 1 - (vf32){0};
    __asm__("" : "+v"(one));
    return f32_fma(a, one, -b);
}
#else
INLINE vf32 f32_minus(vf32 a, vf32 b) { return a - b; }
#endif

/* ---- streaming stores: past the cache, for output too large to stay in it ---- */

/* Half vectors are those of the 16-bit types; the processor joins them to lines. */
#if VBYTES == 64
INLINE void stream_vector(void *p, vf32 v) { _mm512_stream_ps((float *)p, (__m512)v); }
INLINE void stream_half(void *p, vu16 v) { _mm256_stream_si256((__m256i *)p, (__m256i)v); }
#elif VBYTES == 32
INLINE void stream_vector(void *p, vf32 v) { _mm256_stream_ps((float *)p, (__m256)v); }
INLINE void stream_half(void *p, vu16 v) { _mm_stream_si128((__m128i *)p, (__m128i)v); }
#elif defined(__SSE2__)
INLINE void stream_vector(void *p, vf32 v) { _mm_stream_ps((float *)p, (__m128)v); }
INLINE void stream_half(void *p, vu16 v) { memcpy(p, &v, sizeof v); }
#else
INLINE void stream_vector(void *p, vf32 v) { memcpy(p, &v, sizeof v); }
INLINE void stream_half(void *p, vu16 v) { memcpy(p, &v, sizeof v); }
#endif

#endif
