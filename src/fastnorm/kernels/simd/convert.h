/* Conversions of vectors between element types, and the fused multiply-add of tiers without it.
 * Included by vector.h. */
#ifndef FASTNORM_CONVERT_H
#define FASTNORM_CONVERT_H

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

#if defined(__SSE2__)
INLINE void f32_to_f64(vf32 v, vf64 *out) {
    out[0] = (vf64)_mm_cvtps_pd((__m128)v);
    out[1] = (vf64)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v));
}
INLINE vf32 f64_to_f32(const vf64 *v) {
    return (vf32)_mm_movelh_ps(_mm_cvtpd_ps((__m128d)v[0]), _mm_cvtpd_ps((__m128d)v[1]));
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

/* That matters only where the 53 bits lie halfway between two floats, or where floats have fewer
 * than 24.  Out of line: emulated in place, it would be half of the module, for old machines. */
__attribute__((unused)) NOINLINE vf32 f32_fma(vf32 a, vf32 b, vf32 c) {
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

#endif
