/* Which tiers were compiled, and which of them this processor and operating system can run. */
#include "dispatch.h"
#include "../plan/plan.h"

#if defined(FASTNORM_TIERS_X86)
#include <cpuid.h>

extern const Kernels x86_64_v2_f32, x86_64_v2_f64, x86_64_v3_f32, x86_64_v3_f64, x86_64_v4_f32,
    x86_64_v4_f64;

/* Compilers' own test for levels (__builtin_cpu_supports("x86-64-v3")) is too new for some. */
static int x86_level(void) {
    enum {
        SSE3 = 1 << 0,
        SSSE3 = 1 << 9,
        FMA = 1 << 12,
        CX16 = 1 << 13,
        SSE41 = 1 << 19,
        SSE42 = 1 << 20,
        MOVBE = 1 << 22,
        POPCNT = 1 << 23,
        OSXSAVE = 1 << 27,
        AVX = 1 << 28,
        F16C = 1 << 29,
        V2 = SSE3 | SSSE3 | CX16 | SSE41 | SSE42 | POPCNT,
        V3 = FMA | MOVBE | OSXSAVE | AVX | F16C,
        BMI1 = 1 << 3, /* leaf 7, ebx */
        AVX2 = 1 << 5,
        BMI2 = 1 << 8,
        AVX512F = 1 << 16,
        AVX512DQ = 1 << 17,
        AVX512CD = 1 << 28,
        AVX512BW = 1 << 30,
        V3_7 = BMI1 | AVX2 | BMI2,
        LZCNT = 1 << 5, /* leaf 0x80000001, ecx */
        YMM = 0x6,      /* XCR0: the system saves these registers */
        ZMM = 0xe6
    };
    const unsigned v4_7 = (unsigned)(AVX512F | AVX512DQ | AVX512CD | AVX512BW) | 1u << 31;
    unsigned a, b, c1, d, b7 = 0, c, lzcnt = 0, xcr0 = 0, high;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || (c1 & V2) != V2)
        return 1;
    if ((c1 & V3) != V3)
        return 2;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        b7 = b;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d))
        lzcnt = c;
    if ((b7 & V3_7) != V3_7 || !(lzcnt & LZCNT) || (xcr0 & YMM) != YMM)
        return 2;
    return (b7 & v4_7) == v4_7 && (xcr0 & ZMM) == ZMM ? 4 : 3;
}

/* The fastest first.  Every x86-64 that is still in use has v2; there is nothing below it. */
static const struct {
    const char *name;
    const Kernels *f32, *f64;
    int level;
} tiers[] = {
    {"x86-64-v4", &x86_64_v4_f32, &x86_64_v4_f64, 4},
    {"x86-64-v3", &x86_64_v3_f32, &x86_64_v3_f64, 3},
    {"x86-64-v2", &x86_64_v2_f32, &x86_64_v2_f64, 2},
};

int isa_available(int tier) { return tiers[tier].level <= x86_level(); }

#else

#if defined(__aarch64__)
extern const Kernels aarch64_f32, aarch64_f64;
#define ONLY_TIER "aarch64", &aarch64_f32, &aarch64_f64
#else
extern const Kernels generic_f32, generic_f64;
#define ONLY_TIER "generic", &generic_f32, &generic_f64
#endif

static const struct {
    const char *name;
    const Kernels *f32, *f64;
} tiers[] = {{ONLY_TIER}};

int isa_available(int tier) { return tier == 0; }

#endif

int isa_count(void) { return (int)(sizeof tiers / sizeof tiers[0]); }
const char *isa_name(int tier) { return tiers[tier].name; }
const Kernels *isa_kernels(int tier, int dtype) {
    return dtype == F64 ? tiers[tier].f64 : tiers[tier].f32;
}

static const char *const names[] = {
#define KERNEL(name) #name,
#include "kernels.def"
#undef KERNEL
};

int kernel_count(void) { return (int)(sizeof names / sizeof names[0]); }
const char *kernel_name(int i) { return names[i]; }
