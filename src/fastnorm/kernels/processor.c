#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* Where nothing is known that would be better; measured on servers of Intel's, which store past
 * their L3 cache faster than into it, however large it is. */
enum {
    STREAM_ABOVE = 2 * CORE_CACHE_BYTES,
    BACKWARD_AHEAD = 1024 /* 4 KiB: 5 to 15 % slower */
};

/* AMD's Zen.  Its L3 cache belongs to a complex of up to 16 cores, and what fits is copied up to
 * twice as fast through it as past it, more so while others use the memory. */
static struct {
    int is_amd;
    ptrdiff_t l3;
    int sharing; /* threads of a complex */
} here;

static ptrdiff_t chosen = -1;

void processor_init(void) {
#if defined(__x86_64__)
    enum {
        AUTHENTIC_AMD = 0x68747541, /* the first letters */
        HYGON_GENUINE = 0x6f677948,
        TOPOLOGY = 1 << 22, /* caches are described */
        LEVEL_3 = 3
    };
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || (b != AUTHENTIC_AMD && b != HYGON_GENUINE))
        return;
    here.is_amd = 1;
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & TOPOLOGY))
        return;
    for (unsigned i = 0; i < 8 && __get_cpuid_count(0x8000001d, i, &a, &b, &c, &d) && a & 0x1f;
         i++) {
        const ptrdiff_t ways = (b >> 22) + 1, parts = (b >> 12 & 0x3ff) + 1, line = (b & 0xfff) + 1;
        if ((a >> 5 & 7) != LEVEL_3)
            continue;
        here.l3 = ways * parts * line * ((ptrdiff_t)c + 1);
        here.sharing = (int)(a >> 14 & 0xfff) + 1;
    }
#endif
}

ptrdiff_t cache_bytes(int threads) {
    if (!here.l3)
        return CORE_CACHE_BYTES;
    const ptrdiff_t share = here.l3 / 2 / (threads < here.sharing ? threads : here.sharing);
    return share > CORE_CACHE_BYTES ? share : CORE_CACHE_BYTES;
}

int shares_cache(void) { return here.l3 > 0; }

ptrdiff_t stream_above(int threads, Measures what) {
    if (chosen >= 0)
        return chosen;
    if (here.l3 < STREAM_ABOVE)
        return STREAM_ABOVE;
    /* The more is done between reading and storing, the less of what nearly fills it stays.  Of 32
     * MiB on Zen 4, 31 are copied through it in half the time, columns that are measured take as
     * long either way, and rows half as long again at 25, a sixth less at 12. */
    const int eighths = what == MEASURES_NOTHING ? 8 : what == MEASURES_COLUMNS ? 7 : 4;
    return here.l3 / 8 * eighths * ((threads + here.sharing - 1) / here.sharing);
}

void stream_set_above(ptrdiff_t bytes) { chosen = bytes; }

ptrdiff_t backward_ahead(void) { return here.is_amd ? 4096 : BACKWARD_AHEAD; }
