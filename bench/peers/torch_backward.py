"""The backward of torch: its own kernels where it has some, or what autograd does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.work import Work
from fastnorm._demo import EPS

if TYPE_CHECKING:
    from bench.peers.eager_torch import Torch

Backward = tuple[Callable[..., Any], tuple[Any, ...]]

ALL = [True, True, True]
"""The gradients that a kernel computes: of input, weight and bias."""


def kernel(peer: Torch, work: Work) -> Backward:
    """Return the function that does the backward, and its arguments.

    For layer, batch and group norm that is the kernel that autograd would call, with statistics
    that torch's own forward has saved. Of the others, which torch composes of several functions, it
    is autograd itself, see `autograd`.
    """
    if work.operation in ("rms_norm", "instance_norm"):
        return autograd(peer, work, *peer.function(work))
    aten = peer.torch.ops.aten
    _, (x, *others) = peer.function(work)
    grad = peer.channels_second(work, peer.tensor(work.grad))
    weight, bias = map(peer.tensor, (work.neutral_weight, work.neutral_bias))
    if work.operation == "layer_norm":
        channel, size = work.channel_axis, [work.data.x.shape[work.channel_axis]]
        x, grad = x.movedim(channel, -1), grad.movedim(channel, -1)
        _, *stats = aten.native_layer_norm(x, size, weight, bias, EPS)
        arguments = grad, x, size, *stats, weight, bias, ALL
        return _back_to(channel, aten.native_layer_norm_backward), arguments
    if work.operation == "group_norm":
        sizes = *x.shape[:2], x[0, 0].numel(), work.problem.case.num_groups
        _, *stats = aten.native_group_norm(x, weight, bias, *sizes, EPS)
        return aten.native_group_norm_backward, (grad, x, *stats, weight, *sizes, ALL)
    *running, weight, bias, training, _, _ = others
    _, *stats = aten.native_batch_norm(x, weight, bias, *running, training, 0.0, EPS)
    arguments = grad, x, weight, *running, *stats, training, EPS, ALL
    return aten.native_batch_norm_backward, arguments


def autograd(
    peer: Torch, work: Work, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Backward:
    """Do the forward by a function, and return what goes back from there, and its arguments."""
    running = (1, 2) if work.operation == "batch_norm" else ()
    inputs = [
        argument.requires_grad_()
        for index, argument in enumerate(arguments)
        if index not in running and isinstance(argument, peer.torch.Tensor)
    ]
    with peer.torch.enable_grad():
        y = function(*arguments)
    grad = peer.channels_second(work, peer.tensor(work.grad))
    return partial(peer.torch.autograd.grad, retain_graph=True), (y, inputs, grad)


def _back_to(channel: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the channels of its first result, now last, moved to an axis."""

    def back_to(*arguments: Any) -> Any:
        dx, *others = function(*arguments)
        return dx.movedim(-1, channel), *others

    return back_to
