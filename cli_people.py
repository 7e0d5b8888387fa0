"""What commands do about people: the detector that is asked for, films to look in, one person of several, clusters.

What takes long to import is imported within.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .cli_galleries import AsJson
from .commands import command
from .files import printable, some
from .names import counted

if TYPE_CHECKING:
    from PIL import Image

    from .people import Detector
    from .retrieval import Gallery


class Material(NamedTuple):
    """What is to be indexed.

    Args:
        folder: of all of it. `photographs`, `films`: the files.
    """

    folder: Path
    photographs: list[Path]
    films: list[Path]


def find_material(source: Path, exclude: Sequence[str], rubbish: bool, people: bool) -> Material:
    """The photographs in a folder, and its films if people are looked for; or one film."""
    from .retrieval.photo_folder import find_films, find_images

    if source.is_file():
        if not people:
            raise ValueError(f"{printable(source)} is a file: give a folder of photographs, or, for a film, --people")
        return Material(source.parent, [], [source])
    films = find_films(source, exclude, rubbish) if people else []
    return Material(source, find_images(source, exclude, rubbish, films), films)


def check_film_alone(gallery: Path, film: Path) -> None:
    """Refuses to make a gallery of many files one of a single film among them.

    Raises:
        ValueError: it holds other files, and they are still there.
    """
    from .retrieval.segment_list import GalleryFolder

    place = GalleryFolder(gallery)
    if not (place.exists() and place.segments.is_dir()):
        return
    state = place.read()
    paths = {entry.path for _, entry in state.whereabouts() if entry.path is not None}
    if others := sorted(path for path in map(state.path_of, paths) if path != film and path.is_file()):
        raise ValueError(
            f"{printable(gallery)} holds {counted(len(others), 'other file')}, which {printable(film.name)} by itself "
            f"would replace ({some(others)}): give the folder of all of them, or another --output"
        )


def index_films_too(
    gallery: "Gallery",
    films: Sequence[Path],
    detector: "Detector",
    margin: float,
    rate: float | None,
    crops: int | None,
    batch_size: int,
    on_error: str,
) -> dict[str, Any]:
    """Makes the films of a gallery of people these; returns what to tell of people in photographs and films."""
    from .people import count_people
    from .people.film_index import count_films, index_films

    told = index_films(gallery, films, detector, margin, rate, crops, batch_size, on_error)
    count = count_people(gallery)
    whole = [*map(str, count.whole)]
    return {**count._asdict(), "whole": whole, **count_films(gallery)._asdict(), "skipped": told.skipped}


def cluster(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="folder that `fafa index` wrote")],
    sheet: Annotated[Path | None, typer.Option(help="draw the clusters, such as people.png")] = None,
    least: Annotated[
        int, typer.Option(min=2, help="how often somebody must have been seen: in photographs, or tracks of a film")
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Group the people of a gallery by who looks the same; `--where "cluster == 3"` then finds a group."""
    with command(kept=f"{printable(gallery)} is what it was."):
        from .drawing.sheet import check_replaced
        from .people.cluster_sheet import check_cluster_sheet, draw_cluster_sheet
        from .people.clusters import cluster_people

        check_cluster_sheet(sheet)
        check_replaced(sheet)
        found = cluster_people(gallery, least)
        if as_json:
            rows = [
                {"cluster": each.number, "seen": each.num_seen, "files": each.num_files, "ids": each.ids}
                for each in found
            ]
            print(json.dumps({"gallery": str(gallery), "clusters": rows}, indent=1))
        else:
            print(f"{'cluster':>7}  {'seen':>6}  {'files':>6}  {'images':>6}")
            for each in found:
                name = "none" if each.number < 0 else each.number
                print(f"{name:>7}  {each.num_seen:>6,}  {each.num_files:>6,}  {len(each.ids):>6,}")
        if sheet is not None:
            draw_cluster_sheet(found, sheet, title=f"People in {gallery.name}")
            typer.echo(f"picture: {printable(sheet)}", err=True)


def finder(
    settings: Mapping[str, Any],
    detector: str | None = None,
    margin: float | None = None,
    device: str | None = None,
    place: Path | None = None,
) -> tuple["Detector", float]:
    """A detector of people and the margin around them, by default as `settings` of a gallery name them.

    Args:
        place: the gallery's folder, if it is to be indexed: it refuses others before the detector is loaded.
    """
    from .people import DEFAULT_DETECTOR, load_detector
    from .people.crops import MARGIN
    from .people.detectors import name_of
    from .retrieval.cutting import check_cut

    noted = settings.get("people", {})
    margin = noted.get("margin", MARGIN) if margin is None else margin
    name = name_of(detector or noted.get("detector", DEFAULT_DETECTOR))
    if place is not None and settings:
        check_cut(place, settings, {"people": {"detector": name, "margin": margin}})
    return load_detector(name, device), margin


def person_in(
    photo: Path, number: int, settings: Mapping[str, Any], detector: str | None, device: str | None
) -> "Image.Image":
    """One of the people in a photo, counted from the left, cut out as those of a gallery with these settings are."""
    from .image_reading_fafa import open_image
    from .people import people_in

    upright = open_image(photo)
    people = people_in(upright, *finder(settings, detector, device=device))
    if number > len(people):
        boxes = "".join(f"; {place}: {box_told(one.box)}" for place, one in enumerate(people, start=1))
        raise ValueError(
            f"--person {number}: {counted(len(people), 'person')} found in {printable(photo)}{boxes}. Without "
            "--person, the whole photo is searched by"
        )
    return upright.crop(people[number - 1].box)


def box_told(box: Sequence[float]) -> str:
    """A box in words."""
    return ", ".join(f"{name} {side:.0f}" for name, side in zip(("left", "top", "right", "bottom"), box, strict=True))
