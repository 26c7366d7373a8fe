"""Schedules, tiers and numbers of threads, which may change no bit, put in use in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import fastnorm
from fastnorm import _core

# The special cases of the schedule that are on, and from how many bytes on results are streamed.
SCHEDULES = {
    "usual": (-1, -1),
    "cached": (-1, 2**62),
    "streamed": (-1, 0),
    "plain": (0, 2**62),
}
# What a schedule may change is time alone: the plain one is the oracle of the others.
COMPARED = ("plain", "cached", "streamed")


def use_schedule(name: str) -> None:
    features, above = SCHEDULES[name]
    _core.use_features(features)
    _core.use_stream_above(above)


def schedules() -> Iterator[str]:
    """Put every schedule in use, in turn."""
    for name in COMPARED:
        use_schedule(name)
        yield name


def tiers_and_schedules() -> Iterator[str]:
    """Put every tier with every schedule in use."""
    for isa in fastnorm.config()["isa_available"]:
        _core.use_isa(isa)
        for schedule in schedules():
            yield f"{isa}, {schedule}"


def settings(threads: Iterable[int] = (1, 2, 3, 5)) -> Iterator[str]:
    """Put every schedule in use, then every other tier, with these numbers of threads in turn.

    That every tier agrees with every other under every schedule is tested with small problems, in
    test_kernels. What larger ones may show is how they are divided, which no tier decides.
    """
    numbers = itertools.cycle(threads)
    best, *others = fastnorm.config()["isa_available"]
    for isa, schedule in [*((best, s) for s in COMPARED), *((isa, "usual") for isa in others)]:
        number = next(numbers)
        _core.use_isa(isa)
        use_schedule(schedule)
        fastnorm.set_num_threads(number)
        yield f"{isa}, {schedule}, {number} threads"
