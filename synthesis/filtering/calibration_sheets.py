"""Sheets for a person who calibrates: pages of pairs to judge, and a sheet per score that shows what it means."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image

from ...drawing.palette import AMBER, FAINT, GREY, INK
from ...drawing.sheet import GAP, MARGIN, PADDING, SMALL_SIZE, THUMB_WIDTH, TITLE_SIZE, Sheet
from ...drawing.typeface import Typeface
from ...names import counted
from ..components import seed_of
from ..images import open_rgb
from .calibration import Pair
from .thresholds import Bound

PAIRS_PER_PAGE = 12

_THUMB_HEIGHT, _HEADER, _LINE, _APART, _TEXT_SIZE = 2 * THUMB_WIDTH, 116, 20, 6, 15
_PAIR_WIDTH = 2 * THUMB_WIDTH + GAP // 2
_TEXT_WIDTH, _PAGE_COLUMNS = 360, 2
_EDGES = (0.0, 0.05, 0.25, 0.75, 0.95)  # of bins, as shares of the pairs: bad ones are mostly few, and at one end
_PER_BIN, _BIN_WIDTH, _LINES_PER_TEXT, _LINES_TO_JUDGE = 5, 132, 3, 8
_TEXTS = {"A": "caption_a", "B": "caption_b", "A > B": "edit_ab", "B > A": "edit_ba"}


def draw_page(pairs: Sequence[Pair], folder: Path, page: int, pages: int) -> Image.Image:
    """Page `page` (from 1) of `pages`: at most `PAIRS_PER_PAGE` pairs to judge, whose images are in a folder.

    Scores are not shown: whoever sees a score agrees with it.
    """
    rows = -(-len(pairs) // _PAGE_COLUMNS)
    wrap = partial(_wrap, Typeface(), width=_TEXT_WIDTH, max_lines=_LINES_TO_JUDGE)
    texts = [{label: wrap(label, pair.record[name]) for label, name in _TEXTS.items()} for pair in pairs]
    text_height = max(32 + sum(len(lines) * _LINE + _APART for lines in wrapped.values()) for wrapped in texts)
    card = (_PAIR_WIDTH + _TEXT_WIDTH + 3 * PADDING, max(_THUMB_HEIGHT, text_height) + 2 * PADDING)
    sheet = _page(
        width=_PAGE_COLUMNS * (card[0] + GAP) - GAP + 2 * MARGIN,
        height=_HEADER + rows * (card[1] + GAP) - GAP + MARGIN,
        title=f"Pairs to judge: page {page} of {pages}",
        subtitle="Left is A, right is B. Row ab of verdicts.csv: 1 if A and the edit A > B lead to B and both "
        "images are good, else 0. Row ba: the other way round.",
    )
    for number, (pair, wrapped) in enumerate(zip(pairs, texts, strict=True)):
        left = MARGIN + number % _PAGE_COLUMNS * (card[0] + GAP)
        top = _HEADER + number // _PAGE_COLUMNS * (card[1] + GAP)
        sheet.panel((left, top, left + card[0], top + card[1]))
        _draw_pair(sheet, pair, folder, (left + PADDING, top + PADDING))
        left, top = left + _PAIR_WIDTH + 2 * PADDING, top + PADDING
        sheet.pill((left, top), pair.record["id"], INK)
        top += 32
        for label, lines in wrapped.items():
            _draw_text(sheet, label, lines, (left, top))
            top += len(lines) * _LINE + _APART
    return sheet.image


def draw_score_sheet(name: str, pairs: Sequence[Pair], folder: Path, bound: Bound | None = None) -> Image.Image:
    """What a score means: pairs from its lowest values to its highest, some of each bin.

    If there are few values, a bin holds one; otherwise the lowest twentieth, the next fifth, the middle half ...

    The images are in a folder; the bound is the present one, for the headline.

    Raises:
        ValueError: no pair has this score.
    """
    bins = _bins(name, pairs)
    shown = [label for label in _TEXTS if label in ("A", "B") or name.endswith(_TEXTS[label][-3:])]
    row_height = _THUMB_HEIGHT + 34 + len(shown) * (_LINES_PER_TEXT * _LINE + _APART) + 2 * PADDING
    sheet = _page(
        width=2 * MARGIN + 2 * PADDING + _BIN_WIDTH + _PER_BIN * (_PAIR_WIDTH + 2 * GAP) - 2 * GAP,
        height=_HEADER + len(bins) * (row_height + GAP) - GAP + MARGIN,
        title=name,
        subtitle=f"{counted(sum(map(len, bins)), 'pair')}, lowest scores first; {describe_bound(bound)}",
    )
    for number, members in enumerate(bins):
        top = _HEADER + number * (row_height + GAP)
        sheet.panel((MARGIN, top, sheet.image.width - MARGIN, top + row_height))
        low, high = members[0].scores[name], members[-1].scores[name]
        for line, text in enumerate([f"{low:.4g}", *([f"to {high:.4g}"] if high > low else [])]):
            sheet.text((MARGIN + PADDING, top + PADDING + 24 * line), text, 18, INK)
        sheet.text((MARGIN + PADDING, top + PADDING + 52), counted(len(members), "pair"), SMALL_SIZE, GREY)
        some = sorted(members, key=lambda pair: seed_of("sheet", 0, name, pair.record["id"]))[:_PER_BIN]
        for place, pair in enumerate(sorted(some, key=lambda pair: pair.scores[name])):
            left = MARGIN + PADDING + _BIN_WIDTH + place * (_PAIR_WIDTH + 2 * GAP)
            _draw_pair(sheet, pair, folder, (left, top + PADDING))
            below = top + PADDING + _THUMB_HEIGHT + 8
            colour = INK if bound is None or bound.admits(pair.scores[name]) else AMBER
            sheet.pill((left, below), f"{pair.scores[name]:.4g}", colour, size=13)
            sheet.text((left + _PAIR_WIDTH, below + 11), pair.record["id"], 13, GREY, anchor="rm")
            below += 30
            for label in shown:
                lines = _wrap(sheet.type, label, pair.record[_TEXTS[label]], _PAIR_WIDTH, _LINES_PER_TEXT)
                _draw_text(sheet, label, lines, (left, below))
                below += _LINES_PER_TEXT * _LINE + _APART
    return sheet.image


def describe_bound(bound: Bound | None) -> str:
    """A bound in words."""
    sides = {"at least": bound.at_least, "at most": bound.at_most} if bound else {}
    return " and ".join(f"{side} {value:g}" for side, value in sides.items() if value is not None) or "no bound"


def _bins(name: str, pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs that have this score, lowest first, cut into bins; equal scores stay together."""
    measured = [pair for pair in pairs if math.isfinite(pair.scores.get(name, math.nan))]
    if not measured:
        raise ValueError(f"no pair has the score {name}")
    measured.sort(key=lambda pair: pair.scores[name])
    values = np.array([pair.scores[name] for pair in measured])
    distinct = np.unique(values)
    if len(distinct) > len(_EDGES):
        distinct = np.unique(np.quantile(values, _EDGES))
    places = np.searchsorted(distinct, values, side="right")
    bins = groupby(zip(places, measured, strict=True), key=itemgetter(0))
    return [[pair for _, pair in members] for _, members in bins]


def _page(width: int, height: int, title: str, subtitle: str) -> Sheet:
    sheet = Sheet(width, height)
    sheet.text((MARGIN, 24), title, TITLE_SIZE, INK)
    sheet.text((MARGIN, 66), subtitle, SMALL_SIZE + 1, GREY)
    return sheet


def _draw_pair(sheet: Sheet, pair: Pair, folder: Path, corner: tuple[int, int]) -> None:
    left, top = corner
    for side in ("left", "right"):
        image = open_rgb(folder / pair.record[side])
        sheet.thumbnail(image, (left, top, left + THUMB_WIDTH, top + _THUMB_HEIGHT), FAINT)
        left += THUMB_WIDTH + GAP // 2


def _wrap(typeface: Typeface, label: str, text: str, width: int, max_lines: int) -> list[str]:
    return typeface.wrap(text, _TEXT_SIZE, width - _indent(typeface, label), max_lines)


def _indent(typeface: Typeface, label: str) -> int:
    return round(typeface.width(label, _TEXT_SIZE)) + 10


def _draw_text(sheet: Sheet, label: str, lines: Sequence[str], corner: tuple[int, int]) -> None:
    """Draws a label, and a text beside it."""
    left, top = corner
    sheet.text((left, top), label, _TEXT_SIZE, GREY)
    sheet.lines((left + _indent(sheet.type, label), top), lines, _TEXT_SIZE, _LINE)
