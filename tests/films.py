"""Small films, encoded by PyAV itself: FFmpeg's program is not needed."""

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="films are read by PyAV, which is not installed: pip install '.[people]'")

SIZE = 96, 64
CORNERS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120, 120, 120)}


def write_film(file, images, rate=10, times=None, sound=False, group=12):
    """Encodes images at some times, or `rate` a second; a key frame every `group` frames."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": str(group), "preset": "ultrafast"})
        stream.pix_fmt = "yuv420p"
        images = [np.asarray(image) for image in images]
        stream.height, stream.width = images[0].shape[:2]
        stream.codec_context.time_base = Fraction(1, 1000)  # fine enough for any time that a test asks for
        speech = container.add_stream("aac", rate=8000) if sound else None
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (number / rate if times is None else times[number]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if speech is not None:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            quiet.sample_rate, quiet.pts = 8000, 0
            container.mux(speech.encode(quiet))
            container.mux(speech.encode(None))
    return file


def corners(number=0, size=SIZE):
    """A frame with four colours in its corners, and its number as a grey level in the middle."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    rows, columns = (slice(0, height // 2), slice(height // 2, None)), (slice(0, width // 2), slice(width // 2, None))
    places = [(row, column) for row in rows for column in columns]
    for (row, column), colour in zip(places, CORNERS.values(), strict=True):
        pixels[row, column] = colour
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = 8 * (number % 32)
    return pixels


def number_of(image):
    """The number that `corners` wrote, below 32."""
    return round(np.asarray(image)[image.height // 2, image.width // 2].mean() / 8)


def corners_of(image):
    """The colours of an image's corners: upper left, upper right, lower left, lower right."""
    pixels = np.asarray(image).astype(int)
    seen = [pixels[row, column] for row in (3, -4) for column in (3, -4)]
    return [min(CORNERS, key=lambda name: np.abs(pixel - CORNERS[name]).sum()) for pixel in seen]


def spoil(file, target, packets, cut=1.0):
    """A copy in which some packets are zeros, or which ends early."""
    data = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for number in packets:
        place, size = places[number]
        data[place : place + size] = bytes(size)
    target.write_bytes(data[: int(cut * len(data))])
    return target
