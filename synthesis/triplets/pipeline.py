"""The pipeline of triplets: quadruples, distinct, diptychs, split, gates, judgements, filter, assemble, statistics.

A quadruple is two captions of one subject and the edits between them; a diptych paints both side by side; its halves
give a triplet in each direction.

    quadruples/   texts                       distinct/     the same, near-duplicates rejected
    diptychs/     pictures of both halves     split/        the halves
    gates/        cheap scores of each pair   judgements/   a judge's scores of the pairs that pass the bounds on those
    filter/       a decision per triplet, of scores and thresholds alone
    SynCPR/       what load_dataset reads     statistics/   a page about it
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..components import CONTROL, REJECTED, Gate, ImageRequest, Record, SynthesisError, seed_of
from ..filtering.clip import ClipGate
from ..filtering.controls import JudgeControls, check_controls, controlled_ids, controls_of, count_controls, doubts_of
from ..filtering.detectors import PeopleGate
from ..filtering.gates import AspectGate, BlankGate, BlurGate, SeamGate, TwinGate, open_halves
from ..filtering.judge import VisionLanguageJudge
from ..filtering.thresholds import DIRECTIONS, UNIT, Thresholds
from ..painters.diffusion import DiffusionPainter
from ..painters.image_server import ImageServer
from ..pictures import PictureFormat, open_picture, save_picture
from ..planning import plan_triplets
from ..quadruples.near_duplicates import NearDuplicateSettings, reject_near_duplicates
from ..quadruples.prompting import LanguageModelWriter
from ..recipe import Recipe, TextCount
from ..settings import Free, Settings, deciding, nearest, uses_models
from ..splitting import Split, SplitSettings
from ..stages import (
    DataSetStage,
    ItemStage,
    PaintingStage,
    PartStage,
    Stage,
    WholeStage,
    Workspace,
    WritingStage,
    read_lines,
)
from ..stand_ins.diptychs import WorldPainter
from ..stand_ins.grammar import GrammarWriter
from ..stand_ins.onlooker import Onlooker
from ..templates import fill_template, with_fields
from .assembly import FORMATS, AssemblySettings, assemble, data_set_files, kept_triplets, triplet_of

logger = logging.getLogger(__name__)

_AT_ONCE = 64  # pictures opened together
_WATCHED = 400  # of the latest judgements of controls and of their pairs


class QuadrupleSettings(Settings):
    """How texts are made.

    Attributes:
        count: Of quadruples to write; some will be rejected.
        writer: Who writes them.
    """

    count: TextCount
    writer: Annotated[GrammarWriter | LanguageModelWriter, Field(discriminator="kind")]


class DiptychSettings(PictureFormat):
    """How pictures are made, and in which format.

    Attributes:
        painter: Who paints them.
        prompt: What is asked for; {caption_a} and {caption_b} stand for the quadruple's.
        realistic: Diptychs per quadruple at the full strength of the painter's adapter.
        diverse: Diptychs per quadruple at a strength drawn evenly from 0 to 1.
    """

    painter: Annotated[DiffusionPainter | ImageServer | WorldPainter, Field(discriminator="kind")]
    prompt: Annotated[str, with_fields("caption_a", "caption_b")] = "{caption_a} {caption_b}"
    realistic: Annotated[int, Field(ge=0, le=1_000)] = 5
    diverse: Annotated[int, Field(ge=0, le=1_000)] = 5

    @model_validator(mode="after")
    def _check_number(self) -> "DiptychSettings":
        if self.realistic + self.diverse < 1:
            raise ValueError("realistic and diverse: at least one diptych, not 0 and 0")
        return self


_Gate = BlankGate | BlurGate | AspectGate | TwinGate | SeamGate | PeopleGate | ClipGate


class TripletRecipe(Recipe):
    """A recipe for triplets of reference image, edit and target image.

    Attributes:
        quadruples: The texts.
        distinct: Which texts are too near to others.
        diptychs: The pictures.
        split: How they are cut in two.
        gates: Cheap measures of every pair.
        judge: Who looks at pairs that the gates let through; None to decide by the gates alone.
        controls: Pairs spoilt on purpose by which a judge with a model is controlled.
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
        """What the gates measure."""
        return [name for gate in self.gates for name in gate.names]

    @property
    def count(self) -> int:
        """Of quadruples."""
        return self.quadruples.count

    @property
    def dataset(self) -> str:
        """SynCPR, CIRHS."""
        return self.assemble.format

    def limited(self, count: int) -> "TripletRecipe":
        """The recipe for the first `count` quadruples."""
        return self.replaced(quadruples=self.quadruples.replaced(count=min(count, self.count)))

    def plan(self) -> str:
        """What would be asked for the first quadruple, and what all would cost."""
        asked = self.quadruples.writer.preview("0", self.seed)
        return f"{asked}\n\nEach is painted by: {self.diptychs.prompt}\n\n{plan_triplets(self)}"

    def stages(self) -> list[Stage]:
        """What is to be done, in order."""
        stages = [
            _Quadruples(self.quadruples.writer, self.quadruples.count, self.chunk_size, self.seed),
            _Distinct(self),
            _Diptychs(self),
            _Halves(self),
            _Gates(self),
        ]
        if self.judge:
            stages.append(_Judgements(self))
        return [*stages, _Filter(self), _Assemble(self), _Statistics(self)]


class _Quadruples(WritingStage):
    """Writes texts."""

    name = "quadruples"


class _Distinct(WholeStage):
    """Rejects quadruples that say nearly what an earlier one says."""

    name, source = "distinct", "quadruples"

    def __init__(self, recipe: TripletRecipe):
        super().__init__()
        self._settings = recipe.distinct
        self.settings = deciding(recipe.distinct)

    def make(self, work: Workspace) -> dict[str, Any]:
        written = [work.kept(self.source, chunk) for chunk in range(work.num_chunks)]
        too_near = reject_near_duplicates([record for records in written for record in records], self._settings)
        for chunk, records in enumerate(written):
            decided = (
                record | {REJECTED: "near-duplicate", "of": too_near[record["id"]]}
                if record["id"] in too_near
                else record
                for record in records
            )
            work.write(self.name, chunk, decided)
        return work.counts(self.name)


class _Diptychs(PaintingStage):
    """Paints both halves of every quadruple, several times."""

    name, source = "diptychs", "distinct"

    def __init__(self, recipe: TripletRecipe):
        settings = recipe.diptychs
        super().__init__(settings.painter, settings.image_format, settings.image_quality)
        self._diptychs, self._seed = settings, recipe.seed
        self.settings = deciding(settings) | {"seed": recipe.seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        numbers = range(1, self._diptychs.realistic + self._diptychs.diverse + 1)
        return [self._item(quadruple, number) for quadruple in work.kept(self.source, chunk) for number in numbers]

    def _item(self, quadruple: Record, number: int) -> Record:
        name = f"{quadruple['id']}-{number}"
        seed = seed_of(self._seed, self.name, name)
        is_realistic = number <= self._diptychs.realistic
        return {
            "id": name,
            "quadruple": quadruple["id"],
            "number": number,
            "prompt": fill_template(self._diptychs.prompt, quadruple),
            "seed": seed,
            "strength": 1.0 if is_realistic else round(float(np.random.default_rng([seed, 0]).uniform()), 3),
            "scene": quadruple,
        }

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        return replace(super().trial_request(pair, folder), prompt=self._item(pair, 1)["prompt"])


class _Halves(PartStage):
    """Cuts diptychs in two."""

    name, source = "split", "diptychs"

    def __init__(self, recipe: TripletRecipe):
        super().__init__(recipe.split)
        self._quality = recipe.diptychs.image_quality
        self.settings = deciding(recipe.split)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        return work.kept(self.source, chunk)

    def files(self, record: Record) -> list[str]:
        return [record[side] for side in ("left", "right") if side in record]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        save = partial(self._save, work=work, chunk=chunk)
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(items), _AT_ONCE):
                some = items[start : start + _AT_ONCE]
                diptychs = list(threads.map(lambda item: open_picture(work.root / item["image"]), some))
                yield from threads.map(save, some, self.part.split(diptychs))

    def trial(self, pair: Record, folder: Path) -> Record:
        self.part.split([open_picture(folder / pair["image"])])
        return {"id": pair["id"]}  # a detector of photographs need not find painted people

    def _save(self, item: Record, split: Split | str, work: Workspace, chunk: int) -> Record:
        """Saves the halves; returns their record, or that of the rejected diptych."""
        record = {name: item[name] for name in ("id", "quadruple", "number")}
        if isinstance(split, str):
            return record | {REJECTED: split}
        suffix = Path(item["image"]).suffix
        for side, half in (("left", split.left), ("right", split.right)):
            record[side] = f"{self.name}/images/{chunk:05d}/{item['id']}_{side}{suffix}"
            save_picture(half, work.root / record[side], self._quality)
        return record | {"seam": split.seam}


class _Gates(ItemStage):
    """Measures every pair."""

    name, source = "gates", "split"

    def __init__(self, recipe: TripletRecipe):
        super().__init__()
        self._gate_settings = recipe.gates
        self.settings = {"gates": deciding(recipe.gates)}
        self._gates: list[Gate] = []

    @property
    def works_with(self) -> Any:
        return self._gate_settings

    def try_out(self, pair: Record, folder: Path) -> None:
        try:
            self.prepare()
            for settings, gate in zip(self._gate_settings, self._gates, strict=True):
                (scores,) = gate.score([pair], [open_halves(pair, folder)])
                if strange := [name for name, score in scores.items() if not math.isfinite(score)]:
                    raise SynthesisError(
                        f"stage gates: {settings.kind} measures {strange[0]} as {scores[strange[0]]} of a picture in "
                        "order: its weights are damaged or overflow; take another model"
                    )
        finally:
            self._let_go()

    def prepare(self) -> None:
        self._gates = [settings.load() for settings in self._gate_settings]
        self.about = {
            settings.kind: gate.about for settings, gate in zip(self._gate_settings, self._gates, strict=True)
        }

    def release(self) -> None:
        self._gates = []

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        return pairs_with_texts(work, chunk)

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(items), _AT_ONCE):
                yield from self._score(items[start : start + _AT_ONCE], work.root, threads)

    def _score(self, items: Sequence[Record], folder: Path, threads: ThreadPoolExecutor) -> Iterator[Record]:
        """Opens each picture once, and has all gates look at them at the same time."""
        pictures = list(threads.map(lambda item: open_halves(item, folder), items))
        per_gate = list(threads.map(lambda gate: gate.score(items, pictures), self._gates))
        for number, item in enumerate(items):
            scores = {name: score for found in per_gate for name, score in found[number].items()}
            yield {"id": item["id"], "scores": scores}


class _Judgements(PartStage):
    """Has a judge look at the pairs that are within the bounds of the gates' scores."""

    name, source = "judgements", "gates"

    def __init__(self, recipe: TripletRecipe):
        super().__init__(recipe.judge)
        self._bounds = recipe.filter.among(recipe.gate_scores)
        # Bounds say which pairs are judged, not what is said of them: with others, no judgement is made twice.
        self.settings = {"judge": deciding(recipe.judge)}
        self._names, self._seed, self._all_bounds = recipe.judge.names, recipe.seed, recipe.filter
        self._controls = recipe.controls if uses_models(recipe.judge) else JudgeControls(per_chunk=0)
        self._judge = str(getattr(getattr(recipe.judge, "model", None), "model", recipe.judge.kind))
        self._recent: dict[str, Record] = {}  # judgements of controls, and of the pairs that they are made of
        self._has_warned = False

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        scores = {record["id"]: record["scores"] for record in work.read(self.source, chunk)}
        pairs = pairs_with_texts(work, chunk)
        decided = ((pair, self._bounds.decide(scores[pair["id"]])) for pair in pairs)
        judged = [pair for pair, reasons in decided if not all(reasons.values())]
        controls = controls_of(pairs, self._controls, self._seed, self._names)
        if not controls or self._was_judged_without(work, chunk):
            return judged
        return [item for pair in judged for item in (pair, controls.get(pair["id"])) if item]

    def _was_judged_without(self, work: Workspace, chunk: int) -> bool:
        """Whether the chunk is finished and has no controls: nobody need start the judge again for them."""
        file = work.file(self.name, chunk)
        return file.exists() and not any(CONTROL in record for record in read_lines(file)[0])

    def run(self, work: Workspace) -> None:
        super().run(work)
        if self._controls.per_chunk:
            own = [record for chunk in work.own_chunks for record in work.read(self.name, chunk)]
            self._check(own)
            tally = count_controls(own, self._all_bounds)
            for doubt in doubts_of(tally) if tally else ():
                logger.warning("%s", doubt)

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        controls = {item["id"]: item[CONTROL] for item in items if CONTROL in item}
        stored, _ = self._stored(work, chunk)
        watched = controlled_ids([*items, *stored.values()])
        self._watch(record for record in stored.values() if record["id"] in watched)
        for judgement in self.part.judge(iter(items), work.root):
            record: Record = {"id": judgement.id}
            if judgement.id in controls:
                record[CONTROL] = controls[judgement.id]
            if judgement.fault is None:
                record["scores"] = dict(judgement.scores)
            else:
                record[REJECTED] = judgement.fault
            yield record
            if judgement.id in watched:
                self._watch([record])

    def _watch(self, records: Iterable[Record]) -> None:
        """Looks at the last controls at once: a judge may also go bad on the way."""
        self._recent |= {record["id"]: record for record in records}
        self._recent = dict(list(self._recent.items())[-_WATCHED:])
        self._check(self._recent.values())

    def _check(self, records: Iterable[Record]) -> None:
        """Stops, or warns once, where the judge does not tell spoilt pairs apart."""
        tally = count_controls(records, self._all_bounds)
        warning = tally and check_controls(tally, self._controls, self._judge)
        if warning and not self._has_warned:
            logger.warning("%s", warning)
            self._has_warned = True

    def trial(self, pair: Record, folder: Path) -> Record:
        (judgement,) = self.part.judge([pair], folder)
        return {"id": pair["id"]} | ({REJECTED: judgement.fault} if judgement.fault is not None else {})


class _Filter(WholeStage):
    """Decides on every triplet by scores and bounds; no model is needed."""

    name, source = "filter", "gates"

    def __init__(self, recipe: TripletRecipe):
        super().__init__()
        self._bounds, self._is_judged = recipe.filter, recipe.judge is not None
        self.settings = deciding(recipe.filter)

    def sources(self) -> list[str]:
        return ["split", "gates", *(["judgements"] if self._is_judged else [])]

    def make(self, work: Workspace) -> dict[str, Any]:
        for chunk in range(work.num_chunks):
            work.write(self.name, chunk, self._decide(work, chunk))
        return work.counts(self.name)

    def _decide(self, work: Workspace, chunk: int) -> Iterator[Record]:
        gates = {record["id"]: record for record in work.read("gates", chunk)}
        judged = {record["id"]: record for record in work.read("judgements", chunk)} if self._is_judged else {}
        for pair in work.kept("split", chunk):
            judgement = judged.get(pair["id"], {})
            scores = gates[pair["id"]]["scores"] | judgement.get("scores", {})
            decisions = self._bounds.decide(scores)
            for direction in DIRECTIONS:
                record = {"id": f"{pair['id']}-{direction}", "pair": pair["id"], "direction": direction}
                reasons = decisions[direction]
                if REJECTED in judgement:
                    reasons = [f"judge: {judgement[REJECTED]}"]
                if reasons:
                    record |= {REJECTED: reasons[0], "reasons": reasons}
                yield record


class _Assemble(DataSetStage):
    """Writes the data set."""

    name, source = "assemble", "filter"

    def __init__(self, recipe: TripletRecipe):
        super().__init__()
        self._settings, self._seed = recipe.assemble, recipe.seed
        self.settings = deciding(recipe.assemble)

    def sources(self) -> list[str]:
        return ["distinct", "split", "filter"]

    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        return data_set_files(settings["format"], settings["validation_share"])

    def make(self, work: Workspace) -> dict[str, Any]:
        return assemble(work, self._settings, self._seed)


class _Statistics(WholeStage):
    """Writes the page about it all."""

    name, source = "statistics", "filter"

    def __init__(self, recipe: TripletRecipe):
        super().__init__()
        self._recipe = recipe
        self.settings = deciding(recipe.statistics)

    def sources(self) -> list[str]:
        stages = ["quadruples", "distinct", "diptychs", "split", "gates", "judgements", "filter"]
        return [name for name in stages if name != "judgements" or self._recipe.judge]

    @property
    def works_with(self) -> Any:
        return self._recipe.statistics

    def try_out(self, pair: Record, folder: Path) -> None:
        self._recipe.statistics.try_out()

    def make(self, work: Workspace) -> dict[str, Any]:
        from ..statistics import write_statistics

        recipe = self._recipe
        _, id_field = FORMATS[recipe.assemble.format]
        found = write_statistics(
            work.folder(self.name),
            recipe.assemble.format,
            (triplet_of(record, id_field) for record in kept_triplets(work)),
            id_field=id_field,
            stages={name: work.counts(name) for name in self.sources()},
            quadruples=self._kept(work, "distinct"),
            scores=self._scores(work),
            controls=self._controls(work),
            bounds={name: (bound.at_least, bound.at_most) for name, bound in recipe.filter.bounds.items()},
            kept=kept_triplets(work),
            rejected=self._rejected(work),
            images=work.root,
            measures=recipe.statistics.measure(*self._texts_and_pictures(work), recipe.seed),
            seed=recipe.seed,
        )
        return {"triplets": found["triplets"], "groups": found["groups"]}

    def results(self, work: Workspace) -> list[Path]:
        return [work.folder(self.name) / name for name in ("statistics.md", "statistics.json")]

    def _controls(self, work: Workspace) -> dict[str, Any] | None:
        """What the judge said of its controls; None where there were none."""
        if not self._recipe.judge:
            return None
        tally = count_controls(work.records("judgements"), self._recipe.filter)
        return tally and tally.as_dict()

    def _texts_and_pictures(self, work: Workspace) -> tuple[list[str], list[tuple[Path, str]]]:
        if not self._recipe.statistics.needs_models:
            return [], []
        captions = [record[name] for record in self._kept(work, "distinct") for name in ("caption_a", "caption_b")]
        triplets = (record for record in kept_triplets(work) if record["direction"] == "ab")
        sides = (("left", "caption_a"), ("right", "caption_b"))
        pairs = [(work.root / record[side], record[caption]) for record in triplets for side, caption in sides]
        return captions, pairs

    def _kept(self, work: Workspace, stage: str) -> Iterator[Record]:
        for chunk in range(work.num_chunks):
            yield from work.kept(stage, chunk)

    def _scores(self, work: Workspace) -> Iterator[dict[str, float]]:
        for chunk in range(work.num_chunks):
            judged = {}
            if self._recipe.judge:
                judged = {record["id"]: record for record in work.kept("judgements", chunk)}
            for record in work.kept("gates", chunk):
                yield record["scores"] | judged.get(record["id"], {}).get("scores", {})

    def _rejected(self, work: Workspace) -> Iterator[Record]:
        for chunk in range(work.num_chunks):
            quadruples = {record["id"]: record for record in work.kept("distinct", chunk)}
            diptychs = {record["id"]: record for record in work.kept("diptychs", chunk)}
            pairs = {record["id"]: record for record in work.read("split", chunk)}
            for record in pairs.values():
                if REJECTED in record:
                    yield quadruples[record["quadruple"]] | diptychs[record["id"]] | record
            for record in work.read("filter", chunk):
                if REJECTED in record:
                    pair = pairs[record["pair"]]
                    yield quadruples[pair["quadruple"]] | pair | record


def pairs_with_texts(work: Workspace, chunk: int) -> list[Record]:
    """The pairs of a chunk that could be cut apart: their halves, and the texts of their quadruple."""
    quadruples = {record["id"]: record for record in work.kept("distinct", chunk)}
    return [quadruples[pair["quadruple"]] | pair for pair in work.kept("split", chunk)]
