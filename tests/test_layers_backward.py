"""The layers' backward: gradients, those of the parameters, where dx goes.

How exact the gradients are is tested with the functions; here finite differences in float64 tell
whether a layer hands the right arrays to the right function.
"""

import numpy as np
import pytest
from helpers import DTYPES
from layers_helpers import (
    LAYERS,
    ONE_OF_EACH,
    SHAPE,
    both_modes,
    data,
    every_layer,
    one_of_each,
    randomise,
)

import fastnorm
from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

# --- Gradients ----------------------------------------------------------------------------


def central_difference(loss, array):
    """The gradient of ``loss()`` by each element of ``array``, which is changed and restored."""
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        old, step = array[index], 1e-5
        array[index] = old + step
        above = loss()
        array[index] = old - step
        gradient[index] = (above - loss()) / (2 * step)
        array[index] = old
    return gradient


@both_modes
@every_layer
def test_backward_is_the_gradient(make, mode):
    layer = mode(randomise(make(dtype=np.float64)))
    x, grad = data(*SHAPE, dtype=np.float64), data(*SHAPE, seed=2, dtype=np.float64)
    state = layer.state_dict()

    def loss():
        result = (layer(x) * grad).sum()
        # Calls in training move the running statistics, which is no part of the loss.
        for name in ("running_mean", "running_var"):
            if name in state:
                getattr(layer, name)[...] = state[name]
        return result

    loss()
    dx = layer.backward(grad)
    grads = layer.grads
    np.testing.assert_allclose(dx, central_difference(loss, x), rtol=1e-6, atol=1e-7)
    assert list(grads) == (["weight"] if isinstance(layer, RMSNorm) else ["weight", "bias"])
    for name, gradient in grads.items():
        expected = central_difference(loss, getattr(layer, name))
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_running_statistics_are_constants(kind):
    layer = randomise(kind(6, affine=True, track_running_stats=True)).eval(backward=True)
    x, grad = data(*SHAPE), data(*SHAPE, seed=2)
    layer(x)
    scale = (layer.weight / np.sqrt(layer.running_var + 1e-5))[:, None]
    np.testing.assert_allclose(layer.backward(grad), grad * scale, rtol=1e-5)
    # One value for each channel is enough, as it is for the call.
    layer(x[:1, :, :1])
    np.testing.assert_allclose(
        layer.backward(grad[:1, :, :1]), (grad * scale)[:1, :, :1], rtol=1e-5
    )


def functions(layer, x, grad):
    """What the functions of the library give for a layer in training."""
    w = layer.weight
    if isinstance(layer, BatchNorm):
        stats = fastnorm.batch_norm(x, weight=w, training=True, return_stats=True)[1:]
        return fastnorm.batch_norm_backward(grad, x, *stats, w)
    if isinstance(layer, InstanceNorm):
        stats = fastnorm.instance_norm(x, weight=w, return_stats=True)[1:]
        return fastnorm.instance_norm_backward(grad, x, *stats, w)
    if isinstance(layer, GroupNorm):
        stats = fastnorm.group_norm(x, 3, w, return_stats=True)[1:]
        return fastnorm.group_norm_backward(grad, x, *stats, 3, w)
    if isinstance(layer, LayerNorm):
        stats = fastnorm.layer_norm(x, weight=w, return_stats=True)[1:]
        return fastnorm.layer_norm_backward(grad, x, *stats, w)
    stats = fastnorm.rms_norm(x, weight=w, return_stats=True)[1:]
    return fastnorm.rms_norm_backward(grad, x, *stats, w)


@pytest.mark.parametrize("affine", [True, False])
@one_of_each
def test_backward_is_the_function(make, affine):
    layer, x, grad = randomise(make()), data(*SHAPE), data(*SHAPE, seed=2)
    if not affine:
        layer.weight = layer.bias = None
    layer(x)
    dx, *gradients = functions(layer, x, grad)
    np.testing.assert_array_equal(layer.backward(grad), dx)
    assert len(layer.grads) == (len(gradients) if affine else 0)
    for found, expected in zip(layer.grads.values(), gradients, strict=False):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@one_of_each
def test_dtypes(make, name):
    dtype = DTYPES[name]
    layer, x = randomise(make(dtype=dtype)), data(*SHAPE, dtype=dtype)
    layer(x)
    dx = layer.backward(data(*SHAPE, seed=2, dtype=dtype))
    assert dx.dtype == dtype
    assert dx.shape == x.shape
    for key, gradient in layer.grads.items():
        assert gradient.dtype == (np.float64 if name == "float64" else np.float32)
        assert gradient.shape == getattr(layer, key).shape


@both_modes
@pytest.mark.parametrize("shape", [(0, 6, 5), (4, 6, 0)])
@pytest.mark.parametrize("name", ONE_OF_EACH[:3])
def test_empty_batches(name, shape, mode):
    layer = mode(randomise(LAYERS[name]()))
    layer(np.empty(shape, np.float32))
    assert layer.backward(np.empty(shape, np.float32)).shape == shape
    assert list(layer.grads) == ["weight", "bias"]
    for gradient in layer.grads.values():
        np.testing.assert_array_equal(gradient, np.zeros(6))


# --- The parameters' gradients ------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (BatchNorm(6), ["weight", "bias"]),
        (BatchNorm(6, bias=False), ["weight"]),
        (BatchNorm(6, affine=False), []),
        (InstanceNorm(6), []),
        (InstanceNorm(6, affine=True, bias=False), ["weight"]),
        (GroupNorm(3, 6, affine=False), []),
        (LayerNorm(5, bias=False), ["weight"]),
        (LayerNorm(5, elementwise_affine=False), []),
        (LayerNorm(6, elementwise_affine=False, axis=1), []),
        (RMSNorm(5), ["weight"]),
        (RMSNorm((6, 5), elementwise_affine=False), []),
    ],
    ids=repr,
)
def test_grads_has_the_layers_parameters(layer, names):
    assert layer.grads == {}
    layer(data(*SHAPE))
    assert layer.grads == {}
    dx = layer.backward(data(*SHAPE, seed=2))
    assert list(layer.grads) == names
    # Without parameters the gradient is that of ones.
    full = type(layer)(**{**arguments(layer), "dtype": np.float32})
    full(data(*SHAPE))
    np.testing.assert_allclose(full.backward(data(*SHAPE, seed=2)), dx, rtol=1e-5, atol=1e-6)
    assert len(full.grads) == (1 if isinstance(full, RMSNorm) else 2)


def arguments(layer):
    """How to make the same layer with all its parameters."""
    if isinstance(layer, (LayerNorm, RMSNorm)):
        return {"normalized_shape": layer.normalized_shape, "axis": layer.axis}
    if isinstance(layer, GroupNorm):
        return {"num_groups": layer.num_groups, "num_channels": layer.num_channels}
    return {"num_features": layer.num_features, "affine": True}


def test_grads_are_replaced_not_added_to():
    layer, x, grad = LayerNorm(5), data(*SHAPE), data(*SHAPE, seed=2)
    layer(x)
    layer.backward(grad)
    first = layer.grads
    kept = {name: gradient.copy() for name, gradient in first.items()}
    layer(x)
    layer.backward(2 * grad)
    for name, gradient in kept.items():
        np.testing.assert_array_equal(first[name], gradient)
        np.testing.assert_allclose(layer.grads[name], 2 * gradient, rtol=1e-5)


@one_of_each
def test_parameters_of_the_call_count(make):
    """Another weight, or none, assigned after the call is for the next call."""
    layer, x, grad = randomise(make()), data(*SHAPE), data(*SHAPE, seed=2)
    layer(x)
    expected = layer.backward(grad)
    names = list(layer.grads)
    layer(x)
    layer.weight = layer.bias = None
    np.testing.assert_array_equal(layer.backward(grad), expected)
    assert list(layer.grads) == names


# --- Where dx goes ------------------------------------------------------------------------


@one_of_each
def test_out(make):
    layer, x, grad = randomise(make()), data(*SHAPE), data(*SHAPE, seed=2)
    layer(x)
    expected = layer.backward(grad)
    new, own = np.empty_like(x), grad.copy()
    for source, out in ((grad, new), (own, own), (grad, x)):
        layer(x)
        assert layer.backward(source, out=out) is out
        np.testing.assert_array_equal(out, expected)


@one_of_each
def test_grad_is_positional_only(make):
    layer = make()
    layer(data(*SHAPE))
    with pytest.raises(TypeError, match="positional"):
        layer.backward(grad=data(*SHAPE))
