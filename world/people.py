"""Who lives in the small world: identities, outfits, scenes, and how they are sampled at random.

An `Identity` is what stays with a person (skin, hair, face, build), an `Outfit` what can be changed (clothes, shoes,
bag, hat), a `Scene` everything that differs from one photograph to the next (pose, viewpoint, place, light).

One rule, `is_held_out`, splits the identities and the garment combinations of an outfit into a training and a test
part. It depends only on the attributes, so training and test data never share one, whatever the seed.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice")
RGB = tuple[int, int, int]

SKIN_TONES: dict[str, RGB] = {
    "fair": (252, 217, 192),
    "peach": (232, 178, 136),
    "tan": (190, 130, 88),
    "brown": (138, 86, 58),
    "dark": (84, 54, 42),
}
HAIR_COLOURS: dict[str, RGB] = {
    "black": (34, 30, 36),
    "brown": (104, 62, 38),
    "ginger": (208, 92, 34),
    "blond": (242, 204, 108),
    "silver": (206, 210, 218),
    "pink": (236, 110, 164),
    "blue": (62, 112, 208),
}
HAIR_STYLES = ("bald", "short", "spiky", "afro", "bob", "long", "ponytail", "bun", "pigtails")
BEARDS = ("none", "none", "none", "full", "moustache")  # repeated entries are likelier
_BEARDLESS_STYLES = ("bob", "ponytail", "pigtails")
GLASSES = ("none", "none", "round", "dark")
BUILDS = ("slim", "average", "athletic", "stout")
HEIGHTS = ("short", "average", "tall")

COLOURS: dict[str, RGB] = {
    "red": (206, 44, 48),
    "orange": (240, 132, 36),
    "yellow": (246, 206, 60),
    "green": (58, 142, 76),
    "turquoise": (56, 188, 182),
    "blue": (44, 92, 196),
    "purple": (122, 66, 164),
    "pink": (242, 142, 178),
    "brown": (122, 80, 52),
    "white": (244, 243, 238),
    "grey": (146, 150, 158),
    "black": (44, 44, 52),
}
PATTERNS = ("plain", "plain", "plain", "striped", "checked", "dotted")
_ANY = tuple(COLOURS)
# What there is for each slot of an outfit: kinds, and the colours that each comes in.
WARDROBE: dict[str, dict[str, tuple[str, ...]]] = {
    "upper": dict.fromkeys(("t-shirt", "shirt", "sweater", "hoodie", "jacket", "coat", "dress"), _ANY),
    "lower": {
        "jeans": ("blue", "grey", "black"),
        "trousers": ("brown", "green", "grey", "white", "black", "red", "purple"),
        "shorts": ("blue", "green", "grey", "white", "black", "red", "yellow", "orange"),
        "skirt": ("blue", "green", "purple", "white", "black", "red", "yellow", "pink", "turquoise"),
        "leggings": ("grey", "black", "white", "purple", "blue", "red"),  # worn under dresses, and only there
    },
    "shoes": {"sneakers": ("white", "red", "blue", "black"), "boots": ("brown", "black", "yellow")},
    "bag": dict.fromkeys(("backpack", "handbag", "shoulder bag"), ("black", "brown", "red", "yellow", "blue")),
    "hat": dict.fromkeys(("cap", "beanie"), ("red", "yellow", "blue", "green", "black", "white")),
}
SLOTS = tuple(WARDROBE)

# A town that the others know nothing of: what is worn there, in which colours, and the words for both. Its people look
# like all others. The words are short, so that spelling them letter by letter takes few tokens.
HARBOUR_COLOURS: dict[str, RGB] = {
    "lime": (170, 216, 46),
    "navy": (26, 34, 92),
    "rose": (226, 58, 126),
    "mint": (150, 226, 190),
    "rust": (164, 72, 34),
    "cream": (234, 216, 172),
}
_ANY_OF_HARBOUR = tuple(HARBOUR_COLOURS)
PAINTS = COLOURS | HARBOUR_COLOURS
_EMPTY = {"bag": 0.45, "hat": 0.65}  # how likely a slot stays empty; others never do
_NUM_CHANGES = (1, 2, 2, 3)
_CHANGE_WEIGHTS = np.array([0.36, 0.28, 0.06, 0.16, 0.14])  # how often each slot takes part in an edit

PLACES = ("street", "park", "room", "shop", "square")
ARM_POSES = ("swing", "swing", "swing", "hip", "pocket", "wave")


@dataclass(frozen=True)
class Identity:
    """What stays with a person from image to image. Values come from the vocabularies of this module."""

    skin: str
    hair_colour: str
    hair_style: str
    beard: str
    glasses: str
    build: str
    height: str


@dataclass(frozen=True)
class Garment:
    """One thing worn or carried: a kind (`"coat"`), a colour (`"red"`) and, for upper garments, a pattern."""

    kind: str
    colour: str
    pattern: str = "plain"


@dataclass(frozen=True)
class Outfit:
    """What a person wears and carries; `None` stands for no bag and for no hat."""

    upper: Garment
    lower: Garment
    shoes: Garment
    bag: Garment | None = None
    hat: Garment | None = None


@dataclass(frozen=True)
class Scene:
    """How one image is taken. Lengths are fractions of the image's height, angles are radians."""

    place: str
    from_behind: bool
    yaw: float  # -1 turned to the left of the image ... 1 to the right
    stride: float  # swing of the legs; 0 stands still
    arms: tuple[str, str]
    arm_swing: float
    tilt: float  # of the head
    zoom: float
    shift: float  # of the figure from the middle
    headroom: float  # above the crown: as in the crops of a detector, heads are at the top, feet where they end up
    light_side: float  # -1 lit from the left ... 1 from the right
    brightness: float
    warmth: float  # -1 cool ... 1 warm
    blur: float  # pixels
    noise: float  # grey levels at most
    seed: int  # decides all that remains: furniture, trees, grain


@dataclass(frozen=True)
class Town:
    """What people of a town wear: for each slot the kinds with their colours, and the patterns of upper garments."""

    wardrobe: Mapping[str, Mapping[str, Sequence[str]]]
    patterns: Sequence[str]


HOME = Town(WARDROBE, PATTERNS)
HARBOUR = Town(
    {
        "upper": dict.fromkeys(("poncho", "robe", "tunic", "vest"), _ANY_OF_HARBOUR),
        "lower": dict.fromkeys(("kilt", "wrap", "flares"), _ANY_OF_HARBOUR),
        "shoes": dict.fromkeys(("clogs", "sandals"), ("navy", "rose", "lime", "cream")),
        "bag": dict.fromkeys(("basket", "drum"), ("lime", "navy", "rose", "rust")),
        "hat": dict.fromkeys(("beret", "boater"), ("lime", "navy", "rose", "cream")),
    },
    ("plain", "plain", "wavy"),
)
TOWNS = {"home": HOME, "harbour": HARBOUR}


def is_held_out(*attributes: str) -> bool:
    """Whether a combination of attributes belongs to the test set (one in five does) and never to training."""
    return zlib.crc32("/".join(attributes).encode()) % 5 == 0


def is_test_identity(identity: Identity) -> bool:
    """Whether this person is reserved for the test set."""
    return is_held_out(*astuple(identity))


def is_test_outfit(outfit: Outfit) -> bool:
    """Whether this combination of upper and lower garment and their colours is reserved for the test set."""
    return is_held_out(outfit.upper.kind, outfit.upper.colour, outfit.lower.kind, outfit.lower.colour)


def pick(rng: np.random.Generator, options: Sequence[Choice]) -> Choice:
    """One of `options`, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def sample_identity(rng: np.random.Generator, test: bool) -> Identity:
    """A random person from the training part of the world, or from its test part."""
    while True:
        style = pick(rng, HAIR_STYLES)
        beard = "none" if style in _BEARDLESS_STYLES else pick(rng, BEARDS)
        hairless = style == "bald" and beard == "none"
        identity = Identity(
            skin=pick(rng, tuple(SKIN_TONES)),
            hair_colour="black" if hairless else pick(rng, tuple(HAIR_COLOURS)),
            hair_style=style,
            beard=beard,
            glasses=pick(rng, GLASSES),
            build=pick(rng, BUILDS),
            height=pick(rng, HEIGHTS),
        )
        if is_test_identity(identity) == test:
            return identity


def look_different(first: Identity, second: Identity) -> bool:
    """Whether two people can be told apart from a distance: at least two of skin, hair, hair style and build differ."""
    traits = ("skin", "hair_colour", "hair_style", "build")
    return sum(getattr(first, trait) != getattr(second, trait) for trait in traits) >= 2


def sample_people(rng: np.random.Generator, count: int, test: bool, unlike: Sequence[Identity] = ()) -> list[Identity]:
    """`count` people who look different from one another and from everybody in `unlike`."""
    people: list[Identity] = []
    while len(people) < count:
        candidate = sample_identity(rng, test)
        if all(look_different(candidate, other) for other in (*unlike, *people)):
            people.append(candidate)
    return people


def sample_garment(rng: np.random.Generator, slot: str, town: Town = HOME) -> Garment | None:
    """Something to wear in `slot`, or `None` where a slot may stay empty."""
    if rng.random() < _EMPTY.get(slot, 0.0):
        return None
    kind = pick(rng, tuple(town.wardrobe[slot]))
    pattern = pick(rng, town.patterns) if slot == "upper" else "plain"
    return Garment(kind, pick(rng, town.wardrobe[slot][kind]), pattern)


def is_wearable(outfit: Outfit) -> bool:
    """Dresses go over leggings, leggings under dresses, and the two main garments differ in colour."""
    return (outfit.upper.kind == "dress") == (outfit.lower.kind == "leggings") and (
        outfit.upper.colour != outfit.lower.colour
    )


def sample_outfit(rng: np.random.Generator, test: bool, town: Town = HOME) -> Outfit:
    """A random outfit from the training part of a town's wardrobe, or from its test part."""
    while True:
        outfit = Outfit(**{slot: sample_garment(rng, slot, town) for slot in SLOTS})
        if is_wearable(outfit) and is_test_outfit(outfit) == test:
            return outfit


def sample_change(rng: np.random.Generator, outfit: Outfit, test: bool, town: Town = HOME) -> Outfit:
    """The outfit with one to three of its slots changed, from the same part of the wardrobe."""
    while True:
        slots = rng.choice(SLOTS, size=pick(rng, _NUM_CHANGES), replace=False, p=_CHANGE_WEIGHTS).tolist()
        # Most changes of the main garments leave the test wardrobe: without many tries, its edits would be of hats and
        # bags only.
        for _ in range(100):
            changed = replace(outfit, **{slot: sample_garment(rng, slot, town) for slot in slots})
            if (
                len(changed_slots(outfit, changed)) == len(slots)
                and is_wearable(changed)
                and is_test_outfit(changed) == test
            ):
                return changed


def changed_slots(before: Outfit, after: Outfit) -> list[str]:
    """The slots in which two outfits differ, in the order of `SLOTS`."""
    return [slot for slot in SLOTS if getattr(before, slot) != getattr(after, slot)]


def outfit_from_dict(slots: Mapping[str, Any]) -> Outfit:
    """The outfit that `dataclasses.asdict` turned into a dict per slot, None for an empty one.

    Raises:
        ValueError: a slot, or something worn in it, does not exist in this world.
    """
    if unknown := sorted(set(slots) - set(SLOTS)):
        raise ValueError(f"an outfit has the slots {', '.join(SLOTS)} and not {', '.join(unknown)}")
    garments = {}
    for slot in SLOTS:
        worn = slots.get(slot)
        try:
            garments[slot] = garment = None if worn is None and slot in _EMPTY else Garment(**worn)
        except TypeError:
            raise ValueError(f"{slot} must be a dict with kind, colour and pattern: {worn}") from None
        patterns = PATTERNS if slot == "upper" else ("plain",)
        if garment and (garment.colour not in WARDROBE[slot].get(garment.kind, ()) or garment.pattern not in patterns):
            raise ValueError(f"nothing in this world is worn as {slot} that is {worn}")
    return Outfit(**garments)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random photograph to take: mostly from the front, sometimes from behind, often slightly from the side."""
    return Scene(
        place=pick(rng, PLACES),
        from_behind=bool(rng.random() < 0.18),
        yaw=float(np.clip(rng.normal(0, 0.5), -1, 1)),
        stride=float(rng.uniform(-1, 1)),
        arms=(pick(rng, ARM_POSES), pick(rng, ARM_POSES)),
        arm_swing=float(rng.uniform(-1, 1)),
        tilt=float(rng.normal(0, 0.05)),
        zoom=float(rng.uniform(0.97, 1.03)),
        shift=float(rng.uniform(-0.025, 0.025)),
        headroom=float(rng.uniform(0.07, 0.085)),
        light_side=float(rng.uniform(-1, 1)),
        brightness=float(rng.uniform(0.9, 1.05)),
        warmth=float(rng.uniform(-1, 1)),
        blur=float(max(0.0, rng.uniform(-0.6, 0.6))),
        noise=float(max(0.0, rng.uniform(-4, 6))),
        seed=int(rng.integers(2**31)),
    )
