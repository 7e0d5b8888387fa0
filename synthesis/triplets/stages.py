"""The stages of the pipeline of triplets, from the second on; `pipeline` says what each is for."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from ..components import CONTROL, REJECTED, Gate, ImageRequest, Part, Record, SynthesisError, seed_of
from ..filtering.controls import JudgeControls, check_controls, controlled_ids, controls_of, count_controls, doubts_of
from ..filtering.gates import open_halves
from ..filtering.thresholds import Thresholds
from ..images import ImageFormat, open_rgb, save_image
from ..painters.diffusion import DiffusionPainter
from ..painters.image_server import ImageServer
from ..quadruples.near_duplicates import NearDuplicateSettings, reject_near_duplicates
from ..settings import deciding, uses_models
from ..splitting import Split, SplitSettings
from ..stages import PaintingStage, PartStage, WholeStage, Workspace, read_lines
from ..stand_ins.diptychs import WorldPainter
from ..templates import fill_template, with_fields
from .records import pairs_with_texts, scores_of

logger = logging.getLogger(__name__)

_AT_ONCE = 64  # images opened together
_WATCHED = 400  # how many of the latest judgements of controls, and of their pairs, are looked at


class DiptychSettings(ImageFormat):
    """Settings of how diptychs are painted and stored.

    Attributes:
        painter: What paints them.
        prompt: What is asked for; {caption_a} and {caption_b} stand for the quadruple's.
        realistic: Diptychs per quadruple at the full strength of the painter's adapter.
        diverse: Diptychs per quadruple at a strength sampled evenly from 0 to 1.
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


class Distinct(WholeStage):
    """Rejects quadruples that say nearly what an earlier one says."""

    name, source = "distinct", "quadruples"

    def __init__(self, settings: NearDuplicateSettings):
        super().__init__()
        self._settings, self.settings = settings, deciding(settings)

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        written = [work.kept(self.source, chunk) for chunk in range(work.num_chunks)]
        too_near = reject_near_duplicates([record for records in written for record in records], self._settings)
        for chunk, records in enumerate(written):
            for record in records:
                if record["id"] in too_near:
                    record |= {REJECTED: "near-duplicate", "of": too_near[record["id"]]}
            work.write(self.name, chunk, records)
        return work.counts(self.name)


class Diptychs(PaintingStage):
    """Paints both halves of every quadruple, several times."""

    name, source = "diptychs", "distinct"

    def __init__(self, settings: DiptychSettings, seed: int):
        super().__init__(settings.painter, settings.image_format, settings.image_quality)
        self._diptychs, self._seed = settings, seed
        self.settings = deciding(settings) | {"seed": seed}

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """Several of every quadruple that was kept."""
        settings, items = self._diptychs, []
        for quadruple in work.kept(self.source, chunk):
            prompt = fill_template(settings.prompt, quadruple)
            for number in range(1, settings.realistic + settings.diverse + 1):
                name = f"{quadruple['id']}-{number}"
                seed = seed_of(self._seed, self.name, name)
                sampled = round(float(np.random.default_rng([seed, 0]).uniform()), 3)
                strength = 1.0 if number <= settings.realistic else sampled
                known = {"id": name, "quadruple": quadruple["id"], "number": number, "prompt": prompt, "seed": seed}
                items.append(known | {"strength": strength, "scene": quadruple})
        return items

    def trial_request(self, pair: Record, folder: Path) -> ImageRequest:
        """See `PaintingStage.trial_request`."""
        return replace(super().trial_request(pair, folder), prompt=fill_template(self._diptychs.prompt, pair))


class Halves(PartStage):
    """Cuts diptychs in two."""

    name, source = "split", "diptychs"

    def __init__(self, settings: SplitSettings, image_quality: int):
        super().__init__(settings)
        self._quality, self.settings = image_quality, deciding(settings)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The diptychs."""
        return work.kept(self.source, chunk)

    def files(self, record: Record) -> list[str]:
        """Both halves."""
        return [record[side] for side in ("left", "right") if side in record]

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """See `ItemStage.process`."""
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(items), _AT_ONCE):
                some = items[start : start + _AT_ONCE]
                diptychs = list(threads.map(lambda item: open_rgb(work.root / item["image"]), some))
                yield from threads.map(partial(self._save, work, chunk), some, self.part.split(diptychs))

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        self.part.split([open_rgb(folder / pair["image"])])
        return {"id": pair["id"]}  # a detector of photographs need not find painted people

    def _save(self, work: Workspace, chunk: int, item: Record, split: Split | str) -> Record:
        """Saves the halves; returns their record, or the record of the rejected diptych."""
        record = {name: item[name] for name in ("id", "quadruple", "number")}
        if isinstance(split, str):
            return record | {REJECTED: split}
        suffix = Path(item["image"]).suffix
        for side, half in (("left", split.left), ("right", split.right)):
            record[side] = f"{self.name}/images/{chunk:05d}/{item['id']}_{side}{suffix}"
            save_image(half, work.root / record[side], self._quality)
        return record | {"seam": split.seam}


class Gates(PartStage):
    """Measures every pair."""

    name, source = "gates", "split"

    def __init__(self, gates: Sequence[Any]):
        super().__init__(gates)
        self.settings = {"gates": deciding(gates)}

    def load(self) -> "_AllGates":
        """Load all gates."""
        return _AllGates(self.works_with)

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The pairs."""
        return pairs_with_texts(work, chunk)

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """See `ItemStage.process`."""
        for start in range(0, len(items), _AT_ONCE):
            some = items[start : start + _AT_ONCE]
            for item, scores in zip(some, self.part.score(some, work.root), strict=True):
                yield {"id": item["id"], "scores": scores}

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`; raises SynthesisError also if what a gate measures is no number."""
        (scores,) = self.part.score([pair], folder)
        for name, kind in ((name, settings.kind) for settings in self.works_with for name in settings.names):
            if not math.isfinite(scores.get(name, 0.0)):
                raise SynthesisError(
                    f"stage gates: {kind} measures {name} as {scores[name]} of a sound image: its weights are damaged "
                    "or overflow; take another model"
                )
        return {"id": pair["id"]}


class _AllGates(Part):
    """The gates of a recipe, which look at the same images at the same time."""

    def __init__(self, settings: Sequence[Any]):
        super().__init__()
        self._gates: list[Gate] = [each.load() for each in settings]
        self.about = {each.kind: gate.about for each, gate in zip(settings, self._gates, strict=True)}

    def score(self, items: Sequence[Record], folder: Path) -> list[dict[str, float]]:
        """The scores of each pair; each image is opened once."""
        with ThreadPoolExecutor() as threads:
            images = list(threads.map(lambda item: open_halves(item, folder), items))
            per_gate = threads.map(lambda gate: gate.score(items, images), self._gates)
            scores: list[dict[str, float]] = [{} for _ in items]
            for found in per_gate:
                for known, more in zip(scores, found, strict=True):
                    known |= more
        return scores


class Judgements(PartStage):
    """Has a judge look at the pairs that are within the bounds of the gates' scores, and now and then at a control.

    Args:
        judge: Settings of the judge.
        bounds: The bounds of all scores.
        gate_scores: The names of the scores that the gates give.
        controls: Settings of the controls.
        seed: Decides their choice.
    """

    name, source = "judgements", "gates"

    def __init__(self, judge: Any, bounds: Thresholds, gate_scores: Sequence[str], controls: JudgeControls, seed: int):
        super().__init__(judge)
        # Bounds decide which pairs are judged, not their judgements: with other bounds, none is made twice.
        self.settings = {"judge": deciding(judge)}
        self._bounds, self._all_bounds, self._seed = bounds.among(gate_scores), bounds, seed
        self._controls = controls if uses_models(judge) else JudgeControls(per_chunk=0)
        self._recent: dict[str, Record] = {}  # judgements of controls, and of the pairs that they are made of
        self._has_warned = False

    def items(self, work: Workspace, chunk: int) -> list[Record]:
        """The pairs that the gates let through, each followed by the control that is made of it."""
        scores, pairs = scores_of(work, chunk, ["gates"]), pairs_with_texts(work, chunk)
        judged = [pair for pair in pairs if not all(self._bounds.decide(scores[pair["id"]]).values())]
        controls = controls_of(pairs, self._controls, self._seed, self.works_with.names)
        file = work.file(self.name, chunk)
        if controls and file.exists() and not any(CONTROL in record for record in read_lines(file)[0]):
            controls = {}  # the chunk is finished without any: the judge is not started again for them
        return [item for pair in judged for item in (pair, controls.get(pair["id"])) if item]

    def run(self, work: Workspace) -> None:
        """See `ItemStage.run`; raises SynthesisError also if the judge does not tell spoilt pairs apart."""
        super().run(work)
        if self._controls.per_chunk:
            own = [record for chunk in work.own_chunks for record in work.read(self.name, chunk)]
            self._check(own)
            tally = count_controls(own, self._all_bounds)
            for doubt in doubts_of(tally) if tally else ():
                logger.warning("%s", doubt)

    def process(self, items: Sequence[Record], work: Workspace, chunk: int) -> Iterator[Record]:
        """See `ItemStage.process`."""
        controls = {item["id"]: {CONTROL: item[CONTROL]} for item in items if CONTROL in item}
        stored, _ = self._stored(work, chunk)
        watched = controlled_ids([*items, *stored.values()])
        self._watch(record for record in stored.values() if record["id"] in watched)
        for judgement in self.part.judge(iter(items), work.root):
            record = {"id": judgement["id"]} | controls.get(judgement["id"], {}) | judgement
            yield record
            if record["id"] in watched:
                self._watch([record])

    def _watch(self, records: Iterable[Record]) -> None:
        """Checks the latest controls at once: a judge may also go bad on the way."""
        self._recent |= {record["id"]: record for record in records}
        self._recent = dict(list(self._recent.items())[-_WATCHED:])
        self._check(self._recent.values())

    def _check(self, records: Iterable[Record]) -> None:
        """Stops, or warns once, if the judge does not tell spoilt pairs apart."""
        tally = count_controls(records, self._all_bounds)
        judge = str(getattr(getattr(self.works_with, "model", None), "model", self.works_with.kind))
        warning = tally and check_controls(tally, self._controls, judge)
        if warning and not self._has_warned:
            logger.warning("%s", warning)
            self._has_warned = True

    def trial(self, pair: Record, folder: Path) -> Record:
        """See `PartStage.trial`."""
        (judgement,) = self.part.judge([pair], folder)
        return judgement


class Filter(WholeStage):
    """Decides on every triplet by scores and bounds; no model is needed."""

    name, source = "filter", "gates"

    def __init__(self, bounds: Thresholds, measuring: Sequence[str]):
        super().__init__()
        self._bounds, self._measuring, self.settings = bounds, measuring, deciding(bounds)

    def sources(self) -> list[str]:
        """The pairs, and the stages that measure them."""
        return ["split", *self._measuring]

    def make(self, work: Workspace) -> dict[str, Any]:
        """See `WholeStage.make`."""
        for chunk in range(work.num_chunks):
            work.write(self.name, chunk, self._decide(work, chunk))
        return work.counts(self.name)

    def _decide(self, work: Workspace, chunk: int) -> Iterator[Record]:
        scores = scores_of(work, chunk, self._measuring)
        faults = {
            record["id"]: record[REJECTED]
            for stage in self._measuring
            for record in work.read(stage, chunk)
            if REJECTED in record
        }
        for pair in work.kept("split", chunk):
            for direction, reasons in self._bounds.decide(scores[pair["id"]]).items():
                record = {"id": f"{pair['id']}-{direction}", "pair": pair["id"], "direction": direction}
                if pair["id"] in faults:
                    reasons = [f"judge: {faults[pair['id']]}"]
                yield record | ({REJECTED: reasons[0], "reasons": reasons} if reasons else {})
