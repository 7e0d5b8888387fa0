import json

import pytest
import yaml
from datasets import Features, List, Value
from pages import unpadded

from fafa.dataset_builders.counting import Statistics
from fafa.dataset_builders.dataset_card import read_about
from fafa.dataset_builders.export import export_dataset
from fafa.world import make_world


@pytest.fixture
def make_card(tmp_path):
    """Exports a folder; gives its card as YAML head and text."""

    def make(name, root, **options):
        export_dataset(
            name,
            data_dir=root,
            output_dir=tmp_path / "out",
            cache_dir=tmp_path / "cache",
            show_progress=False,
            **options,
        )
        _, head, text = (tmp_path / "out/README.md").read_text(encoding="utf-8").split("---\n", 2)
        return yaml.safe_load(head), text

    return make


def row(text: str, name: str, section: str = "Statistics") -> list[str]:
    """The cells of a row in a section's table."""
    lines = unpadded(text.split(f"## {section}\n")[1].split("\n## ")[0]).splitlines()
    (line,) = [line for line in lines if line.startswith(unpadded(f"| {name} |"))]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_statistics_of_captions_groups_sources_and_shared_images():
    features = Features(
        {name: Value("string") for name in ("caption", "source", "image_path")}
        | {name: Value("int64") for name in ("instance_id", "person_id")}
    )
    statistics = Statistics(features)
    for caption, source, person, instance, file in [
        ("A red coat, a hat.", "LAST", 1, 0, "a.jpg"),
        ("in red; it's Red", "LAST", 1, 0, "a.jpg"),
        ("in red; it's Red", "PRCC", 1, -1, "b.jpg"),
    ]:
        record = {"caption": caption, "source": source, "person_id": person, "instance_id": instance}
        statistics.add(record | {"image_path": file}, [(file, 10)])
    counts = statistics.to_dict()
    assert counts["records"] == 3
    assert counts["captions"]["caption"] == {
        "distinct": 2,
        "shortest": 4,
        "longest": 5,
        "mean": pytest.approx(13 / 3),
        "words": 6,  # a, red, coat, hat, in, it's
    }
    assert counts["values"] == {"source": {"LAST": 2, "PRCC": 1}}
    assert counts["ids"]["instance_id"] == {"groups": 1, "records": 2, "sizes": {"2": 1}, "distractors": 1}
    assert counts["ids"]["person_id"]["groups"] == 2  # ids collide across sources
    assert counts["images"] == {"files": 2, "file_bytes": 20, "embedded": 3, "embedded_bytes": 30}
    assert json.loads(json.dumps(counts)) == counts


def test_a_person_with_generated_and_edited_pictures_is_one_and_all_captions_count():
    features = {"source": Value("string"), "captions": List(Value("string")), "person_id": Value("int64")}
    statistics = Statistics(Features(features))
    for source, captions in (("generated", ["A coat.", "Red, a coat."]), ("edited", ["A coat."])):
        statistics.add({"source": source, "captions": captions, "person_id": 7}, [])
    counts = statistics.to_dict()
    assert counts["ids"]["person_id"]["groups"] == 1
    assert (counts["captions"]["captions"]["distinct"], counts["words"]) == (2, 3)
    assert counts["captions"]["captions"]["mean"] == pytest.approx(7 / 3)


def test_a_text_column_with_many_values_is_not_counted_by_value():
    statistics = Statistics(Features({"note": Value("string")}))
    for number in range(100):
        statistics.add({"note": str(number)}, [])
    assert statistics.to_dict()["values"] == {} and len(statistics.values["note"]) < 50


def test_the_card_of_syncpr(make_card, syncpr_root):
    head, text = make_card("SynCPR", syncpr_root, shard_size=1_000)
    assert head["license"] == "other" and head["size_categories"] == ["n<1K"]
    assert "composed-person-retrieval" in head["tags"] and "synthetic" not in head["tags"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert head["dataset_info"]["splits"][0]["num_examples"] == 6
    assert row(text, "records") == ["6"]
    assert row(text, "`cpr_id`") == ["3 distinct; records each: 2, mean 2.00"]
    assert row(text, "`edit_caption`") == ["6 distinct; words each: 4, mean 4.0; 9 distinct words"]
    assert row(text, "`target_image`") == ["PNG: 6; 4 pixels wide, 8 high"]
    assert row(text, "images embedded") == ["12, 0.0 MB"]
    assert 'load_dataset("path/to/this/folder", split="train")' in text
    assert "technology that finds people" in text and "eprint        = {2311.16515}" in text
    assert "Released for research" in text  # the builder's licence note


def test_the_card_of_itcpr_has_both_configurations_side_by_side(make_card, itcpr_root):
    head, text = make_card("ITCPR", itcpr_root)
    assert [config["config_name"] for config in head["configs"]] == ["gallery", "query"]
    assert row(text, "") == ["query, test", "gallery, test"]
    assert row(text, "records") == ["2", "4"]
    assert row(text, "`source`") == ["Celeb-reID: 1, LAST: 1", "Celeb-reID: 2, LAST: 2"]
    assert row(text, "`instance_id`")[1] == "2 distinct; records each: 1 to 2, mean 1.50; -1 in 1 records"
    assert row(text, "`image`") == ["JPEG: 2; 4 pixels wide, 8 high", "JPEG: 4; 4 pixels wide, 8 high"]
    assert row(text, "`caption`", "Columns")[1].endswith("(query only)")
    assert '"caption": "In a green coat, no bag"' in text  # the example


def test_the_card_of_webdataset_names_the_columns_that_its_readers_see(make_card, syncpr_root):
    head, text = make_card("SynCPR", syncpr_root, format="webdataset")
    assert head["configs"][0]["data_files"][0]["path"] == "data/train-*.tar"
    assert "features" not in head["dataset_info"]
    assert row(text, "`reference_image.png`", "Columns")[0] == "image"
    assert row(text, "`json: cpr_id`", "Columns")[0] == "int64"


def test_the_users_own_text_and_head_go_into_the_card(make_card, syncpr_root, tmp_path):
    about = tmp_path / "about.md"
    about.write_text(
        "---\nlicense: cc-by-4.0\npretty_name: Mine\nlanguage: [de]\ntags: [winter]\n---\nPainted by hand.\n"
    )
    head, text = make_card("SynCPR", syncpr_root, about=about)
    assert (head["license"], head["pretty_name"], head["language"]) == ("cc-by-4.0", "Mine", ["de"])
    assert {"winter", "composed-person-retrieval"} <= set(head["tags"]) and head["configs"]
    assert (
        "# Mine\n" in text
        and "## How it was made\n\nPainted by hand.\n\n## Licence" in text
        and "Licence: cc-by-4.0." in text
    )


def test_about_without_a_head_is_text_and_a_broken_head_is_told(tmp_path):
    about = tmp_path / "about.md"
    about.write_text("# Ours\n\nBy us.\n")
    assert read_about(about) == ("# Ours\n\nBy us.", {})
    for head in ("license: [", "license: " + "[" * 10_000, "tags: &a [*a]", "license: !!python/name:os.system"):
        about.write_text(f"---\n{head}\n---\nBy us.\n")
        with pytest.raises(ValueError, match=r"about\.md: expected YAML"):
            read_about(about)


def test_a_painted_world_says_so_and_gives_its_parameters(make_card, tmp_path):
    sizes = {"num_diptychs": 4, "num_queries": 1, "gallery_size": 6, "image_size": (24, 16)}
    world = make_world(tmp_path / "world", **sizes, num_workers=1, show_progress=False)
    head, text = make_card("SynCPR", world / "SynCPR")
    assert head["pretty_name"] == "A painted world in the format of SynCPR" and "synthetic" in head["tags"]
    assert "nobody in these pictures exists" in text and '"num_diptychs": 4' in text
    assert "1,153,230" not in text and "1.15 million" not in text  # nothing of the published data set
