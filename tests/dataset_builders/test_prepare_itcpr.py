"""The step that arranges Celeb-reID, LaST and PRCC for ITCPR.

    python tests/dataset_builders/test_prepare_itcpr.py FOLDER

runs it on made-up sources with as many names as the published ITCPR has (22,712 records), in every mode.
"""

import json
import os
import sys
import time
from pathlib import Path

import datasets
import pytest
from PIL import Image

import fafa  # noqa: F401 - registers the builders
from fafa.dataset_builders import prepare_itcpr
from fafa.dataset_builders.prepare_itcpr import MODES, main
from fafa.files import hash_files

FULL_SIZE = {"last": 905, "prcc": 146, "celeb_queries": 1_151, "distractors": 18_285, "double_matches": 23}
SMALL = {"last": 3, "prcc": 2, "celeb_queries": 4, "distractors": 5, "double_matches": 1}
OPTIONS = {"Celeb-reID": "--celeb-reid", "LAST": "--last", "PRCC": "--prcc"}


def make_sources(folder: Path, last: int, prcc: int, celeb_queries: int, distractors: int, double_matches: int) -> None:
    """The three sources in the folders in which they are distributed, with ITCPR's annotations of them.

    Every query has a match, `double_matches` of Celeb-reID's a second one; of Celeb-reID are the distractors, too.
    """
    pictures = [folder / f"pictures/{shade}.jpg" for shade in range(50)]
    pictures[0].parent.mkdir(parents=True)
    for shade, picture in enumerate(pictures):
        Image.new("RGB", (4, 8), (5 * shade, 0, 0)).save(picture)
    queries, gallery, files = [], [], []

    def add(records: list[dict], file: str, path: str, person_id: int, instance_id: int) -> None:
        files.append(file)
        record = {"file_path": path, "datasets": path.split("/")[0], "person_id": person_id, "instance_id": instance_id}
        records.append(record | ({"caption": f"in coat {instance_id}"} if records is queries else {}))

    def add_celeb(records: list[dict], number: int, person: int, instance_id: int) -> None:
        name = f"{person}_{number}_0.jpg"
        part = ("query", "gallery", "train")[number % 3]
        add(records, f"Celeb-reID/{part}/{name}", f"Celeb-reID/{person:03d}/{name}", person, instance_id)

    for one in range(last):
        for records, part in ((queries, "query"), (gallery, "gallery")):
            name = f"{one:06d}/{one:06d}_{part}.jpg"
            add(records, f"last/last/test/{part}/{name}", f"LAST/{name}", one, one)
    for one in range(prcc):
        for records, camera in ((queries, "A"), (gallery, "C")):
            name = f"rgb/test/{camera}/{one:03d}/cropped_rgb{one:03d}.jpg"
            add(records, f"prcc/{name}", f"PRCC/{name}", one, last + one)
    number, people = 0, 1_052  # people of Celeb-reID: some numbers have four digits
    for one in range(celeb_queries):
        person, instance_id = people - one % people, last + prcc + one
        for records in (queries, gallery, *[gallery] * (one < double_matches)):
            number += 1
            add_celeb(records, number, person, instance_id)
    for one in range(distractors):
        number += 1
        add_celeb(gallery, number, 1 + one % people, -1)

    files += ["Celeb-reID/gallery/5_999999_0.jpg", "last/last/train/000007/other.jpg", "prcc/rgb/train/001/other.jpg"]
    files += ["prcc/sketch/test/A/001/cropped_rgb001.jpg", "Celeb-reID/README.txt", "last/last/notes.jpg"]
    for index, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).hardlink_to(pictures[index % len(pictures)])
    (folder / "annotations").mkdir()
    for name, records in (("query", queries), ("gallery", gallery)):
        (folder / f"annotations/{name}.json").write_text(json.dumps(records))


def command(folder: Path, *more: str, leave_out: str = "") -> list[str]:
    sources = {"Celeb-reID": "Celeb-reID", "LAST": "last", "PRCC": "prcc"}
    options = {OPTIONS[name]: folder / place for name, place in sources.items() if name != leave_out}
    options |= {"--annotations": folder / "annotations", "--output": folder / "ITCPR"}
    return [*(str(word) for pair in options.items() for word in pair), *more]


def tree(folder: Path) -> dict[str, tuple]:
    """What a folder holds: path -> inode, size and time."""
    found = {path: path.lstat() for path in folder.rglob("*") if not path.is_dir()}
    return {
        str(path.relative_to(folder)): (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in sorted(found.items())
    }


@pytest.fixture
def sources(tmp_path):
    make_sources(tmp_path, **SMALL)
    return tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_the_result_loads_and_the_sources_stay_as_they_were(sources, load, mode):
    before = {name: tree(sources / name) for name in ("Celeb-reID", "last", "prcc", "annotations")}
    assert main(command(sources, "--mode", mode)) == 0
    assert {name: tree(sources / name) for name in before} == before

    gallery = load("ITCPR", "gallery", data_dir=sources / "ITCPR", split="test")
    queries = load("ITCPR", "query", data_dir=sources / "ITCPR", split="test")
    assert (len(queries), len(gallery)) == (9, 15)
    assert queries[-1]["image"].size == (4, 8)
    written = tree(sources / "ITCPR")
    assert len(written) == 9 + 15 + 2, "what ITCPR does not name is left out"
    for path, file in (
        ("Celeb-reID/1052/1052_1_0.jpg", "Celeb-reID/gallery/1052_1_0.jpg"),
        ("Celeb-reID/005/5_14_0.jpg", "Celeb-reID/train/5_14_0.jpg"),
        ("LAST/000002/000002_query.jpg", "last/last/test/query/000002/000002_query.jpg"),
        ("PRCC/rgb/test/C/001/cropped_rgb001.jpg", "prcc/rgb/test/C/001/cropped_rgb001.jpg"),
    ):
        target, source = sources / "ITCPR" / path, sources / file
        assert hash_files([str(target)]) == hash_files([str(source)])
        assert target.is_symlink() == (mode == "symlink")
        assert target.samefile(source) == (mode != "copy")

    assert main(command(sources, "--mode", mode)) == 0
    assert tree(sources / "ITCPR") == written, "a second run changes nothing"


def test_a_dry_run_writes_nothing_and_tells_all_that_is_missing(sources, capsys):
    gone = [sources / f"last/last/test/{part}/000001/000001_{part}.jpg" for part in ("query", "gallery")]
    for file in gone:
        file.unlink()
    before = tree(sources)
    assert main(command(sources, "--dry-run")) == 1
    assert tree(sources) == before
    printed = capsys.readouterr().out
    assert "Celeb-reID: 14 to write, 0 there already, 0 missing" in printed
    assert "LAST: 4 to write, 0 there already, 2 missing" in printed
    assert f"missing: LAST/000001/000001_query.jpg (not below {sources / 'last'})" in printed
    assert "gallery.json is not the published one, or not all of it: 15 records (published: 20,510)" in printed
    assert "Nothing was written. The same command without --dry-run writes " in printed.splitlines()[-1]


def test_a_source_may_come_later(sources, capsys):
    assert main(command(sources, leave_out="PRCC")) == 1
    missing = (sources / "ITCPR/missing.txt").read_text().splitlines()
    assert len(missing) == 4
    assert missing[0] == "PRCC/rgb/test/A/000/cropped_rgb000.jpg\tnot looked for, because --prcc is not given"
    assert main(command(sources)) == 0
    assert "PRCC: 4 written, 0 there already, 0 missing" in capsys.readouterr().out
    assert not (sources / "ITCPR/missing.txt").exists()
    assert main(command(sources, leave_out="PRCC")) == 0, "what is there needs no source"


def test_a_run_that_is_killed_leaves_no_half_file_and_goes_on(sources, monkeypatch):
    copy, num_copied = prepare_itcpr.shutil.copy2, 0

    def fail_in_the_middle(source, target):
        nonlocal num_copied
        num_copied += 1
        if num_copied == 10:
            Path(target).write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(prepare_itcpr.shutil, "copy2", fail_in_the_middle)
    assert main(command(sources)) == 2
    assert len(tree(sources / "ITCPR")) == 9
    Path(sources / "ITCPR/Celeb-reID/005").mkdir(exist_ok=True)
    (sources / "ITCPR/Celeb-reID/005/5_14_0.jpg.part").write_bytes(b"of a run killed with -9")
    assert main(command(sources)) == 0
    assert len(tree(sources / "ITCPR")) == 26


def test_two_files_of_one_name_and_different_content_are_both_named(sources, capsys):
    file, other = sources / "Celeb-reID/train/5_14_0.jpg", sources / "Celeb-reID/query/5_14_0.jpg"
    other.write_bytes(file.read_bytes())
    assert main(command(sources, "--dry-run")) == 0, "equal ones do not contend"
    other.write_bytes(b"another picture")
    assert main(command(sources)) == 1
    printed = capsys.readouterr().out
    assert f"{other} and {file} differ" in printed
    assert not (sources / "ITCPR/Celeb-reID/005/5_14_0.jpg").exists()

    other.unlink()
    target = sources / "ITCPR/Celeb-reID/005/5_14_0.jpg"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"something of the user's")
    assert main(command(sources)) == 1
    assert target.read_bytes() == b"something of the user's"
    assert f"{file} and {target} differ" in capsys.readouterr().out


def test_last_is_taken_from_flat_folders_as_its_own_loader_reads_it(sources, capsys):
    """Query folders of LaST are flat: the identity is what a file's name begins with."""
    query = sources / "last/last/test/query"
    for file in sorted(query.glob("*/*.jpg")):
        file.rename(query / file.name)
    assert main(command(sources)) == 0
    target, source = sources / "ITCPR/LAST/000002/000002_query.jpg", query / "000002_query.jpg"
    assert target.read_bytes() == source.read_bytes()
    other = sources / "last/last/val/query/000002_query.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another picture")
    assert main(command(sources)) == 1
    assert f"{query / '000002_query.jpg'} and {other} differ" in capsys.readouterr().out


def test_a_picture_of_last_that_two_records_may_mean_is_refused_by_name(sources, capsys):
    """Its folder says one identity, its name another, and both are named."""
    annotations = sources / "annotations/query.json"
    records = json.loads(annotations.read_text())
    records[0]["file_path"], records[1]["file_path"] = "LAST/000007/000001_odd.jpg", "LAST/000001/000001_odd.jpg"
    annotations.write_text(json.dumps(records))
    odd = sources / "last/last/train/000007/000001_odd.jpg"
    (odd.parent / "other.jpg").rename(odd)
    assert main(command(sources)) == 1
    expected = f"{odd}: may be LAST/000007/000001_odd.jpg or LAST/000001/000001_odd.jpg"
    assert expected in capsys.readouterr().out


def test_ctrl_c_says_in_one_line_what_is_kept(sources, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_itcpr.shutil, "copy2", interrupt)
    assert main(command(sources)) == 130
    assert "what was written stays" in capsys.readouterr().err


def test_empty_files_are_passed_over(sources, capsys):
    (sources / "Celeb-reID/query/5_14_0.jpg").touch()  # beside a good one
    bad = sources / "Celeb-reID/gallery/4_13_0.jpg"
    bad.unlink()
    bad.touch()
    target = sources / "ITCPR/Celeb-reID/005/5_14_0.jpg"
    target.parent.mkdir(parents=True)
    target.touch()
    assert main(command(sources)) == 1
    assert target.stat().st_size > 0
    assert f"missing: Celeb-reID/004/4_13_0.jpg ({bad} has 0 bytes)" in capsys.readouterr().out


def test_all_images_are_taken_on_demand(sources):
    assert main(command(sources, "--all")) == 0
    written = tree(sources / "ITCPR")
    assert {"Celeb-reID/005/5_999999_0.jpg", "LAST/000007/other.jpg", "PRCC/rgb/train/001/other.jpg"} <= set(written)
    assert len(written) == 26 + 3


def test_links_to_folders_are_followed(sources):
    (sources / "last/last/test").rename(sources / "elsewhere")
    (sources / "last/last/test").symlink_to(sources / "elsewhere")
    (sources / "last/last/loop").symlink_to(sources / "last")
    assert main(command(sources)) == 0


@pytest.mark.parametrize("way", ["inside", "by a link", "by a link of a folder"])
def test_a_source_is_never_written_into(sources, capsys, way):
    if way == "inside":
        (sources / "Celeb-reID").rename(sources / "Celeb")
        (sources / "ITCPR").mkdir()
        (sources / "Celeb").rename(sources / "ITCPR/Celeb-reID")
        (sources / "Celeb-reID").symlink_to(sources / "ITCPR/Celeb-reID")
    elif way == "by a link":
        (sources / "ITCPR").mkdir()
        (sources / "ITCPR/LAST").symlink_to(sources / "last")
    else:
        (sources / "ITCPR/Celeb-reID").mkdir(parents=True)
        (sources / "ITCPR/Celeb-reID/005").symlink_to(sources / "Celeb-reID/gallery")
    before = tree(sources)
    assert main(command(sources)) == 2
    assert "one lies in the other" in capsys.readouterr().err
    assert tree(sources) == before


def test_what_cannot_be_done_is_told(sources, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--annotations", str(sources), "--output", str(sources / "ITCPR")])
    assert "at least one of --celeb-reid, --last, --prcc" in capsys.readouterr().err
    assert main([*command(sources, leave_out="PRCC"), "--prcc", "nowhere"]) == 2
    assert "nowhere: no such folder. Pass PRCC's by --prcc" in capsys.readouterr().err
    (sources / "annotations/query.json").write_text('[{"file_path": "../x.jpg"}]')
    assert main(command(sources)) == 2
    assert "lacks a field" in capsys.readouterr().err
    assert not (sources / "ITCPR").exists()


def run_at_full_size(folder: Path) -> None:
    """Every mode at the published size: time, what it wrote, and that it loads."""
    for mode in MODES:
        place = folder / mode
        make_sources(place, **FULL_SIZE)
        num_sources = sum(len(tree(place / name)) for name in ("Celeb-reID", "last", "prcc"))
        start = time.perf_counter()
        first = main(command(place, "--mode", mode))
        between = time.perf_counter()
        written = tree(place / "ITCPR")
        second = main(command(place, "--mode", mode))
        again = time.perf_counter() - between
        if tree(place / "ITCPR") != written:
            raise RuntimeError("the second run has changed something")
        sizes = {}
        for name in ("query", "gallery"):
            cache = str(folder / "cache")
            rows = datasets.load_dataset("ITCPR", name, data_dir=str(place / "ITCPR"), split="test", cache_dir=cache)
            sizes[name] = len(rows), rows[-1]["image"].size
        print(
            f"{mode}: {num_sources:,} files of the sources, {len(written):,} in the output; exit status {first}, "
            f"{second}; {between - start:.1f} s, again {again:.1f} s; loaded: {sizes}"
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run_at_full_size(Path(sys.argv[1]))
