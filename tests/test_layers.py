"""The layers: which arrays a call gets, what it leaves behind, and what is refused.

The expectations are written out in float64 NumPy. How exact the functions are is tested
elsewhere; here a tolerance of about a hundred units tells a right formula from a wrong one.
"""

import copy
import inspect
import pickle
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


def dtype_called(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_dtypes(make, name):
    dtype = dtype_called(name)
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


# --- Refused calls ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("shape", "out", "error"),
    [
        pytest.param((1, 3, 1), None, ValueError, id="one value for each channel"),
        pytest.param((4, 2, 5), None, ValueError, id="too few channels"),
        pytest.param((4,), None, ValueError, id="no channel axis"),
        pytest.param((4, 3, 5), np.empty((4, 3, 6), np.float32), ValueError, id="shape of out"),
        pytest.param(
            (4, 3, 5), np.empty((4, 3, 5), np.float64), (TypeError, ValueError), id="dtype of out"
        ),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_refused_call_changes_nothing(kind, momentum, shape, out, error, affine):
    layer = randomise(kind(3, momentum=momentum, affine=affine, track_running_stats=True))
    before = snapshot(layer)
    if out is not None:
        out = np.full_like(out, 5)
    with pytest.raises(error):
        layer(data(*shape), out=out)
    assert snapshot(layer) == before
    assert out is None or np.all(out == 5)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (BatchNorm(3, affine=False), "num_features"),
        (BatchNorm(3, affine=False, track_running_stats=False), "num_features"),
        (InstanceNorm(3), "num_features"),
        (GroupNorm(1, 3, affine=False), "num_channels"),
    ],
)
def test_other_numbers_of_channels_are_refused_without_parameters(layer, name):
    message = "x: has shape (2, 4, 3), which is 4 channels at channel_axis 1; takes 3, "
    message += f"the layer's {name}"
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(data(2, 4, 3))
    layer.channel_axis = -1
    layer(data(2, 4, 3))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_other_normalized_shapes_are_refused(kind, affine):
    with pytest.raises(ValueError, match=r"normalized_shape.*\(2, 4, 3\)"):
        kind(4, elementwise_affine=affine)(data(2, 4, 3))
    kind(4, elementwise_affine=affine, axis=1)(data(2, 4, 3))


# --- Refused constructions --------------------------------------------------------------

POSITIVE = "takes a positive integer"
EPS = "takes a finite number, 0 or greater"
DTYPE = "is not supported; takes float32, float64, float16 or bfloat16"
MOMENTUM = "takes a number from 0 to 1"
SHAPE = "takes lengths, 0 or greater"
INTEGER = "takes an integer"
REAL = "takes a real number"


def said(name, got, takes):
    """Return a pattern: a message names the argument, what it got and what it takes."""
    takes = re.escape(takes).replace(r"\.\*", ".*")
    return f"^{name}: .*{re.escape(got)}.*{takes}"


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
@pytest.mark.parametrize(
    ("kwargs", "error", "got", "takes"),
    [
        ({"num_features": 0}, ValueError, "0", POSITIVE),
        ({"num_features": -2}, ValueError, "-2", POSITIVE),
        ({"num_features": 3.0}, TypeError, "3.0", INTEGER),
        ({"num_features": True}, TypeError, "True", INTEGER),
        ({"num_features": (3,)}, TypeError, "(3,)", INTEGER),
        ({"eps": -1e-5}, ValueError, "-1e-05", EPS),
        ({"eps": float("nan")}, ValueError, "nan", EPS),
        ({"eps": "1e-5"}, TypeError, "'1e-5'", REAL),
        ({"eps": None}, TypeError, "None", REAL),
        ({"eps": True}, TypeError, "True", REAL),
        ({"eps": 1j}, TypeError, "1j", REAL),
        ({"momentum": 1.5}, ValueError, "1.5", MOMENTUM),
        ({"momentum": -0.1}, ValueError, "-0.1", MOMENTUM),
        ({"momentum": float("nan")}, ValueError, "nan", MOMENTUM),
        ({"momentum": False}, TypeError, "False", REAL),
        ({"momentum": "0.1"}, TypeError, "'0.1'", REAL),
        ({"channel_axis": 1.0}, TypeError, "1.0", INTEGER),
        ({"channel_axis": True}, TypeError, "True", INTEGER),
        ({"channel_axis": None}, TypeError, "None", INTEGER),
        ({"dtype": np.int32}, TypeError, "int32", DTYPE),
        ({"dtype": "complex64"}, TypeError, "complex64", DTYPE),
        ({"dtype": "no such type"}, TypeError, "'no such type'", DTYPE),
        ({"dtype": None}, TypeError, "None", DTYPE),
        ({"dtype": "V2"}, TypeError, "V2", DTYPE),
    ],
)
def test_batch_and_instance_norm_refuse(kind, kwargs, error, got, takes):
    (name,) = kwargs
    with pytest.raises(error, match=said(name, got, takes)):
        kind(**{"num_features": 3, **kwargs})


@pytest.mark.parametrize(
    ("kind", "args", "kwargs", "error", "name", "got", "takes"),
    [
        (GroupNorm, (0, 6), {}, ValueError, "num_groups", "0", POSITIVE),
        (GroupNorm, (2.0, 6), {}, TypeError, "num_groups", "2.0", INTEGER),
        (GroupNorm, (True, 6), {}, TypeError, "num_groups", "True", INTEGER),
        (GroupNorm, (2, 0), {}, ValueError, "num_channels", "0", POSITIVE),
        (GroupNorm, (2, "6"), {}, TypeError, "num_channels", "'6'", INTEGER),
        (GroupNorm, (4, 6), {}, ValueError, "num_groups", "4", "takes a divisor .* which is 6"),
        (GroupNorm, (2, 6), {"eps": -1}, ValueError, "eps", "-1", EPS),
        (GroupNorm, (2, 6), {"channel_axis": "C"}, TypeError, "channel_axis", "'C'", INTEGER),
        (GroupNorm, (2, 6), {"dtype": bool}, TypeError, "dtype", "bool", DTYPE),
        (LayerNorm, (-1,), {}, ValueError, "normalized_shape", "(-1,)", SHAPE),
        (LayerNorm, ((3, -1),), {}, ValueError, "normalized_shape", "(3, -1)", SHAPE),
        (LayerNorm, ((),), {}, ValueError, "normalized_shape", "empty", "takes the length"),
        (LayerNorm, (True,), {}, TypeError, "normalized_shape", "True", INTEGER),
        (LayerNorm, (2.5,), {}, TypeError, "normalized_shape", "2.5", INTEGER),
        (LayerNorm, (None,), {}, TypeError, "normalized_shape", "None", INTEGER),
        (LayerNorm, ((3, 1.5),), {}, TypeError, "normalized_shape", "1.5", INTEGER),
        (LayerNorm, (3,), {"axis": 1.0}, TypeError, "axis", "1.0", INTEGER),
        (LayerNorm, (3,), {"axis": True}, TypeError, "axis", "True", INTEGER),
        (LayerNorm, (3,), {"axis": ()}, ValueError, "axis", "()", "takes one .* which is (3,)"),
        (LayerNorm, (3,), {"axis": (1, 2)}, ValueError, "axis", "(1, 2)", "which is (3,)"),
        (LayerNorm, (3,), {"eps": None}, TypeError, "eps", "None", REAL),
        (LayerNorm, (3,), {"dtype": "int8"}, TypeError, "dtype", "int8", DTYPE),
        (RMSNorm, (3,), {"eps": -1}, ValueError, "eps", "-1", EPS),
        (RMSNorm, (3,), {"eps": "0"}, TypeError, "eps", "'0'", REAL),
        (RMSNorm, (-1,), {}, ValueError, "normalized_shape", "(-1,)", SHAPE),
        (RMSNorm, (3,), {"axis": (0, 1)}, ValueError, "axis", "(0, 1)", "which is (3,)"),
        (RMSNorm, (3,), {"dtype": object}, TypeError, "dtype", "object", DTYPE),
    ],
)
def test_other_layers_refuse(kind, args, kwargs, error, name, got, takes):
    with pytest.raises(error, match=said(name, got, takes)):
        kind(*args, **kwargs)


def test_numpy_scalars_are_taken():
    layer = BatchNorm(np.int64(3), np.float32(0.5), np.float64(0.25), channel_axis=np.int8(-1))
    assert (layer.num_features, layer.eps, layer.momentum, layer.channel_axis) == (3, 0.5, 0.25, -1)
    assert {type(layer.num_features), type(layer.channel_axis)} == {int}
    assert {type(layer.eps), type(layer.momentum)} == {float}
    layer = LayerNorm((np.int32(3), 4), axis=[np.int64(1), -1])
    assert (layer.normalized_shape, layer.axis) == ((3, 4), (1, -1))
    assert GroupNorm(np.uint8(2), np.int16(6)).weight.shape == (6,)


# --- State ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("prefix", ["", "encoder.layer.0.norm."])
def test_state_round_trip(make, prefix):
    saved = randomise(make()).state_dict()
    layer = make()
    arrays = {name: getattr(layer, name) for name in saved}
    result = layer.load_state_dict({prefix + k: v for k, v in saved.items()}, prefix=prefix)
    assert result == ([], [])
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for name, array in arrays.items():
        assert getattr(layer, name) is array
        np.testing.assert_array_equal(array, saved[name])
        assert not np.shares_memory(array, saved[name])
    x = data(4, 6, 5)
    np.testing.assert_array_equal(layer.eval()(x), randomise(make()).eval()(x))


def test_state_keys_and_copies():
    layer = BatchNorm(3)
    state = layer.state_dict()
    assert list(state) == TRACKED_NAMES
    layer(data(4, 3, 5))
    np.testing.assert_array_equal(state["running_mean"], 0)
    assert state["num_batches_tracked"] == 0
    state["weight"][:] = 9
    np.testing.assert_array_equal(layer.weight, 1)


@pytest.mark.parametrize("source", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("target", ["float32", "float64", "float16", "bfloat16"])
def test_loading_converts_dtypes(source, target):
    values = np.array([0.5, -3, 1.0078125])  # exact in all four
    layer = LayerNorm(3, dtype=dtype_called(target))
    mapping = {"weight": values.astype(dtype_called(source)), "bias": [1, 2, 3]}
    layer.load_state_dict(mapping)
    assert layer.weight.dtype == layer.bias.dtype == dtype_called(target)
    np.testing.assert_array_equal(layer.weight.astype(np.float64), values)
    np.testing.assert_array_equal(layer.bias.astype(np.float64), [1, 2, 3])


def test_loading_takes_other_strides_and_byte_orders():
    layer = LayerNorm(3)
    swapped = np.arange(3, dtype=np.dtype(np.float64).newbyteorder())
    layer.load_state_dict({"weight": np.arange(6.0)[::-2], "bias": swapped})
    np.testing.assert_array_equal(layer.weight, [5, 3, 1])
    np.testing.assert_array_equal(layer.bias, [0, 1, 2])


def test_a_prefix_ignores_all_other_keys():
    mapping = {
        "a.weight": [2, 2],
        "a.bias": [3, 3],
        "b.weight": [4],
        "weight": [5],
        "ab": 6,
        "b.a.bias": 7,
    }
    layer = LayerNorm(2)
    assert layer.load_state_dict(mapping, prefix="a.") == ([], [])
    np.testing.assert_array_equal(layer.weight, [2, 2])
    with pytest.raises(ValueError, match=r"missing \['b.bias'\] and has unexpected \['b.a.bias'\]"):
        layer.load_state_dict(mapping, prefix="b.")
    with pytest.raises(TypeError, match="prefix: is None; takes a string"):
        layer.load_state_dict(mapping, prefix=None)


def test_strict_lists_the_keys_and_loose_returns_them():
    layer = LayerNorm(2)
    mapping = {"n.weight": [2, 2], "n.scale": [1], "n.running_mean": [1]}
    message = "missing ['n.bias'] and has unexpected ['n.scale', 'n.running_mean']"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        layer.load_state_dict(mapping, prefix="n.")
    assert "LayerNorm((2,)" in str(caught.value)
    np.testing.assert_array_equal(layer.weight, [1, 1])
    result = layer.load_state_dict(mapping, strict=False, prefix="n.")
    assert result.missing_keys == ["n.bias"]
    assert result.unexpected_keys == ["n.scale", "n.running_mean"]
    np.testing.assert_array_equal(layer.weight, [2, 2])
    np.testing.assert_array_equal(layer.bias, [0, 0])


def test_old_checkpoints_have_no_count():
    layer = randomise(BatchNorm(3))
    state = BatchNorm(3).state_dict()
    del state["num_batches_tracked"]
    assert layer.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(layer.running_mean, 0)
    assert layer.num_batches_tracked == 7
    with pytest.raises(
        ValueError, match=r"missing \[\] and has unexpected \['num_batches_tracked'\]"
    ):
        BatchNorm(3, affine=False, track_running_stats=False).load_state_dict(
            {"num_batches_tracked": 3}
        )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            {"running_var": np.ones(4)},
            ValueError,
            "n.running_var: has shape (4,); takes (3,)",
        ),
        (
            {"running_var": np.ones((3, 1))},
            ValueError,
            "n.running_var: has shape (3, 1); takes (3,)",
        ),
        (
            {"running_var": 1.0},
            ValueError,
            "n.running_var: has shape (); takes (3,)",
        ),
        ({"num_batches_tracked": [3]}, ValueError, ": has shape (1,); takes ()"),
        (
            {"num_batches_tracked": -1},
            ValueError,
            "n.num_batches_tracked: is -1; takes 0 or a positive integer",
        ),
        (
            {"num_batches_tracked": 2.0},
            TypeError,
            "n.num_batches_tracked: has dtype float64; takes integers",
        ),
        (
            {"running_var": np.ones(3, complex)},
            TypeError,
            "n.running_var: has dtype complex128; takes real numbers",
        ),
        ({"running_var": np.ones(3, bool)}, TypeError, "n.running_var: has dtype bool"),
        ({"running_var": np.array(["1"] * 3)}, TypeError, "n.running_var: has dtype <U1"),
        ({"running_var": np.array([1, 2, None])}, TypeError, "n.running_var: has dtype object"),
        ({"running_var": np.ones(3, "M8[s]")}, TypeError, "n.running_var: has dtype datetime64[s]"),
        (
            {"running_var": [[1], [2, 3]]},
            ValueError,
            "n.running_var: cannot be made an array: ",
        ),
    ],
)
def test_a_refused_load_changes_nothing(bad, error, message, strict):
    layer = randomise(BatchNorm(3))
    before = snapshot(layer)
    mapping = {f"n.{k}": v for k, v in {**BatchNorm(3).state_dict(), **bad}.items()}
    with pytest.raises(error, match=re.escape(message)):
        layer.load_state_dict(mapping, strict=strict, prefix="n.")
    assert snapshot(layer) == before


def test_a_load_into_a_read_only_array_changes_nothing():
    layer = LayerNorm(2)
    layer.bias = np.zeros(2, np.float32)
    layer.bias.flags.writeable = False
    with pytest.raises(ValueError, match=r"bias: .* takes a writeable array"):
        layer.load_state_dict({"weight": [2, 2], "bias": [3, 3]})
    np.testing.assert_array_equal(layer.weight, 1)


def test_an_overflow_made_an_error_changes_nothing():
    layer = LayerNorm(2, dtype=np.float16)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        layer.load_state_dict({"weight": [2, 2], "bias": [1e6, 0.0]})
    np.testing.assert_array_equal(layer.weight, 1)


def test_mappings_that_are_none():
    with pytest.raises(TypeError, match="mapping: is a list; takes a mapping of names"):
        LayerNorm(2).load_state_dict([("weight", [1, 1])])


class Opened(dict):
    """Remembers what was looked up, as a file would read it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = []

    def __getitem__(self, key):
        self.read.append(key)
        return super().__getitem__(key)


class OpenedTensors:
    """What an open safetensors file offers: no more than these two methods."""

    def __init__(self, arrays):
        self._arrays = arrays
        self.read = []

    def keys(self):
        return list(self._arrays)

    def get_tensor(self, name):
        self.read.append(name)
        return self._arrays[name]


@pytest.mark.parametrize("kind", [Opened, OpenedTensors])
def test_only_what_is_needed_is_read(kind):
    mapping = kind({"a.weight": [2, 2], "a.bias": [3, 3], "a.other": [4], "b.weight": [5]})
    LayerNorm(2).load_state_dict(mapping, strict=False, prefix="a.")
    assert sorted(mapping.read) == ["a.bias", "a.weight"]
    with pytest.raises(ValueError, match="unexpected"):
        LayerNorm(2).load_state_dict(mapping, prefix="a.")
    assert len(mapping.read) == 2


def test_loading_from_npz(tmp_path):
    saved = randomise(BatchNorm(3))
    np.savez(tmp_path / "state.npz", **saved.state_dict())
    layer = BatchNorm(3)
    with np.load(tmp_path / "state.npz") as opened:
        layer.load_state_dict(opened)
    assert snapshot(layer) == snapshot(saved)


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal_and_independent(make, copied, name):
    layer = randomise(make(dtype=dtype_called(name)))
    twin = copied(layer)
    assert type(twin) is type(layer)
    assert repr(twin) == repr(layer)
    assert snapshot(twin) == snapshot(layer)
    before, x = snapshot(layer), data(4, 6, 5)
    y = twin(x)
    twin.weight[...] = 5
    assert snapshot(layer) == before
    np.testing.assert_array_equal(layer(x), y)
    assert copied(layer.eval()).training is False


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (
            BatchNorm(3),
            "BatchNorm(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)",
        ),
        (
            BatchNorm(3, momentum=None, bias=False, channel_axis=-1, dtype=np.float16),
            "BatchNorm(3, eps=1e-05, momentum=None, affine=True, track_running_stats=True,"
            " bias=False, channel_axis=-1, dtype='float16')",
        ),
        (
            InstanceNorm(3),
            "InstanceNorm(3, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)",
        ),
        (GroupNorm(2, 6, eps=0), "GroupNorm(2, 6, eps=0.0, affine=True)"),
        (LayerNorm(3), "LayerNorm((3,), eps=1e-05, elementwise_affine=True)"),
        (
            LayerNorm((3, 4), 1e-5, True, False, axis=(1, 2), dtype=float),
            "LayerNorm((3, 4), eps=1e-05, elementwise_affine=True, bias=False, axis=(1, 2),"
            " dtype='float64')",
        ),
        (RMSNorm(3), "RMSNorm((3,), eps=None, elementwise_affine=True)"),
    ],
)
def test_repr_is_the_call_that_makes_the_layer(layer, shown):
    assert repr(layer) == shown
    assert repr(eval(shown)) == shown
