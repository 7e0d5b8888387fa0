"""The report: its tables read well, its numbers come back from the file, an interrupted one does not look whole."""

import json
import sys

import pytest
from pages import unpadded

from fafa.drawing.curves import check_charts
from fafa.evaluation import pictures, read_report, write_report
from fafa.evaluation.report import PICTURES


@pytest.fixture
def report(make_report):
    return make_report(**{"image+caption": [1, 1, 2, 8], "caption": [1, 7, 20, 4]})


def test_table_over_all_queries(report):
    assert (
        report.to_markdown()
        == """\
4 queries, gallery of 20 images, percent:

| query         | rank-1 | rank-5 |   mAP |  mINP |
| ------------- | -----: | -----: | ----: | ----: |
| image+caption |  50.00 |  75.00 | 65.62 | 65.62 |
| caption       |  25.00 |  50.00 | 36.07 | 36.07 |
| chance        |   5.00 |  25.00 | 17.99 | 17.99 |
"""
    )


def test_page_starts_with_that_table_and_has_a_row_for_every_group(report):
    page = report.to_page({"Rank-k": "rank_k.png", "best": "best.jpg"})
    assert page.index(report.to_markdown().strip()) < page.index("## Intervals") < page.index("## By source")
    page = unpadded(page)
    assert "| image+caption | 50.0 [49.0, 51.0] |" in page
    assert "| A | 2 | image+caption |" in page and "| B | 2 | image+caption |" in page
    assert "## By caption length" not in page  # a single group says nothing new
    assert "![Rank-k](rank_k.png)" in page and "[best](best.jpg)" in page
    assert "| model | tiny |" in page
    assert "late-fusion" not in page and "## Pictures" not in report.to_page()


def test_written_report_reads_back(report, tmp_path):
    files = write_report(report, tmp_path / "new" / "results")
    assert {path.name for path in files} == {path.name for path in (tmp_path / "new/results").iterdir()}
    assert read_report(tmp_path / "new" / "results") == read_report(files[1]) == report
    assert (tmp_path / "new/results/results.md").read_text() == report.to_page()
    text = (tmp_path / "new/results/results.json").read_text()
    assert sum("image_path" in line for line in text.splitlines()) == 4  # a line each, to look things up
    assert json.loads(text)["metrics"]["caption"]["overall"]["rank-1"] == 25.0


def test_a_path_that_is_no_utf8_does_not_end_the_report(report, tmp_path):
    """It raised UnicodeEncodeError after hours of encoding; what is read back leads to the folder again."""
    report.settings["data"] = "/data/caf\udce9\n"
    write_report(report, tmp_path / "results")
    assert read_report(tmp_path / "results") == report
    page = (tmp_path / "results" / "results.md").read_text(encoding="utf-8")
    assert r"| caf\\xe9 |" in page and "/data" not in page  # a page is read elsewhere


def test_no_picture_of_an_earlier_report_stays(report, tmp_path, monkeypatch):
    write_report(report, tmp_path)
    for file in (*PICTURES.values(), "notes.png"):
        (tmp_path / file).touch()
    write_report(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "notes.png"}


def test_an_interrupted_report_keeps_the_numbers_and_shows_no_page(report, make_report, tmp_path, monkeypatch):
    write_report(make_report(**{"caption": [2, 2, 2, 2]}), tmp_path)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pictures, "draw_pictures", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(report, tmp_path, [], [])
    assert read_report(tmp_path) == report
    assert not (tmp_path / "results.md").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"metrics": {}}', "no report of this version of fafa .*queries.*; write it again"),
        ("[]", "no report of this version"),
        ('{"metrics": {"cap', r"results\.json is damaged"),
        (b"\xff\xfe", r"results\.json is damaged"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_report(tmp_path)


DAMAGE = {
    "a metric": lambda record: record["metrics"]["caption"]["overall"].update({"mAP": 99.0}),
    "a metric that is none": lambda record: record["metrics"]["caption"]["overall"].update({"mAP": float("nan")}),
    "a rank": lambda record: record["queries"][1]["results"]["caption"].update({"ranks": [1]}),
    "a rank of 0": lambda record: record["queries"][1]["results"]["caption"].update({"ranks": [0]}),
    "a rank beyond": lambda record: record["queries"][1]["results"]["caption"].update({"ranks": [10**30]}),
    "ranks of no match": lambda record: record["queries"][1]["results"]["caption"].update({"matches": []}),
    "no ranks": lambda record: record["queries"][1]["results"]["caption"].update({"ranks": [], "matches": []}),
    "ranks in words": lambda record: record["queries"][1]["results"]["caption"].update({"ranks": ["first"]}),
    "a mode": lambda record: record["queries"][1]["results"].pop("caption"),
    "a caption": lambda record: record["queries"][1].pop("caption"),
    "queries": lambda record: record.update({"queries": []}),
    "queries of no form": lambda record: record.update({"queries": [3]}),
    "metrics": lambda record: record.update({"metrics": {}}),
    "metrics of no form": lambda record: record.update({"metrics": 3}),
    "ks": lambda record: record.update({"ks": "15"}),
    "the gallery": lambda record: record.update({"num_gallery": "many"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_report_whose_metrics_are_not_those_of_its_queries_is_refused(name, report, tmp_path):
    """A comparison went by the ranks, the table by the metrics, and damaged ones ended in tracebacks."""
    record = json.loads(report.to_json())
    DAMAGE[name](record)
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"results\.json is damaged .*; write it again"):
        read_report(tmp_path)


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; write it again with"):
        read_report(tmp_path / "nowhere")


def test_pictures_without_matplotlib_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install .*'\.\[train\]'"):
        check_charts()
