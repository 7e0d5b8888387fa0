"""Models behind a URL: nothing is lost, doubled or made up while the server misbehaves."""

import asyncio
import base64
import io
import json
import threading
import time

import pytest
from PIL import Image
from server_requests import SCHEMA, requests_for, short_pauses  # noqa: F401 - a fixture
from stub_server import StubServer, last_text

from fafa.synthesis.components import SynthesisError
from fafa.synthesis.models import ServerModel
from fafa.synthesis.models.asking import ask


def settings_for(server: StubServer, **options) -> ServerModel:
    return ServerModel(**{"model": server.model, "base_url": server.url, "concurrency": 8, **options})


def test_every_request_gets_its_own_answer_whatever_the_order_and_the_concurrency():
    with StubServer() as server:
        some = {reply.id: reply for reply in settings_for(server).load().answer(requests_for(30))}
        again = settings_for(server, concurrency=1).load().answer(reversed(requests_for(30)))
        assert some == {reply.id: reply for reply in again}
    assert len({reply.text for reply in some.values()}) == 30
    assert all(reply.fault is None for reply in some.values())


def test_about_names_the_model_that_the_server_reports_and_no_key(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_TEST", "abc123")
    with StubServer(key="abc123") as server:
        model = settings_for(server, api_key_variable="SECRET_OF_THE_TEST").load()
    assert model.about["reported"] == "tiny-2025-01-01"
    assert "abc123" not in str(model.about)


def test_nothing_is_lost_or_doubled_while_the_server_stumbles():
    passing = {"500": 0.06, "429": 0.04, "503": 0.02, "error body": 0.03, "null content": 0.03, "no json": 0.03}
    with StubServer(faults={**passing, "hang up": 0.03}) as server:
        model = settings_for(server).load()
        replies = list(model.answer(requests_for(200)))
    assert sorted(int(reply.id) for reply in replies) == list(range(200))
    assert all(reply.fault is None for reply in replies)
    assert server.doubled == 0
    assert all(server.counts[fault] for fault in [*passing, "hang up"])
    assert model.usage["retries"] == sum(server.counts[fault] for fault in [*passing, "hang up"])
    assert model.usage["requests"] == len(server.bodies)


def test_answers_that_cannot_be_used_carry_their_fault():
    with StubServer(faults={"refusal": 0.2, "cut off": 0.2}) as server:
        replies = list(settings_for(server, max_tokens=99).load().answer(requests_for(40)))
    faults = [reply.fault for reply in replies if reply.fault]
    assert sum(fault == "cut off at 99 tokens" for fault in faults) == server.counts["cut off"] > 0
    assert sum(fault.startswith("refused by the server: I'm sorry") for fault in faults) > 0
    assert len(replies) == 40


def test_a_restart_of_the_server_is_waited_for():
    with StubServer(delay=0.01) as server:
        replies = []
        for reply in settings_for(server).load().answer(requests_for(80)):
            replies.append(reply)
            if len(replies) == 20:
                server.stop()
                restart = threading.Timer(0.4, server.start)
                restart.start()
        restart.join()
        assert sorted(int(reply.id) for reply in replies) == list(range(80))
        assert all(reply.fault is None for reply in replies)


def test_a_server_that_stays_away_ends_the_work_with_one_line_after_the_answers_it_gave():
    with StubServer() as server:
        model = settings_for(server, patience=0.3, concurrency=2).load()
        replies = []
        with pytest.raises(SynthesisError) as raised:
            for reply in model.answer(requests_for(40)):
                replies.append(reply)
                if len(replies) == 10:
                    server.stop()
        server.start()
    assert len(replies) >= 10
    assert server.url in str(raised.value) and "Start the server" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_item_is_given_up_for_its_own_faults_only():
    """One request that the server always stumbles over is rejected; a server that stumbles over all stops the work."""
    broken = threading.Event()

    def answer(body, chance):
        if broken.is_set() or last_text(body).endswith("person 3"):
            return 500, "CUDA error"
        return (400, "prompt is too long") if last_text(body).endswith("person 5") else "a woman"

    with StubServer(answer) as server:
        model = settings_for(server, max_retries=2, concurrency=1).load()
        faults = {reply.id: reply.fault for reply in model.answer(requests_for(8))}
        assert {name: fault for name, fault in faults.items() if fault} == {
            "3": "error 500, 3 times: CUDA error",
            "5": "error 400: prompt is too long",
        }
        broken.set()
        with pytest.raises(SynthesisError, match=r"CUDA error.*what is done stays"):
            list(model.answer(requests_for(8)))


def refusing(*names: str, longest: int = 10**6):
    """Answers all but the items of these names, prompts of more letters, and more than one picture."""

    def answer(body, chance):
        content, text = body["messages"][-1]["content"], last_text(body)
        if not isinstance(content, str) and len(content) > 2:
            return 400, "At most 1 image may be provided in one prompt."
        refused = text.partition("person ")[2] in names or len(text) > longest
        return (400, "maximum context length exceeded") if refused else "a woman"

    return answer


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_server_that_takes_no_such_pictures_uses_up_no_items(count):
    replies, pictures = [], [Image.new("RGB", (9, 9), "red")] * 2
    with StubServer(refusing()) as server:
        model = settings_for(server).load()
        with pytest.raises(SynthesisError, match=r"a plain question about 2 images.*At most 1 image.*how many ima"):
            replies.extend(model.answer(requests_for(count, images=pictures)))
        assert model.usage["requests"] <= 1 + 2 * 8
    assert replies == []


@pytest.mark.parametrize("concurrency", [1, 32])
def test_a_server_that_refuses_every_item_uses_up_none(concurrency):
    replies, left = [], iter(requests_for(200))
    with StubServer(refusing(longest=9)) as server:
        model = settings_for(server, concurrency=concurrency).load()
        with pytest.raises(SynthesisError, match=r"none of \d+ items.*maximum context length exceeded.*Check the se"):
            replies.extend(model.answer(left))
        with pytest.raises(SynthesisError, match="none of 3 items"):
            replies.extend(model.answer(requests_for(3)))
        # One or two may be the last of a run that was interrupted, and must not keep it from its end.
        assert [reply.fault for reply in model.answer(requests_for(2))] == [
            "error 400: maximum context length exceeded"
        ] * 2
    assert replies == []
    assert len(list(left)) > 100


def test_items_refused_among_others_are_faults():
    with StubServer(refusing("1")) as server:
        faults = {reply.id: reply.fault for reply in settings_for(server).load().answer(requests_for(3))}
    assert faults == {"0": None, "1": "error 400: maximum context length exceeded", "2": None}


def test_many_refusals_in_a_row_are_faults_once_something_was_answered():
    refused = [str(item) for item in range(1, 40)]
    with StubServer(refusing(*refused)) as server:
        replies = list(settings_for(server, concurrency=1).load().answer(requests_for(41)))
    assert [reply.id for reply in replies if reply.fault] == refused
    assert len(replies) == 41


def test_refusals_are_faults_though_they_come_before_every_answer_and_alone_when_asked_again():
    refused = [str(item) for item in range(40)]
    quick, all_refused = refusing(*refused), asyncio.Event()

    async def answer(body, chance):
        said = quick(body, chance)
        if said != "a woman":
            if server.counts["400"] >= len(refused) - 1:
                all_refused.set()
        elif "person" in last_text(body):
            await all_refused.wait()
            await asyncio.sleep(0.3)
        return said

    with StubServer(answer) as server:
        model = settings_for(server, concurrency=64).load()
        answers = list(ask(model, requests_for(44), lambda item, attempt: item, lambda item, text: text, attempts=2))
    assert sorted(answer.item.id for answer in answers if answer.value is None) == sorted(refused)
    assert {answer.attempts for answer in answers if answer.value is None} == {2}
    assert len(answers) == 44


def test_a_server_that_begins_to_refuse_what_it_answered_stops_the_work():
    narrow, replies = threading.Event(), []
    answer = refusing(longest=9)
    with StubServer(lambda body, chance: answer(body, chance) if narrow.is_set() else "a woman") as server:
        model = settings_for(server, concurrency=1).load()
        with pytest.raises(SynthesisError, match=r'"9 again".*maximum context length exceeded'):
            for reply in model.answer(requests_for(40)):
                replies.append(reply)
                if len(replies) == 10:
                    narrow.set()
    assert [reply.fault for reply in replies] == [None] * 10


def test_an_answer_that_takes_too_long_is_asked_for_again():
    with StubServer(faults={"slow": 0.3}, slow=9.0) as server:
        model = settings_for(server, timeout=1.0).load()
        replies = list(model.answer(requests_for(12)))
    assert len(replies) == 12 and all(reply.fault is None for reply in replies)
    assert model.usage["retries"] >= server.counts["slow"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "huge"}, "The model `huge` does not exist"),
        ({"api_key_variable": None}, "Incorrect API key"),
        ({"api_key_variable": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE holds no API key"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "http://127.0.0.1:9/v1: no answer.*correct base_url"),
    ],
)
def test_a_wrong_model_key_or_url_shows_on_loading(monkeypatch, options, message):
    monkeypatch.setenv("SECRET_OF_THE_TEST", "abc123")
    with StubServer(key="abc123") as server, pytest.raises(SynthesisError, match=message) as raised:
        settings_for(server, **{"api_key_variable": "SECRET_OF_THE_TEST", **options}).load()
    assert "\n" not in str(raised.value)


def test_a_schema_is_sent_and_put_into_words_for_servers_without_schemas():
    with StubServer() as server:
        replies = list(settings_for(server).load().answer(requests_for(3, schema=SCHEMA)))
    assert all(set(json.loads(reply.text)) == {"caption", "score"} for reply in replies)

    with StubServer(refuses={"response_format": "response_format is not supported"}) as server:
        in_words = list(settings_for(server, concurrency=1).load().answer(requests_for(3, schema=SCHEMA)))
    assert all(set(json.loads(reply.text)) == {"caption", "score"} for reply in in_words)
    assert server.counts["refused"] == 2  # an item, and a question of ours that shows that it is not the item's fault


def test_servers_that_want_max_completion_tokens_get_it():
    refuses = {"max_tokens": "Unsupported parameter: use 'max_completion_tokens' instead."}
    with StubServer(refuses=refuses) as server:
        replies = list(settings_for(server, max_tokens=77).load().answer(requests_for(2)))
    assert all(reply.fault is None for reply in replies)
    assert server.bodies[-1]["max_completion_tokens"] == 77


def test_pictures_are_sent_shrunk_before_the_text(tmp_path):
    Image.new("RGB", (300, 600), "red").save(tmp_path / "tall.png")
    pictures = [tmp_path / "tall.png", Image.new("RGB", (20, 10), "blue")]
    with StubServer() as server:
        (reply,) = settings_for(server, image_size=100).load().answer(requests_for(1, images=pictures))
    assert reply.fault is None
    first, second, text = server.bodies[-1]["messages"][-1]["content"]
    assert text == {"type": "text", "text": "Describe person 0"}
    shown = [
        Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition("base64,")[2])))
        for part in (first, second)
    ]
    assert [image.size for image in shown] == [(50, 100), (20, 10)]
    assert shown[0].getpixel((25, 50))[0] > 200


def test_a_damaged_picture_stops_the_work_and_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with StubServer() as server, pytest.raises(SynthesisError, match=r"cut\.png: cannot be read"):
        list(settings_for(server).load().answer(requests_for(1, images=[tmp_path / "cut.png"])))


def test_requests_are_taken_as_they_are_needed_and_given_up_on_closing():
    taken = []

    def requests():
        for request in requests_for(1000):
            taken.append(request.id)
            yield request

    with StubServer() as server:
        model = settings_for(server, concurrency=4).load()
        server.delay = 0.01
        replies = model.answer(requests())
        for _ in range(10):
            next(replies)
        assert len(taken) <= 10 + 4
        assert server.most_at_once <= 4
        server.delay = 60
        replies.close()
        assert len(taken) <= 10 + 4
    assert not [thread for thread in threading.enumerate() if thread.name == "fafa-server-model"]


def test_limits_of_recipe_and_server_are_kept():
    """Only lower bounds on the time: ten tries at 1,200 a minute, and a pause that the server asks for."""
    with StubServer(faults={"429": 0.3}, retry_after=0.3) as server:
        model = settings_for(server, requests_per_minute=1200).load()
        before, begin = len(server.bodies), time.monotonic()
        assert len(list(model.answer(requests_for(10)))) == 10
        took = time.monotonic() - begin
    assert server.counts["429"] > 0
    assert took >= max((len(server.bodies) - before - 1) * 0.05, 0.3)


def test_tokens_and_cost_are_counted():
    with StubServer() as server:
        model = settings_for(server, input_price=2.0, output_price=10.0).load()
        list(model.answer(requests_for(5)))
    read, written = model.usage["input tokens"], model.usage["output tokens"]
    assert (read, written) == (2 + 5 * 3, 6 * 8)
    assert model.usage["cost"] == pytest.approx((2 * read + 10 * written) / 1e6)


@pytest.mark.parametrize(
    "options",
    [{"base_url": "localhost:8000"}, {"concurrency": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_retries": -1}],
)
def test_settings_that_make_no_sense_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"\n{name}\n"):
        ServerModel(model="tiny", **options)
