#include "threads.h"
#include "machine.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
static int omp_get_num_procs(void) { return 1; }
static int omp_get_thread_num(void) { return 0; }
#endif

#ifndef _WIN32
#include <pthread.h>
#endif

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static int chosen, at_start, asked_by_environment, forked;

static void after_fork_in_child(void) { forked = 1; }

void threads_init(void) {
    at_start = omp_get_max_threads();
    asked_by_environment = getenv("OMP_NUM_THREADS") != NULL;
#ifndef _WIN32
    pthread_atfork(NULL, NULL, after_fork_in_child);
#else
    (void)after_fork_in_child;
#endif
}

void threads_set(int n) { chosen = n; }

int threads_get(void) {
    int limit = omp_get_max_threads(), procs = omp_get_num_procs();
    int n = limit;
    if (forked || !built_with_openmp())
        return 1;
    if (!asked_by_environment && procs < n)
        n = procs; /* the affinity mask of now, not of the start */
    if (chosen)
        n = limit < at_start && limit < chosen ? limit : chosen;
    return n;
}

/* Which kernels of the table have run: of calls by one thread, for tests. */
enum { KERNELS = offsetof(Kernels, rows_arena) / sizeof(Kernel *) };
static int tracing, called[KERNELS];

void trace_kernels(int on) {
    tracing = on;
    memset(called, 0, sizeof called);
}

int kernel_called(int i) { return called[i]; }

static void trace_stage(const Job *job, const Stage *stage) {
    Kernel *kernels[KERNELS];
    memcpy(kernels, job->kernels, sizeof kernels);
    for (int i = 0; i < KERNELS; i++)
        called[i] |= kernels[i] == stage->kernel;
}

/* Streamed stores are in memory before another thread is told of them: once at the end of a range
 * of work, because the fence waits for all of them. */
static void run_range(const Job *job, const Stage *stage, char *arena, ptrdiff_t first,
                      ptrdiff_t last) {
    const unsigned long before = fp_enter();
    stage->kernel(job, arena, first, last);
#if defined(__SSE2__)
    if (job->plan.stream)
        _mm_sfence();
#endif
    fp_leave(before);
}

static void run_stage(const Job *job, const Stage *stage, char *arenas) {
    const int threads = job->threads;
    const ptrdiff_t n = stage->items, parts = MIN(n, (ptrdiff_t)threads * PARTS_PER_THREAD);
    if (tracing)
        trace_stage(job, stage);
    if (threads == 1 || n <= 1) {
        run_range(job, stage, arenas, 0, n);
        return;
    }
    /* Ranges of different threads are far apart: processors fetch lines around those that are
     * stored, and threads would take them from each other. */
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (ptrdiff_t i = 0; i < parts; i++) {
        const ptrdiff_t k = parts % threads ? i : i % threads * (parts / threads) + i / threads;
        run_range(job, stage, arenas + (size_t)omp_get_thread_num() * job->arena_bytes,
                  n * k / parts, n * (k + 1) / parts);
    }
}

int job_run(const Job *job) {
    const size_t bytes = job->arena_bytes * (size_t)job->threads + LINE_BYTES;
    char *memory = malloc(bytes);
    if (!memory)
        return 0;
    char *arenas = memory + (LINE_BYTES - (uintptr_t)memory % LINE_BYTES) % LINE_BYTES;
    for (int i = 0; i < job->stage_count; i++)
        run_stage(job, &job->stages[i], arenas);
    free(memory);
    return 1;
}

int built_with_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

const char *built_with_compiler(void) {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#else
    return "unknown";
#endif
}

const char *built_version(void) { return FASTNORM_VERSION; }
