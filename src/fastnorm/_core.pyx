# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""From arrays to kernels: check the arguments, make the output, run the plan on threads."""

cimport numpy as cnp
from cython.parallel cimport prange
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

# Work below this many elements is done sooner than a second thread is woken.
cdef Py_ssize_t SERIAL_BELOW = 32768
# Output beyond this many bytes is stored past the cache, which it would only flush.
cdef Py_ssize_t STREAM_ABOVE = 16 << 20
# Ranges of work handed out per thread: enough to even out threads that are slowed down.
cdef int PARTS_PER_THREAD = 8

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


# A piece of work: the kernels of a plan on the items first..last-1 of some kind.
ctypedef struct Job:
    const Plan *plan
    const Kernels *kernels
    Moments *moments
    Stat *stats
    ptrdiff_t strips

ctypedef void (*Task)(const Job *, ptrdiff_t first, ptrdiff_t last) noexcept nogil


cdef void for_ranges(Task task, const Job *job, ptrdiff_t n, int threads) noexcept nogil:
    """Run a task over 0..n-1; who does which range does not matter to any task."""
    cdef ptrdiff_t parts, i
    if threads == 1 or n == 1:
        task(job, 0, n)
        return
    parts = min(n, <ptrdiff_t> threads * PARTS_PER_THREAD)
    for i in prange(parts, num_threads=threads, schedule="dynamic", chunksize=1):
        task(job, n * i // parts, n * (i + 1) // parts)


cdef void rows_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    job.kernels.rows_fused(job.plan, first, last, job.stats)


cdef void rows_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = job.plan.measure.chunks
    for i in range(first, last):
        job.kernels.rows_measure(job.plan, i // chunks, i % chunks, &job.moments[i])


cdef void rows_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        pool_unit(job.plan, job.moments, job.stats, i)


cdef void rows_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    # Backwards: what was measured last is still in the cache.
    cdef ptrdiff_t i, chunks = job.plan.apply.chunks
    cdef ptrdiff_t end = job.plan.kept.count * chunks - 1
    for i in range(first, last):
        job.kernels.rows_apply(job.plan, job.stats, (end - i) // chunks, (end - i) % chunks)


cdef void columns_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        job.kernels.columns_fused(job.plan, i // job.strips, i % job.strips, job.stats)


cdef inline ptrdiff_t row_chunks(const Plan *plan) noexcept nogil:
    return plan.chunks + (plan.tail_rows > 0)


cdef void columns_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = row_chunks(job.plan), tile
    for i in range(first, last):
        tile = i // job.strips
        job.kernels.columns_measure(
            job.plan, tile // chunks, i % job.strips, tile % chunks, job.moments
        )


cdef void columns_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pool_block(job.plan, job.moments, job.stats, first, last)


cdef void columns_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = row_chunks(job.plan), tile
    cdef ptrdiff_t end = job.plan.kept.count * chunks * job.strips - 1
    for i in range(first, last):
        tile = (end - i) // job.strips
        job.kernels.columns_apply(
            job.plan, job.stats, tile // chunks, (end - i) % job.strips, tile % chunks
        )


cdef void execute(Job *job, bint given, bint fused, int threads) noexcept nogil:
    cdef const Plan *plan = job.plan
    cdef ptrdiff_t tiles
    if plan.columns:
        job.strips = (plan.width + plan.strip - 1) // plan.strip
        tiles = plan.kept.count * row_chunks(plan) * job.strips
        if fused:
            for_ranges(columns_fused, job, plan.kept.count * job.strips, threads)
            return
        if not given:
            for_ranges(columns_measure, job, tiles, threads)
            for_ranges(columns_pool, job, plan.stats, threads)
        for_ranges(columns_apply, job, tiles, threads)
    else:
        if fused:
            for_ranges(rows_fused, job, plan.kept.count, threads)
            return
        if not given:
            for_ranges(rows_measure, job, plan.kept.count * plan.measure.chunks, threads)
            for_ranges(rows_pool, job, plan.kept.count, threads)
        for_ranges(rows_apply, job, plan.kept.count * plan.apply.chunks, threads)


# ---- arrays ----

cdef object bfloat16 = None


cdef int dtype_code(cnp.dtype dtype) except -2:
    """The element type, or -1 if it is none of ours."""
    global bfloat16
    if dtype.type_num == cnp.NPY_FLOAT:
        return F32
    if dtype.type_num == cnp.NPY_DOUBLE:
        return F64
    if dtype.type_num == cnp.NPY_FLOAT16:
        return F16
    if dtype.itemsize != 2:
        return -1
    scalar = (<object> dtype).type
    if scalar is bfloat16 or (bfloat16 is None and scalar.__name__ == "bfloat16"):
        bfloat16 = scalar
        return BF16
    return -1


cdef inline bint is_behaved(cnp.ndarray a) noexcept:
    """Aligned, and in this machine's byte order."""
    return cnp.PyArray_ISALIGNED(a) and cnp.PyArray_ISNOTSWAPPED(a)


cdef void extent(cnp.ndarray a, char **first, char **last) noexcept:
    """The bytes between which an array lies."""
    cdef int d
    cdef ptrdiff_t reach
    first[0] = <char *> cnp.PyArray_DATA(a)
    last[0] = first[0] + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if reach < 0:
            first[0] += reach
        else:
            last[0] += reach


cdef bint overlaps(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether arrays may share memory: theirs, or what lies between it."""
    cdef char *a_first
    cdef char *a_last
    cdef char *b_first
    cdef char *b_last
    extent(a, &a_first, &a_last)
    extent(b, &b_first, &b_last)
    return a_first < b_last and b_first < a_last


cdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    """b is a, or another view of exactly the same elements."""
    cdef int d
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef cnp.ndarray input_array(object x):
    if type(x) is cnp.ndarray:
        return x
    return arguments.as_array("x", x)


cdef int input_dtype(cnp.ndarray x) except -1:
    cdef int code = dtype_code(x.dtype)
    if code < 0:
        raise arguments.unsupported_dtype("x", x.dtype)
    return code


cdef tuple shape_of(cnp.ndarray a):
    return (<object> a).shape


cdef int parameter_dtype(str name, cnp.ndarray p) except -1:
    cdef int code = dtype_code(p.dtype)
    if code < 0:
        raise arguments.unsupported_dtype(name, p.dtype)
    return code


cdef cnp.ndarray check_parameter(str name, object value, tuple shape):
    cdef cnp.ndarray p
    if value is None:
        return None
    p = value if type(value) is cnp.ndarray else arguments.as_array(name, value)
    parameter_dtype(name, p)
    if shape_of(p) != shape:
        raise arguments.wrong_shape(name, shape_of(p), shape)
    return p


cdef cnp.ndarray as_float64(cnp.ndarray a):
    """The values as a dense float64 array, which may be the array itself."""
    cdef cnp.ndarray wide
    cdef int code = dtype_code(a.dtype)
    if not (is_behaved(a) and cnp.PyArray_IS_C_CONTIGUOUS(a)):
        return arguments.converted(a, np.float64)
    if code == F64:
        return a
    wide = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_DOUBLE, 0)
    isa_kernels(tier, code).widen(
        cnp.PyArray_DATA(a), <double *> cnp.PyArray_DATA(wide), cnp.PyArray_SIZE(a)
    )
    return wide


cdef cnp.ndarray prepare_parameter(cnp.ndarray p, const Order *order):
    """The parameter as the kernels read it: float64, dense, in memory's order."""
    cdef int i
    if p is None:
        return None
    if order.param_reordered:
        axes = [order.param_axis[i] for i in range(order.param_ndim)]
        p = p.transpose([i for i in range(p.ndim) if i not in axes] + axes)
    return as_float64(p)


# ---- calls ----

# What an operation makes of its input: the meaning of each axis, and numbers.
ctypedef struct Call:
    Axis axes[MAX_AXES]     # without the strides of x and y, which differ from try to try
    int source[MAX_AXES]    # which axis of x this is
    int n
    ptrdiff_t step[MAX_AXES]  # its stride in units of that axis (a group's is its channels)
    bint given
    bint centre
    double eps


cdef bint plan_for(Plan *plan, Order *order, const Call *call, cnp.ndarray x, cnp.ndarray y):
    """Lay out x and y; false when their memory cannot be walked as it is."""
    cdef Axis axes[MAX_AXES]
    cdef int i, d
    for i in range(call.n):
        d = call.source[i]
        axes[i] = call.axes[i]
        axes[i].x = cnp.PyArray_STRIDE(x, d) * call.step[i]
        axes[i].y = cnp.PyArray_STRIDE(y, d) * call.step[i]
    plan.x = <const char *> cnp.PyArray_DATA(x)
    plan.y = <char *> cnp.PyArray_DATA(y)
    plan.stream = False
    return layout_plan(plan, order, axes, call.n, cnp.PyArray_ITEMSIZE(x), call.given)


cdef cnp.ndarray new_like(cnp.ndarray x):
    """An output for x, with its order of memory, in this machine's byte order."""
    if cnp.PyArray_ISNOTSWAPPED(x):
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    return np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)


cdef object run(Call *call, cnp.ndarray x, int code, cnp.ndarray weight, cnp.ndarray bias,
                object out, Stat *stats_given, object stats_out):
    """Normalise x into out (or a new array), which is returned.

    stats_out: None, or arrays (mean, var, rstd) of float64 that receive the statistics.
    """
    cdef Plan plan
    cdef Order order
    cdef Job job
    cdef const Kernels *kernels = isa_kernels(tier, code)
    cdef cnp.ndarray y, source = x, result, w, b, mean, var, rstd
    cdef ptrdiff_t total = cnp.PyArray_SIZE(x), itemsize = cnp.PyArray_ITEMSIZE(x), chunks
    cdef bint planned, fused, fresh = out is None
    cdef int threads = 1

    # Results go to the caller's array if the kernels can store there without overwriting what they
    # have yet to read, and if it is laid out like x; else by way of an array of our own.
    y = result = new_like(x) if fresh else out
    if not fresh and (
        not is_behaved(y)
        or (overlaps(x, y) and not same_memory(x, y))
        or (weight is not None and overlaps(weight, y))
        or (bias is not None and overlaps(bias, y))
    ):
        y = new_like(x)
    if total == 0:
        return result
    planned = is_behaved(x) and plan_for(&plan, &order, call, x, y)
    if not planned and y is out:
        y = new_like(x)
        planned = is_behaved(x) and plan_for(&plan, &order, call, x, y)
    if not planned:
        # x has no contiguous runs, or another byte order: normalise a copy in place.
        cnp.PyArray_CopyInto(y, x)
        source = y
        planned = plan_for(&plan, &order, call, y, y)
        assert planned, "a dense array has contiguous runs"

    w = prepare_parameter(weight, &order)
    b = prepare_parameter(bias, &order)
    plan.weight = <const double *> cnp.PyArray_DATA(w) if w is not None else NULL
    plan.bias = <const double *> cnp.PyArray_DATA(b) if b is not None else NULL
    plan.centre = call.centre
    plan.eps = call.eps
    # Squares lost below float32's range do not matter where eps outweighs them.
    plan.floor = 2.0**-120 if call.eps < 2.0**-70 else 0.0
    plan.stream = (
        itemsize >= 4 and total * itemsize > STREAM_ABOVE
        and cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
    )

    if total >= SERIAL_BELOW:
        threads = threads_get()
    fused = layout_schedule(&plan, itemsize, threads) and not call.given

    memset(&job, 0, sizeof(job))
    job.plan = &plan
    job.kernels = kernels
    if call.given:
        job.stats = stats_given
    elif stats_out is not None or not fused:
        job.stats = <Stat *> malloc(plan.stats * sizeof(Stat))
        if job.stats == NULL:
            raise MemoryError()
    try:
        if not fused and not call.given:
            chunks = (
                plan.kept.count * row_chunks(&plan) * plan.width
                if plan.columns else plan.kept.count * plan.measure.chunks
            )
            job.moments = <Moments *> malloc(chunks * sizeof(Moments))
            if job.moments == NULL:
                raise MemoryError()
        with nogil:
            execute(&job, call.given, fused, threads)
        if stats_out is not None:
            mean, var, rstd = stats_out
            stats_store(&order.stats, job.stats, <double *> cnp.PyArray_DATA(mean),
                        <double *> cnp.PyArray_DATA(var), <double *> cnp.PyArray_DATA(rstd))
    finally:
        free(job.moments)
        if not call.given:
            free(job.stats)
    if y is not result:
        cnp.PyArray_CopyInto(result, y)
    return result


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
        if value >= 0:
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
        elif type(normalized_shape) is tuple and normalized_shape == x_shape[-len(normalized_shape):]:
            shape = normalized_shape
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

    channel_axes(&call, a, channel, 0, per_sample and measure, weight is not None or bias is not None)
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
    mean, rstd = [np.broadcast_to(as_stats(s, (channels,), code), shape).copy() for s in (mean, rstd)]
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
