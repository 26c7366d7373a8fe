"""The layers' state: dictionaries, loading, copies, and the call that makes a layer."""

import copy
import pickle
import re

import numpy as np
import pytest
from helpers import DTYPES
from layers_helpers import (
    EVERY,
    TRACKED_NAMES,
    data,
    randomise,
    snapshot,
)

from fastnorm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

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
    layer = LayerNorm(3, dtype=DTYPES[target])
    mapping = {"weight": values.astype(DTYPES[source]), "bias": [1, 2, 3]}
    layer.load_state_dict(mapping)
    assert layer.weight.dtype == layer.bias.dtype == DTYPES[target]
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
    layer = randomise(make(dtype=DTYPES[name]))
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
