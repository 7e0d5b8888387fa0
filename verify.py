"""Checks folders against the checksums they were written with, and data sets image by image.

    fafa verify runs/paper                 # a run: its model and all its checkpoints
    fafa verify data/SynCPR exports/syncpr indexes/photos

    folder                recognised by                           what is checked
    data set              SynCPR.json, CIRHS.json, SynTBPR.json,  every record, and every image is opened, see
                          query.json and gallery.json, or a file  `fafa.dataset_builders.verify`
                          of images with captions: reid_raw.json,
                          ICFG-PEDES.json, data_captions.json,
                          UFine6926.json, train.json (TBPS-CLIP);
                          or captions/ and image_splits/ of
                          FashionIQ and CIRR, annotations/ of CIRCO
    painted world         world.json, checksums.json              the checksum of every file
    export                export.json                             the checksums of shards, card and export.json
    synthesis             runs.jsonl                              the checksums of finished chunks and their images
    training checkpoint   checkpoint-<step>                       the checksums of all files and of manifest.json
    gallery               gallery.json with segments/             the checksums of gallery.json and of all that it names
    features of images    features-*.safetensors, inputs-*.jsonl  the checksums of shards, list and manifest.json
    exported encoders     onnx.json                               the checksums of onnx.json and of all that it names
    model                 config.json and *.safetensors           nothing was recorded: headers, sizes, finite weights;
                                                                  of a FafaModel, that it is whole and its parts fit

A folder that is none of these is searched for such folders, three levels deep. Every fault is one line with the name
of the file. Exit status: 0 if all is sound, 1 if there are faults, 2 if something could not be checked.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .commands import command, make_parser
from .dataset_builders.benchmark_signs import benchmarks_in
from .files import read_json
from .names import counted, some
from .workers import WorkerDiedError

logger = logging.getLogger(__name__)

_LEVELS = 3
_TEXT_IMAGE = "reid_raw.json", "ICFG-PEDES.json", "ICFG_PEDES.json", "data_captions.json", "UFine6926.json"
_FEW = 20  # records named of each problem of a data set; its report has all


class Verdict(NamedTuple):
    """What checking a folder showed."""

    folder: Path
    kind: str  # as in the module's table
    faults: list[str]  # one line each, with the file's name
    unchecked: list[str]  # why something could not be checked, one line each
    remark: str = ""  # what else to know


def verify(
    folder: str | os.PathLike,
    output_dir: Path | None = None,
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Iterator[Verdict]:
    """Checks a folder, or those in it; see the module's docstring.

    With more than one worker process, call it under `if __name__ == "__main__":`, as with any multiprocessing.

    Args:
        folder: what to check.
        output_dir: folder of a data set's report; None for `verify` in the data set's.
        num_workers: processes that open images; None for one per core.
        show_progress: whether to show progress bars.

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
            f"{folder}: there is no data set, painted world, export, checkpoint, gallery, features, exported encoders "
            "or model in it; see --help for how they are recognised"
        )
    for place, kind in found:
        try:
            if kind == "data set":
                yield _check_data_set(place, output_dir, num_workers, show_progress)
            else:
                yield Verdict(place, kind, *_check(place, kind, show_progress))
        except OSError as error:
            yield Verdict(place, kind, [], [f"{error.filename or place}: {error.strerror or error}"])
        except ImportError as error:
            yield Verdict(place, kind, [], [f"this check needs {error.name}, which is not installed"])


def _recognise(folder: Path, levels: int) -> Iterator[tuple[Path, str]]:
    """Places and kinds in a folder, in order. Folders inside a recognised one are not searched, except a run's."""
    with os.scandir(folder) as entries:  # not a stat of each: there may be millions of images
        is_folder = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    names = set(is_folder)
    kinds = [kind for kind, is_there in _SIGNS.items() if is_there(folder, names)]
    yield from ((folder, kind) for kind in kinds)
    if kinds in ([], ["model"], ["synthesis"]) and levels:
        for name in sorted((name for name in names if is_folder[name]), key=_in_order):
            if not name.startswith((".", "_")):  # such as _unfinished and _set_aside of a run
                yield from _recognise(folder / name, levels - 1)


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts checkpoint-200 before checkpoint-1000."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _check_data_set(folder: Path, output_dir: Path | None, num_workers: int | None, show_progress: bool) -> Verdict:
    from .dataset_builders.verify import verify_dataset

    try:
        report = verify_dataset(folder, output_dir, num_workers, show_progress)
    except RuntimeError as error:
        return Verdict(folder, "data set", [], [str(error)])
    faults, unchecked = [], []
    for file, found in report["files"].items():
        for problem, where in found["problems"].items():
            lines = [f"{file}: {found['of']} {one['record']} {problem}: {one['detail']}" for one in where["found"]]
            if len(lines) > _FEW:
                lines[_FEW:] = [f"{file}: and {len(lines) - _FEW:,} more: {problem}; see report.json"]
            (unchecked if problem.endswith("cannot be read now") else faults).extend(lines)
    place = output_dir or Path(report["root"], "verify")
    images = report["images"]
    counts = f"{counted(images['named'], 'image')}, {images['opened']:,} opened now, {images['sound']:,} sound; "
    if changed := len(images["changed since they were found sound"]):
        counts += f"{counted(changed, 'image')} changed since the last check; "
    for what, missing in report["left out"].items():
        counts += f"left out: {what}{': ' + some(missing) if missing else ''}; "
    return Verdict(folder, "data set", faults, unchecked, f"{counts}see {place}/report.md")


def _check(folder: Path, kind: str, show_progress: bool) -> tuple[list[str], list[str], str]:
    """Faults, what is unchecked, and a remark on anything but a data set."""
    remark = ""
    if kind == "painted world":
        from .world.making import verify_world

        faults = verify_world(folder, show_progress)
    elif kind == "export":
        from .dataset_builders.export import verify_export

        faults = verify_export(folder, show_progress)
    elif kind == "synthesis":
        from .synthesis.stages import verify_workspace

        faults = verify_workspace(folder, show_progress)
        remark = "the data set it made is checked by itself" if (folder / "assemble").is_dir() else ""
    elif kind == "training checkpoint":
        from .training.safety.checkpoints import faults_in

        faults = list(faults_in(folder, show_progress=show_progress))
    elif kind == "gallery":
        from .retrieval.segment_list import GalleryFolder

        faults = GalleryFolder(folder).faults()
    elif kind == "features of images":
        from .retrieval.store import verify_store

        faults = verify_store(folder)
    elif kind == "exported encoders":
        from .onnx_encoders import faults_of_export

        faults = faults_of_export(folder, show_progress)
    else:
        faults = _faults_of_model(folder, show_progress)
        remark = "no checksums are recorded: a changed weight that is finite is not noticed"
    return faults, [], remark


def _faults_of_model(folder: Path, show_progress: bool) -> list[str]:
    """Checks headers, sizes, the shards that an index names, finite weights, and what else a FafaModel needs."""
    import torch
    from safetensors import SafetensorError, safe_open
    from tqdm.auto import tqdm

    faults: list[str] = []
    present: dict[str, set[str]] = {}
    integers: list[str] = []
    files = sorted(filter(Path.is_file, folder.glob("*.safetensors")))
    for file in tqdm(files, desc=f"Checking {folder.name}", delay=1, disable=not show_progress):
        try:
            with safe_open(file, "pt") as tensors:
                present[file.name] = set(tensors.keys())
                for name in present[file.name]:
                    tensor = tensors.get_tensor(name)
                    if tensor.is_floating_point() and tensor.itemsize == 1:
                        # torch finds NaN in few of these types; those of 4 bits have none.
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
    # A library that quantises writes packed integers under its own names.
    if settings.get("model_type") == "fafa" and not settings.get("quantization_config"):
        faults += [*integers, *_faults_of_fafa(folder, set.union(*present.values()))]
    return faults


def _faults_of_fafa(folder: Path, present: set[str]) -> Iterator[str]:
    """What `load_model` would refuse, found without the memory that weights take."""
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
    if names & {"captions", "image_splits", "annotations"} and benchmarks_in(folder):
        return True
    by_split = (folder / name for name in ("train.json", "val.json", "test.json") if name in names)
    return bool(names & whole) or {"query.json", "gallery.json"} <= names or any(map(_has_translations, by_split))


def _has_translations(file: Path) -> bool:
    """Whether a file of so plain a name is one of TBPS-CLIP's."""
    with file.open("rb") as stream:
        return b'"captions_bt"' in stream.read(1 << 16)


def _is_checkpoint(folder: Path, names: set[str]) -> bool:
    return re.fullmatch(r"checkpoint-\d+", folder.resolve().name) is not None


_SIGNS: dict[str, Callable[[Path, set[str]], bool]] = {
    "data set": _is_data_set,
    "painted world": lambda folder, names: bool(names & {"world.json", "checksums.json"}),
    "export": lambda folder, names: "export.json" in names,
    "synthesis": lambda folder, names: "runs.jsonl" in names,
    "training checkpoint": _is_checkpoint,
    "gallery": lambda folder, names: {"gallery.json", "segments"} <= names,
    "features of images": lambda folder, names: any(
        re.fullmatch(r"(features-.*\.safetensors|inputs-.*\.jsonl)", name) for name in names
    ),
    "exported encoders": lambda folder, names: "onnx.json" in names,
    "model": lambda folder, names: (
        "config.json" in names
        and any(name.endswith(".safetensors") for name in names)
        and not _is_checkpoint(folder, names)
    ),
}


def main(arguments: Sequence[str] | None = None, program: str = "python -m fafa.verify") -> int:
    """Checks, prints one line per fault and one per folder, and returns the exit status."""
    parser = make_parser(program, __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what to check")
    parser.add_argument("--output", type=Path, help="folder for the report on a data set; default: verify/ in it")
    parser.add_argument(
        "--num-workers", type=int, help="processes that open images of data sets; default: one per core"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--json", action="store_true", help="print a list of what was found in each folder, as JSON")
    given = parser.parse_args(arguments)
    if given.num_workers is not None and given.num_workers < 1:
        parser.error(f"--num-workers must be at least 1: {given.num_workers}")
    num_faults = num_unchecked = 0
    found: list[dict] = []
    try:
        for folder in given.folders:
            try:
                for verdict in verify(folder, given.output, given.num_workers, not given.quiet):
                    num_faults += len(verdict.faults)
                    num_unchecked += len(verdict.unchecked)
                    state = "faults" if verdict.faults else "not all checked" if verdict.unchecked else "sound"
                    found.append({**verdict._asdict(), "folder": str(verdict.folder), "state": state})
                    if given.json:
                        continue
                    for fault in verdict.faults:
                        print(f"{verdict.folder}: {fault}")
                    for reason in verdict.unchecked:
                        print(f"Not checked: {verdict.folder}: {reason}", file=sys.stderr)
                    remark = f" ({verdict.remark})" if verdict.remark else ""
                    print(f"{verdict.folder}: {verdict.kind}: {state}{remark}")
            except BrokenPipeError:
                raise  # `... | head`
            except (OSError, ValueError, WorkerDiedError) as error:
                num_unchecked += 1
                found.append({"folder": str(folder), "state": "not checked", "unchecked": [str(error)]})
                print(f"Not checked: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was changed. A data set's check goes on from here.", file=sys.stderr)
        return 130
    if given.json:
        print(json.dumps(found, indent=1))
    return 1 if num_faults else 2 if num_unchecked else 0


if __name__ == "__main__":
    with command():
        status = main()
    sys.exit(status)
