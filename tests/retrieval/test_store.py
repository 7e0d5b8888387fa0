"""Features on disk equal those in memory, survive what kills a run, are shared by processes, and never mixed."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from encoding_spy import NUM_IMAGES, Spy
from PIL import Image
from tiny import tiny_model
from torch.testing import assert_close

from fafa.image_processing_fafa import FafaImageProcessor
from fafa.processing_fafa import FafaProcessor
from fafa.retrieval import FeatureStore, Gallery, encode_images, filling


@pytest.fixture(autouse=True)
def two_a_shard(monkeypatch):
    monkeypatch.setattr(filling, "INPUTS_PER_SHARD", 2)


@pytest.fixture
def model():
    return tiny_model()


def encode(model, processor, images, features_dir=None, **options):
    options = {"batch_size": 2, "progress": False} | options
    return encode_images(model, processor, images, features_dir=features_dir, **options).features


def finished(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[2]) for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "num_shards"), [({"batch_size": 1}, 6), ({"batch_size": 3}, 4), ({"num_workers": 2}, 6)]
)
def test_equal_to_encoding_in_memory_to_the_bit(model, processor, photos, tmp_path, options, num_shards):
    expected = encode(model, processor, photos, **options)
    assert torch.equal(encode(model, processor, photos, tmp_path / "f", **options), expected)
    assert len(finished(tmp_path / "f")) == num_shards, "of whole batches, or numbers might differ in the last digit"
    assert {path.suffix for path in (tmp_path / "f").iterdir()} == {".json", ".jsonl", ".safetensors"}
    modes = {path.stat().st_mode for path in (tmp_path / "f").iterdir()}
    assert len(modes) == 1, "who may read the manifest may read the features"


def test_features_that_are_there_are_not_encoded_again(model, processor, photos, tmp_path, spy):
    expected = encode(model, processor, photos, tmp_path / "f")
    assert spy.num_images == NUM_IMAGES
    assert torch.equal(encode(model, processor, photos, tmp_path / "f", batch_size=5), expected)
    assert spy.num_images == NUM_IMAGES


def test_an_interrupted_run_goes_on_from_its_last_shard(model, processor, photos, tmp_path, monkeypatch):
    def interrupt(features):
        if first.num_images > 6:
            raise KeyboardInterrupt
        return features

    with monkeypatch.context() as patches:
        first = Spy(model, patches, interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode(model, processor, photos, tmp_path / "f")
    assert finished(tmp_path / "f") == [0, 1, 2]
    with pytest.raises(ValueError, match="shards are missing, 3 of 6"):
        Gallery.load(tmp_path / "f", model, processor)

    second = Spy(model, monkeypatch)
    features = encode(model, processor, photos, tmp_path / "f", batch_size=1)  # in shards of two still
    assert second.num_images == NUM_IMAGES - 6
    assert_close(features, encode(model, processor, photos))


def test_half_written_shards_are_encoded_again(model, processor, photos, tmp_path, spy, caplog):
    expected = encode(model, processor, photos, tmp_path / "f")
    _, cut, _, _, whole, _ = sorted((tmp_path / "f").glob("*.safetensors"))
    cut.write_bytes(cut.read_bytes()[:-100])
    whole.rename(f"{whole}.part")
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), expected)
    assert spy.num_images == NUM_IMAGES + 4
    assert caplog.text.count("damaged") == 1 and cut.name in caplog.text


def other_processor(processor):
    settings = processor.image_processor.to_dict() | {"do_pad_square": False}
    return FafaProcessor(FafaImageProcessor(**settings), processor.tokenizer)


def other_epsilon():
    model = tiny_model()
    model.config.vision_norm_eps *= 10
    return model


REFUSED = {
    "model": ({"model": lambda _: tiny_model(seed=1)}, r"model fingerprint \w+ of '' \(now \w+ of ''\)"),
    "model in half": ({"model": lambda _: tiny_model().bfloat16()}, r"model dtype float32 \(now bfloat16\)"),
    "model with another epsilon": ({"model": lambda _: other_epsilon()}, "model fingerprint"),
    "processor": ({"processor": other_processor}, r"image_processor do_pad_square True \(now False\)"),
    "precision": ({"dtype": lambda _: torch.float16}, r"features dtype float32 \(now float16\)"),
    "one image less": ({"images": lambda photos: photos[:-1]}, r"number of inputs 11 \(now 10\)"),
    "another order": ({"images": lambda photos: photos[::-1]}, r"input 0 .*00\.png.*\(now .*10\.png"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_features_of_anything_else_are_refused_and_stay(model, processor, photos, tmp_path, change, message):
    arguments = {"model": model, "processor": processor, "images": photos, "features_dir": tmp_path / "f"}
    encode(**arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()}
    arguments |= {name: new(arguments.get(name)) for name, new in change.items()}
    with pytest.raises(ValueError, match=rf"(?s)/f holds features.*{message}.*into another folder"):
        encode(**arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "f").iterdir()} == before


def test_a_changed_image_is_refused_by_name(model, processor, photos, tmp_path):
    encode(model, processor, photos, tmp_path / "f")
    photos[7].write_bytes(photos[8].read_bytes())
    with pytest.raises(ValueError, match=r"input 7 .*07\.png"):
        encode(model, processor, photos, tmp_path / "f")


def test_shards_of_other_features_are_not_mixed_in(model, processor, photos, tmp_path):
    expected = encode(model, processor, photos, tmp_path / "f")
    encode(tiny_model(seed=1), processor, photos, tmp_path / "other")
    for path in (tmp_path / "other").glob("*.safetensors"):
        path.replace(tmp_path / "f" / path.name)
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), expected)


def test_images_without_files_are_told_by_their_pixels(model, processor, photos, tmp_path, spy):
    images = [Image.open(path).convert("RGB") for path in photos[:4]]
    images[1] = np.asarray(images[1])
    images[2] = {"bytes": photos[2].read_bytes(), "path": "2.png"}
    expected = encode(model, processor, photos[:4], tmp_path / "f")
    assert torch.equal(encode(model, processor, images, tmp_path / "g"), expected)
    assert torch.equal(encode(model, processor, images, tmp_path / "g"), expected)
    assert spy.num_images == 8
    images[0].putpixel((0, 0), (1, 2, 3))
    with pytest.raises(ValueError, match=r"input 0 .*its contents have changed"):
        encode(model, processor, images, tmp_path / "g")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_images_deleted_while_encoding(model, processor, photos, tmp_path, monkeypatch, on_error):
    def delete(features):
        photos[6].unlink(missing_ok=True)
        return features

    Spy(model, monkeypatch, delete)
    options = {"on_error": on_error, "progress": False, "batch_size": 2, "features_dir": tmp_path / "f"}
    if on_error == "raise":
        with pytest.raises(FileNotFoundError, match=r"gallery image 6: no file .*06\.png"):
            encode_images(model, processor, photos, **options)
        assert finished(tmp_path / "f") == [0, 1, 2]
    else:
        encoded = encode_images(model, processor, photos, **options)
        assert encoded.skipped == [6] and len(encoded.features) == NUM_IMAGES - 1


def test_features_that_are_not_finite_name_the_image_and_are_not_kept(model, processor, photos, tmp_path, monkeypatch):
    def spoil(features):
        if spy.num_images == 6:
            features[1, 3, 0] = torch.nan
        return features

    spy = Spy(model, monkeypatch, spoil)
    with pytest.raises(ValueError, match=r"features of \S*05\.png hold NaN"):
        encode(model, processor, photos, tmp_path / "f")
    assert finished(tmp_path / "f") == [0, 1]


@contextmanager
def files_no_larger_than(num_bytes):
    """What a full disk looks like to a program that writes, without filling one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_loses_no_finished_shard(model, processor, photos, tmp_path, monkeypatch):
    def fill_disk(features):
        if spy.num_images == 6:
            context.__enter__()
        return features

    with monkeypatch.context() as patches:
        spy, context = Spy(model, patches, fill_disk), files_no_larger_than(2000)
        try:
            with pytest.raises(OSError, match=r"cannot write \S*features-\w+-00002\S* .*run the same again"):
                encode(model, processor, photos, tmp_path / "f")
        finally:
            context.__exit__(None, None, None)
    assert finished(tmp_path / "f") == [0, 1] and not list((tmp_path / "f").glob("*.part"))
    assert torch.equal(encode(model, processor, photos, tmp_path / "f"), encode(model, processor, photos))


@pytest.mark.parametrize(("dtype", "drift"), [(torch.float16, 2e-4), (torch.bfloat16, 2e-3)])
def test_half_precision_takes_half_the_space_and_scores_nearly_alike(model, processor, photos, tmp_path, dtype, drift):
    full = encode(model, processor, photos, tmp_path / "full")
    half = encode(model, processor, photos, tmp_path / "half", dtype=dtype)
    assert half.dtype == dtype and torch.equal(half, full.to(dtype))
    queries = torch.nn.functional.normalize(torch.randn(20, 64), dim=-1)
    assert_close(model.score(queries, half), model.score(queries, full), atol=drift, rtol=0)
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors")) for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_two_runs_in_one_folder_share_the_work(model, processor, photos, tmp_path, monkeypatch):
    """As threads here, which lock each other out as processes do."""

    def slowly(features):
        time.sleep(0.02)
        return features

    expected = encode(model, processor, photos)
    spy, results = Spy(model, monkeypatch, slowly), []
    threads = [
        threading.Thread(target=lambda: results.append(encode(model, processor, photos, tmp_path / "f")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2 and all(torch.equal(result, expected) for result in results)
    assert spy.num_images == NUM_IMAGES


DOOMED = """
import sys, time
from tiny import tiny_model, tiny_processor
from fafa.retrieval import encode_images, filling

filling.INPUTS_PER_SHARD = 2
model, num_batches = tiny_model(), 0
encode = model.get_target_features

def hang_in_the_second_shard(pixel_values):
    global num_batches
    num_batches += 1
    while num_batches == 2:
        print("hangs", flush=True)
        time.sleep(60)
    return encode(pixel_values)

model.get_target_features = hang_in_the_second_shard
encode_images(model, tiny_processor(), sys.argv[2:], batch_size=2, features_dir=sys.argv[1], progress=False)
"""


def test_another_process_takes_over_from_one_that_is_killed(model, processor, photos, tmp_path, spy, caplog):
    command = [sys.executable, "-c", DOOMED, str(tmp_path / "f"), *map(str, photos)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    doomed = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)

    def kill_when_all_else_is_done():
        while finished(tmp_path / "f") != [0, 2, 3, 4, 5] and time.monotonic() < limit:
            time.sleep(0.01)
        doomed.send_signal(signal.SIGKILL)

    limit = time.monotonic() + 60
    assert doomed.stdout.readline() == "hangs\n"
    assert finished(tmp_path / "f") == [0]
    killer = threading.Thread(target=kill_when_all_else_is_done)
    killer.start()
    features = encode(model, processor, photos, tmp_path / "f")
    killer.join()
    doomed.communicate()
    assert "waiting for other processes to finish 1 of 6 shards" in caplog.text
    assert spy.num_images == NUM_IMAGES - 2, "its first shard serves, its second is encoded here"
    assert torch.equal(features, encode(model, processor, photos))


def test_the_programs_random_numbers_stay_as_they_are(model, processor, photos):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    encode(model, processor, photos[:2])
    assert torch.equal(torch.rand(1), expected)


def test_a_store_without_a_manifest_is_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        FeatureStore.open(tmp_path)
