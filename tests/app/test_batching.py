"""Concurrent questions are answered together; who has gone, or spoils a batch, costs the others nothing."""

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app.batching import Batches
from fafa.app.faults import Refused


class Held:
    """Answers a question by itself doubled, once it is let; notes its batches."""

    def __init__(self):
        self.batches, self.may, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, questions):
        self.batches.append(list(questions))
        self.begun.set()
        assert self.may.wait(10)
        return [ValueError("three") if question == 3 else 2 * question for question in questions]


@pytest.fixture
def held():
    return Held()


def run(held, most, waiting, scene):
    batches = Batches(held, most, waiting)
    try:
        return asyncio.run(scene(batches))
    finally:
        held.may.set()
        batches.close()
        assert not batches.is_alive


async def ask(batches, *questions):
    return [asyncio.ensure_future(batches.ask(question)) for question in questions]


async def until_held(held):
    assert await asyncio.to_thread(held.begun.wait, 10)


def test_what_waits_while_a_batch_is_answered_is_the_next_batch(held):
    async def scene(batches):
        [first] = await ask(batches, 0)
        await until_held(held)
        others = await ask(batches, 1, 2, 4)
        await asyncio.sleep(0)
        held.may.set()
        return await asyncio.gather(first, *others)

    assert run(held, 2, 10, scene) == [0, 2, 4, 8]
    assert held.batches == [[0], [1, 2], [4]]


def test_a_question_is_dropped_when_its_asker_goes_and_the_others_are_answered(held):
    async def scene(batches):
        [first] = await ask(batches, 0)
        await until_held(held)
        gone, other = await ask(batches, 1, 2)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        held.may.set()
        return await asyncio.gather(first, other)

    assert run(held, 8, 10, scene) == [0, 4]
    assert held.batches == [[0], [2]]


def test_an_asker_may_go_while_the_answer_is_made(held):
    async def scene(batches):
        [gone] = await ask(batches, 0)
        await until_held(held)
        gone.cancel()
        await asyncio.sleep(0)
        held.may.set()
        return await batches.ask(1)

    assert run(held, 8, 10, scene) == 2


def test_the_queue_is_bounded_and_says_when_to_come_again(held):
    async def scene(batches):
        [first] = await ask(batches, 0)
        await until_held(held)
        waiting = await ask(batches, 1, 2)
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await batches.ask(5)
        held.may.set()
        await asyncio.gather(first, *waiting)
        return refused.value

    refused = run(held, 8, 2, scene)
    assert (refused.status, refused.retry_after) == (503, 5)


def test_an_error_goes_to_its_asker_alone_and_the_thread_goes_on(held):
    async def scene(batches):
        held.may.set()
        results = await asyncio.gather(batches.ask(3), batches.ask(4), return_exceptions=True)
        return results, await batches.ask(5)

    [error, answer], later = run(held, 8, 10, scene)
    assert str(error) == "three" and (answer, later) == (8, 10)
