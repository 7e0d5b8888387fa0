"""The half of `Gallery` that knows what its scores mean: probabilities, and "nobody here matches"."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..retriever import Retriever, RetrieverProcessor
from .calibrating import calibrate
from .calibration import Calibration
from .finding import score_rows
from .searching import Allowed, SearchResult
from .state import GalleryState

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class GalleryJudging:
    """Calibrates a gallery, and judges the results of its searches."""

    model: Retriever
    processor: RetrieverProcessor
    state: GalleryState
    keep_calibration: Callable[..., None]
    _read: tuple[dict[str, Any], Calibration] | None = None  # the record that was read last, and what it says
    _looked_at: tuple[GalleryState, set[str]] | None = None  # the state looked at last, and for which kinds of query

    @property
    def calibration(self) -> Calibration | None:
        """What the gallery's scores mean, if it was calibrated.

        Raises:
            ValueError: it is damaged, or of another model.
        """
        record = self.state.calibration
        if record is None:
            return None
        if self._read is None or self._read[0] is not record:
            calibration = Calibration.from_record(record)
            calibration.check(self.state.settings)
            self._read = record, calibration
        return self._read[1]

    def calibrate(
        self, queries: "datasets.Dataset", images: "datasets.Dataset | None" = None, **options: Any
    ) -> Calibration:
        """Learns what scores mean from queries with known matches, and keeps that with the gallery.

        From then on results have a `probability`, and `search(..., false_alarm_rate=0.01)` finds nobody where nobody
        matches. A warning tells where the gallery's images score otherwise than those of the calibration. It cannot see
        that queries ask for what the gallery is full of: with six people in the clothes asked for instead of two, a
        promised 10 % of false alarms were 15.8 % (benchmarks/results/open_set.md). Calibrate on such queries then.

        Args:
            queries: what `load_dataset("ITCPR", "query", ...)` gives, with `images`, or held-out triplets in SynCPR's
                form alone; and `options`: see `calibrating.calibrate`.

        Raises:
            ValueError, TypeError: as for `calibrating.calibrate`.
            OSError: it cannot be written into the gallery's folder.
        """
        calibration = calibrate(self.model, self.processor, queries, images, **options)
        calibration.check(self.state.settings)
        self.keep_calibration(calibration.to_record())
        for kind in calibration.kinds:
            self._tell_unlike(calibration, kind)
        return calibration

    def judge(
        self, kind: str, false_alarm_rate: float | None = None, allowed: Allowed | None = None
    ) -> Callable[[list[SearchResult]], list[SearchResult]]:
        """What is to be made of a search's results: they get probabilities, and those below the cut-off are dropped.

        Args:
            kind: of the query: "image+caption", "caption" or "image".
            false_alarm_rate: see `search`. `allowed`: which images are searched; None: all.

        Raises:
            ValueError: a false-alarm rate is asked for that cannot be promised.
        """
        calibration = self.calibration
        if false_alarm_rate is not None and calibration is None:
            raise ValueError(
                "the gallery is not calibrated, so it can promise no false-alarm rate: gallery.calibrate(...), or fafa "
                "index with --calibrate, learns from queries with known matches"
            )
        if calibration is None or (false_alarm_rate is None and kind not in calibration.kinds):
            return lambda results: results
        of_kind = calibration.of_kind(kind)
        size = max(1, len(self.state) if allowed is None else allowed.count())
        cut_off = -1.0 if false_alarm_rate is None else of_kind.cut_off(false_alarm_rate, size)
        self._tell_unlike(calibration, kind)

        def judged(results: list[SearchResult]) -> list[SearchResult]:
            results = [result for result in results if result.score > cut_off or false_alarm_rate is None]
            scores = torch.tensor([result.score for result in results])
            probabilities = of_kind.probability(scores, size).tolist()
            return [
                replace(result, probability=probability)
                for result, probability in zip(results, probabilities, strict=True)
            ]

        return judged

    def _tell_unlike(self, calibration: Calibration, kind: str) -> None:
        """Warns, once for a state of the gallery, where its images score otherwise than those of the calibration."""
        state = self.state
        if self._looked_at is None or self._looked_at[0] is not state:
            self._looked_at = state, set()
        if kind in self._looked_at[1]:
            return
        self._looked_at[1].add(kind)
        number = calibration.probed_images(kind, len(state))
        if number == 0:
            return
        places = torch.randperm(len(state), generator=torch.Generator().manual_seed(0))[:number].sort().values
        probes = calibration.probes[kind].float().to(state.device)
        seen = score_rows(probes, state.parts, state.living_rows(places), self.model.num_top_tokens)
        if (remark := calibration.tell_unlike(kind, seen)) is not None:
            logger.warning("%s (queries of %s)", remark, kind)
