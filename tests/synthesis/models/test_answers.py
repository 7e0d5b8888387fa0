"""What servers answer in fact: each kind is that item's fault by name, or read rightly, and none is a crash."""

import gzip
import json

import pytest
from server_requests import short_pauses  # noqa: F401 - a fixture
from stub_server import Raw, StubServer, completion, last_text

from fafa.synthesis.components import SynthesisError, TextRequest
from fafa.synthesis.models import ServerModel
from fafa.synthesis.models import server as server_module
from fafa.synthesis.models.asking import ask

CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a woman"}}


def request_for(item: str, **options) -> TextRequest:
    return TextRequest(item, [{"role": "user", "content": f"Describe person {item}"}], seed=0, **options)


def load(server: StubServer, **options) -> "server_module.LoadedServerModel":
    return ServerModel(**{"model": server.model, "base_url": server.url, "max_retries": 1, **options}).load()


def answering(said):
    """Plain questions and person "well" as they should be, everybody else with what was given."""
    return lambda body, chance: said if "person odd" in last_text(body) else "a woman"


READ = {
    "a list of parts": (completion([{"type": "text", "text": "a "}, {"type": "text", "text": "woman"}]), "a woman"),
    "a list of texts": (completion(["a ", "woman"]), "a woman"),
    "thoughts beside the text": (
        completion(
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
        ),
        "yes",
    ),
    "no usage": ({"choices": [CHOICE]}, "a woman"),
    "usage null": ({"choices": [CHOICE], "usage": None}, "a woman"),
    "usage of texts": ({"choices": [CHOICE], "usage": {"prompt_tokens": "7", "completion_tokens": None}}, "a woman"),
    "usage a number": ({"choices": [CHOICE], "usage": 7}, "a woman"),
    "model null": ({"choices": [CHOICE], "model": None}, "a woman"),
    "another word for stop": (completion("a woman", "EOS"), "a woman"),
}


@pytest.mark.parametrize("kind", READ)
def test_an_unusual_answer_is_read(kind):
    content, text = READ[kind]
    with StubServer(answering(Raw(content))) as server:
        (reply,) = load(server).answer([request_for("odd")])
    assert (reply.text, reply.fault, reply.finish_reason) == (text, None, "stop")


def test_a_compressed_answer_is_read():
    packed = Raw(gzip.compress(json.dumps(completion("a woman")).encode()), headers=["Content-Encoding: gzip"])
    with StubServer(answering(packed)) as server:
        (reply,) = load(server).answer([request_for("odd")])
    assert (reply.text, reply.fault) == ("a woman", None)


FAULTS = {
    "choices: null": ({"choices": None}, "an answer without choices"),
    "choices: []": ({"choices": []}, "an answer without choices"),
    "choices: [null]": ({"choices": [None]}, "an answer without choices"),
    "choices: a mapping": ({"choices": {"0": CHOICE}}, "an answer without choices"),
    "no choices": ({"id": 1}, "an answer without choices"),
    "message: null": ({"choices": [{"message": None}]}, "an answer without a message"),
    "no message": ({"choices": [{"text": "a woman"}]}, "an answer without a message"),
    "a piece of a stream": ({"choices": [{"delta": {"content": "a"}}]}, "an answer without a message"),
    "content a number": (completion(7), "an answer whose content is no text"),
    "content a mapping": (completion({"caption": "a"}), "an answer whose content is no text"),
    "content with a picture": (completion([{"type": "image_url"}]), "an answer with a part that is no text"),
    "content with null": (completion([None]), "an answer with a part that is no text"),
    "content null": (completion(None), "an empty answer"),
    "content blank": (completion("\n "), "an empty answer"),
    "no content": ({"choices": [{"finish_reason": "stop", "message": {}}]}, "an empty answer"),
    "finish_reason: null": (completion("a woman", None), "an answer that does not tell why it ended"),
    "finish_reason: a number": (completion("a woman", 3), "an answer that does not tell why it ended"),
    "a page": (b"<!DOCTYPE html><html><title>Bad   gateway</title>", "an answer that is no JSON"),
    "a text": (b"upstream connect error", "an answer that is no JSON"),
    "no UTF-8": (b'{"a": "\xff"}', "an answer that is no JSON"),
    "half an answer": (b'{"choices": [{"mess', "an answer that is no JSON"),
    "nothing": (b"", "an answer without a word"),
    "too deep": (b"[" * 100_000, "an answer that is no JSON"),
    "too many digits": (b'{"choices": ' + b"9" * 5000 + b"}", "an answer that is no JSON"),
    "a stream": (
        b'data: {"choices": []}\n\ndata: [DONE]\n\n',
        "an answer in pieces (a stream), which was not asked for",
    ),
    "a list": ([CHOICE], "an answer that is no JSON object"),
    "null": (None, "an answer that is no JSON object"),
    "an error": ({"error": {"message": "upstream failed"}}, "an error in place of an answer"),
    "an error of 502": ({"error": {"message": "upstream failed", "code": 502}}, "an error in place of an answer"),
    "an error as text": ({"error": "Unexpected endpoint"}, "an error in place of an answer"),
}


@pytest.fixture(scope="module")
def faulty_server():
    """Answers person N with the N-th of the faults."""
    contents = [content for content, _ in FAULTS.values()]

    def answer(body, chance):
        _, _, item = last_text(body).partition("person ")
        return Raw(contents[int(item)]) if item.isdecimal() else "a woman"

    with StubServer(answer) as server:
        yield server


def test_an_answer_that_is_none_is_that_items_fault_by_name(faulty_server):
    requests = [request_for("well"), *(request_for(str(number)) for number in range(len(FAULTS)))]
    model = load(faulty_server)
    replies = {reply.id: reply for reply in model.answer(requests)}
    assert replies.pop("well").fault is None
    found = {kind: replies[str(number)].fault for number, kind in enumerate(FAULTS)}
    assert {kind: fault.partition(":")[0] for kind, fault in found.items()} == {
        kind: f"{name}, 2 times" for kind, (_, name) in FAULTS.items()
    }
    assert found["a page"].endswith('a web page, "Bad gateway"')
    assert all(reply.text == "" and reply.finish_reason is None for reply in replies.values())


def test_faults_of_answers_can_be_counted_without_the_servers_own_words(faulty_server):
    model = load(faulty_server, max_retries=0)
    items = ["well", *map(str, range(len(FAULTS)))]
    answers = ask(model, items, lambda item, attempt: request_for(item), lambda item, text: text, attempts=1)
    reasons = {answer.item: answer.faults for answer in answers if answer.item != "well"}
    assert {reason for (reason,) in reasons.values()} == {name for _, name in FAULTS.values()}


@pytest.mark.parametrize(
    ("reason", "fault", "passed_on"),
    [
        ("length", "cut off at 512 tokens", "length"),
        ("MAX_TOKENS", "cut off at 512 tokens", "length"),
        ("content_filter", "refused by the server: content filter", "content_filter"),
        ("SAFETY", "refused by the server: content filter", "content_filter"),
        ("tool_calls", "ended early: tool_calls", "tool_calls"),
        ("abort", "ended early: abort", "abort"),
    ],
)
def test_an_answer_that_did_not_end_by_itself_is_a_fault_and_tells_why(reason, fault, passed_on):
    with StubServer(answering(Raw(completion("a wom", reason)))) as server:
        (reply,) = load(server).answer([request_for("odd")])
    assert (reply.text, reply.fault, reply.finish_reason) == ("a wom", fault, passed_on)


def test_a_server_that_never_tells_why_an_answer_ended_is_taken_and_noted(caplog):
    """Otherwise nothing could be done with it; what has as many tokens as it may is still known to be cut off."""
    used = {"prompt_tokens": 3, "completion_tokens": 20}

    def answer(body, chance):
        tokens = used if "person long" in last_text(body) else {}
        return Raw(completion("a woman", None, usage=tokens))

    with StubServer(answer) as server:
        model = load(server, max_tokens=20)
        replies = {reply.id: reply for reply in model.answer([request_for("short"), request_for("long")])}
    assert (replies["short"].text, replies["short"].fault, replies["short"].finish_reason) == ("a woman", None, None)
    assert replies["long"].fault == "cut off at 20 tokens"
    assert caplog.text.count("does not tell why an answer ended") == 1
    assert model.about["reasons of ending"] == "not told by the server"


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("block", [b" ", b" " * 2**16])
def test_an_answer_without_end_is_given_up(monkeypatch, status, block):
    """Drop by drop it is a matter of time; in full stream, of bytes. Of an error as much is read as is told."""
    monkeypatch.setattr(server_module, "MOST_BYTES", 2**20)
    with StubServer(answering(Raw(block, status, endless=True))) as server:
        (reply,) = load(server, max_retries=0, timeout=1.0).answer([request_for("odd")])
    told = {200: "an answer of more than 1,048,576 bytes", 500: "error 500: without a word"}
    assert reply.fault == ("no answer within 1 s" if len(block) == 1 else told[status])


def test_a_bomb_of_compressed_bytes_is_not_unpacked():
    bomb = Raw(gzip.compress(b" " * 2**25), headers=["Content-Encoding: gzip"])
    with StubServer(answering(bomb)) as server:
        (reply,) = load(server, max_retries=0).answer([request_for("odd")])
    assert reply.fault == "an answer of more than 16,777,216 bytes"


def test_damaged_compression_is_a_fault():
    with StubServer(answering(Raw(b"no gzip", headers=["Content-Encoding: gzip"]))) as server:
        (reply,) = load(server, max_retries=0).answer([request_for("odd")])
    assert reply.fault.startswith("an answer that cannot be unpacked")


def test_half_a_character_in_a_prompt_is_that_items_fault():
    with StubServer() as server:
        (reply,) = load(server).answer([request_for("\ud83d")])
    assert reply.fault == "a prompt with half a character, which cannot be sent"


def test_answers_without_a_count_of_tokens_show_that_the_cost_is_not_whole():
    with StubServer(answering(Raw({"choices": [CHOICE]}))) as server:
        model = load(server, input_price=1.0, output_price=1.0)
        list(model.answer([request_for("odd"), request_for("well")]))
    assert model.usage["answers without a count of tokens"] == 1
    assert model.usage["cost"] > 0


def test_a_filter_names_what_it_is_about_and_turns_nothing_off():
    """One refusal of content used to turn JSON schemas off for the whole run."""
    schema = {"type": "object", "properties": {"caption": {"type": "string"}}, "required": ["caption"]}
    azure = {
        "error": {
            "code": "content_filter",
            "message": "The response was filtered due to the prompt triggering Azure's content management policy",
            "status": 400,
        }
    }

    def answer(body, chance):
        if "person odd" in last_text(body):
            return Raw(azure, 400)
        return '{"caption": "a woman"}' if "person" in last_text(body) else "yes"

    with StubServer(answer) as server:
        model = load(server, concurrency=1)
        items = [request_for(item, schema=schema) for item in ("odd", "well", "again")]
        replies = {reply.id: reply for reply in model.answer(items)}
    assert replies["odd"].fault.startswith("refused by the server: error 400: The response was filtered")
    assert replies["well"].fault is None and replies["again"].fault is None
    assert "json_schema" in json.dumps(server.bodies[-1]["response_format"])
    assert "changes of the request" not in model.about


def test_an_item_that_brings_the_server_down_is_given_up_while_others_are_answered():
    """It used to be sent again for ever, for the server was there for all others."""
    with StubServer(answering(Raw(b"", 502))) as server:
        model = load(server, max_retries=2, patience=60.0, concurrency=2)
        many = [request_for("odd"), *(request_for(f"well {number}") for number in range(60))]
        server.delay = 0.01
        replies = {reply.id: reply.fault for reply in model.answer(many)}
    assert replies.pop("odd") == "error 502, 3 times: without a word"
    assert set(replies.values()) == {None}


def test_a_server_that_gives_no_answer_at_all_says_so_on_loading():
    with (
        StubServer(lambda body, chance: Raw({"choices": [None]})) as server,
        pytest.raises(SynthesisError, match=r"does not even answer \"a plain question\" \(an answer without choices"),
    ):
        load(server)
