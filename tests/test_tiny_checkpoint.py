"""The checkpoint that comes with the package."""

from datasets import load_dataset

from fafa import TINY_CHECKPOINT, FafaModel, FafaProcessor
from fafa.evaluation import evaluate_itcpr
from fafa.world import make_world


def test_it_finds_people_it_was_never_trained_on(tmp_path):
    """Among look-alikes and in other clothes: by the image, or by the caption alone, it could not."""
    world = make_world(tmp_path / "world", num_diptychs=1, num_queries=24, gallery_size=110, seed=7, num_workers=1)
    queries, gallery = (
        load_dataset("ITCPR", name, data_dir=str(world / "ITCPR"), split="test", cache_dir=str(tmp_path / "cache"))
        for name in ("query", "gallery")
    )
    model, processor = FafaModel.from_pretrained(TINY_CHECKPOINT), FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    metrics = evaluate_itcpr(model, processor, queries, gallery, progress=False).metrics
    rank_1 = {mode: metrics[mode]["overall"]["rank-1"] for mode in ("image+caption", "caption", "image")}
    assert rank_1["image+caption"] > 70 > 3 * max(rank_1["caption"], rank_1["image"])


def test_it_is_small_and_says_what_it_is():
    files = {path.name: path.stat().st_size for path in TINY_CHECKPOINT.iterdir()}
    assert sum(files.values()) < 8_000_000
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} < files.keys()
    assert "must not be" in (TINY_CHECKPOINT / "README.md").read_text(encoding="utf-8")
