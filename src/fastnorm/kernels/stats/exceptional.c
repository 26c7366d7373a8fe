#include "exceptional.h"
#include "../plan/nest.h"
#include <stdint.h>
#include <string.h>

static double f32_of_bits(uint32_t bits) {
    const uint32_t magnitude = bits & 0x7fffffff;
    double value;
    if (magnitude < 0x00800000) {
        value = (double)magnitude * 0x1p-149;
    } else {
        float f;
        memcpy(&f, &magnitude, sizeof f);
        value = (double)f;
    }
    return bits >> 31 ? -value : value;
}

static double f16_of_bits(uint16_t bits) {
    const unsigned exponent = bits >> 10 & 31, digits = bits & 0x3ff;
    const double value = exponent == 31 ? (digits ? NAN : INFINITY)
                         : exponent     ? ldexp((double)(digits + 1024), (int)exponent - 25)
                                        : (double)digits * 0x1p-24;
    return bits >> 15 ? -value : value;
}

double element_at(int dtype, const char *p) {
    uint32_t bits = 0;
    uint16_t half;
    double value;
    switch (dtype) {
    case F64:
        memcpy(&value, p, sizeof value);
        return value;
    case F32:
        memcpy(&bits, p, sizeof bits);
        return f32_of_bits(bits);
    case BF16:
        memcpy(&half, p, sizeof half);
        return f32_of_bits((uint32_t)half << 16);
    default:
        memcpy(&half, p, sizeof half);
        return f16_of_bits(half);
    }
}

static uint16_t bf16_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (f != f)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static uint16_t f16_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const double magnitude = fabs((double)f);
    if (f != f)
        return sign | 0x7e00;
    if (magnitude >= 65520)
        return sign | 0x7c00;
    int exponent;
    frexp(magnitude, &exponent);
    if (exponent < -13) /* subnormal */
        return sign | (uint16_t)nearbyint(magnitude * 0x1p24);
    const unsigned digits = (unsigned)nearbyint(ldexp(magnitude, 11 - exponent));
    return sign | (uint16_t)(((unsigned)(exponent + 13) << 10) + digits);
}

void element_put(int dtype, char *p, double value) {
    const float f = (float)value;
    uint16_t half;
    switch (dtype) {
    case F64:
        memcpy(p, &value, sizeof value);
        return;
    case F32:
        memcpy(p, &f, sizeof f);
        return;
    case BF16:
        half = bf16_bits(f);
        break;
    default:
        half = f16_bits(f);
    }
    memcpy(p, &half, sizeof half);
}

static ptrdiff_t element_bytes(int dtype) { return dtype == F64 ? 8 : dtype == F32 ? 4 : 2; }

/* Visit all elements: of `step` 0 for their magnitude, 1 for the sum, 2 for squared deviations. */
static double sum_elements(const Plan *plan, const RowsPlan *rows, const char *x, ptrdiff_t first,
                           ptrdiff_t last, int step, double scale, double mean) {
    const ptrdiff_t size = element_bytes(plan->dtype);
    double total = 0;
    PieceWalk walk;
    pieces_at(&walk, rows, first, size);
    for (ptrdiff_t i = first; i < last; i++, pieces_next(&walk, size)) {
        const char *p = x + walk.at.x;
        for (ptrdiff_t k = 0; k < walk.length; k++, p += size) {
            const double e = element_at(plan->dtype, p) * scale - mean;
            if (step == 0)
                total = fabs(e) > total ? fabs(e) : total;
            else
                total += step == 1 ? e : e * e;
        }
    }
    return total;
}

void exceptional_moments(const Plan *plan, const RowsPlan *rows, const char *x, ptrdiff_t first,
                         ptrdiff_t last, Moments *out) {
    const ptrdiff_t ends = last / rows->pieces - first / rows->pieces;
    const double n = (double)((last - first) * rows->piece -
                              ends * (rows->pieces * rows->piece - rows->length));
    double scale = 1, mean = 0, rest = 0;
    if (plan->dtype == F64) { /* float32 has room in float64 */
        const double most = sum_elements(plan, rows, x, first, last, 0, 1, 0);
        int exponent;
        frexp(most, &exponent);
        if (most > 0 && most - most == 0)
            scale = ldexp(1, exponent > 1000 ? -1000 : exponent < -1000 ? 1000 : -exponent);
    }
    if (plan->centre) {
        mean = sum_elements(plan, rows, x, first, last, 1, scale, 0) / n;
        rest = sum_elements(plan, rows, x, first, last, 1, scale, mean) / n;
        if (!(mean - mean == 0)) {
            *out = (Moments){n, mean, 0, NAN, 1};
            return;
        }
    }
    const double m2 = sum_elements(plan, rows, x, first, last, 2, scale, mean) - n * rest * rest;
    out->n = n;
    out->mean = two_sum(mean / scale, rest / scale, &out->rest);
    out->m2 = m2 < 0 ? 0 : m2;
    out->scale = scale;
}

double exceptional_xhat(double x, double mean, double rest, double rstd) {
    const double far = 0x1p1000;
    if (fabs(x) > far || fabs(mean) > far)
        return ((x * 0.25 - mean * 0.25) - rest * 0.25) * rstd * 4;
    return ((x - mean) - rest) * rstd;
}

double exceptional_result(double x, const Stat *s, double weight, double bias) {
    return exceptional_xhat(x, s->mean, s->rest, s->rstd) * weight + bias;
}

static double param_at(int dtype, const void *params, ptrdiff_t i, double otherwise) {
    return !params        ? otherwise
           : dtype == F64 ? ((const double *)params)[i]
                          : (double)((const float *)params)[i];
}

void exceptional_apply(int dtype, const char *x, char *y, ptrdiff_t n, const Stat *s,
                       const ElementParams *params) {
    const ptrdiff_t size = element_bytes(dtype);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double weight = param_at(dtype, params->weight, i * params->step, 1);
        const double bias = param_at(dtype, params->bias, i * params->step, 0);
        element_put(dtype, y + i * size,
                    exceptional_result(element_at(dtype, x + i * size), s, weight, bias));
    }
}

void exceptional_grad_sums(const Job *job, const ElementPair *e, ptrdiff_t n,
                           const ElementParams *params, GradSums *sums) {
    const int dtype = job->plan.dtype;
    const ptrdiff_t size = element_bytes(dtype);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double xhat =
            exceptional_xhat(element_at(dtype, e->x + i * size), e->mean, 0, e->rstd);
        const double shrink = sums->beyond == SHRUNK ? GRAD_SHRINK : 1;
        const double g = element_at(dtype, e->grad + i * size) * shrink *
                         (param_at(dtype, params->weight, i * params->step, 1) * shrink);
        sums->g += g;
        sums->gx += g * xhat;
        sums->x += job->plan.centre ? xhat : 0;
    }
}

double exceptional_dx(double grad, double weight, double xhat, double rstd, const GradStat *s) {
    if (s->beyond != SHRUNK)
        return ((grad * weight - s->g) - xhat * s->gx) * rstd;
    const double dx = (grad * GRAD_SHRINK * (weight * GRAD_SHRINK) - s->g) - xhat * s->gx;
    return rstd > 1 ? grad_unshrink(dx) * rstd : dx * (rstd / GRAD_SHRINK) / GRAD_SHRINK;
}

void exceptional_grad_apply(const Job *job, const ElementPair *e, char *dx, ptrdiff_t n,
                            const ElementParams *params, const GradStat *s) {
    const int dtype = job->plan.dtype;
    const ptrdiff_t size = element_bytes(dtype);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double xhat =
            job->backward.frozen
                ? 0 /* of which dx has nothing */
                : exceptional_xhat(element_at(dtype, e->x + i * size), e->mean, 0, e->rstd) -
                      s->shift;
        element_put(dtype, dx + i * size,
                    exceptional_dx(element_at(dtype, e->grad + i * size),
                                   param_at(dtype, params->weight, i * params->step, 1), xhat,
                                   e->rstd, s));
    }
}
