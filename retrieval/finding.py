"""The best images for queries, by numbers alone: it knows no files and no models.

A *row* is an image's place among all parts, one after another.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..scoring_fafa import topk_mean_similarity
from .parts import Part, num_rows


def find_best(
    queries: Tensor,
    parts: Sequence[Part],
    num_top_tokens: int,
    top: int,
    allowed: Tensor | None = None,
    num_candidates: int | None = None,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """The best images for each query; of equal scores the lower row comes first.

    Args:
        queries: `(num_queries, dim)`, unit length.
        num_top_tokens: k of the score, see `topk_mean_similarity`.
        top: how many images.
        allowed: `(num_rows,)`, bool: which images may be found; None: all. Dead ones never are.
        num_candidates: how many images are scored for each query, those with the nearest means; None: a number that
            grows with `top`.
        exact: score every image, so that none is missed.

    Returns:
        scores `(num_queries, top)`, fp32, descending, and their rows, int64. Where there are fewer images, the scores
        end with -infinity and the rows with -1.
    """
    open_rows = _allowed(parts, allowed)
    if num_candidates is None:
        num_candidates = max(1000, 20 * top)
    if exact or int(open_rows.sum()) <= num_candidates:
        scores = score_all(queries, parts, num_top_tokens).masked_fill(~open_rows, -torch.inf)
        rows = torch.arange(len(open_rows)).expand(len(queries), -1).masked_fill(~open_rows, -1)
    else:
        rows = candidates(queries, parts, max(top, num_candidates), allowed).sort(dim=1).values
        scores = torch.cat(
            [score_rows(query[None], parts, own, num_top_tokens) for query, own in zip(queries, rows, strict=True)]
        )
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    missing = max(0, top - rows.shape[1])
    scores = torch.nn.functional.pad(scores[:, :top], (0, missing), value=-torch.inf)
    return scores, torch.nn.functional.pad(rows[:, :top], (0, missing), value=-1)


def candidates(queries: Tensor, parts: Sequence[Part], number: int, allowed: Tensor | None = None) -> Tensor:
    """Rows of the images whose mean vectors have the largest products with each query: `(num_queries, number)`, int64.

    They come in no order. Where there are fewer images, the rest is -1.
    """
    scores = queries.float() @ torch.cat([part.means for part in parts]).T
    scores = scores.masked_fill(~_allowed(parts, allowed), -torch.inf)
    best = scores.topk(min(number, scores.shape[1]), dim=1)
    rows = best.indices.masked_fill(best.values == -torch.inf, -1)
    return torch.nn.functional.pad(rows, (0, number - rows.shape[1]), value=-1)


def score_rows(queries: Tensor, parts: Sequence[Part], rows: Tensor, num_top_tokens: int) -> Tensor:
    """Exact scores of these rows `(m,)`: `(num_queries, m)`, fp32; -infinity for rows that are -1.

    Raises:
        ValueError: tokens were damaged since they were written (checksums).
    """
    scores = queries.new_full((len(queries), len(rows)), -torch.inf, dtype=torch.float32)
    start = 0
    for part in parts:
        own = (start <= rows) & (rows < start + len(part))
        if own.any():
            scores[:, own] = topk_mean_similarity(queries, _tokens(part, rows[own] - start), num_top_tokens)
        start += len(part)
    return scores


def score_all(queries: Tensor, parts: Sequence[Part], num_top_tokens: int) -> Tensor:
    """Exact scores of all images, dead ones too: `(num_queries, num_rows)`, fp32; for few queries or images."""
    return score_rows(queries, parts, torch.arange(num_rows(parts)), num_top_tokens)


def _allowed(parts: Sequence[Part], allowed: Tensor | None) -> Tensor:
    alive = torch.cat([torch.ones(len(part), dtype=torch.bool) if part.alive is None else part.alive for part in parts])
    return alive if allowed is None else alive & allowed


def _tokens(part: Part, rows: Tensor) -> Tensor:
    """Tokens of rows of one part, `(m, num_tokens, dim)`; by their codes where those alone are kept."""
    if part.tokens is None:
        return part.codes[rows] * part.scales[rows, None, None]
    return part.tokens[rows]
