"""The base of all recipes."""

from abc import abstractmethod
from typing import Annotated

from pydantic import Field, model_validator

from .brakes import Brakes
from .planning import Amount, Estimates, plan_table
from .report.measures import StatisticsSettings
from .settings import Free, Settings
from .stages import Stage, Workspace

_MOST_CHUNKS = 100_000
TextCount = Annotated[int, Field(ge=1, le=100_000_000)]


class Recipe(Settings):
    """What data set to make, and how."""

    statistics: StatisticsSettings = StatisticsSettings()  # what is measured of the data set
    estimates: Free[Estimates] = Estimates()  # assumptions for the plan
    brakes: Free[Brakes] = Brakes()  # trials before the first item, and when to stop a stage that rejects everything
    seed: int = 0  # seed of everything random
    # texts per file; shards divide the files among them, so there should be many more files than shards
    chunk_size: Annotated[int, Field(ge=1, le=1_000_000)] = 500

    @model_validator(mode="after")
    def _check_chunks(self) -> "Recipe":
        if self.num_chunks > _MOST_CHUNKS:
            raise ValueError(
                f"{self.count:,} texts at chunk_size {self.chunk_size:,} make {self.num_chunks:,} files a stage, "
                f"expected at most {_MOST_CHUNKS:,}: raise chunk_size"
            )
        return self

    @property
    @abstractmethod
    def count(self) -> int:
        """How many texts the first stage writes."""

    @property
    @abstractmethod
    def dataset(self) -> str:
        """The name of the result for `load_dataset`, and of its folder."""

    @property
    def num_chunks(self) -> int:
        """How many files the texts fill."""
        return -(-self.count // self.chunk_size)

    @abstractmethod
    def limited(self, count: int) -> "Recipe":
        """The recipe for the first `count` texts."""

    @abstractmethod
    def preview(self) -> str:
        """What a model would be asked first."""

    @abstractmethod
    def amounts(self) -> list[Amount]:
        """What the stages would make and take, by the estimates."""

    def plan(self) -> str:
        """What a model would be asked first, and what everything would cost."""
        return f"{self.preview()}\n\n{plan_table(self.estimates, self.amounts())}"

    @abstractmethod
    def stages(self) -> list[Stage]:
        """What to do, in order."""

    def next_steps(self, work: Workspace) -> str:
        """What to do with the data set."""
        folder = work.root / self.dataset
        return f'{folder} is ready: load_dataset("{self.dataset}", data_dir="{folder}") after `import fafa`.'
