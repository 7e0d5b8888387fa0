"""Draws ranked results as one picture: a row is a query (reference image, caption) and the images ranked first.

Pillow alone does the drawing, so the sheet can be made wherever a model runs.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..files import check_output_file, printable, whole_file
from ..image_reading_fafa import open_image

PAGE, CARD, INK, GREY, FAINT = "#eef1f5", "#ffffff", "#16202c", "#66717f", "#e3e8ee"
GREEN, RED, NEUTRAL, AMBER = "#12934a", "#d8343c", "#8d9aaa", "#a15c07"

MARGIN, PADDING, GAP, FRAME = 36, 18, 12, 5  # pixels, as are all lengths here
THUMB_WIDTH, CAPTION_WIDTH, HEADER_HEIGHT, LABEL_HEIGHT = 108, 236, 128, 28
TITLE_SIZE, CAPTION_SIZE, SMALL_SIZE = 30, 18, 15
RESULTS_LEFT = MARGIN + PADDING + THUMB_WIDTH + PADDING + CAPTION_WIDTH + 2 * PADDING
TALLEST_SHAPE = 2.0

# Formats that a sheet may have, by Pillow's names, and how long a side they hold.
LONGEST_SIDE = {"PNG": 1 << 20, "TIFF": 1 << 20, "BMP": 1 << 20, "JPEG": 65_500, "PDF": 65_500, "WEBP": 16_383}
MOST_PIXELS = 100_000_000  # 300 MB, of some 3,500 results
MANY = 100  # results, from which on they are kept smaller until they are drawn


@dataclass
class RankedImage:
    """One gallery image as it was ranked.

    Args:
        image: a PIL image, or the path of one.
        score: its similarity to the query, printed below it; None prints nothing.
        correct: whether it answers the query (green frame or red); None where the truth is unknown (grey frame).
        rank: from 1; None where it follows from the image's place in the row.
    """

    image: Image.Image | str | Path
    score: float | None = None
    correct: bool | None = None
    rank: int | None = None


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

    More than ten results of a query are drawn in several lines, so that the sheet is about as wide as high.

    Args:
        rows: the queries, drawn from top to bottom.
        path: where to write the picture (usually a .png; missing folders are made), see `check_sheet`; None only
            returns it.
        title: the headline.
        subtitle: a line below the headline, for example how the queries were chosen.
        max_results: how many images of each query are shown.
        font: a TrueType file, needed for captions outside Latin script; the default is the font within Pillow, which
            draws a box for a character that it lacks.

    Returns:
        The sheet, an RGB image.

    Raises:
        ValueError: there is no row, or no row has a result; the sheet would be too large, or its file's suffix says no
            format for it.
        UnreadableImageError: an image cannot be opened.
        OSError: the file cannot be written.
    """
    most_results = min(max_results, max((len(row.results) for row in rows), default=0))
    if most_results < 1:
        raise ValueError(f"nothing to draw: {len(rows)} queries, none with a result to show")
    check_sheet(path, len(rows), most_results)
    many = len(rows) * most_results > MANY
    shown = [[(result, open_small(result.image, many)) for result in row.results[:most_results]] for row in rows]

    thumb_height = _common_height([image for results in shown for _, image in results])
    layout = _Layout(len(rows), most_results, thumb_height)
    width, height, columns = layout.width, layout.height, layout.columns

    pen = Pen(Image.new("RGB", (width, height), PAGE), font)
    truths = {result.correct for results in shown for result, _ in results}
    _draw_header(pen, title, subtitle, truths)
    pen.text((MARGIN + PADDING, HEADER_HEIGHT - 24), "query", SMALL_SIZE, GREY)
    pen.text((RESULTS_LEFT, HEADER_HEIGHT - 24), "gallery images, most similar first", SMALL_SIZE, GREY)
    for number, (row, results) in enumerate(zip(rows, shown, strict=True)):
        top = HEADER_HEIGHT + number * (layout.row_height + GAP)
        pen.rounded((MARGIN, top, width - MARGIN, top + layout.row_height), CARD, radius=14)
        beyond = row.first_match_rank is not None and row.first_match_rank > len(results)
        note = f"target at rank {row.first_match_rank:,}" if beyond else ""
        _draw_query(pen, row, note, (MARGIN + PADDING, top + PADDING), thumb_height)
        for rank, (result, image) in enumerate(results, start=1):
            line, column = divmod(rank - 1, columns)
            corner = RESULTS_LEFT + column * (THUMB_WIDTH + GAP), top + PADDING + line * (layout.line_height + GAP)
            _draw_result(pen, result, image, rank, corner, thumb_height)

    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(Path(path)) as part:
            pen.sheet.save(part, format=_format_of(path))
    return pen.sheet


def check_sheet(path: str | Path | None, num_queries: int = 1, max_results: int = 10) -> None:
    """Looks whether a sheet can be drawn and written, which is better known before its images are searched.

    Args:
        path: where it shall be written; None looks at its size alone.
        num_queries: its rows.
        max_results: images in a row.

    Raises:
        ValueError: the suffix is that of no format for it, or the sheet is larger than its format or this program
            allows; the message says what to change.
        OSError: nothing can be written there.
    """
    layout = _Layout(num_queries, max_results, round((THUMB_WIDTH - 2 * FRAME) * TALLEST_SHAPE) + 2 * FRAME)
    contents = f"{num_queries:,} queries of {max_results:,} results" if num_queries > 1 else f"{max_results:,} results"
    size = f"a sheet of {contents} may have {layout.width:,} x {layout.height:,} pixels"
    if layout.width * layout.height > MOST_PIXELS:
        raise ValueError(f"{size}, more than {MOST_PIXELS:,} in all: draw fewer")
    if path is None:
        return
    check_output_file(path)
    longest = LONGEST_SIDE[_format_of(path)]
    if max(layout.width, layout.height) > longest:
        raise ValueError(
            f"{size}, but {Path(path).suffix} holds at most {longest:,} a side: choose .png, or draw fewer"
        )


def _format_of(path: str | Path) -> str:
    suffixes = Image.registered_extensions()
    known = sorted(suffix for suffix, name in suffixes.items() if name in LONGEST_SIDE and name in Image.SAVE)
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"{printable(path)}: {suffix or 'no suffix'} says no format for a picture; use {', '.join(known)}"
        )
    return suffixes[suffix]


class _Layout:
    """Where things are on a sheet.

    Args:
        num_rows: queries.
        most_results: of a query, drawn in lines of at least ten.
        thumb_height: of each.
    """

    def __init__(self, num_rows: int, most_results: int, thumb_height: int):
        self.columns = min(most_results, max(10, math.ceil(math.sqrt(2 * most_results))))
        num_lines = math.ceil(most_results / self.columns)
        self.line_height = thumb_height + LABEL_HEIGHT
        self.row_height = PADDING + num_lines * (self.line_height + GAP) - GAP + PADDING // 2
        width = RESULTS_LEFT + self.columns * (THUMB_WIDTH + GAP) - GAP + PADDING + MARGIN
        self.width = max(width, 960)  # one result alone still leaves room for the title and the legend
        self.height = HEADER_HEIGHT + num_rows * (self.row_height + GAP) - GAP + MARGIN


def open_small(image: Image.Image | str | Path, many: bool = False) -> Image.Image:
    """An image no larger than a sheet can show: those of all rows are held at a time, and photographs are large."""
    scale = 2 if many else 4
    opened, limit = _not_too_thin(open_image(image)), (scale * THUMB_WIDTH, 2 * scale * THUMB_WIDTH)
    fits = opened.width <= limit[0] and opened.height <= limit[1]
    return opened if fits else ImageOps.contain(opened, limit, Image.Resampling.LANCZOS)


def _not_too_thin(image: Image.Image) -> Image.Image:
    """The same, but a panorama of 200 to 1 is made thicker: it would vanish in a thumbnail."""
    least = math.ceil(max(image.size) / (THUMB_WIDTH - 2 * FRAME))
    if min(image.size) >= least:
        return image
    return image.resize((max(image.width, least), max(image.height, least)))


def _common_height(images: list[Image.Image]) -> int:
    """One thumbnail height for the sheet, by the median shape: tall for person crops, lower for photographs."""
    shapes = sorted(image.height / image.width for image in images)
    shape = min(TALLEST_SHAPE, max(1.0, shapes[len(shapes) // 2]))
    return round((THUMB_WIDTH - 2 * FRAME) * shape) + 2 * FRAME


@cache
def _load_font(path: str | Path | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


class Pen:
    """Draws on the sheet what ImageDraw lacks: smooth corners, fitted text, thumbnails."""

    def __init__(self, sheet: Image.Image, font: str | Path | None):
        self.sheet, self.draw, self.font_path = sheet, ImageDraw.Draw(sheet), font

    def rounded(self, box: tuple[int, int, int, int], fill, radius: int) -> None:
        """Fills a box with a colour, or with an image of the box's size; corners are smoothed at 4 times the size."""
        width, height = box[2] - box[0], box[3] - box[1]
        mask = Image.new("L", (4 * width, 4 * height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
        self.sheet.paste(fill, box, mask.reduce(4))

    def thumbnail(self, image: Image.Image, box: tuple[int, int, int, int], frame: str) -> None:
        """The whole image, its shape kept, in the middle of a framed box."""
        self.rounded(box, frame, radius=9)
        left, top, right, bottom = box[0] + FRAME, box[1] + FRAME, box[2] - FRAME, box[3] - FRAME
        fitted = ImageOps.pad(image, (right - left, bottom - top), Image.Resampling.LANCZOS, color=PAGE)
        self.rounded((left, top, right, bottom), fitted, radius=5)

    def text(self, position, text: str, size: int, colour: str, anchor: str = "la") -> None:
        """One line of text, its `anchor` (as in ImageDraw) at the position."""
        if not (text := self.drawable(text)):
            return
        # At 4 times the size and reduced: small letters snap to whole pixels, and words would run together.
        font = _load_font(self.font_path, 4 * size)
        left, top, right, bottom = map(int, font.getbbox(text, anchor=anchor))
        left, top = left // 4 * 4, top // 4 * 4
        mask = Image.new("L", (right - left + 4, bottom - top + 4))
        ImageDraw.Draw(mask).text((-left, -top), text, 255, font, anchor=anchor)
        corner = (round(position[0]) + left // 4, round(position[1]) + top // 4)
        self.sheet.paste(colour, corner, mask.reduce(4))

    def text_width(self, text: str, size: int) -> float:
        """Of a line, in pixels."""
        return _load_font(self.font_path, 4 * size).getlength(text) / 4

    def pill(self, corner: tuple[int, int], text: str, fill: str, size: int = SMALL_SIZE) -> None:
        """White text on a coloured pill whose upper left corner is given."""
        left, top = corner
        width = max(22, round(self.text_width(text, size)) + 14)
        self.rounded((left, top, left + width, top + 22), fill, radius=11)
        self.text((left + width / 2, top + 11), text, size, CARD, anchor="mm")

    def drawable(self, text: str) -> str:
        """One line without control characters; Pillow's own font has no accents and no long dashes."""
        text = "".join(char for char in text if char.isspace() or not unicodedata.category(char).startswith("C"))
        if self.font_path is None:
            text = unicodedata.normalize("NFKD", text.replace("–", "-").replace("—", "-").replace("…", "..."))
            text = "".join(char for char in text if not unicodedata.combining(char))
        return " ".join(text.split())

    def wrap(self, text: str, size: int, width: int, max_lines: int) -> list[str]:
        """Breaks text into lines of `width` pixels; what `max_lines` cannot hold ends in an ellipsis."""
        lines = [""]
        for word in self.drawable(text).split():
            if len(lines) > max_lines:  # what follows is not shown, and may be a book
                break
            longer = f"{lines[-1]} {word}".strip()
            if self.text_width(longer, size) <= width:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for char in word:  # only a word wider than the line is broken
                if len(lines) > max_lines:
                    break
                if self.text_width(lines[-1] + char, size) > width:
                    lines.append("")
                lines[-1] += char
        if len(lines) > max_lines:
            last = lines[max_lines - 1]
            while last and self.text_width(f"{last}...", size) > width:
                last = last[:-1]
            lines = [*lines[: max_lines - 1], last.rstrip(" ,.;") + "..."]
        return lines


def _draw_header(pen: Pen, title: str, subtitle: str, truths: set[bool | None]) -> None:
    legend = [
        (GREEN, "correct", True),
        (RED, "wrong", False),
        (NEUTRAL, "truth unknown", None),
    ]
    right = pen.sheet.width - MARGIN
    for colour, label, truth in reversed(legend):
        if truth not in truths:
            continue
        right -= round(pen.text_width(label, SMALL_SIZE))
        pen.text((right, 48), label, SMALL_SIZE, GREY, anchor="lm")
        pen.rounded((right - 26, 39, right - 8, 57), colour, radius=5)
        pen.rounded((right - 22, 43, right - 12, 53), PAGE, radius=2)
        right -= 26 + 20
    room = right - MARGIN
    pen.text((MARGIN, 28), pen.wrap(title, TITLE_SIZE, room, 1)[0], TITLE_SIZE, INK)
    pen.text((MARGIN, 68), pen.wrap(subtitle, SMALL_SIZE + 1, room, 1)[0], SMALL_SIZE + 1, GREY)


def _draw_query(pen: Pen, row: RankedQuery, note: str, corner: tuple[int, int], thumb_height: int) -> None:
    left, top = corner
    bottom = top + thumb_height
    if row.image is not None:
        pen.thumbnail(_not_too_thin(open_image(row.image)), (left, top, left + THUMB_WIDTH, bottom), FAINT)
        kind = "image alone" if row.caption is None else "image + caption"
    else:
        pen.rounded((left, top, left + THUMB_WIDTH, bottom), PAGE, radius=9)
        pen.text((left + THUMB_WIDTH / 2, (top + bottom) / 2), "no image", SMALL_SIZE, NEUTRAL, anchor="mm")
        kind = "caption alone"

    left += THUMB_WIDTH + PADDING
    pen.text((left, top), kind, SMALL_SIZE, GREY)
    top += 26
    if note:
        pen.pill((left, bottom - 22), note, AMBER)
        bottom -= 22 + GAP
    line_height = round(1.35 * CAPTION_SIZE)
    lines = pen.wrap(row.caption or "", CAPTION_SIZE, CAPTION_WIDTH, max_lines=max(1, (bottom - top) // line_height))
    for number, line in enumerate(lines):
        pen.text((left, top + number * line_height), line, CAPTION_SIZE, INK)


def _draw_result(pen: Pen, result: RankedImage, image: Image.Image, rank: int, corner, thumb_height: int) -> None:
    left, top = corner
    right, bottom = left + THUMB_WIDTH, top + thumb_height
    colour = {True: GREEN, False: RED, None: NEUTRAL}[result.correct]
    pen.thumbnail(image, (left, top, right, bottom), colour)
    pen.pill((left, top), f"{result.rank or rank:,}", colour, size=13)

    score = "" if result.score is None else f"{result.score:.3f}"
    x, y = (left + right) // 2, bottom + LABEL_HEIGHT // 2 + 2
    if result.correct is None:
        pen.text((x, y), score, SMALL_SIZE, GREY, anchor="mm")
        return
    # A tick or a cross beside the score: red and green look alike to one man in twelve.
    x -= round(pen.text_width(score, SMALL_SIZE) / 2)
    pen.text((x + 9, y), score, SMALL_SIZE, GREY, anchor="lm")
    if result.correct:
        pen.draw.line([(x - 9, y), (x - 5, y + 4), (x + 2, y - 5)], fill=colour, width=3, joint="curve")
    else:
        pen.draw.line([(x - 7, y - 4), (x + 1, y + 4)], fill=colour, width=2)
        pen.draw.line([(x - 7, y + 4), (x + 1, y - 4)], fill=colour, width=2)
