"""A judge for painted people, which sees pixels only, and learns by practice what the painted world's words look like.

It stands in for a vision-language model. When it is loaded, it paints people whose looks it knows, and fits linear
functions from these images to every attribute of people and clothes. To judge, it reads the captions by the world's
vocabulary and compares what they name with what the functions see. It knows nothing else of the images it judges.

It expects halves of whole diptychs, with the head at the top and the person in the middle, as `split` makes them
without a detector. From behind, faces cannot be compared; long coats hide what is below; shoes are small.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import exp, log
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from ...world.captions import SYNONYMS
from ...world.painter import paint_person
from ...world.people import (
    COLOURS,
    HAIR_COLOURS,
    PATTERNS,
    SKIN_TONES,
    SLOTS,
    WARDROBE,
    Garment,
    sample_identity,
    sample_outfit,
    sample_scene,
)
from ..components import Judge, Record
from ..filtering.gates import contrast, noise, open_halves, sharpness
from ..settings import Settings
from ..splitting import crop_to

_SCORES = ("quality", "identity", "agreement_a", "agreement_b", "follows_ab", "follows_ba")
_NOTHING = "nothing"
_SEED = 20_240_601  # for the practice
_PRACTICE_HEIGHT = 192
_SIZE = (48, 96)  # width and height to which it reduces images
_CELLS = (16, 8)  # rows and columns within which colours are counted
_COLOUR_SPREAD = 28.0  # grey levels by which a colour may be off and still count mostly
_STIFFNESS = 2.0  # ridge of the linear functions
_UNCHANGED = 0.3  # weight of a change that an edit does not name; small, since small changes look alike

_TRAITS = ("skin", "hair_colour", "hair_style", "build", "height", "beard", "glasses")

# What was seen of an image: the probability of each value of each attribute.
Sight = dict[str, dict[str, float]]


class Onlooker(Settings):
    """Settings of the judge of painted people.

    Attributes:
        practice: How many people it paints to learn from; it takes a second for about 300.
    """

    kind: Literal["onlooker"] = "onlooker"
    names: ClassVar[tuple[str, ...]] = _SCORES

    practice: Annotated[int, Field(ge=100, le=1_000_000)] = 3000

    def load(self) -> "LoadedOnlooker":
        """The judge after its practice."""
        return LoadedOnlooker(self)


class LoadedOnlooker(Judge):
    """The judge after its practice."""

    names = _SCORES

    def __init__(self, settings: Onlooker):
        super().__init__()
        self.about = {"model": "onlooker", "practice": settings.practice}
        self._eye = _Eye(settings.practice)

    def judge(self, records: Iterable[Record], folder: Path) -> Iterator[Record]:
        """One judgement per record, in order; see `Judge.judge`."""
        for record in records:
            halves = open_halves(record, folder)
            left, right = (self._eye.look(half) for half in halves)
            scores = {
                "quality": min(_quality(half) for half in halves),
                "identity": _same_person(left, right),
                "agreement_a": _agreement(record["caption_a"], left),
                "agreement_b": _agreement(record["caption_b"], right),
                "follows_ab": _follows(record["edit_ab"], left, right),
                "follows_ba": _follows(record["edit_ba"], right, left),
            }
            yield {"id": record["id"], "scores": {name: round(score, 4) for name, score in scores.items()}}
            self.usage["pairs"] += 1


# Seeing


class _Eye:
    """Linear functions from images to attributes, fitted to images that it paints for practice."""

    def __init__(self, practice: int):
        images, looks = zip(*(_practise(number) for number in range(practice)), strict=True)
        self._values = {name: sorted({look[name] for look in looks}) for name in looks[0]}
        columns = [(name, value) for name, values in self._values.items() for value in values]
        answers = np.array([[float(look[name] == value) for name, value in columns] for look in looks])
        features = np.stack(list(map(_features, images))).astype(np.float64)
        self._mean, self._offset = features.mean(axis=0), answers.mean(axis=0)
        features -= self._mean
        inverse = np.linalg.inv(features.T @ features + _STIFFNESS * np.eye(features.shape[1]))
        self._weights = inverse @ features.T @ (answers - self._offset)  # (features, values)

        # What the functions would say of each image had it not been there for practice (exact for linear functions)
        # shows how reliable each attribute is.
        leverage = ((features @ inverse) * features).sum(axis=1, keepdims=True)
        unseen = answers - (answers - self._offset - features @ self._weights) / (1 - leverage)
        self._trust = {name: _find_trust(unseen[:, part], answers[:, part]) for name, part in self._parts()}

    def look(self, image: Image.Image) -> Sight:
        """What is seen of an image."""
        seen = (_features(image) - self._mean) @ self._weights + self._offset
        return {
            name: dict(zip(self._values[name], np.exp(_log_softmax(self._trust[name] * seen[part])), strict=True))
            for name, part in self._parts()
        }

    def _parts(self) -> Iterator[tuple[str, slice]]:
        """Each attribute, and where its values are."""
        start = 0
        for name, values in self._values.items():
            yield name, slice(start, start + len(values))
            start += len(values)


def _find_trust(seen: np.ndarray, answers: np.ndarray) -> float:
    """The factor at which a softmax of what is seen (images, values) makes the right answers likeliest."""
    return max(range(1, 31), key=lambda trust: float((_log_softmax(trust * seen) * answers).sum()))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    values = values - values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def _practise(number: int) -> tuple[Image.Image, dict[str, str]]:
    """Somebody painted, and how they look: a value per attribute."""
    rng = np.random.default_rng([_SEED, number])
    person, outfit, scene = sample_identity(rng, test=False), sample_outfit(rng, test=False), sample_scene(rng)
    width = round(_PRACTICE_HEIGHT * rng.uniform(0.46, 0.58))
    image = paint_person(person, outfit, scene, (_PRACTICE_HEIGHT, width))
    cut = int(rng.integers(5))  # on one side, as where a seam was
    image = image.crop((0, 0, width - cut, image.height) if number % 2 else (cut, 0, width, image.height))
    looks = {trait: getattr(person, trait) for trait in _TRAITS}
    if person.hair_style == "bald" and person.beard == "none":
        looks["hair_colour"] = _NOTHING
    for slot in SLOTS:
        garment = getattr(outfit, slot) or Garment(_NOTHING, _NOTHING)
        looks |= {slot: garment.kind, f"{slot} colour": garment.colour}
    return image, looks | {"upper pattern": outfit.upper.pattern}


_ANCHORS = np.array([*COLOURS.values(), *SKIN_TONES.values(), *HAIR_COLOURS.values()], dtype=np.float32)


def _features(image: Image.Image) -> np.ndarray:
    """Which colours of the world are in each cell of the image, and how much structure: (features,).

    Cells on both sides of the middle are averaged, since people look alike in a mirror: that halves the features, and
    doubles the value of practice.
    """
    image = crop_to(image, None, 0, _SIZE[0] / _SIZE[1]).resize(_SIZE, Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32)  # (96, 48, 3)
    distance = ((_in_cells(pixels, (48, 24))[:, :, None] - _ANCHORS) ** 2).sum(axis=-1)
    shares = np.exp((distance.min(axis=-1, keepdims=True) - distance) / (2 * _COLOUR_SPREAD**2))
    colours = _in_cells(shares / shares.sum(axis=-1, keepdims=True), _CELLS)
    grey = pixels.mean(axis=-1)
    steps = np.stack([np.abs(np.diff(grey, axis=axis, prepend=np.take(grey, [0], axis))) for axis in (0, 1)], axis=-1)
    structure = np.sqrt(_in_cells(steps, _CELLS)) / 8
    cells = np.concatenate([colours, structure], axis=-1)  # (rows, columns, values)
    return ((cells + cells[:, ::-1]) / 2)[:, : _CELLS[1] // 2].ravel()


def _in_cells(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """Means of (height, width, ...) over a grid of cells: (rows, columns, ...)."""
    rows, columns = cells
    height, width, *rest = values.shape
    return values.reshape(rows, height // rows, columns, width // columns, *rest).mean(axis=(1, 3))


# Reading


class Mention(NamedTuple):
    """A garment in a text. Edits give new garments a colour, and none to those that go."""

    slot: str
    kind: str
    colour: str | None
    pattern: str | None


_NAMES = {name: word for word, names in SYNONYMS.items() for name in names}
_SLOT_OF = {kind: slot for slot, kinds in WARDROBE.items() for kind in kinds}
_WORDS = {word: word for word in (*_SLOT_OF, *COLOURS, *PATTERNS)} | _NAMES | {"one": "one", "ones": "one"}
_WORD = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _WORDS), key=len, reverse=True)) + r")\b")


def read_mentions(text: str) -> list[Mention]:
    """The garments that a caption or an edit names, in order."""
    found: list[Mention] = []
    colour = pattern = None
    for match in _WORD.finditer(text.lower()):
        word = _WORDS[match.group()]
        if word in COLOURS:
            colour = word
        elif word in PATTERNS:
            pattern = word
        else:
            kind = found[-1].kind if word == "one" and found else word  # "swap the coat for a red one"
            if kind in _SLOT_OF:
                found.append(Mention(_SLOT_OF[kind], kind, colour, pattern))
            colour = pattern = None
    return found


# Judging. A doubt says how much less likely something is than what the eye sees; evidence says how much likelier two
# images are under one assumption than under the other. Both are natural logarithms.


def _agreement(caption: str, sight: Sight) -> float:
    """Whether what a caption names is there; the most doubtful garment decides."""
    return exp(-0.2 * max((_doubt_of(mention, sight) for mention in read_mentions(caption)), default=0.0))


def _follows(edit: str, before: Sight, after: Sight) -> float:
    """Whether what is new is there and was not, what goes is not there and was, and all else is as it was."""
    mentions = read_mentions(edit)
    new = {mention.slot: mention for mention in mentions if mention.colour}
    gone = {mention.slot for mention in mentions} - set(new)
    doubt = 0.0
    for slot in SLOTS:
        names = [slot, f"{slot} colour", *(["upper pattern"] if slot == "upper" else [])]
        same = sum(_evidence_for_same(before[name], after[name]) for name in names)
        if slot in new:
            doubt += _doubt_of(new[slot], after) + same
        elif slot in gone:
            doubt += _doubt(slot, _NOTHING, after) + same
        else:
            doubt -= _UNCHANGED * same
    return _logistic(-0.5 * doubt)


def _same_person(left: Sight, right: Sight) -> float:
    """Whether skin, hair, build and face are alike."""
    return _logistic(0.5 * sum(_evidence_for_same(left[trait], right[trait]) for trait in _TRAITS))


def _doubt_of(mention: Mention, sight: Sight) -> float:
    """The doubt that a garment is there."""
    doubt = _doubt(mention.slot, mention.kind, sight)
    if mention.colour:
        doubt += _doubt(f"{mention.slot} colour", mention.colour, sight)
    if mention.slot == "upper":
        doubt += _doubt("upper pattern", mention.pattern or "plain", sight)
    return doubt


def _doubt(attribute: str, value: str, sight: Sight) -> float:
    likely = sight[attribute]
    return log(max(likely.values()) / likely.get(value, min(likely.values())))  # practice may have missed a rare value


def _evidence_for_same(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """The evidence that an attribute is equal in both images, if all its values are equally common."""
    return log(len(first) * sum(first[value] * second[value] for value in first))


def _logistic(evidence: float) -> float:
    return 1 / (1 + exp(-evidence))


def _quality(image: Image.Image) -> float:
    """How sharp, free of noise, and full an image is; each measure in its usual range."""
    measures = ((sharpness(image) - 0.1) / 0.4, 1 - (noise(image) - 3) / 12, contrast(image) / 20)
    return float(np.clip(min(measures), 0, 1))
