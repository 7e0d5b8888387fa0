"""Pictures of a robustness report: curves over severity and strength, and a sheet that shows every corruption."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...drawing.curves import band, chart
from ...drawing.palette import AMBER, BLUE, GREEN, GREY, INK, NEUTRAL, PINK, RED, TEAL, VERMILION
from ...drawing.sheet import GAP, MARGIN, SMALL_SIZE, Sheet, common_height, open_small, save_sheet
from ...image_reading_fafa import open_image
from ...loading import undecoded
from .captions import CORRUPTIONS as CAPTION_CORRUPTIONS
from .images import CORRUPTIONS as IMAGE_CORRUPTIONS
from .report import PICTURES, RobustnessReport
from .suite import CAPTION, CorruptedImages, corrupted_captions

if TYPE_CHECKING:
    import datasets
    from matplotlib.axes import Axes

LINES = (BLUE, VERMILION, TEAL, PINK, AMBER, GREEN, RED)
WIDTH, LABEL = 150, 170  # of an image and of the names beside it, pixels


def draw_pictures(report: RobustnessReport, folder: str | Path, queries: "datasets.Dataset") -> dict[str, str]:
    """Draws the curves of a report, and the corruptions of its first query.

    Returns:
        name -> file name.
    """
    (curves, conflicts, sheet) = PICTURES.values()
    with chart(Path(folder, curves), figsize=(9.6, 4.6)) as figure:
        for axes, half in zip(figure.subplots(1, 2, sharey=True), (CAPTION, "image"), strict=True):
            _severities(report, axes, half)
    with chart(Path(folder, conflicts), figsize=(9.6, 4.6)) as figure:
        for axes, half in zip(figure.subplots(1, 2, sharey=True), (CAPTION, "image"), strict=True):
            _strengths(report, axes, half)
    save_sheet(draw_corruptions(queries, report.settings["seed"]), Path(folder, sheet), quality=90)
    return dict(PICTURES)


def draw_corruptions(queries: "datasets.Dataset", seed: int = 0) -> Image.Image:
    """A sheet of the first query: its image under every corruption and severity, and its caption likewise."""
    images, caption = undecoded(queries)["image"][:1], queries["caption"][0]
    clean = open_image(images[0], "reference image of query 0")
    height = common_height([clean.height / clean.width], WIDTH)
    severities = (1, 2, 3, 4, 5)
    texts = corrupted_captions([caption], severities, seed)
    width = 2 * MARGIN + LABEL + 5 * WIDTH + 4 * GAP
    top = 120
    sheet = Sheet(width, top + 8 * (height + GAP) + len(texts) * 28 + 40 + MARGIN)
    sheet.headline(
        "Corruptions of a query", "severity 1 to 5 from left to right; the clean image above", width - 2 * MARGIN
    )

    def row(name: str, shown: list[Image.Image]) -> None:
        nonlocal top
        sheet.text((MARGIN, top + height // 2 - 8), name, SMALL_SIZE + 2, INK)
        for place, image in enumerate(shown):
            left = MARGIN + LABEL + place * (WIDTH + GAP)
            sheet.thumbnail(open_small(image), (left, top, left + WIDTH, top + height), NEUTRAL)
        top += height + GAP

    row("clean", [clean])
    for name in IMAGE_CORRUPTIONS:
        row(name, [CorruptedImages(images, name, severity, seed)[0] for severity in severities])
    sheet.text((MARGIN, top + 8), f"clean: {caption}", SMALL_SIZE + 2, INK)
    top += 40
    for name in CAPTION_CORRUPTIONS:
        of_name = [(key, found[0]) for key, found in texts.items() if key.rpartition(" ")[0] == name]
        for key, found in of_name:
            sheet.text((MARGIN, top), key if len(of_name) > 1 else name, SMALL_SIZE, GREY)
            sheet.text((MARGIN + LABEL, top), found, SMALL_SIZE, INK)
            top += 28
    return sheet.image


def _severities(report: RobustnessReport, axes: "Axes", half: str) -> None:
    metric = next(iter(report.clean))
    chosen = [condition for condition in report.conditions if condition["half"] == half]
    lines = groupby(chosen, key=lambda condition: condition["name"])
    for colour, (name, of) in zip(LINES, lines, strict=False):
        points = list(of)
        if len(points) == 1:  # of one severity alone
            axes.axhline(100 * points[0]["relative"][metric][0], color=colour, linestyle=":", label=name)
            continue
        left = [[100 * end for end in point["relative"][metric]] for point in points]
        band(axes, [point["severity"] for point in points], left, colour, name)
    axes.set(xlabel="severity", title=f"Corrupted {half}", xticks=report.settings["severities"], ylim=(0, None))
    axes.set_ylabel(f"left of {metric} (%)" if half == CAPTION else "")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)


def _strengths(report: RobustnessReport, axes: "Axes", half: str) -> None:
    metric = next(iter(report.clean))
    of_half = [conflict for conflict in report.conflicts if conflict["half"] == half]
    strengths = [conflict["strength"] for conflict in of_half]
    wins = [conflict["own_wins"] for conflict in of_half]
    band(axes, strengths, wins, BLUE, "own target before the other's")
    for whose, colour in (("own", TEAL), ("other", VERMILION)):
        found = [conflict[whose][metric] for conflict in of_half]
        label = f"{metric} of the {'own' if whose == 'own' else 'other'} target"
        axes.plot(strengths, found, color=colour, marker="s", linestyle="--", label=label)
    axes.set(xlabel="strength", title=f"Wrong {half}", xticks=strengths, ylim=(0, 102))
    axes.set_ylabel("queries (%)" if half == CAPTION else "")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=1)
