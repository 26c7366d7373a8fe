"""The tables of a run, as text in rows and columns: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.bounds import (
    AT_LEAST,
    BOUNDS,
    FASTNORM,
    RIVALS,
    Verdict,
    fits,
    is_array,
    mean_speed,
    traffic_bound,
    yardstick,
)
from bench.clock import Timing
from bench.problems import OPERATIONS, Problem
from bench.results import Measured, Run, in_words
from bench.work import YARDSTICKS

NOT_MET = "not met"


@dataclass(frozen=True)
class Sheet:
    """A table.

    Parameters
    ----------
    title : str
        What stands above it.
    columns : sequence of str
        Their names; the first is that of the rows.
    rows : sequence of sequence of str
        The cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


LEGEND: Mapping[str, str] = {
    "copy": "best time of a parallel copy of the same bytes by as many threads, in ms (of "
    "ordinary and streaming, non-temporal, stores the better)",
    "pass": "for a backward in place of the copy: best time of a pass that reads two arrays and "
    "writes one; reads: 2, or 4 where what is measured together does not fit in L2, and the pass "
    "reads both once more before",
    "fastnorm": "time as a multiple of that copy or pass, written into an existing array: best by "
    "best (median by median); of calls, in µs",
    "peers": "how many times as long as fastnorm they took: best by best (median by median); of "
    "calls, their time in µs",
    "limit": "copies or passes that fastnorm may take; of calls, share of the best peer's time "
    "that it may take without out. In brackets, the bound",
    "bounds": "whether every bound on the row is met, and those that are not",
}


def sheets(run: Run) -> list[Sheet]:
    """Return all tables that have rows."""
    found = []
    for threads in run.threads:
        found += [_arrays(run, threads, backward=backward) for backward in (False, True)]
        found.append(_calls(run, threads))
    found += [_left_out(run), _means(run), _bounds(run)]
    return [sheet for sheet in found if sheet.rows]


def _names(run: Run, threads: int, kind: Callable[[Problem], bool]) -> Sequence[str]:
    """Return the contenders that took part in problems of one kind, but for the yardsticks."""
    names = dict.fromkeys(
        name
        for found in run.measured
        if kind(found.problem)
        for name in found.timings.get(threads, ())
    )
    return [name for name in names if name not in YARDSTICKS]


def _arrays(run: Run, threads: int, *, backward: bool) -> Sheet:
    def belongs(problem: Problem) -> bool:
        return is_array(problem) and problem.backward == backward

    names = _names(run, threads, belongs)
    peers = [name for name in names if not name.startswith(FASTNORM)]
    tiers = [name for name in names if name.startswith(FASTNORM)]
    gains = threads == run.most_threads and 1 in run.threads and threads > 1
    moves = ["reads", "pass"] if backward else ["copy"]
    columns = ["problem", "MB", *moves, *tiers, *peers]
    if gains:
        columns.append("over 1 thread")
    rows = []
    for found in run.measured:
        if not belongs(found.problem) or threads not in found.timings:
            continue
        timings = found.timings[threads]
        move, own = yardstick(found.problem, timings, run.caches), timings[FASTNORM]
        reads = ["2" if fits(found.problem, run.caches) else "4"] if backward else []
        row = [
            str(found.problem),
            f"{found.problem.nbytes / 1e6:.1f}",
            *reads,
            f"{move.best * 1e3:.3g}",
            *(_pair(timings[name] / move) for name in tiers),
            *(_pair(timings[name] / own) if name in timings else "" for name in peers),
        ]
        if gains:
            row.append(f"{found.timings[1][FASTNORM].best / own.best:.2f}")
        bound = traffic_bound(found.problem, threads, run.caches)
        limit = f"{bound[1]:g} ({bound[0]})" if bound else ""
        rows.append([*row, limit, _judged(run, found, threads)])
    title = "Backward" if backward else "Arrays"
    return Sheet(f"{title}, {in_words(threads)}", [*columns, "limit", "bounds"], rows)


def _calls(run: Run, threads: int) -> Sheet:
    names = _names(run, threads, lambda problem: not is_array(problem))
    rows = []
    for found in run.measured:
        if is_array(found.problem) or threads not in found.timings:
            continue
        timings = found.timings[threads]
        judged = run.verdicts(found, threads)
        limit = next((f"{v.limit:g} ({v.bound})" for v in judged if v.bound == "call"), "")
        cells = (_pair(_micro(timings[n])) if n in timings else "" for n in names)
        rows.append([str(found.problem), *cells, limit, _judged(run, found, threads)])
    columns = ["problem", *names, "limit", "bounds"]
    return Sheet(f"Calls in µs, {in_words(threads)}", columns, rows)


def _bounds(run: Run) -> Sheet:
    """Return a row for each bound: how often it is met, and where it is farthest from that."""
    by_bound: dict[str, list[tuple[Problem | None, Verdict]]] = {}
    for problem, verdict in run.all_verdicts():
        by_bound.setdefault(verdict.bound, []).append((problem, verdict))
    for verdict in run.mean_verdicts:
        by_bound[verdict.bound] = [(None, verdict)]
    rows = []
    for bound, meaning in BOUNDS.items():
        for limit in sorted({v.limit for _, v in by_bound.get(bound, ())}):
            judged = [(p, v) for p, v in by_bound[bound] if v.limit == limit]
            extreme = min if bound in AT_LEAST else max
            where, worst = extreme(judged, key=lambda item: item[1].value)
            met = sum(verdict.met for _, verdict in judged)
            rows.append(
                [
                    bound,
                    meaning,
                    f"{'≥' if bound in AT_LEAST else '≤'} {limit:g}",
                    f"{met} of {len(judged)}",
                    f"{worst.value:.3g}",
                    "" if where is None else str(where),
                    "met" if met == len(judged) else NOT_MET,
                ]
            )
    columns = ["bound", "value", "limit", "met by", "worst", "of", "bounds"]
    return Sheet("Bounds", columns, rows)


def _left_out(run: Run) -> Sheet:
    """Return a row for each reason why a peer did not take part."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for found in run.measured:
        for peer, reason in found.left_out.items():
            reasons.setdefault((peer, reason), []).append(str(found.problem))
    rows = [
        [peer, reason, str(len(problems)), problems[0]]
        for (peer, reason), problems in sorted(reasons.items())
    ]
    return Sheet("Left out", ["peer", "reason", "problems", "first of them"], rows)


def _means(run: Run) -> Sheet:
    """Return the geometric means of the speed against each peer, by operation."""
    kinds: dict[str, Callable[[Problem], bool]] = {
        "all forward": lambda problem: not problem.backward,
        "arrays": lambda problem: not problem.backward and is_array(problem),
        "calls": lambda problem: not problem.backward and not is_array(problem),
        "all backward": lambda problem: problem.backward,
    }
    for operation in OPERATIONS:
        kinds[operation] = partial(_is_of, operation)
    best = {"best of " + ", ".join(n for n in RIVALS if n in run.peers): run.speeds()}
    speeds = {**(best if run.speeds() else {}), **{name: run.speeds(name) for name in run.peers}}
    rows = []
    for kind, belongs in kinds.items():
        chosen = {n: [s for p, s in found.items() if belongs(p)] for n, found in speeds.items()}
        if any(chosen.values()):
            rows.append([kind, *(_mean(values) for values in chosen.values())])
    title = f"Times faster than each peer, geometric mean (shapes), {in_words(run.most_threads)}"
    return Sheet(title, ["shapes", *speeds], rows)


def _is_of(operation: str, problem: Problem) -> bool:
    return problem.operation == operation


def _mean(values: Sequence[float]) -> str:
    return f"{mean_speed(values):.2f} ({len(values)})" if values else ""


def _judged(run: Run, found: Measured, threads: int) -> str:
    judged = run.verdicts(found, threads)
    missed = [str(verdict) for verdict in judged if not verdict.met]
    if missed:
        return f"{NOT_MET}: {', '.join(missed)}"
    return "met" if judged else ""


def _pair(timing: Timing) -> str:
    return f"{timing.best:.2f} ({timing.median:.2f})"


def _micro(timing: Timing) -> Timing:
    return Timing(timing.best * 1e6, timing.median * 1e6)
