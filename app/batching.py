"""Questions that come at the same time are answered together, by one thread; those whose asker has gone are dropped."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .faults import Refused

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Batches(Generic[Asked, Answered]):
    """A queue before one function that answers several questions at once.

    What waits while a batch is answered is the next batch, so that nothing waits for company. One thread answers, and
    everything that it uses, model and gallery, needs no lock.

    Args:
        answer: takes several questions; returns an answer or an error for each.
        most: questions in a batch. `waiting`: questions that may wait; others are refused.
    """

    def __init__(
        self, answer: Callable[[Sequence[Asked]], Sequence[Answered | Exception]], most: int = 32, waiting: int = 256
    ):
        self._answer, self._most = answer, most
        self._queue: queue.Queue[tuple[Asked, Future] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="fafa answers", daemon=True)
        self._thread.start()

    async def ask(self, question: Asked) -> Answered:
        """The answer to a question; a task that is cancelled takes its question back.

        Raises:
            Refused: too many are waiting. And whatever `answer` gave for it.
        """
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((question, future))
        except queue.Full:
            raise Refused("Too many searches are waiting. Try again in a few seconds.", 503, retry_after=5) from None
        return await asyncio.wrap_future(future)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after what it answers now."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < self._most and not self._queue.empty():
                if (one := self._queue.get()) is None:
                    is_last = True
                    break
                batch.append(one)
            batch = [one for one in batch if one[1].set_running_or_notify_cancel()]
            if batch:
                self._tell(batch)
            if is_last:
                return

    def _tell(self, batch: Sequence[tuple[Asked, Future]]) -> None:
        try:
            answers = self._answer([question for question, _ in batch])
        except BaseException as error:  # a thread that ends leaves everybody waiting
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
