"""What is measured: shapes that a network meets, and shapes that are awkward."""

from __future__ import annotations

from collections.abc import Sequence

from fastnorm._demo import Case

_COPY_SPEED: Sequence[Case] = (
    Case("layer_norm", "long rows", (4096, 4096), "NC"),
    Case("group_norm", "32 groups", (16, 512, 32, 32), num_groups=32),
)
"""The cases that promise to take at most `PROMISED_COPIES` copies."""

PROMISED_COPIES = 1.5

CASES: Sequence[Case] = (
    *_COPY_SPEED,
    Case("layer_norm", "BERT-base", (4096, 768), "NC"),
    Case("layer_norm", "BERT-base", (4096, 768), "NC", "float64"),
    Case("layer_norm", "BERT-base", (4096, 768), "NC", "float16"),
    Case("layer_norm", "BERT-base", (4096, 768), "NC", "bfloat16"),
    Case("layer_norm", "over channels", (32, 96, 56, 56)),
    Case("rms_norm", "LLaMA-7B", (4096, 4096), "NC"),
    Case("rms_norm", "LLaMA-7B", (4096, 4096), "NC", "bfloat16"),
    Case("instance_norm", "style transfer", (16, 256, 64, 64)),
    Case("instance_norm", "style transfer", (16, 64, 64, 256), "NHWC"),
    Case("group_norm", "32 groups", (16, 32, 32, 512), "NHWC", num_groups=32),
    # A group is more than the second-level cache holds.
    Case("group_norm", "large groups", (1, 512, 192, 192), num_groups=32),
    Case("batch_norm", "training", (32, 64, 56, 56), training=True),
    Case("batch_norm", "training", (32, 56, 56, 64), "NHWC", training=True),
    # A channel is more than the second-level cache holds.
    Case("batch_norm", "training, large channels", (96, 192, 71, 71), training=True),
    Case("batch_norm", "training, short runs", (32, 2048, 7, 7), training=True),
    Case("batch_norm", "training, matrix", (4096, 512), "NC", training=True),
    Case("batch_norm", "inference", (32, 64, 56, 56)),
    Case("batch_norm", "inference", (32, 56, 56, 64), "NHWC"),
)

CALLS: Sequence[Case] = (
    Case("layer_norm", "one token", (1, 768), "NC"),
    Case("layer_norm", "16 tokens", (16, 768), "NC"),
)
"""Calls so small that what counts is the way to the kernel."""


def promised_copies(case: Case) -> float | None:
    """Return the most copies that `case` may take, if that is promised."""
    return PROMISED_COPIES if case in _COPY_SPEED else None


def selected(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """Return the cases in whose row of the table one of `words` stands."""
    rows = {case: " ".join(case.cells).casefold() for case in cases}
    return [
        case for case in cases if not words or any(word.casefold() in rows[case] for word in words)
    ]
