"""Whether ``python -m fastnorm`` runs, and what it says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rich", reason="the command line needs the cli extra")
pytest.importorskip("ml_dtypes", reason="the command line needs the cli extra")

from helpers import DTYPES, Array, run_python, run_without

import fastnorm
from fastnorm import _selfcheck
from fastnorm.__main__ import main
from fastnorm._selfcheck import ALLOWED_ERROR, LAYERS, OPERATIONS, UNITS, Case, Timing

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
    head = shown.stdout[: shown.stdout.index("operation")]
    assert [name for name in names if name not in head] == []
    assert fastnorm.config()["version"] in head


def test_every_operation_and_dtype_has_a_line(shown: subprocess.CompletedProcess[str]) -> None:
    for operation in OPERATIONS:
        for dtype in ALLOWED_ERROR:
            words = [*operation.split(), dtype]
            assert any(line.split()[:-5] == words for line in shown.stdout.splitlines())


def test_every_layer_has_a_line(shown: subprocess.CompletedProcess[str]) -> None:
    lines = shown.stdout.splitlines()
    for name, case in LAYERS.items():
        shape = "x".join(map(str, case.shape))
        cells = name, case.operation, shape, case.layout, case.dtype
        assert any(all(cell in line for cell in cells) for line in lines), name


def test_no_control_codes_without_terminal(
    shown: subprocess.CompletedProcess[str],
) -> None:
    assert ESCAPE not in shown.stdout + shown.stderr
    assert "…" not in shown.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_pipe_may_have_any_encoding(encoding: str) -> None:
    found = run_python("-m", "fastnorm", "--quick", PYTHONIOENCODING=encoding)
    assert found.returncode == 0, found.stderr


def test_operations_are_those_of_the_package() -> None:
    functions = {getattr(f, "func", f) for f in OPERATIONS.values()}
    names = [n for n in fastnorm.__all__ if n.endswith("_norm")]
    assert functions == {getattr(fastnorm, name) for name in names}
    assert {case.operation for case in LAYERS.values()} == set(OPERATIONS)


def test_limits_are_those_that_are_promised() -> None:
    limits = {dtype: ALLOWED_ERROR[dtype] * UNITS[dtype] for dtype in DTYPES}
    assert limits.pop("float64") == pytest.approx(1e-12)
    assert set(limits.values()) == {4 * 2.0**-24}


@pytest.mark.parametrize("pick", [np.argmax, np.argmin], ids=["large weight", "small weight"])
@pytest.mark.parametrize("dtype", ALLOWED_ERROR)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_error_of_one_element_is_found(
    operation: str, dtype: str, pick: Callable[[Array], int]
) -> None:
    case = Case(operation, (2, 3, 5, 64), "NHWC", dtype, offset=1e2)
    call = _selfcheck.make_call(case)
    y = call()
    assert _selfcheck.largest_error(case, call, y) <= ALLOWED_ERROR[dtype]

    channel = int(pick(abs(call.keywords["weight"])))
    weight = float(call.keywords["weight"][channel])
    bias = float(call.keywords["bias"][channel]) if "bias" in call.keywords else 0.0
    exact = float(y[0, 0, 0, channel])  # nearly: the error is a thousand times larger
    unit = UNITS[dtype] * (abs(weight) + abs(exact - bias) + abs(bias))
    wrong = 2.0**24 * unit if y.itemsize == 2 else 1000 * ALLOWED_ERROR[dtype] * unit
    y[0, 0, 0, channel] = exact + wrong
    stored = float(y[0, 0, 0, channel]) - exact
    found = _selfcheck.largest_error(case, call, y)
    assert found == pytest.approx(stored / unit, rel=0.02)

    y[1, 2, 3, 4] = np.nan
    assert np.isnan(_selfcheck.largest_error(case, call, y))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_ulp_is_half_the_distance_to_the_next_number(name: str) -> None:
    infinity = np.array(np.inf, DTYPES[name]).view(np.uint16)
    numbers = np.arange(infinity, dtype=np.uint16).view(DTYPES[name]).astype(np.float64)
    assert np.array_equal(_selfcheck._half_ulp(numbers[:-1], name), np.diff(numbers) / 2)


def test_data_are_the_same_in_every_run() -> None:
    case = Case("layer norm", (4, 64), "NC")
    one, other = _selfcheck.make_call(case), _selfcheck.make_call(case)
    assert np.array_equal(one.args[0], other.args[0])


def test_quick_leaves_out_the_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fastnorm.__main__.errors", lambda: iter(()))
    assert main(["--quick"]) == 0
    assert "copies" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [float("nan"), 4.01])
def test_large_error_is_a_failure(
    error: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("layer norm", "float32", [4, error, 4, 4]), ("RMS norm", "float64", [4.01] * 4)]
    monkeypatch.setattr("fastnorm.__main__.errors", lambda: iter(rows))
    assert main(["--quick"]) == 1
    out = capsys.readouterr().out
    assert f" {error:.3g} " in out
    assert out.splitlines()[-1] == "error larger than allowed: layer norm, float32, mean/std 100"


def test_large_error_of_a_timed_layer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("BERT-base", Timing(seconds=0.003, copy_seconds=0.002, error=5.0))]
    monkeypatch.setattr("fastnorm.__main__.errors", lambda: iter(()))
    monkeypatch.setattr("fastnorm.__main__.timings", lambda: iter(rows))
    assert main([]) == 1
    out = capsys.readouterr().out
    assert "3.00    1.50" in out
    assert out.splitlines()[-1] == "error larger than allowed: BERT-base"


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
