"""Finding bounds from verdicts, and what is said of bounds."""

import csv
import json

import numpy as np
import pytest
from pages import unpadded
from PIL import Image

from fafa.synthesis.calibrate import main
from fafa.synthesis.components import SynthesisError
from fafa.synthesis.filtering.calibration import (
    Pair,
    Verdict,
    cut_in_halves,
    find_thresholds,
    measure,
    read_pairs,
    read_verdicts,
    sample_pairs,
    write_form,
)
from fafa.synthesis.filtering.calibration_report import auc
from fafa.synthesis.filtering.calibration_sheets import draw_score_sheet
from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.settings import read_settings, read_yaml

TEXTS = {
    "caption_a": "a person in a red coat and blue jeans",
    "caption_b": "a person in a green coat and blue jeans",
    "edit_ab": "now in a green coat",
    "edit_ba": "now in a red coat",
}
RECIPE = "kind: triplets\nfilter: {bounds: {people: {at_most: 1}, quality: {at_least: 0.05}}}\n"


def make_pairs(count: int, seed: int = 0) -> list[tuple[Pair, str]]:
    """Pairs and what is wrong with them: a third person shows in `people`, an ugly picture in `quality`."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(count):
        fault = str(rng.choice(["", "", "", "crowd", "ugly"]))
        scores = {
            "noise": round(float(rng.normal()), 4),
            "people": 2 if fault == "crowd" else 1,
            "quality": round(float(rng.uniform(0, 0.4) if fault == "ugly" else rng.uniform(0.3, 1)), 4),
            "follows_ab": round(float(rng.uniform()), 4),
        }
        record = {"id": f"{number // 4}-{number % 4}", "quadruple": str(number // 4)} | TEXTS
        pairs.append((Pair(record, scores), fault))
    return pairs


def make_verdicts(count: int, seed: int = 0) -> list[Verdict]:
    return [
        Verdict(pair, direction, not fault, fault)
        for pair, fault in make_pairs(count, seed)
        for direction in ("ab", "ba")
    ]


@pytest.fixture
def synthesis(tmp_path):
    """The folder of a synthesis whose last chunk was not measured yet; what is wrong stands in split/ as "truth"."""
    pairs = make_pairs(48)
    for side, colour in (("left", "red"), ("right", "green")):
        Image.new("RGB", (12, 24), colour).save(tmp_path / f"{side}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for stage in ("distinct", "split", "gates", "judgements"):
        (tmp_path / stage).mkdir()
    for chunk, members in enumerate((pairs[:24], pairs[24:40], pairs[40:])):
        quadruples = {pair.record["quadruple"]: TEXTS for pair, _ in members}
        records = {
            "distinct": [{"id": name, **texts} for name, texts in quadruples.items()],
            "split": [
                {"id": pair.record["id"], "quadruple": pair.record["quadruple"], "truth": fault}
                | {"left": "left.png", "right": "right.png"}
                for pair, fault in members
            ],
            "gates": [
                {"id": p.record["id"], "scores": {n: p.scores[n] for n in ("noise", "people")}} for p, _ in members
            ],
            # The second person was noticed: that pair is not judged.
            "judgements": [
                {"id": p.record["id"], "scores": {n: p.scores[n] for n in ("quality", "follows_ab")}}
                for p, fault in members
                if fault != "crowd"
            ],
        }
        if chunk == 2:
            del records["gates"], records["judgements"]
        for stage, content in records.items():
            content = [*content, {"id": "99-9", "rejected": "no seam found"}]
            file = tmp_path / stage / f"{chunk:05d}.jsonl"
            file.write_text("".join(json.dumps(record) + "\n" for record in content))
    return tmp_path


def test_pairs_are_read_with_their_texts_and_all_their_scores(synthesis):
    pairs = read_pairs(synthesis)
    expected = make_pairs(40)
    assert [pair.record["id"] for pair in pairs] == [pair.record["id"] for pair, _ in expected]
    assert pairs[0].record["edit_ab"] == TEXTS["edit_ab"]
    for pair, (made, fault) in zip(pairs, expected, strict=True):
        measured = ("noise", "people") if fault == "crowd" else tuple(made.scores)
        assert pair.scores == {name: made.scores[name] for name in measured}


def test_a_folder_without_measured_pairs_is_refused(tmp_path):
    with pytest.raises(SynthesisError, match="no pair was measured yet"):
        read_pairs(tmp_path)


def test_the_sample_is_the_same_whatever_the_order_and_another_for_another_seed():
    pairs = [pair for pair, _ in make_pairs(60)]
    sample = sample_pairs(pairs, 20)
    assert len(sample) == 20
    assert sample == sample_pairs(pairs[::-1], 20) == sample_pairs(pairs, 30)[:20]
    assert sample != sample_pairs(pairs, 20, seed=1)


def test_a_form_has_a_row_per_triplet(tmp_path):
    pairs = [pair for pair, _ in make_pairs(5)]
    write_form(tmp_path / "verdicts.csv", pairs, pairs_per_page=2)
    with (tmp_path / "verdicts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["page"], row["id"], row["direction"]) for row in rows[:6]] == [
        ("1", "0-0", "ab"),
        ("1", "0-0", "ba"),
        ("1", "0-1", "ab"),
        ("1", "0-1", "ba"),
        ("2", "0-2", "ab"),
        ("2", "0-2", "ba"),
    ]


def test_verdicts_are_read_as_spreadsheets_write_them(tmp_path):
    pairs = [pair for pair, _ in make_pairs(4)]
    file = tmp_path / "verdicts.csv"
    file.write_text("\ufeffid;direction;good;reason\n0-0;ab;1;\n0-0;ba; 0 ;two, or three, people\n0-1;ab;;\n")
    verdicts, empty = read_verdicts(file, pairs)
    assert verdicts == [Verdict(pairs[0], "ab", True), Verdict(pairs[0], "ba", False, "two, or three, people")]
    assert empty == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,good\n0-0,1\n", "first line must name the columns; direction not found"),
        ("id,direction,good\n0-0,ab,\n", "no row is filled in"),
        ("id,direction,good\n0-0,ab,1\n0-0,ba,yes\n", "line 3: good must be 1 or 0.* found 'yes'"),
        ("id,direction,good\n9-9,ab,1\n", "line 2: there is no measured pair '9-9'"),
        ("id,direction,good\n0-0,up,1\n", "line 2: there is no measured pair '0-0' with direction 'up'"),
        ("id,direction,good\n0-0,ab,1\n0-0,ab,0\n", "line 3: a second verdict of 0-0 ab"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(tmp_path, text, message):
    file = tmp_path / "verdicts.csv"
    file.write_text(text)
    with pytest.raises(SynthesisError, match=message):
        read_verdicts(file, [pair for pair, _ in make_pairs(4)])


def test_precision_and_recall_are_of_triplets():
    def verdict(name, direction, good, reason="", **scores):
        return Verdict(Pair({"id": name, "quadruple": name}, scores), direction, good, reason)

    verdicts = [
        verdict("1", "ab", True, quality=0.9, follows_ab=0.9),
        verdict("1", "ba", True, quality=0.9, follows_ab=0.1),  # the other direction's score does not matter
        verdict("2", "ab", True, quality=0.2, follows_ab=0.9),
        verdict("3", "ab", False, "ugly", quality=0.8, follows_ab=0.9),
        verdict("3", "ba", False, "ugly", quality=0.3, follows_ab=0.9),
        verdict("4", "ab", False, "crowd", follows_ab=0.9),  # not judged: not kept
    ]
    outcome = measure(Thresholds(bounds={"quality": Bound(at_least=0.5), "follows_ab": Bound(at_least=0.5)}), verdicts)
    assert (outcome.kept_good, outcome.good, outcome.kept_bad, outcome.bad) == (2, 3, 1, 3)
    assert outcome.precision == outcome.recall == pytest.approx(2 / 3)
    assert outcome.by_reason == {"crowd": (1, 0), "ugly": (2, 1)}
    nothing = measure(Thresholds(bounds={"quality": Bound(at_least=2.0)}), verdicts)
    assert np.isnan(nothing.precision)
    assert nothing.recall == 0


def test_halves_share_no_quadruple():
    first, second = cut_in_halves(make_verdicts(200))
    quadruples = [{verdict.pair.record["quadruple"] for verdict in half} for half in (first, second)]
    assert not quadruples[0] & quadruples[1]
    assert len(first) + len(second) == 400
    assert min(len(first), len(second)) > 120


def test_bounds_are_found_where_the_faults_show_and_hold_for_other_pairs():
    found = find_thresholds(make_verdicts(200, seed=1), precision=0.95)
    assert found == find_thresholds(make_verdicts(200, seed=1), precision=0.95)
    assert set(found.bounds) == {"people", "quality"}
    assert found.bounds["people"] == Bound(at_most=1.5)
    assert found.bounds["quality"].at_most is None
    assert 0.28 < found.bounds["quality"].at_least < 0.42
    outcome = measure(found, make_verdicts(400, seed=2))
    assert outcome.precision > 0.93
    assert outcome.recall > 0.85


def test_less_precision_keeps_more():
    verdicts, other = make_verdicts(200, seed=1), make_verdicts(400, seed=2)
    strict, mild = (measure(find_thresholds(verdicts, precision), other) for precision in (0.98, 0.7))
    assert mild.recall > strict.recall
    assert mild.precision < strict.precision


def test_where_nearly_all_are_bad_bounds_still_make_sense():
    """Nothing is worth keeping then, but the lower end of a bound stays below the upper one."""
    rng = np.random.default_rng(0)
    verdicts = [
        Verdict(Pair({"id": str(n), "quadruple": str(n)}, {"noise": float(rng.normal())}), "ab", n == 0)
        for n in range(60)
    ]
    for bound in find_thresholds(verdicts, 1.0).bounds.values():
        assert bound.at_least is None or bound.at_most is None or bound.at_least < bound.at_most


def test_without_a_bad_one_nothing_is_bounded():
    verdicts = [verdict for verdict in make_verdicts(40) if verdict.good]
    assert find_thresholds(verdicts, 0.95) == Thresholds()


def test_auc_counts_ties_as_half():
    assert auc(np.array([1.0, 2.0, 3.0]), np.array([False, True, True])) == 1
    assert auc(np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True])) == pytest.approx(0.5 / 4)


def test_a_sheet_has_a_row_per_bin_and_equal_scores_stay_together(synthesis):
    pairs = read_pairs(synthesis)
    few, many = (draw_score_sheet(name, pairs, synthesis) for name in ("people", "quality"))
    assert many.height > 2 * few.height
    with pytest.raises(ValueError, match="no pair has the score sharpness"):
        draw_score_sheet("sharpness", pairs, synthesis)


def test_from_a_synthesis_to_bounds(synthesis, capsys):
    """As a person does it: draw, look, fill in, report."""
    assert main([str(synthesis), "--samples", "14", "--quiet"]) == 0
    output = synthesis / "calibration"
    drawn = {file.name for file in output.glob("*.png")}
    assert drawn == {f"page-{number:02d}.png" for number in (1, 2)} | {
        f"score-{name}.png" for name in ("noise", "people", "quality", "follows_ab")
    }
    truth = {pair.record["id"]: pair.record["truth"] for pair in read_pairs(synthesis)}
    with (output / "verdicts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 28
    with (synthesis / "filled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        for row in rows:
            fault = truth[row["id"]]
            writer.writerow(row | {"good": int(not fault), "reason": fault})

    assert main([str(synthesis), "--verdicts", str(synthesis / "filled.csv"), "--precision", "0.9"]) == 0
    assert "that they were not found on they have precision" in capsys.readouterr().out
    report = unpadded((output / "report.md").read_text(encoding="utf-8"))
    verdicts, _ = read_verdicts(synthesis / "filled.csv", read_pairs(synthesis))
    found = read_settings(Thresholds, read_yaml(output / "thresholds.yaml")["filter"], "thresholds.yaml")
    unseen = measure(found, cut_in_halves(verdicts)[1])
    (row,) = (line for line in report.splitlines() if "(unseen)" in line)
    assert f"| {unseen.good + unseen.bad} | {unseen.good} | {unseen.kept} | {100 * unseen.precision:.1f} %" in row
    assert "at most 1 |" in report  # the present bound, of recipe.yaml
    assert (output / "curves.png").exists()

    with pytest.raises(SystemExit, match=r"verdicts\.csv is there already"):
        main([str(synthesis), "--quiet"])


def test_an_unreached_precision_is_said(synthesis, capsys):
    rng = np.random.default_rng(0)
    rows = [f"{pair.record['id']},{d},{rng.integers(2)}" for pair in read_pairs(synthesis) for d in ("ab", "ba")]
    (synthesis / "random.csv").write_text("\n".join(["id,direction,good", *rows]))
    assert main([str(synthesis), "--verdicts", str(synthesis / "random.csv"), "--precision", "0.99"]) == 0
    assert "wanted precision was not reached" in (synthesis / "calibration/report.md").read_text(encoding="utf-8")


def test_mistakes_on_the_command_line_are_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"no pair was measured yet[^\n]*$"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--precision", "95"])
