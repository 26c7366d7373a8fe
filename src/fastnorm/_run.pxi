# Included by _core.pyx: from arrays to a plan, and its execution.

# Work below this many elements is done sooner than a second thread is woken.
cdef Py_ssize_t SERIAL_BELOW = 32768
# Statistics of fewer elements than this are measured with float64 sums: rounding errors do not
# average out, and a large weight would show them.
cdef Py_ssize_t PRECISE_BELOW = 16384
# Work below this many elements takes a microsecond or two: not long enough to let other threads
# have Python meanwhile, which costs a tenth of that.
cdef Py_ssize_t KEEP_GIL_BELOW = 8192


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
    # In the caller's order: what is given, or room for what is measured; NULL: it is not wanted.
    Stat *stats
    ptrdiff_t stats_count


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


cdef Measures measures(const Plan *plan, bint given) noexcept:
    if given:
        return MEASURES_NOTHING
    return MEASURES_COLUMNS if plan.columns else MEASURES_ROWS


cdef cnp.ndarray run(Call *call, cnp.ndarray x, int code, cnp.ndarray weight, cnp.ndarray bias,
                     object out):
    """Normalise x into out (or a new array), which is returned; fill in call.stats."""
    cdef Plan plan
    cdef Order order
    cdef Job job
    cdef cnp.ndarray y, source = x, result, w, b
    cdef ptrdiff_t total = cnp.PyArray_SIZE(x), itemsize = cnp.PyArray_ITEMSIZE(x)
    cdef bint planned, fresh = out is None
    cdef int threads = 1

    # Results go to the caller's array if the kernels can store there without overwriting what they
    # have yet to read, and if it is laid out like x; else by way of an array of our own.
    y = result = new_like(x) if fresh else <cnp.ndarray> out
    if not fresh and (
        not is_behaved(y)
        or (overlaps(x, y) and not same_memory(x, y))
        or (weight is not None and overlaps(weight, y))
        or (bias is not None and overlaps(bias, y))
    ):
        y = new_like(x)
    if total == 0:
        if not call.given:
            stats_unknown(call.stats, call.stats_count)
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
    plan.precise = code == F32 and plan.count < PRECISE_BELOW
    # Squares lost below float32's range do not matter where eps outweighs them.
    plan.floor = 2.0**-120 if call.eps < 2.0**-70 else 0.0
    if total >= SERIAL_BELOW:
        threads = threads_get()
    plan.stream = (
        2 * total * itemsize > stream_above(threads, measures(&plan, call.given))
        and cnp.PyArray_DATA(source) != cnp.PyArray_DATA(y)
    )
    job.plan = &plan
    job.kernels = isa_kernels(tier, code)
    job.given = call.given
    job.fused = layout_schedule(&plan, itemsize, threads, True) and not call.given
    job.moments = NULL
    job.stats = call.stats
    try:
        prepare_job(&job, &order)
        if total < KEEP_GIL_BELOW:
            execute(&job, threads)
        else:
            with nogil:
                execute(&job, threads)
        if job.stats != call.stats and call.stats != NULL:
            stats_reorder(&order.stats, job.stats, call.stats)
    finally:
        free(job.moments)
        if job.stats != call.stats:
            free(job.stats)
    if y is not result:
        cnp.PyArray_CopyInto(result, y)
    return result


cdef int prepare_job(Job *job, const Order *order) except -1:
    """Room for what is measured before it is applied, or not in the caller's order."""
    cdef const Plan *plan = job.plan
    cdef ptrdiff_t chunks
    if job.given:
        return 0
    if not job.fused:
        chunks = (
            plan.kept.count * row_chunks(plan) * plan.width
            if plan.columns else plan.kept.count * plan.measure.chunks
        )
        job.moments = <Moments *> malloc(chunks * sizeof(Moments))
        if job.moments == NULL:
            raise MemoryError()
    if order.stats_reordered if job.stats != NULL else not job.fused:
        job.stats = <Stat *> malloc(plan.stats * sizeof(Stat))
        if job.stats == NULL:
            raise MemoryError()
    return 0
