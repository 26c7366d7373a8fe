#include "threads.h"
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_max_threads(void) { return 1; }
static int omp_get_num_procs(void) { return 1; }
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

void stream_end(void) {
#if defined(__SSE2__)
    _mm_sfence();
#endif
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
