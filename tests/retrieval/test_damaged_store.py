"""What was written is what is read: damage, mixtures and hostile files are refused by name, and healed by encoding."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch.testing import assert_close

from fafa.retrieval import FeatureStore, Gallery, encode_images, filling, verify_store
from fafa.retrieval.shards import Shard

NUM_IMAGES = 5


@pytest.fixture(autouse=True)
def two_a_shard(monkeypatch):
    monkeypatch.setattr(filling, "INPUTS_PER_SHARD", 2)


@pytest.fixture(scope="module")
def made(model, processor, tmp_path_factory):
    """Photographs and their features, in three shards."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for number in range(NUM_IMAGES):
        coarse = np.random.default_rng(number).integers(0, 255, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((12, 24)).save(folder / "photos" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(filling, "INPUTS_PER_SHARD", 2)
        encode(model, processor, folder, folder / "index")
    return folder


@pytest.fixture
def index(made, tmp_path):
    return shutil.copytree(made / "index", tmp_path / "index")


def encode(model, processor, made, index):
    photos = sorted((made / "photos").iterdir())
    return encode_images(model, processor, photos, 2, features_dir=index, progress=False).features


def shards(index):
    return sorted(index.glob("features-*.safetensors"))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def write_shard(path, change_features=lambda features: features, **metadata):
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | metadata
    save_file({"features": change_features(load_file(path)["features"]).contiguous()}, path, metadata)


def swap(index):
    first, second, _ = shards(index)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


SHARDS = {
    "a bit of the last value": lambda index: flip(shards(index)[1], -1),
    "a bit of the first value": lambda index: flip(shards(index)[1], -2 * 8 * 64 * 4),
    "two swapped": swap,
    "cut off": lambda index: shards(index)[1].write_bytes(shards(index)[1].read_bytes()[:-100]),
    "no shard": lambda index: shards(index)[1].write_bytes(b"\xff" * 50),
    "empty": lambda index: shards(index)[1].write_bytes(b""),
    "another dtype": lambda index: write_shard(shards(index)[1], torch.Tensor.half),
    "other rows": lambda index: write_shard(shards(index)[1], lambda features: features.repeat(1000, 1, 1)),
    "another shape": lambda index: write_shard(shards(index)[1], lambda features: features[:, :, :3]),
    "a row without features that has some": lambda index: write_shard(shards(index)[1], without="[2]"),
    "rows out of range": lambda index: write_shard(shards(index)[1], lambda features: features[:1], without="[99]"),
    "a row twice": lambda index: write_shard(shards(index)[1], lambda features: features[:0], without="[2, 2]"),
    "rows of a wrong type": lambda index: write_shard(shards(index)[1], without='{"2": true}'),
    "rows nested deep": lambda index: write_shard(shards(index)[1], without="[" * 100_000),
    "rows that are none": lambda index: write_shard(shards(index)[1], without="null"),
    "another name of the tensor": lambda index: save_file({"x": torch.zeros(1)}, shards(index)[1]),
}


@pytest.mark.parametrize("damage", SHARDS.values(), ids=SHARDS)
def test_a_shard_that_is_not_what_was_written_is_found_named_and_encoded_again(
    model, processor, made, index, damage, caplog
):
    """Flipped bits changed results without a word, and two shards of a store put wrong photos first."""
    expected = Gallery.load(made / "index", model, processor).features
    assert verify_store(index) == []
    damage(index)
    with pytest.raises(ValueError, match=r"^[^\n]*features-\w+-0000[01]-of-00003\.safetensors is damaged [^\n]*$"):
        Gallery.load(index, model, processor)
    faults = verify_store(index)
    assert faults and all("is damaged" in fault and shards(index)[0].parent.name in fault for fault in faults)
    assert_close(encode(model, processor, made, index), expected)
    assert caplog.text.count("is damaged") == len(faults) and verify_store(index) == []


def test_a_shard_of_another_store_is_refused(model, processor, made, index, tmp_path):
    other = tmp_path / "other"
    encode(tiny_model(seed=1), processor, made, other)
    for mine, foreign in zip(shards(index), shards(other), strict=True):
        foreign.replace(mine)
    assert len(verify_store(index)) == 3 and "the shard of another place" in verify_store(index)[0]


def test_missing_shards_are_told(index):
    shards(index)[1].unlink()
    (fault,) = verify_store(index)
    assert "shards are missing, 1 of 3" in fault and "encode the same images into it again" in fault


def test_verifying_what_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    assert "no manifest.json" in verify_store(tmp_path)[0] and "is a file" in verify_store(tmp_path / "file")[0]


def test_verifying_a_gallery(model, processor, photos, tmp_path):
    """It said that there is no manifest.json: stores have one, galleries a list."""
    Gallery.from_folder(model, processor, photos[0].parent, features_dir=tmp_path / "g", progress=False)
    assert verify_store(tmp_path / "g") == []
    [means] = (tmp_path / "g").rglob("means.npy")
    means.write_bytes(means.read_bytes()[:-1])
    [fault] = verify_store(tmp_path / "g")
    assert "means.npy" in fault


def change_manifest(index, change, sign=True):
    """With the right checksum: what somebody means to be read."""
    path = index / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest = change(manifest) or manifest
    if sign and isinstance(manifest, dict):
        manifest.pop("xxh3_128", None)
        manifest["xxh3_128"] = xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())
    path.write_text(json.dumps(manifest))


def with_inputs(index, change, sign=True):
    (path,) = index.glob("inputs-*.jsonl")
    lines = change(path.read_text().splitlines()[:-1])
    text = "".join(f"{line}\n" for line in lines)
    digest = xxhash.xxh3_128_hexdigest(text.encode()) if sign else "0" * 32
    path.write_text(text + json.dumps({"xxh3_128": digest}) + "\n")


def set_in(*names, value):
    def change(manifest):
        for name in names[:-1]:
            manifest = manifest[name]
        manifest[names[-1]] = value

    return lambda index: change_manifest(index, change)


def field(name, value):
    return lambda index: with_inputs(
        index, lambda lines: [json.dumps(json.loads(lines[0]) | {name: value}), *lines[1:]]
    )


HOSTILE = {
    "manifest: binary": lambda index: (index / "manifest.json").write_bytes(bytes(range(256)) * 99),
    "manifest: empty": lambda index: (index / "manifest.json").write_bytes(b""),
    "manifest: nested deep": lambda index: (index / "manifest.json").write_text("[" * 100_000 + "]" * 100_000),
    "manifest: nested objects": lambda index: (index / "manifest.json").write_text('{"a":' * 100_000),
    "manifest: a list": lambda index: change_manifest(index, lambda manifest: [manifest]),
    "manifest: large": lambda index: os.truncate(index / "manifest.json", 1 << 40),
    "manifest: a number of a million digits": lambda index: (index / "manifest.json").write_text("9" * 10**6),
    "manifest: a bit": lambda index: flip(index / "manifest.json", 200),
    "manifest: another name of the model": lambda index: change_manifest(
        index, lambda manifest: manifest["settings"]["model"].update(name="other"), sign=False
    ),
    "format": set_in("format", value=["fafa features"] * 10**4),
    "version: before": set_in("version", value=3),
    "version: later": set_in("version", value={"a": 1}),
    "key: a path": set_in("key", value="../../etc/passwd"),
    "key: of another store": set_in("key", value="0123456789abcdef"),
    "key: a number": set_in("key", value=7),
    "num_inputs: huge": set_in("num_inputs", value=10**12),
    "num_inputs: beyond": set_in("num_inputs", value=10**30),
    "num_inputs: fewer": set_in("num_inputs", value=4),
    "num_inputs: true": set_in("num_inputs", value=True),
    "num_inputs: negative": set_in("num_inputs", value=-1),
    "shard_size: zero": set_in("shard_size", value=0),
    "shard_size: text": set_in("shard_size", value="2"),
    "shard_size: other": set_in("shard_size", value=3),
    "images_folder: a number": set_in("images_folder", value=3),
    "settings: none": set_in("settings", value=None),
    "settings: a list": set_in("settings", "image_processor", value=[]),
    "model: no fingerprint": set_in("settings", "model", value={}),
    "features: an unknown dtype": set_in("settings", "features", "dtype", value="int8"),
    "features: no dtype of torch": set_in("settings", "features", "dtype", value=["load"]),
    "features: no shape": set_in("settings", "features", "shape", value=8),
    "features: a shape of text": set_in("settings", "features", "shape", value=["8", "64"]),
    "features: a negative shape": set_in("settings", "features", "shape", value=[-8, -64]),
    "inputs: missing": lambda index: next(index.glob("inputs-*")).unlink(),
    "inputs: empty": lambda index: next(index.glob("inputs-*")).write_text(""),
    "inputs: binary": lambda index: next(index.glob("inputs-*")).write_bytes(b"\xff\xfe" * 999),
    "inputs: a bit": lambda index: flip(next(index.glob("inputs-*")), 20),
    "inputs: one line of a terabyte": lambda index: os.truncate(next(index.glob("inputs-*")), 1 << 40),
    "inputs: a line less": lambda index: with_inputs(index, lambda lines: lines[1:]),
    "inputs: a line more": lambda index: with_inputs(index, lambda lines: [*lines, lines[0]]),
    "inputs: two exchanged": lambda index: with_inputs(index, lambda lines: [lines[1], lines[0], *lines[2:]]),
    "inputs: without the right checksum": lambda index: with_inputs(index, list, sign=False),
    "inputs: no record": lambda index: with_inputs(index, lambda lines: ["[]", *lines[1:]]),
    "inputs: nested deep": lambda index: with_inputs(index, lambda lines: ["[" * 100_000, *lines[1:]]),
    "inputs: a path that is a number": field("path", 5),
    "inputs: contents that are a list": field("contents", []),
    "inputs: a stamp that is text": field("stamp", "now"),
    "inputs: a stamp of fractions": field("stamp", [1.5, 2, 3, 4]),
    "inputs: all reused": lambda index: with_inputs(
        index, lambda lines: [json.dumps(json.loads(line) | {"reused": True}) for line in lines]
    ),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_or_list_of_images_that_is_none_is_refused_in_one_line(model, processor, made, index, damage):
    """A run of 10^12 rows hung at 3.9 GB, others ended in tracebacks."""
    damage(index)
    with pytest.raises(ValueError, match=r"^[^\n]{,2000}$") as caught:
        Gallery.load(index, model, processor)
    assert type(caught.value) is ValueError and str(index) in str(caught.value)
    assert "into another folder" in str(caught.value)
    assert verify_store(index) == [str(caught.value)]
    with pytest.raises(ValueError, match=r"^[^\n]{,2000}$"):
        encode(model, processor, made, index)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "trip/../../secret.png"])
def test_a_stored_path_does_not_lead_out_of_the_images_folder(model, processor, made, tmp_path, path):
    photos = sorted((made / "photos").iterdir())
    encode_images(model, processor, photos, features_dir=tmp_path / "f", folder=made / "photos", progress=False)
    field("path", path)(tmp_path / "f")
    with pytest.raises(ValueError, match="leads out of the images' folder"):
        Gallery.load(tmp_path / "f", model, processor)


def test_an_index_of_an_earlier_version_names_the_way_on(model, processor, index):
    set_in("version", value=3)(index)
    with pytest.raises(
        ValueError, match=r"is of version 3 .* version 4, does not read; .*or delete \S*index and encode"
    ):
        Gallery.load(index, model, processor)


def test_an_index_is_read_while_another_process_replaces_it(model, processor, made, index, monkeypatch):
    """The shards that the reader was told of are gone by the time it opens them: a gallery of segments is there."""
    read = FeatureStore.read

    def read_late(self, device="cpu"):
        monkeypatch.setattr(FeatureStore, "read", read)
        one = Gallery.from_images(model, processor, [made / "photos" / "0.png"], progress=False)
        one.save(index)
        return self.read(device)

    monkeypatch.setattr(FeatureStore, "read", read_late)
    assert len(Gallery.load(index, model, processor)) == 1


def test_features_that_appear_while_all_are_read_are_taken(model, processor, made, tmp_path, monkeypatch):
    """Another process reads an image that could not be read before, between a shard's list of gaps and its features."""
    there = shutil.copytree(made, tmp_path / "there")
    (there / "photos" / "4.png").write_bytes(b"")
    options = {"progress": False, "on_error": "skip", "batch_size": 2, "features_dir": there / "new"}
    encode_images(model, processor, sorted((there / "photos").iterdir()), **options)
    opened = FeatureStore.open(there / "new")
    read, last = Shard.read, opened.shards[-1]

    def grow(shard):
        monkeypatch.setattr(Shard, "read", read)
        last.write(torch.ones(len(last.rows), 8, 64), [])
        return read(shard)

    monkeypatch.setattr(Shard, "read", grow)
    features, skipped = opened.read()
    assert len(features) == NUM_IMAGES and skipped == []


def forge(index, path, folder=None, from_here=None, **fields):
    """The first image's path, under checksums that fit; with a folder, all paths are in it."""
    if folder:
        relative = {"path": "gone.png"}
        with_inputs(index, lambda lines: [json.dumps(json.loads(line) | relative) for line in lines])
    for name, value in ({"path": path} | fields).items():
        field(name, value)(index)
    set_in("images_folder", value=folder and str(folder))(index)
    set_in("images_folder_from_here", value=from_here)(index)


FORGED = {  # how an index from elsewhere may name a file of this machine that was never encoded
    "an absolute path": lambda index, secret: forge(index, str(secret)),
    "upwards, without a folder": lambda index, secret: forge(index, os.path.relpath(secret)),
    "a folder that is the whole disk": lambda index, secret: forge(index, str(secret)[1:], folder="/"),
    "a folder beside the index": lambda index, secret: forge(
        index, secret.name, folder="/nowhere/at/all", from_here=os.path.relpath(secret.parent, index)
    ),
    "without a stamp": lambda index, secret: forge(index, str(secret), stamp=None),
    "a link": lambda index, secret: (index / "link.png").symlink_to(secret) or forge(index, str(index / "link.png")),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_an_index_from_elsewhere_names_no_file_that_was_not_encoded(
    model, processor, made, index, tmp_path, caplog, forged
):
    secret = tmp_path / "private" / "secret.png"
    secret.parent.mkdir()
    Image.new("RGB", (12, 24), "red").save(secret)
    forged(index, secret)
    gallery = Gallery.load(index, model, processor)
    assert gallery.paths[0] is None and len(gallery) == NUM_IMAGES
    assert all(result.path != secret for result in gallery.search(caption="a red coat", top=None))
    assert "1 have other contents" in caplog.text or "1 may have other contents" in caplog.text
    assert "names no file for those" in caplog.text
    elsewhere = Gallery.load(index, model, processor, folder=tmp_path / "private")
    assert secret not in elsewhere.paths[1:]
    if forged is FORGED["an absolute path"]:
        assert elsewhere.paths[0] is None, "a folder that was named does not vouch for what lies out of it"
