"""The C declarations."""

cdef extern from "kernels/kernels.h" nogil:
    enum:
        MAX_AXES
    enum Dtype:
        F32
        F64
        F16
        BF16
        DTYPES

    ctypedef struct Moments:
        pass

    ctypedef struct Stat:
        double mean, rest, var, rstd

    ctypedef struct GradSums:
        pass

    ctypedef struct GradStat:
        pass

    ctypedef struct Nest:
        int ndim
        ptrdiff_t count

    ctypedef struct Walk:
        ptrdiff_t chunks

    ctypedef struct Strips:
        pass

    ctypedef struct Plan:
        int columns, param_vector, centre, precise, stream
        Nest kept
        Walk measure, apply
        Strips strips, apply_strips
        ptrdiff_t chunks, width, tail_rows, count, stats
        double eps, floor
        const char *x
        char *y
        const void *weight
        const void *bias

    ctypedef struct Backward:
        const Plan *plan
        const char *grad
        const void *mean
        const void *rstd
        bint wide, constant, fused
        ptrdiff_t params, strips, tasks, pieces, row_params
        GradSums *sums
        GradStat *stats
        double *tables
        ptrdiff_t sums_count, stats_count, tables_count

    ctypedef struct Kernels:
        void (*rows_measure)(const Plan *, ptrdiff_t unit, ptrdiff_t chunk,
                             Moments *) noexcept nogil
        void (*rows_apply)(const Plan *, const Stat *, ptrdiff_t first,
                           ptrdiff_t last) noexcept nogil
        void (*rows_fused)(const Plan *, ptrdiff_t first, ptrdiff_t last,
                           Stat *) noexcept nogil
        void (*columns_measure)(const Plan *, ptrdiff_t block, ptrdiff_t strip, ptrdiff_t chunk,
                                Moments *) noexcept nogil
        void (*columns_apply)(const Plan *, const Stat *, ptrdiff_t block, ptrdiff_t strip,
                              ptrdiff_t chunk) noexcept nogil
        void (*columns_fused)(const Plan *, ptrdiff_t block, ptrdiff_t strip,
                              Stat *) noexcept nogil
        void (*grad_rows_measure)(const Backward *, ptrdiff_t unit, ptrdiff_t chunk) noexcept nogil
        void (*grad_rows_apply)(const Backward *, ptrdiff_t unit, ptrdiff_t chunk) noexcept nogil
        void (*grad_rows_fused)(const Backward *, ptrdiff_t first, ptrdiff_t last) noexcept nogil
        void (*grad_rows_gather)(const Backward *, ptrdiff_t task, ptrdiff_t piece) noexcept nogil
        void (*grad_columns_measure)(const Backward *, ptrdiff_t block, ptrdiff_t strip,
                                     ptrdiff_t chunk) noexcept nogil
        void (*grad_columns_apply)(const Backward *, ptrdiff_t block, ptrdiff_t strip,
                                   ptrdiff_t chunk) noexcept nogil
        void (*grad_columns_fused)(const Backward *, ptrdiff_t first,
                                   ptrdiff_t last) noexcept nogil
        void (*widen)(const void *src, double *dst, ptrdiff_t n) noexcept nogil
        void (*to_float)(const void *src, float *dst, ptrdiff_t n) noexcept nogil

    ptrdiff_t row_chunks(const Plan *)
    ptrdiff_t apply_chunks(const Plan *)
    ptrdiff_t strip_count(const Strips *)

    int isa_count()
    const char *isa_name(int tier)
    bint isa_available(int tier)
    const Kernels *isa_kernels(int tier, int dtype)

cdef extern from "kernels/layout.h" nogil:
    enum:
        KEPT
        PARAM
        SPLIT

    ctypedef struct Axis:
        ptrdiff_t size, x, y, param, stat
        int role, param_axis

    ctypedef struct Order:
        Nest stats
        bint stats_reordered
        bint param_reordered
        int param_ndim
        int param_axis[65]

    bint layout_plan(Plan *, Order *, Axis *, int n, ptrdiff_t itemsize, bint given)
    bint layout_schedule(Plan *, ptrdiff_t itemsize, int threads, bint forward)

cdef extern from "kernels/moments.h" nogil:
    void pool_unit(const Plan *, const Moments *, Stat *, ptrdiff_t unit)
    void pool_block(const Plan *, Moments *, Stat *, ptrdiff_t first, ptrdiff_t last)

    ctypedef struct Reals:
        char *data
        ptrdiff_t stride
        bint wide

    enum:
        MEAN
        VARIANCE
        RSTD

    void stats_given(Stat *, ptrdiff_t n, const Reals *mean, const Reals *var, double eps)
    void stats_unknown(Stat *, ptrdiff_t n)
    void stats_reorder(const Nest *, const Stat *source, Stat *target)
    void reals_reorder(const Nest *order, const void *source, void *target, bint wide)
    void stats_take(const Stat *, ptrdiff_t n, int what, const Reals *)
    void stats_average(const Stat *, ptrdiff_t samples, ptrdiff_t n, int what, double factor,
                       double momentum, const Reals *running)

cdef extern from "kernels/backward.h" nogil:
    void backward_schedule(Backward *, Plan *, ptrdiff_t itemsize, int threads)
    void grad_clear_tables(const Backward *, ptrdiff_t first, ptrdiff_t last)
    void grad_pool_rows(const Backward *, ptrdiff_t first, ptrdiff_t last)
    void grad_pool_columns(const Backward *, ptrdiff_t block, ptrdiff_t strip)
    void grad_params(const Backward *, ptrdiff_t first, ptrdiff_t last, double *weight,
                     double *bias)

cdef extern from "kernels/processor.h" nogil:
    void processor_init()
    ctypedef enum Measures:
        MEASURES_NOTHING
        MEASURES_COLUMNS
        MEASURES_ROWS
    ptrdiff_t stream_above(int threads, Measures what)
    void stream_set_above(ptrdiff_t bytes)

cdef extern from "kernels/threads.h" nogil:
    void threads_init()
    void threads_set(int n)
    int threads_get()
    void stream_end()
    bint built_with_openmp()
    const char *built_with_compiler()
    const char *built_version()

cdef extern from "kernels/yardstick.h" nogil:
    void copy_bytes(const char *src, char *dst, ptrdiff_t count, bint stream)
    void combine_bytes(const char *a, const char *b, char *dst, ptrdiff_t count, bint stream)
    void read_bytes(const char *a, const char *b, ptrdiff_t count)
