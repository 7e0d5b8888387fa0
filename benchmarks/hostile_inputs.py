"""Hostile inputs, each given to the commands that read such things: refused by name, accepted rightly, or a fault?

    python benchmarks/hostile_inputs.py --work /tmp/hostile                 # five minutes on one core
    python benchmarks/hostile_inputs.py --work /tmp/hostile --groups yaml options

    pictures      bombs, strips, 2,000 scans, PostScript, pipes, files of 40 GB, strangers, damaged EXIF
    archives      names that lead out, bombs, nested ones, cut ones, lies about sizes
    annotations   no JSON, nested JSON, pointers, paths that lead out, absurd numbers
    features      damaged and forged manifests, lists and shards, and stores of other models
    checkpoints   a flipped byte in each file, missing files, pickles that run code, under a checksum that fits
    settings      of model, processor and tokenizer
    yaml          billion laughs, tags, nested, integer keys, absurd counts
    options       outputs that cannot be written, absurd numbers, devices and folders that are not there

Each command runs as `python SCRIPT ARGUMENTS` would, in a process of its own with 6 GB of address space and two
minutes. It is forked from one that has imported the libraries, which saves the seconds that this takes each time. What
a row may say:

    refused, named      another exit status than 0, and one line with the name of the file or setting
    skipped, named      exit status 0, and a line with the name
    accepted rightly    exit status 0, where the input is odd but sound
    anything else       a fault: traceback, hang, killed, not named, wrongly accepted, wrongly refused, harm done

Results go to benchmarks/results/hostile_inputs.json and hostile_inputs.md, group by group; those of groups that are not
run stay. Exit status 1 if there is a fault.
"""

import argparse
import json
import os
import pickle
import resource
import runpy
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # a process with threads cannot be forked

import torch
from scoring import processor_name

import fafa
import fafa.evaluation
import fafa.training
from fafa.commands import command
from fafa.dataset_builders.archives import unpack_archives
from fafa.files import read_json, record_files, sealed
from fafa.retrieval import filling
from fafa.tables import markdown_table
from fafa.world import make_world

sys.path.extend(str(Path(__file__).parents[1] / "tests" / part) for part in ("", "dataset_builders", "retrieval"))
from damage import flip_a_byte
from odd_images import odd_images
from test_archives import ACCEPTED as SOUND_ARCHIVES
from test_archives import REFUSED as HOSTILE_ARCHIVES
from test_archives import put
from test_damaged_store import HOSTILE as HOSTILE_STORES
from test_damaged_store import SHARDS
from test_yaml_files import REFUSED as HOSTILE_YAML

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PATIENCE = 120  # seconds after which a command counts as hanging
ADDRESS_SPACE = 6 * 10**9  # bytes; torch takes 3 before it does anything
LONGEST_LINE = 1_200  # characters of a message that somebody may read
TINY = str(fafa.TINY_CHECKPOINT)
QUERY, TRAIN, EVALUATE = "examples/query.py", "examples/train.py", "examples/evaluate_itcpr.py"
VERIFY, EXPORT, SYNTHESIS = "-m fafa.verify", "-m fafa.dataset_builders.export", "-m fafa.synthesis"
GOOD = ("refused, named", "skipped, named", "accepted rightly")
PICTURES = (
    *("strip.png", "column.png", "bomb.png", "bomb_rgba.png", "bomb.jpg", "bomb.gif", "bomb.bmp", "bomb.ppm"),
    *("scans.jpg", "postscript.jpg", "texture.png", "lfs_pointer.jpg", "web_page.jpg", "error.png", "drawing.png"),
    *("zeros.jpg", "noise.jpg", "empty.jpg", "film.jpg", "negative.tiff", "lost_1.jpg", "flipped_bit.png"),
)
SOUND_PICTURES = (
    *("exif_resolution_text.jpg", "exif_resolution_huge_count.jpg", "exif_orientation_65535.jpg", "exif_loop.jpg"),
    *("exif_rubbish.png", "exif_cut.webp", "text_bomb.png", "profile_bomb.png", "animated_without_control.png"),
    *("lost_12.png", "size_65535x1.png", "new\nline.png"),
)
ARCHIVES = (
    *("zip: a name with NUL", "zip: a name of 300 characters", "zip: a name of 5,000 characters", "tar: a drive"),
    *("zip: a file and a folder", "zip: an absolute path", "tar: dots in the middle", "an archive called ..zip"),
    *("an archive called ...zip", "440 zips in one another", "zip: a bomb", "zip: a bomb in a zip", "tar.gz: a bomb"),
    *("zip: members within one another", "zip64: 4 GiB announced", "tar: a size of 8 EiB", "tar: a size below 0"),
    *("tar: a sparse file of 8 EiB", "tar: a sparse file whose map does not end", "tar.gz: a GNU name of 256 MiB"),
    *("tar: cut at a member's end", "tar: zeros", "tar: zeros for ever", "tar.gz: a wrong checksum"),
    *("tar.xz: a dictionary of 1.5 GiB", "parts: one is missing", "an unknown kind"),
)


class Trial(NamedTuple):
    """One run of a command.

    Args:
        inputs: what is tried, and the text by which the output has to name it; "" where nothing is to be named.
        arguments: the script or "-m module", and what follows; or what is called, which has no command line.
        expected: "refused", "skipped" or "accepted".
        harm: a file that must not come about.
    """

    inputs: dict[str, str]
    arguments: list[str] | Callable[[], object]
    expected: str = "refused"
    harm: Path | None = None

    @property
    def command(self) -> str:
        """Its name, for people."""
        if callable(self.arguments):
            return "unpack_archives"
        words = " ".join(self.arguments[0].removeprefix("-m ").split("/")[-1:])
        given = " ".join(self.arguments)
        telling = ("--index", "--on-error raise", "--on_error raise", "--on_error skip", "--features")
        return " ".join([words, *(text for text in telling if text in given)])


class Outcome(NamedTuple):
    """How it ended.

    Args:
        status: of the exit; negative for a signal, None if it hung.
        output: what it said on both streams.
        peak: memory in MB, shared libraries included.
    """

    status: int | None
    output: str
    seconds: float
    peak: int


def run(trial: Trial, log: Path, patience: float = PATIENCE) -> Outcome:
    """Runs it in a process of its own."""
    sys.stdout.flush()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(trial, log)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - start > patience:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            status = None
            break
        time.sleep(0.01)
    seconds = time.monotonic() - start
    code = None if status is None else os.waitstatus_to_exitcode(status)
    return Outcome(code, log.read_text(encoding="utf-8", errors="replace"), seconds, usage.ru_maxrss // 1024)


def _be_the_command(trial: Trial, log: Path) -> None:
    """In the forked process: what the interpreter does with a script, to its end."""
    status = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.setsid()
        os.chdir(ROOT)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        if callable(trial.arguments):
            with command():
                trial.arguments()
        else:
            script, *sys.argv[1:] = trial.arguments
            if script.startswith("-m "):
                runpy.run_module(script.removeprefix("-m "), run_name="__main__", alter_sys=True)
            else:
                sys.argv[0] = script
                runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # the interpreter would show it, too
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def classify(trial: Trial, name: str, outcome: Outcome) -> tuple[str, str]:
    """What happened to one input, by the text that names it: one of `GOOD` or a fault; and the line that tells."""
    lines = outcome.output.strip().splitlines() or [""]
    naming = [line for line in lines if name and name in line] or lines[-1:]
    telling = naming[0 if trial.expected == "skipped" else -1]  # a summary of all that were skipped may follow
    if trial.harm is not None and trial.harm.exists():
        return "harm done", telling
    if outcome.status is None:
        return "hang", telling
    if outcome.status < 0:
        return f"killed by signal {-outcome.status}", telling
    if "Traceback (most recent call last)" in outcome.output:
        return "traceback", lines[-1]
    if name not in outcome.output:
        return "not named", telling
    if len(telling) > LONGEST_LINE:
        return f"a line of {len(telling):,} characters", telling
    if trial.expected == "refused":
        return ("wrongly accepted" if outcome.status == 0 else "refused, named"), telling
    if outcome.status != 0:
        return "wrongly refused", telling
    return ("skipped, named" if trial.expected == "skipped" else "accepted rightly"), telling


class Place:
    """Where hostile things are made: a painted world, and a folder of its own for each trial."""

    def __init__(self, work: Path):
        self.work, self.count = work, 0
        self.world = make_world(
            work / "world", num_diptychs=24, num_queries=4, gallery_size=20, image_size=(64, 32), num_workers=1
        )
        self.syncpr, self.itcpr = self.world / "SynCPR", self.world / "ITCPR"
        self.photos = self.new("photos")
        for number, picture in enumerate(sorted(self.itcpr.rglob("*.jpg"))[:5]):
            shutil.copy(picture, self.photos / f"{number}.jpg")

    def new(self, name: str = "out") -> Path:
        """An empty folder."""
        self.count += 1
        folder = self.work / f"{self.count:04d}-{name}"
        folder.mkdir()
        return folder

    def copy(self, folder: Path) -> Path:
        """Of a folder, to be damaged."""
        self.count += 1
        return shutil.copytree(folder, self.work / f"{self.count:04d}-{folder.name}")

    def query(self, *options, gallery: Path | None = None, model: Path | str = TINY) -> list[str]:
        """A search; options given here win."""
        given = [QUERY, "--model", str(model), "--gallery", str(gallery or self.photos), "--caption", "in a red coat"]
        return [*given, "--output", str(self.new() / "result.png"), "--num-workers", "0", *map(str, options)]

    def train(self, *options, data: Path | None = None, output: Path | None = None) -> list[str]:
        """One epoch of six steps."""
        given = [TRAIN, "--model", TINY, "--data_dir", str(data or self.syncpr), "--output_dir"]
        given += [str(output or self.new()), "--num_train_epochs", "1", "--batch_size", "8", "--report_to", "none"]
        given += ["--validation_fraction", "0.2", "--dataloader_pin_memory", "false", "--disable_tqdm", "true"]
        return [*given, "--use_cpu", "true", *map(str, options)]

    def evaluate(self, *options, model: Path | str = TINY) -> list[str]:
        """On the painted test set."""
        given = [EVALUATE, "--model", str(model), "--data", str(self.itcpr), "--no-pictures", "--output"]
        return [*given, str(self.new()), *map(str, options)]

    def export(self, data: Path, *options) -> list[str]:
        """Of a training set."""
        return [EXPORT, "SynCPR", "--data-dir", str(data), "--output", str(self.new()), *map(str, options)]

    def verify(self, folder: Path) -> list[str]:
        """Any folder."""
        return [VERIFY, "--quiet", "--num-workers", "1", str(folder)]


def write_picture(file: Path, content: bytes | str) -> None:
    """Its content, or what kind of thing it is."""
    file.unlink(missing_ok=True)
    if content == "pipe":
        os.mkfifo(file)
    elif content == "sparse":
        file.touch()
        os.truncate(file, 40 * 10**9)
    elif content == "folder":
        file.mkdir()
    else:
        file.write_bytes(content)


def pictures(place: Place) -> Iterator[Trial]:
    """Each alone, but for training that skips, which takes all of them in one run."""
    made = {image.name: image.content for image in odd_images()}
    bad = {name: made[name] for name in PICTURES} | {"pipe.jpg": "pipe", "sparse.png": "sparse"}
    named = {name for record in read_json(place.syncpr / "SynCPR.json") for name in _images_of(record)}
    # Every other diptych, so that each quadruple keeps sound ones to train on.
    named = [name for number, name in enumerate(sorted(named, key=lambda name: Path(name).name)) if number % 4 < 2]
    data, in_data = place.copy(place.syncpr), {}
    for number, (name, content) in enumerate(bad.items()):
        is_absent = name in ("empty.jpg", "pipe.jpg")  # to `load_dataset`, before anything is opened
        if not is_absent:
            write_picture(data / named[number], content)
            in_data[name] = Path(named[number]).name
        alone, photos = place.copy(place.syncpr), place.copy(place.photos)
        write_picture(alone / named[0], content)
        write_picture(photos / name, content)
        if name != "pipe.jpg":  # which is no photograph to search, and left out
            yield Trial({name: name}, place.query("--on-error", "raise", gallery=photos))
            yield Trial({name: name}, place.query(gallery=photos), "skipped")
        yield Trial({f"{name}, as the query": name}, place.query("--image", photos / name))
        yield Trial({name: Path(named[0]).name}, place.verify(alone))
        yield Trial({name: Path(named[0]).name}, place.export(alone))
        if number % 4 == 0 or is_absent:  # the longest runs: all are in the one that skips
            yield Trial({name: Path(named[0]).name}, place.train("--on_error", "raise", data=alone))
    yield Trial(in_data, place.train("--on_error", "skip", data=data), "skipped")

    gallery, data = place.copy(place.photos), place.copy(place.syncpr)
    for number, name in enumerate(SOUND_PICTURES):
        write_picture(gallery / name, made[name])
        write_picture(data / named[number], made[name])
    sound = dict.fromkeys(SOUND_PICTURES, "")
    yield Trial(sound, place.query("--on-error", "raise", gallery=gallery), "accepted")
    yield Trial(sound, place.verify(data), "accepted")
    yield Trial(sound, place.export(data), "accepted")
    yield Trial(sound, place.train("--on_error", "raise", data=data), "accepted")


def _images_of(record: dict) -> list[str]:
    return [value for field, value in record.items() if field.endswith("image_path")]


def archives(place: Place) -> Iterator[Trial]:
    """What a download from the Hub is unpacked by."""
    for name in ARCHIVES:
        files, _ = HOSTILE_ARCHIVES[name]
        source, target = put(place.new("archive"), files), place.new()
        evil = source.parent / "evil"
        yield Trial({name: sorted(files)[-1]}, lambda one=source, two=target: unpack_archives(one, two), harm=evil)
    for name, (files, _) in list(SOUND_ARCHIVES.items())[::2]:
        source, target = put(place.new("archive"), files), place.new()
        yield Trial({name: ""}, lambda one=source, two=target: unpack_archives(one, two), "accepted")


def annotations(place: Place) -> Iterator[Trial]:
    """Given to verify, export, and some to training."""
    records = read_json(place.syncpr / "SynCPR.json")

    def changed(**fields) -> bytes:
        return json.dumps([{**records[0], **fields}, *records[1:]]).encode()

    hostile: dict[str, bytes | str] = {
        "empty": b"",
        "binary": bytes(range(256)) * 40,
        "zeros": bytes(5_000),
        "a web page": b"<!DOCTYPE html><html>Sign in</html>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "100,000 lists": b"[" * 100_000 + b"]" * 100_000,
        "100,000 objects": b'[{"a":' * 100_000,
        "a number of a million digits": changed().replace(b'"cpr_id": ', b'"cpr_id": ' + b"9" * 10**6, 1),
        "an object, not a list": b'{"a": 1}',
        "a list of numbers": b"[1, 2, 3]",
        "cut off": json.dumps(records).encode()[:-200],
        "other text behind its end": json.dumps(records).encode() + b"[]",
        "a group of 10^30": changed(cpr_id=10**30),
        "a group that is not a number": json.dumps([{**records[0], "cpr_id": float("nan")}]).encode(),
        "a caption that is a list": changed(edit_caption=["a"]),
        "a caption of half a character": changed(edit_caption="\ud800"),
        "a caption without a word": changed(edit_caption="..."),
        "a caption of blanks without width": changed(target_caption="\u200b\ufeff"),
        "a caption of accents alone": changed(edit_caption="\u0301\u0308"),
        "a group of 1.0": changed(cpr_id=1.0),
        "a path that leads out": changed(target_image_path="../../../../../../etc/passwd"),
        "an absolute path": changed(target_image_path="/etc/passwd"),
        "a path with NUL": changed(target_image_path="a\0b.png"),
        "a path of 100,000 characters": changed(target_image_path="n" * 100_000),
        "a path of 10,000 folders": changed(target_image_path="n/" * 10_000 + "a.png"),
        "a path that is a number": changed(target_image_path=3),
        "a pipe": "pipe",
        "a folder": "folder",
        "40 GB of zeros": "sparse",
    }
    for number, (name, content) in enumerate(hostile.items()):
        data = place.copy(place.syncpr)
        write_picture(data / "SynCPR.json", content)
        yield Trial({name: "SynCPR.json"}, place.verify(data))
        yield Trial({name: "SynCPR.json"}, place.export(data))
        if number % 4 == 0 and content != "sparse":  # it loads them as export does
            yield Trial({name: "SynCPR.json"}, place.train(data=data))
    data = place.copy(place.syncpr)
    (data / "SynCPR.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(records, indent=3).encode())
    yield Trial({"a byte-order mark": ""}, place.verify(data), "accepted")
    yield Trial({"a byte-order mark": ""}, place.export(data), "accepted")
    for name, fields in {
        "a caption of Markdown and HTML": {"edit_caption": "# coat\n\n```\n<script>alert(1)</script> | red |"},
        "a caption of half a megabyte": {"edit_caption": "a red coat " * 50_000},
        "a group of -1": {"cpr_id": -1},
    }.items():
        data = place.copy(place.syncpr)
        (data / "SynCPR.json").write_bytes(changed(**fields))
        yield Trial({name: ""}, place.verify(data), "accepted")
        yield Trial({name: ""}, place.export(data), "accepted")
        yield Trial({name: ""}, place.train(data=data), "accepted")


def features(place: Place) -> Iterator[Trial]:
    """Stores of three shards, given to search, evaluation and verify."""
    filling.INPUTS_PER_SHARD = 2
    index, cached = place.new("index") / "index", place.new("features") / "features"
    yield Trial({"a sound store": ""}, place.query("--batch-size", 2, "--index", index), "accepted")
    yield Trial({"a sound store": ""}, place.evaluate("--batch-size", 2, "--features", cached), "accepted")
    for number, (name, damage) in enumerate({**HOSTILE_STORES, **SHARDS}.items()):
        # A damaged shard is encoded again, and told; what the store as a whole stands for is refused.
        expected, named = ("skipped", "is damaged") if name in SHARDS else ("refused", "index")
        copy = place.copy(index)
        damage(copy)
        yield Trial({name: copy.name}, place.verify(copy))
        if number % 2 == 0 or name in SHARDS:
            yield Trial({name: named}, place.query("--batch-size", 2, "--index", copy), expected)
        if number % 4 == 0:
            copy = place.copy(cached)
            damage(copy / "gallery")
            named = named if name in SHARDS else f"{copy.name}/gallery"
            yield Trial({name: named}, place.evaluate("--batch-size", 2, "--features", copy), expected)
    for name, change in OTHER_MODELS.items():
        model = place.copy(Path(TINY))
        change(model)
        for arguments in (
            place.query("--batch-size", 2, "--index", place.copy(index), model=model),
            place.evaluate("--batch-size", 2, "--features", place.copy(cached), model=model),
        ):
            yield Trial({f"of a model with {name}": "model fingerprint"}, arguments)
    for name, content in {"a file": b"x", "a pipe": "pipe"}.items():
        folder = place.new("store") / "store"
        write_picture(folder, content)
        yield Trial({name: folder.name}, place.query("--batch-size", 2, "--index", folder))
        yield Trial({name: folder.name}, place.evaluate("--batch-size", 2, "--features", folder))


def set_in(file: str, *names: str, value) -> Callable[[Path], None]:
    """Changes one entry of a JSON file in a folder."""

    def change(folder: Path) -> None:
        content = entry = read_json(folder / file)
        for name in names[:-1]:
            entry = entry[name]
        entry[names[-1]] = value
        (folder / file).write_text(json.dumps(content))

    return change


def change_a_weight(folder: Path) -> None:
    """One of all of them, by a little."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["vision_projection.weight"].view(-1)[1_234] += 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


OTHER_MODELS = {
    "another hidden_act": set_in("config.json", "vision_config", "hidden_act", value="relu"),
    "other heads": set_in("config.json", "vision_config", "num_attention_heads", value=8),
    "another epsilon": set_in("config.json", "vision_config", "layer_norm_eps", value=1e-3),
    "another weight": change_a_weight,
}


class Opens:
    """A pickle that writes a file when it is read."""

    def __init__(self, file: Path):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def checkpoints(place: Place) -> Iterator[Trial]:
    """Given to training, which is to go on from them, and to verify."""
    output = place.new("run")
    save = ["--save_strategy", "steps", "--save_steps", "2", "--max_steps", "2"]
    yield Trial({"a sound one": ""}, place.train(*save, output=output), "accepted")
    (checkpoint,) = output.glob("checkpoint-*")
    files = sorted(str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file())

    def trials(name: str, text: str, damage: Callable[[Path], object], harm: Path | None = None) -> Iterator[Trial]:
        run = place.copy(output)
        damaged = run / checkpoint.name
        damage(damaged)
        if harm is None:
            yield Trial({name: text}, place.verify(damaged))
        resume = ["--max_steps", "4", "--resume_from_checkpoint", damaged]
        yield Trial({name: text}, place.train(*resume, output=run), harm=harm)

    for file in files:
        yield from trials(f"a flipped byte in {file}", file, lambda folder, file=file: flip_a_byte(folder / file))
    for file in files[::3]:
        yield from trials(f"without {file}", file, lambda folder, file=file: (folder / file).unlink())
    nested = "[" * 100_000
    yield from trials("a manifest nested deep", "manifest.json", lambda f: (f / "manifest.json").write_text(nested))
    for file in files:
        if file.endswith((".pt", ".pth")):
            harm = place.new() / "written by a pickle"

            def forge(folder: Path, file: str = file, harm: Path = harm) -> None:
                (folder / file).write_bytes(pickle.dumps(Opens(harm)))
                manifest = read_json(folder / "manifest.json")
                manifest = {name: value for name, value in manifest.items() if name != "xxh3_128"}
                manifest["files"] = record_files(folder, list(manifest["files"]))
                (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))

            yield from trials(f"{file}: a pickle that runs code, checksums fit", checkpoint.name, forge, harm)


def settings(place: Place) -> Iterator[Trial]:
    """Models that nothing could be made with, given to search."""
    config, processor = "config.json", "processor_config.json"
    hostile: dict[str, tuple[str, Callable[[Path], object]]] = {}
    for value, *names in (
        (10**9, "vision_config", "num_hidden_layers"),
        (10**9, "qformer_config", "num_hidden_layers"),
        (10**9, "vision_config", "hidden_size"),
        (10**9, "vision_config", "intermediate_size"),
        (50_000, "vision_config", "image_size"),
        (0, "vision_config", "patch_size"),
        (7, "vision_config", "num_attention_heads"),
        (0, "qformer_config", "num_attention_heads"),
        ("__import__('os')", "vision_config", "hidden_act"),
        (float("nan"), "vision_config", "layer_norm_eps"),
        (10**12, "qformer_config", "vocab_size"),
        (-1, "qformer_config", "max_position_embeddings"),
        (10**9, "num_query_tokens"),
        (10**9, "projection_dim"),
        (10**9, "mfr_hidden_size"),
        ("many", "num_top_tokens"),
        ([1], "vision_config"),
        ("float1000", "dtype"),
    ):
        # Names are known to what looks them up, not to FafaConfig.
        text = value if names[-1] in ("hidden_act", "dtype") else names[-1]
        hostile[f"{'.'.join(names)} {value!r}"] = (text, set_in(config, *names, value=value))
    for value, *names in (
        ({"height": 50_000, "width": 50_000}, "image_processor", "size"),
        ({"height": 60_000, "width": 60_000}, "image_processor", "person_size"),
        ({"height": 10**30, "width": 1}, "image_processor", "size"),
        (99, "image_processor", "resample"),
        (float("nan"), "image_processor", "rescale_factor"),
        ([0, 0, 0], "image_processor", "image_std"),
        ("abc", "image_processor", "image_mean"),
        (10**18, "max_text_length"),
    ):
        hostile[f"{'.'.join(names)} {value!r}"] = (names[-1], set_in(processor, *names, value=value))
    for file in (config, processor, "tokenizer.json", "tokenizer_config.json"):
        for kind, content in {
            "binary": bytes(range(256)) * 40,
            "nested deep": b"[" * 100_000,
            "empty": b"",
            "a list": b"[]",
            "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        }.items():
            hostile[f"{file}: {kind}"] = (
                "",
                lambda folder, file=file, content=content: (folder / file).write_bytes(content),
            )
    for kind, damage in {
        "cut off": lambda folder: os.truncate(folder / "model.safetensors", 100_000),
        "empty": lambda folder: os.truncate(folder / "model.safetensors", 0),
        "a Git LFS pointer": lambda folder: (folder / "model.safetensors").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
        ),
        "a header of 10^18 bytes": lambda folder: (folder / "model.safetensors").write_bytes(
            (10**18).to_bytes(8, "little") + b"{}"
        ),
        "missing": lambda folder: (folder / "model.safetensors").unlink(),
    }.items():
        hostile[f"model.safetensors: {kind}"] = ("", damage)
    for name, (text, damage) in hostile.items():
        model = place.copy(Path(TINY))
        damage(model)
        yield Trial({name: text or model.name}, place.query(model=model))
    model, harm = place.copy(Path(TINY)), place.new() / "written by remote code"
    (model / "evil.py").write_text(f"open({str(harm)!r}, 'w')\n")
    set_in(config, "auto_map", value={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})(model)
    yield Trial({"auto_map to a file that runs code": ""}, place.query(model=model), "accepted", harm)
    model, harm = place.copy(Path(TINY)), place.new() / "written by a pickle"
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Opens(harm)))
    yield Trial({"pytorch_model.bin a pickle that runs code": model.name}, place.query(model=model), harm=harm)


def yaml(place: Place) -> Iterator[Trial]:
    """As a recipe and as a training config."""
    for name, (text, _) in HOSTILE_YAML.items():
        file = place.new("yaml") / "mine.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield Trial({name: "mine.yaml"}, [SYNTHESIS, str(file), "--output", str(place.new())])
        yield Trial({name: "mine.yaml"}, place.train("--config", file))
    for name, content in {"a pipe": "pipe", "a folder": "folder", "40 GB of zeros": "sparse"}.items():
        file = place.new("yaml") / "mine.yaml"
        write_picture(file, content)
        yield Trial({name: "mine.yaml"}, [SYNTHESIS, str(file), "--output", str(place.new())])
        yield Trial({name: "mine.yaml"}, place.train("--config", file))
    painter = (ROOT / "synthesis/recipes/painter.yaml").read_text(encoding="utf-8")
    for old, new, named in (
        ("count: 330", f"count: {10**18}", "count"),
        ("count: 330", f"count: {10**30}", "mine.yaml"),
        ("count: 330", "count: -1", "count"),
        ("count: 330", "count: 1.5", "count"),
        ("count: 330", "count: many", "count"),
        ("realistic: 2", f"realistic: {10**12}", "realistic"),
        ("fault_rate: 0.15", "fault_rate: 15", "fault_rate"),
        ("chunk_size: 40", "chunk_size: 0", "chunk_size"),
        ("kind: grammar", "kind: os.system", "os.system"),
        ("quality: {at_least: 0.5}", "quality: {at_least: high}", "quality"),
        ("kind: triplets", "kind: [triplets]", "kind"),
        ("split: {aspect: 0.5}", "split: {aspect: 0}", "aspect"),
    ):
        file = place.new("yaml") / "mine.yaml"
        file.write_text(painter.replace(old, new))
        yield Trial({new: named}, [SYNTHESIS, str(file), "--output", str(place.new())])
    for name, value in (("seed", 2**40), ("max_steps", "many"), ("batch_size", 0), ("data_dir", [1]), ("sede", 1)):
        file = place.new("yaml") / "mine.yaml"
        file.write_text(json.dumps({name: value}))
        given = [TRAIN, "--config", str(file), "--model", TINY, "--output_dir", str(place.new()), "--report_to", "none"]
        given += ["--use_cpu", "true"] + ["--data_dir", str(place.syncpr)] * (name != "data_dir")
        yield Trial({f"{name}: {value}": name}, given)


def options(place: Place) -> Iterator[Trial]:
    """Misuse of the command line."""
    folder, file = place.new("folder"), place.new("file") / "file"
    file.write_text("")
    pipe = file.parent / "pipe.jpg"
    os.mkfifo(pipe)
    for given, named in {
        ("--output", folder): folder.name,
        ("--output", folder / "result.xyz"): "result.xyz",
        ("--output", "/proc/none/result.png"): "/proc",
        ("--output", file / "result.png"): file.name,
        ("--output", folder / ("n" * 300 + ".png")): "nnn",
        ("--top", "0"): "--top",
        ("--top", "-1"): "--top",
        ("--top", "many"): "--top",
        ("--top", 10**9): "1,000,000,000 results",
        ("--batch-size", "0"): "--batch-size",
        ("--batch-size", "-3"): "--batch-size",
        ("--num-workers", "-1"): "--num-workers",
        ("--num-workers", 10**9): "--num-workers",
        ("--device", "toaster"): "toaster",
        ("--device", "cuda:99"): "cuda",
        ("--gallery", folder): folder.name,
        ("--gallery", "/nowhere/at/all"): "/nowhere/at/all",
        ("--gallery", file): file.name,
        ("--model", folder): folder.name,
        ("--model", "/nowhere/at/all"): "/nowhere/at/all",
        ("--model", "no one/no model"): "no one/no model",
        ("--image", "/nowhere.jpg"): "/nowhere.jpg",
        ("--image", folder): folder.name,
        ("--image", pipe): pipe.name,
        ("--image", "http://localhost:9/a.jpg"): "http:",
        ("--caption", ""): "caption",
        ("--caption", "caf\udce9"): "the caption",
        ("--index", file): file.name,
        ("--index", "/proc/none/index"): "/proc/none",
    }.items():
        yield Trial({" ".join(str(part)[:60] for part in given): named}, place.query(*given))
    for given in (
        ("--batch-size", 10**9),
        ("--caption", "coat " * 200_000),
        ("--caption", "\x1b[31m red"),
        ("--exclude", "[" * 1_000),
    ):
        yield Trial({" ".join(str(part)[:30] for part in given): ""}, place.query(*given), "accepted")
    for given, named in {
        ("--output", file): file.name,
        ("--output", "/proc/none"): "/proc",
        ("--data", folder): folder.name,
        ("--data", "/nowhere"): "/nowhere",
        ("--modes", "all"): "--modes",
        ("--batch-size", "0"): "--batch-size",
        ("--num-workers", "-1"): "--num-workers",
        ("--dtype", "int1"): "--dtype",
        ("--device", "toaster"): "toaster",
    }.items():
        yield Trial({" ".join(map(str, given)): named}, place.evaluate(*given))
    for given, named in {
        ("--output_dir", file): file.name,
        ("--output_dir", "/proc/none"): "/proc",
        ("--data_dir", folder): folder.name,
        ("--model", folder): folder.name,
        ("--batch_size", "0"): "batch_size",
        ("--batch_size", "-8"): "batch_size",
        ("--learning_rate", "nan"): "learning_rate",
        ("--learning_rate", "fast"): "learning_rate",
        ("--validation_fraction", "2"): "fraction",
        ("--validation_fraction", "nan"): "fraction",
        ("--model_options", "{" * 10_000): "model_options",
        ("--model_options", '{"num_query_tokens": 1000000000}'): "num_query_tokens",
        ("--resume_from_checkpoint", folder): folder.name,
        ("--lora_rank", "-1"): "rank",
        ("--vision_dtype", "int1"): "vision_dtype",
        ("--optim", "magic"): "optim",
        ("--on_error", "ignore"): "on_error",
        ("--config", "/nowhere.yaml"): "/nowhere.yaml",
    }.items():
        yield Trial({" ".join(str(part)[:60] for part in given): named}, place.train(*given))
    for given, named in {
        ("--shard-size", "0"): "shard_size",
        ("--shard-size=-5MB",): "-5MB",
        ("--shard-size", "lots"): "lots",
        ("--output", file): file.name,
        ("--output", "/proc/none"): "/proc/none",
        ("--data-dir", folder): folder.name,
        ("--about", "/nowhere.md"): "/nowhere.md",
        ("--format", "zip"): "--format",
    }.items():
        yield Trial({" ".join(map(str, given)): named}, place.export(place.syncpr, *given))
    for given, named in {
        ("--shard", "5/2"): "5/2",
        ("--limit", "0"): "--limit",
        ("--until", "nothing"): "nothing",
        ("--output", file): file.name,
        ("--output", "/proc/none"): "/proc/none",
    }.items():
        arguments = [SYNTHESIS, "painter", "--quiet", "--output", str(place.new()), *map(str, given)]
        yield Trial({" ".join(map(str, given)): named}, arguments)
    for given, named in {
        ("--diptychs", "-1"): "diptychs",
        ("--diptychs", 10**18): "diptychs",
        ("--gallery", "0"): "gallery",
        ("--height", "0"): "image_size",
        ("--height", 10**9): "image_size",
        ("--workers", "0"): "--workers",
        ("--output", file): file.name,
    }.items():
        arguments = ["examples/make_world.py", "--output", str(place.new()), *map(str, given)]
        yield Trial({" ".join(map(str, given)): named}, arguments)
    for target in ("/nowhere", file, folder):
        yield Trial({"what is nothing to check": str(target)}, place.verify(target))


GROUPS: dict[str, Callable[[Place], Iterator[Trial]]] = {
    "pictures": pictures,
    "archives": archives,
    "annotations": annotations,
    "features": features,
    "checkpoints": checkpoints,
    "settings": settings,
    "yaml": yaml,
    "options": options,
}


def rows_of(group: str, trials: Iterator[Trial], place: Place) -> Iterator[dict]:
    """A row for every input of every trial."""
    for trial in trials:
        log = place.new("log") / "log"
        outcome = run(trial, log)
        for name, text in trial.inputs.items():
            verdict, line = classify(trial, text, outcome)
            yield {
                "group": group,
                "input": name.replace(str(place.work), "…"),
                "command": trial.command,
                "expected": trial.expected,
                "verdict": verdict,
                "line": line.replace(str(place.work), "…").replace(str(ROOT), "fafa")[:400],
                "seconds": round(outcome.seconds, 1),
                "peak": outcome.peak,
            }
            if verdict not in GOOD:
                print(f"{verdict.upper()}: {group}: {name}: {trial.command}: {line[:300]} (see {log})", flush=True)


def to_markdown(record: dict[str, dict]) -> str:
    """The page."""
    rows = [row for group in record.values() for row in group["rows"]]
    verdicts = [*GOOD, *sorted({row["verdict"] for row in rows} - set(GOOD))]
    processors = ", ".join(sorted({group["processor"] for group in record.values()}))
    lines = [
        "# Hostile inputs",
        "",
        f"{processors}, `python benchmarks/hostile_inputs.py --work DIR`.",
        "Every command had 6 GB of address space and two minutes; "
        f"the longest took {max(row['seconds'] for row in rows):.0f} s, and the most memory that one held was "
        f"{max(row['peak'] for row in rows):,} MB, libraries included.",
        "",
    ]
    groups = []
    for name, group in record.items():
        counts = Counter(row["verdict"] for row in group["rows"])
        numbers = [counts[one] for one in verdicts]
        groups.append([name, counts.total(), *numbers, group["date"], f"{group['seconds']:.0f}"])
    counts = Counter(row["verdict"] for row in rows)
    groups.append(["all", counts.total(), *(counts[one] for one in verdicts), "", ""])
    lines += [markdown_table(["group", "tried", *verdicts, "date", "seconds"], groups), ""]
    told = [
        [row["group"], row["input"], row["command"], row["expected"], f"{row['verdict']}: {row['line']}"]
        for row in rows
    ]
    lines.append(markdown_table(["group", "input", "command", "expected", "what happened"], told))
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record and the page")
    return parser.parse_args()


def main() -> int:
    """Try everything, write the record and the page."""
    arguments = parse_arguments()
    sys.stdout.reconfigure(errors="backslashreplace")
    work = arguments.work.absolute()
    if work.exists() and any(work.iterdir()):
        raise SystemExit(f"{work} is not empty: give a new folder")
    work.mkdir(parents=True, exist_ok=True)
    os.environ["HF_DATASETS_CACHE"] = str(work / "cache")
    torch.set_num_threads(1)
    place = Place(work)
    arguments.results.mkdir(parents=True, exist_ok=True)
    json_file, page = (arguments.results / f"hostile_inputs.{suffix}" for suffix in ("json", "md"))
    record: dict[str, dict] = read_json(json_file) if json_file.exists() else {}
    for group in arguments.groups:
        before = time.monotonic()
        rows = list(rows_of(group, GROUPS[group](place), place))
        record[group] = {
            "date": date.today().isoformat(),
            "processor": processor_name(),
            "seconds": time.monotonic() - before,
            "rows": rows,
        }
        record = {name: record[name] for name in GROUPS if name in record}
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        page.write_text(to_markdown(record), encoding="utf-8")
        print(f"{group}: {len(rows)} rows, {record[group]['seconds']:.0f} s", flush=True)
    print(to_markdown(record).rpartition("\n\n")[0])
    return int(any(row["verdict"] not in GOOD for group in record.values() for row in group["rows"]))


if __name__ == "__main__":
    sys.exit(main())
