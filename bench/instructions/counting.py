"""Build the driver, and count what it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.instructions.cases import Count
from bench.instructions.table import Tier, per_element

ROOT = Path(__file__).parents[2]

_PROCESSES = os.cpu_count() or 1

# memset and memcpy are not to use `rep stosb` and `rep movsb`, which count once for each byte.
_TUNABLES = ":".join(f"glibc.cpu.x86_rep_{name}_threshold={1 << 30}" for name in ("stosb", "movsb"))

Counter = Callable[[Path, str, Sequence[str]], list[int]]
"""Takes the driver, a tier and lines for the driver; returns instructions for each."""


class CountingError(RuntimeError):
    """A program that is needed is missing or has failed."""


def build() -> Path:
    """Compile the driver as the library is compiled, and return it."""
    folder = ROOT / "build" / "instructions"
    definitions = {
        "FASTNORM_COUNT": "ON",
        "CMAKE_BUILD_TYPE": "Release",
        "SKBUILD_PROJECT_VERSION": "0",
    }
    _run(
        "cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{k}={v}" for k, v in definitions.items())
    )
    _run("cmake", "--build", str(folder), "--parallel", str(_PROCESSES))
    return folder / "count_instructions"


def count(driver: Path, tier: str, counter: str, wanted: Sequence[Count]) -> Tier:
    """Count on one tier."""
    found = COUNTERS[counter](driver, tier, [one.line for one in wanted])
    rows = per_element(
        [
            (one.row, one.dtype, instructions, one.case.elements)
            for one, instructions in zip(wanted, found, strict=True)
        ]
    )
    return Tier(compiler(driver), counter, rows)


def compiler(driver: Path) -> str:
    """Return the name and major version of what compiled the driver."""
    return _run(str(driver), "compiler").strip()


def counters(driver: Path) -> dict[str, str]:
    """Return the tiers that can be counted here, and who counts them.

    callgrind is quicker, but valgrind does not know all instructions that processors have.
    """
    able = dict.fromkeys(_run(str(driver), "tiers").split(), "steps")
    if shutil.which("valgrind"):
        known = _run("valgrind", "-q", "--tool=none", str(driver), "tiers").split()
        able |= dict.fromkeys(known, "callgrind")
    return able


def callgrind(driver: Path, tier: str, lines: Sequence[str]) -> list[int]:
    """Count by callgrind, which writes a file each time that the driver has counted a line."""
    with tempfile.TemporaryDirectory() as folder:
        _run(
            "valgrind",
            "-q",
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            "--zero-before=counted",
            "--dump-after=counted",
            str(driver),
            tier,
            given="\n".join(lines),
        )
        # The last file, without a number, has what came after the last line.
        files = [Path(folder, f"out.{i + 1}") for i in range(len(lines))]
        return [instructions_of(file.read_text()) for file in files]


def instructions_of(dump: str) -> int:
    """Return the number of instructions in a file that callgrind wrote."""
    events = re.search(r"^events: (.*)$", dump, re.MULTILINE)
    summary = re.search(r"^summary: (.*)$", dump, re.MULTILINE)
    if events is None or summary is None:
        raise CountingError("callgrind wrote a file without events or summary")
    return int(dict(zip(events[1].split(), summary[1].split(), strict=False))["Ir"])


def steps(driver: Path, tier: str, lines: Sequence[str]) -> list[int]:
    """Count by single steps of the processor, of which it makes about 30 000 in a second."""
    shares = [lines[i::_PROCESSES] for i in range(_PROCESSES)]
    found = [0] * len(lines)
    with ThreadPoolExecutor(_PROCESSES) as pool:
        outputs = pool.map(
            lambda share: _run(str(driver), tier, "steps", given="\n".join(share)), shares
        )
        for i, output in enumerate(outputs):
            found[i::_PROCESSES] = map(int, output.split())
    return found


COUNTERS: Mapping[str, Counter] = {"callgrind": callgrind, "steps": steps}


def _run(*command: str, given: str = "") -> str:
    """Run a program and return what it wrote."""
    # Flags from outside would not be those that the table was made with.
    environment = {name: v for name, v in os.environ.items() if name not in ("CFLAGS", "LDFLAGS")}
    environment["GLIBC_TUNABLES"] = _TUNABLES
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, env=environment
        )
    except FileNotFoundError:
        raise CountingError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise CountingError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
