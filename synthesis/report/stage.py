"""The last stage of every pipeline: the page about it all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..components import Record
from ..settings import deciding
from ..stages import WholeStage, Workspace
from .measures import StatisticsSettings


class StatisticsStage(WholeStage):
    """A stage that writes a page.

    Args:
        settings: What is measured.
        seed: Of what is shown and measured.
        sources: The stages that the page tells of, in order.
    """

    name = "statistics"

    def __init__(self, settings: StatisticsSettings, seed: int, sources: Sequence[str]):
        super().__init__()
        self._measured, self._seed, self._sources = settings, seed, list(sources)
        self.source, self.settings = self._sources[-1], deciding(settings)

    def sources(self) -> list[str]:
        """The stages that the page tells of."""
        return self._sources

    @property
    def works_with(self) -> Any:
        """What measures."""
        return self._measured

    def try_out(self, pair: Record, folder: Path) -> None:
        """See `Stage.try_out`."""
        self._measured.try_out()

    def results(self, work: Workspace) -> list[Path]:
        """The page and its numbers."""
        return [work.folder(self.name) / name for name in ("statistics.md", "statistics.json")]
