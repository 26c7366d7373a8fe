"""What the benchmark's judge makes of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")
pytest.importorskip("matplotlib", reason="the judge draws with it")

from bench.judge import Found, judge, main, read
from bench.shapes import Problem, select

L2 = 2**21


def found(op: str, shape: tuple[int, ...], fields: Any = None, **seconds: float) -> Found:
    times = {n.replace("_", " "): {"best": s, "median": 10 * s} for n, s in seconds.items()}
    return Found(Problem(op, "a", shape, **(fields or {})), times, L2)


TRAINING = {"training": True}
NHWC = {"layout": "nhwc"}


@pytest.mark.parametrize(
    ("op", "shape", "fields", "limit"),
    [
        ("layer_norm", (8192, 384), {}, 1.15),
        ("layer_norm", (1366, 768), {}, None),
        ("layer_norm", (1, 4194304), {}, 1.65),
        ("layer_norm", (8192, 768), {"dtype": "bfloat16"}, 1.75),
        ("layer_norm", (65536, 192), {}, (1.7, 1.2)),
        ("layer_norm", (40960, 100), {}, (1.7, 1.7)),
        ("rms_norm", (28672, 64), {}, (2.1, 1.45)),
        ("layer_norm", (32, 96, 56, 56), {"layout": "nchw"}, 1.5),
        ("layer_norm", (32, 96, 56, 56), {"layout": "nchw", "memory": "nhwc"}, (1.7, 1.2)),
        ("instance_norm", (16, 256, 64, 64), {}, 1.25),
        ("group_norm", (1, 64, 256, 256), {"num_groups": 1}, 1.65),
        ("batch_norm", (32, 64, 56, 56), TRAINING, 1.25),
        ("batch_norm", (64, 64, 112, 112), TRAINING, 1.65),
        ("batch_norm", (32, 64, 56, 56), {}, None),
        ("batch_norm", (32, 512, 7, 7), TRAINING, 1.9),
        ("batch_norm", (32, 256, 14, 14), TRAINING, 1.45),
        ("batch_norm", (32, 56, 56, 64), NHWC | TRAINING, 1.65),
        ("batch_norm", (1024, 4096), TRAINING, None),
        ("layer_norm_backward", (25088, 128), {}, 1.5),
        ("batch_norm_backward", (32, 256, 56, 56), TRAINING, 1.35),
        ("instance_norm_backward", (2, 128, 128, 64), NHWC, 1.7),
    ],
)
def test_limits_are_those_of_the_array(op: str, shape: Any, fields: Any, limit: Any) -> None:
    one = found(op, shape, fields)
    limits = tuple((one.limit(output) or ("", None))[1] for output in ("given", "aligned"))
    assert limits == (limit if isinstance(limit, tuple) else (limit, limit))


def test_moves_are_the_better_ones_that_read_as_often() -> None:
    copied = found("layer_norm", (8192, 768), None, copy=2.0, copy_streamed=1.0)
    assert (copied.move(), copied.move("median")) == (1.0, 10.0)
    passes = {"pass": 1.0, "pass_streamed": 2.0, "two_passes": 4.0, "two_passes_streamed": 3.0}
    assert found("batch_norm_backward", (32, 64, 56, 56), TRAINING, **passes).move() == 1.0
    assert found("batch_norm_backward", (32, 64, 112, 112), TRAINING, **passes).move() == 3.0


def values(*founds: Found) -> dict[str, tuple[float, float]]:
    return {v.bound: (round(v.value, 6), v.limit) for v in judge(founds)}


def test_verdicts_are_shares_of_the_best_times() -> None:
    array = {"copy": 1.0, "fastnorm": 1.2, "fastnorm_aligned": 1.1, "numpy": 0.1}
    peers = {"torch": 3.0, "jax": 2.4, "baseline": 1.0, "baseline_aligned": 1.0}
    assert values(found("layer_norm", (65536, 192), None, **array, **peers)) == {
        "rows of 96 to 383, others": (1.2, 1.7),
        "rows of 96 to 383, whole lines": (1.1, 1.2),
        "time ÷ the baseline's": (1.1, 1.03),
        "time ÷ the best peer's, forward": (0.5, 1.0),
        "time ÷ the baseline's, mean": (round((1.2 * 1.1) ** 0.5, 6), 0.85),
        "time ÷ the best peer's, forward, mean": (0.5, 0.4),
    }
    call = found("layer_norm", (1, 384), None, fastnorm=1.0, fastnorm_new=2.0, torch=10.0)
    assert values(call)["one row of 384, 768: time ÷ the best peer's"] == (0.2, 0.25)
    small = found("batch_norm", (256, 512, 2, 2), TRAINING, fastnorm=3.0, torch=2.0, copy=1.0)
    assert values(small)["maps of 2x2, 3x3: time ÷ torch's"] == (1.5, 1.0)
    short = found("layer_norm_backward", (524288, 8), None, fastnorm=0.005, **{"pass": 1.0})
    assert values(short) == {"backward, rows to 15 and maps to 4x4: ns": (9.536743, 10)}


def test_summary_is_short_and_has_what_matters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moves = ("copy", "pass", "two passes")
    names = (*moves, "fastnorm", "fastnorm new", "torch", "baseline", "baseline new", "without x")
    seconds = {name: {"best": 1.0 + 0.5 * (name == "torch"), "median": 2.0} for name in names}
    measured = [{"problem": vars(problem), "seconds": seconds} for problem in select()]
    run = {"command": "python -m bench", "quick": False, "threads": 2, "l2": L2}
    run |= {"machine": {"fastnorm": "0.1.0"}, "measured": measured}
    (tmp_path / "run.json").write_text(json.dumps(run), "utf-8")
    report = tmp_path / "RESULTS.md"
    assert main([str(tmp_path / "run.json"), "--report", str(report)]) == 0
    text = report.read_text("utf-8")
    assert capsys.readouterr().out == text
    assert text.count("\n") <= 120
    forward = sum(not one.problem.backward for one in read(run))
    assert f"time ÷ the best peer's, forward | 1 | {forward} of {forward} | 0.667" in text
    assert "| geometric mean | 1 |" in text
    assert "layer_norm, rows" in (tmp_path / "results.svg").read_text("utf-8")
    assert (tmp_path / "results.svg").stat().st_size < 100_000
