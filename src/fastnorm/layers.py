"""Normalisation layers: parameters and running statistics around the functions.

A layer owns arrays and decides which of them a call gets; everything that looks at the
data is in `functional`. Names, defaults and state-dict keys are those of ``torch.nn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, SupportsIndex

import numpy as np

from . import _arguments as check
from ._layer import Kept, Layer
from ._types import Array, DTypeLike, Indices
from .functional import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from .gradients import (
    batch_norm_backward,
    group_norm_backward,
    instance_norm_backward,
    layer_norm_backward,
    rms_norm_backward,
)

__all__ = ["BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _ChannelLayer(Layer):
    """A layer with one weight and bias for each channel."""

    def __init__(
        self, channels: int, affine: bool, bias: bool, channel_axis: SupportsIndex, dtype: DTypeLike
    ) -> None:
        super().__init__((channels,), affine, bias, dtype)
        self.affine = bool(affine)
        self.channel_axis = check.integer("channel_axis", channel_axis)

    def _check_channels(self, x: Array) -> None:
        """Refuse other numbers of channels, where no weight tells the function how many."""
        name = self._positional[-1]
        shape, axis, channels = getattr(x, "shape", ()), self.channel_axis, getattr(self, name)
        if -len(shape) <= axis < len(shape) and shape[axis] != channels:
            raise ValueError(
                f"x: has shape {shape}, which is {shape[axis]} channels at channel_axis {axis}; "
                f"takes {channels}, the layer's {name}"
            )


class _TrackingLayer(_ChannelLayer):
    """Batch and instance normalisation: all but the defaults and the function called."""

    _state = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    _positional = ("num_features",)
    _named = ("eps", "momentum", "affine", "track_running_stats")
    _normalise: ClassVar[Callable[..., Array | tuple[Array, ...]]]

    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        channel_axis: SupportsIndex,
        dtype: DTypeLike,
    ) -> None:
        self.num_features = check.positive_int("num_features", num_features)
        self.eps = check.eps(eps)
        self.momentum = None if momentum is None else check.momentum(momentum)
        super().__init__(self.num_features, affine, bias, channel_axis, dtype)
        self.track_running_stats = bool(track_running_stats)
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            # Steps of a running average soon vanish in the rounding of half precision.
            wide = np.float64 if self.dtype == np.float64 else np.float32
            self.running_mean = np.zeros(self.num_features, wide)
            self.running_var = np.ones(self.num_features, wide)
            self.num_batches_tracked = np.array(0, np.int64)

    @property
    def _frozen(self) -> bool:
        return not self.training and self.running_mean is not None

    def _call(self, x: Array, out: Array | None, return_stats: bool) -> Array | tuple[Array, ...]:
        if self.weight is None:
            self._check_channels(x)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / (int(self.num_batches_tracked or 0) + 1)
        result = self._normalise(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            not self._frozen,
            momentum,
            self.eps,
            channel_axis=self.channel_axis,
            out=out,
            return_stats=return_stats,
        )
        # Only now, for a refused call does not count, nor does a batch without a value.
        y = result[0] if isinstance(result, tuple) else result
        if self.training and self.num_batches_tracked is not None and y.size:
            self.num_batches_tracked += 1
        return result


class BatchNorm(_TrackingLayer):
    """Batch normalisation: every channel over the batch and all positions [1]_.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias``, in training with the mean and the
    biased variance of the batch, in evaluation with the running ones. Training moves
    these by ``running = (1 - momentum) * running + momentum * batch``, where the batch's
    variance is the unbiased one.

    Parameters
    ----------
    num_features : int
        The number of channels C.
    eps : float
        Added to the variance.
    momentum : float or None
        The weight of the newest batch, from 0 to 1; None makes the running statistics the
        mean over all batches since `num_batches_tracked` was 0.
    affine : bool
        Whether there are a weight and a bias.
    track_running_stats : bool
        Whether there are running statistics. Without them, evaluation too uses the batch's.
    bias : bool
        Whether there is a bias, given `affine`.
    channel_axis : int
        The axis of the channels: 1 for NCHW, -1 for NHWC.
    dtype : dtype
        Of the parameters: float32, float64, float16 or bfloat16. The input's is independent.

    Attributes
    ----------
    weight, bias : array of shape (C,) or None
        Ones and zeros at first, of the layer's dtype; other arrays may be assigned.
    running_mean, running_var : array of shape (C,) or None
        Zeros and ones at first; float64 in a float64 layer, else float32.
    num_batches_tracked : array of shape () and dtype int64, or None
        Batches that the running statistics have seen, empty ones not counted.
    training : bool
        True at first; see `train` and `eval`. A call in training keeps what `backward` needs.
    grads : dict of str to array
        What the last `backward` put there.

    Raises
    ------
    TypeError, ValueError
        By the constructor and by the call, which then has changed nothing. In training a
        channel needs more than one value.

    Notes
    -----
    The layer is called on an array of shape (N, C, ...) and returns one of the same shape and
    dtype, or `out`, which may be the input itself.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import BatchNorm
    >>> layer = BatchNorm(2)
    >>> layer(np.array([[1, 10], [3, 30]], np.float32)).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.running_mean, layer.running_var
    (array([0.2, 2. ], dtype=float32), array([ 1.1, 20.9], dtype=float32))
    >>> layer.eval()(np.array([[0.2, 2]], np.float32))
    array([[0., 0.]], dtype=float32)
    """

    _normalise = staticmethod(batch_norm)

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        mean, rstd = kept.stats
        axis, training = self.channel_axis, not kept.frozen
        return batch_norm_backward(
            grad, kept.x, mean, rstd, kept.weight, training=training, channel_axis=axis, out=out
        )

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias, channel_axis, dtype
        )


class InstanceNorm(_TrackingLayer):
    """Instance normalisation: every channel of every sample over all positions [1]_.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the mean and the biased variance
    of the sample's channel. Where running statistics are tracked they are averages over the
    samples, and evaluation uses them, as batch normalisation does.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, bias, channel_axis, dtype
        As in `BatchNorm`; parameters and running statistics are off by default.

    Attributes
    ----------
    weight, bias, running_mean, running_var, num_batches_tracked, training, grads
        As in `BatchNorm`.

    Raises
    ------
    TypeError, ValueError
        By the constructor and by the call, which then has changed nothing. A channel of a
        sample needs more than one value.

    Notes
    -----
    The layer is called on an array of shape (N, C, ...), never on a single sample without N.

    `num_batches_tracked` counts, and ``momentum=None`` is the mean over all batches; torch's
    instance norm leaves the count at 0 and with ``momentum=None`` its running statistics too.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi and V. Lempitsky, "Instance Normalization: The Missing
       Ingredient for Fast Stylization", 2016, arXiv:1607.08022.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import InstanceNorm
    >>> layer = InstanceNorm(2)
    >>> layer(np.array([[[1, 3], [10, 30]]], np.float32)).round(3)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """

    _normalise = staticmethod(instance_norm)

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        x, axis, (mean, rstd) = kept.x, self.channel_axis, kept.stats
        if not kept.frozen:
            return instance_norm_backward(
                grad, x, mean, rstd, kept.weight, channel_axis=axis, out=out
            )
        # By running statistics, which all samples share: what batch normalisation does. Those of
        # the first sample are taken, and zeros where there is none.
        mean, rstd = np.resize(mean, self.num_features), np.resize(rstd, self.num_features)
        return batch_norm_backward(
            grad, x, mean, rstd, kept.weight, training=False, channel_axis=axis, out=out
        )

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        channel_axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias, channel_axis, dtype
        )


class GroupNorm(_ChannelLayer):
    """Group normalisation: groups of neighbouring channels over all positions [1]_.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the mean and the biased variance
    of a sample's group, and a weight and a bias for each channel.

    Parameters
    ----------
    num_groups : int
        The number of groups, a divisor of `num_channels`.
    num_channels : int
        The number of channels C.
    eps, affine, bias, channel_axis, dtype
        As in `BatchNorm`.

    Attributes
    ----------
    weight, bias : array of shape (C,) or None
        Ones and zeros at first, of the layer's dtype.
    training : bool
        Makes no difference to the result; a call in training keeps what `backward` needs.
    grads : dict of str to array
        What the last `backward` put there.

    Raises
    ------
    TypeError, ValueError
        By the constructor and by the call, which then has changed nothing.

    Notes
    -----
    The layer is called on an array of shape (N, C, ...).

    References
    ----------
    .. [1] Y. Wu and K. He, "Group Normalization", 2018, arXiv:1803.08494.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import GroupNorm
    >>> GroupNorm(2, 4)(np.array([[1, 3, 10, 30]], np.float32)).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _positional = ("num_groups", "num_channels")
    _named = ("eps", "affine")

    def __init__(
        self,
        num_groups: SupportsIndex,
        num_channels: SupportsIndex,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        channel_axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_groups = check.positive_int("num_groups", num_groups)
        self.num_channels = check.positive_int("num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"num_groups: is {self.num_groups}; takes a divisor of num_channels, which is "
                f"{self.num_channels}"
            )
        self.eps = check.eps(eps)
        super().__init__(self.num_channels, affine, bias, channel_axis, dtype)

    def _call(self, x: Array, out: Array | None, return_stats: bool) -> Array | tuple[Array, ...]:
        if self.weight is None:
            self._check_channels(x)
        return group_norm(
            x,
            self.num_groups,
            self.weight,
            self.bias,
            self.eps,
            channel_axis=self.channel_axis,
            out=out,
            return_stats=return_stats,
        )

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        mean, rstd = kept.stats
        axis, groups = self.channel_axis, self.num_groups
        return group_norm_backward(
            grad, kept.x, mean, rstd, groups, kept.weight, channel_axis=axis, out=out
        )


class _ShapeLayer(Layer):
    """A layer with one weight and bias for each element of what is normalised."""

    _positional = ("normalized_shape",)
    _named = ("eps", "elementwise_affine")

    def __init__(
        self,
        normalized_shape: Indices,
        elementwise_affine: bool,
        bias: bool,
        axis: Indices | None,
        dtype: DTypeLike,
    ) -> None:
        self.normalized_shape = check.shape_argument(normalized_shape)
        self.axis: tuple[int, ...] | None = None
        if axis is not None:
            axes = axis if isinstance(axis, (tuple, list)) else (axis,)
            self.axis = tuple(check.integer("axis", a) for a in axes)
            if len(self.axis) != len(self.normalized_shape):
                raise ValueError(
                    f"axis: is {self.axis}; takes one axis for each length in normalized_shape, "
                    f"which is {self.normalized_shape}"
                )
        super().__init__(self.normalized_shape, elementwise_affine, bias, dtype)
        self.elementwise_affine = bool(elementwise_affine)


class LayerNorm(_ShapeLayer):
    """Layer normalisation: every sample over its last axes, or over other ones [1]_.

    ``y = (x - mean) / sqrt(var + eps) * weight + bias`` with the mean and the biased variance
    over the normalised axes, and a weight and a bias for each of their elements.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The lengths of the normalised axes.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are a weight and a bias.
    bias : bool
        Whether there is a bias, given `elementwise_affine`.
    axis : int, tuple of int or None
        The normalised axes, one for each of `normalized_shape`; None for the last ones.
        ``LayerNorm(C, axis=1)`` normalises over the channels of NCHW.
    dtype : dtype
        Of the parameters: float32, float64, float16 or bfloat16. The input's is independent.

    Attributes
    ----------
    weight, bias : array of shape `normalized_shape` or None
        Ones and zeros at first, of the layer's dtype.
    training : bool
        Makes no difference to the result; a call in training keeps what `backward` needs.
    grads : dict of str to array
        What the last `backward` put there.

    Raises
    ------
    TypeError, ValueError
        By the constructor and by the call, which then has changed nothing.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016,
       arXiv:1607.06450.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import LayerNorm
    >>> LayerNorm(2)(np.array([[1, 3], [30, 10]], np.float32)).round(3)
    array([[-1.,  1.],
           [ 1., -1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: Indices,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        axis: Indices | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.eps = check.eps(eps)
        super().__init__(normalized_shape, elementwise_affine, bias, axis, dtype)

    def _call(self, x: Array, out: Array | None, return_stats: bool) -> Array | tuple[Array, ...]:
        shape, weight, bias = self.normalized_shape, self.weight, self.bias
        return layer_norm(
            x, shape, weight, bias, self.eps, axis=self.axis, out=out, return_stats=return_stats
        )

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        mean, rstd = kept.stats
        shape, axis = self.normalized_shape, self.axis
        return layer_norm_backward(
            grad, kept.x, mean, rstd, kept.weight, normalized_shape=shape, axis=axis, out=out
        )


class RMSNorm(_ShapeLayer):
    """Root-mean-square normalisation over the last axes, or over other ones [1]_.

    ``y = x / sqrt(mean(x**2) + eps) * weight``: layer normalisation without subtracting the
    mean and without a bias.

    Parameters
    ----------
    normalized_shape, elementwise_affine, axis, dtype
        As in `LayerNorm`.
    eps : float or None
        Added to the mean square; None is the machine epsilon of the arithmetic, which is
        float64 for float64 input and float32 for all other.

    Attributes
    ----------
    weight : array of shape `normalized_shape` or None
        Ones at first, of the layer's dtype.
    training : bool
        Makes no difference to the result; a call in training keeps what `backward` needs.
    grads : dict of str to array
        What the last `backward` put there.

    Raises
    ------
    TypeError, ValueError
        By the constructor and by the call, which then has changed nothing.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019,
       arXiv:1910.07467.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import RMSNorm
    >>> RMSNorm(2)(np.array([[1, 7], [3, 3]], np.float32)).round(3)
    array([[0.2, 1.4],
           [1. , 1. ]], dtype=float32)
    """

    _state = ("weight",)

    def __init__(
        self,
        normalized_shape: Indices,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        axis: Indices | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.eps = None if eps is None else check.eps(eps)
        super().__init__(normalized_shape, elementwise_affine, False, axis, dtype)

    def _call(self, x: Array, out: Array | None, return_stats: bool) -> Array | tuple[Array, ...]:
        shape, weight = self.normalized_shape, self.weight
        return rms_norm(
            x, shape, weight, self.eps, axis=self.axis, out=out, return_stats=return_stats
        )

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        (rstd,) = kept.stats
        shape, axis = self.normalized_shape, self.axis
        return rms_norm_backward(
            grad, kept.x, rstd, kept.weight, normalized_shape=shape, axis=axis, out=out
        )
