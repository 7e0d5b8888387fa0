"""A model that shares nothing with FAFA is evaluated as any other; with one token there is no curve over k."""

import pytest
import torch
from datasets import load_dataset
from second_model import second_model, second_processor
from tiny import tiny_model, tiny_processor

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import evaluate_itcpr, read_report, retrieval_metrics, write_report


def test_a_second_model_is_evaluated(itcpr_root, tmp_path):
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    queries, gallery = load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)
    model, processor = second_model(), second_processor()
    options = {"features_dir": tmp_path / "features", "progress": False}
    report = evaluate_itcpr(model, processor, queries, gallery, curves=True, **options)

    def pixels_of(row):
        return processor.to_pixels([processor.resize_crop(processor.open_crop(row["image"]))])

    with torch.no_grad():
        targets = torch.cat([model.get_target_features(pixels_of(row))[:, 0] for row in gallery])
        asked = [
            model.get_query_features(pixels_of(row), **processor.encode_captions([row["caption"]])) for row in queries
        ]
    expected = retrieval_metrics(torch.cat(asked) @ targets.mT, queries["instance_id"][:], gallery["instance_id"][:])
    assert report.metrics["image+caption"]["overall"] == pytest.approx(expected)
    assert list(report.curves) == ["mode", "gallery_size"] and report.settings["num_top_tokens"] == 1

    drawn = {file.name for file in write_report(report, tmp_path / "report", queries, gallery)}
    assert "gallery_size.png" in drawn and "top_tokens.png" not in drawn
    assert read_report(tmp_path / "report") == report
    assert "Top tokens" not in (tmp_path / "report" / "results.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="model fingerprint"):
        evaluate_itcpr(tiny_model(), tiny_processor(), queries, gallery, **options)
