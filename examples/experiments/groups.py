"""Group norm between instance norm (a group for each channel) and layer norm (one group).

Run it with ::

    python examples/experiments/groups.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import experiment
import numpy as np
from experiment import Array
from matplotlib.figure import Figure
from network import Convolution, Flatten, Layer, Linear, Network, ReLU, digits, error, train

import fastnorm

CHANNELS, BATCH, RATE = 16, 32, 0.03
GROUPS = (1, 2, 4, 8, 16)


def build(groups: int, rng: np.random.Generator) -> Network:
    """Make a convolutional network, normalised before each ReLU."""
    layers: list[Layer] = []
    channels = 1
    for _ in range(2):
        layers.append(Convolution(channels, CHANNELS, rng))
        channels = CHANNELS
        layers.append(fastnorm.GroupNorm(groups, channels, channel_axis=-1))
        layers.append(ReLU())
    layers += [Flatten(), Linear(64 * channels, 10, rng)]
    return Network(layers)


@dataclass(frozen=True)
class Found:
    """What was measured: by number of groups, and how far the ends are from their namesakes."""

    errors: dict[int, Array]  # of the test set, per cent
    losses: dict[int, Array]  # mean training loss of the last epoch
    to_layer: dict[int, float]  # largest difference from layer norm's result
    to_instance: dict[int, float]  # from instance norm's


def compare(groups: Sequence[int]) -> tuple[dict[int, float], dict[int, float]]:
    """Compare group norm's results with layer and instance norm's, on one batch."""
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.standard_normal((BATCH, 8, 8, CHANNELS), dtype=np.float32)
    # Channels that differ, as those of a network do.
    x *= rng.uniform(0.5, 2, CHANNELS).astype(np.float32)
    layer = fastnorm.layer_norm(x, x.shape[1:])
    instance = fastnorm.instance_norm(x, channel_axis=-1)
    results = {g: fastnorm.group_norm(x, g, channel_axis=-1) for g in groups}
    return (
        {g: float(abs(y - layer).max()) for g, y in results.items()},
        {g: float(abs(y - instance).max()) for g, y in results.items()},
    )


def run(seeds: int = 20, epochs: float = 4, groups: Sequence[int] = GROUPS) -> Found:
    """Train a network with each number of groups."""
    data = digits(images=True)
    errors, losses = {}, {}
    epoch = len(data.x) // BATCH
    for g in groups:
        found = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            network = build(g, rng)
            steps = round(epochs * epoch)
            loss = train(network, data, rate=RATE, batch_size=BATCH, steps=steps, rng=rng)
            found.append((error(network, data.test_x, data.test_labels), loss[-epoch:].mean()))
        errors[g], losses[g] = np.array(found).T
    return Found(errors, losses, *compare(groups))


def tables(found: Found) -> str:
    """Say how far the ends are from their namesakes, and how well the networks learn."""
    rows = [
        [
            name(g),
            f"{found.to_layer[g]:.2g}",
            f"{found.to_instance[g]:.2g}",
            experiment.spread(found.losses[g], 3),
            experiment.spread(found.errors[g]),
        ]
        for g in found.errors
    ]
    runs = len(next(iter(found.errors.values())))
    head = [
        f"groups of {CHANNELS} channels",
        "largest difference from layer norm",
        "from instance norm",
        "training loss",
        "errors, per cent",
    ]
    return f"{runs} runs each, mean (least to greatest).\n\n" + experiment.table(head, rows)


def name(groups: int) -> str:
    """Name a number of groups, as the other norm that it is."""
    return {1: "1 (layer norm)", CHANNELS: f"{CHANNELS} (instance norm)"}.get(groups, str(groups))


def draw(found: Found) -> Figure:
    """Plot loss and errors by the number of groups."""
    figure = Figure(figsize=(9, 3.6))
    groups = list(found.errors)
    panels = [
        ("errors on the test set, per cent", found.errors),
        ("training loss, last epoch", found.losses),
    ]
    for ax, (title, values) in zip(figure.subplots(1, 2), panels, strict=True):
        all_of = np.array([values[g] for g in groups])
        colour = experiment.COLOURS["group"]
        for run in all_of.T:
            ax.plot(groups, run, ".", color=colour, alpha=0.4)
        ax.plot(groups, all_of.mean(1), "o-", color=colour)
        ax.set(xlabel="groups", ylabel=title, xscale="log")
        ax.set_xticks(groups, [name(g).replace(" (", "\n(") for g in groups])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    figure.subplots_adjust(wspace=0.3)
    return figure


if __name__ == "__main__":
    experiment.main("groups", run, tables, draw, description=__doc__.splitlines()[0])
