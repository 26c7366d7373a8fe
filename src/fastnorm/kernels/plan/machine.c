#include "machine.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

/* Where nothing is known that would be better.  Intel's servers store past their L3 cache faster
 * than into it, however large it is. */
enum { L2_BYTES = 1 << 20, STREAM_ABOVE = 4 << 20 };

/* AMD's Zen has an L3 cache for a complex of up to 16 cores, and copies what fits faster through it
 * than past it. */
static struct {
    ptrdiff_t l2, l3; /* l3: 0 if results had better go past it */
    int sharing;      /* threads of a complex */
} here = {L2_BYTES, 0, 1};

static ptrdiff_t chosen = -1;
unsigned features_chosen = FEATURES_ALL;

static const char *const feature_names[] = {
#define TEXT(name, text) text,
    FEATURES(TEXT)
#undef TEXT
};

int feature_count(void) { return FEATURE_COUNT; }
const char *feature_name(int i) { return feature_names[i]; }
void features_set(int mask) { features_chosen = mask < 0 ? FEATURES_ALL : (unsigned)mask; }

#if defined(__x86_64__)
/* Intel describes its caches in leaf 4, AMD in leaf 0x8000001d, both in the same words. */
static void read_caches(unsigned leaf, int is_amd) {
    unsigned a, b, c, d;
    for (unsigned i = 0; i < 8 && __get_cpuid_count(leaf, i, &a, &b, &c, &d) && a & 0x1f; i++) {
        const ptrdiff_t ways = (b >> 22) + 1, parts = (b >> 12 & 0x3ff) + 1, line = (b & 0xfff) + 1;
        const ptrdiff_t bytes = ways * parts * line * ((ptrdiff_t)c + 1);
        const unsigned level = a >> 5 & 7;
        if (level == 2)
            here.l2 = bytes;
        if (level == 3 && is_amd) {
            here.l3 = bytes;
            here.sharing = (int)(a >> 14 & 0xfff) + 1;
        }
    }
}
#endif

void machine_init(void) {
#if defined(__x86_64__)
    enum {
        AUTHENTIC_AMD = 0x68747541, /* the first letters */
        HYGON_GENUINE = 0x6f677948,
        TOPOLOGY = 1 << 22 /* caches are described */
    };
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d))
        return;
    if (b != AUTHENTIC_AMD && b != HYGON_GENUINE)
        read_caches(4, 0);
    else if (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & TOPOLOGY)
        read_caches(0x8000001d, 1);
#endif
}

ptrdiff_t cache_bytes(int threads) {
    const ptrdiff_t share = here.l3 / 2 / (threads < here.sharing ? threads : here.sharing);
    return share > here.l2 ? share : here.l2;
}

ptrdiff_t stream_above(int threads, Measures what) {
    if (chosen >= 0)
        return chosen;
    if (here.l3 < STREAM_ABOVE)
        return STREAM_ABOVE;
    /* The more is done between reading and storing, the less of what nearly fills the cache stays.
     */
    const int eighths = what == MEASURES_NOTHING ? 8 : what == MEASURES_COLUMNS ? 7 : 4;
    return here.l3 / 8 * eighths * ((threads + here.sharing - 1) / here.sharing);
}

void stream_set_above(ptrdiff_t bytes) { chosen = bytes; }

/* ---- the floating-point environment ---- */

#if defined(__x86_64__)

enum { DEFAULT_STATE = 0x1f80, FLAGS = 0x3f };

unsigned long fp_enter(void) {
    const unsigned before = _mm_getcsr();
    if ((before & ~(unsigned)FLAGS) != DEFAULT_STATE)
        _mm_setcsr(DEFAULT_STATE);
    return before;
}

void fp_leave(unsigned long before) {
    if (((unsigned)before & ~(unsigned)FLAGS) != DEFAULT_STATE)
        _mm_setcsr((unsigned)before);
}

#elif defined(__aarch64__)

unsigned long fp_enter(void) {
    unsigned long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (before)
        __asm__ volatile("msr fpcr, %0" : : "r"(0ul));
    return before;
}

void fp_leave(unsigned long before) {
    if (before)
        __asm__ volatile("msr fpcr, %0" : : "r"(before));
}

#else
#include <fenv.h>

unsigned long fp_enter(void) {
    const int before = fegetround();
    if (before != FE_TONEAREST)
        fesetround(FE_TONEAREST);
    return (unsigned long)before;
}

void fp_leave(unsigned long before) {
    if ((int)before != FE_TONEAREST)
        fesetround((int)before);
}
#endif
