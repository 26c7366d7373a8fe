"""The arrays of a problem, and fastnorm's calls on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastnorm
from bench.problems import Problem
from fastnorm._demo import EPS, Array, Data, copies, make_data

MOMENTUM = 0.1

Call = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """A problem and its arrays.

    Parameters
    ----------
    problem : Problem
        What to do.
    data : Data
        The arrays; those of the input's size have their axes in the order of memory.
    """

    problem: Problem
    data: Data

    @classmethod
    def of(cls, problem: Problem) -> Work:
        """Make the arrays, the same ones in every run."""
        return cls(problem, make_data(problem.memory_case))

    @property
    def operation(self) -> str:
        """Name of the function in `fastnorm`."""
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

    def copies(self) -> dict[str, Call]:
        """Return the parallel copies of the input to the output."""
        return dict(copies(self.data))

    def call(self, *, new_output: bool = False) -> Call:
        """Return fastnorm's call, written as a user would.

        It writes into ``data.out``, or makes a new output each time.
        """
        case, axes = self.problem.case, self.problem.axes
        x = self.data.x.transpose(axes)
        weight, bias = self.weight, self.bias
        last = case.channel_axis == x.ndim - 1
        keywords: dict[str, Any] = {}
        function: Callable[..., object]
        arguments: tuple[object, ...]
        match self.operation:
            case "layer_norm":
                function = fastnorm.layer_norm
                arguments = (x, x.shape[-1] if last else None, weight, bias, EPS)
            case "rms_norm":
                function, arguments = fastnorm.rms_norm, (x, None, weight, EPS)
                arguments = (x, x.shape[-1] if last else None, weight, EPS)
            case "group_norm":
                function, arguments = fastnorm.group_norm, (x, case.num_groups, weight, bias, EPS)
            case "instance_norm":
                function = fastnorm.instance_norm
                arguments = (x, None, None, weight, bias, True, MOMENTUM, EPS)
            case _:
                function = fastnorm.batch_norm
                running = self.data.running_mean, self.data.running_var
                arguments = (x, *running, weight, bias, self.training, MOMENTUM, EPS)
        if self.operation in ("layer_norm", "rms_norm"):
            if not last:
                keywords["axis"] = case.channel_axis
        elif case.channel_axis != 1:
            keywords["channel_axis"] = case.channel_axis
        if new_output:
            return partial(function, *arguments, **keywords)
        # A lambda, because a partial takes longer to pass keywords on.
        out = self.data.out.transpose(axes)
        return lambda: function(*arguments, out=out, **keywords)
