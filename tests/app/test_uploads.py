"""What users upload is bounded, theirs alone, and forgotten."""

import time
from contextlib import ExitStack

import pytest
from odd_images import encode, picture, png
from PIL import Image

pytest.importorskip("fastapi", reason="the page and its API need the extra app")

from fafa.app import server, uploads
from fafa.app.faults import Refused
from fafa.app.uploads import UploadStore

PHOTO = encode(picture(), "PNG")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def refusal(do, *given):
    with pytest.raises(Refused) as refused:
        do(*given)
    return refused.value


def test_a_photo_is_its_users_alone():
    store = UploadStore()
    one = store.keep("me", PHOTO)
    assert store.of("me", one.id).data == PHOTO and (one.width, one.height) == picture().size
    assert refusal(store.of, "you", one.id).status == 404
    assert refusal(store.forget, "you", one.id).status == 404
    store.forget("me", one.id)
    assert refusal(store.of, "me", one.id).status == 404


def test_it_is_forgotten_a_while_after_its_last_use():
    clock = Clock()
    store = UploadStore(seconds=10, clock=clock)
    one = store.keep("me", PHOTO)
    clock.now = 9
    store.of("me", one.id)
    clock.now = 18
    store.of("me", one.id)
    clock.now = 29
    assert "upload it again" in refusal(store.of, "me", one.id).sentence


def test_the_oldest_give_way_where_there_are_too_many_bytes():
    store = UploadStore(most_bytes=2 * len(PHOTO))
    first, second, third = (store.keep(user, PHOTO) for user in ("me", "you", "me"))
    assert refusal(store.of, "me", first.id).status == 404
    assert store.of("you", second.id) and store.of("me", third.id)


def test_a_user_has_a_number_of_photos(monkeypatch):
    monkeypatch.setattr(uploads, "_OF_A_USER", 2)
    store = UploadStore()
    first, second, third = (store.keep("me", PHOTO) for _ in range(3))
    assert refusal(store.of, "me", first.id).status == 404
    assert store.of("me", second.id) and store.of("me", third.id)


def test_what_the_model_takes_is_kept_as_long_as_the_photograph(monkeypatch):
    """Once made for a box, until the photograph is forgotten, and for the last few alone."""
    monkeypatch.setattr(uploads, "_CROPS", 2)
    store, made = UploadStore(), []
    one = store.keep("me", PHOTO)

    def crop(box, size=(4, 4)):
        return store.crop("me", one.id, box, lambda: made.append(box) or Image.new("RGB", size))

    assert crop("a") is crop("a") and crop("b") is not crop("a") and made == ["a", "b"]
    crop("c"), crop("a"), crop("large", (2**11, 2**11)), crop("large", (2**11, 2**11))
    assert made == ["a", "b", "c", "a", "large", "large"]
    assert refusal(store.crop, "you", one.id, "a", None).status == 404
    store.forget("me", one.id)
    assert not store._crops


def test_an_old_photograph_is_forgotten_though_nobody_asks(service, client_of, monkeypatch):
    """It is kept for so long, not until the next request comes."""
    monkeypatch.setattr(server, "_FORGETS_EVERY", 0.01)
    service.uploads = UploadStore(seconds=0.0)
    with client_of(server.create_app(service, page=False)) as client:
        assert client.post("/api/uploads", content=PHOTO).status_code == 201
        until = time.monotonic() + 30
        while service.uploads._kept and time.monotonic() < until:
            time.sleep(0.01)
        assert not service.uploads._kept


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 415),
        (b"<html><script>alert(1)</script>", 415),
        (PHOTO[: len(PHOTO) // 2], 415),
        (png(8_192, 8_193, rows=b""), 413),  # more pixels than an upload may have
        (png(65_000, 65_000, rows=b""), 415),  # a bomb
        (b"\0" * (uploads.MOST_BYTES + 1), 413),
    ],
    ids=["empty", "no picture", "cut off", "too large", "bomb", "bytes"],
)
def test_what_is_no_photograph_or_too_large_is_refused_in_one_sentence(data, status):
    refused = refusal(UploadStore().keep, "me", data)
    assert refused.status == status
    assert "\n" not in refused.sentence and "Traceback" not in refused.sentence


def test_what_is_on_its_way_is_bounded_by_bytes(monkeypatch):
    """Not by number: many small photographs may come at one time."""
    monkeypatch.setattr(uploads, "_ON_THEIR_WAY", 2 * uploads.MOST_BYTES)
    store = UploadStore()
    with store.receiving(None), ExitStack() as several:
        for _ in range(100):
            several.enter_context(store.receiving("10000"))
        with pytest.raises(Refused) as refused, store.receiving(None):
            pass
        assert refused.value.status == 503
    with store.receiving(None), store.receiving(None):
        pass
