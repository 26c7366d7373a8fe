"""The benchmark: its problems, its clock, and that all who are timed do the same work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")

from helpers import run_python, run_without

import fastnorm
from bench import clock
from bench.__main__ import main
from bench.clock import Contender, interleave
from bench.measure import Session, load_baseline
from bench.peers import PEERS, Bound
from bench.shapes import OPERATIONS, ROWS, Problem, lists, select
from bench.work import Work
from fastnorm import _core

FORWARD = Problem("layer_norm", "a", (7, 96))
BACKWARD = Problem("layer_norm_backward", "a", (70, 96))


def test_lists_have_every_operation_and_no_two_of_one_text() -> None:
    assert {problem.op for problem in select()} == set(OPERATIONS)
    assert len(set(map(str, select()))) == len(select())
    assert len(lists()["representative"]) == 10


def test_problem_knows_its_text_and_its_memory() -> None:
    view = Problem("group_norm", "sd", (2, 6, 4, 5), memory="nhwc", num_groups=3, dtype="bfloat16")
    assert str(view) == "group_norm sd 2x6x4x5 groups=3 memory=nhwc bf16"
    assert view.memory_shape == (2, 4, 5, 6)
    assert (view.axes, view.channel_axis, view.normalised_axes) == ((0, 3, 1, 2), 3, (1, 2))
    assert (view.nbytes, view.positions, view.shrunk(100).shape) == (480, 20, (2, 6, 4, 2))
    last = Problem("batch_norm", "a", (2, 4, 5, 6), "nhwc", training=True, affine=False)
    assert str(last) == "batch_norm a 2x4x5x6:nhwc training plain"
    with pytest.raises(ValueError, match="op: got 'layernorm'; takes one of layer_norm"):
        Problem("layernorm", "a", (2, 3))


def test_problems_are_selected_by_list_or_part_of_text() -> None:
    assert select(["vit"]) == list(lists()["vit"])
    assert [str(p) for p in select(["minilm 1x3"])] == ["layer_norm minilm 1x384"]
    back = [problem for problem in lists()["llama-7b"] if problem.backward]
    assert select(["llama-7b", "llama-7b 2048"], ["rms_norm_backward"]) == back


def test_contenders_take_turns_and_begin_in_turn() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(lambda: order.append(name), lambda: order.append(name.upper()))

    # Each round: prepare, an untimed call, timed ones.
    found = interleave({"a": contender("a"), "b": contender("b")}, 1e-9, block=1e-9)
    blocks = re.findall("[AB][ab]+", "".join(order))
    assert [block[0] for block in blocks] == ["A", "B", "B", "A", "A", "B"]
    assert all(set(block[1:]) == {block[0].lower()} for block in blocks)
    assert found["a"]["samples"] == 3


def test_slow_contender_sits_out_and_short_calls_are_timed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def takes(seconds: float) -> Contender:
        return Contender(lambda: now.append(now.pop() + seconds))

    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock, "settle", lambda: True)
    found = interleave({"fast": takes(1e-3), "slow": takes(0.1)}, 0.2, block=0.01)
    assert found["slow"]["samples"] == 3
    assert found["fast"]["samples"] > 100
    assert found["fast"]["best"] == pytest.approx(0.001)
    found = interleave({"short": takes(1e-6)}, 0.01, block=0.001)
    assert found["short"]["best"] == pytest.approx(1e-6)
    assert found["short"]["samples"] < 200


def test_settling_waits_for_busy_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock.settle()
    ticks = iter(range(10**6))
    monkeypatch.setattr(clock, "process_time", lambda: float(next(ticks)))
    monkeypatch.setattr(clock, "LONGEST_PAUSE", 0.01)
    assert not clock.settle()


def measure(problem: Problem, **settings: Any) -> dict[str, Any]:
    return Session(**{"peers": {}, "seconds": 0.0} | settings).measure(problem)


@pytest.mark.parametrize("output", ["given", "new", "aligned"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_outputs_hold_the_same_and_lie_where_they_should(op: str, output: str) -> None:
    shape = (21, 96) if op.startswith(ROWS) else (3, 8, 6, 6)
    work = Work.of(Problem(op, "a", shape))
    expected = [array.copy() for array in work.outputs(work.call("given")())]
    found = work.outputs(work.call(output)())
    for theirs, ours in zip(found, expected, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert output == "new" or found[0].ctypes.data % 64 == {"given": 16, "aligned": 0}[output]
    assert np.shares_memory(found[0], work.out) == (output == "given")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_moves_read_and_write_all(threads: int, stream: bool) -> None:
    fastnorm.set_num_threads(threads)
    for size in (0, 1, 63, 1000, 8193, 10_007):
        memory = np.random.default_rng(5).integers(0, 256, (3, size + 3), dtype=np.uint8)
        grad, x, out = memory[0, :-3], memory[1, 1:-2], memory[2, 3:]
        for twice in (False, True):
            out[...] = 0
            _core.parallel_pass(grad, x, out, stream=stream, twice=twice)
            np.testing.assert_array_equal(out, grad ^ x)
        _core.parallel_copy(x, out, stream=stream)
        np.testing.assert_array_equal(out, x)


def test_other_build_is_another_contender(tmp_path: Path) -> None:
    folder = tmp_path / "fastnorm"
    shutil.copytree(Path(fastnorm.__file__).parent, folder)
    shutil.copy(_core.__file__, folder)
    baseline = load_baseline(str(tmp_path))
    assert baseline._core is not _core
    found = measure(FORWARD, baseline=baseline, outputs=["given", "aligned"])
    assert found["left_out"] == {}
    names = {f"{who}{output}" for who in ("fastnorm", "baseline") for output in ("", " new")}
    assert set(found["seconds"]) == names | {"fastnorm aligned", "baseline aligned"}


def test_ablation_times_without_each_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[int] = []
    monkeypatch.setattr(_core, "use_features", masks.append, raising=False)
    found = measure(FORWARD, features={"one": 1, "two": 4})
    assert list(found["seconds"])[2:] == ["without one", "without two", "without all"]
    assert masks == [-1, -1, ~1, ~4, 0]


CHOSEN = ["digits", "small 1x", "style 4x64", "1x896", "rms_norm_b", "64x64x320:nhwc", "7x7:nchw"]


@pytest.mark.parametrize("name", PEERS)
def test_peer_does_the_same_work_if_installed(name: str, tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    # In a process of its own: some peers warn, and all keep threads.
    arguments = ["--quick", "--peers", name, "--json", str(written), "--shapes", *CHOSEN]
    shown = run_python("-m", "bench", *arguments)
    assert shown.returncode == 0, shown.stderr
    run = json.loads(written.read_text("utf-8"))
    if run["skipped"]:
        pytest.skip(run["skipped"][name])
    reasons = [reason for found in run["measured"] for reason in found["left_out"].values()]
    assert set(reasons) <= {"inference only", "forward only"}
    timed = {found["problem"]["op"] for found in run["measured"] if name in found["seconds"]}
    expected = {problem.op for problem in select(CHOSEN) if not (reasons and problem.backward)}
    assert timed == expected


def fake(result: Callable[[Work], object]) -> dict[str, Any]:
    def bind(work: Work) -> Bound:
        return Bound(lambda: result(work), lambda found: tuple(map(np.asarray, found)))

    return {"fake": SimpleNamespace(bind=bind)}


@pytest.mark.parametrize(
    ("which", "change", "reason"),
    [
        (0, lambda array: array, None),
        (0, lambda array: array + np.float32(0.01), "its result differs by 0.0"),
        (0, lambda array: array.astype(np.float64), "its result is (70, 96) float64"),
        (0, lambda array: array[1:], "its result is (69, 96) float32"),
        (0, lambda array: 1 / 0, "ZeroDivisionError: division by zero"),
        (1, lambda array: array.astype(np.float64), None),
        (1, lambda array: array + np.float32(0.3), "its gradient of the weight differs by 0.0"),
        (2, lambda array: array * np.nan, "its gradient of the bias differs by nan"),
        (2, None, "it has 2 results instead of 3"),
    ],
)
def test_only_those_who_do_the_work_are_timed(
    which: int, change: Callable[[np.ndarray], Any] | None, reason: str | None
) -> None:
    def result(work: Work) -> object:
        found = [np.array(array) for array in work.outputs(work.call("new")())]
        found[which : which + 1] = [] if change is None else [change(found[which])]
        return found

    found = measure(BACKWARD, peers=fake(result))
    assert ("fake" in found["seconds"]) == (reason is None)
    assert found["left_out"].get("fake", "").startswith(reason or "")
    # Who leaves the output of another as it is has done nothing.
    idle = measure(FORWARD, peers=fake(lambda work: (work.out,)))
    assert idle["left_out"]["fake"] == "its result differs by nan"


def test_run_prints_a_line_for_each_problem_and_names_no_folder(tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    arguments = ["--quick", "--json", str(written), "--shapes", "minilm", "bert-base 4096x768"]
    found = run_without("torch", "bench", *arguments, "--peers", "numpy", "torch")
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == "torch: skipped, torch is not installed"
    problems = select(["minilm", "bert-base 4096x768"])
    assert [line.partition(":")[0] for line in lines[1:-1]] == list(map(str, problems))
    run = json.loads(written.read_text("utf-8"))
    assert run["command"].startswith("python -m bench --quick --json run.json --shapes minilm")
    assert str(tmp_path) not in written.read_text("utf-8")
    assert run["machine"]["numpy"] == np.__version__


def test_bad_arguments_are_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_core, "features", raising=False)
    for arguments, reason in {
        "--shapes brt": "'brt' is no list",
        "--shapes vit --ops group_norm": "none of these shapes is one of group_norm",
        "--ops layernorm": "invalid choice: 'layernorm'",
        "--peers tensorflow": "invalid choice: 'tensorflow'",
        "--threads 0": "threads: got 0; takes 1 to",
        "--baseline nowhere": "baseline: got nowhere; takes a folder",
        "--ablate": "no features to switch off",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            main(["--quick", *arguments.split()])
        assert reason in capsys.readouterr().err
