"""Judge runs by the bounds: ``python -m bench.judge run.json ...`` writes RESULTS.md and a plot."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from bench.shapes import OUTPUTS, ROWS, Problem

MEMORY_BYTES = 8 * 10**6
"""Inputs of this size come from memory."""

MOST_LINES = 120
RIVALS = ("torch", "torch.compile", "onnxruntime", "jax", "openvino")
"""The peers that every forward is compared with; plain NumPy is no rival."""

BASELINE, PEERS = "time ÷ the baseline's", "time ÷ the best peer's, forward"
MEANS = {BASELINE: 0.85, PEERS: 1 / 2.5}
"""What the geometric means of these shares may be."""


class Verdict(NamedTuple):
    """A bound, its limit, and what was measured where."""

    bound: str
    limit: float
    value: float
    where: str = ""

    @property
    def excess(self) -> float:
        """The value in units of the limit, over 1 where the bound is missed."""
        return self.value / self.limit


@dataclass(frozen=True)
class Found:
    """What one problem took: seconds of each contender, and the bytes of the L2 cache."""

    problem: Problem
    seconds: Mapping[str, Mapping[str, float]]
    l2: int

    def __str__(self) -> str:
        """Write best times as multiples of a copy or pass; of calls, in µs."""
        unit = self.move() if self.problem.is_array else 1e-6
        names = (name for name in self.seconds if not name.startswith(("copy", "pass", "two")))
        times = (f"{name} {self.seconds[name]['best'] / unit:.2f}" for name in names)
        return f"{self.problem}: {'  '.join(times)}, in units of {unit * 1e6:.4g} µs"

    def move(self, which: str = "best") -> float:
        """Return the time of the better copy, or of a backward the pass that reads as often."""
        name = ("pass" if self.reads_once else "two passes") if self.problem.backward else "copy"
        names = (name, f"{name} streamed")
        return min((self.seconds[n][which] for n in names if n in self.seconds), default=math.nan)

    @property
    def ours(self) -> dict[str, str]:
        """The outputs of fastnorm and its names; that to compare with peers is first."""
        order = OUTPUTS if self.problem.is_array else ("new", "given", "aligned")
        names = {out: "fastnorm" if out == "given" else f"fastnorm {out}" for out in order}
        return {out: name for out, name in names.items() if name in self.seconds}

    @property
    def own(self) -> Mapping[str, float]:
        """The seconds of fastnorm that are compared with peers."""
        return self.seconds[next(iter(self.ours.values()))]

    def speed(self, *others: str) -> float:
        """Return the best other's time by fastnorm's; NaN if none was timed."""
        theirs = (self.seconds[name]["best"] for name in others if name in self.seconds)
        return min(theirs, default=math.nan) / self.own["best"]

    @property
    def run(self) -> int:
        """Elements of a row or a map; 0 where neighbours in memory belong to other statistics."""
        p = self.problem
        if p.operation in ROWS:
            return p.channels * p.channels_last
        return p.positions * (not p.channels_last)

    @property
    def kind(self) -> str:
        """The operation, and how its array lies in memory."""
        over_rows = self.problem.operation in ROWS
        names = ("over channels", "rows") if over_rows else ("channels last", "maps")
        return f"{self.problem.op}{' training' * self.problem.training}, {names[self.run > 0]}"

    @property
    def given(self) -> bool:
        """Whether the statistics are given, not measured."""
        return self.problem.operation == "batch_norm" and not self.problem.training

    @property
    def reads_once(self) -> bool:
        """Whether what is measured together, in whole cache lines, fits the L2 cache."""
        p, line = self.problem, 64
        size = p.nbytes // math.prod(p.shape)
        group = p.channels // p.num_groups if p.operation == "group_norm" else 1
        samples = p.shape[0] if p.operation == "batch_norm" else 1
        if self.run:
            together = self.run * size * group * samples
        elif p.operation in ROWS:
            together = p.channels * min(line, p.positions * size)
        else:
            width = min(p.channels * size, max(line, group * size))
            together = width * p.positions * samples
        return self.given or together * (1 + p.backward) <= self.l2

    def limit(self, output: str) -> tuple[str, float] | None:
        """Return the bound in copies, or passes of a backward, and its limit."""
        p, over_rows = self.problem, self.problem.operation in ROWS
        if not p.is_array or p.dtype == "float64" or (p.backward and p.dtype != "float32"):
            return None
        row, area = (self.run, 0) if over_rows else (0, self.run)
        memory = p.nbytes >= MEMORY_BYTES
        large = memory and (row >= 384 or (area >= 784 and not self.given))
        lines = output != "given" and row % 16 == 0
        columns = not over_rows and not area
        many = columns and memory and math.prod(p.shape) >= 4096 * p.channels
        across = over_rows and not row and p.channels >= 96
        backward = (
            (row >= 96, "backward, rows of 96 and more", 1.5),
            (area >= 784, "backward, maps of 28x28 and more", 1.35),
            (columns, "backward, channels last", 1.7),
        )
        half = ((memory and self.run > 0, "16 bits, rows and maps from memory", 1.75),)
        single = (
            (large and not self.reads_once, "rows and maps from memory, read twice", 1.65),
            (large and row > 0, "rows of 384 and more, from memory", 1.15),
            (large, "maps of 28x28 and more, from memory", 1.25),
            (96 <= row < 384 and lines, "rows of 96 to 383, whole lines", 1.2),
            (96 <= row < 384, "rows of 96 to 383, others", 1.7),
            (32 <= row < 96 and lines, "rows of 32 to 95, whole lines", 1.45),
            (32 <= row < 96, "rows of 32 to 95, others", 2.1),
            (p.training and area == 49, "batch norm training, maps of 7x7", 1.9),
            (p.training and area == 196, "batch norm training, maps of 14x14", 1.45),
            (many, "channels last, 4096 rows and more, from memory", 1.65),
            (across, "layer norm over 96 channels and more", 1.5),
        )
        bounds = backward if p.backward else single if p.dtype == "float32" else half
        return next(((bound, limit) for applies, bound, limit in bounds if applies), None)

    def verdicts(self) -> Iterator[Verdict]:
        """Judge the problem: moves and the baseline by every output, peers by the usual one."""
        p = self.problem
        for output, name in self.ours.items():
            where, best = f"{p}, {output} output", self.seconds[name]["best"]
            if limit := self.limit(output):
                yield Verdict(*limit, best / self.move(), where)
            if p.backward and p.is_array and 0 < self.run <= (15 if p.operation in ROWS else 16):
                nanoseconds = best / math.prod(p.shape) * self.run * 1e9
                yield Verdict("backward, rows to 15 and maps to 4x4: ns", 10, nanoseconds, where)
            theirs = name.replace("fastnorm", "baseline")
            if theirs in self.seconds:
                yield Verdict(BASELINE, 1.03, best / self.seconds[theirs]["best"], where)
        share = 1 / self.speed(*RIVALS)
        if not p.backward and not math.isnan(share):
            yield Verdict(PEERS, 1.0, share, str(p))
            if p.op == "layer_norm" and p.shape in ((1, 384), (1, 768)):
                yield Verdict("one row of 384, 768: time ÷ the best peer's", 0.25, share, str(p))
            if p.shape in ((256, 512, 2, 2), (256, 512, 3, 3)) and "torch" in self.seconds:
                share = 1 / self.speed("torch")
                yield Verdict("maps of 2x2, 3x3: time ÷ torch's", 1.0, share, str(p))


def judge(found: Sequence[Found]) -> list[Verdict]:
    """Return the verdicts on a run: of each problem, and on geometric means."""
    verdicts = [verdict for one in found for verdict in one.verdicts()]
    for bound, limit in MEANS.items():
        if shares := [verdict.value for verdict in verdicts if verdict.bound == bound]:
            verdicts.append(Verdict(f"{bound}, mean", limit, geometric_mean(shares)))
    return verdicts


def read(run: Mapping[str, Any]) -> list[Found]:
    """Return what a run's JSON says of each problem."""
    return [Found(Problem(**m["problem"]), m["seconds"], run["l2"]) for m in run["measured"]]


def report(runs: Sequence[Mapping[str, Any]], plot: str) -> str:
    """Write the summary of runs, in Markdown; what is missed by most fills what lines are left."""
    lines = ["# Results", "", "By `python -m bench.judge`, see [README.md](README.md).", ""]
    lines += [f"![Times of fastnorm and of the best peer, in copies]({plot})", ""]
    missed: list[Verdict] = []
    for run in runs:
        found = read(run)
        verdicts = judge(found)
        missed += [v for v in verdicts if v.where and not v.excess <= 1]
        note = " **A trial run on small arrays: its times mean nothing.**" * run["quick"]
        machine = "; ".join(f"{name} {text}" for name, text in run["machine"].items())
        lines += [f"## `{run['command']}`", "", f"{run['threads']} threads; {machine}.{note}", ""]
        bounds = dict.fromkeys(verdict.bound for verdict in verdicts)
        rows = [_row([v for v in verdicts if v.bound == bound]) for bound in bounds]
        lines += _table(["bound", "limit", "met by", "mean", "worst", "of"], rows)
        lines += _kinds(found) + _ablation(found)
    worst: dict[tuple[str, str], Verdict] = {}
    for v in sorted(missed, key=lambda verdict: -verdict.excess):
        # One of several outputs.
        worst.setdefault((v.where.partition(",")[0], v.bound), v)
    rows = [[v.where, v.bound, f"{v.value:.3g}", f"{v.limit:g}"] for v in worst.values()]
    lines += ["## Missed by most", "", *_table(["problem", "bound", "value", "limit"], rows)]
    return "\n".join(lines[:MOST_LINES]).rstrip() + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["--"] * len(head), *rows)] + [""]


def _row(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what the table of bounds says of one bound."""
    worst = max(verdicts, key=lambda verdict: verdict.excess)
    met = sum(verdict.excess <= 1 for verdict in verdicts)
    mean = _mean(verdict.value for verdict in verdicts)
    cells = f"{worst.limit:g}", f"{met} of {len(verdicts)}", mean, f"{worst.value:.3g}"
    return [worst.bound, *cells, worst.where]


def _mean(values: Iterable[float]) -> str:
    """Return the geometric mean of those that are numbers."""
    numbers = [value for value in values if not math.isnan(value)]
    return f"{geometric_mean(numbers):.3g}" if numbers else ""


def _kinds(found: Sequence[Found]) -> list[str]:
    """Return a table of geometric means by kind: copies, others' times by fastnorm's."""
    timed = {name for one in found for name in one.seconds}
    others = [name for name in (*RIVALS, "numpy", "baseline") if name in timed]
    rows = []
    for kind in dict.fromkeys(one.kind for one in found):
        of = [one for one in found if one.kind == kind]
        cells = [
            _mean(one.own[which] / one.move(which) for one in of) for which in ("best", "median")
        ]
        cells += [_mean(one.speed(*names) for one in of) for names in (RIVALS, *zip(others))]
        rows.append([kind, str(len(of)), *cells])
    head = ["kind", "problems", "copies", "of medians", "best peer ÷"]
    return _table([*head, *(f"{name} ÷" for name in others)], rows)


def _ablation(found: Sequence[Found]) -> list[str]:
    """Return a table of times without each feature of the schedule by those with all."""
    names = [name for name in found[0].seconds if name.startswith("without ")] if found else []
    rows = [["geometric mean", *(_mean(one.speed(name) for one in found) for name in names)]]
    rows += [[str(one.problem), *(f"{one.speed(name):.3g}" for name in names)] for one in found]
    return _table(["problem", *names], rows) if names else []


def draw(found: Sequence[Found], path: Path) -> None:
    """Plot for each kind the copies that fastnorm and the best peer take, and the limits."""
    # Here, so that all else runs without matplotlib.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    arrays = [one for one in found if one.problem.is_array]
    kinds = list(dict.fromkeys(one.kind for one in arrays))
    rows = [kinds.index(one.kind) for one in arrays]
    copies = [one.own["best"] / one.move() for one in arrays]
    theirs = [share * one.speed(*RIVALS) for share, one in zip(copies, arrays, strict=True)]
    limits = [(one.limit(next(iter(one.ours))) or ("", math.nan))[1] for one in arrays]
    figure = Figure(figsize=(8, 1.2 + 0.25 * len(kinds)))
    axes = figure.subplots()
    axes.scatter(theirs, rows, s=12, color="silver", label="best peer")
    axes.scatter(copies, rows, s=12, color="black", label="fastnorm")
    axes.scatter(limits, rows, s=40, color="red", marker="|", label="limit")
    axes.set(xlabel="best time in copies; of a backward, in passes that read as often")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=7)
    axes.invert_yaxis()
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=7)
    # The same file from the same run, so that changes of it are changes of times.
    with mpl.rc_context({"svg.hashsalt": "fastnorm", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Write the summary and the plot, and print the summary."""
    parser = argparse.ArgumentParser(prog="python -m bench.judge", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="what --json wrote")
    parser.add_argument("--report", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args(argv)
    runs = [json.loads(path.read_text("utf-8")) for path in options.runs]
    plot = options.report.with_name("results.svg")
    draw(read(runs[0]), plot)
    text = report(runs, plot.name)
    options.report.write_text(text, "utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
