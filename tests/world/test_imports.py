"""The painted world needs numpy and Pillow, and what the package writes files by: no model, no library of models."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = {"torch", "transformers", "datasets", "diffusers"}

# The package without its __init__, which makes FAFA's classes known to transformers where that is imported.
ALONE = """
import sys, types
before = set(sys.modules)
sys.modules["fafa"] = types.ModuleType("fafa")
sys.modules["fafa"].__path__ = [sys.argv[1]]
import {modules}
print(*(name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None)))
"""


def imported_by(modules: str) -> tuple[set[str], set[str]]:
    """The libraries, and the rooms of the package, that a fresh process has once it has imported these modules."""
    command = [sys.executable, "-c", ALONE.format(modules=modules), str(ROOT)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    libraries = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"fafa"}
    return libraries, {name.split(".")[1] for name in found if name.startswith("fafa.")}


def test_the_world_needs_numpy_and_pillow_and_writes_files_by_the_package():
    to_write, _ = imported_by("fafa.files, fafa.workers")
    libraries, rooms = imported_by("fafa.world")
    pillows_own = {"defusedxml"}  # where it is installed
    assert libraries - to_write - pillows_own == {"numpy", "PIL"} and not libraries & MODELS
    assert rooms == {"world", "files", "names", "workers"}


def test_importing_it_as_users_do_brings_no_library_of_models():
    new = "import sys, fafa; before = set(sys.modules); import fafa.world; print(*set(sys.modules) - before)"
    modules = subprocess.run([sys.executable, "-c", new], capture_output=True, text=True, check=True).stdout.split()
    assert not {name.partition(".")[0] for name in modules} & MODELS
    assert not [name for name in modules if name.startswith("fafa.synthesis")]
