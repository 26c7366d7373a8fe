"""The arrays of a problem, fastnorm's call on them, and the copies and passes to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnorm
from bench.shapes import ROWS, Problem
from fastnorm import _core

Array = npt.NDArray[Any]
Call = Callable[[], object]
Outputs = tuple[Array, ...]
"""What was computed: the result; of a backward the gradients of input, weight and bias."""

EPS = 1e-5
MOMENTUM = 0.1
SEED = 2016


@dataclass(frozen=True)
class Work:
    """A problem and its arrays; those of the input's size have their axes in the order of memory.

    `out` is the output that exists already; `some_weight` and `some_bias` are ones and zeros, for
    libraries that insist on them, where the problem has none; `grad` is that of the result.
    """

    problem: Problem
    x: Array
    out: Array
    some_weight: Array
    some_bias: Array
    running_mean: Array
    running_var: Array
    grad: Array

    @classmethod
    def of(cls, problem: Problem) -> Work:
        """Make the arrays, the same ones in every run."""
        rng = np.random.default_rng(SEED)
        shape, dtype = problem.memory_shape, np.dtype(problem.dtype)
        wide = np.float64 if problem.dtype == "float64" else np.float32
        channels, affine, ones = problem.channels, problem.affine, np.ones(problem.channels)
        # A million numbers laid end to end cost a tenth of as many fresh ones, and the odd count
        # keeps rows and channels from meeting the same numbers.
        noise = rng.standard_normal(1_000_003, dtype=np.float32).astype(wide)
        centre = rng.standard_normal(channels).astype(wide)
        x = np.resize(noise, shape)
        x *= along(problem, rng.uniform(0.5, 1.5, channels).astype(wide))
        x += along(problem, centre)
        return cls(
            problem,
            x=placed(x.astype(dtype)),
            # Written, so that no call meets a page for the first time.
            out=placed(np.full(shape, np.nan, dtype)),
            some_weight=(rng.uniform(0.5, 1.5, channels) if affine else ones).astype(dtype),
            some_bias=(rng.standard_normal(channels) if affine else 0 * ones).astype(dtype),
            running_mean=centre,
            running_var=rng.uniform(0.5, 1.5, channels).astype(wide),
            grad=placed(np.resize(noise[::-1].astype(dtype), shape if problem.backward else 0)),
        )

    @property
    def weight(self) -> Array | None:
        """The weight, if there is one."""
        return self.some_weight if self.problem.affine else None

    @property
    def bias(self) -> Array | None:
        """The bias, if there is one (RMS norm has none)."""
        has_bias = self.problem.affine and self.problem.operation != "rms_norm"
        return self.some_bias if has_bias else None

    @cached_property
    def aligned(self) -> Array:
        """An output like `out` that begins with a cache line."""
        return placed(self.out, 0)

    def moves(self, output: str = "given") -> dict[str, Call]:
        """Return parallel moves of the same bytes, each with ordinary and with streaming stores.

        For a forward copies of the input to the output. For a backward passes that read the input
        and a gradient and write the output, and the same with both read before.
        """
        out = self.out if output == "given" else self.aligned
        moves = {"copy": partial(_core.parallel_copy, self.x, out)}
        if self.problem.backward:
            once = partial(_core.parallel_pass, self.grad, self.x, out)
            moves = {"pass": once, "two passes": partial(once, twice=True)}
        streamed = {f"{name} streamed": partial(f, stream=True) for name, f in moves.items()}
        return {**moves, **streamed}

    def call(self, output: str = "given", library: ModuleType = fastnorm) -> Call:
        """Return the call of fastnorm, or of another build of it, written as a user would.

        The output is ``out`` (given), the same on the start of a cache line (aligned), or an array
        of its own (new).
        """
        call = self._backward(library) if self.problem.backward else self._forward(library)
        if output == "new":
            return call
        function, arguments, keywords = call.func, call.args, call.keywords
        out = self._view(self.out if output == "given" else self.aligned)
        # A lambda, because a partial takes longer to pass keywords on.
        return lambda: function(*arguments, out=out, **keywords)

    def outputs(self, result: Any) -> Outputs:
        """Return what `call` has computed, the first with its axes in the order of memory."""
        first, *others = result if self.problem.backward else (result,)
        return (first.transpose(np.argsort(self.problem.axes)), *others)

    def _forward(self, library: ModuleType) -> partial[Any]:
        problem, weight, bias = self.problem, self.weight, self.bias
        arguments: tuple[Any, ...]
        match problem.operation:
            case "layer_norm" | "rms_norm":
                size = problem.channels if problem.layout[-1] == "c" else None
                affine = (weight,) if problem.operation == "rms_norm" else (weight, bias)
                arguments = size, *affine, EPS
            case "group_norm":
                arguments = problem.num_groups, weight, bias, EPS
            case "instance_norm":
                arguments = None, None, weight, bias, True, MOMENTUM, EPS
            case _:
                running = self.running_mean, self.running_var
                arguments = *running, weight, bias, problem.training, MOMENTUM, EPS
        function = getattr(library, problem.operation)
        return partial(function, self._view(self.x), *arguments, **self._axis())

    def _backward(self, library: ModuleType) -> partial[Any]:
        """Do the forward, and return the call that goes back."""
        _, *stats = self._forward(library)(return_stats=True)
        problem, keywords = self.problem, self._axis()
        if problem.operation == "batch_norm":
            keywords["training"] = problem.training
        groups = (problem.num_groups,) * (problem.operation == "group_norm")
        arguments = self._view(self.grad), self._view(self.x), *stats, *groups, self.weight
        return partial(getattr(library, problem.op), *arguments, **keywords)

    def _view(self, array: Array) -> Array:
        """Return an array with its axes in the order of the layout."""
        return array.transpose(self.problem.axes)

    def _axis(self) -> dict[str, Any]:
        """Return the keyword for channels elsewhere than the function expects them."""
        axis = self.problem.layout.index("c")
        if self.problem.operation in ROWS:
            return {} if axis == self.x.ndim - 1 else {"axis": axis}
        return {} if axis == 1 else {"channel_axis": axis}


def along(problem: Problem, values: Array) -> Array:
    """Shape one value per channel so that it broadcasts against the array in memory."""
    shape = [1] * len(problem.shape)
    shape[problem.channel_axis] = -1
    return values.reshape(shape)


def placed(values: Array, place: int = 16) -> Array:
    """Copy an array to some bytes after the start of a page.

    At 16 large arrays start when glibc fetches their memory; elsewhere they start on some multiple
    of 16 bytes that changes from run to run, and the times with it.
    """
    page = 4096
    memory = np.empty(values.nbytes + page, np.uint8)
    start = (place - memory.ctypes.data) % page
    array = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array
