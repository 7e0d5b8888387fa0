"""Models behind a URL, over the chat-completions protocol."""

import asyncio
import difflib
import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import openai
from PIL import Image

from ..components import SynthesisError, TextModel, TextReply, TextRequest
from ..servers.address import Address
from ..servers.connection import connect, exchange
from ..servers.failures import Away, Failed, Refused, read_body
from .answers import ChatAnswer, read_answer
from .forms import Form, as_messages_with_pictures

if TYPE_CHECKING:
    from .settings import ServerModel

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0
# Bytes of one answer: a thousand times what is asked for, and little enough for many at once.
MOST_BYTES = 2**24
# Of items given up before any was answered: at MANY no further ones are sent; FEW, if there are no others, suffice to
# say that the server fails. Fewer may be the last of a run that was interrupted, and must not keep it from its end.
MANY_GIVEN_UP = 20
FEW_GIVEN_UP = 3


class LoadedServerModel(TextModel):
    """A model that answers over HTTP, many requests at once; `ServerModel` says what its settings mean."""

    def __init__(self, settings: "ServerModel") -> None:
        super().__init__()
        self.settings = settings
        self.address = Address(settings.base_url, settings.api_key_variable)
        self.about = {"kind": settings.kind, "model": settings.model}
        self.form = Form.of(settings)
        self.takes_schemas = False  # known once an answer came by one
        self.tells_reasons = True  # why an answer ended; known by the first question
        self.last_answer = -float("inf")
        self.proven: TextRequest | None = None  # the item answered last: asked again, it shows whether the server fails
        self.next_turn = -float("inf")
        self.next_warning = -float("inf")
        self._settled: set[tuple[Form, str]] = set()  # forms and schemas of which is known whether another would help
        with self._connection() as ask:
            ask(_plain_question(0), True).result()

    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """Replies as they come; `concurrency` requests are under way at once, and none is taken before there is room.

        Closing the iterator, or Ctrl-C, gives up what is under way. Until an item is answered, those that are given up
        are held back: a server that answers none must not use up the items.

        Raises:
            SynthesisError: the server is away for longer than `patience`; refuses the key, or has nothing left to
                spend; answers no item, or neither the one that it answered last nor, before there is one, a plain
                question with as many pictures; or a picture cannot be read.
        """
        waiting = iter(requests)
        answered: SimpleQueue[Future[TextReply]] = SimpleQueue()
        under_way = 0
        held: list[TextReply] = []
        with self._connection() as ask:
            while True:
                # Refusals come sooner than answers, so what is under way is waited for before many mean anything.
                room = self.settings.concurrency if len(held) < MANY_GIVEN_UP else 0
                while under_way < room and (request := next(waiting, None)) is not None:
                    ask(request, False).add_done_callback(answered.put)
                    under_way += 1
                if not under_way:
                    break
                held.append(answered.get().result())
                under_way -= 1
                if self.proven is not None:
                    yield from held
                    held.clear()
        if len(held) >= FEW_GIVEN_UP:
            raise SynthesisError(
                f'{self.settings.base_url}: "{self.settings.model}" answers plain questions, but none of {len(held)} '
                f"items, {held[-1].id} for: {held[-1].fault}. See to the server (the longest prompt that it takes, its "
                "log) or to the recipe's prompt, and run again: what is done stays."
            )
        yield from held

    @contextmanager
    def _connection(self) -> Iterator[Callable[[TextRequest, bool], "Future[TextReply]"]]:
        """What asks the server, on an event loop in a thread of its own, so that answers come in while nobody waits."""
        loop = asyncio.new_event_loop()
        client = connect(self.address, self.settings.timeout, openai.DefaultAsyncHttpxClient)
        settling = asyncio.Lock()
        thread = Thread(target=loop.run_forever, name="fafa-server-model", daemon=True)
        thread.start()
        try:
            yield lambda request, probe: asyncio.run_coroutine_threadsafe(
                self._reply(client, settling, request, probe), loop
            )
        finally:
            asyncio.run_coroutine_threadsafe(_give_up(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _reply(self, client: Any, settling: asyncio.Lock, request: TextRequest, probe: bool) -> TextReply:
        """The answer to a request, asked for again while that may help; a probe that gets none ends the work."""
        settings = self.settings
        messages = as_messages_with_pictures(request, settings.image_size)
        began = time.monotonic()
        failures = 0
        for attempt in itertools.count():
            form, asked = self.form, time.monotonic()
            pause = min(LONGEST_PAUSE, 2.0 ** min(attempt, 5)) * random.uniform(0.5, 1.0)
            try:
                reply = await self._ask(client, request, messages, form)
                if not probe:
                    self.proven = request
                return reply
            except Failed as caught:
                error = caught
            if isinstance(error, Away) and not (error.may_be_its_own and self.last_answer > asked):
                pause = max(pause, error.pause or 0.0)
                self._check_patience(request, error, began, pause)
            else:
                failures += 1
                if await self._finds_form(client, settling, request, probe, form, error, failures):
                    self.usage["retries"] += 1
                    continue
                # A web page in place of the first answer is mostly another address, which no patience mends.
                most = 1 if probe and self.last_answer < 0 and error.status is None else settings.max_retries
                if isinstance(error, Refused) or failures > min(most, settings.max_retries):
                    await self._check_server(client, settling, request, probe, began, error)
                    return TextReply(request.id, "", _fault(error, failures), None)
            self.usage["retries"] += 1
            await asyncio.sleep(pause)

    async def _finds_form(
        self,
        client: Any,
        settling: asyncio.Lock,
        request: TextRequest,
        probe: bool,
        form: Form,
        error: Failed,
        failures: int,
    ) -> bool:
        """Whether there is a form, other than the one that was refused, in which the request should be asked again.

        What the server takes is found out by a question of ours: an item may be refused for its own faults, and in one
        form or the other by chance.
        """
        by_schema = request.schema is not None and not self.takes_schemas
        if form.without(error, by_schema) is None or (error.status == 500 and failures < 2):
            return False
        async with settling:
            if self.form != form:
                return True  # somebody else found it meanwhile
            mark = form, json.dumps(request.schema)
            if mark in self._settled:
                return False
            question = request if probe else replace(_plain_question(len(request.images)), schema=request.schema)
            if not probe:
                if (refusal := await self._refusal(client, question, form)) is None:
                    self._settled.add(mark)
                    return False
                error = refusal
            found: Form | None = form
            while (found := found.without(error, by_schema)) is not None:
                if (refusal := await self._refusal(client, question, found)) is None:
                    self._adopt(found, error)
                    return True
                error = refusal
            if not isinstance(error, Away):
                self._settled.add(mark)
            return False

    async def _refusal(self, client: Any, question: TextRequest, form: Form) -> Failed | None:
        """What a server has against a question in this form; None if nothing. An error 500 counts if it comes twice."""
        began, messages = time.monotonic(), as_messages_with_pictures(question, self.settings.image_size)
        num_errors = num_silences = 0
        while True:
            try:
                await self._ask(client, question, messages, form)
                return None
            except Away as error:
                num_silences += error.may_be_its_own
                if num_silences > self.settings.max_retries:
                    return error
                pause = max(LONGEST_PAUSE / 10, error.pause or 0.0)
                self._check_patience(question, error, began, pause)
                await asyncio.sleep(pause)
            except Failed as error:
                num_errors += 1
                if error.status is None:
                    return None  # it did not refuse, whatever it gave
                if isinstance(error, Refused) or num_errors == 2:
                    return error

    def _adopt(self, form: Form, error: Failed) -> None:
        """Asks in another form from now on, and says so once."""
        changes = form.changes(self.form)
        logger.warning(
            "%s does not take what it was sent (%s). From now on, and noted in the manifest: %s.",
            self.settings.base_url,
            error,
            "; ".join(changes),
        )
        self.about["changes of the request"] = form.changes(Form.of(self.settings))
        self.form = form

    async def _check_server(
        self, client: Any, settling: asyncio.Lock, request: TextRequest, probe: bool, since: float, error: Failed
    ) -> None:
        """Makes sure that the server answers others: an item is given up for its own faults only."""
        if probe:
            raise SynthesisError(
                f'{self.settings.base_url}: "{self.settings.model}" does not even answer "{request.id}" ({error}). '
                f"{await self._advice(client, error)}, and run again: what is done stays."
            ) from error
        if self.last_answer < since:
            proven = self.proven
            known = replace(proven, id=f"{proven.id} again") if proven else _plain_question(len(request.images))
            await self._reply(client, settling, known, True)

    async def _advice(self, client: Any, error: Failed) -> str:
        """What to do about a server that does not answer a question that any would answer."""
        words = error.words if isinstance(error, Refused) else error.detail
        for name in self.settings.options or {}:
            if name in words:
                return f"Take {name} out of the recipe's options"
        if error.status == 403:
            return f"{self.address.key_remedy}, or ask for access to the model"
        if self.last_answer < 0 and error.status in (None, 400, 404, 405):
            url, models = self.settings.base_url.rstrip("/"), await self._models(client, "/models")
            if models is None and not url.endswith("/v1") and await self._models(client, "/v1/models") is not None:
                return f"Its address goes on: did you mean base_url: {url}/v1?"
            if models is not None and self.settings.model not in models:
                shown = difflib.get_close_matches(self.settings.model, models, n=5, cutoff=0.0)
                return f"It has the models {', '.join(map(self.address.line, shown)) or '(none)'}: correct model"
            if models is None and error.status in (404, 405):
                return "Correct base_url, which goes up to and with /v1: no such server is at this address"
        return "Check the model's name, the key, how many pictures it takes, and the server's log"

    async def _models(self, client: Any, path: str) -> list[str] | None:
        """The models that a server lists; None if it lists none there."""
        try:
            answer = await asyncio.wait_for(exchange(client, self.address, path, None, 30.0, MOST_BYTES), 30.0)
            entries = read_body(self.address, *answer).get("data")
        except (Failed, SynthesisError, asyncio.TimeoutError):
            return None
        if not isinstance(entries, list):
            return None
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]

    async def _ask(self, client: Any, request: TextRequest, messages: list[dict[str, Any]], form: Form) -> TextReply:
        """Asks once.

        Raises:
            Failed, Away, Refused: there is no answer.
            SynthesisError: there will be none to any request.
        """
        await self._wait_for_turn()
        self.usage["requests"] += 1
        settings = self.settings
        asking = exchange(
            client,
            self.address,
            "/chat/completions",
            form.body(settings, request, messages),
            settings.timeout,
            MOST_BYTES,
        )
        try:
            # The transport bounds every wait for some bytes; this bounds all of them together.
            answer = read_answer(read_body(self.address, *await asyncio.wait_for(asking, settings.timeout)))
        except asyncio.TimeoutError as error:
            raise Failed(f"no answer within {settings.timeout:g} s") from error
        except Away as error:
            raise self._warned(error) from error.__cause__
        except Failed as error:
            error.detail = self.address.line(error.detail)
            raise
        reply = self._read(request, answer)
        self.last_answer = time.monotonic()
        self.takes_schemas |= request.schema is not None and form.schemas == "json_schema"
        if answer.reported:
            self.about.setdefault("reported", self.address.line(answer.reported))
        return reply

    def _read(self, request: TextRequest, answer: ChatAnswer) -> TextReply:
        """The text of an answer, and what is wrong with it."""
        self._count(answer)
        text, reason, fault = self.address.without_key(answer.text), answer.finish_reason, None
        if self.last_answer < 0 and reason is None:
            self.tells_reasons = False
            self.about["reasons of ending"] = "not told by the server"
            logger.warning(
                "%s does not tell why an answer ended, so one that is cut off shows by its number of tokens at best",
                self.settings.base_url,
            )
        most = (self.settings.options or {}).get("max_completion_tokens", self.settings.max_tokens)
        if reason is None and answer.tokens.get("output tokens", 0) >= most:
            reason = "length"
        if reason == "length":
            is_ours = "max_tokens" not in self.form.left_out or "max_completion_tokens" in (self.settings.options or {})
            fault = f"cut off at {most} tokens" if is_ours else "cut off at the server's own limit"
        elif reason == "content_filter" or answer.refusal:
            fault = f"refused by the server: {self.address.line(answer.refusal or 'content filter')}"
            reason = "content_filter"
        elif not text.strip():
            raise Failed("an empty answer")
        elif reason is None and self.tells_reasons:
            raise Failed("an answer that does not tell why it ended")
        elif reason not in (None, "stop"):
            fault = f"ended early: {self.address.line(reason)}"
        return TextReply(request.id, text, fault, reason)

    def _count(self, answer: ChatAnswer) -> None:
        """Adds up tokens and cost, where the server says how many it counted."""
        usage, settings = self.usage, self.settings
        if not answer.tokens:
            usage["answers without a count of tokens"] += 1
            return
        usage.update(answer.tokens)
        if settings.input_price is not None or settings.output_price is not None:
            read = usage["input tokens"] * (settings.input_price or 0.0)
            written = usage["output tokens"] * (settings.output_price or 0.0)
            usage["cost"] = (read + written) / 1e6

    async def _wait_for_turn(self) -> None:
        """Keeps to `requests_per_minute`."""
        if self.settings.requests_per_minute is None:
            return
        turn = max(self.next_turn, time.monotonic())
        self.next_turn = turn + 60.0 / self.settings.requests_per_minute
        await asyncio.sleep(turn - time.monotonic())

    def _check_patience(self, request: TextRequest, error: Away, began: float, pause: float) -> None:
        """Ends the work once the server has been silent for too long, or asks for too long a pause."""
        settings = self.settings
        silence = time.monotonic() - max(began, self.last_answer)
        never_there = error.pause is None and self.last_answer < 0
        if not never_there and silence + pause <= settings.patience:
            return
        asks = f"; it asks to wait for {error.pause:.0f} s" if error.pause and error.pause > settings.patience else ""
        remedy = (
            "Start the server or correct base_url"
            if error.pause is None
            else "Lower concurrency or requests_per_minute, raise patience, or come back later"
        )
        raise SynthesisError(
            f'{settings.base_url}: no answer to "{request.id}" ({error}; silent for {silence:.0f} s{asks}). {remedy}, '
            "and run again: what is done stays."
        ) from error

    def _warned(self, error: Away) -> Away:
        """The error, after a warning now and then: a progress bar that stands still needs an explanation."""
        if time.monotonic() >= self.next_warning and (error.pause is not None or self.last_answer > 0):
            self.next_warning = time.monotonic() + LONGEST_PAUSE
            logger.warning("%s: %s; asking again", self.settings.base_url, error)
        return error


async def _give_up(client: Any) -> None:
    """Cancels all that is under way on this event loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()


def _fault(error: Failed, failures: int) -> str:
    """Why an item is given up: first what can be counted, then the server's own words."""
    times = f", {failures} times" if failures > 1 else ""
    return f"{error.name}{times}: {error.detail}" if error.detail else f"{error.name}{times}"


def _plain_question(pictures: int) -> TextRequest:
    """What every server in order can answer that takes so many pictures."""
    images = [Image.new("RGB", (224, 224), "gray")] * pictures
    name = "a plain question" + (f" about {pictures} picture{'s' * (pictures > 1)}" if pictures else "")
    return TextRequest(name, [{"role": "user", "content": "Say yes."}], seed=0, images=images)
