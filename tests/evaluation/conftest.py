"""A test set in ITCPR's format, with two sources, several matches and distractors, for a tiny model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model, tiny_processor

from fafa.evaluation import EvaluationReport, QueryResults, chance_metrics

NUM_QUERIES, NUM_DISTRACTORS = 7, 6


@pytest.fixture(scope="session")
def model():
    """Weights so large that scores lie far apart: ranks must not hang on the last digit."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture
def make_report():
    """A function that makes a report of made-up ranks: mode -> the rank of each query's only match."""

    def make(num_gallery=20, **modes):
        num_queries, ks = len(next(iter(modes.values()))), (1, 5)
        groups = {"overall": [True] * num_queries}
        groups |= {"A": [index < 2 for index in range(num_queries)], "B": [index >= 2 for index in range(num_queries)]}
        one_each, images = torch.ones(num_queries, dtype=torch.long), torch.arange(num_queries)
        metrics = {
            mode: {
                name: QueryResults(torch.tensor(ranks), one_each, images).metrics(ks, of) for name, of in groups.items()
            }
            for mode, ranks in modes.items()
        }

        def result(query, rank):
            others = [image for image in range(num_gallery) if image != query]
            order = [*others[: rank - 1], query, *others[rank - 1 :]]
            scores = [round(0.9 - 0.01 * place - 0.001 * query * (place > 0), 6) for place in range(num_gallery)]
            top = {"top_images": order[:15], "top_scores": scores[:15]}
            return {"first_rank": rank, "ranks": [rank], "matches": [query], "average_precision": 1 / rank, **top}

        return EvaluationReport(
            metrics=metrics,
            intervals={
                mode: {
                    name: {metric: [value - 1, value + 1] for metric, value in of.items()} for name, of in all_.items()
                }
                for mode, all_ in metrics.items()
            },
            chance={name: chance_metrics([1], num_gallery, ks) for name in groups},
            groups={"source": ["A", "B"], "caption length": ["overall"]},
            num_queries={name: sum(chosen) for name, chosen in groups.items()},
            num_gallery=num_gallery,
            gallery_fingerprint="1234",
            ks=list(ks),
            queries=[
                {"index": index, "image_path": f"{index}.jpg", "caption": "in red", "source": "AB"[index >= 2]}
                | {
                    "instance_id": index,
                    "results": {mode: result(index, ranks[index]) for mode, ranks in modes.items()},
                }
                for index in range(num_queries)
            ],
            settings={"model": "tiny", "num_top_tokens": 2, "seed": 0},
        )

    return make


@pytest.fixture
def itcpr_root(tmp_path):
    """Seven queries of sources LAST and PRCC; query 0 has two matches; six distractors."""
    root, rng = tmp_path / "ITCPR", np.random.default_rng(0)

    def record(number, folder, instance_id, source, **caption):
        file_path = f"{source}/{folder}/{number}.png"
        (root / file_path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (3, 2, 3), dtype=np.uint8)).resize((12, 24)).save(root / file_path)
        return {
            "file_path": file_path,
            "datasets": source,
            "person_id": number,
            "instance_id": instance_id,
            **caption,
        }

    sources = ["LAST" if number < 4 else "PRCC" for number in range(NUM_QUERIES)]
    captions = [f"a {colour} {garment}" for colour in ("red", "blue") for garment in ("coat", "hat", "bag", "in red")]
    queries = [record(n, "query", n, source, caption=captions[n]) for n, source in enumerate(sources)]
    gallery = [record(n, "gallery", n, source) for n, source in enumerate(sources)]
    gallery.insert(3, record(99, "gallery", 0, "LAST"))
    gallery += [record(100 + n, "gallery", -1, "PRCC") for n in range(NUM_DISTRACTORS)]
    (root / "query.json").write_text(json.dumps(queries), encoding="utf-8")
    (root / "gallery.json").write_text(json.dumps(gallery), encoding="utf-8")
    return root
