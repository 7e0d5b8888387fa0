"""Whether a quadruple can be used: pure functions that give a short fixed phrase for what is wrong with it.

A good quadruple that is refused costs another attempt; a bad one that passes costs a group of images. Still, what
cannot be judged passes, or wordings that nobody thought of would be missing from the data set.

What changes is found by comparing the captions phrase by phrase: a phrase is a run of words between function words
("red coat"). Phrases of both captions stay; the words that only one caption has are what an edit adds or takes away.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

from ..replies.answering import is_refusal
from ..replies.faults import fault_of_text
from ..replies.languages import Language
from ..settings import Count, Settings
from . import words as known
from .writing import FIELDS

_PLACEHOLDER = re.compile(r"[\[\]{}<>*#`_|]|\.\.\.|…|\\")
_OF_IMAGES = re.compile(
    r"\b(?:left|right|first|second|reference|target|original|source|other|both|in (?:the|this|that))(?:-hand)?[ -]"
    r"(?:images?|pictures?|photos?|photographs?|panels?|frames?|captions?)\b"
    r"|\b(?:[Ii]mage|[Pp]icture|[Pp]hoto|[Cc]aption|[Pp]anel|[Pp]erson|[Ss]cene|[Dd]escription) [AB12]\b"
    r"|\bdiptych|\bsplit[ -]screen"
)
_SHOW_NOTHING = known.FUNCTION_WORDS | known.HANDLING_WORDS | known.PEOPLE
_KEEPS = re.compile(
    r"\b(?:keep(?:ing|s)?|retain(?:ing|s)?|leav(?:e|ing) .*unchanged|unchanged|remain(?:s|ing)?|stays?|"
    r"still (?:\w+ing|in|on|with|has|have|is|are)|"
    r"as before|everything else|the rest|the same(?! (?:person|man|woman|boy|girl|pedestrian|one|figure)))\b"
)
# Compounds count as one word from here on: their hyphens are "_" where an edit is cut into steps.
_COMPOUND = re.compile(r"[^\W_]+(?:-[^\W_]+)+")
_OFF_WHITE = re.compile(
    r"\boff (?=white\b)|(?<!\btake )(?<!\btakes )(?<!\btaken )(?<!\btaking )\boff the (?=shoulders?\b)", re.I
)
_ENDED = r"(?:no longer|no more|not any ?more|any ?more)"
_STEPS = (
    r"[,;.:!?]+|\b(?:while|but|plus)\b|\b(?=without\b)|\b(?=with no\b)"
    rf"|(?<!with )\b(?=no\b)(?!{_ENDED})|\b(?=not\b)(?!{_ENDED})"
)
_PIECES = re.compile(rf"{_STEPS}|\band\b")
# A step takes away what it names beside these words, where they stand in the right place: "remove the hat" and "the hat
# is gone", but not "a missing button", "drop earrings", "an off white coat".
_WHOSE = r"(?:the|an?|h(?:is|er)|their|its|any|all|both|this|that|these|those|it|them)"
_IS = r"(?:is|are|was|were|be|been|being|has|have|had|gets?|goes|comes?)(?: (?:now|also|all|been|then|just|both))*"
_GONE = r"(?:removed|taken (?:off|away|out)|gone|lost|dropped|missing|left (?:out|off|behind)|absent)"
_AWAY = r"(?:off|out|away)(?= ?(?:now|too|again|completely|entirely|altogether|and\b.*)? *$)"
_BEFORE_VERBS = (
    r"(?:please|just|then|now|also|and|or|s?he|they|it|can you|could you|let|have|make|her|him|them|should|would|must|"
    r"to|has|had|is|are|i|want|need|simply|maybe|perhaps|the person|the man|the woman|you)"
)
_LEAVES = r"leav(?:e|es|ing) (?:\w+ ){0,6}?(?:out|off|behind)"
_UNDRESSES = (
    r"(?:tak(?:e|es|en|ing)|took|pull(?:s|ed|ing)?|slip(?:s|ped|ping)?|kick(?:s|ed|ing)?|strip(?:s|ped|ping)?|"
    r"put(?:s|ting)?|shrug(?:s|ged)?|peel(?:s|ed)?|throw[sn]?|lay|lays|laid|sets?|gets?)"
)
_TAKING = re.compile(
    "|".join(
        [
            rf"\b(?:without|no|not|never|minus|lack(?:s|ing)?|rid of|{_ENDED})\b",
            r"\b(?:disappear(?:s|ed|ing)?|vanish(?:es|ed|ing)?)\b",
            rf"^\W*(?:{_BEFORE_VERBS} )*(?:remov(?:e|es|ing)|los(?:e|es|ing)|ditch(?:es|ing)?|{_LEAVES})\b",
            rf"^\W*(?:{_BEFORE_VERBS} )*(?:drop(?:s|ped|ping)?|removed|lost|ditched) {_WHOSE}\b",
            rf"\bremov(?:e|es|ing) {_WHOSE}\b",
            rf"\b{_UNDRESSES} (?:\w+ ){{0,6}}?(?:off|away|aside)\b",
            rf"\b{_IS} {_GONE}\b",
            rf"\b{_GONE}(?: now| too)? *$",
            rf"\b{_AWAY}",
            r"\b(?:off|out|away) (?:with|goes|comes)\b",
        ]
    )
)
_TAKES = (
    r"(?:remov\w+|tak\w+ off|off|out|without|no|not|lose[sn]?|losing|lost|drop(?:s|ped)?|leav\w+ (?:out|behind)|gone|"
    r"missing|away|disappear\w*|vanish\w*|unti\w+|rid of|lack\w*|minus|never)"
)
_GIVES = (
    r"(?:add\w*|put\w*|give\w*|wear\w*|hold\w*|carr\w+|now|with|make\w*|in|on|appears?|"
    r"dress(?:es|ed)? (?:her|him|them|in|up)|bring\w*)"
)
# What is turned about, tied or dropped without more is neither.
_TURNS = re.compile(
    r"\b(?:up|down|back|open|clos\w+|un(?:tie[sd]?|tying|done|laced?|zip\w*|button\w*)|tied)\b"
    rf"|^\W*tie {_WHOSE}\b|^\W*drop\b(?! {_WHOSE}\b)"
)
_VERB = rf"(?:(?:s?he|they|is|are|has|have) )?(?:{_TAKES}|{_GIVES}|swap|replace|change)\b"
_STEP = re.compile(rf"{_STEPS}|\band\b(?= {_VERB})")
_SWAPS = re.compile(
    r"^(.*?)\b(?:replac(?:e|ed|ing)|swap\w*|chang(?:e|ed|es|ing)|switch\w*|exchang\w+|trad(?:e|ed|es|ing)|substitut\w+|"
    r"turn\w*|from|(?:ma[dk]e|gives?) way)\b(.*?)\b(?:with|for|to|into|by)\b(.*)$"
)
_BECOMES = re.compile(r"^(.*?)()\b(?:becomes?|turns?)\b(.*)$")
_IN_PLACE_OF = re.compile(
    r"^(.*?)\b(?:instead of|rather than|in place of|in exchange for|in lieu of|replac(?:es|ing)?|where)\b(.*)$"
)


def _in_order(bounds: list[int]) -> list[int]:
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"must be the fewest and the most words, such as [2, 30]: {bounds}")
    return bounds


_FewestAndMost = Annotated[list[Count], AfterValidator(_in_order)]


class CheckSettings(Settings):
    """What a quadruple must be like.

    Attributes:
        caption_words: Fewest and most words of a caption.
        edit_words: Fewest and most words of an edit.
        language: ISO 639-1 code. Names, slurs, identity and the sense of edits are checked in English only.
        person: Whether the captions are of one person: their sex stays, and no edit may speak of their looks.
        capitalised: Further words that may be capitalised without being names.
        banned: Further words that no text may hold, in lower case.
    """

    caption_words: _FewestAndMost = [5, 40]
    edit_words: _FewestAndMost = [2, 30]
    language: Language = "en"
    person: bool = True
    capitalised: list[str] = []
    banned: list[str] = []


def fault_of(quadruple: Mapping[str, str], settings: CheckSettings) -> str | None:
    """What is wrong with a quadruple; None if nothing is known to be."""
    return next(filter(None, _faults([quadruple[name] for name in FIELDS], settings)), None)


def _faults(texts: list[str], settings: CheckSettings) -> Iterator[str | bool | None]:
    """The result of each check in turn: what is wrong, or something false."""
    yield any(map(is_refusal, texts)) and "refused"
    yield any(map(_PLACEHOLDER.search, texts)) and "placeholder or markup"
    yield from (fault_of_text(text, settings.language) for text in texts)
    for text, (fewest, most) in zip(texts, 2 * [settings.caption_words] + 2 * [settings.edit_words], strict=True):
        yield len(text.split()) < fewest and "too short"
        yield len(text.split()) > most and "too long"
    words = [_words(text) for text in texts]
    yield any(set(found) & set(settings.banned) for found in words) and "banned word"
    yield words[0] == words[1] and "captions are the same"
    yield words[2] == words[3] and "edits are the same"
    yield any(edit in words[:2] for edit in words[2:]) and "an edit repeats a caption"
    if settings.language != "en":
        return
    caption_a, caption_b, edit_ab, edit_ba = texts = _spelled_alike(texts)
    yield any(map(has_slur, texts)) and "slur"
    yield any(_names_someone(text, settings.capitalised) for text in texts) and "names a person, brand or place"
    yield any(map(_OF_IMAGES.search, texts)) and "speaks of the pictures"
    if settings.person:
        yield _shows_two_people(*texts) and "two different people"
        yield (_changes_identity(edit_ab) or _changes_identity(edit_ba)) and "an edit changes the person"
    for edit, before, after in ((edit_ab, caption_a, caption_b), (edit_ba, caption_b, caption_a)):
        yield restates(edit, before, after) and "an edit restates what stays"
        yield points_backwards(edit, before, after) and "an edit leads the wrong way"
        _, changing = _phrase_words(before, after)
        yield bool(changing) and not _content(edit) & changing and "an edit misses the change"


def has_slur(text: str) -> bool:
    """Whether a slur is in the text; some are other words in some company ("a Maine Coon")."""
    words = ["", *_words(text), ""]
    return any(
        word in known.SLURS and not known.NO_SLURS.get(word, frozenset()) & {before, after}
        for before, word, after in zip(words, words[1:], words[2:], strict=False)
    )


def _names_someone(text: str, capitalised: list[str]) -> bool:
    """Whether somebody, a brand or a place is named: by capitals within a sentence, or by a well-known name."""
    tokens = re.findall(r"[\w'’-]+|[.!?]", text)
    for before, token in pairwise([".", *tokens]):
        word = re.sub(r"['’]s?$", "", token)
        if word in known.FIRST_NAMES or re.sub(r"\W", "", word).lower() in known.BRANDS:
            return True
        if before not in ".!?" and re.search(r"\w\w", word):
            for part in re.split(r"\W+", word):  # "T-shirt", "V-neck", "Chelsea-style"
                if part[:1].isupper() and len(part) > 1 and part not in known.CAPITALISED and part not in capitalised:
                    return True
    return False


def _shows_two_people(*texts: str) -> bool:
    """Whether one caption is of a man and the other of a woman, or an edit turns one into the other."""
    words = [set(_words(text)) for text in texts]
    first, second, *edits = [{sex for sex in (known.MEN, known.WOMEN) if found & sex} for found in words]
    return bool(first and second and not first & second) or any(len(sexes) == 2 for sexes in edits)


def _changes_identity(edit: str) -> bool:
    """Whether an edit speaks of hair, skin, face, age, build or descent."""
    tokens = [*_words(edit), ""]
    return any(word in known.IDENTITY and after not in known.NOT_IDENTITY for word, after in pairwise(tokens))


def restates(edit: str, before: str, after: str) -> bool:
    """Whether a part of an edit names nothing but what both captions have, or says that something stays."""
    if _KEEPS.search(_joined(edit)):
        return True
    staying, changing = _phrase_words(before, after)
    handled = _handling(before) ^ _handling(after)  # what was held is worn, say
    for piece in _PIECES.split(_joined(edit)):
        named = _content(piece)
        if named and named <= staying - changing and not handled & _handling(piece):
            return True
    return False


def points_backwards(edit: str, before: str, after: str) -> bool:
    """Whether a part of an edit adds what only the first caption has, or takes away what only the second has."""
    first, second = _content(before), _content(after)
    # Words that neither caption has may be other names of what the captions show: nothing can be said.
    return any(
        named and named <= here and not named <= there
        for taken, given in _takes_and_gives(_joined(edit))
        for named, here, there in ((given, first, second), (taken, second, first))
    )


def _takes_and_gives(edit: str) -> Iterator[tuple[set[str], set[str]]]:
    """For every step of an edit, the words for what is taken away and for what is given."""
    unsure = False  # what follows "without the hat" may be taken away, too
    for step in _STEP.split(edit):
        if match := _IN_PLACE_OF.match(step):
            yield _content(match[2]), _content(match[1])
            unsure = True
        elif match := _SWAPS.match(step) or _BECOMES.match(step):
            yield _content(f"{match[1]} {match[2]}"), _content(match[3])
            unsure = True
        elif _TURNS.search(step):
            unsure = True
        elif _TAKING.search(step.strip()):
            yield _content(step), set()
            unsure = True
        elif not unsure or re.search(rf"\b{_GIVES}\b", step):
            yield set(), _content(step)
            unsure = False


def _phrase_words(before: str, after: str) -> tuple[set[str], set[str]]:
    """The words of the phrases that both captions have, and of those that only one has."""
    first, second = set(_phrases(before)), set(_phrases(after))
    return set().union(*first & second), set().union(*first ^ second)


@lru_cache(maxsize=256)  # captions are looked at again and again
def _phrases(text: str) -> tuple[tuple[str, ...], ...]:
    """Runs of words that show something, as stems.

    A compound with a word that shows nothing ("off-white", "cut-out", "T-shirt") is a word of its own; its other words
    follow it. All other compounds count as their words ("palm-print").
    """
    phrases: list[tuple[str, ...]] = []
    phrase: list[str] = []
    for token in [*re.findall(r"[^\W_]+(?:-[^\W_]+)*|[,;.:!?]", text.lower().replace("_", "-")), "."]:
        words = token.split("-")
        if len(words) > 1 and any(map(_shows_nothing, words)):
            phrase.append(_stem("".join(words)))
        found = [_stem(word) for word in words if not _shows_nothing(word)]
        phrase += found
        if phrase and not found and len(words) == 1:
            phrases.append(tuple(phrase))
            phrase = []
    return tuple(phrases)


def _shows_nothing(word: str) -> bool:
    return len(word) < 2 or word in _SHOW_NOTHING


def _spelled_alike(texts: Sequence[str]) -> list[str]:
    """The texts with every compound written with hyphens that has them in any of the texts."""
    texts = [
        _OFF_WHITE.sub(lambda match: match[0].replace(" ", "-"), re.sub("[\u2010\u2011]", "-", text)) for text in texts
    ]
    for compound in sorted({match[0] for text in texts for match in _COMPOUND.finditer(text)}):
        open_spelling = re.compile(rf"\b{compound.replace('-', ' ')}\b", re.IGNORECASE)
        texts = [open_spelling.sub(lambda match: match[0].replace(" ", "-"), text) for text in texts]
    return texts


def _joined(text: str) -> str:
    """A text in small letters whose compounds are one word each, so that no other word is found in them."""
    (text,) = _spelled_alike([text])
    return _COMPOUND.sub(lambda compound: compound[0].replace("-", "_"), text.lower())


def _content(text: str) -> set[str]:
    return {word for phrase in _phrases(text) for word in phrase}


def _handling(text: str) -> set[str]:
    return {_stem(word) for word in _words(text) if word in known.HANDLING_WORDS}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


@lru_cache(maxsize=4096)
def _stem(word: str) -> str:
    """Enough of a word to find it again: "jumping", "jumps"; "scarves" and "scarf" stay apart."""
    word = {"gray": "grey", "teeshirt": "tshirt"}.get(word, word)
    for ending in ("ies", "ing", "ed", "es", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    word = word.removesuffix("e")
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
