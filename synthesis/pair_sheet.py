"""Draws pairs or people as one picture, with a panel for each: images, a text, and the outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..drawing.palette import GREEN, INK, NEUTRAL, PANEL, RED
from ..drawing.sheet import (
    CAPTION_SIZE,
    FRAME,
    GAP,
    MARGIN,
    PADDING,
    PILL_HEIGHT,
    SMALL_SIZE,
    Box,
    Sheet,
    common_height,
    open_small,
)

_ROOM, _HEADER = 1128, 112  # width for panels and the gaps to their right; height above them
_LINE_HEIGHT = round(1.3 * CAPTION_SIZE)
_FRAMES = {True: GREEN, False: RED, None: NEUTRAL}
MOST_IMAGES = 4  # on a person's panel


@dataclass(frozen=True)
class PairPanel:
    """One panel."""

    # reference and target, or one image that shows both; or up to `MOST_IMAGES` images of a person: PIL images or paths
    images: Sequence[Image.Image | str | Path]
    text: str  # the edit that leads from reference to target; or a caption of the person
    note: str = ""  # a note below it: scores, or why it was rejected
    good: bool | None = None  # whether it was kept (green frame) or rejected (red); None for neither (grey)


class _Layout(NamedTuple):
    """The numbers of panels side by side, of images on each, and of lines of text below these."""

    columns: int
    images: int
    lines: int
    is_pairs: bool

    @property
    def room(self) -> int:
        """The width within a panel."""
        return _ROOM // self.columns - GAP - 2 * PADDING

    @property
    def thumb_width(self) -> int:
        return (self.room + GAP) // self.images - GAP


def draw_pairs(panels: Sequence[PairPanel], title: str, subtitle: str = "") -> Image.Image:
    """Draw panels of pairs, three in a row, with an arrow from reference to target.

    Args:
        panels: The panels in reading order.
        title: The headline.
        subtitle: A line below it, for example how the pairs were chosen.

    Returns:
        The sheet, an RGB image.

    Raises:
        ValueError: there are no panels.
        UnreadableImageError: an image cannot be opened.
    """
    return _draw(panels, title, subtitle, _Layout(columns=3, images=2, lines=3, is_pairs=True))


def draw_people(panels: Sequence[PairPanel], title: str, subtitle: str = "") -> Image.Image:
    """Draw panels of people, each with all images of one person; otherwise as `draw_pairs`."""
    most = max((len(panel.images) for panel in panels), default=1)
    columns = {1: 4, 2: 3}.get(most, 2)
    return _draw(panels, title, subtitle, _Layout(columns, most, lines=5 if most == 1 else 4, is_pairs=False))


def _draw(panels: Sequence[PairPanel], title: str, subtitle: str, layout: _Layout) -> Image.Image:
    if not panels:
        raise ValueError("nothing to draw: there are no panels")
    shown = [[open_small(image) for image in panel.images] for panel in panels]
    # An image of both halves is about twice as wide as one of them.
    shapes = (
        image.height / image.width * (3 - len(images) if layout.is_pairs else 1) for images in shown for image in images
    )
    thumb_height = common_height(shapes, layout.thumb_width, flattest=0.75)
    panel_width = layout.room + 2 * PADDING
    panel_height = thumb_height + layout.lines * _LINE_HEIGHT + 28 + 3 * PADDING
    num_rows = -(-len(panels) // layout.columns)
    width = 2 * MARGIN + _ROOM - GAP
    sheet = Sheet(width, _HEADER + num_rows * (panel_height + GAP) - GAP + MARGIN)
    sheet.headline(title, subtitle, room=width - 2 * MARGIN)
    for number, (panel, images) in enumerate(zip(panels, shown, strict=True)):
        row, column = divmod(number, layout.columns)
        left, top = MARGIN + column * (panel_width + GAP), _HEADER + row * (panel_height + GAP)
        box = (left, top, left + panel_width, top + panel_height)
        sheet.panel(box)
        _draw_panel(sheet, panel, images, box, thumb_height, layout)
    return sheet.image


def _draw_panel(
    sheet: Sheet,
    panel: PairPanel,
    images: Sequence[Image.Image],
    box: Box,
    thumb_height: int,
    layout: _Layout,
) -> None:
    left, top, bottom, frame = box[0] + PADDING, box[1] + PADDING, box[3] - PADDING, _FRAMES[panel.good]
    is_whole = layout.is_pairs and len(images) == 1
    thumb_width = layout.room if is_whole else layout.thumb_width
    for place, image in enumerate(images):
        x = left + place * (thumb_width + GAP)
        sheet.thumbnail(image, (x, top, x + thumb_width, top + thumb_height), frame)
    if layout.is_pairs and not is_whole:
        _draw_arrow(sheet, left + thumb_width + GAP // 2, top + thumb_height // 2)
    top += thumb_height + PADDING // 2
    lines = sheet.type.wrap(panel.text, CAPTION_SIZE, layout.room, layout.lines)
    sheet.lines((left, top), lines, CAPTION_SIZE, _LINE_HEIGHT)
    if panel.note:
        sheet.pill((left, bottom - PILL_HEIGHT), sheet.type.wrap(panel.note, SMALL_SIZE, layout.room - 20, 1)[0], frame)


def _draw_arrow(sheet: Sheet, x: int, y: int) -> None:
    """From reference to target, between them."""
    sheet.rounded((x - 13, y - 13, x + 13, y + 13), PANEL, radius=13)
    sheet.draw.line([(x - 6, y), (x + 6, y)], fill=INK, width=2)
    sheet.draw.line([(x + 1, y - FRAME), (x + 6, y), (x + 1, y + FRAME)], fill=INK, width=2, joint="curve")
