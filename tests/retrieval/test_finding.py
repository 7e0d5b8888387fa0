"""The best rows by numbers alone, against a plain score of everything."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from fafa.retrieval.finding import candidates, find_best, score_all, score_rows
from fafa.retrieval.parts import Part
from fafa.retrieval.quantization import make_part
from fafa.scoring_fafa import topk_mean_similarity


def parts_of(*sizes: int, num_tokens: int = 4, dim: int = 16, dtype=torch.float32, seed: int = 0) -> list[Part]:
    generator = torch.Generator().manual_seed(seed)
    parts, start = [], 0
    for size in sizes:
        tokens = normalize(torch.randn(size, num_tokens, dim, generator=generator), dim=-1).to(dtype)
        parts.append(make_part(torch.arange(start, start + size), tokens))
        start += size
    return parts


def queries_of(number: int, dim: int = 16, seed: int = 1) -> torch.Tensor:
    return normalize(torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain(queries, parts, k, top, allowed=None):
    """Scores of everything, sorted: the reference."""
    scores = torch.cat([topk_mean_similarity(queries, part.tokens, k) for part in parts], dim=1)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    values, rows = scores.sort(dim=1, descending=True, stable=True)
    rows = rows.masked_fill(values == -torch.inf, -1)
    return values[:, :top], rows[:, :top]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_best_of_several_parts(exact, dtype):
    parts, queries = parts_of(30, 1, 50, dtype=dtype), queries_of(3)
    scores, rows = find_best(queries, parts, 2, 5, exact=exact)
    torch.testing.assert_close((scores, rows), plain(queries, parts, 2, 5))


def test_candidates_are_those_with_the_nearest_means():
    parts, queries = parts_of(30, 50), queries_of(3)
    means = torch.cat([part.means for part in parts])
    found = candidates(queries, parts, 7).sort(dim=1).values
    assert torch.equal(found, (queries @ means.T).topk(7).indices.sort(dim=1).values)


def test_dead_and_forbidden_rows_are_never_found_and_gaps_are_told():
    first, second = parts_of(20, 20)
    alive = torch.ones(20, dtype=torch.bool)
    alive[:15] = False
    parts = [Part(**{**vars(first), "alive": alive}), second]
    allowed = torch.arange(40) % 2 == 0
    open_rows = {16, 18, *range(20, 40, 2)}
    queries = queries_of(2)
    for exact, number in itertools.product([False, True], [None, 4]):
        scores, rows = find_best(queries, parts, 2, 15, allowed, num_candidates=number, exact=exact)
        assert {row for row in rows.flatten().tolist() if row >= 0} <= open_rows
        if exact or number is None:
            assert set(rows[0].tolist()) == open_rows | {-1}
            assert (scores[rows == -1] == -torch.inf).all()
    assert set(candidates(queries, parts, 15, allowed)[0].tolist()) == open_rows | {-1}


def test_scores_of_rows_are_the_columns_of_all_scores():
    parts, queries = parts_of(20, 9), queries_of(2)
    rows = torch.tensor([28, 0, -1, 19, 20])
    scores = score_rows(queries, parts, rows, 3)
    every = score_all(queries, parts, 3)
    torch.testing.assert_close(scores[:, rows >= 0], every[:, rows[rows >= 0]])
    assert (scores[:, 2] == -torch.inf).all()
