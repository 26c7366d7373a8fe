r"""The backward passes: gradients of a loss by the input and the parameters of a normalisation.

All of them follow from one formula. Over the n elements that are normalised together, with
:math:`\hat x = (x - \mathrm{mean}) \cdot \mathrm{rstd}`, the loss's gradient by the result
:math:`g` and the weight :math:`w`,

.. math::
    \frac{\partial L}{\partial x} = \mathrm{rstd} \cdot \left(g w - \overline{g w}
    - \hat x \cdot \overline{g w \hat x}\right), \quad
    \frac{\partial L}{\partial w} = \sum g \hat x, \quad
    \frac{\partial L}{\partial b} = \sum g

where a bar is the mean over the n elements, and the sums are over those that share a parameter.
"""

from __future__ import annotations

from . import _core
from ._types import Array, ArrayLike, Ints

__all__ = [
    "batch_norm_backward",
    "group_norm_backward",
    "instance_norm_backward",
    "layer_norm_backward",
    "rms_norm_backward",
]


def layer_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    /,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: Ints | None = None,
    axis: Ints | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of layer norm by its input, weight and bias.

    .. math:: dx = \mathrm{rstd} \cdot (g w - \overline{g w} - \hat x \cdot \overline{g w \hat x})

    with :math:`\hat x = (x - \mathrm{mean}) \cdot \mathrm{rstd}` and means over the normalised
    axes [1]_; the weight's gradient is the sum of :math:`g \hat x`, the bias's that of :math:`g`.

    Parameters
    ----------
    grad : array_like
        The gradient by the result: shape and dtype of ``x``, any strides.
    x : array_like
        What was normalised: float32, float64, float16 or bfloat16, any strides.
    mean, rstd : array_like
        What `layer_norm` gives with ``return_stats``: x's shape with 1 on the normalised axes.
        A mean that was rounded to float32 costs no accuracy.
    weight : array_like, optional
        The weight, if there was one: the lengths of the normalised axes; any of the four dtypes.
    normalized_shape : int or tuple of int, optional
        The lengths of the last axes, which were normalised over; by default those of the last one.
    axis : int or tuple of int, optional
        The axes that were normalised over, instead of the last ones.
    out : ndarray, optional
        Where to store ``dx``: the shape and dtype of ``x``, writeable. It may be ``x`` or ``grad``
        itself; with any other overlap, the result is as if there were none.

    Returns
    -------
    dx : ndarray
        The gradient by ``x``: its shape and dtype.
    dweight, dbias : ndarray
        The gradients by weight and bias, or what they would be: the lengths of the normalised
        axes; float32 (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 2, 3], [10, 40, 30]], np.float32)
    >>> y, mean, rstd = fastnorm.layer_norm(x, eps=0, return_stats=True)
    >>> grad = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
    >>> dx, dweight, dbias = fastnorm.layer_norm_backward(grad, x, mean, rstd)
    >>> dx.round(3)
    array([[ 0.204, -0.408,  0.204],
           [-0.017, -0.034,  0.052]], dtype=float32)
    >>> dweight.round(3), dbias
    (array([-1.225,  0.   ,  0.267], dtype=float32), array([1., 0., 1.], dtype=float32))
    """
    dx, dweight, dbias = _core.layer_norm_backward(
        grad, x, mean, rstd, weight, normalized_shape, axis, out, True
    )
    return dx, dweight, dbias


def rms_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    /,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    normalized_shape: Ints | None = None,
    axis: Ints | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    r"""Gradients of RMS norm by its input and weight.

    .. math:: dx = \mathrm{rstd} \cdot (g w - \hat x \cdot \overline{g w \hat x})

    with :math:`\hat x = x \cdot \mathrm{rstd}` and the mean over the normalised axes [1]_; the
    weight's gradient is the sum of :math:`g \hat x`.

    Parameters
    ----------
    grad, x : array_like
        The gradient by the result, and what was normalised; see `layer_norm_backward`.
    rstd : array_like
        What `rms_norm` gives with ``return_stats``: x's shape with 1 on the normalised axes.
    weight, normalized_shape, axis, out
        As in `layer_norm_backward`.

    Returns
    -------
    dx : ndarray
        The gradient by ``x``: its shape and dtype.
    dweight : ndarray
        The gradient by the weight, or what it would be: the lengths of the normalised axes;
        float32 (float64 for float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] B. Zhang and R. Sennrich, "Root Mean Square Layer Normalization", 2019,
       arXiv:1910.07467

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 7], [3, 3]], np.float32)
    >>> y, rstd = fastnorm.rms_norm(x, eps=0, return_stats=True)
    >>> dx, dweight = fastnorm.rms_norm_backward(np.ones_like(x), x, rstd)
    >>> dx.round(3)
    array([[ 0.168, -0.024],
           [ 0.   ,  0.   ]], dtype=float32)
    >>> dweight.round(3)
    array([1.2, 2.4], dtype=float32)
    """
    dx, dweight, _ = _core.layer_norm_backward(
        grad, x, None, rstd, weight, normalized_shape, axis, out, False
    )
    return dx, dweight


def batch_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    /,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    training: bool = True,
    channel_axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of batch norm by its input, weight and bias.

    .. math:: dx = \mathrm{rstd} \cdot (g w - \overline{g w} - \hat x \cdot \overline{g w \hat x})

    with :math:`\hat x = (x - \mathrm{mean}) \cdot \mathrm{rstd}` and means over the batch and the
    positions of a channel [1]_. In inference the statistics are constants, and
    :math:`dx = \mathrm{rstd} \cdot g w`.

    Parameters
    ----------
    grad : array_like
        The gradient by the result: shape and dtype of ``x``, any strides.
    x : array_like
        What was normalised: (N, C), (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``,
        (N, ..., C); float32, float64, float16 or bfloat16, any strides.
    mean, rstd : array_like
        (C,): what `batch_norm` gives with ``return_stats``.
    weight : array_like, optional
        (C,): the weight, if there was one; any of the four dtypes.
    training : bool, optional
        Whether mean and rstd are those of ``x``; otherwise (running statistics) they are
        constants.
    channel_axis : int, optional
        The axis of the channels: 1 for NCHW, -1 for NHWC.
    out : ndarray, optional
        Where to store ``dx``; see `layer_norm_backward`.

    Returns
    -------
    dx : ndarray
        The gradient by ``x``: its shape and dtype.
    dweight, dbias : ndarray
        The gradients by weight and bias, or what they would be, (C,); float32 (float64 for
        float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by
       Reducing Internal Covariate Shift", 2015, arXiv:1502.03167

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 10], [2, 40], [3, 40]], np.float32)
    >>> y, mean, rstd = fastnorm.batch_norm(x, training=True, eps=0, return_stats=True)
    >>> grad = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    >>> dx, dweight, dbias = fastnorm.batch_norm_backward(grad, x, mean, rstd)
    >>> dx.round(3)
    array([[ 0.204,  0.   ],
           [-0.408, -0.035],
           [ 0.204,  0.035]], dtype=float32)
    >>> dweight.round(3), dbias
    (array([-1.225,  0.707], dtype=float32), array([1., 1.], dtype=float32))
    """
    dx, dweight, dbias = _core.channel_norm_backward(
        grad, x, mean, rstd, weight, not training, channel_axis, out, False
    )
    return dx, dweight, dbias


def instance_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    /,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of instance norm by its input, weight and bias.

    .. math:: dx = \mathrm{rstd} \cdot (g w - \overline{g w} - \hat x \cdot \overline{g w \hat x})

    with :math:`\hat x = (x - \mathrm{mean}) \cdot \mathrm{rstd}` and means over the positions of a
    channel of a sample [1]_. (Where running statistics were used, see `batch_norm_backward` with
    ``training=False``.)

    Parameters
    ----------
    grad, weight, out
        As in `batch_norm_backward`.
    x : array_like
        What was normalised: (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``,
        (N, ..., C); float32, float64, float16 or bfloat16, any strides.
    mean, rstd : array_like
        (N, C): what `instance_norm` gives with ``return_stats``.
    channel_axis : int, optional
        As in `batch_norm_backward`, but not 0, which is the batch.

    Returns
    -------
    dx : ndarray
        The gradient by ``x``: its shape and dtype.
    dweight, dbias : ndarray
        The gradients by weight and bias, or what they would be, (C,); float32 (float64 for
        float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization: the missing ingredient
       for fast stylization", 2016, arXiv:1607.08022

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[[1, 2, 3], [10, 40, 40]]], np.float32)
    >>> y, mean, rstd = fastnorm.instance_norm(x, eps=0, return_stats=True)
    >>> grad = np.array([[[1, 0, 0], [0, 0, 1]]], np.float32)
    >>> dx, dweight, dbias = fastnorm.instance_norm_backward(grad, x, mean, rstd)
    >>> dx.round(3)
    array([[[ 0.204, -0.408,  0.204],
            [ 0.   , -0.035,  0.035]]], dtype=float32)
    """
    dx, dweight, dbias = _core.channel_norm_backward(
        grad, x, mean, rstd, weight, False, channel_axis, out, True
    )
    return dx, dweight, dbias


def group_norm_backward(
    grad: ArrayLike,
    x: ArrayLike,
    /,
    mean: ArrayLike,
    rstd: ArrayLike,
    num_groups: int,
    weight: ArrayLike | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Gradients of group norm by its input, weight and bias.

    .. math:: dx = \mathrm{rstd} \cdot (g w - \overline{g w} - \hat x \cdot \overline{g w \hat x})

    with :math:`\hat x = (x - \mathrm{mean}) \cdot \mathrm{rstd}` and means over a group of channels
    of a sample and all its positions [1]_.

    Parameters
    ----------
    grad, weight, out
        As in `batch_norm_backward`.
    x : array_like
        What was normalised: (N, C), (N, C, L), (N, C, H, W), ... or, with ``channel_axis=-1``,
        (N, ..., C); float32, float64, float16 or bfloat16, any strides.
    mean, rstd : array_like
        (N, num_groups): what `group_norm` gives with ``return_stats``.
    num_groups : int
        The number of groups, a divisor of C.
    channel_axis : int, optional
        As in `batch_norm_backward`, but not 0, which is the batch.

    Returns
    -------
    dx : ndarray
        The gradient by ``x``: its shape and dtype.
    dweight, dbias : ndarray
        The gradients by weight and bias, or what they would be, (C,); float32 (float64 for
        float64).

    Raises
    ------
    ValueError
        If shapes, axes or values do not fit. Nothing has changed then.
    TypeError
        If types or dtypes do not fit.

    References
    ----------
    .. [1] Y. Wu and K. He, "Group Normalization", 2018, arXiv:1803.08494

    Examples
    --------
    >>> import numpy as np, fastnorm
    >>> x = np.array([[1, 2, 3, 10, 40, 40]], np.float32)
    >>> y, mean, rstd = fastnorm.group_norm(x, 2, eps=0, return_stats=True)
    >>> grad = np.array([[1, 0, 0, 0, 0, 1]], np.float32)
    >>> dx, dweight, dbias = fastnorm.group_norm_backward(grad, x, mean, rstd, 2)
    >>> dx.round(3)
    array([[ 0.204, -0.408,  0.204,  0.   , -0.035,  0.035]], dtype=float32)
    """
    dx, dweight, dbias = _core.group_norm_backward(
        grad, x, mean, rstd, num_groups, weight, channel_axis, out
    )
    return dx, dweight, dbias
