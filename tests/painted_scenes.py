"""Photographs with a known number of people, painted as bars, and a detector that finds bars."""

import numpy as np
from PIL import Image

from fafa.people import Detector, FoundPerson

SIZE = 240, 100  # width and height of a photograph
WIDTH, TOP, BOTTOM = 24, 20, 90  # of a bar
GROUND = 128


def paint_scene(file, *bars):
    """Bars of 70 pixels' height on grey, each given as (left, colour)."""
    pixels = np.full((SIZE[1], SIZE[0], 3), GROUND, dtype=np.uint8)
    for left, colour in bars:
        pixels[TOP:BOTTOM, left : left + WIDTH] = colour
        pixels[TOP : TOP + 15, left + 6 : left + 18] = 255  # a head, or all bars of one colour would be flat
    Image.fromarray(pixels).save(file, compress_level=0)
    return file


class BarDetector(Detector):
    """Finds the bars in a photograph; `seen` counts the photographs."""

    def __init__(self, name="bars"):
        self.name, self.seen = name, 0

    def find(self, images):
        self.seen += len(images)
        return [self._find(np.asarray(image)) for image in images]

    def _find(self, pixels):
        is_person = np.abs(pixels[BOTTOM - 5].astype(int) - GROUND).max(axis=-1) > 30
        edges = np.flatnonzero(np.diff(np.pad(is_person.astype(int), 1)))
        return [
            FoundPerson((float(left), float(TOP), float(right), float(BOTTOM)), 0.9)
            for left, right in zip(edges[::2], edges[1::2], strict=True)
        ]
