"""What the builders of this package share.

`datasets` patches `open`, `os.path` and `Path` in this module and in those of the builders, for streaming. So files are
handled elsewhere: in layout.py, records.py, hub.py and archives/.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import datasets
import pyarrow as pa

from ..files import hash_files
from .hub import hub_layout
from .layout import ImageFinder, Layout, local_layout
from .records import Problems, Repeats, check_records, read_records

logger = logging.getLogger(__name__)

_RECORDS_PER_TABLE = 10_000


@dataclass
class FolderConfig(datasets.BuilderConfig):
    """Where a data set is read from.

    Attributes:
        data_dir: The folder with the annotation files and the images.
        repo_id: Without `data_dir`: the data-set repository on the Hub; None for the authors'.
        revision: Without `data_dir`: branch, tag or commit of that repository.
        annotation_names: The annotation files; fixed by the builder.
    """

    repo_id: str | None = None
    revision: str | None = None
    annotation_names: tuple[str, ...] = ()

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Key the cache by folder and contents of the annotation files, or by repository and revision.

        What is cached from the Hub stays until `revision` changes or `download_mode="force_redownload"` is given.
        """
        if self.data_dir is None:
            key = {"repo_id": self.repo_id, "revision": self.revision}
        else:
            layout = local_layout(self.data_dir, self.annotation_names)
            key = {"root": layout.root, "annotations": hash_files(list(layout.annotations.values()))}
        return super().create_config_id(key, custom_features)


class FolderBuilder(datasets.ArrowBasedBuilder):
    """A data set of annotation files beside folders of images, in a user's folder or on the Hub.

    Every record and the existence of every image are checked when the data set is first loaded; what is wrong raises
    `DataFormatError`. Images are not opened before they are used.
    """

    BUILDER_CONFIG_CLASS = FolderConfig
    HUB_REPO_ID: str | None  # the authors' repository; None if there is none in our layout
    SPLIT: datasets.NamedSplit
    WRITTEN_BY = ", such as fafa.synthesis writes,"  # of such a folder, for the error where none is named

    def _create_builder_config(self, config_name=None, **kwargs):
        if config_name is None and len(self.BUILDER_CONFIGS) > 1:
            choice = " or ".join(f'"{config.name}"' for config in self.BUILDER_CONFIGS)
            raise ValueError(f"load_dataset needs the name of a configuration as its second argument: {choice}.")
        if kwargs.get("data_dir") is not None and (self.repo_id or kwargs.get("revision")):
            raise ValueError("load_dataset takes either data_dir=, a folder, or repo_id= and revision=, of the Hub.")
        self._refuse_what_is_not_honoured(kwargs)
        kwargs["repo_id"] = self.repo_id or self.HUB_REPO_ID
        if kwargs.get("data_dir") is None and kwargs["repo_id"] is None:
            name, files = type(self).__name__, self.BUILDER_CONFIGS[0].annotation_names
            raise ValueError(
                f"{name}: no repository of its authors in this layout is known. Pass as data_dir= a folder with "
                f"{' and '.join(files)}{self.WRITTEN_BY} or as repo_id= a Hub repository that holds one."
            )
        return super()._create_builder_config(config_name, **kwargs)

    def _refuse_what_is_not_honoured(self, given: dict) -> None:
        """Refuse options of `load_dataset` that would change nothing, or the cache's key alone."""
        name = type(self).__name__
        reasons = {
            "annotation_names": f"{name} reads {' and '.join(self.BUILDER_CONFIGS[0].annotation_names)}",
            "config_id": "the cache is keyed by the contents of the annotation files",
            "version": "it is the builder's own",
        }
        for option, reason in reasons.items():
            if given.get(option) is not None:
                raise ValueError(f"{name} takes no {option}=: {reason}. Leave it out.")
        if self.storage_options:
            raise ValueError(
                f"{name} takes no storage_options=: it is read from a folder of this machine, or fetched from the Hub. "
                "Mount or copy what lies elsewhere, and pass its folder as data_dir=."
            )
        folder = given.get("data_dir")
        if not (folder is None or isinstance(folder, str) or hasattr(folder, "__fspath__")):
            raise TypeError(f"data_dir is {folder!r:.60}, expected the path of one folder.")

    def _find_layout(self, dl_manager) -> Layout:
        names = self.config.annotation_names
        if self.config.data_dir is None:
            return hub_layout(
                self.config.repo_id,
                names,
                unpack_dir=f"{self._cache_downloaded_dir}/extracted",
                revision=self.config.revision,
                token=self.token if self.token is not None else dl_manager.download_config.token,
                force_download=bool(dl_manager.download_config.force_download),
                local_files_only=bool(dl_manager.download_config.local_files_only),
            )
        return local_layout(self.config.data_dir, names)

    def _split_generators(self, dl_manager):
        # A list, because datasets counts its shards by lists.
        return [datasets.SplitGenerator(name=self.SPLIT, gen_kwargs={"layouts": [self._find_layout(dl_manager)]})]

    def _generate_tables(self, layouts):
        for layout in layouts:
            yield from self._read_tables(layout)


def read_tables(
    layout: Layout,
    name: str,
    read_row: Callable[[dict, ImageFinder], tuple],
    features: datasets.Features,
    published: dict[str, int],
    group: tuple[str, int],
    remedy: str,
    key: int | None = None,
) -> Iterator[tuple[int, pa.Table]]:
    """The records of <name>.json as tables, checked, each with the number of its first record.

    Args:
        layout: Where the data set lies.
        name: Name of the data set.
        read_row: Makes a row of a record, in the order of the features, or raises `BadRecord`.
        features: The columns.
        published: Counts of the published file; empty if they are not known.
        group: The name for the count of a column's different values, and the column.
        remedy: What to do about missing images.
        key: The column that may not repeat; None for all columns together.

    Raises:
        DataFormatError: records are not as documented, repeat earlier ones, or name images that are not there.
    """
    file, finder, values = layout.annotations[f"{name}.json"], ImageFinder(layout), set()
    remedy += f"; image paths are relative to {' or '.join(layout.image_folders)}"
    problems = Problems(file, {"names an image file that is missing": remedy})
    records, repeats, num_records = read_records(file), Repeats(), 0
    while batch := list(islice(records, _RECORDS_PER_TABLE)):
        rows = check_records(batch, lambda record: read_row(record, finder), problems, first=num_records)
        for number, row in enumerate(rows, num_records):
            repeats.see(number, row if key is None else (row[key],))
            values.add(row[group[1]])
        yield num_records, to_table(rows, features)
        num_records += len(rows)
    repeats.report(file, published.get("records", 0))
    report_counts(layout, name, {"records": num_records, group[0]: len(values)}, published)


def to_table(rows: Sequence[tuple], features: datasets.Features) -> pa.Table:
    """Rows in the order of the features -> a table; images are stored as paths, without their bytes."""
    arrays = []
    for feature, column in zip(features.values(), zip(*rows, strict=True), strict=True):
        if isinstance(feature, datasets.Image):
            nothing = pa.nulls(len(rows), pa.binary())
            arrays.append(pa.StructArray.from_arrays([nothing, pa.array(column)], names=["bytes", "path"]))
        else:
            arrays.append(pa.array(column, feature.pa_type))
    return pa.Table.from_arrays(arrays, names=list(features))


def report_counts(layout: Layout, name: str, found: dict[str, int], published: dict[str, int]) -> None:
    """Log how the counts of a data set differ from the published ones; `records` is one of them.

    It is a warning for a data set from the Hub and for one that looks like the published one with something missing:
    one with at least half of its records, and nothing that it does not hold. It is information for any other.
    """
    differences = describe_differences(found, published)
    if not differences:
        return
    looks_published = found["records"] >= published["records"] / 2 and found.keys() <= published.keys()
    logger.log(
        logging.WARNING if layout.repo_id is not None or looks_published else logging.INFO,
        "%s at %s is not the published data set, or not all of it: %s.",
        name,
        layout.root,
        differences,
    )


def describe_differences(found: dict[str, int], published: dict[str, int]) -> str:
    """The counts that differ from the published ones, as text; empty if none does."""
    return ", ".join(
        f"{found.get(key, 0):,} {key} (published: {count:,})"
        for key, count in published.items()
        if found.get(key, 0) != count
    )
