"""The stage that writes what `load_dataset` reads: annotation files, and the images as hard links or copies."""

import json
import shutil
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..components import Record, SynthesisError
from ..images import link_image
from .stage import WholeStage
from .workspace import Workspace


class DataSetStage(WholeStage):
    """A stage that makes data sets: folders of the workspace beside those of the stages."""

    @abstractmethod
    def data_sets(self, settings: Mapping[str, Any]) -> list[Path]:
        """Their annotation files below the workspace, from the stage's settings; each in the folder of a data set."""

    def results(self, work: Workspace) -> list[Path]:
        """The annotation files."""
        return [work.root / file for file in self.data_sets(self.settings)]

    def check_settings(self, work: Workspace) -> None:
        """See `Stage.check_settings`.

        Raises:
            SynthesisError: also if a folder of that name exists that this stage did not make: it would be replaced.
        """
        super().check_settings(work)
        if not work.manifest(self.name):
            for folder in (file.parent for file in self.results(work)):
                if folder.exists():
                    raise SynthesisError(f"{folder} exists already, and was not made here: give another --output")

    def discard(self, work: Workspace) -> None:
        """Also delete the data sets."""
        if found := work.manifest(self.name):
            for file in self.data_sets(found["settings"]):
                shutil.rmtree(work.root / file.parent, ignore_errors=True)
        super().discard(work)


def write_data_set(file: Path, entries: Iterable[tuple[Record, Mapping[str, Path]]], group: str) -> tuple[int, int]:
    """Write a data set's folder anew, whole or not at all.

    Args:
        file: Its annotations, a JSON list with a record to a line.
        entries: The records, each with its images: path in the data set -> where the image lies now.
        group: The field that records of one group, or person, share.

    Returns:
        How many records and how many groups there are.
    """
    folder = file.parent
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    count, groups = 0, set()
    with (part / file.name).open("w", encoding="utf-8", newline="\n") as stream:
        for record, images in entries:
            for path, source in images.items():
                link_image(source, part / path)
            stream.write((",\n " if count else "[\n ") + json.dumps(record, ensure_ascii=False))
            count += 1
            groups.add(record[group])
        stream.write("\n]\n" if count else "[]\n")
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return count, len(groups)
