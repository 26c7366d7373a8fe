# Included by _core.pyx: the statistics of a call, in and out.


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
    call.stats = NULL
    call.stats_count = 0
    if not return_stats:
        return run(call, x, code, weight, bias, out)
    try:
        make_stats(call, cnp.PyArray_MultiplyList(shape, ndim))
        y = run(call, x, code, weight, bias, out)
        return with_stats(call, y, code, ndim, shape)
    finally:
        free(call.stats)
