"""The one service that answers the page and the JSON API."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image

from ..drawing.heat import heated
from ..files import contents_of
from ..image_reading_fafa import UnreadableImageError, open_image
from ..names import counted, printable
from ..retrieval.explaining import heat_map
from ..retrieval.filters import fields_in
from ..retrieval.forward import SMALL_MODEL
from ..retrieval.gallery import Gallery
from ..retrieval.queries import Query
from ..retrieval.queries import Term as QueryTerm
from ..retrieval.searching import SearchResult
from .answers import Answer, Example, Facts, Hit
from .batching import Batches
from .faults import Refused
from .fields import filter_fields, is_secret
from .media import GONE, cropped, film_url, name_of, open_person, open_photo, photo_url, readable, thumbnail_url
from .questions import RESULT, Likeness, Question, Term
from .saved import SavedSearches
from .uploads import UploadStore

if TYPE_CHECKING:
    from ..people.detectors import FoundPerson
    from .audit import Audit

logger = logging.getLogger(__name__)

_FOLLOWED_EVERY = 2.0  # seconds, after which it is looked whether the gallery has changed
FAILED = "Something went wrong here; nothing of yours is lost. The server's log says what it was."

One = TypeVar("One")


@dataclass(frozen=True)
class _Asked:
    """What waits for the model: a search, or, with an image's id, the heat map of that image for it."""

    question: Question
    user: str
    map_of: int | None = None


class SearchService:
    """Searches a gallery for several users at a time.

    Questions that come at the same time are encoded in one batch, by one thread, which alone uses model and gallery.
    A gallery in a folder is followed while others write to it; each question is answered from one state of it.

    Args:
        gallery: what to search. `name`: how users know it.
        batch_size: questions that are answered together. `waiting`: those that may wait, see `Batches`.
        uploads: see `UploadStore`; by default one of its own.
        find_people: finds people in a photograph, see `people.people_in`; None where that is not offered.
        begin_with: ids of images and captions as examples; by default some of the gallery's images.
        audit: writes down who asked what; None: nobody does. `saved`: the users' saved searches; by default in
            memory.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        name: str | None = None,
        batch_size: int = 32,
        waiting: int = 256,
        uploads: UploadStore | None = None,
        find_people: "Callable[[Image.Image], list[FoundPerson]] | None" = None,
        begin_with: Sequence[tuple[int, str | None]] = (),
        audit: "Audit | None" = None,
        saved: SavedSearches | None = None,
    ):
        self.gallery, self.uploads, self.find_people = gallery, uploads or UploadStore(), find_people
        lies = gallery.place.path if gallery.place else gallery.folder
        self.name = name or (lies.name if lies else "gallery in memory")
        self.audit, self.saved = audit, saved or SavedSearches()
        self.begin_with, self._notes = list(begin_with), _notes_on(gallery)
        self._look_again, self._stale = 0.0, False
        self._detecting = ThreadPoolExecutor(1, "detector")  # whoever goes away does not let a second one begin
        self._batches: Batches[_Asked, Any] = Batches(self._answer_all, batch_size, waiting)

    @property
    def is_alive(self) -> bool:
        """Whether questions are answered."""
        return self._batches.is_alive

    def close(self) -> None:
        """Ends the threads that answer."""
        self._detecting.shutdown(wait=False, cancel_futures=True)
        self._batches.close()

    async def search(self, question: Question, user: str) -> Answer:
        """The answer to a question.

        Args:
            user: who asks: whose uploads are meant.

        Raises:
            Refused: there is none, with the sentence to show. A task that is cancelled takes its question back.
        """
        begun = time.perf_counter()
        answer: Answer = await self._batches.ask(_Asked(question, user))
        answer.milliseconds = round(1_000 * (time.perf_counter() - begun), 1)
        if self.audit is not None:
            await asyncio.to_thread(self.audit.write, user, question, answer)
        return answer

    async def similar(self, likeness: Likeness, user: str) -> Answer:
        """Images like one of the gallery; errors as for `search`."""
        return await self.search(likeness.question(), user)

    async def heat_map(self, question: Question, number: int, user: str) -> Image.Image:
        """Where in an image of the gallery the model found what was asked: the image under its heat.

        Of several terms, the one that weighs most is shown. Errors as for `search`.
        """
        return await self._batches.ask(_Asked(question, user, number))

    async def people_in(self, name: str, user: str) -> list[tuple[float, float, float, float]]:
        """The boxes of people in a picture, in pixels, from left to right; none without a detector.

        Args:
            name: as `Term.image` takes it; of a result, its whole photograph. Errors as for `search`.
        """
        if (find_people := self.find_people) is None:
            return []

        def find() -> list[tuple[float, float, float, float]]:
            return [tuple(one.box) for one in find_people(self.photo(name, user))]

        return await asyncio.get_running_loop().run_in_executor(self._detecting, find)

    def photo(self, name: str, user: str) -> Image.Image:
        """A whole photograph, upright, as `Term.image` names it; errors as for `search`."""
        if name.startswith(RESULT):
            return readable(open_photo, self.result(_id_in(name)))
        return open_image({"bytes": self.uploads.of(user, name).data})

    def result(self, number: int) -> SearchResult:
        """An image of the gallery.

        Raises:
            Refused: there is none of this number.
        """
        try:
            return self.gallery.by_ids([number])[0]
        except (ValueError, OverflowError):
            raise Refused(f"The gallery holds no image {number}; it may have been deleted.", 404) from None

    def facts(self) -> Facts:
        """Who answers, and from what."""
        state, name = self.gallery.state, str(self.gallery.state.settings["model"].get("name") or "")
        fields = filter_fields(state)
        return Facts(
            model=printable(name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".")) else name) or "unnamed",
            gallery=printable(self.name),
            images=len(state),
            generation=state.generation,
            is_calibrated=state.calibration is not None,
            has_detector=self.find_people is not None,
            has_films=any(field.name == "time" for field in fields),
            notes=self._notes,
            fields=fields,
        )

    def examples(self, number: int = 8) -> list[Example]:
        """A few images of the gallery to begin with, those with captions first."""
        ids = self.gallery.state.ids
        spread = [int(ids[place * len(ids) // number]) for place in range(min(number, len(ids)))]
        chosen = (self.begin_with or [(image, None) for image in spread])[:number]
        results = [_attempt(self.result, image) for image, _ in chosen]
        return [
            Example(
                image=f"{RESULT}{result.id}",
                caption=caption,
                description=f"a person of the gallery, {name_of(result)}",
                thumbnail=thumbnail_url(result),
            )
            for result, (_, caption) in zip(results, chosen, strict=True)
            if not isinstance(result, Exception)  # else it has been deleted
        ]

    # In the thread that answers

    def _answer_all(self, asked: Sequence[_Asked]) -> list[Any]:
        self._follow()
        queries = [self._told(_attempt(self._query, one)) for one in asked]
        searches = [
            place
            for place, query in enumerate(queries)
            if asked[place].map_of is None and not isinstance(query, Exception)
        ]
        answers: list[Any] = [
            query if isinstance(query, Exception) or one.map_of is None else _attempt(self._heat_map, one, query)
            for one, query in zip(asked, queries, strict=True)
        ]
        if len(self.gallery) == 0:
            for place in searches:
                answers[place] = self._empty()
            searches = []
        resolved = _each(self.gallery.resolve, [queries[place] for place in searches])
        ready: dict[tuple[str | None, float | None], list[tuple[int, Any]]] = {}
        for place, terms in zip(searches, resolved, strict=True):
            answers[place] = self._told(terms)
            if not isinstance(terms, Exception):
                question = asked[place].question
                ready.setdefault((question.where, question.false_alarm_rate), []).append((place, terms))
        for (where, rate), group in ready.items():

            def search(
                group: Sequence[tuple[int, Any]], where: str | None = where, rate: float | None = rate
            ) -> list[list[SearchResult]]:
                own, terms = zip(*group, strict=True)
                top = max(asked[place].question.top for place in own)
                options = {"where": where, "false_alarm_rate": rate, "resolved": terms}
                return self.gallery.search_many([queries[place] for place in own], top, **options)

            for (place, _), results in zip(group, _each(search, group), strict=True):
                answers[place] = (
                    results
                    if isinstance(results, Exception)
                    else _attempt(self._answer, asked[place].question, queries[place], results)
                )
        return [_refusal(answer) if isinstance(answer, Exception) else answer for answer in answers]

    def _follow(self) -> None:
        """Searches the gallery as it is now, or, while that cannot be read, as it was."""
        if time.monotonic() < self._look_again:
            return
        try:
            self.gallery.refresh()
            self._stale = False
        except (OSError, ValueError) as error:
            if not self._stale:
                logger.warning("the gallery cannot be read anew, and is searched as it was: %s", error)
            self._stale = True
        self._look_again = time.monotonic() + _FOLLOWED_EVERY

    def _query(self, asked: _Asked) -> Query:
        """What a question means to the gallery."""
        question, left_out = asked.question, set()
        terms = []
        for term in question.terms:
            image, own = (None, []) if term.image is None else self._image(term, asked.user)
            left_out.update(own if question.exclude_query else ())
            terms.append(QueryTerm(image, term.caption, term.weight))
        terms += [QueryTerm(caption=unwanted.caption, weight=-unwanted.weight) for unwanted in question.minus]
        query = Query(tuple(terms), tuple(question.right), tuple(question.wrong), tuple(sorted(left_out)))
        self.gallery.state.rows_of_ids((*query.right, *query.wrong))  # refuses what is not there
        allowed = self.gallery.allowed(question.where)
        if allowed.condition and is_secret("path", allowed.state) and "path" in fields_in(allowed.condition):
            raise Refused("Filters by path are not answered here: the images lie in no common folder.")
        if question.false_alarm_rate is not None:
            self.gallery.judge(query.kind, question.false_alarm_rate, allowed)
        return query

    def _image(self, term: Term, user: str) -> tuple[Any, list[int]]:
        """A term's image, and the ids of what would be found as a copy of it."""
        if term.image.startswith(RESULT):
            result = self.result(_id_in(term.image))
            if term.box is not None:
                return cropped(self.photo(term.image, user), term.box), [result.id]
            if result.path is None or not result.path.is_file():
                raise Refused(GONE, 404)
            return result, [result.id]
        upload, state = self.uploads.of(user, term.image), self.gallery.state
        copies = state.ids_of(
            torch.tensor(state.rows_with("contents", contents_of(upload.data)), dtype=torch.int64)
        ).tolist()

        def opened() -> Image.Image:
            # A whole file goes to the processor as it is: it may decode a large one at a part of its size.
            whole = {"bytes": upload.data}
            image = whole if term.box is None else cropped(self.photo(term.image, user), term.box)
            return self.gallery.processor.open_crop(image)

        return self.uploads.crop(user, term.image, term.box, opened), copies

    def _heat_map(self, asked: _Asked, query: Query) -> Image.Image:
        term = max(query.terms, key=lambda term: term.weight)
        image = term.image
        if isinstance(image, SearchResult):
            image = readable(open_person, image)
        target = readable(open_person, self.result(asked.map_of))
        try:
            heat = heat_map(self.gallery.model, self.gallery.processor, target, image, term.caption)
        except NotImplementedError:
            raise Refused("This model does not tell where it looks, so there are no heat maps.", 501) from None
        return heated(heat.image, heat.heat)

    def _answer(self, question: Question, query: Query, results: Sequence[SearchResult]) -> Answer:
        least = -1.0 if question.least_score is None else question.least_score
        results = [result for result in results if result.score >= least][: question.top]
        captions = dict.fromkeys(one.caption for one in (*question.terms, *question.minus) if one.caption)
        remarks = (remark for caption in captions for remark in self.gallery.processor.caption_remarks(caption))
        notes = [*self._state_notes(), *remarks]
        if not results:
            notes.append("Nobody is found: no image passes filters and cut-off. Widen them, or ask in other words.")
        state = self.gallery.state
        hidden = state.rows_of_ids((*query.wrong, *query.left_out))
        return Answer(
            hits=[_hit(result) for result in results],
            searched=self.gallery.allowed(question.where).without(hidden).count(),
            milliseconds=0.0,
            notes=notes,
            generation=state.generation,
        )

    def _told(self, made: One | Exception) -> One | Exception:
        """What was made of a question; an error that is about the question gets its sentence said to the user."""
        if not isinstance(made, (ValueError, TypeError)) or isinstance(made, UnreadableImageError):
            return made
        sentence, folders = str(made), (self.gallery.place and self.gallery.place.path, self.gallery.folder)
        if any(str(folder) in sentence for folder in folders if folder is not None):  # about a file of the gallery
            return made
        return Refused(sentence.replace("where=", "the filter ", 1))  # as its readers know it

    def _empty(self) -> Answer:
        note = "The gallery holds no image yet. Ask again when some are indexed."
        state = self.gallery.state
        return Answer(
            hits=[], searched=0, milliseconds=0.0, notes=[note, *self._state_notes()], generation=state.generation
        )

    def _state_notes(self) -> list[str]:
        return ["The gallery has changed and cannot be read now: this answers from what it was."] if self._stale else []


def _notes_on(gallery: Gallery) -> list[str]:
    weights = sum(weight.numel() for weight in gallery.model.parameters())
    if not 0 < weights < SMALL_MODEL:
        return []
    return [
        f"This is a tiny model ({counted(weights, 'weight')}), made for painted people: its answers over real "
        "photographs mean nothing."
    ]


def _hit(result: SearchResult) -> Hit:
    entry = result.entry
    return Hit(
        id=result.id,
        rank=result.rank,
        score=result.score,
        probability=result.probability,
        name=name_of(result),
        **{name: getattr(entry, name) for name in ("box", "time", "camera", "taken", "tags")},
        thumbnail=thumbnail_url(result),
        photo=photo_url(result),
        film=film_url(result),
    )


def _id_in(name: str) -> int:
    number = name.removeprefix(RESULT)
    if not (number.isascii() and number.isdigit() and len(number) < 19):
        raise Refused(f"{name!r:.60} names no image: expected {RESULT} and a number.")
    return int(number)


def _attempt(do: Callable[..., One], *given: Any) -> One | Exception:
    try:
        return do(*given)
    except Exception as error:
        return error


def _each(do: Callable[[Sequence[Any]], Sequence[One]], several: Sequence[Any]) -> list[One | Exception]:
    """What is made of several things together, or, if one of them spoils it, of each by itself."""
    if not several:
        return []
    try:
        return list(do(several))
    except Exception as error:
        if len(several) == 1:
            return [error]
        return [_each(do, [one])[0] for one in several]


def _refusal(error: Exception) -> Refused:
    """What to say of an error; of a fault, that there is one."""
    if isinstance(error, Refused):
        return error
    logger.error("a question could not be answered", exc_info=error)
    return Refused(FAILED, 500)
