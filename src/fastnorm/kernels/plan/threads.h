/* How many threads a call may use, and running its stages on them. */
#ifndef FASTNORM_THREADS_H
#define FASTNORM_THREADS_H

#include "plan.h"

/* Call once, before the others. */
void threads_init(void);

/* n: what set_num_threads was given. */
void threads_set(int n);

/* Never more than threadpoolctl allows, and 1 in a forked child, whose copy of the OpenMP runtime
 * has lost its threads and would wait for them. */
int threads_get(void);

/* Run the stages, one after the other; returns 0 if there is no memory for it, and then nothing has
 * been written.  Who does which range of items does not matter to any kernel. */
int job_run(const Job *job);

/* Note which kernels run from now on, by their number in the table; not while calls are running. */
void trace_kernels(int on);
int kernel_called(int i);

/* What this build was made with. */
int built_with_openmp(void);
const char *built_with_compiler(void);
const char *built_version(void);

#endif
