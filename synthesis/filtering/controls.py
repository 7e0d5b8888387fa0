"""Known-faulty pairs among those that a judge sees: does it look, or does it give everybody the same marks?

Some pairs of every chunk are shown to the judge a second time, spoilt in a way that needs no model to know. A judge
that looks gives the spoilt pair lower marks than the pair it was made of. A judge that always says 9 does not, nor does
one that throws dice. Some pairs are shown with left and right exchanged, texts included, which should change nothing.

The judge is compared with itself, pair by pair. So it does not matter here where the bounds are, nor how many of the
pairs are faulty by themselves.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..components import CONTROL, Record, SynthesisError, seed_of
from ..settings import CountOrZero, Settings, TrueShare
from .thresholds import Thresholds

SWAPPED, OTHER, SAME = "halves swapped", "another subject", "nothing changed"
SPOILT = (SWAPPED, OTHER, SAME)
TURNED = "order swapped"  # nothing is wrong with these
LOST = "without usable marks"
_MARK = "!"  # in the id of a control; ids of pairs have none
_EXCHANGED = {"left": "right", "caption_a": "caption_b", "edit_ab": "edit_ba"}
_EXCHANGED |= {second: first for first, second in _EXCHANGED.items()}
_FEWEST = 8  # controls of which a share says something
_MOST_KEPT, _FEWEST_SAME = 0.2, 0.7  # shares beyond which there is a warning
_SURE = 3.0  # standard errors by which the judge must miss what is expected; so many, for it is checked over and over


class JudgeControls(Settings):
    """Settings of the controls of a judge.

    Attributes:
        per_chunk: Pairs of a chunk that are shown to the judge again in another way, at most a quarter; 0 for none.
        told_apart: Share of the spoilt pairs that must get lower marks than the pairs they were made of.
        stop: Whether to stop if that is surely missed; otherwise there is a warning, and the numbers on the page.
    """

    per_chunk: CountOrZero = 16
    told_apart: TrueShare = 0.6
    stop: bool = True


def controls_of(pairs: Sequence[Record], settings: JudgeControls, seed: int, names: Sequence[str]) -> dict[str, Record]:
    """The controls of a chunk, by the id of the pair that each is made of.

    They depend on the pairs and the seed alone, not on the bounds, which keep some pairs from being judged.

    Args:
        pairs: All pairs of the chunk, with their texts.
        settings: How many controls to make.
        seed: Seed of the choice.
        names: Names of the judge's scores: a fault that should lower none of them is not shown.
    """
    pairs = sorted(pairs, key=lambda pair: pair["id"])
    count = min(settings.per_chunk, math.ceil(len(pairs) / 4))
    sample = sorted(pairs, key=lambda pair: seed_of(seed, "control", pair["id"]))[:count]
    found = {}
    for number, pair in enumerate(sample, seed_of(seed, "kind", sample[0]["id"]) if sample else 0):
        others = [other for other in pairs if other["quadruple"] != pair["quadruple"]]
        kinds = [kind for kind in SPOILT if _concerned(kind, names) and (kind != OTHER or others)]
        kind = [*kinds, TURNED][number % (len(kinds) + 1)]
        other = others[seed_of(seed, "other", pair["id"]) % len(others)] if others else pair
        changed = {
            SWAPPED: {"left": pair["right"], "right": pair["left"]},
            OTHER: {"right": other["right"]},
            SAME: {"right": pair["left"]},
            TURNED: {name: pair[of] for name, of in _EXCHANGED.items()},
        }[kind]
        found[pair["id"]] = pair | changed | {"id": f"{pair['id']}{_MARK}{kind}", CONTROL: kind}
    return found


def controlled_ids(records: Iterable[Record]) -> set[str]:
    """The ids of the controls among these, and of the pairs that they are made of."""
    controls = [record["id"] for record in records if CONTROL in record]
    return {*controls, *(name.partition(_MARK)[0] for name in controls)}


@dataclass
class ControlTally:
    """What a judge said of controls and of the pairs that they were made of."""

    spoilt: dict[str, tuple[int, int, int]]  # by kind: spoilt pairs, those told apart, those that the bounds would keep
    has_bounds: bool = True
    turned: tuple[int, int] = (0, 0)  # pairs shown both ways round, and those with the same decision both times
    off: float = 0.0  # mean difference of a mark when the order is exchanged
    lost: int = 0  # controls that say nothing, since they or the pairs they were made of got no usable marks

    @property
    def shown(self) -> int:
        """Spoilt pairs."""
        return sum(shown for shown, _, _ in self.spoilt.values())

    @property
    def told_apart(self) -> int:
        """Spoilt pairs with lower marks than the pairs they were made of."""
        return sum(told for _, told, _ in self.spoilt.values())

    def as_dict(self) -> dict[str, Any]:
        """The numbers, for statistics.json."""
        return {
            **{
                kind: {"shown": shown, "told apart": told, "kept by the bounds": kept if self.has_bounds else None}
                for kind, (shown, told, kept) in self.spoilt.items()
            },
            TURNED: {"shown": self.turned[0], "same decision": self.turned[1], "mean difference of a mark": self.off},
            LOST: self.lost,
        }

    def misses(self, expected: float) -> bool:
        """Whether fewer than this share are told apart, beyond what chance explains."""
        return self.shown > 0 and wilson_interval(self.told_apart, self.shown, _SURE)[1] < expected


def count_controls(records: Iterable[Record], bounds: Thresholds) -> ControlTally | None:
    """How a judge treats controls, by its records in any order and the bounds of its scores; None without controls."""
    scores = {record["id"]: record.get("scores") for record in records}
    tally = ControlTally({}, has_bounds=any(bounds.among(found).bounds for found in scores.values() if found))
    differences: list[float] = []
    for item, found in scores.items():
        of, _, kind = item.partition(_MARK)
        if not kind:
            continue
        before = scores.get(of)
        if not found or not before:
            tally.lost += 1
        elif kind == TURNED:
            found = {_turned(name): score for name, score in found.items()}
            differences += [abs(score - found[name]) for name, score in before.items() if name in found]
            shown, same = tally.turned
            tally.turned = shown + 1, same + (_kept(before, bounds) == _kept(found, bounds))
        elif kind in SPOILT:
            names = _concerned(kind, list(before))
            lower = sum(found.get(name, 0.0) for name in names) < sum(before[name] for name in names)
            shown, told, kept = tally.spoilt.get(kind, (0, 0, 0))
            tally.spoilt[kind] = shown + 1, told + lower, kept + bool(_kept(found, bounds))
    tally.off = sum(differences) / len(differences) if differences else 0.0
    return tally if tally.shown or tally.turned[0] or tally.lost else None


def check_controls(tally: ControlTally, settings: JudgeControls, judge: str) -> str | None:
    """A warning for a judge that does not tell spoilt pairs apart; None if it does, or if too few were shown.

    Raises:
        SynthesisError: with the same words, if the settings say to stop.
    """
    if not tally.misses(settings.told_apart):
        return None
    message = (
        f"the judge ({judge}) fails its controls: of {tally.shown} pairs that were spoilt on purpose it gave "
        f"{tally.told_apart} lower marks than the sound pair, expected {100 * settings.told_apart:g} % at least "
        f"({', '.join(f'{told} of {shown} with {kind}' for kind, (shown, told, _) in tally.spoilt.items())})"
    )
    if settings.stop:
        raise SynthesisError(
            f"stage judgements: {message}. What it says of the others is worth as little. Check that it is shown two "
            "images, check its prompt, or take another model; then give --redo judgements. With `controls: {stop: "
            "false}` in the recipe it goes on all the same."
        )
    return message


def doubts_of(tally: ControlTally) -> list[str]:
    """What else the controls of a whole run tell its owner, in a sentence each."""
    doubts = []
    kept = sum(kept for _, _, kept in tally.spoilt.values())
    if tally.has_bounds and tally.shown >= _FEWEST and kept > _MOST_KEPT * tally.shown:
        doubts.append(
            f"the judge's bounds keep {kept} of {tally.shown} pairs that were spoilt on purpose: raise them, or find "
            "better ones by `fafa synthesize calibrate`"
        )
    asked = tally.lost + tally.shown + tally.turned[0]
    if _FEWEST <= tally.lost > asked / 2:
        doubts.append(
            f"{tally.lost} of the judge's {asked} controls say nothing, for it gave no usable marks: whether it looks "
            "is not known"
        )
    turned, same = tally.turned
    if turned >= _FEWEST and same < _FEWEST_SAME * turned:
        doubts.append(
            f"with left and right exchanged the judge decides otherwise on {turned - same} of {turned} pairs: it minds "
            "which image comes first"
        )
    return doubts


def _turned(name: str) -> str:
    """The name of a score when left and right are exchanged."""
    return re.sub("_(a|b|ab|ba)$", lambda ending: ending[0].translate(str.maketrans("ab", "ba")), name)


def _concerned(kind: str, names: Sequence[str]) -> list[str]:
    """Those of the scores that this fault should lower."""
    spared = {"quality"} if kind == OTHER else {"quality", "identity"}
    return [name for name in names if name not in spared]


def _kept(scores: Mapping[str, float], bounds: Thresholds) -> list[str]:
    """The directions in which the judge's bounds keep a pair."""
    return [direction for direction, reasons in bounds.among(scores).decide(scores).items() if not reasons]


def wilson_interval(part: int, whole: int, z: float) -> tuple[float, float]:
    """Wilson's interval of a share, `z` standard errors to either side."""
    share = part / whole
    middle = share + z * z / (2 * whole)
    reach = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return (middle - reach) / (1 + z * z / whole), (middle + reach) / (1 + z * z / whole)
