"""Processor, `verify`, export and search call the same pictures sound, however odd a file is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from odd_images import UPRIGHT, odd_images, picture, write_odd_images
from PIL import Image
from tiny import tiny_model, tiny_processor

from fafa.dataset_builders.export import export_dataset
from fafa.dataset_builders.image_checks import check_image
from fafa.dataset_builders.records import DataFormatError
from fafa.dataset_builders.verify import verify_dataset
from fafa.image_reading_fafa import UnreadableImageError, inspect_image, open_image
from fafa.retrieval import Gallery


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Each odd file, and its size or what its refusal says."""
    return write_odd_images(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def sound(verdicts):
    return {file for file, verdict in verdicts.items() if not isinstance(verdict, str)}


def _differences(verdicts, judge):
    """The files of which `judge` says something else: a size, or a refusal that names the file."""
    found = {}
    for file, verdict in verdicts.items():
        try:
            judged = judge(file)
        except UnreadableImageError as error:
            judged = str(error)
            if isinstance(verdict, str) and re.search(verdict, judged, re.DOTALL) and repr(str(file)) in judged:
                continue
        if judged != verdict:
            found[file.name] = judged
    return found


def test_there_are_many_odd_images(verdicts, sound):
    assert len(verdicts) > 250 and len(sound) > 130 and len(verdicts) - len(sound) > 90


def test_the_reader_judges_as_expected(verdicts):
    assert _differences(verdicts, lambda file: open_image(file).size) == {}


def test_inspection_judges_as_reading_does(verdicts):
    assert _differences(verdicts, lambda file: inspect_image(file)[1:]) == {}


def test_the_processor_judges_as_the_reader_does(verdicts, sound):
    image_processor = tiny_processor().image_processor

    def judge(file):
        assert image_processor(file)["pixel_values"].shape == (1, 3, 96, 96)
        return verdicts[file] if file in sound else "was processed"

    assert _differences(verdicts, judge) == {}


def test_verify_judges_as_the_reader_does(verdicts, sound, tmp_path):
    """It also survives each of them, and reports all that are broken in one run."""
    for file in verdicts:
        check = check_image(str(file))
        assert bool(check.error) == (file not in sound), (file, check.error)
        assert file not in sound or (check.width, check.height) == verdicts[file]

    root = _itcpr(tmp_path, verdicts)
    report = verify_dataset(root, num_workers=1, show_progress=False)
    problems = report["files"]["gallery.json"]["problems"]
    broken = {one["detail"].split(": ", 1)[0] for one in problems["names an image file that is broken"]["found"]}
    empty = {one["detail"].split(": ", 1)[0] for one in problems["names an image file of 0 bytes"]["found"]}
    assert broken | empty == {file.name for file in verdicts if file not in sound}


def test_export_judges_as_the_reader_does(verdicts, sound, tmp_path):
    """Each refusal names the file, and all that is sound is written, with its bytes."""
    for number, file in enumerate(sorted(verdicts.keys() - sound)):
        if file.name in ("sparse.png", "empty.jpg") or number % 10 == 0:  # a whole export takes 0.1 s
            root = _itcpr(tmp_path / str(number), {file: ""})
            with pytest.raises(DataFormatError, match=re.escape(file.name)):
                _export(root, tmp_path / f"{number}-shards")
    shards = _export(_itcpr(tmp_path, sorted(sound)), tmp_path / "shards")
    images = [row["bytes"] for shard in shards for row in pq.read_table(shard, columns=["image"])["image"].to_pylist()]
    assert sorted(images) == sorted(file.read_bytes() for file in sound)


@pytest.mark.parametrize("name", ["exif_resolution_text.jpg", "text_bomb.png", "animated_without_control.png"])
def test_the_card_of_an_export_is_written_whatever_its_first_picture(verdicts, tmp_path, name):
    """`datasets` decoded it for the card, and refused it after all shards were written."""
    file = next(file for file in verdicts if file.name == name)
    _export(_itcpr(tmp_path, [file]), tmp_path / "shards")
    width, height = verdicts[file]
    assert f"an image of {width} x {height} pixels" in (tmp_path / "shards/README.md").read_text()


def test_search_judges_as_the_reader_does(verdicts, sound, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in verdicts:
        (folder / file.name).hardlink_to(file)
    gallery = Gallery.from_folder(tiny_model(), tiny_processor(), folder, on_error="skip", progress=False)
    assert {path.name for path in gallery.paths} == {file.name for file in sound}
    assert {Path(name).name for name in gallery.skipped} == {file.name for file in verdicts if file not in sound}


def test_no_program_is_started_and_time_and_memory_are_bounded(verdicts, tmp_path):
    """In a process that may have 1.5 GB and 60 s, with a Ghostscript that leaves a trace, and warnings as errors."""
    for program in ("gs", "djpeg", "ffmpeg", "magick", "convert"):
        file = tmp_path / "bin" / program
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
        file.chmod(0o755)
    script = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from fafa.image_reading_fafa import UnreadableImageError, inspect_image, open_image
from pathlib import Path
sound = []
for file in sorted(Path({str(next(iter(verdicts)).parent)!r}).iterdir()):
    for read in (open_image, inspect_image):
        try:
            read(file)
        except UnreadableImageError:
            continue
        sound.append(file.name)
print(json.dumps(sound))
"""
    environment = os.environ | {"PATH": f"{tmp_path}/bin", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    twice = sorted(2 * [file.name for file, verdict in verdicts.items() if not isinstance(verdict, str)])
    assert sorted(json.loads(run.stdout)) == twice
    assert not (tmp_path / "started").exists()


def test_damaged_metadata_leave_the_pixels_as_they_are():
    """Not only their size: a picture that is lost in its metadata would come out blank, or lying."""
    checked = 0
    for image in odd_images():
        if image.name.startswith(("exif_", "turned_6", "text_", "animated", "profile_", "index_")):
            if image.verdict != UPRIGHT or image.name.startswith("turned_5"):
                continue
            read = np.asarray(open_image({"bytes": image.content}), dtype=int)
            turned = image.name.startswith(("exif_", "turned_"))
            expected = picture(size=UPRIGHT[::-1]).transpose(Image.Transpose.ROTATE_270) if turned else picture()
            assert np.abs(read - np.asarray(expected, dtype=int)).mean() < 12, image.name
            checked += 1
    assert checked > 30


def _itcpr(root: Path, files) -> Path:
    """A data set whose gallery names the files."""
    root.mkdir(parents=True, exist_ok=True)
    record = {"datasets": "LAST", "person_id": 1, "instance_id": 0}
    for file in files:
        (root / file.name).hardlink_to(file)
    gallery = [record | {"file_path": file.name} for file in files]
    query = record | {"file_path": "query.png", "caption": "In a green coat"}
    picture().save(root / "query.png")
    (root / "gallery.json").write_text(json.dumps(gallery))
    (root / "query.json").write_text(json.dumps([query]))
    return root


def _export(root: Path, output_dir: Path) -> list[Path]:
    return export_dataset(
        "ITCPR", "gallery", data_dir=root, output_dir=output_dir, cache_dir=root / "cache", show_progress=False
    )
