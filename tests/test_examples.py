"""The experiments, in small: they run, and what the literature claims shows where it is robust."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import run_python

import fastnorm

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "experiments"
NAMES = ["training", "batch_size", "modes", "contrast", "groups"]


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Import a module of the experiments, which find each other as when they are run."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if name in (*NAMES, "network", "experiment"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def network(load: Any) -> ModuleType:
    return load("network")


@pytest.fixture(scope="module")
def experiment(load: Any) -> ModuleType:
    return load("experiment")


# --- The network --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "rms", "instance"])
def test_the_networks_gradient(network: ModuleType, norm: str) -> None:
    """Along a random direction of everything that is learnt, against a central difference."""
    rng = np.random.default_rng(0)
    kinds = {
        "batch": lambda: fastnorm.BatchNorm(4, channel_axis=-1),
        "layer": lambda: fastnorm.LayerNorm((8, 8, 4)),
        "group": lambda: fastnorm.GroupNorm(2, 4, channel_axis=-1),
        "rms": lambda: fastnorm.RMSNorm((8, 8, 4)),
        "instance": lambda: fastnorm.InstanceNorm(4, affine=True, channel_axis=-1),
    }
    net = network.Network(
        [
            network.Convolution(1, 4, rng),
            kinds[norm](),
            network.ReLU(),
            network.Convolution(4, 4, rng),
            kinds[norm](),
            network.ReLU(),
            network.Flatten(),
            network.Linear(256, 10, rng),
        ]
    )
    for layer in net.layers:
        for name in ("weight", "bias"):
            if hasattr(layer, name):
                setattr(layer, name, getattr(layer, name).astype(np.float64))
        if isinstance(layer, network.Convolution):
            layer.product.weight, layer.product.bias = layer.weight, layer.bias
    x, labels = rng.standard_normal((3, 8, 8, 1)), np.array([1, 5, 9])

    def loss() -> float:
        return float(network.cross_entropy(net(x), labels)[0])

    _, grad = network.cross_entropy(net(x), labels)
    dx = net.backward(grad)
    learnt = [(x, dx)]
    for layer in net.layers:
        learnt += [(getattr(layer, name), g) for name, g in layer.grads.items()]
    assert len(learnt) == 1 + 6 + (2 if norm == "rms" else 4)
    directions = [rng.standard_normal(parameter.shape) for parameter, _ in learnt]
    expected = sum(float((g * d).sum()) for (_, g), d in zip(learnt, directions, strict=True))
    step, losses = 1e-6, []
    for factor in (step, -2 * step):
        for (parameter, _), direction in zip(learnt, directions, strict=True):
            parameter += factor * direction
        losses.append(loss())
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-5)


def test_training_is_repeatable_and_learns(network: ModuleType, load: Any) -> None:
    data = network.digits()
    assert data.x.shape == (1297, 64)
    assert data.test_x.shape == (500, 64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    results = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        net = load("training").build("batch", rng)
        losses = network.train(net, data, rate=0.03, batch_size=64, steps=60, rng=rng)
        results.append((losses, network.error(net.eval(), data.test_x, data.test_labels)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] < 15
    assert results[0][0][-10:].mean() < 0.3 < 1.5 < results[0][0][0]


def test_batches_use_every_sample_once(network: ModuleType) -> None:
    source = network.batches(10, 3, np.random.default_rng(0))
    for _ in range(3):
        epoch = np.concatenate([next(source) for _ in range(3)])
        assert len(set(epoch)) == 9


# --- The experiments ----------------------------------------------------------------------


def test_training(load: Any) -> None:
    training = load("training")
    results = training.run(seeds=2, steps=120, rates=(0.03, 0.3))

    def loss(name: str) -> float:
        return float(np.nan_to_num(results[name].losses[:, -20:], nan=np.inf).mean())

    # Ten times the rate: batch norm still learns, nothing else does so reliably.
    assert loss("none, rate 0.3") > 1
    assert loss("batch, rate 0.3") < 0.5
    assert loss("batch, rate 0.3") < loss("layer, rate 0.3")
    assert results["batch, rate 0.3"].errors.max() < 20
    # The normal rate: all learn, batch norm the fastest.
    assert loss("batch, rate 0.03") < loss("none, rate 0.03") < 0.5
    # Batch norm does not notice the scales of the features, if it sees these first.
    assert loss("batch, input too, scaled") < 0.3
    assert loss("batch, input too, scaled") < loss("layer, input too, scaled")
    complete(load, training, results)


def test_batch_size(load: Any) -> None:
    batch_size = load("batch_size")
    results = batch_size.run(seeds=1, epochs=1, sizes=(2, 64), networks=("dense",))
    results |= batch_size.run(seeds=1, epochs=0.5, sizes=(2, 64), networks=("convolutional",))

    def errors(norm: str, size: int) -> float:
        return float(results["dense", norm, size].mean())

    assert errors("batch", 2) > 2 * errors("batch", 64)
    for norm in ("layer", "group"):
        assert errors(norm, 2) < errors("batch", 2) / 2
    complete(load, batch_size, results)


def test_modes(load: Any) -> None:
    modes = load("modes")
    results = modes.run(seeds=1, steps=150, sizes=(2, 64, 500))
    batch, layer = results["batch"], results["layer"]
    # Layer norm has one mode only.
    assert layer.difference.max() == layer.changed.max() == 0
    for how in (layer.shuffled, layer.sorted):
        for errors in how.values():
            np.testing.assert_allclose(errors, layer.evaluation, rtol=1e-9)
    np.testing.assert_array_equal(layer.afterwards, layer.evaluation)
    np.testing.assert_array_equal(layer.never, layer.evaluation)
    # Batch norm has two: the wrong one costs more for few images, and for similar ones.
    assert batch.difference.max() > 0
    assert batch.evaluation.max() < 15
    assert batch.shuffled[2].min() > 30
    assert batch.shuffled[64].max() < batch.shuffled[2].min()
    assert batch.sorted[64].min() > 2 * batch.shuffled[64].max()
    np.testing.assert_array_equal(batch.sorted[500], batch.shuffled[500])
    complete(load, modes, results)


def test_contrast(load: Any) -> None:
    contrast = load("contrast")
    results = contrast.run(step=4)
    assert len(results) == 2
    names = list(contrast.VARIANTS)
    for found in results:
        difference = {
            norm: dict(zip(names, values, strict=True))
            for norm, values in found.differences.items()
        }
        for name in ("half the contrast", "dark", "bright", "colour cast"):
            assert difference["instance"][name] < 0.01
            assert difference["batch"][name] > 0.3
        for name in ("half the contrast", "dark", "bright"):
            assert difference["layer"][name] < 0.01
        assert difference["layer"]["colour cast"] > 0.1
        # Where the variance is no longer large next to eps, the picture stays pale.
        assert difference["instance"]["contrast 1/200"] > 0.1
    complete(load, contrast, results)


def test_groups(load: Any) -> None:
    groups = load("groups")
    found = groups.run(seeds=1, epochs=0.5, groups=(1, 4, 16))
    assert found.to_layer[1] < 1e-5
    assert found.to_instance[16] < 1e-5
    assert min(found.to_layer[4], found.to_instance[4]) > 0.1
    for errors in found.errors.values():
        assert errors.max() < 30
    complete(load, groups, found)


def complete(load: Any, module: ModuleType, results: Any) -> None:
    """Every result can be shown."""
    text = module.tables(results)
    assert "| ---" in text
    assert "nan" not in text
    assert "inf" not in text
    figure = module.draw(results)
    assert all(axes.has_data() for axes in figure.axes)


# --- The page -----------------------------------------------------------------------------


def test_command_line(tmp_path: Path) -> None:
    plot = tmp_path / "contrast.jpg"
    done = run_python("-W", "error", str(FOLDER / "contrast.py"), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "| colour cast " in done.stdout
    assert plot.read_bytes()[:2] == b"\xff\xd8"


def test_tables_and_numbers(experiment: ModuleType) -> None:
    assert experiment.table(["a", "b"], [["first", "1"], ["2", "three"]]).splitlines() == [
        "| a     |     b |",
        "| ---   |   --: |",
        "| first |     1 |",
        "| 2     | three |",
    ]
    assert experiment.spread([1, 2, 6]) == "3.0 (1.0 to 6.0)"
    assert experiment.spread([0.123, 0.125], 2) == "0.12 (0.12 to 0.12)"
    assert experiment.spread([1, np.nan]) == "diverged"


def test_a_part_of_the_page_is_replaced(experiment: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "experiments.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", "utf-8")
    from matplotlib.figure import Figure

    for _ in range(2):
        figure = Figure()
        figure.subplots().plot([1, 2])
        experiment.document("x", "new", figure, ".svg", tmp_path)
        text = page.read_text("utf-8")
        assert text.startswith("a\n<!-- x: begin -->\n![x](experiments/x.svg)\n\nnew\n")
        assert text.endswith("\n<!-- x: end -->\nb\n")
        assert "old" not in text
    first = (tmp_path / "experiments" / "x.svg").read_bytes()
    experiment.document("x", "new", figure, ".svg", tmp_path)
    assert (tmp_path / "experiments" / "x.svg").read_bytes() == first
    with pytest.raises(ValueError, match="the page has no place for y"):
        experiment.insert(page.read_text("utf-8"), "y", "new")


def test_the_page_has_what_every_experiment_gave() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text("utf-8")
    assert re.findall(r"<!-- (\w+): begin -->", page) == NAMES
    assert {path.stem for path in FOLDER.glob("*.py")} == {*NAMES, "network", "experiment"}
    for name in NAMES:
        block = page.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert f"examples/experiments/{name}.py" in block
        assert "| ---" in block
        (picture,) = re.findall(rf"!\[{name}\]\((experiments/{name}\.\w+)\)", block)
        assert (ROOT / "docs" / picture).stat().st_size > 1000
