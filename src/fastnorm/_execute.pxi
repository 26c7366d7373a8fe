# Included by _core.pyx: running the kernels of a plan on threads.

# Ranges of work handed out per thread: enough to even out threads that are slowed down.
cdef int PARTS_PER_THREAD = 8

# A piece of work: the kernels of a plan on the items first..last-1 of some kind.
ctypedef struct Job:
    const Plan *plan
    const Kernels *kernels
    Moments *moments
    Stat *stats
    ptrdiff_t strips
    bint given, fused       # statistics; else measure first, or measure and apply in one go
    const Backward *backward
    double *weight          # backward: gradients of the parameters, in the kernels' order
    double *bias

ctypedef void (*Task)(const Job *, ptrdiff_t first, ptrdiff_t last) noexcept nogil


cdef void run_range(Task task, const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    task(job, first, last)
    if job.plan.stream:
        stream_end()


cdef void for_ranges(Task task, const Job *job, ptrdiff_t n, int threads) noexcept nogil:
    """Run a task over 0..n-1; who does which range does not matter to any task.

    Ranges are handed out so that those of different threads are far apart: processors fetch lines
    around those that are stored, and threads would take them from each other.
    """
    cdef ptrdiff_t parts, i, k
    if threads == 1 or n == 1:
        run_range(task, job, 0, n)
        return
    parts = min(n, <ptrdiff_t> threads * PARTS_PER_THREAD)
    for i in prange(parts, num_threads=threads, schedule="dynamic", chunksize=1):
        k = i % threads * (parts // threads) + i // threads if parts % threads == 0 else i
        run_range(task, job, n * k // parts, n * (k + 1) // parts)


cdef void rows_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    job.kernels.rows_fused(job.plan, first, last, job.stats)


cdef void rows_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = job.plan.measure.chunks
    for i in range(first, last):
        job.kernels.rows_measure(job.plan, i // chunks, i % chunks, &job.moments[i])


cdef void rows_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        pool_unit(job.plan, job.moments, job.stats, i)


cdef void rows_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, end = job.plan.kept.count * job.plan.apply.chunks
    if job.given:
        job.kernels.rows_apply(job.plan, job.stats, first, last)
        return
    # Backwards: what was measured last is still in the cache.
    for i in range(first, last):
        job.kernels.rows_apply(job.plan, job.stats, end - i - 1, end - i)


cdef void columns_fused(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(first, last):
        job.kernels.columns_fused(job.plan, i // job.strips, i % job.strips, job.stats)


cdef void columns_measure(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = row_chunks(job.plan), tile
    for i in range(first, last):
        tile = i // job.strips
        job.kernels.columns_measure(
            job.plan, tile // chunks, i % job.strips, tile % chunks, job.moments
        )


cdef void columns_pool(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pool_block(job.plan, job.moments, job.stats, first, last)


cdef void columns_apply(const Job *job, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t i, chunks = apply_chunks(job.plan), tile
    cdef ptrdiff_t strips = strip_count(&job.plan.apply_strips)
    cdef ptrdiff_t end = job.plan.kept.count * chunks * strips - 1
    for i in range(first, last):
        tile = (end - i) // strips
        job.kernels.columns_apply(
            job.plan, job.stats, tile // chunks, (end - i) % strips, tile % chunks
        )


cdef void execute(Job *job, int threads) noexcept nogil:
    cdef const Plan *plan = job.plan
    cdef ptrdiff_t tiles
    if plan.columns:
        job.strips = strip_count(&plan.strips)
        if job.fused:
            for_ranges(columns_fused, job, plan.kept.count * job.strips, threads)
            return
        if not job.given:
            tiles = plan.kept.count * row_chunks(plan) * job.strips
            for_ranges(columns_measure, job, tiles, threads)
            for_ranges(columns_pool, job, plan.stats, threads)
        tiles = plan.kept.count * apply_chunks(plan) * strip_count(&plan.apply_strips)
        for_ranges(columns_apply, job, tiles, threads)
    else:
        if job.fused:
            for_ranges(rows_fused, job, plan.kept.count, threads)
            return
        if not job.given:
            for_ranges(rows_measure, job, plan.kept.count * plan.measure.chunks, threads)
            for_ranges(rows_pool, job, plan.kept.count, threads)
        for_ranges(rows_apply, job, plan.kept.count * plan.apply.chunks, threads)
