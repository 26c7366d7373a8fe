"""Batches of 2, 4, 16 and 64 with batch norm, layer norm and group norm.

Run it with ::

    python examples/experiments/batch_size.py
"""

from __future__ import annotations

from collections.abc import Sequence

import experiment
import numpy as np
from experiment import Array
from matplotlib.figure import Figure
from network import Convolution, Flatten, Layer, Linear, Network, ReLU, digits, error, train

import fastnorm

WIDTH, CHANNELS, GROUPS = 96, 8, 4
SIZES = (2, 4, 16, 64)
NORMS = ("batch", "layer", "group")
NETWORKS = ("dense", "convolutional")
# At a batch of 64; the rate of smaller batches is smaller in proportion, as in Wu and He, so that
# an epoch goes about as far.
RATE = 0.05

# Errors of the test set in per cent: (network, norm, batch size) -> one for each run.
Results = dict[tuple[str, str, int], Array]


def build(kind: str, norm: str, rng: np.random.Generator) -> Network:
    """Make one of the two networks, normalised before each ReLU."""
    layers: list[Layer] = []
    if kind == "dense":
        size = 64
        for _ in range(3):
            layers.append(Linear(size, WIDTH, rng))
            size = WIDTH
            if norm == "batch":
                layers.append(fastnorm.BatchNorm(size))
            elif norm == "layer":
                layers.append(fastnorm.LayerNorm(size))
            else:
                layers.append(fastnorm.GroupNorm(GROUPS, size))
            layers.append(ReLU())
        layers.append(Linear(size, 10, rng))
        return Network(layers)
    channels = 1
    for _ in range(2):
        layers.append(Convolution(channels, CHANNELS, rng))
        channels = CHANNELS
        if norm == "batch":
            layers.append(fastnorm.BatchNorm(channels, channel_axis=-1))
        elif norm == "layer":
            layers.append(fastnorm.LayerNorm((8, 8, channels)))
        else:
            layers.append(fastnorm.GroupNorm(GROUPS, channels, channel_axis=-1))
        layers.append(ReLU())
    layers += [Flatten(), Linear(64 * channels, 10, rng)]
    return Network(layers)


def run(
    seeds: int = 5,
    epochs: float = 4,
    sizes: Sequence[int] = SIZES,
    networks: Sequence[str] = NETWORKS,
) -> Results:
    """Train all networks with batches of all sizes."""
    results = {}
    for kind in networks:
        data = digits(images=kind != "dense")
        for norm in NORMS:
            for size in sizes:
                errors = []
                for seed in range(seeds):
                    rng = np.random.default_rng(seed)
                    network = build(kind, norm, rng)
                    steps = round(epochs * len(data.x) / size)
                    rate = RATE * size / 64
                    train(network, data, rate=rate, batch_size=size, steps=steps, rng=rng)
                    errors.append(error(network.eval(), data.test_x, data.test_labels))
                results[kind, norm, size] = np.array(errors)
    return results


def axes_of(results: Results) -> tuple[list[str], list[int]]:
    """Return the networks and the sizes that there are results for."""
    kinds = list(dict.fromkeys(kind for kind, _, _ in results))
    return kinds, list(dict.fromkeys(size for _, _, size in results))


def tables(results: Results) -> str:
    """Say how well each network has learnt."""
    kinds, sizes = axes_of(results)
    runs = len(next(iter(results.values())))
    parts = [f"Errors on the test set, in per cent: {runs} runs each, mean (least to greatest)."]
    for kind in kinds:
        rows = [
            [f"{norm} norm", *(experiment.spread(results[kind, norm, size]) for size in sizes)]
            for norm in NORMS
        ]
        parts.append(experiment.table([kind, *(f"batches of {size}" for size in sizes)], rows))
    return "\n\n".join(parts)


def draw(results: Results) -> Figure:
    """Plot the errors by batch size, for each network."""
    kinds, sizes = axes_of(results)
    figure = Figure(figsize=(4.5 * len(kinds), 3.6))
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for ax, kind in zip(panels, kinds, strict=True):
        for norm in NORMS:
            errors = np.array([results[kind, norm, size] for size in sizes])
            colour = experiment.COLOURS[norm]
            ax.plot(sizes, errors.mean(1), "o-", color=colour, label=f"{norm} norm")
            ax.fill_between(sizes, errors.min(1), errors.max(1), color=colour, alpha=0.15, lw=0)
        ax.set(title=f"{kind.capitalize()} network", xlabel="batch size")
        ax.set(xscale="log", yscale="log", ylim=(1, 100))
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.minorticks_off()
        ax.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    panels[0].set_ylabel("errors on the test set, per cent")
    return figure


if __name__ == "__main__":
    experiment.main("batch_size", run, tables, draw, description=__doc__.splitlines()[0])
