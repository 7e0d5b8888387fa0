"""Batches of images, read by workers or without them: the same pixels, and everybody's fault its own."""

import logging
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from fafa.image_processing_fafa import FafaImageProcessor
from fafa.image_reading_fafa import InaccessibleImageError, UnreadableImageError
from fafa.retrieval import encode_images
from fafa.retrieval.reading import KEPT_BLOCKS, read_pixels
from fafa.workers import WorkerDiedError


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(path)
    return paths


def read(processor, images, num_workers=0, on_error="raise", batch_size=2):
    return list(read_pixels(processor, images, [range(len(images))], "image", batch_size, num_workers, on_error))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pixels_are_those_of_the_processor(processor, photos, num_workers):
    batches = read(processor, photos, num_workers)
    assert [batch.rows for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    expected = processor(images=photos, return_tensors="pt")["pixel_values"]
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_read_is_left_out_and_its_kind_told(processor, photos, tmp_path, monkeypatch, num_workers):
    """No permission, a disk in trouble and a file that is gone are no verdict on a picture."""
    photos[1].write_bytes(b"no picture")
    photos[2].unlink()
    deny(monkeypatch, photos[4])
    batches = read(processor, photos, num_workers, on_error="skip")
    assert [batch.rows for batch in batches] == [[0], [3], [5]]
    assert [batch.skipped for batch in batches] == [[1], [2], [4]]
    assert [list(batch.inaccessible) for batch in batches] == [[], [2], [4]]
    for row, kind in ((1, UnreadableImageError), (2, FileNotFoundError), (4, InaccessibleImageError)):
        with pytest.raises(kind, match=f"{row}.png"):
            read(processor, photos[row:], num_workers, on_error="raise")


def deny(monkeypatch, denied):
    """As for a file without read permission, which root, who runs tests, may read all the same."""
    opened = FafaImageProcessor.to_person_crop

    def open_allowed(self, image, name):
        if image == denied:
            raise InaccessibleImageError(f"{name}: {image} cannot be read now (Permission denied)", 13, str(image))
        return opened(self, image, name)

    monkeypatch.setattr(FafaImageProcessor, "to_person_crop", open_allowed)


def test_a_killed_worker_ends_encoding_with_a_remedy(model, processor, photos, monkeypatch):
    parent = os.getpid()
    monkeypatch.setattr(
        FafaImageProcessor,
        "to_square",
        lambda *_: os.getpid() == parent or os.kill(os.getpid(), signal.SIGKILL),
    )
    with pytest.raises(WorkerDiedError, match="is kept: give the same command again, with fewer workers"):
        encode_images(model, processor, photos, num_workers=1, progress=False)


def test_senseless_numbers_are_refused(model, processor, photos):
    with pytest.raises(ValueError, match="100,000 worker processes"):
        encode_images(model, processor, photos, num_workers=100_000)
    with pytest.raises(ValueError, match="batch_size is 0"):
        encode_images(model, processor, photos, batch_size=0)


def test_each_image_that_is_left_out_is_told_with_its_reason(processor, tmp_path, caplog):
    """Of many only five names were told, of none why."""
    caplog.set_level(logging.INFO, "fafa")
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for file in files:
        file.write_bytes(b"<html>")
    list(read_pixels(processor, files, [range(8)], "image", 4, on_error="skip"))
    for file in files:
        assert f"{str(file)!r} (6 bytes) cannot be read as an image: it is a web page" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_pillows_memory_is_kept_while_images_are_read_and_no_longer(processor, photos, monkeypatch, num_workers):
    """New pages of memory for every photograph take up to a third of the time of decoding it."""
    opened = FafaImageProcessor.to_person_crop

    def open_where_memory_is_kept(self, image, name):
        if Image.core.get_blocks_max() < KEPT_BLOCKS:
            raise UnreadableImageError("new memory every time")
        return opened(self, image, name)

    monkeypatch.setattr(FafaImageProcessor, "to_person_crop", open_where_memory_is_kept)
    before = Image.core.get_blocks_max()
    read(processor, photos, num_workers)
    for _ in read_pixels(processor, photos, [range(len(photos))], "image", 2, num_workers):
        break
    assert Image.core.get_blocks_max() == before
