"""The same work done by other libraries.

A peer is a class in a module of its own that offers what `Peer` says. Adding one: write the module,
and name it in `PEERS`.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from bench.work import Call, Outputs, Work

PEERS: Mapping[str, str] = {
    "torch": "eager_torch",
    "torch.compile": "compiled_torch",
    "onnxruntime": "onnx_runtime",
    "jax": "jax_jit",
    "openvino": "open_vino",
    "numpy": "plain_numpy",
}
"""Name of each peer, and the module here that drives it."""

Loaded = tuple[dict[str, "Peer"], dict[str, str]]


class UnsupportedError(Exception):
    """What a peer has no operation for, and why."""


@dataclass(frozen=True)
class Bound:
    """A call of a peer on given arrays.

    Parameters
    ----------
    call : callable
        Does the work and returns when it is done.
    outputs : callable
        Makes arrays of what `call` returned: the result, or the gradient of the input, with the
        axes in the order of memory; after the latter the gradient of the weight and, except for
        RMS norm, that of the bias.
    """

    call: Call
    outputs: Callable[[Any], Outputs]


class Peer(Protocol):
    """Another library.

    Attributes
    ----------
    versions : tuple of str
        Distributions that take part, for their versions.
    note : str
        Whether it writes into an existing output, and what else to know when reading its times.
    """

    versions: tuple[str, ...]
    note: str

    def use_threads(self, threads: int) -> None:
        """Make calls from now on use this many threads; cheap if they do already."""

    def bind(self, work: Work, threads: int) -> Bound:
        """Return the call that does `work` on `threads` threads.

        Raises
        ------
        UnsupportedError
            If the library has no such operation.
        """


def load(names: Sequence[str], threads: Sequence[int]) -> Loaded:
    """Import peers.

    Parameters
    ----------
    names : sequence of str
        Keys of `PEERS`.
    threads : sequence of int
        The thread counts that will be asked for.

    Returns
    -------
    peers : dict of str to Peer
        Those that can be used.
    skipped : dict of str to str
        The others, each with the reason.
    """
    peers: dict[str, Peer] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            module = import_module(f"bench.peers.{PEERS[name]}")
            peers[name] = module.make(max(threads))
        except ModuleNotFoundError as missing:
            skipped[name] = f"skipped, {missing.name} is not installed"
        except UnsupportedError as reason:
            skipped[name] = f"skipped, {reason}"
    return peers, skipped


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, and return whether it agreed.

    Some peers make their output anew in each call. Above 32 MB glibc fetches it from the operating
    system each time, one page fault after the other, which takes as long as the normalisation; an
    allocator that reuses memory hides that.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))
