"""Instance norm takes contrast and brightness out of a photograph.

The sample photographs of scikit-learn, at different contrast, brightness and colour, normalised by
instance norm, layer norm and batch norm. Run it with ::

    python examples/experiments/contrast.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import experiment
import numpy as np
from experiment import Array
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

import fastnorm

# y = contrast * x + brightness, for x from 0 to 1; a triple is for red, green and blue.
VARIANTS: dict[str, tuple[float | tuple[float, ...], float | tuple[float, ...]]] = {
    "original": (1, 0),
    "half the contrast": (0.5, 0.25),
    "dark": (0.3, 0),
    "bright": (0.3, 0.7),
    "colour cast": ((1, 0.6, 0.3), (0, 0.1, 0.4)),
    "contrast 1/200": (0.005, 0.5),
}
NORMS = ("instance", "layer", "batch")


def photographs(step: int = 1) -> Array:
    """Load China and the flower, (2, H, W, 3), from 0 to 1; every ``step``-th pixel."""
    images = np.stack(load_sample_images().images)[:, ::step, ::step]
    return (images / 255).astype(np.float32)


def variants(image: Array) -> Array:
    """Return the image at all contrasts and brightnesses: (variants, H, W, 3)."""
    pairs = VARIANTS.values()
    return np.stack([np.asarray(a) * image + np.asarray(b) for a, b in pairs]).astype(np.float32)


def as_stored(images: Array) -> Array:
    """What an 8-bit file would keep of them: 256 levels, and nothing outside 0 to 1."""
    stored: Array = np.clip(images * 255, 0, 255).round() / 255
    return stored.astype(np.float32)


def normalise(norm: str, images: Array) -> Array:
    """Normalise (N, H, W, 3), with all the images as the batch."""
    if norm == "instance":
        return fastnorm.instance_norm(images, channel_axis=-1)
    if norm == "layer":
        return fastnorm.layer_norm(images, images.shape[1:])
    return fastnorm.batch_norm(images, training=True, channel_axis=-1)


@dataclass(frozen=True)
class Found:
    """One photograph: what went in, what came out, and how far that is from the original's."""

    title: str
    images: Array  # variants, H, W, 3
    normalised: dict[str, Array]
    differences: dict[str, Array]  # root of the mean square, for each variant
    stored: Array  # the same for instance norm, of 8-bit images


def rms(differences: Array) -> Array:
    """Root of the mean square of all but the first axis."""
    squares = np.square(differences, dtype=np.float64)
    root: Array = np.sqrt(squares.mean(axis=tuple(range(1, differences.ndim))))
    return root


def run(step: int = 1) -> list[Found]:
    """Normalise all variants of both photographs."""
    results = []
    for title, image in zip(("China", "flower"), photographs(step), strict=True):
        images = variants(image)
        normalised = {norm: normalise(norm, images) for norm in NORMS}
        stored = normalise("instance", as_stored(images))
        results.append(
            Found(
                title,
                images,
                normalised,
                {norm: rms(y - y[0]) for norm, y in normalised.items()},
                rms(stored - normalised["instance"][0]),
            )
        )
    return results


def tables(results: Sequence[Found]) -> str:
    """Say how far the normalised variants are from the normalised original."""
    parts = [
        "Root mean square of the difference between the normalised variant and the normalised "
        "original, in standard deviations:"
    ]
    for found in results:
        rows = [
            [
                name,
                *(f"{found.differences[norm][i]:.2g}" for norm in NORMS),
                f"{found.stored[i]:.2g}",
            ]
            for i, name in enumerate(VARIANTS)
        ]
        head = [found.title, *(f"{norm} norm" for norm in NORMS), "instance norm, 8 bits"]
        parts.append(experiment.table(head, rows))
    return "\n\n".join(parts)


def draw(results: Sequence[Found]) -> Figure:
    """Show the variants of both photographs, and below them what each norm makes of them."""
    rows = 1 + len(NORMS)
    figure = Figure(figsize=(2 * len(VARIANTS), 1.5 * rows * len(results)))
    axes = figure.subplots(rows * len(results), len(VARIANTS))
    for n, found in enumerate(results):
        shown = {"given": found.images, **found.normalised}
        for m, (title, images) in enumerate(shown.items()):
            for ax, name, image in zip(axes[n * rows + m], VARIANTS, images, strict=True):
                # From two standard deviations below to two above the mean.
                picture = image if title == "given" else 0.5 + image / 4
                ax.imshow(np.clip(picture[::2, ::2], 0, 1))
                ax.set(xticks=[], yticks=[])
                if n == m == 0:
                    ax.set_title(name, fontsize="medium")
            axes[n * rows + m][0].set_ylabel(title if title == "given" else f"{title} norm")
    figure.subplots_adjust(wspace=0.03, hspace=0.03)
    return figure


if __name__ == "__main__":
    # Photographs would make a vector file large.
    description = __doc__.splitlines()[0]
    experiment.main("contrast", run, tables, draw, description=description, suffix=".jpg")
