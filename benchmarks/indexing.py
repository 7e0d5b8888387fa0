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
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from indexing_turns import write_images
from PIL import Image

RESULTS = Path(__file__).parent / "results"


def measure(what: str, folder: Path, before: Path | None, interpreter: str = sys.executable, **environment: str) -> Any:
    """In a process of its own: "one_core", "busy" or "libraries"."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [interpreter, __file__, "--measure", what, str(folder), *([str(before)] if before else [])]
    environment |= {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=inherited | environment)
    print(f"{what}: done", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


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
        if what == "libraries":  # that interpreter may have no torch
            from jpeg_decoders import measure_libraries

            found = measure_libraries(Path(folder))
        else:
            from indexing_measures import load_packages, measure_busy, measure_one_core

            packages = load_packages(Path(before[0]) if before else None)
            found = {"one_core": measure_one_core, "busy": measure_busy}[what](Path(folder), packages)
        print(json.dumps(found))
        return

    import torch
    from indexing_page import to_markdown
    from scoring import processor_name

    command = "python benchmarks/indexing.py" + (f" --before {arguments.before}" if arguments.before else "")
    command += " --libraries PYTHON" if arguments.libraries else ""
    command += " --idle" if arguments.idle else ""
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
