"""The layers' backward: what is kept and for how long, and what is refused."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from layers_helpers import (
    SHAPE,
    both_modes,
    data,
    one_of_each,
    randomise,
    refused,
)

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
