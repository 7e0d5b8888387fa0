"""The JSON API: what it answers, what it says of bad input, what becomes of a client that goes."""

import json
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app.server import create_app, open_socket, server_of

RED = {"caption": "a red coat"}


def test_search_similar_facts_and_health(client):
    answer = client.post("/api/search", json={"terms": [RED], "top": 3}).json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3] and answer["searched"] == 9
    number = answer["hits"][0]["id"]
    similar = client.get("/api/similar", params={"id": number, "top": 2, "where": 'path != "0.png"'}).json()
    assert len(similar["hits"]) == 2 and number not in [hit["id"] for hit in similar["hits"]]
    assert client.get("/api/facts").json()["images"] == 9
    assert client.get("/health").json() == {"status": "ok", "images": 9}


def test_every_address_is_described(client):
    described = client.get("/openapi.json").json()
    assert {"/api/search", "/api/similar", "/api/facts", "/health", "/api/uploads"} <= described["paths"].keys()
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in described["paths"]:
        assert path in page.text
    search = described["paths"]["/api/search"]["post"]["responses"]
    for code in ("400", "404", "422", "503"):  # what is sent is what is said: a client may be made of it
        assert search[code]["content"]["application/json"]["schema"]["$ref"].endswith("/Fault")
    assert "http" not in page.text.replace("http://127.0.0.1:7860", "")  # nothing of it comes from elsewhere


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "JSON"),
        ("{}", "terms"),
        ('{"terms": []}', "terms"),
        ('{"terms": [{"caption": "a", "weight": "x"}]}', "terms[0].weight"),
        ('{"terms": [{"caption": "a", "weight": 1e999}]}', "weight"),
        ('{"terms": [{"caption": "a"}], "top": 100000}', "top"),
        ('{"terms": [{"caption": "a"}], "typo": 1}', "typo"),
        ('{"terms": [{"caption": "' + "a" * 1_001 + '"}]}', "terms[0].caption"),
        ("[" * 100_000, ""),
    ],
)
def test_bad_input_is_one_sentence(client, body, said):
    answer = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    detail = answer.json()["detail"]
    assert answer.status_code in (400, 422) and isinstance(detail, str) and said in detail and "\n" not in detail


def test_what_is_sent_in_another_form_is_told_which_one_is_meant(client, photos):
    answer = client.post("/api/search", content=json.dumps({"terms": [RED]}), headers={"content-type": "text/plain"})
    assert answer.status_code == 422 and "Content-Type: application/json" in answer.json()["detail"]
    answer = client.post("/api/uploads", files={"file": (photos / "3.png").read_bytes()})
    assert answer.status_code == 415 and "bytes alone" in answer.json()["detail"]


def test_a_fault_leaves_as_a_sentence(client, service, monkeypatch):
    monkeypatch.setattr(service, "facts", lambda: 1 / 0)
    answer = client.get("/api/facts")
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text and "log" in answer.json()["detail"]


def test_health_tells_when_nothing_is_answered_any_more(client, service):
    service.close()
    assert client.get("/health").status_code == 503


def test_a_photo_is_uploaded_searched_by_shown_and_forgotten(client, photos):
    data = (photos / "3.png").read_bytes()
    made = client.post("/api/uploads", content=data)
    upload = made.json()
    assert made.status_code == 201 and (upload["width"], upload["height"]) == (12, 24)
    question = {"terms": [{"image": upload["id"], **RED}], "top": 9}
    hits = client.post("/api/search", json=question).json()["hits"]
    assert len(hits) == 8 and 3 not in [hit["id"] for hit in hits]  # the gallery's copy of it is left out
    assert client.get(upload["url"]).headers["content-type"] == "image/webp"
    assert client.get(f"/api/people/{upload['id']}").json() == []  # without a detector
    assert client.delete(f"/api/uploads/{upload['id']}").status_code == 204
    for gone in (client.get(upload["url"]), client.post("/api/search", json=question)):
        assert gone.status_code == 404 and "upload it again" in gone.json()["detail"]


def test_what_is_no_picture_is_told(client):
    answer = client.post("/api/uploads", content=b"GIF89a, nearly")
    assert answer.status_code == 415 and answer.json()["detail"].startswith("This file cannot be read as an image")


def test_heat_maps_and_pictures(client):
    asked = {"question": {"terms": [RED]}, "id": 2}
    for answer in (
        client.post("/api/heat-map", json=asked),
        client.get("/media/2/crop.webp"),
        client.get("/media/2/photo.webp"),
    ):
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    for path in (
        "/media/99/crop.webp",
        "/media/2/film",
        "/media/-1/crop.webp",
        "/media/9999999999999999999999/crop.webp",
    ):
        assert client.get(path).status_code == 404


@pytest.fixture
def live(service):
    """A server in a thread, and its address."""
    opened = open_socket("127.0.0.1", 0)
    server = server_of(create_app(service, page=False))
    thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield opened.getsockname()
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def send(address, head, body=b""):
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    return connection


def test_who_goes_takes_the_question_back_and_the_others_are_answered(live, service, monkeypatch):
    asked, may, begun, answer = [], threading.Event(), threading.Event(), service._batches._answer

    def hold(questions):
        asked.extend(one.question.terms[0].caption for one in questions)
        begun.set()
        assert may.wait(10)
        return answer(questions)

    monkeypatch.setattr(service._batches, "_answer", hold)

    def ask(caption):
        body = json.dumps({"terms": [{"caption": caption}], "top": 1}).encode()
        head = (
            f"POST /api/search HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: {len(body)}"
        )
        return send(live, head, body)

    first = ask("red coat")
    assert begun.wait(10)
    gone, other = ask("blue hat"), ask("red hat")
    until(lambda: service._batches._queue.qsize() == 2)
    gone.close()
    until(lambda: any(future.cancelled() for _, future in list(service._batches._queue.queue)))
    may.set()
    for connection in (first, other):
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
    assert asked == ["red coat", "red hat"]


def test_an_endless_upload_is_ended(live):
    connection = send(live, "POST /api/uploads HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked")
    piece, sent = b"10000\r\n" + b"\0" * 2**16 + b"\r\n", 0
    with pytest.raises(OSError):
        while sent < 2**30:
            connection.sendall(piece)
            sent += 2**16
    assert sent < 2**26
    connection.close()


def test_a_request_that_says_it_brings_ten_gigabytes_is_answered_at_once(live):
    connection = send(live, "POST /api/uploads HTTP/1.1\nHost: localhost\nContent-Length: 10737418240")
    assert connection.recv(100).startswith(b"HTTP/1.1 413")
    connection.close()


def test_a_port_in_use_is_told_with_what_to_do(live):
    with pytest.raises(OSError, match=rf"port {live[1]} of 127.0.0.1 is in use: .*--port {live[1] + 1}"):
        open_socket(*live)


def test_an_address_of_elsewhere_is_told():
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        open_socket("192.0.2.1", 7860)


def until(is_so):
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


STUCK = """
import threading, time, urllib.request
from fastapi import FastAPI
from fafa.app import server
server._ENDS_WITHIN, server._STUCK_AFTER = 1, 1.0
app = FastAPI()

@app.get("/stuck")
def stuck():
    print("stuck", flush=True)
    time.sleep(1_000)

opened = server.open_socket("127.0.0.1", 0)
address = f"http://127.0.0.1:{opened.getsockname()[1]}/stuck"
threading.Thread(target=lambda: urllib.request.urlopen(address), daemon=True).start()
server.server_of(app).run([opened])
"""


def test_a_server_ends_though_a_thread_never_comes_back():
    """As one does not that reads from a drive that is gone; and a request that is cut off is no fault to log."""
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "stuck\n"
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in told
