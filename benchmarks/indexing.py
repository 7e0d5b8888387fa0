"""How fast images are indexed and a query is answered, now and before: where the time goes, and what drafts cost.

    python benchmarks/indexing.py --before COMMIT [--libraries PYTHON]

Before is the package as it was at that commit, taken from git into a temporary folder and imported beside the present
one. Both take turns in one process, so that their ratio holds on a machine that others use as well. Photographs are
JPEGs of 4032 x 3024 pixels, made of the two that scikit-learn carries, enlarged, with the noise of a sensor; crops are
128 x 256. The model is the tiny one; the processor has its sizes (96 x 96) or the released (384 x 192, then 224 x 224).

  reading    from a file to pixel values, and into an index: descriptions, reading, model, checks, writing
  steps      each step of one image now
  queries    one query, before and now, and its parts
  busy       indexing and a query with torch's threads at their defaults, beside two processes that never rest
  drafts     how far features and pixels of drafts are from those of whole photographs
  libraries  with the interpreter of an environment that has them: other decoders on the same files

All but "busy" is CPU time on one core. Takes some minutes on two cores. Results go to benchmarks/results/indexing.json
and indexing.md.
"""

import argparse
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHOTOGRAPH, CROP = (4032, 3024), (128, 256)  # width, height
NUM_PHOTOGRAPHS, NUM_CROPS = 3, 24
ROUNDS = {"photographs": 3, "crops": 7}
BUSY = 2  # processes that never rest
QUERIES, CAPTION = 7, "a woman in a red coat and blue trousers"
RESULTS = Path(__file__).parent / "results"


def write_images(folder: Path) -> None:
    """Photographs and crops, as files of a kind."""
    import sklearn.datasets

    sources = [Image.fromarray(image) for image in sklearn.datasets.load_sample_images().images]
    for kind, number in (("photographs", NUM_PHOTOGRAPHS), ("crops", NUM_CROPS)):
        (folder / kind).mkdir()
        for row in range(number):
            rng = np.random.default_rng(row)
            image = sources[row % 2]
            width, height = (560, 420) if kind == "photographs" else CROP
            left, top = rng.integers(0, image.width - width), rng.integers(0, image.height - height)
            image = image.crop((left, top, left + width, top + height))
            if kind == "photographs":
                pixels = np.asarray(image.resize(PHOTOGRAPH, Image.Resampling.BICUBIC)).astype(np.float32)
                pixels += 4 * rng.standard_normal(pixels.shape, dtype=np.float32)
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / kind / f"{row}.jpg", quality=90)


class Package:
    """The package, now or before, with processors of the tiny model's sizes and of the released."""

    def __init__(self, name: str, model, processor):
        rooms = ("image_processing_fafa", "processing_fafa", "retrieval.reading", "retrieval.encoding")
        images, pairs, self.reading, self.encoding = (import_module(f"{name}.{room}") for room in rooms)
        self.gallery, self.model = import_module(f"{name}.retrieval.gallery"), model
        square = dict.fromkeys(("height", "width"), model.image_shape[0])
        self.processors = {
            (sizes, is_draft): pairs.FafaProcessor(
                images.FafaImageProcessor(**settings, draft_photographs=is_draft),
                processor.tokenizer,
                processor.max_text_length,
            )
            for sizes, settings in {"tiny": {"person_size": square, "size": square}, "released": {}}.items()
            for is_draft in (False, True)
        }

    def read(self, processor, files: Sequence[Path]) -> None:
        """Reads images as for encoding."""
        for _ in self.reading.read_pixels(processor, files, [range(len(files))], "image", 64):
            pass

    def index(self, files: Sequence[Path], num_workers: int = 0) -> None:
        """Encodes images into a folder."""
        with tempfile.TemporaryDirectory(prefix="fafa-indexing-") as folder:
            options = {"features_dir": Path(folder, "index"), "num_workers": num_workers, "progress": False}
            self.encoding.encode_images(self.model, self.processors["tiny", True], files, **options)


def load_packages(before: Path | None) -> dict[str, Package]:
    """The package now, and as it was, with one and the same model."""
    from fafa import TINY_CHECKPOINT
    from fafa.model_folder import load_model

    model, processor = load_model(TINY_CHECKPOINT)
    names = {"now": "fafa"}
    if before is not None:
        package = types.ModuleType("fafa_before")
        package.__path__ = [str(before)]  # without its __init__, which would register the classes a second time
        sys.modules["fafa_before"] = package
        names = {"before": "fafa_before", "now": "fafa"}
    return {when: Package(name, model, processor) for when, name in names.items()}


def files_of(folder: Path, kind: str) -> list[Path]:
    """The images of a kind, sorted."""
    return sorted((folder / kind).iterdir())


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], Any] = time.process_time
) -> dict[str, Any]:
    """Median milliseconds of each call, by one clock or an array of several; the calls take turns."""
    spent: dict[str, list] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            start = clock()
            calls[name]()
            spent[name].append(1e3 * (clock() - start))
    return {name: np.median(times, axis=0).tolist() for name, times in spent.items()}


def measure_reading(folder: Path, packages: Mapping[str, Package]) -> dict[str, dict[str, float]]:
    """CPU milliseconds an image, from a file to pixel values; and of indexing with the tiny model."""
    found = {}
    for kind, rounds in ROUNDS.items():
        files = files_of(folder, kind)
        for sizes in ("released", "tiny"):
            for is_draft in (False, True) if kind == "photographs" else (False,):
                name = f"{kind}, {sizes} sizes{', drafts' if is_draft else ''}"
                calls = {
                    when: partial(package.read, package.processors[sizes, is_draft], files)
                    for when, package in packages.items()
                }
                found[name] = {when: took / len(files) for when, took in in_turns(calls, rounds).items()}
        calls = {when: partial(package.index, files) for when, package in packages.items()}
        name = f"{kind}, into an index, tiny model{', drafts' if kind == 'photographs' else ''}"
        found[name] = {when: took / len(files) for when, took in in_turns(calls, rounds).items()}
    return found


def measure_steps(folder: Path, package: Package) -> dict[str, dict[str, float]]:
    """CPU milliseconds of each step of an image now."""
    from fafa.files import contents_of
    from fafa.image_reading_fafa import open_image, photo_facts, read_image_file
    from fafa.retrieval.forward import forward
    from fafa.retrieval.identity import describe_image
    from fafa.retrieval.reading import KEPT_BLOCKS

    Image.core.set_blocks_max(KEPT_BLOCKS)
    found: dict[str, dict[str, float]] = {}
    for kind, rounds in ROUNDS.items():
        files, steps = files_of(folder, kind), {}
        exact, draft = (package.processors["released", is_draft].image_processor for is_draft in (False, True))
        steps["tell it from others (stamp, contents)"] = partial(describe_image, name="image")
        steps["of that, the contents"] = contents_of
        steps["date, camera, orientation"] = photo_facts
        steps["read the file"] = read_image_file
        steps["read, check, decode"] = open_image
        if kind == "photographs":
            steps["read, check, decode a draft"] = lambda file, draft=draft: open_image(file, "", draft.enough_pixels)
            drafts = {file: open_image(file, "", draft.enough_pixels) for file in files}
            steps["resize a draft to 384 x 192"] = lambda file, of=drafts, draft=draft: draft.to_person_crop(of[file])
        opened = {file: open_image(file) for file in files}
        crops = {file: exact.to_person_crop(image) for file, image in opened.items()}
        squares = [exact.to_square(crop) for crop in crops.values()]
        steps["resize to 384 x 192"] = lambda file, of=opened, exact=exact: exact.to_person_crop(of[file])
        steps["pad, resize to 224 x 224"] = lambda file, of=crops, exact=exact: exact.to_square(of[file])
        found[kind] = {
            step: statistics.median(in_turns({"": partial(call, file)}, rounds)[""] for file in files)
            for step, call in steps.items()
        }
        normalise = partial(exact.to_pixel_values, (squares * 64)[:64])
        found[kind]["normalise"] = in_turns({"": normalise}, rounds)[""] / 64
    tiny = package.processors["tiny", True]
    pixels = tiny.to_pixels([tiny.resize_crop(tiny.open_crop(file)) for file in files_of(folder, "crops")])
    run = partial(forward, package.model, package.model.get_target_features, pixel_values=pixels)
    for kind in found:
        found[kind]["tiny model, all crops at once"] = in_turns({"": run}, 10)[""] / len(pixels)
    Image.core.set_blocks_max(0)
    return found


def measure_queries(folder: Path, packages: Mapping[str, Package]) -> dict:
    """CPU milliseconds of a query: of all of it, before and now, and of its parts."""
    from fafa.retrieval.forward import forward

    crops, photograph = files_of(folder, "crops"), files_of(folder, "photographs")[0]
    galleries = {
        (when, is_draft): package.gallery.Gallery.from_images(
            package.model, package.processors["tiny", is_draft], crops, progress=False
        )
        for when, package in packages.items()
        for is_draft in (False, True)
    }
    whole = {}
    for name, query, is_draft in (
        ("a crop and a caption", {"image": crops[0], "caption": CAPTION}, False),
        ("a caption", {"caption": CAPTION}, False),
        ("a photograph and a caption", {"image": photograph, "caption": CAPTION}, False),
        ("the same as a draft", {"image": photograph, "caption": CAPTION}, True),
    ):
        calls = {when: partial(galleries[when, is_draft].search, **query) for when in packages}
        whole[name] = in_turns(calls, QUERIES)
    package = packages["now"]
    processor, model, gallery = package.processors["tiny", False], package.model, galleries["now", False]
    crop = processor.resize_crop(processor.open_crop(crops[0]))
    inputs = {"pixel_values": processor.to_pixels([crop]), **processor.encode_captions([CAPTION])}
    query = forward(model, model.get_query_features, **inputs)
    calls = {
        "open and resize the crop": lambda: processor.resize_crop(processor.open_crop(crops[0])),
        "normalise": lambda: processor.to_pixels([crop]),
        "tokenize the caption": lambda: processor.encode_captions([CAPTION]),
        "model": lambda: forward(model, model.get_query_features, **inputs),
        f"score {len(gallery)} images": lambda: model.score(query, gallery.features),
    }
    return {"whole": whole, "parts": in_turns(calls, QUERIES)}


def measure_busy(folder: Path, packages: Mapping[str, Package]) -> dict[str, dict[str, dict[str, float]]]:
    """Wall and CPU milliseconds beside busy processes, with torch's threads at their defaults."""
    from scoring import busy_processes

    crops = files_of(folder, "crops")
    galleries = {
        when: package.gallery.Gallery.from_images(
            package.model, package.processors["tiny", True], crops, progress=False
        )
        for when, package in packages.items()
    }
    found = {}
    with busy_processes(BUSY):
        for name, calls, per, rounds in (
            ("index crops", {when: partial(one.index, crops) for when, one in packages.items()}, len(crops), 2),
            (
                "search by a crop and a caption",
                {when: partial(one.search, crops[0], CAPTION) for when, one in galleries.items()},
                1,
                5,
            ),
        ):
            took = in_turns(calls, rounds, lambda: np.array([time.perf_counter(), time.process_time()]))
            found[name] = {
                clock: {when: of_clocks[number] / per for when, of_clocks in took.items()}
                for number, clock in enumerate(("wall", "CPU"))
            }
    return found


def measure_drafts(folder: Path, packages: Mapping[str, Package]) -> dict[str, dict[str, float]]:
    """How far drafts of several margins are from whole photographs: grey levels at 384 x 192, cosines, scores."""
    import torch

    from fafa import image_processing_fafa as images

    files, model, found = files_of(folder, "photographs"), packages["now"].model, {}
    exact, draft = (copy.copy(packages["now"].processors["tiny", is_draft]) for is_draft in (False, True))
    for processor in (exact, draft):  # the released sizes up to the last, the tiny model's
        processor.image_processor = images.FafaImageProcessor(
            size=model.image_shape[0], draft_photographs=processor is draft
        )

    @torch.no_grad()
    def encode(processor) -> tuple:
        crops = [processor.open_crop(file, "") for file in files]
        pixels = processor.to_pixels([processor.resize_crop(crop) for crop in crops])
        caption = processor.encode_captions([CAPTION] * len(files))
        levels = np.stack([np.asarray(crop, dtype=int) for crop in crops])
        return model.get_target_features(pixels), model.get_query_features(pixels, **caption), levels

    targets, queries, levels = encode(exact)
    scores, usual = model.score(queries, targets), images._DRAFT_MARGIN
    for margin in (2.0, usual, 1.0):
        images._DRAFT_MARGIN = margin
        of_drafts, asked, of_draft_crops = encode(draft)
        difference, enough = np.abs(of_draft_crops - levels), draft.image_processor.enough_pixels
        found[str(margin)] = {
            "scale": next(s for s in (8, 4, 2, 1) if s * enough[0] <= PHOTOGRAPH[0] and s * enough[1] <= PHOTOGRAPH[1]),
            "mean_levels": float(difference.mean()),
            "most_levels": int(difference.max()),
            "least_cosine": float((of_drafts * targets).sum(-1).min()),
            "most_score_difference": float((model.score(asked, of_drafts) - scores).abs().max()),
        }
    images._DRAFT_MARGIN = usual
    return found


def measure_libraries(folder: Path) -> dict[str, dict[str, float]]:
    """CPU milliseconds of decoders of whole files in memory, and the largest difference from Pillow's pixels."""

    def pillow(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    def kept(data: bytes) -> Image.Image:
        Image.core.set_blocks_max(4)  # until the next decoder's turn
        return pillow(data)

    def draft(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.draft(None, (image.width // 4, image.height // 4))
        image.load()
        return image

    decoders = {"Pillow, new memory": pillow, "Pillow, memory kept": kept, "Pillow, 1/4": draft}
    with suppress(ImportError):
        import simplejpeg

        decoders["simplejpeg"] = simplejpeg.decode_jpeg
        decoders["simplejpeg, 1/4"] = partial(simplejpeg.decode_jpeg, min_height=700, min_width=900, min_factor=1)
        decoders["simplejpeg, to a PIL image"] = lambda data: Image.fromarray(simplejpeg.decode_jpeg(data))
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        decoders["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        decoders["OpenCV, 1/4"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_COLOR_4)
    with suppress(ImportError):
        import imageio.v3

        decoders["imageio"] = imageio.v3.imread
    found = {}
    for kind, rounds in ROUNDS.items():
        contents = [file.read_bytes() for file in files_of(folder, kind)]
        for name, decode in decoders.items():
            if kind == "crops" and "1/4" in name:
                continue
            Image.core.set_blocks_max(0)
            took = statistics.median(in_turns({"": partial(decode, data)}, rounds)[""] for data in contents)
            pixels, expected = np.asarray(decode(contents[0])), np.asarray(pillow(contents[0]))
            same = pixels.shape == expected.shape
            found.setdefault(name, {})[kind] = took
            if same:
                levels = int(np.abs(pixels.astype(int) - expected).max())
                found[name]["levels"] = max(levels, found[name].get("levels", 0))
    return found


def measure_one_core(folder: Path, packages: Mapping[str, Package]) -> dict:
    """All that needs no other process."""
    return {
        "reading": measure_reading(folder, packages),
        "queries": measure_queries(folder, packages),
        "drafts": measure_drafts(folder, packages),
        "steps": measure_steps(folder, packages["now"]),
    }


def measure(what: str, folder: Path, before: Path | None, interpreter: str = sys.executable, **environment: str) -> Any:
    """In a process of its own: "one_core", "busy" or "libraries"."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [interpreter, __file__, "--measure", what, str(folder), *([str(before)] if before else [])]
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=inherited | environment)
    print(f"{what}: done", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def to_markdown(record: Mapping[str, Any]) -> str:
    """The record as a page."""
    from fafa.tables import markdown_table

    def compared(times: Mapping[str, Mapping[str, float]], label: str, a_second: bool) -> str:
        rows = []
        for name, took in times.items():
            cells = [f"{took[when]:.2f}" if when in took else "" for when in ("before", "now")]
            if a_second:
                cells += [f"{1e3 / took[when]:,.0f}" if when in took else "" for when in ("before", "now")]
            rows.append([name, *cells, f"{took['before'] / took['now']:.2f}" if "before" in took else ""])
        speeds = ["images/s before", "images/s now"] if a_second else []
        return markdown_table([label, "ms before", "ms now", *speeds, "times faster"], rows)

    steps = record["steps"]
    parts = [[part, f"{took:.2f}"] for part, took in record["queries"]["parts"].items()]
    lines = [
        "# Indexing images, and answering one query",
        "",
        f"{record['date']}, {record['processor']}, {record['cores']} cores (load average {record['load_average']:.1f}: "
        "other programs ran, too), "
        f"torch {record['torch']}, Pillow {record['pillow']}: `{record['command']}`",
        "",
        "Medians of CPU time on one core, so that images a second are images a second and core. Before and now took "
        "turns in one process; before is the package at the commit named in the command.",
        "",
        compared(record["reading"], "an image, from its file to pixel values, or into an index", a_second=True),
        "",
        "Where the time of one image goes now, CPU milliseconds, released sizes:",
        "",
        markdown_table(
            ["step", *steps],
            [
                [name, *(f"{steps[kind][name]:.3f}" if name in steps[kind] else "" for kind in steps)]
                for name in steps["photographs"]
            ],
        ),
        "",
        f"One query over {NUM_CROPS} images, tiny model, one core:",
        "",
        compared(record["queries"]["whole"], "query", a_second=False),
        "",
        markdown_table(["of a crop and a caption", "ms"], parts),
        "",
        f"Drafts of photographs of {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]} pixels against whole ones; the margin says how "
        "many times larger than the person's size a draft is at least. Levels are of 255, after the resize to 384 x "
        "192; cosines of target tokens and scores are the tiny model's:",
        "",
        markdown_table(
            ["margin", "decoded at", "mean level", "largest", "least cosine", "largest change of a score"],
            [
                [margin, f"1/{row['scale']}", f"{row['mean_levels']:.2f}", row["most_levels"],
                 f"{row['least_cosine']:.5f}", f"{row['most_score_difference']:.5f}"]
                for margin, row in record["drafts"].items()
            ],
        ),
    ]  # fmt: skip
    if "busy" in record:
        busy = {f"{name}: {clock}": took for name, clocks in record["busy"].items() for clock, took in clocks.items()}
        lines += [
            "",
            f"Beside {BUSY} processes that never rest (and what else ran), torch's threads at their defaults:",
            "",
            compared(busy, "an image, or a query", a_second=False),
        ]
    if libraries := record.get("libraries"):
        table = [
            [name, f"{row['photographs']:.1f}", f"{row['crops']:.2f}" if "crops" in row else "", row.get("levels", "")]
            for name, row in libraries.items()
        ]
        lines += [
            "",
            "Decoders of a whole file in memory, CPU milliseconds, and the largest difference from Pillow's levels:",
            "",
            markdown_table(["decoder", "photograph", "crop", "levels"], table),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the images, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="COMMIT", help="what to compare with")
    parser.add_argument("--libraries", metavar="PYTHON", help="interpreter with simplejpeg, opencv and imageio")
    parser.add_argument("--idle", action="store_true", help="leave out what is measured beside busy processes")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, folder, *before = arguments.measure
        if what == "libraries":
            found = measure_libraries(Path(folder))
        else:
            packages = load_packages(Path(before[0]) if before else None)
            found = {"one_core": measure_one_core, "busy": measure_busy}[what](Path(folder), packages)
        print(json.dumps(found))
        return

    import torch
    from scoring import processor_name

    command = " ".join(["python benchmarks/indexing.py", *sys.argv[1:]])
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": command,
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "pillow": Image.__version__,
    }
    with tempfile.TemporaryDirectory(prefix="fafa-indexing-") as work:
        folder, before = Path(work), None
        write_images(folder)
        if arguments.before:
            before = folder / "package"
            before.mkdir()
            root = Path(__file__).parent.parent
            archive = subprocess.run(
                ["git", "-C", str(root), "archive", arguments.before], check=True, stdout=subprocess.PIPE
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(before, filter="data")
        record |= measure("one_core", folder, before, OMP_NUM_THREADS="1")
        if not arguments.idle:
            record["busy"] = measure("busy", folder, before)
        if arguments.libraries:
            record["libraries"] = measure("libraries", folder, None, arguments.libraries)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "indexing.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "indexing.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
