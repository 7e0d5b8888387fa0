"""A question as the short text of a link, and back. It names uploads and images by their ids: no picture is in it."""

import base64
import binascii
import zlib

from pydantic import ValidationError

from .faults import Refused
from .questions import Question

_MOST = 2**17  # bytes of a question; that of the longest one is half of it


def text_of(question: Question) -> str:
    """A text of letters, digits, hyphens and underscores."""
    packed = zlib.compress(question.model_dump_json(exclude_defaults=True).encode(), 9)
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def question_of(text: str) -> Question:
    """The question of such a text.

    Raises:
        Refused: it is none.
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), _MOST)
        if not unpacker.eof:
            raise ValueError("too long, or cut off")
        return Question.model_validate_json(data)
    except (ValueError, binascii.Error, zlib.error, ValidationError) as error:
        raise Refused("This link is damaged or cut off: copy all of it, or ask anew.") from error
