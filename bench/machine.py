"""What the benchmark runs on: processor, caches, versions. No names of hosts or files."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fastnorm

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Caches:
    """Bytes of the data caches that a processor uses.

    Parameters
    ----------
    l1, l2 : int
        Those of one processor.
    l3 : int
        The one that processors share.
    """

    l1: int = 2**15
    l2: int = 2**20
    l3: int = 2**25

    @classmethod
    def here(cls) -> Caches:
        """Return this machine's; the defaults of this class where the system does not say."""
        found = {}
        for index in sorted(_CACHES.glob("index*")):
            try:
                level, kind, size = (
                    (index / name).read_text().strip() for name in ("level", "type", "size")
                )
            except OSError:
                continue
            number = re.fullmatch(r"(\d+)([KMG]?)", size)
            if level in ("1", "2", "3") and kind in ("Data", "Unified") and number:
                found[f"l{level}"] = int(number[1]) * _UNITS[number[2]]
        return cls(**found)


def describe(peers: Iterable[str] = ()) -> dict[str, str]:
    """Return what a reader must know about the machine and the versions.

    Parameters
    ----------
    peers : iterable of str
        Distributions to give the versions of.
    """
    config = fastnorm.config()
    found = {
        "processor": _processor(),
        "processors used": str(processors()),
        "caches": ", ".join(
            f"{level.upper()} {_in_words(size)}" for level, size in asdict(Caches.here()).items()
        ),
        "system": f"{platform.system()} {_leading_numbers(platform.release())}, "
        f"{' '.join(filter(None, platform.libc_ver()))}",
        "python": platform.python_version(),
        "fastnorm": f"{config['version']}, {config['isa']} of "
        f"{', '.join(config['isa_available'])}, {config['compiler']}, "
        f"OpenMP {'yes' if config['openmp'] else 'no'}",
    }
    memory = _memory()
    if memory:
        found["memory"] = _in_words(memory)
    found["load average before"] = f"{load_average():.2f}"
    for name in ("numpy", *peers):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = {
        name: found[1].strip()
        for name in ("model name", "cpu family", "model", "stepping")
        if (found := re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE))
    }
    if "model name" not in match:
        return platform.processor() or platform.machine()
    # Virtual machines often hide the name, but not these numbers.
    numbers = [
        f"{name} {match[name]}" for name in ("cpu family", "model", "stepping") if name in match
    ]
    return f"{match['model name']} ({', '.join(numbers)})"


def processors() -> int:
    """Return the number of processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Return how many processes ran or wanted to in the last minute; NaN if that is unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def _leading_numbers(release: str) -> str:
    """Cut a kernel's release before what its builder added."""
    found = re.match(r"\d+(\.\d+)*", release)
    return found[0] if found else ""


def _in_words(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        scale = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}[unit]
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"
