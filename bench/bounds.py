"""The bounds that fastnorm promises, and whether measurements meet them.

All are ratios of best times inside one run. ``README.md`` has them as a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bench.clock import Timing
from bench.machine import Caches
from bench.problems import Problem
from bench.work import (
    COPY,
    PASS,
    STREAMING_COPY,
    STREAMING_PASS,
    STREAMING_TWO_PASSES,
    TWO_PASSES,
)
from fastnorm._demo import Case, Operation, scalar_type

ARRAY_BYTES = 10**6
"""Inputs of this size are arrays, compared with copies or passes; smaller ones are calls."""

CACHE_LINE = 64

FASTNORM, NEW_OUTPUT = "fastnorm", "fastnorm, new output"

RIVALS = ("torch", "torch.compile", "onnxruntime", "jax", "openvino")
"""The peers that every shape is compared with; plain NumPy is no rival."""

BACKWARD_RIVAL = "torch"
"""The peer that every backward is compared with."""

COPY_LIMIT = 1.15
TRAINING_LIMIT = 1.25
TWO_READS_LIMIT = 1.65
HALF_LIMIT = 1.3
ONE_THREAD_LIMIT = 1.3
RIVAL_LIMIT = 1.0
MEAN_SPEED = 3.0
BACKWARD_LIMIT = 1.4
BACKWARD_MEAN_SPEED = 2.0
TWO_THREADS_SPEED = 1.8

CALL_LIMITS: Mapping[tuple[Operation, tuple[int, ...]], float] = {
    ("layer_norm", (1, 384)): 0.25,
    ("layer_norm", (1, 768)): 0.25,
    ("rms_norm", (1, 2048)): 0.25,
    ("group_norm", (1, 32, 8, 8)): 0.25,
    ("instance_norm", (1, 8, 16, 16)): 0.25,
    ("batch_norm", (1, 16, 8, 8)): 0.25,
    ("layer_norm", (8, 512)): 0.4,
    ("layer_norm", (16, 768)): 0.4,
}
"""Share of the best rival's time that a float32 call into a new output may take."""

BOUNDS: Mapping[str, str] = {
    "copy": "times a copy: what is measured together fits in L2",
    "training": "times a copy: batch norm in training, a channel fits in L2",
    "two reads": "times a copy: what is measured together does not fit in L2",
    "half": "times a copy of the same bytes: float16, bfloat16 (that fit in L2)",
    "one thread": "times a one-thread copy, by one thread (that fit in L2)",
    "one thread, two reads": "times a one-thread copy, by one thread, where it does not fit in L2",
    "rivals": "share of the best peer's time, every shape, forward",
    "call": "share of the best peer's time: one small call without out",
    "two threads": "times faster with two threads than with one, arrays in the shared cache",
    "mean": "times faster than the best peer, geometric mean of all shapes, forward",
    "backward": "times a pass of two reads and a write: what is measured together fits in L2",
    "backward, four reads": "times a pass of four reads and a write, where it does not fit in L2",
    "backward, torch": "share of torch's time, every backward",
    "backward, mean": "times faster than torch, geometric mean of all backwards",
}
"""Name of each bound, and what its values are."""

AT_LEAST = ("two threads", "mean", "backward, mean")
"""The bounds whose values must be at least their limits, not at most."""

Timings = Mapping[int, Mapping[str, Timing]]
"""For each thread count the timing of each contender."""


@dataclass(frozen=True)
class Verdict:
    """Whether a bound is met.

    Parameters
    ----------
    bound : str
        A key of `BOUNDS`.
    value, limit : float
        What was measured, and what is promised.
    """

    bound: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the value is within the limit (a NaN is not)."""
        if self.bound in AT_LEAST:
            return self.value >= self.limit
        return self.value <= self.limit

    def __str__(self) -> str:
        """Write the bound, what was measured, and how that compares with what is promised."""
        above = (self.bound in AT_LEAST) == self.met
        sign = (">" if above else "<") if not self.met else ("≥" if above else "≤")
        return f"{self.bound} {self.value:.3g} {sign} {self.limit:g}"


def is_array(problem: Problem) -> bool:
    """Whether the problem is compared with a yardstick."""
    return problem.nbytes >= ARRAY_BYTES


def measured_together(problem: Problem) -> int:
    """Return the bytes that must stay in the cache for memory to be read once.

    That is the input of one statistic, and of a backward as much of the gradient. Where the
    channels are the innermost axis, the lines of the cache that a statistic lies on hold others,
    too, and all that they hold counts.
    """
    case = problem.memory_case
    arrays = 2 if problem.backward else 1
    size, line = arrays * scalar_type(case.dtype).itemsize, arrays * CACHE_LINE
    channels = case.shape[case.channel_axis]
    channels_last = case.channel_axis == len(case.shape) - 1
    if case.operation in ("layer_norm", "rms_norm"):
        step = size if channels_last else min(line, _positions(case) * size)
        return channels * step
    if case.operation == "batch_norm" and not case.training:
        return 0
    together = channels // case.num_groups if case.operation == "group_norm" else 1
    width = together * size
    if channels_last:
        width = min(channels * size, max(line, width))
    samples = case.shape[0] if case.operation == "batch_norm" else 1
    return samples * _positions(case) * width


def _positions(case: Case) -> int:
    """Return the number of positions of a sample."""
    return math.prod(case.shape[1:]) // case.shape[case.channel_axis]


def fits(problem: Problem, caches: Caches) -> bool:
    """Whether what is measured together fits in the cache of one processor."""
    return measured_together(problem) <= caches.l2


def traffic_bound(problem: Problem, threads: int, caches: Caches) -> tuple[str, float] | None:
    """Return the bound in copies, or in passes of a backward, and its limit; None if there is none.

    Parameters
    ----------
    problem : Problem
        What is measured.
    threads : int
        By how many threads.
    caches : Caches
        Of the processor that measured.
    """
    case = problem.case
    if not is_array(problem) or case.dtype == "float64":
        return None
    within = fits(problem, caches)
    if problem.backward:
        if threads == 1 or case.dtype != "float32":
            return None
        return "backward" if within else "backward, four reads", BACKWARD_LIMIT
    if threads == 1:
        if within:
            return "one thread", ONE_THREAD_LIMIT
        return "one thread, two reads", TWO_READS_LIMIT
    if not within:
        return "two reads", TWO_READS_LIMIT
    if case.dtype != "float32":
        return "half", HALF_LIMIT
    return ("training", TRAINING_LIMIT) if case.training else ("copy", COPY_LIMIT)


def yardstick(problem: Problem, timings: Mapping[str, Timing], caches: Caches) -> Timing:
    """Return what the problem is compared with: the faster of two ways to store."""
    names = COPY, STREAMING_COPY
    if problem.backward:
        once = fits(problem, caches)
        names = (PASS, STREAMING_PASS) if once else (TWO_PASSES, STREAMING_TWO_PASSES)
    return min((timings[name] for name in names), key=lambda timing: timing.best)


def ours(problem: Problem) -> str:
    """Return which of fastnorm's contenders is compared with peers: for calls, without `out`."""
    return FASTNORM if is_array(problem) else NEW_OUTPUT


def best_rival(timings: Mapping[str, Timing]) -> str | None:
    """Return the name of the fastest rival, if any was timed."""
    rivals = [name for name in RIVALS if name in timings]
    return min(rivals, key=lambda name: timings[name].best, default=None)


def speed(problem: Problem, timings: Mapping[str, Timing], peer: str) -> float:
    """Return how many times faster than a peer fastnorm is."""
    return timings[peer].best / timings[ours(problem)].best


def verdicts(problem: Problem, timings: Timings, threads: int, caches: Caches) -> Iterator[Verdict]:
    """Judge what one problem took on `threads` threads.

    Rivals and the gain by a second thread are judged where most threads were used.
    """
    here = timings[threads]
    bound = traffic_bound(problem, threads, caches)
    if bound is not None:
        share = here[FASTNORM].best / yardstick(problem, here, caches).best
        yield Verdict(bound[0], share, bound[1])
    if threads < max(timings):
        return
    if problem.backward:
        if BACKWARD_RIVAL in here:
            share = 1 / speed(problem, here, BACKWARD_RIVAL)
            yield Verdict("backward, torch", share, RIVAL_LIMIT)
        return
    rival = best_rival(here)
    if rival is not None:
        share = 1 / speed(problem, here, rival)
        yield Verdict("rivals", share, RIVAL_LIMIT)
        case = problem.case
        if case.dtype == "float32" and not case.training:
            limit = CALL_LIMITS.get((case.operation, case.shape))
            if limit is not None:
                yield Verdict("call", share, limit)
    in_cache = is_array(problem) and 2 * problem.nbytes <= caches.l3
    if threads == 2 and 1 in timings and in_cache:
        yield Verdict(
            "two threads", timings[1][FASTNORM].best / here[FASTNORM].best, TWO_THREADS_SPEED
        )


def mean_speed(speeds: Iterable[float]) -> float:
    """Return the geometric mean (NaN of nothing)."""
    logarithms = [math.log(speed) for speed in speeds]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan
