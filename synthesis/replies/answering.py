"""Finds the answer in a reply, without thoughts, control tokens and invisible characters; says whether it refuses."""

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

_TAG = "(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
# Tags as one family of models or another writes them: <think>, [THINK], ◁think▷, <seed:think>.
_OPEN, _CLOSE = rf"(?:<|\[|◁)(?:\w+:)?{_TAG}(?:>|\]|▷)", rf"(?:<|\[|◁)/(?:\w+:)?{_TAG}(?:>|\]|▷)"
# Whole thoughts; then an end whose beginning the chat template wrote; then a beginning without an end.
_THOUGHTS = [
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (rf"{_OPEN}(?:(?!{_OPEN}).)*?{_CLOSE}", rf"\A.*{_CLOSE}", rf"{_OPEN}.*")
]
# Channels of a model that thinks in a separate one; without the final one there is no answer.
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>", re.IGNORECASE)
_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|end_of_text|endoftext|end|return|eom_id)\|>|<end_of_turn>|</s>|<\uff5cend\u2581of\u2581sentence\uff5c>"
    r"|\n\s*(?:\*\*)?(?:user|human)(?:\*\*)?\s*:|<\|im_start\|>\s*user",
    re.IGNORECASE,
)
_CONTROL_TOKEN = re.compile(
    r"<\|[a-z0-9_]+\|>(?:assistant\b)?|</?s>|<(?:pad|unk|bos|eos|start_of_turn|image|img)>|\[/?INST\]|<\uff5c[^\uff5c]*\uff5c>",
    re.IGNORECASE,
)
_ANSWER_TAG = re.compile(r"<(answer|output|response|caption|final)>\s*(.*?)\s*</\1>", re.DOTALL | re.IGNORECASE)

_REFUSALS = {
    "en": r"\b(?:I(?:'|’)?m sorry|I am sorry|I(?:'|’| a)m afraid|I apologi[sz]e|my apologies|"
    r"I (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not|do not feel|don(?:'|’)t feel|must (?:decline|refuse))|"
    r"I(?:(?:'|’)| a)m (?:not able|unable|not comfortable|just an? )|(?:am|is|was) unable to (?:assist|help|provide|"
    r"describe|identify|comply|fulfil|view|see|answer)|unable to (?:assist|comply|fulfil)\w*|as an? (?:AI|artificial|"
    r"(?:large )?language model)|against my (?:guidelines|polic|programming)\w*|content polic(?:y|ies)|"
    r"I (?:don(?:'|’)t|do not) (?:see|have|know)|(?:please|could you) (?:provide|upload|share|attach|send)|"
    r"no (?:image|picture|photo)\w* (?:was|were|is|has been|have been)? ?(?:provided|attached|given|visible|"
    r"uploaded))\b",
    "zh": r"抱歉|对不起|對不起|很遗憾|很遺憾|[无無]法|"
    r"不能(?:够)?(?:提供|描述|协助|帮助|回答|识别|满足|完成)|作[为為]一?[个個]?(?:AI|人工|语言|語言)",
    "ja": r"申し訳|すみません|ごめんなさい|できません|お答えでき|AIとして",
    "ko": r"죄송|할 수 없|드릴 수 없|어렵습니다",
    "fr": r"\bdésolée?\b|\bje ne (?:peux|puis|suis|saurais|vois) pas|\bje ne suis pas en mesure|"
    r"\ben tant qu(?:e |['’])",
    "de": r"\btut mir leid|\bleider (?:kann|ist)|\bich kann (?:\w+ ){0,4}?nicht\b|\bich kann (?:\w+ ){0,2}kein|"
    r"\bnicht in der Lage\b|\bals (?:eine? )?(?:KI|Sprachmodell)\b",
    "es": r"\blo (?:siento|lamento)\b|\bno puedo\b|\bno me es posible\b|\bcomo (?:un )?(?:modelo|IA|inteligencia)\b",
    "it": r"\bmi dispiace\b|\bnon posso\b|\bnon sono in grado\b|\bin quanto (?:IA|modello)\b",
    "pt": r"\b(?:desculpe|sinto muito|lamento)\b|\bnão (?:posso|consigo)\b|\bcomo (?:uma? )?(?:modelo|IA)\b",
    "nl": r"\bhet spijt me\b|\bhelaas kan\b|\bik kan (?:\w+ ){0,3}?(?:niet|geen)\b",
    "pl": r"\bprzepraszam\b|\bprzykro mi\b|\bnie mogę\b",
    "ru": r"извините|простите|к сожалению|не могу|как (?:языковая|ИИ)",
    "tr": r"\büzgünüm\b|\byardımcı olamam\b",
    "ar": r"عذر|آسف|لا أستطيع|لا يمكنني",
    "hi": r"क्षमा|माफ़|नहीं कर सकत",
}
_REFUSAL = re.compile("|".join(_REFUSALS.values()), re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|„[^“”\n]*[“”]|«[^»\n]*»|(?<!\w)['‘][^'’\n]*['’](?!\w)")
# These belong to letters of Arabic and Indian scripts; elsewhere they glue emoji together, or hide.
_STRAY_JOINER = re.compile("(?<![\u0600-\u0dff])[\u200c\u200d]|[\u034f\ufe00-\ufe0f]")


class UnusableAnswer(ValueError):
    """Why a language model's answer cannot be used, as a short fixed phrase that can be counted."""


def answer_part(reply: str) -> str:
    """A reply without what a reasoning model thought before it, control tokens, and what cannot be seen.

    Where thoughts have no end, or the model never began to answer, there is no answer. What a model writes after its
    turn, as if it were asked again, does not belong to it.

    Raises:
        UnusableAnswer: nothing is left, or it has half a character.
    """
    text = visible(reply)
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = [channel for channel in channels if channel[1].lower() == "final"]
        text = text[final[-1].end() :] if final else ""
    for thought in _THOUGHTS:
        text = thought.sub("", text)
    ended = _END_OF_TURN.search(text, re.match(r"\s*", text).end() + 1)
    text = _CONTROL_TOKEN.sub("", text[: ended.start()] if ended else text)
    tagged = _ANSWER_TAG.findall(text)
    if len(tagged) == 1:
        text = tagged[0][1]
    if not (text := text.strip()):
        raise UnusableAnswer("empty answer")
    return text


def visible(text: str) -> str:
    """A text in composed characters, without those that cannot be seen; all white space but line ends is plain.

    Raises:
        UnusableAnswer: it has half a character, such as the first part of an escaped emoji: no file could hold it.
    """

    def seen(letter: str) -> str:
        kind = unicodedata.category(letter)
        if kind == "Cs":
            raise UnusableAnswer("broken characters")
        if letter in "\n\u200c\u200d" or kind not in ("Cc", "Cf", "Zs", "Zl", "Zp"):
            return letter
        return " " if letter == "\t" or kind[0] == "Z" else ""

    text = _STRAY_JOINER.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(map(seen, unicodedata.normalize("NFC", text)))


def is_refusal(text: str) -> bool:
    """Whether a model says here that it will not or cannot answer; what it quotes, as from a shirt, does not count."""
    return bool(_REFUSAL.search(_QUOTED.sub(" ", text)))


def quoted(text: str) -> str:
    """Somebody else's text, to show it to a model: on one line, between quotation marks that it cannot close."""
    return json.dumps(" ".join(visible(text).split()), ensure_ascii=False)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs: in a dict, the second of two equal keys would hide the first."""


def json_values(text: str, opening: str) -> Iterator[Any]:
    """Every sound JSON value that begins with one of these brackets and is not inside another; objects are `Pairs`."""
    decoder = json.JSONDecoder(object_pairs_hook=Pairs)
    bracket = re.compile(f"[{re.escape(opening)}]")
    position = 0
    while match := bracket.search(text, position):
        try:
            value, position = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            position = match.end()
            continue
        yield value
