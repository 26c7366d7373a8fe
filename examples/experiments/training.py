"""Training without normalisation, with batch norm and with layer norm.

At a normal and at a ten times larger learning rate, and with input features on very different
scales. Run it with ::

    python examples/experiments/training.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import experiment
import numpy as np
from experiment import Array
from matplotlib.figure import Figure
from network import Digits, Layer, Linear, Network, ReLU, digits, error, train

import fastnorm

WIDTH, DEPTH, BATCH = 100, 4, 64
NORMAL = 0.03
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
LEARNT = 0.1  # the loss at which training counts as done
WINDOW = 20  # steps over which losses are averaged

NORMS = ("none", "batch", "layer")
# With scaled features, there is also the question whether the input itself is normalised.
AT_INPUT = ("batch, input too", "layer, input too")


def build(norm: str, rng: np.random.Generator) -> Network:
    """Make a network of dense layers, normalised before each ReLU as in Ioffe and Szegedy."""
    kind = {"batch": fastnorm.BatchNorm, "layer": fastnorm.LayerNorm}.get(norm.split(",")[0])
    layers: list[Layer] = []
    if kind is not None and norm in AT_INPUT:
        layers.append(kind(64))
    size = 64
    for _ in range(DEPTH):
        layers.append(Linear(size, WIDTH, rng))
        size = WIDTH
        if kind is not None:
            layers.append(kind(size))
        layers.append(ReLU())
    layers.append(Linear(size, 10, rng))
    return Network(layers)


@dataclass(frozen=True)
class Run:
    """Several runs that differ in their random numbers alone."""

    losses: Array  # runs, steps
    errors: Array  # of the test set in per cent, for each run

    def learnt(self) -> Array:
        """Return for each run the first step at which the loss was small; infinite if never."""
        smooth = running_mean(self.losses)
        below = smooth < LEARNT
        return np.where(below.any(1), below.argmax(1) + WINDOW, np.inf)


def running_mean(losses: Array) -> Array:
    """Average over windows of steps, along the last axis."""
    windows = np.lib.stride_tricks.sliding_window_view(losses, WINDOW, axis=-1)
    mean: Array = windows.mean(axis=-1)
    return mean


def scaled(data: Digits) -> Digits:
    """Multiply each feature by a factor of its own, from a hundredth to a hundred."""
    factors = (10 ** np.random.default_rng(0).uniform(-2, 2, 64)).astype(np.float32)
    return Digits(data.x * factors, data.labels, data.test_x * factors, data.test_labels)


def run(seeds: int = 10, steps: int = 400, rates: Sequence[float] = RATES) -> dict[str, Run]:
    """Train all networks; return the runs by ``"norm, rate"`` and ``"norm, scaled"``."""
    plain = digits()
    problems = [(norm, f"rate {rate:g}", plain, rate) for rate in rates for norm in NORMS]
    problems += [(norm, "scaled", scaled(plain), NORMAL) for norm in NORMS + AT_INPUT]
    results = {}
    for norm, title, data, rate in problems:
        losses, errors = [], []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            network = build(norm, rng)
            losses.append(train(network, data, rate=rate, batch_size=BATCH, steps=steps, rng=rng))
            errors.append(error(network.eval(), data.test_x, data.test_labels))
        results[f"{norm}, {title}"] = Run(np.array(losses), np.array(errors))
    return results


def steps_to_learn(found: Run) -> str:
    learnt = found.learnt()
    if not np.isfinite(learnt).all():
        return f"{int(np.isfinite(learnt).sum())} of {len(learnt)} runs do"
    return experiment.spread(learnt, 0)


def tables(results: dict[str, Run]) -> str:
    """Say how soon each network has learnt, and how well."""
    some = next(iter(results.values()))
    titles = list(dict.fromkeys(name.split(", ")[-1] for name in results))
    plain = [title for title in titles if title != "scaled"]

    def cells(title: str, what: str) -> list[str]:
        found = [results[f"{norm}, {title}"] for norm in NORMS]
        if what == "steps":
            return [title, *(steps_to_learn(each) for each in found)]
        return [title, *(experiment.spread(each.errors) for each in found)]

    rows = [
        [norm, steps_to_learn(found), experiment.spread(found.errors)]
        for norm in NORMS + AT_INPUT
        for found in [results[f"{norm}, scaled"]]
    ]
    head = ["", *NORMS]
    return "\n\n".join(
        [
            f"{len(some.errors)} runs of {some.losses.shape[1]} steps each, mean (least to "
            "greatest).",
            f"Steps until the training loss is below {LEARNT}:",
            experiment.table(head, [cells(title, "steps") for title in plain]),
            "Errors on the test set, in per cent:",
            experiment.table(head, [cells(title, "errors") for title in plain]),
            f"With features on scales from 1/100 to 100, at rate {NORMAL:g}:",
            experiment.table(["", f"steps to {LEARNT}", "errors, per cent"], rows),
        ]
    )


def draw(results: dict[str, Run]) -> Figure:
    """Plot the loss by step, the median of the runs: at two rates, and with scaled features."""
    figure = Figure(figsize=(11, 3.6))
    axes = figure.subplots(1, 3, sharey=True)
    panels = [
        (f"rate {NORMAL:g}", f"Learning rate {NORMAL:g}", NORMS),
        (f"rate {10 * NORMAL:g}", f"Learning rate {10 * NORMAL:g}", NORMS),
        ("scaled", f"Scaled features, rate {NORMAL:g}", NORMS + AT_INPUT),
    ]
    for ax, (key, title, norms) in zip(axes, panels, strict=True):
        for norm in norms:
            found = results.get(f"{norm}, {key}")
            if found is None:
                continue
            colour = experiment.COLOURS[norm.split(",")[0]]
            style = "--" if norm in AT_INPUT else "-"
            # The line of runs that have diverged leaves the plot at the top.
            curves = np.nan_to_num(running_mean(found.losses), nan=1e6)[:, ::4]
            steps = WINDOW + 4 * np.arange(curves.shape[1])
            ax.plot(steps, np.median(curves, 0), style, color=colour, label=norm)
            ax.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)
        ax.set(title=title, xlabel="step", yscale="log", ylim=(1e-4, 10))
        ax.legend(fontsize="small", loc="lower left")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(f"training loss, mean of {WINDOW} steps")
    return figure


if __name__ == "__main__":
    experiment.main("training", run, tables, draw, description=__doc__.splitlines()[0])
