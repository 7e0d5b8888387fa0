"""What the builders of composed image retrieval's benchmarks share: splits of several annotation files, as published.

FashionIQ, CIRR and CIRCO publish their annotations split by split, each split's in files of its own, and name images
without a folder. A split is there if its annotation files are.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import datasets
import pyarrow as pa

from ..files import hash_files
from .base import FolderBuilder, FolderConfig, report_counts, to_table
from .benchmark_files import splits_in
from .layout import Layout

logger = logging.getLogger(__name__)


@dataclass
class BenchmarkConfig(FolderConfig):
    """Where a benchmark is read from; `name` is "query" or "gallery".

    Attributes:
        split_files: Split -> its annotation files, relative to the folder; fixed by the builder.
    """

    split_files: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Key the cache by folder and contents of all annotation files that are there."""
        found = splits_in(self.data_dir, dict(self.split_files))
        files = [file for layout in found.values() for file in layout.annotations.values()]
        key = {"root": next(iter(found.values())).root, "annotations": hash_files(files)}
        return datasets.BuilderConfig.create_config_id(self, key, custom_features)


class BenchmarkBuilder(FolderBuilder):
    """A benchmark's queries and gallery, in a folder of the user's; every split whose files are there is loaded.

    A builder names `SPLIT_FILES`, `FEATURES` and `WHERE_IMAGES_GO`, and writes `has_images`, `read_queries` and
    `read_gallery`.
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    HUB_REPO_ID = None
    SPLIT_FILES: ClassVar[dict[str, tuple[str, ...]]]
    FEATURES: ClassVar[dict[str, datasets.Features]]  # of "query" and "gallery"
    WHERE_IMAGES_GO: ClassVar[str]  # a sentence
    PUBLISHED: ClassVar[dict[str, dict[str, dict[str, int]]]] = {}  # configuration -> split -> counts

    @staticmethod
    def configs(split_files: dict[str, tuple[str, ...]]) -> list[BenchmarkConfig]:
        """The two configurations of a builder."""
        return [
            BenchmarkConfig(name=name, version="1.0.0", split_files=tuple(split_files.items()))
            for name in ("query", "gallery")
        ]

    def _create_builder_config(self, config_name=None, **kwargs):
        name = type(self).__name__
        if self.repo_id or kwargs.get("revision") or kwargs.get("data_dir") is None:
            files = " and ".join(next(iter(self.SPLIT_FILES.values())))
            raise ValueError(
                f"{name}: its images are the user's to obtain, so it is read from a folder of yours. Pass as data_dir= "
                f"the one that holds {files}; README.md says where it comes from."
            )
        for option in ("split_files", "annotation_names"):
            if kwargs.get(option) is not None:
                raise ValueError(f"{name} takes no {option}=: its files are as published. Leave it out.")
        return super()._create_builder_config(config_name, **kwargs)

    def _split_generators(self, dl_manager):
        found = self._layouts()
        there = {split: layout for split, layout in found.items() if self.has_images(layout, split)}
        if not there:
            raise FileNotFoundError(
                f"{self.config.data_dir}: none of the images of {', '.join(found)} is there. {self.WHERE_IMAGES_GO}"
            )
        for split in found.keys() - there.keys():
            logger.warning(
                "%s at %s: none of the images of the split %s is there, so it is left out.",
                *(type(self).__name__, self.config.data_dir, split),
            )
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"layouts": [layout], "split": split})
            for split, layout in there.items()
        ]

    def _layouts(self) -> dict[str, Layout]:
        return splits_in(self.config.data_dir, self.SPLIT_FILES)

    def has_images(self, layout: Layout, split: str) -> bool:
        """Whether one of a split's images is there, at least."""
        raise NotImplementedError

    def _generate_tables(self, layouts: list[Layout], split: str) -> Iterator[tuple[int, pa.Table]]:
        read = self.read_queries if self.config.name == "query" else self.read_gallery
        for layout in layouts:
            rows = read(layout, split)
            published = self.PUBLISHED.get(self.config.name, {}).get(split)
            if published:
                report_counts(
                    layout, f"{type(self).__name__} {self.config.name} ({split})", self.count(rows), published
                )
            yield 0, to_table(rows, self.info.features)

    def count(self, rows: list[tuple]) -> dict[str, int]:
        """What `PUBLISHED` has of rows."""
        return {"records": len(rows)}

    def read_queries(self, layout: Layout, split: str) -> list[tuple]:
        """Rows in the order of the features. Raises `DataFormatError`."""
        raise NotImplementedError

    def read_gallery(self, layout: Layout, split: str) -> list[tuple]:
        """Rows in the order of the features. Raises `DataFormatError`."""
        raise NotImplementedError

    def as_dataset(self, split=None, *args, **kwargs):
        """The data set, or a split of it; one that is not there is told with its files."""
        self._require(split)
        return super().as_dataset(split, *args, **kwargs)

    def as_streaming_dataset(self, split=None, *args, **kwargs):
        """The same as a stream."""
        self._require(split)
        return super().as_streaming_dataset(split, *args, **kwargs)

    def _require(self, split) -> None:
        name = str(split).partition("[")[0].partition("+")[0]
        if split is None or name == "all" or not name:
            return
        found = [split for split, layout in self._layouts().items() if self.has_images(layout, split)]
        if name not in found:
            of_split = " and ".join(self.SPLIT_FILES.get(name, ()))
            needs = (
                f"it needs {of_split}, and its images"
                if of_split
                else f"{type(self).__name__} has {', '.join(self.SPLIT_FILES)}"
            )
            raise ValueError(
                f"{self.config.data_dir}: there is no split {name!r}; {needs}. The folder holds {', '.join(found)}."
            )


__all__ = ["BenchmarkBuilder", "BenchmarkConfig"]
