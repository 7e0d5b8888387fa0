"""The stages of the pipeline of text-image pairs, from the second on; `pipeline` says what each is for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..components import REJECTED, ImageRequest, Record, seed_of
from ..images import ImageFormat, save_image
from ..painters import DiffusionPainter, ImageServer
from ..settings import deciding
from ..stages import PaintingStage, PartStage, Workspace
from ..stand_ins.figures import FigureFilter
from ..stand_ins.portraits import WorldPortrait
from .editing import Editing, plan_edits
from .poses import KeypointFilter
from .records import edited_people, people_of


class PictureSettings(ImageFormat):
    """Settings of how images are painted and stored.

    Attributes:
        painter: What paints them.
        per_prompt: Images of each prompt; every one shows a person of its own.
    """

    painter: Annotated[DiffusionPainter | ImageServer | WorldPortrait, Field(discriminator="kind")]
    per_prompt: Annotated[int, Field(ge=1, le=1_000)] = 5


class Pictures(PaintingStage):
    """Paints a person by every prompt, several times."""

    name, source = "pictures", "prompts"

    def __init__(self, settings: PictureSettings, seed: int):
        super().__init__(settings.painter, settings.image_format, settings.image_quality)
        self._per_prompt, self._seed = settings.per_prompt, seed
        self.settings = deciding(settings) | {"seed": seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """Several of every prompt."""
        items = []
        for prompt in work.kept(self.source, chunk):
            known = {"of": prompt["id"], "prompt": prompt["prompt"]}
            for number in range(1, self._per_prompt + 1):
                name = f"{prompt['id']}-{number}"
                items.append({"id": name, **known, "seed": seed_of(self._seed, self.name, name), "scene": prompt})
        return items


class Edits(PaintingStage):
    """Paints the same people once more, somewhere else."""

    name, source = "edits", "poses"

    def __init__(self, editing: Editing, pictures: ImageFormat, seed: int):
        super().__init__(editing.painter, pictures.image_format, pictures.image_quality)
        self._editing, self._seed = editing, seed
        self.settings = deciding(editing) | {"seed": seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """Some of every image that passed the pose filter."""
        return [
            edit | {"scene": person}
            for person in people_of(work, chunk)
            for edit in plan_edits(person, self._editing, self._seed)
        ]

    def request(self, item: Record, folder: Path) -> ImageRequest:
        """See `PaintingStage.request`; the scene is the record of the image that the edit starts from."""
        return replace(super().request(item, folder), source=folder / item["scene"]["image"])

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        """See `PaintingStage.trial_request`."""
        person = {"id": pair["id"], "image": pair["left"], "prompt": "", "seed": 0}
        edit = next(plan_edits(person, self._editing, self._seed), person)
        return self.request(edit | {"scene": person}, folder)


class Poses(PartStage):
    """Keeps images of one whole person, and cuts that person out."""

    def __init__(self, name: str, source: str, settings: KeypointFilter | FigureFilter, image_quality: int):
        super().__init__(settings)
        self.name, self.source, self._quality, self.settings = name, source, image_quality, deciding(settings)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The images."""
        return work.kept(self.source, chunk)

    def files(self, record: Record) -> list[str]:
        """The image of the person cut out."""
        return [record["image"]] if "image" in record else []

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """See `ItemStage.process`."""
        files = {item["id"]: work.root / item["image"] for item in items}
        for found in self.part.find(files.items()):
            record = {"id": found.id, **found.facts}
            if found.image is None:
                record[REJECTED] = found.fault
            else:
                record["image"] = f"{self.name}/images/{chunk:05d}/{found.id}{files[found.id].suffix}"
                save_image(found.image, work.root / record["image"], self._quality)
            yield record

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        list(self.part.find([(pair["id"], folder / pair["left"])]))
        return {"id": pair["id"]}  # a model of photographs need not find painted people


class Captions(PartStage):
    """Writes captions of images and edits."""

    name, source = "captions", "poses"

    def __init__(self, settings: Any, with_edits: bool, seed: int):
        super().__init__(settings)
        self._seed, self._with_edits = seed, with_edits
        self.settings = deciding(settings) | {"seed": seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The images, and then the edits."""
        return [*people_of(work, chunk), *(edited_people(work, chunk) if self._with_edits else ())]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """See `ItemStage.process`."""
        return self.part.write(iter(items), work.root, self._seed)

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        (record,) = self.part.write([pair | {"image": pair["left"]}], folder, self._seed)
        return record
