"""Finds the painted world's people in images, in place of a detector and a pose model.

People are painted with sharp edges, and the places behind them are out of focus.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..images import open_rgb
from ..settings import Settings, Share
from ..text_image.poses import NO_HEAD, NO_KNEES, NO_PERSON, SEVERAL_PEOPLE, FoundPerson, PoseFilter, widen_box


class FigureFilter(Settings):
    """Settings of the pose filter of painted people.

    Attributes:
        margin: Margin around the person who is cut out, as a share of the figure's height.
    """

    kind: Literal["figure"] = "figure"

    margin: Share = 0.05

    def load(self) -> PoseFilter:
        """The filter."""
        return _FigureFilter(self)


class _FigureFilter(PoseFilter):
    def __init__(self, settings: FigureFilter):
        super().__init__()
        self.settings = settings
        self.about = {"model": "edges of painted figures"}

    def find(self, images: Iterable[tuple[str, Path]]) -> Iterator[FoundPerson]:
        for name, file in images:
            image = open_rgb(file)
            found = find_figure(image)
            if isinstance(found, str):
                yield FoundPerson(name, None, found)
            else:
                box = widen_box(found, self.settings.margin, image.size)
                yield FoundPerson(name, image.crop(box), facts={"box": list(box)})


_HEIGHT = 192  # pixels; figures are looked for in images of this height, for which these numbers were chosen
_EDGE = 26  # grey levels from one pixel to the next: above the grain, and above what is out of focus
_FEWEST_EDGES = 0.015  # share of the pixels; places without people have fewer
_HEAD_ROWS, _HEAD_WIDTH, _HEAD_GAP = 27, 14, 12  # pixels: a head's height and least width, gaps within its outline
# What crosses a border of the image does so for some rows, whose mean has no grain.
_BORDER_ROWS, _BORDER_EDGE = 4, 24


def find_figure(image: Image.Image) -> tuple[float, float, float, float] | str:
    """The box of the one painted person in an image, in its pixels; or why there is none to keep."""
    scale = _HEIGHT / image.height
    pixels = np.asarray(image.resize((max(8, round(scale * image.width)), _HEIGHT)), dtype=np.float32)
    edges = _sharp_edges(pixels)
    rows, columns = np.flatnonzero(edges.sum(1) >= 3), np.flatnonzero(edges.sum(0) >= 6)
    if edges.mean() < _FEWEST_EDGES or not len(columns):
        return NO_PERSON
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if _crosses(pixels[:_BORDER_ROWS, left:right]):
        return NO_HEAD
    heads = _count_runs(edges[top : top + _HEAD_ROWS].any(axis=0))
    if heads != 1:
        return SEVERAL_PEOPLE if heads else NO_HEAD
    if _crosses(pixels[-_BORDER_ROWS:, left:right]):
        return NO_KNEES
    return left / scale, top / scale, right / scale, bottom / scale


def _sharp_edges(pixels: np.ndarray) -> np.ndarray:
    """Where (height, width) an image (height, width, 3) is sharp, without single pixels."""
    edges = np.zeros(pixels.shape[:2], dtype=bool)
    edges[:, 1:] |= np.abs(np.diff(pixels, axis=1)).max(2) > _EDGE
    edges[1:] |= np.abs(np.diff(pixels, axis=0)).max(2) > _EDGE
    padded = np.pad(edges.astype(np.uint8), 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return edges & (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 4)  # of 3 x 3


def _crosses(border: np.ndarray) -> bool:
    """Whether a figure leaves the image through these rows (rows, width, 3)."""
    return (np.abs(np.diff(border.mean(axis=0), axis=0)).max(1) > _BORDER_EDGE).sum() >= 2


def _count_runs(columns: np.ndarray) -> int:
    """How many runs of columns are as wide as a head."""
    places = np.flatnonzero(columns)
    runs = np.split(places, np.flatnonzero(np.diff(places) > _HEAD_GAP) + 1)
    return sum(len(run) > 0 and run[-1] - run[0] + 1 >= _HEAD_WIDTH for run in runs)
