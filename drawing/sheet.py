"""Sheets: images in frames, with captions and marks, side by side on a page. Pillow alone draws them."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageOps

from ..files import printable, whole_file
from ..image_reading_fafa import open_image
from .palette import GREY, INK, PAGE, PANEL
from .typeface import SCALE, Typeface

MARGIN, PADDING, GAP, FRAME = 36, 18, 12, 5  # pixels, as are all lengths here
THUMB_WIDTH = 108
TITLE_SIZE, CAPTION_SIZE, SMALL_SIZE = 30, 18, 15
TALLEST_SHAPE = 2.0  # height over width
PILL_HEIGHT = 22

# Formats that a sheet may have, by Pillow's names, and how long a side they hold.
LONGEST_SIDE = {"PNG": 1 << 20, "TIFF": 1 << 20, "BMP": 1 << 20, "JPEG": 65_500, "PDF": 65_500, "WEBP": 16_383}

_TAKES_EXIF = ("PNG", "JPEG", "TIFF", "WEBP")
_MARK = "a sheet drawn by the Python package fafa"  # in its metadata: how a later run knows it from a photograph

Box = tuple[int, int, int, int]  # left, top, right, bottom


class Sheet:
    """A picture to draw on: its RGB `image`, its typeface `type` (for the font see there), `draw` for plain lines."""

    def __init__(self, width: int, height: int, font: str | Path | None = None):
        self.image, self.type = Image.new("RGB", (width, height), PAGE), Typeface(font)
        self.draw = ImageDraw.Draw(self.image)

    def headline(self, title: str, subtitle: str, room: int) -> None:
        """A title and a line below it, in the upper left corner, cut to `room` pixels."""
        self.text((MARGIN, 28), self.type.wrap(title, TITLE_SIZE, room, 1)[0], TITLE_SIZE, INK)
        self.text((MARGIN, 68), self.type.wrap(subtitle, SMALL_SIZE + 1, room, 1)[0], SMALL_SIZE + 1, GREY)

    def rounded(self, box: Box, fill: str | Image.Image, radius: int) -> None:
        """Fills a box with a colour, or with an image of the box's size; its corners are smooth."""
        width, height = SCALE * (box[2] - box[0]), SCALE * (box[3] - box[1])
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), SCALE * radius, fill=255)
        self.image.paste(fill, box, mask.reduce(SCALE))

    def panel(self, box: Box) -> None:
        """The white background of what belongs together."""
        self.rounded(box, PANEL, radius=14)

    def thumbnail(self, image: Image.Image, box: Box, frame: str) -> None:
        """The whole image, undistorted, in the middle of a framed box."""
        self.rounded(box, frame, radius=9)
        left, top, right, bottom = box[0] + FRAME, box[1] + FRAME, box[2] - FRAME, box[3] - FRAME
        fitted = ImageOps.pad(image, (right - left, bottom - top), Image.Resampling.LANCZOS, color=PAGE)
        self.rounded((left, top, right, bottom), fitted, radius=5)

    def text(self, position: tuple[float, float], text: str, size: int, colour: str, anchor: str = "la") -> None:
        """One line of text, its `anchor` (as in ImageDraw) at the position."""
        if not (text := self.type.drawable(text)):
            return
        font = self.type.enlarged(size)
        left, top, right, bottom = map(int, font.getbbox(text, anchor=anchor))
        left, top = left // SCALE * SCALE, top // SCALE * SCALE
        mask = Image.new("L", (right - left + SCALE, bottom - top + SCALE))
        ImageDraw.Draw(mask).text((-left, -top), text, 255, font, anchor=anchor)
        corner = (round(position[0]) + left // SCALE, round(position[1]) + top // SCALE)
        self.image.paste(colour, corner, mask.reduce(SCALE))

    def lines(self, corner: tuple[int, int], lines: Sequence[str], size: int, height: int) -> None:
        """Lines of text below one another, `height` pixels apart."""
        for number, line in enumerate(lines):
            self.text((corner[0], corner[1] + number * height), line, size, INK)

    def pill(self, corner: tuple[int, int], text: str, fill: str, size: int = SMALL_SIZE) -> None:
        """White text on a coloured pill whose upper left corner is given."""
        left, top = corner
        width = max(PILL_HEIGHT, round(self.type.width(text, size)) + 14)
        self.rounded((left, top, left + width, top + PILL_HEIGHT), fill, radius=PILL_HEIGHT // 2)
        self.text((left + width / 2, top + PILL_HEIGHT // 2), text, size, PANEL, anchor="mm")


def open_small(image: Image.Image | str | Path, scale: int = 4) -> Image.Image:
    """An image, at most `scale` times as large as a thumbnail: a sheet holds all its images at once."""
    opened, limit = not_too_thin(open_image(image)), (scale * THUMB_WIDTH, 2 * scale * THUMB_WIDTH)
    fits = opened.width <= limit[0] and opened.height <= limit[1]
    return opened if fits else ImageOps.contain(opened, limit, Image.Resampling.LANCZOS)


def not_too_thin(image: Image.Image) -> Image.Image:
    """The same image, but one as thin as 200 to 1 is stretched: it would vanish in a thumbnail."""
    least = math.ceil(max(image.size) / (THUMB_WIDTH - 2 * FRAME))
    if min(image.size) >= least:
        return image
    return image.resize((max(image.width, least), max(image.height, least)))


def common_height(shapes: Iterable[float], width: int = THUMB_WIDTH, flattest: float = 1.0) -> int:
    """One height for all thumbnails of a width, frame included: tall for person crops, lower for photographs.

    It follows the median shape (height over width) of the images, from `flattest` to `TALLEST_SHAPE`.
    """
    shapes = sorted(shapes)
    shape = min(TALLEST_SHAPE, max(flattest, shapes[len(shapes) // 2]))
    return round((width - 2 * FRAME) * shape) + 2 * FRAME


def save_sheet(image: Image.Image, file: str | Path, quality: int | None = None) -> None:
    """Writes a sheet whole or not at all, in the format of its suffix; missing folders are made.

    Args:
        image: the sheet.
        file: see `format_of`.
        quality: JPEG's or WebP's; None leaves it to Pillow. A PNG is three times as large.
    """
    options: dict = {} if quality is None else {"quality": quality}
    image_format = format_of(file)
    if image_format in _TAKES_EXIF:
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = _MARK
        options["exif"] = exif
    with whole_file(Path(file)) as part:
        image.save(part, format=image_format, **options)


def is_sheet(file: str | Path) -> bool:
    """Whether a file is a sheet that `save_sheet` wrote, so that another may take its place; never for BMP and PDF."""
    return _MARK.encode() in Path(file).read_bytes()


def check_replaced(path: Path | None) -> None:
    """Refuses to put a sheet in the place of a file that is none, such as a photograph, by a ValueError."""
    if path is not None and path.is_file() and not is_sheet(path):
        raise ValueError(f"{printable(path)} is a file, and none of these pictures: choose another name")


def format_of(path: str | Path) -> str:
    """Pillow's name of the format that a file's suffix stands for.

    Raises:
        ValueError: it is not that of a format for pictures.
    """
    suffixes = Image.registered_extensions()
    known = sorted(suffix for suffix, name in suffixes.items() if name in LONGEST_SIDE and name in Image.SAVE)
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"{printable(path)}: {suffix or 'no suffix'} says no format for a picture; use {', '.join(known)}"
        )
    return suffixes[suffix]
