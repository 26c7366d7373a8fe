#include "baseline.h"
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

void copy_bytes(const char *from, char *to, ptrdiff_t bytes, int stream) {
    ptrdiff_t i = 0;
#if defined(__SSE2__)
    if (stream) {
        for (; i < bytes && (size_t)(to + i) % 16; i++)
            to[i] = from[i];
        for (; i + 64 <= bytes; i += 64)
            for (int k = 0; k < 64; k += 16)
                _mm_stream_si128((__m128i *)(to + i + k),
                                 _mm_loadu_si128((const __m128i *)(from + i + k)));
        _mm_sfence();
    }
#else
    (void)stream;
#endif
    memcpy(to + i, from + i, (size_t)(bytes - i));
}

void combine_bytes(const char *a, const char *b, char *restrict to, ptrdiff_t bytes, int stream) {
    ptrdiff_t i = 0;
#if defined(__SSE2__)
    if (stream) {
        for (; i < bytes && (size_t)(to + i) % 16; i++)
            to[i] = a[i] ^ b[i];
        for (; i + 64 <= bytes; i += 64)
            for (int k = 0; k < 64; k += 16)
                _mm_stream_si128((__m128i *)(to + i + k),
                                 _mm_xor_si128(_mm_loadu_si128((const __m128i *)(a + i + k)),
                                               _mm_loadu_si128((const __m128i *)(b + i + k))));
        _mm_sfence();
    }
#else
    (void)stream;
#endif
    /* Made of vectors by the compiler.  Wider ones than every processor has were not faster: the
     * caches are what it waits for. */
    for (; i < bytes; i++)
        to[i] = a[i] ^ b[i];
}

void read_bytes(const char *a, const char *b, ptrdiff_t bytes) {
    uint64_t sums[16] = {0};
    ptrdiff_t i = 0;
    for (; i + 128 <= bytes; i += 128)
        for (int k = 0; k < 16; k++) {
            uint64_t from_a, from_b;
            memcpy(&from_a, a + i + 8 * k, 8);
            memcpy(&from_b, b + i + 8 * k, 8);
            sums[k] += from_a ^ from_b;
        }
    for (; i < bytes; i++)
        sums[0] += (uint64_t)(a[i] ^ b[i]);
    for (int k = 1; k < 16; k++)
        sums[0] += sums[k];
    /* Written where the compiler cannot tell that nobody looks. */
    volatile uint64_t seen = sums[0];
    (void)seen;
}
