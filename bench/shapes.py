"""Problems: one normalisation, or its backward, of one array; shapes.toml has the lists of them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import ml_dtypes  # noqa: F401 - numpy then knows bfloat16
import numpy as np

FORWARD = ("layer_norm", "rms_norm", "batch_norm", "instance_norm", "group_norm")
OPERATIONS = (*FORWARD, *(f"{name}_backward" for name in FORWARD))
OUTPUTS = ("given", "new", "aligned")
ROWS = ("layer_norm", "rms_norm")
FIRST = {2: "nc", 3: "ncl", 4: "nchw", 5: "ncdhw"}
LAST = {2: "nc", 3: "nlc", 4: "nhwc", 5: "ndhwc"}


@dataclass(frozen=True)
class Problem:
    """An entry of shapes.toml, which says what its fields are."""

    op: str
    network: str
    shape: tuple[int, ...]
    layout: str = ""
    memory: str = ""
    dtype: str = "float32"
    num_groups: int = 1
    training: bool = False
    affine: bool = True

    def __post_init__(self) -> None:
        """Fill in the layouts; refuse an operation that does not exist."""
        if self.op not in OPERATIONS:
            raise ValueError(f"op: got {self.op!r}; takes one of {', '.join(OPERATIONS)}")
        layout = self.layout or self.default_layout
        fields = {"shape": tuple(self.shape), "layout": layout, "memory": self.memory or layout}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """Return the text by which a problem is shown and selected."""
        layout = "" if self.layout == self.default_layout else f":{self.layout}"
        words = [self.op, self.network, "x".join(map(str, self.shape)) + layout]
        words += [f"groups={self.num_groups}"] * (self.operation == "group_norm")
        words += ["training"] * self.training
        words += [f"memory={self.memory}"] * (self.memory != self.layout)
        words += ["plain"] * (not self.affine)
        words += [self.dtype.replace("float", "f")] * (self.dtype != "float32")
        return " ".join(words)

    @property
    def default_layout(self) -> str:
        """Channels last for layer and RMS norm, and on the second axis for the others."""
        return (LAST if self.operation in ROWS else FIRST)[len(self.shape)]

    @property
    def operation(self) -> str:
        """Name of the forward's function in `fastnorm`."""
        return self.op.removesuffix("_backward")

    @property
    def backward(self) -> bool:
        """Whether gradients are computed."""
        return self.op != self.operation

    @property
    def nbytes(self) -> int:
        """Bytes of the input, and of the output, and of each one's gradient."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def is_array(self) -> bool:
        """Whether the input is so large that copies are compared with; others are calls."""
        return self.nbytes >= 10**6

    @property
    def axes(self) -> tuple[int, ...]:
        """Where in memory the axes of the layout are."""
        return tuple(map(self.memory.index, self.layout))

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Shape of the array in the order of memory."""
        return tuple(self.shape[self.layout.index(axis)] for axis in self.memory)

    @property
    def channel_axis(self) -> int:
        """Axis in memory along which weight and bias vary."""
        return self.memory.index("c")

    @property
    def channels(self) -> int:
        """Length of that axis."""
        return self.memory_shape[self.channel_axis]

    @property
    def channels_last(self) -> bool:
        """Whether that axis is the last in memory."""
        return self.memory[-1] == "c"

    @property
    def positions(self) -> int:
        """Number of elements of a channel in one sample."""
        return math.prod(self.memory_shape[1:]) // self.channels

    @property
    def normalised_axes(self) -> tuple[int, ...]:
        """The axes in memory that a statistic covers, but for a group's channels."""
        if self.operation in ROWS:
            return (self.channel_axis,)
        kept = "c" if self.operation == "batch_norm" else "nc"
        return tuple(axis for axis, name in enumerate(self.memory) if name not in kept)

    def shrunk(self, elements: int) -> Problem:
        """Return the problem with at most about `elements` elements and as many channels."""
        shape = list(self.shape)
        others = [axis for axis, name in enumerate(self.layout) if name != "c"]
        while math.prod(shape) > elements and max(shape[axis] for axis in others) > 1:
            shape[max(others, key=shape.__getitem__)] //= 2
        return replace(self, shape=tuple(shape))


@cache
def lists() -> Mapping[str, tuple[Problem, ...]]:
    """Return the lists of shapes.toml by name."""
    text = Path(__file__).with_name("shapes.toml").read_text("utf-8")
    return {
        name: tuple(Problem(**({"network": name} | entry)) for entry in entries)
        for name, entries in tomllib.loads(text).items()
    }


def select(wanted: Iterable[str] = (), operations: Iterable[str] = ()) -> list[Problem]:
    """Return the problems that are wanted, each once.

    Each word is the name of a list or a part of problems' texts; without any, all are wanted.
    Raises ValueError if a word is nothing, or no problem is of one of the operations.
    """
    everything = [problem for problems in lists().values() for problem in problems]
    found: list[Problem] = []
    for word in wanted:
        chosen = lists().get(word) or [p for p in everything if word in str(p)]
        if not chosen:
            known = ", ".join(lists())
            raise ValueError(
                f"shapes: {word!r} is no list and no part of a problem; lists: {known}"
            )
        found += chosen
    kept = set(operations) or set(OPERATIONS)
    problems = [problem for problem in dict.fromkeys(found or everything) if problem.op in kept]
    if not problems:
        raise ValueError(f"ops: none of these shapes is one of {', '.join(sorted(kept))}")
    return problems
