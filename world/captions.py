"""The caption grammar: sentences about an outfit, and sentences about what changed between two outfits.

Captions of a quadruple are shared by several people, so they never speak of skin, hair or build. An edit caption names
what changed and nothing else. All captions stay within 32 WordPiece tokens.
"""

import numpy as np

from .people import HOME, Garment, Outfit, Town, changed_slots, pick, sample_change, sample_outfit

# Names of words of the vocabulary; all others have one name.
SYNONYMS = {
    "t-shirt": ("t-shirt", "tee"),
    "sweater": ("sweater", "jumper", "pullover"),
    "hoodie": ("hoodie", "hooded top"),
    "coat": ("coat", "overcoat"),
    "dress": ("dress", "frock"),
    "trousers": ("trousers", "pants"),
    "leggings": ("leggings", "tights"),
    "sneakers": ("sneakers", "trainers"),
    "shoulder bag": ("shoulder bag", "satchel"),
    "beanie": ("beanie", "knitted hat"),
    "turquoise": ("turquoise", "teal"),
    "purple": ("purple", "violet"),
    "grey": ("grey", "gray"),
    "checked": ("checked", "plaid"),
    "dotted": ("dotted", "spotted"),
}
PERSONS = ("a person", "someone", "a pedestrian", "the person")
_PLURALS = (
    *("jeans", "trousers", "pants", "shorts", "leggings", "tights", "sneakers", "trainers", "boots"),
    *("flares", "clogs", "sandals"),
)

# One change: the slot, what was there, what is there now; `None` for an empty slot.
_Change = tuple[str, Garment | None, Garment | None]


def write_quadruple(rng: np.random.Generator, town: Town = HOME) -> tuple[Outfit, Outfit, dict[str, str]]:
    """Two outfits of the training part of a town's wardrobe, and the texts of both: captions and edits either way.

    Returns:
        The outfits A and B, and the texts `caption_a`, `caption_b`, `edit_ab`, `edit_ba`.
    """
    outfit_a = sample_outfit(rng, test=False, town=town)
    outfit_b = sample_change(rng, outfit_a, test=False, town=town)
    texts = {
        "caption_a": describe_outfit(outfit_a, rng),
        "caption_b": describe_outfit(outfit_b, rng),
        "edit_ab": describe_change(outfit_a, outfit_b, rng),
        "edit_ba": describe_change(outfit_b, outfit_a, rng),
    }
    return outfit_a, outfit_b, texts


def describe_outfit(outfit: Outfit, rng: np.random.Generator) -> str:
    """A sentence about what a person wears and carries; shoes are often left out."""
    link = "over" if outfit.upper.kind == "dress" else pick(rng, ("and", "with", "over"))
    clothes = f"{_name(outfit.upper, rng)} {link} {_name(outfit.lower, rng)}"
    extras = []
    if outfit.bag:
        extras.append(f"{pick(rng, ('carrying', 'with'))} {_name(outfit.bag, rng)}")
    if outfit.hat:
        extras.append(f"{pick(rng, ('in', 'with'))} {_name(outfit.hat, rng)}")
    if len(extras) < 2 and rng.random() < 0.6:
        extras.append(f"{pick(rng, ('in', 'with'))} {_name(outfit.shoes, rng)}")
    rng.shuffle(extras)

    person = pick(rng, PERSONS)
    if extras and rng.random() < 0.3:  # "someone in a red cap wears ..."
        person, extras = f"{person} {extras[0]}", extras[1:]
        verb = pick(rng, ("wears", "is wearing", "is dressed in"))
    else:
        verb = pick(rng, ("in", "wearing", "dressed in", "wears"))
    return _as_sentence(", ".join([f"{person} {verb} {clothes}", *extras]))


def describe_change(before: Outfit, after: Outfit, rng: np.random.Generator) -> str:
    """A relative caption: how to get from one outfit to the other. Unchanged slots are not mentioned.

    Raises:
        ValueError: the outfits are equal.
    """
    slots = changed_slots(before, after)
    if not slots:
        raise ValueError(f"nothing to describe: both outfits are {after}")
    changes: list[_Change] = [(slot, getattr(before, slot), getattr(after, slot)) for slot in slots]
    styles = (_as_appearance, _as_statement, _as_request)
    style = pick(rng, styles if len(changes) < 3 else styles[:2])  # three requests in a row would be long
    return _as_sentence(style(changes, rng))


def _as_appearance(changes: list[_Change], rng: np.random.Generator) -> str:
    """ "now in a red coat and boots, carrying a backpack, without the hat"."""
    without = ("without the", "with no", "without a")
    clauses = _clauses(changes, rng, ("in", "wearing", "dressed in", "with"), ("carrying", "with"), without)
    return pick(rng, ("", "now ", "the same person ", "this time ")) + ", ".join(clauses)


def _as_statement(changes: list[_Change], rng: np.random.Generator) -> str:
    """ "the person now wears a red coat, carries a backpack and no longer has the hat"."""
    without = ("no longer has the", "has lost the", "is without the")
    clauses = _clauses(changes, rng, ("wears", "has changed into", "has on"), ("carries", "has"), without)
    return pick(rng, ("the person ", "now the person ", "the person now ", "the pedestrian ")) + _join(clauses)


def _as_request(changes: list[_Change], rng: np.random.Generator) -> str:
    """ "swap the jeans for a green skirt and add a cap"."""
    clauses = []
    for _, old, new in changes:
        if not new:
            clauses.append(f"{pick(rng, ('remove', 'take off', 'leave out'))} the {_word(old.kind, rng)}")
        elif not old:
            clauses.append(f"{pick(rng, ('add', 'give them', 'put on'))} {_name(new, rng)}")
        else:
            verb, link = pick(rng, (("swap", "for"), ("replace", "with"), ("change", "to")))
            clauses.append(f"{verb} the {_word(old.kind, rng)} {link} {_name(new, rng, after=old)}")
    rng.shuffle(clauses)
    return _join(clauses)


def _clauses(
    changes: list[_Change],
    rng: np.random.Generator,
    wearing: tuple[str, ...],
    carrying: tuple[str, ...],
    without: tuple[str, ...],
) -> list[str]:
    """What is worn now, the new bag, and what is gone, in random order; each begins with one of the given words."""
    clauses = []
    if worn := [_name(new, rng) for slot, _, new in changes if new and slot != "bag"]:
        rng.shuffle(worn)
        clauses.append(f"{pick(rng, wearing)} {_join(worn)}")
    for slot, old, new in changes:
        if slot == "bag" and new:
            clauses.append(f"{pick(rng, carrying)} {_name(new, rng)}")
        elif not new:
            clauses.append(f"{pick(rng, without)} {_word(old.kind, rng)}")
    rng.shuffle(clauses)
    return clauses


def _name(garment: Garment, rng: np.random.Generator, after: Garment | None = None) -> str:
    """A garment with its article, pattern and colour: "a striped red sweater", "black jeans".

    Just `after` something of the same kind it may be "a striped red one".
    """
    words = [_word(garment.colour, rng)]
    if garment.pattern != "plain":
        words.insert(int(rng.integers(2)), _word(garment.pattern, rng))
    noun = _word(garment.kind, rng)
    plural = noun in _PLURALS
    if after and after.kind == garment.kind and rng.random() < 0.7:
        noun = "ones" if plural else "one"
    text = " ".join([*words, noun])
    if plural:
        return text
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _word(word: str, rng: np.random.Generator) -> str:
    return pick(rng, SYNONYMS.get(word, (word,)))


def _join(parts: list[str]) -> str:
    """ "", "a", "a and b", "a, b and c"."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
