import base64
import gzip
import io
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from odd_images import png
from PIL import Image

from fafa.synthesis.components import ImageRequest, SynthesisError
from fafa.synthesis.painters import ImageServer
from fafa.synthesis.servers import client


class StubServer(ThreadingHTTPServer):
    """Paints one colour, made from the seed; `trouble(body, times asked)` may return (status, answer, headers)."""

    daemon_threads = True

    def __init__(self, trouble=lambda body, times: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble = trouble
        self.bodies = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address) -> None:
        """Whoever asked has gone, as from an answer that is too long."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(200, {"object": "list", "data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            times = sum(other["prompt"] == body["prompt"] for other in self.server.bodies)
        self.reply(*(self.server.trouble(body, times) or (200, painted(body))))

    def reply(self, status, answer, headers=()):
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(content),
            **dict(headers),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


def painted(body, size=None) -> dict:
    size = size or tuple(map(int, body["size"].split("x")))
    colour = (body["seed"] % 251 + 1, body["seed"] % 7, len(body["prompt"]))
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return {"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}


@pytest.fixture
def serve(monkeypatch):
    """Starts stub servers; between attempts nobody waits."""
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.01)
    servers = []

    def start(trouble=lambda body, times: None) -> StubServer:
        servers.append(StubServer(trouble))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def settings(server, **changes) -> ImageServer:
    return ImageServer(**{"model": "stub", "base_url": server.url, "width": 24, "height": 16, **changes})


def requests(count: int, **changes) -> list[ImageRequest]:
    return [ImageRequest(str(n), f"picture {n}", 2**40 + n, **changes) for n in range(count)]


def test_pictures_come_as_asked_for_whatever_goes_wrong_on_the_way(serve):
    """Every request fails once, in one of eight ways."""
    drawing, bomb = io.BytesIO(), png(60_000, 60_000, rows=b"")
    Image.new("RGB", (24, 16)).save(drawing, "EPS")  # for which Pillow would start Ghostscript

    def trouble(body, times):
        ways = [
            (500, {"error": {"message": "broken"}}),
            (429, {"error": {"message": "slow down"}}, {"Retry-After": 0}),
            (200, b"<html>garbage"),
            (200, {"error": {"message": "in a 200"}}),
            (200, {"data": [{"b64_json": "AAAA"}]}),
            (200, {"data": [{"b64_json": base64.b64encode(drawing.getvalue()).decode()}]}),
            (200, {"data": [{"b64_json": base64.b64encode(bomb).decode()}]}),
            (200, painted(body, size=(8, 8))),
        ]
        return ways[int(body["prompt"].split()[1]) % len(ways)] if times == 1 else None

    server = serve(trouble)
    painter = settings(server, options={"num_inference_steps": 4}, price=0.25, concurrency=4).load()
    items = requests(30)
    results = {result.id: result for result in painter.paint(items)}
    assert sorted(results) == sorted(item.id for item in items)
    for item in items:
        expected = painted({"seed": item.seed % 2**31, "prompt": item.prompt, "size": "24x16"})
        expected = Image.open(io.BytesIO(base64.b64decode(expected["data"][0]["b64_json"])))
        assert np.array_equal(np.asarray(results[item.id].image), np.asarray(expected))
    assert painter.usage == Counter(requests=60, retries=30, images=30, cost=7.5)
    assert {(body["model"], body["num_inference_steps"], body["n"]) for body in server.bodies} == {("stub", 4, 1)}


def test_refusals_and_stubborn_failures_are_faults(serve):
    def trouble(body, times):
        if body["prompt"] == "picture 1":
            return 400, {"error": {"code": "content_policy_violation", "message": "no"}}
        return (500, {"error": {"message": "out of luck"}}) if body["prompt"] == "picture 2" else None

    server = serve(trouble)
    results = {result.id: result for result in settings(server, max_retries=2).load().paint(requests(4))}
    assert [results[name].fault for name in "03"] == [None, None]
    assert results["1"].image is None and results["1"].fault == "refused as unsafe"
    assert results["2"].image is None and "out of luck" in results["2"].fault
    assert Counter(body["prompt"] for body in server.bodies) == Counter(
        {"picture 0": 1, "picture 1": 1, "picture 2": 3, "picture 3": 1}
    )


def test_a_server_that_fails_altogether_uses_up_no_items(serve):
    painter = settings(serve(lambda body, times: (500, {})), max_retries=0, concurrency=2).load()
    asked = requests(100)
    taken = iter(asked)
    with pytest.raises(SynthesisError, match=r"none of 2\d items in a row; the last, \d+: error 500.*run again"):
        list(painter.paint(taken))
    assert len(list(taken)) > 70


def test_a_server_that_is_away_is_waited_for_and_then_given_up(serve):
    busy = serve(lambda body, times: (503, {}) if times < 9 else None)
    assert [result.fault for result in settings(busy, max_retries=0).load().paint(requests(1))] == [None]
    for status in (429, 503):
        gone = settings(serve(lambda body, times, status=status: (status, {})), patience=0.0).load()
        with pytest.raises(SynthesisError, match=r'no answer to "\d".*raise patience, or come back later'):
            list(gone.paint(requests(3)))


def test_wrong_urls_keys_and_models_show_at_once(serve, monkeypatch):
    with pytest.raises(SynthesisError, match=r"http://127.0.0.1:9/v1: no answer.*correct base_url"):
        ImageServer(model="stub", base_url="http://127.0.0.1:9/v1").load()
    monkeypatch.delenv("PAINTER_KEY", raising=False)
    with pytest.raises(SynthesisError, match="PAINTER_KEY holds no API key"):
        settings(serve(), api_key_variable="PAINTER_KEY").load()
    unknown = settings(serve(lambda body, times: (404, {"error": {"message": "no such model"}}))).load()
    with pytest.raises(SynthesisError, match="refuses to paint with model 'stub'"):
        list(unknown.paint(requests(2)))


def test_strengths_need_a_field_that_takes_them(serve):
    server = serve()
    with pytest.raises(SynthesisError, match=r"wants strength 0.5 .*set strength_field"):
        list(settings(server).load().paint(requests(1, strength=0.5)))
    list(settings(server, strength_field="lora_scale").load().paint(requests(1, strength=0.5)))
    assert [body["lora_scale"] for body in server.bodies] == [0.5]


def encoded(image_format: str, size=(24, 16)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, image_format)
    return base64.b64encode(file.getvalue()).decode()


FAULTS = {
    "no data": ({"created": 1}, "no image in the answer"),
    "data null": ({"data": None}, "no image in the answer"),
    "an empty list": ({"data": []}, "no image in the answer"),
    "[null]": ({"data": [None]}, "no image in the answer: it should be in the first"),
    "no b64_json": ({"data": [{"revised_prompt": "a"}]}, "no image in the answer: it should be in the first entry"),
    "b64_json null": ({"data": [{"b64_json": None}]}, "no image in the answer"),
    "b64_json a number": ({"data": [{"b64_json": 7}]}, "no image in the answer"),
    "a URL": ({"data": [{"url": "http://169.254.169.254/latest"}]}, "a URL in place of the image: have the server"),
    "no base64": ({"data": [{"b64_json": "%%%%"}]}, "no image in the answer"),
    "not ASCII": ({"data": [{"b64_json": "\u00e9"}]}, "no image in the answer"),
    "a text": ({"data": [{"b64_json": base64.b64encode(b"hello, how are you").decode()}]}, "it is a text"),
    "a drawing": ({"data": [{"b64_json": encoded("EPS")}]}, "a PDF, PostScript or Photoshop document"),
    "an icon": ({"data": [{"b64_json": encoded("ICO")}]}, "no image in the answer"),
    "another size": ({"data": [{"b64_json": encoded("PNG", (8, 8))}]}, "an image of another size: painted 8x8 pixels"),
    "a page": (b"<html><title>Busy</title>", 'an answer that is no JSON: a web page, "Busy"'),
    "a stream": (b"event: image_generation.partial_image", "an answer in pieces (a stream), which was not asked for"),
    "nothing": (b"", "an answer without a word"),
    "a list": ([1], "an answer that is no JSON object: it is a list"),
    "an error": (
        {"error": {"message": "upstream failed", "code": 502}},
        "an error in place of an answer: upstream fai",
    ),
    "too long": (b" " * 2_000_000, "an answer of more than 1,051,648 bytes"),
    "no gzip": (b"no gzip", "an answer that cannot be unpacked", {"Content-Encoding": "gzip"}),
    "a bomb": (gzip.compress(b" " * 2**25), "an answer of more than 1,051,648 bytes", {"Content-Encoding": "gzip"}),
    "error 400": ((400, {"error": {"message": "bad prompt"}}), "error 400: bad prompt"),
}


def test_an_answer_without_the_picture_is_that_items_fault_by_name(serve):
    """Answers of every kind; nothing is a crash, and no URL is followed, wherever it leads."""
    kinds = list(FAULTS.values())

    def trouble(body, times):
        number = int(body["prompt"].split()[1])
        if number % 2:  # in between, it paints
            return None
        answer, _, *headers = kinds[number // 2]
        return *(answer if isinstance(answer, tuple) else (200, answer)), *headers

    painter = settings(serve(trouble), max_retries=0, concurrency=1).load()
    results = {int(result.id): result for result in painter.paint(requests(2 * len(kinds)))}
    assert [results[number].fault for number in range(1, 2 * len(kinds), 2)] == [None] * len(kinds)
    faults = {kind: results[2 * number].fault for number, kind in enumerate(FAULTS)}
    wrong = {kind: fault for kind, fault in faults.items() if FAULTS[kind][1] not in fault}
    assert wrong == {}


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_may_come_as_a_data_url_and_in_any_format_of_photographs(serve, form):
    code = f"data:image/{form.lower()};base64,{encoded(form)}"
    for entry in ({"url": code}, {"b64_json": code}, {"b64_json": encoded(form), "url": None}):
        server = serve(lambda body, times, entry=entry: (200, {"data": [entry]}))
        (painted,) = settings(server).load().paint(requests(1))
        assert painted.fault is None and painted.image.size == (24, 16)


@pytest.mark.parametrize(
    "answer",
    [
        (400, {"error": {"code": "content_policy_violation", "message": "no"}}),
        (400, {"error": {"code": "moderation_blocked", "message": "Your request was rejected by the safety system."}}),
        (403, {"error": {"message": "Your input was flagged"}}),
        (200, {"error": {"message": "content_filter"}}),
    ],
)
def test_a_filter_of_contents_is_the_items_fault_and_not_the_servers(serve, answer):
    server = serve(lambda body, times: answer if body["prompt"] == "picture 1" else None)
    results = {result.id: result.fault for result in settings(server).load().paint(requests(3))}
    assert results == {"0": None, "1": "refused as unsafe", "2": None}
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, {"error": {"message": "bad key"}}), "refuses the key .error 401: bad key"),
        ((403, {"error": {"message": "no access"}}), "refuses to paint with model 'stub'"),
        ((404, {"error": {"message": "no such model"}}), "refuses to paint with model 'stub'"),
        ((429, {"error": {"code": "insufficient_quota", "message": "quota"}}), "nothing left to spend"),
        ((400, {"error": {"code": "billing_hard_limit_reached", "message": "limit"}}), "nothing left to spend"),
        ((429, {"error": {"message": "tomorrow"}}, {"Retry-After": 86400}), "asks to wait for 86400 s"),
    ],
)
def test_a_server_that_will_paint_for_nobody_ends_the_work_at_once(serve, answer, message):
    server = serve(lambda body, times: answer)
    with pytest.raises(SynthesisError, match=message):
        list(settings(server, concurrency=1).load().paint(requests(9)))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("name", ["seed", "response_format", "n"])
def test_a_field_that_a_server_refuses_by_name_is_left_out_said_once_and_noted(serve, caplog, name):
    def trouble(body, times):
        if name in body:
            return 400, {"error": {"message": f"Unknown parameter: '{name}'.", "param": name}}
        return 200, painted({"seed": 1} | body)

    server = serve(trouble)
    painter = settings(server, concurrency=1, max_retries=0).load()
    assert [result.fault for result in painter.paint(requests(4))] == [None] * 4
    assert len(server.bodies) == 5 and name not in server.bodies[-1]
    assert painter.about["changes of the request"] == [f"{name} is left out"]
    assert caplog.text.count(f"does not take {name}, left out from now on") == 1


def test_a_field_is_kept_if_the_server_does_not_paint_without_it_either(serve):
    def trouble(body, times):
        return (400, {"error": {"message": "not allowed: a seed"}}) if body["prompt"] == "picture 0" else None

    server = serve(trouble)
    painter = settings(server, concurrency=1).load()
    results = [result.fault for result in painter.paint(requests(3))]
    assert results == ["error 400: not allowed: a seed", None, None]
    assert "seed" in server.bodies[-1] and "changes of the request" not in painter.about


def test_what_a_recipe_leaves_out_is_not_sent(serve):
    server = serve(lambda body, times: (200, painted({"seed": 1} | body)))
    painter = settings(server, leave_out=["seed", "response_format"], options={"quality": "low"}).load()
    assert [result.fault for result in painter.paint(requests(1))] == [None]
    assert set(server.bodies[-1]) == {"model", "prompt", "n", "size", "quality"}
    assert "changes of the request" not in painter.about


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": ["sed"]}, "Input should be 'seed', 'response_format', 'n' or 'size'"),
        ({"options": {"num_inference_step": 4}}, "did you mean 'num_inference_steps'"),
        ({"options": {"seed": 4}}, "seed is decided elsewhere"),
        ({"options": {"extra_body": {}}}, "write its fields under options themselves"),
    ],
)
def test_a_misspelt_option_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        ImageServer(model="stub", **change)


@pytest.mark.parametrize("change", [{"base_url": "localhost"}, {"width": 0}, {"max_retries": -1}])
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ImageServer(**{"model": "stub", **change})
