"""Fills the slots of a text at random, so that prompts ask a language model for different things."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ..templates import check_template

_SLOT = re.compile(r"\{(\w+)\}")
_MAX_ATTEMPTS = 1_000


@dataclass(frozen=True)
class Template:
    """A text with slots.

    Attributes:
        text: `{garment}` stands for a phrase of the pool "garment"; other braces stand for themselves.
        pools: Phrases by slot. A phrase may have slots of its own. A slot that occurs twice in one text or phrase gets
            different phrases there.
        weights: How likely the phrases of a pool are, by pool and phrase; 1 for those left out.
        excluded: Phrases that never come together.

    Raises:
        ValueError: a slot has no or too small a pool, no name, or a format; a pool leads back to itself or to nothing;
            weights or excluded phrases are in no pool.
    """

    text: str
    pools: Mapping[str, Sequence[str]]
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    excluded: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        used: set[str] = set()
        self._check_slots(self.text, (), used)
        if idle := sorted(set(self.pools) - used):
            raise ValueError(f"no slot asks for the pools {', '.join(idle)}: use them, or take them out")
        for name, weights in self.weights.items():
            if strange := sorted(set(weights) - set(self.pools.get(name, ()))):
                raise ValueError(f"weights: {strange[0]!r} is not in the pool {name}")
            if min(weights.values(), default=1) <= 0:
                raise ValueError(f"weights: those of {name} must be above 0")
        phrases = {phrase for pool in self.pools.values() for phrase in pool}
        for combination in self.excluded:
            if strange := sorted(set(combination) - phrases):
                raise ValueError(f"excluded: {strange[0]!r} is in no pool")
            if len(set(combination)) < 2:
                raise ValueError(f"excluded: expected two phrases or more, found {list(combination)}")

    def _check_slots(self, text: str, path: tuple[str, ...], used: set[str]) -> None:
        check_template(text, {*self.pools, *_SLOT.findall(text)}, needed=[], other_braces=True)
        for name, count in Counter(_SLOT.findall(text)).items():
            if name in path:
                raise ValueError(f"the pool {name} leads back to itself")
            if len(set(self.pools.get(name, ()))) < count:
                raise ValueError(f"the slot {{{name}}} of {text[:60]!r} needs a pool of {count} phrases or more")
            if name not in used:
                used.add(name)
                for phrase in self.pools[name]:
                    self._check_slots(phrase, (*path, name), used)

    def sample(self, seed: int) -> tuple[str, dict[str, list[str]]]:
        """The text with its slots filled, and by pool the chosen phrases that have no slots themselves.

        Raises:
            ValueError: a thousand samples all had an excluded combination.
        """
        rng = random.Random(seed)
        for _ in range(_MAX_ATTEMPTS):
            chosen: list[tuple[str, str]] = []
            text = self._fill(self.text, rng, chosen)
            phrases = {phrase for _, phrase in chosen}
            if not any(phrases.issuperset(combination) for combination in self.excluded):
                break
        else:
            raise ValueError(f"{_MAX_ATTEMPTS} samples all had an excluded combination: exclude less")
        plain: dict[str, list[str]] = {}
        for name, phrase in chosen:
            if not _SLOT.search(phrase):
                plain.setdefault(name, []).append(phrase)
        return text, plain

    def _fill(self, text: str, rng: random.Random, chosen: list[tuple[str, str]]) -> str:
        """Fills the slots of one text from left to right; adds every pool and phrase to `chosen`."""
        here: set[tuple[str, str]] = set()

        def fill(slot: re.Match[str]) -> str:
            while (pick := (slot[1], self._pick(slot[1], rng))) in here:
                pass
            here.add(pick)
            chosen.append(pick)
            return self._fill(pick[1], rng, chosen)

        return _SLOT.sub(fill, text)

    def _pick(self, name: str, rng: random.Random) -> str:
        pool, weights = self.pools[name], self.weights.get(name)
        if weights is None:
            return pool[int(rng.random() * len(pool))]
        return rng.choices(pool, cum_weights=list(accumulate(weights.get(phrase, 1.0) for phrase in pool)))[0]
