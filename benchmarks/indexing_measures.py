"""What indexing.py measures with the package now and as it was: reading, its steps, queries, drafts, a busy machine."""

import copy
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
from indexing_turns import PHOTOGRAPH, ROUNDS, files_of, in_turns
from PIL import Image

BUSY = 2  # processes that never rest
QUERIES, CAPTION = 7, "a woman in a red coat and blue trousers"


class Package:
    """The package, now or before, with processors of the tiny model's sizes and of the released."""

    def __init__(self, name: str, model, processor):
        rooms = ("image_processing_fafa", "processing_fafa", "retrieval.reading")
        images, pairs, self.reading = (import_module(f"{name}.{room}") for room in rooms)
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
        """Encodes images into a gallery's folder, as `fafa index` does."""
        with tempfile.TemporaryDirectory(prefix="fafa-indexing-") as folder:
            options = {"features_dir": Path(folder, "index"), "num_workers": num_workers, "progress": False}
            self.gallery.Gallery.from_images(self.model, self.processors["tiny", True], files, **options)


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
            took = in_turns(calls, rounds, lambda: np.array([time.perf_counter(), time.process_time()]), np.median)
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


def measure_one_core(folder: Path, packages: Mapping[str, Package]) -> dict:
    """All that needs no other process."""
    return {
        "reading": measure_reading(folder, packages),
        "queries": measure_queries(folder, packages),
        "drafts": measure_drafts(folder, packages),
        "steps": measure_steps(folder, packages["now"]),
    }
