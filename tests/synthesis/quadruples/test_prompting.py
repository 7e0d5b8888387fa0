import json
import random
from itertools import islice

import pytest
from scripted_model import Ready
from stub_server import StubServer
from tiny_language_models import save_tiny_chat

from fafa.synthesis.components import SynthesisError, TextModel, TextReply
from fafa.synthesis.models import ChatModel, ServerModel
from fafa.synthesis.quadruples.checks import CheckSettings
from fafa.synthesis.quadruples.prompting import LanguageModelWriter
from fafa.synthesis.quadruples.writing import FIELDS
from fafa.synthesis.settings import Settings

PROMPT = "Write a quadruple of a {colour} {garment} that becomes {colour2}."
POOLS = {
    "colour": ["red", "blue", "green"],
    "colour2": ["white", "black", "grey"],
    "garment": ["coat", "skirt", "hat"],
}
OPTIONS = {"prompt": PROMPT, "pools": POOLS, "system": "You write JSON."}


def answer_well(prompt: str) -> str:
    if not prompt.startswith("Write"):  # servers are asked something harmless first
        return "Yes."
    words = prompt.rstrip(".").split()
    old, garment, new = words[5], words[6], words[-1]
    return json.dumps(
        {
            "caption_a": f"A woman in a {old} {garment} waits for the bus.",
            "caption_b": f"A woman in a {new} {garment} waits for the bus.",
            "edit_ab": f"Make the {garment} {new}.",
            "edit_ba": f"Make the {garment} {old}.",
        }
    )


class Author(TextModel):
    """Answers well or badly by the request's seed, in batches, and returns these in any order."""

    def __init__(self, batch: int, failing: float = 0.0, silent: str | None = None):
        super().__init__()
        self.batch, self.failing, self.silent, self.requests = batch, failing, silent, []

    def answer(self, requests):
        requests = iter(requests)
        while batch := list(islice(requests, self.batch)):
            self.requests += batch
            random.Random(len(self.requests)).shuffle(batch)
            for request in batch:
                if request.id == self.silent:
                    continue
                if random.Random(request.seed).random() < self.failing:
                    yield TextReply(request.id, "I'm sorry, I can't do that.")
                else:
                    yield TextReply(request.id, answer_well(request.messages[-1]["content"]))


def write(model, ids, **options):
    model = model if isinstance(model, Settings) else Ready(part=model)
    records = list(LanguageModelWriter(model=model, **{**OPTIONS, **options}).load().write(map(str, ids), seed=7))
    assert len({record["id"] for record in records}) == len(records)
    return {record["id"]: record for record in records}


def test_a_record_holds_the_texts_and_what_was_asked_for():
    record = write(Author(4), [17])["17"]
    assert record.keys() == {"id", *FIELDS, "constraints", "attempts"}
    (colour,) = record["constraints"]["colour"]
    assert f"a {colour} " in record["caption_a"]
    assert record["attempts"] == 1


def test_what_fails_is_asked_for_again_in_other_words_and_never_lost():
    author = Author(8, failing=0.6)
    records = write(author, range(100), attempts=3)
    assert len(records) == 100
    rejected = [record for record in records.values() if "rejected" in record]
    assert 10 < len(rejected) < 35  # 0.6 ** 3 of them
    assert all(record["rejected"] == "refused" and "caption_a" not in record for record in rejected)
    assert all(record["answers"] == ["I'm sorry, I can't do that."] * 3 for record in rejected)
    second = next(record for record in records.values() if record["attempts"] == 2 and "rejected" not in record)
    assert second["faults"] == ["refused"]
    asked = [request for request in author.requests if request.id == second["id"]]
    assert len({request.seed for request in asked}) == 2
    assert len(author.requests) == sum(record["attempts"] for record in records.values())


def test_records_do_not_depend_on_order_or_neighbours():
    together = write(Author(8, failing=0.5), range(60))
    assert write(Author(5, failing=0.5), reversed(range(60))) == together
    assert write(Author(1, failing=0.5), [41])["41"] == together["41"]


def test_a_model_that_leaves_requests_unanswered_is_an_error():
    with pytest.raises(SynthesisError, match="left 1 requests unanswered, one of '3'"):
        write(Author(2, silent="3"), range(5))


def test_over_a_server_that_answers_badly_now_and_then():
    faults = {"garbage": 0.1, "broken json": 0.1, "refusal": 0.1, "fenced": 0.2, "500": 0.05}
    with StubServer(lambda body, chance: answer_well(body["messages"][-1]["content"]), faults=faults) as server:
        model = ServerModel(model=server.model, base_url=server.url, concurrency=8)
        records = write(model, range(120))
        halves = write(model, range(60, 120)) | write(model, range(60))
    assert len(records) == 120
    assert records == halves
    done = [record for record in records.values() if "rejected" not in record]
    assert len(done) > 100
    faults = {fault for record in records.values() for fault in record.get("faults", ())}
    assert len(faults) <= 6  # short fixed phrases that can be counted
    assert all(len(fault) < 40 for fault in faults)


def test_over_a_tiny_chat_model(tmp_path):
    """Random weights write nothing of sense; all of it must come back, and the same in any order."""
    model = ChatModel(model=str(save_tiny_chat(tmp_path)), max_new_tokens=48, batch_size=4)
    records = write(model, range(6), attempts=2)
    assert len(records) == 6
    assert all(record["attempts"] == 2 and len(record["answers"]) == 2 for record in records.values())
    assert write(model, reversed(range(6)), attempts=2) == records


def test_preview_shows_what_is_asked():
    author = Author(1)
    settings = LanguageModelWriter(model=Ready(part=author), **OPTIONS)
    list(settings.load().write(["5"], seed=7))
    asked = author.requests[0].messages
    assert settings.preview("5", 7) == f"[system]\n{asked[0]['content']}\n\n[user]\n{asked[1]['content']}"


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"attempts\n.*equal to 1"):
        LanguageModelWriter(model=Ready(part=Author(1)), **OPTIONS, attempts=0)
    with pytest.raises(ValueError, match="exclude less"):
        LanguageModelWriter(
            model=Ready(part=Author(1)), prompt="{a} {b}", pools={"a": ["x"], "b": ["y"]}, excluded=[["x", "y"]]
        )
    with pytest.raises(ValueError, match="language 'xx' is unknown"):
        CheckSettings(language="xx")
