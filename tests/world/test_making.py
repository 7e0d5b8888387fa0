"""The two folders of a small world: their formats, their guarantees, and how a folder is reused or refused."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from damage import flip_a_byte
from PIL import Image

from fafa.world.making import make_world, plan_test, plan_training, verify_world
from fafa.world.people import HARBOUR, is_test_identity, is_test_outfit, look_different

SMALL = {"num_diptychs": 10, "num_queries": 3, "gallery_size": 20, "image_size": (64, 32), "show_progress": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("small") / "world", num_workers=1, **SMALL)


@pytest.fixture(scope="module")
def training():
    return plan_training(num_diptychs=400, diptychs_per_quadruple=4, seed=3)


@pytest.fixture(scope="module")
def test_set():
    return plan_test(num_queries=125, gallery_size=560, seed=3)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


# SynCPR


def test_syncpr_records_have_exactly_the_released_fields(world):
    triplets = read(world / "SynCPR/SynCPR.json")
    assert len(triplets) == 2 * SMALL["num_diptychs"]
    for triplet in triplets:
        assert list(triplet) == [
            "reference_caption",
            "target_caption",
            "reference_image_path",
            "target_image_path",
            "edit_caption",
            "cpr_id",
        ]
        assert isinstance(triplet.pop("cpr_id"), int)
        assert all(isinstance(value, str) and value for value in triplet.values())


def test_syncpr_paths_name_quadruple_and_diptych_and_exist(world):
    for triplet in read(world / "SynCPR/SynCPR.json"):
        places = []
        for key in ("reference_image_path", "target_image_path"):
            match = re.fullmatch(r"test2/sub_img/img_(left|right)/(\d+)-(\d+)_\1\.png", triplet[key])
            assert match, triplet[key]
            places.append(match.groups())
            with Image.open(world / "SynCPR" / triplet[key]) as image:
                assert image.format == "PNG" and image.mode == "RGB" and image.size == (32, 64)
        (reference_side, *reference_pair), (target_side, *target_pair) = places
        assert reference_pair == target_pair and {reference_side, target_side} == {"left", "right"}
        assert triplet["cpr_id"] // 2 == int(reference_pair[0])


def test_both_directions_of_a_diptych_are_triplets_of_different_groups(training):
    triplets, _ = training
    pairs = {(t["reference_image_path"], t["target_image_path"]): t for t in triplets}
    for (reference, target), triplet in pairs.items():
        back = pairs[target, reference]
        assert back["cpr_id"] == triplet["cpr_id"] ^ 1
        assert (back["reference_caption"], back["target_caption"]) == (
            triplet["target_caption"],
            triplet["reference_caption"],
        )


def test_a_group_shares_its_captions_and_shows_several_people(training):
    triplets, pictures = training
    person = {picture.path: picture.identity for picture in pictures}
    groups = defaultdict(list)
    for triplet in triplets:
        groups[triplet["cpr_id"]].append(triplet)
    for group in groups.values():
        assert len({(t["reference_caption"], t["target_caption"], t["edit_caption"]) for t in group}) == 1
        people = [person[f"SynCPR/{t['reference_image_path']}"] for t in group]
        assert people == [person[f"SynCPR/{t['target_image_path']}"] for t in group]
        assert all(look_different(a, b) for i, a in enumerate(people) for b in people[:i])
    sizes = Counter(len(group) for group in groups.values())
    assert sizes.most_common(1)[0][0] == 4 and len(sizes) > 1


def test_exactly_the_asked_for_number_of_diptychs():
    for number in (1, 7, 30):
        triplets, pictures = plan_training(number, diptychs_per_quadruple=4, seed=0)
        assert len(triplets) == len({p.path for p in pictures}) == 2 * number


# ITCPR


def test_itcpr_records_have_exactly_the_released_fields(world):
    queries, gallery = read(world / "ITCPR/query.json"), read(world / "ITCPR/gallery.json")
    assert len(queries) == SMALL["num_queries"] and len(gallery) == SMALL["gallery_size"]
    fields = ["file_path", "datasets", "person_id", "instance_id"]
    assert all(list(record) == [*fields, "caption"] for record in queries)
    assert all(list(record) == fields for record in gallery)
    for record in [*queries, *gallery]:
        assert record["file_path"].startswith(record["datasets"] + "/")
        assert type(record["person_id"]) is int and type(record["instance_id"]) is int
        with Image.open(world / "ITCPR" / record["file_path"]) as image:
            assert image.format == "JPEG" and image.size == (32, 64)


def test_sources_keep_their_layouts_and_share_the_queries(test_set):
    queries, gallery, _ = test_set
    layouts = {
        "Celeb-reID": r"Celeb-reID/(\d{3,})/\d+_\d+_0\.jpg",
        "PRCC": r"PRCC/rgb/test/A/(\d{3,})/cropped_rgb\d{3,}\.jpg",
        "LAST": r"LAST/(\d{6})/\d{6}_\d{4}\.jpg",
    }
    for record in [*queries, *gallery]:
        match = re.fullmatch(layouts[record["datasets"]], record["file_path"])
        assert match and int(match[1]) == record["person_id"]
    assert min(Counter(record["datasets"] for record in queries)[source] for source in layouts) >= 40


def test_every_query_has_matches_and_some_have_several(test_set):
    queries, gallery, _ = test_set
    matches = Counter(record["instance_id"] for record in gallery)
    assert [query["instance_id"] for query in queries] == list(range(125))
    counts = [matches[query["instance_id"]] for query in queries]
    assert set(counts) == {1, 2, 3} and counts.count(1) > 90
    assert matches[-1] == len(gallery) - sum(counts)


def test_both_halves_of_a_query_are_needed(test_set):
    """The gallery holds the same person in other clothes, and two other people in exactly the asked-for clothes."""
    queries, gallery, pictures = test_set
    painted = {picture.path: picture for picture in pictures}
    targets = [(record["instance_id"], painted[f"ITCPR/{record['file_path']}"]) for record in gallery]
    for query in queries:
        reference = painted[f"ITCPR/{query['file_path']}"]
        matches = [picture for instance, picture in targets if instance == query["instance_id"]]
        (person,), (asked_for,) = {m.identity for m in matches}, {m.outfit for m in matches}
        assert person == reference.identity and asked_for != reference.outfit
        same_person = [p for i, p in targets if p.identity == person and p.outfit != asked_for]
        same_clothes = [p for i, p in targets if p.outfit == asked_for and p.identity != person]
        assert len(same_person) >= 1 and len(same_clothes) >= 2
        assert all(look_different(person, p.identity) for p in same_clothes)
        unmarked = [i for i, p in targets if (p.identity, p.outfit) == (person, asked_for)]
        assert set(unmarked) == {query["instance_id"]}


def test_pictures_are_never_shared(test_set):
    queries, gallery, pictures = test_set
    paths = [record["file_path"] for record in [*queries, *gallery]]
    assert len(paths) == len(set(paths)) == len(pictures)


def test_the_gallery_does_not_betray_the_answer_by_its_order(test_set):
    _, gallery, _ = test_set
    positions = [i for i, record in enumerate(gallery) if record["instance_id"] >= 0]
    assert 0.4 < np.mean(positions) / len(gallery) < 0.6


def test_too_small_a_gallery_is_refused_with_the_size_needed():
    with pytest.raises(ValueError, match="pass at least 12"):
        plan_test(num_queries=3, gallery_size=5, seed=0)
    assert len(plan_test(num_queries=3, gallery_size=12, seed=0)[1]) == 12


# Both


def test_test_people_and_clothes_never_occur_in_training(training, test_set):
    _, training_pictures = training
    _, _, test_pictures = test_set
    assert not any(is_test_identity(p.identity) or is_test_outfit(p.outfit) for p in training_pictures)
    assert all(is_test_identity(p.identity) and is_test_outfit(p.outfit) for p in test_pictures)
    assert not {p.identity for p in training_pictures} & {p.identity for p in test_pictures}

    def combinations(pictures):
        return {
            (p.outfit.upper.kind, p.outfit.upper.colour, p.outfit.lower.kind, p.outfit.lower.colour) for p in pictures
        }

    assert not combinations(training_pictures) & combinations(test_pictures)


def test_every_word_of_the_test_set_is_learnt_in_training(test_set):
    triplets, _ = plan_training(num_diptychs=4000, diptychs_per_quadruple=4, seed=0)
    known = set(re.findall(r"\w+", " ".join(t["edit_caption"] for t in triplets).lower()))
    assert set(re.findall(r"\w+", " ".join(q["caption"] for q in test_set[0]).lower())) <= known


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(world, tmp_path):
    again = make_world(tmp_path / "again", num_workers=2, **SMALL)
    assert digests(again) == digests(world)


def test_another_seed_gives_other_pictures(world, tmp_path):
    other = make_world(tmp_path / "other", num_workers=1, seed=1, **SMALL)
    assert read(other / "SynCPR/SynCPR.json") != read(world / "SynCPR/SynCPR.json")


def test_the_test_set_does_not_depend_on_the_size_of_the_training_set(world, tmp_path):
    smaller = make_world(tmp_path / "smaller", num_workers=1, **{**SMALL, "num_diptychs": 1})
    assert digests(smaller / "ITCPR") == digests(world / "ITCPR")


def test_no_two_pictures_are_equal(world):
    pictures = [digest for path, digest in digests(world).items() if not path.endswith(".json")]
    assert len(set(pictures)) == len(pictures)


def test_a_harder_world_differs_by_what_was_asked_for_alone(world, tmp_path):
    harder = make_world(tmp_path / "harder", num_workers=1, caption_noise=0.4, spoilt=0.5, **SMALL)
    plain, noisy = (read(folder / "SynCPR/SynCPR.json") for folder in (world, harder))
    wrong = [row for row, triplet in enumerate(noisy) if triplet.get("caption_is_wrong")]
    assert len(wrong) == 8
    texts = "edit_caption", "reference_caption", "target_caption"
    for row, (before, after) in enumerate(zip(plain, noisy, strict=True)):
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= set(texts) and bool(changed) == (row in wrong)
    for row in wrong:  # whole captions of one triplet of another group
        given = [t["cpr_id"] // 2 for t in plain if all(t[name] == noisy[row][name] for name in texts)]
        assert given and noisy[row]["cpr_id"] // 2 not in given
    before, after = digests(world), digests(harder)
    images = [path for path in before if not path.endswith(".json")]
    assert 0.3 < np.mean([before[path] != after[path] for path in images]) < 0.7
    assert after["ITCPR/query.json"] == before["ITCPR/query.json"]


def test_hardships_are_part_of_what_a_world_is(world, tmp_path):
    with pytest.raises(FileExistsError, match=r"spoilt=0.0 and not 0.1"):
        make_world(world, spoilt=0.1, **SMALL)
    harder = make_world(tmp_path / "harder", num_workers=1, look_alikes=4, **SMALL)
    with pytest.raises(FileExistsError, match=r"look_alikes=4 and not 2"):
        make_world(harder, **SMALL)
    assert verify_world(harder) == []
    with pytest.raises(ValueError, match="caption_noise must be from 0 to 1"):
        make_world(tmp_path / "none", caption_noise=40, **SMALL)


def test_look_alikes_wear_what_is_asked_for():
    queries, gallery, images = plan_test(num_queries=3, gallery_size=40, seed=0, look_alikes=5)
    planned = {image.path.removeprefix("ITCPR/"): image for image in images}
    for query in queries:
        target = next(planned[one["file_path"]] for one in gallery if one["instance_id"] == query["instance_id"])
        others = [planned[one["file_path"]] for one in gallery if one["instance_id"] == -1]
        assert sum(other.outfit == target.outfit for other in others) == 5


def test_another_town_has_the_same_people_in_other_clothes(world, tmp_path):
    harbour = make_world(tmp_path / "harbour", num_workers=1, town="harbour", **SMALL)
    assert read(harbour / "world.json")["town"] == "harbour" and "town" not in read(world / "world.json")
    triplets, _ = plan_training(200, 4, 0, HARBOUR)
    words = {word for triplet in triplets for word in triplet["target_caption"].lower().strip(".").split()}
    assert words >= {"poncho", "kilt", "lime", "wavy"} and not words & {"coat", "jeans", "red", "striped"}
    assert not set(digests(world / "SynCPR").values()) & set(digests(harbour / "SynCPR").values())
    with pytest.raises(FileExistsError, match="town=harbour and not home"):
        make_world(harbour, num_workers=1, **SMALL)


def test_a_finished_world_is_reused_untouched(world):
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*")}
    assert make_world(world, num_workers=1, **SMALL) == world
    assert {path: path.stat().st_mtime_ns for path in world.rglob("*")} == before


def test_another_world_is_refused_and_left_alone(world):
    before = digests(world)
    with pytest.raises(FileExistsError, match=r"seed=0 and not 5.*delete"):
        make_world(world, seed=5, **SMALL)
    assert digests(world) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="choose another folder"):
        make_world(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_world_is_completed(world, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fafa.world.making.paint_images", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_world(tmp_path, num_workers=1, **SMALL)
    assert read(tmp_path / "world.json")["finished"] is False
    make_world(tmp_path, num_workers=1, **SMALL)
    assert digests(tmp_path) == digests(world)


@pytest.mark.parametrize(
    "argument, value",
    [
        *(("num_diptychs", 0), ("diptychs_per_quadruple", 1000), ("num_queries", 0), ("image_size", (8, 4))),
        # These used to plan without end, or to end in a traceback from deep inside
        *(("num_diptychs", 10**18), ("num_queries", 10**18), ("gallery_size", 10**18), ("image_size", (10**9, 16))),
        *(("num_diptychs", 2.5), ("num_diptychs", True), ("seed", -1), ("seed", 10**30), ("num_workers", 0)),
        ("town", "hamlet"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        make_world(tmp_path / "world", **{**SMALL, argument: value})
    assert not (tmp_path / "world").exists()


def test_a_finished_world_that_was_damaged_is_mended_to_the_byte(world, tmp_path, caplog):
    """`finished` used to be believed, whatever had happened to the pictures since."""
    copy = shutil.copytree(world, tmp_path / "world")
    assert verify_world(copy) == []
    changed, lost = sorted(copy.rglob("*.png"))[:2]
    flip_a_byte(changed)
    lost.unlink()
    (copy / "ITCPR/query.json").write_text("[]")
    damaged = [str(file.relative_to(copy)) for file in (copy / "ITCPR/query.json", changed, lost)]
    assert [fault.split()[0] for fault in verify_world(copy)] == damaged
    untouched = sorted(copy.rglob("*.png"))[-1].stat().st_mtime_ns
    make_world(copy, num_workers=1, **SMALL)
    assert "3 files are missing or damaged, and made again: ITCPR/query.json has 2 bytes" in caplog.text
    assert digests(copy) == digests(world) and sorted(copy.rglob("*.png"))[-1].stat().st_mtime_ns == untouched
    (copy / "checksums.json").unlink()  # as of earlier versions
    assert "checksums.json" in verify_world(copy)[0]
    make_world(copy, num_workers=1, **SMALL)
    assert digests(copy) == digests(world)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "{", '{"finished": true}'])
def test_a_manifest_of_something_else_is_refused_by_name(tmp_path, text):
    (tmp_path / "world.json").write_text(text)
    with pytest.raises(FileExistsError, match=r"world\.json is missing or damaged|num_diptychs=None and not 10"):
        make_world(tmp_path, num_workers=1, **SMALL)


def test_the_example_makes_a_world(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "make_world.py"
    options = ["--diptychs", "2", "--queries", "1", "--gallery", "5", "--height", "64", "--workers", "1"]
    command = [sys.executable, str(script), "--output", str(tmp_path / "world"), *options]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "world" / "SynCPR") in output
    assert len(read(tmp_path / "world/SynCPR/SynCPR.json")) == 4
    assert len(read(tmp_path / "world/ITCPR/gallery.json")) == 5
    refused = subprocess.run([*command, "--diptychs", str(10**18)], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "num_diptychs must be a whole number from 1 to 1,000,000" in refused.stderr
