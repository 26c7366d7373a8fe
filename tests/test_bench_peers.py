"""The benchmark's clock, and that all who are timed do the same work."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")

from helpers import run_python

import fastnorm
from bench import clock
from bench.clock import Contender, interleave
from bench.measure import Session
from bench.peers import PEERS, Bound, Peer, UnsupportedError, load
from bench.problems import BACKWARD, OPERATIONS, parse
from bench.results import Measured, Run
from bench.work import Work
from fastnorm import _core


def test_contenders_take_turns_and_begin_in_turn() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        return Contender(lambda: order.append(name), lambda: order.append(name.upper()))

    # Each round: prepare, an untimed call, timed ones.
    found = interleave({"a": contender("a"), "b": contender("b")}, 1e-9, block=1e-9)
    blocks = re.findall("[AB][ab]+", "".join(order))
    assert [block[0] for block in blocks] == ["A", "B", "B", "A", "A", "B"]
    assert all(set(block[1:]) == {block[0].lower()} for block in blocks)
    assert {name: timing.samples for name, timing in found.items()} == {"a": 3, "b": 3}


def test_trial_takes_one_call() -> None:
    calls: list[int] = []
    found = interleave({"a": Contender(lambda: calls.append(1))}, 0.0)
    assert found["a"].samples == 1
    assert len(calls) == 2


def test_slow_contender_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    counts = {"fast": 0, "slow": 0}

    def call(name: str, seconds: float) -> Callable[[], None]:
        def advance() -> None:
            nonlocal now
            now += seconds
            counts[name] += 1

        return advance

    monkeypatch.setattr(clock, "perf_counter", lambda: now)
    monkeypatch.setattr(clock, "settle", lambda: True)
    contenders = {"fast": Contender(call("fast", 0.001)), "slow": Contender(call("slow", 0.1))}
    found = interleave(contenders, 0.2, block=0.01)
    assert found["slow"].samples == 3
    assert counts["slow"] == 6
    assert found["fast"].best == pytest.approx(0.001)
    assert found["fast"].samples > 100


def test_short_calls_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 1e-6

    monkeypatch.setattr(clock, "perf_counter", lambda: now)
    monkeypatch.setattr(clock, "settle", lambda: True)
    found = interleave({"a": Contender(call)}, 0.01, block=0.001)
    assert found["a"].best == pytest.approx(1e-6)
    assert found["a"].samples < 200


def test_settling_waits_for_busy_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock.settle()
    ticks = iter(range(10**6))
    monkeypatch.setattr(clock, "process_time", lambda: float(next(ticks)))
    monkeypatch.setattr(clock, "LONGEST_PAUSE", 0.01)
    assert not clock.settle()


SMALL = [
    "layer_norm a 7x96",
    "layer_norm a 3x8x4x5:nchw",
    "layer_norm a 7x96 f64",
    "rms_norm a 7x96",
    "rms_norm a 7x96 bf16",
    "batch_norm a 8x6x5x5",
    "batch_norm a 8x5x5x6:nhwc training",
    "batch_norm a 8x6x5x5 training memory=nhwc f16",
    "instance_norm a 3x8x6x6 plain",
    "group_norm a 3x8x6x6 groups=4",
    "group_norm a 3x6x6x8:nhwc groups=4",
    "layer_norm_backward a 7x96 f64",
    "layer_norm_backward a 3x8x4x5:nchw",
    "rms_norm_backward a 7x96 plain bf16",
    "rms_norm_backward a 3x8x4x5:nchw",
    "batch_norm_backward a 8x6x5x5",
    "batch_norm_backward a 8x5x5x6:nhwc training",
    "batch_norm_backward a 8x6x5x5 training memory=nhwc f16",
    "instance_norm_backward a 3x8x6x6 plain",
    "instance_norm_backward a 3x6x6x8:nhwc",
    "group_norm_backward a 3x8x6x6 groups=4",
    "group_norm_backward a 3x6x6x8:nhwc groups=4 bf16",
]


def measure(text: str, peers: dict[str, Peer], threads: int = 1) -> Measured:
    """Measure without taking time."""
    return Session([threads], [fastnorm.config()["isa"]], peers, 0.0).measure(parse(text))


@pytest.mark.parametrize("text", SMALL)
def test_numpy_does_the_same_work(text: str) -> None:
    found = measure(text, load(["numpy"], [1])[0])
    assert found.left_out == {}
    assert set(found.timings[1]) == {"fastnorm", "fastnorm, new output", "numpy"}


@pytest.mark.parametrize("name", [name for name in PEERS if name != "numpy"])
def test_peer_does_the_same_work_if_installed(name: str, tmp_path: Path) -> None:
    written = tmp_path / "run.json"
    # In a process of its own: some peers warn, and all keep threads.
    arguments = ["--quick", "--peers", name, "--json", str(written), "--shapes", *SMALL]
    shown = run_python("-m", "bench", *arguments)
    assert shown.returncode == 0, shown.stderr
    run = Run.from_json(written.read_text("utf-8"))
    assert set(run.peers) | set(run.skipped) == {name}
    if run.skipped:
        pytest.skip(run.skipped[name])
    reasons = [reason for found in run.measured for reason in found.left_out.values()]
    assert not any(reason.startswith("it") for reason in reasons)
    timed = [found for found in run.measured if name in found.timings[run.most_threads]]
    assert len(timed) + len(reasons) == len(SMALL)
    without_backward = {"inference only"} <= set(reasons)
    expected = set(OPERATIONS) - (set(BACKWARD) if without_backward else set())
    assert {found.problem.operation for found in timed} == expected


class Fake:
    """A peer that gives what it is told to."""

    versions = ()
    note = "a fake"

    def __init__(self, result: Callable[[Work], object]) -> None:
        self.result = result
        self.used: list[int] = []

    def use_threads(self, threads: int) -> None:
        """Note it."""
        self.used.append(threads)

    def bind(self, work: Work, threads: int) -> Bound:
        """Bind the function."""
        return Bound(
            lambda: self.result(work),
            lambda result: result if isinstance(result, tuple) else (np.asarray(result),),
        )


def correct(work: Work) -> object:
    """Return the right result in an array of its own."""
    return np.array(work.call(new_output=True)())


def unsupported(work: Work) -> object:
    raise UnsupportedError("no such operation")


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (correct, None),
        (lambda work: correct(work) + np.float32(0.01), "its result differs by 0.0"),
        (lambda work: correct(work) * np.float32(np.nan), "its result differs by nan"),
        (lambda work: None, "its result is () object"),
        (lambda work: work.data.out, "its result differs by nan"),
        (lambda work: correct(work)[1:], "its result is (6, 96) float32"),
        (unsupported, "no such operation"),
        (lambda work: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_only_those_who_do_the_work_are_timed(
    result: Callable[[Work], object], reason: str | None
) -> None:
    found = measure("layer_norm a 7x96", {"fake": Fake(result)})
    assert ("fake" in found.timings[1]) == (reason is None)
    if reason is not None:
        assert list(found.left_out) == ["fake, one thread"]
        assert found.left_out["fake, one thread"].startswith(reason)


def gradients(work: Work) -> tuple[np.ndarray, ...]:
    """Return the right gradients in arrays of their own."""
    return tuple(np.array(array) for array in work.call(new_output=True)())


@pytest.mark.parametrize(
    ("which", "change", "reason"),
    [
        (0, lambda array: array, None),
        (0, lambda array: array + np.float32(0.01), "its result differs by 0.0"),
        (0, lambda array: array.astype(np.float64), "its result is (70, 96) float64"),
        (1, lambda array: array.astype(np.float64), None),
        (1, lambda array: array + np.float32(0.3), "its gradient of the weight differs by 0.0"),
        (1, lambda array: array[1:], "its gradient of the weight is (95,) float32"),
        (2, lambda array: array * np.nan, "its gradient of the bias differs by nan"),
        (2, lambda array: None, "it has 2 results instead of 3"),
    ],
)
def test_all_gradients_are_checked(
    which: int, change: Callable[[np.ndarray], np.ndarray | None], reason: str | None
) -> None:
    def result(work: Work) -> object:
        found: list[np.ndarray | None] = list(gradients(work))
        found[which] = change(found[which])
        return tuple(array for array in found if array is not None)

    found = measure("layer_norm_backward a 70x96", {"fake": Fake(result)})
    assert ("fake" in found.timings[1]) == (reason is None)
    if reason is not None:
        assert found.left_out["fake, one thread"].startswith(reason)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_passes_read_both_arrays_and_write_one(threads: int, twice: bool, stream: bool) -> None:
    rng = np.random.default_rng(5)
    before = fastnorm.get_num_threads()
    fastnorm.set_num_threads(threads)
    try:
        for size in (0, 1, 63, 1000, 8193, 10_007):
            grad, x, memory = rng.integers(0, 256, (3, size + 3), dtype=np.uint8)
            out, expected = memory[3:], grad[:-3] ^ x[1:-2]
            _core.parallel_pass(grad[:-3], x[1:-2], out, stream=stream, twice=twice)
            np.testing.assert_array_equal(out, expected)
            _core.parallel_copy(x[1:-2], out, stream=stream)
            np.testing.assert_array_equal(out, x[1:-2])
    finally:
        fastnorm.set_num_threads(before)


def test_passes_take_arrays_of_one_size() -> None:
    x, short = np.zeros(8), np.zeros(7)
    for arrays in ((short, x, x), (x, short, x), (x, x, short), (x, x, np.zeros(16)[::2])):
        with pytest.raises(ValueError, match="contiguous arrays of the same size"):
            _core.parallel_pass(*arrays)


def test_yardsticks_are_of_the_same_traffic() -> None:
    forward = Work.of(parse("layer_norm a 7x96")).yardsticks()
    assert set(forward) == {"copy", "streaming copy"}
    work = Work.of(parse("layer_norm_backward a 7x96"))
    backward = work.yardsticks()
    assert set(backward) == {"pass", "streaming pass", "two passes", "streaming two passes"}
    expected = work.grad.view("i4") ^ work.data.x.view("i4")
    for call in backward.values():
        work.data.out[...] = 0
        call()
        np.testing.assert_array_equal(work.data.out.view("i4"), expected)


def test_all_use_the_same_threads() -> None:
    fake = Fake(correct)
    most = fastnorm.get_num_threads()
    session = Session([most, 1], [fastnorm.config()["isa"]], {"fake": fake}, 0.0)
    found = session.measure(parse("layer_norm a 7x96"))
    assert set(found.timings) == {most, 1}
    session.use(1)
    assert fake.used[-1] == fastnorm.get_num_threads() == 1
    session.use(most)
    assert fake.used[-1] == fastnorm.get_num_threads() == most


def test_missing_peers_are_skipped_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    peers, skipped = load(["numpy", "torch", "torch.compile"], [1])
    assert list(peers) == ["numpy"]
    reason = "skipped, torch is not installed"
    assert skipped == {"torch": reason, "torch.compile": reason}
