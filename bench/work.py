"""The arrays of a problem, and fastnorm's calls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnorm
from bench.problems import Problem
from fastnorm import _core
from fastnorm._demo import EPS, SEED, Array, Data, _placed, copies, make_data

MOMENTUM = 0.1

COPY, STREAMING_COPY = "copy", "streaming copy"
PASS, STREAMING_PASS = "pass", "streaming pass"
TWO_PASSES, STREAMING_TWO_PASSES = "two passes", "streaming two passes"
YARDSTICKS = (COPY, STREAMING_COPY, PASS, STREAMING_PASS, TWO_PASSES, STREAMING_TWO_PASSES)
"""What times are compared with, see `Work.yardsticks`."""

Call = Callable[[], object]
Written = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function, its arguments and its keywords."""

Outputs = tuple[Array, ...]
"""What was computed: the result; of a backward the gradients of input, weight and bias."""


@dataclass(frozen=True)
class Saved:
    """What a backward gets besides the input and the weight.

    Parameters
    ----------
    grad : ndarray
        Gradient of the forward's result; its axes are in the order of memory.
    stats : tuple of ndarray
        mean and rstd as the forward returns them; of RMS norm rstd alone.
    """

    grad: Array
    stats: tuple[Array, ...]


@dataclass(frozen=True)
class Work:
    """A problem and its arrays.

    Parameters
    ----------
    problem : Problem
        What to do.
    data : Data
        The arrays; those of the input's size have their axes in the order of memory.
    saved : Saved, optional
        What a backward gets besides.
    """

    problem: Problem
    data: Data
    saved: Saved | None = None

    @classmethod
    def of(cls, problem: Problem) -> Work:
        """Make the arrays, the same ones in every run; for a backward, do the forward."""
        work = cls(problem, make_data(problem.memory_case))
        if not problem.backward:
            return work
        x = work.data.x
        noise = np.random.default_rng(SEED + 1).standard_normal(1_000_003, dtype=np.float32)
        grad = _placed(np.resize(noise.astype(x.dtype), x.shape))
        function, arguments, keywords = work._forward()
        _, *stats = function(*arguments, return_stats=True, **keywords)
        return cls(problem, work.data, Saved(grad, tuple(stats)))

    @property
    def operation(self) -> str:
        """Name of the forward's function in `fastnorm`."""
        return self.problem.case.operation

    @property
    def training(self) -> bool:
        """Whether a batch norm measures its input."""
        return self.problem.case.training

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in memory."""
        return self.problem.memory.index("C")

    @property
    def channels_last(self) -> bool:
        """Whether the channels are the last axis in memory."""
        return self.channel_axis == self.data.x.ndim - 1

    @property
    def weight(self) -> Array | None:
        """The weight, if there is one."""
        return self.data.weight if self.problem.affine else None

    @property
    def bias(self) -> Array | None:
        """The bias, if there is one (RMS norm has none)."""
        has_bias = self.problem.affine and self.operation != "rms_norm"
        return self.data.bias if has_bias else None

    @property
    def neutral_weight(self) -> Array:
        """The weight, or ones, for libraries that insist on a weight."""
        return self.data.weight if self.problem.affine else np.ones_like(self.data.weight)

    @property
    def neutral_bias(self) -> Array:
        """The bias, or zeros, for libraries that insist on a bias."""
        return self.data.bias if self.problem.affine else np.zeros_like(self.data.bias)

    def along_channels(self, values: Array) -> Array:
        """Shape one value per channel so that it broadcasts against the array in memory."""
        shape = [1] * self.data.x.ndim
        shape[self.channel_axis] = -1
        return values.reshape(shape)

    @property
    def grad(self) -> Array:
        """The gradient of the result, for a backward."""
        assert self.saved is not None
        return self.saved.grad

    def yardsticks(self) -> dict[str, Call]:
        """Return parallel moves of the same bytes, each with ordinary and with streaming stores.

        For a forward the copies of the input to the output. For a backward passes that read the
        input and a gradient and write the output, and the same with both read before.
        """
        if self.saved is None:
            return dict(copies(self.data))
        move = partial(_core.parallel_pass, self.grad, self.data.x, self.data.out)
        return {
            PASS: partial(move, stream=False),
            STREAMING_PASS: partial(move, stream=True),
            TWO_PASSES: partial(move, stream=False, twice=True),
            STREAMING_TWO_PASSES: partial(move, stream=True, twice=True),
        }

    def call(self, *, new_output: bool = False) -> Call:
        """Return fastnorm's call, written as a user would.

        It writes into ``data.out``, or makes a new output each time.
        """
        function, arguments, keywords = self._forward() if self.saved is None else self._backward()
        if new_output:
            return partial(function, *arguments, **keywords)
        # A lambda, because a partial takes longer to pass keywords on.
        out = self.data.out.transpose(self.problem.axes)
        return lambda: function(*arguments, out=out, **keywords)

    def outputs(self, result: Any) -> Outputs:
        """Return what `call`, which wrote into ``data.out``, has computed."""
        return (self.data.out,) if self.saved is None else (self.data.out, *result[1:])

    def _forward(self) -> Written:
        """Return what one writes for the forward, but for `out`."""
        case = self.problem.case
        x = self.data.x.transpose(self.problem.axes)
        weight, bias = self.weight, self.bias
        size = x.shape[-1] if case.channel_axis == x.ndim - 1 else None
        arguments: tuple[Any, ...]
        match self.operation:
            case "layer_norm":
                return fastnorm.layer_norm, (x, size, weight, bias, EPS), self._axis()
            case "rms_norm":
                return fastnorm.rms_norm, (x, size, weight, EPS), self._axis()
            case "group_norm":
                arguments = x, case.num_groups, weight, bias, EPS
                return fastnorm.group_norm, arguments, self._axis()
            case "instance_norm":
                arguments = x, None, None, weight, bias, True, MOMENTUM, EPS
                return fastnorm.instance_norm, arguments, self._axis()
            case _:
                running = self.data.running_mean, self.data.running_var
                arguments = x, *running, weight, bias, self.training, MOMENTUM, EPS
                return fastnorm.batch_norm, arguments, self._axis()

    def _backward(self) -> Written:
        """Return what one writes for the backward, but for `out`."""
        assert self.saved is not None
        axes = self.problem.axes
        first = self.grad.transpose(axes), self.data.x.transpose(axes), *self.saved.stats
        keywords = self._axis()
        match self.operation:
            case "layer_norm":
                return fastnorm.layer_norm_backward, (*first, self.weight), keywords
            case "rms_norm":
                return fastnorm.rms_norm_backward, (*first, self.weight), keywords
            case "group_norm":
                arguments = *first, self.problem.case.num_groups, self.weight
                return fastnorm.group_norm_backward, arguments, keywords
            case "instance_norm":
                return fastnorm.instance_norm_backward, (*first, self.weight), keywords
            case _:
                keywords = {"training": self.training, **keywords}
                return fastnorm.batch_norm_backward, (*first, self.weight), keywords

    def _axis(self) -> dict[str, Any]:
        """Return the keyword for channels elsewhere than the function expects them."""
        axis, last = self.problem.case.channel_axis, self.data.x.ndim - 1
        if self.operation in ("layer_norm", "rms_norm"):
            return {} if axis == last else {"axis": axis}
        return {} if axis == 1 else {"channel_axis": axis}
