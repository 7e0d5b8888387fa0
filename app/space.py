"""A folder ready to be a Space of Hugging Face: package, model, gallery and pictures, and what serves them.

README.md          what Hugging Face reads at its head, and what people should know
app.py             starts the server
requirements.txt   the libraries, in the versions that were installed here
fafa/              this package
model/             model and processor
gallery/, photos/  the index, and the pictures that it names
examples.json      images and sentences to begin with
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..files import read_json, whole_folder, write_json
from ..model_folder import load_model
from ..names import counted, printable
from ..retrieval.fingerprint import read_as_noted
from ..retrieval.gallery import Gallery
from ..retrieval.segment_list import GalleryFolder
from .media import holds_films
from .server import create_app, open_socket, server_of
from .service import SearchService

PACKAGE = Path(__file__).parents[1]
HUB = "https://huggingface.co"
_TOKEN = "FAFA_TOKEN"
_APP = '''"""Serves the gallery in this folder."""

from pathlib import Path

from fafa.app.space import serve_space

# With the secret FAFA_TOKEN (settings of the Space) only those who have it get in. Without that secret
# {meaning}
serve_space(Path(__file__).parent, {model!r}, open_to_all={is_open})
'''
_README = """---
title: {title}
emoji: 🔎
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "{python}"
app_file: app.py
pinned: false
---

# {heading}

Find a person in {gallery} by a photograph and a sentence that says what differs.

{who}

Made by `fafa space`. To try it here: `pip install -r requirements.txt`, then `python app.py`.

## Before you publish it

{rights} Do not use it to follow, identify or judge people without a legal ground. A score is a likeness and no proof: a
person has to look at every result.
"""
_PAINTED = "The people in this gallery are painted by a program: nobody is shown."
_REAL = (
    "The photographs in `photos/` show people. To publish them, or to make people in them searchable, needs their "
    "consent or another legal ground."
)


def write_space(
    folder: Path,
    gallery: Gallery,
    model: str | os.PathLike,
    title: str,
    is_painted: bool = False,
    begin_with: Sequence[tuple[int, str | None]] = (),
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        folder: absent or empty.
        gallery: its images lie in one folder. `model`: the folder it was made by, or a name on the Hub.
        is_painted: whether nobody is shown, so that it may be open to all.
        begin_with: as for `SearchService`.

    Raises:
        ValueError: the images lie in no one folder, or the package is not installed with this extra.
        OSError: the folder holds something, or cannot be written; or an image is gone.
    """
    state = gallery.state
    if state.images_folder is None:
        raise ValueError("the gallery's images lie in no one folder: index a folder of photographs, and take that")
    requirements = _requirements(holds_films(gallery))
    with whole_folder(folder, "app.py") as part:
        _copy_package(part / "fafa")
        name = str(model)
        if Path(model).is_dir():
            name = "model"
            shutil.copytree(model, part / name, ignore=shutil.ignore_patterns("checkpoint-*", "*.png", "runs"))
        settings = {**state.settings, "model": state.settings["model"] | {"name": name}}
        for path in sorted({entry.path for _, entry in state.whereabouts() if entry.path is not None}):
            copy = part / "photos" / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(state.path_of(path), copy)
        gallery.save(part / "gallery")
        place = GalleryFolder(part / "gallery")
        where = {"images_folder": "photos", "images_folder_from_here": "../photos"}  # none of this machine's
        place.write(place.manifest() | where | {"settings": settings, "skipped": []})
        write_json(part / "examples.json", [list(example) for example in begin_with])
        (part / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        readme = _README.format(
            title=json.dumps(title, ensure_ascii=False),  # which YAML reads as text, whatever is in it
            heading=printable(title),
            gradio=version("gradio"),
            python=".".join(platform.python_version_tuple()[:2]),
            gallery=counted(len(gallery), "picture"),
            who="It is open to everybody." if is_painted else f"It needs the secret {_TOKEN}, and asks people for it.",
            rights=_PAINTED if is_painted else _REAL,
        )
        (part / "README.md").write_text(readme, encoding="utf-8")
        meaning = "everybody is let in: nobody is shown." if is_painted else "nothing is served."
        text = _APP.format(meaning=meaning, model=name, is_open=is_painted)
        (part / "app.py").write_text(text, encoding="utf-8")


def serve_space(folder: Path, model: str, open_to_all: bool = False) -> None:
    """Serves such a folder where Hugging Face expects it, until the process is ended.

    Args:
        model: a folder in it, or a name on the Hub.
        open_to_all: whether to serve without a token, too.

    Raises:
        SystemExit: there is no token, with what to do.
    """
    token = os.environ.get(_TOKEN)
    if token is None and not open_to_all:
        raise SystemExit(f"set the secret {_TOKEN}: this gallery is not served to everybody")
    opened = open_socket("0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    source = folder / model if (folder / model).is_dir() else model
    made, processor = load_model(source)
    read_as_noted(processor, GalleryFolder(folder / "gallery").settings())
    gallery = Gallery.load(folder / "gallery", made, processor, folder=folder / "photos")
    begin_with = [(number, caption) for number, caption in read_json(folder / "examples.json")]
    service = SearchService(gallery, name="gallery of this Space", begin_with=begin_with)
    names = [os.environ["SPACE_HOST"]] if "SPACE_HOST" in os.environ else []
    app = create_app(service, names=names, token=token, framed_by=HUB if names else None)
    server_of(app).run([opened])


def _copy_package(folder: Path) -> None:
    folder.mkdir()
    for file in PACKAGE.glob("*.py"):
        if file.name != "setup.py":
            shutil.copy2(file, folder)
    for room in PACKAGE.glob("*/__init__.py"):
        shutil.copytree(room.parent, folder / room.parent.name, ignore=shutil.ignore_patterns("__pycache__"))


def _requirements(films: bool) -> list[str]:
    """What the package and this extra need, and what reads films, in the versions that are installed."""
    try:
        needed = requires("fafa") or []
    except PackageNotFoundError:
        needed = []
    if not any("app" in _extra_of(line) for line in needed):
        raise ValueError("this package is not installed with its extra app: pip install '.[app]' in its folder first")
    wanted = [re.match(r"[\w.-]+", line)[0] for line in needed if _extra_of(line) in ("", "app")] + ["av"] * films
    return sorted(f"{name}=={version(name).partition('+')[0]}" for name in wanted)


def _extra_of(requirement: str) -> str:
    found = re.search(r"""extra == ["'](\w+)""", requirement)
    return found[1] if found else ""
