"""Draws why a result was found: query, result under its heat map, and the caption's words by how much they matter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor

from ..drawing.heat import draw_scale, heated
from ..drawing.palette import BLUE, FAINT, GREY, INK, NEUTRAL, PANEL, VERMILION
from ..drawing.sheet import (
    CAPTION_SIZE,
    FRAME,
    GAP,
    MARGIN,
    PADDING,
    SMALL_SIZE,
    Sheet,
    common_height,
    format_of,
    not_too_thin,
    save_sheet,
)
from ..files import check_output_file
from ..image_reading_fafa import open_image
from .explaining import HeatMap, WordDrop

IMAGE_WIDTH, WORDS_WIDTH, HEADER_HEIGHT, LABEL_HEIGHT = 216, 420, 116, 26  # pixels, as are all lengths here
WORD_HEIGHT, LINE_HEIGHT = 34, 62
LEAST_SCALE = 0.02  # a drop of the score that fills a word's box with colour, unless another word's is larger


def draw_explanation(
    path: str | Path | None,
    heat: HeatMap,
    words: Sequence[WordDrop] = (),
    image: Any = None,
    title: str = "Why this one",
    font: str | Path | None = None,
) -> Image.Image:
    """Draws a result beside itself under its heat map, and the words whose loss lowers its score, or raises it.

    Args:
        path: where to write the picture, usually a .png; None only returns it.
        heat: of `heat_map`; words: of `word_drops`; image: the query's reference image, if it has one.
        font: a TrueType file, needed for captions outside Latin script.

    Raises:
        ValueError: the suffix of `path` says no format for pictures. OSError: it cannot be written.
        UnreadableImageError: the reference image cannot be opened.
    """
    if path is not None:
        format_of(path)
        check_output_file(path)
    target = _small(heat.image)
    hot = _small(heated(heat.image, heat.heat))
    shown = [("result", target, NEUTRAL), ("where it looked", hot, NEUTRAL)]
    if image is not None:
        shown.insert(0, ("reference image", _small(open_image(image, "reference image")), FAINT))
    height = common_height((one.height / one.width for _, one, _ in shown), IMAGE_WIDTH)
    left, top = MARGIN + PADDING, HEADER_HEIGHT + PADDING + LABEL_HEIGHT
    words_left = left + len(shown) * (IMAGE_WIDTH + GAP) + PADDING
    width = words_left + (WORDS_WIDTH + PADDING if words else 0) + MARGIN
    plain = Sheet(1, 1, font)
    lines = _lines(plain, words)
    words_height = len(lines) * LINE_HEIGHT + 24
    panel_height = PADDING + LABEL_HEIGHT + max(height, words_height if words else 0) + 48
    sheet = Sheet(max(width, 640), HEADER_HEIGHT + panel_height + MARGIN, font)
    sheet.headline(title, f"score {heat.score:.3f}", room=sheet.image.width - 2 * MARGIN)
    sheet.panel((MARGIN, HEADER_HEIGHT, sheet.image.width - MARGIN, HEADER_HEIGHT + panel_height))
    for number, (name, one, frame) in enumerate(shown):
        x = left + number * (IMAGE_WIDTH + GAP)
        sheet.text((x, top - LABEL_HEIGHT), name, SMALL_SIZE, GREY)
        sheet.thumbnail(one, (x, top, x + IMAGE_WIDTH, top + height), frame)
    draw_scale(sheet, (x + FRAME, top + height + 10), IMAGE_WIDTH - 2 * FRAME)
    if words:
        sheet.text((words_left, top - LABEL_HEIGHT), "score lost without each word", SMALL_SIZE, GREY)
        most = max(LEAST_SCALE, *(abs(word.drop or 0.0) for word in words))
        for number, line in enumerate(lines):
            _draw_words(sheet, line, (words_left, top + number * LINE_HEIGHT), most)
    if path is not None:
        save_sheet(sheet.image, path)
    return sheet.image


def _small(image: Image.Image) -> Image.Image:
    image = not_too_thin(image).copy()
    image.thumbnail((4 * IMAGE_WIDTH, 8 * IMAGE_WIDTH), Image.Resampling.LANCZOS)
    return image


def _told(word: WordDrop) -> str:
    return "alone" if word.drop is None else f"{word.drop:+.3f}"


def _lines(sheet: Sheet, words: Sequence[WordDrop]) -> list[list[tuple[WordDrop, str, int]]]:
    """Words in lines, each with its text as it fits, and the width of its box."""
    lines: list[list[tuple[WordDrop, str, int]]] = [[]]
    room = WORDS_WIDTH
    for word in words:
        text = sheet.type.wrap(word.word, CAPTION_SIZE, WORDS_WIDTH - 16, 1)[0]
        width = round(max(sheet.type.width(text, CAPTION_SIZE), sheet.type.width(_told(word), SMALL_SIZE - 2))) + 16
        if width > room and lines[-1]:
            lines.append([])
            room = WORDS_WIDTH
        lines[-1].append((word, text, width))
        room -= width + GAP // 2
    return lines


def _draw_words(sheet: Sheet, line: Sequence[tuple[WordDrop, str, int]], corner: tuple[int, int], most: float) -> None:
    left, top = corner
    for word, text, width in line:
        share = 0.0 if word.drop is None else abs(word.drop) / most
        sheet.rounded((left, top, left + width, top + WORD_HEIGHT), _tint(word.drop, share), radius=8)
        sheet.text((left + width / 2, top + WORD_HEIGHT / 2), text, CAPTION_SIZE, INK, anchor="mm")
        sheet.text((left + width / 2, top + WORD_HEIGHT + 11), _told(word), SMALL_SIZE - 2, GREY, anchor="mm")
        left += width + GAP // 2


def _tint(drop: float | None, share: float) -> str:
    """Blue for a word that helps, vermilion for one that stands in the way, the paler the less it matters."""
    colour = FAINT if drop is None else BLUE if drop >= 0 else VERMILION
    share = 1.0 if drop is None else 0.55 * share
    mixed = (
        round(share * own + (1 - share) * page)
        for own, page in zip(ImageColor.getrgb(colour), ImageColor.getrgb(PANEL), strict=True)
    )
    return "#{:02x}{:02x}{:02x}".format(*mixed)
