/* What is best on this processor, of things that change no bit; the state of its floating point;
 * and the special cases of the schedule that are switched on. */
#ifndef FASTNORM_MACHINE_H
#define FASTNORM_MACHINE_H

#include "tuning.h"
#include <stddef.h>

/* Call once, before the others. */
void machine_init(void);

/* The bytes that a thread finds again soon after it has read them: in its cache, or its share of
 * one that is fast. */
ptrdiff_t cache_bytes(int threads);

/* What a call measures before it applies. */
typedef enum { MEASURES_NOTHING, MEASURES_COLUMNS, MEASURES_ROWS } Measures;

/* The bytes of all arrays of a call above which its results are stored past the cache. */
ptrdiff_t stream_above(int threads, Measures what);

/* So many for all calls from now on, or, below 0, as many as is best here. */
void stream_set_above(ptrdiff_t bytes);

/* The features that are on, for tests and the benchmark; below 0: all. */
extern unsigned features_chosen;
void features_set(int mask);
static inline int features_on(unsigned feature) { return (features_chosen & feature) != 0; }
int feature_count(void);
const char *feature_name(int i);

/* Round to nearest, without flushing subnormals; returns what fp_leave restores. */
unsigned long fp_enter(void);
void fp_leave(unsigned long before);

#endif
