"""Kills a training run by SIGKILL again and again, resumes it, and compares it with one that ran through.

PYTHONPATH=tests python tests/training/safety/kill_and_resume.py FOLDER --kills 10  # half of them while writing
PYTHONPATH=tests python tests/training/safety/kill_and_resume.py FOLDER --places half_written half_deleted
"""

import argparse
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_model
from tiny_run import tiny_trainer

from fafa.training.safety.checkpoints import UNFINISHED, checkpoints_in, step_of


def make_triplets(folder: Path) -> Dataset:
    rows = []
    for number in range(16):
        path = folder / f"{number}.png"
        Image.new("RGB", (48, 96), (15 * number, 100, 255 - 15 * number)).save(path)
        row = {"edit_caption": "now in a red coat", "cpr_id": number // 2}
        for side in ("reference_image", "target_image"):
            row |= {side: {"path": str(path)}, f"{side}_path": path.name}
        rows.append(row)
    return Dataset.from_list(rows)


def train(folder: Path, triplets: Dataset, steps: int, save_steps: int) -> None:
    """With all that could differ after a resume: random draws, groups, an average, evaluations, an uneven log."""
    trainer = tiny_trainer(
        folder,
        triplets,
        tiny_model(distribution_uncertainty=0.5),
        eval_dataset=triplets.select(range(8)),
        max_steps=steps,
        per_device_train_batch_size=6,
        group_size=2,
        contrastive_steps=steps // 2,
        ema_decay=0.9,
        logging_steps=4,
        eval_strategy="steps",
        eval_steps=2 * save_steps,
        save_steps=save_steps,
        save_total_limit=2,
    )
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    trainer.save_state()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(nth: int = 2) -> None:
    """Dies with half of the nth checkpoint's optimiser state written."""
    save, calls = torch.save, []

    def write_half(state, path):
        if Path(path).name == "optimizer.pt":
            calls.append(path)
        if len(calls) < nth:
            return save(state, path)
        whole = io.BytesIO()
        save(state, whole)
        Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
        die()

    torch.save = write_half


def half_deleted() -> None:
    """Dies with one file of an old checkpoint deleted by rotation."""
    remove = shutil.rmtree

    def remove_one(path, *args, **kwargs):
        if "discarded" in Path(path).name and Path(path).exists():
            next(file for file in Path(path).iterdir() if file.is_file()).unlink()
            die()
        remove(path, *args, **kwargs)

    shutil.rmtree = remove_one


def not_renamed() -> None:
    """Dies with the second checkpoint written, manifest and all, but not in its place."""
    replace, calls = Path.replace, []

    def replace_or_die(path, target):
        calls.append(path)
        return die() if len(calls) == 2 else replace(path, target)

    Path.replace = replace_or_die


PLACES = {place.__name__: place for place in (half_written, half_deleted, not_renamed)}


def start(folder: Path, triplets: Dataset, options: argparse.Namespace, place: str | None = None) -> int:
    """A run in a process of its own, which has imported everything already; its number."""
    process = os.fork()
    if process:
        return process
    try:
        with Path(f"{folder}.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        logging.basicConfig(level=logging.INFO, force=True)
        if place:
            PLACES[place]()
        train(folder, triplets, options.steps, options.save_steps)
        os._exit(0)
    except BaseException:
        logging.exception("the run failed")
        os._exit(1)


def kill_at_random(process: int, folder: Path, options: argparse.Namespace, while_writing: bool, rng) -> None:
    """Within a few checkpoints from now; while writing: within the next 80 ms after a checkpoint was begun."""
    reach = newest_step(folder) + rng.randrange(3) * options.save_steps
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        begun = False
        with suppress(FileNotFoundError):  # the folder goes while it is looked through
            begun = any(folder.glob(f"{UNFINISHED}/checkpoint-*"))
        if newest_step(folder) >= reach and (begun or not while_writing):
            time.sleep(rng.uniform(0, 0.08 if while_writing else 0.5))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return


def newest_step(folder: Path) -> int:
    return max((step_of(path) for path in checkpoints_in(folder)), default=0)


def result(folder: Path) -> tuple[dict, list[dict]]:
    """Averaged and raw weights, and the log without what measures time."""
    raw = load_file(folder / f"checkpoint-{newest_step(folder)}" / "raw_weights.safetensors")
    weights = load_file(folder / "model.safetensors") | {f"raw {name}": tensor for name, tensor in raw.items()}
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    timed = ("runtime", "per_second", "total_flos", "train_loss")
    return weights, [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in log if "epoch" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--places", nargs="*", default=[], choices=PLACES)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save_steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    triplets = make_triplets(options.folder)
    rng = random.Random(options.seed)

    whole, killed = options.folder / "whole", options.folder / "killed"
    assert os.waitpid(start(whole, triplets, options), 0)[1] == 0, Path(f"{whole}.log").read_text()
    for place in options.places:
        _, status = os.waitpid(start(killed, triplets, options, place), 0)
        assert os.WIFSIGNALED(status), Path(f"{killed}.log").read_text()
        report(killed, place)
    for kill in range(options.kills):
        kill_at_random(start(killed, triplets, options), killed, options, kill % 2 == 0, rng)
        report(killed, f"kill {kill + 1}")
    assert os.waitpid(start(killed, triplets, options), 0)[1] == 0, Path(f"{killed}.log").read_text()

    (weights, log), (expected, expected_log) = result(killed), result(whole)
    different = [name for name in expected if not torch.equal(weights[name], expected[name])]
    print(f"{len(expected)} tensors, {len(different)} of them different; log of {len(log)} entries", end=" ")
    print("equal" if log == expected_log else f"different:\n{log}\n{expected_log}")
    sys.exit(bool(different) or weights.keys() != expected.keys() or log != expected_log)


def report(folder: Path, when: str) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("*") if path.is_dir())
    inside = [
        f"{path.relative_to(folder)} ({len(list(path.iterdir()))} files)" for path in folder.glob("_unfinished/*")
    ]
    print(f"{when}: {', '.join(names + inside)}")


if __name__ == "__main__":
    main()
