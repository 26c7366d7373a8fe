/* One kernel from naive to final: layer norm of float32 rows, with weight and bias, by one thread.
 *
 * Five versions, each with one idea more than the one before, and two copies to compare with, in
 * the L1 cache, in the L2 cache and from memory; README.md says what the ideas are. Rows have a
 * multiple of 16 elements, and there is a multiple of 16 of them. The kernels of fastnorm do the
 * same for any shape, layout and element type, with care for ranges and NaN, and the same bits on
 * every processor.
 *
 *     cc -O3 -march=native -fno-math-errno ladder.c -o ladder -lm && ./ladder 768
 */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { LANES = 16, BATCH = 16, CHAIN = 16 * LANES, AHEAD = 1024, ROUNDS = 8, NONE = -1 };
#define INLINE static inline __attribute__((always_inline))
typedef float vf __attribute__((vector_size(4 * LANES), may_alias));

typedef struct {
    const float *x, *weight, *bias;
    float *y;
    ptrdiff_t rows, length, step; /* step: elements from one row to the next */
    int large;                    /* more than the L2 cache holds */
} Job;

/* Lane r % 16 is that of row r: its pivot and its sums around it, or mean + low / rstd and rstd. */
typedef struct {
    float pivot[BATCH], mean[BATCH], low[BATCH], rstd[BATCH];
    vf sum[BATCH], square[BATCH];
} Batch;

INLINE vf load(const float *from) { return *(const vf *)from; }

#if defined(__SSE2__)
INLINE void stream_to(float *to, vf value) {
    __m128 parts[4];
    memcpy(parts, &value, sizeof parts);
    for (int i = 0; i < 4; i++)
        _mm_stream_ps(to + 4 * i, parts[i]);
}
INLINE void fence(void) { _mm_sfence(); }
#else /* ordinary stores */
INLINE void stream_to(float *to, vf value) { *(vf *)to = value; }
INLINE void fence(void) {}
#endif

INLINE void store(float *to, vf value, int stream) {
    if (stream)
        stream_to(to, value);
    else
        *(vf *)to = value;
}

/* Apply to one row and measure another one in the same loop; either may be NONE. Sums are float32
 * in chains of 16 additions, because longer chains of squares err in one direction. */
INLINE void pass(const Job *job, ptrdiff_t apply, ptrdiff_t measure, Batch *b, int stream) {
    const float *x = job->x + apply * job->step, *next = job->x + measure * job->step;
    const float *weight = job->weight, *bias = job->bias;
    float *y = job->y + apply * job->step;
    ptrdiff_t length = job->length, from = apply & (BATCH - 1), to = measure & (BATCH - 1);
    vf zero = {0}, sum = zero, square = zero, pivot = zero + b->pivot[to];
    vf mean = zero + b->mean[from], low = zero + b->low[from], rstd = zero + b->rstd[from];
    for (ptrdiff_t i = 0; i < length;) {
        ptrdiff_t end = i + CHAIN < length ? i + CHAIN : length;
        vf chain = zero, squares = zero;
        for (; i < end; i += LANES) {
            if (measure != NONE) {
                vf d = load(next + i) - pivot;
                chain += d;
                squares += d * d;
                __builtin_prefetch(next + i + AHEAD);
            }
            if (apply != NONE) {
                vf t = (load(x + i) - mean) * rstd - low;
                store(y + i, t * load(weight + i) + load(bias + i), stream);
            }
        }
        sum += chain;
        square += squares;
    }
    if (measure != NONE)
        b->sum[to] = sum, b->square[to] = square;
}

/* ---- 1: naive. The mean, then the variance, then the result. ---- */

static void naive(const Job *job) {
    ptrdiff_t n = job->length;
    for (ptrdiff_t r = 0; r < job->rows; r++) {
        const float *x = job->x + r * job->step;
        float *y = job->y + r * job->step;
        double mean = 0, square = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            mean += x[i];
        mean /= (double)n;
        for (ptrdiff_t i = 0; i < n; i++)
            square += (x[i] - mean) * (x[i] - mean);
        double rstd = 1 / sqrt(square / (double)n + 1e-5);
        for (ptrdiff_t i = 0; i < n; i++)
            y[i] = (float)((x[i] - mean) * rstd * job->weight[i] + job->bias[i]);
    }
}

/* ---- 2: one pass around a pivot. Vectors of float32; float64 for the statistics alone. ---- */

#define FOLD(a, b, low, high)                                                                      \
    (__builtin_shufflevector(a, b, low) + __builtin_shufflevector(a, b, high))
#define LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31

/* Lane j of the result is the sum of all lanes of v[j]: a transposition by additions. Of one v, the
 * sum is in lane 0. */
INLINE void totals(const vf *v, int count, float *to) {
    vf t[8];
    int last = count - 1;
    for (int i = 0; i < 8; i++)
        t[i] = FOLD(v[i & last], v[(i + 8) & last], LOW8, HIGH8);
    for (int i = 0; i < 4; i++)
        t[i] = FOLD(t[i], t[i + 4], LOW4, HIGH4);
    for (int i = 0; i < 2; i++)
        t[i] = FOLD(t[i], t[i + 2], LOW2, HIGH2);
    t[0] = FOLD(t[0], t[1], LOW1, HIGH1);
    memcpy(to, t, (size_t)count * sizeof *to);
}

/* Pivots of some rows: near the mean, without digits below those of the elements, so that most
 * distances to them are exact. What is added and taken off again rounds the digits away. */
INLINE void begin(const Job *job, ptrdiff_t row, int count, Batch *b) {
    vf first[BATCH];
    float *pivot = b->pivot + row % BATCH;
    for (int j = 0; j < count; j++) {
        first[j] = load(job->x + (row + j) * job->step);
        __builtin_prefetch(job->x + (row + count + j) * job->step);
    }
    totals(first, count, pivot);
    for (int j = 0; j < count; j++) {
        float near = pivot[j] / LANES, large = 4 * fabsf(near);
        pivot[j] = (near + large) - large;
    }
}

/* Statistics of some rows in float64; for sixteen the compiler makes vectors of the loop. */
INLINE void finish(const Job *job, ptrdiff_t row, int count, Batch *b) {
    float sum[BATCH], square[BATCH];
    ptrdiff_t lane = row % BATCH;
    double share = 1 / (double)job->length;
    totals(b->sum + lane, count, sum);
    totals(b->square + lane, count, square);
    for (int j = 0; j < count; j++) {
        double off = sum[j] * share, mean = b->pivot[lane + j] + off;
        double rstd = 1 / sqrt((square[j] - sum[j] * off) * share + 1e-5);
        b->mean[lane + j] = (float)mean;
        b->low[lane + j] = (float)((mean - (float)mean) * rstd);
        b->rstd[lane + j] = (float)rstd;
    }
}

static void pivoted(const Job *job) {
    Batch b;
    for (ptrdiff_t r = 0; r < job->rows; r++) {
        begin(job, r, 1, &b);
        pass(job, NONE, r, &b, 0);
        finish(job, r, 1, &b);
        pass(job, r, NONE, &b, 0);
    }
}

/* ---- 3: rows are measured in the loop that applies those before; 4: results are streamed; 5: rows
 * go sixteen together, their statistics are lanes of vectors. ---- */

INLINE void batches(const Job *job, int count, int stream) {
    Batch b;
    begin(job, 0, count, &b);
    for (int j = 0; j < count; j++)
        pass(job, NONE, j, &b, stream);
    ptrdiff_t r = 0;
    for (; r + count < job->rows; r += count) {
        finish(job, r, count, &b);
        begin(job, r + count, count, &b);
        for (int j = 0; j < count; j++)
            pass(job, r + j, r + count + j, &b, stream);
    }
    finish(job, r, count, &b);
    for (int j = 0; j < count; j++)
        pass(job, r + j, NONE, &b, stream);
    fence();
}

static void overlapped(const Job *job) { batches(job, 1, 0); }

static void streamed(const Job *job) { batches(job, 1, 1); }

static void batched(const Job *job) {
    if (job->large)
        batches(job, BATCH, 1);
    else
        batches(job, BATCH, 0);
}

/* ---- copies, times, errors ---- */

static void copied(const Job *job) {
    for (ptrdiff_t r = 0; r < job->rows; r++)
        memcpy(job->y + r * job->step, job->x + r * job->step, (size_t)job->length * sizeof(float));
}

static void copied_past(const Job *job) {
    for (ptrdiff_t r = 0; r < job->rows; r++)
        for (ptrdiff_t i = r * job->step; i < r * job->step + job->length; i += LANES)
            store(job->y + i, load(job->x + i), 1);
    fence();
}

static const struct {
    const char *name;
    void (*run)(const Job *job);
} versions[] = {
    {"copy", copied},
    {"copy, streamed", copied_past},
    {"1 naive", naive},
    {"2 one pass around a pivot", pivoted},
    {"3 measured while the row before is applied", overlapped},
    {"4 results streamed", streamed},
    {"5 batches of sixteen rows, streamed from memory", batched},
};
enum { COPIES = 2, VERSIONS = sizeof versions / sizeof *versions };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *filled(ptrdiff_t count, float middle) {
    float *values = aligned_alloc(4096, (size_t)(count * 4 + 4095) / 4096 * 4096);
    if (!values)
        exit(2);
    for (ptrdiff_t i = 0; i < count; i++) /* three uniform numbers are nearly normal */
        values[i] =
            middle + 2 * ((float)rand() + (float)rand() + (float)rand()) / (float)RAND_MAX - 3;
    return values;
}

/* Time all versions in turn; best nanoseconds for a row. */
static void race(const Job *job, double best[VERSIONS]) {
    for (int round = 0; round < ROUNDS; round++)
        for (int v = 0; v < VERSIONS; v++) {
            versions[v].run(job);
            double calls = 0, start = now(), taken = 0;
            for (; taken < 0.005; calls++, taken = now() - start)
                versions[v].run(job);
            double row = taken * 1e9 / (calls * (double)job->rows);
            best[v] = round && best[v] < row ? best[v] : row;
        }
}

/* How far results are from those of the naive version, which are float64 rounded once, in units of
 * 2^-24 (|weight| (1 + |xhat|) + |bias|). */
static double difference(const Job *job, const float *naive) {
    double worst = 0;
    for (ptrdiff_t i = 0; i < job->rows * job->length; i++) {
        double w = fabs(job->weight[i % job->length]), b = job->bias[i % job->length];
        double unit = 0x1p-24 * (w + fabs(naive[i] - b) + fabs(b));
        worst = fmax(worst, fabs((double)job->y[i] - naive[i]) / unit);
    }
    return worst;
}

int main(int argc, char **argv) {
    ptrdiff_t n = argc > 1 ? atol(argv[1]) : 768;
    if (n < LANES || n % LANES) {
        fprintf(stderr, "length: got %s; takes a multiple of %d\n", argv[1], LANES);
        return 2;
    }
    /* In L1 all rows are one; in L2 x and y have 192 KiB each, from memory 128 MiB. */
    ptrdiff_t large = (128 << 20) / (4 * n) / BATCH * BATCH, middle = 49152 / n / BATCH * BATCH;
    float *x = filled(large * n, 3), *y = filled(large * n, 0), *weight = filled(n, 1);
    float *bias = filled(n, 0), *exact = filled(middle * n, 0);
    Job places[] = {{x, weight, bias, y, 512, n, 0, 0},
                    {x, weight, bias, y, middle, n, n, 0},
                    {x, weight, bias, y, large, n, n, 1}};
    double best[3][VERSIONS], errors[VERSIONS] = {0};
    int wrong = 0;
    naive(&places[1]);
    memcpy(exact, y, (size_t)(middle * n) * sizeof *y);
    for (int v = COPIES + 1; v < VERSIONS; v++) {
        versions[v].run(&places[1]);
        errors[v] = difference(&places[1], exact);
        wrong |= !(errors[v] <= 4);
    }
    for (int place = 0; place < 3; place++)
        race(&places[place], best[place]);
    printf(
        "| ns for a row of %td (in copies) | L1 | L2 | memory | error |\n|---|--:|--:|--:|--:|\n",
        n);
    for (int v = 0; v < VERSIONS; v++) {
        printf("| %s |", versions[v].name);
        for (int place = 0; place < 3; place++) {
            double copy = fmin(best[place][0], best[place][1]);
            printf(" %.0f (%.2f) |", best[place][v], best[place][v] / copy);
        }
        v <= COPIES ? printf(" |\n") : printf(" %.1f |\n", errors[v]);
    }
    return wrong;
}
