/* Memory for outputs that will be streamed: it begins with a cache line, so that whole lines of
 * results are whole lines of memory. */
#ifndef FASTNORM_ALIGNED_H
#define FASTNORM_ALIGNED_H

#include <stddef.h>

/* The functions that NumPy's NEP 49 asks for; `context` is not used. */
void *aligned_new(void *context, size_t bytes);
void *aligned_zeros(void *context, size_t count, size_t size);
void *aligned_resize(void *context, void *memory, size_t bytes);
void aligned_free(void *context, void *memory, size_t bytes);

#endif
