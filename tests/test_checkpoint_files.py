"""Damaged, forged and foreign files of weights: each is refused in one sentence, before anything is written.

Such files used to be converted to garbage with exit status 0, to hang the converter, or to end in a traceback.
"""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from damage import flip_a_byte
from safetensors.torch import load_file, save_file
from tiny import GOLDEN

from fafa.checkpoint_files import read_checkpoint, read_safetensors, weight_files
from fafa.convert_fafa_checkpoint import convert_checkpoint, main

VOCABULARY = GOLDEN / "vocab_public.txt"
OPTIONS = ["--vision-heads", "4", "--qformer-heads", "4", "--tokenizer", str(VOCABULARY)]


@pytest.fixture(scope="module")
def released() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "fafa_public.safetensors")


def repack(source: Path, target: Path, compression: int = zipfile.ZIP_STORED, **changed: bytes) -> None:
    """A zip anew, as programs for zip files write it; parts whose names end in a key of `changed` get other bytes."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            part = name.rpartition("/")[2].replace(".", "_")
            new.writestr(name, changed.get(part, old.read(name)))


def pickled_with(tensor: torch.Tensor, numel: int, size: tuple, stride: tuple, folder: Path) -> Path:
    """A file of torch whose only tensor claims another size than it has."""
    torch.save({"x": tensor}, folder / "honest.pt")
    with zipfile.ZipFile(folder / "honest.pt") as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    def number(value: int) -> bytes:
        return b"K" + bytes([value]) if value < 256 else b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    length = number(tensor.numel())
    before = content.index(b"cpu") + 3
    before = content.index(length + b"t", before)  # the storage's number of elements
    rest = content[before + len(length) :]
    honest_shape = number(tensor.numel()) + b"\x85"
    assert rest.count(honest_shape) == 1
    start = rest.index(honest_shape)
    after = rest[start + len(honest_shape) :]
    after = after[after.index(b"K\x01\x85") + 3 :]  # its stride
    put = rest[:start] + numbers(size) + b"q\x60" + numbers(stride) + after
    repack(folder / "honest.pt", folder / "forged.pt", data_pkl=content[:before] + number(numel) + put)
    return folder / "forged.pt"


# Files of torch


def test_a_zip_without_compression_is_read_also_when_another_program_packed_it(released, tmp_path):
    torch.save(released, tmp_path / "a.pt")
    repack(tmp_path / "a.pt", tmp_path / "again.pt")
    state_dict, _ = read_checkpoint(tmp_path / "again.pt")
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in released.items())


def test_a_compressed_zip_is_no_source_of_weights(released, tmp_path):
    """Its compressed bytes used to be mapped into memory and taken for weights."""
    torch.save(released, tmp_path / "a.pt")
    repack(tmp_path / "a.pt", tmp_path / "packed.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"packed\.pt was refused: .* compressed.*zip -0"):
        read_checkpoint(tmp_path / "packed.pt")


def test_whatever_byte_of_a_file_of_torch_is_flipped_no_other_weights_come_of_it(tmp_path):
    """torch compares no checksums of what it maps into memory."""
    tensor = torch.arange(6.0).reshape(2, 3).T
    torch.save({"model": {"x": tensor}}, tmp_path / "a.pt")
    content, refused = (tmp_path / "a.pt").read_bytes(), 0
    for place in range(0, len(content), 3):
        (tmp_path / "a.pt").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            state_dict, _ = read_checkpoint(tmp_path / "a.pt")
        except ValueError as error:
            assert "a.pt" in str(error)
            refused += 1
        else:
            assert state_dict.keys() == {"x"} and torch.equal(state_dict["x"], tensor), f"byte {place}"
    assert refused > len(content) / 8


@pytest.mark.parametrize("wanted", [99, 101, 10**12])
def test_a_tensor_that_claims_another_size_than_its_record_is_refused(wanted, tmp_path):
    """torch takes what follows the record for weights."""
    file = pickled_with(torch.ones(100), wanted, (100,), (1,), tmp_path)
    with pytest.raises(ValueError, match=r"forged\.pt was refused"):
        read_checkpoint(file)


def test_forged_files_are_read_when_what_they_claim_is_true(tmp_path):
    """Else the test above would pass for any file that is broken."""
    state_dict, _ = read_checkpoint(pickled_with(torch.arange(100.0), 100, (20, 5), (1, 20), tmp_path))
    assert torch.equal(state_dict["x"], torch.arange(100.0).reshape(5, 20).T)


@pytest.mark.parametrize(("size", "stride"), [((200,), (1,)), ((10, 11), (10, 1))])
def test_a_shape_beyond_the_storage_is_refused(size, stride, tmp_path):
    with pytest.raises(ValueError, match=r"forged\.pt was refused"):
        read_checkpoint(pickled_with(torch.ones(100), 100, size, stride, tmp_path))


def test_legacy_files_are_read_and_their_damage_is_seen(released, tmp_path):
    torch.save({"model": released}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    state_dict, beside = read_checkpoint(tmp_path / "old.pt")
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in released.items()) and not beside
    content = (tmp_path / "old.pt").read_bytes()
    for damaged in (content[:-100], content[:3000], content[:40] + b"\xff" + content[41:]):
        (tmp_path / "old.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"old\.pt was refused"):
            read_checkpoint(tmp_path / "old.pt")


def test_a_legacy_file_that_claims_more_than_it_has_is_refused_before_anything_is_allocated(tmp_path):
    torch.save({"x": torch.ones(100)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pt").read_bytes()
    at = content.index(b"Kd", content.index(b"cpu"))
    forged = content[:at] + b"\x8a\x06" + (10**12).to_bytes(6, "little") + content[at + 2 :]
    (tmp_path / "old.pt").write_bytes(forged)
    with pytest.raises(ValueError, match=r"old\.pt was refused"):
        read_checkpoint(tmp_path / "old.pt")


def tar(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(VOCABULARY, "pickle")
    return buffer.getvalue()


FOREIGN = {
    "empty": (b"", "it is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "pointer of Git LFS"),
    "page": (b"<!DOCTYPE html><html>Not found</html>", "a text, such as a web page"),
    "zeros": (bytes(4096), "begins with zeros"),
    "gzip": (gzip.compress(b"weights"), "gunzip"),
    "tar": (tar(Path()), "tar archive"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "another format, or damaged"),
    "list of nothing": (b"PK\x05\x06" + bytes(18), "another format"),
    "other zip": (b"PK\x03\x04" + bytes(100), "cut off or damaged"),
    "rubbish": (b"\x80\x02garbage that is no pickle", "broken, or holds more"),
    "header of 8 EiB": (b"\xff" * 7 + b"\x7f" + b"{}", "another format"),
    "huge header": ((10**8).to_bytes(8, "little") + b"{}", "is broken"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_foreign_files_are_told_by_what_they_are(name, suffix, tmp_path):
    content, message = FOREIGN[name]
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(file)
    assert str(file) in str(error.value) and len(str(error.value)) < 600


def test_what_holds_no_state_dict_is_named(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds a list, expected a state dict"):
        read_checkpoint(tmp_path / "a.pt")


def test_the_refusal_of_code_does_not_tell_how_to_run_it(tmp_path):
    """torch's own message advises to load the file without the safe reader."""
    torch.save({"model": {"temp": Path("x")}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt was refused") as error:
        read_checkpoint(tmp_path / "a.pt")
    assert "weights_only" not in str(error.value) and "pathlib" in str(error.value)


# What is no file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_refused_unread(tmp_path):
    """A pipe hung the converter, /dev/zero ate all memory."""
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", Path("/dev/zero")):
        for options in ({}, {"tokenizer": path}, {"vision_weights": path}):
            source = path if not options else GOLDEN / "fafa_public.safetensors"
            with pytest.raises(ValueError, match=r"is a pipe or a device, expected a file"):
                convert_checkpoint(source, tmp_path / "model", vision_heads=4, qformer_heads=4, **options)
    assert not (tmp_path / "model").exists()


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "tower.pth").mkdir()
    with pytest.raises(ValueError, match=r"tower\.pth is a folder, expected a file"):
        convert_checkpoint(
            GOLDEN / "fafa_public.safetensors", tmp_path / "model", vision_weights=tmp_path / "tower.pth"
        )


# safetensors


def test_safetensors_is_told_by_its_contents_whatever_its_name(released, tmp_path):
    save_file(released, tmp_path / "weights.pt")
    assert read_checkpoint(tmp_path / "weights.pt")[0].keys() == released.keys()


def header_of(file: Path, change) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 8]},  # overlaps the other
        {"data_offsets": [12, 10**12]},
        {"shape": [10**12]},
        {"shape": [-3]},
        {"dtype": "F99"},
        {"data_offsets": [24, 12]},
    ],
)
def test_a_safetensors_header_that_lies_is_refused(change, tmp_path):
    save_file({"a": torch.ones(3), "b": torch.ones(3)}, tmp_path / "a.safetensors")
    header_of(tmp_path / "a.safetensors", lambda header: header | {"b": header["b"] | change})
    with pytest.raises(ValueError, match=r"a\.safetensors is broken"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_name_in_two_shards_is_refused(tmp_path):
    """The second used to win without a word."""
    for name in ("one", "two"):
        save_file({"a": torch.ones(3)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"two\.safetensors: a lie in another file"):
        read_safetensors([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


@pytest.mark.parametrize(
    "index",
    [
        [],
        {"weight_map": None},
        {"weight_map": {}},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../outside.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": ".."}},
    ],
)
def test_an_index_that_is_damaged_or_leads_out_of_its_folder_is_refused(index, tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "outside.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        weight_files(tmp_path / "model")


def test_a_folder_with_two_sets_of_weights_is_refused(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.safetensors"}}')
    with pytest.raises(ValueError, match="two sets of weights"):
        weight_files(tmp_path)


# All of them by the command


def test_the_command_ends_in_one_sentence_and_writes_nothing(released, tmp_path, capsys):
    torch.save(released, tmp_path / "a.pt")
    repack(tmp_path / "a.pt", tmp_path / "packed.pt", zipfile.ZIP_DEFLATED)
    flip_a_byte(tmp_path / "a.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({1: torch.ones(2)}, tmp_path / "integers.pt")
    torch.save({name: tensor.to("meta") for name, tensor in released.items()}, tmp_path / "meta.pt")
    torch.save(released | {"visual_encoder.blocks.2000000.norm1.bias": torch.ones(2)}, tmp_path / "layers.pt")
    for name in ("a", "packed", "text", "integers", "meta", "layers"):
        with pytest.raises(SystemExit, match=rf"{name}\.pt"):
            main([str(tmp_path / f"{name}.pt"), str(tmp_path / "model"), *OPTIONS])
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt"}
