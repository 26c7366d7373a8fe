"""The count of instructions: its table, the comparison, and one count of a known loop."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
pytest.importorskip("rich", reason="the command line needs the cli extra")
pytest.importorskip("bench.instructions", reason="the count is only in the repository")

from bench.instructions import __main__ as command
from bench.instructions import counting
from bench.instructions.cases import CASES, Count, counts
from bench.instructions.table import (
    Rows,
    Tier,
    Verdict,
    as_text,
    compared,
    from_text,
    left_over,
    load,
    per_element,
    save,
)

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "src" / "fastnorm" / "kernels"

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux"
    or platform.machine() not in ("x86_64", "aarch64")
    or shutil.which("cc") is None,
    reason="needs Linux on a processor that the stub knows, and a C compiler",
)
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")


def tier(rows: Rows, compiler: str = "GCC 12") -> Tier:
    return Tier(compiler, "callgrind", rows)


# ---- comparison ----


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        (1.0, Verdict.SAME),
        (1.03, Verdict.SAME),
        (0.97, Verdict.SAME),
        (1.031, Verdict.WORSE),
        (0.969, Verdict.BETTER),
    ],
)
def test_changes_within_tolerance_do_not_count(now: float, verdict: Verdict) -> None:
    (change,) = compared(tier({"a": {"float32": now}}), tier({"a": {"float32": 1.0}}), 0.03)
    assert change.verdict is verdict
    assert change.share == pytest.approx(now - 1)


def test_other_compilers_are_not_compared() -> None:
    rows = {"a": {"float32": 9.0}}
    before = tier({"a": {"float32": 1.0}}, compiler="GCC 13")
    (change,) = compared(tier(rows), before)
    assert change.verdict is Verdict.OTHER_COMPILER
    assert change.share == 8


@pytest.mark.parametrize(
    "before", [None, tier({}), tier({"a": {"float64": 1.0}}), tier({}, compiler="GCC 13")]
)
def test_what_the_table_lacks_is_new(before: Tier | None) -> None:
    (change,) = compared(tier({"a": {"float32": 1.0}}), before)
    assert change.verdict is Verdict.NEW
    assert change.share is None


def test_what_is_no_longer_counted_is_named() -> None:
    table = {"v2": tier({"a": {}, "b": {}}), "v9": tier({"a": {}})}
    assert left_over({"v2": tier({"a": {}})}, table) == ["v9", "v2 b"]


def test_counts_are_arranged_by_row_and_dtype() -> None:
    found = [("a", "float32", 10, 4), ("a", "float64", 1000, 3), ("b", "float32", 4, 4)]
    assert per_element(found) == {
        "a": {"float32": 2.5, "float64": 333.333},
        "b": {"float32": 1.0},
    }


# ---- the table ----


def test_table_survives_its_file() -> None:
    table = {
        "v2": tier({'a "quoted" row': {"float32": 1.25, "float64": 2.0}, "b": {"float16": 3.0}}),
        "v4": Tier("Clang 19", "steps", {"a": {"float32": 0.5}}),
    }
    text = as_text(table)
    assert from_text(text) == table
    assert '   "b": {"float16": 3.0}' in text.splitlines()


def test_repository_table_has_what_is_counted() -> None:
    table = load(command.TABLE)
    wanted = {(count.row, count.dtype) for count in counts()}
    assert table
    for name, found in table.items():
        assert {(row, dtype) for row, dtypes in found.rows.items() for dtype in dtypes} == wanted, (
            f"{name}: python -m bench.instructions --update makes a new table"
        )


def test_every_kernel_is_counted() -> None:
    text = (KERNELS / "kernels.def").read_text()
    kernels = set(re.findall(r"^KERNEL\(\w+, (\w+),", text, re.MULTILINE))
    assert kernels == {kernel for case in CASES for kernel in case.kernels}


def test_rows_have_names_of_their_own() -> None:
    wanted = [(count.row, count.dtype) for count in counts()]
    assert len(wanted) == len(set(wanted))


def test_words_choose_what_is_counted() -> None:
    assert {count.kernel for count in counts(["rows_apply"])} == {
        "rows_apply",
        "grad_rows_apply",
    }
    assert {count.kernel for count in counts(["gather"])} == {"grad_rows_gather"}
    assert {count.dtype for count in counts(["BFLOAT16"])} == {"bfloat16"}
    assert counts(["nothing of that name"]) == []


# ---- the command ----


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A table of one tier, and counts of 2.0 everywhere."""

    def count(driver: Path, name: str, counter: str, wanted: list[Count]) -> Tier:
        return Tier("GCC 12", counter, per_element([(c.row, c.dtype, 2, 1) for c in wanted]))

    monkeypatch.setattr(command, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(command, "build", lambda: tmp_path / "driver")
    monkeypatch.setattr(command, "counters", lambda driver: {"v2": "callgrind", "v4": "steps"})
    monkeypatch.setattr(command, "count", count)
    return tmp_path / "table.json"


def test_update_then_nothing_has_changed(
    pretended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--update"]) == 0
    table = load(pretended)
    assert {name: found.counter for name, found in table.items()} == {
        "v2": "callgrind",
        "v4": "steps",
    }
    capsys.readouterr()
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert f"same: {2 * len(counts())} counts" in shown
    assert "worse" not in shown


def test_more_instructions_are_an_error(
    pretended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = counts()[0], counts()[-1]
    command.main(["--update"])
    table = load(pretended)
    rows = {row: dict(found) for row, found in table["v4"].rows.items()}
    rows[first.row][first.dtype] = 1.9
    rows[second.row][second.dtype] = 2.5
    save(pretended, table | {"v4": Tier("GCC 12", "steps", rows)})
    capsys.readouterr()
    assert command.main([]) == 1
    shown = capsys.readouterr().out
    assert f"v4 {first.row}, {first.dtype}: 1.900 -> 2.000 +5.3%" in shown
    assert f"v4 {second.row}, {second.dtype}: 2.500 -> 2.000 -20.0%" in shown
    assert command.main(["--tier", "v2"]) == 0
    assert command.main(["--tolerance", "0.06"]) == 0


def test_another_compiler_is_said_and_no_error(
    pretended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["--update"])
    pretended.write_text(pretended.read_text().replace("GCC 12", "GCC 14").replace("2.0", "1.0"))
    capsys.readouterr()
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert "not comparable with the table, which is of GCC 14" in shown
    assert f"not comparable: {2 * len(counts())} counts" in shown


def test_update_keeps_other_tiers(pretended: Path) -> None:
    other = {"aarch64": tier({"a": {"float32": 1.0}})}
    save(pretended, other)
    command.main(["--update", "--tier", "v2"])
    table = load(pretended)
    assert table.keys() == {"aarch64", "v2"}
    assert table["aarch64"] == other["aarch64"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update", "rows"], "--update replaces all rows of a tier"),
        (["nothing of that name"], "nothing to count contains nothing of that name"),
        (["--tier", "v7"], "v7 cannot be counted here; takes v2, v4"),
    ],
)
def test_refused_arguments(
    pretended: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main(arguments)
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
    assert not pretended.exists()


# ---- counting ----


def test_instructions_are_read_from_callgrinds_file() -> None:
    dump = "version: 1\nevents: Ir Dr\nsummary: 1234 99\n\nfn=(1) counted\n0 1234 99\n"
    assert counting.instructions_of(dump) == 1234
    with pytest.raises(counting.CountingError, match="without events or summary"):
        counting.instructions_of("version: 1\n")


def test_missing_program_is_named() -> None:
    with pytest.raises(counting.CountingError, match="no-such-program is not installed"):
        counting._run("no-such-program")


LOOP = 1000

# Kernels of 2 * LOOP instructions each, and a few around them.
STUB = """
#include "kernels.h"
static void loop(void) {
    long n = LOOP;
#if defined(__x86_64__)
    __asm__ volatile("1: dec %0\\n\\tjnz 1b" : "+r"(n));
#elif defined(__aarch64__)
    __asm__ volatile("1: sub %0, %0, #1\\n\\tcbnz %0, 1b" : "+r"(n));
#else
#error
#endif
}
#define KERNEL(ret, name, params) static ret stub_##name params { loop(); }
#include "kernels.def"
#undef KERNEL
#define KERNEL(ret, name, params) stub_##name,
#if defined(__aarch64__)
const Kernels kernels_aarch64[DTYPES] = {
#else
const Kernels kernels_generic[DTYPES] = {
#endif
    {
#include "kernels.def"
    },
};
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver with kernels that are known."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "stub.c").write_text(STUB)
    sources = [folder / "stub.c", ROOT / "bench" / "instructions" / "driver.c"]
    sources += [
        KERNELS / name
        for name in ("backward.c", "dispatch.c", "layout.c", "moments.c", "processor.c")
    ]
    subprocess.run(
        ["cc", "-O1", f"-DLOOP={LOOP}", f"-I{KERNELS}", *sources, "-o", folder / "driver", "-lm"],
        check=True,
        timeout=60,
    )
    return folder / "driver"


def lines() -> list[str]:
    """What the driver is told for everything that it can be told, but only float32."""
    return [count.line for count in counts() if count.dtype == "float32"]


@needs_compiler
@pytest.mark.parametrize("counter", [pytest.param("callgrind", marks=needs_valgrind), "steps"])
def test_known_loop_is_counted(driver: Path, counter: str) -> None:
    if counter == "steps" and platform.machine() != "x86_64":
        pytest.skip("only x86-64 is counted by single steps")
    (name,) = counting.counters(driver)
    fused = [line for line in lines() if line.startswith("rows_fused")][:3]
    found = counting.COUNTERS[counter](driver, name, fused)
    assert len(found) == len(fused)
    for instructions in found:
        assert 2 * LOOP <= instructions < 2 * LOOP + 50


@needs_compiler
@needs_valgrind
def test_every_line_can_be_set_up(driver: Path) -> None:
    """Each kernel is called, with a plan of its own kind."""
    (name,) = counting.counters(driver)
    found = counting.callgrind(driver, name, lines())
    assert len(found) == len(lines())
    assert min(found) >= 2 * LOOP


@needs_compiler
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rows_guess float32 - 8", "no such kernel: rows_guess"),
        ("rows_fused float8 - 8", "no such dtype: float8"),
        ("rows_fused float32 - 8 8k", "rows_fused: the axes are columns"),
        ("columns_fused float32 - 8k 8", "columns_fused: the axes are rows"),
        ("grad_rows_fused float32 c 64 64kp", "grad_rows_fused: the axes are columns"),
        ("grad_columns_apply float32 c 8k 8p", "grad_columns_apply: the axes are rows"),
        ("grad_rows_apply float32 c 8k 64p", "grad_rows_apply: parameters along the rows"),
        ("grad_rows_gather float32 c 2 4kp 49", "grad_rows_gather: no parameters along the rows"),
        ("grad_rows_gather float32 c 2k 600000p", "grad_rows_gather: these axes take two passes"),
        ("rows_fused float32", "not KERNEL DTYPE FLAGS AXES: rows_fused float32"),
    ],
)
def test_driver_refuses_wrong_lines(driver: Path, line: str, message: str) -> None:
    (name,) = counting.counters(driver)
    with pytest.raises(counting.CountingError, match=message):
        counting._run(str(driver), name, given=line)
