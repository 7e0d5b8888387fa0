"""Whole pipelines: the painter's, the one of real models (tiny ones, saved and loaded), and the one over a server."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from stub_server import StubServer, schema_of
from tiny_language_models import SPECIAL, TEMPLATE, save_tiny_chat, save_tiny_llava
from tiny_pipelines import tiny_adapter, tiny_flux
from tiny_vision_models import fixed_detector, tiny_clip
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import fafa  # noqa: F401 - registers the builders
from fafa.synthesis.__main__ import main
from fafa.synthesis.report import page as statistics_page
from fafa.synthesis.servers import client
from fafa.synthesis.stages import PartStage
from fafa.synthesis.stand_ins import onlooker

TWO_PROCESSES = Path(__file__).parents[2] / "examples" / "configs" / "accelerate" / "cpu_two_processes.yaml"
PAINTER = {
    "kind": "triplets",
    "quadruples": {"count": 12, "writer": {"kind": "grammar"}},
    "diptychs": {
        "realistic": 1,
        "diverse": 1,
        "painter": {"kind": "world", "height": 96, "width": 102, "fault_rate": 0.4},
    },
    "split": {"aspect": 0.5},
    "gates": [{"kind": "blank"}, {"kind": "blur"}, {"kind": "twin"}],
    "judge": {"kind": "onlooker", "practice": 100},
    "filter": {
        "bounds": {
            "contrast": {"at_least": 18},
            "identity": {"at_least": 0.4},
            "follows_ab": {"at_least": 0.05},
            "follows_ba": {"at_least": 0.05},
        }
    },
    "assemble": {"validation_share": 0.3},
    "chunk_size": 3,
}
PUBLISHED = [
    "reference_caption",
    "target_caption",
    "reference_image_path",
    "target_image_path",
    "edit_caption",
    "cpr_id",
]
COLOURS = ["red", "blue", "green", "black", "white", "grey"]
MARKS = ["quality", "identity", "agreement_a", "agreement_b", "follows_ab", "follows_ba"]


def write(file: Path, recipe: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def run(recipe: Path | str, folder: Path, *more: str) -> int:
    return main([str(recipe), "--output", str(folder), "--quiet", *more])


def records(folder: Path, stage: str) -> list[dict[str, Any]]:
    """All records of a stage, in order."""
    files = sorted((folder / stage).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def rejected(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [record for record in records(folder, stage) if "rejected" in record]


def contents(root: Path) -> dict[str, bytes]:
    """All results; not locks and other hidden files, nor the notes on runs, which hold times."""
    files = {str(file.relative_to(root)): file for file in root.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if name != "runs.jsonl" and not any(part.startswith(".") for part in Path(name).parts)
    }


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No charts, which have tests of their own, and one practice for all judges of painted people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics_page, "draw_charts", lambda folder, charts: None)
        patch.setattr(onlooker, "_Eye", cache(onlooker._Eye))
        yield


@pytest.fixture(scope="module")
def painter_recipe(tmp_path_factory):
    return write(tmp_path_factory.mktemp("recipe") / "painter.yaml", PAINTER)


@pytest.fixture(scope="module")
def painted(tmp_path_factory, painter_recipe):
    """What the painter's recipe makes."""
    folder = tmp_path_factory.mktemp("painted")
    assert run(painter_recipe, folder) == 0
    return folder


def test_the_data_set_has_the_published_form_and_loads(painted, tmp_path):
    quadruples = {record["id"]: record for record in records(painted, "distinct")}
    entries = json.loads((painted / "SynCPR" / "SynCPR.json").read_text(encoding="utf-8"))
    assert entries and all(list(entry) == PUBLISHED for entry in entries)
    for entry in entries:
        quadruple, direction = str(entry["cpr_id"] // 2), ("ab", "ba")[entry["cpr_id"] % 2]
        a, b = direction
        texts = quadruples[quadruple]
        assert entry["reference_caption"] == texts[f"caption_{a}"]
        assert entry["target_caption"] == texts[f"caption_{b}"]
        assert entry["edit_caption"] == texts[f"edit_{direction}"]
        left, right = (f"test2/sub_img/img_{side}/{quadruple}-" for side in ("left", "right"))
        paths = (entry["reference_image_path"], entry["target_image_path"])
        assert all(map(str.startswith, paths, (left, right) if direction == "ab" else (right, left)))

    folder = str(painted / "SynCPR")
    rows = datasets.load_dataset("SynCPR", data_dir=folder, split="train", cache_dir=str(tmp_path))
    assert rows["cpr_id"][:] == [entry["cpr_id"] for entry in entries]
    first = rows[0]["target_image"]
    assert first.size == (48, 96)


def test_all_that_is_rejected_is_kept_with_its_reason(painted):
    diptychs, halves = records(painted, "diptychs"), records(painted, "split")
    assert len(diptychs) == len(halves) == 24
    assert {record["rejected"] for record in halves if "rejected" in record} == {"no seam found"}

    decisions = records(painted, "filter")
    pairs = [record["id"] for record in halves if "rejected" not in record]
    assert [record["id"] for record in decisions] == [f"{pair}-{way}" for pair in pairs for way in ("ab", "ba")]
    scores = {record["id"]: record["scores"] for record in records(painted, "gates")}
    for record in records(painted, "judgements"):
        scores[record["id"]] |= record["scores"]
    for record in decisions:
        found, way = scores[record["pair"]], record["direction"]
        bounds = {"contrast": 18, "identity": 0.4, f"follows_{way}": 0.05}
        reasons = [f"{name} below {least}" for name, least in bounds.items() if found.get(name, 1) < least]
        assert record.get("reasons", []) == reasons
        assert record.get("rejected") == (reasons[0] if reasons else None)
    reasons = {record["rejected"] for record in decisions if "rejected" in record}
    assert reasons == {"contrast below 18", "identity below 0.4", "follows_ab below 0.05", "follows_ba below 0.05"}

    counts = json.loads((painted / "filter" / "manifest.json").read_text())["counts"]
    assert counts["items"] == len(decisions)
    assert sum(counts["rejected"].values()) == len(rejected(painted, "filter"))


def test_a_judge_sees_only_what_the_gates_let_through(painted):
    let_through = [record["id"] for record in records(painted, "gates") if record["scores"]["contrast"] >= 18]
    assert [record["id"] for record in records(painted, "judgements")] == let_through
    assert len(let_through) < len(records(painted, "gates"))


def test_no_quadruple_is_in_both_splits(painted):
    parts = [json.loads((painted / name / "SynCPR.json").read_text()) for name in ("SynCPR", "SynCPR-validation")]
    training, validation = ({entry["cpr_id"] // 2 for entry in part} for part in parts)
    assert training and validation and not training & validation
    kept = [record for record in records(painted, "filter") if "rejected" not in record]
    assert sum(map(len, parts)) == len(kept)


def test_four_shards_make_what_one_makes(painted, painter_recipe, tmp_path, capsys):
    said = []
    for _ in range(2):  # `distinct` needs all quadruples, `filter` all judgements
        for number in range(4):
            assert run(painter_recipe, tmp_path, "--shard", f"{number}/4") == 0
            said.append(capsys.readouterr().out)
    assert "shard 0/4 has done its part of quadruples; distinct needs all shards" in said[0]
    assert run(painter_recipe, tmp_path) == 0
    assert contents(tmp_path) == contents(painted)


def test_killed_and_resumed_it_makes_the_same(painted, painter_recipe, tmp_path):
    command = [sys.executable, "-m", "fafa.synthesis", str(painter_recipe), "--output", str(tmp_path), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(records(tmp_path, "diptychs")) < 4:  # in the middle of the second chunk
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "split" / "00003.jsonl").exists()
    assert run(painter_recipe, tmp_path) == 0
    assert contents(tmp_path) == contents(painted)


def test_launched_processes_redo_a_stage_together(painted, painter_recipe, tmp_path):
    """One of them discards, none goes on before that, and they share the chunks."""
    shutil.copytree(painted, tmp_path, dirs_exist_ok=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(TWO_PROCESSES)]
    command = ["-m", "fafa.synthesis", str(painter_recipe), "--output", str(tmp_path), "--quiet", "--redo", "split"]
    subprocess.run([*launch, *command], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    made, expected = contents(tmp_path), contents(painted)
    assert all(made[file] == content for file, content in expected.items() if not file.startswith("statistics"))
    notes = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    chunks = [note["chunk"] for note in notes if note["stage"] == "gates"]
    assert sorted(chunks) == sorted([0, 1, 2, 3] * 2)  # once before, and once more


def quadruple(before: str, after: str) -> dict[str, str]:
    return {
        "caption_a": f"A woman in a {before} coat waits for the bus.",
        "caption_b": f"A woman in a {after} coat waits for the bus.",
        "edit_ab": f"Make the coat {after}.",
        "edit_ba": f"Make the coat {before}.",
    }


def save_parrot(folder: Path) -> Path:
    """A Llama that says one of six quadruples, drawn evenly; each has four words of its own, in a row."""
    said = []
    for before, after in zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True):
        fields = [f'"{name}": "{text}"' for name, text in quadruple(before, after).items()]
        said.append([f"{{{fields[0]}", *(f", {field}" for field in fields[1:3]), f", {fields[3]}}}"])
    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=5000, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=1)
    bytes_only.train_from_iterator([piece for line in said for piece in line], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, eos_token=SPECIAL[0], pad_token=SPECIAL[0], chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)

    words = len(tokenizer)
    follows = torch.zeros(words, words)  # what is said next, and the word before
    lines = [[*(tokenizer(piece)["input_ids"][0] for piece in line), tokenizer.eos_token_id] for line in said]
    for line in lines:
        follows[line[0]] = 1  # after whatever was asked
    for line in lines:
        for word, after in pairwise(line):
            follows[:, word] = 0
            follows[after, word] = 1
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=words,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        tie_word_embeddings=False,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()  # the layer adds nothing: a word is all that decides the next one
        model.model.embed_tokens.weight.copy_(torch.eye(words))
        model.lm_head.weight.copy_(10 * follows)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved models by name."""
    root = tmp_path_factory.mktemp("models")
    flux = tiny_flux(root / "flux")
    return {
        "flux": flux,
        "adapter": tiny_adapter(root / "adapter", flux),
        "parrot": save_parrot(root / "parrot"),
        "babbler": save_tiny_chat(root / "babbler"),
        "judge": save_tiny_llava(root / "judge"),
        "clip": tiny_clip(root / "clip"),
        "detector": fixed_detector(root / "detector", [("person", 0.9, (0.5, 0.5, 0.6, 0.9))]),
    }


def real_recipe(folders: dict[str, Path], writer: dict, judge: dict | None, count: int) -> dict[str, Any]:
    """The stages of the recipe syncpr with tiny models. A tiny FLUX paints noise: any step of colour is a seam."""
    return {
        "kind": "triplets",
        "quadruples": {
            "count": count,
            "writer": {
                "kind": "language-model",
                "model": writer,
                "prompt": "Write about a {colour} coat.",
                "pools": {"colour": COLOURS},
                "attempts": 1,
            },
        },
        "diptychs": {
            "painter": {
                "kind": "diffusers",
                "model": str(folders["flux"]),
                "adapter": str(folders["adapter"]),
                "width": 64,
                "height": 64,
                "steps": 1,
                "dtype": "float32",
                "device": "cpu",
            },
            "prompt": "two photographs of the same person: {caption_a} {caption_b}",
            "realistic": 4,
            "diverse": 4,
        },
        "split": {"window": 0.4, "border": 0.2, "coverage": 0.05},
        "gates": [
            {"kind": "people", "detector": {"model": str(folders["detector"]), "device": "cpu"}},
            {"kind": "clip", "model": str(folders["clip"]), "device": "cpu"},
        ],
        "judge": judge
        and {
            "kind": "language-model",
            "model": judge,
            "attempts": 1,
            "questions": [{"prompt": "Is it {caption_a}? And {caption_b}?", "scores": MARKS}],
        },
        "filter": {
            "bounds": {"people_left": {"at_most": 1}, "clip_a": {"at_least": -1}}
            | ({"quality": {"at_least": 0.3}} if judge else {})
        },
        "chunk_size": 3,
    }


def decided(folder: Path, at_least: float) -> None:
    """Checks that every decision follows from the marks for quality, and that some triplets were kept."""
    marks = {record["id"]: record for record in records(folder, "judgements")}
    decisions = records(folder, "filter")
    for record in decisions:
        judgement = marks[record["pair"]]
        expected = f"judge: {judgement['rejected']}" if "rejected" in judgement else None
        if expected is None and judgement["scores"]["quality"] < at_least:
            expected = f"quality below {at_least:g}"
        assert record.get("rejected") == expected
    kept = [record for record in decisions if "rejected" not in record]
    assert len(json.loads((folder / "SynCPR" / "SynCPR.json").read_text())) == len(kept) > 0


def test_models_of_this_process_write_paint_measure_and_judge(folders, tmp_path):
    options = {"kind": "transformers", "device": "cpu", "batch_size": 4}
    writer = options | {"model": str(folders["parrot"]), "max_new_tokens": 8}
    judge = options | {"model": str(folders["judge"]), "max_new_tokens": 120, "image_size": 56}
    recipe = write(tmp_path / "real.yaml", real_recipe(folders, writer, judge, count=6))
    made = tmp_path / "made"
    assert run(recipe, made) == 0

    texts = records(made, "quadruples")
    assert all("rejected" not in record and record["caption_a"].startswith("A woman in a") for record in texts)
    distinct = [record for record in records(made, "distinct") if "rejected" not in record]
    assert 1 < len({record["caption_a"] for record in texts}) == len(distinct) < len(texts)
    assert {record["rejected"] for record in rejected(made, "distinct")} == {"near-duplicate"}

    diptychs = records(made, "diptychs")
    assert len(diptychs) == 8 * len(distinct)
    strengths = [record["strength"] for record in diptychs[:8]]
    assert strengths[:4] == [1.0] * 4 and all(0 <= strength < 1 for strength in strengths[4:])
    assert len({(made / record["image"]).read_bytes() for record in diptychs}) == len(diptychs)

    assert len(records(made, "gates")) == len(diptychs) - len(rejected(made, "split")) > 0
    scores = [record["scores"] for record in records(made, "gates")]
    assert {score["people_left"] for score in scores} == {0, 1}  # nobody is found in the narrowest halves
    assert all({"clip_a", "clip_b", "clip_pair", "clip_margin"} <= set(score) for score in scores)
    marks = [mark for record in records(made, "judgements") for mark in record["scores"].values()]
    assert len(set(marks)) > 1 and all(0 <= mark <= 1 for mark in marks)
    decided(made, 0.3)

    about = {
        stage: json.loads((made / stage / "manifest.json").read_text())["about"] for stage in ("diptychs", "gates")
    }
    assert str(folders["adapter"]) in json.dumps(about["diptychs"])
    assert about["gates"]["clip"]["model"] == str(folders["clip"])


def test_a_data_set_of_nothing_is_a_failure_with_reasons(folders, tmp_path, capsys):
    """Where nothing is tried before, and there are too few texts for a brake."""
    writer = {"kind": "transformers", "model": str(folders["babbler"]), "device": "cpu", "max_new_tokens": 60}
    recipe = real_recipe(folders, writer, judge=None, count=3) | {"brakes": {"preflight": False}}
    made = tmp_path / "made"
    with pytest.raises(SystemExit) as raised:
        run(write(tmp_path / "real.yaml", recipe), made)
    texts = records(made, "quadruples")
    assert all(record["rejected"] and len(record["answers"]) == record["attempts"] == 1 for record in texts)
    assert records(made, "diptychs") == records(made, "filter") == []
    assert json.loads((made / "SynCPR" / "SynCPR.json").read_text()) == []
    assert "3 cut off at 60 tokens" in capsys.readouterr().out
    said = str(raised.value)
    assert "nothing was kept: stage quadruples rejected all 3 items, 3 of them for 'cut off at 60 tokens'" in said
    assert "turn the model's thinking off" in said


def answer(body: dict[str, Any], chance: random.Random) -> str:
    """A quadruple, marks, or what everybody can say."""
    schema = schema_of(body)
    if schema is None:
        return "Yes."
    if "caption_a" in schema["properties"]:
        return json.dumps(quadruple(*chance.sample(COLOURS, 2)))
    return json.dumps({name: chance.randint(1, 10) for name in schema["properties"]})


@pytest.fixture(scope="module")
def served(folders, tmp_path_factory):
    """A server that stumbles, what was made with it, and the recipe. It is gone by now."""
    root = tmp_path_factory.mktemp("served")
    with (
        StubServer(answer, faults={"500": 0.1, "garbage": 0.35}) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(client, "LONGEST_PAUSE", 0.02)
        model = {"kind": "server", "model": server.model, "base_url": server.url, "input_price": 2.0}
        recipe = real_recipe(folders, model, model, count=9)
        assert run(write(root / "recipe.yaml", recipe), root / "made") == 0
    return server, recipe, root / "made"


def test_a_server_writes_and_judges(served):
    server, _, made = served
    assert len(records(made, "quadruples")) == 9 > len(rejected(made, "quadruples"))
    assert {record["rejected"] for record in rejected(made, "quadruples")} == {"broken JSON"}
    assert {record["rejected"] for record in rejected(made, "judgements")} <= {"no mark for quality"}
    controls = [record for record in records(made, "judgements") if "control" in record]
    assert 0 < len(controls) < len(records(made, "judgements")) / 2
    assert "## The judge's controls" in (made / "statistics" / "statistics.md").read_text()
    decided(made, 0.3)
    runs = {"quadruples": Counter(), "judgements": Counter()}
    for note in map(json.loads, (made / "runs.jsonl").read_text().splitlines()):
        runs.setdefault(note["stage"], Counter()).update(note["usage"])
    # Nine more were asked before the first item: does it answer, texts until one is usable, a pair until it is judged.
    asked = runs["quadruples"]["requests"] + runs["judgements"]["requests"]
    assert asked < len(server.bodies) <= asked + 25
    read = runs["quadruples"]["input tokens"]
    assert read > 0 and runs["quadruples"]["cost"] == pytest.approx(2 * read / 1e6)


def test_other_bounds_make_other_decisions_without_any_model(served, tmp_path, monkeypatch):
    server, recipe, made = served
    before, asked = records(made, "filter"), len(server.bodies)
    # The marks differ from processor to processor, as the pictures do in their last digits: only the best one is kept.
    kept = {record["pair"] for record in before if "rejected" not in record}
    marks = {record["id"]: record for record in records(made, "judgements")}
    best = max(marks[pair]["scores"]["quality"] for pair in kept)
    changed = recipe | {"filter": {"bounds": {**recipe["filter"]["bounds"], "quality": {"at_least": best}}}}
    file = write(tmp_path / "changed.yaml", changed)

    def refuse(self):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(PartStage, "part", property(refuse))
    with pytest.raises(SystemExit, match=rf"filter\.bounds\.quality\.at_least: 0\.3 -> {best:g}"):
        run(file, made)
    assert records(made, "filter") == before

    assert run(file, made, "--redo", "filter") == 0
    decided(made, best)
    assert records(made, "filter") != before or len({marks[pair]["scores"]["quality"] for pair in kept}) == 1
    assert len(server.bodies) == asked


def test_text_image_pairs_of_the_painter_load(tmp_path):
    made = tmp_path / "made"
    assert run("syntbpr_painter", made, "--limit", "8") == 0
    reasons = {record["rejected"] for record in rejected(made, "poses")}
    assert reasons and all(reasons)
    rows = datasets.load_dataset(
        "SynTBPR", data_dir=str(made / "SynTBPR"), split="train", cache_dir=str(tmp_path / "cache")
    )
    captions = [record for record in records(made, "captions") if "rejected" not in record]
    assert len(rows) == len(captions) > 8
    assert all(row["captions"] and row["image"].height > row["image"].width for row in rows)
