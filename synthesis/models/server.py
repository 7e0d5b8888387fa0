"""A language model behind a URL, over the chat-completions protocol: what is asked, and what is made of the answer."""

import difflib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from ..components import SynthesisError, TextModel, TextReply, TextRequest
from ..servers.failures import Away, Failed
from ..servers.settings import Server, check_options
from ..settings import Concurrency, Count, Free, NotNegative, Positive
from .answers import ChatAnswer, read_answer
from .forms import DECIDED_HERE, FIELDS, OPTIONS, Form, as_messages_with_images

logger = logging.getLogger(__name__)

# Bytes of one answer: a thousand times what is asked for, and few enough for many answers at once.
MOST_BYTES = 2**24


class ServerModel(Server):
    """A model behind a URL that speaks the chat-completions protocol of OpenAI: vLLM and the like; see `Server`.

    Attributes:
        max_tokens: Longest answer; a longer one is a fault.
        temperature: Temperature of sampling.
        top_p: Share of the probability that is sampled from.
        options: Further fields of every request that the server knows, such as `reasoning_effort: low` or
            `chat_template_kwargs: {enable_thinking: false}`.
        leave_out: Fields that the server does not take: "temperature", "top_p", "seed", "max_tokens" (name another
            under `options`, or none), "response_format" (schemas are put into words). Fields that a server refuses by
            name are left out anyway, with a warning and a note in the manifest.
        image_size: Images are shrunk until no side has more pixels than this.
        requests_per_minute: Most requests to send, repeats included; None for as many as the server takes.
        input_price: Price of a million tokens read, in any currency; None if the cost need not be counted.
        output_price: Price of a million tokens written.
    """

    max_tokens: Count = 512
    temperature: NotNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    # None, so that work begun before these settings existed can go on.
    options: dict[str, Any] | None = None
    leave_out: list[Literal[FIELDS]] | None = None
    image_size: Count = 768
    concurrency: Free[Concurrency] = 32
    requests_per_minute: Free[Positive | None] = None
    input_price: Free[float | None] = None
    output_price: Free[float | None] = None

    @model_validator(mode="after")
    def _check_requests(self) -> "ServerModel":
        own = [*DECIDED_HERE, *FIELDS]
        if "max_tokens" not in (self.leave_out or ()):
            own.append("max_completion_tokens")
        check_options(self.options or {}, OPTIONS, tuple(own))
        return self

    def load(self) -> TextModel:
        """Asks the server one thing, so that a wrong URL, name or key shows before any work is done.

        Raises:
            SynthesisError: the server cannot be reached, refuses the key, or does not know the model; or only the
                recipe says that the server gets the key.
        """
        return LoadedServerModel(self)


class LoadedServerModel(TextModel):
    """A model that answers over HTTP, many requests at once; `ServerModel` says what its settings mean."""

    def __init__(self, settings: ServerModel) -> None:
        from ..servers.client import PatientClient  # imports openai, which reading a recipe does not need

        super().__init__()
        self.settings = settings
        self.about = {"kind": settings.kind, "model": settings.model}
        self.client = PatientClient(settings, self.usage, MOST_BYTES, settings.requests_per_minute)
        self.form = Form.without_fields(settings.leave_out or ())
        self.takes_schemas = False  # known once an answer came by one
        self.tells_reasons = True  # why an answer ended; known by the first question
        self.proven: TextRequest | None = None  # the item answered last: asked again, it shows whether the server fails
        self._settled: set[tuple[Form, str]] = set()  # forms and schemas for which no other form helps
        self.client.run(self._reply, _plain_question(0), True)

    def answer(self, requests: Iterable[TextRequest]) -> Iterator[TextReply]:
        """Replies as they come; see `PatientClient.map`.

        Raises:
            SynthesisError: the server is away for longer than `patience`, refuses the key, or has nothing left to
                spend; it answers no item, or no longer the one that it answered last, or, before there is one, not even
                a plain question with as many images; or an image cannot be read.
        """
        return self.client.map(requests, self._answer)

    async def _answer(self, request: TextRequest) -> tuple[TextReply, bool]:
        reply = await self._reply(request, False)
        return reply, self.proven is not None

    async def _reply(self, request: TextRequest, probe: bool) -> TextReply:
        """The answer to a request, asked again while that may help; a probe without an answer ends the work."""
        messages = as_messages_with_images(request, self.settings.image_size)
        began, form = time.monotonic(), self.form

        async def ask() -> TextReply:
            nonlocal form
            form = self.form
            return await self._ask(request, messages, form)

        async def adapt(error: Failed) -> bool:
            return await self._finds_form(request, probe, form, error)

        try:
            reply = await self.client.insist(request.id, ask, adapt)
        except Failed as error:
            await self._check_server(request, probe, began, error)
            return TextReply(request.id, "", str(error), None)
        if not probe:
            self.proven = request
        return reply

    async def _finds_form(self, request: TextRequest, probe: bool, form: Form, error: Failed) -> bool:
        """Whether to ask the request again, since there is a better form than the one that was refused.

        A question of ours finds out what the server takes: an item may be refused for its own faults, and in one form
        or the other by chance.
        """
        by_schema = request.schema is not None and not self.takes_schemas
        if form.without(error, by_schema) is None or (error.status == 500 and error.times < 2):
            return False
        async with self.client.settling:
            if self.form != form:
                return True  # another request found it meanwhile
            mark = form, json.dumps(request.schema)
            if mark in self._settled:
                return False
            question = request if probe else replace(_plain_question(len(request.images)), schema=request.schema)
            if not probe:
                if (refusal := await self._refusal(question, form)) is None:
                    self._settled.add(mark)
                    return False
                error = refusal
            found: Form | None = form
            while (found := found.without(error, by_schema)) is not None:
                if (refusal := await self._refusal(question, found)) is None:
                    self._adopt(found, error)
                    return True
                error = refusal
            if not isinstance(error, Away):
                self._settled.add(mark)
            return False

    async def _refusal(self, question: TextRequest, form: Form) -> Failed | None:
        """The server's error for a question in this form, or None. An error 500 counts if it comes twice."""
        messages = as_messages_with_images(question, self.settings.image_size)
        try:
            await self.client.insist(question.id, lambda: self._ask(question, messages, form), most=1)
        except Failed as error:
            if isinstance(error, Away) or error.status is not None:
                return error
        return None  # it did not refuse, whatever it gave

    def _adopt(self, form: Form, error: Failed) -> None:
        """Asks in another form from now on, and says so once."""
        message = "%s does not take what it was sent (%s). From now on, and noted in the manifest: %s."
        logger.warning(message, self.settings.base_url, error, "; ".join(form.changes(self.form)))
        self.about["changes of the request"] = form.changes(Form.without_fields(self.settings.leave_out or ()))
        self.form = form

    async def _check_server(self, request: TextRequest, probe: bool, since: float, error: Failed) -> None:
        """Raises a SynthesisError unless the server answers others: an item is given up for its own faults only."""
        if probe:
            raise SynthesisError(
                f'{self.settings.base_url}: "{self.settings.model}" does not even answer "{request.id}" ({error}). '
                f"{await self._advice(error)}, and run again: what is done stays."
            ) from error
        if self.client.last_answer < since:
            proven = self.proven
            known = replace(proven, id=f"{proven.id} again") if proven else _plain_question(len(request.images))
            await self._reply(known, True)

    async def _advice(self, error: Failed) -> str:
        """What to do if a server does not answer a question that any server would answer."""
        words = error.words or error.detail
        for name in self.settings.options or {}:
            if name in words:
                return f"Take {name} out of the recipe's options"
        if error.status == 403:
            return f"{self.client.address.key_remedy}, or ask for access to the model"
        if self.client.last_answer < 0 and error.status in (None, 400, 404, 405):
            models = await self.client.models()
            if models is None and (url := await self.client.address_with_v1()):
                return f"Its address goes on: did you mean base_url: {url}?"
            if models is not None and self.settings.model not in models:
                shown = difflib.get_close_matches(self.settings.model, models, n=5, cutoff=0.0)
                return f"It has the models {', '.join(map(self.client.address.line, shown)) or '(none)'}: correct model"
            if models is None and error.status in (404, 405):
                return "Correct base_url, which ends with /v1: no such server is at this address"
        return "Check the model's name, the key, how many images it takes, and the server's log"

    async def _ask(self, request: TextRequest, messages: list[dict[str, Any]], form: Form) -> TextReply:
        """Asks once; see `PatientClient.ask`."""
        settings, seed = self.settings, request.seed % 2**31  # some servers keep 32 bits of a seed
        fields = {"model": settings.model, "temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
        fields |= {"max_tokens": settings.max_tokens, **(settings.options or {})}
        body = form.body(fields, messages, request.schema)
        reply = await self.client.ask("/chat/completions", body, lambda said: self._read(request, read_answer(said)))
        self.takes_schemas |= request.schema is not None and form.schemas == "json_schema"
        return reply

    def _read(self, request: TextRequest, answer: ChatAnswer) -> TextReply:
        """The text of an answer, and what is wrong with it."""
        self._count(answer.tokens)
        address = self.client.address
        text, reason, fault = address.without_key(answer.text), answer.finish_reason, None
        if self.client.last_answer < 0 and reason is None:
            self.tells_reasons = False
            self.about["reasons of ending"] = "not told by the server"
            message = "%s does not tell why an answer ended: at best, the number of tokens shows that one is cut off"
            logger.warning(message, self.settings.base_url)
        most = (self.settings.options or {}).get("max_completion_tokens", self.settings.max_tokens)
        if reason is None and answer.tokens.get("output tokens", 0) >= most:
            reason = "length"
        if reason == "length":
            is_ours = "max_tokens" not in self.form.left_out or "max_completion_tokens" in (self.settings.options or {})
            fault = f"cut off at {most} tokens" if is_ours else "cut off at the server's own limit"
        elif reason == "content_filter" or answer.refusal:
            fault = f"refused by the server: {address.line(answer.refusal or 'content filter')}"
            reason = "content_filter"
        elif not text.strip():
            raise Failed("an empty answer")
        elif reason is None and self.tells_reasons:
            raise Failed("an answer that does not tell why it ended")
        elif reason not in (None, "stop"):
            fault = f"ended early: {address.line(reason)}"
        if answer.reported:
            self.about.setdefault("reported", address.line(answer.reported))
        return TextReply(request.id, text, fault, reason)

    def _count(self, tokens: dict[str, int]) -> None:
        """Adds up tokens and cost, if the server tells how many tokens it counted."""
        usage, settings = self.usage, self.settings
        usage.update(tokens or {"answers without a count of tokens": 1})
        if tokens and (settings.input_price is not None or settings.output_price is not None):
            read = usage["input tokens"] * (settings.input_price or 0.0)
            written = usage["output tokens"] * (settings.output_price or 0.0)
            usage["cost"] = (read + written) / 1e6


def _plain_question(num_images: int) -> TextRequest:
    """What every working server can answer that takes so many images."""
    images = [Image.new("RGB", (224, 224), "gray")] * num_images
    name = f"a plain question about {num_images} images" if num_images else "a plain question"
    return TextRequest(name, [{"role": "user", "content": "Say yes."}], seed=0, images=images)
