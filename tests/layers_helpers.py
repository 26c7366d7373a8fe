"""What the tests of the layers share: one of each, data, values that no other array has."""

import re

import numpy as np
import pytest

from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

TRACKED = [
    pytest.param(BatchNorm, (0, 2, 3), id="BatchNorm"),
    pytest.param(InstanceNorm, (2, 3), id="InstanceNorm"),
]
EVERY = [
    pytest.param(lambda **kw: BatchNorm(6, **kw), id="BatchNorm"),
    pytest.param(
        lambda **kw: InstanceNorm(6, affine=True, track_running_stats=True, **kw),
        id="InstanceNorm",
    ),
    pytest.param(lambda **kw: GroupNorm(3, 6, **kw), id="GroupNorm"),
    pytest.param(lambda **kw: LayerNorm(5, **kw), id="LayerNorm"),
    pytest.param(lambda **kw: RMSNorm(5, **kw), id="RMSNorm"),
]
LAYERS = {
    "BatchNorm": lambda **kw: BatchNorm(6, **kw),
    "BatchNorm without running": lambda **kw: BatchNorm(6, track_running_stats=False, **kw),
    "BatchNorm NHWC": lambda **kw: BatchNorm(5, channel_axis=-1, **kw),
    "InstanceNorm": lambda **kw: InstanceNorm(6, affine=True, **kw),
    "InstanceNorm with running": lambda **kw: InstanceNorm(
        6, affine=True, track_running_stats=True, **kw
    ),
    "InstanceNorm NHWC with running": lambda **kw: InstanceNorm(
        5, affine=True, track_running_stats=True, channel_axis=-1, **kw
    ),
    "GroupNorm": lambda **kw: GroupNorm(3, 6, **kw),
    "GroupNorm NHWC": lambda **kw: GroupNorm(1, 5, channel_axis=-1, **kw),
    "LayerNorm": lambda **kw: LayerNorm(5, **kw),
    "LayerNorm of two axes": lambda **kw: LayerNorm((6, 5), **kw),
    "LayerNorm axis=1": lambda **kw: LayerNorm(6, axis=1, **kw),
    "RMSNorm": lambda **kw: RMSNorm(5, **kw),
    "RMSNorm axis=1": lambda **kw: RMSNorm(6, axis=1, **kw),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
ONE_OF_EACH = ["BatchNorm", "InstanceNorm with running", "GroupNorm", "LayerNorm", "RMSNorm"]
one_of_each = pytest.mark.parametrize("make", [LAYERS[n] for n in ONE_OF_EACH], ids=ONE_OF_EACH)

# How a layer comes to keep what its backward needs.
MODES = {"training": lambda layer: layer.train(), "eval": lambda layer: layer.eval(backward=True)}
both_modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)

SHAPE = (4, 6, 5)

TRACKED_NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def data(*shape, seed=0, dtype=np.float32):
    """Return values around 3 with a spread of 2, so that neither can be forgotten unnoticed."""
    return (3 + 2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def standardised(x, axes, eps=1e-5):
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def along(values, ndim, axis=1):
    """Reshape a vector so that it varies along `axis` of an array with `ndim` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return np.asarray(values, np.float64).reshape(shape)


def batch_stats(x, axes):
    """Mean and unbiased variance for each channel of axis 1, averaged over the samples."""
    x = np.asarray(x, np.float64)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, ddof=1, keepdims=True)
    rest = (0, *range(2, x.ndim))
    return mean.mean(rest), var.mean(rest)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )


def snapshot(layer):
    return {name: np.array(array).tobytes() for name, array in layer.state_dict().items()}


def randomise(layer, seed=1):
    """Give every array of a layer values that no other has."""
    rng = np.random.default_rng(seed)
    for name, array in layer.state_dict().items():
        new = 7 if name == "num_batches_tracked" else rng.uniform(0.5, 2, array.shape)
        getattr(layer, name)[...] = np.asarray(new, array.dtype)
    return layer


def refused(message):
    return pytest.raises(RuntimeError, match=re.escape("backward: " + message))
