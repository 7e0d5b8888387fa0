"""`python -m fafa.verify` knows FashionIQ, CIRR and CIRCO: every fault is named, and what is left out is told."""

import json
import shutil

import pytest
from benchmark_folders import make_circo, make_cirr, make_fashioniq

from fafa.dataset_builders.fashioniq import missing_images
from fafa.dataset_builders.verify import verify_dataset
from fafa.verify import main

MAKE = {"FashionIQ": make_fashioniq, "CIRR": make_cirr, "CIRCO": make_circo}
CAPTIONS = {
    "FashionIQ": "captions/cap.shirt.val.json",
    "CIRR": "captions/cap.rc2.val.json",
    "CIRCO": "annotations/val.json",
}


@pytest.fixture
def check(capsys):
    """The exit status, what was printed, and the report."""

    def run(root):
        status = main([str(root), "--quiet", "--num-workers", "1"])
        printed = capsys.readouterr()
        report = root / "verify/report.json"
        return status, printed.out + printed.err, json.loads(report.read_text()) if report.is_file() else None

    return run


def change(file, number, **changes) -> None:
    records = json.loads(file.read_text())
    records[number] |= changes
    file.write_text(json.dumps(records))


def found(report, file, problem):
    return [(one["record"], one["detail"]) for one in report["files"][file]["problems"][problem]["found"]]


@pytest.mark.parametrize(("name", "num_images"), [("FashionIQ", 24), ("CIRR", 120), ("CIRCO", 60)])
def test_a_sound_benchmark_with_a_test_split(tmp_path, check, name, num_images):
    root = tmp_path / "inner" / name
    if name == "FashionIQ":
        make_fashioniq(root, ("val", "test"))
    else:
        MAKE[name](MAKE[name](root), "test1" if name == "CIRR" else "test")
    status, printed, _ = check(tmp_path)  # found in a folder of it, as other data sets are
    assert status == 0 and f"{root}: data set: sound ({num_images} images, {num_images} opened now" in printed
    report = json.loads((root / "verify/report.json").read_text())
    assert report["format"] == name and report["sound"] and report["left out"] == {}
    if name == "CIRCO":
        assert set(report["files"]) == {
            *("annotations/val.json", "annotations/test.json"),
            "COCO2017_unlabeled/unlabeled2017",
        }
    queries = report["files"][CAPTIONS[name]]
    assert queries["records"] == queries["statistics"]["records"] == (2 if name == "FashionIQ" else 3)
    assert "Not the published file, or not all of it" in queries["notes"][0]
    status, printed, report = check(root)
    assert status == 0 and report["images"]["opened"] == 0  # what was found sound is not opened again


def test_images_of_fashioniq_that_are_missing_are_left_out_as_by_the_loader(tmp_path, check):
    root = make_fashioniq(tmp_path / "fiq", missing=("Bvaldress2", "Bvaltoptee0"))
    (root / "images" / "Bvalshirt3.png").write_bytes(b"")
    status, printed, report = check(root)
    assert status == 0 and ": data set: sound" in printed
    ((what, names),) = report["left out"].items()
    missing = missing_images(root, "val")
    assert names == missing["images"] == ["Bvaldress2", "Bvalshirt3", "Bvaltoptee0"]
    assert what == "3 of 12 images of split val, which are missing, and 3 of 6 queries, which need them"
    assert (missing["num_images"], missing["num_queries_left_out"], missing["num_queries"]) == (12, 3, 6)
    assert f"left out: {what}: Bvaldress2, Bvalshirt3, Bvaltoptee0" in printed
    page = (root / "verify/report.md").read_text()
    assert "## Left out" in page and f"- {what}." in page and "  - Bvalshirt3" in page


def test_without_any_image_nothing_is_left_out(tmp_path, check):
    root = make_fashioniq(tmp_path / "fiq")
    shutil.rmtree(root / "images")
    status, printed, report = check(root)
    assert status == 1 and report["left out"] == {}
    assert "split.dress.val.json: record 0 names an image file that is missing: Bvaldress0" in printed
    remedy = report["files"]["image_splits/split.dress.val.json"]["problems"]["names an image file that is missing"]
    assert remedy["remedy"] == f"copy the images to {root}/images"


def test_a_split_of_cirr_without_images_is_left_out_and_single_ones_are_missing(tmp_path, check):
    root = make_cirr(make_cirr(tmp_path / "cirr"), "test1")
    shutil.rmtree(root / "test1")  # annotations come for all splits, images are fetched one by one
    status, printed, report = check(root)
    assert status == 0 and "left out: split test1, as none of its 60 images is there" in printed
    for number in (6, 40):  # a query's reference, and an image that is in the gallery alone
        (root / f"dev/dev-{number}-0-img0.png").unlink()
    status, printed, report = check(root)
    problem = "names an image file that is missing"
    paths = {number: f"dev/dev-{number}-0-img0.png" for number in (6, 40)}
    assert status == 1 and found(report, "image_splits/split.rc2.val.json", problem) == [*paths.items()]
    assert found(report, CAPTIONS["CIRR"], problem) == [(1, paths[6])]
    assert f"image_splits/split.rc2.val.json: record 40 {problem}: {paths[40]}" in printed


def test_targets_of_circo_that_are_missing_are_named(tmp_path, check):
    root = make_circo(tmp_path / "circo")
    images = root / "COCO2017_unlabeled/unlabeled2017"
    (images / "000000000085.jpg").unlink()  # one of two targets of the second query
    status, printed, report = check(root)
    assert status == 1 and "record 1 names an image file that is missing: 000000000085.jpg" in printed
    assert found(report, "annotations/val.json", "names an image file that is missing") == [(1, "000000000085.jpg")]


@pytest.mark.parametrize("name", MAKE)
def test_broken_images_are_named(tmp_path, check, name):
    root = MAKE[name](tmp_path / name)
    path, file, of = {
        "FashionIQ": ("images/Bvalshirt2.jpg", "image_splits/split.shirt.val.json", "record 2"),
        "CIRR": ("dev/dev-7-0-img0.png", "image_splits/split.rc2.val.json", "record 7"),
        "CIRCO": ("COCO2017_unlabeled/unlabeled2017/000000000050.jpg", "COCO2017_unlabeled/unlabeled2017", "image 50"),
    }[name]
    (root / path).write_text("<html>not found</html>")
    status, printed, report = check(root)
    what = "is broken: 000000000050.jpg" if name == "CIRCO" else f"names an image file that is broken: {path}"
    assert status == 1 and f"{root}: {file}: {of} {what}: " in printed and "it is a web page" in printed
    assert report["images"]["broken"] == 1 and not report["sound"]


def test_an_empty_image_of_circo_is_named(tmp_path, check):
    root = make_circo(tmp_path / "circo")
    (root / "COCO2017_unlabeled/unlabeled2017/000000000050.jpg").write_bytes(b"")
    status, printed, _ = check(root)
    assert status == 1 and "unlabeled2017: image 50 has 0 bytes: 000000000050.jpg" in printed


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("FashionIQ", {"captions": ["", "."]}, "record 1 has a caption without a word"),
        ("FashionIQ", {"candidate": "Bvaldress0"}, "record 1 names an image that the split does not list: candidate B"),
        ("CIRR", {"caption": " "}, "record 1 has an empty text: caption"),
        ("CIRR", {"pairid": 100}, "record 1 repeats an earlier record: record 0 (pairid 100)"),
        ("CIRR", {"target_hard": "dev-40-0-img0"}, "record 1 has an img_set without one of its images: target_hard"),
        ("CIRCO", {"gt_img_ids": [92]}, "record 1 has ground truths without its target"),
        ("CIRCO", {"id": 0}, "record 1 repeats an earlier record: record 0 (id 0)"),
    ],
)
def test_bad_records_are_all_named(tmp_path, check, name, changes, message):
    root = MAKE[name](tmp_path / name)
    change(root / CAPTIONS[name], 1, **changes)
    other, field = {"FashionIQ": (0, "target"), "CIRR": (2, "caption"), "CIRCO": (2, "relative_caption")}[name]
    change(root / CAPTIONS[name], other, **{field: 7})
    status, printed, _ = check(root)
    assert status == 1 and f"{CAPTIONS[name]}: {message}" in printed
    assert f"{CAPTIONS[name]}: record {other} has a field of the wrong type: {field}" in printed


@pytest.mark.parametrize("name", MAKE)
def test_damaged_foreign_and_lacking_annotation_files_are_faults(tmp_path, check, name):
    root, file = MAKE[name](tmp_path / name), tmp_path / name / CAPTIONS[name]
    whole = file.read_text()
    file.write_text(whole[:-40])
    status, printed, _ = check(root)
    assert status == 1 and f"{CAPTIONS[name]}: record" in printed and "cannot be read" in printed
    other = "CIRR" if name == "CIRCO" else "CIRCO"
    shutil.copy(MAKE[other](tmp_path / "other") / CAPTIONS[other], file)
    status, printed, _ = check(root)
    assert status == 1 and f"holds records of {other}, expected those of {name}" in printed
    if name != "CIRCO":
        file.unlink()
        status, printed, _ = check(root)
        assert status == 1 and f"of the split val, there is no {CAPTIONS[name]}" in printed
        file.write_text(whole)
        split = root / (
            "image_splits/split.shirt.val.json" if name == "FashionIQ" else "image_splits/split.rc2.val.json"
        )
        split.write_text("[")
        status, printed, report = check(root)
        assert status == 1 and f"{split.name}: record 0 cannot be read" in printed
        (note,) = report["files"][CAPTIONS[name]]["notes"]
        assert note == f"Not checked, as no image could be read from image_splits/{split.name}."


def test_a_path_that_leads_out_of_the_folder_is_refused_by_both(tmp_path, check, load):
    root = make_cirr(tmp_path / "cirr")
    split = root / "image_splits/split.rc2.val.json"
    shutil.copy(root / "dev/dev-0-0-img0.png", tmp_path / "x.png")
    split.write_text(json.dumps(json.loads(split.read_text()) | {"dev-0-0-img0": "../x.png"}))
    status, printed, _ = check(root)
    assert status == 1 and "record 0 has a path that is not below the folder: dev-0-0-img0: '../x.png'" in printed
    for kind in ("query", "gallery"):
        with pytest.raises(ValueError, match="path that is not below the folder"):
            load("CIRR", kind, data_dir=root)


def test_other_annotations_are_not_taken_for_circo(tmp_path, check):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/val.json").write_text('[{"image_id": 1}]')
    status, printed, _ = check(root)
    assert status == 2 and "there is no data set" in printed
    with pytest.raises(FileNotFoundError, match=r"or captions/ and image_splits/ of FashionIQ or CIRR \(rc2\)"):
        verify_dataset(root)
