"""What must not get in does not, through our own routes and gradio's alike."""

import hmac
import json

import pytest

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app.server import create_app
from fafa.app.uploads import MOST_BYTES

TOKEN = "a-token-of-many-characters"
QUESTION = {"terms": [{"caption": "a red coat"}], "top": 1}


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/media/../../secret.txt",
        "/media/%2e%2e/%2e%2e/secret.txt",
        "/media/..%2f..%2fsecret.txt",
        "/media/%252e%252e%252fsecret.txt",
        "/media/..%5c..%5csecret.txt",
        "/media/0/..%2f..%2f..%2fsecret.txt",
        "/media/0/crop.webp%00.txt",
        "/media//etc/passwd",
        "/media/upload/..%2f..%2fsecret.txt.webp",
        "/assets/..%2f..%2f..%2fsecret.txt",
        "/static/%2e%2e/%2e%2e/secret.txt",
        "/api/saved/..%2f..%2fsecret.txt",
    ],
)
def test_no_path_leads_out_of_the_gallery(client, path):
    answer = client.get(path)
    assert answer.status_code == 404 and "secret" not in answer.text.replace("secret.txt", "")


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:7860", "", "[", "127.0.0.1.nip.io"]
)
def test_a_foreign_name_that_leads_here_is_refused(client, host):
    """DNS rebinding: the page of evil.example asks evil.example, which now means 127.0.0.1."""
    for answer in (
        client.get("/health", headers={"host": host}),
        client.post("/api/search", json=QUESTION, headers={"host": host}),
    ):
        assert answer.status_code == 421 and "detail" in answer.json()


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "LOCALHOST:7860", "127.0.0.1:9", "[::1]:7860", "192.168.1.7"]
)
def test_its_own_names_are_known(client, host):
    assert client.get("/health", headers={"host": host}).status_code == 200


def test_a_name_can_be_given(service, client_of):
    client = client_of(create_app(service, names=["Search.Example.org"], page=False), "https://search.example.org")
    own = {"origin": "https://search.example.org"}
    assert client.post("/api/search", json=QUESTION, headers=own).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:7861"},
        {"origin": "http://127.0.0.1"},
        {"origin": "file://127.0.0.1:7860"},
        {"origin": "["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "navigate"},
    ],
)
def test_what_another_sites_page_sends_is_refused(client, headers):
    for path in ("/api/search", "/api/saved", "/api/uploads", "/gradio_api/run/predict", "/login"):
        assert client.post(path, json=QUESTION, headers=headers).status_code == 403
    assert client.delete("/api/saved/x", headers=headers).status_code == 403


def test_what_its_own_page_or_a_program_sends_is_answered(client):
    for headers in ({}, {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}):
        assert client.post("/api/search", json=QUESTION, headers=headers).status_code == 200


def test_another_sites_page_includes_nothing_of_here_but_may_link_here(client):
    foreign = {"sec-fetch-site": "cross-site"}
    assert client.get("/media/0/crop.webp", headers=foreign | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/health", headers=foreign | {"sec-fetch-mode": "navigate"}).status_code == 200
    headers = client.get("/media/0/crop.webp").headers
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-frame-options"] == "DENY"
    assert not [name for name in headers if name.startswith("access-control")]


def test_other_methods_are_not_possible(client):
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/api/search").status_code == 405


@pytest.fixture
def locked(service, client_of):
    """A client of an app with a token."""
    return client_of(create_app(service, token=TOKEN, page=False))


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é".encode("latin-1")]
)
def test_without_the_token_nothing_is_answered(locked, shown):
    for path in ("/", "/api/facts", "/media/0/crop.webp", "/openapi.json", "/gradio_api/info", "/config"):
        answer = locked.get(path, headers={"authorization": shown})
        assert answer.status_code == 401 and "token" in answer.json()["detail"]
    assert locked.post("/api/search", json=QUESTION, headers={"authorization": shown}).status_code == 401
    assert locked.get("/health").status_code == 200


def test_with_the_token_it_is(locked):
    assert locked.get("/api/facts", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_is_compared_in_constant_time(locked, monkeypatch):
    """By digests of one length, whatever was shown, by the function made for it."""
    compared, compare_digest = [], hmac.compare_digest

    def compare(one, other):
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for shown in ("x", TOKEN[:-1] + "x", TOKEN * 9):
        assert locked.get("/api/facts", headers={"authorization": f"Bearer {shown}"}).status_code == 401
    assert compared and set(compared) == {(32, 32)}


def test_a_browser_logs_in_and_gets_a_cookie_that_no_script_and_no_other_site_uses(locked):
    page = locked.get("/?q=<script>", headers={"accept": "text/html"})
    assert page.status_code == 401 and 'name="token"' in page.text and "<script>" not in page.text
    wrong = locked.post("/login", data={"token": "wrong", "next": "/"})
    assert wrong.status_code == 401 and "not the token" in wrong.text and "fafa_login" not in str(wrong.headers)
    right = locked.post("/login", data={"token": TOKEN, "next": "/api/facts?x"}, follow_redirects=False)
    assert (right.status_code, right.headers["location"]) == (303, "/api/facts?x")
    [cookie] = [line for line in right.headers.get_list("set-cookie") if line.startswith("fafa_login")]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
    assert locked.get("/api/facts").status_code == 200
    locked.cookies.set("fafa_login", "x")
    assert locked.get("/api/facts", headers={"cookie": "fafa_login=x"}).status_code == 401


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "/\nx"])
def test_a_login_leads_nowhere_else(locked, target):
    answer = locked.post("/login", data={"token": TOKEN, "next": target}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_short_token_is_refused(service):
    with pytest.raises(ValueError, match="the token has 5 characters"):
        create_app(service, token="short", page=False)


def test_a_large_body_is_refused_at_its_head_or_where_it_gets_too_large(client):
    ten_gigabytes = {"content-length": str(10 * 2**30)}
    for path in ("/api/uploads", "/api/search", "/gradio_api/run/predict"):
        answer = client.post(path, content=b"x", headers=ten_gigabytes)
        assert answer.status_code == 413 and "larger" in answer.json()["detail"]
    assert client.post("/api/search", content=b" " * (2**20 + 1)).status_code == 413
    piece = b"\0" * 2**20
    pieces = (piece for _ in range((MOST_BYTES >> 20) + 1))  # without a length
    assert client.post("/api/uploads", content=pieces).status_code == 413
    assert client.post("/api/search", content=iter([piece, b"x"])).status_code == 413


def test_each_browser_is_a_user_of_its_own_by_a_cookie_that_no_script_reads(service, client_of):
    first, second = (client_of(create_app(service, page=False)) for _ in range(2))
    made = first.post("/api/saved", json={"name": "coats", "question": QUESTION})
    assert "HttpOnly" in made.headers["set-cookie"] and "SameSite=Lax" in made.headers["set-cookie"]
    number = made.json()["id"]
    assert first.get(f"/api/saved/{number}").status_code == 200 and "set-cookie" not in first.get("/health").headers
    assert second.get("/api/saved").json() == []
    assert second.get(f"/api/saved/{number}").status_code == 404
    assert second.delete(f"/api/saved/{number}").status_code == 404
    assert [one["id"] for one in first.get("/api/saved").json()] == [number]


@pytest.mark.parametrize(
    "cookie", ["fafa_user=admin", "fafa_user=" + "a" * 43 + "b", "fafa_user=; x", "=;;=", "a" * 9_000]
)
def test_a_made_up_cookie_is_replaced(client, cookie):
    assert "fafa_user=" in client.get("/health", headers={"cookie": cookie}).headers["set-cookie"]


def test_html_in_a_question_is_text(client):
    script = "<script>alert(1)</script>"
    for question in (
        {"terms": [{"caption": script}]},
        {"terms": [{"caption": "a red coat"}], "where": script},
        {script: 1},
    ):
        answer = client.post("/api/search", json=question)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.fixture(scope="module")
def gradio_app(gallery, photos, tmp_path_factory):
    """A page of gradio behind the doors."""
    gradio = pytest.importorskip("gradio", reason="the page needs the extra app")
    from fafa.app.service import SearchService

    service = SearchService(gallery)
    app = create_app(service, page=False)
    with gradio.Blocks(analytics_enabled=False) as blocks:
        asked, said = gradio.Textbox(), gradio.Textbox()
        asked.change(lambda text: text, asked, said, queue=False)
    gradio.mount_gradio_app(app, blocks, path="/")
    yield app
    service.close()


def test_of_gradios_routes_those_alone_are_open_that_touch_no_file(gradio_app, client_of, photos):
    client = client_of(gradio_app)
    assert client.get("/").status_code == 200 and client.get("/config").status_code == 200
    assert "access-control-allow-origin" not in client.get("/config", headers={"origin": "http://localhost:9"}).headers
    secret = photos.parent / "secret.txt"
    for path in (
        f"/gradio_api/file={secret}",
        f"/gradio_api/file={photos / '1.png'}",
        f"/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file%3d/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/stream/x/1/1/playlist.m3u8",
        "/gradio_api/deep_link",
        "/gradio_api/token",
        "/gradio_api/openapi.json",
        "/gradio_api/upload_progress?upload_id=1",
        "/monitoring",
        "/gradio_api/vibe-code",
        "/custom_component/x/client/component/index.js",
    ):
        assert client.get(path).status_code == 404, path
    for path in (
        "upload",
        "queue/join",
        "api/predict",
        "call/predict",
        "component_server",
        "process_recording",
        "vibe-edit",
    ):
        answer = client.post(f"/gradio_api/{path}", files={"files": ("x.png", (photos / "1.png").read_bytes())})
        assert answer.status_code == 404, path


def event(value):
    return {"data": [value], "fn_index": 0, "session_hash": "abc", "trigger_id": None, "event_data": None}


def test_an_event_of_gradio_is_answered(gradio_app, client_of):
    with client_of(gradio_app) as client:
        answer = client.post("/gradio_api/run/predict", json=event("a red coat"))
        assert answer.status_code == 200 and answer.json()["data"] == ["a red coat"]


@pytest.mark.parametrize("place", ["secret.txt", "photos/1.png", "http://127.0.0.1:9/x.png"])
def test_a_file_that_an_event_of_gradio_names_is_not_read(gradio_app, client_of, photos, tmp_path, place):
    """A mounted gradio copies what an event names into its cache, whatever the component, and fetches addresses."""
    path = place if place.startswith("http") else str(photos.parent / place)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    hidden = json.dumps(event(file)).replace("gradio.F", "\\u0067radio.F")
    twice = json.dumps(event(file)).replace('"}}', '", "_type": "x"}}')
    nested = json.dumps(event({"value": [[file]]}))
    with client_of(gradio_app) as client:
        for body in (json.dumps(event(file)), hidden, twice, nested, "{", "[" * 100_000):
            answer = client.post("/gradio_api/run/predict", content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400 and "refused" in answer.json()["detail"]
