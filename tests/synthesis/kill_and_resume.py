"""Kill a synthesis by SIGKILL at random moments of every stage, resume it, and compare with a run left alone.

    python tests/synthesis/kill_and_resume.py FOLDER --kills 10      # about ten minutes

Also runs it in four shards. Not a test of pytest's, for its length; tests/synthesis/test_triplets.py has a short one.
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from fafa.synthesis.recipes import find_recipe, read_recipe
from fafa.synthesis.stages import Workspace, discard_from

COMMAND = [sys.executable, "-m", "fafa.synthesis"]


def contents(root: Path) -> dict[str, str]:
    """A hash of every result; not of locks and hidden files, nor of the notes on runs, which hold times."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "runs.jsonl")
    shown = (path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in shown}


def run(recipe: str, folder: Path, limit: int, *more: str) -> None:
    """Run the command to its end."""
    command = [*COMMAND, recipe, "--output", str(folder), "--limit", str(limit), "--quiet", *more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_in(stage: str, recipe: str, folder: Path, limit: int, seconds: float, chance: random.Random) -> bool:
    """Start the command and kill it at a random moment of a stage. False if the stage was over by then."""
    command = [*COMMAND, recipe, "--output", str(folder), "--limit", str(limit), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not (folder / stage).exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, seconds))
    status = process.poll()
    if status:
        raise RuntimeError(f"{' '.join(command)} failed by itself")
    process.kill()
    process.wait()
    return status is None and not finished(folder, stage)


def finished(folder: Path, stage: str) -> bool:
    """Whether a stage has counted what it made."""
    manifest = folder / stage / "manifest.json"
    return manifest.exists() and '"counts"' in manifest.read_text()


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="painter")
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--kills", type=int, default=10, help="per stage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)

    whole, parts = options.folder / "whole", options.folder / "shards"
    run(options.recipe, whole, options.limit)
    expected = contents(whole)
    for number in range(4):
        run(options.recipe, parts, options.limit, "--shard", f"{number}/4")
    run(options.recipe, parts, options.limit)
    for number in range(4):  # what the second whole stage needed from all shards is there now
        run(options.recipe, parts, options.limit, "--shard", f"{number}/4")
    print(f"4 shards against 1: {'equal' if contents(parts) == expected else 'DIFFERENT'}, {len(expected)} files")

    recipe = read_recipe(find_recipe(options.recipe)).limited(options.limit)
    for stage in (stage.name for stage in recipe.stages()):
        folder = options.folder / f"killed-{stage}"
        shutil.copytree(whole, folder)
        work = Workspace(folder, recipe.num_chunks)
        discard_from(stage, recipe.stages(), work)
        seconds, kills = 1.5, 0
        while kills < options.kills:
            if kill_in(stage, options.recipe, folder, options.limit, seconds, chance):
                kills += 1
            elif finished(folder, stage):  # it was through: kill earlier, from its beginning
                seconds = max(0.02, seconds * 0.7)
                discard_from(stage, recipe.stages(), work)
        run(options.recipe, folder, options.limit)
        same = contents(folder) == expected
        print(f"{stage}: {kills} kills, resumed: {'equal' if same else 'DIFFERENT'}", flush=True)
        if same:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
