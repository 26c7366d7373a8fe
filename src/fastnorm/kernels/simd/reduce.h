/* The sums of the lanes of several lines, as the elements of one array: a tree of halves.
 *
 * Lanes i and i + 8 of 16 are added, then i and i + 4, i + 2, i + 1.  Two lines that still have w
 * lanes each become one vector of twice as many sets with w / 2 lanes each, so that sixteen sets
 * take fifteen steps and not sixty-four. */
#ifndef FASTNORM_REDUCE_H
#define FASTNORM_REDUCE_H

#include "vector.h"

/* Shuffles of two vectors whose sets have w lanes each: the first halves of all sets, and the
 * second ones.  __builtin_shufflevector takes constants only, so they are written out. */
#if VBYTES == 64 && !defined(ARITHMETIC_F64)
#define HALVES(a, b, w, low, high)                                                                 \
    switch (w) {                                                                                   \
    case 16:                                                                                       \
        low =                                                                                      \
            __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23); \
        high = __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, \
                                       30, 31);                                                    \
        break;                                                                                     \
    case 8:                                                                                        \
        low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26,  \
                                      27);                                                         \
        high = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29,   \
                                       30, 31);                                                    \
        break;                                                                                     \
    case 4:                                                                                        \
        low = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28,  \
                                      29);                                                         \
        high = __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27,   \
                                       30, 31);                                                    \
        break;                                                                                     \
    default:                                                                                       \
        low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, \
                                      30);                                                         \
        high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,    \
                                       29, 31);                                                    \
    }
#elif (VBYTES == 64 && defined(ARITHMETIC_F64)) || (VBYTES == 32 && !defined(ARITHMETIC_F64))
#define HALVES(a, b, w, low, high)                                                                 \
    switch (w) {                                                                                   \
    case 8:                                                                                        \
        low = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);                             \
        high = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);                          \
        break;                                                                                     \
    case 4:                                                                                        \
        low = __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13);                             \
        high = __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);                          \
        break;                                                                                     \
    default:                                                                                       \
        low = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);                            \
        high = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);                           \
    }
#elif (VBYTES == 32 && defined(ARITHMETIC_F64)) || (VBYTES == 16 && !defined(ARITHMETIC_F64))
#define HALVES(a, b, w, low, high)                                                                 \
    switch (w) {                                                                                   \
    case 4:                                                                                        \
        low = __builtin_shufflevector(a, b, 0, 1, 4, 5);                                           \
        high = __builtin_shufflevector(a, b, 2, 3, 6, 7);                                          \
        break;                                                                                     \
    default:                                                                                       \
        low = __builtin_shufflevector(a, b, 0, 2, 4, 6);                                           \
        high = __builtin_shufflevector(a, b, 1, 3, 5, 7);                                          \
    }
#else
#define HALVES(a, b, w, low, high)                                                                 \
    (void)w;                                                                                       \
    low = __builtin_shufflevector(a, b, 0, 2);                                                     \
    high = __builtin_shufflevector(a, b, 1, 3);
#endif

INLINE vreal add_halves(int w, vreal a, vreal b) {
    vreal low, high;
    HALVES(a, b, w, low, high)
    return low + high;
}

/* The vectors of a line, added by halves. */
INLINE vreal line_fold(line a) {
    UNROLL
    for (int half = NV / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            a.v[k] += a.v[k + half];
    return a.v[0];
}

/* n vectors, whose sets have w lanes each, become n / 2 with half as many; or one stays one. */
INLINE int halve(int n, int w, vreal *v) {
    if (w > VL)
        return n;
    if (n == 1) {
        v[0] = add_halves(w, v[0], v[0]);
        return 1;
    }
    UNROLL
    for (int j = 0; j < 8; j++)
        if (j < n / 2)
            v[j] = add_halves(w, v[2 * j], v[2 * j + 1]);
    return n / 2;
}

/* From `count` lines, a constant power of two up to 16, to the first `count` elements of out, which
 * has room for 16. */
INLINE void reduce_lines(const int count, const line *in, real *out) {
    vreal v[16];
    UNROLL
    for (int j = 0; j < 16; j++)
        if (j < count)
            v[j] = line_fold(in[j]);
    const int n16 = halve(count, 16, v), n8 = halve(n16, 8, v), n4 = halve(n8, 4, v);
    const int n = halve(n4, 2, v);
    UNROLL
    for (int j = 0; j < 16; j++)
        if (j < n)
            memcpy(out + j * VL, &v[j], sizeof v[j]);
}

#endif
