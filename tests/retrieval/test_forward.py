"""Forward passes that threads share: the same features, whatever the number of rows and threads, and their errors."""

import threading

import pytest
import torch

from fafa.retrieval import forward as forward_room
from fafa.retrieval.forward import forward


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pixels(model):
    return torch.randn(5, 3, *model.image_shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def seen(model, monkeypatch):
    """Thread and number of rows of each call."""
    calls, original = [], model.get_target_features

    def spy(pixel_values):
        calls.append((threading.current_thread(), len(pixel_values), torch.get_num_threads()))
        return original(pixel_values=pixel_values)

    monkeypatch.setattr(model, "get_target_features", spy)
    return calls


@pytest.mark.parametrize("num_rows", [1, 2, 5])
def test_features_are_those_of_the_model(model, pixels, two_threads, num_rows):
    with torch.no_grad():
        expected = model.get_target_features(pixel_values=pixels[:num_rows])
    features = forward(model, model.get_target_features, pixel_values=pixels[:num_rows])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    assert not features.requires_grad and not features.is_inference()


def test_queries_keep_their_captions(model, pixels, two_threads):
    ids = torch.tensor([[2, 10 + row, 3, 0] for row in range(5)])
    inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": (ids > 0).long()}
    with torch.no_grad():
        expected = model.get_query_features(**inputs)
    torch.testing.assert_close(forward(model, model.get_query_features, **inputs), expected, rtol=0, atol=1e-6)


def test_rows_are_shared_among_threads_of_one_core_each(model, pixels, two_threads, seen):
    forward(model, model.get_target_features, pixel_values=pixels)
    assert sorted(rows for _, rows, _ in seen) == [2, 3]
    assert all(thread is not threading.main_thread() and num_threads == 1 for thread, _, num_threads in seen)
    assert torch.get_num_threads() == 2


def test_a_single_query_of_a_large_model_takes_all_cores(model, pixels, two_threads, seen, monkeypatch):
    forward(model, model.get_target_features, pixel_values=pixels[:1])
    monkeypatch.setattr(forward_room, "SMALL_MODEL", 0)
    forward(model, model.get_target_features, pixel_values=pixels[:1])
    assert [num_threads for _, _, num_threads in seen] == [1, 2]


def test_autocast_reaches_the_model(model, pixels, two_threads, seen):
    """It holds for a thread, so the model stays in the caller's."""
    with torch.autocast("cpu", torch.bfloat16):
        forward(model, model.get_target_features, pixel_values=pixels)
    assert [(thread, rows) for thread, rows, _ in seen] == [(threading.main_thread(), 5)]


def test_an_error_in_a_thread_is_the_callers(model, pixels, two_threads):
    with pytest.raises(ValueError, match="this model takes"):
        forward(model, model.get_target_features, pixel_values=pixels[:, :, 1:])


def test_the_model_can_be_trained_afterwards(model, pixels, two_threads):
    forward(model, model.get_target_features, pixel_values=pixels)
    model.get_target_features(pixel_values=pixels).sum().backward()
    model.zero_grad()
