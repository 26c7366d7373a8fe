/* The tiers of this build, the fastest first, and their kernels. */
#ifndef FASTNORM_DISPATCH_H
#define FASTNORM_DISPATCH_H

#include "../plan/plan.h"

int isa_count(void);
const char *isa_name(int tier);
int isa_available(int tier);
const Kernels *isa_kernels(int tier, int dtype);

/* The kernels' names, in the order of their table. */
int kernel_count(void);
const char *kernel_name(int i);

#endif
