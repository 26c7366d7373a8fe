"""The benchmark's bounds, and the tables and files that tell whether they are met."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")


from bench import report, tables
from bench.bounds import Verdict, measured_together, traffic_bound, verdicts
from bench.clock import Timing
from bench.machine import Caches
from bench.problems import parse
from bench.results import Measured, Run

CACHES = Caches(l1=2**15, l2=2**21, l3=2**26)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("layer_norm a 4096x768", 768 * 4),
        ("layer_norm a 4096x768 bf16", 768 * 2),
        ("layer_norm a 2x96x56x56:nchw", 96 * 64),
        ("layer_norm a 2x96x1x3:nchw", 96 * 3 * 4),
        ("batch_norm a 32x64x56x56", 0),
        ("batch_norm a 32x64x56x56 training", 32 * 56 * 56 * 4),
        ("batch_norm a 32x56x56x64:nhwc training", 32 * 56 * 56 * 64),
        ("batch_norm a 32x64x56x56 training memory=nhwc", 32 * 56 * 56 * 64),
        ("batch_norm a 32x56x56x3:nhwc training", 32 * 56 * 56 * 3 * 4),
        ("batch_norm a 4096x512 training", 4096 * 64),
        ("instance_norm a 16x256x64x64", 64 * 64 * 4),
        ("group_norm a 2x320x64x64 groups=32", 10 * 64 * 64 * 4),
        ("group_norm a 2x64x64x320:nhwc groups=32", 64 * 64 * 64),
        ("group_norm a 2x64x64x1280:nhwc groups=32", 64 * 64 * 160),
        ("layer_norm_backward a 4096x768", 2 * 768 * 4),
        ("layer_norm_backward a 2x96x56x56:nchw", 2 * 96 * 64),
        ("layer_norm_backward a 2x96x1x3:nchw", 2 * 96 * 3 * 4),
        ("batch_norm_backward a 32x64x56x56", 0),
        ("batch_norm_backward a 32x64x56x56 training bf16", 2 * 32 * 56 * 56 * 2),
        ("batch_norm_backward a 32x56x56x64:nhwc training", 2 * 32 * 56 * 56 * 64),
        ("group_norm_backward a 2x64x64x320:nhwc groups=32", 2 * 64 * 64 * 64),
    ],
)
def test_what_is_measured_together(text: str, size: int) -> None:
    assert measured_together(parse(text)) == size


@pytest.mark.parametrize(
    ("text", "threads", "bound"),
    [
        ("layer_norm a 4096x768", 2, ("copy", 1.15)),
        ("layer_norm a 325x768", 2, None),
        ("layer_norm a 4096x768 f64", 2, None),
        ("layer_norm a 4096x768 f16", 2, ("half", 1.3)),
        ("batch_norm a 32x64x56x56", 2, ("copy", 1.15)),
        ("batch_norm a 32x64x56x56 training", 2, ("training", 1.25)),
        ("batch_norm a 128x64x112x112 training", 2, ("two reads", 1.65)),
        ("instance_norm a 1x1x1024x1024 bf16", 2, ("half", 1.3)),
        ("instance_norm a 1x1x2048x2048 bf16", 2, ("two reads", 1.65)),
        ("layer_norm a 4096x768", 1, ("one thread", 1.3)),
        ("batch_norm a 32x64x56x56 training bf16", 1, ("one thread", 1.3)),
        ("batch_norm a 128x64x112x112 training", 1, ("one thread, two reads", 1.65)),
        ("layer_norm_backward a 4096x768", 2, ("backward", 1.4)),
        ("layer_norm_backward a 4096x768", 1, None),
        ("layer_norm_backward a 4096x768 bf16", 2, None),
        ("layer_norm_backward a 325x768", 2, None),
        ("batch_norm_backward a 32x64x56x56 training", 2, ("backward", 1.4)),
        ("batch_norm_backward a 32x64x112x112 training", 2, ("backward, four reads", 1.4)),
        ("batch_norm_backward a 32x64x112x112", 2, ("backward", 1.4)),
    ],
)
def test_bound_in_copies_or_passes(
    text: str, threads: int, bound: tuple[str, float] | None
) -> None:
    assert traffic_bound(parse(text), threads, CACHES) == bound


def same(seconds: float) -> Timing:
    return Timing(seconds, 10 * seconds, 1)


def judged(text: str, **seconds: float) -> dict[str, Verdict]:
    """Judge two-thread times; names have underscores for what names of contenders have."""
    names = {
        "new": "fastnorm, new output",
        "streaming": "streaming copy",
        "compiled": "torch.compile",
        "stream_pass": "streaming pass",
        "two": "two passes",
        "stream_two": "streaming two passes",
    }
    timings = {2: {names.get(name, name): same(value) for name, value in seconds.items()}}
    return {v.bound: v for v in verdicts(parse(text), timings, 2, CACHES)}


def test_copy_bound_is_by_the_better_copy_and_the_best_times() -> None:
    found = judged("layer_norm a 4096x768", copy=2.0, streaming=1.0, fastnorm=1.15)
    assert found == {"copy": Verdict("copy", 1.15, 1.15)}
    assert found["copy"].met
    assert str(found["copy"]) == "copy 1.15 ≤ 1.15"
    found = judged("layer_norm a 4096x768", copy=1.0, streaming=2.0, fastnorm=1.2)
    assert not found["copy"].met
    assert str(found["copy"]) == "copy 1.2 > 1.15"


def test_backward_is_judged_by_passes_and_torch() -> None:
    times = {"pass": 1.0, "stream_pass": 2.0, "two": 4.0, "stream_two": 3.0, "fastnorm": 1.5}
    found = judged("layer_norm_backward a 4096x768", **times, torch=1.6, jax=0.1)
    assert set(found) == {"backward", "backward, torch"}
    assert found["backward"] == Verdict("backward", 1.5, 1.4)
    assert not found["backward"].met
    assert found["backward, torch"].value == pytest.approx(1.5 / 1.6)
    assert found["backward, torch"].met
    found = judged("batch_norm_backward a 32x64x112x112 training", **times, jax=0.1)
    assert found == {"backward, four reads": Verdict("backward, four reads", 0.5, 1.4)}
    found = judged("layer_norm_backward a 1x384", fastnorm=0.1, new=0.3, torch=0.2)
    assert found == {"backward, torch": Verdict("backward, torch", pytest.approx(1.5), 1.0)}


def test_rivals_bound_is_by_the_best_peer_but_numpy() -> None:
    times = {"copy": 1.0, "streaming": 1.0, "fastnorm": 1.0, "numpy": 0.5}
    assert "rivals" not in judged("layer_norm a 4096x768", **times)
    found = judged("layer_norm a 4096x768", **times, torch=2.0, compiled=4.0)
    assert found["rivals"] == Verdict("rivals", 0.5, 1.0)
    assert not judged("layer_norm a 4096x768", **times, torch=2.0, jax=0.9)["rivals"].met


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("layer_norm a 1x384", 0.25),
        ("rms_norm a 1x2048", 0.25),
        ("group_norm a 1x32x8x8 groups=8", 0.25),
        ("instance_norm a 1x8x16x16", 0.25),
        ("batch_norm a 1x16x8x8", 0.25),
        ("layer_norm a 16x768", 0.4),
        ("layer_norm a 16x768 f16", None),
        ("batch_norm a 1x16x8x8 training", None),
        ("layer_norm a 2x768", None),
    ],
)
def test_call_bound_is_without_out(text: str, limit: float | None) -> None:
    found = judged(text, fastnorm=0.1, new=0.3, torch=1.0)
    assert found["rivals"].value == pytest.approx(0.3)
    assert "copy" not in found
    assert ("call" in found) == (limit is not None)
    if limit is not None:
        assert found["call"].limit == limit
        assert found["call"].met == (limit == 0.4)


def test_second_thread_is_judged_inside_the_shared_cache() -> None:
    timings = {
        1: {"copy": same(2.0), "streaming copy": same(2.0), "fastnorm": same(1.9)},
        2: {"copy": same(1.0), "streaming copy": same(1.0), "fastnorm": same(1.0)},
    }
    found = list(verdicts(parse("layer_norm a 4096x768"), timings, 2, CACHES))
    assert found[1:] == [Verdict("two threads", 1.9, 1.8)]
    assert found[1].met
    assert str(replace(found[1], value=1.7)) == "two threads 1.7 < 1.8"
    large = parse("layer_norm a 16384x768")
    assert [v.bound for v in verdicts(large, timings, 2, CACHES)] == ["copy"]
    alone = list(verdicts(large, timings, 1, CACHES))
    assert alone == [Verdict("one thread", 0.95, 1.3)]


def test_nothing_meets_a_bound_with_nan() -> None:
    assert not Verdict("copy", np.nan, 1.15).met
    assert not Verdict("mean", np.nan, 3.0).met


def example_run() -> Run:
    """Return a run with arrays and calls, peers that can and cannot, bounds met and not met."""
    array = {"copy": same(1e-3), "streaming copy": same(2e-3), "fastnorm": same(1.1e-3)}
    call = {"fastnorm": same(1e-6), "fastnorm, new output": same(2e-6)}
    names = "pass", "streaming pass", "two passes", "streaming two passes"
    passes = {
        name: same(seconds) for name, seconds in zip(names, (4e-3, 2e-3, 5e-3, 6e-3), strict=True)
    }
    measured = [
        Measured(parse("layer_norm a 4096x768"), {2: array | {"torch": same(1e-2)}}, {}),
        Measured(
            parse("layer_norm b 4096x512"), {2: array | {"fastnorm": same(2e-3)}}, {"torch": "no"}
        ),
        Measured(parse("layer_norm c 1x768"), {2: call | {"torch": same(4e-6)}}, {}),
        Measured(
            parse("layer_norm_backward a 4096x768"),
            {2: passes | {"fastnorm": same(3e-3), "torch": same(9e-3)}},
            {},
        ),
        Measured(
            parse("batch_norm_backward b 32x64x112x112 training"),
            {2: passes | {"fastnorm": same(3e-3), "torch": same(3.6e-3)}},
            {},
        ),
    ]
    skipped = {"jax": "skipped, jax is not installed"}
    machine = {"processor": "A|B"}
    return Run("python -m bench", False, machine, CACHES, {"torch": "a note"}, skipped, measured)


def test_speeds_are_those_of_who_took_part() -> None:
    run = example_run()
    assert [round(speed, 3) for speed in run.speeds("torch").values()] == [9.091, 2.0, 3.0, 1.2]
    forward, backward = run.mean_verdicts
    assert forward == Verdict("mean", pytest.approx(np.sqrt(9.0909 * 2), rel=1e-4), 3.0)
    assert forward.met
    assert backward == Verdict("backward, mean", pytest.approx(np.sqrt(3 * 1.2)), 2.0)
    assert not backward.met


def test_tables_say_what_is_met() -> None:
    found = {sheet.title: sheet for sheet in tables.sheets(example_run())}
    arrays = found["Arrays, 2 threads"]
    assert arrays.columns == ["problem", "MB", "copy", "fastnorm", "torch", "limit", "bounds"]
    assert arrays.rows[0][-3:] == ["9.09 (9.09)", "1.15 (copy)", "met"]
    assert arrays.rows[1][-3:] == ["", "1.15 (copy)", "not met: copy 2 > 1.15"]
    assert found["Calls in µs, 2 threads"].rows[0][-2:] == [
        "0.25 (call)",
        "not met: call 0.5 > 0.25",
    ]
    assert len(arrays.rows) == 2
    backward = found["Backward, 2 threads"]
    assert list(backward.columns[2:4]) == ["reads", "pass"]
    assert backward.rows[0][2:5] == ["2", "2", "1.50 (1.50)"]
    assert backward.rows[0][-2:] == ["1.4 (backward)", "not met: backward 1.5 > 1.4"]
    assert backward.rows[1][2:5] == ["4", "5", "0.60 (0.60)"]
    assert backward.rows[1][-2:] == ["1.4 (backward, four reads)", "met"]
    means = found["Times faster than each peer, geometric mean (shapes), 2 threads"]
    by_kind = {row[0]: row[-1] for row in means.rows}
    assert by_kind["all forward"] == "4.26 (2)"
    assert by_kind["all backward"] == "1.90 (2)"
    assert by_kind["layer_norm"] == "4.26 (2)"
    assert by_kind["layer_norm_backward"] == "3.00 (1)"
    bounds = {row[0]: row for row in found["Bounds"].rows}
    assert bounds["copy"][2:] == ["≤ 1.15", "1 of 2", "2", "layer_norm b 4096x512", "not met"]
    assert bounds["rivals"][3:] == ["2 of 2", "0.5", "layer_norm c 1x768", "met"]
    assert bounds["mean"][2:] == ["≥ 3", "1 of 1", "4.26", "", "met"]
    assert bounds["backward, torch"][3:5] == ["2 of 2", "0.833"]
    assert bounds["backward, mean"][2:] == ["≥ 2", "0 of 1", "1.9", "", "not met"]


def test_run_survives_json() -> None:
    run = example_run()
    assert Run.from_json(run.as_json()) == run
    document = json.loads(run.as_json())
    assert [b["met"] for b in document["measured"][1]["bounds"]["2"]] == [False]
    with pytest.raises(ValueError, match="not a run"):
        Run.from_json("[]")


def test_report_has_notes_and_plots() -> None:
    text = report.markdown(example_run(), {"A plot": "plots/a.svg"}, "Why it is *so*.\n")
    assert "- **processor**: A\\|B\n" in text
    assert "- **jax**: skipped, jax is not installed\n" in text
    assert text.index("## Bounds") < text.index("Why it is *so*.") < text.index("## Arrays")
    assert "![A plot](plots/a.svg)" in text
