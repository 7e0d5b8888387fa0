"""A part of a gallery: the features of some of its images as arrays, in memory or mapped from files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Features of `n` images, and what finds the best of them quickly.

    A *row* is an image's place among all parts of a gallery, one after another; deleted images have theirs, too.

    Args:
        ids: `(n,)`, int64, ascending; an id is never used for another image.
        tokens: `(n, num_tokens, dim)`, floating-point, each token of unit length; None where codes alone are kept.
        means: `(n, dim)`, fp32: the mean of each image's tokens, as it is.
        codes: `(n, num_tokens, dim)`, int8: tokens are about `codes * scales`; None where there are none.
        scales: `(n,)`, fp32.
        errors: `(n,)`, fp32: the largest norm, over the tokens of an image, of `token - code * scale`.
        alive: `(n,)`, bool: not deleted; None where none is.
        row_checksums: `(n,)`, int64: xxh3_64 over the bytes of each image's tokens, or of its codes where they alone
            are kept; None: not checked.
        check: called with "tokens" or "codes" before all of them are read; raises a ValueError if they are damaged.
    """

    ids: Tensor
    tokens: Tensor | None
    means: Tensor
    codes: Tensor | None = None
    scales: Tensor | None = None
    errors: Tensor | None = None
    alive: Tensor | None = None
    row_checksums: Tensor | None = None
    check: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def num_rows(parts: Sequence[Part]) -> int:
    """How many rows the parts have together."""
    return sum(map(len, parts))
