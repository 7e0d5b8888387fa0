"""Models behind a URL, over the chat-completions protocol."""

import asyncio
import base64
import io
import itertools
import json
import logging
import os
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
from openai.types.chat import ChatCompletion
from PIL import Image

from ..components import SynthesisError, TextModel, TextReply, TextRequest
from ..pictures import open_picture

if TYPE_CHECKING:
    from .settings import ServerModel

logger = logging.getLogger(__name__)

OVERLOADED = {429, 502, 503, 504}
LONGEST_PAUSE = 30.0
# Of items given up before any was answered: at MANY no further ones are sent; FEW, if there are no others, suffice to
# say that the server fails. Fewer may be the last of a run that was interrupted, and must not keep it from its end.
MANY_GIVEN_UP = 20
FEW_GIVEN_UP = 3


class _Failed(Exception):
    """No answer came; asking again may help."""


class _Away(_Failed):
    """The server cannot be reached, or asks for patience.

    Attributes:
        pause: Seconds that it asks for; None if it could not be reached at all.
    """

    def __init__(self, message: str, pause: float | None) -> None:
        super().__init__(message)
        self.pause = pause


class _Refused(Exception):
    """The server will not answer this request; asking again would not help."""


class LoadedServerModel(TextModel):
    """A model that answers over HTTP, many requests at once; `ServerModel` says what its settings mean."""

    def __init__(self, settings: "ServerModel") -> None:
        super().__init__()
        self.settings = settings
        self.key = _key(settings.api_key_variable)
        self.about = {"kind": settings.kind, "model": settings.model}
        self.takes_schemas = True
        self.length_field = "max_tokens"
        self.last_answer = -float("inf")
        self.proven: TextRequest | None = None  # the item answered last: asked again, it shows whether the server fails
        self.next_turn = -float("inf")
        self.next_warning = -float("inf")
        with self._connection() as ask:
            ask(_plain_question(0), True).result()

    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """Replies as they come; `concurrency` requests are under way at once, and none is taken before there is room.

        Closing the iterator, or Ctrl-C, gives up what is under way. Until an item is answered, those that are given up
        are held back: a server that answers none must not use up the items.

        Raises:
            SynthesisError: the server is away for longer than `patience`; answers no item, or neither the one that it
                answered last nor, before there is one, a plain question with as many pictures; or a picture cannot be
                read.
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
        thread = Thread(target=loop.run_forever, name="fafa-server-model", daemon=True)
        thread.start()
        # Retries are made here, where they are counted and know of one another.
        client = openai.AsyncOpenAI(
            base_url=self.settings.base_url, api_key=self.key, timeout=self.settings.timeout, max_retries=0
        )
        try:
            yield lambda request, probe: asyncio.run_coroutine_threadsafe(self._reply(client, request, probe), loop)
        finally:
            asyncio.run_coroutine_threadsafe(_give_up(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _reply(self, client: openai.AsyncOpenAI, request: TextRequest, probe: bool) -> TextReply:
        """The answer to a request, asked for again while that may help; a probe that gets none ends the work."""
        settings = self.settings
        messages = _messages(request, settings.image_size)
        began = time.monotonic()
        failures = 0
        for attempt in itertools.count():
            pause = min(LONGEST_PAUSE, 2.0 ** min(attempt, 5)) * random.uniform(0.5, 1.0)
            try:
                reply = await self._ask(client, request, messages, by_schema=self.takes_schemas)
                if not probe:
                    self.proven = request
                return reply
            except _Away as error:
                pause = max(pause, error.pause or 0.0)
                silence = time.monotonic() - max(began, self.last_answer)
                never_there = error.pause is None and self.last_answer < 0
                if never_there or silence + pause > settings.patience:
                    raise SynthesisError(
                        f'{settings.base_url}: no answer to "{request.id}" ({error}; silent for {silence:.0f} s). '
                        "Start the server or correct base_url, and run again: what is done stays."
                    ) from error
            except _Failed as error:
                failures += 1
                if failures > settings.max_retries:
                    await self._check_server(client, request, probe, began, error)
                    return TextReply(request.id, "", f"failed {failures} times: {error}")
            except _Refused as error:
                await self._check_server(client, request, probe, began, error)
                return TextReply(request.id, "", str(error))
            self.usage["retries"] += 1
            await asyncio.sleep(pause)

    async def _check_server(
        self, client: openai.AsyncOpenAI, request: TextRequest, probe: bool, since: float, error: Exception
    ) -> None:
        """Makes sure that the server answers others: an item is given up for its own faults only."""
        if probe:
            raise SynthesisError(
                f'{self.settings.base_url}: "{self.settings.model}" does not even answer "{request.id}" ({error}). '
                "Check the model's name, the key, how many pictures it takes, and the server's log, and run again: "
                "what is done stays."
            ) from error
        if self.last_answer < since:
            proven = self.proven
            known = replace(proven, id=f"{proven.id} again") if proven else _plain_question(len(request.images))
            await self._reply(client, known, True)

    async def _ask(
        self, client: openai.AsyncOpenAI, request: TextRequest, messages: list[dict[str, Any]], by_schema: bool
    ) -> TextReply:
        """Asks once.

        Raises:
            _Failed, _Away, _Refused: there is no answer.
        """
        await self._wait_for_turn()
        self.usage["requests"] += 1
        try:
            answer = await client.chat.completions.create(**self._body(request, messages, by_schema))
        except openai.APITimeoutError as error:
            raise _Failed(f"no answer within {self.settings.timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise self._warned(_Away(f"cannot be reached: {error.__cause__ or error}", None)) from error
        except openai.APIStatusError as error:
            message = f"error {error.status_code}: {_line(error.body or error.message)}"
            if error.status_code in OVERLOADED:
                raise self._warned(_Away(message, _retry_after(error))) from error
            if error.status_code >= 500 or error.status_code in (408, 409):
                raise _Failed(message) from error
            if "max_completion_tokens" in message and self.length_field == "max_tokens":
                self.length_field = "max_completion_tokens"
                return await self._ask(client, request, messages, by_schema)
            if request.schema is not None and by_schema and error.status_code in (400, 422):
                reply = await self._ask(client, request, messages, by_schema=False)
                if self.takes_schemas:
                    self.takes_schemas = False
                    logger.warning("%s takes no JSON schemas, so they are put into words", self.settings.base_url)
                return reply
            raise _Refused(message) from error
        except (openai.APIResponseValidationError, ValueError) as error:
            raise _Failed(f"an answer that is no JSON: {_line(error)}") from error
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise _Failed(f"an answer without choices: {_line(getattr(answer, 'error', answer))}")
        self.last_answer = time.monotonic()
        self.about.setdefault("reported", answer.model)
        self._count(answer)
        return self._read(request, answer)

    def _body(self, request: TextRequest, messages: list[dict[str, Any]], by_schema: bool) -> dict[str, Any]:
        """What is sent; a schema goes into a field of its own, or into words for servers without that field."""
        settings = self.settings
        body = {
            "model": settings.model,
            "messages": messages,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            # Some servers keep 32 bits of it.
            "seed": request.seed % 2**31,
            self.length_field: settings.max_tokens,
        }
        if request.schema is not None and by_schema:
            schema = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None:
            words = f"Answer with one JSON object only, by this JSON schema:\n{json.dumps(request.schema)}"
            *_, last = messages
            content = last["content"]
            content = (
                f"{content}\n\n{words}" if isinstance(content, str) else [*content, {"type": "text", "text": words}]
            )
            body["messages"] = [*messages[:-1], {**last, "content": content}]
        return body

    def _read(self, request: TextRequest, answer: ChatCompletion) -> TextReply:
        """The text of an answer, and what is wrong with it."""
        choice = answer.choices[0]
        text = (choice.message and choice.message.content) or ""
        fault = None
        if choice.finish_reason == "length":
            fault = f"cut off at {self.settings.max_tokens} tokens"
        elif choice.finish_reason == "content_filter" or (choice.message and choice.message.refusal):
            fault = f"refused by the server: {_line((choice.message and choice.message.refusal) or 'content filter')}"
        elif not text.strip():
            raise _Failed("an empty answer")
        return TextReply(request.id, text, fault)

    def _count(self, answer: ChatCompletion) -> None:
        """Adds up tokens and cost, where the server says how many it counted."""
        if answer.usage is None:
            return
        usage, settings = self.usage, self.settings
        usage["input tokens"] += answer.usage.prompt_tokens or 0
        usage["output tokens"] += answer.usage.completion_tokens or 0
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

    def _warned(self, error: _Away) -> _Away:
        """The error, after a warning now and then: a progress bar that stands still needs an explanation."""
        if time.monotonic() >= self.next_warning:
            self.next_warning = time.monotonic() + LONGEST_PAUSE
            logger.warning("%s: %s; asking again", self.settings.base_url, error)
        return error


async def _give_up(client: openai.AsyncOpenAI) -> None:
    """Cancels all that is under way on this event loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


def _plain_question(pictures: int) -> TextRequest:
    """What every server in order can answer that takes so many pictures."""
    images = [Image.new("RGB", (224, 224), "gray")] * pictures
    name = "a plain question" + (f" about {pictures} picture{'s' * (pictures > 1)}" if pictures else "")
    return TextRequest(name, [{"role": "user", "content": "Say yes."}], seed=0, images=images)


def _messages(request: TextRequest, image_size: int) -> list[dict[str, Any]]:
    """The messages as the protocol wants them, pictures before the text of the last one."""
    *earlier, last = [dict(message) for message in request.messages]
    if request.images:
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_url(picture, image_size)}} for picture in request.images
        ]
        last["content"] = [*pictures, {"type": "text", "text": last["content"]}]
    return [*earlier, last]


def _data_url(picture: Any, longest: int) -> str:
    """A picture as JPEG in a URL, shrunk until no side has more than `longest` pixels."""
    image = open_picture(picture)
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _key(variable: str | None) -> str:
    """The API key; the client wants one even where the server does not."""
    if variable is None:
        return "none"
    if not (key := os.environ.get(variable)):
        raise SynthesisError(f"The environment variable {variable} holds no API key. Set it, or correct the recipe.")
    return key


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds that the server asks to wait; dates, which hardly any server sends, count as no wish."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _line(message: object) -> str:
    """A message on one short line."""
    if isinstance(message, dict) and "message" in message:
        message = message["message"]
    return " ".join(str(message).split())[:200]
