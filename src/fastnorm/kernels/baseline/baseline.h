/* The baselines of the benchmarks: moving bytes with as little arithmetic as there can be. */
#ifndef FASTNORM_BASELINE_H
#define FASTNORM_BASELINE_H

#include <stddef.h>

/* Each works on the share of one thread.  stream: past the cache. */

/* One read, one write, as a forward. */
void copy_bytes(const char *from, char *to, ptrdiff_t bytes, int stream);

/* Two reads, one write, as a backward: to = a xor b. */
void combine_bytes(const char *a, const char *b, char *to, ptrdiff_t bytes, int stream);

/* Two reads, as the first half of a backward that needs two. */
void read_bytes(const char *a, const char *b, ptrdiff_t bytes);

#endif
