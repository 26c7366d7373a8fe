"""Time calls in turn, so that whatever disturbs one disturbs all."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from time import perf_counter, process_time, sleep

from bench.work import Call

BLOCK = 0.02
"""Seconds that one contender is timed before it is the next one's turn."""

WARM_UP = 0.002
"""Seconds of untimed calls at the start of a block."""

SAMPLE = 1e-4
"""Seconds that a sample takes at least; calls that are shorter are timed several at once."""

LEAST_BLOCKS = 3
LONGEST_PAUSE = 0.25


@dataclass(frozen=True)
class Contender:
    """What is timed, and what is called before each block, untimed."""

    call: Call
    prepare: Call = bool


def interleave(
    contenders: Mapping[str, Contender], seconds: float, block: float = BLOCK
) -> dict[str, dict[str, float]]:
    """Time contenders block by block; return the best and the median seconds of each.

    In each round every contender has a block: a pause until the threads of the one before it have
    gone to sleep, untimed calls, then timed ones. So each call finds the cache as the same
    contender left it, and the processors free. The rounds begin with another contender each time.

    Each is timed for so many seconds; one whose blocks take longer sits out rounds, evenly, but has
    at least `LEAST_BLOCKS`. 0 seconds are for trying out: one block of one call, without pause.
    """
    rounds = max(LEAST_BLOCKS, round(seconds / block)) if seconds else 1
    order = list(contenders)
    spent = dict.fromkeys(order, 0.0)
    blocks = dict.fromkeys(order, 0)
    samples: dict[str, list[float]] = {key: [] for key in order}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(rounds):
            for key in order:
                due = spent[key] <= seconds * done / rounds
                must = rounds - done <= LEAST_BLOCKS - blocks[key]
                if not (due or must):
                    continue
                contenders[key].prepare()
                if seconds:
                    settle()
                start = perf_counter()
                samples[key] += _block(contenders[key].call, block if seconds else 0.0)
                spent[key] += perf_counter() - start
                blocks[key] += 1
            order.append(order.pop(0))
    finally:
        if collecting:
            gc.enable()
    return {
        key: {"best": min(times), "median": median(times), "samples": len(times)}
        for key, times in samples.items()
    }


def settle() -> bool:
    """Wait until no thread of this process runs, and return whether that came about.

    After a call the threads of most libraries wait for the next one busily for some milliseconds,
    and would slow down whoever runs meanwhile.
    """
    end = perf_counter() + LONGEST_PAUSE
    while perf_counter() < end:
        before, start = process_time(), perf_counter()
        sleep(0.001)
        if process_time() - before < 0.1 * (perf_counter() - start):
            return True
    return False


def _block(call: Call, seconds: float) -> list[float]:
    """Return the times of calls after untimed ones, for about `seconds`."""
    start = perf_counter()
    call()
    taken = perf_counter() - start
    warm = start + (WARM_UP if seconds else 0.0)
    while perf_counter() < warm:
        before = perf_counter()
        call()
        taken = perf_counter() - before
    number = max(1, int(SAMPLE / taken)) if seconds else 1

    samples = []
    end = perf_counter() + seconds
    while True:
        calls = repeat(None, number)
        before = perf_counter()
        for _ in calls:
            call()
        after = perf_counter()
        samples.append((after - before) / number)
        if after >= end:
            return samples
