"""The runner: what it reports is what scoring every query by hand gives; nothing is dropped."""

import copy
import multiprocessing

import numpy as np
import pytest
import torch
from datasets import load_dataset
from tiny import tiny_model

import fafa  # noqa: F401 - registers the builders
from fafa.evaluation import (
    chance_metrics,
    encode_queries,
    encode_targets,
    evaluate_features,
    evaluate_itcpr,
    late_fusion,
    match_ranks,
    retrieval_metrics,
    sum_of_queries,
)
from fafa.evaluation import itcpr as itcpr_module
from fafa.evaluation.embedders import Cosine
from fafa.image_reading_fafa import UnreadableImageError
from fafa.scoring_fafa import topk_mean_similarity


@pytest.fixture
def test_set(itcpr_root, tmp_path):
    options = {"data_dir": str(itcpr_root), "split": "test", "cache_dir": str(tmp_path / "cache")}
    return load_dataset("ITCPR", "query", **options), load_dataset("ITCPR", "gallery", **options)


@torch.no_grad()
def scores_one_by_one(model, processor, queries, gallery, mode):
    """(num_queries, num_gallery), each image and caption on its own."""
    images = [processor(images=row["image"], return_tensors="pt") for row in gallery]
    targets = torch.cat([model.get_target_features(**inputs) for inputs in images])
    rows = []
    for query in queries:
        image = query["image"] if "image" in mode else None
        caption = query["caption"] if "caption" in mode else None
        inputs = processor(images=image, text=caption, return_tensors="pt")
        rows.append(model.score(model.get_query_features(**inputs), targets))
    return torch.cat(rows)


@pytest.mark.parametrize("mode", ["image+caption", "caption", "image"])
def test_reports_what_scoring_one_by_one_gives(model, processor, test_set, mode):
    queries, gallery = test_set
    report = evaluate_itcpr(model, processor, queries, gallery, modes=[mode], batch_size=3, progress=False)

    scores = scores_one_by_one(model, processor, queries, gallery, mode)
    query_ids, gallery_ids = queries["instance_id"][:], gallery["instance_id"][:]
    expected = {"overall": retrieval_metrics(scores, query_ids, gallery_ids)}
    for source in ("LAST", "PRCC"):  # a source's queries search the gallery of all sources
        rows = [index for index, name in enumerate(queries["source"]) if name == source]
        expected[source] = retrieval_metrics(scores[rows], [query_ids[row] for row in rows], gallery_ids)
    expected["up to 6 words"] = expected["overall"]
    assert report.metrics == {mode: expected}
    assert report.groups == {"source": ["LAST", "PRCC"], "caption length": ["up to 6 words"]}
    assert report.num_queries == {"overall": 7, "LAST": 4, "PRCC": 3, "up to 6 words": 7}
    assert report.num_gallery == 14
    assert report.chance["overall"] == chance_metrics([2, 1, 1, 1, 1, 1, 1], 14)
    assert report.chance["PRCC"] == chance_metrics([1, 1, 1], 14)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64, "num_workers": 2}])
def test_batches_and_workers_change_nothing(model, processor, test_set, options):
    expected = evaluate_itcpr(model, processor, *test_set, batch_size=4, progress=False)
    report = evaluate_itcpr(model, processor, *test_set, progress=False, **options)
    assert (report.metrics, report.intervals) == (expected.metrics, expected.intervals)


def test_a_model_in_training_mode_is_evaluated_in_eval_mode(model, processor, test_set):
    expected = evaluate_itcpr(model, processor, *test_set, progress=False)
    assert evaluate_itcpr(copy.deepcopy(model).train(), processor, *test_set, progress=False) == expected


def test_bfloat16(processor, test_set):
    report = evaluate_itcpr(tiny_model().to(torch.bfloat16), processor, *test_set, progress=False)
    assert list(report.metrics) == ["image+caption", "caption", "image", "sum", "late-fusion"]


def test_features_are_kept_and_used_again(model, processor, test_set, tmp_path, monkeypatch):
    expected = evaluate_itcpr(model, processor, *test_set, progress=False)
    kept = evaluate_itcpr(model, processor, *test_set, features_dir=tmp_path / "features", progress=False)
    assert kept.metrics == expected.metrics
    for name in ("get_query_features", "get_target_features"):
        monkeypatch.setattr(type(model), name, None)
    assert evaluate_itcpr(model, processor, *test_set, features_dir=tmp_path / "features", progress=False) == kept


def test_half_precision_features_change_scores_little(model, processor, test_set):
    whole = evaluate_itcpr(model, processor, *test_set, progress=False)
    half = evaluate_itcpr(model, processor, *test_set, features_dtype=torch.float16, progress=False)
    for one, other in zip(whole.queries, half.queries, strict=True):
        scores, half_scores = one["results"]["caption"]["top_scores"], other["results"]["caption"]["top_scores"]
        assert scores != half_scores and scores == pytest.approx(half_scores, abs=2e-3)


def test_captions_alone_open_no_reference_image(model, processor, test_set, itcpr_root):
    for file in itcpr_root.glob("*/query/*.png"):
        file.write_bytes(b"")
    report = evaluate_itcpr(model, processor, *test_set, modes=["caption"], progress=False)
    assert list(report.metrics) == ["caption"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("LAST/query/2.png", "reference image of query 2"), ("PRCC/gallery/103.png", "gallery image 11")],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_an_error_that_names_it(model, processor, test_set, itcpr_root, file, name, num_workers):
    (itcpr_root / file).write_bytes((itcpr_root / file).read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match=rf"^{name}.*{file}") as caught:
        evaluate_itcpr(model, processor, *test_set, num_workers=num_workers, progress=False)
    assert "worker" not in str(caught.value)
    assert not multiprocessing.active_children()  # though the error, which knows where it was raised, is still held


def test_a_query_without_a_match_or_a_wrong_k_stops_before_encoding(processor, test_set):
    queries, gallery = test_set
    without_three = gallery.filter(lambda row: row["instance_id"] != 3, load_from_cache_file=False)
    with pytest.raises(ValueError, match=r"query 3 \(id 3\) has no match"):
        evaluate_itcpr(None, processor, queries, without_three, progress=False)
    with pytest.raises(ValueError, match=r"ks is \(0, 1\)"):
        evaluate_itcpr(None, processor, queries, gallery, ks=(0, 1), progress=False)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda rows: rows.remove_columns("caption"), {}, "queries lack the columns caption"),
        (lambda rows: rows.map(lambda row: {"instance_id": -1}), {}, "query 0 has the id -1, which distractors have"),
        (lambda rows: rows.select([]), {}, "query_ids is empty"),
        (lambda rows: rows, {"ks": 5}, "ks is 5"),
        (lambda rows: rows, {"features_dtype": torch.int8}, "features_dtype is torch.int8, which would round"),
    ],
)
def test_what_gives_no_results_stops_before_encoding(processor, test_set, change, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_itcpr(None, processor, change(test_set[0]), test_set[1], progress=False, **options)


@pytest.mark.parametrize("shapes", [((2, 3), (1, 3)), ((2, 3), (2, 4)), ((3,), (3,))])
def test_late_fusion_of_other_queries_or_images_is_refused(shapes):
    """One row used to be taken for all."""
    with pytest.raises(ValueError, match="two kinds of scores"):
        late_fusion(*(torch.zeros(shape) for shape in shapes))


def test_damaged_weights_are_an_error_that_names_a_query(processor, test_set):
    broken = tiny_model()
    broken.text_projection.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"features of query 0 .* hold NaN or infinity: the model"):
        evaluate_itcpr(broken, processor, *test_set, progress=False)


def test_unknown_modes_are_named(model, processor, test_set):
    with pytest.raises(ValueError, match=r"text unknown; expected some of image\+caption"):
        encode_queries(model, processor, test_set[0], ["caption", "text"])
    with pytest.raises(ValueError, match=r"no modes; expected some of image\+caption"):
        encode_queries(model, processor, test_set[0], [])


def test_every_query_is_listed_with_its_ranks(monkeypatch, model, processor, test_set):
    monkeypatch.setattr(itcpr_module, "TOP", 5)
    monkeypatch.setattr(itcpr_module, "ROWS", 3)
    queries, gallery = test_set
    report = evaluate_itcpr(model, processor, queries, gallery, progress=False)
    gallery_ids = gallery["instance_id"][:]
    for mode in ("image+caption", "caption", "image"):
        scores = scores_one_by_one(model, processor, queries, gallery, mode)
        for query, row, record in zip(queries, scores, report.queries, strict=True):
            assert [record[name] for name in ("image_path", "caption", "source", "instance_id")] == [
                query[name] for name in ("image_path", "caption", "source", "instance_id")
            ]
            order = row.argsort(descending=True, stable=True).tolist()
            result = record["results"][mode]
            ranks = [rank for rank, image in enumerate(order, 1) if gallery_ids[image] == query["instance_id"]]
            assert result["ranks"] == ranks and result["first_rank"] == ranks[0]
            assert result["matches"] == [order[rank - 1] for rank in ranks]
            assert result["top_images"] == order[:5]
            assert result["top_scores"] == pytest.approx(row[order[:5]].tolist(), abs=1e-4)
        assert report.results(mode).metrics() == report.metrics[mode]["overall"]


def test_late_fusion_is_reported_with_caption_and_image(model, processor, test_set):
    queries, gallery = test_set
    report = evaluate_itcpr(model, processor, queries, gallery, progress=False)
    standard = []
    for mode in ("caption", "image"):
        scores = scores_one_by_one(model, processor, queries, gallery, mode).double().numpy()
        standard.append((scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True))
    expected = retrieval_metrics(sum(standard) / 2, queries["instance_id"][:], gallery["instance_id"][:])
    assert report.metrics["late-fusion"]["overall"] == pytest.approx(expected)
    assert "late-fusion" not in evaluate_itcpr(model, processor, *test_set, modes=["image"], progress=False).metrics


def test_the_sum_by_hand(test_set):
    """The caption is nearest to image 3, the photo to image 0, their sum (1, 1) / sqrt(2) to image 1."""
    caption, image = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert sum_of_queries(caption, image).flatten().tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    queries, gallery = test_set[0].select([1]), test_set[1].select([0, 1, 2])  # its match is image 1
    targets = torch.tensor([[[1.0, 0.0]], [[0.8, 0.6]], [[0.0, 1.0]]])
    given = {"caption": caption, "image": image}
    report = evaluate_features(Cosine(), given, targets, queries, gallery, ks=(1,), progress=False)
    ranks = {mode: report.queries[0]["results"][mode]["ranks"] for mode in report.metrics}
    assert ranks == {"caption": [2], "image": [2], "sum": [1], "late-fusion": [1]}
    top = report.queries[0]["results"]["sum"]
    assert top["top_images"][0] == 1 and top["top_scores"][0] == pytest.approx(1.4 / 2**0.5, abs=1e-6)
    assert "sum: the normalised sum" in report.to_page()
    alone = evaluate_features(Cosine(), {"image": image}, targets, queries, gallery, ks=(1,), progress=False)
    assert list(alone.metrics) == ["image"] and "sum: the normalised sum" not in alone.to_page()


def test_a_sum_without_a_direction_is_refused():
    ones = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    with pytest.raises(ValueError, match="query 1: its two embeddings are opposite"):
        sum_of_queries(ones, torch.tensor([[0.0, 1.0], [-0.6, -0.8]]))
    with pytest.raises(ValueError, match="two kinds of queries"):
        sum_of_queries(ones, ones[:1])


def test_late_fusion_weighs_both_alike_and_takes_no_part_of_a_constant():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, 50, generator=generator), torch.randn(3, 50, generator=generator)
    assert late_fusion(first, 100 * second + 7) == pytest.approx(late_fusion(first, second), abs=1e-4)
    assert late_fusion(first, torch.full((3, 50), 0.25)).argsort().tolist() == first.argsort().tolist()


def test_caption_lengths_are_counted_in_words(model, processor, test_set):
    queries, gallery = test_set
    lengths = [1, 6, 7, 9, 10, 12, 13]
    queries = queries.remove_columns("caption").add_column(
        "caption", ["red " * (length - 1) + "hat" for length in lengths]
    )
    report = evaluate_itcpr(model, processor, queries, gallery, modes=["caption"], progress=False)
    names = ["up to 6 words", "7 to 9 words", "10 to 12 words", "13 words or more"]
    assert report.groups["caption length"] == names
    assert [report.num_queries[name] for name in names] == [2, 2, 2, 1]
    scores = scores_one_by_one(model, processor, queries, gallery, "caption")[2:4]
    expected = retrieval_metrics(scores, queries["instance_id"][2:4], gallery["instance_id"][:])
    assert report.metrics["caption"]["7 to 9 words"] == pytest.approx(expected)


def test_sources_called_like_another_group_have_groups_of_their_own(model, processor, test_set):
    """A source called "overall" took the place of all queries in every table."""
    queries, gallery = test_set
    sources = ["overall", "overall", "up to 6 words", "source: overall", "PRCC", "PRCC", "PRCC"]
    renamed = queries.remove_columns("source").add_column("source", sources)
    report = evaluate_itcpr(model, processor, renamed, gallery, modes=["caption"], progress=False)
    expected = evaluate_itcpr(model, processor, queries, gallery, modes=["caption"], progress=False)
    assert report.metrics["caption"]["overall"] == expected.metrics["caption"]["overall"]
    assert report.num_queries == {
        "overall": 7,
        "PRCC": 3,
        "source: overall": 2,
        "source: source: overall": 1,
        "source: up to 6 words": 1,
        "up to 6 words": 7,
    }
    assert [query["source"] for query in report.queries] == sources
    assert "| source: overall " in report.to_page()


def test_intervals_enclose_their_metrics(model, processor, test_set):
    report = evaluate_itcpr(model, processor, *test_set, progress=False)
    assert evaluate_itcpr(model, processor, *test_set, progress=False).intervals == report.intervals
    for mode, groups in report.metrics.items():
        for group, metrics in groups.items():
            for name, value in metrics.items():
                low, high = report.intervals[mode][group][name]
                assert 0 <= low <= value <= high <= 100 + 1e-9
    low, high = report.intervals["caption"]["overall"]["mAP"]
    assert low < high


def test_curves(model, processor, test_set):
    queries, gallery = test_set
    modes = ["image+caption", "caption"]
    report = evaluate_itcpr(model, processor, queries, gallery, modes=modes, curves=True, progress=False)
    overall, curves = report.metrics["image+caption"]["overall"], report.curves
    assert curves["mode"] == "image+caption"
    query_ids, gallery_ids = queries["instance_id"][:], np.array(gallery["instance_id"][:])

    features = encode_queries(model, processor, queries, ["image+caption"], progress=False)["image+caption"]
    targets = encode_targets(model, processor, gallery, progress=False)
    assert [point["num_top_tokens"] for point in curves["top_tokens"]] == [1, 2, 3, 4, 6, 8]
    for point in curves["top_tokens"]:
        scores = topk_mean_similarity(features, targets, point["num_top_tokens"])
        expected = retrieval_metrics(scores, query_ids, gallery_ids)
        assert {"num_top_tokens": point["num_top_tokens"], **expected} == pytest.approx(point)

    # 8 matches and 6 distractors: both ends are certain, between them distractors are drawn.
    sizes = [point["num_images"] for point in curves["gallery_size"]]
    assert sizes == sorted(set(sizes)) and (sizes[0], sizes[-1]) == (8, 14)
    scores = model.score(features, targets)
    is_match = gallery_ids != -1
    matches_alone = match_ranks(scores[:, is_match], query_ids, gallery_ids[is_match]).metrics()
    assert curves["gallery_size"][0]["draws"] == [matches_alone]
    assert curves["gallery_size"][-1]["draws"] == [overall]
    for smaller, larger in zip(curves["gallery_size"][1:-1], curves["gallery_size"][2:-1], strict=False):
        assert len(smaller["draws"]) == len(larger["draws"]) == 5
        for draw, of_more in zip(smaller["draws"], larger["draws"], strict=True):  # parts of a draw lie in each other
            assert overall["mAP"] <= of_more["mAP"] <= draw["mAP"] <= matches_alone["mAP"]
    assert evaluate_itcpr(model, processor, *test_set, modes=modes, curves=True, progress=False) == report


def test_another_gallery_has_another_fingerprint(model, processor, test_set):
    queries, gallery = test_set
    options = {"modes": ["caption"], "progress": False}
    first = evaluate_itcpr(model, processor, queries, gallery, **options)
    turned = evaluate_itcpr(model, processor, queries, gallery.select(range(len(gallery) - 1, -1, -1)), **options)
    assert first.gallery_fingerprint != turned.gallery_fingerprint
