"""Photographs that users upload: bounded, in memory alone, and forgotten after a while."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..image_reading_fafa import InaccessibleImageError, UnreadableImageError, inspect_image
from .faults import Refused

MOST_BYTES = 2**25  # of one photograph: 32 MiB
MOST_PIXELS = 2**26  # of one: 67 megapixels
_OF_A_USER = 40  # photographs
_SECONDS = 3_600
_ON_THEIR_WAY = 2**29  # bytes of uploads that are on their way at a time
_CROPS, _CROP_PIXELS = 64, 2**20  # kept as the model takes them, and the most that one may have
_AT_ONCE = 2  # decoded at a time: a photograph on the edge of what is allowed takes some 500 MB


@dataclass(frozen=True)
class Upload:
    """One photograph.

    Args:
        data: its file's contents. `width`, `height`: of the upright picture.
    """

    id: str
    user: str
    data: bytes
    width: int
    height: int
    until: float


class UploadStore:
    """The photographs of all users, each of whom sees only their own.

    Args:
        most_bytes: of all together; the oldest give way. `seconds`: for which one is kept after its last use.
    """

    def __init__(self, most_bytes: int = 2**28, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic):
        self._most_bytes, self._seconds, self._clock = most_bytes, seconds, clock
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._crops: OrderedDict[tuple[str, Any], Image.Image] = OrderedDict()
        self._lock, self._decoding = threading.Lock(), threading.Semaphore(_AT_ONCE)
        self._on_their_way = 0  # bytes

    @contextmanager
    def receiving(self, length: str | None) -> Iterator[None]:
        """Room for an upload that is on its way.

        Args:
            length: how many bytes it says that it has; without that, as many as it may have are counted.

        Raises:
            Refused: too many are on their way.
        """
        size = int(length) if length and length.isdigit() else MOST_BYTES
        with self._lock:
            if self._on_their_way + size > _ON_THEIR_WAY:
                raise Refused("Too many photos are being uploaded. Try again in a few seconds.", 503, retry_after=5)
            self._on_their_way += size
        try:
            yield
        finally:
            with self._lock:
                self._on_their_way -= size

    def keep(self, user: str, data: bytes) -> Upload:
        """Keeps a photograph.

        Raises:
            Refused: it is no photograph, or too large.
        """
        if len(data) > MOST_BYTES:
            raise too_large()
        try:
            with self._decoding:
                facts = inspect_image({"bytes": data}, "This file", decode=False)
                if facts.width * facts.height > MOST_PIXELS:
                    raise Refused(
                        f"This photo has {facts.width:,} x {facts.height:,} pixels, more than the {MOST_PIXELS:,} that "
                        "are taken here: make it smaller.",
                        413,
                    )
                facts = inspect_image({"bytes": data}, "This file")
        except (UnreadableImageError, InaccessibleImageError) as error:
            raise Refused(f"This file {error.reason}" if hasattr(error, "reason") else str(error), 415) from error
        one = Upload(secrets.token_urlsafe(16), user, data, facts.width, facts.height, self._clock() + self._seconds)
        with self._lock:
            self._forget_old()
            own = [number for number, other in self._kept.items() if other.user == user]
            for number in own[: max(0, len(own) + 1 - _OF_A_USER)]:
                del self._kept[number]
            self._kept[one.id] = one
            while sum(len(other.data) for other in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)
            self._forget_crops()
        return one

    def of(self, user: str, number: str) -> Upload:
        """A user's own photograph.

        Raises:
            Refused: there is none, or none any more.
        """
        with self._lock:
            self._forget_old()
            found = self._kept.get(number)
            if found is None or found.user != user:
                raise Refused("This photo is no longer kept here: upload it again.", 404)
            self._kept.move_to_end(number)
            found = self._kept[number] = Upload(**{**vars(found), "until": self._clock() + self._seconds})
            return found

    def crop(self, user: str, number: str, box: Any, opened: Callable[[], Image.Image]) -> Image.Image:
        """What the model takes of a user's own photograph; the last ones are kept, so that the next search, with a mark
        or another sentence, decodes nothing. Errors as for `of`.

        Args:
            box: of whom; None for the whole. `opened`: makes it.
        """
        self.of(user, number)
        with self._lock:
            crop = self._crops.get((number, box))
        if crop is None:
            crop = opened()
            with self._lock:
                if number in self._kept and crop.width * crop.height <= _CROP_PIXELS:
                    self._crops[number, box] = crop
                    while len(self._crops) > _CROPS:
                        self._crops.popitem(last=False)
        return crop

    def forget(self, user: str, number: str) -> None:
        """Forgets a photograph at once; errors as for `of`."""
        self.of(user, number)
        with self._lock:
            self._kept.pop(number, None)
            self._forget_crops()

    def forget_old(self) -> None:
        """Forgets what was not used for so long; others do it only when they are asked for something."""
        with self._lock:
            self._forget_old()

    def _forget_old(self) -> None:
        now = self._clock()
        for number in [number for number, one in self._kept.items() if one.until < now]:
            del self._kept[number]
        self._forget_crops()

    def _forget_crops(self) -> None:
        for key in [key for key in self._crops if key[0] not in self._kept]:
            del self._crops[key]


def too_large() -> Refused:
    """What is said of an upload that has too many bytes."""
    return Refused(f"This file is larger than the {MOST_BYTES >> 20} MB that are taken here: make it smaller.", 413)
