"""Everyday scenes for composed image retrieval of any object: what can be in them, and the grammar that speaks of them.

A scene is a place in some light (time of day or weather) with up to three kinds of things, each of a colour, a size and
a number. A quadruple is two scenes that differ in one to three respects, a caption of each and an edit in either
direction; an edit names what changes and nothing else. `things_painter` paints them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from ...world.people import pick
from ..components import Record, seed_of
from ..quadruples.writing import FIELDS, QuadrupleWriter

SIZES = ("small", "medium", "medium", "big")  # repeated entries are likelier; medium is not spoken of
LIGHTS = ("day", "day", "sunset", "night", "rain", "snow", "fog")
INDOOR_LIGHTS = ("day", "day", "sunset", "night")
_NUM_CHANGES = (1, 1, 1, 2, 2, 2, 3)
PLACES = ("table", "room", "street", "beach", "field", "garden")
INDOORS = ("table", "room")
THINGS_VERSION = 1  # raise it whenever the same seed gives other texts or pixels

_ANY = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "white", "black")
_COATS = ("brown", "black", "white", "grey", "orange")
_OUTSIDE = ("street", "beach", "field", "garden")


@dataclass(frozen=True)
class Kind:
    """A kind of thing: where it is found, in which colours, how many of it at most, and what it may be called."""

    places: tuple[str, ...]
    colours: tuple[str, ...]
    most: int
    names: tuple[str, ...]


KINDS = {
    "ball": Kind(("room", *_OUTSIDE), _ANY, 3, ("ball",)),
    "cup": Kind(("table",), _ANY, 3, ("cup", "mug")),
    "book": Kind(("table", "room"), _ANY, 3, ("book",)),
    "lamp": Kind(("table", "room"), _ANY, 1, ("lamp",)),
    "vase": Kind(("table", "room"), _ANY, 1, ("vase", "flower vase")),
    "apple": Kind(("table",), ("red", "green", "yellow"), 3, ("apple",)),
    "candle": Kind(("table",), _ANY, 3, ("candle",)),
    "chair": Kind(("room", "garden"), (*_ANY, "brown"), 2, ("chair",)),
    "dog": Kind(("room", *_OUTSIDE), _COATS, 2, ("dog",)),
    "cat": Kind(("room", "street", "garden"), _COATS, 2, ("cat",)),
    "car": Kind(("street", "field"), _ANY, 2, ("car",)),
    "bus": Kind(("street",), _ANY, 1, ("bus",)),
    "bicycle": Kind(_OUTSIDE, _ANY, 1, ("bicycle", "bike")),
    "tree": Kind(("street", "field", "garden"), ("green", "orange", "yellow", "pink"), 3, ("tree",)),
    "house": Kind(("field",), ("white", "yellow", "pink", "blue", "grey", "turquoise"), 2, ("house", "cottage")),
    "umbrella": Kind(("beach", "garden"), _ANY, 2, ("parasol", "sunshade")),
    "boat": Kind(("beach",), _ANY, 2, ("sailing boat", "boat")),
    "tent": Kind(("beach", "field", "garden"), _ANY, 2, ("tent",)),
    "balloon": Kind(("room", *_OUTSIDE), _ANY, 3, ("balloon",)),
    "suitcase": Kind(("room", "street"), (*_ANY, "brown"), 2, ("suitcase",)),
    "bench": Kind(_OUTSIDE, (*_ANY, "brown"), 1, ("bench",)),
}

_PLURALS = {"bus": "buses", "bench": "benches"}
_NUMBERS = ("no", "one", "two", "three")
_SYNONYMS = {"turquoise": ("turquoise", "teal"), "purple": ("purple", "violet"), "grey": ("grey", "gray"),
             "small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}  # fmt: skip
_PLACE_PHRASES = {
    "table": ("on a table", "on a wooden table", "on a tabletop"),
    "room": ("in a room", "in a living room", "in a quiet room"),
    "street": ("on a street", "on a city street", "on a road in town"),
    "beach": ("on a beach", "on a sandy beach", "by the sea"),
    "field": ("in a field", "in a meadow", "in the countryside"),
    "garden": ("in a garden", "on a lawn", "in a fenced garden"),
}
_LIGHT_PHRASES = {
    "day": ("in daylight", "by day", "in bright light"),
    "sunset": ("at sunset", "in the evening light", "at dusk"),
    "night": ("at night", "after dark", "late at night"),
    "rain": ("in the rain", "on a rainy day", "in heavy rain"),
    "snow": ("in the snow", "on a snowy day", "while snow falls"),
    "fog": ("in the fog", "on a foggy day", "in thick fog"),
}
_LIGHT_STATEMENTS = {
    "day": ("it is a clear day", "it is bright daylight"),
    "sunset": ("the sun is setting", "it is early evening"),
    "night": ("it is night", "it is dark outside"),
    "rain": ("it is raining", "rain is falling"),
    "snow": ("it is snowing", "snow is falling"),
    "fog": ("thick fog has come", "it is foggy"),
}
_LIGHT_REQUESTS = {
    "day": ("make it a clear day", "change the light to bright daylight"),
    "sunset": ("let the sun set", "change the time to the evening"),
    "night": ("make it night", "change the time to night"),
    "rain": ("let it rain", "change the weather to rain"),
    "snow": ("let it snow", "change the weather to snow"),
    "fog": ("add thick fog", "change the weather to fog"),
}


@dataclass(frozen=True)
class Thing:
    """One kind of thing in a scene; `number` of them, all alike."""

    kind: str
    colour: str
    size: str = "medium"
    number: int = 1


@dataclass(frozen=True)
class ThingsScene:
    """A place, its light, and for each of three spots from left to right what stands there, if anything."""

    place: str
    light: str
    things: tuple[Thing | None, ...]

    def as_dict(self) -> dict:
        """As JSON holds it, and as the painter reads it."""
        content = asdict(self)
        return content | {"things": list(content["things"])}


def sample_scene(rng: np.random.Generator) -> ThingsScene:
    """A random scene with one to three kinds of things."""
    place = pick(rng, PLACES)
    things: list[Thing | None] = [None, None, None]
    for spot in rng.permutation(3)[: pick(rng, (1, 2, 2, 3))].tolist():
        things[spot] = _sample_thing(rng, place, things)
    return ThingsScene(place, pick(rng, _lights_of(place)), tuple(things))


def sample_change(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    """Another scene, with one to three changes. Kinds of things that are in both, at least one, stay where they are."""
    num_changes = pick(rng, _NUM_CHANGES)
    while True:
        changed = scene
        for _ in range(num_changes):
            changed = pick(rng, _CHANGES)(rng, changed)
        before, after = _spots(scene), _spots(changed)
        common = before.keys() & after.keys()
        stay_put = common and all(before[kind] == after[kind] for kind in common)
        if stay_put and len(_changes(scene, changed)) == num_changes:
            return changed


def sample_quadruple(rng: np.random.Generator) -> Record:
    """Texts of a quadruple, and under `scenes` both scenes for the painter."""
    scene_a = sample_scene(rng)
    scene_b = sample_change(rng, scene_a)
    return {
        "caption_a": describe_scene(scene_a, rng),
        "caption_b": describe_scene(scene_b, rng),
        "edit_ab": describe_change(scene_a, scene_b, rng),
        "edit_ba": describe_change(scene_b, scene_a, rng),
        "scenes": [scene_a.as_dict(), scene_b.as_dict()],
    }


def describe_scene(scene: ThingsScene, rng: np.random.Generator) -> str:
    """A sentence about all things of a scene, the place and, but for a plain day, the light."""
    things = [_phrase(thing, rng) for thing in scene.things if thing]
    rng.shuffle(things)
    listed, place = _join(things), pick(rng, _PLACE_PHRASES[scene.place])
    light = pick(rng, _LIGHT_PHRASES[scene.light]) if scene.light != "day" or rng.random() < 0.3 else ""
    num_shown = sum(thing.number for thing in scene.things if thing)
    return _as_sentence(
        pick(
            rng,
            (
                f"{listed} {place} {light}",
                f"{place} {'there are' if num_shown > 1 else 'there is'} {listed} {light}",
                f"a picture of {listed} {place} {light}",
                f"{light} {'stand' if num_shown > 1 else 'stands'} {listed} {place}" if light else f"{listed} {place}",
            ),
        )
    )


def describe_change(before: ThingsScene, after: ThingsScene, rng: np.random.Generator) -> str:
    """A relative caption: how to get from one scene to the other, about ten words. What stays is not mentioned.

    Raises:
        ValueError: the scenes are equal.
    """
    changes = _changes(before, after)
    if not changes:
        raise ValueError(f"nothing to describe: both scenes are {after}")
    rng.shuffle(changes)
    speak, opening = pick(rng, _STYLES)
    return _as_sentence(f"{pick(rng, opening)} {_join([speak(*change, rng) for change in changes])}")


# Changes: what they are about ("place", "light", "thing"), what was there, what is there now.

_Change = tuple[str, "str | Thing | None", "str | Thing | None"]


def _changes(before: ThingsScene, after: ThingsScene) -> list[_Change]:
    pairs = [("thing", *pair) for pair in zip(before.things, after.things, strict=True)]
    pairs += [("place", before.place, after.place), ("light", before.light, after.light)]
    return [change for change in pairs if change[1] != change[2]]


def _spots(scene: ThingsScene) -> dict[str, int]:
    return {thing.kind: spot for spot, thing in enumerate(scene.things) if thing}


def _change_attribute(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    """Another colour, size or number of something."""
    spot = pick(rng, [spot for spot, thing in enumerate(scene.things) if thing])
    thing = scene.things[spot]
    other = _sample_as(rng, thing.kind)
    attribute = pick(rng, ("colour", "colour", "size", "number"))
    return _with(scene, spot, replace(thing, **{attribute: getattr(other, attribute)}))


def _change_kind(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    """Something else in the place of something."""
    spot = pick(rng, [spot for spot, thing in enumerate(scene.things) if thing])
    return _with(scene, spot, _sample_thing(rng, scene.place, scene.things))


def _change_presence(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    """Something more, or something less."""
    spot = pick(rng, range(3))
    return _with(scene, spot, None if scene.things[spot] else _sample_thing(rng, scene.place, scene.things))


def _change_place(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    """Another place where all these things are found."""
    kinds = [KINDS[thing.kind] for thing in scene.things if thing]
    places = [place for place in PLACES if all(place in kind.places for kind in kinds)]
    place = pick(rng, places)
    return replace(scene, place=place) if scene.light in _lights_of(place) else scene


def _change_light(rng: np.random.Generator, scene: ThingsScene) -> ThingsScene:
    return replace(scene, light=pick(rng, _lights_of(scene.place)))


_CHANGES = (_change_attribute, _change_attribute, _change_kind, _change_presence, _change_place, _change_light)


def _sample_thing(rng: np.random.Generator, place: str, things: Iterable[Thing | None]) -> Thing:
    """A thing found in a place, of a kind that is not there yet."""
    present = {thing.kind for thing in things if thing}
    return _sample_as(rng, pick(rng, [kind for kind in KINDS if place in KINDS[kind].places and kind not in present]))


def _sample_as(rng: np.random.Generator, name: str) -> Thing:
    kind = KINDS[name]
    number = 1 if rng.random() < 0.5 else 1 + int(rng.integers(kind.most))
    return Thing(name, pick(rng, kind.colours), pick(rng, SIZES), number)


def _lights_of(place: str) -> tuple[str, ...]:
    return INDOOR_LIGHTS if place in INDOORS else LIGHTS


def _with(scene: ThingsScene, spot: int, thing: Thing | None) -> ThingsScene:
    things = (*scene.things[:spot], thing, *scene.things[spot + 1 :])
    return replace(scene, things=things) if any(things) else scene


# Ways to speak of one change


def _as_request(about: str, old: str | Thing | None, new: str | Thing | None, rng: np.random.Generator) -> str:
    """ "replace the dog with two red balls", "let it rain"."""
    if about == "place":
        return f"{pick(rng, ('place it all', 'set the scene', 'show it all'))} " + pick(rng, _PLACE_PHRASES[new])
    if about == "light":
        return pick(rng, _LIGHT_REQUESTS[new])
    if old is None:
        return f"{pick(rng, ('add', 'put in', 'also show'))} {_phrase(new, rng)}"
    name = _name(old, rng)
    if new is None:
        return f"{pick(rng, ('remove', 'take away', 'leave out'))} the {name}"
    if old.kind != new.kind or len(_altered(old, new)) > 1:
        verb, link = pick(rng, (("replace", "with"), ("swap", "for"), ("exchange", "for")))
        return f"{verb} the {name} {link} {_phrase(new, rng)}"
    if old.colour != new.colour:
        verb, link = pick(rng, (("turn", ""), ("paint", ""), ("change the colour of", "to"), ("make", "")))
        return f"{verb} the {name} {link} {_word(new.colour, rng)}"
    if old.size != new.size:
        return f"make the {name} {_comparative(old, new, rng)}"
    return f"show {_NUMBERS[new.number]} {_name(new, rng)} instead of {_NUMBERS[old.number]}"


def _as_statement(about: str, old: str | Thing | None, new: str | Thing | None, rng: np.random.Generator) -> str:
    """ "there are two red balls instead of the dog", "it is raining"."""
    if about == "place":
        return f"{pick(rng, ('everything is', 'the scene is', 'all of it is'))} {pick(rng, _PLACE_PHRASES[new])}"
    if about == "light":
        return pick(rng, _LIGHT_STATEMENTS[new])
    if new is None:
        verb = "are" if old.number > 1 else "is"
        return f"the {_name(old, rng)} {verb} {pick(rng, ('gone', 'no longer there', 'missing'))}"
    verb = "are" if new.number > 1 else "is"
    if old is None:
        return f"there {verb} also {_phrase(new, rng)}"
    if old.kind != new.kind or len(_altered(old, new)) > 1:
        return f"there {verb} {_phrase(new, rng)} instead of the {_name(old, rng)}"
    if old.colour != new.colour:
        contrast = f" instead of {_word(old.colour, rng)}" if rng.random() < 0.5 else ""
        return f"the {_name(new, rng)} {verb} {_word(new.colour, rng)}{contrast}"
    if old.size != new.size:
        return f"the {_name(new, rng)} {verb} {_comparative(old, new, rng)}"
    return f"there {verb} {_NUMBERS[new.number]} {_name(new, rng)} instead of {_NUMBERS[old.number]}"


def _as_appearance(about: str, old: str | Thing | None, new: str | Thing | None, rng: np.random.Generator) -> str:
    """ "with two red balls instead of the dog", "in the rain"."""
    if about != "thing":
        return pick(rng, (_PLACE_PHRASES if about == "place" else _LIGHT_PHRASES)[new])
    if new is None:
        return f"without the {_name(old, rng)}"
    if old is None:
        return f"with {_phrase(new, rng)} {pick(rng, ('added', 'as well', 'besides'))}"
    if old.kind != new.kind or len(_altered(old, new)) > 1:
        return f"with {_phrase(new, rng)} {pick(rng, ('instead of', 'in place of'))} the {_name(old, rng)}"
    if old.colour != new.colour:
        return f"with the {_name(new, rng)} in {_word(new.colour, rng)}"
    if old.size != new.size:
        return f"with the {_name(new, rng)} {_comparative(old, new, rng)}"
    return f"with {_NUMBERS[new.number]} {_name(new, rng)} instead of {_NUMBERS[old.number]}"


_STYLES: tuple[tuple[Callable[..., str], tuple[str, ...]], ...] = (
    (_as_request, ("", "", "please")),
    (_as_statement, ("", "now")),
    (_as_appearance, ("the same scene", "the same but", "this time", "now")),
)


def _altered(old: Thing, new: Thing) -> list[str]:
    return [name for name in ("colour", "size", "number") if getattr(old, name) != getattr(new, name)]


def _phrase(thing: Thing, rng: np.random.Generator) -> str:
    """A thing with all that is to be said of it: "two small red balls", "an orange cat"."""
    words = [_word(thing.colour, rng), _name(thing, rng)]
    if thing.size != "medium":
        words.insert(0, _word(thing.size, rng))
    text = " ".join(words)
    if thing.number > 1:
        return f"{_NUMBERS[thing.number]} {text}"
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _name(thing: Thing, rng: np.random.Generator) -> str:
    """What a thing is called, in the plural if there are several."""
    name = pick(rng, KINDS[thing.kind].names)
    return _PLURALS.get(name, f"{name}s") if thing.number > 1 else name


def _comparative(old: Thing, new: Thing, rng: np.random.Generator) -> str:
    grown = ("small", "medium", "big").index(new.size) > ("small", "medium", "big").index(old.size)
    return pick(rng, ("bigger", "larger", "much bigger") if grown else ("smaller", "tinier", "much smaller"))


def _word(word: str, rng: np.random.Generator) -> str:
    return pick(rng, _SYNONYMS.get(word, (word,)))


def _join(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _as_sentence(text: str) -> str:
    text = " ".join(text.split())
    return f"{text[0].upper()}{text[1:]}."


@dataclass(frozen=True)
class ThingsWriter:
    """Settings of the writer of quadruples about everyday scenes. There is nothing to set."""

    kind: ClassVar[str] = "things"

    def load(self) -> QuadrupleWriter:
        """The writer, ready for work."""
        return _Writer()

    def preview(self, item: str, seed: int) -> str:
        """An item's texts; nobody is asked for them."""
        (record,) = self.load().write([item], seed)
        return "\n".join(f"{name}: {record[name]}" for name in FIELDS)


class _Writer(QuadrupleWriter):
    """Scenes go along for the painter under `scenes`."""

    def __init__(self):
        super().__init__()
        self.about = {"grammar": "things", "version": THINGS_VERSION}

    def write(self, ids: Iterable[str], seed: int) -> Iterator[Record]:
        for item in ids:
            rng = np.random.default_rng(seed_of(seed, "quadruple", item))
            yield {"id": item, **sample_quadruple(rng), "attempts": 1}
