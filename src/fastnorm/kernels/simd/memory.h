/* The sink: where results go on their way to the output.
 *
 * Results that are not whole lines of the output, or not of its type, are stored into a buffer in
 * L1 by ordinary stores that may overlap, and leave from there by whole lines:
 *
 *     output    ....|.skip.ddddd|dddddddddddd|ddddddd.....|        | lines of memory
 *     buffer        |......ddddd|dddddddddddd|ddddddd               fill: end of what is there
 */
#ifndef FASTNORM_MEMORY_H
#define FASTNORM_MEMORY_H

#include "../plan/plan.h"
#include "../plan/tuning.h"
#include "vector.h"

enum {
    STAGE = STAGE_BYTES / (int)sizeof(real),
    STAGE_ROOM = STAGE + SEGMENT + 4 * LINE, /* a segment may follow a buffer that is nearly full */
    TILE = TILE_BYTES / (int)sizeof(real)
};

typedef struct {
    real *buffer;   /* element 0 belongs at `y` */
    char *y;        /* of a line of the output, if that is streamed */
    ptrdiff_t fill; /* elements in the buffer, with `skip` */
    ptrdiff_t skip; /* the first ones, which are not ours */
    int dtype, stream;
} Sink;

#define ELEMENT_BYTES(dtype) ((dtype) == F32 ? 4 : (dtype) == F64 ? 8 : 2)

/* ---- element types that are not the arithmetic's ---- */

#ifndef ARITHMETIC_F64
INLINE vf32 half_to_real(int dtype, vu16 h) {
    return dtype == F16 ? f16_to_f32(h) : bf16_to_f32(h);
}
INLINE vu16 real_to_half(int dtype, vf32 f) {
    return dtype == F16 ? f32_to_f16(f) : f32_to_bf16(f);
}

INLINE void load_halves(int dtype, const uint16_t *x, float *to, ptrdiff_t n) {
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        vu16 h;
        memcpy(&h, x + i, sizeof h);
        const vf32 f = half_to_real(dtype, h);
        memcpy(to + i, &f, sizeof f);
    }
    if (i < n) {
        vu16 h = {0};
        memcpy(&h, x + i, (size_t)(n - i) * sizeof(uint16_t));
        const vf32 f = half_to_real(dtype, h);
        memcpy(to + i, &f, (size_t)(n - i) * sizeof(float));
    }
}

INLINE void store_halves(int dtype, const float *from, uint16_t *y, ptrdiff_t n) {
    ptrdiff_t i = 0;
    vf32 f;
    for (; i + VL <= n; i += VL) {
        memcpy(&f, from + i, sizeof f);
        const vu16 h = real_to_half(dtype, f);
        memcpy(y + i, &h, sizeof h);
    }
    if (i < n) {
        f = (vf32){0};
        memcpy(&f, from + i, (size_t)(n - i) * sizeof(float));
        const vu16 h = real_to_half(dtype, f);
        memcpy(y + i, &h, (size_t)(n - i) * sizeof(uint16_t));
    }
}

/* Lines of 32 elements. */
INLINE void stream_halves(int dtype, const float *from, uint16_t *y, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += 2 * LINE) {
        vu16 h[2 * NV];
        line out;
        UNROLL
        for (int k = 0; k < 2 * NV; k++) {
            vf32 f;
            memcpy(&f, from + i + k * VL, sizeof f);
            h[k] = real_to_half(dtype, f);
        }
        memcpy(&out, h, sizeof out);
        line_stream(y + i, out);
    }
}

NOINLINE void load_f16(const void *x, void *to, ptrdiff_t n) { load_halves(F16, x, to, n); }
NOINLINE void load_bf16(const void *x, void *to, ptrdiff_t n) { load_halves(BF16, x, to, n); }
NOINLINE void store_f16(const float *from, void *y, ptrdiff_t n) { store_halves(F16, from, y, n); }
NOINLINE void store_bf16(const float *from, void *y, ptrdiff_t n) {
    store_halves(BF16, from, y, n);
}
NOINLINE void stream_f16(const float *from, void *y, ptrdiff_t n) {
    stream_halves(F16, from, y, n);
}
NOINLINE void stream_bf16(const float *from, void *y, ptrdiff_t n) {
    stream_halves(BF16, from, y, n);
}
#endif

/* n elements of another type than the arithmetic's. */
INLINE void load_elements(int dtype, const char *x, real *to, ptrdiff_t n) {
#ifdef ARITHMETIC_F64
    (void)dtype;
    memcpy(to, x, (size_t)n * sizeof(real));
#else
    if (dtype == F16)
        load_f16(x, to, n);
    else
        load_bf16(x, to, n);
#endif
}

INLINE void store_elements(int dtype, const real *from, char *y, ptrdiff_t n) {
#ifndef ARITHMETIC_F64
    if (dtype == F16) {
        store_f16(from, y, n);
        return;
    }
    if (dtype == BF16) {
        store_bf16(from, y, n);
        return;
    }
#endif
    (void)dtype;
    memcpy(y, from, (size_t)n * sizeof(real));
}

INLINE void stream_elements(int dtype, const real *from, char *y, ptrdiff_t n) {
#ifndef ARITHMETIC_F64
    if (dtype == F16) {
        stream_f16(from, y, n);
        return;
    }
    if (dtype == BF16) {
        stream_bf16(from, y, n);
        return;
    }
#endif
    (void)dtype;
    for (ptrdiff_t i = 0; i < n; i += LINE)
        line_stream(y + i * (ptrdiff_t)sizeof(real), line_load(from + i));
}

/* ---- the sink ---- */

INLINE void sink_begin(Sink *s, const Plan *plan, real *buffer) {
    s->buffer = buffer;
    s->y = NULL;
    s->fill = s->skip = 0;
    s->dtype = plan->dtype;
    s->stream = plan->stream;
}

/* What is in the buffer, or all of its whole lines, leaves it. */
NOINLINE void sink_flush(Sink *s) {
    const ptrdiff_t size = ELEMENT_BYTES(s->dtype), per_line = LINE_BYTES / size;
    if (!s->stream) {
        store_elements(s->dtype, s->buffer, s->y, s->fill);
        s->y += s->fill * size;
        s->fill = 0;
        return;
    }
    ptrdiff_t first = 0;
    const ptrdiff_t end = s->fill / per_line * per_line;
    if (end == 0)
        return;
    if (s->skip) {
        store_elements(s->dtype, s->buffer + s->skip, s->y + s->skip * size, per_line - s->skip);
        first = per_line;
        s->skip = 0;
    }
    stream_elements(s->dtype, s->buffer + first, s->y + first * size, end - first);
    UNROLL
    for (int k = 0; k < 2; k++) /* less than a line of 16-bit elements */
        line_store(s->buffer + k * LINE, line_load(s->buffer + end + k * LINE));
    s->y += end * size;
    s->fill -= end;
}

/* All that is in the buffer leaves it. */
NOINLINE void sink_end(Sink *s) {
    sink_flush(s);
    if (s->fill > s->skip)
        store_elements(s->dtype, s->buffer + s->skip, s->y + s->skip * ELEMENT_BYTES(s->dtype),
                       s->fill - s->skip);
    s->y = NULL;
    s->fill = s->skip = 0;
}

NOINLINE void sink_move(Sink *s, char *y) {
    const ptrdiff_t size = ELEMENT_BYTES(s->dtype);
    if (s->fill)
        sink_end(s);
    s->skip = s->fill = s->stream ? (ptrdiff_t)((uintptr_t)y % LINE_BYTES) / size : 0;
    s->y = y - s->skip * size;
}

/* Where to put the elements that belong at y. */
INLINE real *sink_at(Sink *s, char *y) {
    if (__builtin_expect(s->y + s->fill * ELEMENT_BYTES(s->dtype) != y, 0))
        sink_move(s, y);
    return s->buffer + s->fill;
}

/* n of them have been put there. */
INLINE real *sink_put(Sink *s, ptrdiff_t n) {
    s->fill += n;
    if (s->fill >= STAGE)
        sink_flush(s);
    return s->buffer + s->fill;
}

#endif
