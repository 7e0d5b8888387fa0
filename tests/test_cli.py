"""The command `fafa`: its help, its exit statuses, its JSON, and what is left when it is stopped."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from commands_called import call
from PIL import Image
from tiny import tiny_model, tiny_processor

import fafa
from fafa.model_folder import load_model
from fafa.retrieval import Gallery, Query, milvus_collection
from fafa.retrieval.segment_list import GalleryFolder
from fafa.training import RetrieverTrainingArguments
from fafa.training.arguments import REFUSED
from fafa.training.options import RunOptions
from fafa.world import make_world

CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
COMMANDS = [
    *("index", "search", "train", "verify", "evaluate", "convert", "synthesize"),
    *("evaluate itcpr", "evaluate cir", "evaluate robustness", "evaluate embedder", "evaluate compare"),
    *("convert fafa", "convert coalign", "convert word4per", "convert dual-encoder"),
    *("synthesize recipe", "synthesize calibrate", "synthesize adapter"),
]


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Commands set up logging for the rest of their process."""
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "model"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        image = Image.fromarray(rng.integers(0, 255, (60, 40, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[306] = exif.get_ifd(0x8769)[36867] = f"202{number}:05:01 10:00:00"  # when it was taken
        image.save(tmp_path / "photos" / f"{number} é.jpg", exif=exif)
    return tmp_path / "photos"


@pytest.fixture
def gallery(photos, model_folder, tmp_path):
    call("index", photos, "--model", model_folder, "--output", tmp_path / "photos.index")
    return tmp_path / "photos.index"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name):
    shown, _ = call(*name.split(), "--help")
    given = name.replace("convert fafa", "convert").replace("evaluate itcpr", "evaluate").replace(" recipe", "")
    assert re.search(rf"^ +fafa ({name}|{given}) \S", shown, re.M), shown
    assert "python -m fafa" not in shown, "examples are given by the name that the command was called by"


def test_help_and_completion_answer_without_torch(tmp_path):
    code = """
import os, sys
from fafa import cli
for arguments in (["--help"], ["index", "--help"], ["search", "--help"], ["evaluate", "--help"]):
    sys.argv = ["fafa", *arguments]
    try:
        cli.main()
    except SystemExit as stopped:
        assert not stopped.code
assert not {"torch", "transformers", "datasets", "PIL"} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    for typed, offered in (
        ("fafa sea", "search"),
        ("fafa search --whe", "--where"),
        ("fafa evaluate rob", "robustness"),
    ):
        words = {"_FAFA_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "fafa.cli"], env=os.environ | words, capture_output=True, text=True, cwd=tmp_path
        )
        assert offered in done.stdout.split(), (typed, done)


def test_every_setting_of_training_is_offered_or_refused_by_name(tmp_path):
    shown, _ = call("train", "--help")
    names = {entry.name for kind in (RunOptions, RetrieverTrainingArguments) for entry in fields(kind) if entry.init}
    offered = set(re.findall(r"--(\w+)", shown))
    assert names - offered <= set(REFUSED) | {"parallelism_config"}, "settings that `fafa train` does not know"
    for name, value in (("label_smoothing_factor", "0.1"), ("deepspeed", "ds.json"), ("save_on_each_node", "true")):
        assert name in REFUSED
        _, told = call("train", "--output_dir", tmp_path / "run", f"--{name}", value, status=2)
        assert f"{name} is" in told and "which cannot be used here" in told


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("sreve",), 2, "No such command 'sreve'"),
        (("search",), 2, "Missing argument"),
        (("search", "nowhere"), 2, "a query needs --image, --caption or both"),
        (("search", "nowhere", "--caption", "a hat"), 1, "holds no features"),
        (("search", "nowhere", "--caption", "a hat", "--top", "0"), 2, "'--top'"),
        (("search", "nowhere", "--captoin", "a hat"), 2, "--caption"),
        (("index", "nowhere", "--model", "m"), 1, "nowhere is not a folder"),
        (("index", "made.index", "--model", "m"), 1, "made.index is a gallery: give the folder of its photographs"),
        (("index", "nowhere", "--compact", "--convert"), 2, "give one at a time"),
        (("index", ".", "--model", "m", "--num-workers", "-1"), 2, "--num-workers"),
        (("train", "--lerning_rate", "1"), 2, "--lerning_rate"),
        (("evaluate", "--data", "d"), 2, "fafa evaluate itcpr: error: the following arguments are required: --model"),
        (("evaluate", "--model", "m", "--data", "d", "--device", "toaster"), 2, "--device toaster cannot be used here"),
        (("evaluate", "--model", "./m", "--data", "d", "--no-pictures"), 1, "there is no folder ./m here"),
        (("evaluate", "robustness", "--model", "m", "--data", "d", "--seed", "-1"), 2, "--seed is -1"),
        (("convert", "nowhere.pt", "out"), 1, "nowhere.pt"),
        (("synthesize", "nothing", "--output", "out"), 1, "nothing"),
        (("verify", "nowhere"), 2, "nowhere: no such folder"),
        (("verify",), 2, "required: FOLDER"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_is_one_line_and_a_status(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.index" / "segments").mkdir(parents=True)
    (tmp_path / "made.index" / "gallery.json").touch()
    _, told = call(*arguments, status=status)
    assert message in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_model_is_trained_evaluated_and_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    world = make_world(tmp_path / "world", num_diptychs=32, num_queries=6, gallery_size=40, num_workers=1)
    train = ("train", "--config", CONFIGS / "world.yaml", "--data_dir", world / "SynCPR", "--max_steps", 1)
    train += ("--batch_size", 8, "--validation_fraction", 0.2, "--eval_strategy", "no", "--save_strategy", "no")
    call(*train, "--output_dir", tmp_path / "model", "--disable_tqdm", "true")
    evaluate = ("evaluate", "--model", tmp_path / "model", "--data", world / "ITCPR", "--no-pictures")
    found = json.loads(call(*evaluate, "--output", tmp_path / "results", "--json")[0])
    assert found["metrics"]["image+caption"]["overall"].keys() >= {"rank-1", "mAP"} and found["num_gallery"] == 40
    assert {Path(file).name for file in found["files"]} == {"results.md", "results.json"}

    call("index", world / "ITCPR", "--model", tmp_path / "model", "--output", tmp_path / "index")
    search = ("search", tmp_path / "index", "--image", next((world / "ITCPR").rglob("*.jpg")), "--caption", "a hat")
    _, told = call(*search, "--false-alarm-rate", 0.1, status=1)
    assert "not calibrated" in told
    assert "calibrated" in call("index", tmp_path / "index", "--calibrate", world / "SynCPR")[0]
    found = json.loads(call(*search, "--json")[0])["results"]
    assert all(0 <= result["probability"] <= 1 for result in found)
    assert json.loads(call(*search, "--false-alarm-rate", 0.1, "--json")[0])["results"] != found
    assert "0.00" in call("evaluate", "compare", tmp_path / "results", tmp_path / "results")[0]
    assert json.loads(call("verify", tmp_path / "model", "--json")[0])[0]["state"] == "sound"


def test_index_and_search(photos, model_folder, gallery, tmp_path, monkeypatch):
    """Without --model from anywhere: the gallery knows where it was. Its own photograph is no result of a query."""
    monkeypatch.chdir(photos)
    query = ("--image", "2 é.jpg", "--caption", "in a red coat")
    table, told = call("search", gallery, *query, "--top", 3, "--sheet", tmp_path / "result.png")
    assert table.splitlines()[0].split() == ["rank", "score", "id", "image"] and len(table.splitlines()) == 4
    assert "2 é.jpg" not in table and f"picture: {tmp_path / 'result.png'}" in told
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.width > 200
    with pytest.raises(AssertionError, match="is a file, and none of these pictures"):
        call("search", gallery, *query, "--sheet", "1 é.jpg")

    (photos / "0 é.jpg").rename(photos / "moved.jpg")
    _, told = call("search", gallery, *query, "--sheet", tmp_path / "result.png")
    assert "without 1 result whose files are gone" in told
    (photos / "moved.jpg").rename(photos / "0 é.jpg")

    found = json.loads(call("search", gallery, *query, "--keep-query-photo", "--json", "--exact")[0])
    assert found["images"] == 5 and [result["rank"] for result in found["results"]] == [1, 2, 3, 4, 5]
    assert {Path(result["path"]) for result in found["results"]} == set(photos.iterdir())
    scores = [result["score"] for result in found["results"]]
    assert scores == sorted(scores, reverse=True)


def test_several_terms_and_minus(gallery, photos):
    """Each photo is asked together with each sentence; what is not wanted counts against."""
    terms = ("--image", photos / "0 é.jpg", "--image", photos / "1 é.jpg", "--caption", "a red coat")
    found = json.loads(call("search", gallery, *terms, "--minus", "a backpack", "--json")[0])["results"]
    assert {Path(result["path"]).name for result in found} == {"2 é.jpg", "3 é.jpg", "4 é.jpg"}
    plain = json.loads(call("search", gallery, *terms, "--json")[0])["results"]
    assert [result["score"] for result in found] != [result["score"] for result in plain]


def test_weights_and_marks(gallery, photos, model_folder, tmp_path, monkeypatch):
    """A weight stands behind a ^, unless a photo has such a name; marks go by the ids that a search shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2^3").write_bytes((photos / "2 é.jpg").read_bytes())
    model, processor = load_model(model_folder)
    with pytest.raises(
        ValueError, match=r"draft_photographs True .*\(processor.image_processor.draft_photographs = True"
    ):
        Gallery.load(gallery, model, processor)
    processor.image_processor.draft_photographs = True
    opened = Gallery.load(gallery, model, processor)

    def ids(*terms):
        return [found["id"] for found in json.loads(call("search", gallery, *terms, "--json")[0])["results"]]

    terms = ("--image", photos / "0 é.jpg^0.5", "--image", "2^3", "--caption", "a red coat^2", "--minus", "a hat^.7")
    query = Query.of([(photos / "0 é.jpg", 0.5), "2^3"], ("a red coat", 2.0), ("a hat", 0.7))
    plain = opened.search_many([query], exclude=[photos / "0 é.jpg", "2^3"])[0]
    assert ids(*terms) == [result.id for result in plain] and len(plain) == 3
    marked = query.marked(right=plain[1:2], wrong=plain[:1])
    again = opened.search_many([marked], exclude=[photos / "0 é.jpg", "2^3"])[0]
    assert ids(*terms, "--right", plain[1].id, "--wrong", plain[0].id) == [result.id for result in again]
    for term, told in (
        ("a hat^0", "weight is 0"),
        ("a hat^-1", "what is not wanted goes into minus"),
        ("^2", "no word"),
    ):
        assert told in call("search", gallery, "--caption", term, status=1)[1]
    assert "is a weight, such as 0.5" in call("search", gallery, "--caption", "a hat^high", status=2)[1]
    for number in ("99", "9" * 30):
        _, told = call("search", gallery, "--caption", "a hat", "--wrong", number, status=1)
        assert f"no image with id {number}" in told


def test_a_gallery_goes_into_milvus_follows_and_is_searched_there(photos, model_folder, gallery, tmp_path, monkeypatch):
    for library in ("pymilvus", "milvus_lite"):
        pytest.importorskip(library, reason="a gallery over Milvus is tested with milvus-lite, which is not installed")
    from milvus_lite.server_manager import server_manager_instance

    uri, query = str(tmp_path / "people.db"), ("--image", photos / "2 é.jpg", "--caption", "in a red coat", "--json")
    over = ("--milvus", uri, "--collection")
    told = json.loads(call("index", gallery, *over, "people", "--json")[0])
    assert told["published"] == 5 == told["images"] and told["collection"] == "people"
    local = call("search", gallery, *query)[0]
    monkeypatch.setattr("fafa.retrieval.searching.GallerySearching.nearest", None)  # it is Milvus that finds candidates
    assert call("search", gallery, *query, *over, "people")[0] == local
    (photos / "0 é.jpg").unlink()
    assert "4 images, 1 change written" in call("index", photos, "--output", gallery, *over, "people")[0]
    assert json.loads(call("index", gallery, "--delete", "path", *over, "people", "--json")[0])["published"] == 4
    monkeypatch.setenv("MILVUS_URI", uri)
    assert json.loads(call("search", gallery, *query, "--collection", "people")[0])["results"] == []
    _, told = call("search", gallery, *query, "--collection", "peple", status=1)
    assert "no collection 'peple' of Milvus" in told and "did you mean 'people'?" in told
    server_manager_instance.release_server(uri)


@pytest.mark.parametrize("command", ["index", "search"])
def test_a_milvus_that_cannot_be_used_is_told_in_one_line_before_long_work(command, photos, gallery, monkeypatch):
    monkeypatch.delenv("MILVUS_URI", raising=False)
    arguments = (command, gallery, "--caption", "a hat") if command == "search" else (command, photos)
    assert "which collection of it?" in call(*arguments, "--milvus", "people.db", status=2)[1]
    assert "of which Milvus?" in call(*arguments, "--collection", "people", status=2)[1]
    over = ("--collection", "people", "--milvus", "http://127.0.0.1:1")
    monkeypatch.setattr(milvus_collection, "find_spec", lambda name: None)
    _, told = call(*arguments, *over, status=1)
    assert "pymilvus is not installed: pip install" in told and "[milvus]" in told and "\n" not in told


def test_filters_come_before_ranking_and_an_unknown_field_is_named(gallery):
    search = ("search", gallery, "--caption", "a hat", "--json", "--where")
    found = json.loads(call(*search, 'taken >= "2023-01-01"')[0])["results"]
    assert {Path(result["path"]).name for result in found} == {"3 é.jpg", "4 é.jpg"}
    assert {result["taken"] for result in found} == {"2023-05-01T10:00:00", "2024-05-01T10:00:00"}
    _, told = call(*search, 'takn >= "2023-01-01"', status=1)
    assert "takn" in told and "taken" in told


def test_a_gallery_follows_its_photographs_and_is_changed_without_a_model(photos, gallery, model_folder, tmp_path):
    (photos / "0 é.jpg").unlink()
    Image.new("RGB", (40, 60)).save(photos / "new.png")
    (photos / "broken.jpg").write_bytes(b"no picture")
    told = json.loads(call("index", photos, "--output", gallery, "--json")[0])  # the model: as the gallery notes it
    assert told["images"] == 5 and [Path(name).name for name in told["skipped"]] == ["broken.jpg"]
    assert json.loads(call("index", gallery, "--delete", 'taken < "2022"', "--json")[0])["deleted"] == 1
    assert call("index", gallery, "--compact")[0] == f"{gallery}: 4 images\n"
    assert call("verify", gallery)[0].endswith("sound\n")
    found = json.loads(call("search", gallery, "--caption", "a hat", "--json")[0])["results"]
    assert {Path(result["path"]).name for result in found} == {"2 é.jpg", "3 é.jpg", "4 é.jpg", "new.png"}


def test_a_gallery_of_another_model_is_refused(gallery, tmp_path):
    model = tiny_model()
    next(model.parameters()).data.add_(1)
    model.save_pretrained(tmp_path / "other")
    tiny_processor().save_pretrained(tmp_path / "other")
    _, told = call("search", gallery, "--caption", "a hat", "--model", tmp_path / "other", status=1)
    assert "model" in told and "Traceback" not in told


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "a launcher's SIGTERM"])
def test_a_signal_while_indexing_leaves_a_gallery_that_goes_on(photos, model_folder, tmp_path, monkeypatch, sent):
    """SIGTERM, which `accelerate launch` sends to all processes when one has died, cost what was not committed yet."""
    index = ("index", photos, "--model", model_folder, "--output", tmp_path / "index", "--batch-size", 2)
    encode, calls = fafa.FafaModel.get_target_features, []

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), sent)
        return encode(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(fafa.FafaModel, "get_target_features", stop)
        _, told = call(*index, status=130)
    assert "interrupted. What was encoded is kept in" in told and "the same command goes on" in told
    assert len(GalleryFolder(tmp_path / "index").read()) == 2
    assert "5 images" in call(*index)[0]
    assert call("verify", tmp_path / "index")[0].endswith("sound\n")


def test_names_that_the_terminal_lacks_and_a_closed_pipe(gallery, tmp_path):
    """In the C locale, into `head`: neither ends in a traceback."""
    command = f'"{sys.executable}" -m fafa.cli search "{gallery}" --caption "a hat" 2> errors | head -n 2'
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, cwd=tmp_path)
    assert re.search(rb"^ +1 +-?0\.\d+ +\d  \d \\xc3\\xa9\.jpg$", done.stdout, re.M), done
    assert "Traceback" not in (tmp_path / "errors").read_text() and "Error" not in (tmp_path / "errors").read_text()
