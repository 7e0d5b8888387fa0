"""Draws the clusters of a gallery's people: a row for each, with counts and typical images."""

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..drawing.palette import FAINT, GREY, INK, NEUTRAL
from ..drawing.sheet import (
    CAPTION_SIZE,
    GAP,
    MARGIN,
    PADDING,
    SMALL_SIZE,
    THUMB_WIDTH,
    Sheet,
    common_height,
    format_of,
    open_small,
    save_sheet,
)
from ..files import check_output_file
from ..names import clock, counted, some
from ..retrieval.identity import changes_since
from ..retrieval.metadata import Entry
from ..retrieval.opening import open_entry
from .clusters import NO_CLUSTER, SHOWN, Cluster

logger = logging.getLogger(__name__)

MOST_ROWS = 100  # clusters drawn: a sheet of them is 25,000 pixels high
HEADER_HEIGHT, NAME_WIDTH, LABEL_HEIGHT = 108, 190, 26  # pixels, as are all lengths here


def draw_cluster_sheet(
    clusters: Sequence[Cluster], path: str | Path | None = None, title: str = "People", font: str | Path | None = None
) -> Image.Image:
    """Draws a row for each cluster, at most `MOST_ROWS`: its number, how often and where it was seen, typical images.

    Files that are gone, or not what they were when they were encoded, are not opened; a warning counts them.

    Args:
        clusters: of `cluster_people`.
        path: where to write the picture, see `check_cluster_sheet`.
        font: a TrueType file, for titles outside Latin script.

    Raises:
        ValueError: there is nothing to draw, or the suffix of `path` says no format for pictures.
        OSError: it cannot be written.
    """
    check_cluster_sheet(path)
    rows, left_out = [], []
    for cluster in clusters[:MOST_ROWS]:
        opened = [(entry, _opened(entry)) for entry in cluster.typical]
        left_out += [entry.path or "an image without a file" for entry, image in opened if image is None]
        rows.append((cluster, [(entry, image) for entry, image in opened if image is not None]))
    if left_out:
        logger.warning("%s not drawn, gone, changed or unreadable: %s", counted(len(left_out), "image"), some(left_out))
    shapes = [image.height / image.width for _, images in rows for _, image in images]
    if not shapes:
        raise ValueError("nothing to draw: none of the images can be opened")
    thumb_height = common_height(iter(shapes))
    row_height = PADDING + thumb_height + LABEL_HEIGHT + PADDING // 2
    left = MARGIN + PADDING + NAME_WIDTH
    width = left + SHOWN * (THUMB_WIDTH + GAP) - GAP + PADDING + MARGIN
    sheet = Sheet(width, HEADER_HEIGHT + len(rows) * (row_height + GAP) - GAP + MARGIN, font)
    num_people = sum(cluster.number != NO_CLUSTER for cluster in clusters)
    told = f"{counted(num_people, 'cluster')} of people who look alike"
    told += f"; the first {MOST_ROWS} rows" if len(clusters) > MOST_ROWS else ""
    sheet.headline(title, told, room=width - 2 * MARGIN)
    for number, (cluster, images) in enumerate(rows):
        top = HEADER_HEIGHT + number * (row_height + GAP)
        sheet.panel((MARGIN, top, width - MARGIN, top + row_height))
        _draw_counts(sheet, cluster, (MARGIN + PADDING, top + PADDING))
        for place, (entry, image) in enumerate(images):
            x, y = left + place * (THUMB_WIDTH + GAP), top + PADDING
            frame = FAINT if cluster.number == NO_CLUSTER else NEUTRAL
            sheet.thumbnail(image, (x, y, x + THUMB_WIDTH, y + thumb_height), frame)
            if entry.time is not None:
                place_of_label = (x + THUMB_WIDTH // 2, y + thumb_height + LABEL_HEIGHT // 2)
                sheet.text(place_of_label, clock(entry.time), SMALL_SIZE, GREY, anchor="mm")
    if path is not None:
        save_sheet(sheet.image, path)
    return sheet.image


def check_cluster_sheet(path: str | Path | None) -> None:
    """Looks, before people are clustered, whether a sheet can be written there; errors as for `draw_cluster_sheet`."""
    if path is not None:
        format_of(path)
        check_output_file(path)


def _opened(entry: Entry) -> Image.Image | None:
    if entry.path is None or changes_since([entry.description()]):  # nor a file that an index from elsewhere names
        return None
    try:
        return open_small(open_entry(entry), 2)
    except (OSError, ValueError):
        return None


def _draw_counts(sheet: Sheet, cluster: Cluster, corner: tuple[int, int]) -> None:
    left, top = corner
    name = "in no cluster" if cluster.number == NO_CLUSTER else f"cluster {cluster.number}"
    sheet.text((left, top), name, CAPTION_SIZE + 4, INK)
    lines = [f"seen {counted(cluster.num_seen, 'time')}", f"in {counted(cluster.num_files, 'file')}"]
    lines.append(counted(len(cluster.ids), "image"))
    for number, line in enumerate(lines):
        sheet.text((left, top + 34 + 22 * number), line, SMALL_SIZE, GREY)
