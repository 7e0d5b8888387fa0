"""The checkout, the sdist, the wheel and the editable install are the same package `fafa`."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import fafa

ROOT = Path(__file__).parents[1]
ROOMS = ["app", "dataset_builders", "drawing", "evaluation", "models", "people", "retrieval", "synthesis", "training"]
ROOMS += ["world"]
PUBLIC_MODULES = ["cli", "convert_fafa_checkpoint", "modeling_fafa", "processing_fafa", *ROOMS]
PUBLIC_MODULES += ["training.run", "evaluation.run"]  # of commands, which examples do not come with


def run(*command, cwd, **environment) -> str:
    """Output of a fresh process; its error output is in the failure."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_behind(folder, names) -> set[str]:
    """What a fresh clone does not have: environments, caches, build folders, what `make` paints."""
    hidden = {name for name in names if name.startswith(".") and name not in (".ci", ".gitignore")}
    made = {"build", "dist", "quickstart", "train-world", "__pycache__"}.intersection(names)
    if Path(folder) == ROOT:  # checkpoints/tiny stays
        made |= {"tiny"}.intersection(names)
    return (
        hidden
        | made
        | {name for name in names if name.endswith(".egg-info") or (Path(folder, name, "pyvenv.cfg").exists())}
    )


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder with an sdist, the wheel built from it, and in `direct/` the wheel built from the checkout."""
    checkout = tmp_path_factory.mktemp("clone") / "checkout"
    dist = tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, checkout, ignore=left_behind)
    run("-m", "build", "--no-isolation", "--outdir", str(dist), str(checkout), cwd=dist)
    stale = checkout / "build" / "lib" / "fafa"
    stale.mkdir(parents=True)
    (stale / "deleted_module.py").touch()
    run("-m", "build", "--no-isolation", "--wheel", "--outdir", str(dist / "direct"), str(checkout), cwd=dist)
    return dist


def package_files(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name.removeprefix("fafa/") for name in names if ".dist-info/" not in name}


def test_wheel_holds_every_file_of_the_package_and_nothing_else(dist):
    root_modules = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    in_rooms = (path for room in [*ROOMS, "checkpoints"] for path in (ROOT / room).rglob("*") if path.is_file())
    in_rooms = {path.relative_to(ROOT).as_posix() for path in in_rooms if "__pycache__" not in path.parts}
    assert package_files(next(dist.glob("*.whl"))) == root_modules | in_rooms


def test_wheel_from_the_checkout_equals_the_one_from_the_sdist(dist):
    """A stale build/lib, left by an earlier `pip install .`, used to bring deleted modules back."""
    assert package_files(next(dist.glob("direct/*.whl"))) == package_files(next(dist.glob("*.whl")))


def test_sdist_holds_what_the_tests_and_the_quickstart_need(dist):
    sdist = next(dist.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "examples", "benchmarks", "checkpoints"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in files if "__pycache__" not in name} <= names
    assert {"Makefile", "constraints.txt", ".ci/run", "LICENSE", "CITATION.cff", "CHANGELOG.md", "README.md"} <= names
    assert not [name for name in names if "__pycache__" in name or ".venv" in name]


def test_installed_wheel_imports_and_runs_without_the_checkout(dist, tmp_path):
    target = tmp_path / "site"
    wheel = next(dist.glob("*.whl"))
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=tmp_path)
    imports = "\n".join(f"import fafa.{name}; print(fafa.{name}.__file__)" for name in PUBLIC_MODULES)
    files = run("-c", imports, cwd=tmp_path, PYTHONPATH=str(target)).split()
    assert all(Path(file).is_relative_to(target) for file in files) and len(files) == len(PUBLIC_MODULES)
    for command in (["-m", "fafa.convert_fafa_checkpoint"], [str(target / "bin" / "fafa"), "convert", "fafa"]):
        assert "SOURCE" in run(*command, "--help", cwd=tmp_path, PYTHONPATH=str(target))


def test_the_tests_test_this_checkout(tmp_path):
    """In a process and from elsewhere: not a second copy under the checkout folder's name, not an installed wheel."""
    assert Path(fafa.__file__) == ROOT / "__init__.py"
    assert Path(run("-c", "import fafa; print(fafa.__file__)", cwd=tmp_path).strip()) == ROOT / "__init__.py"


def test_import_is_light(tmp_path):
    heavy = ["torch", "datasets", "evaluate", "diffusers", "peft", "gradio", "faiss", "matplotlib", "pymilvus"]
    loaded = "print([name for name in {} if name in sys.modules])".format
    code = (
        f"import sys, transformers, fafa; {loaded(heavy)}; import fafa.retrieval; {loaded(['pymilvus', 'milvus_lite'])}"
    )
    assert run("-c", code, cwd=tmp_path).split() == ["[]", "[]"]


def test_tested_set_lies_in_the_declared_ranges(dist):
    wheel = zipfile.ZipFile(next(dist.glob("*.whl")))
    metadata = message_from_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))))
    tested = dict(
        line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    for requirement in requirements:
        if requirement.name in tested:
            assert tested[requirement.name] in requirement.specifier, requirement
    installed = {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": "dev"})}
    assert installed - set(tested) == {"setuptools"}, "constraints.txt names no version for these"


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fafa.__version__
    assert citation["preferred-citation"]["url"].endswith("2311.16515")
