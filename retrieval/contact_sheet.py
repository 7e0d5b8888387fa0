"""Draws ranked results as one picture: a row is a query (reference image, caption) and the images ranked first.

Pillow alone does the drawing, so the sheet can be made wherever a model runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..drawing.boxes import person_and_photograph
from ..drawing.palette import AMBER, FAINT, GREEN, GREY, NEUTRAL, PAGE, RED
from ..drawing.sheet import (
    CAPTION_SIZE,
    FRAME,
    GAP,
    LONGEST_SIDE,
    MARGIN,
    PADDING,
    PILL_HEIGHT,
    SMALL_SIZE,
    TALLEST_SHAPE,
    THUMB_WIDTH,
    Sheet,
    common_height,
    format_of,
    not_too_thin,
    open_small,
    save_sheet,
)
from ..files import check_output_file
from ..film_reading import frame_at
from ..image_reading_fafa import open_image
from ..names import clock, counted

CAPTION_WIDTH, HEADER_HEIGHT, LABEL_HEIGHT = 236, 128, 28  # pixels, as are all lengths here
RESULTS_LEFT = MARGIN + PADDING + THUMB_WIDTH + PADDING + CAPTION_WIDTH + 2 * PADDING
MOST_PIXELS = 100_000_000  # 300 MB, of some 3,500 results
MANY = 100  # results, from which on they are kept smaller until they are drawn
LEGEND = {True: ("correct", GREEN), False: ("wrong", RED), None: ("truth unknown", NEUTRAL)}


@dataclass
class RankedImage:
    """One gallery image as it was ranked.

    Args:
        image: a PIL image, or the path of one.
        score: its similarity to the query, printed below it; None prints nothing.
        correct: whether it answers the query (green frame or red); None where the truth is unknown (grey frame).
        rank: from 1; None where it follows from the image's place in the row.
        box: left, top, right, bottom of the person in it, in pixels, who is drawn above the image with the box; None
            draws the image alone.
        time: seconds from the beginning of the film whose path, or frame at that moment, `image` is: the frame is
            drawn, and the time beside the score.
    """

    image: Image.Image | str | Path
    score: float | None = None
    correct: bool | None = None
    rank: int | None = None
    box: tuple[float, float, float, float] | None = None
    time: float | None = None


@dataclass
class RankedQuery:
    """One row of the sheet: a query and its results, best first.

    Args:
        image: the reference image or its path; None when the caption asks alone.
        caption: the relative caption; None when the image asks alone.
        results: the images ranked first.
        first_match_rank: the rank (from 1) of the first correct image in the whole gallery, where it is known: the row
            says so when that lies beyond the images shown.
    """

    image: Image.Image | str | Path | None = None
    caption: str | None = None
    results: Sequence[RankedImage] = field(default_factory=list)
    first_match_rank: int | None = None

    def __post_init__(self):
        if self.image is None and self.caption is None:
            raise ValueError("a query needs an image, a caption or both; this one has neither")


def draw_contact_sheet(
    rows: Sequence[RankedQuery],
    path: str | Path | None = None,
    title: str = "Composed person retrieval",
    subtitle: str = "",
    max_results: int = 10,
    font: str | Path | None = None,
) -> Image.Image:
    """Draws one row per query: reference image, caption, then the first `max_results` images, framed by correctness.

    More than ten results of a query are drawn in several lines, so that the RGB sheet is about as wide as high.

    Args:
        rows: the queries, drawn from top to bottom.
        path: where to write the picture (usually a .png; missing folders are made), see `check_sheet`.
        subtitle: a line below the headline, for example how the queries were chosen.
        font: a TrueType file, needed for captions outside Latin script; the default is the font within Pillow, which
            draws a box for a character that it lacks.

    Raises:
        ValueError: no row has a result, the sheet would be too large, or its file's suffix says no format for it.
        UnreadableImageError, UnreadableFilmError: an image or a film cannot be opened.
        OSError: the file cannot be written.
    """
    most_results = min(max_results, max((len(row.results) for row in rows), default=0))
    if most_results < 1:
        raise ValueError(f"nothing to draw: {counted(len(rows), 'query')}, none with a result to show")
    check_sheet(path, len(rows), most_results)
    scale = 2 if len(rows) * most_results > MANY else 4
    shown = [[(result, open_ranked(result, scale)) for result in row.results[:most_results]] for row in rows]

    thumb_height = common_height(image.height / image.width for results in shown for _, image in results)
    layout = _Layout(len(rows), most_results, thumb_height)
    sheet = Sheet(layout.width, layout.height, font)
    _draw_header(sheet, title, subtitle, {result.correct for results in shown for result, _ in results})
    for number, (row, results) in enumerate(zip(rows, shown, strict=True)):
        top = HEADER_HEIGHT + number * (layout.row_height + GAP)
        sheet.panel((MARGIN, top, layout.width - MARGIN, top + layout.row_height))
        beyond = row.first_match_rank is not None and row.first_match_rank > len(results)
        note = f"target at rank {row.first_match_rank:,}" if beyond else ""
        _draw_query(sheet, row, note, (MARGIN + PADDING, top + PADDING), thumb_height)
        for rank, (result, image) in enumerate(results, start=1):
            line, column = divmod(rank - 1, layout.columns)
            corner = RESULTS_LEFT + column * (THUMB_WIDTH + GAP), top + PADDING + line * (layout.line_height + GAP)
            _draw_result(sheet, result, image, rank, corner, thumb_height)
    if path is not None:
        save_sheet(sheet.image, path)
    return sheet.image


def check_sheet(path: str | Path | None, num_queries: int = 1, max_results: int = 10) -> None:
    """Looks, before images are searched, whether a sheet can be drawn and written; without a path, at its size alone.

    Raises:
        ValueError: the suffix is that of no format for it, or the sheet is larger than its format or this program
            allows; the message says what to change.
        OSError: nothing can be written there.
    """
    layout = _Layout(num_queries, max_results, round((THUMB_WIDTH - 2 * FRAME) * TALLEST_SHAPE) + 2 * FRAME)
    contents = f"{num_queries:,} queries of " * (num_queries > 1) + counted(max_results, "result")
    size = f"a sheet of {contents} may have {layout.width:,} x {layout.height:,} pixels"
    if layout.width * layout.height > MOST_PIXELS:
        raise ValueError(f"{size}, more than {MOST_PIXELS:,} in all: draw fewer")
    if path is None:
        return
    check_output_file(path)
    longest = LONGEST_SIDE[format_of(path)]
    if max(layout.width, layout.height) > longest:
        raise ValueError(f"{size}, but {Path(path).suffix} holds at most {longest:,} a side: use .png, or draw fewer")


class _Layout:
    """Where things are on a sheet of `num_rows` queries, whose results are drawn in lines of at least ten."""

    def __init__(self, num_rows: int, most_results: int, thumb_height: int):
        self.columns = min(most_results, max(10, math.ceil(math.sqrt(2 * most_results))))
        num_lines = math.ceil(most_results / self.columns)
        self.line_height = thumb_height + LABEL_HEIGHT
        self.row_height = PADDING + num_lines * (self.line_height + GAP) - GAP + PADDING // 2
        width = RESULTS_LEFT + self.columns * (THUMB_WIDTH + GAP) - GAP + PADDING + MARGIN
        self.width = max(width, 960)  # one result alone still leaves room for the title and the legend
        self.height = HEADER_HEIGHT + num_rows * (self.row_height + GAP) - GAP + MARGIN


def open_ranked(result: RankedImage, scale: int) -> Image.Image:
    """What is drawn of a result, some `scale` times as wide as it is drawn; errors as for `draw_contact_sheet`."""
    image = result.image
    if result.time is not None and not isinstance(image, Image.Image):
        image = frame_at(image, result.time)
    if result.box is None:
        return open_small(image, scale)
    return person_and_photograph(open_image(image), result.box, scale * (THUMB_WIDTH - 2 * FRAME))


def _draw_header(sheet: Sheet, title: str, subtitle: str, truths: set[bool | None]) -> None:
    right = sheet.image.width - MARGIN
    for truth, (label, colour) in reversed(LEGEND.items()):
        if truth not in truths:
            continue
        right -= round(sheet.type.width(label, SMALL_SIZE))
        sheet.text((right, 48), label, SMALL_SIZE, GREY, anchor="lm")
        sheet.rounded((right - 26, 39, right - 8, 57), colour, radius=5)
        sheet.rounded((right - 22, 43, right - 12, 53), PAGE, radius=2)
        right -= 26 + 20
    sheet.headline(title, subtitle, room=right - MARGIN)
    sheet.text((MARGIN + PADDING, HEADER_HEIGHT - 24), "query", SMALL_SIZE, GREY)
    sheet.text((RESULTS_LEFT, HEADER_HEIGHT - 24), "gallery images, most similar first", SMALL_SIZE, GREY)


def _draw_query(sheet: Sheet, row: RankedQuery, note: str, corner: tuple[int, int], thumb_height: int) -> None:
    left, top = corner
    bottom = top + thumb_height
    if row.image is not None:
        sheet.thumbnail(not_too_thin(open_image(row.image)), (left, top, left + THUMB_WIDTH, bottom), FAINT)
        kind = "image alone" if row.caption is None else "image + caption"
    else:
        sheet.rounded((left, top, left + THUMB_WIDTH, bottom), PAGE, radius=9)
        sheet.text((left + THUMB_WIDTH / 2, (top + bottom) / 2), "no image", SMALL_SIZE, NEUTRAL, anchor="mm")
        kind = "caption alone"

    left += THUMB_WIDTH + PADDING
    sheet.text((left, top), kind, SMALL_SIZE, GREY)
    top += 26
    if note:
        sheet.pill((left, bottom - PILL_HEIGHT), note, AMBER)
        bottom -= PILL_HEIGHT + GAP
    line_height = round(1.35 * CAPTION_SIZE)
    max_lines = max(1, (bottom - top) // line_height)
    lines = sheet.type.wrap(row.caption or "", CAPTION_SIZE, CAPTION_WIDTH, max_lines)
    sheet.lines((left, top), lines, CAPTION_SIZE, line_height)


def _draw_result(sheet: Sheet, result: RankedImage, image: Image.Image, rank: int, corner, thumb_height: int) -> None:
    left, top = corner
    right, bottom = left + THUMB_WIDTH, top + thumb_height
    _, colour = LEGEND[result.correct]
    sheet.thumbnail(image, (left, top, right, bottom), colour)
    sheet.pill((left, top), f"{result.rank or rank:,}", colour, size=13)

    score = "" if result.score is None else f"{result.score:.3f}"
    score += "" if result.time is None else f" {clock(result.time)}"
    x, y = (left + right) // 2, bottom + LABEL_HEIGHT // 2 + 2
    if result.correct is None:
        sheet.text((x, y), score, SMALL_SIZE, GREY, anchor="mm")
        return
    # A tick or a cross beside the score: red and green look alike to one man in twelve.
    x -= round(sheet.type.width(score, SMALL_SIZE) / 2)
    sheet.text((x + 9, y), score, SMALL_SIZE, GREY, anchor="lm")
    if result.correct:
        sheet.draw.line([(x - 9, y), (x - 5, y + 4), (x + 2, y - 5)], fill=colour, width=3, joint="curve")
    else:
        sheet.draw.line([(x - 7, y - 4), (x + 1, y + 4)], fill=colour, width=2)
        sheet.draw.line([(x - 7, y + 4), (x + 1, y - 4)], fill=colour, width=2)
