#define _GNU_SOURCE
#include "aligned.h"
#include "numerics.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

void *aligned_new(void *context, size_t bytes) {
    (void)context;
#if defined(_WIN32)
    return malloc(bytes ? bytes : 1);
#else
    void *memory = NULL;
    if (posix_memalign(&memory, LINE_BYTES, bytes ? bytes : 1))
        return NULL;
#if defined(__linux__)
    /* As NumPy's own allocator: huge pages, from where they pay. */
    enum { LARGE = 1 << 22, PAGE = 4096 };
    if (bytes >= LARGE) {
        const size_t offset = (PAGE - (uintptr_t)memory % PAGE) % PAGE;
        madvise((char *)memory + offset, bytes - offset, MADV_HUGEPAGE);
    }
#endif
    return memory;
#endif
}

void *aligned_zeros(void *context, size_t count, size_t size) {
    void *memory = aligned_new(context, count * size);
    if (memory)
        memset(memory, 0, count * size);
    return memory;
}

void *aligned_resize(void *context, void *memory, size_t bytes) {
    (void)context;
    return realloc(memory, bytes ? bytes : 1);
}

void aligned_free(void *context, void *memory, size_t bytes) {
    (void)context;
    (void)bytes;
    free(memory);
}
