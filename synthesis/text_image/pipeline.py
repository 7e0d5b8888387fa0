"""The pipeline of text-image pairs: prompts, pictures, poses, edits, edit_poses, captions, assemble, statistics.

The package's `__init__` says what each of them makes.
"""

from typing import Annotated, Literal

from pydantic import Field

from ..planning import Amount
from ..recipe import Recipe, TextCount
from ..report.people import PeopleStatistics
from ..settings import Settings
from ..stages import Stage, WritingStage
from ..stand_ins.figures import FigureFilter
from ..stand_ins.grammar import GrammarCaptions, WorldPrompts
from .assembly import DATASET, Assemble
from .captioning import InstructionCaptions, TemplateCaptions
from .editing import Editing
from .poses import KeypointFilter
from .prompts import RoughTemplatePrompts, TemplatePrompts
from .stages import Captions, Edits, Pictures, PictureSettings, Poses


class PromptSettings(Settings):
    """Settings of the prompts.

    Attributes:
        count: How many there are.
        writer: What writes them.
    """

    count: TextCount
    writer: Annotated[TemplatePrompts | RoughTemplatePrompts | WorldPrompts, Field(discriminator="kind")]


class TextImageRecipe(Recipe):
    """A recipe for images of people with captions, several images per person.

    Attributes:
        prompts: What to paint.
        pictures: How to paint it.
        poses: Which images show one whole person.
        captions: What is said of the images.
        edits: Further images of the same people; None for none.
    """

    kind: Literal["text-image"] = "text-image"

    prompts: PromptSettings
    pictures: PictureSettings
    poses: Annotated[KeypointFilter | FigureFilter, Field(discriminator="kind")]
    captions: Annotated[InstructionCaptions | TemplateCaptions | GrammarCaptions, Field(discriminator="kind")]
    edits: Editing | None = None

    @property
    def count(self) -> int:
        """How many prompts there are."""
        return self.prompts.count

    @property
    def dataset(self) -> str:
        """SynTBPR."""
        return DATASET

    def limited(self, count: int) -> "TextImageRecipe":
        """The recipe for the first `count` prompts."""
        return self.replaced(prompts=self.prompts.replaced(count=min(count, self.count)))

    def preview(self) -> str:
        """What the first prompt would be, or be written from."""
        return self.prompts.writer.preview("0", self.seed)

    def amounts(self) -> list[Amount]:
        """See `Recipe.amounts`."""
        assumed = self.estimates
        pictures = self.count * self.pictures.per_prompt
        kept = pictures * assumed.keep_gates
        edits = kept * self.edits.per_picture if self.edits else 0
        return [
            assumed.writing("prompts", self.count),
            assumed.painting("pictures", pictures),
            Amount("poses", pictures, seconds=assumed.gate_seconds, megabytes=1e-3),
            assumed.painting("edits", edits),
            assumed.looking("captions", kept + edits * assumed.keep_gates, megabytes=1e-3),
        ]

    def stages(self) -> list[Stage]:
        """See `Recipe.stages`."""
        with_edits, quality = self.edits is not None, self.pictures.image_quality
        stages = [
            WritingStage("prompts", self.prompts.writer, self.count, self.chunk_size, self.seed),
            Pictures(self.pictures, self.seed),
            Poses("poses", "pictures", self.poses, quality),
        ]
        if self.edits:
            stages += [Edits(self.edits, self.pictures, self.seed), Poses("edit_poses", "edits", self.poses, quality)]
        stages.append(Captions(self.captions, with_edits, self.seed))
        told = [stage.name for stage in stages]
        return [*stages, Assemble(with_edits), PeopleStatistics(self.statistics, self.seed, told)]
