"""A local server that speaks the chat-completions protocol of OpenAI, well or, at given rates, badly.

    with StubServer(faults={"500": 0.05, "garbage": 0.02}) as server:
        model = ServerModel(model=server.model, base_url=server.url).load()

What it answers is a function of the messages and the seed. So are the faults of the answer itself (`LASTING`), while
those of the moment (`PASSING`) also depend on how often the same thing was asked.
"""

import asyncio
import hashlib
import inspect
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

PASSING = ("500", "429", "503", "error body", "null content", "no json", "hang up", "slow")
LASTING = ("garbage", "broken json", "fenced", "refusal", "cut off")
WORDS = [
    "a",
    "woman",
    "in",
    "the",
    "red",
    "blue",
    "green",
    "coat",
    "jeans",
    "skirt",
    "with",
    "bag",
    "hat",
    "now",
    "walks",
]


@dataclass(frozen=True)
class Raw:
    """An answer as it stands, whatever the protocol says.

    Attributes:
        content: Bytes, or a value that is sent as JSON.
        status: Of HTTP.
        headers: Further ones.
        endless: Whether the content is sent again and again, without end.
    """

    content: Any
    status: int = 200
    headers: list[str] = field(default_factory=list)
    endless: bool = False


Said = str | tuple[int, str] | Raw
Answer = Callable[[dict[str, Any], random.Random], Said | Awaitable[Said]]


def last_text(body: Mapping[str, Any]) -> str:
    """The text of the last message, whether pictures stand before it or not."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def schema_of(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that was asked for, in its field or in words."""
    if "json_schema" in body.get("response_format", {}):
        return body["response_format"]["json_schema"]["schema"]
    _, marker, words = last_text(body).partition("by this JSON schema:\n")
    return json.loads(words) if marker else None


def fill(schema: Mapping[str, Any], chance: random.Random) -> Any:
    """A random value that fulfils a simple JSON schema."""
    if "enum" in schema:
        return chance.choice(schema["enum"])
    low, high = schema.get("minimum", 0), schema.get("maximum", 10)
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: fill(part, chance) for name, part in schema["properties"].items()}
    if kind == "array":
        return [fill(schema["items"], chance) for _ in range(schema.get("minItems", 2))]
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "integer":
        return chance.randint(low, high)
    if kind == "number":
        return round(chance.uniform(low, high), 3)
    return " ".join(chance.choices(WORDS, k=8))[: schema.get("maxLength")]


def answer_anything(body: dict[str, Any], chance: random.Random) -> str:
    """JSON by the schema, or a few words."""
    schema = schema_of(body)
    return " ".join(chance.choices(WORDS, k=8)) if schema is None else json.dumps(fill(schema, chance))


class StubServer:
    """The server; it listens inside the `with` block, on a thread of its own.

    Attributes:
        url: Its `base_url`.
        counts: How often each fault was served, "answers" (good ones and those with a lasting fault) and "refused".
        answered: How often each request got an answer, by a digest of messages and seed.
        bodies: Of all requests, in order.
        most_at_once: The largest number of requests under way at one time.
    """

    def __init__(
        self,
        answer: Answer = answer_anything,
        *,
        faults: Mapping[str, float] | None = None,
        refuses: Mapping[str, str | Raw] | None = None,
        model: str = "tiny",
        key: str | None = None,
        delay: float = 0.0,
        slow: float = 2.0,
        retry_after: float = 0.05,
    ) -> None:
        """Settings of the server.

        Args:
            answer: From the body of a request and its own random numbers, what it is answered; a tuple of a status and
                a message for an error, or something `Raw`. It may be a coroutine function, to take its time.
            faults: Rates by name, of `PASSING` and `LASTING`.
            refuses: Fields of a request that get it a 400, and its message, or another answer.
            model: The only one there is.
            key: Of the API; None if none is asked for.
            delay: Seconds that every answer takes.
            slow: Seconds that a "slow" answer takes.
            retry_after: Seconds, in the header of a 429.
        """
        self.answer, self.faults, self.refuses = answer, dict(faults or {}), dict(refuses or {})
        self.model, self.key, self.delay, self.slow, self.retry_after = model, key, delay, slow, retry_after
        unknown = set(self.faults) - {*PASSING, *LASTING}
        if unknown:
            raise ValueError(f"unknown faults: {sorted(unknown)}")
        self.port = 0
        self.counts: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._asked: Counter[str] = Counter()
        self._under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def doubled(self) -> int:
        """Answers beyond the first to the same request."""
        return sum(self.answered.values()) - len(self.answered)

    def __enter__(self) -> "StubServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins to listen; after a `stop`, on the same port, and with the same counts."""
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Falls over: whoever waits for an answer gets none."""
        asyncio.run_coroutine_threadsafe(self._fall_over(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _fall_over(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._under_way = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                self._under_way += 1
                self.most_at_once = max(self.most_at_once, self._under_way)
                reply = await self._respond(head, fields, body)
                self._under_way -= 1
                if reply is None:
                    break
                status, content, headers, endless = (*reply, False)[:4]
                payload = content if isinstance(content, bytes) else json.dumps(content).encode()
                length = "Connection: close" if endless else f"Content-Length: {len(payload)}"
                lines = [f"HTTP/1.1 {status} -", "Content-Type: application/json", length]
                writer.write("\r\n".join([*lines, *headers, "", ""]).encode() + payload)
                await writer.drain()
                while endless:
                    writer.write(payload)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # Whoever asked has gone, or the server is falling over.
        finally:
            writer.transport.abort()

    async def _respond(self, head: str, fields: dict[str, str], raw: bytes) -> tuple | None:
        """Status, content and further headers, and whether it goes on without end; None to hang up."""
        if self.key is not None and fields.get("authorization") != f"bearer {self.key}".lower():
            return _error(401, "Incorrect API key provided")
        if head.startswith("get /v1/models"):
            return 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]}, []
        if not head.startswith("post /v1/chat/completions"):
            return _error(404, "no such address")
        body = json.loads(raw)
        self.bodies.append(body)
        if body["model"] != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        for name, message in self.refuses.items():
            if name in body:
                self.counts["refused"] += 1
                return _as_reply(message) if isinstance(message, Raw) else _error(400, message)
        about = json.dumps([body["messages"], body.get("seed"), schema_of(body)], sort_keys=True)
        digest = hashlib.sha256(about.encode()).hexdigest()[:16]
        self._asked[digest] += 1
        await asyncio.sleep(self.delay)
        passing = self._draw(PASSING, f"{digest}/{self._asked[digest]}")
        self.counts[passing or "good moments"] += 1
        if passing == "hang up":
            return None
        if passing == "429":
            return 429, _error(429, "Too many requests")[1], [f"Retry-After: {self.retry_after}"]
        if passing in ("500", "503"):
            return _error(int(passing), "The server has stumbled")
        if passing == "error body":
            return 200, {"error": {"message": "upstream failed", "code": 502}}, []
        if passing == "no json":
            return 200, b'{"id": "1", "choi', []
        if passing == "slow":
            await asyncio.sleep(self.slow)
        text = self.answer(body, random.Random(digest))
        if inspect.isawaitable(text):
            text = await text
        if isinstance(text, Raw):
            return _as_reply(text)
        if isinstance(text, tuple):
            self.counts[str(text[0])] += 1
            return _error(*text)
        if passing == "null content":
            return 200, self._completion(body, None), []
        self.counts["answers"] += 1
        self.answered[digest] += 1
        lasting = self._draw(LASTING, digest)
        if lasting:
            self.counts[lasting] += 1
        return 200, self._completion(body, text, lasting), []

    def _draw(self, names: tuple[str, ...], about: str) -> str | None:
        """A fault by its rate, or none."""
        point = random.Random(about).random()
        for name in names:
            point -= self.faults.get(name, 0.0)
            if point < 0:
                return name
        return None

    def _completion(self, body: dict[str, Any], text: str | None, fault: str | None = None) -> dict[str, Any]:
        """An answer, with what is wrong with it."""
        reason, refusal = "stop", None
        if fault == "garbage":
            text = "\ufffd\u2581\u2581 lorem <unk> }{ 0x 7"
        elif fault == "broken json":
            text = text[: len(text) * 2 // 3]
        elif fault == "fenced":
            text = f"Sure! Here it is:\n```json\n{text}\n```\nTell me if you want another."
        elif fault == "cut off":
            text, reason = text[: len(text) // 2], "length"
        elif fault == "refusal":
            text, refusal = None, "I'm sorry, I can't help with that."
        read = sum(len(str(message["content"]).split()) for message in body["messages"])
        return {
            "id": "stub",
            "object": "chat.completion",
            "created": 0,
            "model": f"{self.model}-2025-01-01",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": reason,
                    "message": {"role": "assistant", "content": text, "refusal": refusal},
                }
            ],
            "usage": {"prompt_tokens": read, "completion_tokens": len((text or "").split()), "total_tokens": 0},
        }


def completion(content: Any, finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    """A well-formed answer around any content."""
    message = {"role": "assistant", "content": content}
    return {"model": "tiny", "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}], **more}


def _as_reply(raw: Raw) -> tuple[int, Any, list[str], bool]:
    return raw.status, raw.content, raw.headers, raw.endless


def _error(status: int, message: str) -> tuple[int, Any, list[str]]:
    return status, {"error": {"message": message, "type": "stub", "code": status}}, []
