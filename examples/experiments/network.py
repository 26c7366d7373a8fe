"""A small network in NumPy, and how it is trained: what the experiments share.

Every layer has fastnorm's interface: it is called on a batch, its ``backward`` turns the gradient
by its result into that by its input, and what it learns are the attributes that are named in its
``grads``. That is why normalisation layers can stand between the ones that are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

import fastnorm

Array = npt.NDArray[Any]

NORMS = (
    fastnorm.BatchNorm,
    fastnorm.InstanceNorm,
    fastnorm.GroupNorm,
    fastnorm.LayerNorm,
    fastnorm.RMSNorm,
)


class Layer(Protocol):
    """What a network is made of."""

    grads: dict[str, Array]

    def __call__(self, x: Array, /) -> Array: ...
    def backward(self, grad: Array, /) -> Array: ...


class Linear:
    """A matrix product: (..., inputs) to (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        # He's initialisation: what a ReLU halves is doubled, so that the variance of the
        # activations stays the same from layer to layer.
        scale = np.sqrt(2 / inputs)
        self.weight = (scale * rng.standard_normal((inputs, outputs))).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.grads: dict[str, Array] = {}

    def __call__(self, x: Array, /) -> Array:
        self.x = x
        y: Array = x @ self.weight
        y += self.bias
        return y

    def backward(self, grad: Array, /) -> Array:
        rows = grad.reshape(-1, grad.shape[-1])
        columns = self.x.reshape(-1, self.x.shape[-1])
        self.grads = {"weight": columns.T @ rows, "bias": rows.sum(0)}
        dx: Array = grad @ self.weight.T
        return dx


class Convolution:
    """A convolution of 3 x 3, as large as its input: (N, H, W, inputs) to (N, H, W, outputs)."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        self.product = Linear(9 * inputs, outputs, rng)
        self.weight, self.bias = self.product.weight, self.product.bias
        self.grads: dict[str, Array] = {}

    def __call__(self, x: Array, /) -> Array:
        n, h, w, channels = x.shape
        padded = np.zeros((n, h + 2, w + 2, channels), x.dtype)
        padded[:, 1:-1, 1:-1] = x
        shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return self.product(np.concatenate(shifted, axis=-1))

    def backward(self, grad: Array, /) -> Array:
        shifted = self.product.backward(grad)
        self.grads = self.product.grads
        n, h, w, channels = shifted.shape
        channels //= 9
        padded = np.zeros((n, h + 2, w + 2, channels), grad.dtype)
        for k in range(9):
            i, j = divmod(k, 3)
            padded[:, i : i + h, j : j + w] += shifted[..., k * channels : (k + 1) * channels]
        return padded[:, 1:-1, 1:-1]


class ReLU:
    """Negative elements become zero."""

    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}

    def __call__(self, x: Array, /) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, grad: Array, /) -> Array:
        return grad * self.positive


class Flatten:
    """(N, ...) to (N, everything else)."""

    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}

    def __call__(self, x: Array, /) -> Array:
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, grad: Array, /) -> Array:
        return grad.reshape(self.shape)


class Network:
    """Layers, one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)

    def __call__(self, x: Array, /) -> Array:
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, grad: Array, /) -> Array:
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        return grad

    def train(self) -> Network:
        for layer in self.layers:
            if isinstance(layer, NORMS):
                layer.train()
        return self

    def eval(self, *, backward: bool = False) -> Network:
        for layer in self.layers:
            if isinstance(layer, NORMS):
                layer.eval(backward=backward)
        return self


def cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy of the softmax and its gradient by the logits."""
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    total = probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float((np.log(total[:, 0]) - logits[rows, labels]).mean())
    probabilities /= total
    probabilities[rows, labels] -= 1
    probabilities /= len(labels)
    return loss, probabilities


class SGD:
    """Stochastic gradient descent with momentum."""

    def __init__(self, network: Network, rate: float, momentum: float = 0.9) -> None:
        self.network, self.rate, self.momentum = network, rate, momentum
        self.velocities: dict[tuple[int, str], Array] = {}

    def step(self) -> None:
        for index, layer in enumerate(self.network.layers):
            for name, gradient in layer.grads.items():
                parameter = getattr(layer, name)
                velocity = self.velocities.setdefault((index, name), np.zeros_like(parameter))
                velocity *= self.momentum
                velocity -= self.rate * gradient
                parameter += velocity


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's digits, 8 x 8 pixels from 0 to 1: a part to learn from, a part to test."""

    x: Array
    labels: Array
    test_x: Array
    test_labels: Array


def digits(images: bool = False) -> Digits:
    """Load the digits: (N, 64), or with ``images`` (N, 8, 8, 1); 500 of them are for the test."""
    x, labels = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape((-1, 8, 8, 1) if images else (-1, 64))
    parts = train_test_split(x, labels, test_size=500, random_state=0, stratify=labels)
    x, test_x, labels, test_labels = parts
    return Digits(x, labels, test_x, test_labels)


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[Array]:
    """Yield the indices of one batch after the other, for ever; an epoch uses each index once."""
    while True:
        order = rng.permutation(count)
        # The last batch is left out if it is smaller: batch norm needs two samples.
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def one_thread() -> threadpool_limits:
    """Let matrix products and fastnorm use one thread for a while.

    The arrays are so small that threads would wait for each other most of the time, very long on
    a busy machine; and with one thread, the bits of a matrix product do not depend on how many
    there could be.
    """
    return threadpool_limits(limits=1)


def train(
    network: Network,
    data: Digits,
    *,
    rate: float,
    batch_size: int,
    steps: int,
    rng: np.random.Generator,
) -> Array:
    """Train a network in the mode it is in; return the loss of every step's batch.

    The losses are NaN from where it has diverged.
    """
    optimiser = SGD(network, rate)
    losses = np.full(steps, np.nan)
    # What diverges overflows; that is an outcome here, not an error.
    with np.errstate(all="ignore"), one_thread():
        for step, index in zip(range(steps), batches(len(data.x), batch_size, rng), strict=False):
            loss, grad = cross_entropy(network(data.x[index]), data.labels[index])
            if not np.isfinite(loss):
                break
            losses[step] = loss
            network.backward(grad)
            optimiser.step()
    return losses


def error(network: Network, x: Array, labels: Array) -> float:
    """Return the wrong answers in per cent, in whatever mode the network is."""
    with np.errstate(all="ignore"), one_thread():
        return 100 * float((network(x).argmax(axis=1) != labels).mean())
