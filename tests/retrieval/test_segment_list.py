"""A gallery's folder: what is committed is what is read, in tiers, whole or not at all; damage is named."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch

from fafa.files import sealed
from fafa.retrieval import segment_writer, segments
from fafa.retrieval.metadata import Entry
from fafa.retrieval.segment_list import GalleryFolder
from fafa.retrieval.segment_writer import segments_to_merge
from fafa.verify import main as verify

SETTINGS = {
    "model": {"fingerprint": "of no model", "dtype": "float32"},
    "features": {"kind": "target", "dtype": "float32", "shape": [4, 8]},
}
TOKENS = torch.nn.functional.normalize(torch.randn(40, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)


def entry(number):
    return Entry(f"{number:02d}.png", f"contents {number}", tags={"number": number})


def create(path, keep="float16"):
    return GalleryFolder.create(path, SETTINGS, keep)


def append(folder, *numbers):
    with folder.writing() as writer:
        ids = writer.append(TOKENS[list(numbers)], [entry(number) for number in numbers])
        writer.commit()
    return ids


def delete(folder, *ids):
    with folder.writing() as writer:
        writer.delete(writer.state.rows_of_ids(ids))
        writer.commit()


def held(folder):
    """id -> number in its entry; every image is read."""
    state = folder.read()
    rows = state.living_rows(torch.arange(len(state)))
    numbers = [entry.tags["number"] for entry in state.entries(rows)]
    torch.testing.assert_close(state.tokens(rows), TOKENS[numbers], atol=0.02, rtol=0)
    return dict(zip(state.ids.tolist(), numbers, strict=True))


@pytest.fixture
def folder(tmp_path):
    """Three segments; two images are deleted."""
    folder = create(tmp_path / "g")
    append(folder, 0, 1, 2)
    append(folder, 3, 4)
    append(folder, 5)
    delete(folder, 1, 4)
    return folder


@pytest.mark.parametrize("keep", segments.KEPT)
def test_what_was_committed_is_read_in_any_precision(tmp_path, keep):
    folder = create(tmp_path / "g", keep)
    assert append(folder, 0, 1, 2).tolist() == [0, 1, 2] and append(folder, 3).tolist() == [3]
    delete(folder, 1)
    assert held(folder) == {0: 0, 2: 2, 3: 3}
    assert append(folder, 4).tolist() == [4]
    with folder.writing() as writer:
        state = writer.compact()
    assert len(state.segments) == 1 and state.alive is None and held(folder) == {0: 0, 2: 2, 3: 3, 4: 4}
    assert folder.faults() == [] and len(list(folder.segments.iterdir())) == 1
    part = state.parts[0]
    decoded = part.codes * part.scales[:, None, None]
    kept = TOKENS[[0, 2, 3, 4]] if part.tokens is None else part.tokens.float()
    assert ((kept - decoded).norm(dim=-1).amax(dim=1) <= part.errors).all()
    assert (part.tokens is None) == (keep == "int8")


def test_ids_are_never_used_again(folder):
    delete(folder, 5)
    with folder.writing() as writer:
        writer.compact()
    assert append(folder, 7).tolist() == [6] and held(folder) == {0: 0, 2: 2, 3: 3, 6: 7}


def test_a_reader_keeps_its_state_whatever_is_written(folder):
    before = folder.read()
    with folder.writing() as writer:
        writer.compact()
    delete(folder, 0, 2)
    append(folder, 8)
    assert before.ids.tolist() == [0, 2, 3, 5] and before.generation < folder.generation()
    rows = before.living_rows(torch.arange(4))
    torch.testing.assert_close(before.tokens(rows), TOKENS[[0, 2, 3, 5]], atol=1e-3, rtol=0)
    assert [each.path for each in before.entries(rows)] == ["00.png", "02.png", "03.png", "05.png"]


def test_rows_places_and_ids(folder):
    state = folder.read()
    assert state.num_rows == 6 and len(state) == 4
    rows = torch.tensor([0, 2, 3, 5])
    assert torch.equal(state.living_rows(torch.arange(4)), rows)
    assert torch.equal(state.places_of(rows), torch.arange(4)) and torch.equal(state.ids_of(rows), rows)
    assert torch.equal(state.rows_of_ids([5, 0]), torch.tensor([5, 0]))
    with pytest.raises(ValueError, match="the gallery holds no image with id 4"):
        state.rows_of_ids([0, 4])
    assert state.rows_with("path", "03.png") == [3] and state.rows_with("path", "04.png") == []


def test_small_segments_are_merged_so_that_they_stay_few(tmp_path, monkeypatch):
    monkeypatch.setattr(segment_writer, "TIER", 3)
    folder, written = create(tmp_path / "g"), []
    write = segments.write_segment
    monkeypatch.setattr(segment_writer, "write_segment", lambda *given: written.append(given[3]) or write(*given))
    for number in range(30):
        append(folder, number)
    state = folder.read()
    assert [segment.num_living for segment in state.segments] == [27, 1, 1, 1][: len(state.segments)] or len(
        state.segments
    ) <= 6
    assert held(folder) == {number: number for number in range(30)}
    assert sum(written) <= 30 * 5, "an image is copied once a tier"


@pytest.mark.parametrize(
    ("sizes", "first"),
    [
        ([1] * 7, None),
        ([1] * 8, 0),
        ([100, *[1] * 8], 1),
        ([8, *[1] * 7], None),
        ([*[8] * 7, *[1] * 8], 7),
        ([*[8] * 8, 1], 0),
        ([60_000] * 20, None),
        ([], None),
    ],
)
def test_which_segments_are_merged(sizes, first):
    assert segments_to_merge(sizes) == first


def test_appending_costs_what_is_appended(folder):
    before = {file: file.stat().st_ino for file in folder.segments.rglob("*.npy")}
    append(folder, 9)
    delete(folder, 9 - 3)
    after = {file: file.stat().st_ino for file in folder.segments.rglob("*.npy")}
    assert before.items() <= after.items()


def test_what_is_known_is_changed_and_kept(folder):
    with folder.writing() as writer:
        row = int(writer.state.rows_of_ids([3])[0])
        writer.change({row: Entry("moved.png", "contents 3", camera="gate", tags={"colour": "red", "number": 3})})
        writer.note(calibration={"a": [1, 2]}, skipped=[{"path": "x.png"}], images_folder=folder.path)
        writer.commit()
    state = folder.read()
    assert state.calibration == {"a": [1, 2]} and state.skipped_names == [str(folder.path / "x.png")]
    assert [each.path for each in state.entries(state.matching('camera == "gate"').nonzero()[:, 0])] == [
        str(folder.path / "moved.png")
    ]
    with folder.writing() as writer:
        writer.compact()
    assert folder.read().tags == {"number": {"number"}, "colour": {"text"}} and held(folder) == {0: 0, 2: 2, 3: 3, 5: 5}
    assert folder.read().calibration == {"a": [1, 2]} and folder.faults() == []


def test_a_second_writer_is_refused_or_waits(folder):
    with folder.writing() as writer:
        with pytest.raises(BlockingIOError, match="is being written by another process, and only one can write"):
            append(folder, 6)
        late = []
        thread = threading.Thread(target=lambda: late.append(append_late(folder)))
        thread.start()
        writer.append(TOKENS[[7]], [entry(7)])
        writer.commit()
    thread.join()
    assert late == [[7]] and held(folder) == {0: 0, 2: 2, 3: 3, 5: 5, 6: 7, 7: 8}


def append_late(folder):
    with folder.writing(wait=None) as writer:
        ids = writer.append(TOKENS[[8]], [entry(8)])
        writer.commit()
    return ids.tolist()


def test_what_is_not_committed_is_dropped(folder):
    files = sorted(folder.path.rglob("*"))
    with folder.writing() as writer:
        writer.append(TOKENS[[7]], [entry(7)])
        writer.delete([0])
    assert sorted(folder.path.rglob("*")) == files and held(folder) == {0: 0, 2: 2, 3: 3, 5: 5}
    assert append(folder, 7).tolist() == [6], "nor is its id used up"


def test_an_empty_gallery_is_one(tmp_path):
    folder = create(tmp_path / "g")
    assert len(folder.read()) == 0 and folder.read().paths == []
    append(folder, 0)
    delete(folder, 0)
    assert len(folder.read()) == 0 and list(folder.segments.iterdir()) == [] and folder.faults() == []


WRONG = {
    "another shape": (torch.zeros(1, 4, 9), [Entry()], r"expected tokens \(n, 4, 8\)"),
    "another number of entries": (TOKENS[:2], [Entry()], "1 entry"),
}


@pytest.mark.parametrize(("tokens", "entries", "message"), WRONG.values(), ids=WRONG)
def test_other_features_are_not_taken(folder, tokens, entries, message):
    with folder.writing() as writer, pytest.raises(ValueError, match=message):
        writer.append(tokens, entries)


# Damage


def flip(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["ids", "means", "tokens", "codes", "scales", "errors", "rows", "entries.sqlite", "deleted-4"]
)
def test_a_flipped_bit_in_any_file_is_named(folder, tmp_path, capsys, name):
    file = next(folder.segments.glob(f"*/{name}*"))
    flip(file)
    with pytest.raises(ValueError, match=rf"^[^\n]*{file.name} is damaged [^\n]*into another folder$"):
        folder.read()
    assert len(folder.faults()) == 1 and file.name in folder.faults()[0]
    assert verify([str(folder.path), "--quiet"]) == 1 and file.name in capsys.readouterr().out
    flip(file)
    assert verify([str(folder.path), "--quiet"]) == 0 and ": gallery: sound" in capsys.readouterr().out
    file.unlink()
    with pytest.raises(FileNotFoundError):
        folder.read()
    assert file.name in folder.faults()[0]


def test_damage_in_large_files_is_found_when_it_is_used(folder, monkeypatch):
    """They are not read when a gallery is opened."""
    monkeypatch.setattr(segments, "_CHECKED_WHEN_OPENED", 0)
    file = next(folder.segments.glob("*-0/tokens.npy"))
    flip(file)
    state = folder.read()
    assert len(state.tokens([0, 5])) == 2
    with pytest.raises(ValueError, match="the features of the image with id 2 are damaged"):
        state.tokens([2])
    with folder.writing() as writer, pytest.raises(ValueError, match="with id 2 are damaged"):
        writer.compact()
    flip(file)
    assert held(folder) == {0: 0, 2: 2, 3: 3, 5: 5}
    flip(next(folder.segments.glob("*-0/codes.npy")))
    with pytest.raises(ValueError, match=r"codes\.npy is damaged"):
        folder.read().parts[0].check("codes")


def change_list(folder, change, seal=True):
    file = folder.path / "gallery.json"
    manifest = json.loads(file.read_text())
    manifest = change(manifest) or manifest
    file.write_text(json.dumps(sealed(manifest) if seal and isinstance(manifest, dict) else manifest))


def of_segment(**fields):
    return lambda folder: change_list(folder, lambda manifest: manifest["segments"][0].update(fields))


def of_list(**fields):
    return lambda folder: change_list(folder, lambda manifest: manifest.update(fields))


HOSTILE = {
    "binary": lambda folder: (folder.path / "gallery.json").write_bytes(bytes(range(256)) * 99),
    "empty": lambda folder: (folder.path / "gallery.json").write_bytes(b""),
    "half": lambda folder: os.truncate(folder.path / "gallery.json", 500),
    "nested deep": lambda folder: (folder.path / "gallery.json").write_text("[" * 100_000),
    "large": lambda folder: os.truncate(folder.path / "gallery.json", 1 << 40),
    "a bit": lambda folder: change_list(folder, lambda manifest: manifest.update(next_id=7), seal=False),
    "a list": lambda folder: change_list(folder, lambda manifest: [manifest]),
    "another format": of_list(format="x"),
    "a newer version": of_list(version=2),
    "no model": of_list(settings={}),
    "an unknown precision": of_list(settings=SETTINGS | {"features": {"dtype": "object", "shape": [4, 8]}}),
    "another shape": of_list(settings=SETTINGS | {"features": {"dtype": "float16", "shape": [4, 9]}}),
    "a generation of text": of_list(generation="1"),
    "segments that are none": of_list(segments=[7]),
    "a segment's name that is a path": of_segment(name="../../etc"),
    "entries elsewhere": of_segment(entries="/etc/passwd"),
    "deleted elsewhere": of_segment(deleted="../deleted-4.npy"),
    "other rows": of_segment(rows=10**12),
    "more deleted than there are": of_segment(num_deleted=9),
    "no files": of_segment(files={}),
    "files that are none": of_segment(files={"ids.npy": 3}),
    "no tags": of_segment(tags=None),
    "skipped that is none": of_list(skipped=["x"]),
    "a calibration that is none": of_list(calibration=[1]),
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_a_list_that_is_none_is_refused_in_one_line(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match=r"^[^\n]{,2000}$") as caught:
        folder.read()
    assert str(folder.path) in str(caught.value) and "into another folder" in str(caught.value)
    with pytest.raises(ValueError, match=r"^[^\n]{,2000}$"):
        append(folder, 7)


def test_arrays_of_objects_are_not_loaded(folder):
    """Pickled objects run code when they are loaded."""
    file = next(folder.segments.glob("*-0/ids.npy"))
    np.save(file, np.array([print, 1, 2], dtype=object), allow_pickle=True)
    recorded = {file.name: {"bytes": file.stat().st_size, "xxh3_128": segments.hash_file(file)}}
    change_list(folder, lambda manifest: manifest["segments"][0]["files"].update(recorded))
    with pytest.raises(ValueError, match=r"ids\.npy is damaged"):
        folder.read()


def test_readers_beside_a_writer_see_whole_galleries_alone(tmp_path):
    folder, done, seen, faults = create(tmp_path / "g"), threading.Event(), [], []
    append(folder, 0)

    def read():
        while not done.is_set():
            try:
                seen.append(tuple(held(folder).items()))
            except Exception as error:
                faults.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    states = {tuple(held(folder).items())}
    try:
        for number in range(1, 12):
            with folder.writing() as writer:
                writer.append(TOKENS[[number]], [entry(number)])
                writer.delete([0])
                states.add(tuple(zip(writer.commit().ids.tolist(), [number], strict=True)))
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert faults == [] and seen and set(seen) <= states


def test_a_folder_that_was_copied_while_it_was_written_is_refused_or_whole(folder, tmp_path):
    list_before = (folder.path / "gallery.json").read_bytes()
    with folder.writing() as writer:
        writer.compact()
    copy = shutil.copytree(folder.path, tmp_path / "copy")
    (copy / "gallery.json").write_bytes(list_before)
    with pytest.raises(FileNotFoundError, match=r"tokens\.npy is missing, so the gallery is damaged; index the"):
        GalleryFolder(copy).read()
