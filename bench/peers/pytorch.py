"""torch: the functions of ``torch.nn.functional``, eager and compiled, and autograd's backward."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from bench.peers import Bound, UnsupportedError
from bench.shapes import ROWS
from bench.work import EPS, MOMENTUM, Array, Outputs, Work

Function = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function, and its arguments."""


class Torch:
    """torch; NHWC goes to it as ``channels_last`` memory."""

    versions = ("torch",)
    note = "makes a new output in each call; backward: autograd.grad of a forward done before"

    def __init__(self, threads: int) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_grad_enabled(False)
        self.torch.set_num_threads(threads)

    def bind(self, work: Work) -> Bound:
        """Return a call of the function, or of its backward."""
        function, arguments = self.function(work)
        if work.problem.backward:
            function, arguments = self.backward(work, function, *arguments)
        return Bound(partial(function, *arguments), partial(self.outputs, work))

    def function(self, work: Work) -> Function:
        """Return the function that does the forward, and its arguments."""
        functional, problem = self.torch.nn.functional, work.problem
        # Gradients of both are wanted, whether there are both or not.
        neutral = work.some_weight, work.some_bias
        parameters = neutral if problem.backward else (work.weight, work.bias)
        x, weight, bias = map(self.tensor, (work.x, *parameters))
        if problem.operation in ROWS:
            norm = getattr(functional, problem.operation)
            affine = (weight,) if problem.operation == "rms_norm" else (weight, bias)
            arguments = (x, (problem.channels,), *affine, EPS)
            if problem.channels_last:
                return norm, arguments
            # Written with two permutations.
            return lambda x, *rest: norm(x.movedim(1, -1), *rest).movedim(-1, 1), arguments
        x = self.channels_second(work, x)
        if problem.operation == "group_norm":
            return functional.group_norm, (x, problem.num_groups, weight, bias, EPS)
        if problem.operation == "instance_norm":
            return functional.instance_norm, (x, None, None, weight, bias, True, MOMENTUM, EPS)
        running = self.tensor(work.running_mean), self.tensor(work.running_var)
        if weight is not None and weight.dtype != running[0].dtype:
            # With float32 running statistics torch wants all parameters so.
            weight, bias = weight.float(), bias.float()
        settings = problem.training, MOMENTUM, EPS
        return functional.batch_norm, (x, *running, weight, bias, *settings)

    def backward(self, work: Work, function: Callable[..., Any], *arguments: Any) -> Function:
        """Do the forward by a function, and return what goes back from there."""
        tensors = [value for value in arguments if isinstance(value, self.torch.Tensor)]
        running = slice(1, 3 if work.problem.operation == "batch_norm" else 1)
        del tensors[running]
        inputs = [tensor.requires_grad_() for tensor in tensors]
        with self.torch.enable_grad():
            y = function(*arguments)
        grad = self.channels_second(work, self.tensor(work.grad))
        return partial(self.torch.autograd.grad, retain_graph=True), (y, inputs, grad)

    def tensor(self, array: Array | None) -> Any:
        """Return a tensor on the array's memory."""
        if array is not None and array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view("i2")).view(self.torch.bfloat16)
        return None if array is None else self.torch.from_numpy(array)

    def channels_second(self, work: Work, tensor: Any) -> Any:
        """Move the channels to axis 1, where functions other than layer and RMS norm want them."""
        if work.problem.operation in ROWS:
            return tensor
        return tensor.movedim(work.problem.channel_axis, 1)

    def outputs(self, work: Work, result: Any) -> Outputs:
        """Return the results as arrays, that of the input's size with its axes as in memory."""
        problem = work.problem
        first, *others = result if problem.backward else (result,)
        if problem.operation not in ROWS:
            first = first.movedim(1, problem.channel_axis)
        if problem.dtype == "bfloat16":
            first = first.view(self.torch.int16)
        array: Array = first.numpy().view(problem.dtype)
        return (array, *(values.double().numpy() for values in others))


class CompiledTorch(Torch):
    """torch's functions, compiled for the one shape before they are timed."""

    note = f"compiled beforehand, for the one shape; {Torch.note}"

    def __init__(self, threads: int) -> None:
        if not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise UnsupportedError("it needs a C++ compiler")
        # Workers that compile in the background would still be there when times are taken.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        super().__init__(threads)

    def bind(self, work: Work) -> Bound:
        """Compile, and return the compiled call."""
        # Otherwise all shapes count as versions of one function, of which torch keeps eight.
        self.torch._dynamo.reset()
        # A graph whose backward is done many times may not give its memory away.
        with self.torch._functorch.config.patch(donated_buffer=False):
            bound = super().bind(work)
            bound.call()
        return bound

    def function(self, work: Work) -> Function:
        """Return the function to be compiled when it is called."""
        function, arguments = super().function(work)
        return self.torch.compile(function, dynamic=False, fullgraph=True), arguments
