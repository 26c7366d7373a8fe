# Included by _core.pyx: a call, from arrays to stages on threads, in both directions.

# Work below this many elements is done sooner than a second thread is woken.
cdef Py_ssize_t SERIAL_BELOW = 32768
# Work below this many elements takes a microsecond or two: not long enough to let other threads
# have Python meanwhile, which costs a tenth of that.
cdef Py_ssize_t KEEP_GIL_BELOW = 8192

# What an operation makes of its input: the meaning of each axis, and numbers.
ctypedef struct Call:
    Axis axes[MAX_AXES]     # without the strides of x and y, which differ from try to try
    int source[MAX_AXES]    # which axis of x this is
    int n
    ptrdiff_t step[MAX_AXES]  # its stride in units of that axis (a group's is its channels)
    bint given
    bint centre
    double eps
    # In the caller's order: what is given, or room for what is measured; NULL: it is not wanted.
    Stat *stats
    ptrdiff_t stats_count


# ---- buffers ----

# NumPy's allocation functions (NEP 49) for outputs that are streamed by whole lines.
cdef PyDataMem_Handler aligned_handler
memset(&aligned_handler, 0, sizeof(PyDataMem_Handler))
memcpy(aligned_handler.name, b"fastnorm", 8)
aligned_handler.version = 1
aligned_handler.allocator.ctx = NULL
aligned_handler.allocator.malloc = aligned_new
aligned_handler.allocator.calloc = aligned_zeros
aligned_handler.allocator.realloc = aligned_resize
aligned_handler.allocator.free = aligned_free
cdef object aligned_capsule = PyCapsule_New(&aligned_handler, "mem_handler", NULL)


cdef cnp.ndarray new_like(cnp.ndarray x):
    """An output for x, with its order of memory, in this machine's byte order."""
    if not cnp.PyArray_ISNOTSWAPPED(x):
        return np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)
    if 2 * cnp.PyArray_NBYTES(x) <= stream_above(1, MEASURES_ROWS):
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    before = PyDataMem_SetHandler(aligned_capsule)
    try:
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    finally:
        PyDataMem_SetHandler(before)


cdef bint plan_for(Job *job, Order *order, const Call *call, cnp.ndarray x, cnp.ndarray y):
    """Lay out x and y; false when their memory cannot be walked as it is."""
    cdef Axis axes[MAX_AXES]
    cdef int i, d
    for i in range(call.n):
        d = call.source[i]
        axes[i] = call.axes[i]
        axes[i].x = cnp.PyArray_STRIDE(x, d) * call.step[i]
        axes[i].y = cnp.PyArray_STRIDE(y, d) * call.step[i]
    job.plan.x = <const char *> cnp.PyArray_DATA(x)
    job.plan.y = <char *> cnp.PyArray_DATA(y)
    return layout_plan(&job.plan, order, axes, call.n, cnp.PyArray_ITEMSIZE(x), call.given)


cdef bint may_store(cnp.ndarray y, cnp.ndarray source, bint element_by_element) noexcept:
    """Whether y may be written to while source is read."""
    return (source is None or not overlaps(source, y)
            or (element_by_element and same_memory(source, y)))


cdef tuple choose_buffers(Job *job, Order *order, const Call *call, cnp.ndarray x,
                          cnp.ndarray grad, object out, cnp.ndarray weight, cnp.ndarray other):
    """The arrays that the kernels read and write, laid out: x, the gradient, the output.

    Results go to the caller's array if the kernels can store there without overwriting what they
    have yet to read, and if it is laid out like x; else by way of an array of our own.  A gradient
    is read where it is if it is laid out like the output, which it is copied to otherwise.
    """
    cdef cnp.ndarray y
    cdef bint planned, direct
    y = new_like(x) if out is None else <cnp.ndarray> out
    direct = grad is None or (is_behaved(grad) and same_strides(grad, y))
    if out is not None and not (
        is_behaved(y) and may_store(y, x, direct) and may_store(y, grad, direct)
        and may_store(y, weight, False) and may_store(y, other, False)
    ):
        y = new_like(x)
    planned = is_behaved(x) and plan_for(job, order, call, x, y)
    if not planned and y is out:
        y = new_like(x)
        planned = is_behaved(x) and plan_for(job, order, call, x, y)
    if not planned:
        # x has no contiguous runs, or another byte order: a copy, which is normalised in place.
        if grad is not None:
            y = new_like(y)
        cnp.PyArray_CopyInto(y, x)
        x = y
        if grad is not None:
            y = new_like(x)
        planned = plan_for(job, order, call, x, y)
        assert planned, "a dense array has contiguous runs"
    if grad is not None and not (is_behaved(grad) and same_strides(grad, y)):
        cnp.PyArray_CopyInto(y, grad)
        grad = y
    return x, grad, y


cdef cnp.ndarray prepare_parameter(cnp.ndarray p, const Order *order, int code):
    """The parameter as the kernels for elements of type `code` read it: of the type of the
    arithmetic, dense, in memory's order."""
    cdef int i
    if p is None:
        return None
    if order.param_reordered:
        axes = [order.param_axis[i] for i in range(order.param_ndim)]
        p = p.transpose([i for i in range(p.ndim) if i not in axes] + axes)
    return as_reals(p, code == F64)


cdef cnp.ndarray prepare_statistic(cnp.ndarray a, const Order *order, int code):
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


cdef void *data_of(cnp.ndarray a) noexcept:
    return cnp.PyArray_DATA(a) if a is not None else NULL


# ---- memory between the stages ----

cdef void *room(ptrdiff_t count, size_t size) except? NULL:
    """NULL for none."""
    cdef void *p
    if count == 0:
        return NULL
    p = malloc(count * size)
    if p == NULL:
        raise MemoryError()
    return p


cdef int make_room(Job *job) except -1:
    job.moments = <Moments *> room(job.moments_count, sizeof(Moments))
    job.sums = <GradSums *> room(job.sums_count, sizeof(GradSums))
    job.tables = <double *> room(job.tables_count, sizeof(double))
    return 0


cdef void give_room(Job *job) noexcept:
    free(job.moments)
    free(job.sums)
    free(job.tables)


cdef int run_job(const Job *job, ptrdiff_t elements) except -1:
    cdef bint done
    if elements < KEEP_GIL_BELOW:
        done = job_run(job)
    else:
        with nogil:
            done = job_run(job)
    if not done:
        raise MemoryError()
    return 0


cdef int threads_for(ptrdiff_t elements) noexcept:
    return threads_get() if elements >= SERIAL_BELOW else 1


# ---- forward ----

# Calls round to nearest and keep subnormals in all that they do, conversions and statistics
# included, whatever the caller has set: fp_enter stands around each direction once.  Threads do the
# same for their work (run_range).

cdef cnp.ndarray complete_parameter(cnp.ndarray p, cnp.ndarray other, bint needed, double value):
    """Where weight and bias vary along the run, the kernels read both: ones, or zeros."""
    if p is not None or other is None or not needed:
        return p
    return np.full_like(other, value)


cdef cnp.ndarray run(Call *call, cnp.ndarray x, int code, cnp.ndarray weight, cnp.ndarray bias,
                     object out):
    """Normalise x; returns out, or a new array."""
    cdef Job job
    cdef Order order
    cdef cnp.ndarray y, source, result, w, b
    cdef ptrdiff_t total = cnp.PyArray_SIZE(x)
    cdef Stat *stats = call.stats
    if total == 0:
        if not call.given:
            stats_unknown(call.stats, call.stats_count)
        return new_like(x) if out is None else <cnp.ndarray> out
    source, _, y = choose_buffers(&job, &order, call, x, None, out, weight, bias)
    result = y if out is None else <cnp.ndarray> out
    w = prepare_parameter(weight, &order, code)
    b = prepare_parameter(bias, &order, code)
    w, b = (complete_parameter(w, b, call.centre and job.plan.along, 1.0),
            complete_parameter(b, w, call.centre and job.plan.along, 0.0))
    job.plan.weight = data_of(w)
    job.plan.bias = data_of(b)
    job.plan.dtype = code
    job.plan.centre = call.centre
    job.plan.eps = call.eps
    job.plan.stream = cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
    job.kernels = isa_kernels(tier, code)
    job.given = call.given
    job.is_backward = False
    job.threads = threads_for(total)
    schedule_forward(&job, call.stats != NULL and not call.given)
    job.moments = NULL
    job.sums = NULL
    job.tables = NULL
    job.stats = call.stats
    try:
        make_room(&job)
        if not call.given and job.stats_count and (stats == NULL or order.stats_reordered):
            job.stats = <Stat *> room(job.stats_count, sizeof(Stat))
        run_job(&job, total)
        if job.stats != stats and stats != NULL:
            stats_reorder(&order.stats, job.stats, stats)
    finally:
        give_room(&job)
        if job.stats != stats:
            free(job.stats)
    if y is not result:
        cnp.PyArray_CopyInto(result, y)
    return result


# ---- statistics, in and out ----

cdef int make_stats(Call *call, ptrdiff_t count) except -1:
    """Room for the call's statistics, which the operation frees."""
    call.stats = <Stat *> malloc(max(count, 1) * sizeof(Stat))
    call.stats_count = count
    if call.stats == NULL:
        raise MemoryError()
    return 0


cdef cnp.ndarray view_reals(cnp.ndarray a, Reals *reals):
    """A running statistic as C reads it: the array itself, or a copy that must be kept."""
    cdef int code = dtype_code(a)
    if not (is_behaved(a) and (code == F32 or code == F64)):
        a = as_reals(a, True)
        code = F64
    reals.data = <char *> cnp.PyArray_DATA(a)
    reals.stride = cnp.PyArray_STRIDE(a, 0)
    reals.wide = code == F64
    return a


cdef int use_running(Call *call, cnp.ndarray mean, cnp.ndarray var) except -1:
    """Normalise with these: they are read now, because the output may be one of them."""
    cdef Reals means, variances
    cdef ptrdiff_t channels = cnp.PyArray_DIM(mean, 0)
    mean = view_reals(mean, &means)
    var = view_reals(var, &variances)
    make_stats(call, channels)
    stats_given(call.stats, channels, &means, &variances, call.eps)
    return 0


cdef int update_running(const Call *call, cnp.ndarray running, int what, ptrdiff_t samples,
                        double factor, double momentum) except -1:
    """Move a running statistic towards the average over the samples, times factor."""
    cdef Reals reals
    cdef cnp.ndarray plain = view_reals(running, &reals)
    stats_average(call.stats, samples, cnp.PyArray_DIM(running, 0), what, factor, momentum, &reals)
    if plain is not running:
        arguments.assign(running, plain)
    return 0


cdef cnp.ndarray stats_array(const Call *call, int what, int code, int ndim, cnp.npy_intp *shape):
    """One of the statistics as an array; those of channels are repeated for each sample."""
    cdef Reals reals
    cdef ptrdiff_t done = 0
    cdef cnp.ndarray a = cnp.PyArray_EMPTY(
        ndim, shape, cnp.NPY_DOUBLE if code == F64 else cnp.NPY_FLOAT, 0
    )
    reals.data = <char *> cnp.PyArray_DATA(a)
    reals.stride = cnp.PyArray_ITEMSIZE(a)
    reals.wide = code == F64
    while done < cnp.PyArray_SIZE(a):
        stats_take(call.stats, call.stats_count, what, &reals)
        reals.data += call.stats_count * reals.stride
        done += call.stats_count
    return a


cdef tuple with_stats(const Call *call, cnp.ndarray y, int code, int ndim, cnp.npy_intp *shape):
    rstd = stats_array(call, RSTD, code, ndim, shape)
    if not call.centre:
        return y, rstd
    return y, stats_array(call, MEAN, code, ndim, shape), rstd


cdef object run_with_stats(Call *call, cnp.ndarray x, int code, cnp.ndarray weight,
                           cnp.ndarray bias, object out, bint return_stats, int ndim,
                           cnp.npy_intp *shape):
    """Run, and return the statistics as well, of this shape, if they are wanted."""
    cdef unsigned long environment = fp_enter()
    call.stats = NULL
    call.stats_count = 0
    try:
        if not return_stats:
            return run(call, x, code, weight, bias, out)
        make_stats(call, cnp.PyArray_MultiplyList(shape, ndim))
        y = run(call, x, code, weight, bias, out)
        return with_stats(call, y, code, ndim, shape)
    finally:
        free(call.stats)
        fp_leave(environment)


# ---- backward ----

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


cdef cnp.ndarray zeros(int ndim, cnp.npy_intp *shape, int code):
    return cnp.PyArray_ZEROS(ndim, shape, cnp.NPY_DOUBLE if code == F64 else cnp.NPY_FLOAT, 0)


cdef tuple run_backward(Call *call, cnp.ndarray grad, cnp.ndarray x, int code, cnp.ndarray mean,
                        cnp.ndarray rstd, cnp.ndarray weight, bint frozen, object out, int ndim,
                        cnp.npy_intp *shape):
    """dx (out, or a new array), dweight and dbias, whose shape is given."""
    cdef unsigned long environment
    if cnp.PyArray_SIZE(x) == 0:
        return (new_like(x) if out is None else out,
                zeros(ndim, shape, code), zeros(ndim, shape, code))
    environment = fp_enter()
    try:
        return differentiate(call, grad, x, code, mean, rstd, weight, frozen, out, ndim, shape)
    finally:
        fp_leave(environment)


cdef tuple differentiate(Call *call, cnp.ndarray grad, cnp.ndarray x, int code, cnp.ndarray mean,
                         cnp.ndarray rstd, cnp.ndarray weight, bint frozen, object out, int ndim,
                         cnp.npy_intp *shape):
    cdef Job job
    cdef Order order
    cdef cnp.ndarray y, source, result, w, m, r
    cdef ptrdiff_t total = cnp.PyArray_SIZE(x), params = cnp.PyArray_MultiplyList(shape, ndim)
    if out is not None and not (
        may_store(<cnp.ndarray> out, mean, False) and may_store(<cnp.ndarray> out, rstd, False)
    ):
        mean = None if mean is None else mean.copy()
        rstd = rstd.copy()
    call.given = False
    source, grad, y = choose_buffers(&job, &order, call, x, grad, out, weight, None)
    result = y if out is None else <cnp.ndarray> out
    w = prepare_parameter(weight, &order, code)
    if w is None and job.plan.along:
        w = np.ones(params, np.float64 if code == F64 else np.float32)
    m = prepare_statistic(mean, &order, code)
    r = prepare_statistic(rstd, &order, code)
    job.plan.weight = data_of(w)
    job.plan.bias = NULL
    job.plan.dtype = code
    job.plan.centre = call.centre
    job.plan.eps = 1
    job.plan.stream = (cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
                       and cnp.PyArray_DATA(grad) != cnp.PyArray_DATA(y))
    job.backward.grad = <const char *> cnp.PyArray_DATA(grad)
    job.backward.mean = data_of(m)
    job.backward.rstd = data_of(r)
    job.backward.frozen = frozen
    job.backward.params = params
    job.kernels = isa_kernels(tier, code)
    job.given = False
    job.is_backward = True
    job.threads = threads_for(total)
    job.stats = NULL
    job.moments = NULL
    job.sums = NULL
    job.tables = NULL
    job.dweight = NULL
    schedule_backward(&job)
    try:
        make_room(&job)
        job.stats = <Stat *> room(job.stats_count, sizeof(Stat))
        job.dweight = <double *> room(2 * params, sizeof(double))
        job.dbias = job.dweight + params
        run_job(&job, total)
        if y is not result:
            cnp.PyArray_CopyInto(result, y)
        return (
            result,
            parameter_gradient(job.dweight, &order, code, ndim, shape),
            parameter_gradient(job.dbias, &order, code, ndim, shape),
        )
    finally:
        give_room(&job)
        free(job.stats)
        free(job.dweight)
