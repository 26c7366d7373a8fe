"""Whether ``python -m fastnorm`` runs, and what it says."""

from __future__ import annotations

import subprocess
from functools import partial

import numpy as np
import pytest

pytest.importorskip("rich", reason="the command line needs the cli extra")
pytest.importorskip("ml_dtypes", reason="the command line needs the cli extra")

from helpers import run_python, run_without

import fastnorm
from fastnorm import _demo
from fastnorm.__main__ import as_table, main
from fastnorm._demo import CASES, Case, Record

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def shown() -> subprocess.CompletedProcess[str]:
    return run_python("-m", "fastnorm")


def test_default_run_succeeds(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_configuration_stands_first(
    shown: subprocess.CompletedProcess[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fastnorm.show_config()
    # Only the names: other tests may have changed threads and instruction set here.
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    head = shown.stdout[: shown.stdout.index("operation, layer")]
    assert [name for name in names if name not in head] == []
    assert fastnorm.config()["version"] in head


def test_each_case_has_a_line(shown: subprocess.CompletedProcess[str]) -> None:
    lines = shown.stdout.splitlines()
    for case in CASES:
        assert any(all(cell in line for cell in case.cells) for line in lines), case


def test_no_control_codes_without_terminal(
    shown: subprocess.CompletedProcess[str],
) -> None:
    assert ESCAPE not in shown.stdout + shown.stderr
    assert "…" not in shown.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_pipe_may_have_any_encoding(encoding: str) -> None:
    found = run_python("-m", "fastnorm", "--quick", PYTHONIOENCODING=encoding)
    assert found.returncode == 0, found.stderr


def test_every_operation_and_dtype_has_a_case() -> None:
    assert {case.operation for case in CASES} == {
        "batch_norm",
        "layer_norm",
        "rms_norm",
        "instance_norm",
        "group_norm",
    }
    assert {case.dtype for case in CASES} == set(_demo.ALLOWED_ERROR)


each_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(case.cells).replace(" ", "-")
)


@each_case
def test_error_is_as_small_as_allowed(case: Case) -> None:
    small = case.shrunk(2**17)
    data = _demo.make_data(small)
    _demo.bind(small, data)()
    assert _demo.largest_error(small, data) <= _demo.ALLOWED_ERROR[case.dtype]


@each_case
def test_one_wrong_element_is_noticed(case: Case) -> None:
    small = case.shrunk(2**14)
    data = _demo.make_data(small)
    _demo.bind(small, data)()
    last = data.out.reshape(-1)[-1:]
    last += 0.0625 * (1 + abs(last))
    assert _demo.largest_error(small, data) > _demo.ALLOWED_ERROR[case.dtype]
    last[...] = np.nan
    assert np.isnan(_demo.largest_error(small, data))


def test_data_are_the_same_in_every_run() -> None:
    small = CASES[0].shrunk(2**14)
    assert np.array_equal(_demo.make_data(small).x, _demo.make_data(small).x)


def test_shrunk_keeps_channels() -> None:
    for case in CASES:
        small = case.shrunk(2**14)
        assert np.prod(small.shape) <= 2**14
        assert small.shape[case.channel_axis] == case.shape[case.channel_axis]


def test_large_error_is_shown() -> None:
    wrong = Record(CASES[0], seconds=1.0, copy_seconds=1.0, error=float("nan"))
    assert not wrong.accurate
    assert list(as_table([wrong]).columns[-1].cells) == ["[red]nan[/]"]


def test_large_error_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Record(CASES[0], seconds=1.0, copy_seconds=1.0, error=4.0)
    monkeypatch.setattr("fastnorm.__main__.records", lambda **_: iter([wrong]))
    assert main([]) == 1
    assert "error larger than allowed" in capsys.readouterr().out


def test_threads_are_passed_on() -> None:
    found = run_python(
        "-c",
        "import fastnorm, fastnorm.__main__ as cli\n"
        "cli.main(['--quick', '--threads', '1'])\n"
        "print(fastnorm.get_num_threads())",
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "1"


def test_refused_threads_are_explained() -> None:
    found = run_python("-m", "fastnorm", "--threads", "0")
    assert found.returncode == 2
    assert "usage: python -m fastnorm" in found.stderr


@pytest.mark.parametrize("missing", ["rich", "ml_dtypes"])
def test_missing_extra_is_explained(missing: str) -> None:
    found = run_without(missing, "fastnorm")
    assert found.returncode == 1
    assert found.stdout == ""
    assert "fastnorm-cpu[cli]" in found.stderr
    assert "Traceback" not in found.stderr


def test_race_calls_in_turn() -> None:
    order: list[str] = []
    calls = {name: partial(order.append, name) for name in "ab"}
    times = _demo.race(calls, seconds=0.0, rounds=3)
    assert "".join(order) == "aabb" * 3
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}
