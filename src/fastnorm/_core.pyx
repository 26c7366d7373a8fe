# cython: language_level=3, cdivision=True, autotestdict=False
# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""From arrays to kernels: check the arguments, make the output, run the plan on threads."""

cimport numpy as cnp
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

cnp.import_array()
threads_init()
processor_init()

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


include "_arrays.pxi"
include "_checks.pxi"
include "_execute.pxi"
include "_run.pxi"
include "_statistics.pxi"

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
                          bint has_params, cnp.npy_intp *shape) noexcept:
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
            if has_params:
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

    normalized_axes(&call, a, normalized, n, w is not None or b is not None, lengths)
    call.given = False
    call.centre = centre
    return run_with_stats(&call, a, code, w, b, out, return_stats, call.n, lengths)


cdef void channel_axes(Call *call, cnp.ndarray x, int channel, ptrdiff_t groups, bint per_sample,
                       bint has_params):
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

    channel_axes(&call, a, channel, 0, per_sample and measure, w is not None or b is not None)
    call.given = not measure
    call.centre = True
    call.stats = NULL
    call.stats_count = 0
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

    channel_axes(&call, a, channel, shape[1], True, w is not None or b is not None)
    call.given = False
    call.centre = True
    return run_with_stats(&call, a, code, w, b, out, return_stats, 2, shape)


include "_backward.pxi"

# ---- the yardsticks ----

ctypedef struct Move:
    const char *x
    const char *grad
    char *out
    ptrdiff_t size, part
    bint stream


cdef int start_move(Move *move, cnp.ndarray x, cnp.ndarray grad, cnp.ndarray out,
                    bint stream) except -1:
    """Check the arrays, and share them among the threads of a call; returns their number."""
    cdef int threads = threads_get()
    cdef ptrdiff_t size = cnp.PyArray_NBYTES(x)
    cdef cnp.ndarray array
    for array in (x, grad, out):
        if not cnp.PyArray_ISCONTIGUOUS(array) or cnp.PyArray_NBYTES(array) != size:
            raise ValueError("take contiguous arrays of the same size")
    if not cnp.PyArray_ISWRITEABLE(out):
        raise ValueError("out: takes a writeable array")
    move.x = <const char *> cnp.PyArray_DATA(x)
    move.grad = <const char *> cnp.PyArray_DATA(grad)
    move.out = <char *> cnp.PyArray_DATA(out)
    move.size = size
    move.part = ((size + threads - 1) // threads + 4095) // 4096 * 4096
    move.stream = stream
    return threads


cdef void move_copy(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    copy_bytes(move.x + first, move.out + first, min(move.part, move.size - first), move.stream)


cdef void move_combine(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    combine_bytes(move.grad + first, move.x + first, move.out + first,
                  min(move.part, move.size - first), move.stream)


cdef void move_read(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    read_bytes(move.grad + first, move.x + first, min(move.part, move.size - first))


def parallel_copy(cnp.ndarray x not None, cnp.ndarray out not None, bint stream=False):
    """Copy x to out with the threads of a call: the yardstick of a forward."""
    cdef Move move
    cdef int threads = start_move(&move, x, x, out, stream)
    cdef ptrdiff_t i
    with nogil:
        if threads == 1:
            move_copy(&move, 0)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                move_copy(&move, i)


def parallel_pass(cnp.ndarray grad not None, cnp.ndarray x not None, cnp.ndarray out not None,
                  bint stream=False, bint twice=False):
    """Read grad and x and write out with the threads of a call: the yardstick of a backward.

    twice: both are read before, too, by all threads; four reads and one write.
    """
    cdef Move move
    cdef int threads = start_move(&move, x, grad, out, stream)
    cdef ptrdiff_t i
    with nogil:
        if threads == 1:
            if twice:
                move_read(&move, 0)
            move_combine(&move, 0)
        else:
            if twice:
                for i in prange(threads, num_threads=threads, schedule="static"):
                    move_read(&move, i)
            for i in prange(threads, num_threads=threads, schedule="static"):
                move_combine(&move, i)
