"""Measures how widely the meanings of texts are spread; `counting` counts their words."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..components import SynthesisError


def embedding_spread(
    texts: Sequence[str], model: str | Path, max_texts: int = 5_000, seed: int = 0
) -> dict[str, float]:
    """How different texts are to a sentence-transformers model.

    Embeddings hardly depend on which of two things has which colour: this says whether texts speak of many things, and
    nothing about near-duplicates.

    Args:
        texts: At least two.
        model: Folder, or id on the Hub.
        max_texts: How many are sampled at random where there are more.
        seed: Seed of that sample.

    Returns:
        "mean cosine" of two texts (1 if all are the same; lower is more diverse), and "effective rank": in how many
        directions the embeddings spread evenly, the exponential of the entropy of their covariance's eigenvalues
        (from 1 to the model's dimensions; higher is more diverse).

    Raises:
        ValueError: fewer than two texts.
        SynthesisError: the model cannot be loaded.
    """
    if len(texts) < 2:
        raise ValueError(f"the spread of {len(texts)} texts cannot be measured: two at least")
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(str(model))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SynthesisError(f"{model} cannot be loaded by sentence-transformers: {first_line}") from error
    if len(texts) > max_texts:
        texts = random.Random(seed).sample(texts, max_texts)
    embeddings = encoder.encode(
        list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
    ).astype(np.float64)
    return {"mean cosine": mean_cosine(embeddings), "effective rank": effective_rank(embeddings)}


def mean_cosine(embeddings: np.ndarray) -> float:
    """Mean dot product of two different rows of unit length; `embeddings` is of shape (texts, dimensions)."""
    count = len(embeddings)
    return float((np.square(embeddings.sum(0)).sum() - count) / (count * (count - 1)))


def effective_rank(embeddings: np.ndarray) -> float:
    """Exponential of the entropy of the covariance's eigenvalues, as shares; 1 if all rows are equal."""
    centred = embeddings - embeddings.mean(0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    if variances.sum() < 1e-9:
        return 1.0
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
