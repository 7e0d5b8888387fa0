"""Two reports on the same queries are compared; on other ones they are refused, saying what differs."""

import sys

import pytest

from fafa.evaluation import compare, read_report, write_report
from fafa.evaluation.compare import compare_reports


def table(page, heading):
    """Cells of the first table after a heading."""
    lines = page[page.index(heading) :].split("\n\n")
    rows = next(block for block in lines if block.startswith("|")).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_differences_and_the_queries_that_changed(make_report):
    first = make_report(**{"image+caption": [1, 3, 2, 8, 1]})
    second = make_report(**{"image+caption": [1, 1, 1, 9, 4]})
    page = compare_reports(first, second, names=("runs/a", "runs/b"))
    assert "- A: runs/a, model tiny, image+caption\n- B: runs/b, model tiny, image+caption" in page
    header, _, rank_1, rank_5, mean_ap, _ = table(page, "# A against B")
    assert header == ["", "A", "B", "B - A", "p"]
    assert rank_1[:3] == ["rank-1", "40.00", "60.00"] and rank_1[3].startswith("+20.00 [-40.00, +80.00]")
    assert rank_5[1:] == ["80.00", "80.00", "+0.00 [+0.00, +0.00]", "1.000"]
    assert mean_ap[1:3] == ["59.17", "67.22"]
    assert "2 queries won, 1 lost; by the exact sign test (McNemar) p is 1.000" in page
    assert "higher for 2 queries, lower for 2, and the same for 1." in page
    assert table(page, "## Won by B: 2")[2:] == [
        ["1.jpg", "in red", "A", "1", "3", "1"],
        ["2.jpg", "in red", "B", "2", "2", "1"],
    ]
    assert table(page, "## Lost by B: 1")[2:] == [["4.jpg", "in red", "B", "4", "1", "4"]]


def test_a_run_does_not_differ_from_itself(make_report):
    report = make_report(**{"caption": [1, 3, 2]})
    page = compare_reports(report, report)
    assert page.count("+0.00 [+0.00, +0.00]") == 4 and page.count("1.000") == 5
    assert "## Won" not in page and "## Lost" not in page


def test_a_large_difference_is_significant(make_report):
    page = compare_reports(make_report(**{"caption": [2] * 15}), make_report(**{"caption": [1] * 15}))
    assert table(page, "# A")[2][3:] == ["+100.00 [+100.00, +100.00]", "< 0.001"]
    assert "15 queries won, 0 lost; by the exact sign test (McNemar) p is < 0.001" in page


def test_two_kinds_of_query_of_one_run(make_report):
    report = make_report(**{"image+caption": [1, 3, 2], "caption": [1, 1, 2]})
    page = compare_reports(report, report, mode="image+caption", against="caption")
    assert "tiny, image+caption\n" in page and "tiny, caption\n" in page
    assert table(page, "## Won by B: 1")[2][-2:] == ["3", "1"]
    with pytest.raises(ValueError, match=r"second has no results of 'image', only of image\+caption, caption"):
        compare_reports(report, report, against="image")


def test_the_sum_against_a_report_of_before_there_was_one(make_report, tmp_path):
    write_report(make_report(**{"image+caption": [1, 3, 1], "late-fusion": [2, 2, 2]}), tmp_path)
    before, now = read_report(tmp_path), make_report(**{"sum": [1, 1, 1], "late-fusion": [2, 2, 2]})
    page = compare_reports(before, now, mode="late-fusion", against="sum")
    assert "3 queries won, 0 lost" in page and "tiny, sum" in page
    with pytest.raises(ValueError, match=r"first has no results of 'sum', only of image\+caption, late-fusion"):
        compare_reports(before, now, mode="sum")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.queries.pop(), "3 queries in one, 2 in the other"),
        (
            lambda report: report.queries[1].update(caption="in blue"),
            "caption of query 1 is 'in red' in one, 'in blue'",
        ),
        (
            lambda report: report.queries[2].update(image_path="x.jpg"),
            "image_path of query 2 is '2.jpg' in one, 'x.jpg'",
        ),
        (lambda report: report.queries[0].update(instance_id=9), "instance_id of query 0 is 0 in one, 9 in the other"),
        (lambda report: setattr(report, "num_gallery", 1900), "a gallery of 20 images and one of 1,900"),
        (lambda report: setattr(report, "gallery_fingerprint", "5"), "differ in images or order"),
    ],
)
def test_other_queries_or_galleries_are_refused(make_report, change, message):
    other = make_report(**{"caption": [1, 3, 2]})
    change(other)
    with pytest.raises(ValueError, match=f"cannot be compared query by query: .*{message}"):
        compare_reports(make_report(**{"caption": [1, 3, 2]}), other)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process; returns what it prints."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        compare.main()
        return capsys.readouterr().out

    return run_command


def test_command(make_report, tmp_path, run, capsys):
    write_report(make_report(**{"caption": [1, 3, 2]}), tmp_path / "a")
    write_report(make_report(**{"caption": [1, 1, 2]}), tmp_path / "b")
    page = run(tmp_path / "a", tmp_path / "b" / "results.json")
    assert page.startswith("# A against B\n") and "## Won by B: 1" in page
    assert run(tmp_path / "a", tmp_path / "b" / "results.json", "--output", tmp_path / "new" / "page.md") == ""
    assert (tmp_path / "new" / "page.md").read_text() == page
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "a", tmp_path / "c")
    assert stopped.value.code == 2 and "c does not exist" in capsys.readouterr().err
