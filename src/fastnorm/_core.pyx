# cython: language_level=3, cdivision=True, autotestdict=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""From arrays to kernels: check the arguments, make the output, run the plan on threads."""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.limits cimport LLONG_MIN
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ._kernels cimport *

import os

import numpy as np

from . import _arguments as arguments

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int *overflow)

cdef extern from "numpy/arrayobject.h":
    # As numpy's own declaration, but NULL can be passed: "x's dtype".
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void *, int)

    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *, size_t) noexcept
        void *(*calloc)(void *, size_t, size_t) noexcept
        void *(*realloc)(void *, void *, size_t) noexcept
        void (*free)(void *, void *, size_t) noexcept

    ctypedef struct PyDataMem_Handler:
        char name[127]
        cnp.npy_uint8 version
        PyDataMemAllocator allocator

    object PyDataMem_SetHandler(object)

cnp.import_array()
threads_init()
machine_init()

# ---- tiers ----

cdef int tier = -1


def use_isa(str name):
    """Choose the tier by name, for tests and benchmarks; not while calls are running."""
    global tier
    cdef int i
    for i in range(isa_count()):
        if isa_name(i).decode() == name and isa_available(i):
            tier = i
            return
    raise ValueError(f"isa: {name!r} is not available here; takes one of {', '.join(isas())}")


def isas():
    """Names of the tiers that can run here, the fastest first."""
    cdef int i
    return tuple([isa_name(i).decode() for i in range(isa_count()) if isa_available(i)])


def use_stream_above(Py_ssize_t bytes):
    """Store results past the cache in calls whose arrays have more bytes than this; below 0: in
    those where this processor gains from it. For tests and benchmarks."""
    stream_set_above(bytes)


def features():
    """The special cases of the schedule, by name, and the bit of each."""
    cdef int i
    return {feature_name(i).decode(): 1 << i for i in range(feature_count())}


def use_features(int mask):
    """Switch on these special cases alone, or, below 0, all; for tests and benchmarks."""
    features_set(mask)


def kernel_names():
    """Names of the kernels of a tier."""
    cdef int i
    return tuple([kernel_name(i).decode() for i in range(kernel_count())])


def trace_kernels(bint on):
    """Note which kernels run from now on, for tests; not while calls are running."""
    trace_set(on)


def kernels_called():
    """Names of the kernels that have run since tracing began."""
    cdef int i
    return {kernel_name(i).decode() for i in range(kernel_count()) if kernel_called(i)}


def build():
    """What this build and this processor are."""
    return {
        "version": built_version().decode(),
        "isa": isa_name(tier).decode(),
        "isa_available": isas(),
        "openmp": bool(built_with_openmp()),
        "compiler": built_with_compiler().decode(),
    }


def _choose_isa():
    wanted = os.environ.get("FASTNORM_ISA")
    available = isas()
    if not available:
        raise ImportError("fastnorm needs an x86-64 processor of level v2 or better")
    if wanted and wanted not in available:
        raise ImportError(
            f"FASTNORM_ISA={wanted!r} is not available here; takes one of {', '.join(available)}"
        )
    use_isa(wanted or available[0])


_choose_isa()

# ---- threads ----


def set_num_threads(n):
    threads_set(arguments.positive_int("n", n))


def get_num_threads():
    return threads_get()


include "_arguments.pxi"
include "_call.pxi"

# ---- operations ----


cdef int normalized_lengths(cnp.ndarray x, const bint *normalized, cnp.npy_intp *lengths) noexcept:
    """The lengths of the normalised axes, and how many these are."""
    cdef int d, n = 0
    for d in range(cnp.PyArray_NDIM(x)):
        if normalized[d]:
            lengths[n] = cnp.PyArray_DIM(x, d)
            n += 1
    return n


cdef void normalized_axes(Call *call, cnp.ndarray x, const bint *normalized, int n,
                          cnp.npy_intp *shape) noexcept:
    """The meaning of x's axes where n of them are normalised over, and the statistics' shape."""
    cdef int d
    cdef ptrdiff_t param = 1, stat = 1
    call.n = cnp.PyArray_NDIM(x)
    for d in range(call.n - 1, -1, -1):
        call.source[d] = d
        call.step[d] = 1
        call.axes[d].size = cnp.PyArray_DIM(x, d)
        call.axes[d].param = call.axes[d].stat = 0
        shape[d] = 1 if normalized[d] else call.axes[d].size
        if normalized[d]:
            n -= 1
            call.axes[d].role = PARAM
            call.axes[d].param_axis = n
            call.axes[d].param = param
            param *= call.axes[d].size
        else:
            call.axes[d].role = KEPT
            call.axes[d].stat = stat
            stat *= call.axes[d].size


def layer_norm(x, normalized_shape, weight, bias, eps, axis, out, bint return_stats, bint centre):
    """Layer norm, or RMS norm without `centre`; see functional.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), w, b
    cdef int code = check_dtype("x", a), n
    cdef bint normalized[MAX_AXES]
    cdef cnp.npy_intp lengths[MAX_AXES]   # of the normalised axes, then of the statistics

    check_size(a)
    check_normalized(normalized_shape, axis, a, normalized)
    n = normalized_lengths(a, normalized, lengths)
    w = check_parameter("weight", weight, n, lengths)
    b = check_parameter("bias", bias, n, lengths)
    if eps is None and not centre:
        call.eps = 2.0**-52 if code == F64 else 2.0**-23
    else:
        call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    normalized_axes(&call, a, normalized, n, lengths)
    call.given = False
    call.centre = centre
    return run_with_stats(&call, a, code, w, b, out, return_stats, call.n, lengths)


cdef void channel_axes(Call *call, cnp.ndarray x, int channel, ptrdiff_t groups, bint per_sample):
    """The meaning of x's axes where statistics belong to channels, or to groups of them."""
    cdef int d
    cdef Axis *axis
    cdef ptrdiff_t channels = cnp.PyArray_DIM(x, channel)
    cdef ptrdiff_t split = channels // groups if groups else 1   # 0 without channels
    call.n = 0
    for d in range(cnp.PyArray_NDIM(x)):
        axis = &call.axes[call.n]
        memset(axis, 0, sizeof(Axis))
        axis.size = cnp.PyArray_DIM(x, d)
        call.source[call.n] = d
        call.step[call.n] = 1
        if d == channel:
            axis.role = KEPT | PARAM
            axis.stat = 1
            axis.param = split
            if split > 1:
                axis.size = groups
                call.step[call.n] = split
                call.n += 1
                axis = &call.axes[call.n]
                memset(axis, 0, sizeof(Axis))
                axis.size = split
                axis.role = PARAM | SPLIT
                axis.param = 1
                call.source[call.n] = d
                call.step[call.n] = 1
        elif d == 0 and per_sample:
            axis.role = KEPT
            axis.stat = groups if groups else channels
        call.n += 1


def channel_norm(x, running_mean, running_var, weight, bias, bint measure, momentum, eps,
                 channel_axis, out, bint return_stats, bint per_sample):
    """Batch norm, or instance norm if per_sample; see functional.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), w, b
    cdef int code = check_dtype("x", a), channel
    cdef ptrdiff_t samples, count = 0
    cdef cnp.npy_intp shape[2]   # of the statistics of samples
    cdef double share
    cdef unsigned long environment
    cdef bint has_running = running_mean is not None or running_var is not None

    channel = check_channel_axis(channel_axis, a, 3 if per_sample else 2, per_sample)
    check_size(a)
    shape[0] = samples = cnp.PyArray_DIM(a, 0) if per_sample else 1
    shape[1] = cnp.PyArray_DIM(a, channel)
    if samples and shape[1]:
        count = cnp.PyArray_SIZE(a) // shape[1] // samples
    if measure and count == 1:
        raise arguments.one_value(shape_of(a), channel, per_sample)
    w = check_parameter("weight", weight, 1, &shape[1])
    b = check_parameter("bias", bias, 1, &shape[1])
    if has_running:
        check_running("running_mean", running_mean, shape[1], measure)
        check_running("running_var", running_var, shape[1], measure)
    elif not measure:
        raise arguments.missing_statistics()
    share = check_momentum(momentum)
    call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    channel_axes(&call, a, channel, 0, per_sample and measure)
    call.given = not measure
    call.centre = True
    call.stats = NULL
    call.stats_count = 0
    environment = fp_enter()
    try:
        if not measure:
            use_running(&call, running_mean, running_var)
        elif has_running or return_stats:
            make_stats(&call, samples * shape[1])
        y = run(&call, a, code, w, b, out)
        if measure and has_running and count:
            update_running(&call, running_mean, MEAN, samples, 1, share)
            update_running(&call, running_var, VARIANCE, samples, count / <double> (count - 1),
                           share)
        if not return_stats:
            return y
        return with_stats(&call, y, code, 1 + per_sample, &shape[0 if per_sample else 1])
    finally:
        free(call.stats)
        fp_leave(environment)


def group_norm(x, num_groups, weight, bias, eps, channel_axis, out, bint return_stats):
    """Group norm; see functional.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), w, b
    cdef int code = check_dtype("x", a), channel
    cdef cnp.npy_intp channels
    cdef cnp.npy_intp shape[2]

    channel = check_channel_axis(channel_axis, a, 2, True)
    check_size(a)
    channels = cnp.PyArray_DIM(a, channel)
    shape[0] = cnp.PyArray_DIM(a, 0)
    shape[1] = check_num_groups(num_groups, channels, a)
    w = check_parameter("weight", weight, 1, &channels)
    b = check_parameter("bias", bias, 1, &channels)
    call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    channel_axes(&call, a, channel, shape[1], True)
    call.given = False
    call.centre = True
    return run_with_stats(&call, a, code, w, b, out, return_stats, 2, shape)


def layer_norm_backward(grad, x, mean, rstd, weight, normalized_shape, axis, out, bint centre):
    """Backward of layer norm, or of RMS norm without `centre`; see gradients.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), g, m = None, r, w
    cdef int code = check_dtype("x", a), n
    cdef bint normalized[MAX_AXES]
    cdef cnp.npy_intp shape[MAX_AXES]   # of the parameters
    cdef cnp.npy_intp lengths[MAX_AXES]   # of the statistics

    check_size(a)
    check_normalized(normalized_shape, axis, a, normalized)
    n = normalized_lengths(a, normalized, shape)
    normalized_axes(&call, a, normalized, n, lengths)
    g = check_grad(grad, a, code)
    if centre:
        m = check_statistic("mean", mean, call.n, lengths)
    r = check_statistic("rstd", rstd, call.n, lengths)
    w = check_parameter("weight", weight, n, shape)
    if out is not None:
        check_out(out, a, code)
    call.centre = centre
    return run_backward(&call, g, a, code, m, r, w, False, out, n, shape)


def channel_norm_backward(grad, x, mean, rstd, weight, bint frozen, channel_axis, out,
                          bint per_sample):
    """Backward of batch norm, or of instance norm if per_sample; see gradients.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), g, m, r, w
    cdef int code = check_dtype("x", a), channel
    cdef cnp.npy_intp shape[2]

    channel = check_channel_axis(channel_axis, a, 3 if per_sample else 2, per_sample)
    check_size(a)
    g = check_grad(grad, a, code)
    shape[0] = cnp.PyArray_DIM(a, 0)
    shape[1] = cnp.PyArray_DIM(a, channel)
    m = check_statistic("mean", mean, 1 + per_sample, &shape[0 if per_sample else 1])
    r = check_statistic("rstd", rstd, 1 + per_sample, &shape[0 if per_sample else 1])
    w = check_parameter("weight", weight, 1, &shape[1])
    if out is not None:
        check_out(out, a, code)
    channel_axes(&call, a, channel, 0, per_sample)
    call.centre = True
    return run_backward(&call, g, a, code, m, r, w, frozen, out, 1, &shape[1])


def group_norm_backward(grad, x, mean, rstd, num_groups, weight, channel_axis, out):
    """Backward of group norm; see gradients.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x), g, m, r, w
    cdef int code = check_dtype("x", a), channel
    cdef cnp.npy_intp channels
    cdef cnp.npy_intp shape[2]

    channel = check_channel_axis(channel_axis, a, 2, True)
    check_size(a)
    channels = cnp.PyArray_DIM(a, channel)
    shape[0] = cnp.PyArray_DIM(a, 0)
    shape[1] = check_num_groups(num_groups, channels, a)
    g = check_grad(grad, a, code)
    m = check_statistic("mean", mean, 2, shape)
    r = check_statistic("rstd", rstd, 2, shape)
    w = check_parameter("weight", weight, 1, &channels)
    if out is not None:
        check_out(out, a, code)
    channel_axes(&call, a, channel, shape[1], True)
    call.centre = True
    return run_backward(&call, g, a, code, m, r, w, False, out, 1, &channels)


include "_baseline.pxi"
