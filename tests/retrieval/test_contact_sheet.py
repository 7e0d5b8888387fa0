"""What a person reads off the contact sheet: frames, ranks, captions, notes."""

import errno

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageColor

from fafa.drawing.palette import AMBER, GREEN, NEUTRAL, RED
from fafa.drawing.sheet import FRAME
from fafa.drawing.typeface import Typeface
from fafa.retrieval import RankedImage, RankedQuery, check_sheet, draw_contact_sheet


def person(colour="steelblue", size=(48, 96)):
    return Image.new("RGB", size, colour)


def results(*truths):
    return [RankedImage(person(), 0.9 - 0.01 * rank, correct) for rank, correct in enumerate(truths)]


def frames(sheet):
    """The frames' colours, row by row: lines of the picture on which frame edges, FRAME pixels wide, alternate."""
    rows, previous, repeats = [], None, 0
    for line in np.asarray(sheet):
        colours = []
        for colour in (GREEN, RED, NEUTRAL):
            mask = (line == ImageColor.getrgb(colour)).all(axis=1)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
            starts, stops = edges[::2], edges[1::2]
            colours += [(start, colour) for start, stop in zip(starts, stops, strict=True) if stop - start == FRAME]
        found = [colour for _, colour in sorted(colours)]
        repeats = repeats + 1 if found == previous else 0
        previous = found
        if found and repeats == 40:  # a thumbnail's height, not a glyph's
            assert found[::2] == found[1::2], "each image has a left and a right edge"
            rows.append(found[::2])
    return rows


def changed_box(first, second):
    """Bounding box (left, top, right, bottom) of where two sheets differ."""
    assert first.size == second.size
    return ImageChops.difference(first, second).getbbox()


def holds(sheet, colour):
    return (np.asarray(sheet) == ImageColor.getrgb(colour)).all(axis=2).any()


def test_frames_are_green_red_and_grey_in_rank_order():
    rows = [
        RankedQuery(person(), "in a red coat", results(False, True, False, True)),
        RankedQuery(person(), "in a red coat", results(True, False)),
        RankedQuery(person(), "in a red coat", results(None, None, None)),
    ]
    expected = [[RED, GREEN, RED, GREEN], [GREEN, RED], [NEUTRAL, NEUTRAL, NEUTRAL]]
    assert frames(draw_contact_sheet(rows)) == expected


def test_ten_results_are_shown_of_many():
    sheet = draw_contact_sheet([RankedQuery(person(), "x", results(*[False] * 14))])
    assert [len(row) for row in frames(sheet)] == [10]


def test_legend_names_only_the_frames_that_occur():
    unknown = draw_contact_sheet([RankedQuery(person(), "x", results(None, None))])
    known = draw_contact_sheet([RankedQuery(person(), "x", results(True, False))])
    assert holds(unknown, NEUTRAL) and not holds(unknown, GREEN) and not holds(unknown, RED)
    assert holds(known, GREEN) and holds(known, RED) and not holds(known, NEUTRAL)


@pytest.mark.parametrize(
    "caption",
    [
        "and " * 300,
        "incomprehensibilities" * 20,
        "穿红色外套，戴帽子",
        "café – naïve “quotes” … 🎒 \x00 \ud800 \n\t new line",
    ],
    ids=["long", "one long word", "chinese", "odd characters"],
)
def test_any_caption_stays_between_the_reference_image_and_the_results(caption):
    shown = results(True)
    sheet = draw_contact_sheet([RankedQuery(person(), caption, shown)])
    left, top, right, bottom = changed_box(sheet, draw_contact_sheet([RankedQuery(person(), "", shown)]))
    green = np.argwhere((np.asarray(sheet) == ImageColor.getrgb(GREEN)).all(axis=2))
    frame_top, frame_left = green[green[:, 0] > 128].min(axis=0)
    blue = np.argwhere((np.asarray(sheet)[:, :frame_left] == ImageColor.getrgb("steelblue")).all(axis=2))
    assert blue[:, 1].max() < left and right < frame_left
    assert frame_top <= top and bottom <= blue[:, 0].max() + FRAME


def test_a_caption_is_drawn_whole_when_it_fits_and_shortened_when_not():
    def sheet(caption):
        return draw_contact_sheet([RankedQuery(person(), caption, results(True))])

    words = "in a long red coat with a blue backpack and white shoes"
    assert changed_box(sheet(words), sheet(f"{words} now"))
    assert changed_box(sheet("and " * 300), sheet("and " * 301)) is None


def test_of_a_caption_that_is_a_book_no_more_is_measured_than_is_drawn(monkeypatch):
    """A caption of a million characters took most of a minute."""
    measured = []
    width = Typeface.width
    monkeypatch.setattr(Typeface, "width", lambda self, text, size: measured.append(text) or width(self, text, size))
    for caption in ("coat " * 20_000, "c" * 100_000):
        measured.clear()
        lines = Typeface().wrap(caption, 16, 150, max_lines=3)
        assert len(lines) == 3 and lines[-1].endswith("...") and len(measured) < 300


def test_blanks_and_invisible_characters_do_not_show():
    plain, odd = (
        draw_contact_sheet([RankedQuery(person(), caption, results(True))])
        for caption in ("in a red coat", "  in\n a\tre\u200bd\x00 coat\ud800")
    )
    assert changed_box(plain, odd) is None


def test_target_beyond_the_shown_results_is_noted():
    def sheet(rank):
        return draw_contact_sheet([RankedQuery(person(), "x", results(*[False] * 10), first_match_rank=rank)])

    assert holds(sheet(11), AMBER) and changed_box(sheet(11), sheet(12))
    assert not holds(sheet(10), AMBER) and not holds(sheet(None), AMBER)


def test_note_counts_images_shown_not_results_given():
    rows = [RankedQuery(person(), "x", results(*[False] * 14, True), first_match_rank=15)]
    assert holds(draw_contact_sheet(rows), AMBER)


def test_queries_with_half_missing():
    shown = results(True, False)
    pair, text, image = (
        draw_contact_sheet([RankedQuery(reference, caption, shown)])
        for reference, caption in [(person("orange"), "x"), (None, "x"), (person("orange"), None)]
    )
    assert holds(pair, "orange") and holds(image, "orange") and not holds(text, "orange")
    assert changed_box(pair, text) and changed_box(pair, image)
    with pytest.raises(ValueError, match="neither"):
        RankedQuery(results=shown)


@pytest.mark.parametrize("size", [(200, 50), (50, 200), (100, 100)])
def test_thumbnails_keep_their_shape(size):
    row = RankedQuery(None, "x", [*results(True, True, True), RankedImage(person("orange", size))])
    rows, columns = np.nonzero((np.asarray(draw_contact_sheet([row])) == ImageColor.getrgb("orange")).all(axis=2))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)


def test_scores_and_ranks_are_optional_and_images_may_be_paths(tmp_path):
    person().save(tmp_path / "a.png")
    path = tmp_path / "new folder" / "sheet.png"
    sheet = draw_contact_sheet([RankedQuery(tmp_path / "a.png", "x", [RankedImage(tmp_path / "a.png")])], path)
    with Image.open(path) as written:
        assert changed_box(written.convert("RGB"), sheet) is None


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="0 queries"):
        draw_contact_sheet([])
    with pytest.raises(ValueError, match="1 query, none with a result"):
        draw_contact_sheet([RankedQuery(person(), "x")])


def test_many_results_take_several_lines_in_the_order_of_rank():
    """A thousand in one line were 120,494 pixels wide, and a JPEG of 600 failed after the search."""
    truths = [True] * 10 + [False] * 3
    one, two = (
        draw_contact_sheet([RankedQuery(person(), "x", results(*truths[:number]))], max_results=number)
        for number in (10, 13)
    )
    assert frames(two) == [[GREEN] * 10, [RED] * 3]
    assert two.width == one.width and one.height < two.height < 2 * one.height
    many = draw_contact_sheet([RankedQuery(None, "x", results(*[None] * 120))], max_results=120)
    assert 0.5 < many.width / many.height < 2


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1970, 10), (10, 1970)])
def test_a_very_thin_picture_is_drawn_as_a_line(size, tmp_path):
    """It vanished when it was fitted into its thumbnail, and the sheet with it."""
    row = RankedQuery(person("orange", size), "x", [RankedImage(person("orange", size))])
    assert holds(draw_contact_sheet([row]), "orange")


@pytest.mark.parametrize(
    ("name", "num_queries", "max_results", "message"),
    [
        ("sheet.webp", 70, 10, r"70 queries of 10 results .* \.webp holds at most 16,383 a side: use \.png"),
        ("sheet.jpg", 300, 1, r"\.jpg holds at most 65,500"),
        ("sheet.png", 1, 100_000, "more than 100,000,000 in all: draw fewer"),
        ("sheet.heif", 1, 1, r"sheet\.heif: \.heif says no format for a picture; use .*\.jpg"),
        ("sheet", 1, 1, "no suffix says no format"),
    ],
)
def test_a_sheet_that_its_file_cannot_hold_is_known_beforehand(tmp_path, name, num_queries, max_results, message):
    with pytest.raises(ValueError, match=message):
        check_sheet(tmp_path / name, num_queries, max_results)


@pytest.mark.parametrize(("name", "number"), [("sheet.jpg", 600), ("sheet.webp", 1000), ("sheet.png", 3000)])
def test_hundreds_of_results_fit(tmp_path, name, number):
    check_sheet(tmp_path / "new" / "folder" / name, max_results=number)
    check_sheet(None, max_results=number)


def test_a_picture_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    row = RankedQuery(person(), "x", results(None))
    draw_contact_sheet([row], tmp_path / "sheet.png")
    before = (tmp_path / "sheet.png").read_bytes()

    def fill_the_disk(self, path, **options):
        path.write_bytes(b"half a picture")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="disk is full"):
        draw_contact_sheet([row], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
