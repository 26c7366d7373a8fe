"""The benchmark from the command line to its tables, files and plots."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmark is only in the repository")
pytest.importorskip("rich", reason="the benchmark needs the bench extra")
pytest.importorskip("matplotlib", reason="the benchmark needs the bench extra")

from helpers import run_without

import fastnorm
from bench.__main__ import main
from bench.machine import Caches, describe
from bench.measure import Session
from bench.problems import Problem, lists
from bench.results import Measured, Run

CHOSEN = [
    "layer_norm bert 512x768",
    "group_norm sd 1x64x64x64 groups=32",
    "layer_norm bert 1x768",
    "layer_norm_backward bert 512x768",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def shown(folder: Path) -> str:
    """Run the benchmark, with a peer, one that is missing, and all files."""
    arguments = ["--quick", "--isa", "all", "--shapes", *CHOSEN, "--peers", "numpy", "torch"]
    for option, name in (("json", "run.json"), ("report", "RESULTS.md"), ("plot", "plots")):
        arguments += [f"--{option}", str(folder / name)]
    found = run_without("torch", "bench", *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    return found.stdout


def names_host(text: str) -> bool:
    """Whether the host's name, if it has one, is a word of the text."""
    name = platform.node()
    return bool(name) and re.search(rf"\b{re.escape(name)}\b", text) is not None


def test_run_shows_tables(shown: str) -> None:
    lines = shown.splitlines()
    assert lines[0] == "torch: skipped, torch is not installed"
    for problem in CHOSEN:
        assert any(line.strip().startswith(f"{problem} ") for line in lines)
    assert "\x1b" not in shown
    assert "…" not in shown
    assert "its times mean nothing" in shown


def test_run_writes_json(shown: str, folder: Path) -> None:
    run = Run.from_json((folder / "run.json").read_text("utf-8"))
    assert [str(found.problem) for found in run.measured] == CHOSEN
    assert run.command.startswith("python -m bench --shapes 'layer_norm bert 512x768' 'group")
    assert str(folder) not in run.as_json()
    first, *others = fastnorm.config()["isa_available"]
    ours = {"fastnorm", *(f"fastnorm {tier}" for tier in others)}
    copies = {"copy", "streaming copy"}
    passes = {"pass", "streaming pass", "two passes", "streaming two passes"}
    threads = run.most_threads
    for found in run.measured:
        moves = passes if found.problem.backward else copies
        small = {"fastnorm, new output"} if found.problem.nbytes < 10**6 else moves
        assert set(found.timings[threads]) == ours | small | {"numpy"}
    assert first in run.machine["fastnorm"]


def test_run_writes_report_and_plots(shown: str, folder: Path) -> None:
    text = (folder / "RESULTS.md").read_text("utf-8")
    for problem in CHOSEN:
        assert f"| {problem} |" in text
    for name in ("copies.svg", "speed.svg"):
        assert f"](plots/{name})" in text
        assert "</svg>" in (folder / "plots" / name).read_text("utf-8")
    assert not names_host(text)
    assert str(folder) not in text


def test_earlier_run_is_shown_again(
    shown: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.md"
    assert main(["--load", str(folder / "run.json"), "--report", str(again)]) == 0
    plots = "\n\n## Plots"
    before = (folder / "RESULTS.md").read_text("utf-8")
    assert again.read_text("utf-8").rstrip() == before[: before.index(plots)].rstrip()
    assert CHOSEN[0] in capsys.readouterr().out


def test_interruption_keeps_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = Session.measure

    def interrupted(self: Session, problem: Problem) -> Measured:
        if str(problem) == CHOSEN[2]:
            raise KeyboardInterrupt
        return measured(self, problem)

    monkeypatch.setattr(Session, "measure", interrupted)
    assert main(["--quick", "--peers", "none", "--shapes", CHOSEN[0], CHOSEN[2]]) == 0
    out = capsys.readouterr().out
    assert "interrupted after 1 of 2 problems" in out
    assert CHOSEN[0] in out


def test_list_prints_problems_by_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--ops", "rms_norm", "--shapes", "llama-7b", "rms_norm own 3x5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "llama-7b:"
    assert lines[1:-1] == [f"  {p}" for p in lists()["llama-7b"] if not p.backward]
    assert lines[-1] == "rms_norm own 3x5"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--shapes", "layer_norm a 3y4"], "no shape '3y4'"),
        (["--ops", "layernorm"], "no operation 'layernorm'"),
        (["--peers", "tensorflow"], "invalid choice: 'tensorflow'"),
        (["--threads", "0"], "invalid thread_counts value: '0'"),
        (["--threads", "1,x"], "invalid thread_counts value"),
        (["--threads", "100000"], "100000 threads: no more than"),
        (["--load", "nothing-here.json"], "nothing-here.json"),
    ],
)
def test_bad_arguments_are_explained(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        main([*arguments, "--quick", "--list"])
    assert refusal.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["rich", "ml_dtypes"])
def test_missing_extra_is_explained(missing: str) -> None:
    found = run_without(missing, "bench")
    assert found.returncode == 1
    assert ".[bench]" in found.stderr
    assert "Traceback" not in found.stderr


def test_machine_is_described_without_names() -> None:
    found = describe(["numpy", "a-distribution-that-is-not-there"])
    assert found["numpy"] == np.__version__
    assert "a-distribution-that-is-not-there" not in found
    assert not names_host(" ".join(found.values()))
    here = Caches.here()
    assert 2**13 <= here.l1 <= here.l2 <= here.l3
