"""Batch norm in training and in evaluation mode, and what the wrong mode costs.

The same with layer norm, which has only one mode. Run it with ::

    python examples/experiments/modes.py
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import experiment
import numpy as np
from experiment import Array
from matplotlib.figure import Figure
from network import Digits, Layer, Linear, Network, ReLU, digits, error, train

import fastnorm

WIDTH, DEPTH, BATCH, RATE = 100, 3, 64, 0.03
SIZES = (2, 4, 16, 64, 500)
NORMS = ("batch", "layer")


def build(norm: str, rng: np.random.Generator) -> Network:
    """Make a network of dense layers, normalised before each ReLU."""
    layers: list[Layer] = []
    size = 64
    for _ in range(DEPTH):
        layers.append(Linear(size, WIDTH, rng))
        size = WIDTH
        layers += [fastnorm.BatchNorm(size) if norm == "batch" else fastnorm.LayerNorm(size)]
        layers.append(ReLU())
    layers.append(Linear(size, 10, rng))
    return Network(layers)


def error_by_batches(network: Network, x: Array, labels: Array, size: int) -> float:
    """Return the errors in per cent of a network that sees ``size`` samples at a time."""
    # A copy, for calls in training mode move the running statistics.
    network = copy.deepcopy(network)
    errors = [error(network, x[i : i + size], labels[i : i + size]) for i in range(0, len(x), size)]
    sizes = [len(x[i : i + size]) for i in range(0, len(x), size)]
    return float(np.average(errors, weights=sizes))


@dataclass(frozen=True)
class Found:
    """What was measured with one norm; an element for each run."""

    difference: Array  # largest difference of a logit between the modes
    changed: Array  # answers that are not the same in both modes, per cent
    evaluation: Array  # errors in evaluation mode, per cent
    shuffled: dict[int, Array]  # errors in training mode, by size of the batches
    sorted: dict[int, Array]  # the same with each digit's images one after the other
    afterwards: Array  # errors in evaluation mode, after one pass in training mode, sorted
    never: Array  # errors of a network that was in evaluation mode while it was trained
    never_fast: Array  # the same at ten times the rate
    fast: Array  # errors of a network trained as it should be, at ten times the rate


def measure(norm: str, seed: int, steps: int, sizes: Sequence[int], data: Digits) -> Found:
    """Train one network, and use it in both modes."""

    def trained(rate: float, evaluation: bool = False) -> Network:
        rng = np.random.default_rng(seed)
        network = build(norm, rng)
        if evaluation:
            network.eval(backward=True)
        train(network, data, rate=rate, batch_size=BATCH, steps=steps, rng=rng)
        return network

    def tested(network: Network) -> float:
        return error(network.eval(), data.test_x, data.test_labels)

    network = trained(RATE)
    x, labels = data.test_x, data.test_labels
    logits = copy.deepcopy(network).eval()(x), copy.deepcopy(network).train()(x)
    answers = [each.argmax(axis=1) for each in logits]
    order = np.argsort(labels, kind="stable")
    wrong = copy.deepcopy(network)
    for i in range(0, len(x), BATCH):
        wrong(x[order[i : i + BATCH]])
    return Found(
        difference=abs(logits[0] - logits[1]).max(),
        changed=100 * (answers[0] != answers[1]).mean(),
        evaluation=np.array(tested(copy.deepcopy(network))),
        shuffled={n: np.array(error_by_batches(network, x, labels, n)) for n in sizes},
        sorted={n: np.array(error_by_batches(network, x[order], labels[order], n)) for n in sizes},
        afterwards=np.array(tested(wrong)),
        never=np.array(tested(trained(RATE, evaluation=True))),
        never_fast=np.array(tested(trained(10 * RATE, evaluation=True))),
        fast=np.array(tested(trained(10 * RATE))),
    )


def run(seeds: int = 5, steps: int = 400, sizes: Sequence[int] = SIZES) -> dict[str, Found]:
    """Train networks with both norms, and use them in both modes."""
    data = digits()
    results = {}
    for norm in NORMS:
        found = [measure(norm, seed, steps, sizes, data) for seed in range(seeds)]
        together: dict[str, Any] = {}
        for name in (field.name for field in fields(Found)):
            values = [getattr(each, name) for each in found]
            together[name] = (
                {n: np.array([value[n] for value in values]) for n in sizes}
                if isinstance(values[0], dict)
                else np.array(values)
            )
        results[norm] = Found(**together)
    return results


def tables(results: dict[str, Found]) -> str:
    """Say what differs between the modes, and what that costs."""
    batch, layer = (results[norm] for norm in NORMS)
    sizes = list(batch.shuffled)

    def row(title: str, what: str, digits: int = 1) -> list[str]:
        return [title, *(experiment.spread(getattr(x, what), digits) for x in (batch, layer))]

    modes = [
        row("largest difference of a logit between the modes", "difference", 2),
        row("answers that differ between the modes, per cent", "changed"),
        row("errors in evaluation mode, per cent", "evaluation"),
        row("in evaluation mode, after a sorted pass in training mode", "afterwards"),
        row("trained in evaluation mode", "never"),
        row("trained in evaluation mode, ten times the rate", "never_fast"),
        row("trained in training mode, ten times the rate", "fast"),
    ]
    by_size = [
        [f"{norm} norm, {how}", *(experiment.spread(getattr(found, how)[n]) for n in sizes)]
        for norm, found in results.items()
        for how in ("shuffled", "sorted")
    ]
    return "\n\n".join(
        [
            f"{len(batch.changed)} runs each, mean (least to greatest).",
            experiment.table(["", "batch norm", "layer norm"], modes),
            "Errors on the test set when the network is left in training mode, in per cent, by "
            "the number of images that it sees at a time:",
            experiment.table(["", *(str(n) for n in sizes)], by_size),
        ]
    )


def draw(results: dict[str, Found]) -> Figure:
    """Plot the errors in the wrong mode by batch size, beside those in the right one."""
    figure = Figure(figsize=(6.5, 4))
    ax = figure.subplots()
    for norm, found in results.items():
        colour = experiment.COLOURS[norm]
        sizes = list(found.shuffled)
        for how, style in (("shuffled", "o-"), ("sorted", "s--")):
            errors = np.array([getattr(found, how)[n] for n in sizes])
            label = f"{norm} norm, training mode, {how}"
            ax.plot(sizes, errors.mean(1), style, color=colour, label=label)
            ax.fill_between(sizes, errors.min(1), errors.max(1), color=colour, alpha=0.15, lw=0)
        label = f"{norm} norm, evaluation mode"
        ax.axhline(found.evaluation.mean(), color=colour, ls=":", label=label)
    ax.set(xlabel="images at a time", ylabel="errors on the test set, per cent")
    ax.set(xscale="log", yscale="log", ylim=(1, 100))
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


if __name__ == "__main__":
    experiment.main("modes", run, tables, draw, description=__doc__.splitlines()[0])
