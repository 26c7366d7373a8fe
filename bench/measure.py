"""Time fastnorm, tier by tier, and its peers; keep what the tables show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from bench.cases import promised_copies
from bench.peers import Call, Peer
from fastnorm import _core
from fastnorm._demo import Case, Data, bind, copies, make_data, race


@dataclass(frozen=True)
class Timing:
    """Seconds of a call."""

    best: float
    median: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Sum up what was measured."""
        return cls(min(seconds), median(seconds))

    def __truediv__(self, other: Timing) -> Timing:
        """Return best by best and median by median."""
        return Timing(self.best / other.best, self.median / other.median)

    def scaled(self, factor: float) -> Timing:
        """Return the times in another unit, or a share of them."""
        return Timing(self.best * factor, self.median * factor)


@dataclass(frozen=True)
class Result:
    """What a case took.

    Parameters
    ----------
    case : Case
        The work.
    timings : mapping of str to Timing
        For each that did it: instruction sets of fastnorm by name, then peers.
    copy : Timing or None
        A parallel copy of the same bytes; None where it means nothing.
    """

    case: Case
    timings: Mapping[str, Timing]
    copy: Timing | None = None

    @property
    def copies(self) -> Mapping[str, Timing]:
        """The timings as multiples of the copy."""
        if self.copy is None:
            return {}
        return {name: timing / self.copy for name, timing in self.timings.items()}

    def breaks_promise(self, name: str) -> bool:
        """Whether `name` took more copies than `case` promises."""
        limit = promised_copies(self.case)
        return limit is not None and self.copies[name].best > limit

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON has it; times are seconds."""
        title, shape, layout, dtype = self.case.cells
        found: dict[str, Any] = {
            "case": title,
            "shape": shape,
            "layout": layout,
            "dtype": dtype,
            "timings": {name: vars(timing) for name, timing in self.timings.items()},
        }
        if self.copy is not None:
            found["copy"] = vars(self.copy)
            found["copies"] = {name: vars(ratio) for name, ratio in self.copies.items()}
            found["promised_copies"] = promised_copies(self.case)
        return found


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Parameters
    ----------
    tiers : sequence of str
        Instruction sets of fastnorm.
    peers : mapping of str to Peer
        Other libraries.
    seconds : float
        Time for each case and library.
    quick : bool
        Whether to take the least work that runs everything; times mean nothing.
    """

    tiers: Sequence[str]
    peers: Mapping[str, Peer]
    seconds: float
    quick: bool = False

    def arrays(self, cases: Sequence[Case]) -> Iterator[Result]:
        """Time whole arrays in relation to a parallel copy."""
        for full in cases:
            case = full.shrunk(2**14) if self.quick else full
            data = make_data(case)
            calls: dict[str, Call] = copies(data)
            for tier in self.tiers:
                calls |= _on_tier(tier, tier, bind(case, data))
            timings = self._race(calls)
            copy = min((timings.pop(name) for name in copies(data)), key=_best)
            yield Result(case, timings | self._peers(case, data), copy)

    def calls(self, cases: Sequence[Case]) -> Iterator[Result]:
        """Time single calls on small arrays, into `out` and into a new output."""
        number = 2 if self.quick else 1000
        for case in cases:
            data = make_data(case)
            calls: dict[str, Call] = {}
            for tier in self.tiers:
                calls |= _on_tier(tier, tier, _repeated(bind(case, data), number))
            tier, call = self.tiers[0], bind(case, data, new_output=True)
            calls |= _on_tier(tier, f"{tier}, new output", _repeated(call, number))
            timings = self._race(calls) | self._peers(case, data, number)
            yield Result(case, {name: t.scaled(1 / number) for name, t in timings.items()})

    def _peers(self, case: Case, data: Data, number: int = 1) -> dict[str, Timing]:
        """Time the peers that know the operation, each in a race of its own.

        Between two calls the threads of a library wait busily for the next one,
        and would slow down whoever runs meanwhile.
        """
        timings: dict[str, Timing] = {}
        for name, peer in self.peers.items():
            call = peer(case, data)
            if call is not None:
                timings |= self._race({name: _repeated(call, number)})
        return timings

    def _race(self, calls: Mapping[str, Call]) -> dict[str, Timing]:
        """Race the calls and sum up, without the entries that choose a tier."""
        times = race(calls, 0.0, 2) if self.quick else race(calls, self.seconds)
        return {
            name: Timing.of(seconds)
            for name, seconds in times.items()
            if not name.startswith(_CHOOSE)
        }


_CHOOSE = "choose for "


def _on_tier(tier: str, name: str, call: Call) -> dict[str, Call]:
    """Return what to race so that `call` runs on `tier`: choose it, then call."""
    return {_CHOOSE + name: partial(_core.use_isa, tier), name: call}


def _repeated(call: Call, number: int) -> Call:
    """Return a call that calls `number` times."""

    def repeat() -> None:
        for _ in range(number):
            call()

    return call if number == 1 else repeat


def _best(timing: Timing) -> float:
    return timing.best
