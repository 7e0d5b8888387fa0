"""Cuts diptychs in two: finds the seam, cuts beside it, and crops the halves to the person.

Models that paint two images side by side seldom divide them exactly in the middle, and sometimes not at all. A seam is
an abrupt change of colour between two neighbouring columns, over nearly the whole height; a thin line or a gap has two
of them. A diptych without one is rejected with a reason: a wrong cut would leave half a person.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from pydantic import Field

from .components import Part
from .filtering.detectors import Box, PersonDetector
from .settings import Settings

_BANDS, _PARTS = 48, 6  # the height is cut into bands, which average the noise away; parts are groups of bands
_CLEAR_STEP = 4.0  # grey levels by which the columns on both sides must differ in a band
_TIMES_COMMON = 2.0  # and how many times as much as the columns of the neighbourhood commonly do
_BLACK, _WHITE = 12, 243  # a frame is at least as dark, or as light
_MOST_FRAME = 0.08  # share of a half's width or height that may be frame, on each side


class SplitSettings(Settings):
    """How diptychs are cut."""

    # how far the seam may be from the middle, as a share of the diptych's width
    window: Annotated[float, Field(gt=0, le=0.4)] = 0.12
    # how wide the line or gap between the halves may be, as a share of the diptych's width
    border: Annotated[float, Field(gt=0, le=0.2)] = 0.06
    # share of the height over which the seam must be visible, see `seam_coverage`
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.7
    # width of a half divided by its height, see `crop_to`; None leaves the halves as they are cut
    aspect: Annotated[float, Field(ge=0.1, le=10)] | None = None
    detector: PersonDetector | None = None  # finds the person to crop each half to; None keeps the whole half
    margin: Annotated[float, Field(ge=0, le=2)] = 0.05  # margin around the person, as a share of the person's height

    def load(self) -> "Splitter":
        """The splitter, its detector loaded."""
        return Splitter(self)


@dataclass(frozen=True)
class Split:
    """A diptych cut in two."""

    left: Image.Image  # the left image, RGB
    right: Image.Image  # the right one
    seam: int  # the column between them, in pixels of the diptych
    border: int  # how many columns around it were removed


class Splitter(Part):
    """Cuts diptychs; `about` is that of its detector."""

    def __init__(self, settings: SplitSettings):
        super().__init__()
        self._settings = settings
        self._finder = settings.detector.load() if settings.detector else None
        self.about = self._finder.about if self._finder else {}

    def split(self, diptychs: Sequence[Image.Image]) -> list[Split | str]:
        """The halves of each diptych, or the reason why there are none."""
        with ThreadPoolExecutor() as threads:
            results = list(threads.map(lambda diptych: cut_at_seam(diptych, self._settings), diptychs))
        cut = [number for number, result in enumerate(results) if isinstance(result, Split)]
        halves = [half for number in cut for half in (results[number].left, results[number].right)]
        people = self._finder.find(halves) if self._finder else [None] * len(halves)
        for place, number in enumerate(cut):
            results[number] = self._crop(results[number], *people[2 * place : 2 * place + 2])
        return results

    def _crop(self, split: Split, left: list[Box] | None, right: list[Box] | None) -> Split | str:
        """The halves cropped to the largest person of each; None stands for no detector."""
        halves = []
        for side, half, people in (("left", split.left, left), ("right", split.right, right)):
            if people is not None and not people:
                return f"no person found on the {side}"
            halves.append(crop_to(half, people[0] if people else None, self._settings.margin, self._settings.aspect))
        return Split(*halves, split.seam, split.border)


def cut_at_seam(diptych: Image.Image, settings: SplitSettings) -> Split | str:
    """Both halves without the seam and without a frame around them, or why they cannot be had."""
    diptych = diptych.convert("RGB")
    width, height = diptych.size
    columns = np.flatnonzero(seam_coverage(diptych) >= settings.coverage)
    if not len(columns):
        return "no seam found"
    # Columns that belong to one seam: both edges of a line or gap.
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > settings.border * width) + 1)
    seams = [group for group in groups if abs(group.mean() / width - 0.5) <= settings.window]
    if not seams:
        return "halves too uneven"
    if len(seams) > 1 or np.ptp(seams[0]) > settings.border * width + 2:
        return "more than one seam found"
    # One column more on each side: the edges of a line are seldom sharp.
    start, stop = int(seams[0][0]) - 1, int(seams[0][-1]) + 1
    left = _without_frame(diptych.crop((0, 0, start, height)))
    right = _without_frame(diptych.crop((stop, 0, width, height)))
    return Split(left, right, seam=(start + stop) // 2, border=stop - start)


def seam_coverage(image: Image.Image) -> np.ndarray:
    """How much of the height has an abrupt change of colour between columns x - 1 and x, for every x.

    The height is cut into six parts, and the three with the least change are averaged: a seam goes from the top to the
    bottom, and the outline of a person or of a tree does not.

    Args:
        image: RGB.

    Returns:
        (width,) shares from 0 to 1; 0 next to the image's sides, where nothing is known.
    """
    width, height = image.size
    reach = max(2, width // 256)  # columns that are averaged on each side
    coverage = np.zeros(width)
    if width < 4 * reach or height < _BANDS:
        return coverage
    bands = np.asarray(image.resize((width, _BANDS), Image.Resampling.BOX), dtype=np.float32)  # (bands, width, 3)
    sums = np.cumsum(np.pad(bands, ((0, 0), (1, 0), (0, 0))), axis=1)
    means = (sums[:, reach:] - sums[:, :-reach]) / reach  # of columns x ... x + reach - 1
    steps = np.abs(means[:, reach:] - means[:, :-reach]).max(axis=2)  # at columns reach ... width - reach
    around = np.pad(steps, ((0, 0), (5 * reach, 5 * reach)), mode="edge")
    windows = sliding_window_view(around, 10 * reach + 1, axis=1)
    common = np.partition(windows, 5 * reach, axis=2)[..., 5 * reach]  # their medians, four times as fast as np.median
    clear = steps > np.maximum(_CLEAR_STEP, _TIMES_COMMON * common)
    parts = np.sort(clear.reshape(_PARTS, -1, steps.shape[1]).mean(axis=1), axis=0)
    coverage[reach : width - reach + 1] = parts[: _PARTS // 2].mean(axis=0)
    return coverage


def _without_frame(half: Image.Image) -> Image.Image:
    """The half without black or white rows and columns at its sides."""
    rows = np.asarray(half)
    left, right = _frame_ends(rows.swapaxes(0, 1))
    top, bottom = _frame_ends(rows)
    return half.crop((left, top, right, bottom))


def _frame_ends(lines: np.ndarray) -> tuple[int, int]:
    """Where the image starts and stops among its rows, or columns: (lines, pixels, 3)."""
    most = int(_MOST_FRAME * len(lines))
    start, stop = 0, len(lines)
    while start < most and _is_frame(lines[start]):
        start += 1
    while stop > len(lines) - most and _is_frame(lines[stop - 1]):
        stop -= 1
    return start, stop


def _is_frame(line: np.ndarray) -> bool:
    """Whether all pixels (pixels, 3) are black or white."""
    return bool(((line <= _BLACK).all(axis=1) | (line >= _WHITE).all(axis=1)).all())


def crop_to(image: Image.Image, box: Box | None, margin: float, aspect: float | None) -> Image.Image:
    """Crop to a person.

    Args:
        image: RGB.
        box: The person; None if there was no detector: then the whole height is kept, and the middle of the width.
        margin: Margin around the person, as a share of the person's height.
        aspect: Wanted width divided by height. The box is widened in one direction and moved within the image; where
            the image ends, its outermost pixels are repeated. None keeps the box as it is.
    """
    left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
    if aspect and not box:
        left, right = _widened(left, right, aspect * image.height, image.width)
    if box:
        around = margin * (box.bottom - box.top)
        left, top = max(left, box.left - around), max(top, box.top - around)
        right, bottom = min(right, box.right + around), min(bottom, box.bottom + around)
    if aspect:
        width, height = max(right - left, aspect * (bottom - top)), max(bottom - top, (right - left) / aspect)
        left, right = _widened(left, right, width, image.width)
        top, bottom = _widened(top, bottom, height, image.height)
    right, bottom = round(left) + round(right - left), round(top) + round(bottom - top)
    left, top = round(left), round(top)
    pads = ((max(0, -top), max(0, bottom - image.height)), (max(0, -left), max(0, right - image.width)), (0, 0))
    crop = image.crop((max(0, left), max(0, top), min(image.width, right), min(image.height, bottom)))
    return Image.fromarray(np.pad(np.asarray(crop), pads, mode="edge")) if np.any(pads) else crop


def _widened(start: float, stop: float, length: float, limit: int) -> tuple[float, float]:
    """The interval of that length around the same middle, moved into 0 ... limit as far as possible."""
    start = (start + stop - length) / 2
    start = (limit - length) / 2 if length > limit else min(max(start, 0.0), limit - length)
    return start, start + length
