"""`python -m fafa.verify`: whatever file of whatever kind is damaged is named, and what is sound is called sound."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damage import flip_a_byte
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_processor

from fafa import FafaImageProcessor, FafaProcessor
from fafa.dataset_builders.export import export_dataset
from fafa.retrieval import store
from fafa.training.safety.checkpoints import publish
from fafa.verify import main, verify
from fafa.world import make_world


def make_run(folder: Path) -> Path:
    """A model and two checkpoints, the older of which is damaged in nothing either."""
    tiny_model().save_pretrained(folder)
    for step in (2, 10):
        written = folder / "_unfinished" / f"checkpoint-{step}"
        (written / "inner").mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.pt", "inner/rest.json"):
            (written / name).write_text(f"{name} of step {step}")
        publish(written, folder, {"learning_rate": 0.1})
    shutil.rmtree(folder / "_unfinished")
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """One of each kind; not to be changed."""
    root = tmp_path_factory.mktemp("kinds")
    make_world(
        root / "world",
        num_diptychs=1,
        num_queries=1,
        gallery_size=5,
        image_size=(32, 16),
        num_workers=1,
        show_progress=False,
    )
    shutil.copytree(root / "world/SynCPR", root / "SynCPR")
    export_dataset(
        "SynCPR", data_dir=root / "SynCPR", output_dir=root / "export", cache_dir=root / "cache", show_progress=False
    )
    make_run(root / "run")
    shutil.copytree(root / "run/checkpoint-10", root / "checkpoint-10")
    tiny_processor().save_pretrained(root / "run")
    return root


@pytest.fixture
def check(capsys):
    """The exit status and what was printed."""

    def run(*arguments):
        status = main([*map(str, arguments), "--quiet", "--num-workers", "1"])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


KINDS = {
    "world": ["painted world"],
    "SynCPR": ["data set"],
    "export": ["export"],
    "run": ["model", "training checkpoint", "training checkpoint"],
    "checkpoint-10": ["training checkpoint"],
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_sound_is_recognised_and_called_sound(places, check, name, tmp_path):
    folder = shutil.copytree(places / name, tmp_path / name)
    status, printed = check(folder)
    assert status == 0, printed
    assert [line.split(": ")[1] for line in printed.splitlines()] == KINDS[name]
    assert all(": sound" in line for line in printed.splitlines())


@pytest.mark.parametrize("name", ["world", "export", "checkpoint-10"])
def test_a_flipped_byte_in_any_file_is_named(places, check, name, tmp_path):
    folder = shutil.copytree(places / name, tmp_path / name)
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert len(files) > 2
    for file in files:
        whole = file.read_bytes()
        for place in (0.2, 0.7):
            flip_a_byte(file, place)
            status, printed = check(folder)
            assert status == 1 and file.name in printed and "Traceback" not in printed
            assert printed.splitlines()[-1].endswith(": faults")
            file.write_bytes(whole)
        file.unlink()
        status, printed = check(folder)
        assert status in (1, 2) and (file.name in printed or "there is no data set, painted world" in printed)
        file.write_bytes(whole)
    assert check(folder)[0] == 0


def test_damaged_pictures_and_records_of_a_data_set_are_named(places, check, tmp_path):
    folder = shutil.copytree(places / "SynCPR", tmp_path / "SynCPR")
    pictures = sorted(folder.rglob("*.png"))
    for file in pictures:
        whole = file.read_bytes()
        flip_a_byte(file)  # in the compressed pixels, which PNG guards by checksums
        status, printed = check(folder)
        assert status == 1 and file.name in printed and "SynCPR.json: record 0 names an image file" in printed
        file.write_bytes(whole)
    (folder / "SynCPR.json").write_text("[")
    assert check(folder)[0] == 1


def test_every_file_of_a_run_is_covered_by_its_checkpoints_or_its_model(places, check, tmp_path):
    folder = shutil.copytree(places / "run", tmp_path / "run")
    flip_a_byte(folder / "checkpoint-2/inner/rest.json")
    status, printed = check(folder)
    assert status == 1 and f"{folder / 'checkpoint-2'}: inner/rest.json is damaged" in printed
    assert "checkpoint-10: training checkpoint: sound" in printed
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "config.json").write_text("[" * 100_000)
    status, printed = check(folder)
    assert status == 1 and "model.safetensors is cut off or damaged" in printed
    assert "config.json is damaged (is nested too deep)" in printed


def test_weights_that_are_not_finite_and_shards_that_lack_weights_are_named(check, tmp_path):
    model = tiny_model()
    model.vision_projection.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    (tmp_path / shards[0]).unlink()
    status, printed = check(tmp_path)
    assert status == 1 and "vision_projection.weight holds values that are not finite" in printed
    assert "model.safetensors.index.json: " in printed and "more are not in their shards" in printed


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2", "complex64", "int8"])
def test_weights_of_few_bits_are_looked_at_too(dtype, check, tmp_path):
    """torch has no isfinite for some of them, which ended in a traceback."""
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    (tmp_path / "config.json").write_text("{}")
    values = torch.tensor([1.0, torch.nan, 1.0, 1.0])
    has_nan = dtype.startswith(("float8", "complex"))
    small = getattr(torch, dtype)
    tensor = values.to(small) if has_nan else torch.ones(4, dtype=torch.uint8).view(small)
    save_file({"a.weight": tensor}, tmp_path / "model.safetensors")
    status, printed = check(tmp_path)
    assert status == has_nan and ("a.weight holds values that are not finite" in printed) == has_nan, printed


def test_features_are_checked_by_their_store_also_inside_other_folders(check, tmp_path, monkeypatch):
    folder = tmp_path / "photos" / "index"
    folder.mkdir(parents=True)
    (folder / "inputs-0123.jsonl").touch()
    faults = ["features-0123-00000-of-00001.safetensors is damaged"]
    monkeypatch.setattr(store, "verify_store", lambda place: faults if place == folder else 1 / 0, raising=False)
    status, printed = check(tmp_path)
    assert status == 1 and f"{folder}: features-0123-00000-of-00001.safetensors is damaged" in printed
    faults.clear()
    assert check(tmp_path) == (0, f"{folder}: features of images: sound\n")


def test_what_cannot_be_checked_is_status_2_and_never_sound(places, check, tmp_path, monkeypatch):
    status, printed = check(tmp_path)
    assert status == 2 and "there is no data set, painted world, export, checkpoint" in printed
    assert check(tmp_path / "nowhere") == (2, f"Not checked: {tmp_path / 'nowhere'}: no such folder\n")

    def fail(*_):
        raise OSError(5, "Input/output error", "somewhere/optimizer.pt")

    monkeypatch.setattr("fafa.files.hash_file", fail)
    status, printed = check(places / "checkpoint-10")
    assert status == 2 and "somewhere/optimizer.pt: Input/output error" in printed and "sound" not in printed


def test_several_folders_are_checked_and_the_worst_decides(places, check, tmp_path):
    status, printed = check(places / "export", tmp_path / "nowhere", places / "checkpoint-10")
    assert status == 2 and printed.count("sound") == 2
    assert [verdict.kind for verdict in verify(places / "export")] == ["export"]


def test_the_command_shows_its_table_and_answers_ctrl_c(places, monkeypatch, capsys):
    done = subprocess.run([sys.executable, "-m", "fafa.verify", "--help"], capture_output=True, text=True, check=True)
    assert "training checkpoint" in done.stdout and "features-*.safetensors" in done.stdout

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fafa.files.hash_file", interrupt)
    assert main([str(places / "checkpoint-10")]) == 130
    assert "Interrupted: nothing was changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("text_projection.weight"), "weights of the model are missing .*: text_projection.weight"),
        (lambda w: w.update(itm_head=w["query_tokens"]), "weights have no place in the model: itm_head"),
        (
            lambda w: w.update({"text_projection.weight": w["text_projection.weight"].to(torch.int8)}),
            "text_projection.weight holds int8 numbers",
        ),
    ],
    ids=["missing", "foreign", "int8"],
)
def test_weights_that_are_not_the_models_are_told(check, tmp_path, damage, message):
    """Loading would refuse them; transformers alone would take random numbers in their place."""
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    damage(weights)
    save_file({name: weight.clone() for name, weight in weights.items()}, tmp_path / "model.safetensors")
    status, printed = check(tmp_path)
    assert status == 1 and re.search(message, printed)


def test_a_processor_that_is_not_the_models_is_told(check, tmp_path):
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert check(tmp_path)[0] == 0
    FafaProcessor(FafaImageProcessor(size=48), processor.tokenizer).save_pretrained(tmp_path)
    status, printed = check(tmp_path)
    assert status == 1 and "images of 48 x 48 pixels, and the model reads 96 x 96" in printed
