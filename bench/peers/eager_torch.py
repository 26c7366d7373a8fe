"""torch, eager: the functions of ``torch.nn.functional``, and their backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from bench.peers import Bound, torch_backward
from bench.work import MOMENTUM, Outputs, Work
from fastnorm._demo import EPS, Array, scalar_type


class Torch:
    """torch; NHWC goes to it as ``channels_last`` memory."""

    versions: tuple[str, ...] = ("torch",)
    note = (
        "makes a new output in each call; backward: native_*_backward alone, with saved "
        "statistics; of RMS and instance norm autograd.grad of a forward that was done before"
    )

    def __init__(self) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_grad_enabled(False)

    def use_threads(self, threads: int) -> None:
        """Tell torch, if it is not what it uses."""
        if self.torch.get_num_threads() != threads:
            self.torch.set_num_threads(threads)

    def bind(self, work: Work, threads: int) -> Bound:
        """Return a call of the function."""
        function, arguments = (
            torch_backward.kernel(self, work) if work.problem.backward else self.function(work)
        )
        return Bound(partial(function, *arguments), partial(self.outputs, work))

    def function(self, work: Work) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function that does the forward, and its arguments."""
        functional = self.torch.nn.functional
        case, data = work.problem.case, work.data
        parameters = work.weight, work.bias
        if work.problem.backward:
            # Gradients of both are wanted, whether there are both or not.
            parameters = work.neutral_weight, work.neutral_bias
        x, weight, bias = map(self.tensor, (data.x, *parameters))
        if work.operation in ("layer_norm", "rms_norm"):
            function = getattr(functional, work.operation)
            if not work.channels_last:
                function = _over_channels(function)
            size = (x.shape[work.channel_axis],)
            affine = (weight,) if work.operation == "rms_norm" else (weight, bias)
            return function, (x, size, *affine, EPS)
        x = self.channels_second(work, x)
        if work.operation == "group_norm":
            return functional.group_norm, (x, case.num_groups, weight, bias, EPS)
        if work.operation == "instance_norm":
            return functional.instance_norm, (x, None, None, weight, bias, True, MOMENTUM, EPS)
        running = self.tensor(data.running_mean), self.tensor(data.running_var)
        if weight is not None and weight.dtype != running[0].dtype:
            # With float32 running statistics torch wants all parameters so.
            weight, bias = weight.float(), bias.float()
        settings = work.training, MOMENTUM, EPS
        return functional.batch_norm, (x, *running, weight, bias, *settings)

    def tensor(self, array: Array | None) -> Any:
        """Return a tensor on the array's memory."""
        if array is not None and array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view("i2")).view(self.torch.bfloat16)
        return None if array is None else self.torch.from_numpy(array)

    def channels_second(self, work: Work, tensor: Any) -> Any:
        """Move the channels to axis 1, where functions other than layer and RMS norm want them."""
        if work.operation in ("layer_norm", "rms_norm"):
            return tensor
        return tensor.movedim(work.channel_axis, 1)

    def outputs(self, work: Work, result: Any) -> Outputs:
        """Return the results as arrays."""
        if not work.problem.backward:
            return (self.array(work, result),)
        first, *others = result
        return (self.array(work, first), *(values.double().numpy() for values in others))

    def array(self, work: Work, result: Any) -> Array:
        """Return the result as an array, its axes in the order of memory."""
        dtype = scalar_type(work.problem.case.dtype)
        if dtype.name == "bfloat16":
            result = result.view(self.torch.int16)
        array: Array = result.numpy().view(dtype)
        if work.operation in ("layer_norm", "rms_norm"):
            return array
        # To where `function` took it from.
        order = [axis for axis in range(array.ndim) if axis != 1]
        order.insert(work.channel_axis, 1)
        return array.transpose(order)


def _over_channels(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that normalises over axis 1, written with two permutations."""

    def over_channels(x: Any, *arguments: Any) -> Any:
        return function(x.movedim(1, -1), *arguments).movedim(-1, 1)

    return over_channels


def make(threads: int) -> Torch:
    """Return the peer."""
    peer = Torch()
    peer.use_threads(threads)
    return peer
