"""The example scripts of this room, with the options that a person gives."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageColor

from fafa.drawing.palette import GREEN, RED
from fafa.retrieval import Gallery

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def launch(monkeypatch, capsys):
    """Runs an example in this process, which spares the imports, and returns what it prints."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ["one.jpg", "two.png", "three.webp"]:
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_query_searches_photographs(launch, model_folder, photos, tmp_path):
    query = ["--image", photos / "two.png", "--caption", "in a red coat"]
    files = ["--model", model_folder, "--gallery", photos, "--output", tmp_path / "result.png"]
    header, *table = launch("query.py", *files, *query, "--top", "2").splitlines()
    assert header.split() == ["rank", "score", "image"]
    assert [line.split()[0] for line in table[:-1]] == ["1", "2"]
    assert {line.split()[2] for line in table[:-1]} < {"one.jpg", "two.png", "three.webp"}
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.width > picture.height > 200


def test_query_keeps_an_index_and_encodes_only_what_is_new(launch, model_folder, photos, tmp_path, capsys, caplog):
    options = ["--model", model_folder, "--gallery", photos, "--caption", "a hat", "--index", tmp_path / "index"]
    options += ["--output", tmp_path / "result.png"]
    first = launch("query.py", *options)
    second = launch("query.py", *options)
    assert first == second and "3 " in first
    assert "encoding gallery" not in capsys.readouterr().err
    Image.new("RGB", (50, 50)).save(photos / "four.png")
    (photos / "two.png").unlink()
    printed = launch("query.py", *options, "--num-workers", "1")
    assert "four.png" in printed and "one.jpg" in printed and "two.png" not in printed
    assert "features of 2 images reused, 1 new or changed images to encode, 1 removed images left out" in caplog.text
    with pytest.raises(SystemExit, match=r"model dtype float32 \(now bfloat16\)"):
        launch("query.py", *options, "--dtype", "bfloat16")


def test_query_leaves_its_own_picture_out_of_the_gallery(launch, model_folder, photos, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(photos)
    options = ["--model", model_folder, "--gallery", ".", "--caption", "a hat", "--index", tmp_path / "index"]
    first = launch("query.py", *options)
    assert (photos / "result.png").exists()
    assert launch("query.py", *options) == first and "result.png" not in first.split("picture:")[0]
    assert "reused" not in caplog.text, "it is not the gallery that changed"


@pytest.mark.parametrize("name", ["one.jpg", "two.png", "three.webp"])
def test_no_picture_takes_the_place_of_a_photograph(launch, model_folder, photos, tmp_path, name):
    """It used to: the photograph was overwritten, and left out of the search without a word."""
    before = (photos / name).read_bytes()
    options = ["--model", model_folder, "--caption", "a hat", "--output", photos / name]
    with pytest.raises(SystemExit, match="is a photograph, which the picture would replace"):
        launch("query.py", "--gallery", photos, *options)
    (tmp_path / "others").mkdir()
    (photos / name).rename(tmp_path / "others" / name)
    options[-1] = tmp_path / "others" / name
    with pytest.raises(SystemExit, match="is a photograph, which the picture would replace"):
        launch("query.py", "--gallery", photos, "--image", tmp_path / "others" / name, *options)
    assert (tmp_path / "others" / name).read_bytes() == before


@pytest.mark.parametrize("name", ["result.jpg", "result.webp", "result.tif"])
def test_a_picture_of_the_last_search_is_replaced(launch, model_folder, photos, name):
    options = ["--model", model_folder, "--caption", "a hat", "--gallery", photos, "--output", photos / name]
    assert launch("query.py", *options) == launch("query.py", *options)


def test_an_index_is_not_begun_among_photographs(launch, model_folder, photos, tmp_path):
    options = ["--model", model_folder, "--caption", "a hat", "--gallery", photos, "--output", tmp_path / "r.png"]
    with pytest.raises(SystemExit, match=r"holds something else than features of images \(one\.jpg"):
        launch("query.py", *options, "--index", photos)
    assert sorted(path.name for path in photos.iterdir()) == ["one.jpg", "three.webp", "two.png"]


def test_query_in_half_precision_shows_what_was_left_aside(launch, model_folder, photos, tmp_path, monkeypatch, caplog):
    monkeypatch.delitem(Image.EXTENSION, ".heic", raising=False)
    (photos / "IMG_1.HEIC").write_bytes(b"")
    options = ["--model", model_folder, "--gallery", photos, "--caption", "a hat", "--dtype", "bfloat16"]
    printed = launch("query.py", *options, "--index", tmp_path / "index", "--output", tmp_path / "result.png")
    assert "one.jpg" in printed
    assert json.loads((tmp_path / "index" / "gallery.json").read_text())["settings"]["model"]["dtype"] == "bfloat16"
    assert "1 .heic" in caplog.text


def test_query_skips_unreadable_photographs_unless_told_otherwise(launch, model_folder, photos, tmp_path, caplog):
    (photos / "broken.jpg").write_bytes(b"no picture")
    options = ["--model", model_folder, "--gallery", photos, "--caption", "a hat"]
    options += ["--output", tmp_path / "result.png"]
    with pytest.raises(SystemExit, match=r"broken\.jpg"):
        launch("query.py", *options, "--on-error", "raise")
    printed = launch("query.py", *options)
    assert "one.jpg" in printed and "broken.jpg" not in printed
    assert "1 of 4 images unreadable" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "no/such.jpg"], r"no file 'no/such\.jpg'"),
        (["--caption", "..."], "holds no word"),
        (["--caption", "a hat", "--gallery", "no/such"], "is not a folder"),
        (["--caption", "a hat", "--output", "result.xyz"], r"result\.xyz: \.xyz says no format.*; use .*\.png"),
        (["--caption", "a hat", "--output", "result"], "no suffix says no format"),
        (["--caption", "a hat", "--output", "."], "is a folder: give the name of a file"),
        (["--caption", "a hat", "--output", "/dev/null/result.png"], "/dev/null is no folder"),
        (["--caption", "a hat", "--output", "/proc/result.png"], "no file can be written into /proc"),
        (["--caption", "a hat", "--top", "1000000"], "draw fewer"),
    ],
)
def test_query_says_what_is_wrong_before_it_encodes(launch, model_folder, photos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match=message):
        launch("query.py", "--model", model_folder, "--gallery", photos, "--index", tmp_path / "index", *options)
    assert "encoding" not in capsys.readouterr().err and not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "option", [["--top", "0"], ["--batch-size", "0"], ["--num-workers", "-1"], ["--num-workers", "100000"]]
)
def test_query_refuses_senseless_numbers_at_once(launch, capsys, option):
    with pytest.raises(SystemExit):
        launch("query.py", "--model", "m", "--gallery", "g", "--caption", "c", *option)
    assert f"{option[0]}" in capsys.readouterr().err.splitlines()[-1]


def test_query_leaves_its_own_photograph_out_unless_told_otherwise(launch, model_folder, photos, tmp_path, caplog):
    """It was ranked first for 11 of 100 queries, also where the gallery held it under another name."""
    (photos / "copy.jpg").write_bytes((photos / "one.jpg").read_bytes())
    options = ["--model", model_folder, "--gallery", photos, "--image", photos / "one.jpg"]
    options += ["--output", tmp_path / "result.png"]
    printed = launch("query.py", *options, "--top", "2")
    assert "two.png" in printed and "three.webp" in printed and "one.jpg" not in printed and "copy.jpg" not in printed
    assert "left out of the results" in caplog.text and "copy.jpg" in caplog.text
    whole = launch("query.py", *options, "--keep-query-photo")
    assert "one.jpg" in whole and "copy.jpg" in whole
    for name in ("two.png", "three.webp"):
        (photos / name).unlink()
    with pytest.raises(SystemExit, match="nothing but the query's own photograph; --keep-query-photo"):
        launch("query.py", *options)


def test_query_leaves_rubbish_and_exclusions_out(launch, model_folder, photos, tmp_path, caplog):
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir" / "preview.jpg").write_bytes((photos / "one.jpg").read_bytes())
    options = ["--model", model_folder, "--gallery", photos, "--caption", "a hat", "--output", tmp_path / "result.png"]
    printed = launch("query.py", *options, "--exclude", "three.*", "--exclude", "two.png")
    assert "one.jpg" in printed and "preview" not in printed and "three" not in printed and "two" not in printed
    assert "1 @eadir, 1 three.*, 1 two.png" in caplog.text
    assert "preview.jpg" in launch("query.py", *options, "--include-rubbish")


def test_query_prints_names_that_are_no_utf8(model_folder, photos, tmp_path):
    """In most languages' settings, unlike in C.UTF-8, Python's output takes no byte outside UTF-8."""
    (photos / "one.jpg").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9\n\x1b[31m.jpg"))
    options = ["--model", model_folder, "--gallery", photos, "--caption", "a hat", "--output", tmp_path / "result.png"]
    options += ["--index", tmp_path / "index"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "HF_HUB_OFFLINE": "1"}
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, EXAMPLES / "query.py", *options],
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert r"caf\xe9\n\x1b[31m.jpg" in run.stdout


def test_query_needs_an_image_or_a_caption(launch, capsys):
    with pytest.raises(SystemExit):
        launch("query.py", "--model", "m", "--gallery", "g")
    assert "--image, --caption or both" in capsys.readouterr().err


@pytest.fixture
def itcpr(tmp_path, monkeypatch):
    """Four queries with a match each, among twelve gallery images; `datasets` caches in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ITCPR"
    (root / "PRCC").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def record(name, instance_id, **caption):
        coarse = rng.integers(0, 255, (6, 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 96)).save(root / "PRCC" / name)
        fields = {"file_path": f"PRCC/{name}", "datasets": "PRCC", "person_id": 1, "instance_id": instance_id}
        return {**fields, **caption}

    queries = [record(f"q{number}.jpg", number, caption="in a red coat") for number in range(4)]
    gallery = [record(f"g{number}.jpg", number if number < 4 else -1) for number in range(12)]
    (root / "query.json").write_text(json.dumps(queries))
    (root / "gallery.json").write_text(json.dumps(gallery))
    return root


@pytest.fixture
def show_results(launch, model_folder, itcpr, tmp_path):
    def show(*options):
        output = tmp_path / "sheet.png"
        printed = launch("show_results.py", "--model", model_folder, "--data", itcpr, "--output", output, *options)
        with Image.open(output) as picture:
            return printed, picture.convert("RGB")

    return show


def test_show_results_draws_queries_by_seed(show_results):
    _, whole = show_results()
    _, two = show_results("--num-queries", "2", "--seed", "1", "--num-workers", "1", "--dtype", "float32")
    _, again = show_results("--num-queries", "2", "--seed", "1")
    _, other = show_results("--num-queries", "2", "--seed", "2")
    _, words = show_results("--num-queries", "2", "--seed", "1", "--query", "caption")
    assert whole.height > two.height
    assert ImageChops.difference(two, again).getbbox() is None
    assert ImageChops.difference(two, other).getbbox() and ImageChops.difference(two, words).getbbox()


def test_show_results_frames_by_instance_id(show_results, itcpr, model, processor):
    printed, sheet = show_results()
    gallery = Gallery.from_images(model, processor, [itcpr / "PRCC" / f"g{n}.jpg" for n in range(12)], progress=False)
    best = [gallery.search(itcpr / "PRCC" / f"q{n}.jpg", "in a red coat", top=1)[0].index for n in range(4)]
    hits = sum(index == n for n, index in enumerate(best))
    assert f"{hits} of these 4 queries correct at rank 1" in printed

    records = json.loads((itcpr / "gallery.json").read_text())
    (itcpr / "gallery.json").write_text(json.dumps([{**record, "instance_id": 0} for record in records]))
    records = json.loads((itcpr / "query.json").read_text())
    (itcpr / "query.json").write_text(json.dumps([{**record, "instance_id": 0} for record in records]))
    printed, sheet = show_results()
    assert "4 of these 4 queries correct at rank 1" in printed
    counts = {colour: count for count, colour in sheet.getcolors(maxcolors=1 << 24)}
    assert counts[ImageColor.getrgb(GREEN)] > 10_000
    assert counts.get(ImageColor.getrgb(RED), 0) < 10  # a pixel of a photo may be of any colour


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "sheet.xyz"], "says no format"),
        (["--output", "."], "is a folder"),
        (["--output", "/dev/null/sheet.png"], "/dev/null is no folder"),
        (["--data", "no/such"], "no/such"),
    ],
)
def test_show_results_says_what_is_wrong_before_it_encodes(launch, model_folder, itcpr, capsys, options, message):
    with pytest.raises(SystemExit, match=message):
        launch("show_results.py", "--model", model_folder, "--data", itcpr, *options)
    assert "encoding" not in capsys.readouterr().err


def test_show_results_is_interrupted_with_one_line(launch, model_folder, itcpr, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fafa.retrieval.draw_contact_sheet", interrupt)
    with pytest.raises(SystemExit) as stopped:
        launch("show_results.py", "--model", model_folder, "--data", itcpr, "--output", tmp_path / "sheet.png")
    assert stopped.value.code == 130 and capsys.readouterr().err.endswith("interrupted. Nothing was written.\n")


def test_query_skips_photographs_without_permission(model_folder, photos, tmp_path):
    """One of them ended the search, although its default skips, and a folder of them was missing without a word."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("takes on another user's rights")
    with TemporaryDirectory() as place:  # not within pytest's folders, which are root's alone
        Path(place).chmod(0o777)
        gallery, model = (shutil.copytree(folder, Path(place, folder.name)) for folder in (photos, model_folder))
        for entry in (model, *model.iterdir()):
            entry.chmod(0o755)
        shutil.copytree(photos, gallery / "secret")
        (gallery / "secret").chmod(0)
        (gallery / "one.jpg").chmod(0)
        code = "import os, runpy, sys; import fafa.retrieval; os.seteuid(65534); sys.argv = sys.argv[1:]\n"
        code += "runpy.run_path(sys.argv[0], run_name='__main__')"
        options = ["--model", model, "--gallery", gallery, "--caption", "a hat", "--output", Path(place, "result.png")]
        command = [sys.executable, "-c", code, EXAMPLES / "query.py", *options]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": place}
        run = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    assert run.returncode == 0, run.stderr
    assert "two.png" in run.stdout and "three.webp" in run.stdout and "one.jpg" not in run.stdout
    assert "1 of 3 images unreadable and skipped" in run.stderr and "one.jpg" in run.stderr
    assert "may not be read" in run.stderr and "secret" in run.stderr
