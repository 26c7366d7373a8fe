# Included by _core.pyx: the backward pass, from arrays to kernels.

cdef void grad_rows_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    job.kernels.grad_rows_fused(job.backward, first, last)


cdef void grad_rows_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = job.backward.plan.apply.chunks
    for i in range(first, last):
        job.kernels.grad_rows_measure(job.backward, i // chunks, i % chunks)


cdef void grad_rows_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_pool_rows(job.backward, first, last)


cdef void grad_rows_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Backward *b = job.backward
    # Backwards: what was measured last is still in the cache.
    cdef ptrdiff_t i, at, chunks = b.plan.apply.chunks
    cdef ptrdiff_t end = b.plan.kept.count * chunks - 1
    for i in range(first, last):
        at = end - i
        job.kernels.grad_rows_apply(b, at // chunks, at % chunks)


cdef void grad_rows_clear(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_clear_tables(job.backward, first, last)


cdef void grad_rows_gather(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Backward *b = job.backward
    cdef ptrdiff_t i, at, end = b.tasks * b.pieces - 1
    if b.fused:
        for i in range(first, last):
            job.kernels.grad_rows_gather(b, i, -1)
        return
    for i in range(first, last):
        at = end - i
        job.kernels.grad_rows_gather(b, at // b.pieces, at % b.pieces)


cdef void grad_columns_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    job.kernels.grad_columns_fused(job.backward, first, last)


cdef void grad_columns_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Backward *b = job.backward
    cdef ptrdiff_t i, tile, chunks = row_chunks(b.plan)
    for i in range(first, last):
        tile = i // b.strips
        job.kernels.grad_columns_measure(
            b, tile // chunks, i % b.strips, tile % chunks
        )


cdef void grad_columns_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Backward *b = job.backward
    cdef ptrdiff_t i
    for i in range(first, last):
        grad_pool_columns(b, i // b.strips, i % b.strips)


cdef void grad_columns_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Backward *b = job.backward
    cdef ptrdiff_t i, at, tile, chunks = row_chunks(b.plan)
    cdef ptrdiff_t end = b.plan.kept.count * chunks * b.strips - 1
    for i in range(first, last):
        at = end - i
        tile = at // b.strips
        job.kernels.grad_columns_apply(
            b, tile // chunks, at % b.strips, tile % chunks
        )


cdef void grad_param_range(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    grad_params(job.backward, first, last, job.weight, job.bias)


cdef void execute_backward(const Job *job, int threads) noexcept nogil:
    cdef const Backward *b = job.backward
    cdef const Plan *plan = b.plan
    cdef ptrdiff_t units = plan.kept.count, tiles
    if plan.columns:
        tiles = units * row_chunks(plan) * b.strips
        if b.fused:
            for_ranges(grad_columns_fused, job, units * b.strips, threads)
        else:
            for_ranges(grad_columns_measure, job, tiles, threads)
            for_ranges(grad_columns_pool, job, units * b.strips, threads)
            for_ranges(grad_columns_apply, job, tiles, threads)
    else:
        if not b.fused:
            for_ranges(grad_rows_measure, job, units * plan.apply.chunks, threads)
            for_ranges(grad_rows_pool, job, units, threads)
            if plan.param_vector:
                for_ranges(grad_rows_clear, job, b.tasks, threads)
        if plan.param_vector:
            for_ranges(grad_rows_gather, job, b.tasks if b.fused else b.tasks * b.pieces, threads)
        elif b.fused:
            for_ranges(grad_rows_fused, job, units, threads)
        else:
            for_ranges(grad_rows_apply, job, units * plan.apply.chunks, threads)
    if b.tables == job.weight:
        return
    # Tables can be added up by ranges of parameters; the rest is a few numbers for each run.
    if plan.param_vector and not plan.columns:
        for_ranges(grad_param_range, job, b.params, threads)
    else:
        grad_param_range(job, 0, b.params)


# ---- arrays ----

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
    reals_reorder(&order.stats, cnp.PyArray_DATA(plain), cnp.PyArray_DATA(ordered), code == F64)
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
    cdef Job job
    cdef Backward b
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

    memset(&job, 0, sizeof(Job))
    memset(&b, 0, sizeof(Backward))
    job.plan = &plan
    job.backward = &b
    given_mean = ordered_reals(mean, &order, code)
    given_rstd = ordered_reals(rstd, &order, code)
    w = prepare_parameter(weight, &order, code)
    plan.weight = cnp.PyArray_DATA(w) if w is not None else NULL
    plan.bias = NULL
    plan.centre = call.centre
    b.grad = <const char *> cnp.PyArray_DATA(grad if direct else y)
    b.mean = cnp.PyArray_DATA(given_mean) if mean is not None else NULL
    b.rstd = cnp.PyArray_DATA(given_rstd)
    b.wide = code == F64
    b.constant = constant
    b.params = params
    if total >= SERIAL_BELOW:
        threads = threads_get()
    plan.stream = (
        3 * total * itemsize > stream_above(threads, measures(&plan, constant))
        and cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
        and b.grad != <const char *> cnp.PyArray_DATA(y)
    )
    job.kernels = isa_kernels(tier, code)
    backward_schedule(&b, &plan, itemsize, threads)
    try:
        job.weight = <double *> room(2 * params, sizeof(double))
        job.bias = job.weight + params
        b.sums = <GradSums *> room(b.sums_count, sizeof(GradSums))
        b.stats = <GradStat *> room(b.stats_count, sizeof(GradStat))
        # The only table there is has the results.
        single = b.tables_count == 2 * params and (not plan.columns or b.row_params == params)
        b.tables = job.weight if single else <double *> room(b.tables_count, sizeof(double))
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
        free(b.sums)
        free(b.stats)
        if not single:
            free(b.tables)
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
