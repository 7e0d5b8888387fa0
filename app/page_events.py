"""What happens on the page: each method answers one event, and returns the parts that change."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from typing import Any

import gradio as gr
from PIL import Image

from . import links
from .faults import Refused
from .media import name_of, thumbnail_url
from .page_asking import Fields, fields_of, question_of, summary_of, take_up
from .page_parts import RESULTS, Changes, PageParts
from .page_session import PageSession, Photo, Search, Wish, without_marks
from .page_turns import in_turn
from .page_views import details_shown, photo_shown, results_shown, saved_shown, searches_shown, view, wishes_shown
from .questions import MINUS_WEIGHT, MOST_MARKS, MOST_TERMS, RESULT, Question
from .service import SearchService

_LONGEST_LINK = 200_000  # characters


class PageEvents:
    """Answers the events of a page.

    Args:
        user_of: whose request it is.
    """

    def __init__(self, service: SearchService, user_of: Callable[[Any], str], parts: PageParts):
        self.service, self.user_of, self.parts = service, user_of, parts

    # The beginning, and asking

    @in_turn
    async def began(self, session: PageSession, request: gr.Request) -> Changes:
        """The page is opened, perhaps by a link that repeats a query."""
        text = request.query_params.get("q")
        changes = await self._repeat(session, links.question_of(text), request) if text else {}
        changes.pop(self.parts.tabs, None)  # somebody may have turned to another one already
        facts = await asyncio.to_thread(self.service.facts)  # the gallery may have grown since the server began
        return {self.parts.header: view("header", facts=facts), self.parts.kept: self._kept(request), **changes}

    @in_turn
    async def followed(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """Somebody went back to an earlier search, or forth again, by the browser's own buttons."""
        if text := _text(event, "q", _LONGEST_LINK):
            return await self._repeat(session, links.question_of(text), request)
        return self._clear(session)

    @in_turn
    async def searched(self, session: PageSession, request: gr.Request, *values: Any) -> Changes:
        """Somebody asks."""
        return await self._ask(session, question_of(session, self.parts.read(values)), request)

    @in_turn
    async def cleared(self, session: PageSession) -> Changes:
        """Everything but the history is put back."""
        return self._clear(session)

    def _clear(self, session: PageSession) -> Changes:
        session.photo, session.wishes, session.question, session.answer, session.opened = None, [], None, None, None
        session.forget_marks()
        return {**self.parts.write(Fields()), self.parts.wish: "", **self._shown(session)}

    async def _ask(self, session: PageSession, question: Question, request: gr.Request) -> Changes:
        told = {}
        if session.question is None or without_marks(question) != without_marks(session.question):
            if session.right or session.wrong:
                told = self.say("Your marks were about another question and are taken back.")
            session.forget_marks()
            question = without_marks(question)
        answer = await self.service.search(question, self._user(request))
        session.question, session.answer, session.opened, session.heat = question, answer, None, None
        session.answers += 1
        session.note(Search(question, len(answer.hits), datetime.now()))
        return {self.parts.tabs: gr.Tabs(selected=RESULTS), **self._shown(session), **told}

    async def _repeat(self, session: PageSession, question: Question, request: gr.Request) -> Changes:
        """Asks a question from elsewhere: a link, the history, a saved search."""
        fields = self.parts.write(fields_of(question, self.parts.listed))
        images = {term.image for term in question.terms if term.image is not None}
        try:
            photos = {image: await self._photo(session, image, request) for image in images}
            right, wrong = (
                {number: self._result(number) for number in ids} for ids in (question.right, question.wrong)
            )
        except Refused as refusal:  # a photo or a marked result is gone: all else is there to ask again
            return {**fields, **self.say(refusal.sentence, "error")}
        take_up(session, question, photos)
        session.right, session.wrong, session.question = right, wrong, question
        return {**fields, **await self._ask(session, question, request)}

    # The reference photo

    @in_turn
    async def uploaded(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A photo has been sent."""
        photo = await self._photo(session, _text(event, "id"), request, _text(event, "name"))
        session.photo = session.photos[photo.image] = photo
        return {self.parts.photo: self._photo_shown(session)}

    @in_turn
    async def refused(self, session: PageSession, event: gr.EventData) -> Changes:
        """A photo could not be sent."""
        return self.say(_text(event, "sentence"), "error")

    @in_turn
    async def removed(self, session: PageSession) -> Changes:
        """There is to be no reference photo."""
        session.photo = None
        return {self.parts.photo: self._photo_shown(session)}

    @in_turn
    async def person(self, session: PageSession, event: gr.EventData) -> Changes:
        """Somebody in the photo is meant, or the whole of it."""
        number = _number(event, "number")
        if session.photo and number < len(session.photo.people):
            session.photo = replace(session.photo, person=None if number < 0 else number)
        return {self.parts.photo: self._photo_shown(session)}

    @in_turn
    async def example(self, session: PageSession, event: gr.EventData, request: gr.Request, *values: Any) -> Changes:
        """A photo to begin with, and its sentence."""
        image = _text(event, "image")
        session.photo = self._result(image.removeprefix(RESULT))
        captions = {one.image: one.caption for one in self.service.examples()}
        fields = replace(self.parts.read(values), sentence=captions.get(image) or "")
        changes = await self._ask(session, question_of(session, fields), request)
        return {self.parts.sentence: fields.sentence, **changes}

    async def _photo(self, session: PageSession, image: str, request: gr.Request, name: str = "your photo") -> Photo:
        """What is to be shown of an image, as `Term.image` takes it."""
        if image in session.photos:
            return session.photos[image]
        if image.startswith(RESULT):
            return self._result(image.removeprefix(RESULT))
        user = self._user(request)
        upload = self.service.uploads.of(user, image)
        people = tuple(await self.service.people_in(image, user))
        photo = Photo(image, f"/media/upload/{image}.webp", name, upload.width, upload.height, people)
        return replace(photo, person=photo.largest)

    def _result(self, number: int | str) -> Photo:
        """A picture of the gallery.

        Raises:
            Refused: there is none of this number.
        """
        if not str(number).isdecimal():
            raise Refused(f"{number!r:.40} is no number of a picture of the gallery.")
        result = self.service.result(int(number))
        return Photo(f"{RESULT}{result.id}", thumbnail_url(result), name_of(result))

    # Wishes

    @in_turn
    async def wanted(self, session: PageSession, caption: str) -> Changes:
        """One more thing is wanted."""
        return self._wish(session, caption, 1.0)

    @in_turn
    async def unwanted(self, session: PageSession, caption: str) -> Changes:
        """One more thing is not wanted."""
        return self._wish(session, caption, -MINUS_WEIGHT)

    @in_turn
    async def weighed(self, session: PageSession, event: gr.EventData) -> Changes:
        """A wish counts more or less."""
        try:
            weight = float(_text(event, "weight"))
        except ValueError:
            weight = 0.0
        number = _number(event, "number")
        if 0 < weight <= 100 and 0 <= number < len(session.wishes):
            wish = session.wishes[number]
            session.wishes[number] = replace(wish, weight=weight if wish.weight > 0 else -weight)
            return {self.parts.wishes: wishes_shown(session)}
        raise Refused("A weight is a number above 0, up to 100. Take the wish away if it is not to count.")

    @in_turn
    async def dropped(self, session: PageSession, event: gr.EventData) -> Changes:
        """A wish is taken back."""
        session.wishes = [wish for place, wish in enumerate(session.wishes) if place != _number(event, "number")]
        return {self.parts.wishes: wishes_shown(session)}

    def _wish(self, session: PageSession, caption: str, weight: float) -> Changes:
        if not (caption := (caption or "").strip()):
            raise Refused("Write first what is wanted or not wanted, such as “a backpack”.")
        _add(session, Wish(weight, caption))
        return {self.parts.wishes: wishes_shown(session), self.parts.wish: ""}

    # Results

    @in_turn
    async def opened(self, session: PageSession, event: gr.EventData) -> Changes:
        """A result is to be seen in full."""
        return self._open(session, _number(event, "id"))

    @in_turn
    async def closed(self, session: PageSession) -> Changes:
        """It has been seen."""
        return self._open(session, None)

    @in_turn
    async def next(self, session: PageSession) -> Changes:
        """The result after the one in view."""
        return self._open(session, self._beside(session, 1))

    @in_turn
    async def previous(self, session: PageSession) -> Changes:
        """The result before it."""
        return self._open(session, self._beside(session, -1))

    @in_turn
    async def heated(self, session: PageSession, request: gr.Request) -> Changes:
        """The heat map of the result in view, or its photograph again."""
        if session.heat is not None or session.opened is None:
            session.heat = None
        else:
            heat = await self.service.heat_map(session.question, session.opened, self._user(request))
            session.heat = await asyncio.to_thread(_as_url, heat)
        return {self.parts.details: details_shown(session)}

    @in_turn
    async def right(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A result is right; a second time: that is taken back."""
        return await self._mark(session, _number(event, "id"), session.right, session.wrong, request)

    @in_turn
    async def wrong(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A result is wrong, likewise."""
        return await self._mark(session, _number(event, "id"), session.wrong, session.right, request)

    @in_turn
    async def unmarked(self, session: PageSession, request: gr.Request) -> Changes:
        """All marks are taken back."""
        session.forget_marks()
        return await self._ask(session, without_marks(_asked(session)), request)

    @in_turn
    async def refined(self, session: PageSession, event: gr.EventData, request: gr.Request, *values: Any) -> Changes:
        """A result is the reference photo from now on, for a sentence that is still to come."""
        session.photo, session.wishes = self._result(_number(event, "id")), []
        fields = replace(self.parts.read(values), sentence="")
        changes = await self._ask(session, question_of(session, fields), request)
        told = "These are most like the result that you chose. Write what should differ from it, and search again."
        return {self.parts.sentence: "", **changes, **self.say(told)}

    @in_turn
    async def added(self, session: PageSession, event: gr.EventData) -> Changes:
        """A result is one more reference photo."""
        photo = self._result(_number(event, "id"))
        _add(session, Wish(1.0, photo=photo))
        told = f"{photo.name} is one more photo of the query now: search, and it is asked with it."
        return {self.parts.wishes: wishes_shown(session), **self._open(session, None), **self.say(told)}

    async def _mark(
        self,
        session: PageSession,
        number: int,
        marked: dict[int, Photo],
        others: dict[int, Photo],
        request: gr.Request,
    ) -> Changes:
        if marked.pop(number, None) is None:
            if len(marked) == MOST_MARKS:
                raise Refused(f"{MOST_MARKS} results are marked so already: take some marks back first.")
            marked[number] = self._result(number)
            others.pop(number, None)
        marks = {"right": list(session.right), "wrong": list(session.wrong)}
        return await self._ask(session, _asked(session).model_copy(update=marks), request)

    def _open(self, session: PageSession, number: int | None) -> Changes:
        session.opened, session.heat = number, None
        return {self.parts.details: details_shown(session)}

    def _beside(self, session: PageSession, step: int) -> int | None:
        ids = [hit.id for hit in session.answer.hits] if session.answer else []
        if session.opened not in ids:
            return None
        return ids[min(max(ids.index(session.opened) + step, 0), len(ids) - 1)]

    # Searches to repeat

    @in_turn
    async def repeated(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A search of this session, once more."""
        number = _number(event, "key")
        if not 0 <= number < len(session.searches):
            raise Refused("This search is not in the history any more.")
        return await self._repeat(session, session.searches[number].question, request)

    @in_turn
    async def saved(self, session: PageSession, name: str, request: gr.Request) -> Changes:
        """The last search is to be kept under a name."""
        question = _asked(session)
        name = (name or "").strip() or summary_of(question)[:80]
        self.service.saved.keep(self._user(request), name, question)
        return {self.parts.kept: self._kept(request), self.parts.name: "", **self.say(f"Saved: {name}")}

    @in_turn
    async def taken_up(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A saved search, once more."""
        one = self.service.saved.get(self._user(request), _text(event, "key"))
        return await self._repeat(session, one.question, request)

    @in_turn
    async def forgotten(self, session: PageSession, event: gr.EventData, request: gr.Request) -> Changes:
        """A saved search is not wanted any more."""
        self.service.saved.drop(self._user(request), _text(event, "key"))
        return {self.parts.kept: self._kept(request)}

    # What is shown

    def say(self, sentence: str, kind: str = "done") -> Changes:
        """A sentence above the results."""
        return {self.parts.message: view("message", sentence=sentence[:1].upper() + sentence[1:], kind=kind)}

    def _shown(self, session: PageSession) -> Changes:
        return {
            self.parts.photo: self._photo_shown(session),
            self.parts.wishes: wishes_shown(session),
            self.parts.results: results_shown(session),
            self.parts.details: details_shown(session),
            self.parts.searches: searches_shown(session),
        }

    def _photo_shown(self, session: PageSession) -> str:
        return photo_shown(session, () if session.photo else self.service.examples())

    def _kept(self, request: gr.Request) -> str:
        saved = self.service.saved
        return saved_shown(saved.of(self._user(request)), saved.is_kept)

    def _user(self, request: gr.Request) -> str:
        return self.user_of(request.request)


def _asked(session: PageSession) -> Question:
    """The last question of a tab.

    Raises:
        Refused: there is none.
    """
    if session.question is None:
        raise Refused("Search first.")
    return session.question


def _add(session: PageSession, wish: Wish) -> None:
    if len(session.wishes) == MOST_TERMS - 1:  # photo and sentence are one, too
        raise Refused(f"{MOST_TERMS - 1} wishes are as many as are asked at a time: take one away first.")
    session.wishes = [*session.wishes, wish]


def _text(event: gr.EventData, name: str, longest: int = 1_000) -> str:
    """What a browser says of an event, cut to so many characters: it may say anything.

    Raises:
        Refused: it does not say it.
    """
    value = (event._data or {}).get(name)
    if not isinstance(value, str):
        raise Refused("The page in this tab is out of date: load it again.")
    return value[:longest]


def _number(event: gr.EventData, name: str) -> int:
    text = _text(event, name)
    if not (text.removeprefix("-").isdecimal() and len(text) < 20):
        raise Refused("The page in this tab is out of date: load it again.")
    return int(text)


def _as_url(picture: Image.Image) -> str:
    """A picture that stands in the page itself."""
    stream = BytesIO()
    picture.thumbnail((1_000, 1_000))
    picture.save(stream, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
