"""General embedders: the figures are those of their embeddings; what a model cannot embed is refused by name."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_vision_models import tiny_clip
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import evaluate_embedder, late_fusion, read_report, retrieval_metrics, with_captions, write_report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def test_set(itcpr_root, tmp_path):
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    return load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return SentenceTransformer(str(tiny_clip(tmp_path_factory.mktemp("clip"))), device="cpu")


@pytest.fixture(scope="module")
def sentences():
    words = ["a", "red", "blue", "coat", "hat", "bag", "in"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate([*words, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).numpy()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def unit(embedded):
    return F.normalize(torch.as_tensor(embedded), dim=-1)


def test_clip_answers_by_text_by_image_by_their_sum_and_fused(clip, test_set, tmp_path):
    queries, gallery = test_set
    report = evaluate_embedder(clip, queries, gallery, batch_size=3, curves=True, progress=False)

    targets = unit(clip.encode(gallery["image"][:]))
    halves = {"caption": unit(clip.encode(queries["caption"][:])), "image": unit(clip.encode(queries["image"][:]))}
    scores = {mode: half @ targets.T for mode, half in halves.items()}
    scores["image+caption"] = unit(halves["caption"] + halves["image"]) @ targets.T
    scores["sum"] = scores["image+caption"]
    scores["late-fusion"] = late_fusion(scores["caption"], scores["image"])
    for mode, expected in scores.items():
        found = retrieval_metrics(expected, queries["instance_id"][:], gallery["instance_id"][:])
        assert report.metrics[mode]["overall"] == pytest.approx(found), mode
    assert report.settings["image+caption"] == "sum of both embeddings" and report.settings["gallery"] == "image"
    write_report(report, tmp_path / "report", queries, gallery)
    assert read_report(tmp_path / "report") == report


def test_a_model_that_takes_image_and_text_together_gets_both(clip, test_set, monkeypatch):
    taken = []

    def encode(inputs, **options):
        taken.extend(inputs)
        return torch.eye(len(inputs), 16)

    monkeypatch.setattr(clip, "supports", lambda modality: True)
    monkeypatch.setattr(clip, "encode_query", encode)
    report = evaluate_embedder(clip, *test_set, modes=["image+caption"], progress=False)
    assert [entry["text"] for entry in taken] == test_set[0]["caption"][:]
    assert all(entry["image"].size == (12, 24) for entry in taken)
    assert report.settings["image+caption"] == "both in one input"


def test_captions_against_captions(sentences, test_set):
    queries, gallery = test_set
    captions = [*queries["caption"][:3], "a red coat", *queries["caption"][3:], *(6 * ["a bag"])]
    report = evaluate_embedder(
        sentences, queries, gallery.add_column("caption", captions), captions=True, progress=False
    )
    assert list(report.metrics) == ["caption"] and report.settings["gallery"] == "caption"
    assert report.metrics["caption"]["overall"]["rank-1"] > 80, "equal captions, but for ties"


def test_captions_of_a_file_have_several_forms(test_set, tmp_path):
    gallery = test_set[1]
    paths = gallery["image_path"][:]
    expected = [f"a coat {number}" for number in range(len(paths))]
    by_path = dict(zip(paths, expected, strict=True))
    records = [{"file_path": path, "caption": caption} for path, caption in by_path.items()]
    forms = {
        "object.json": json.dumps(by_path | {"elsewhere.png": "a hat"}),
        "list.json": json.dumps(records),
        "lines.jsonl": "".join(
            json.dumps({"image_path": path, "caption": text}) + "\n" for path, text in by_path.items()
        ),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert with_captions(gallery, tmp_path / name)["caption"][:] == expected, name

    for name, content, message in (
        ("few.json", records[:-2], rf"{paths[-2]} has no caption \(2 of 14 gallery images"),
        ("none.json", [*records[:-1], {"file_path": paths[-1]}], f"{paths[-1]} has no caption"),
        ("blank.json", by_path | {paths[2]: " . "}, f"the caption of {paths[2]} is ' . ', expected a text with words"),
        ("number.json", by_path | {paths[2]: 3}, f"the caption of {paths[2]} is 3"),
        ("two.json", [*records, records[0] | {"caption": "a hat"}], f"{paths[0]} has two captions"),
        ("other.json", ["a coat"], "record 0 is 'a coat', expected an object with file_path"),
    ):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            with_captions(gallery, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such file"):
        with_captions(gallery, tmp_path / "absent.json")


def test_the_example_compares_captions_with_captions(sentences, itcpr_root, tmp_path, monkeypatch, capsys):
    """With a model saved to disk, and captions in the records of gallery.json."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    sentences.save(str(tmp_path / "model"))
    file = itcpr_root / "gallery.json"
    captions = {
        record["instance_id"]: record["caption"] for record in json.loads((itcpr_root / "query.json").read_text())
    }
    records = [
        record | {"caption": captions.get(record["instance_id"], "a bag")} for record in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(records))
    spec = importlib.util.spec_from_file_location("evaluate_embedder", ROOT / "examples/evaluate_embedder.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    given = ["--embedder", str(tmp_path / "model"), "--data", str(itcpr_root), "--gallery-captions", str(file)]
    given += ["--output", str(tmp_path / "results"), "--device", "cpu", "--no-pictures"]
    monkeypatch.setattr(sys, "argv", ["evaluate_embedder.py", *given])
    example.main(example.parse_arguments())
    report = read_report(tmp_path / "results")
    assert list(report.metrics) == ["caption"] and report.settings["gallery"] == "caption"
    assert report.metrics["caption"]["overall"]["rank-1"] == 100.0, "a query's match has its very caption"
    assert report.settings["gallery captions"] == str(file) and "caption" in capsys.readouterr().out


def test_what_a_model_cannot_embed_is_refused_by_name(sentences, test_set):
    queries, gallery = test_set
    with pytest.raises(ValueError, match="embeds text; asked for image"):
        evaluate_embedder(sentences, queries, gallery)
    with pytest.raises(ValueError, match=r"embeds text; asked for image\+caption against captions"):
        evaluate_embedder(
            sentences, queries, gallery.add_column("caption", ["a"] * len(gallery)), ["image+caption"], captions=True
        )
    with pytest.raises(ValueError, match="gallery lack the columns caption"):
        evaluate_embedder(sentences, queries, gallery, captions=True)
