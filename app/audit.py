"""Who asked what and got which images: a line of JSON each, where that is asked for."""

import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path

from .answers import Answer
from .faults import Refused
from .questions import Question


class Audit:
    """Appends to a file that only its owner may read. What cannot be written down is not answered.

    Args:
        file: its folder is there.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, file: Path):
        self._file, self._lock = file, threading.Lock()
        os.close(self._open())

    def write(self, user: str, question: Question, answer: Answer) -> None:
        """Notes a search.

        Args:
            user: no name, but the same for all that one browser asks.

        Raises:
            Refused: it cannot be noted.
        """
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "user": user,
            "question": question.model_dump(exclude_defaults=True),
            "generation": answer.generation,
            "found": [hit.id for hit in answer.hits],
            "milliseconds": answer.milliseconds,
        }
        try:
            with self._lock, os.fdopen(self._open(), "w", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise Refused(
                "This server notes all searches, and cannot do so now; therefore it does not answer.", 503, 60
            ) from error

    def _open(self) -> int:
        return os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
