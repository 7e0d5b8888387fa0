"""Draws pairs or people as one picture, a card for each: their pictures, a text, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..retrieval.contact_sheet import (
    CAPTION_SIZE,
    CARD,
    FRAME,
    GAP,
    GREEN,
    GREY,
    INK,
    MARGIN,
    NEUTRAL,
    PADDING,
    PAGE,
    RED,
    SMALL_SIZE,
    TITLE_SIZE,
    Pen,
    open_small,
)

_ROOM, _HEADER = 1128, 112  # for cards and the gaps to the right of them; above them
_LINE_HEIGHT = round(1.3 * CAPTION_SIZE)
_FRAMES = {True: GREEN, False: RED, None: NEUTRAL}
MOST_PICTURES = 4  # on a person's card


@dataclass(frozen=True)
class PairCard:
    """One card.

    Attributes:
        images: Reference and target, or the one picture that both are to be seen in; or up to `MOST_PICTURES` pictures
            of a person. PIL images or paths.
        text: The edit that leads from reference to target; or what is said of the person.
        note: What is said below it: scores, or why it was rejected.
        good: Whether it was kept (green frame) or rejected (red); None for neither (grey).
    """

    images: Sequence[Image.Image | str | Path]
    text: str
    note: str = ""
    good: bool | None = None


class _Layout(NamedTuple):
    """Of all cards on a sheet: side by side so many cards, on each so many pictures, below them so many lines."""

    columns: int
    pictures: int
    lines: int
    is_pairs: bool

    @property
    def room(self) -> int:
        """The width within a card."""
        return _ROOM // self.columns - GAP - 2 * PADDING

    @property
    def thumb_width(self) -> int:
        return (self.room + GAP) // self.pictures - GAP


def draw_pairs(cards: Sequence[PairCard], title: str, subtitle: str = "") -> Image.Image:
    """Draw cards of pairs, three in a row, with an arrow from reference to target.

    Args:
        cards: In the order of reading.
        title: The headline.
        subtitle: A line below it, for example how the pairs were chosen.

    Returns:
        The sheet, an RGB image.

    Raises:
        ValueError: there is no card.
        UnreadableImageError: an image cannot be opened.
    """
    return _draw(cards, title, subtitle, _Layout(columns=3, pictures=2, lines=3, is_pairs=True))


def draw_people(cards: Sequence[PairCard], title: str, subtitle: str = "") -> Image.Image:
    """Draw cards of people, each with all pictures of one person; otherwise as `draw_pairs`."""
    most = max((len(card.images) for card in cards), default=1)
    columns = {1: 4, 2: 3}.get(most, 2)
    return _draw(cards, title, subtitle, _Layout(columns, most, lines=5 if most == 1 else 4, is_pairs=False))


def _draw(cards: Sequence[PairCard], title: str, subtitle: str, layout: _Layout) -> Image.Image:
    if not cards:
        raise ValueError("nothing to draw: there are no cards")
    shown = [[open_small(image) for image in card.images] for card in cards]
    # By the median shape; a picture of both halves is about twice as wide as one of them.
    shapes = sorted(
        image.height / image.width * (3 - len(images) if layout.is_pairs else 1) for images in shown for image in images
    )
    shape = min(2.0, max(0.75, shapes[len(shapes) // 2]))
    thumb_height = round((layout.thumb_width - 2 * FRAME) * shape) + 2 * FRAME
    card_width = layout.room + 2 * PADDING
    card_height = thumb_height + layout.lines * _LINE_HEIGHT + 28 + 3 * PADDING
    num_rows = -(-len(cards) // layout.columns)
    width = 2 * MARGIN + _ROOM - GAP
    pen = Pen(Image.new("RGB", (width, _HEADER + num_rows * (card_height + GAP) - GAP + MARGIN), PAGE), None)
    pen.text((MARGIN, 28), pen.wrap(title, TITLE_SIZE, width - 2 * MARGIN, 1)[0], TITLE_SIZE, INK)
    pen.text((MARGIN, 68), pen.wrap(subtitle, SMALL_SIZE + 1, width - 2 * MARGIN, 1)[0], SMALL_SIZE + 1, GREY)
    for number, (card, images) in enumerate(zip(cards, shown, strict=True)):
        row, column = divmod(number, layout.columns)
        left, top = MARGIN + column * (card_width + GAP), _HEADER + row * (card_height + GAP)
        box = (left, top, left + card_width, top + card_height)
        pen.rounded(box, CARD, radius=14)
        _draw_card(pen, card, images, box, thumb_height, layout)
    return pen.sheet


def _draw_card(
    pen: Pen,
    card: PairCard,
    images: Sequence[Image.Image],
    box: tuple[int, int, int, int],
    thumb_height: int,
    layout: _Layout,
) -> None:
    left, top, bottom, frame = box[0] + PADDING, box[1] + PADDING, box[3] - PADDING, _FRAMES[card.good]
    is_whole = layout.is_pairs and len(images) == 1
    thumb_width = layout.room if is_whole else layout.thumb_width
    for place, image in enumerate(images):
        x = left + place * (thumb_width + GAP)
        pen.thumbnail(image, (x, top, x + thumb_width, top + thumb_height), frame)
    if layout.is_pairs and not is_whole:
        _draw_arrow(pen, left + thumb_width + GAP // 2, top + thumb_height // 2)
    top += thumb_height + PADDING // 2
    for number, line in enumerate(pen.wrap(card.text, CAPTION_SIZE, layout.room, layout.lines)):
        pen.text((left, top + number * _LINE_HEIGHT), line, CAPTION_SIZE, INK)
    if card.note:
        pen.pill((left, bottom - 22), pen.wrap(card.note, SMALL_SIZE, layout.room - 20, 1)[0], frame)


def _draw_arrow(pen: Pen, x: int, y: int) -> None:
    """From reference to target, between them."""
    pen.rounded((x - 13, y - 13, x + 13, y + 13), CARD, radius=13)
    pen.draw.line([(x - 6, y), (x + 6, y)], fill=INK, width=2)
    pen.draw.line([(x + 1, y - FRAME), (x + 6, y), (x + 1, y + FRAME)], fill=INK, width=2, joint="curve")
