# Included by _core.pyx: the backward pass, from arrays to kernels.

# A piece of work of a backward pass.
ctypedef struct GradJob:
    Backward b
    const Kernels *kernels
    double *weight          # gradients of the parameters, in the kernels' order
    double *bias

ctypedef void (*GradTask)(const GradJob *, ptrdiff_t first, ptrdiff_t last) noexcept nogil


cdef void for_grad_ranges(GradTask task, const GradJob *job, ptrdiff_t n,
                          int threads) noexcept nogil:
    """Run a task over 0..n-1, as for_ranges does."""
    cdef ptrdiff_t parts, i
    if threads == 1 or n == 1:
        task(job, 0, n)
        return
    parts = min(n, <ptrdiff_t> threads * PARTS_PER_THREAD)
    for i in prange(parts, num_threads=threads, schedule="dynamic", chunksize=1):
        task(job, n * i // parts, n * (i + 1) // parts)


cdef void grad_rows_fused(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    job.kernels.grad_rows_fused(&job.b, first, last)


cdef void grad_rows_measure(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = job.b.plan.apply.chunks
    for i in range(first, last):
        job.kernels.grad_rows_measure(&job.b, i // chunks, i % chunks)


cdef void grad_rows_pool(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_pool_rows(&job.b, first, last)


cdef void grad_rows_apply(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    # Backwards: what was measured last is still in the cache.
    cdef ptrdiff_t i, at, chunks = job.b.plan.apply.chunks
    cdef ptrdiff_t end = job.b.plan.kept.count * chunks - 1
    for i in range(first, last):
        at = end - i
        job.kernels.grad_rows_apply(&job.b, at // chunks, at % chunks)


cdef void grad_rows_clear(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_clear_tables(&job.b, first, last)


cdef void grad_rows_gather(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, at, end = job.b.tasks * job.b.pieces - 1
    if job.b.fused:
        for i in range(first, last):
            job.kernels.grad_rows_gather(&job.b, i, -1)
        return
    for i in range(first, last):
        at = end - i
        job.kernels.grad_rows_gather(&job.b, at // job.b.pieces, at % job.b.pieces)


cdef void grad_columns_fused(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        job.kernels.grad_columns_fused(&job.b, i // job.b.strips, i % job.b.strips)


cdef void grad_columns_measure(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, tile, chunks = grad_row_chunks(job.b.plan)
    for i in range(first, last):
        tile = i // job.b.strips
        job.kernels.grad_columns_measure(
            &job.b, tile // chunks, i % job.b.strips, tile % chunks
        )


cdef void grad_columns_pool(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        grad_pool_columns(&job.b, i // job.b.strips, i % job.b.strips)


cdef void grad_columns_apply(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, at, tile, chunks = grad_row_chunks(job.b.plan)
    cdef ptrdiff_t end = job.b.plan.kept.count * chunks * job.b.strips - 1
    for i in range(first, last):
        at = end - i
        tile = at // job.b.strips
        job.kernels.grad_columns_apply(
            &job.b, tile // chunks, at % job.b.strips, tile % chunks
        )


cdef void grad_param_range(const GradJob *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_params(&job.b, first, last, job.weight, job.bias)


cdef void execute_backward(const GradJob *job, int threads) noexcept nogil:
    cdef const Plan *plan = job.b.plan
    cdef ptrdiff_t units = plan.kept.count, tiles
    if plan.columns:
        tiles = units * grad_row_chunks(plan) * job.b.strips
        if job.b.fused:
            for_grad_ranges(grad_columns_fused, job, units * job.b.strips, threads)
        else:
            for_grad_ranges(grad_columns_measure, job, tiles, threads)
            for_grad_ranges(grad_columns_pool, job, units * job.b.strips, threads)
            for_grad_ranges(grad_columns_apply, job, tiles, threads)
    else:
        if not job.b.fused:
            for_grad_ranges(grad_rows_measure, job, units * plan.apply.chunks, threads)
            for_grad_ranges(grad_rows_pool, job, units, threads)
            if plan.param_vector:
                for_grad_ranges(grad_rows_clear, job, job.b.tasks, threads)
        if plan.param_vector:
            for_grad_ranges(grad_rows_gather, job,
                            job.b.tasks if job.b.fused else job.b.tasks * job.b.pieces, threads)
        elif job.b.fused:
            for_grad_ranges(grad_rows_fused, job, units, threads)
        else:
            for_grad_ranges(grad_rows_apply, job, units * plan.apply.chunks, threads)
    if job.b.tables == job.weight:
        return
    # Tables can be added up by ranges of parameters; the rest is a few numbers for each run.
    if plan.param_vector and not plan.columns:
        for_grad_ranges(grad_param_range, job, job.b.params, threads)
    else:
        grad_param_range(job, 0, job.b.params)


# ---- arrays ----

cdef bint same_strides(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int d
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef bint can_store(cnp.ndarray y, cnp.ndarray source) noexcept:
    """Whether y may be written to while source is read."""
    return source is None or not overlaps(source, y)


cdef cnp.ndarray ordered_reals(cnp.ndarray a, const Order *order, int code):
    """A statistic that was handed in, as the kernels read it: dense, in their order."""
    cdef cnp.ndarray plain, ordered
    if a is None:
        return None
    plain = as_reals(a, code == F64)
    if not order.stats_reordered:
        return plain
    ordered = cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(plain), cnp.PyArray_DIMS(plain), cnp.PyArray_TYPE(plain), 0
    )
    reals_ordered(&order.stats, cnp.PyArray_DATA(plain), cnp.PyArray_DATA(ordered), code == F64)
    return ordered


cdef cnp.ndarray parameter_gradient(const double *values, const Order *order, int code, int ndim,
                                    cnp.npy_intp *shape):
    """The gradient of a parameter, in the caller's order."""
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(
        ndim, shape, cnp.NPY_DOUBLE if code == F64 else cnp.NPY_FLOAT, 0
    )
    cdef ptrdiff_t i
    cdef float *narrow
    if code == F64:
        memcpy(cnp.PyArray_DATA(a), values, cnp.PyArray_NBYTES(a))
    else:
        narrow = <float *> cnp.PyArray_DATA(a)
        for i in range(cnp.PyArray_SIZE(a)):
            narrow[i] = <float> values[i]
    if not order.param_reordered:
        return a
    axes = [order.param_axis[i] for i in range(order.param_ndim)]
    axes = [i for i in range(ndim) if i not in axes] + axes
    return np.ascontiguousarray(
        a.reshape([shape[i] for i in axes]).transpose(np.argsort(axes))
    )


cdef tuple run_backward(Call *call, cnp.ndarray grad, cnp.ndarray x, int code, cnp.ndarray mean,
                        cnp.ndarray rstd, cnp.ndarray weight, bint constant, object out,
                        int ndim, cnp.npy_intp *shape):
    """dx (out, or a new array), dweight and dbias, whose shape is given."""
    cdef Plan plan
    cdef Order order
    cdef GradJob job
    cdef cnp.ndarray y, source = x, result, given_mean, given_rstd, w
    cdef ptrdiff_t total = cnp.PyArray_SIZE(x), itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef ptrdiff_t params = cnp.PyArray_MultiplyList(shape, ndim)
    cdef bint planned, direct, single = False
    cdef int threads = 1

    y = result = new_like(x) if out is None else <cnp.ndarray> out
    if total == 0:
        return result, zeros(ndim, shape, code), zeros(ndim, shape, code)
    # The gradient is read where it is if it is laid out like dx; otherwise it is copied there.
    direct = is_behaved(grad) and same_strides(grad, y)
    if out is not None and not (
        is_behaved(y)
        and (not overlaps(x, y) or (direct and same_memory(x, y)))
        and (not overlaps(grad, y) or (direct and same_memory(grad, y)))
        and can_store(y, weight) and can_store(y, mean) and can_store(y, rstd)
    ):
        y = new_like(x)
    call.given = False
    planned = is_behaved(x) and plan_for(&plan, &order, call, x, y)
    if not planned and y is out:
        y = new_like(x)
        planned = is_behaved(x) and plan_for(&plan, &order, call, x, y)
    if not planned:
        # x has no contiguous runs, or another byte order.
        source = new_like(x)
        cnp.PyArray_CopyInto(source, x)
        y = new_like(source)
        planned = plan_for(&plan, &order, call, source, y)
        assert planned, "a dense array has contiguous runs"
    direct = is_behaved(grad) and same_strides(grad, y)
    if not direct:
        cnp.PyArray_CopyInto(y, grad)

    memset(&job, 0, sizeof(GradJob))
    given_mean = ordered_reals(mean, &order, code)
    given_rstd = ordered_reals(rstd, &order, code)
    w = prepare_parameter(weight, &order, code)
    plan.weight = cnp.PyArray_DATA(w) if w is not None else NULL
    plan.bias = NULL
    plan.centre = call.centre
    job.b.grad = <const char *> cnp.PyArray_DATA(grad if direct else y)
    job.b.mean = cnp.PyArray_DATA(given_mean) if mean is not None else NULL
    job.b.rstd = cnp.PyArray_DATA(given_rstd)
    job.b.wide = code == F64
    job.b.constant = constant
    job.b.params = params
    plan.stream = (
        total * itemsize > STREAM_ABOVE
        and cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
        and job.b.grad != <const char *> cnp.PyArray_DATA(y)
    )
    if total >= SERIAL_BELOW:
        threads = threads_get()
    job.kernels = isa_kernels(tier, code)
    backward_schedule(&job.b, &plan, itemsize, threads)
    try:
        job.weight = <double *> room(2 * params, sizeof(double))
        job.bias = job.weight + params
        job.b.sums = <GradSums *> room(job.b.sums_count, sizeof(GradSums))
        job.b.stats = <GradStat *> room(job.b.stats_count, sizeof(GradStat))
        # The only table there is has the results.
        single = job.b.tables_count == 2 * params and (
            not plan.columns or job.b.row_params == params
        )
        job.b.tables = (
            job.weight if single else <double *> room(job.b.tables_count, sizeof(double))
        )
        if total < KEEP_GIL_BELOW:
            execute_backward(&job, threads)
        else:
            with nogil:
                execute_backward(&job, threads)
        if y is not result:
            cnp.PyArray_CopyInto(result, y)
        return (
            result,
            parameter_gradient(job.weight, &order, code, ndim, shape),
            parameter_gradient(job.bias, &order, code, ndim, shape),
        )
    finally:
        free(job.b.sums)
        free(job.b.stats)
        if not single:
            free(job.b.tables)
        free(job.weight)


cdef void *room(ptrdiff_t count, size_t size) except? NULL:
    """NULL for none."""
    cdef void *p
    if count == 0:
        return NULL
    p = malloc(count * size)
    if p == NULL:
        raise MemoryError()
    return p


cdef cnp.ndarray zeros(int ndim, cnp.npy_intp *shape, int code):
    return cnp.PyArray_ZEROS(ndim, shape, cnp.NPY_DOUBLE if code == F64 else cnp.NPY_FLOAT, 0)


# ---- operations ----

cdef cnp.ndarray check_grad(object grad, cnp.ndarray x, int code):
    cdef cnp.ndarray g
    g = <cnp.ndarray> grad if type(grad) is cnp.ndarray else arguments.as_array("grad", grad)
    if not has_shape(g, cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x)):
        raise arguments.wrong_shape("grad", shape_of(g), f"x's shape {shape_of(x)}")
    if dtype_code(g) != code:
        raise arguments.wrong_dtype("grad", g.dtype, f"x's dtype {x.dtype}")
    return g


cdef cnp.ndarray check_statistic(str name, object value, int ndim, const cnp.npy_intp *dims):
    if value is None:
        raise arguments.not_an_array(name, value)
    return check_parameter(name, value, ndim, dims)


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
    normalized_axes(&call, a, normalized, n, True, lengths)
    g = check_grad(grad, a, code)
    if centre:
        m = check_statistic("mean", mean, call.n, lengths)
    r = check_statistic("rstd", rstd, call.n, lengths)
    w = check_parameter("weight", weight, n, shape)
    if out is not None:
        check_out(out, a, code)
    call.centre = centre
    return run_backward(&call, g, a, code, m, r, w, False, out, n, shape)


def channel_norm_backward(grad, x, mean, rstd, weight, bint constant, channel_axis, out,
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
    channel_axes(&call, a, channel, 0, per_sample, True)
    call.centre = True
    return run_backward(&call, g, a, code, m, r, w, constant, out, 1, &shape[1])


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
    channel_axes(&call, a, channel, shape[1], True, True)
    call.centre = True
    return run_backward(&call, g, a, code, m, r, w, False, out, 1, &channels)
