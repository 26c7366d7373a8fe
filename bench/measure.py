"""Measure a problem: fastnorm, the yardsticks and the peers, checked and then timed in turn."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import fastnorm
from bench.bounds import FASTNORM, NEW_OUTPUT, is_array
from bench.clock import Contender, interleave
from bench.peers import Peer, UnsupportedError
from bench.problems import Problem
from bench.results import Measured, in_words
from bench.work import Call, Outputs, Work
from fastnorm import _core
from fastnorm._demo import Array, DType

TOLERANCES: Mapping[DType, float] = {
    "float64": 1e-5,
    "float32": 1e-3,
    "float16": 1e-2,
    "bfloat16": 6e-2,
}
"""Most that a peer's result y may differ from fastnorm's, in units of 1 + |y|; where it is a sum of
n terms, the gradient of a weight or a bias, of √n + |y|.

Enough for arithmetic in half precision, in float32 for float64, and for large sums; not enough for
another formula.
"""

QUICK_ELEMENTS = 2**14


@dataclass(frozen=True)
class Session:
    """How to measure.

    Parameters
    ----------
    threads : sequence of int
        Thread counts.
    tiers : sequence of str
        Instruction sets of fastnorm; the first is the one that is compared.
    peers : mapping of str to Peer
        Other libraries.
    seconds : float
        Time for each contender; 0 only shows that all of it runs.
    quick : bool
        Whether to cut the arrays down.
    """

    threads: Sequence[int]
    tiers: Sequence[str]
    peers: Mapping[str, Peer]
    seconds: float
    quick: bool = False

    def measure(self, problem: Problem) -> Measured:
        """Check and time everyone on one problem."""
        work = Work.of(problem.shrunk(QUICK_ELEMENTS) if self.quick else problem)
        left_out: dict[str, str] = {}
        contenders: dict[tuple[int, str], Contender] = {}
        for threads in self.threads:
            calls = self._ours(problem, work, threads) | self._theirs(work, threads, left_out)
            contenders |= {(threads, name): contender for name, contender in calls.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timings = interleave(contenders, self.seconds)
        return Measured(
            problem,
            {
                threads: {name: t for (count, name), t in timings.items() if count == threads}
                for threads in self.threads
            },
            left_out,
        )

    def use(self, threads: int, tier: str | None = None) -> None:
        """Set the threads of everyone, and fastnorm's instruction set."""
        # Of the peers too, because those that share fastnorm's OpenMP set its limit.
        for peer in self.peers.values():
            peer.use_threads(threads)
        fastnorm.set_num_threads(threads)
        _core.use_isa(tier or self.tiers[0])

    def _ours(self, problem: Problem, work: Work, threads: int) -> dict[str, Contender]:
        """Return the yardsticks, and fastnorm's calls."""
        prepare = partial(self.use, threads)
        calls: dict[str, Call] = work.yardsticks() if is_array(problem) else {}
        calls[FASTNORM] = work.call()
        if not is_array(problem):
            calls[NEW_OUTPUT] = work.call(new_output=True)
        contenders = {name: Contender(call, prepare) for name, call in calls.items()}
        for tier in self.tiers[1:]:
            prepare = partial(self.use, threads, tier)
            contenders[f"{FASTNORM} {tier}"] = Contender(work.call(), prepare)
        return contenders

    def _theirs(self, work: Work, threads: int, left_out: dict[str, str]) -> dict[str, Contender]:
        """Return the calls of the peers that do the same; note the others in `left_out`."""
        prepare = partial(self.use, threads)
        prepare()
        expected = tuple(array.copy() for array in work.outputs(work.call()()))
        contenders = {}
        for name, peer in self.peers.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    contenders[name] = Contender(_checked(peer, work, threads, expected), prepare)
            except UnsupportedError as reason:
                left_out[f"{name}, {in_words(threads)}"] = str(reason)
            except Exception as error:
                # Whatever a library does with a shape that it cannot handle.
                first = (str(error).strip().splitlines() or [""])[0]
                left_out[f"{name}, {in_words(threads)}"] = f"{type(error).__name__}: {first[:150]}"
            prepare()
        return contenders


def _checked(peer: Peer, work: Work, threads: int, expected: Outputs) -> Call:
    """Return the peer's call after seeing that its results are the expected ones."""
    bound = peer.bind(work, threads)
    work.data.out[...] = np.nan
    found = bound.outputs(bound.call())
    if len(found) != len(expected):
        raise UnsupportedError(f"it has {len(found)} results instead of {len(expected)}")
    names = ("result", "gradient of the weight", "gradient of the bias")
    for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        name, unit, same_dtype = names[index], 1.0, theirs.dtype == ours.dtype
        if index > 0:
            # A sum of n terms of either sign is about √n; libraries differ in its dtype.
            unit, same_dtype = math.sqrt(found[0].size / ours.size), True
        if theirs.shape != ours.shape or not same_dtype:
            raise UnsupportedError(f"its {name} is {theirs.shape} {theirs.dtype}")
        difference = _difference(theirs, ours, unit)
        if not difference <= TOLERANCES[work.problem.case.dtype]:
            raise UnsupportedError(f"its {name} differs by {difference:.1g}")
    return bound.call


def _difference(found: Array, expected: Array, unit: float) -> float:
    """Return the largest difference in units of `unit` + |expected|, or NaN."""
    worst = np.float64(0.0)
    step = max(1, 2**20 * len(found) // found.size)
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        y = expected[part].astype(np.float64)
        error = np.abs(found[part].astype(np.float64) - y) / (unit + abs(y))
        worst = np.maximum(worst, error.max())
    return float(worst)
