"""The one reader of films: their frames at a chosen rate with their times, and the frame that is shown at one moment.

    with Film("party.mp4") as film:
        for time, image in film.frames(rate=5):
            ...
    frame_at("party.mp4", 83.4).save("moment.png")

PyAV, which has FFmpeg's libraries within it, decodes. All that open a film from outside call this reader, as all that
open an image call `image_reading_fafa`:

- A file is what its contents say, whatever its name, and only containers of films are opened (`_FILMS`). FFmpeg knows
  others that name further files and addresses, and would open those.
- A frame is upright RGB as a player shows it: turned or mirrored as the film says, and as wide.
- Times are seconds from the film's beginning, where a player's clock stands at 0, whatever the frame rate does.
- A film of joined recordings, whose clock begins anew, is refused: its moments would not be found again.
- What cannot be decoded is skipped, counted and told, and so is what was to be drawn from it: all until the next frame
  that is whole in itself, or for ten seconds. A film without any frame is refused.
- A frame has a budget of pixels. The length has none: ten hours take as much memory as a minute.
"""

import logging
import math
import re
import shlex
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from .names import clock, printable

if TYPE_CHECKING:
    from av import VideoFrame

logger = logging.getLogger(__name__)

MAX_FRAME_PIXELS = 8192 * 4320  # 8K; a decoder keeps up to 17 frames at 1.5 bytes a pixel, which is an image's budget
MAX_RATE = 240.0  # frames looked at in a second

_HEAD = 400  # bytes that tell a film: two packets of a transport stream
_FILMS = (  # how films begin, and FFmpeg's names of their formats
    (rb"....ftyp(?!hei|hev|mif1|msf1|avif|avis|crx |jxl |M4A |M4B |M4P )|....(moov|mdat|wide|free|skip|pnot)", "mov"),
    (rb"\x1a\x45\xdf\xa3", "matroska"),
    (rb"RIFF....AVI ", "avi"),
    (rb"\x00\x00\x01\xba", "mpeg"),
    (rb"\x00\x00\x01\xb3", "mpegvideo"),
    (rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47", "mpegts"),
    (rb"FLV\x01", "flv"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (rb"OggS", "ogg"),
)
_OPTIONS = {
    "format_whitelist": ",".join(name for _, name in _FILMS),
    "protocol_whitelist": "none",  # the file is open already
    "max_pixels": str(MAX_FRAME_PIXELS),
}
_SAME_TIME = 1e-4  # seconds: less than from one frame to the next, more than what rounding does
_WHOLE = 1  # FFmpeg's number of frames that are drawn from no others
_STEPS_BACK = (0.0, 2.0, 20.0)  # seconds: how much earlier to look for a key frame where an index misleads
_WIDEST_PIXEL = 4.0  # width over height
_SPOILT = 10.0  # seconds after a broken frame for which others show what is left of it; most films begin anew by then
_BEHIND = 1.0, 3  # seconds that so many frames lie behind others where a clock begins anew; fewer are out of order
_CUT_OFF = 2.0, 0.05  # seconds, and share of the length, that a film may end early: its last frame is shown for a while

# Signs of the display matrix's four numbers (a b c d: x' = a x + c y, y' = b x + d y) -> what they do to an image.
_TURNS = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class UnreadableFilmError(ValueError):
    """A film that is there but cannot be decoded: cut short, damaged, without pictures, none, or beyond the budget."""


class Frame(NamedTuple):
    """One picture of a film.

    Args:
        time: seconds from the film's beginning.
        image: upright, RGB.
    """

    time: float
    image: Image.Image


def is_film(path: str | PathLike) -> bool:
    """Whether a file is a film, by its first bytes; one that is not there, or cannot be read, is none."""
    with suppress(OSError, ValueError):  # ValueError: a NUL in the path
        if Path(path).is_file():
            with Path(path).open("rb") as stream:
                head = stream.read(_HEAD)
            return any(re.match(pattern, head, re.DOTALL) for pattern, _ in _FILMS)
    return False


def clock_at_beginning(path: str | PathLike) -> float:
    """Where the clock of a film's file stands at the film's beginning: browsers seek by it. 0 if it cannot be read."""
    with suppress(OSError, UnreadableFilmError, ImportError), Film(path) as film:
        return film._zero
    return 0.0


def check_rate(rate: float) -> None:
    """Refuses a number of frames a second that is none, by a ValueError."""
    if not 0 < rate <= MAX_RATE:  # also NaN
        raise ValueError(f"rate is {rate}, expected up to {MAX_RATE:.0f} frames a second")


def frame_at(path: str | PathLike, seconds: float) -> Image.Image:
    """The frame that a film shows at a moment, as `Film.frame_at`.

    Raises:
        ValueError: no such moment. UnreadableFilmError: it cannot be decoded. OSError: it cannot be read.
    """
    with Film(path) as film:
        return film.frame_at(seconds)


class Film:
    """A film that is open; use it in a `with` block.

    Attributes:
        path: its file.
        seconds: how long it says it lasts; None if it does not say.
        num_broken: packets and frames since `frames` began that could not be decoded, or only in part, or out of order.

    Raises:
        FileNotFoundError, OSError: it is not there, or cannot be read.
        UnreadableFilmError: it is no film, holds no pictures, or its frames are too large.
        ModuleNotFoundError: PyAV is missing.
    """

    def __init__(self, path: str | PathLike):
        self.path, self.num_broken = Path(path), 0
        self._stack = ExitStack()
        self._open()

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def frames(self, rate: float, start: float = 0.0) -> Iterator[Frame]:
        """The first frame at or after each tick of a clock that beats `rate` times a second, in order.

        Where the film has fewer frames, or their rate varies, these are all there are, and each comes once. Ticks are
        counted from the film's beginning: so whoever goes on from some `start` sees what they would have seen. At the
        end, a warning counts what was broken.

        Raises:
            ValueError: the rate or the start is no such number.
            UnreadableFilmError: there is no frame at all.
        """
        check_rate(rate)
        _check_moment(start)
        self.num_broken = 0
        due, ended, is_empty = start, 0.0, True
        for ended, frame in self._decoded(start):
            if ended + _SAME_TIME >= due and (image := self._upright(frame)) is not None:
                is_empty = False
                yield Frame(ended, image)
                due = (math.floor((ended + _SAME_TIME) * rate) + 1) / rate
        if is_empty and start == 0:
            raise self._unreadable(f"none of its frames can be decoded ({self.num_broken:,} are broken)")
        self._tell(ended)

    def frame_at(self, seconds: float) -> Image.Image:
        """The frame shown at a moment: the last one that is not later, or the first of all; upright, RGB.

        Raises:
            ValueError: no such moment. UnreadableFilmError: nothing can be decoded there.
        """
        _check_moment(seconds)
        shown = None
        for time, frame in self._decoded(seconds):
            if time > seconds + _SAME_TIME and shown is not None:
                break
            shown = frame
        image = None if shown is None else self._upright(shown)
        if image is None:
            raise self._unreadable(f"no frame can be decoded at {clock(seconds)}")
        return image

    def _open(self) -> None:
        import av

        self._stack.close()
        if self.path.exists() and not self.path.is_file():
            raise self._unreadable("it is no file", "name a film's file")
        file = self._stack.enter_context(self.path.open("rb"))
        if not is_film(self.path):
            raise self._unreadable("it is none by its first bytes", "convert it to MP4, or leave it out")
        try:
            self._container = self._stack.enter_context(av.open(file, options=dict(_OPTIONS), io_open=_refuse))
            self._stream = self._video_stream()
            # By default FFmpeg paints over what it cannot decode, and hardly says so.
            self._stream.codec_context.options = {"max_pixels": _OPTIONS["max_pixels"], "err_detect": "explode"}
            self._stream.codec_context.open()
        except av.FFmpegError as error:
            self._stack.close()
            raise self._unreadable(error.strerror or str(error)) from error
        except UnreadableFilmError:
            self._stack.close()
            raise
        stream, whole = self._stream, self._container.duration
        self._zero = (self._container.start_time or 0) / av.time_base
        lasts = whole and whole / av.time_base
        if lasts and "matroska" in self._container.format.name:  # it says when it ends
            lasts -= self._zero
        elif stream.duration and stream.time_base:  # a film that is cut off says by its pictures how long it was
            lasts = float((stream.duration + (stream.start_time or 0)) * stream.time_base) - self._zero
        self.seconds = lasts if lasts and 0 < lasts < math.inf else None
        self._is_fresh = True

    def _video_stream(self) -> Any:
        """The stream with the largest pictures, which are no cover of a record."""
        from av.stream import Disposition

        streams = [stream for stream in self._container.streams.video if stream.codec_context is not None]
        streams = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
        if not streams:
            others = {stream.type for stream in self._container.streams} - {"video"}
            raise self._unreadable(f"it holds no pictures{', but ' * bool(others)}{', '.join(sorted(others))}")
        stream = max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_FRAME_PIXELS:
            raise self._unreadable(
                f"its frames have {width:,} x {height:,} pixels, and may have {MAX_FRAME_PIXELS / 1e6:.0f} million",
                "make it smaller, or leave it out",
            )
        return stream

    def _decoded(self, start: float) -> Iterator[tuple[float, "VideoFrame"]]:
        """Frames and their times, from one that is not later than `start`, if there is one."""
        for back in _STEPS_BACK:
            frames = self._from(max(0.0, start - back))
            first = next(frames, None)
            if start <= back or (first is not None and first[0] <= start + _SAME_TIME):
                break
        else:
            frames = self._from(0.0)
            first = next(frames, None)
        if first is not None:
            yield from chain([first], frames)

    def _from(self, start: float) -> Iterator[tuple[float, "VideoFrame"]]:
        """Frames and their times, from the key frame before `start`, if the film's index is right."""
        import av

        if start > 0:
            try:
                place = round((start + self._zero) / self._stream.time_base)
                self._container.seek(place, stream=self._stream)
            except (av.FFmpegError, OverflowError):  # without an index
                self._open()
        elif not self._is_fresh:
            self._open()
        self._is_fresh = False
        a_frame, last, num_behind = 1 / float(self._stream.average_rate or 25), -math.inf, 0
        # An AVI holds no times, and FFmpeg guesses: those of decoding are in order, those of showing are not.
        is_guessed = self._container.format.name == "avi"
        for frame in self._frames():
            shown = frame.dts if is_guessed and frame.dts is not None else frame.pts
            is_told = shown is not None and frame.time_base
            time = round(float(shown * frame.time_base) - self._zero, 6) if is_told else -math.inf
            if not is_told or (is_guessed and time <= last):
                time = max(0.0, last + a_frame)
            if is_told:
                num_behind = num_behind + 1 if time < last - _BEHIND[0] else 0
            if num_behind == _BEHIND[1]:
                raise self._unreadable(
                    f"its clock begins anew after {clock(last)}, as where recordings were joined, so that a moment is "
                    "not one place in it",
                    f"ffmpeg -i {shlex.quote(printable(self.path.name))} -c copy joined.mp4, or leave it out",
                )
            if time <= last:
                self.num_broken += 1
                continue
            last = time
            yield max(0.0, time), frame

    def _frames(self) -> Iterator["VideoFrame"]:
        import av

        packets, is_spoilt, since = self._container.demux(self._stream), False, math.inf
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # nothing can be read beyond it
                self.num_broken += 1
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.num_broken += 1
                is_spoilt, since = True, math.inf
                continue
            for frame in frames:
                time = 0.0 if frame.time is None else frame.time
                if frame.is_corrupt:
                    is_spoilt, since = True, math.inf
                elif is_spoilt:
                    since = min(since, time)
                    is_spoilt = frame.pict_type != _WHOLE and time - since < _SPOILT
                if is_spoilt:
                    self.num_broken += 1
                else:
                    yield frame

    def _upright(self, frame: "VideoFrame") -> Image.Image | None:
        """A frame as it is shown; None, and counted, where it cannot be."""
        import av

        shape = float(self._stream.sample_aspect_ratio or 1)
        width = round(frame.width * shape) if 1 / _WIDEST_PIXEL <= shape <= _WIDEST_PIXEL else frame.width
        if not 0 < max(width, frame.width) * frame.height <= MAX_FRAME_PIXELS:  # it may change within a film
            self.num_broken += 1
            return None
        try:
            image = frame.to_image(width=max(1, width), height=frame.height)
        except (av.FFmpegError, ValueError):
            self.num_broken += 1
            return None
        turn = _turn_of(frame)
        return image if turn is None else image.transpose(turn)

    def _tell(self, ended: float) -> None:
        told = [f"packets or frames that are broken, and were skipped: {self.num_broken:,}"] if self.num_broken else []
        if self.seconds and ended + max(_CUT_OFF[0], _CUT_OFF[1] * self.seconds) < self.seconds:
            told.append(f"its last frame is at {clock(ended)}, though it says that it lasts {clock(self.seconds)}")
        if told:
            logger.warning("%s: %s; it may be damaged or cut off", printable(self.path), "; ".join(told))

    def _unreadable(self, cause: str, remedy: str = "fetch or export it again, or leave it out") -> UnreadableFilmError:
        return UnreadableFilmError(f"{printable(self.path)} cannot be read as a film: {cause}. Remedy: {remedy}.")


def _check_moment(seconds: float) -> None:
    if not 0 <= seconds < math.inf:  # also NaN
        raise ValueError(f"the moment {seconds} is none: expected seconds from a film's beginning")


def _turn_of(frame: "VideoFrame") -> Image.Transpose | None:
    """How to turn a frame so that it is upright: by quarters, perhaps mirrored; None: it is."""
    from av.sidedata.sidedata import Type

    try:
        a, b, _, c, d = struct.unpack("=9i", bytes(frame.side_data[Type.DISPLAYMATRIX]))[:5]
    except (KeyError, struct.error):
        return None
    largest = max(map(abs, (a, b, c, d)))
    return _TURNS.get(tuple(0 if 2 * abs(part) < largest else (1 if part > 0 else -1) for part in (a, b, c, d)))


def _refuse(url: str, *_: object) -> None:
    raise PermissionError(f"a film may not open other files, such as {url!r:.100}")
