"""What candidates and fewer tokens cost with real features: those of the tiny model, for `search_at_size.py`."""

from pathlib import Path
from typing import Any

import torch
from sought_people import encode, load_tiny, make_sought
from torch import Tensor

from fafa.retrieval.finding import find_best
from fafa.retrieval.parts import Part
from fafa.retrieval.token_pooling import pool_tokens, pooled_top_tokens
from fafa.scoring_fafa import topk_mean_similarity
from fafa.tables import markdown_table

NUMBERS = (10, 20, 50, 100, 200, 500)  # of candidates
TOP = 10


def measure_tiny(work: Path) -> dict[str, Any]:
    """Recall of the exact top-10 by number of candidates and of tokens, and how often somebody sought is first."""
    model, processor = load_tiny()
    world = make_sought(work, 0, model, processor)
    references, captions = ([getattr(one, name)[0] for one in world.sought] for name in ("references", "captions"))
    kinds = {"image + caption": (references, captions), "caption": (None, captions), "image": (references, None)}
    part = Part(torch.arange(len(world.features)), world.features, world.features.mean(dim=1))
    sought, k = torch.from_numpy(world.images("match")), model.num_top_tokens
    measured: dict[str, Any] = {"images": len(part), "shape": list(world.features.shape[1:]), "candidates": {}}
    exact = {}
    for kind, given in kinds.items():
        queries = encode(model, processor, *given)
        exact[kind] = queries, find_best(queries, [part], k, TOP, exact=True)[1]
        found = {number: find_best(queries, [part], k, TOP, num_candidates=number)[1] for number in NUMBERS}
        measured["candidates"][kind] = {number: recall(rows, exact[kind][1]) for number, rows in found.items()}
    queries, best = exact["image + caption"]
    measured["tokens"] = []
    for number in sorted({model.feature_shape[0] // share for share in (1, 2, 4, 8)}, reverse=True):
        pooled = pool_tokens(world.features, number)
        fewer = pooled_top_tokens(k, world.features.shape[1], number)
        rows = topk_mean_similarity(queries, pooled, fewer).sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        first = sought[torch.arange(len(rows)), rows[:, 0]].double().mean().item()
        measured["tokens"].append({"tokens": number, "k": fewer, "first": first, "top10": recall(rows, best)})
    return measured


def recall(found: Tensor, exact: Tensor) -> float:
    """The share of the exact top-10's images that were found, `(num_queries, 10)` each."""
    return float((found[:, :, None] == exact[:, None]).any(dim=1).double().mean())


def tiny_markdown(measured: dict[str, Any]) -> list[str]:
    """Paragraphs of the page."""
    tokens, dim = measured["shape"]
    rows = [
        [kind, *(f"{by_number[str(number)]:.4f}" for number in NUMBERS)]
        for kind, by_number in measured["candidates"].items()
    ]
    fewer = [
        [str(row["tokens"]), str(row["k"]), f"{100 * row['first']:.1f} %", f"{row['top10']:.3f}"]
        for row in measured["tokens"]
    ]
    return [
        "## Features of a model",
        f"`checkpoints/tiny` ({tokens} tokens of {dim}) over a painted gallery of {measured['images']:,} people, which "
        "it has not seen: recall of the exact top-10, by number of candidates.",
        markdown_table(["query", *(f"{number:,}" for number in NUMBERS)], rows),
        "A caption alone is about equally near to many images here, and their means tell less of their best tokens: "
        "where it matters, ask for more `candidates`, or for `exact=True`.",
        "Fewer tokens (`pool_tokens`), queries by image + caption:",
        markdown_table(["tokens", "k", "somebody sought first", "of the exact top-10"], fewer),
    ]
