/* Lanes of vectors, moved and added: tiles turned, sums of all lanes. */
#ifndef FASTNORM_LANES_H
#define FASTNORM_LANES_H

#include "vec.h"

/* ---- tiles of 16 bytes by as many rows as those have elements (of `size` bytes), turned; as many
 * beside each other as a vector of the given type has room for, of which each has a row ---- */

typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef uint32_t u32x4 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));

#if defined(__clang__)
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector((type)(a), (type)(b), __VA_ARGS__)
#else
#define SHUFFLE(type, a, b, ...) __builtin_shuffle((type)(a), (type)(b), (type){__VA_ARGS__})
#endif

/* The elements of a and b in turn, from the first halves of tiles, or from the second ones. */
INLINE u32x4 zip_low_u32x4(size_t size, u32x4 a, u32x4 b) {
    return size == 2   ? (u32x4)SHUFFLE(u16x8, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
           : size == 4 ? SHUFFLE(u32x4, a, b, 0, 4, 1, 5)
                       : (u32x4)SHUFFLE(u64x2, a, b, 0, 2);
}
INLINE u32x4 zip_high_u32x4(size_t size, u32x4 a, u32x4 b) {
    return size == 2   ? (u32x4)SHUFFLE(u16x8, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
           : size == 4 ? SHUFFLE(u32x4, a, b, 2, 6, 3, 7)
                       : (u32x4)SHUFFLE(u64x2, a, b, 1, 3);
}

/* 16 bytes for each tile, from p and every `apart` bytes, and back. */
INLINE u32x4 gather_u32x4(const char *p, ptrdiff_t apart) {
    u32x4 v;
    (void)apart;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE u32x4 tile_u32x4(u32x4 v, int tile) {
    (void)tile;
    return v;
}

#if VBYTES >= 32
typedef uint32_t u32x8 __attribute__((vector_size(32)));

#define ZIP_U32X8(name, zip)                                                                       \
    INLINE u32x8 name(size_t size, u32x8 a, u32x8 b) {                                             \
        return (u32x8)(size == 2   ? _mm256_##zip##_epi16((__m256i)a, (__m256i)b)                  \
                       : size == 4 ? _mm256_##zip##_epi32((__m256i)a, (__m256i)b)                  \
                                   : _mm256_##zip##_epi64((__m256i)a, (__m256i)b));                \
    }
ZIP_U32X8(zip_low_u32x8, unpacklo)
ZIP_U32X8(zip_high_u32x8, unpackhi)
#undef ZIP_U32X8

INLINE u32x8 gather_u32x8(const char *p, ptrdiff_t apart) {
    const __m256i first = _mm256_castsi128_si256((__m128i)gather_u32x4(p, 0));
    return (u32x8)_mm256_inserti128_si256(first, (__m128i)gather_u32x4(p + apart, 0), 1);
}
INLINE u32x4 tile_u32x8(u32x8 v, int tile) {
    return (u32x4)(tile ? _mm256_extracti128_si256((__m256i)v, 1)
                        : _mm256_castsi256_si128((__m256i)v));
}
#endif

#if VBYTES == 64
typedef uint32_t u32x16 __attribute__((vector_size(64)));

#define ZIP_U32X16(name, zip)                                                                      \
    INLINE u32x16 name(size_t size, u32x16 a, u32x16 b) {                                          \
        return (u32x16)(size == 4 ? _mm512_##zip##_epi32((__m512i)a, (__m512i)b)                   \
                                  : _mm512_##zip##_epi64((__m512i)a, (__m512i)b));                 \
    }
ZIP_U32X16(zip_low_u32x16, unpacklo)
ZIP_U32X16(zip_high_u32x16, unpackhi)
#undef ZIP_U32X16

INLINE u32x16 gather_u32x16(const char *p, ptrdiff_t apart) {
    __m512i v = _mm512_castsi128_si512((__m128i)gather_u32x4(p, 0));
    v = _mm512_inserti32x4(v, (__m128i)gather_u32x4(p + apart, 0), 1);
    v = _mm512_inserti32x4(v, (__m128i)gather_u32x4(p + 2 * apart, 0), 2);
    return (u32x16)_mm512_inserti32x4(v, (__m128i)gather_u32x4(p + 3 * apart, 0), 3);
}
INLINE u32x4 tile_u32x16(u32x16 v, int tile) {
    return (u32x4)(tile == 0   ? _mm512_castsi512_si128((__m512i)v)
                   : tile == 1 ? _mm512_extracti32x4_epi32((__m512i)v, 1)
                   : tile == 2 ? _mm512_extracti32x4_epi32((__m512i)v, 2)
                               : _mm512_extracti32x4_epi32((__m512i)v, 3));
}
#endif

/* Each row is zipped with the one half of all rows further on; log2(rows) times that turns them. */
#define TURN(type)                                                                                 \
    INLINE void turn_##type(size_t size, type *v) {                                                \
        const int rows = 16 / (int)size;                                                           \
        UNROLL                                                                                     \
        for (int done = 1; done < rows; done *= 2) {                                               \
            type t[8];                                                                             \
            UNROLL                                                                                 \
            for (int k = 0; k < rows / 2; k++) {                                                   \
                t[2 * k] = zip_low_##type(size, v[k], v[k + rows / 2]);                            \
                t[2 * k + 1] = zip_high_##type(size, v[k], v[k + rows / 2]);                       \
            }                                                                                      \
            UNROLL                                                                                 \
            for (int k = 0; k < rows; k++)                                                         \
                v[k] = t[k];                                                                       \
        }                                                                                          \
    }
TURN(u32x4)
#if VBYTES >= 32
TURN(u32x8)
#endif
#if VBYTES == 64
TURN(u32x16)
#endif
#undef TURN

/* The tiles of a vector of elements, or of two if one is less than a tile. */
#if VBYTES == 64
#define TILES_OF_VECTOR u32x16
#define TILES_OF_HALF u32x8
#elif VBYTES == 32
#define TILES_OF_VECTOR u32x8
#define TILES_OF_HALF u32x4
#else
#define TILES_OF_VECTOR u32x4
#define TILES_OF_HALF u32x4
#endif

/* ---- the sum of all lanes: halves are added until one is left ----
 *
 * By instructions for the halves: as parts of memory, vectors would be stored to be loaded again.
 */

typedef double f64x2 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));

INLINE double f64_sum(vf64 v) {
#if VBYTES == 64
    const __m256d four =
        _mm256_add_pd(_mm512_castpd512_pd256((__m512d)v), _mm512_extractf64x4_pd((__m512d)v, 1));
#elif VBYTES == 32
    const __m256d four = (__m256d)v;
#endif
#if VBYTES >= 32
    const f64x2 two = (f64x2)_mm256_castpd256_pd128(four) + (f64x2)_mm256_extractf128_pd(four, 1);
#else
    const f64x2 two = v;
#endif
    return two[0] + two[1];
}

INLINE float f32_sum(vf32 v) {
#if VBYTES == 64
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#elif VBYTES == 32
    const __m256 eight = (__m256)v;
#endif
#if VBYTES >= 32
    const f32x4 four =
        (f32x4)_mm256_castps256_ps128(eight) + (f32x4)_mm256_extractf128_ps(eight, 1);
#else
    const f32x4 four = v;
#endif
    return (four[0] + four[2]) + (four[1] + four[3]);
}

/* The sums of eight vectors, in as many vectors as those take.  Lanes of two vectors are added by
 * one instruction when half of each is enough, so that eight cost as much as three alone. */
enum { F32_OF_8 = VBYTES < 32 ? 32 / VBYTES : 1, F64_OF_8 = 64 / VBYTES };

#if VBYTES == 64
INLINE void f64_sums(const vf64 *v, vf64 *out) {
    __m512d t[8];
    UNROLL
    for (int k = 0; k < 4; k++)
        t[k] = _mm512_add_pd(_mm512_shuffle_f64x2((__m512d)v[k], (__m512d)v[k + 4], 0x44),
                             _mm512_shuffle_f64x2((__m512d)v[k], (__m512d)v[k + 4], 0xee));
    UNROLL
    for (int k = 0; k < 2; k++)
        t[k] = _mm512_add_pd(_mm512_shuffle_f64x2(t[k], t[k + 2], 0x88),
                             _mm512_shuffle_f64x2(t[k], t[k + 2], 0xdd));
    t[0] = _mm512_add_pd(_mm512_unpacklo_pd(t[0], t[1]), _mm512_unpackhi_pd(t[0], t[1]));
    out[0] = (vf64)_mm512_shuffle_f64x2(t[0], t[0], 0xd8); /* of 0 1, 4 5, 2 3, 6 7 */
}

INLINE void f32_sums(const vf32 *v, vf32 *out) {
    const __m512i in_order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 12, 6, 4, 10, 8, 2, 0);
    __m512 t[8];
    UNROLL
    for (int k = 0; k < 4; k++)
        t[k] = _mm512_add_ps(_mm512_shuffle_f32x4((__m512)v[k], (__m512)v[k + 4], 0x44),
                             _mm512_shuffle_f32x4((__m512)v[k], (__m512)v[k + 4], 0xee));
    UNROLL
    for (int k = 0; k < 2; k++)
        t[k] = _mm512_add_ps(_mm512_shuffle_f32x4(t[k], t[k + 2], 0x88),
                             _mm512_shuffle_f32x4(t[k], t[k + 2], 0xdd));
    const __m512d a = _mm512_castps_pd(t[0]), b = _mm512_castps_pd(t[1]);
    t[0] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    t[0] = _mm512_add_ps(t[0], _mm512_permute_ps(t[0], 0xb1));
    out[0] = (vf32)_mm512_permutexvar_ps(in_order, t[0]);
}
#else
INLINE void f64_sums(const vf64 *v, vf64 *out) {
    UNROLL
    for (int k = 0; k < 8; k++)
        out[k / F64_LANES][k % F64_LANES] = f64_sum(v[k]);
}
INLINE void f32_sums(const vf32 *v, vf32 *out) {
    UNROLL
    for (int k = 0; k < 8; k++)
        out[k / (2 * F64_LANES)][k % (2 * F64_LANES)] = f32_sum(v[k]);
}
#endif

#endif
