"""The pipeline of triplets: quadruples, distinct, diptychs, split, gates, judgements, filter, assemble, statistics.

A quadruple is two captions of one subject and the edits between them; a diptych paints both side by side; its halves
give a triplet in each direction.

    quadruples/   texts                       distinct/     the same, near-duplicates rejected
    diptychs/     images of both halves       split/        the halves
    gates/        cheap scores of each pair   judgements/   a judge's scores of the pairs that pass the bounds on those
    filter/       a decision per triplet, of scores and thresholds alone
    SynCPR/       what load_dataset reads     statistics/   a page about it
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...names import nearest
from ..filtering.clip_gate import ClipGate
from ..filtering.controls import JudgeControls
from ..filtering.detectors import PeopleGate
from ..filtering.gates import AspectGate, BlankGate, BlurGate, SeamGate, TwinGate
from ..filtering.judge import VisionLanguageJudge
from ..filtering.thresholds import UNIT, Thresholds
from ..planning import Amount
from ..quadruples.near_duplicates import NearDuplicateSettings
from ..quadruples.prompting import LanguageModelWriter
from ..recipe import Recipe, TextCount
from ..report.triplets import TripletStatistics
from ..settings import Free, Settings
from ..splitting import SplitSettings
from ..stages import Stage, WritingStage
from ..stand_ins.grammar import GrammarWriter
from ..stand_ins.onlooker import Onlooker
from .assembly import Assemble, AssemblySettings
from .stages import Diptychs, DiptychSettings, Distinct, Filter, Gates, Halves, Judgements


class QuadrupleSettings(Settings):
    """Settings of the texts.

    Attributes:
        count: How many quadruples to write; some will be rejected.
        writer: What writes them.
    """

    count: TextCount
    writer: Annotated[GrammarWriter | LanguageModelWriter, Field(discriminator="kind")]


_Gate = BlankGate | BlurGate | AspectGate | TwinGate | SeamGate | PeopleGate | ClipGate


class TripletRecipe(Recipe):
    """A recipe for triplets of reference image, edit and target image.

    Attributes:
        quadruples: The texts.
        distinct: Which texts are too near to others.
        diptychs: The images.
        split: How they are cut in two.
        gates: Cheap measures of every pair.
        judge: What looks at pairs that the gates let through; None to decide by the gates alone.
        controls: Pairs spoilt on purpose, to control a judge that uses a model.
        filter: The bounds of all scores.
        assemble: The data set.
    """

    kind: Literal["triplets"] = "triplets"

    quadruples: QuadrupleSettings
    diptychs: DiptychSettings
    distinct: NearDuplicateSettings = NearDuplicateSettings()
    split: SplitSettings = SplitSettings()
    gates: list[Annotated[_Gate, Field(discriminator="kind")]] = []
    judge: Annotated[Onlooker | VisionLanguageJudge, Field(discriminator="kind")] | None = None
    controls: Free[JudgeControls] = JudgeControls()
    filter: Thresholds = Thresholds()
    assemble: AssemblySettings = AssemblySettings()

    @model_validator(mode="after")
    def _check_scores(self) -> "TripletRecipe":
        scores = [*self.gate_scores, *(self.judge.names if self.judge else ())]
        if twice := {name for name in scores if scores.count(name) > 1}:
            raise ValueError(f"gates and judge: measured twice: {', '.join(sorted(twice))}")
        for name in self.filter.bounds:
            if name not in scores:
                hint = nearest(name, scores or ["no scores"])
                raise ValueError(f"filter: bounds: neither a gate nor the judge measures {name!r}; {hint}")
        scales = {name: scale for gate in self.gates for name, scale in zip(gate.names, gate.scales, strict=True)}
        self.filter.check_scales(scales | dict.fromkeys(self.judge.names if self.judge else (), UNIT))
        return self

    @property
    def gate_scores(self) -> list[str]:
        """The names of what the gates measure."""
        return [name for gate in self.gates for name in gate.names]

    @property
    def count(self) -> int:
        """How many quadruples there are."""
        return self.quadruples.count

    @property
    def dataset(self) -> str:
        """SynCPR or CIRHS."""
        return self.assemble.format

    def limited(self, count: int) -> "TripletRecipe":
        """The recipe for the first `count` quadruples."""
        return self.replaced(quadruples=self.quadruples.replaced(count=min(count, self.count)))

    def preview(self) -> str:
        """What would be asked for the first quadruple, and of the painter."""
        asked = self.quadruples.writer.preview("0", self.seed)
        return f"{asked}\n\nEach is painted by: {self.diptychs.prompt}"

    def amounts(self) -> list[Amount]:
        """See `Recipe.amounts`."""
        assumed, count = self.estimates, self.count
        diptychs = count * assumed.keep_texts * (self.diptychs.realistic + self.diptychs.diverse)
        judged = diptychs * assumed.keep_gates if self.judge else 0
        triplets = 2 * diptychs * assumed.keep_gates * assumed.keep_triplets
        return [
            assumed.writing("quadruples", count),
            assumed.painting("diptychs", diptychs),
            Amount("split", diptychs, seconds=assumed.split_seconds, megabytes=2e-4),
            Amount("gates", diptychs, seconds=assumed.gate_seconds, megabytes=4e-4),
            assumed.looking("judgements", judged, megabytes=3e-4),
            Amount("triplets", triplets, megabytes=5e-4),
        ]

    def stages(self) -> list[Stage]:
        """See `Recipe.stages`."""
        measuring = ["gates", *(["judgements"] if self.judge else [])]
        told = ["quadruples", "distinct", "diptychs", "split", *measuring, "filter"]
        stages = [
            WritingStage("quadruples", self.quadruples.writer, self.count, self.chunk_size, self.seed),
            Distinct(self.distinct),
            Diptychs(self.diptychs, self.seed),
            Halves(self.split, self.diptychs.image_quality),
            Gates(self.gates),
        ]
        if self.judge:
            stages.append(Judgements(self.judge, self.filter, self.gate_scores, self.controls, self.seed))
        return [
            *stages,
            Filter(self.filter, measuring),
            Assemble(self.assemble, self.seed),
            TripletStatistics(self.statistics, self.seed, told, self.dataset, self.filter),
        ]
