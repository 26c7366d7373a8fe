"""What the layers refuse, in calls and in constructions, and that nothing has changed then."""

import re

import numpy as np
import pytest
from layers_helpers import (
    data,
    randomise,
    snapshot,
)

from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

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
