"""Decides by stored scores which triplets to keep: no model is needed to decide again."""

import math
from collections.abc import Iterable, Mapping

from pydantic import model_validator

from ..settings import Settings

# The lowest and the highest value that a score can have; infinite if there is no such limit.
Scale = tuple[float, float]
UNIT: Scale = (0.0, 1.0)
UPWARDS: Scale = (0.0, math.inf)

DIRECTIONS = ("ab", "ba")


class Bound(Settings):
    """Where a score must lie.

    Attributes:
        at_least: The lowest score that is good enough.
        at_most: The highest one.
    """

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _check_sides(self) -> "Bound":
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least:g}) is above at_most ({self.at_most:g})")
        return self

    def admits(self, score: float) -> bool:
        """Whether a score lies within the bound; NaN never does."""
        above = self.at_least is None or score >= self.at_least
        return above and (self.at_most is None or score <= self.at_most)


class Thresholds(Settings):
    """Settings of the filter: the bounds of scores. A score without a bound does not decide.

    Attributes:
        bounds: By name of the score. A name that ends in `_ab` or `_ba` decides on the triplet of that direction alone,
            any other on both.
    """

    bounds: dict[str, Bound] = {}

    def check_scales(self, scales: Mapping[str, Scale]) -> None:
        """Refuses bounds outside their score's scale, given by name: they would keep nothing, or everything.

        Raises:
            ValueError: names the bound and the scale.
        """
        for name, bound in self.bounds.items():
            low, high = scales[name]
            for side in ("at_least", "at_most"):
                value = getattr(bound, side)
                if value is None or low <= value <= high:
                    continue
                span = f"from {low:g} up" if math.isinf(high) else f"from {low:g} to {high:g}"
                is_mark = (low, high) == UNIT and 1 < value <= 10
                hint = f": marks from 1 to 10 are brought to 0 ... 1, so write {(value - 1) / 9:.2f}" if is_mark else ""
                raise ValueError(f"filter: bounds: {name}: {side} is {value:g}, and the score goes {span}{hint}")

    def decide(self, scores: Mapping[str, float]) -> dict[str, list[str]]:
        """Why the triplet of each direction, "ab" and "ba", is rejected by a pair's scores, in the order of the bounds.

        There are no reasons for a triplet to keep. A score that was not measured is a reason only if no other rejects
        the triplet: what fails a cheap gate is not judged.
        """
        return {direction: self._reasons(scores, direction) for direction in DIRECTIONS}

    def among(self, names: Iterable[str]) -> "Thresholds":
        """Only the bounds of these scores: those of the gates decide what is worth a judgement."""
        names = set(names)
        return Thresholds(bounds={name: bound for name, bound in self.bounds.items() if name in names})

    def _reasons(self, scores: Mapping[str, float], direction: str) -> list[str]:
        bounds = {name: bound for name, bound in self.bounds.items() if concerns(name, direction)}
        reasons = []
        for name, bound in bounds.items():
            if name in scores and not bound.admits(scores[name]):
                low = bound.at_least is not None and not scores[name] >= bound.at_least
                reasons.append(f"{name} below {bound.at_least:g}" if low else f"{name} above {bound.at_most:g}")
        return reasons or [f"not measured: {name}" for name in bounds if name not in scores]


def concerns(name: str, direction: str) -> bool:
    """Whether a score decides on the triplet of a direction."""
    return not name.endswith(tuple(f"_{other}" for other in DIRECTIONS if other != direction))
