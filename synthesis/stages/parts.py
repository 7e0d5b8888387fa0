"""Stages whose work one part of the recipe does: a writer, a painter, a judge."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..brakes import check_usable
from ..components import REJECTED, ImageRequest, PaintedImage, Record, SynthesisError, seed_of
from ..images import is_one_colour, save_image
from ..settings import deciding
from .stage import ItemStage
from .workspace import Workspace, read_lines


class PartStage(ItemStage):
    """A stage whose work one part does.

    Args:
        settings: Those of the part, which is loaded when there is something to do.
    """

    most_trials: ClassVar[int] = 8  # one of them must be usable; even the best models give some unusable answers

    def __init__(self, settings: Any):
        super().__init__()
        self.has_brake = settings is not None
        self._part_settings = settings
        self._part: Any = None

    @property
    def part(self) -> Any:
        """The part, loaded on first use."""
        if self._part is None:
            try:
                self._part = self.load()
            except ValueError as error:  # the model does not take these settings
                raise SynthesisError(f"stage {self.name}: {error}. Correct the recipe.") from error
            self.about = self._part.about
        return self._part

    def load(self) -> Any:
        """Load the part."""
        return self._part_settings.load()

    @property
    def works_with(self) -> Any:
        """The settings of the part."""
        return self._part_settings

    def try_out(self, pair: Record, folder: Path) -> None:
        """See `Stage.try_out`."""
        tried: list[Record] = []
        try:
            while len(tried) < self.most_trials and all(REJECTED in record for record in tried):
                tried.append(self.trial(pair | {"id": f"preflight-{len(tried)}"}, folder))
        finally:
            self.release()
        check_usable(self.name, tried)

    def trial(self, pair: Record, folder: Path) -> Record:
        """What the part makes of a painted pair, or just of its id: a record, maybe a rejected one."""
        _ = self.part
        return {"id": pair["id"]}

    def release(self) -> None:
        """See `ItemStage.release`."""
        self._part = None
        super().release()

    def usage(self) -> Counter[str]:
        """What the part has spent."""
        return Counter(self._part.usage if self._part else {})


class WritingStage(PartStage):
    """The first stage: a writer makes a text for every number.

    Args:
        name: Name of the stage.
        writer: Settings of the writer, whose part has `write(ids, seed)`.
        count: How many texts to write. It does not influence them, so that more may be asked for later.
        chunk_size: Texts per file.
        seed: Seed of the texts.
    """

    source = None

    def __init__(self, name: str, writer: Any, count: int, chunk_size: int, seed: int):
        super().__init__(writer)
        self.name, self._count, self._chunk_size, self._seed = name, count, chunk_size, seed
        self.settings = {"writer": deciding(writer), "seed": seed, "chunk_size": chunk_size}

    def check_settings(self, work: Workspace) -> None:
        """See `Stage.check_settings`.

        Raises:
            SynthesisError: also if more texts were made than are asked for: later stages would use only some of them.
        """
        super().check_settings(work)
        last = self._count // self._chunk_size  # earlier chunks cannot hold too many
        files = work.folder(self.name).glob("[0-9]*.jsonl")
        records = (read_lines(file)[0] for file in files if int(file.name.partition(".")[0]) >= last)
        stored = max((int(record["id"]) + 1 for chunk in records for record in chunk), default=0)
        if stored > self._count:
            raise SynthesisError(
                f"{work.folder(self.name)} holds {stored:,} texts, and {self._count:,} are asked for: give another "
                "--output for fewer"
            )

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The numbers of a chunk."""
        first = chunk * self._chunk_size
        return [{"id": str(number)} for number in range(first, min(first + self._chunk_size, self._count))]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """Their texts."""
        return self.part.write((item["id"] for item in items), self._seed)

    def trial(self, pair: Record, folder: Path) -> Record:
        """A text for a number that no item has."""
        (record,) = self.part.write([pair["id"]], self._seed)
        return record


class PaintingStage(PartStage):
    """A stage that paints an image for every item.

    Items have `prompt`, `seed`, `scene` (a record of the stage before), and maybe a `strength`; all but the scene goes
    into the image's record.

    Args:
        painter: Settings of an image model.
        image_format: "png" or "jpg".
        image_quality: JPEG's quality, 1 to 100.
    """

    most_trials = 3

    def __init__(self, painter: Any, image_format: str, image_quality: int):
        super().__init__(painter)
        self._format, self._quality = image_format, image_quality

    def files(self, record: Record) -> list[str]:
        """The image."""
        return [record["image"]] if "image" in record else []

    def request(self, item: Record, folder: Path) -> ImageRequest:
        """What to ask the image model for; `folder` is that of the synthesis."""
        return ImageRequest(item["id"], item["prompt"], item["seed"], item.get("strength", 1.0), item["scene"])

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        """What to ask it for before the first item."""
        return ImageRequest(pair["id"], pair["caption_a"], seed_of(self.name, pair["id"]), scene=pair)

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        (painted,) = self.part.paint([self.trial_request(pair, folder)])
        fault = fault_of(painted)
        return {"id": pair["id"]} | ({REJECTED: fault} if fault else {})

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """Paint and save the images; a record of each."""
        records = {item["id"]: {key: value for key, value in item.items() if key != "scene"} for item in items}
        for painted in self.part.paint(self.request(item, work.root) for item in items):
            record = records[painted.id]
            if fault := fault_of(painted):
                yield record | {REJECTED: fault}
                continue
            image = f"{self.name}/images/{chunk:05d}/{painted.id}.{self._format}"
            save_image(painted.image, work.root / image, self._quality)
            yield record | {"image": image} | painted.facts


def fault_of(painted: PaintedImage) -> str | None:
    """Why an image cannot be used, whoever painted it; None if it can."""
    if painted.image is None:
        return painted.fault or "no picture"
    # A broken adapter or model may paint such an image without any fault.
    return "a picture of one colour" if is_one_colour(painted.image) else None
