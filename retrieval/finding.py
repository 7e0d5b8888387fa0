"""The best images for queries, by numbers alone: it knows no files and no models.

A *row* is an image's place among all parts, one after another. Two ways lead to the best: the images whose mean vectors
are nearest to a query are scored exactly (its candidates), or the codes of all images tell which of them can be among
the best, and these are scored exactly. The first may miss some, the second never does.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..scoring_fafa import topk_mean_similarity
from ..threads import Buffers, in_threads, taken
from .parts import Part, num_rows
from .quantization import row_checksums

logger = logging.getLogger(__name__)

CANDIDATES = 1000  # for each query; see benchmarks/results/search_at_size.md
CANDIDATES_PER_RESULT = 20
FEW = 0.25  # of a block's rows: they are copied; of more, the others are computed, too, and hidden
LARGEST_ENTRY = 32_512  # of a query in whole numbers, see `topk_mean_similarity`
# Sizes of blocks
QUERIES_AT_ONCE = 64
MEANS_AT_ONCE = 2**16  # rows, for few queries
COPIED_BYTES = 2**22  # of tokens, in each thread
SCANNED_BYTES = 2**28  # of codes, in all threads
PRODUCTS_AT_ONCE = 2**20  # in each thread, of means; four times as many of codes in all threads


class DamagedRowsError(ValueError):
    """Tokens are not what was written: `ids` are those of the images."""

    def __init__(self, ids: Sequence[int]):
        super().__init__(
            f"the tokens of {len(ids)} images have changed since they were written, the first of id {ids[0]}"
        )
        self.ids = list(ids)


@torch.no_grad()
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
        num_candidates: how many images are scored for each query, those with the nearest means; by default 1,000, or 20
            for each of `top`, if that is more. If no more are allowed, all of them are scored.
        exact: miss none. Codes, where a part has them, tell which images need no look at their tokens, see `_Scan`.

    Returns:
        scores `(num_queries, top)`, fp32, descending, and their rows, int64, on the CPU. Where there are fewer images,
        the scores end with -infinity and the rows with -1.

    Raises:
        DamagedRowsError: tokens that were read are not what was written.
        ValueError: a score is NaN or infinite; and as `topk_mean_similarity` and a part's `check`.
    """
    open_rows = _open_rows(parts, allowed)
    number = number_of_candidates(top, num_candidates)
    best = _Best(len(queries), max(1, min(top, num_rows(parts))))
    if (num_rows(parts) if open_rows is None else int(open_rows.sum())) <= number:
        rows = torch.arange(num_rows(parts)) if open_rows is None else open_rows.nonzero()[:, 0]
        for query, scores in enumerate(score_rows(queries, parts, rows, num_top_tokens)):
            best.add(query, scores, rows)
    else:
        _rank(queries, parts, _nearest_means(queries, parts, number, open_rows), num_top_tokens, best)
        if exact:
            _Scan(queries, parts, num_top_tokens, best).run(open_rows)
    return best.padded(top)


@torch.no_grad()
def rank_rows(
    queries: Tensor, parts: Sequence[Part], rows: Tensor, num_top_tokens: int, top: int
) -> tuple[Tensor, Tensor]:
    """The best of each query's own candidates, `rows` `(num_queries, m)`, -1 for gaps; all else as for `find_best`."""
    best = _Best(len(queries), max(1, min(top, rows.shape[1])))
    _rank(queries, parts, rows, num_top_tokens, best)
    return best.padded(top)


def number_of_candidates(top: int, given: int | None = None) -> int:
    """How many images are scored for each query; see `find_best`."""
    return max(top, given or max(CANDIDATES, CANDIDATES_PER_RESULT * top))


@torch.no_grad()
def candidates(queries: Tensor, parts: Sequence[Part], number: int, allowed: Tensor | None = None) -> Tensor:
    """Rows of the images whose mean vectors have the largest products with each query: `(num_queries, number)`, int64.

    They ascend, but for those that are -1, where there are fewer images. `allowed` is as for `find_best`.
    """
    found = _nearest_means(queries, parts, number, _open_rows(parts, allowed))
    return F.pad(found, (0, number - found.shape[1]), value=-1)


@torch.no_grad()
def score_rows(queries: Tensor, parts: Sequence[Part], rows: Tensor, num_top_tokens: int) -> Tensor:
    """Exact scores of all queries with these rows `(m,)`: `(num_queries, m)`, fp32; -infinity for rows that are -1.

    An image of which only codes are kept is scored by the tokens that they stand for.

    Raises:
        DamagedRowsError: tokens are not what was written.
    """
    scores = torch.full((len(queries), len(rows)), -torch.inf, device=queries.device)
    _score_tokens(parts, num_top_tokens, [(queries, rows, scores)])
    return scores


@torch.no_grad()
def score_all(queries: Tensor, parts: Sequence[Part], num_top_tokens: int) -> Tensor:
    """Exact scores of all images, dead ones too: `(num_queries, num_rows)`, fp32; for few queries or few images."""
    for part in parts:
        _check_whole(part, "codes" if part.tokens is None else "tokens")
    return torch.cat([_score_block(queries, part, slice(None), num_top_tokens) for part in parts], dim=1)


class _Best:
    """The best rows of each query so far: `scores` and `rows`, `(num_queries, top)`, in order; gaps are -inf and -1."""

    def __init__(self, num_queries: int, top: int):
        self.scores = torch.full((num_queries, top), -torch.inf)
        self.rows = torch.full((num_queries, top), -1)

    def add(self, query: int, scores: Tensor, rows: Tensor) -> None:
        """Takes scores of one query and their rows, `(m,)`, even rows that it has; those of -infinity do not count."""
        scores = scores.cpu()
        if not (scores < torch.inf).all():  # false for NaN, too
            raise ValueError("the scores hold NaN or infinity: the model's weights or the stored features are damaged")
        is_new = (scores >= self.scores[query, -1]) & (scores > -torch.inf)
        is_new[is_new.clone()] = torch.isin(rows[is_new], self.rows[query]).logical_not()
        rows = torch.cat([self.rows[query], rows[is_new]])
        scores = torch.cat([self.scores[query], scores[is_new]])
        order = rows.argsort()
        order = order[scores[order].argsort(descending=True, stable=True)[: self.rows.shape[1]]]
        self.scores[query], self.rows[query] = scores[order], rows[order]

    def padded(self, top: int) -> tuple[Tensor, Tensor]:
        """Scores and rows, `(num_queries, top)`, with more gaps."""
        missing = 0, top - self.rows.shape[1]
        return F.pad(self.scores, missing, value=-torch.inf), F.pad(self.rows, missing, value=-1)


class _Scan:
    """Adds to the best of each query what is better anywhere in the gallery.

    No image is missed. Let q be a query, t a token, c its code, s and e the image's scale and error, h the whole
    numbers that q is rounded to in steps of w, and r = q - w h. Then q.t = w s h.c + r.(s c) + q.(t - s c), so q.t
    differs from w s h.c by at most |r| |s c| + |q| e, whatever the token; and the mean of the k largest of some numbers
    changes by no more than the largest change of any. |s c| <= 127 s sqrt(dim) = b. Where codes alone are kept, s c is
    the token.

    Numbers are rounded by a share of u = 2^-24. A sum of `dim` products in fp32 is off, in whatever order it is formed,
    by (dim + 1) u |q| |t| at most (to first order), and |t| <= b + e; so the scores of tokens are off by
    (dim + k + 2) u |q| (b + e), and the scores of codes, their scaling and this bound by (dim + k + 16) u |q| (b + e).
    The sum of both is taken twice, which more than covers higher orders. Products below 2^-126, which may be lost, are
    covered by 2^-100.

    So an image whose score by codes lies further below a query's threshold, its `top`-th best exact score so far, is
    none of the best, and needs no look at its tokens.
    """

    def __init__(self, queries: Tensor, parts: Sequence[Part], num_top_tokens: int, best: _Best):
        self.queries, self.parts, self.k, self.best = queries, parts, num_top_tokens, best
        exact = queries.double()
        self.steps = (exact.abs().amax(dim=1, keepdim=True) / LARGEST_ENTRY).float()  # w
        self.whole = (exact / self.steps.double().clamp(min=2.0**-126)).round()  # h
        rest = exact - self.whole * self.steps.double()  # r
        self.whole = self.whole.clamp(-LARGEST_ENTRY, LARGEST_ENTRY).to(torch.int16)
        self.length, self.rest = exact.norm(dim=1).max().item(), rest.norm(dim=1).max().item()
        self.num_open = self.num_scored = 0

    def run(self, open_rows: Tensor | None) -> None:
        """Looks at all rows, or at the open ones."""
        for part, start in _with_starts(self.parts):
            whole = part.tokens if part.codes is None else part.codes
            _check_whole(part, "tokens" if part.codes is None else "codes")
            # Room for scores of all queries, and for a copy of a few rows
            size = min(SCANNED_BYTES // max(1, whole[:1].nbytes), 4 * PRODUCTS_AT_ONCE // len(self.queries))
            for selected, rows, hidden in _blocks(part, start, max(1, size), open_rows):
                self.num_open += len(rows) if hidden is None else len(rows) - int(hidden.sum())
                if part.codes is None:
                    scores = _hide(_score_block(self.queries, part, selected, self.k), hidden)
                    self.num_scored += scores.numel()
                    for query, own in enumerate(scores):
                        self.best.add(query, own, rows)
                else:
                    upper = _hide(self._upper_bounds(part, selected), hidden)
                    may_be_best = (upper >= self.best.scores[:, -1:].to(upper.device)) & (upper > -torch.inf)
                    for query in may_be_best.any(dim=1).nonzero()[:, 0].tolist():
                        left = may_be_best[query].nonzero()[:, 0]
                        self._score(query, rows[left.cpu()], upper[query, left].cpu())
        share = 1 - self.num_scored / max(1, self.num_open * len(self.queries))
        logger.debug("exact search: codes alone excluded %.5f %% of %d images", 100 * share, self.num_open)

    def _upper_bounds(self, part: Part, selected: slice | Tensor) -> Tensor:
        """What the exact scores of a part's rows are at most: `(num_queries, m)`; see the class."""
        codes, scales = part.codes[selected], part.scales[selected]
        dim = codes.shape[-1]
        lengths = 127 * dim**0.5 * scales  # b
        errors = torch.zeros_like(scales) if part.tokens is None else part.errors[selected]
        rounding = 4 * (dim + self.k + 9) * 2.0**-24 * self.length * (lengths + errors) + 2.0**-100
        scores = topk_mean_similarity(self.whole, codes, self.k).mul_(self.steps).mul_(scales)
        return scores.add_(self.rest * lengths + self.length * errors + rounding)

    def _score(self, query: int, rows: Tensor, upper: Tensor) -> None:
        """Scores rows of one query, the most promising first, while they can be among the best."""
        order = upper.argsort(descending=True)
        for piece in order.split(1024):
            own = rows[piece[upper[piece] >= self.best.scores[query, -1]]].sort().values
            if not len(own):
                return
            self.best.add(query, score_rows(self.queries[query : query + 1], self.parts, own, self.k)[0], own)
            self.num_scored += len(own)


def _rank(queries: Tensor, parts: Sequence[Part], rows: Tensor, num_top_tokens: int, best: _Best) -> None:
    """Adds each query's own candidates, `(num_queries, m)`, to the best."""
    scores = torch.full(rows.shape, -torch.inf, device=queries.device)
    own = [(queries[i : i + 1], rows[i], scores[i : i + 1]) for i in range(len(queries))]
    _score_tokens(parts, num_top_tokens, own)
    for query in range(len(queries)):
        best.add(query, scores[query], rows[query])


def _nearest_means(queries: Tensor, parts: Sequence[Part], number: int, open_rows: Tensor | None) -> Tensor:
    """`candidates`, with as many columns as there are rows if they are fewer than `number`."""
    groups = []
    for group in queries.float().split(QUERIES_AT_ONCE):
        size = min(MEANS_AT_ONCE, PRODUCTS_AT_ONCE // len(group))
        blocks = [
            (part, *block) for part, start in _with_starts(parts) for block in _blocks(part, start, size, open_rows)
        ]
        groups.append(_nearest_in(blocks, group, number))
    return torch.cat(groups)


def _nearest_in(blocks: Sequence[tuple], queries: Tensor, number: int) -> Tensor:
    if not blocks:
        return torch.empty(len(queries), 0, dtype=torch.int64)
    found: list = [None] * len(blocks)

    def search() -> None:
        buffers = Buffers()
        for place in taken(places):
            part, selected, rows, hidden = blocks[place]
            products = buffers.take("products", (len(queries), len(rows)), queries.device)
            _hide(torch.mm(queries, part.means[selected].T, out=products), hidden)
            largest = _places_of_largest(products, number)
            found[place] = products.gather(1, largest).cpu(), rows[largest.cpu()]

    places = deque(range(len(blocks)))
    _share(search, places, queries)
    products = torch.cat([products for products, _ in found], dim=1)
    largest = _places_of_largest(products, number)
    rows = torch.cat([rows for _, rows in found], dim=1).gather(1, largest)
    return rows.masked_fill(products.gather(1, largest) == -torch.inf, -1).sort(dim=1).values


def _places_of_largest(values: Tensor, number: int) -> Tensor:
    """Places of the largest of each row of `(n, m)`, in no order: `(n, number)`, or all m."""
    if values.shape[1] <= number:
        return torch.arange(values.shape[1], device=values.device).expand(len(values), -1)
    if values.device.type != "cpu":
        return values.topk(number, sorted=False).indices
    # numpy's is ten times as fast as torch's.
    return torch.from_numpy(np.argpartition(values.numpy(), -number, axis=1)[:, -number:].copy())


def _score_tokens(parts: Sequence[Part], k: int, tasks: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Writes exact scores. A task is queries, rows `(m,)`, and the scores to write `(num_queries, m)`."""
    blocks: deque = deque()
    for queries, rows, scores in tasks:
        order = rows.argsort()  # files are read in ascending order
        for part, start in _with_starts(parts):
            places = order[(start <= rows[order]) & (rows[order] < start + len(part))]
            kept = part.codes if part.tokens is None else part.tokens
            for piece in places.split(max(1, COPIED_BYTES // max(1, kept[:1].nbytes))):
                if len(piece):
                    blocks.append((part, kept, queries, rows[piece] - start, scores, piece))

    def score() -> None:
        copies: dict = {}
        for part, kept, queries, rows, scores, piece in taken(blocks):
            shape = max(1, COPIED_BYTES // max(1, kept[:1].nbytes)), *kept.shape[1:]
            if (kept.dtype, shape) not in copies:
                copies[kept.dtype, shape] = kept.new_empty(shape)
            copy = torch.index_select(kept, 0, rows.to(kept.device), out=copies[kept.dtype, shape][: len(rows)])
            if part.row_checksums is not None:
                is_other = row_checksums(copy) != part.row_checksums[rows]
                if is_other.any():
                    raise DamagedRowsError(part.ids[rows[is_other]].tolist())
            own = topk_mean_similarity(queries, copy, k)
            if part.tokens is None:
                own *= part.scales[rows.to(part.scales.device)]
            scores[:, piece.to(scores.device)] = own

    _share(score, blocks, tasks[0][0])


def _score_block(queries: Tensor, part: Part, selected: slice | Tensor, k: int) -> Tensor:
    """Exact scores of rows of a part, checked before as a whole."""
    if part.tokens is None:
        return topk_mean_similarity(queries, part.codes[selected], k).mul_(part.scales[selected])
    return topk_mean_similarity(queries, part.tokens[selected], k)


def _check_whole(part: Part, name: str) -> None:
    if part.check is not None:
        part.check(name)


def _share(work: Callable[[], None], blocks: deque, queries: Tensor) -> None:
    if queries.device.type == "cpu":
        in_threads(work, blocks)
    else:
        work()


def _with_starts(parts: Sequence[Part]) -> Iterator[tuple[Part, int]]:
    """Parts, and the row at which each begins."""
    return zip(parts, accumulate(map(len, parts), initial=0), strict=False)


def _open_rows(parts: Sequence[Part], allowed: Tensor | None) -> Tensor | None:
    """Which rows are neither dead nor forbidden, `(num_rows,)`; None: all are open."""
    allowed = None if allowed is None else allowed.cpu()
    if all(part.alive is None for part in parts):
        return allowed
    alive = torch.cat([torch.ones(len(part), dtype=torch.bool) if part.alive is None else part.alive for part in parts])
    return alive if allowed is None else alive & allowed


def _blocks(
    part: Part, start: int, size: int, open_rows: Tensor | None
) -> Iterator[tuple[slice | Tensor, Tensor, Tensor | None]]:
    """Blocks of a part whose first row is `start`.

    Each is what is to be read of the part's arrays, the rows that this is, and which of them are hidden (None: none).
    """
    for first in range(0, len(part), size):
        block = slice(first, min(first + size, len(part)))
        rows = torch.arange(start + block.start, start + block.stop)
        is_open = None if open_rows is None else open_rows[rows[0] : rows[-1] + 1]
        if is_open is None or is_open.all():
            yield block, rows, None
        elif is_open.sum() < FEW * len(rows):
            chosen = is_open.nonzero()[:, 0]
            if len(chosen):
                yield first + chosen, rows[chosen], None
        else:
            yield block, rows, is_open.logical_not()


def _hide(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Scores `(num_queries, m)`, overwritten by -infinity where `(m,)` says so."""
    return scores if hidden is None else scores.masked_fill_(hidden.to(scores.device), -torch.inf)
