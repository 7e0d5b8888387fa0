"""Transformers' own common tests, run on FAFA's model, processor and image processor.

    python benchmarks/common_tests.py                  # some minutes on one core
    python benchmarks/common_tests.py --parts processor --keep /tmp/common

The tests are those of the installed version: its source distribution holds them, and pip fetches it into a temporary
folder, together with `parameterized`, which they need. What they import beside and the distribution lacks is replaced
by stand-ins: tests of exporters and of text generation (not run), and pictures of the Hub (not needed).

`common_tests/*_case.py` say how each class is made, and name the tests that are excepted, with the reason: ten at most
in all. Results go to benchmarks/results/common_tests.json and common_tests.md. Exit status 1 if a test fails that is no
exception, or an exception passes.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from scoring import processor_name

from fafa.tables import markdown_table

CASES = Path(__file__).parent / "common_tests"
RESULTS = Path(__file__).parent / "results"
PARTS = {"model": "model_case.py", "processor": "processor_case.py", "image processor": "image_processor_case.py"}
MOST_EXCEPTIONS = 10
LIBRARIES = ("transformers", "torch", "tokenizers", "huggingface_hub", "pillow", "numpy")
STAND_INS = {
    "tests/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return url\n",
}


def fetch(folder: Path) -> Path:
    """Puts the source distribution of the installed transformers into a folder, with what its tests need.

    Returns:
        the folder that holds `tests`.

    Raises:
        SystemExit: it cannot be fetched, or holds no tests.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wanted = f"transformers=={version('transformers')}"
    download = ["download", "--no-deps", "--no-binary", "transformers", "--no-build-isolation", "--dest", str(folder)]
    if not list(folder.glob("transformers-*.tar.gz")):
        for arguments in ([*download, wanted], ["install", "--target", str(folder / "libraries"), "parameterized"]):
            if subprocess.run([*pip, *arguments], check=False).returncode:
                raise SystemExit(f"pip {' '.join(arguments)} failed: the package index cannot be reached, or lacks it")
    (archive,) = folder.glob("transformers-*.tar.gz")
    root = folder / archive.name.removesuffix(".tar.gz")
    if not root.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, (m for m in tar if "/tests/" in m.name), filter="data")
    if not (root / "tests" / "test_modeling_common.py").exists():
        raise SystemExit(f"{archive.name} holds no tests: this version's are in its repository only")
    for name, content in STAND_INS.items():
        if not (root / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
    return root


def exceptions_of(case: Path) -> dict[str, str]:
    """The `EXCEPTIONS` of a case: name of a test -> why it cannot hold."""
    for node in ast.parse(case.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", None) == "EXCEPTIONS" for target in targets):
            return ast.literal_eval(node.value)
    return {}


def run(part: str, folder: Path, root: Path) -> dict:
    """Runs the tests of a part: a row of numbers, and the excepted and failed tests with their reasons."""
    report = folder / f"{part}.xml"
    began = time.monotonic()
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", str(CASES / PARTS[part]), f"--junitxml={report}", f"--rootdir={folder}"]
    command += ["-c", os.devnull, "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--tb=line"]
    paths = [str(root), str(folder / "libraries"), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=root, env=os.environ | settings, stdout=subprocess.DEVNULL, check=False)
    if not report.exists():
        raise SystemExit(f"{PARTS[part]}: pytest did not run it; see `{' '.join(command)}`")
    counts, failed, excepted, reasons = Counter(), {}, {}, exceptions_of(CASES / PARTS[part])
    outcomes: dict[str, ElementTree.Element | None] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # subtests come under the name of their test
        outcome = next((found for found in case if found.tag in ("failure", "error", "skipped")), None)
        if case.get("name") not in outcomes or (outcome is not None and outcome.tag != "skipped"):
            outcomes[case.get("name")] = outcome
    for name, outcome in outcomes.items():
        if outcome is None and name not in reasons:
            counts["passed"] += 1
        elif outcome is None:
            failed[name] = "passes now: take it off the exceptions"
        elif name in reasons:
            excepted[name] = reasons[name]
        elif outcome.tag == "skipped":
            counts["does not apply"] += 1
        else:
            failed[name] = (outcome.get("message") or "").strip().partition("\n")[0][:300]
    counts |= {"failed": len(failed), "excepted": len(excepted)}
    return {
        "date": date.today().isoformat(),
        "seconds": round(time.monotonic() - began),
        "versions": {name: version(name) for name in LIBRARIES},
        "processor": processor_name(),
        "counts": {name: counts[name] for name in ("passed", "excepted", "failed", "does not apply")},
        "excepted": dict(sorted(excepted.items())),
        "failed": dict(sorted(failed.items())),
    }


def to_markdown(record: dict[str, dict]) -> str:
    """The record as a page."""
    lines = ["# Transformers' common tests", "", "`python benchmarks/common_tests.py`", ""]
    for result in record.values():
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        if versions not in lines:
            lines += [versions, ""]
    rows = [[part, *result["counts"].values(), result["date"], result["seconds"]] for part, result in record.items()]
    lines += [
        markdown_table(["part", "passed", "excepted", "failed", "do not apply", "date", "seconds"], rows),
        "",
        "Tests that do not apply skip themselves: they are for videos, audio, placeholders of images in text, chat "
        "templates, GPUs, torchvision, other libraries, or what a class does not claim to have.",
        "",
        markdown_table(
            ["part", "excepted test", "why"],
            [[part, *excepted] for part, result in record.items() for excepted in result["excepted"].items()],
        ),
    ]
    if failed := [f"- {part}: {name}: {why}" for part, r in record.items() for name, why in r["failed"].items()]:
        lines += ["", "Failed:", "", *failed]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Fetch, run, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [part for part, case in PARTS.items() if (CASES / case).exists()]
    parser.add_argument("--parts", nargs="+", choices=there, default=there, help="the rest stays recorded")
    parser.add_argument("--keep", type=Path, help="folder for what is fetched, to use again; default: a temporary one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record and the page")
    arguments = parser.parse_args()
    json_file, page = (arguments.results / f"common_tests.{suffix}" for suffix in ("json", "md"))
    record = json.loads(json_file.read_text(encoding="utf-8")) if json_file.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        root = fetch(folder)
        for part in arguments.parts:
            record[part] = run(part, folder, root)
            print(f"{part}: {record[part]['counts']}", flush=True)
    record = {part: record[part] for part in PARTS if part in record}
    arguments.results.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page.write_text(to_markdown(record), encoding="utf-8")
    num_exceptions = sum(len(result["excepted"]) for result in record.values())
    if num_exceptions > MOST_EXCEPTIONS:
        print(f"{num_exceptions} exceptions, and {MOST_EXCEPTIONS} are allowed", file=sys.stderr)
    return int(num_exceptions > MOST_EXCEPTIONS or any(result["failed"] for result in record.values()))


if __name__ == "__main__":
    sys.exit(main())
