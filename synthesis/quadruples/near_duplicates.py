"""Finds quadruples that say nearly what an earlier one says, in time that grows with their number and not its square.

Two quadruples are compared by the word trigrams of their captions: the Jaccard index of both sets. MinHash finds the
few pairs worth comparing (16 bands of 8 hashes: it finds 95 % of the pairs with an index of 0.8, 99 % of those with
0.85, and looks at 6 % of those with 0.5), and the index itself decides.

Edits are left out, because images are painted from captions: the same captions with other edits would be painted again,
while similar edits can stand between quite different images. A quadruple the other way round, A for B, is the same.
"""

import re
import zlib
from array import array
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ..components import Record
from ..settings import Settings

_BANDS, _HASHES_PER_BAND = 16, 8
_LEAST = 0.75  # below this, the bands find less than four in five


class NearDuplicateSettings(Settings):
    """Settings of which quadruples are too near to one another.

    Attributes:
        threshold: Jaccard index of the word trigrams from which on the later of two is rejected, from 0.75 to 1 (the
            same sentences). At 0.8, two that differ by a word at the start of both captions ("a young woman") are too
            near; two that differ by a colour or garment within them are not.
    """

    threshold: Annotated[float, Field(ge=_LEAST, le=1)] = 0.8


def reject_near_duplicates(records: Iterable[Record], settings: NearDuplicateSettings) -> dict[str, str]:
    """The ids of quadruples that are too near to an earlier one, and that one's id.

    Earlier ones that are rejected themselves do not count, so that a rejected one names one that stays. More records at
    the end change nothing for those before.
    """
    from rensa import RMinHash, RMinHashLSH

    num_hashes = _BANDS * _HASHES_PER_BAND
    index = RMinHashLSH(threshold=settings.threshold, num_perm=num_hashes, num_bands=_BANDS)
    kept_ids: list[str] = []
    kept_trigrams: list[array[int]] = []
    too_near: dict[str, str] = {}
    for record in records:
        trigrams = trigrams_of(record)
        numbers = {zlib.crc32(trigram.encode()) for trigram in trigrams}  # a twentieth of the memory
        min_hash = RMinHash(num_perm=num_hashes, seed=0)
        min_hash.update(list(trigrams))
        for candidate in sorted(index.query(min_hash)):
            if jaccard(numbers, set(kept_trigrams[candidate])) >= settings.threshold:
                too_near[record["id"]] = kept_ids[candidate]
                break
        else:
            index.insert(len(kept_ids), min_hash)
            kept_ids.append(record["id"])
            kept_trigrams.append(array("I", numbers))
    return too_near


def trigrams_of(record: Record) -> set[str]:
    """All runs of three words in the captions of a quadruple; a shorter caption is one run."""
    trigrams: set[str] = set()
    for name in ("caption_a", "caption_b"):
        words = re.findall(r"\w+", record[name].lower())
        trigrams.update(" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2)))
    return trigrams


def jaccard(first: set, second: set) -> float:
    """The share of two sets that they have in common."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)
