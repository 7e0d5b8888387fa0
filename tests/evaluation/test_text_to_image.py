"""Text-to-image evaluation: every caption a query, every image the gallery, for any model of the contract."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from tiny import tiny_model as tiny_fafa
from tiny import tiny_processor as tiny_fafa_processor
from tiny_dual_encoder import tiny_model, tiny_processor
from tiny_text_image import CUHK, write_set

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import evaluate_text_to_image, read_report, retrieval_metrics, text_to_image_tables

EXAMPLE = Path(__file__).parents[2] / "examples" / "evaluate_itcpr.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images of one person, with three captions."""
    root = tmp_path_factory.mktemp("cuhk")
    write_set(root, CUHK)
    return load_dataset(CUHK, data_dir=str(root), split="test", cache_dir=str(root / "cache"))


@pytest.fixture(scope="module")
def whole(images):
    """All six images."""
    root = Path(images[0]["image"].filename).parents[2]
    parts = load_dataset(CUHK, data_dir=str(root), cache_dir=str(root / "cache"))
    from datasets import concatenate_datasets

    return concatenate_datasets(list(parts.values()))


def test_captions_are_queries_and_people_are_matches(whole):
    queries, gallery = text_to_image_tables(whole, CUHK)
    assert gallery["instance_id"][:] == [1, 2, 3, 4, 5, 5]
    assert queries["caption"][:4] == ["A person 0 in red.", "Somebody.", "A person 1 in red.", "Somebody."]
    assert len(queries) == 11 and queries["instance_id"][-3:] == [5, 5, 5] and set(queries["source"]) == {CUHK}
    with pytest.raises(ValueError, match="the data set has no column captions; it has"):
        text_to_image_tables(whole.remove_columns("captions"))


@pytest.mark.parametrize("kind", ["dual encoder", "FAFA"])
def test_metrics_are_those_of_the_models_own_scores(whole, kind):
    model, processor = {"FAFA": (tiny_fafa, tiny_fafa_processor)}.get(kind, (tiny_model, tiny_processor))
    model, processor = model(), processor()
    captions = whole.map(lambda row: {"captions": ["a red coat", "with a blue bag"][: len(row["captions"])]})
    captions = captions.map(
        lambda row, number: {"captions": [*row["captions"][1:], ["a hat", "a bag"][number % 2]]}, with_indices=True
    )
    report = evaluate_text_to_image(model, processor, captions, progress=False)
    assert list(report.metrics) == ["caption"] and report.num_gallery == 6
    queries, gallery = text_to_image_tables(captions)
    with torch.no_grad():
        pixels = processor.to_pixels([processor.resize_crop(processor.open_crop(image)) for image in gallery["image"]])
        asked = model.get_query_features(**processor.encode_captions(queries["caption"][:]))
        scores = model.score(asked, model.get_target_features(pixels))
    expected = retrieval_metrics(scores, queries["instance_id"][:], gallery["instance_id"][:])
    assert report.metrics["caption"]["overall"] == pytest.approx(expected)
    assert report.to_page().startswith("# Text-to-image person retrieval: results")
    with pytest.raises(TypeError, match="one kind of query, the caption"):
        evaluate_text_to_image(model, processor, captions, modes=("image",))


def test_the_example_evaluates_captions_alone(tmp_path, monkeypatch, capsys):
    write_set(
        tmp_path / "data",
        CUHK,
        {number: {"captions": [f"a {colour} coat"]} for number, colour in enumerate(["red", "blue"] * 3)},
    )
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    spec = importlib.util.spec_from_file_location("evaluate_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    given = [
        "--model",
        tmp_path / "model",
        "--dataset",
        CUHK,
        "--data",
        tmp_path / "data",
        "--output",
        tmp_path / "out",
    ]
    monkeypatch.setattr(sys, "argv", ["evaluate_itcpr.py", *map(str, given), "--device", "cpu", "--no-pictures"])
    example.main(example.parse_arguments())
    report = read_report(tmp_path / "out")
    assert list(report.metrics) == ["caption"] and len(report.queries) == 2 and report.settings["dataset"] == CUHK
    assert "Rank-1" in capsys.readouterr().out or "rank-1" in (tmp_path / "out" / "results.md").read_text()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--modes", "image"])
    with pytest.raises(SystemExit):
        example.parse_arguments()
    assert f"{CUHK} has captions without reference images" in capsys.readouterr().err
