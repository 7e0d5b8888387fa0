"""Diptychs of real photographs to train an adapter on: one person twice, side by side, with captions.

    FOLDER/pictures/00000.jsonl     a record per person: the diptychs made, and the photographs that could not be used
    FOLDER/captions/00000.jsonl     a record per photograph that is part of a diptych
    FOLDER/metadata.jsonl           a line per diptych: image, prompt, caption_a (left), caption_b (right), sources

Each half is filled without distortion: the photograph is scaled, its shape kept, until it covers the half. What stands
out is cut off, in equal parts at the left and right, or at the bottom, so that heads stay. A photograph is not used if
it would lose more than `max_cut` of its area, is too small, cannot be read, or is the same image as another of that
person; each is named with its reason.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from PIL import Image, ImageOps
from pydantic import AfterValidator, model_validator

from ...files import write_whole
from ...image_reading_fafa import UnreadableImageError, open_image
from ...workers import in_processes
from ..components import REJECTED, Record, SynthesisError, seed_of
from ..images import save_image
from ..models import LanguageModel
from ..models.asking import check_words
from ..preflight import try_models
from ..replies.languages import Language
from ..settings import Count, Free, Pixels, Settings, ShareBelowOne, Workers
from ..stages import ItemStage, Workspace, as_line
from ..templates import fill_template, with_fields
from .captions import CAPTION_INSTRUCTION, PhotographCaptions

logger = logging.getLogger(__name__)

DIPTYCH_PROMPT = "two photographs of the same person side by side; left: {caption_a}; right: {caption_b}"
METADATA = "metadata.jsonl"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_PEOPLE_PER_CHUNK = 64


def _with_groups(pattern: str) -> str:
    try:
        groups = set(re.compile(pattern).groupindex)
    except re.error as error:
        raise ValueError(f"pattern is no regular expression ({error})") from None
    if "identity" not in groups:
        raise ValueError("pattern needs a group (?P<identity>...)")
    if unknown := groups - {"identity", "camera", "clothes"}:
        raise ValueError(f"pattern may have groups identity, camera and clothes, not {', '.join(sorted(unknown))}")
    return pattern


class FolderDiptychs(Settings):
    """Diptychs composed of the photographs in a folder, whose paths tell who is on them.

    Attributes:
        root: The folder.
        pattern: Regular expression searched for in each photograph's path below `root` (with "/"). Its group
            `identity` says who it is; with groups `camera` and `clothes`, pairs are preferred that differ in clothes,
            then in camera. Photographs that it does not fit are passed over and counted.
        per_identity: Most diptychs of one person; no pair is used twice.
        width: Width of a diptych in pixels; each half has half of it.
        height: Height of a diptych in pixels.
        min_height: Least height of a photograph in pixels.
        max_cut: Largest part of a photograph's area that may be cut off.
        prompt: Prompt of a diptych, with `{caption_a}` (left) and `{caption_b}` (right). The recipe that paints with
            the adapter must use the same one.
        captions: JSONL file of lines `{"image": path below root, "caption": text}`; None if there is none.
        captioner: Model that writes the captions which that file lacks; None: diptychs without captions are left out.
        instruction: What the captioner is asked.
        attempts: How often it is asked until the answer can be used. Needs a `temperature` above 0.
        min_words: Fewest words of its captions.
        max_words: Most words of its captions.
        language: ISO 639-1 code of the language that its captions must be in.
        seed: Decides the choice of pairs and sides, and the captions.
        num_workers: Processes that compose.
    """

    kind: Literal["folders"] = "folders"
    root: str
    pattern: Annotated[str, AfterValidator(_with_groups)] = r"^(?P<identity>[^/]+)/"
    per_identity: Count = 2
    width: Pixels = 1024
    height: Pixels = 1024
    min_height: Count = 256
    max_cut: ShareBelowOne = 0.3
    prompt: Annotated[str, with_fields("caption_a", "caption_b")] = DIPTYCH_PROMPT
    captions: str | None = None
    captioner: LanguageModel | None = None
    instruction: Annotated[str, with_fields()] = CAPTION_INSTRUCTION
    attempts: Count = 3
    min_words: Count = 5
    max_words: Count = 60
    language: Language = "en"
    seed: int = 0
    num_workers: Free[Workers] = 4

    _check_words = model_validator(mode="after")(check_words)

    @model_validator(mode="after")
    def _check(self) -> "FolderDiptychs":
        if self.width % 2:
            raise ValueError(f"width must be even, not {self.width}: its halves are equally wide")
        if self.captions is None and self.captioner is None:
            raise ValueError("give captions (a file), a captioner (a model), or both")
        return self

    def load(self, folder: Path) -> Path:
        """Makes diptychs and their captions in `folder`, going on where an earlier call stopped.

        Returns:
            The metadata.jsonl in it. A diptych without both captions stays there, with the key "rejected".

        Raises:
            SynthesisError: no person has two photographs, nothing could be used, or `folder` was begun with others.
        """
        people, num_passed_over = find_people(Path(self.root), self.pattern)
        work = Workspace(folder, -(-len(people) // _PEOPLE_PER_CHUNK))
        pictures, captions = _Pictures(self, people, num_passed_over), PhotographCaptions(self)
        if self.captions is None:  # or the captioner may not be needed at all
            try_models([pictures, captions], work)
        pictures.run(work)
        captions.run(work)
        records, composed, metadata = list(_diptychs(self, work)), list(work.records("pictures")), work.root / METADATA
        write_whole(metadata, "".join(map(as_line, records)))
        made = [record for record in records if REJECTED not in record]
        for reason, count in work.counts("captions")["rejected"].items():
            logger.warning("%d photographs have no caption: %s", count, reason)
        logger.info(
            "%s: %d diptychs of %d people; left out: %d diptychs without captions, %d photographs that could not be "
            "used (see pictures/*.jsonl), %d that the pattern does not fit",
            metadata,
            len(made),
            len({record["identity"] for record in made}),
            len(records) - len(made),
            sum(len(record["unusable"]) for record in composed),
            num_passed_over,
        )
        if not made:
            reasons = sorted({record[REJECTED] for record in (*composed, *records) if REJECTED in record})
            raise SynthesisError(f"{metadata}: no diptych could be made: {'; '.join(reasons[:3])}")
        return metadata


class ReadyDiptychs(Settings):
    """Diptychs that exist already.

    Attributes:
        file: JSONL file of lines `{"image": path below the file's folder, "prompt": text}`. Lines with the key
            "rejected" are passed over.
    """

    kind: Literal["metadata"] = "metadata"
    file: Free[str]

    def load(self, folder: Path) -> Path:
        """The file; `folder` stays as it is."""
        return Path(self.file)


class Photograph(NamedTuple):
    """A photograph of a known person.

    Attributes:
        path: Path below the root, with "/".
        camera: Which camera took it; "" where unknown.
        clothes: What is worn; "" where unknown.
    """

    path: str
    camera: str
    clothes: str


def find_people(root: Path, pattern: str) -> tuple[dict[str, list[Photograph]], int]:
    """The photographs of everybody who has at least two, by name, and how many photographs the pattern does not fit.

    Raises:
        SynthesisError: there is no such folder, or nobody has two photographs in it.
    """
    if not root.is_dir():
        raise SynthesisError(f"{root}: there is no such folder; `root` must hold the photographs")
    files = [file for file in root.rglob("*") if file.suffix.lower() in _SUFFIXES]
    people: dict[str, list[Photograph]] = {}
    num_passed_over = 0
    for path in sorted(file.relative_to(root).as_posix() for file in files):
        if found := re.search(pattern, path):
            groups = {"camera": "", "clothes": ""} | found.groupdict(default="")
            people.setdefault(groups.pop("identity"), []).append(Photograph(path, **groups))
        else:
            num_passed_over += 1
    people = {name: photographs for name, photographs in sorted(people.items()) if len(photographs) > 1}
    if not people:
        raise SynthesisError(
            f"{root}: nobody has two photographs there; {num_passed_over} do not fit the pattern {pattern!r}"
        )
    return people, num_passed_over


def fill(image: Image.Image, width: int, height: int, min_height: int = 1, max_cut: float = 1.0) -> Image.Image:
    """A photograph scaled, its shape kept, and cut to a size in pixels.

    Raises:
        ValueError: it is less than `min_height` pixels high, or more than `max_cut` of its area would be lost.
    """
    if image.height < min_height:
        raise ValueError(f"{image.height} pixels high, at least {min_height} wanted")
    shape = (image.width / image.height) / (width / height)
    cut = 1 - min(shape, 1 / shape)
    if cut > max_cut:
        raise ValueError(f"{image.width} x {image.height} would lose {cut:.0%} of its area in {width} x {height}")
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS, centering=(0.5, 0.0))


def next_pair(
    photographs: Sequence[Photograph], used: Counter[str], paired: set[frozenset[str]]
) -> tuple[Photograph, Photograph] | None:
    """The least used photograph, and the one that differs most from it in clothes, then in camera.

    Args:
        photographs: Those of one person; ties go to the first.
        used: How often each path is part of a pair.
        paired: Pairs that are not to be made again.

    Returns:
        None if every pair was made.
    """
    for one in sorted(photographs, key=lambda each: used[each.path]):
        others = [each for each in photographs if each is not one and frozenset((one.path, each.path)) not in paired]
        if others:
            unlike = [(one.clothes == each.clothes, one.camera == each.camera, used[each.path]) for each in others]
            return one, others[unlike.index(min(unlike))]
    return None


class _Pictures(ItemStage):
    """Pairs the photographs of each person and joins them."""

    name, source = "pictures", None
    has_brake = False  # photographs are as they are, and those of one camera alike

    def __init__(self, settings: FolderDiptychs, people: dict[str, list[Photograph]], num_passed_over: int):
        super().__init__()
        self._settings, self._people = settings, list(people.items())
        chosen = ("pattern", "per_identity", "width", "height", "min_height", "max_cut", "seed")
        paths = "\n".join(photograph.path for photographs in people.values() for photograph in photographs)
        self.settings = {name: getattr(settings, name) for name in chosen} | {
            "photographs": {
                "people": len(people),
                "fitting": paths.count("\n") + 1,
                "passed over": num_passed_over,
                "paths": hashlib.sha256(paths.encode()).hexdigest()[:16],
            }
        }

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        start = chunk * _PEOPLE_PER_CHUNK
        people = enumerate(self._people[start : start + _PEOPLE_PER_CHUNK], start)
        return [{"id": name, "number": number, "photographs": found} for number, (name, found) in people]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        join = partial(_join_photographs, settings=self._settings, work_root=work.root, chunk=chunk)
        yield from in_processes(join, items, self._settings.num_workers, per_task=4)

    def files(self, record: Record) -> list[str]:
        return [diptych["image"] for diptych in record["diptychs"]]


def _join_photographs(item: Record, settings: FolderDiptychs, work_root: Path, chunk: int) -> Record:
    """Makes one person's diptychs; returns their record."""

    def rank(*parts: str) -> int:
        return seed_of(settings.seed, "pictures", *parts)

    width, height = settings.width // 2, settings.height
    left = sorted(item["photographs"], key=lambda photograph: rank(photograph.path))
    used, paired, diptychs, unusable = Counter(), set(), [], {}
    known: dict[bytes, str] = {}  # paths by pixels: from one image twice, the adapter would learn to repeat it
    while len(diptychs) < settings.per_identity and (pair := next_pair(left, used, paired)):
        paths = sorted((each.path for each in pair), key=lambda path: rank("side", str(len(diptychs)), path))
        halves = []
        for path in paths:
            file = Path(settings.root, path)
            try:
                image = open_image(file)
                pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
                if (first := known.setdefault(pixels, path)) != path:
                    raise ValueError(f"the same picture as {first}")
                halves.append(fill(image, width, height, settings.min_height, settings.max_cut))
            except ValueError as error:
                is_unreadable = isinstance(error, UnreadableImageError)
                unusable[path] = "cannot be read as a picture" if is_unreadable else str(error)
                logger.warning("%s is not used: %s", file, error)
            except OSError as error:  # says nothing about the photograph, so the stage must not go on without it
                raise SynthesisError(str(error)) from error
        left = [photograph for photograph in left if photograph.path not in unusable]
        if len(halves) < 2:
            continue
        diptych = Image.new("RGB", (settings.width, height))
        for number, half in enumerate(halves):
            diptych.paste(half, (number * width, 0))
        name = f"{item['number']:06d}-{len(diptychs)}"
        file = f"pictures/images/{chunk:05d}/{name}.png"
        save_image(diptych, work_root / file, quality=95)
        diptychs.append({"id": name, "image": file, "sources": paths})
        used.update(paths)
        paired.add(frozenset(paths))
    record = {"id": item["id"], "diptychs": diptychs, "unusable": unusable}
    return record if diptychs else record | {REJECTED: "fewer than two usable photographs"}


def _diptychs(settings: FolderDiptychs, work: Workspace) -> Iterator[Record]:
    """The lines of metadata.jsonl."""
    for chunk in range(work.num_chunks):
        captions = {record["id"]: record for record in work.read("captions", chunk)}
        for person in work.kept("pictures", chunk):
            for diptych in person["diptychs"]:
                sides = [captions[path] for path in diptych["sources"]]
                faults = [f"{side['id']}: {side[REJECTED]}" for side in sides if REJECTED in side]
                record = {**diptych, "identity": person["id"]}
                if faults:
                    yield record | {REJECTED: "; ".join(faults)}
                    continue
                texts = {"caption_a": sides[0]["caption"], "caption_b": sides[1]["caption"]}
                yield record | texts | {"prompt": fill_template(settings.prompt, texts)}
