"""What no text of a data set may have, wherever it came from."""

import re
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any

from .answering import is_refusal
from .languages import is_foreign

# UTF-8 that was read as Latin-1 or Windows-1252, and what stands for a character that could not be read.
_MOJIBAKE = re.compile(
    "[ÂÃ][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122]|â€|â\u0080|ðŸ|ï¿½|ï»¿|\ufffd"
)
_ABSENT = re.compile(
    r"\W*(?:n ?/ ?a|none|null|nil|nan|nothing|unknown|undefined|unspecified|"
    r"no (?:answer|caption|description|edit|change)s?|not (?:applicable|available|visible|specified|known|sure)|"
    r"empty|todo|tbd|same|test)?\W*",
    re.IGNORECASE,
)
# What stands in a text for something that was not found.
_UNFILLED = re.compile(
    r"(?<![\w/])n/a(?![\w/])|\bN\.A\.|\b(?:null|undefined|unspecified|not (?:applicable|specified|available))\b"
    r"|\b(?-i:NaN)\b"
    r"|\b(?:is|are|wears?|wearing|carr(?:y|ies|ying)|holds?|holding|with|and|in|has|have|:) "
    r"(?:none|unknown|nothing seen)\b(?=\s*(?:[.,;!)]|$|and\b))"
    r"|\bunknown (?:colou?rs?|types?|styles?|clothing|clothes|footwear|shoes|belongings?|accessor(?:y|ies)|hair|items?|"
    r"objects?|garments?)\b",
    re.IGNORECASE,
)
_BLANKS = re.compile(
    r"\[[^\]]*\]|\{[^}]*\}|<[^<>]*>|_{2,}|\bX{3,}\b|\(\s*(?:insert|your|e\.g\.|the |an? )?\s*"
    r"(?:clothing|clothes|hair(?:style)?|footwear|"
    r"shoes?|belongings?|accessor(?:y|ies)|garments?|colou?rs?|patterns?|items?|objects?|person|gender|age(?: group)?|"
    r"name|place|location|description|caption|posture|pose|view(?:point)?|surroundings|background|slot|template)\s*\)",
    re.IGNORECASE,
)
# Where a slot's name follows, it stands for what it asks for.
_BEFORE_SLOT = r"\b(?:is|are|in|wears?|wearing|has|have|carry|hold|on|with|their|the)"
_ABORTED_AT = re.compile(
    r"(?:[,;:(&/\[–—]|\s-|\.\.+|…)\s*$|(?<![\w-])(?:an?|the|and|or|but|with|of|his|her|their|its|wearing|carrying|holding|is|are|"
    r"while|which|who|whose|into|from|to|very|featuring|including|paired|instead of)\s*$",
    re.IGNORECASE,
)
_LONGEST_LOOP = 12  # words; longer ones are sentences
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+")


def fault_of_text(text: str, language: str = "en", slots: Collection[str] = ()) -> str | None:
    """What is wrong with a text that describes or instructs; None if nothing is known to be.

    Args:
        text: The text, on one line.
        language: ISO 639-1 code of the language that it should be in.
        slots: Names of what a template asked to be filled in.

    Returns:
        A short fixed phrase that can be counted.
    """
    return next(filter(None, _faults(text, language, slots)), None)


def _faults(text: str, language: str, slots: Collection[str]) -> Iterator[Any]:
    """The result of each check in turn: what is wrong, or something false."""
    yield is_refusal(text) and "refused"
    yield _MOJIBAKE.search(text) and "broken characters"
    yield any(map(_is_symbol, text)) and "emoji or strange characters"
    yield _ABSENT.fullmatch(text) and "no answer"
    names = "|".join(map(re.escape, slots))
    is_left_over = slots and re.search(rf"{_BEFORE_SLOT} (?:{names})\s*(?:[.,;]|$)", text, re.IGNORECASE)
    yield (_BLANKS.search(text) or _UNFILLED.search(text) or is_left_over) and "a slot is not filled"
    yield is_foreign(text, language) and "another language"
    yield _repeats_itself(text) and "repeats itself"
    is_aborted = _ABORTED_AT.search(text) or text.count("(") > text.count(")")
    yield language == "en" and is_aborted and "stops in mid-sentence"


def _repeats_itself(text: str) -> bool:
    """Whether a sentence comes twice, or words come three times in a row."""
    sentences = [tuple(re.findall(r"\w+", sentence)) for sentence in _SENTENCE_END.split(text.lower())]
    sentences = [words for words in sentences if words]
    if len(set(sentences)) < len(sentences):
        return True
    words = re.findall(r"\w+", text.lower())
    return any(
        words[start : start + length]
        == words[start + length : start + 2 * length]
        == words[start + 2 * length : start + 3 * length]
        for length in range(1, min(len(words) // 3, _LONGEST_LOOP) + 1)
        for start in range(len(words) - 3 * length + 1)
    )


def _is_symbol(letter: str) -> bool:
    """Whether this is an emoji or another symbol, a letter of a formula, invisible, or unknown to Unicode."""
    kind = unicodedata.category(letter)
    if kind in ("So", "Sk", "Co", "Cn", "Cc", "Cf", "Cs"):
        return letter not in "°®™©^`´¨\n\u200c\u200d"
    return unicodedata.name(letter, "").startswith(("MATHEMATICAL ", "VARIATION ", "COMBINING ENCLOSING", "REGIONAL "))
