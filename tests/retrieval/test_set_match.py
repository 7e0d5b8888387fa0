"""Several people in one photograph: one-to-one, the weakest decides, less 1 for each missing."""

import pytest
import torch

from fafa.retrieval.set_match import match_people

pytest.importorskip("scipy")

CASES = {
    "one-to-one": ([[0.9, 0.8], [0.85, 0.2]], 0.8, [1, 0]),  # each one's best would be the same person
    "more people than sought": ([[0.1, 0.7, 0.3], [0.6, 0.65, 0.2]], 0.6, [1, 0]),
    "one is missing": ([[0.4], [0.5]], 0.5 - 1, [None, 0]),
    "two are missing": ([[0.4], [0.5], [0.1]], 0.5 - 2, [None, 0, None]),
    "one may not stand": ([[0.4, 0.3], [-torch.inf, 0.5]], 0.4, [0, 1]),
    "nobody may stand": ([[-torch.inf]], -2.0, [None]),
}


@pytest.mark.parametrize(("scores", "score", "matches"), CASES.values(), ids=CASES)
def test_the_assignment_and_the_score_of_a_photograph(scores, score, matches):
    found = match_people(torch.tensor(scores))
    assert found == (pytest.approx(score), matches)
