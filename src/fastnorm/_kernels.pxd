"""The C declarations."""

cdef extern from "kernels/plan/plan.h" nogil:
    enum:
        MAX_AXES
    enum Dtype:
        F32
        F64
        F16
        BF16

    ctypedef struct Moments:
        pass

    ctypedef struct Stat:
        double mean, rest, var, rstd

    ctypedef struct GradSums:
        pass

    ctypedef struct Nest:
        int ndim
        ptrdiff_t count

    ctypedef struct Plan:
        int dtype, along, centre, stream
        ptrdiff_t count, stats
        double eps
        const char *x
        char *y
        const void *weight
        const void *bias

    ctypedef struct Backward:
        const char *grad
        const void *mean
        const void *rstd
        bint frozen
        ptrdiff_t params

    ctypedef struct Kernels:
        void (*load[4])(const void *x, void *reals, ptrdiff_t n) noexcept nogil

    ctypedef struct Job:
        Plan plan
        Backward backward
        const Kernels *kernels
        bint is_backward, given
        int threads
        Moments *moments
        Stat *stats
        GradSums *sums
        double *tables
        double *dweight
        double *dbias
        ptrdiff_t moments_count, stats_count, sums_count, tables_count

cdef extern from "kernels/plan/layout.h" nogil:
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

cdef extern from "kernels/plan/schedule.h" nogil:
    void schedule_forward(Job *, bint kept_stats)
    void schedule_backward(Job *)

cdef extern from "kernels/plan/machine.h" nogil:
    ctypedef enum Measures:
        MEASURES_ROWS
    void machine_init()
    ptrdiff_t stream_above(int threads, Measures what)
    void stream_set_above(ptrdiff_t bytes)
    void features_set(int mask)
    int feature_count()
    const char *feature_name(int i)
    unsigned long fp_enter()
    void fp_leave(unsigned long before)

cdef extern from "kernels/plan/threads.h" nogil:
    void threads_init()
    void threads_set(int n)
    int threads_get()
    bint job_run(const Job *)
    void trace_set "trace_kernels" (bint on)
    bint kernel_called(int i)
    bint built_with_openmp()
    const char *built_with_compiler()
    const char *built_version()

cdef extern from "kernels/plan/aligned.h" nogil:
    void *aligned_new(void *context, size_t bytes)
    void *aligned_zeros(void *context, size_t count, size_t size)
    void *aligned_resize(void *context, void *memory, size_t bytes)
    void aligned_free(void *context, void *memory, size_t bytes)

cdef extern from "kernels/target/dispatch.h" nogil:
    int isa_count()
    const char *isa_name(int tier)
    bint isa_available(int tier)
    const Kernels *isa_kernels(int tier, int dtype)
    int kernel_count()
    const char *kernel_name(int i)

cdef extern from "kernels/stats/statistics.h" nogil:
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

cdef extern from "kernels/baseline/baseline.h" nogil:
    void copy_bytes(const char *src, char *dst, ptrdiff_t count, bint stream)
    void combine_bytes(const char *a, const char *b, char *dst, ptrdiff_t count, bint stream)
    void read_bytes(const char *a, const char *b, ptrdiff_t count)
