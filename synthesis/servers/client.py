"""The one patient client of language and image servers: how long it waits, what it asks again, how much at once.

    client = PatientClient(settings, usage, most_bytes=2**24)
    for reply in client.map(requests, reply_of): ...           # reply_of asks by `client.insist` and `client.ask`

If a server is away or asks for patience, the client waits until `patience` has run out. Then the work ends, and no item
is lost. If an item fails although the server is there, the client gives the item up after `max_retries`. What becomes
of the other items tells a faulty item from a faulty server.
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
# Items given up one after the other. At MANY, no more are sent. FEW, if none was done before, are enough to say that
# the server fails. Fewer may be the last ones of an interrupted run, and must not keep it from its end.
_MANY_GIVEN_UP, _FEW_GIVEN_UP = 20, 3

Item, Made = TypeVar("Item"), TypeVar("Made")
Reply = TypeVar("Reply", TextReply, PaintedImage)


class PatientClient:
    """Asks one server.

    Args:
        settings: Where it is, how many requests may be under way, and how patient to be.
        usage: Where "requests" and "retries" are counted.
        most_bytes: Bytes that one answer may have.
        requests_per_minute: Most requests to send, repeats included; None for as many as the server takes.

    Attributes:
        address: The server's address, with its key.
        last_answer: When the server last answered, by `time.monotonic`; -inf before.

    Raises what `Address` raises.
    """

    def __init__(
        self, settings: Server, usage: Counter[str], most_bytes: int, requests_per_minute: float | None = None
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
        """The lock that a request holds while it finds out what the server takes; all under way share it."""
        return self._open[asyncio.get_running_loop()][1]

    def run(self, work: Callable[..., Coroutine[Any, Any, Made]], *arguments: Any) -> Made:
        """What one piece of work gives, done alone before the first item."""
        with self._connected() as submit:
            return submit(work(*arguments)).result()

    def map(
        self, items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, tuple[Reply, bool]]]
    ) -> Iterator[Reply]:
        """Replies as they come; `concurrency` are under way at once, and no item is taken before there is room.

        Closing the iterator, or Ctrl-C, cancels what is under way.

        Args:
            items: What to ask about.
            work: Gives the reply to an item, and whether it shows that the server works. Replies that do not show this
                are held back until one does: a server that fails altogether must not use up the items.

        Raises:
            SynthesisError: the server works for no item, or `work` raises it.
        """
        waiting = iter(items)
        done: SimpleQueue[Future[tuple[Reply, bool]]] = SimpleQueue()
        under_way = 0
        held: list[Reply] = []
        with self._connected() as submit:
            while True:
                # Refusals come sooner than answers, so many of them mean little until all under way have ended.
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
                f'{self._settings.base_url}: "{self._settings.model}" is there, but did none of {len(held)} items in a '
                f"row; the last, {held[-1].id}: {held[-1].fault}. Check the server (the longest prompt that it takes, "
                "its log) or the recipe's prompt, and run again: what is done stays."
            )
        yield from held

    async def insist(
        self,
        name: str,
        ask: Callable[[], Awaitable[Made]],
        adapt: Callable[[Failed], Awaitable[bool]] | None = None,
        most: int | None = None,
    ) -> Made:
        """The answer in the end; asks again while that may help.

        Args:
            name: What the request is about, for messages.
            ask: Asks once, by `ask`.
            adapt: May change the request after a failure; returns whether it did, so that it is sent again at once.
            most: Retries; `max_retries` by default.

        Raises:
            Failed: the last failure, or the first that another attempt would not cure.
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
            # If the server answers others meanwhile, this request may be what brings it down.
            is_own = error.status in (None, 502, 504) and self.last_answer > asked
            if isinstance(error, Away) and not is_own:
                pause = max(pause, error.pause or 0.0)
                self.check_patience(name, error, began, pause)
            else:
                error.times = failures + 1
                if adapt is not None and await adapt(error):
                    pause = 0.0
                else:
                    failures += 1
                    # A web page in place of the first answer mostly means a wrong address, and waiting does not help.
                    is_page = self.last_answer < 0 and error.status is None
                    if isinstance(error, Refused) or failures > (min(most, 1) if is_page else most):
                        raise error
            self._usage["retries"] += 1
            await asyncio.sleep(pause)

    async def ask(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Made]) -> Made:
        """Asks once.

        Args:
            path: What follows the address.
            body: Sent as JSON.
            read: Makes something of the JSON object that is the answer, or raises `Failed`.

        Raises:
            Failed, Away, Refused: there is no answer.
            SynthesisError: there will be none to any request.
        """
        turn = max(self._next_turn, time.monotonic())
        self._next_turn = turn + self._seconds_per_turn
        if self._seconds_per_turn:
            await asyncio.sleep(turn - time.monotonic())
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
        """Asks once without counting, for at most `timeout` seconds; else like `ask`. Without a body it is a GET."""
        client, _ = self._open[asyncio.get_running_loop()]
        asking = exchange(client, self.address, path, body, timeout, self._most_bytes)
        try:
            # The transport bounds each wait for some bytes; this bounds the sum of them.
            return await asyncio.wait_for(asking, timeout)
        except asyncio.TimeoutError as error:
            raise Failed(f"no answer within {timeout:g} s") from error

    async def models(self, path: str = "/models") -> list[str] | None:
        """The models that the server lists; None if it lists none there."""
        try:
            entries = (await self.exchange(path, None, _LISTING)).get("data")
        except (Failed, SynthesisError):
            return None
        is_list = isinstance(entries, list)
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)] if is_list else None

    async def address_with_v1(self) -> str | None:
        """What `base_url` should be, if there is a server once /v1 is appended."""
        url = self._settings.base_url.rstrip("/")
        return f"{url}/v1" if not url.endswith("/v1") and await self.models("/v1/models") is not None else None

    def check_patience(self, name: str, error: Away, began: float, pause: float) -> None:
        """Raises a SynthesisError if the server was silent for too long, was never there, or asks to wait too long."""
        settings = self._settings
        silence = time.monotonic() - max(began, self.last_answer)
        never_there = error.pause is None and self.last_answer < 0
        if not never_there and silence + pause <= settings.patience:
            return
        asks = f"; it asks to wait for {error.pause:.0f} s" if error.pause and error.pause > settings.patience else ""
        remedy = "Lower concurrency (or requests_per_minute), raise patience, or come back later"
        if error.pause is None:
            remedy = "Start the server or correct base_url"
        raise SynthesisError(
            f'{settings.base_url}: no answer to "{name}" ({error}; silent for {silence:.0f} s{asks}). {remedy}, and '
            "run again: what is done stays."
        ) from error

    @contextmanager
    def _connected(self) -> Iterator[Callable[[Coroutine[Any, Any, Made]], "Future[Made]"]]:
        """Gives what runs work on an event loop in its own thread, so that answers come in while nobody waits."""
        client = connect(self.address, self._settings.timeout)
        loop = asyncio.new_event_loop()
        self._open[loop] = client, asyncio.Lock()
        thread = Thread(target=loop.run_forever, name="fafa-server-model", daemon=True)
        thread.start()
        try:
            yield partial(asyncio.run_coroutine_threadsafe, loop=loop)
        finally:
            asyncio.run_coroutine_threadsafe(_close(client), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            del self._open[loop]


async def _close(client: Any) -> None:
    """Cancels all that is under way on this event loop, and closes the client."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
