"""Pictures: which queries the sheets show, and that curves draw what the report holds."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageChops

from fafa.evaluation import pictures
from fafa.retrieval import RankedImage, RankedQuery, draw_contact_sheet


@pytest.fixture
def report(make_report):
    report = make_report(**{"image+caption": [1, 14, 2, 1], "caption": [1, 7, 20, 4], "image": [3, 3, 3, 3]})
    points = [{"rank-1": 60.0, "mAP": 70.0}, {"rank-1": 50.0, "mAP": 60.0}]
    report.curves = {
        "mode": "image+caption",
        "top_tokens": [{"num_top_tokens": count, **point} for count, point in zip((1, 2), points, strict=True)],
        "gallery_size": [{"num_images": 4, "draws": points[:1]}, {"num_images": 20, "draws": points}],
    }
    return report


@pytest.fixture
def test_set():
    """Query n and gallery image n are of the same colour."""
    images = [Image.new("RGB", (24, 48), (10 * index, 90, 90)) for index in range(20)]
    queries = [{"image": image, "caption": "in red"} for image in images[:4]]
    gallery = _Rows([{"image": image, "instance_id": index if index < 4 else -1} for index, image in enumerate(images)])
    return queries, gallery


class _Rows(list):
    """Rows by number, columns by name, as a `datasets.Dataset` gives them."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture
def sheets(monkeypatch):
    """The rows given to each sheet, by its title."""
    drawn = {}
    draw = pictures.draw_contact_sheet

    def record(rows, **options):
        drawn[options["title"].split()[0]] = (rows, options)
        return draw(rows, **options)

    monkeypatch.setattr(pictures, "draw_contact_sheet", record)
    return drawn


def test_every_picture_is_drawn(report, test_set, tmp_path, sheets, monkeypatch):
    drawn = pictures.draw_pictures(report, tmp_path, *test_set)
    assert sorted(drawn.values()) == sorted(path.name for path in tmp_path.iterdir())
    assert {"Rank-k", "Top tokens", "Gallery size", "best", "worst", "random"} < set(drawn)
    for file in drawn.values():
        with Image.open(tmp_path / file) as picture:
            assert picture.width > 600 and np.asarray(picture.convert("L")).std() > 5

    report.curves = {}
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    assert not {"Top tokens", "Gallery size"} & set(pictures.draw_pictures(report, tmp_path, *test_set))


def test_best_lead_most_and_worst_rank_last(report, test_set, tmp_path, sheets):
    pictures.draw_sheets(report, tmp_path, *test_set)
    reds = {name: [row.image.getpixel((0, 0))[0] // 10 for row in rows] for name, (rows, _) in sheets.items()}
    assert reds["Best"][:2] == [3, 0]  # query 3 leads by more
    assert reds["Worst"][:2] == [1, 2]
    assert sorted(reds["Random"]) == [0, 1, 2, 3]


def test_a_target_beyond_the_row_takes_its_last_place(report, test_set, tmp_path, sheets):
    pictures.draw_sheets(report, tmp_path, *test_set)
    worst = sheets["Worst"][0][0]
    assert worst.first_match_rank == 14 and len(worst.results) == 10
    assert [image.correct for image in worst.results] == [False] * 9 + [True]
    assert worst.results[-1].rank == 14 and worst.results[-1].score == 0.9 - 0.01 * 13 - 0.001
    assert worst.results[-1].image.getpixel((0, 0))[0] == 10


def test_a_given_rank_is_what_the_sheet_says():
    image = Image.new("RGB", (24, 48))
    by_place, given, same = (
        draw_contact_sheet([RankedQuery(image, "in red", [RankedImage(image, 0.5, True, rank=rank)])])
        for rank in (None, 1234, 1)
    )
    assert ImageChops.difference(by_place, given).getbbox() and not ImageChops.difference(by_place, same).getbbox()


@pytest.mark.parametrize(("mode", "image", "caption"), [("caption", False, True), ("image", True, False)])
def test_sheets_show_what_the_query_was(make_report, test_set, tmp_path, sheets, mode, image, caption):
    pictures.draw_sheets(make_report(**{mode: [1, 2, 3, 4]}), tmp_path, *test_set)
    row = sheets["Best"][0][0]
    assert (row.image is not None, row.caption is not None) == (image, caption)


def test_curves_show_the_numbers_of_the_report(report):
    axes = Figure().subplots()
    pictures._rank_k(report, axes)
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines["image+caption"][[0, 1, 12, 13]]) == [50, 75, 75, 100]
    assert list(lines["image"][:3]) == [0, 0, 100]
    assert lines["chance"][9] == pytest.approx(50)

    axes = Figure().subplots()
    pictures._first_ranks(report, axes)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert dict(zip(labels, (bar.get_height() for bar in axes.patches), strict=True)) == {
        "1": 50, "2": 25, "3-5": 0, "6-10": 0, "11-20": 25
    }  # fmt: skip

    axes = Figure().subplots()
    pictures._gallery_size(report, axes)
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines["rank-1"]) == [60, 55] and list(lines["mAP"]) == [70, 65]
