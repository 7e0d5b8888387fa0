"""Captions as people mistype and muddle them: seven corruptions (ITCPR-C), and wordings that ask for the same.

Each corruption takes a caption, a severity from 1 to 5 and a random generator. Severities, edit rates and the set of
corruptions are those that users of the released FAFA code measured it with; word lists and wordings are ours.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

EDITS = (0.02, 0.04, 0.08, 0.12, 0.16)  # of the characters, by severity; one edit at the least
_NEIGHBOURS = {  # on a QWERTY keyboard
    key: row[max(0, place - 1) : place] + row[place + 1 : place + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for place, key in enumerate(row)
}

# Words that stand for one another, so that a sentence with the other word is still a sentence.
COLOURS = (
    *("black", "white", "grey", "red", "blue", "green", "yellow", "orange"),
    *("pink", "purple", "brown", "beige", "turquoise", "navy"),
)
_OBJECTS = (
    ("coat", "jacket", "shirt", "t-shirt", "sweater", "hoodie", "vest", "dress", "skirt", "blouse"),
    ("trousers", "jeans", "shorts", "leggings"),
    ("shoes", "sneakers", "boots", "sandals"),
    ("hat", "cap", "beanie", "helmet", "scarf"),
    ("backpack", "bag", "suitcase", "umbrella", "handbag"),
)
_SPELLINGS = {"gray": "grey", "violet": "purple", "teal": "turquoise", "tee": "t-shirt", "jumper": "sweater"}
_SPELLINGS |= {"pullover": "sweater", "overcoat": "coat", "pants": "trousers", "trainers": "sneakers"}
_WORD = re.compile(r"[A-Za-z][A-Za-z-]*")

# Wordings: sentences around a caption that change nothing about what is asked for.
WORDINGS = (
    "{}",
    "the same person, {}",
    "now {}",
    "please find this person: {}",
    "this person again, but {}",
    "i am looking for this person, {}",
)


def swap_letters(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Neighbouring characters that change places."""
    letters = list(caption)
    for place in _places(caption, severity, rng, len(caption) - 1):
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)


def delete_letters(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Characters that are left out; one stays at the least."""
    gone = set(_places(caption, severity, rng, len(caption))[: len(caption) - 1])
    return _spoken("".join(letter for place, letter in enumerate(caption) if place not in gone), caption)


def mistype_letters(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Letters that become a neighbour on the keyboard."""
    letters = list(caption)
    typed = [place for place, letter in enumerate(caption) if letter.lower() in _NEIGHBOURS]
    for place in rng.permutation(typed)[: _num_edits(caption, severity)].tolist():
        neighbours = _NEIGHBOURS[letters[place].lower()]
        letters[place] = neighbours[rng.integers(len(neighbours))]
    return "".join(letters)


def remove_spaces(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Words that run together."""
    spaces = [place for place, letter in enumerate(caption) if letter == " "]
    gone = set(rng.permutation(spaces)[: _num_edits(caption, severity)].tolist())
    return "".join(letter for place, letter in enumerate(caption) if place not in gone)


def repeat_word(caption: str, severity: int, rng: np.random.Generator) -> str:
    """One word, said `severity` times more."""
    words = caption.split()
    place = int(rng.integers(len(words)))
    return " ".join([*words[:place], *[words[place]] * (severity + 1), *words[place + 1 :]])


def swap_colours(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Every colour becomes another one; there is one severity."""
    return _swap_words(caption, rng, (COLOURS,))


def swap_objects(caption: str, severity: int, rng: np.random.Generator) -> str:
    """Every garment or bag becomes another one of its kind; there is one severity."""
    return _swap_words(caption, rng, _OBJECTS)


def absent_object(caption: str, rng: np.random.Generator) -> str:
    """A garment or bag that a caption does not name, for "no ..." behind it."""
    said = _said(caption)
    return str(rng.choice([word for kind in _OBJECTS for word in kind if word not in said]))


CORRUPTIONS: dict[str, tuple[Callable[[str, int, np.random.Generator], str], Sequence[int]]] = {
    "letters swapped": (swap_letters, (1, 2, 3, 4, 5)),
    "letters deleted": (delete_letters, (1, 2, 3, 4, 5)),
    "letters mistyped": (mistype_letters, (1, 2, 3, 4, 5)),
    "spaces removed": (remove_spaces, (1, 2, 3, 4, 5)),
    "word repeated": (repeat_word, (1, 2, 3, 4, 5)),
    "colours swapped": (swap_colours, (1,)),
    "objects swapped": (swap_objects, (1,)),
}


def _num_edits(caption: str, severity: int) -> int:
    return max(1, round(len(caption) * EDITS[severity - 1]))


def _places(caption: str, severity: int, rng: np.random.Generator, end: int) -> list[int]:
    return rng.permutation(max(0, end))[: _num_edits(caption, severity)].tolist()


def _spoken(corrupted: str, caption: str) -> str:
    """A caption of one or two letters may have lost its only letter: it stays, for an empty query is another test."""
    return corrupted if any(letter.isalnum() for letter in corrupted) else caption


def _said(caption: str) -> set[str]:
    return {_SPELLINGS.get(word.lower(), word.lower()) for word in _WORD.findall(caption)}


def _swap_words(caption: str, rng: np.random.Generator, kinds: Sequence[Sequence[str]]) -> str:
    said = _said(caption)

    def other(match: re.Match) -> str:
        word = _SPELLINGS.get(match[0].lower(), match[0].lower())
        kind = next((kind for kind in kinds if word in kind), None)
        if kind is None:
            return match[0]
        # Not one that the caption names elsewhere: two swapped garments might describe the target again.
        return str(rng.choice([choice for choice in kind if choice not in said] or [c for c in kind if c != word]))

    return _WORD.sub(other, caption)
