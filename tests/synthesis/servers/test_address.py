"""Where servers are, who gets which key, and what is said of servers that refuse, want money or ask for patience."""

import json
import logging
import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import openai
import pytest
import yaml
from stub_server import Raw, StubServer, completion, last_text

from fafa.synthesis.__main__ import main
from fafa.synthesis.components import SynthesisError, TextRequest
from fafa.synthesis.models import ServerModel
from fafa.synthesis.painters import ImageServer
from fafa.synthesis.servers import client
from fafa.synthesis.servers.address import Address
from fafa.synthesis.servers.failures import retry_after

SECRET = "sk-secret0123456789"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Retries that come at once, and a user who has set nothing."""
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.02)
    for name in ("FAFA_KEY_HOSTS", "OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def settings_for(server: StubServer, **options) -> ServerModel:
    return ServerModel(**{"model": server.model, "base_url": server.url, "concurrency": 4, "max_retries": 1, **options})


def requests_for(count: int) -> list[TextRequest]:
    return [TextRequest(str(item), [{"role": "user", "content": f"person {item}"}], seed=item) for item in range(count)]


# Which key goes where.


@pytest.mark.parametrize(
    ("variable", "base_url", "allowed"),
    [
        ("OPENAI_API_KEY", "https://api.openai.com/v1", ""),
        ("MY_KEY", "http://localhost:8000/v1", ""),
        ("MY_KEY", "http://127.0.0.1:8000/v1", ""),
        ("MY_KEY", "http://[::1]:8000/v1", ""),
        ("MY_KEY", "https://llm.example.org/v1", "MY_KEY=llm.example.org"),
        ("MY_KEY", "https://llm.example.org:8443/v1", "MY_KEY=llm.example.org:8443"),
        ("MY_KEY", "https://LLM.example.org/v1", "OTHER=a.example, MY_KEY=https://llm.example.org/v1"),
        ("MY_KEY", "http://gpu7:8000/v1", "MY_KEY=http://gpu7:8000"),
        ("MY_KEY", "http://gpu7:8000/v1", "MY_KEY=http://gpu7"),
    ],
)
def test_a_key_goes_to_its_own_host_to_this_machine_and_where_the_user_says(monkeypatch, variable, base_url, allowed):
    monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("FAFA_KEY_HOSTS", allowed)
    assert Address(base_url, variable).headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("variable", "base_url", "allowed", "wish"),
    [
        ("AWS_SECRET_ACCESS_KEY", "https://llm.example.org/v1", "", "AWS_SECRET_ACCESS_KEY=llm.example.org"),
        ("OPENAI_API_KEY", "https://api.openai.com.example.org/v1", "", "OPENAI_API_KEY=api.openai.com.example.org"),
        ("OPENAI_API_KEY", "http://api.openai.com/v1", "", "OPENAI_API_KEY=http://api.openai.com"),
        ("OPENAI_API_KEY", "https://api.mistral.ai/v1", "", "OPENAI_API_KEY=api.mistral.ai"),
        ("MY_KEY", "https://localhost.example.org/v1", "", "MY_KEY=localhost.example.org"),
        ("MY_KEY", "https://10.0.0.7/v1", "", "MY_KEY=10.0.0.7"),
        ("MY_KEY", "https://b.example.org/v1", "MY_KEY=a.example.org", "MY_KEY=b.example.org"),
        ("MY_KEY", "https://a.example.org/v1", "OTHER=a.example.org", "MY_KEY=a.example.org"),
        ("MY_KEY", "http://gpu7:8000/v1", "MY_KEY=gpu7:8000", "MY_KEY=http://gpu7:8000"),
    ],
)
def test_a_recipe_alone_sends_no_key_to_a_foreign_host(monkeypatch, variable, base_url, allowed, wish):
    """A shared recipe could send any secret of the environment anywhere. The message says how to allow it, verbatim."""
    monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("FAFA_KEY_HOSTS", allowed)
    for settings in (ServerModel, ImageServer):
        with pytest.raises(SynthesisError) as raised:
            settings(model="tiny", base_url=base_url, api_key_variable=variable).load()
        assert f'export FAFA_KEY_HOSTS="{wish}"' in str(raised.value) and SECRET not in str(raised.value)
    monkeypatch.setenv("FAFA_KEY_HOSTS", wish)
    assert Address(base_url, variable).headers["Authorization"]


def test_only_openai_is_told_of_an_organisation_there(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"{name} of somebody".replace(" ", "-"))
    own = Address("https://api.openai.com/v1", "OPENAI_API_KEY").headers
    assert (own["OpenAI-Organization"], own["OpenAI-Project"]) == (
        "OPENAI_ORG_ID-of-somebody",
        "OPENAI_PROJECT_ID-of-somebody",
    )
    assert "OPENAI" not in str(Address("http://localhost/v1", None).headers)


def test_a_list_of_allowed_hosts_that_cannot_be_read_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("FAFA_KEY_HOSTS", SECRET)
    with pytest.raises(SynthesisError, match="FAFA_KEY_HOSTS cannot be read: expected NAME=HOST") as raised:
        Address("https://llm.example.org/v1", "MY_KEY")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("variable", [SECRET, "hf_aBcD0123456789", "my key"])
def test_a_key_written_into_a_recipe_is_refused_without_showing_it(variable):
    for settings in (ServerModel, ImageServer):
        with pytest.raises(ValueError, match="must be the name of an environment variable") as raised:
            settings(model="tiny", api_key_variable=variable)
        assert variable not in str(raised.value)


# Keys are not shown.


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"\t{SECRET} ", f"\r\n{SECRET}\r\n"])
def test_white_space_around_a_key_is_no_part_of_it(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with StubServer(key=SECRET) as server:
        (reply,) = settings_for(server, api_key_variable="MY_KEY").load().answer(requests_for(1))
    assert reply.fault is None


@pytest.mark.parametrize(
    "key",
    [
        f"{SECRET}\nsk-other",
        f"sk {SECRET}",
        f'"{SECRET}"',
        f"“{SECRET}”",
        f"Bearer{SECRET}",
        f"{SECRET}é",
        f"{SECRET}\x7f",
    ],
)
def test_a_key_that_is_none_is_refused_at_the_start_and_not_shown(monkeypatch, caplog, key):
    """A line break in it used to print it whole, with the header that cannot be sent."""
    monkeypatch.setenv("MY_KEY", key)
    for settings in (ServerModel, ImageServer):
        with pytest.raises(SynthesisError, match="MY_KEY holds more than an API key, or none: set it") as raised:
            settings(model="tiny", base_url="http://localhost:9/v1", api_key_variable="MY_KEY").load()
        assert "secret" not in str(raised.value) + caplog.text


def test_a_server_that_repeats_the_key_does_not_have_it_shown_or_stored(monkeypatch, caplog):
    """In refusals, errors, answers, and as the name of the model; in a URL, too."""
    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    said = f"invalid key {SECRET} at https://user:{SECRET}@host/v1?api_key={SECRET}"

    def answer(body, chance):
        return {
            "person 0": (400, said),
            "person 1": (500, said),
            "person 2": Raw({"choices": [], "about": said}),
            "person 3": Raw(said.encode()),
            "person 4": Raw(completion(said)),
            "person 5": Raw(completion(said, "content_filter")),
            "person 6": Raw({"error": said}),
            "person 8": Raw(f"<html><title>{'x' * 60} {said}</title>".encode()),
            "person 9": Raw(f"{'x' * 190} {said}".encode()),
            "person 10": Raw({"choices": [], "about": f"{'x' * 100} {said}"}),
            "person 7": (429, said) if server.counts["429"] == 0 else "a woman",
        }.get(last_text(body), Raw(completion("a woman", model=f"tiny of {SECRET}")))

    with StubServer(answer, key=SECRET) as server:
        model = settings_for(server, api_key_variable="MY_KEY", max_retries=0).load()
        replies = list(model.answer(requests_for(12)))
        server.key = "another"
        with pytest.raises(SynthesisError) as raised:
            settings_for(server, api_key_variable="MY_KEY").load()
    assert len(replies) == 12
    shown = f"{replies} {model.about} {raised.value} {caplog.text}"
    assert SECRET[:6] not in shown and "***" in shown


def test_a_short_key_hides_no_words_of_answers(monkeypatch):
    """ "EMPTY" is what people give to servers that want none."""
    monkeypatch.setenv("MY_KEY", "a")
    address = Address("http://localhost/v1", "MY_KEY")
    assert address.without_key("a woman in a coat") == "a woman in a coat"
    assert address.line("no such key: a") == "no such key: ***"


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        (f"https://user:{SECRET}@host/v1", "holds more than an address"),
        (f"https://{SECRET}@host/v1", "holds more than an address"),
        (f"https://host/v1?api_key={SECRET}", "holds more than an address"),
        (f"https://host/v1?{SECRET}", "holds more than an address"),
        (f"https://host/v1#{SECRET}", "holds more than an address"),
        (f"ftp://user:{SECRET}@host/v1", "must start with http:// or https://"),
        ("http://localhost:8000/v1/chat/completions", "goes too far: leave out /chat/completions"),
        ("http://localhost:8000/v1/images/generations/", "goes too far"),
        ("http://localhost:80000/v1", "is no address"),
        ("http://:8000/v1", "is no address"),
        ("http://[::1/v1", "is no address"),
        ("http://local host/v1", "is no address"),
        ("http:///v1", "is no address"),
    ],
)
def test_an_address_with_a_password_or_none_at_all_is_refused_without_showing_it(base_url, message):
    for settings in (ServerModel, ImageServer):
        with pytest.raises(ValueError, match=message) as raised:
            settings(model="tiny", base_url=base_url)
        assert SECRET not in str(raised.value)


# What is said of servers.


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Raw({"error": {"message": "You exceeded your current quota, please check your plan and billing details.",
                        "type": "insufficient_quota", "code": "insufficient_quota"}}, 429), "nothing left to spend"),
        (Raw({"error": {"message": "Insufficient Balance"}}, 402), "nothing left to spend"),
        (Raw({"error": {"message": "Your credit balance is too low to access the API"}}, 400), "nothing left to spend"),
        (Raw({"error": {"message": "Insufficient credits", "code": 402}}), "nothing left to spend"),
        (Raw({"error": {"message": "no", "code": "401"}}), "refuses the key"),
        (Raw(b"", 401), "refuses the key"),
    ],
)  # fmt: skip
def test_an_account_without_money_and_a_key_that_ran_out_end_the_work_at_once(answer, message):
    """They used to be waited for, for a quarter of an hour, and would have been for ever."""
    replies = []
    with StubServer(lambda body, chance: answer if last_text(body) == "person 4" else "a woman") as server:
        model = settings_for(server, concurrency=1).load()
        with pytest.raises(SynthesisError, match=f"{message}.*what is done stays"):
            replies.extend(model.answer(requests_for(9)))
        asked = len(server.bodies)
    assert [reply.id for reply in replies] == list("0123") and asked == 1 + 5


def test_a_quota_of_the_minute_is_waited_for_though_it_speaks_of_billing():
    said = Raw({"error": {"message": "You exceeded your current quota, please check your plan and billing details. "
                          "Please retry in 0.1s.", "status": "RESOURCE_EXHAUSTED", "code": 429}}, 429)  # fmt: skip

    def answer(body, chance):
        asked = sum(last_text(other) == "person 0" for other in server.bodies)
        return said if last_text(body) == "person 0" and asked == 1 else "a woman"

    with StubServer(answer) as server:
        (reply,) = settings_for(server, max_retries=0).load().answer(requests_for(1))
    assert reply.fault is None


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_server_that_asks_for_patience_gets_it_up_to_a_bound(status):
    stubborn = Raw({"error": {"message": "Overloaded"}}, status)
    with StubServer(lambda body, chance: stubborn if "person" in last_text(body) else "a woman") as server:
        model = settings_for(server, patience=0.2).load()
        with pytest.raises(SynthesisError, match=rf"error {status}: Overloaded; silent for.*raise patience.*stays"):
            list(model.answer(requests_for(2)))


def test_a_server_that_asks_for_more_patience_than_there_is_ends_the_work_at_once():
    tomorrow = format_datetime(datetime.now(timezone.utc) + timedelta(days=1), usegmt=True)
    said = Raw({"error": {"message": "daily limit"}}, 429, [f"Retry-After: {tomorrow}"])
    with StubServer(lambda body, chance: said if "person" in last_text(body) else "a woman") as server:
        model = settings_for(server, patience=30.0).load()
        with pytest.raises(SynthesisError, match=r"it asks to wait for 86\d\d\d s.*come back later"):
            list(model.answer(requests_for(1)))


def test_a_pause_is_read_in_seconds_milliseconds_and_as_a_date():
    in_a_minute = format_datetime(datetime.fromtimestamp(time.time() + 60, timezone.utc), usegmt=True)
    assert 50 < retry_after({"retry-after": in_a_minute}) <= 60
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert [retry_after({"retry-after": text}) for text in (past, "-3", "nan", "soon", "")] == [0.0] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tinny"}, r"It has the models tiny: correct model"),
        ({"base_url": "ROOT"}, r"did you mean base_url: ROOT/v1\?"),
        ({"base_url": "ROOT/"}, r"did you mean base_url: ROOT/v1\?"),
        ({"base_url": "ROOT/api/v1"}, r"Correct base_url, which ends with /v1"),
    ],
)
def test_a_wrong_model_or_address_is_told_apart_by_the_list_of_models(options, message):
    with StubServer() as server:
        root = server.url.removesuffix("/v1")
        options = {name: value.replace("ROOT", root) for name, value in options.items()}
        with pytest.raises(SynthesisError, match=message.replace("ROOT", root)):
            settings_for(server, **options).load()


def test_an_image_server_without_v1_is_told_so():
    with StubServer() as server:
        root = server.url.removesuffix("/v1")
        with pytest.raises(SynthesisError, match=rf"Did you mean base_url: {root}/v1\?"):
            ImageServer(model="tiny", base_url=root).load()


def test_a_page_at_the_address_is_told_at_once(monkeypatch):
    """Some applications give their page to every request."""
    with StubServer(lambda body, chance: Raw(b"<!doctype html><title>Chat</title>")) as server:
        with pytest.raises(SynthesisError, match=r'a web page, "Chat".*and run again'):
            settings_for(server, max_retries=9).load()
        assert len(server.bodies) == 2


def test_a_server_that_sends_on_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with StubServer() as other:
        away = Raw(b"", 307, [f"Location: {other.url}/chat/completions?key={SECRET}"])
        with StubServer(lambda body, chance: away) as server, pytest.raises(SynthesisError) as raised:
            settings_for(server, api_key_variable="MY_KEY").load()
    assert f"it sends on to {other.url}/chat/completions; set base_url" in str(raised.value)
    assert SECRET not in str(raised.value) and other.bodies == []


def test_nobody_there_names_the_address_the_reason_and_the_remedy():
    for settings in (ServerModel, ImageServer):
        remedy = "Start the server or correct base_url"
        with pytest.raises(SynthesisError, match=rf"http://127.0.0.1:9/v1.*onnect.*{remedy}") as raised:
            settings(model="tiny", base_url="http://127.0.0.1:9/v1").load()
        assert "Errno 111" in str(raised.value) or "refused" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_name_that_nobody_has_is_told():
    with pytest.raises(
        SynthesisError, match=r"https://nowhere.invalid/v1: no answer.*cannot be reached.*correct base_url"
    ):
        ServerModel(model="tiny", base_url="https://nowhere.invalid/v1").load()


def test_a_server_asked_by_https_that_speaks_http_is_told():
    def answer():
        connection, _ = listening.accept()
        with connection:
            connection.recv(2**16)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/v1"
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SynthesisError, match=r"seems to speak http://, not https://.*correct base_url"):
            ServerModel(model="tiny", base_url=url).load()
        thread.join()


# Proxies and logs.


def test_this_machine_is_not_asked_by_way_of_a_proxy(monkeypatch):
    """To a proxy, localhost is another machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with StubServer() as server:
        (reply,) = settings_for(server).load().answer(requests_for(1))
    assert reply.fault is None


def test_a_proxy_that_fails_is_named_without_its_password(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(SynthesisError, match=r"by way of the environment's proxy http://\*\*\*@127.0.0.1:9") as raised:
        ServerModel(model="tiny", base_url="http://llm.example.org/v1").load()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("proxy", [f"gopher://user:{SECRET}@host", f"socks5://user:{SECRET}@host"])
def test_a_proxy_that_cannot_be_used_is_told(monkeypatch, proxy):
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for settings in (ServerModel, ImageServer):
        with pytest.raises(SynthesisError, match=r"proxies or certificates .* cannot be used") as raised:
            settings(model="tiny", base_url="http://llm.example.org/v1").load()
        assert SECRET not in str(raised.value)


def test_certificates_that_are_not_there_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(SynthesisError, match=r"certificates \(.*SSL_CERT_FILE\) cannot be used"):
        ServerModel(model="tiny", base_url="https://llm.example.org/v1").load()


def transport() -> logging.Logger:
    """Of the library under openai's client, which tells of every request at level INFO, and has changed its name."""
    library = next(cls for cls in openai.DefaultHttpxClient.__mro__ if not cls.__module__.startswith("openai"))
    return logging.getLogger(library.__module__.partition(".")[0])


@pytest.fixture
def talkative(caplog):
    """Everything from level INFO is logged, and nobody has said anything about the transport."""
    before = transport().level
    transport().setLevel(logging.NOTSET)
    caplog.set_level(logging.INFO)
    yield caplog
    transport().setLevel(before)


def test_no_request_has_a_line_in_the_log(talkative):
    with StubServer() as server:
        list(settings_for(server).load().answer(requests_for(3)))
        ImageServer(model="tiny", base_url=server.url).load()
    assert [record.name for record in talkative.records if not record.name.startswith("fafa")] == []


def test_who_wants_to_see_every_request_still_can(talkative):
    transport().setLevel(logging.INFO)
    with StubServer() as server:
        settings_for(server).load()
    assert transport().name in {record.name for record in talkative.records}


def test_a_quiet_command_prints_no_line_for_every_request_and_notes_what_was_left_out(talkative, tmp_path):
    with StubServer(refuses={"seed": "Unknown parameter: 'seed'."}) as server:
        model = {"kind": "server", "model": server.model, "base_url": server.url}
        writer = {"kind": "language-model", "model": model, "prompt": "A {colour} coat", "pools": {"colour": ["red"]}}
        recipe = {
            "kind": "triplets",
            "quadruples": {"count": 3, "writer": writer},
            "diptychs": {"realistic": 1, "diverse": 0, "painter": {"kind": "world", "height": 96, "width": 102}},
            "gates": [],
            "judge": {"kind": "onlooker"},
            "brakes": {"preflight": False},  # the stub's texts are of little use
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        command = [
            str(tmp_path / "recipe.yaml"),
            "--output",
            str(tmp_path / "made"),
            "--until",
            "quadruples",
            "--quiet",
        ]
        with pytest.raises(SystemExit, match="nothing was kept"):
            main(command)
        assert len(server.bodies) > 3
    assert [record.name for record in talkative.records if not record.name.startswith("fafa")] == []
    manifest = json.loads((tmp_path / "made" / "quadruples" / "manifest.json").read_text())
    assert manifest["about"]["changes of the request"] == ["seed is left out"]
