"""The painted world needs numpy and Pillow, and what writing files needs: no model, and no library of models."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The package without its __init__, which makes FAFA's classes known to transformers where that is imported.
ALONE = """
import sys, types
before = set(sys.modules)
sys.modules["fafa"] = types.ModuleType("fafa")
sys.modules["fafa"].__path__ = [sys.argv[1]]
import {module}
print(*(name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None)))
"""


def imported_by(module) -> list[str]:
    """Modules that a fresh process has more of once it has imported this one."""
    command = [sys.executable, "-c", ALONE.format(module=module), str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_world_needs_numpy_and_pillow_and_writes_files_by_the_package():
    modules = imported_by("fafa.world")
    libraries = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"fafa"}
    assert libraries <= {"numpy", "PIL", "tqdm", "xxhash"}  # the last two by `fafa.files`
    rooms = {name.split(".")[1] for name in modules if name.startswith("fafa.")}
    assert rooms == {"world", "files", "workers"}


def test_importing_it_as_users_do_brings_no_library_of_models():
    before = "import sys, fafa; before = set(sys.modules); import fafa.world; print(*set(sys.modules) - before)"
    modules = subprocess.run([sys.executable, "-c", before], capture_output=True, text=True, check=True).stdout.split()
    assert not {name.partition(".")[0] for name in modules} & {"torch", "transformers", "datasets", "diffusers"}
    assert not [name for name in modules if name.startswith("fafa.synthesis")]
