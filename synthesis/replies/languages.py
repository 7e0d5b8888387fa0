"""Whether a text is in the language it should be in: by its script, its function words, and, if long, by a detector.

Single words say nothing (many languages have "beret", "visor" and "poncho"), and detectors fail on short texts. What
cannot be judged counts as good.
"""

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Shorter texts are not shown to the detector.
_ENOUGH_WORDS = 6

_SCRIPTS = {
    "CYRILLIC": "be bg ky mk mn ru sr uk kk",
    "GREEK": "el",
    "ARABIC": "ar fa ps ug ur ku",
    "HEBREW": "he",
    "DEVANAGARI": "hi mr ne",
    "BENGALI": "bn as",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "ORIYA": "or",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "ETHIOPIC": "am",
    "TIBETAN": "dz",
    "CJK": "zh ja ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "KATAKANA-HIRAGANA": "ja",
    "HANGUL": "ko",
}

# Words that make sentences of a language and are no words of a description in English. Those that the expected
# language has, too, count for no other.
_FUNCTION_WORDS = {
    "en": "the and with of his her its their this that these those which who while from for to at by into onto over "
    "under near is are has have was were be been instead rather than without not she he they it him them on "
    "wearing wears worn",
    "de": "der die das den dem des ein eine einen einem einer eines und oder mit ohne für statt von vom zum zur im "
    "beim auf über unter ist sind in trägt sie er ihr ihre ihren sein seine seinen nicht kein keine keinen "
    "durch mach nun jetzt",
    "fr": "le la les un une de des du et ou avec sans pour dans sur au aux qui est sont elle il ils ses sa leur "
    "mais pas par maintenant plutôt lieu porte ne",
    "es": "el la los las en de un una unos unas y o con sin para por del al que es está están lleva su sus ella él "
    "pero ahora lugar",
    "it": "il lo la gli di da in un uno una e o con senza per della dello degli delle dei del nel nella sul sulla "
    "che è sono indossa suo sua suoi ora invece diventa",
    "pt": "o a os as de um uma uns umas e ou com sem para por do da dos das no na nos nas ao que é está são veste "
    "seu sua ela ele agora",
    "nl": "een het de in en of met zonder voor door op naar bij zijn haar hij ze zij draagt niet geen nu wordt deze",
    "pl": "i w z na do bez dla jest są się nie ona nosi oraz przez ten ta to",
    "sv": "en ett och med utan för på av till den det som är inte hon han bär nu",
    "tr": "bir ve ile için bu olan değil var giyen giyiyor",
    "id": "dan dengan yang di ke dari untuk tanpa ini itu adalah memakai mengenakan",
    "vi": "và với một của trong không người đang mặc cho là có",
}
# English words of that spelling, which count for no other language ("a fox's den", "a man over the door").
_ENGLISH_TOO = """
    a an as at be by com dan das den di die do door dos e er es est for has hat he her him his i im in is it lo
    me mit no nu o of on or os over par per plus pour sin so son sur ta ten that the till to um uno van var von
    w was we y yang yin z
"""
# Parts of foreign names of English things ("café au lait", "crêpe de chine"): two count for one word.
_BORROWED = "au aux con de der del du el en la las le les los sans un una"
_VOCABULARIES = {language: set(words.split()) for language, words in _FUNCTION_WORDS.items()}


def is_foreign(text: str, language: str) -> bool:
    """Whether the text is surely not in the language, or has a word in another script."""
    scripts = [_script(letter) for letter in text if letter.isalpha()]
    own = _scripts_of(language) or {"LATIN"}
    if any(script not in own and script != "LATIN" for script in scripts):
        return True
    if "LATIN" not in own:  # brand names and "T" of a shirt are welcome
        return sum(script in own for script in scripts) * 2 < len(scripts)
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text.lower())
    may_be_judged = len(words) >= _ENOUGH_WORDS
    if language not in _VOCABULARIES:
        return may_be_judged and _is_doubtful(text, language)
    vocabulary = neutral = _VOCABULARIES[language]
    borrowed: list[str] = []
    if language == "en":
        neutral, borrowed = vocabulary.union(_ENGLISH_TOO.split()), _BORROWED.split()
    known, others = sum(word in vocabulary for word in words), 0  # others: of the other language that has the most
    for other in _VOCABULARIES.values():
        found = [word for word in words if word in other and word not in neutral]
        num_borrowed = sum(word in borrowed for word in found)
        others = max(others, len(found) - num_borrowed + num_borrowed // 2)
    if others > known and (others > 1 or 5 * others >= len(words)):
        return True
    return may_be_judged and 8 * known < len(words) and _is_doubtful(text, language)


def _scripts_of(language: str) -> set[str]:
    """The scripts of a language that is not written in Latin letters; none for others."""
    return {script for script, languages in _SCRIPTS.items() if language in languages.split()}


def _known(language: str) -> str:
    if not (language in _VOCABULARIES or _scripts_of(language) or language in _language_identifier().labels):
        raise ValueError(f"language {language!r} is unknown; use a code such as 'en'")
    return language


# A setting: ISO 639-1 code of a language that texts can be told to be in.
Language = Annotated[str, AfterValidator(_known)]


def _is_doubtful(text: str, language: str) -> bool:
    return dict(_language_identifier().rank(text))[language] < 0.01  # good captions have 0.02 at least, others 0.001


@lru_cache(maxsize=1)
def _language_identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script of a letter: "LATIN", "CJK"; the first word of its name where it has none, as in formulas."""
    first, *rest = unicodedata.name(letter, "UNKNOWN").split()
    if first in ("FULLWIDTH", "HALFWIDTH") and rest:
        first = rest[0]
    return "LATIN" if first in ("FEMININE", "MASCULINE", "MODIFIER", "MICRO") else first
