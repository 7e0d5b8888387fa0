"""Which files of a folder are its photographs, and what is said of the others."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from fafa.retrieval import find_images
from fafa.retrieval.photo_folder import find_films


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "trip/b.jpg", "trip/deep/c.png"):
        put(tmp_path / "photos" / name)
    return tmp_path / "photos"


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8)).save(path)


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in find_images(folder, **options)]


@pytest.mark.parametrize(
    "rubbish",
    [
        *("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".thumbnails/1.png", ".Trash-1000/files/x.jpg", "$RECYCLE.BIN/x.jpg"),
        *("#recycle/x.jpg", "._a.jpg", ".git/x.png", "__MACOSX/x.jpg", "lost+found/x.jpg", "trip/@EADIR/x.jpg"),
        *("Photos Previews.lrdata/x.jpg", "Album.photoslibrary/resources/x.jpg", "Mine.lrlibrary/Previews/x.jpg"),
        *(".hidden/x.jpg", "trip/.faces/x.jpg", ".trashed-1712-x.jpg", "System Volume Information/x.jpg"),
    ],
)
def test_what_programs_keep_beside_photographs_is_left_out(folder, rubbish, caplog):
    """Of seven results six were previews of a NAS, deleted photographs and side files of macOS."""
    caplog.set_level(logging.INFO)
    put(folder / rubbish)
    assert names(folder) == ["a.jpg", "trip/b.jpg", "trip/deep/c.png"]
    assert "left out as no photographs: 1 " in caplog.text
    assert rubbish in names(folder, rubbish=True)


def test_photographs_with_names_like_rubbish_are_kept(folder):
    kept = ["Trash/x.jpg", "cache/x.jpg", "a.b._c.jpg", "resources/x.jpg", "thumbnails of her/x.jpg", ".x.jpg"]
    for name in kept:
        put(folder / name)
    assert set(kept) < set(names(folder))


def test_a_gallery_may_itself_lie_in_such_a_folder(tmp_path):
    put(tmp_path / ".cache" / "photos" / "x.jpg")
    assert names(tmp_path / ".cache" / "photos") == ["x.jpg"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.png"], ["a.jpg", "trip/b.jpg"]),
        (["trip"], ["a.jpg"]),
        (["trip/*.jpg", "?.png"], ["a.jpg"]),
        (["deep/"], ["a.jpg", "trip/b.jpg"]),
        (["TRIP", "b"], ["a.jpg", "trip/b.jpg", "trip/deep/c.png"]),
    ],
)
def test_patterns_exclude_names_and_paths(folder, patterns, left):
    assert names(folder, exclude=patterns) == left


def test_a_folder_of_nothing_but_exclusions_says_so(folder):
    with pytest.raises(ValueError, match=r"no image among 0 files.*left out: 1 a\.jpg, 1 trip"):
        find_images(folder, exclude=["trip", "a.jpg"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes on another user's rights")
@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_folder_that_may_not_be_read_is_named(folder, mode):
    """os.walk hides it, and its photographs were missing without a word."""
    code = (
        "import logging, os, sys; from fafa.retrieval.photo_folder import find_images; logging.basicConfig()\n"
        "os.seteuid(65534); found = find_images(sys.argv[1])\n"
        "print([path.name for path in found])\n"
        "try: find_images(sys.argv[1] + '/trip/deep')\n"
        "except (OSError, ValueError) as error: print(error)"
    )
    with TemporaryDirectory() as place:  # not within pytest's folders, which are root's alone
        Path(place).chmod(0o755)
        photos = shutil.copytree(folder, Path(place, "photos"))
        (photos / "trip" / "deep").chmod(mode)
        run = subprocess.run([sys.executable, "-c", code, photos], capture_output=True, text=True, check=True)
    assert "['a.jpg', 'b.jpg']\n" in run.stdout
    assert "may not be read" in run.stderr and "trip/deep" in run.stderr
    assert ("deep cannot be listed: Permission denied" if mode == 0 else "deep; images are missing") in run.stdout


def test_films_are_found_by_their_contents_beside_photographs(folder):
    heads = {"trip/film.bin": b"\0\0\0\x18ftypisom", "old.avi": b"RIFF\0\0\0\0AVI ", "web.webm": b"\x1a\x45\xdf\xa3"}
    for name, head in (heads | {"code.ts": b"const a = 1", "song.m4a": b"\0\0\0\x18ftypM4A "}).items():
        (folder / name).write_bytes(head + bytes(100))
    (folder / "#recycle").mkdir()
    (folder / "#recycle/film.mp4").write_bytes(heads["old.avi"])
    found = [path.relative_to(folder).as_posix() for path in find_films(folder)]
    assert found == sorted(heads)
    assert find_films(folder, exclude=["*.bin", "web*"]) == [folder / "old.avi"]
    (folder / "damaged.MP4").write_bytes(bytes(100))  # told when it is read
    assert folder / "damaged.MP4" in find_films(folder)
    assert names(folder) == ["a.jpg", "trip/b.jpg", "trip/deep/c.png"]


def test_a_folder_of_films_alone_may_have_no_photographs(tmp_path, caplog):
    (tmp_path / "film.mp4").write_bytes(bytes(100))
    (tmp_path / "notes.txt").write_text("no film")
    films = find_films(tmp_path)
    caplog.set_level(logging.INFO)
    assert find_images(tmp_path, films=films) == [] and films == [tmp_path / "film.mp4"]
    assert "0 images, 1 film, 1 other file left aside" in caplog.text
    with pytest.raises(ValueError, match="no image among 2 files"):
        find_images(tmp_path)
