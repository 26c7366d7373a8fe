# Included by _core.pyx: what arrays are, and the checks of arguments, all before anything is
# written.  What is plainly right is accepted here; what may be wrong, or is right in another way,
# goes to _arguments.py.

cdef object bfloat16 = None


cdef int dtype_code(cnp.ndarray a) except -2:
    """The element type, or -1 if it is none of ours."""
    global bfloat16
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT:
        return F32
    if number == cnp.NPY_DOUBLE:
        return F64
    if number == cnp.NPY_FLOAT16:
        return F16
    if cnp.PyArray_ITEMSIZE(a) != 2:
        return -1
    scalar = <object> (<cnp.dtype> cnp.PyArray_DESCR(a)).typeobj
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


cdef bint same_strides(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether arrays of one shape are laid out alike."""
    cdef int d
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d):
            return False
    return True


cdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    """b is a, or another view of exactly the same elements."""
    return cnp.PyArray_DATA(a) == cnp.PyArray_DATA(b) and same_strides(a, b)


cdef cnp.ndarray as_reals(cnp.ndarray a, bint wide):
    """The values as a dense array of float64 if wide, else float32; perhaps the array itself."""
    cdef cnp.ndarray reals
    cdef int code = dtype_code(a)
    if wide and code != F64 or not (is_behaved(a) and cnp.PyArray_IS_C_CONTIGUOUS(a)):
        return arguments.converted(a, np.float64 if wide else np.float32)
    if code == (F64 if wide else F32):
        return a
    if code == F64:
        return arguments.converted(a, np.float32)
    reals = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_FLOAT, 0)
    isa_kernels(tier, F32).load[code](
        cnp.PyArray_DATA(a), cnp.PyArray_DATA(reals), cnp.PyArray_SIZE(a)
    )
    return reals


# ---- checks ----

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
