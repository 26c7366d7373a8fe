/* The passes that there are: PASS(name, how) for each.  No guard: included more than once. */
#define PASSES_OF_STORE(name, how)                                                                 \
    PASS(name##_apply, (how) | APPLY)                                                              \
    PASS(name##_both, (how) | APPLY | MEASURE)
#define PASSES_OF(name, how)                                                                       \
    PASSES_OF_STORE(name##_cached, how)                                                            \
    PASSES_OF_STORE(name##_streamed, (how) | STREAMED)                                             \
    PASSES_OF_STORE(name##_staged, (how) | STAGED)

PASSES_OF(rms, 0)
PASSES_OF(rms_across, ACROSS)
PASSES_OF(centred, CENTRE)
PASSES_OF(centred_across, CENTRE | ACROSS)
PASS(rms_measure, MEASURE)
PASS(centred_measure, CENTRE | MEASURE)
#ifndef ARITHMETIC_F64
PASSES_OF_STORE(rms_converted, CONVERT | STAGED)
PASSES_OF_STORE(rms_across_converted, CONVERT | STAGED | ACROSS)
PASSES_OF_STORE(centred_converted, CONVERT | STAGED | CENTRE)
PASSES_OF_STORE(centred_across_converted, CONVERT | STAGED | CENTRE | ACROSS)
PASS(rms_measure_converted, MEASURE | CONVERT)
PASS(centred_measure_converted, CENTRE | MEASURE | CONVERT)
#endif

#undef PASSES_OF
#undef PASSES_OF_STORE
