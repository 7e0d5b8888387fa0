"""Several terms of a query as one ranking: a weighted sum of the terms' scores, each standardised."""

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLE = 1_024  # images whose scores standardise a term's: evenly spaced over the gallery


@dataclass(frozen=True, eq=False)
class FusedTerms:
    """A query of several terms. An image's score is `coefficients @ scores + offset`, of its scores by each term.

    Args:
        vectors: `(num_terms, dim)`, unit length.
        coefficients: `(num_terms,)`, fp32; below 0 for minus terms.
        offset: added to every score.
    """

    vectors: Tensor
    coefficients: Tensor
    offset: float

    @property
    def is_single(self) -> bool:
        """Whether it is one vector, whose scores are the query's."""
        return len(self.vectors) == 1

    @property
    def direction(self) -> Tensor:
        """`(1, dim)`: images rank by its products with their mean vectors as they do by the terms' fused products."""
        return self.coefficients[None].to(self.vectors) @ self.vectors

    def scores(self, of_terms: Tensor) -> Tensor:
        """Scores by each term, `(num_terms, num_images)`, to those of the query, `(num_images,)`."""
        return self.coefficients.to(of_terms) @ of_terms + self.offset


def fuse(vectors: Tensor, weights: Tensor, sampled: Tensor) -> FusedTerms:
    """Late fusion of a query's terms.

    With mean m_i and standard deviation d_i of term i's scores over a fixed sample of the gallery, an image's score is

        M + D * sum_i w_i (s_i - m_i) / d_i / W

    where W is the sum of the plus terms' weights, M and D the plus terms' weighted means of m_i and d_i. So the score
    lies on the scale of those terms' own scores, and a query of one term has that term's scores. Terms are standardised
    since those whose scores spread further would decide alone.

    The other way is one vector, the terms' weighted sum. On painted worlds late fusion was ahead of it for sentences
    about different garments and for an image's kept features with a caption. There was no difference beyond chance for
    several photographs of one person, wordings of one sentence and minus terms, each way with its own best weight; it
    was behind for nothing. See benchmarks/results/query_terms.md.

    Args:
        vectors: `(num_terms, dim)`, unit length.
        weights: `(num_terms,)`, at least one above 0.
        sampled: `(num_terms, num_sampled)`: scores of a sample of the gallery. A term that gives all of them one score
            counts by its scores as they are.
    """
    weights = weights.double()
    spread, mean = torch.std_mean(sampled.double().cpu(), dim=1, correction=0)
    plus = weights.clamp_min(0) / weights.clamp_min(0).sum()
    scale = plus @ spread
    share = weights / weights.clamp_min(0).sum()
    coefficients = torch.where(spread > 1e-6, share * scale / spread.clamp_min(1e-6), share)
    return FusedTerms(vectors, coefficients.float(), float(plus @ mean - coefficients @ mean))
