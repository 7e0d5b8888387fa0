"""Stops a stage that rejects everything, before it goes on to its end.

A model that thinks without end, refuses, or paints black gives a reason for every single item, and each looks like an
item that was rejected for good cause. The difference is how many there are in a row. It is counted in texts, not in
items, since the images of one text are often rejected together; and in the order of the items, not in that of the
answers, since refusals come sooner than answers.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from itertools import takewhile
from operator import itemgetter

from pydantic import model_validator

from .components import REJECTED, Record, SynthesisError
from .settings import CountOrZero, Settings, TrueShare

_ITEMS_PER_TEXT = 20  # rejected items in a row, in the order of arrival, that count as a lost text: see `Brake.add`
_LONGEST_EXAMPLE = 160  # characters of a model's answer
_REMEDIES = {  # by a pattern in the reason
    r"black|one colour": "The weights or the dtype do not work: set dtype: bfloat16 or float32, or use whole weights",
    r"cut off": "The answers do not come to their end: turn the model's thinking off, or raise max_tokens "
    "(max_new_tokens)",
    r"refus|moderat|filter": "The model will not do it: change the prompt, or use another model",
    r"an answer (?:with|whose|that|of more|in pieces)": "See to the server and its log",
    r"JSON|mark|empty|schema": "The model does not keep to the form that it is asked for: change the prompt, or use "
    "another model",
    r"seam": "The images cannot be cut in two: look at some of them, then at the painter's adapter and prompt",
    r"person|people|head|body|knee": "Look at some of the images, then at the painter and its prompt",
    r"failed|error|no answer": "See to the server and its log",
}


class Brakes(Settings):
    """Settings for trials before the first item, and for stopping a stage.

    A text is lost in a stage if every item made of it is rejected.
    """

    in_a_row: CountOrZero = 24  # number of texts lost in a row at which a stage is stopped; 0 for never
    window: CountOrZero = 200  # number of latest texts whose share of lost ones stops a stage; 0 for never
    lost_at_most: TrueShare = 0.9  # the highest share of lost texts in the window
    preflight: bool = True  # whether every model, adapter and server is tried on one small thing before the first item
    # how many texts go through all stages before the others, in a folder of their own; 0 for none, and there is none in
    # recipes without models, or with less than ten times as many texts
    canary: CountOrZero = 8

    @model_validator(mode="after")
    def _check_window(self) -> "Brakes":
        if 0 < self.window < 20:
            raise ValueError(f"window must be 0, for no such brake, or at least 20 texts: {self.window}")
        return self


class Braked(SynthesisError):
    """A stage rejects (nearly) everything.

    Attributes:
        stretch: Chunk and record of everything rejected on the way here, to try again once the cause is mended.
    """

    def __init__(self, message: str, stretch: Sequence[tuple[int, Record]]):
        super().__init__(message)
        self.stretch = stretch


class Brake:
    """Watches the records of one stage as they come.

    Args:
        stage: Its name, for messages.
        settings: When to stop it.
    """

    def __init__(self, stage: str, settings: Brakes):
        self._stage, self._settings = stage, settings
        # For each of the latest texts: whether it is lost, and chunk and record of its rejected items.
        self._texts: deque[tuple[bool, list[tuple[int, Record]]]]
        self._texts = deque(maxlen=max(settings.in_a_row, settings.window, 1))
        self._hasty: list[tuple[int, Record]] = []  # rejected one after the other, in the order of arrival
        self._chunk = 0
        self._order: deque[str] = deque()
        self._waiting: dict[str, Record] = {}
        self._current: list[Record] = []  # the items of the text that is under way

    def begin(self, chunk: int, ids: Sequence[str]) -> None:
        """A chunk begins; records of these items will come."""
        self._chunk, self._order, self._waiting, self._current = chunk, deque(ids), {}, []

    def add(self, record: Record) -> None:
        """A record came.

        Raises:
            Braked: too much was rejected.
        """
        self._waiting[record["id"]] = record
        while self._order and self._order[0] in self._waiting:
            self._count(self._waiting.pop(self._order.popleft()))
        # One item that never ends must not hide what happens to all those behind it.
        self._hasty = [*self._hasty, (self._chunk, record)] if REJECTED in record else []
        if self._settings.in_a_row and len(self._hasty) >= _ITEMS_PER_TEXT * self._settings.in_a_row:
            self._stop(f"the last {len(self._hasty):,} items in a row were all rejected", self._hasty)

    def _count(self, record: Record) -> None:
        self._current.append(record)
        if self._order and _text_of(self._order[0]) == _text_of(record["id"]):
            return
        rejected = [(self._chunk, one) for one in self._current if REJECTED in one]
        self._texts.append((len(rejected) == len(self._current), rejected))
        self._current = []
        in_a_row, window, texts = self._settings.in_a_row, self._settings.window, list(self._texts)
        lost = list(takewhile(itemgetter(0), reversed(texts)))[::-1]
        if in_a_row and len(lost) >= in_a_row:
            stretch = [entry for _, rejected in lost for entry in rejected]
            self._stop(f"all {len(stretch):,} items of the last {len(lost):,} texts were rejected", stretch)
        num_lost = sum(is_lost for is_lost, _ in texts[-window:])
        if window and len(texts) >= window and num_lost > self._settings.lost_at_most * window:
            stretch = [entry for _, rejected in texts[-window:] for entry in rejected]
            self._stop(f"of the last {window:,} texts {num_lost:,} lost all their items", stretch)

    def _stop(self, what: str, stretch: Sequence[tuple[int, Record]]) -> None:
        records = [record for _, record in stretch]
        raise Braked(f"stage {self._stage}: {what}, {why_rejected(records)}", stretch)


def _text_of(item: str) -> str:
    """The text that an item with this id was made of: that of "17-3" and "17-3-e1" is "17"."""
    return item.partition("-")[0]


def why_rejected(records: Sequence[Record]) -> str:
    """The commonest reason of these rejected records with an example, to end a sentence, and the remedy."""
    (reason, count), *_ = Counter(str(record[REJECTED]) for record in records).most_common(1)
    example = next(record for record in records if str(record[REJECTED]) == reason)
    said = example.get("answers") or example.get("reasons") or [""]
    words = " ".join(str(said[-1]).split())
    shown = f": {words[:_LONGEST_EXAMPLE]!r}" if words and words != reason else ""
    return f"{count:,} of them for {reason!r} (item {example['id']}{shown}). {remedy_of(reason)}."


def remedy_of(reason: str) -> str:
    """What helps if everything is rejected for this reason."""
    found = (remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, reason, re.IGNORECASE))
    return next(found, "Look at what was rejected, then at the recipe")


def check_usable(stage: str, tried: Sequence[Record]) -> None:
    """Stop if none of the records of a trial before the first item can be used.

    Raises:
        SynthesisError: with the reason, an example and the remedy.
    """
    if all(REJECTED in record for record in tried):
        raise SynthesisError(
            f"stage {stage}: before the first item it was tried {len(tried)} times, and nothing could be used, "
            f"{why_rejected(tried)} Then give the same command again; with `brakes: {{preflight: false}}` in the "
            "recipe nothing is tried."
        )
