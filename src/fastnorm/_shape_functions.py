"""The functions with a weight for each normalised element: layer and RMS normalisation."""

from __future__ import annotations

from typing import Literal, overload

from ._core import layer_norm as _layer_norm
from ._types import Array, ArrayLike, Ints


@overload
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
def layer_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalise each sample over its features.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}} \cdot w + b

    with the mean and the (biased) variance over the normalised axes of each sample: the same in
    training and inference, whatever the batch [1]_.

    Parameters
    ----------
    x : array_like
        At least one dimension; float32, float64, float16 or bfloat16, any strides.
    normalized_shape : int or tuple of int, optional
        The lengths of the trailing axes to normalise over; the last axis if neither this nor
        ``axis`` is given.
    weight, bias : array_like, optional
        Factors and terms per feature: the shape of the normalised axes, in x's order of axes; any
        of the four dtypes.
    eps : float, optional
        Added to the variance.
    axis : int or tuple of int, optional
        The axes to normalise over, instead of trailing ones. Over the channels of NCHW memory
        (``axis=1``) nothing is transposed.
    out : ndarray, optional
        Where to store the result: the shape and dtype of ``x``, writeable. It may be ``x``
        itself; with any other overlap, the result is as if there were none.
    return_stats : bool, optional
        Also return the statistics.

    Returns
    -------
    y : ndarray
        Shape and dtype of ``x``.
    mean, rstd : ndarray
        With ``return_stats``: the mean and 1/sqrt(var + eps), of x's shape with 1 on the
        normalised axes; float32 (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016, arXiv:1607.06450

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 2, 3], [10, 20, 30]], np.float32)
    >>> fastnorm.layer_norm(x, eps=0).round(4)
    array([[-1.2247,  0.    ,  1.2247],
           [-1.2247,  0.    ,  1.2247]], dtype=float32)
    >>> fastnorm.layer_norm(x, 3, weight=np.ones(3), bias=[0.0, 1.0, 2.0]).round(2)
    array([[-1.22,  1.  ,  3.22],
           [-1.22,  1.  ,  3.22]], dtype=float32)
    """
    return _layer_norm(x, normalized_shape, weight, bias, eps, axis, out, return_stats, True)


@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array]: ...
def rms_norm(
    x: ArrayLike,
    /,
    normalized_shape: Ints | None = None,
    weight: ArrayLike | None = None,
    eps: float | None = None,
    *,
    axis: Ints | None = None,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array]:
    r"""Divide each sample by the root of its mean square.

    .. math:: y = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \cdot w

    over the normalised axes [1]_: layer norm that leaves out the mean, as in many language
    models.

    Parameters
    ----------
    x : array_like
        At least one dimension; float32, float64, float16 or bfloat16, any strides.
    normalized_shape : int or tuple of int, optional
        The lengths of the trailing axes to normalise over; the last axis if neither this nor
        ``axis`` is given.
    weight : array_like, optional
        Factors per feature: the shape of the normalised axes, in x's order of axes; any of the
        four dtypes.
    eps : float, optional
        Added to the mean square; the machine epsilon of the arithmetic by default (2.2e-16 for
        float64, else 1.2e-7).
    axis : int or tuple of int, optional
        The axes to normalise over, instead of trailing ones.
    out : ndarray, optional
        Where to store the result: the shape and dtype of ``x``, writeable. It may be ``x``
        itself; with any other overlap, the result is as if there were none.
    return_stats : bool, optional
        Also return the statistics.

    Returns
    -------
    y : ndarray
        Shape and dtype of ``x``.
    rstd : ndarray
        With ``return_stats``: 1/sqrt(mean(x²) + eps), of x's shape with 1 on the normalised
        axes; float32 (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019, arXiv:1910.07467

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> fastnorm.rms_norm(np.array([[3, 4], [-30, 40]], np.float32)).round(4)
    array([[ 0.8485,  1.1314],
           [-0.8485,  1.1314]], dtype=float32)
    """
    return _layer_norm(x, normalized_shape, weight, None, eps, axis, out, return_stats, False)
