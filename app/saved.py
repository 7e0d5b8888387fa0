"""Searches that users have saved, each under its user alone: in memory, or in one SQLite file if that is asked for."""

import secrets
import sqlite3
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from .faults import Refused
from .questions import Question

_MOST = 200  # of one user
_MOST_BYTES = 2**28  # of all: whoever sends no cookie is a new user each time
_TABLE = """
CREATE TABLE IF NOT EXISTS searches (id TEXT PRIMARY KEY, user TEXT NOT NULL, name TEXT NOT NULL,
    question TEXT NOT NULL, saved_at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS searches_by_user ON searches (user);
"""


class NewSearch(BaseModel):
    """A search to save."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    question: Question


class SavedSearch(NewSearch):
    """A search that was saved."""

    id: str
    saved_at: str = Field(description="ISO 8601, UTC")


class SavedSearches:
    """The saved searches of all users. Photographs that they ask by are not among what is kept.

    Args:
        folder: where to keep them; None: in memory, until the server ends.

    Attributes:
        is_kept: whether they outlive the server.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path | None = None):
        place, self.is_kept = ":memory:", folder is not None
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = str(folder / "saved_searches.sqlite")
            Path(place).touch(mode=0o600)
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(place, check_same_thread=False, isolation_level=None)
            self._connection.executescript(_TABLE)
            [(page,)] = self._connection.execute("PRAGMA page_size").fetchall()
            self._connection.execute(f"PRAGMA max_page_count = {_MOST_BYTES // page}")
        except sqlite3.Error as error:
            raise OSError(f"{place} cannot keep saved searches ({error}): choose another folder") from error

    def keep(self, user: str, name: str, question: Question) -> SavedSearch:
        """Saves a search.

        Raises:
            Refused: the user has saved too many, or it cannot be kept now.
        """
        new = NewSearch(name=name.strip() or "search", question=question)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        one = SavedSearch(id=secrets.token_urlsafe(12), saved_at=now, **vars(new))
        [(number,)] = self._ask("SELECT count(*) FROM searches WHERE user = ?", user)
        if number >= _MOST:
            raise Refused(f"{_MOST} searches are saved already: delete some.", 409)
        text = question.model_dump_json(exclude_defaults=True)
        self._ask("INSERT INTO searches VALUES (?, ?, ?, ?, ?)", one.id, user, one.name, text, now)
        return one

    def of(self, user: str) -> list[SavedSearch]:
        """A user's searches, the newest first."""
        rows = self._ask("SELECT * FROM searches WHERE user = ? ORDER BY saved_at DESC, rowid DESC", user)
        return [_search(row) for row in rows]

    def get(self, user: str, number: str) -> SavedSearch:
        """One of a user's searches.

        Raises:
            Refused: the user has none of this id, whoever else has.
        """
        if not (rows := self._ask("SELECT * FROM searches WHERE user = ? AND id = ?", user, number)):
            raise _absent()
        return _search(rows[0])

    def drop(self, user: str, number: str) -> None:
        """Deletes one of a user's searches; errors as for `get`."""
        if not self._ask("DELETE FROM searches WHERE user = ? AND id = ? RETURNING id", user, number):
            raise _absent()

    def _ask(self, question: str, *values: str) -> list[tuple]:
        try:
            with self._lock:
                return self._connection.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise Refused(f"The saved searches cannot be read or written now ({error}).", 503) from error


def _absent() -> Refused:
    return Refused("There is no such saved search of yours.", 404)


def _search(row: tuple) -> SavedSearch:
    number, _, name, question, saved_at = row
    return SavedSearch(id=number, name=name, question=Question.model_validate_json(question), saved_at=saved_at)
