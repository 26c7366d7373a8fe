"""The layers with a weight for each normalised element: layer and RMS normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from . import _arguments as check
from ._layer import Array, Kept, Layer
from .functional import layer_norm, rms_norm
from .gradients import layer_norm_backward, rms_norm_backward

_Integers = SupportsIndex | Sequence[SupportsIndex]


class _ShapeLayer(Layer):
    """A layer with one weight and bias for each element of what is normalised."""

    _positional = ("normalized_shape",)
    _named = ("eps", "elementwise_affine")

    def __init__(
        self,
        normalized_shape: _Integers,
        elementwise_affine: bool,
        bias: bool,
        axis: _Integers | None,
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
        normalized_shape: _Integers,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        axis: _Integers | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.eps = check.eps(eps)
        super().__init__(normalized_shape, elementwise_affine, bias, axis, dtype)

    def __call__(self, x: Array, /, *, out: Array | None = None) -> Array:
        """Normalise `x`; see the class."""
        shape, weight, bias = self.normalized_shape, self.weight, self.bias
        eps, axis = self.eps, self.axis
        if not (self.training or self._keeps_in_evaluation):
            return layer_norm(x, shape, weight, bias, eps, axis=axis, out=out)
        y, mean, rstd = layer_norm(
            x, shape, weight, bias, eps, axis=axis, out=out, return_stats=True
        )
        self._keep(x, out, mean, rstd)
        return y

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
        normalized_shape: _Integers,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        axis: _Integers | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.eps = None if eps is None else check.eps(eps)
        super().__init__(normalized_shape, elementwise_affine, False, axis, dtype)

    def __call__(self, x: Array, /, *, out: Array | None = None) -> Array:
        """Normalise `x`; see the class."""
        shape, weight, eps, axis = self.normalized_shape, self.weight, self.eps, self.axis
        if not (self.training or self._keeps_in_evaluation):
            return rms_norm(x, shape, weight, eps, axis=axis, out=out)
        y, rstd = rms_norm(x, shape, weight, eps, axis=axis, out=out, return_stats=True)
        self._keep(x, out, rstd)
        return y

    def _gradients(self, grad: Array, kept: Kept, out: Array | None) -> tuple[Array, ...]:
        (rstd,) = kept.stats
        shape, axis = self.normalized_shape, self.axis
        return rms_norm_backward(
            grad, kept.x, rstd, kept.weight, normalized_shape=shape, axis=axis, out=out
        )
