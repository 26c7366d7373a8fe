"""The functions: what each means, and what it passes down to the compiled core.

The positional order is that of ``torch.nn.functional``, so that porting is a search and replace;
what NumPy has and torch has not (``axis``, ``channel_axis``, ``out``) are keywords.
"""

from __future__ import annotations

from typing import Literal, overload

from ._core import channel_norm as _channel_norm
from ._core import group_norm as _group_norm
from ._core import layer_norm as _layer_norm
from ._types import Array, ArrayLike, Ints

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


# Overloads are not formatted: with a line for each parameter they would hide the functions.
# fmt: off
@overload
def layer_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, axis: Ints | None = None,
    out: Array | None = None, return_stats: Literal[False] = False,
) -> Array: ...
@overload
def layer_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, axis: Ints | None = None,
    out: Array | None = None, return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
@overload
def layer_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, axis: Ints | None = None,
    out: Array | None = None, return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
# fmt: on
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


# fmt: off
@overload
def rms_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    eps: float | None = None, *, axis: Ints | None = None, out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def rms_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    eps: float | None = None, *, axis: Ints | None = None, out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array]: ...
@overload
def rms_norm(
    x: ArrayLike, /, normalized_shape: Ints | None = None, weight: ArrayLike | None = None,
    eps: float | None = None, *, axis: Ints | None = None, out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array]: ...
# fmt: on
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
    x, normalized_shape, weight, axis, out, return_stats
        As in `layer_norm`.
    eps : float, optional
        Added to the mean square; the machine epsilon of the arithmetic by default (2.2e-16 for
        float64, else 1.2e-7).

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


# fmt: off
@overload
def batch_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def batch_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
@overload
def batch_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
# fmt: on
def batch_norm(
    x: ArrayLike,
    /,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalise each channel over the batch, or by its running statistics.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}} \cdot w + b

    In training, mean and variance (biased) of each channel are those of the batch and all its
    positions, and the running statistics, if given, follow them in place [1]_:
    ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance. In
    inference they are the running statistics.

    Parameters
    ----------
    x : array_like
        (N, C), (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``, (N, ..., C); float32,
        float64, float16 or bfloat16, any strides.
    running_mean, running_var : ndarray, optional
        (C,), both or neither. Required in inference; in training they are updated.
    weight, bias : array_like, optional
        (C,); any of the four dtypes.
    training : bool, optional
        Use (and average) the statistics of the batch.
    momentum : float, optional
        The batch's share in the running statistics, 0 to 1.
    eps : float, optional
        Added to the variance.
    channel_axis : int, optional
        The axis of the channels: 1 for NCHW, -1 for NHWC.
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
        With ``return_stats``: the mean and 1/sqrt(var + eps) that were used, (C,); float32
        (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit: among others, in training with one value per channel,
        and in inference without running statistics. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    Notes
    -----
    An empty batch gives an empty result and leaves the running statistics as they are.

    References
    ----------
    .. [1] S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by
       reducing internal covariate shift", 2015, arXiv:1502.03167

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    >>> fastnorm.batch_norm(x, mean, var, training=True, eps=0)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> mean, var
    (array([0.2, 2. ], dtype=float32), array([ 1.1, 20.9], dtype=float32))
    >>> fastnorm.batch_norm(x, mean, var).round(2)
    array([[0.76, 1.75],
           [2.67, 6.12]], dtype=float32)
    """
    return _channel_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        channel_axis,
        out,
        return_stats,
        False,
    )


# fmt: off
@overload
def instance_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: Literal[False] = False,
) -> Array: ...
@overload
def instance_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
@overload
def instance_norm(
    x: ArrayLike, /, running_mean: Array | None = None, running_var: Array | None = None,
    weight: ArrayLike | None = None, bias: ArrayLike | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, *, channel_axis: int = 1, out: Array | None = None,
    return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
# fmt: on
def instance_norm(
    x: ArrayLike,
    /,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalise each channel of each sample over its positions, which removes contrast.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}} \cdot w + b

    with the mean and the (biased) variance over the positions (length, height, width, ...) of each
    channel of each sample [1]_.

    Parameters
    ----------
    x : array_like
        (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``, (N, ..., C); float32, float64,
        float16 or bfloat16, any strides.
    running_mean, running_var : ndarray, optional
        (C,), both or neither. With ``use_input_stats`` they follow the statistics of the input,
        averaged over the samples (the variance unbiased); without, they replace them.
    use_input_stats : bool, optional
        Use the statistics of the input, not the running ones.
    channel_axis : int, optional
        As in `batch_norm`, but not 0, which is the batch.
    weight, bias, momentum, eps, out, return_stats
        As in `batch_norm`.

    Returns
    -------
    y : ndarray
        Shape and dtype of ``x``.
    mean, rstd : ndarray
        With ``return_stats``: the mean and 1/sqrt(var + eps) that were used, (N, C); float32
        (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit: among others, with a single position, which has no
        variance. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient
       for fast stylization", 2016, arXiv:1607.08022

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[[1, 3], [10, 30]]], np.float32)
    >>> fastnorm.instance_norm(x, eps=0)
    array([[[-1.,  1.],
            [-1.,  1.]]], dtype=float32)
    """
    return _channel_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        use_input_stats,
        momentum,
        eps,
        channel_axis,
        out,
        return_stats,
        True,
    )


# fmt: off
@overload
def group_norm(
    x: ArrayLike, /, num_groups: int, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, channel_axis: int = 1,
    out: Array | None = None, return_stats: Literal[False] = False,
) -> Array: ...
@overload
def group_norm(
    x: ArrayLike, /, num_groups: int, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, channel_axis: int = 1,
    out: Array | None = None, return_stats: Literal[True],
) -> tuple[Array, Array, Array]: ...
@overload
def group_norm(
    x: ArrayLike, /, num_groups: int, weight: ArrayLike | None = None,
    bias: ArrayLike | None = None, eps: float = 1e-5, *, channel_axis: int = 1,
    out: Array | None = None, return_stats: bool,
) -> Array | tuple[Array, Array, Array]: ...
# fmt: on
def group_norm(
    x: ArrayLike,
    /,
    num_groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
    return_stats: bool = False,
) -> Array | tuple[Array, Array, Array]:
    r"""Normalise groups of channels of each sample.

    .. math:: y = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}} \cdot w + b

    with the mean and the (biased) variance over the positions and the channels of each group of
    C / num_groups adjacent channels [1]_; weight and bias per channel. It needs no batch, and
    works where batch norm fails for small ones.

    Parameters
    ----------
    x : array_like
        (N, C), (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``, (N, ..., C); float32,
        float64, float16 or bfloat16, any strides.
    num_groups : int
        Divides C.
    channel_axis : int, optional
        As in `batch_norm`, but not 0, which is the batch.
    weight, bias, eps, out, return_stats
        As in `batch_norm`.

    Returns
    -------
    y : ndarray
        Shape and dtype of ``x``.
    mean, rstd : ndarray
        With ``return_stats``: the mean and 1/sqrt(var + eps), (N, num_groups); float32 (float64
        for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit: among others, if the groups do not divide the
        channels. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] Y. Wu, K. He, "Group normalization", 2018, arXiv:1803.08494

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 3, 10, 30]], np.float32)
    >>> fastnorm.group_norm(x, 2, eps=0)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    return _group_norm(x, num_groups, weight, bias, eps, channel_axis, out, return_stats)
