"""The layers' backward: what is kept and for how long, what comes back, and what is refused.

How exact the gradients are is tested with the functions; here finite differences in float64 tell
whether a layer hands the right arrays to the right function.
"""

import copy
import gc
import pickle
import re
import weakref

import numpy as np
import pytest

import fastnorm
from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

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


def data(*shape, seed=0, dtype=np.float32):
    return (3 + 2 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def randomise(layer, seed=1):
    """Give every array of a layer values that no other has."""
    rng = np.random.default_rng(seed)
    for name, array in layer.state_dict().items():
        if name != "num_batches_tracked":
            getattr(layer, name)[...] = rng.uniform(0.5, 2, array.shape).astype(array.dtype)
    return layer


def refused(message):
    return pytest.raises(RuntimeError, match=re.escape("backward: " + message))


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
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
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


# --- What is kept, and for how long -------------------------------------------------------


@both_modes
@one_of_each
def test_one_backward_for_each_call(make, mode):
    layer, x, grad = make(), data(*SHAPE), data(*SHAPE, seed=2)
    with refused("the layer has not been called in training"):
        layer.backward(grad)
    mode(layer)(x)
    layer.backward(grad)
    with refused("the gradients of the last call have been taken"):
        layer.backward(grad)
    layer(x)
    layer.backward(grad)


@one_of_each
def test_of_several_calls_the_last_counts(make):
    layer, grad = make(), data(*SHAPE, seed=2)
    layer(data(*SHAPE, seed=5))
    expected = layer.backward(grad)
    layer(data(*SHAPE, seed=4))
    layer(data(*SHAPE, seed=5))
    np.testing.assert_array_equal(layer.backward(grad), expected)


@pytest.fixture(autouse=True, scope="module")
def only_own_garbage():
    """What other tests left behind is not searched for garbage, again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive(reference):
    gc.collect()
    return reference() is not None


@both_modes
@one_of_each
def test_the_input_is_kept_until_backward(make, mode):
    layer, x = mode(make()), data(*SHAPE)
    reference = weakref.ref(x)
    layer(x)
    del x
    assert alive(reference), "no copy is kept, but the input itself"
    layer.backward(data(*SHAPE, seed=2))
    assert not alive(reference)


@both_modes
@pytest.mark.parametrize(
    "switch", [lambda x: x.eval(), lambda x: x.train(False), lambda x: x.eval(backward=True)]
)
@one_of_each
def test_eval_releases(make, mode, switch):
    layer, x = mode(make()), data(*SHAPE)
    reference = weakref.ref(x)
    layer(x)
    del x
    layer.train()
    assert alive(reference), "train() releases nothing"
    switch(layer)
    assert not alive(reference)
    with refused("eval() has released"):
        layer.backward(data(*SHAPE))


@pytest.mark.parametrize(
    "switch",
    [lambda x: x.eval(), lambda x: x.train(False), lambda x: setattr(x, "training", False)],
)
@one_of_each
def test_evaluation_keeps_nothing(make, switch):
    layer, x = make(), data(*SHAPE)
    layer.eval(backward=True).train()
    switch(layer)
    reference = weakref.ref(x)
    layer(x)
    del x
    assert not alive(reference)
    with refused("the layer has not been called in training, or after eval(backward=True)"):
        layer.backward(data(*SHAPE))


@one_of_each
def test_evaluation_is_the_same_with_backward(make):
    layer, x = randomise(make()), data(*SHAPE)
    before = {name: array.tobytes() for name, array in layer.state_dict().items()}
    expected = layer.eval()(x)
    assert layer.eval(backward=True) is layer
    assert layer.training is False
    np.testing.assert_array_equal(layer(x), expected)
    layer.backward(data(*SHAPE, seed=2))
    assert {name: array.tobytes() for name, array in layer.state_dict().items()} == before


@one_of_each
def test_eval_refuses(make):
    layer = make()
    with pytest.raises(TypeError, match="backward: is 'yes'; takes True or False"):
        layer.eval(backward="yes")
    assert layer.training is True


@one_of_each
def test_an_input_that_was_overwritten(make):
    layer, x, grad = make(), data(*SHAPE), data(*SHAPE, seed=2)
    memory = np.concatenate([x, x[:1]])
    for out in (x, memory[1:]):
        layer(x if out is x else memory[:-1], out=out)
        with refused("the last call stored its result in its own input"):
            layer.backward(grad)
    # Another out does no harm, even if its elements lie between those of the input.
    pairs = np.empty((*SHAPE, 2), np.float32)
    pairs[..., 0] = data(*SHAPE)
    layer(pairs[..., 0], out=pairs[..., 1])
    layer.backward(grad)


# --- Refused calls ------------------------------------------------------------------------


@one_of_each
def test_a_refused_call_leaves_what_was_kept(make):
    layer, x, grad = randomise(make()), data(*SHAPE), data(*SHAPE, seed=2)
    layer(x)
    expected = layer.backward(grad)
    layer(x)
    with pytest.raises(ValueError, match="out: "):
        layer(data(*SHAPE, seed=3), out=np.empty(3, np.float32))
    np.testing.assert_array_equal(layer.backward(grad), expected)


@pytest.mark.parametrize(
    ("grad", "out", "error", "name"),
    [
        (data(4, 6, 4), None, ValueError, "grad"),
        (data(*SHAPE, dtype=np.float64), None, TypeError, "grad"),
        (data(*SHAPE), np.empty((4, 6, 4), np.float32), ValueError, "out"),
        (data(*SHAPE), np.empty(SHAPE, np.float64), TypeError, "out"),
    ],
)
@one_of_each
def test_a_refused_backward_changes_nothing(make, grad, out, error, name):
    layer, x = randomise(make()), data(*SHAPE)
    layer(x)
    expected = layer.backward(data(*SHAPE, seed=2))
    layer(x)
    grads = layer.grads
    before = None if out is None else out.tobytes()
    with pytest.raises(error, match=f"^{name}: "):
        layer.backward(grad, out=out)
    assert layer.grads is grads
    assert before is None or out.tobytes() == before
    np.testing.assert_array_equal(layer.backward(data(*SHAPE, seed=2)), expected)


# --- Copies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
@one_of_each
def test_copies_have_nothing_kept(make, copied):
    layer, x, grad = randomise(make()).eval(backward=True), data(*SHAPE), data(*SHAPE, seed=2)
    state = list(layer.state_dict())
    layer(x)
    expected = layer.backward(grad)
    layer(x)
    assert list(layer.state_dict()) == state
    size = len(pickle.dumps(make()))
    assert len(pickle.dumps(layer)) <= size + 100
    twin = copied(layer)
    assert twin.grads == {}
    with refused("the layer has not been called"):
        twin.backward(grad)
    # The mode is copied, and neither is in the other's way.
    twin(2 * x)
    twin.backward(grad)
    np.testing.assert_array_equal(layer.backward(grad), expected)
