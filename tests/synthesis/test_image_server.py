import base64
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
from fafa.synthesis.painters import ImageServer, image_server_model


class StubServer(ThreadingHTTPServer):
    """Paints one colour, made from the seed; `trouble(body, times asked)` may return (status, answer, headers)."""

    daemon_threads = True

    def __init__(self, trouble=lambda body, times: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble = trouble
        self.bodies = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

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
    monkeypatch.setattr(image_server_model, "_LONGEST_PAUSE", 0.01)
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
    with pytest.raises(SynthesisError, match=r"the last 20 requests all failed.*start again"):
        list(painter.paint(taken))
    assert len(list(taken)) > 70


def test_a_server_that_is_away_is_waited_for_and_then_given_up(serve):
    busy = serve(lambda body, times: (503, {}) if times < 9 else None)
    assert [result.fault for result in settings(busy, max_retries=0).load().paint(requests(1))] == [None]
    for status in (429, 503):
        gone = settings(serve(lambda body, times, status=status: (status, {})), patience=0.0).load()
        with pytest.raises(SynthesisError, match="the image server does not answer"):
            list(gone.paint(requests(3)))


def test_wrong_urls_keys_and_models_show_at_once(serve, monkeypatch):
    with pytest.raises(SynthesisError, match=r"http://127.0.0.1:9/v1: the image server does not answer"):
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


@pytest.mark.parametrize("change", [{"base_url": "localhost"}, {"width": 0}, {"max_retries": -1}])
def test_settings_are_checked(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ImageServer(**{"model": "stub", **change})
