# Included by _core.pyx: what benchmarks compare with.

ctypedef struct Move:
    const char *x
    const char *grad
    char *out
    ptrdiff_t size, part
    bint stream


cdef int start_move(Move *move, cnp.ndarray x, cnp.ndarray grad, cnp.ndarray out,
                    bint stream) except -1:
    """Check the arrays, and share them among the threads of a call; returns their number."""
    cdef int threads = threads_get()
    cdef ptrdiff_t size = cnp.PyArray_NBYTES(x)
    cdef cnp.ndarray array
    for array in (x, grad, out):
        if not cnp.PyArray_ISCONTIGUOUS(array) or cnp.PyArray_NBYTES(array) != size:
            raise ValueError("take contiguous arrays of the same size")
    if not cnp.PyArray_ISWRITEABLE(out):
        raise ValueError("out: takes a writeable array")
    move.x = <const char *> cnp.PyArray_DATA(x)
    move.grad = <const char *> cnp.PyArray_DATA(grad)
    move.out = <char *> cnp.PyArray_DATA(out)
    move.size = size
    move.part = ((size + threads - 1) // threads + 4095) // 4096 * 4096
    move.stream = stream
    return threads


cdef void move_copy(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    copy_bytes(move.x + first, move.out + first, min(move.part, move.size - first), move.stream)


cdef void move_combine(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    combine_bytes(move.grad + first, move.x + first, move.out + first,
                  min(move.part, move.size - first), move.stream)


cdef void move_read(const Move *move, ptrdiff_t i) noexcept nogil:
    cdef ptrdiff_t first = min(i * move.part, move.size)
    read_bytes(move.grad + first, move.x + first, min(move.part, move.size - first))


def parallel_copy(cnp.ndarray x not None, cnp.ndarray out not None, bint stream=False):
    """Copy x to out with the threads of a call: the baseline of a forward."""
    cdef Move move
    cdef int threads = start_move(&move, x, x, out, stream)
    cdef ptrdiff_t i
    with nogil:
        if threads == 1:
            move_copy(&move, 0)
        else:
            for i in prange(threads, num_threads=threads, schedule="static"):
                move_copy(&move, i)


def parallel_pass(cnp.ndarray grad not None, cnp.ndarray x not None, cnp.ndarray out not None,
                  bint stream=False, bint twice=False):
    """Read grad and x and write out with the threads of a call: the baseline of a backward.

    twice: both are read before, too, by all threads; four reads and one write.
    """
    cdef Move move
    cdef int threads = start_move(&move, x, grad, out, stream)
    cdef ptrdiff_t i
    with nogil:
        if threads == 1:
            if twice:
                move_read(&move, 0)
            move_combine(&move, 0)
        else:
            if twice:
                for i in prange(threads, num_threads=threads, schedule="static"):
                    move_read(&move, i)
            for i in prange(threads, num_threads=threads, schedule="static"):
                move_combine(&move, i)
