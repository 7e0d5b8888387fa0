"""Trials before the first item: every model on one small thing, then a few texts through all stages.

A wrong folder, an absent server, weights full of NaN or a judge with useless answers show here within minutes, and
not after days in earlier stages.
"""

import logging
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from tempfile import TemporaryDirectory

from .brakes import why_rejected
from .components import REJECTED, ImageRequest, Record, SynthesisError
from .images import save_image
from .recipe import Recipe
from .report.counting import num_kept
from .settings import uses_models
from .stages import ItemStage, Stage, Workspace, discard_from, run_stages
from .stand_ins.diptychs import WorldPainter
from .stand_ins.grammar import GrammarWriter

logger = logging.getLogger(__name__)

CANARY = "canary"  # its folder, in that of the synthesis
_TIMES_CANARY = 10  # a canary is worthwhile in recipes of so many times its texts
_FEWEST_ITEMS = 8  # if so many are all rejected, that is not by chance


def try_models(stages: Sequence[Stage], work: Workspace) -> None:
    """Load every model that these stages will need here, one after the other, and try it on one small thing.

    Raises:
        SynthesisError: one cannot be loaded or reached, or gives nothing usable; names the stage.
    """
    # From the first stage that has something to do: it gives work to all later ones.
    due = dropwhile(lambda stage: not _has_work(stage, work), stages)
    if not (due := [stage for stage in due if uses_models(stage.works_with)]):
        return
    with TemporaryDirectory(prefix="fafa-preflight-") as folder:
        pair = paint_pair(Path(folder))
        for stage in due:
            logger.info("trying what stage %s works with", stage.name)
            stage.try_out(pair, Path(folder))


def _has_work(stage: Stage, work: Workspace) -> bool:
    if not isinstance(stage, ItemStage):
        return "counts" not in work.manifest(stage.name)
    try:
        return not stage.is_done(work, work.own_chunks)
    except SynthesisError:  # what it needs is not there yet
        return True


def paint_pair(folder: Path) -> Record:
    """Paint a pair for trials into the folder.

    Returns:
        Its record: `id`, the texts of a quadruple, and the files `left`, `right` and `image` (both in one).
    """
    (texts,) = GrammarWriter().load().write(["0"], seed=0)
    painter = WorldPainter(height=256, width=272, fault_rate=0.0).load()
    (painted,) = painter.paint([ImageRequest("preflight", "", 0, scene=texts)])
    width, height = painted.image.size
    beside = width // 12  # the seam is seldom in the middle
    images = {
        "image": painted.image,
        "left": painted.image.crop((0, 0, width // 2 - beside, height)),
        "right": painted.image.crop((width // 2 + beside, 0, width, height)),
    }
    for name, image in images.items():
        save_image(image, folder / f"{name}.png", quality=95)
    return texts | {"id": "preflight", "quadruple": "0"} | {name: f"{name}.png" for name in images}


def run_canary(recipe: Recipe, work: Workspace, num_stages: int) -> None:
    """Send a few texts through the first `num_stages` stages, in a folder of their own.

    It goes on there when later stages follow. There is none if the work was begun without one.

    Raises:
        SynthesisError: a stage cannot do its work, or rejects everything.
    """
    count, folder = recipe.brakes.canary, work.root / CANARY
    has_models = any(uses_models(stage.works_with) for stage in recipe.stages())
    if not count or work.shard[0] or not has_models or recipe.count < _TIMES_CANARY * count:
        return
    first = recipe.stages()[0].name
    if not folder.exists() and any(any(work.folder(first).glob(f"{chunk:05d}*.jsonl")) for chunk in work.own_chunks):
        return
    logger.info("%d texts go through all stages first, in %s", count, folder)
    stages, canary = _canary(recipe, work)
    for stage in stages:
        if _kept_nothing(stage, canary):  # it was stopped there: what it rejected is tried again
            discard_from(stage.name, stages, canary)
            break
    run_stages(stages[:num_stages], canary)
    for stage in stages[:num_stages]:
        if _kept_nothing(stage, canary):
            records = [record for record in canary.records(stage.name) if REJECTED in record]
            raise SynthesisError(
                f"stage {stage.name}: of the first texts, all {len(records):,} items were rejected, "
                f"{why_rejected(records)} They lie in {canary.folder(stage.name)}. Then give the same command again; "
                "with `brakes: {canary: 0}` in the recipe it goes on all the same."
            )


def discard_canary(recipe: Recipe, work: Workspace, stage: str) -> None:
    """Discard the canary, too, from a stage on."""
    if not work.shard[0] and recipe.brakes.canary:
        discard_from(stage, *_canary(recipe, work))


def _canary(recipe: Recipe, work: Workspace) -> tuple[list[Stage], Workspace]:
    """The stages of the few texts, and where they work."""
    few = recipe.limited(recipe.brakes.canary)
    return few.stages(), Workspace(work.root / CANARY, few.num_chunks, show_progress=False, brakes=work.brakes)


def _kept_nothing(stage: Stage, work: Workspace) -> bool:
    counts = work.manifest(stage.name).get("counts", {})
    return counts.get("items", 0) >= _FEWEST_ITEMS and not num_kept(counts)
