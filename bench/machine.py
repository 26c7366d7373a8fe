"""What the benchmark runs on: processor, caches, versions. No names of hosts or files."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import fastnorm


def cache_bytes(level: int) -> int:
    """Return the size of a data cache of the first processor; 1 MiB where the system is silent."""
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        found = [(folder / name).read_text().strip() for name in ("level", "type", "size")]
        if found[0] == str(level) and found[1] != "Instruction":
            return int(found[2][:-1]) * {"K": 2**10, "M": 2**20}[found[2][-1]]
    return 2**20


def describe(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return what a reader must know about the machine, and the versions of packages."""
    text = Path("/proc/cpuinfo").read_text()
    # Virtual machines often hide the name, but not the numbers.
    words = re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE)[:3]
    config = fastnorm.config()
    return {
        "processor": ", ".join(f"{name} {value}" for name, value in words) or platform.machine(),
        "processors used": str(len(os.sched_getaffinity(0))),
        "caches": ", ".join(f"L{n} {cache_bytes(n) // 1024} KiB" for n in (1, 2, 3)),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "fastnorm": f"{config['version']}, {config['isa']}, {config['compiler']}",
        **{name: version(name) for name in ("numpy", *packages)},
    }
