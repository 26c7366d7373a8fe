/* How many threads a call may use. */
#ifndef FASTNORM_THREADS_H
#define FASTNORM_THREADS_H

/* Call once, before the others. */
void threads_init(void);

/* n: what set_num_threads was given. */
void threads_set(int n);

/* Never more than threadpoolctl allows, and 1 in a forked child, whose copy of the OpenMP runtime
 * has lost its threads and would wait for them. */
int threads_get(void);

/* Streamed stores are in memory before another thread is told of them: once at the end of a
 * thread's range of work, because it waits for all of them. */
void stream_end(void);

/* What this build was made with. */
int built_with_openmp(void);
const char *built_with_compiler(void);
const char *built_version(void);

#endif
