"""The pipeline of text-image pairs: prompts, pictures, poses, edits, edit_poses, captions, assemble, statistics.

prompts/      texts to paint from            pictures/     a person each
poses/        those seen from head to knees, cut out
edits/        the same people elsewhere      edit_poses/   the same filter over them
captions/     of both
SynTBPR/      what load_dataset reads        statistics/   a page about it
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..components import REJECTED, ImageRequest, Record, seed_of
from ..painters import DiffusionPainter, ImageServer
from ..pictures import PictureFormat, link_picture, save_picture
from ..planning import plan_pictures
from ..recipe import Recipe, TextCount
from ..settings import Settings, deciding
from ..stages import (
    DataSetStage,
    PaintingStage,
    PartStage,
    Stage,
    WholeStage,
    Workspace,
    WritingStage,
    as_json_list,
)
from ..stand_ins.figures import FigureFilter
from ..stand_ins.grammar import GrammarCaptions, WorldPrompts
from ..stand_ins.portraits import WorldPortrait
from .assembling import EDITED, GENERATED, image_entries
from .captioning import InstructionCaptions, TemplateCaptions
from .editing import Editing, edit_request, plan_edits
from .poses import KeypointFilter
from .prompts import RoughTemplatePrompts, TemplatePrompts

DATASET = "SynTBPR"


class PromptSettings(Settings):
    """How prompts are made.

    Attributes:
        count: Of prompts.
        writer: Who writes them.
    """

    count: TextCount
    writer: Annotated[TemplatePrompts | RoughTemplatePrompts | WorldPrompts, Field(discriminator="kind")]


class PictureSettings(PictureFormat):
    """How pictures are made, and in which format.

    Attributes:
        painter: Who paints them.
        per_prompt: Pictures of each prompt; every one shows a person of its own.
    """

    painter: Annotated[DiffusionPainter | ImageServer | WorldPortrait, Field(discriminator="kind")]
    per_prompt: Annotated[int, Field(ge=1, le=1_000)] = 5


class TextImageRecipe(Recipe):
    """A recipe for pictures of people with captions, several pictures per person.

    Attributes:
        prompts: What to paint.
        pictures: The painting.
        poses: Which pictures show one whole person.
        captions: What is said of the pictures.
        edits: Further pictures of the same people; None for none.
    """

    kind: Literal["text-image"] = "text-image"

    prompts: PromptSettings
    pictures: PictureSettings
    poses: Annotated[KeypointFilter | FigureFilter, Field(discriminator="kind")]
    captions: Annotated[InstructionCaptions | TemplateCaptions | GrammarCaptions, Field(discriminator="kind")]
    edits: Editing | None = None

    @property
    def count(self) -> int:
        """Of prompts."""
        return self.prompts.count

    @property
    def dataset(self) -> str:
        """SynTBPR."""
        return DATASET

    def limited(self, count: int) -> "TextImageRecipe":
        """The recipe for the first `count` prompts."""
        return self.replaced(prompts=self.prompts.replaced(count=min(count, self.count)))

    def plan(self) -> str:
        """What the first prompt would be, or be written from, and what all would cost."""
        return f"{self.prompts.writer.preview('0', self.seed)}\n\n{plan_pictures(self)}"

    def stages(self) -> list[Stage]:
        """What is to be done, in order."""
        stages = [
            _Prompts(self.prompts.writer, self.prompts.count, self.chunk_size, self.seed),
            _Pictures(self),
            _Poses(self, "poses", "pictures"),
        ]
        if self.edits:
            stages += [_Edits(self), _Poses(self, "edit_poses", "edits")]
        return [*stages, _Captions(self), _Assemble(self), _Statistics(self)]


class _Prompts(WritingStage):
    """Writes prompts."""

    name = "prompts"


class _Pictures(PaintingStage):
    """Paints a person by every prompt, several times."""

    name, source = "pictures", "prompts"

    def __init__(self, recipe: TextImageRecipe):
        settings = recipe.pictures
        super().__init__(settings.painter, settings.image_format, settings.image_quality)
        self._per_prompt, self._seed = settings.per_prompt, recipe.seed
        self.settings = deciding(recipe.pictures) | {"seed": recipe.seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        items = []
        for prompt in work.kept(self.source, chunk):
            for number in range(1, self._per_prompt + 1):
                name = f"{prompt['id']}-{number}"
                seed = seed_of(self._seed, self.name, name)
                item = {"id": name, "of": prompt["id"], "prompt": prompt["prompt"], "seed": seed, "scene": prompt}
                items.append(item)
        return items


class _Edits(PaintingStage):
    """Paints the same people once more, somewhere else."""

    name, source = "edits", "poses"

    def __init__(self, recipe: TextImageRecipe):
        super().__init__(recipe.edits.painter, recipe.pictures.image_format, recipe.pictures.image_quality)
        self._editing, self._seed = recipe.edits, recipe.seed
        self.settings = deciding(recipe.edits) | {"seed": recipe.seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        return [
            edit | {"scene": person}
            for person in people(work, chunk)
            for edit in plan_edits(person, self._editing, self._seed)
        ]

    def request(self, item: Record, work: Workspace) -> ImageRequest:
        return edit_request(item, item["scene"], work.root)

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        person = {"id": pair["id"], "image": pair["left"]}
        edits = list(plan_edits(person, self._editing, self._seed))
        return edit_request(edits[0] if edits else person | {"prompt": "", "seed": 0}, person, folder)


class _Poses(PartStage):
    """Keeps pictures of one whole person, and cuts that person out."""

    def __init__(self, recipe: TextImageRecipe, name: str, source: str):
        super().__init__(recipe.poses)
        self.name, self.source, self._quality = name, source, recipe.pictures.image_quality
        self.settings = deciding(recipe.poses)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        return work.kept(self.source, chunk)

    def files(self, record: Record) -> list[str]:
        return [record["image"]] if "image" in record else []

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        suffixes = {item["id"]: Path(item["image"]).suffix for item in items}
        for found in self.part.find((item["id"], work.root / item["image"]) for item in items):
            record = {"id": found.id, **found.facts}
            if found.image is None:
                yield record | {REJECTED: found.fault}
                continue
            record["image"] = f"{self.name}/images/{chunk:05d}/{found.id}{suffixes[found.id]}"
            save_picture(found.image, work.root / record["image"], self._quality)
            yield record

    def trial(self, pair: Record, folder: Path) -> Record:
        list(self.part.find([(pair["id"], folder / pair["left"])]))
        return {"id": pair["id"]}  # a model of photographs need not find painted people


class _Captions(PartStage):
    """Writes captions of pictures and edits."""

    name, source = "captions", "poses"

    def __init__(self, recipe: TextImageRecipe):
        super().__init__(recipe.captions)
        self._seed, self._with_edits = recipe.seed, recipe.edits is not None
        self.settings = deciding(recipe.captions) | {"seed": recipe.seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        return [*people(work, chunk), *(edited_people(work, chunk) if self._with_edits else ())]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        return self.part.write(iter(items), work.root, self._seed)

    def trial(self, pair: Record, folder: Path) -> Record:
        (record,) = self.part.write([pair | {"image": pair["left"]}], folder, self._seed)
        return record


class _Assemble(DataSetStage):
    """Writes the data set."""

    name, source = "assemble", "captions"

    def __init__(self, recipe: TextImageRecipe):
        super().__init__()
        self._with_edits = recipe.edits is not None
        self.settings = {}

    def sources(self) -> list[str]:
        return ["poses", *(["edits", "edit_poses"] if self._with_edits else []), "captions"]

    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        return [Path(DATASET, f"{DATASET}.json")]

    def make(self, work: Workspace) -> dict[str, Any]:
        final, part = work.root / DATASET, work.root / f".{DATASET}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        models = {GENERATED: _model_of(work, "pictures"), EDITED: _model_of(work, "edits")}
        people_seen, num_images = set(), 0

        def entries() -> Iterator[Record]:
            nonlocal num_images
            for entry, source in image_entries(self._captioned(work, people), self._captioned_edits(work), models):
                link_picture(work.root / source, part / entry["image_path"])
                people_seen.add(entry["person_id"])
                num_images += 1
                yield entry

        as_json_list(entries(), part / f"{DATASET}.json")
        shutil.rmtree(final, ignore_errors=not final.exists())
        part.rename(final)
        return {"images": num_images, "people": len(people_seen)}

    def _captioned(self, work: Workspace, records: Any) -> Iterator[Record]:
        for chunk in range(work.num_chunks):
            captions = {record["id"]: record for record in work.kept("captions", chunk)}
            for record in records(work, chunk):
                found = captions.get(record["id"])
                yield record | {"captions": found["captions"]} if found else record

    def _captioned_edits(self, work: Workspace) -> Iterator[Record]:
        return self._captioned(work, edited_people) if self._with_edits else iter(())


class _Statistics(WholeStage):
    """Writes the page about it all."""

    name, source = "statistics", "captions"

    def __init__(self, recipe: TextImageRecipe):
        super().__init__()
        self._settings, self._seed, self._with_edits = recipe.statistics, recipe.seed, recipe.edits is not None
        self.settings = deciding(recipe.statistics)

    def sources(self) -> list[str]:
        edits = ["edits", "edit_poses"] if self._with_edits else []
        return ["prompts", "pictures", "poses", *edits, "captions"]

    @property
    def works_with(self) -> Any:
        return self._settings

    def try_out(self, pair: Record, folder: Path) -> None:
        self._settings.try_out()

    def make(self, work: Workspace) -> dict[str, Any]:
        from .statistics import write_statistics

        found = write_statistics(
            work.folder(self.name),
            DATASET,
            self._people(work),
            stages={name: work.counts(name) for name in self.sources()},
            edits=work.records("edits") if self._with_edits else (),
            kept=self._people(work),
            rejected=self._rejected(work),
            images=work.root,
            measures=self._measure(work),
            seed=self._seed,
        )
        return {"images": found["images"], "people": found["people"]}

    def results(self, work: Workspace) -> list[Path]:
        return [work.folder(self.name) / name for name in ("statistics.md", "statistics.json")]

    def _measure(self, work: Workspace) -> dict[str, float]:
        if not self._settings.needs_models:
            return {}
        pictures = [picture for person in self._people(work) for picture in person]
        pairs = [(work.root / picture["image"], caption) for picture in pictures for caption in picture["captions"]]
        return self._settings.measure([caption for _, caption in pairs], pairs, self._seed)

    def _people(self, work: Workspace) -> Iterator[list[Record]]:
        """Of each person the pictures that have captions, the generated one first."""
        for chunk in range(work.num_chunks):
            captions = {record["id"]: record["captions"] for record in work.kept("captions", chunk)}
            pictures = {person["id"]: [person] for person in people(work, chunk)}
            for edit in edited_people(work, chunk) if self._with_edits else ():
                pictures[edit["parent"]].append(edit)
            for of_person in pictures.values():
                captioned = [one | {"captions": captions[one["id"]]} for one in of_person if one["id"] in captions]
                if captioned:
                    yield captioned

    def _rejected(self, work: Workspace) -> Iterator[Record]:
        """The pictures that were painted and rejected later, as they were painted."""
        steps = [["pictures", "poses"], *([["edits", "edit_poses"]] if self._with_edits else [])]
        for chunk in range(work.num_chunks):
            for painting, filtering in steps:
                painted = {record["id"]: record for record in work.kept(painting, chunk)}
                for record in (*work.read(filtering, chunk), *work.read("captions", chunk)):
                    if REJECTED in record and record["id"] in painted:
                        yield painted[record["id"]] | record


def people(work: Workspace, chunk: int) -> list[Record]:
    """The people of a chunk who passed the pose filter: what is known of them, and the picture cut out."""
    prompts = {record["id"]: record for record in work.kept("prompts", chunk)}
    pictures = {record["id"]: record for record in work.kept("pictures", chunk)}
    found = []
    for pose in work.kept("poses", chunk):
        picture = pictures[pose["id"]]
        found.append(prompts[picture["of"]] | picture | pose)
    return found


def edited_people(work: Workspace, chunk: int) -> list[Record]:
    """The edited pictures of a chunk that passed the pose filter."""
    originals = {record["id"]: record for record in people(work, chunk)}
    edits = {record["id"]: record for record in work.kept("edits", chunk)}
    found = []
    for pose in work.kept("edit_poses", chunk):
        edit = edits[pose["id"]]
        found.append(originals[edit["parent"]] | edit | pose)
    return found


def _model_of(work: Workspace, stage: str) -> str:
    """What painted, by the manifest."""
    about = work.manifest(stage).get("about", {})
    return " ".join(str(about[key]) for key in ("model", "revision") if about.get(key))
