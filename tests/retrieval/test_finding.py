"""The best rows by numbers alone, against a plain score of everything."""

import itertools
import logging
import random
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from fafa.retrieval import finding
from fafa.retrieval.finding import DamagedRowsError, candidates, find_best, score_all, score_rows
from fafa.retrieval.parts import Part
from fafa.retrieval.quantization import make_part, row_checksums
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
    parts = [replace(first, alive=alive), second]
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


def awkward_parts(pick: random.Random, generator: torch.Generator, num_tokens: int, dim: int) -> list[Part]:
    """Parts with codes, without, of codes alone, with dead rows; of images that are hard to tell apart by bounds."""
    kind = pick.choice(["random", "equal", "zero", "alike", "tiny", "uneven", "no mean"])
    parts, start = [], 0
    for _ in range(pick.randint(1, 3)):
        size = pick.choice([1, 3, 50, 200])
        tokens = normalize(torch.randn(size, num_tokens, dim, generator=generator), dim=-1)
        if kind == "equal":
            tokens = tokens[:1].repeat(size, 1, 1)
        elif kind == "zero":
            tokens[::2] = 0
        elif kind == "alike":
            tokens = normalize(normalize(torch.ones(dim), dim=-1) + 0.001 * tokens, dim=-1)
        elif kind == "tiny":
            tokens *= 10.0 ** -torch.randint(0, 30, (size, 1, 1), generator=generator).float()
        elif kind == "uneven":
            tokens *= 10.0 ** torch.randint(0, 4, (size, num_tokens, 1), generator=generator).float()
        elif kind == "no mean":
            half = num_tokens // 2
            tokens[:, half : 2 * half] = -tokens[:, :half]
        part = make_part(
            torch.arange(start, start + size), tokens.to(pick.choice([torch.float32, torch.float16, torch.bfloat16]))
        )
        without = pick.choice(["", "", "", "codes", "tokens"])
        if without:
            part = replace(part, **{without: None}, row_checksums=None)
        if pick.random() < 0.4:
            part = replace(part, alive=torch.rand(size, generator=generator) < pick.random())
        parts.append(part)
        start += size
    return parts


@pytest.mark.parametrize("seed", range(32))
def test_the_exact_search_misses_nothing(monkeypatch, seed):
    """Whatever the sizes, the kinds of parts and of images, and the blocks; equal scores come in order of their rows.

    With seed 31 (one dimension) codes had wrong scores.
    """
    pick, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for name, values in {
        "SCANNED_BYTES": [2**19, 2**28],
        "MEANS_AT_ONCE": [37, 2**16],
        "COPIED_BYTES": [2**15, 2**22],
        "FEW": [0, 0.25, 1],
    }.items():
        monkeypatch.setattr(finding, name, pick.choice(values))
    dim, num_tokens = 1 if seed == 31 else pick.choice([2, 7, 16, 64, 256]), pick.choice([1, 2, 3, 8, 32])
    k, top = pick.randint(1, num_tokens), pick.choice([1, 3, 10, 30])
    parts = awkward_parts(pick, generator, num_tokens, dim)
    queries = normalize(torch.randn(pick.choice([1, 2, 3, 6]), dim, generator=generator), dim=-1)
    if pick.random() < 0.2:
        queries *= 3 * torch.rand(len(queries), 1, generator=generator)
    if pick.random() < 0.1:
        queries[0] = 0
    count = sum(map(len, parts))
    allowed = None if pick.random() < 0.5 else torch.rand(count, generator=generator) < pick.random()

    alive = torch.cat([torch.ones(len(part), dtype=torch.bool) if part.alive is None else part.alive for part in parts])
    is_open = alive if allowed is None else alive & allowed
    every = score_all(queries, parts, k)
    values, order = every.masked_fill(~is_open, -torch.inf).sort(dim=1, descending=True, stable=True)
    values = torch.nn.functional.pad(values[:, :top], (0, top), value=-torch.inf)[:, :top]
    for number, exact in ((1, True), (50, True), (count, False)):
        scores, rows = find_best(queries, parts, k, top, allowed, number, exact)
        torch.testing.assert_close(scores, values, rtol=1e-6, atol=1e-6)
        assert torch.equal(rows >= 0, scores > -torch.inf)
        if rows.shape[1] <= count:  # last bits of nearly equal scores differ between processors
            same = torch.equal(scores, values[:, :top])
            expected = order[:, :top].masked_fill(values == -torch.inf, -1)
            assert not same or torch.equal(rows, expected)


def test_no_exact_score_is_above_its_bound_by_codes():
    for dtype, num_top_tokens in itertools.product([torch.float32, torch.float16], [1, 3]):
        (part,), queries = parts_of(500, dtype=dtype), queries_of(40)
        scan = finding._Scan(queries, [part], num_top_tokens, finding._Best(40, 1))
        above = scan._upper_bounds(part, slice(None)) - score_all(queries, [part], num_top_tokens)
        assert (above >= 0).all()
        assert above.max() < 0.03  # and it tells something


def test_codes_exclude_nearly_all_images_of_an_exact_search(caplog):
    parts, queries = parts_of(3000, num_tokens=8, dim=64, dtype=torch.float16), queries_of(3, 64)
    with caplog.at_level(logging.DEBUG, logger="fafa"):
        scores, rows = find_best(queries, parts, 2, 5, exact=True)
    torch.testing.assert_close((scores, rows), plain(queries, parts, 2, 5))
    share, count = next(record.args for record in caplog.records if "codes alone" in record.message)
    assert share > 95
    assert count == 3000


def test_parts_of_codes_alone_score_as_what_their_codes_stand_for():
    (part,), queries = parts_of(60), queries_of(3)
    alone = replace(part, tokens=None, row_checksums=row_checksums(part.codes))
    stood_for = replace(part, tokens=part.codes * part.scales[:, None, None], row_checksums=None)
    for exact in (False, True):
        found = find_best(queries, [alone], 2, 5, num_candidates=20, exact=exact)
        torch.testing.assert_close(found, find_best(queries, [stood_for], 2, 5, num_candidates=20, exact=exact))


@pytest.mark.parametrize("kept", ["tokens", "codes"])
def test_a_row_that_was_damaged_is_told_when_it_is_read(kept):
    (part,), queries = parts_of(40), queries_of(1)
    part = replace(part, ids=part.ids + 1000)
    if kept == "codes":
        part = replace(part, tokens=None, row_checksums=row_checksums(part.codes))
    getattr(part, kept)[17, 2, 3] += 1
    score_rows(queries, [part], torch.tensor([16, 18]), 2)
    for exact in (False, True):
        with pytest.raises(DamagedRowsError, match="1017") as caught:
            find_best(queries, [part], 2, 5, exact=exact)
        assert caught.value.ids == [1017]


def test_a_part_is_checked_before_all_of_it_is_read():
    parts, queries, asked = parts_of(40, 30), queries_of(1), []
    first = replace(parts[0], check=lambda name: asked.append((name, 40)))
    parts = [first, replace(parts[1], tokens=None, row_checksums=None, check=lambda name: asked.append((name, 30)))]
    find_best(queries, parts, 2, 5, num_candidates=5)
    assert not asked
    find_best(queries, parts, 2, 5, num_candidates=5, exact=True)
    score_all(queries, parts, 2)
    assert asked == [("codes", 40), ("codes", 30), ("tokens", 40), ("codes", 30)]


def test_scores_that_are_no_numbers_are_refused_rather_than_missing():
    parts, queries = parts_of(40), queries_of(2)
    queries[1, 3] = torch.nan
    for number in (10, 50):
        with pytest.raises(ValueError, match="NaN"):
            find_best(queries, parts, 2, 5, num_candidates=number)


def test_no_images_and_no_open_rows_give_gaps_alone():
    queries = queries_of(2)
    for parts, allowed in ([], None), (parts_of(30), torch.zeros(30, dtype=torch.bool)):
        for exact in (False, True):
            scores, rows = find_best(queries, parts, 2, 3, allowed, num_candidates=5, exact=exact)
            assert (scores == -torch.inf).all()
            assert rows.tolist() == [[-1] * 3] * 2
        assert candidates(queries, parts, 4, allowed).tolist() == [[-1] * 4] * 2
