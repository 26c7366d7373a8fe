/* What is best on this processor, of things that differ between processors and change no bit of any
 * result. */
#ifndef FASTNORM_PROCESSOR_H
#define FASTNORM_PROCESSOR_H

#include <stddef.h>

/* Call once, before the others. */
void processor_init(void);

/* The L2 cache of a core, at most. */
enum { CORE_CACHE_BYTES = 2 << 20 };

/* The bytes that a thread finds again soon after it has read them: in its cache, or one that it
 * shares and that is fast. */
ptrdiff_t cache_bytes(int threads);

/* Whether that is one that threads share. */
int shares_cache(void);

/* What a call measures before it applies. */
typedef enum { MEASURES_NOTHING, MEASURES_COLUMNS, MEASURES_ROWS } Measures;

/* The bytes of all arrays of a call above which its results are stored past the cache. */
ptrdiff_t stream_above(int threads, Measures what);

/* So many for all calls from now on, or, below 0, as many as is best here. */
void stream_set_above(ptrdiff_t bytes);

/* How many bytes ahead the backward pass fetches, in each of the two arrays that it reads. */
ptrdiff_t backward_ahead(void);

#endif
