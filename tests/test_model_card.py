"""What every model folder says of itself, and results added to it later."""

import pytest
from huggingface_hub import ModelCard
from tiny import tiny_config, tiny_model

from fafa import FafaModel
from fafa.model_card import add_results_to_card, hub_id, make_model_card, registering_module, retrieval_results
from fafa.retriever import CardFacts

METRICS = {
    "image+caption": {"rank-1": 46.554, "rank-10": 73.3, "mAP": 55.65},
    "caption": {"rank-1": 30.1, "rank-10": 50.0, "mAP": 40.25},
}


def write_card(folder, **options) -> None:
    card = make_model_card(
        FafaModel.card_facts(tiny_config()),
        num_parameters=2_000_000,
        title="FAFA",
        about="About.",
        sections={"Source": "From afar."},
        **options,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def results_of(folder) -> dict[tuple[str, str], float]:
    card = ModelCard.load(folder / "README.md")
    return {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}


def test_card_has_the_head_that_the_hub_reads(tmp_path):
    write_card(tmp_path, metadata={"license": "apache-2.0"})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "apache-2.0"
    assert "composed-person-retrieval" in card.data.tags
    assert "## Source\n\nFrom afar." in card.text and "2,000,000 parameters" in card.text
    assert 'AutoModel.from_pretrained("path/to/this/folder")' in card.text


def test_added_results_stand_first_and_are_replaced_by_later_ones(tmp_path):
    """Beside what the card says already, whether it had results or not."""
    held_out = retrieval_results({"mAP": 61.0}, "data/SynCPR", "held out")
    write_card(tmp_path, metadata={"model_name": "small", "eval_results": held_out})
    add_results_to_card(tmp_path, "someone/ITCPR", METRICS, num_queries=2202, num_gallery=20510)
    add_results_to_card(tmp_path, "world/ITCPR", METRICS, num_queries=125, num_gallery=560)
    better = {mode: {name: value + 1 for name, value in row.items()} for mode, row in METRICS.items()}
    add_results_to_card(tmp_path, "someone/ITCPR", better, num_queries=2202, num_gallery=20510)

    results = results_of(tmp_path)
    assert results["held out", "mAP"] == 61.0 and len(results) == 1 + 2 * 3
    assert results["someone/ITCPR, image+caption", "rank-1"] == 47.55
    assert results["world/ITCPR, image+caption", "rank-1"] == 46.55
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["## Results on world/ITCPR", "## Results on someone/ITCPR", "## Source"]
    assert len(headings) == 6 and text.count("2,202 queries, gallery of 20,510 images") == 1
    assert text.count("| caption       |  31.10 |   51.00 | 41.25 |") == 1
    assert text.count("| caption       |  30.10 |   50.00 | 40.25 |") == 1
    assert "name: small" in text


def test_results_on_a_card_without_any(tmp_path):
    write_card(tmp_path)
    add_results_to_card(tmp_path, "someone/ITCPR", METRICS, num_queries=2202, num_gallery=20510)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == tmp_path.name
    assert {result.dataset_type for result in card.data.eval_results} == {"someone/ITCPR"}


def test_results_without_a_card_are_an_error_naming_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"README\.md does not exist: results are added to the card"):
        add_results_to_card(tmp_path, "someone/ITCPR", METRICS, num_queries=1, num_gallery=1)


def test_only_names_that_the_hub_takes_are_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained" / "blip2").mkdir(parents=True)
    assert hub_id("Salesforce/blip2-itm-vit-g") == "Salesforce/blip2-itm-vit-g"
    for name in ("pretrained/blip2", "/data/SynCPR", "./SynCPR", "a/b/c", "tiny", None):
        assert hub_id(name) is None, name


def test_the_card_of_a_users_model_imports_the_module_that_defines_it():
    """It said `import fafa`, after which no Auto class knew the model."""
    own = type("OwnModel", (), {"__module__": "lab.retrieval"})()
    copied = type("FafaModel", (), {"__module__": "transformers_modules.x.modeling_fafa"})()
    assert registering_module(own) == "lab.retrieval"
    assert registering_module(copied) == registering_module(tiny_model()) == "fafa"
    card = make_model_card(CardFacts("Own"), 1, "Own", "A test.", {}, module=registering_module(own))
    assert "import lab.retrieval  # makes the model known" in card and "import fafa" not in card
