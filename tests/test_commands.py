"""How commands end: one sentence for what their user can mend, a traceback for faults, and statuses as in shells."""

import errno
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
from test_workers import runs, wait_for
from tiny import tiny_model, tiny_processor

from fafa import TINY_CHECKPOINT, FafaModel, FafaProcessor
from fafa.commands import check_device, check_numbers, command, import_modules, load_given_model, loading
from fafa.files import check_output_file, check_output_folder, printable
from fafa.workers import WorkerDiedError, check_num_workers

ROOT = Path(__file__).parent.parent
PAUSED = """
import runpy, sys, time
{imports}
def pause(*arguments, **options):
    print("paused", flush=True)
    time.sleep(600)
{patch}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def stop(error, kept="All is kept."):
    """What a command that meets the error prints last, by its exit."""
    with pytest.raises(SystemExit) as stopped, command(kept):
        raise error
    return stopped.value.code


def test_ctrl_c_ends_with_one_line_and_status_130(capsys):
    assert stop(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\ninterrupted. All is kept.\n"


def test_a_full_disk_is_told_with_what_is_kept_and_how_to_go_on():
    error = OSError(errno.ENOSPC, "No space left on device", "/data/results.json")
    assert stop(error) == (
        "the disk is full (/data/results.json could not be written). All is kept. Make room, and give the same command "
        "again."
    )


def test_a_library_of_an_extra_that_is_missing_is_told_with_what_to_install():
    missing = ModuleNotFoundError("No module named 'rensa'", name="rensa")
    assert stop(missing) == "rensa is not installed: pip install -c constraints.txt '.[synthesis]'"

    # An import that stands in a function of the package came out as Python says it.
    with pytest.raises(SystemExit) as stopped, command():
        exec("raise ModuleNotFoundError(\"No module named 'av'\", name='av')", {"__name__": "fafa.film_reading"})
    assert stopped.value.code == "av is not installed: pip install -c constraints.txt '.[people]'"
    with pytest.raises(ModuleNotFoundError, match="nobody_knows_it"):  # of no extra: a fault
        stop(ModuleNotFoundError("No module named 'nobody_knows_it'", name="nobody_knows_it"))


@pytest.mark.parametrize(
    ("command", "library"),
    [
        (["-m", "fafa.synthesis.train_adapter"], "diffusers"),
        (["-m", "fafa.dataset_builders.export"], "datasets"),
    ],
)
def test_a_command_that_lacks_a_library_while_it_imports_shows_no_traceback(command, library, tmp_path):
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError('gone', name='{library}')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert f"{library} is not installed: pip install -c constraints.txt" in run.stderr.splitlines()[-1]


def test_what_the_user_can_mend_is_one_sentence():
    assert stop(PermissionError(13, "Permission denied", "a\nb")) == r"a\nb: Permission denied"
    assert stop(FileNotFoundError("there is no index: make one")) == "there is no index: make one"
    assert "fewer workers" in stop(WorkerDiedError())
    assert "there is too little memory" in stop(MemoryError())
    with pytest.raises(SystemExit, match="is usually best"), command():
        check_num_workers(-1)


def test_an_error_within_datasets_is_told_by_its_cause():
    """`datasets` wraps what the builders raise: 'An error occurred while generating the dataset'."""

    class DatasetGenerationError(Exception):
        pass

    error = DatasetGenerationError("An error occurred")
    error.__cause__ = FileNotFoundError("query.json is missing")
    assert stop(error) == "query.json is missing"


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), command():
        _ = 1 / 0
    with pytest.raises(ValueError, match="invalid literal"), command():
        ArgumentParser().error = int("x")


def test_output_that_the_terminal_lacks_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with command():
        print("café \udce9")
    assert stream.buffer.getvalue() == rb"caf\xe9 \udce9" + b"\n"


def test_a_closed_pipe_ends_without_a_word():
    code = "from fafa.commands import command\nwith command():\n    while True: print('line')"
    run = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -n 1; exit ${PIPESTATUS[0]}', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (141, "line\n", "")


@pytest.mark.parametrize(("name", "value"), [("top", 0), ("batch_size", -3), ("num_workers", 10**6), ("workers", -1)])
def test_numbers_without_sense_are_refused_by_option(capsys, name, value):
    with pytest.raises(SystemExit) as stopped:
        check_numbers(ArgumentParser(), Namespace(**{name: value}), name)
    assert stopped.value.code == 2 and f"--{name.replace('_', '-')}" in capsys.readouterr().err
    check_numbers(ArgumentParser(), Namespace(**{name: None}), name)
    check_numbers(ArgumentParser(), Namespace(**{name: 2}), name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain é 中 🎒　x", "plain é 中 🎒　x"),
        ("caf\udce9", r"caf\xe9"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_printable_is_what_a_terminal_takes_and_does_not_obey(name, shown):
    assert printable(name) == printable(Path(name)) == shown
    printable(name).encode("utf-8")


def test_outputs_are_checked_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    check_output_file(tmp_path / "new" / "folder" / "file.md")
    check_output_file(tmp_path / "file")
    check_output_folder(tmp_path / "new")
    for check, path, message in (
        (check_output_file, tmp_path, "is a folder: give the name of a file"),
        (check_output_file, tmp_path / "file" / "page.md", "file is no folder"),
        (check_output_folder, tmp_path / "file", "file is no folder"),
        (check_output_folder, Path("/proc/results"), "no file can be written into /proc, where /proc/results is to be"),
    ):
        with pytest.raises(OSError, match=message):
            check(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from fafa.world import make_world

    folder = tmp_path_factory.mktemp("world")
    tiny_model().save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    make_world(folder / "world", num_diptychs=24, num_queries=6, gallery_size=40, num_workers=1)
    return folder


SEARCH = ["query.py", "--model", "model", "--caption", "a hat", "--gallery", "world/ITCPR", "--num-workers", "1"]
EVALUATION = ["evaluate_itcpr.py", "--model", "model", "--data", "world/ITCPR", "--no-pictures"]
TRAINING = ["train.py", "--config", str(ROOT / "examples/configs/world.yaml"), "--data_dir", "world/SynCPR"]
TRAINING += [
    "--batch_size",
    "4",
    "--dataloader_num_workers",
    "1",
    "--cache_images",
    "false",
    "--output_dir",
    "run",
    "--validation_fraction",
    "0.2",
]


@pytest.mark.parametrize(
    ("arguments", "patched", "kept"),
    [
        ([*SEARCH, "--index", "index"], "fafa.FafaModel.get_target_features", "kept in index: the same command goes"),
        ([*EVALUATION, "--features", "features"], "fafa.FafaModel.score", "kept in features: the same command goes"),
        (TRAINING, "fafa.FafaModel.forward", "with --resume_from_checkpoint true"),
        (
            ["make_world.py", "--workers", "2", "--output", "new"],
            "tqdm.auto.tqdm.update",
            "the same command makes it whole",
        ),
    ],
    ids=["encoding", "scoring", "training", "painting"],
)
def test_ctrl_c_shows_no_traceback_and_leaves_no_process(world, tmp_path, arguments, patched, kept):
    """In a terminal it goes to the workers, too, and all of them showed one."""
    for name in ("model", "world"):
        (tmp_path / name).symlink_to(world / name)
    imports = "import fafa, fafa.retrieval, tqdm.auto"
    code = PAUSED.format(imports=imports, patch=f"{patched} = pause")
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(world / "cache"),
    }
    environment["FAFA_TEST_RUN"] = marker = f"{tmp_path.name}-{os.getpid()}"
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "examples" / arguments[0]), *arguments[1:]],
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while (line := run.stdout.readline()) != "paused\n":
        assert line, run.stderr.read()
    processes = processes_of(marker)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 130, errors
    (line,) = (line for line in errors.splitlines() if line.startswith("interrupted. "))
    assert "Traceback" not in errors and kept in line, errors
    assert run.pid in processes
    wait_for(lambda: not any(map(runs, processes)), "processes are left behind")


def processes_of(marker):
    """Those whose environment holds it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def test_a_full_disk_at_the_report_keeps_the_features(world, tmp_path):
    """It showed a traceback; the features were there, and the same command goes on from them."""
    options = [*EVALUATION[1:], "--modes", "caption"]
    options += ["--features", tmp_path / "features", "--output", tmp_path / "results"]
    (tmp_path / "results").mkdir()
    mount = f"mount -t tmpfs -o size=4k tmpfs {tmp_path / 'results'}"
    if subprocess.run(["unshare", "--mount", "bash", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    program = [sys.executable, ROOT / "examples" / EVALUATION[0], *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(world / "cache")}

    def evaluate(*prefix):
        return subprocess.run(
            [*prefix, *program], cwd=world, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    def shards():
        return {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}

    full = evaluate("unshare", "--mount", "bash", "-c", f'{mount} && exec "$0" "$@"')
    last = full.stderr.rstrip().splitlines()[-1]
    assert full.returncode == 1 and "Traceback" not in full.stderr, full.stderr
    assert "disk is full" in last and "kept in" in last and "Make room, and give the same command again" in last
    kept = shards()
    freed = evaluate()
    assert freed.returncode == 0 and (tmp_path / "results" / "results.md").exists(), freed.stderr
    assert len(kept) == 2 and shards() == kept


NO_MODEL = {
    "an absurd size": (
        "config.json",
        '"num_hidden_layers": 3',
        '"num_hidden_layers": 1000000000',
        "ValueError: vision_",
    ),
    "a list": ("config.json", None, "[]", "AttributeError"),
    "nested deep": ("config.json", None, "[" * 100_000, "RecursionError"),
    "an activation of no kind": (
        "config.json",
        '"hidden_act": "gelu"',
        '"hidden_act": "os.system"',
        "ValueError: vision_",
    ),
    "no dtype": ("config.json", '"dtype": "float32"', '"dtype": "float1000"', "AttributeError"),
    "no weights": ("model.safetensors", None, "version https://git-lfs.github.com", "SafetensorError"),
    "no words": ("tokenizer.json", None, "", "JSONDecodeError"),
    "no processor": ("processor_config.json", None, "[]", "AttributeError"),
}


@pytest.mark.parametrize("case", NO_MODEL)
def test_a_folder_with_damaged_or_absurd_files_of_a_model_is_named_in_one_line(tmp_path, case):
    """Sizes that FafaConfig refuses, and what other libraries raise, used to end commands in tracebacks."""
    name, old, new, reason = NO_MODEL[case]
    model = shutil.copytree(TINY_CHECKPOINT, tmp_path / "model")
    text = new if old is None else (model / name).read_text().replace(old, new)
    (model / name).write_text(text)
    with pytest.raises(SystemExit) as stopped, command(), loading(str(model)):
        FafaModel.from_pretrained(model, dtype="auto")
        FafaProcessor.from_pretrained(model)
    message = stopped.value.code
    assert message.startswith(f"{model}: no model can be loaded from it ({reason}") and "fetch or save" in message
    assert "\n" not in message and len(message) < 1_000


def test_errors_of_the_disk_and_of_memory_are_not_blamed_on_the_model():
    for error in (FileNotFoundError("there is no such model"), PermissionError(13, "Permission denied", "a")):
        with pytest.raises(type(error)), loading("model"):
            raise error
    with pytest.raises(MemoryError), loading("model"):
        raise MemoryError


@pytest.mark.parametrize("model", ["models/tiny", "./tiny", "a/b/c", "/nowhere/tiny"])
def test_a_model_folder_that_is_not_here_is_told_as_a_folder(model, tmp_path, monkeypatch):
    """The message was of names on the Hub, which nobody had meant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)  # the library has read it already
    Path("models").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"there is no folder {model} here.*fafa convert"):
        load_given_model(Namespace(model=model, import_modules=[], dtype="float32", device="cpu"))


def test_a_name_of_the_hub_is_not_taken_for_a_folder(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(OSError, match=r"^not found$"), loading("lab/model"):
        raise OSError("not found")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="there is no folder lab/model here"), loading("lab/model"):
        raise OSError("not found")


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_one_line(device, capsys):
    with pytest.raises(SystemExit) as stopped:
        check_device(ArgumentParser(), device)
    message = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and f"--device {device} cannot be used here: " in message and len(message) < 300
    check_device(ArgumentParser(), "cpu")


@pytest.mark.parametrize(
    ("command", "imported"),
    [(["-m", "fafa.verify"], "xxhash")]
    + [
        ([str(ROOT / "examples" / f"{name}.py")], "torch")
        for name in ("evaluate_itcpr", "query", "show_results", "train")
    ],
)
def test_ctrl_c_while_a_command_imports_shows_no_traceback(command, imported, tmp_path):
    """Importing takes seconds, in which a person changes their mind."""
    (tmp_path / f"{imported}.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, *command, "--help"]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode in (-signal.SIGINT, 130) and run.stderr.strip() == "interrupted."


def test_no_command_takes_a_part_of_an_options_name():
    """`--learning_rat 1` used to train with a learning rate of 1."""
    for file in [*ROOT.glob("*.py"), *ROOT.glob("[!.t]*/**/*.py"), *ROOT.glob("training/**/*.py")]:
        if {".venv", "benchmarks", "build"} & set(file.relative_to(ROOT).parts):
            continue
        text = file.read_text(encoding="utf-8")
        for made in re.finditer(r"(?:argparse\.|HfA|= A)rgumentParser\((?P<options>.{0,120})", text, re.S):
            assert "allow_abbrev=False" in made["options"], file


def test_a_module_of_the_users_is_imported_from_where_the_command_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_registration.py").write_text("import sys\nsys.registered = True\n")
    import_modules(["my_registration"])
    assert sys.registered
    with pytest.raises(ValueError, match="there is no module nobody_wrote_it"):
        import_modules(["nobody_wrote_it"])


def test_a_model_whose_class_nobody_registered_is_told_so(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "of_somebody"}')
    with pytest.raises(SystemExit, match=r"no model of its model_type is registered here.*--import-modules"), command():
        load_given_model(Namespace(model=str(tmp_path), import_modules=[], dtype="float32", device="cpu"))
