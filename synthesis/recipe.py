"""What recipes of every kind have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from .brakes import Brakes
from .planning import Amount, Estimates, plan_table
from .report.measures import StatisticsSettings
from .stages import Stage, Workspace

_MOST_CHUNKS = 100_000


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """What data set to make, and how.

    Attributes:
        statistics: What is measured of the data set.
        estimates: Assumptions for the plan.
        brakes: What is tried before the first item, and when a stage that rejects everything is stopped.
        seed: Of everything random.
        chunk_size: Texts per file. Shards share the chunks out, so there should be many more of these.
    """

    kind: ClassVar[str]

    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    estimates: Estimates = field(default_factory=Estimates, metadata={"free": True})
    brakes: Brakes = field(default_factory=Brakes, metadata={"free": True})
    seed: int = 0
    chunk_size: int = 500

    def __post_init__(self):
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1: {self.chunk_size}")
        if self.num_chunks > _MOST_CHUNKS:
            raise ValueError(
                f"{self.count:,} texts at chunk_size {self.chunk_size:,} make {self.num_chunks:,} files a stage, "
                f"expected at most {_MOST_CHUNKS:,}: raise chunk_size"
            )

    @property
    @abstractmethod
    def count(self) -> int:
        """Of the texts that the first stage writes."""

    @property
    @abstractmethod
    def dataset(self) -> str:
        """The name by which `load_dataset` knows the result, and of its folder."""

    @property
    def num_chunks(self) -> int:
        """Into how many files the texts go."""
        return -(-self.count // self.chunk_size)

    @abstractmethod
    def limited(self, count: int) -> "Recipe":
        """The recipe for the first `count` texts."""

    @abstractmethod
    def preview(self) -> str:
        """What would be asked for first."""

    @abstractmethod
    def amounts(self) -> list[Amount]:
        """What the stages would make and take, by the estimates."""

    def plan(self) -> str:
        """What would be asked for first, and what all would cost."""
        return f"{self.preview()}\n\n{plan_table(self.estimates, self.amounts())}"

    @abstractmethod
    def stages(self) -> list[Stage]:
        """What is to be done, in order."""

    def next_steps(self, work: Workspace) -> str:
        """What to do with the data set."""
        folder = work.root / self.dataset
        return f'{folder} is ready: load_dataset("{self.dataset}", data_dir="{folder}") after `import fafa`.'
