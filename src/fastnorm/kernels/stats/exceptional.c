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
    if (magnitude < 0x1p-14) /* subnormal, or zero */
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

/* ---- blocks of elements as doubles: the loops know the type ---- */

enum { ELEMENTS = 64, SUM_LANES = 8 };

/* n elements, `step` bytes apart. */
static void load_block(int dtype, const char *p, ptrdiff_t step, ptrdiff_t n, double *to) {
    uint32_t bits;
    uint16_t half;
    if (dtype == F64) {
        for (ptrdiff_t i = 0; i < n; i++)
            memcpy(&to[i], p + i * step, sizeof to[i]);
    } else if (dtype == F32) {
        for (ptrdiff_t i = 0; i < n; i++) {
            memcpy(&bits, p + i * step, sizeof bits);
            to[i] = f32_of_bits(bits);
        }
    } else {
        for (ptrdiff_t i = 0; i < n; i++) {
            memcpy(&half, p + i * step, sizeof half);
            to[i] = dtype == BF16 ? f32_of_bits((uint32_t)half << 16) : f16_of_bits(half);
        }
    }
}

static void store_block(int dtype, char *p, ptrdiff_t n, const double *from) {
    if (dtype == F64) {
        memcpy(p, from, (size_t)n * sizeof *from);
    } else if (dtype == F32) {
        for (ptrdiff_t i = 0; i < n; i++) {
            const float f = (float)from[i];
            memcpy(p + i * (ptrdiff_t)sizeof f, &f, sizeof f);
        }
    } else {
        for (ptrdiff_t i = 0; i < n; i++)
            element_put(dtype, p + 2 * i, from[i]);
    }
}

/* Weights, biases: those of the elements from `first` on. */
static void load_params(int dtype, const void *params, ptrdiff_t step, ptrdiff_t first, ptrdiff_t n,
                        double otherwise, double *to) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const ptrdiff_t k = (first + i) * step;
        to[i] = !params        ? otherwise
                : dtype == F64 ? ((const double *)params)[k]
                               : (double)((const float *)params)[k];
    }
}

/* ---- moments ---- */

typedef struct {
    double most;                        /* magnitude */
    double d[SUM_LANES], dd[SUM_LANES]; /* sums of d and d*d, where d = x * scale - mean */
    double scale, mean;
} ElementSums;

static double lanes_sum(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
           ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static void add_elements(int dtype, const char *p, ptrdiff_t step, ptrdiff_t n, ElementSums *s) {
    double d[ELEMENTS];
    for (ptrdiff_t start = 0; start < n; start += ELEMENTS) {
        const ptrdiff_t length = MIN(n - start, ELEMENTS);
        load_block(dtype, p + start * step, step, length, d);
        for (ptrdiff_t i = 0; i < length; i += SUM_LANES) {
            for (ptrdiff_t k = 0; k < MIN(SUM_LANES, length - i); k++) {
                const double magnitude = fabs(d[i + k]), e = d[i + k] * s->scale - s->mean;
                s->most = magnitude > s->most ? magnitude : s->most;
                s->d[k] += e;
                s->dd[k] += e * e;
            }
        }
    }
}

static ElementSums sum_elements(const Plan *plan, const RowsPlan *rows, const char *x,
                                ptrdiff_t first, ptrdiff_t last, double scale, double mean) {
    const ptrdiff_t size = element_bytes(plan->dtype);
    ElementSums s = {.scale = scale, .mean = mean};
    if (rows->length == 1) { /* of a column: elements at one distance */
        Cursor run;
        cursor_at(&run, &rows->runs, first);
        while (first < last) {
            const ptrdiff_t n = MIN(last - first, inner_left(&run));
            add_elements(plan->dtype, x + run.at.x, inner_step(&rows->runs).x, n, &s);
            first += n;
            if (first < last)
                cursor_skip(&run, n);
        }
        return s;
    }
    PieceWalk walk;
    pieces_at(&walk, rows, first, size);
    for (ptrdiff_t i = first; i < last; i++) {
        add_elements(plan->dtype, x + walk.at.x, size, walk.length, &s);
        if (i + 1 < last)
            pieces_next(&walk, size);
    }
    return s;
}

void exceptional_moments(const Plan *plan, const RowsPlan *rows, const char *x, ptrdiff_t first,
                         ptrdiff_t last, Moments *out) {
    const ptrdiff_t ends = last / rows->pieces - first / rows->pieces;
    const double n =
        (double)((last - first) * rows->piece - ends * (rows->pieces * rows->piece - rows->length));
    double scale = 1, mean = 0, rest = 0;
    ElementSums s;
    if (plan->centre || plan->dtype == F64)
        s = sum_elements(plan, rows, x, first, last, 1, 0);
    if (plan->dtype == F64) { /* float32 has room in float64 */
        int exponent;
        frexp(s.most, &exponent);
        if (s.most > 0 && s.most - s.most == 0)
            scale = ldexp(1, exponent > 1000 ? -1000 : exponent < -1000 ? 1000 : -exponent);
        if (plan->centre && scale != 1)
            s = sum_elements(plan, rows, x, first, last, scale, 0);
    }
    if (plan->centre) {
        mean = lanes_sum(s.d) / n;
        if (!(mean - mean == 0)) {
            *out = (Moments){n, mean, 0, NAN, 1};
            return;
        }
    }
    s = sum_elements(plan, rows, x, first, last, scale, mean);
    if (plan->centre)
        rest = lanes_sum(s.d) / n;
    const double m2 = lanes_sum(s.dd) - n * rest * rest;
    out->n = n;
    out->mean = two_sum(mean / scale, rest / scale, &out->rest);
    out->m2 = m2 < 0 ? 0 : m2;
    out->scale = scale;
}

/* ---- results ---- */

double exceptional_xhat(double x, double mean, double rest, double rstd) {
    const double far = 0x1p1000;
    if (fabs(x) > far || fabs(mean) > far)
        return ((x * 0.25 - mean * 0.25) - rest * 0.25) * rstd * 4;
    return ((x - mean) - rest) * rstd;
}

double exceptional_result(double x, const Stat *s, double weight, double bias) {
    return exceptional_xhat(x, s->mean, s->rest, s->rstd) * weight + bias;
}

void exceptional_apply(int dtype, const char *x, char *y, ptrdiff_t n, const Stat *s,
                       const ElementParams *params) {
    const ptrdiff_t size = element_bytes(dtype);
    double e[ELEMENTS], weight[ELEMENTS], bias[ELEMENTS];
    for (ptrdiff_t start = 0; start < n; start += ELEMENTS) {
        const ptrdiff_t length = MIN(n - start, ELEMENTS);
        load_block(dtype, x + start * size, size, length, e);
        load_params(dtype, params->weight, params->step, start, length, 1, weight);
        load_params(dtype, params->bias, params->step, start, length, 0, bias);
        for (ptrdiff_t i = 0; i < length; i++)
            e[i] = exceptional_result(e[i], s, weight[i], bias[i]);
        store_block(dtype, y + start * size, length, e);
    }
}

/* ---- gradients ---- */

double exceptional_dx(double grad, double weight, double xhat, double rstd, const GradStat *s) {
    if (s->beyond != SHRUNK)
        return ((grad * weight - s->g) - xhat * s->gx) * rstd;
    const double dx = (grad * GRAD_SHRINK * (weight * GRAD_SHRINK) - s->g) - xhat * s->gx;
    return rstd > 1 ? grad_unshrink(dx) * rstd : dx * (rstd / GRAD_SHRINK) / GRAD_SHRINK;
}

/* A block of both arrays, from element `start` on. */
typedef struct {
    double xhat[ELEMENTS], grad[ELEMENTS], weight[ELEMENTS];
    ptrdiff_t start, length;
} PairBlock;

static void load_pairs(const Job *job, const ElementPair *e, ptrdiff_t n,
                       const ElementParams *params, PairBlock *b) {
    const int dtype = job->plan.dtype;
    const ptrdiff_t size = element_bytes(dtype), at = b->start * size;
    b->length = MIN(n - b->start, ELEMENTS);
    load_block(dtype, e->x + at, size, b->length, b->xhat);
    load_block(dtype, e->grad + at, size, b->length, b->grad);
    load_params(dtype, params->weight, params->step, b->start, b->length, 1, b->weight);
    for (ptrdiff_t i = 0; i < b->length; i++)
        b->xhat[i] = exceptional_xhat(b->xhat[i], e->mean, 0, e->rstd);
}

void exceptional_grad_sums(const Job *job, const ElementPair *e, ptrdiff_t n,
                           const ElementParams *params, GradSums *sums) {
    const double shrink = sums->beyond == SHRUNK ? GRAD_SHRINK : 1;
    PairBlock b;
    for (b.start = 0; b.start < n; b.start += b.length) {
        load_pairs(job, e, n, params, &b);
        for (ptrdiff_t i = 0; i < b.length; i++) {
            const double g = b.grad[i] * shrink * (b.weight[i] * shrink);
            sums->g += g;
            sums->gx += g * b.xhat[i];
            sums->x += job->plan.centre ? b.xhat[i] : 0;
        }
    }
}

void exceptional_grad_apply(const Job *job, const ElementPair *e, char *dx, ptrdiff_t n,
                            const ElementParams *params, const GradStat *s) {
    const ptrdiff_t size = element_bytes(job->plan.dtype);
    PairBlock b;
    for (b.start = 0; b.start < n; b.start += b.length) {
        load_pairs(job, e, n, params, &b);
        for (ptrdiff_t i = 0; i < b.length; i++) {
            /* Of xhat, frozen statistics have nothing in dx. */
            const double xhat = job->backward.frozen ? 0 : b.xhat[i] - s->shift;
            b.grad[i] = exceptional_dx(b.grad[i], b.weight[i], xhat, e->rstd, s);
        }
        store_block(job->plan.dtype, dx + b.start * size, b.length, b.grad);
    }
}
