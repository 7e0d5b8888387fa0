"""Checks folders against the checksums they were written with, and data sets image by image.

    python -m fafa.verify runs/paper                 # a run: its model and all its checkpoints
    python -m fafa.verify data/SynCPR exports/syncpr indexes/photos

    folder                how it is known                         what is checked
    data set              SynCPR.json, CIRHS.json, SynTBPR.json,  every record, and every image is opened, see
                          query.json and gallery.json, or a file  `fafa.dataset_builders.verify`
                          of images with captions: reid_raw.json,
                          ICFG-PEDES.json, data_captions.json,
                          UFine6926.json, train.json (TBPS-CLIP)
    painted world         world.json, checksums.json              the checksum of every file
    export                export.json                             the checksums of shards, card and export.json
    synthesis             runs.jsonl                              the checksums of finished chunks and their pictures
    training checkpoint   checkpoint-<step>                       the checksums of all files and of manifest.json
    features of images    features-*.safetensors, inputs-*.jsonl  the checksums of shards, list and manifest.json
    model                 config.json and *.safetensors           nothing was recorded: headers, sizes, finite weights;
                                                                  of a FafaModel, that it is whole and its parts fit

A folder that is none of these is looked through for such folders, three levels deep. Every fault is a line with the
name of the file. Exit status: 0 if all is sound, 1 if there are faults, 2 if something could not be checked.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .files import read_json
from .workers import WorkerDiedError

logger = logging.getLogger(__name__)

_LEVELS = 3
_TEXT_IMAGE = "reid_raw.json", "ICFG-PEDES.json", "ICFG_PEDES.json", "data_captions.json", "UFine6926.json"
_FEW = 20  # records named of each problem of a data set; its report has all


class Verdict(NamedTuple):
    """What checking a folder showed.

    Attributes:
        folder: Where.
        kind: What it is, as in the module's table.
        faults: A line each, with the file's name.
        unchecked: Why something could not be checked, a line each.
        remark: What else to know; "" for nothing.
    """

    folder: Path
    kind: str
    faults: list[str]
    unchecked: list[str]
    remark: str = ""


class Options(NamedTuple):
    """How to check.

    Attributes:
        output_dir: Folder of a data set's report; None for `verify` in the data set's.
        num_workers: Processes that open images; None for one per core.
        show_progress: Whether to show progress bars.
    """

    output_dir: Path | None = None
    num_workers: int | None = None
    show_progress: bool = True


def verify(folder: str | os.PathLike, options: Options | None = None) -> Iterator[Verdict]:
    """Checks a folder, or those in it; see the module's docstring.

    With more than one worker process, call it under `if __name__ == "__main__":`, as with any multiprocessing.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing that can be checked is there.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = list(_recognise(folder, _LEVELS))
    if not found:
        raise ValueError(
            f"{folder}: there is no data set, painted world, export, checkpoint, features or model in it; see --help "
            "for how they are known"
        )
    for place, kind in found:
        try:
            yield _CHECKS[kind](place, options or Options())
        except OSError as error:
            yield Verdict(place, kind, [], [f"{error.filename or place}: {error.strerror or error}"])
        except ImportError as error:
            yield Verdict(place, kind, [], [f"{error.name} is not installed, which this check needs"])


def _recognise(folder: Path, levels: int) -> Iterator[tuple[Path, str]]:
    """What is in a folder: places and kinds, in order; folders inside recognised ones are theirs, but for a run's."""
    with os.scandir(folder) as entries:  # there may be millions of images: no look at each of them
        is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    names = set(is_folder)
    if kinds := [kind for kind, is_there in _SIGNS.items() if is_there(folder, names)]:
        yield from ((folder, kind) for kind in kinds)
    if kinds in ([], ["model"], ["synthesis"]) and levels:
        for name in sorted((name for name in names if is_folder[name]), key=_by_number):
            if not name.startswith((".", "_")):  # such as _unfinished and _set_aside of a run
                yield from _recognise(folder / name, levels - 1)


def _by_number(name: str) -> list[tuple[int, str]]:
    """checkpoint-200 before checkpoint-1000."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _check_data_set(folder: Path, options: Options) -> Verdict:
    from .dataset_builders.verify import verify_dataset

    try:
        report = verify_dataset(folder, options.output_dir, options.num_workers, options.show_progress)
    except RuntimeError as error:
        return Verdict(folder, "data set", [], [str(error)])
    faults, unchecked = [], []
    for file, found in report["files"].items():
        for problem, where in found["problems"].items():
            lines = [f"{file}: record {one['record']} {problem}: {one['detail']}" for one in where["found"]]
            if len(lines) > _FEW:
                lines[_FEW:] = [f"{file}: and {len(lines) - _FEW:,} more: {problem}; see report.json"]
            (unchecked if problem.endswith("cannot be read now") else faults).extend(lines)
    place = options.output_dir or Path(report["root"], "verify")
    images = report["images"]
    counts = f"{images['named']:,} images, {images['opened']:,} opened now, {images['sound']:,} sound; "
    if changed := len(images["changed since they were found sound"]):
        counts += f"{changed:,} images changed since the last check; "
    return Verdict(folder, "data set", faults, unchecked, f"{counts}see {place}/report.md")


def _check_world(folder: Path, options: Options) -> Verdict:
    from .world.making import verify_world

    return Verdict(folder, "painted world", verify_world(folder, options.show_progress), [])


def _check_export(folder: Path, options: Options) -> Verdict:
    from .dataset_builders.export import verify_export

    return Verdict(folder, "export", verify_export(folder, options.show_progress), [])


def _check_synthesis(folder: Path, options: Options) -> Verdict:
    from .synthesis.stages import verify_workspace

    remark = "the data set it made is checked by itself" if (folder / "assemble").is_dir() else ""
    return Verdict(folder, "synthesis", verify_workspace(folder, options.show_progress), [], remark)


def _check_checkpoint(folder: Path, options: Options) -> Verdict:
    from .training.safety.checkpoints import faults_in, has_checksums, read_manifest

    faults = list(faults_in(folder, show_progress=options.show_progress))
    manifest = read_manifest(folder)
    is_old = manifest is not None and not has_checksums(manifest)
    remark = "an earlier version wrote it, without checksums: sizes alone were compared" if is_old else ""
    return Verdict(folder, "training checkpoint", faults, [], remark)


def _check_features(folder: Path, options: Options) -> Verdict:
    from .retrieval.store import verify_store

    return Verdict(folder, "features of images", verify_store(folder), [])


def _check_model(folder: Path, options: Options) -> Verdict:
    """Headers, sizes, the shards that an index names, finite weights; and what a FafaModel needs beside."""
    import torch
    from safetensors import SafetensorError, safe_open
    from tqdm.auto import tqdm

    faults: list[str] = []
    present: dict[str, set[str]] = {}
    integers: list[str] = []
    for file in tqdm(
        sorted(filter(Path.is_file, folder.glob("*.safetensors"))),
        desc=f"Checking {folder.name}",
        delay=1,
        disable=not options.show_progress,
    ):
        try:
            with safe_open(file, "pt") as tensors:
                present[file.name] = set(tensors.keys())
                for name in present[file.name]:
                    tensor = tensors.get_tensor(name)
                    if tensor.is_floating_point() and tensor.itemsize == 1:
                        # torch looks for NaN in few kinds of these; those of 4 bits, two in a byte, have none.
                        tensor = torch.zeros(1) if "float4" in str(tensor.dtype) else tensor.float()
                    if not torch.isfinite(tensor).all():
                        faults.append(f"{file.name}: {name} holds values that are not finite")
                    if not tensor.is_floating_point() and not name.endswith("position_ids"):
                        integers.append(f"{file.name}: {name} holds {str(tensor.dtype).removeprefix('torch.')} numbers")
        except SafetensorError as error:
            faults.append(f"{file.name} is cut off or damaged ({error})")
    for file in sorted(folder.glob("*.json")):
        try:
            content = read_json(file)
            if file.name.endswith(".safetensors.index.json"):
                lacking = sorted(
                    name for name, shard in content["weight_map"].items() if name not in present.get(shard, ())
                )
                if lacking:
                    faults.append(f"{file.name}: {lacking[0]} and {len(lacking) - 1:,} more are not in their shards")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            faults.append(f"{file.name} is damaged ({str(error).removeprefix(f'{file}: ')})")
    settings = {} if faults else read_json(folder / "config.json")
    # A library that quantises writes packed integers, under names of its own.
    if settings.get("model_type") == "fafa" and not settings.get("quantization_config"):
        faults += [*integers, *_faults_of_fafa(folder, set.union(*present.values()))]
    return Verdict(
        folder, "model", faults, [], "no checksums are recorded: a changed weight that is finite is not seen"
    )


def _faults_of_fafa(folder: Path, present: set[str]) -> Iterator[str]:
    """What `load_model` would refuse, without the memory that weights take."""
    import torch

    from .configuration_fafa import FafaConfig
    from .model_folder import check_fit
    from .modeling_fafa import FafaModel
    from .processing_fafa import FafaProcessor
    from .weights_fafa import UnsoundModelError, refuse_incomplete

    try:
        with torch.device("meta"):
            model = FafaModel(FafaConfig.from_pretrained(folder))
    except Exception as error:
        yield f"config.json cannot be a FafaModel's ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        return
    wanted = set(model.state_dict())
    foreign = {name for name in present - wanted if not name.endswith("position_ids")}
    try:
        refuse_incomplete(folder.name, wanted - present, foreign)
    except UnsoundModelError as error:
        yield str(error)
    if (folder / "processor_config.json").is_file():
        try:
            check_fit(model, FafaProcessor.from_pretrained(folder), folder.name)
        except (OSError, TypeError, ValueError) as error:
            yield f"processor_config.json, tokenizer: {str(error).removeprefix(f'{folder.name}: ')}"


def _is_data_set(folder: Path, names: set[str]) -> bool:
    names = names | {f.name for f in (folder / "datasets").glob("*.json")} if "datasets" in names else names
    whole = {"SynCPR.json", "CIRHS.json", "SynTBPR.json", *_TEXT_IMAGE}
    by_split = (folder / name for name in ("train.json", "val.json", "test.json") if name in names)
    return bool(names & whole) or {"query.json", "gallery.json"} <= names or any(map(_has_translations, by_split))


def _has_translations(file: Path) -> bool:
    """Whether a file of so plain a name is one of TBPS-CLIP's."""
    with file.open("rb") as stream:
        return b'"captions_bt"' in stream.read(1 << 16)


_SIGNS: dict[str, Callable[[Path, set[str]], bool]] = {
    "data set": _is_data_set,
    "painted world": lambda folder, names: bool(names & {"world.json", "checksums.json"}),
    "export": lambda folder, names: "export.json" in names,
    "synthesis": lambda folder, names: "runs.jsonl" in names,
    "training checkpoint": lambda folder, names: re.fullmatch(r"checkpoint-\d+", folder.resolve().name) is not None,
    "features of images": lambda folder, names: any(
        re.fullmatch(r"(features-.*\.safetensors|inputs-.*\.jsonl)", name) for name in names
    ),
    "model": lambda folder, names: (
        "config.json" in names
        and any(name.endswith(".safetensors") for name in names)
        and not re.fullmatch(r"checkpoint-\d+", folder.resolve().name)
    ),
}
_CHECKS: dict[str, Callable[[Path, Options], Verdict]] = {
    "data set": _check_data_set,
    "painted world": _check_world,
    "export": _check_export,
    "synthesis": _check_synthesis,
    "training checkpoint": _check_checkpoint,
    "features of images": _check_features,
    "model": _check_model,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks, prints a line per fault and one per folder, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fafa.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what to check")
    parser.add_argument(
        "--output", type=Path, help="of a data set: folder of the report; by default verify/ in its own"
    )
    parser.add_argument(
        "--num-workers", type=int, help="of a data set: processes that open images; default: one a core"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args(arguments)
    if given.num_workers is not None and given.num_workers < 1:
        parser.error(f"--num-workers must be at least 1: {given.num_workers}")
    options = Options(given.output, given.num_workers, not given.quiet)
    num_faults = num_unchecked = 0
    try:
        for folder in given.folders:
            try:
                for verdict in verify(folder, options):
                    num_faults += len(verdict.faults)
                    num_unchecked += len(verdict.unchecked)
                    _show(verdict)
            except (OSError, ValueError, WorkerDiedError) as error:
                num_unchecked += 1
                print(f"Not checked: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was changed. A data set's check goes on from here.", file=sys.stderr)
        return 130
    return 1 if num_faults else 2 if num_unchecked else 0


def _show(verdict: Verdict) -> None:
    for fault in verdict.faults:
        print(f"{verdict.folder}: {fault}")
    for reason in verdict.unchecked:
        print(f"Not checked: {verdict.folder}: {reason}", file=sys.stderr)
    state = "faults" if verdict.faults else "not all checked" if verdict.unchecked else "sound"
    print(f"{verdict.folder}: {verdict.kind}: {state}{f' ({verdict.remark})' if verdict.remark else ''}")


if __name__ == "__main__":
    sys.exit(main())
