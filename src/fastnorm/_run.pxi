# Included by _core.pyx: from arrays to a plan, and its execution.

# Work below this many elements is done sooner than a second thread is woken.
cdef Py_ssize_t SERIAL_BELOW = 32768
# Statistics of fewer elements than this are measured with float64 sums: rounding errors do not
# average out, and a large weight would show them.
cdef Py_ssize_t PRECISE_BELOW = 16384
# Output beyond this many bytes is stored past the cache, which it would only flush.
cdef Py_ssize_t STREAM_ABOVE = 1 << 20

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


cdef cnp.ndarray as_float32(cnp.ndarray a):
    """The values as a dense float32 array, which may be the array itself."""
    cdef cnp.ndarray single
    cdef int code = dtype_code(a.dtype)
    if not (is_behaved(a) and cnp.PyArray_IS_C_CONTIGUOUS(a)):
        return arguments.converted(a, np.float32)
    if code == F32:
        return a
    single = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_FLOAT, 0)
    isa_kernels(tier, code).to_float(
        cnp.PyArray_DATA(a), <float *> cnp.PyArray_DATA(single), cnp.PyArray_SIZE(a)
    )
    return single


cdef cnp.ndarray prepare_parameter(cnp.ndarray p, const Order *order, int code):
    """The parameter as the kernels for elements of type `code` read it: of the type of the
    arithmetic, dense, in memory's order."""
    cdef int i
    if p is None:
        return None
    if order.param_reordered:
        axes = [order.param_axis[i] for i in range(order.param_ndim)]
        p = p.transpose([i for i in range(p.ndim) if i not in axes] + axes)
    return as_float64(p) if code == F64 else as_float32(p)


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

    w = prepare_parameter(weight, &order, code)
    b = prepare_parameter(bias, &order, code)
    plan.weight = cnp.PyArray_DATA(w) if w is not None else NULL
    plan.bias = cnp.PyArray_DATA(b) if b is not None else NULL
    plan.centre = call.centre
    plan.eps = call.eps
    plan.precise = code != F64 and plan.count < PRECISE_BELOW
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
