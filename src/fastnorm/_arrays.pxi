# Included by _core.pyx: what arrays are, and arrays made from others.

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
    if not (is_behaved(a) and cnp.PyArray_IS_C_CONTIGUOUS(a)):
        return arguments.converted(a, np.float64 if wide else np.float32)
    if code == (F64 if wide else F32):
        return a
    reals = cnp.PyArray_EMPTY(
        cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_DOUBLE if wide else cnp.NPY_FLOAT, 0
    )
    kernels = isa_kernels(tier, code)
    if wide:
        kernels.widen(cnp.PyArray_DATA(a), <double *> cnp.PyArray_DATA(reals), cnp.PyArray_SIZE(a))
    else:
        kernels.to_float(
            cnp.PyArray_DATA(a), <float *> cnp.PyArray_DATA(reals), cnp.PyArray_SIZE(a)
        )
    return reals


cdef cnp.ndarray new_like(cnp.ndarray x):
    """An output for x, with its order of memory, in this machine's byte order."""
    if cnp.PyArray_ISNOTSWAPPED(x):
        return PyArray_NewLikeArray(x, cnp.NPY_KEEPORDER, NULL, 0)
    return np.empty_like(x, dtype=x.dtype.newbyteorder("="), subok=False)
