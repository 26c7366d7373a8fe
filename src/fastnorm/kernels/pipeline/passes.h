/* The passes of both directions, compiled for each combination of flags that they meet. */
#ifndef FASTNORM_PIPELINE_PASSES_H
#define FASTNORM_PIPELINE_PASSES_H

#include "grad_pass.h"

#define PASS(name, how)                                                                            \
    static void name(Range *r, Batch *applied, Batch *measured, const Span *span) {                \
        if ((how) & BACKWARD)                                                                      \
            grad_pass(how, r, applied, measured, span);                                            \
        else                                                                                       \
            rows_pass(how, r, applied, measured, span);                                            \
    }
#include "variants.h"
#undef PASS

/* The pass for these flags. */
INLINE Pass *pass_for(int how) {
    switch (how) {
#define PASS(name, how)                                                                            \
    case (how):                                                                                    \
        return name;
#include "variants.h"
#undef PASS
    }
    return NULL;
}

#endif
