"""The layers: which arrays a call gets, what it leaves behind, modes and dtypes.

The expectations are written out in float64 NumPy. How exact the functions are is tested
elsewhere; here a tolerance of about a hundred units tells a right formula from a wrong one.
"""

import inspect

import numpy as np
import pytest
from helpers import DTYPES
from layers_helpers import (
    EVERY,
    TRACKED,
    TRACKED_NAMES,
    along,
    batch_stats,
    close,
    data,
    randomise,
    snapshot,
    standardised,
)

from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

# --- Calls -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "axes"), TRACKED)
@pytest.mark.parametrize("momentum", [0.1, 0.75, 0.0, 1.0, None])
def test_training_uses_the_batch_and_moves_the_running_statistics(kind, axes, momentum):
    layer = kind(3, momentum=momentum, affine=True, track_running_stats=True)
    randomise(layer)
    layer.running_mean[:], layer.running_var[:], layer.num_batches_tracked[...] = 0, 1, 0
    held = layer.running_mean, layer.running_var, layer.num_batches_tracked
    mean, var = np.zeros(3), np.ones(3)
    for step, n in enumerate([4, 2, 7, 3], start=1):
        x = data(n, 3, 5, 2, seed=step)
        expected = standardised(x, axes) * along(layer.weight, 4) + along(layer.bias, 4)
        close(layer(x), expected)
        factor = 1 / step if momentum is None else momentum
        batch_mean, batch_var = batch_stats(x, axes)
        mean = (1 - factor) * mean + factor * batch_mean
        var = (1 - factor) * var + factor * batch_var
        close(layer.running_mean, mean)
        close(layer.running_var, var)
        assert layer.num_batches_tracked == step
    # In place: whoever holds the arrays sees them move.
    assert held[0] is layer.running_mean
    assert held[1] is layer.running_var
    assert held[2] is layer.num_batches_tracked


@pytest.mark.parametrize(("kind", "axes"), TRACKED)
def test_cumulative_average_is_the_mean_over_the_batches(kind, axes):
    layer = kind(3, momentum=None, track_running_stats=True)
    batches = [data(n, 3, 5, 2, seed=n) for n in (2, 6, 3)]
    for x in batches:
        layer(x)
    means, variances = zip(*(batch_stats(x, axes) for x in batches), strict=True)
    close(layer.running_mean, np.mean(means, 0))
    close(layer.running_var, np.mean(variances, 0))


@pytest.mark.parametrize(("kind", "axes"), TRACKED)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_evaluation_uses_the_running_statistics_and_leaves_them(kind, axes, momentum):
    layer = randomise(kind(3, momentum=momentum, affine=True, track_running_stats=True)).eval()
    before, x = snapshot(layer), data(4, 3, 5, 2)
    scale = layer.weight / np.sqrt(layer.running_var.astype(np.float64) + 1e-5)
    expected = (x - along(layer.running_mean, 4)) * along(scale, 4) + along(layer.bias, 4)
    close(layer(x), expected)
    assert snapshot(layer) == before
    # One value for each channel is enough here, and too little in training.
    close(layer(x[:1, :, :1, :1]), expected[:1, :, :1, :1])


@pytest.mark.parametrize(("kind", "axes"), TRACKED)
@pytest.mark.parametrize("training", [True, False])
def test_without_running_statistics_the_batch_is_used(kind, axes, training):
    layer = kind(3, affine=False, track_running_stats=False).train(training)
    assert layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    x = data(4, 3, 5, 2)
    close(layer(x), standardised(x, axes))
    assert layer.state_dict() == {}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
@pytest.mark.parametrize("shape", [(0, 3, 5), (4, 3, 0)])
def test_an_empty_batch_changes_nothing(kind, shape, momentum):
    layer = randomise(kind(3, momentum=momentum, track_running_stats=True))
    before = snapshot(layer)
    y = layer(np.empty(shape, np.float32))
    assert y.shape == shape
    assert y.dtype == np.float32
    assert snapshot(layer) == before


@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(affine):
    layer = randomise(GroupNorm(3, 6, affine=affine))
    x = data(2, 6, 4, 5)
    expected = standardised(x.reshape(2, 3, -1), 2).reshape(x.shape)
    if affine:
        expected = expected * along(layer.weight, 4) + along(layer.bias, 4)
    close(layer(x), expected)
    close(layer.eval()(x), expected)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("shape", "kwargs", "axes"),
    [
        (5, {}, (2,)),
        ((4, 5), {}, (1, 2)),
        (4, {"axis": 1}, (1,)),
        ((3, 5), {"axis": (0, -1)}, (0, 2)),
    ],
)
def test_layer_and_rms_norm(shape, kwargs, axes, affine):
    x = data(3, 4, 5)
    broadcast = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
    layer = randomise(LayerNorm(shape, elementwise_affine=affine, **kwargs))
    expected = standardised(x, axes)
    if affine:
        expected = expected * layer.weight.reshape(broadcast) + layer.bias.reshape(broadcast)
    close(layer(x), expected)

    layer = randomise(RMSNorm(shape, elementwise_affine=affine, **kwargs))
    x64 = x.astype(np.float64)
    expected = x64 / np.sqrt((x64**2).mean(axes, keepdims=True))
    if affine:
        expected = expected * layer.weight.reshape(broadcast)
    close(layer(x), expected)
    assert not hasattr(layer, "bias")


def test_eps_is_handed_down():
    x = data(4, 6, 5)
    close(BatchNorm(6, eps=2.0)(x), standardised(x, (0, 2), 2.0))
    close(InstanceNorm(6, eps=2.0)(x), standardised(x, 2, 2.0))
    close(GroupNorm(6, 6, eps=2.0)(x), standardised(x, 2, 2.0))
    close(LayerNorm(5, eps=2.0)(x), standardised(x, 2, 2.0))
    square = (x.astype(np.float64) ** 2).mean(2, keepdims=True)
    close(RMSNorm(5, eps=2.0)(x), x / np.sqrt(square + 2.0))
    # Where the data is as small as the machine epsilon, None is not 0.
    tiny = np.full((1, 5), np.sqrt(np.finfo(np.float32).eps), np.float32)
    close(RMSNorm(5)(tiny), np.full((1, 5), np.sqrt(0.5)))
    close(RMSNorm(5, eps=0)(tiny), np.ones((1, 5)))


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: BatchNorm(6, **kw),
        lambda **kw: InstanceNorm(6, affine=True, track_running_stats=True, **kw),
        lambda **kw: GroupNorm(3, 6, **kw),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_channel_axis(make, training):
    first = randomise(make()).train(training)
    last = randomise(make(channel_axis=-1)).train(training)
    x = data(4, 6, 5, 2)
    expected = first(x)
    close(np.moveaxis(last(np.moveaxis(x, 1, -1).copy()), -1, 1), expected)
    for name, array in first.state_dict().items():
        close(getattr(last, name), array)


@pytest.mark.parametrize("make", EVERY)
def test_out(make):
    x = data(4, 6, 5)
    expected = make()(x)
    out = np.empty_like(x)
    assert make()(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert make()(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("make", EVERY)
def test_input_is_positional_only(make):
    with pytest.raises(TypeError, match="positional"):
        make()(x=data(4, 6, 5))


@pytest.mark.parametrize("make", EVERY)
def test_assigned_parameters_are_used(make):
    layer, x = make(), data(4, 6, 5)
    plain = layer(x).astype(np.float64)
    layer.weight = np.full_like(layer.weight, 3)
    close(layer(x), plain * 3)
    if hasattr(layer, "bias"):
        layer.bias = np.full_like(layer.bias, 2)
        close(layer(x), plain * 3 + 2)
        layer.bias = None
    layer.weight = None
    close(layer(x), plain)
    assert not {"weight", "bias"} & set(layer.state_dict())


# --- Modes, dtypes, what is switched off ------------------------------------------------


@pytest.mark.parametrize("make", EVERY)
def test_train_and_eval(make):
    layer = make()
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.train() is layer
    assert layer.training is True
    assert layer.train(False).training is False
    with pytest.raises(TypeError, match="mode: is 'yes'; takes True or False"):
        layer.train("yes")
    assert layer.training is False


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_dtypes(make, name):
    dtype = DTYPES[name]
    layer = make(dtype=dtype)
    assert layer.dtype == dtype
    wide = np.float64 if name == "float64" else np.float32
    for key, array in layer.state_dict().items():
        expected = {"weight": dtype, "bias": dtype, "num_batches_tracked": np.int64}
        assert array.dtype == expected.get(key, wide)
    x = data(4, 6, 5, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    # A layer of float32 does the same to this input: the parameters are ones and zeros.
    tolerance = {"float16": 2e-3, "bfloat16": 2e-2}.get(name, 1e-6)
    close(y, make()(x.astype(np.float64)), tolerance)


def test_dtype_is_made_native():
    assert LayerNorm(3, dtype=np.dtype(np.float32).newbyteorder()).weight.dtype.isnative


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_half_precision_running_statistics_do_not_stall(kind):
    # From 1 to 3 in steps of a thousandth: rounded to float16 they would stop on the way.
    layer = kind(1, momentum=0.001, track_running_stats=True, dtype=np.float16)
    x = np.array([[[3 - 1, 3 + 1]]], np.float16)
    for _ in range(3000):
        layer(x)
    close(layer.running_mean, [3 * (1 - 0.999**3000)], 1e-3)


def test_initial_values_and_switches():
    layer = BatchNorm(3)
    for name, value in zip(TRACKED_NAMES, [1, 0, 0, 1, 0], strict=True):
        array = getattr(layer, name)
        assert array.shape == (() if name == "num_batches_tracked" else (3,))
        np.testing.assert_array_equal(array, value)
    assert BatchNorm(3, bias=False).bias is None
    assert BatchNorm(3, bias=False).weight is not None
    assert BatchNorm(3, affine=False).weight is BatchNorm(3, affine=False).bias is None
    assert list(InstanceNorm(3).state_dict()) == []
    assert list(InstanceNorm(3, affine=True).state_dict()) == ["weight", "bias"]
    assert list(InstanceNorm(3, affine=True, bias=False).state_dict()) == ["weight"]
    assert list(GroupNorm(1, 3, bias=False).state_dict()) == ["weight"]
    assert list(GroupNorm(1, 3, affine=False).state_dict()) == []
    assert list(LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert list(LayerNorm(3, elementwise_affine=False).state_dict()) == []
    assert LayerNorm((3, 4)).weight.shape == LayerNorm((3, 4)).bias.shape == (3, 4)
    assert list(RMSNorm([3, 4]).state_dict()) == ["weight"]
    assert RMSNorm([3, 4]).normalized_shape == (3, 4)
    assert RMSNorm(3, elementwise_affine=False).weight is None


@pytest.mark.parametrize(
    ("kind", "like"),
    [
        (
            BatchNorm,
            lambda num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True,
            *, bias=True, channel_axis=1, dtype=np.float32: ...,
        ),
        (
            InstanceNorm,
            lambda num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False,
            *, bias=True, channel_axis=1, dtype=np.float32: ...,
        ),
        (
            GroupNorm,
            lambda num_groups, num_channels, eps=1e-5, affine=True,
            *, bias=True, channel_axis=1, dtype=np.float32: ...,
        ),
        (
            LayerNorm,
            lambda normalized_shape, eps=1e-5, elementwise_affine=True, bias=True,
            *, axis=None, dtype=np.float32: ...,
        ),
        (
            RMSNorm,
            lambda normalized_shape, eps=None, elementwise_affine=True,
            *, axis=None, dtype=np.float32: ...,
        ),
    ],
)  # fmt: skip
def test_signatures(kind, like):
    found, expected = inspect.signature(kind), inspect.signature(like)
    assert [(p.name, p.kind, p.default) for p in found.parameters.values()] == [
        (p.name, p.kind, p.default) for p in expected.parameters.values()
    ]
