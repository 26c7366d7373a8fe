/* The passes that there are: PASS(name, how) for each.  No guard: included more than once. */
#define PASSES_OF_STORE(name, how)                                                                 \
    PASS(name##_apply, (how) | APPLY)                                                              \
    PASS(name##_both, (how) | APPLY | MEASURE)
#define PASSES_OF(name, how)                                                                       \
    PASSES_OF_STORE(name##_cached, how)                                                            \
    PASSES_OF_STORE(name##_streamed, (how) | STREAMED)                                             \
    PASSES_OF_STORE(name##_staged, (how) | STAGED)
#define PASSES_OF_SEAMS(name, how) PASSES_OF_STORE(name##_seams, (how) | STREAMED | STAGED)
#ifdef ARITHMETIC_F64
#define PASSES_CONVERTED(name, how)
#define PASS_CONVERTED(name, how)
#else
#define PASSES_CONVERTED(name, how) PASSES_OF_STORE(name##_converted, (how) | CONVERT | STAGED)
#define PASS_CONVERTED(name, how) PASS(name##_converted, (how) | CONVERT)
#endif
#define PASSES(name, how) PASSES_OF(name, how) PASSES_CONVERTED(name, how)
#define PASS_MEASURE(name, how) PASS(name, (how) | MEASURE) PASS_CONVERTED(name, (how) | MEASURE)

PASSES(rms, 0)
PASSES(rms_across, ACROSS)
PASSES(centred, CENTRE)
PASSES(centred_across, CENTRE | ACROSS)
PASSES_OF_SEAMS(rms, 0)
PASSES_OF_SEAMS(rms_across, ACROSS)
PASSES_OF_SEAMS(centred, CENTRE)
PASSES_OF_SEAMS(centred_across, CENTRE | ACROSS)
PASS_MEASURE(rms_measure, 0)
PASS_MEASURE(centred_measure, CENTRE)

PASSES(grad_rms_across, BACKWARD | ACROSS)
PASSES(grad_centred, BACKWARD | CENTRE)
PASSES(grad_frozen, BACKWARD | CENTRE | FROZEN)
PASSES(grad_centred_across, BACKWARD | CENTRE | ACROSS)
PASS_MEASURE(grad_rms_across_measure, BACKWARD | ACROSS)
PASS_MEASURE(grad_centred_measure, BACKWARD | CENTRE)
PASS_MEASURE(grad_frozen_measure, BACKWARD | CENTRE | FROZEN)
PASS_MEASURE(grad_centred_across_measure, BACKWARD | CENTRE | ACROSS)

#undef PASS_MEASURE
#undef PASSES
#undef PASS_CONVERTED
#undef PASSES_CONVERTED
#undef PASSES_OF
#undef PASSES_OF_SEAMS
#undef PASSES_OF_STORE
