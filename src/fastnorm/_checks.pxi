# Included by _core.pyx: the checks of arguments, all before anything is written.  What is plainly
# right is accepted here; what may be wrong, or is right in another way, goes to _arguments.py.

# What plain_int gives for what is not one.
cdef long long NOT_PLAIN = LLONG_MIN


cdef inline long long plain_int(object value) noexcept:
    """A Python int; NOT_PLAIN if it is something else, or too large for any length or axis."""
    cdef int overflow = 0
    cdef long long n
    if type(value) is not int:
        return NOT_PLAIN
    n = PyLong_AsLongLongAndOverflow(value, &overflow)
    return NOT_PLAIN if overflow else n


cdef inline bint has_shape(cnp.ndarray a, int n, const cnp.npy_intp *dims) noexcept:
    cdef int d
    if cnp.PyArray_NDIM(a) != n:
        return False
    for d in range(n):
        if cnp.PyArray_DIM(a, d) != dims[d]:
            return False
    return True


cdef tuple shape_of(cnp.ndarray a):
    return (<object> a).shape


cdef tuple as_tuple(int n, const cnp.npy_intp *dims):
    cdef int d
    return tuple([dims[d] for d in range(n)])


cdef cnp.ndarray input_array(object x):
    if type(x) is cnp.ndarray:
        return <cnp.ndarray> x
    return arguments.as_array("x", x)


cdef int check_dtype(str name, cnp.ndarray a) except -1:
    cdef int code = dtype_code(a)
    if code < 0:
        raise arguments.unsupported_dtype(name, a.dtype)
    return code


cdef int check_size(cnp.ndarray x) except -1:
    """Refuse shapes (of broadcast arrays) whose number of bytes overflows."""
    cdef int d
    cdef double size = cnp.PyArray_ITEMSIZE(x)
    for d in range(cnp.PyArray_NDIM(x)):
        size *= cnp.PyArray_DIM(x, d)
    if size >= 2.0**62:
        raise ValueError(f"x: shape {shape_of(x)} has more elements than memory can hold")
    return 0


cdef cnp.ndarray check_parameter(str name, object value, int n, const cnp.npy_intp *dims):
    """A weight or bias, which has n dimensions; None if there is none."""
    cdef cnp.ndarray p
    if value is None:
        return None
    p = <cnp.ndarray> value if type(value) is cnp.ndarray else arguments.as_array(name, value)
    check_dtype(name, p)
    if not has_shape(p, n, dims):
        raise arguments.wrong_shape(name, shape_of(p), as_tuple(n, dims))
    return p


cdef int check_running(str name, object value, ptrdiff_t channels, bint measure) except -1:
    """A running statistic: an array, which can be updated in place if the input is measured."""
    cdef cnp.ndarray a
    cdef cnp.npy_intp length = channels
    if value is None:
        raise arguments.missing_statistic(name)
    if type(value) is not cnp.ndarray:
        raise arguments.not_an_array(name, value)
    a = <cnp.ndarray> value
    if not has_shape(a, 1, &length):
        raise arguments.wrong_shape(name, shape_of(a), (channels,))
    check_dtype(name, a)
    if measure and not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{name}: is read-only; takes an array that can be updated in place")
    return 0


cdef int check_out(object out, cnp.ndarray x, int code) except -1:
    if type(out) is not cnp.ndarray:
        raise arguments.not_an_array("out", out)
    if not has_shape(<cnp.ndarray> out, cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x)):
        raise arguments.wrong_shape("out", shape_of(out), shape_of(x))
    if dtype_code(<cnp.ndarray> out) != code:
        raise arguments.wrong_dtype("out", out.dtype, x.dtype)
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
        raise ValueError("out: is read-only; takes an array that can be written to")
    return 0


cdef double check_eps(object eps) except? -1:
    cdef double value
    if type(eps) is float:
        value = eps
        if 0 <= value < INFINITY:
            return value
    return arguments.eps(eps)


cdef double check_momentum(object momentum) except? -1:
    cdef double value
    if type(momentum) is float:
        value = momentum
        if 0 <= value <= 1:
            return value
    return arguments.momentum(momentum)


cdef int check_normalized(object normalized_shape, object axis, cnp.ndarray x,
                          bint *normalized) except -1:
    """Which axes of x to normalise over."""
    cdef int ndim = cnp.PyArray_NDIM(x), first = ndim - 1, d
    cdef tuple x_shape
    if ndim == 0:
        raise ValueError("x: is 0-dimensional; takes at least 1 dimension")
    if axis is None:
        if normalized_shape is not None:
            first = ndim - trailing_axes(normalized_shape, x)
        for d in range(ndim):
            normalized[d] = d >= first
        return 0
    x_shape = shape_of(x)
    axes = arguments.axes("axis", axis, x_shape)
    if normalized_shape is not None:
        arguments.normalized_shape(normalized_shape, tuple([x_shape[d] for d in axes]),
                                   f"x.shape {x_shape} at axis {axes}")
    for d in range(ndim):
        normalized[d] = d in axes
    return 0


cdef int trailing_axes(object normalized_shape, cnp.ndarray x) except -1:
    """How many axes of x, its last ones, have this shape."""
    cdef int ndim = cnp.PyArray_NDIM(x), n, i
    if plain_int(normalized_shape) == cnp.PyArray_DIM(x, ndim - 1):
        return 1
    if type(normalized_shape) is tuple and 0 < len(<tuple> normalized_shape) <= ndim:
        n = len(<tuple> normalized_shape)
        for i in range(n):
            if plain_int((<tuple> normalized_shape)[i]) != cnp.PyArray_DIM(x, ndim - n + i):
                break
        else:
            return n
    return len(arguments.trailing_shape(normalized_shape, shape_of(x)))


cdef int check_channel_axis(object axis, cnp.ndarray x, int least, bint per_sample) except -1:
    cdef int ndim = cnp.PyArray_NDIM(x)
    cdef long long index = plain_int(axis)
    if -ndim <= index < 0:
        index += ndim
    if ndim >= least and per_sample <= index < ndim:
        return index
    return arguments.channel_axis(axis, shape_of(x), least, per_sample)


cdef ptrdiff_t check_num_groups(object num_groups, ptrdiff_t channels, cnp.ndarray x) except -1:
    cdef long long groups = plain_int(num_groups)
    if 0 < groups < 2**31 and channels % groups == 0:
        return groups
    return arguments.num_groups(num_groups, channels, shape_of(x))
