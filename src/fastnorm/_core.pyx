# cython: language_level=3, cdivision=True, autotestdict=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""From arrays to kernels: check the arguments, make the output, run the plan on threads."""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ._kernels cimport *

import os

import numpy as np

from . import _arguments as arguments

cdef extern from "numpy/arrayobject.h":
    # As numpy's own declaration, but NULL can be passed: "x's dtype".
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void *, int)

cnp.import_array()
threads_init()

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


include "_execute.pxi"
include "_run.pxi"

# ---- operations ----


cdef object check_out(object out, cnp.ndarray x, int code):
    if type(out) is not cnp.ndarray:
        raise arguments.not_an_array("out", out)
    if shape_of(out) != shape_of(x):
        raise arguments.wrong_shape("out", out.shape, shape_of(x))
    if dtype_code(out.dtype) != code:
        raise arguments.wrong_dtype("out", out.dtype, x.dtype)
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
        raise ValueError("out: is read-only; takes an array that can be written to")


cdef int check_size(cnp.ndarray x) except -1:
    """Refuse shapes (of broadcast arrays) whose number of bytes overflows."""
    cdef int d
    cdef double size = cnp.PyArray_ITEMSIZE(x)
    for d in range(cnp.PyArray_NDIM(x)):
        size *= cnp.PyArray_DIM(x, d)
    if size >= 2.0**62:
        raise ValueError(f"x: shape {shape_of(x)} has more elements than memory can hold")
    return 0


cdef double check_eps(object eps) except? -1:
    cdef double value
    if type(eps) is float:
        value = eps
        if 0 <= value < INFINITY:
            return value
    return arguments.eps(eps)


cdef object stats_arrays(ptrdiff_t count):
    """Room for mean, var and rstd; NaN, which is what no elements have."""
    return tuple(np.full((3, count), np.nan))


cdef object as_stats(object values, tuple shape, int code):
    return arguments.converted(values, np.float64 if code == F64 else np.float32).reshape(shape)


def layer_norm(x, normalized_shape, weight, bias, eps, axis, out, bint return_stats, bint centre):
    """Layer norm, or RMS norm without `centre`; see functional.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x)
    cdef int code = input_dtype(a), ndim = cnp.PyArray_NDIM(a), d, i
    cdef bint normalized[MAX_AXES]
    cdef ptrdiff_t param = 1, stat = 1
    cdef object shape, stats_out = None
    cdef tuple x_shape = shape_of(a)

    if ndim == 0:
        raise ValueError("x: is 0-dimensional; takes at least 1 dimension")
    check_size(a)
    memset(normalized, 0, sizeof(normalized))
    if axis is not None:
        axes = arguments.axes("axis", axis, x_shape)
        shape = tuple([x_shape[i] for i in axes])
        if normalized_shape is not None:
            arguments.normalized_shape(normalized_shape, shape, f"x.shape {x_shape} at axis {axes}")
        for i in axes:
            normalized[i] = True
    else:
        if normalized_shape is None:
            shape = x_shape[ndim - 1:]
        else:
            shape = arguments.trailing_shape(normalized_shape, x_shape)
        for i in range(ndim - len(shape), ndim):
            normalized[i] = True
    weight = check_parameter("weight", weight, shape)
    bias = check_parameter("bias", bias, shape)
    if eps is None and not centre:
        call.eps = 2.0**-52 if code == F64 else 2.0**-23
    else:
        call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    i = len(shape)
    call.n = ndim
    for d in range(ndim - 1, -1, -1):
        call.source[d] = d
        call.step[d] = 1
        call.axes[d].size = cnp.PyArray_DIM(a, d)
        call.axes[d].param = call.axes[d].stat = 0
        if normalized[d]:
            i -= 1
            call.axes[d].role = PARAM
            call.axes[d].param_axis = i
            if weight is not None or bias is not None:
                call.axes[d].param = param
            param *= call.axes[d].size
        else:
            call.axes[d].role = KEPT
            call.axes[d].stat = stat
            stat *= call.axes[d].size
    call.given = False
    call.centre = centre
    if return_stats:
        stats_out = stats_arrays(stat)
    y = run(&call, a, code, weight, bias, out, NULL, stats_out)
    if not return_stats:
        return y
    mean, _, rstd = stats_out
    shape = tuple([1 if normalized[d] else x_shape[d] for d in range(ndim)])
    if centre:
        return y, as_stats(mean, shape, code), as_stats(rstd, shape, code)
    return y, as_stats(rstd, shape, code)


cdef int check_channel_axis(object axis, cnp.ndarray x, int least, bint per_sample) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    cdef long index
    if type(axis) is int and ndim >= least and -ndim < axis < ndim and (axis or not per_sample):
        index = axis
        return index + ndim if index < 0 else index
    return arguments.channel_axis(axis, shape_of(x), least, per_sample)


cdef object check_running(str name, object value, ptrdiff_t channels, bint measure):
    """A running statistic: an array, which can be updated in place if the input is measured."""
    cdef cnp.ndarray a
    if value is None:
        raise arguments.missing_statistic(name)
    if type(value) is not cnp.ndarray:
        raise arguments.not_an_array(name, value)
    a = value
    if cnp.PyArray_NDIM(a) != 1 or cnp.PyArray_DIM(a, 0) != channels:
        raise arguments.wrong_shape(name, shape_of(a), (channels,))
    parameter_dtype(name, a)
    if measure and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name}: is read-only; takes an array that can be updated in place")


cdef void channel_axes(Call *call, cnp.ndarray x, int channel, ptrdiff_t groups, bint per_sample,
                       bint has_params):
    """The meaning of x's axes where statistics belong to channels, or to groups of them."""
    cdef int d
    cdef Axis *axis
    cdef ptrdiff_t channels = cnp.PyArray_DIM(x, channel)
    cdef ptrdiff_t split = channels // groups if groups else 1
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
            axis.param = split if has_params else 0
            if split > 1:
                axis.size = groups
                call.step[call.n] = split
                call.n += 1
                axis = &call.axes[call.n]
                memset(axis, 0, sizeof(Axis))
                axis.size = split
                axis.role = PARAM | SPLIT
                axis.param = has_params
                call.source[call.n] = d
                call.step[call.n] = 1
        elif d == 0 and per_sample:
            axis.role = KEPT
            axis.stat = channels // split
        call.n += 1


cdef Stat *given_stats(cnp.ndarray mean, cnp.ndarray var, double eps) except NULL:
    cdef ptrdiff_t i, n = cnp.PyArray_SIZE(mean)
    cdef cnp.ndarray means = as_float64(mean), variances = as_float64(var)
    cdef const double *m = <const double *> cnp.PyArray_DATA(means)
    cdef const double *v = <const double *> cnp.PyArray_DATA(variances)
    cdef Stat *stats = <Stat *> malloc(max(n, 1) * sizeof(Stat))
    if stats == NULL:
        raise MemoryError()
    for i in range(n):
        stats[i] = stat_given(m[i], v[i], eps)
    return stats


def channel_norm(x, running_mean, running_var, weight, bias, bint measure, momentum, eps,
                 channel_axis, out, bint return_stats, bint per_sample):
    """Batch norm, or instance norm if per_sample; see functional.py."""
    cdef Call call
    cdef cnp.ndarray a = input_array(x)
    cdef int code = input_dtype(a), channel
    cdef ptrdiff_t channels, samples, count = 0
    cdef Stat *stats = NULL
    cdef tuple x_shape = shape_of(a)
    cdef object stats_out = None

    channel = check_channel_axis(channel_axis, a, 3 if per_sample else 2, per_sample)
    check_size(a)
    channels = cnp.PyArray_DIM(a, channel)
    samples = cnp.PyArray_DIM(a, 0) if per_sample else 1
    if channels and samples:
        count = cnp.PyArray_SIZE(a) // channels // samples
    if measure and count == 1:
        raise arguments.one_value(x_shape, channel, per_sample)
    weight = check_parameter("weight", weight, (channels,))
    bias = check_parameter("bias", bias, (channels,))
    if running_mean is None and running_var is None:
        if not measure:
            raise arguments.missing_statistics()
    else:
        check_running("running_mean", running_mean, channels, measure)
        check_running("running_var", running_var, channels, measure)
    if type(momentum) is not float or not 0 <= <double> momentum <= 1:
        momentum = arguments.momentum(momentum)
    call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    has_params = weight is not None or bias is not None
    channel_axes(&call, a, channel, 0, per_sample and measure, has_params)
    call.given = not measure
    call.centre = True
    shape = (samples, channels)[0 if per_sample else 1:]
    if measure:
        if return_stats or running_mean is not None:
            stats_out = stats_arrays(samples * channels)
        y = run(&call, a, code, weight, bias, out, NULL, stats_out)
        if running_mean is not None and cnp.PyArray_SIZE(a):
            arguments.update_running(
                running_mean, running_var, momentum, stats_out[0].reshape(samples, channels),
                stats_out[1].reshape(samples, channels), count
            )
        if not return_stats:
            return y
        mean, _, rstd = stats_out
        return y, as_stats(mean, shape, code), as_stats(rstd, shape, code)

    # The running statistics are read before anything is written: out may be one of them.
    stats = given_stats(running_mean, running_var, call.eps)
    try:
        if return_stats:
            mean = np.array(running_mean, np.float64)
            rstd = np.array([stats[i].rstd for i in range(channels)])
        y = run(&call, a, code, weight, bias, out, stats, None)
    finally:
        free(stats)
    if not return_stats:
        return y
    mean, rstd = [as_stats(np.broadcast_to(s, shape), shape, code) for s in (mean, rstd)]
    return y, mean, rstd


def group_norm(x, num_groups, weight, bias, eps, channel_axis, out, bint return_stats):
    cdef Call call
    cdef cnp.ndarray a = input_array(x)
    cdef int code = input_dtype(a), channel
    cdef ptrdiff_t channels, groups
    cdef tuple x_shape = shape_of(a)
    cdef object stats_out = None

    channel = check_channel_axis(channel_axis, a, 2, True)
    check_size(a)
    channels = x_shape[channel]
    groups = arguments.num_groups(num_groups, channels, x_shape)
    weight = check_parameter("weight", weight, (channels,))
    bias = check_parameter("bias", bias, (channels,))
    call.eps = check_eps(eps)
    if out is not None:
        check_out(out, a, code)

    channel_axes(&call, a, channel, groups, True, weight is not None or bias is not None)
    call.given = False
    call.centre = True
    if return_stats:
        stats_out = stats_arrays(x_shape[0] * groups)
    y = run(&call, a, code, weight, bias, out, NULL, stats_out)
    if not return_stats:
        return y
    shape = (x_shape[0], groups)
    mean, _, rstd = stats_out
    return y, as_stats(mean, shape, code), as_stats(rstd, shape, code)


# ---- the yardstick ----

ctypedef struct Copy:
    const char *src
    char *dst
    ptrdiff_t size
    bint stream


def parallel_copy(cnp.ndarray x not None, cnp.ndarray out not None, bint stream=False):
    """Copy x to out with the threads of a call: the yardstick of the benchmarks."""
    cdef Copy c
    cdef int threads = threads_get()
    cdef ptrdiff_t i, part
    if not (
        cnp.PyArray_ISCONTIGUOUS(x) and cnp.PyArray_ISCONTIGUOUS(out)
        and cnp.PyArray_ISWRITEABLE(out) and cnp.PyArray_NBYTES(x) == cnp.PyArray_NBYTES(out)
    ):
        raise ValueError("x, out: take contiguous arrays of the same size")
    c.src = <const char *> cnp.PyArray_DATA(x)
    c.dst = <char *> cnp.PyArray_DATA(out)
    c.size = cnp.PyArray_NBYTES(x)
    c.stream = stream
    with nogil:
        if threads == 1:
            copy_bytes(c.src, c.dst, c.size, c.stream)
        else:
            part = (c.size // threads + 4095) // 4096 * 4096
            for i in prange(threads, num_threads=threads, schedule="static"):
                copy_bytes(c.src + min(i * part, c.size), c.dst + min(i * part, c.size),
                           min(part, c.size - min(i * part, c.size)), c.stream)
