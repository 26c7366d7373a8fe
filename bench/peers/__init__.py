"""The same work done by other libraries: each a class here, named in `PEERS`."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from bench.work import Call, Outputs, Work

PEERS: Mapping[str, tuple[str, str]] = {
    "torch": ("pytorch", "Torch"),
    "torch.compile": ("pytorch", "CompiledTorch"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntime"),
    "jax": ("formula", "Jax"),
    "openvino": ("open_vino", "OpenVino"),
    "numpy": ("formula", "PlainNumPy"),
}
"""Name of each peer, the module here that drives it, and its class."""


class UnsupportedError(Exception):
    """What a peer has no operation for, and why."""


@dataclass(frozen=True)
class Bound:
    """A call on given arrays, which returns when it is done, and what makes arrays of its result.

    These are the result, or the gradient of the input, with the axes in the order of memory; after
    the latter the gradient of the weight and, except for RMS norm, that of the bias.
    """

    call: Call
    outputs: Callable[[Any], Outputs]


class Peer(Protocol):
    """Another library, made with the number of threads that all its calls use.

    Distributions that take part, for their versions; and what to know when reading its times.
    """

    versions: tuple[str, ...]
    note: str

    def bind(self, work: Work) -> Bound:
        """Return the call that does `work`; raise UnsupportedError if the library has none."""


def load(names: Iterable[str], threads: int) -> tuple[dict[str, Peer], dict[str, str]]:
    """Import peers; return those that can be used, and why the others cannot."""
    peers: dict[str, Peer] = {}
    skipped: dict[str, str] = {}
    for name in names:
        module, made = PEERS[name]
        try:
            peers[name] = getattr(import_module(f"bench.peers.{module}"), made)(threads)
        except ModuleNotFoundError as missing:
            skipped[name] = f"{missing.name} is not installed"
        except UnsupportedError as reason:
            skipped[name] = str(reason)
    return peers, skipped


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, and return whether it agreed.

    New outputs above 32 MB would otherwise come from the operating system in each call, one page
    fault after the other, which takes as long as the normalisation.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
