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

/* What this build was made with. */
int built_with_openmp(void);
const char *built_with_compiler(void);
const char *built_version(void);

#endif
