"""What a run found, and its form as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from bench.bounds import (
    BACKWARD_MEAN_SPEED,
    BACKWARD_RIVAL,
    MEAN_SPEED,
    Timings,
    Verdict,
    best_rival,
    mean_speed,
    speed,
    verdicts,
)
from bench.clock import Timing
from bench.machine import Caches
from bench.problems import Problem, parse

FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """What one problem took.

    Parameters
    ----------
    problem : Problem
        What was measured.
    timings : mapping
        For each thread count the timing of each contender.
    left_out : mapping of str to str
        Peers, and with how many threads, that did not take part, and why.
    """

    problem: Problem
    timings: Timings
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A whole run.

    Parameters
    ----------
    command : str
        The command line, without names of files.
    quick : bool
        Whether the arrays were cut down, so that times mean nothing.
    machine : mapping of str to str
        What it ran on.
    caches : Caches
        Of the processor.
    peers : mapping of str to str
        What to know about each peer that took part.
    skipped : mapping of str to str
        Peers that could not be used, and why.
    measured : sequence of Measured
        One for each problem.
    """

    command: str
    quick: bool
    machine: Mapping[str, str]
    caches: Caches
    peers: Mapping[str, str]
    skipped: Mapping[str, str]
    measured: Sequence[Measured]

    @property
    def threads(self) -> Sequence[int]:
        """The thread counts, the largest first."""
        return sorted({count for found in self.measured for count in found.timings}, reverse=True)

    @property
    def most_threads(self) -> int:
        """The largest thread count."""
        return max(self.threads)

    def verdicts(self, found: Measured, threads: int) -> Sequence[Verdict]:
        """Judge one problem on `threads` threads."""
        return tuple(verdicts(found.problem, found.timings, threads, self.caches))

    def all_verdicts(self) -> Iterator[tuple[Problem, Verdict]]:
        """Yield every verdict on every problem."""
        for threads in self.threads:
            for found in self.measured:
                for verdict in self.verdicts(found, threads):
                    yield found.problem, verdict

    def speeds(self, peer: str | None = None) -> Mapping[Problem, float]:
        """Return how many times faster than a peer, or the best one, fastnorm was.

        With the most threads, and only the problems that the peer took part in.
        """
        found = {}
        for measured in self.measured:
            timings = measured.timings[self.most_threads]
            name = best_rival(timings) if peer is None else peer
            if name is not None and name in timings:
                found[measured.problem] = speed(measured.problem, timings, name)
        return found

    @cached_property
    def mean_verdicts(self) -> Sequence[Verdict]:
        """The verdicts on the mean speeds, forward and backward, where there was a rival."""
        forward = [speed for problem, speed in self.speeds().items() if not problem.backward]
        theirs = self.speeds(BACKWARD_RIVAL)
        backward = [speed for problem, speed in theirs.items() if problem.backward]
        return [
            Verdict(bound, mean_speed(speeds), limit)
            for bound, speeds, limit in (
                ("mean", forward, MEAN_SPEED),
                ("backward, mean", backward, BACKWARD_MEAN_SPEED),
            )
            if speeds
        ]

    def as_json(self) -> str:
        """Return the run as JSON; times are seconds."""
        document = asdict(self) | {"format": FORMAT}
        document["measured"] = [self._measured_as_json(found) for found in self.measured]
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def _measured_as_json(self, found: Measured) -> dict[str, Any]:
        return {
            "problem": str(found.problem),
            "timings": {
                str(threads): {name: asdict(timing) for name, timing in timings.items()}
                for threads, timings in found.timings.items()
            },
            "left_out": dict(found.left_out),
            "bounds": {
                str(threads): [
                    asdict(verdict) | {"met": verdict.met}
                    for verdict in self.verdicts(found, threads)
                ]
                for threads in found.timings
            },
        }

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Read what `as_json` wrote.

        Raises
        ------
        ValueError
            If it is something else.
        """
        document = json.loads(text)
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise ValueError("not a run of this benchmark")
        document["caches"] = Caches(**document["caches"])
        document["measured"] = [
            Measured(
                parse(found["problem"]),
                {
                    int(threads): {name: Timing(**timing) for name, timing in timings.items()}
                    for threads, timings in found["timings"].items()
                },
                found["left_out"],
            )
            for found in document["measured"]
        ]
        return cls(**document)


def in_words(threads: int) -> str:
    """Return a number of threads as a phrase."""
    return "one thread" if threads == 1 else f"{threads} threads"
