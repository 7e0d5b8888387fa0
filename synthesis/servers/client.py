"""The one patient client of language and image servers: how long it waits, what it asks again, how much at once.

    client = PatientClient(settings, usage, most_bytes=2**24)
    for reply in client.map(requests, reply_of): ...           # reply_of asks by `client.insist` and `client.ask`

A server that is away, or asks for patience, is waited for until `patience` is at its end: then the work ends, and no
item is lost. An item that fails though the server is there is given up after `max_retries`. Whether it is the item that
fails or the server shows in what becomes of the others.
"""

import asyncio
import itertools
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ..components import PaintedImage, SynthesisError, TextReply
from .address import Address
from .connection import connect, exchange
from .failures import Away, Failed, Refused
from .settings import Server

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # seconds, unless the server asks for a longer one
_LISTING = 30.0  # seconds to wait for a list of models
# Of items given up one after the other: at MANY no further ones are sent. FEW, if no other was done before, suffice to
# say that the server fails. Fewer may be the last of a run that was interrupted, and must not keep it from its end.
_MANY_GIVEN_UP, _FEW_GIVEN_UP = 20, 3

Item, Made = TypeVar("Item"), TypeVar("Made")
Reply = TypeVar("Reply", TextReply, PaintedImage)


class PatientClient:
    """Asks one server.

    Args:
        settings: Where it is, how many requests may be under way, and how patient to be.
        usage: Where "requests" and "retries" are counted.
        most_bytes: Of one answer.
        requests_per_minute: At most so many are sent, repeats included; None for as many as the server takes.

    Attributes:
        address: Of the server, with its key.
        last_answer: When it last answered, of `time.monotonic`; -inf before.

    Raises:
        SynthesisError: there is no key, or nobody but the recipe says that this server gets it.
    """

    def __init__(
        self,
        settings: Server,
        usage: Counter[str],
        most_bytes: int,
        requests_per_minute: float | None = None,
    ) -> None:
        self.address = Address(settings.base_url, settings.api_key_variable)
        self.last_answer = -math.inf
        self._settings, self._usage, self._most_bytes = settings, usage, most_bytes
        self._seconds_per_turn = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_turn = self._next_warning = -math.inf
        self._works = False  # known once an item was done
        self._open: dict[asyncio.AbstractEventLoop, tuple[Any, asyncio.Lock]] = {}

    @property
    def settling(self) -> asyncio.Lock:
        """Held by whoever finds out what the server takes; one for all requests that are under way together."""
        return self._open[asyncio.get_running_loop()][1]

    def run(self, work: Callable[..., Coroutine[Any, Any, Made]], *arguments: Any) -> Made:
        """Does something alone, before the first item."""
        with self._connected() as submit:
            return submit(work(*arguments)).result()

    def map(
        self, items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, tuple[Reply, bool]]]
    ) -> Iterator[Reply]:
        """Replies as they come; `concurrency` are under way at once, and no item is taken before there is room.

        Closing the iterator, or Ctrl-C, gives up what is under way.

        Args:
            items: What to ask about.
            work: Gives the reply to an item, and whether it shows that the server does its work. Until one does, those
                that do not are held back: a server that fails altogether must not use up the items.

        Raises:
            SynthesisError: the server does its work for no item, or `work` raises it.
        """
        waiting = iter(items)
        done: SimpleQueue[Future[tuple[Reply, bool]]] = SimpleQueue()
        under_way = 0
        held: list[Reply] = []
        with self._connected() as submit:
            while True:
                # Refusals come sooner than answers, so what is under way is waited for before many mean anything.
                room = self._settings.concurrency if len(held) < _MANY_GIVEN_UP else 0
                while under_way < room and (item := next(waiting, None)) is not None:
                    submit(work(item)).add_done_callback(done.put)
                    under_way += 1
                if not under_way:
                    break
                reply, is_sound = done.get().result()
                under_way -= 1
                held.append(reply)
                if is_sound:
                    self._works = True
                    yield from held
                    held.clear()
        if len(held) >= (_MANY_GIVEN_UP if self._works else _FEW_GIVEN_UP):
            raise SynthesisError(
                f'{self._settings.base_url}: "{self._settings.model}" is there, but did {self._none_of(len(held))}, '
                f"{held[-1].id} for: {held[-1].fault}. See to the server (the longest prompt that it takes, its log) "
                "or to the recipe's prompt, and run again: what is done stays."
            )
        yield from held

    def _none_of(self, count: int) -> str:
        return f"none of {'the last ' if self._works else ''}{count} items"

    async def insist(
        self,
        name: str,
        ask: Callable[[], Awaitable[Made]],
        adapt: Callable[[Failed], Awaitable[bool]] | None = None,
        most: int | None = None,
    ) -> Made:
        """What asking gives in the end; asked again while that may help.

        Args:
            name: Of what is asked about, for messages.
            ask: Asks once, by `ask`.
            adapt: May change the request by what the server has against it; whether it did, and it is to be sent so.
            most: Retries; `max_retries` by default.

        Raises:
            Failed: the last of all failures, or that of which another attempt would not help.
            SynthesisError: the server is away for longer than `patience`.
        """
        most = self._settings.max_retries if most is None else most
        began, failures = time.monotonic(), 0
        for attempt in itertools.count():
            asked = time.monotonic()
            try:
                return await ask()
            except Failed as caught:
                error = caught
            pause = min(LONGEST_PAUSE, 2.0 ** min(attempt, 5)) * random.uniform(0.5, 1.0)
            if isinstance(error, Away) and not (error.may_be_its_own and self.last_answer > asked):
                pause = max(pause, error.pause or 0.0)
                self.check_patience(name, error, began, pause)
            else:
                error.times = failures + 1
                if adapt is not None and await adapt(error):
                    pause = 0.0
                else:
                    failures += 1
                    # A web page in place of the first answer is mostly another address, which no patience mends.
                    is_page = self.last_answer < 0 and error.status is None
                    if isinstance(error, Refused) or failures > (min(most, 1) if is_page else most):
                        raise error
            self._usage["retries"] += 1
            await asyncio.sleep(pause)

    async def ask(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Made]) -> Made:
        """Asks once.

        Args:
            path: Behind the address.
            body: Sent as JSON.
            read: Makes something of the mapping that is answered, or raises `Failed`.

        Raises:
            Failed, Away, Refused: there is no answer.
            SynthesisError: there will be none to any request.
        """
        await self._wait_for_turn()
        self._usage["requests"] += 1
        try:
            made = read(await self.exchange(path, body, self._settings.timeout))
        except Failed as error:
            error.detail = self.address.line(error.detail)
            # A progress bar that stands still needs an explanation.
            is_due = isinstance(error, Away) and time.monotonic() >= self._next_warning
            if is_due and (error.pause is not None or self.last_answer > 0):
                self._next_warning = time.monotonic() + LONGEST_PAUSE
                logger.warning("%s: %s; asking again", self._settings.base_url, error)
            raise
        self.last_answer = time.monotonic()
        return made

    async def exchange(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
        """Asks once, uncounted, for so many seconds; otherwise as `ask`. Without a body it is a GET."""
        client, _ = self._open[asyncio.get_running_loop()]
        asking = exchange(client, self.address, path, body, timeout, self._most_bytes)
        try:
            # The transport bounds every wait for some bytes; this bounds all of them together.
            return await asyncio.wait_for(asking, timeout)
        except asyncio.TimeoutError as error:
            raise Failed(f"no answer within {timeout:g} s") from error

    async def models(self, path: str = "/models") -> list[str] | None:
        """The models that the server lists; None if it lists none there."""
        try:
            entries = (await self.exchange(path, None, _LISTING)).get("data")
        except (Failed, SynthesisError):
            return None
        if not isinstance(entries, list):
            return None
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]

    async def address_with_v1(self) -> str | None:
        """What `base_url` should be, if a server is there when /v1 follows."""
        url = self._settings.base_url.rstrip("/")
        return f"{url}/v1" if not url.endswith("/v1") and await self.models("/v1/models") is not None else None

    def check_patience(self, name: str, error: Away, began: float, pause: float) -> None:
        """Ends the work once the server has been silent for too long, was never there, or asks for too long a pause.

        Raises:
            SynthesisError: so it is.
        """
        settings = self._settings
        silence = time.monotonic() - max(began, self.last_answer)
        never_there = error.pause is None and self.last_answer < 0
        if not never_there and silence + pause <= settings.patience:
            return
        asks = f"; it asks to wait for {error.pause:.0f} s" if error.pause and error.pause > settings.patience else ""
        remedy = (
            "Start the server or correct base_url"
            if error.pause is None
            else "Lower concurrency (or requests_per_minute), raise patience, or come back later"
        )
        raise SynthesisError(
            f'{settings.base_url}: no answer to "{name}" ({error}; silent for {silence:.0f} s{asks}). {remedy}, and '
            "run again: what is done stays."
        ) from error

    async def _wait_for_turn(self) -> None:
        """Keeps to `requests_per_minute`."""
        turn = max(self._next_turn, time.monotonic())
        self._next_turn = turn + self._seconds_per_turn
        if self._seconds_per_turn:
            await asyncio.sleep(turn - time.monotonic())

    @contextmanager
    def _connected(self) -> Iterator[Callable[[Coroutine[Any, Any, Made]], "Future[Made]"]]:
        """What does work on an event loop in a thread of its own, so that answers come in while nobody waits."""
        client = connect(self.address, self._settings.timeout)
        loop = asyncio.new_event_loop()
        self._open[loop] = client, asyncio.Lock()
        thread = Thread(target=loop.run_forever, name="fafa-server-model", daemon=True)
        thread.start()
        try:
            yield partial(asyncio.run_coroutine_threadsafe, loop=loop)
        finally:
            asyncio.run_coroutine_threadsafe(_give_up(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            del self._open[loop]


async def _give_up(client: Any) -> None:
    """Cancels all that is under way on this event loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
