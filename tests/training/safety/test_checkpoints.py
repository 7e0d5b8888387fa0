"""Runs that are killed, doubled, resumed wrongly or out of room lose nothing and mix nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damage import flip_a_byte
from filelock import FileLock
from safetensors.torch import load_file
from tiny import tiny_processor
from tiny_run import names_of, tiny_trainer

from fafa import files
from fafa.training.safety import checkpoints
from fafa.training.safety.checkpoints import CheckpointError, fault_of, newest_complete, publish, recover


def write_checkpoint(folder: Path, step: int, text: str = "weights") -> Path:
    """One that is written, but does not count yet."""
    written = folder / "_unfinished" / f"checkpoint-{step}"
    (written / "inner").mkdir(parents=True)
    (written / "model.safetensors").write_text(text)
    (written / "inner" / "rest.bin").write_text("1234")
    return written


@pytest.fixture(scope="module")
def run(tmp_path_factory, triplets_of_module):
    """A run with checkpoints 2 to 8, not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("run") / "run"
    tiny_trainer(folder, triplets_of_module).train()
    return folder


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_killed_while_writing_and_while_rotating_resumes_to_the_same_bits(tmp_path):
    """Really killed, in processes of their own: averages, raw weights and log equal those of an undisturbed run."""
    script = Path(__file__).with_name("kill_and_resume.py")
    places = ["half_written", "not_renamed", "half_deleted"]
    command = [sys.executable, script, tmp_path / "runs", "--steps", "10", "--save_steps", "2", "--places", *places]
    tests = str(Path(__file__).parents[2])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": tests}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / "runs" / "killed.log").read_text()
    assert "checkpoint-4 was being written when the run was stopped (no readable manifest.json): passed over" in log
    assert "checkpoint-6 was complete when the run was stopped: put in its place" in log


def test_a_checkpoint_counts_when_published(tmp_path):
    written = write_checkpoint(tmp_path, 4)
    assert newest_complete(tmp_path) is None
    place = publish(written, tmp_path, {"learning_rate": 0.1})
    assert place == tmp_path / "checkpoint-4" == newest_complete(tmp_path) and fault_of(place) is None
    publish(write_checkpoint(tmp_path, 4, "other"), tmp_path, {})
    assert (place / "model.safetensors").read_text() == "other"
    (place / "inner" / "rest.bin").write_text("12")
    assert fault_of(place) == "inner/rest.bin has 2 bytes instead of 4" and newest_complete(tmp_path) is None
    (place / "inner" / "rest.bin").unlink()
    assert fault_of(place) == "inner/rest.bin is missing"


def test_a_kill_between_replacing_and_renaming_loses_nothing(tmp_path, monkeypatch):
    """The only checkpoint is saved once more, and the run dies with the old one moved away."""
    publish(write_checkpoint(tmp_path, 4, "old"), tmp_path, {})
    again = write_checkpoint(tmp_path, 4, "new")
    monkeypatch.setattr(checkpoints, "_discard", lambda path: (shutil.rmtree(path), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        publish(again, tmp_path, {})
    assert names_of(tmp_path) == ["_unfinished"]
    recover(tmp_path)
    assert names_of(tmp_path) == ["checkpoint-4"]
    assert (tmp_path / "checkpoint-4" / "model.safetensors").read_text() == "new"


def test_rotation_keeps_the_newest_and_what_it_is_told(tmp_path):
    for step in (2, 4, 6, 8, 10):
        publish(write_checkpoint(tmp_path, step), tmp_path, {})
    checkpoints.rotate(tmp_path, None, [])
    assert len(checkpoints.checkpoints_in(tmp_path)) == 5
    checkpoints.rotate(tmp_path, 3, [tmp_path / "checkpoint-4", Path("elsewhere/checkpoint-2")])
    assert [checkpoints.step_of(path) for path in checkpoints.checkpoints_in(tmp_path)] == [4, 8, 10]
    checkpoints.rotate(tmp_path, 1, [tmp_path / "checkpoint-4"])
    assert [checkpoints.step_of(path) for path in checkpoints.checkpoints_in(tmp_path)] == [4, 10]


def test_resume_passes_over_damaged_checkpoints_and_says_so(copied, triplets_of_module, caplog):
    (copied / "checkpoint-8" / "optimizer.pt").write_bytes(b"half")
    (copied / "checkpoint-6" / "manifest.json").unlink()
    trainer = tiny_trainer(copied, triplets_of_module)
    trainer.train(resume_from_checkpoint=True)
    assert f"passed over {copied}/checkpoint-8: optimizer.pt has 4 bytes instead of" in caplog.text
    assert f"passed over {copied}/checkpoint-6: no readable manifest.json" in caplog.text
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2, 4, 6, 8]
    assert fault_of(copied / "checkpoint-8") is None
    (copied / "checkpoint-8" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-8 cannot be resumed: model\.safetensors is missing"):
        tiny_trainer(copied, triplets_of_module).train(resume_from_checkpoint=str(copied / "checkpoint-8"))
    for path in checkpoints.checkpoints_in(copied):
        (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* \(checkpoint-2: no readable manifest"):
        tiny_trainer(copied, triplets_of_module).train(resume_from_checkpoint=True)


FILES = ["config.json", "manifest.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"]
FILES += ["trainer_state.json", "training_args.bin"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_refused_by_name(run, tmp_path, name):
    """Model and optimiser used to resume with other weights, exit status 0."""
    assert sorted(path.name for path in (run / "checkpoint-8").iterdir()) == FILES
    checkpoint = Path(shutil.copytree(run / "checkpoint-8", tmp_path / "checkpoint-8"))
    flip_a_byte(checkpoint / name)
    assert fault_of(checkpoint).startswith(f"{name} is damaged")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json", "manifest.json"])
def test_resume_goes_on_from_the_newest_sound_checkpoint(copied, triplets_of_module, caplog, name):
    flip_a_byte(copied / "checkpoint-8" / name)
    with pytest.raises(CheckpointError, match=rf"checkpoint-8 cannot be resumed: {name} is damaged.*newest sound"):
        tiny_trainer(copied, triplets_of_module).train(resume_from_checkpoint=str(copied / "checkpoint-8"))
    trainer = tiny_trainer(copied, triplets_of_module)
    trainer.train(resume_from_checkpoint=True)
    assert f"passed over {copied}/checkpoint-8: {name} is damaged" in caplog.text
    assert trainer.state.global_step == 8 and fault_of(copied / "checkpoint-8") is None
    assert "checkpoint-8" in names_of(copied / "_set_aside")  # nothing is thrown away


def test_a_checkpoint_without_checksums_is_refused_by_name(copied, triplets_of_module):
    """Earlier versions recorded sizes alone."""
    checkpoint = copied / "checkpoint-8"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"] = {name: (checkpoint / name).stat().st_size for name in manifest["files"]}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CheckpointError, match=r"checkpoint-8 .*of an earlier version, which wrote no checksums.*newest"
    ):
        tiny_trainer(copied, triplets_of_module).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_trainer_is_gone_on_from_with_a_remark(copied, triplets_of_module, caplog):
    """It has no manifest, and knows no terms of the loss."""
    checkpoint = copied / "checkpoint-8"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["LossTerms"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "manifest.json").unlink()
    tiny_trainer(copied, triplets_of_module, max_steps=10).train(resume_from_checkpoint=str(checkpoint))
    assert "whether it is complete, and of the same data, is unknown" in caplog.text
    assert fault_of(copied / "checkpoint-10") is None


def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged(copied, triplets_of_module, monkeypatch):
    """A network drive in trouble must not send the run back by hours."""

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error", "somewhere/optimizer.pt")

    monkeypatch.setattr(files, "hash_file", fail)
    with pytest.raises(CheckpointError, match=r"somewhere/optimizer\.pt cannot be read now"):
        tiny_trainer(copied, triplets_of_module).train(resume_from_checkpoint=True)
    assert "_set_aside" not in names_of(copied)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"files": [1]}', b'{"files": {"a": "b"}}', b"\xff\0", b"null"])
def test_any_manifest_is_a_fault_and_no_traceback(tmp_path, data):
    place = publish(write_checkpoint(tmp_path, 4), tmp_path, {})
    (place / "manifest.json").write_bytes(data)
    assert fault_of(place).startswith("manifest.json is damaged")


def test_a_folder_that_is_no_checkpoint_is_named(triplets_of_module, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty cannot be resumed: it is no checkpoint, without trainer_state"):
        tiny_trainer(tmp_path / "run", triplets_of_module).train(resume_from_checkpoint=str(tmp_path / "empty"))


def test_a_hostile_pickle_in_a_checkpoint_runs_nothing(copied, triplets_of_module, tmp_path):
    """torch's files are read with weights_only, so checksums need not guard against forgery."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        folder = Path(shutil.copytree(copied / "checkpoint-8", tmp_path / f"of-{name}" / "checkpoint-8"))
        torch.save(_Touch(str(tmp_path / "touched")), folder / name)
        (folder / "manifest.json").unlink()
        with pytest.raises(CheckpointError, match="checkpoint-8 holds an object that no checkpoint needs"):
            tiny_trainer(folder.parent, triplets_of_module, max_steps=10).train(resume_from_checkpoint=str(folder))
    assert not (tmp_path / "touched").exists()


class _Touch:
    def __init__(self, file: str):
        self.file = file

    def __reduce__(self):
        return open, (self.file, "w")


def test_a_new_run_does_not_mix_with_an_old_one(copied, tmp_path, triplets_of_module, caplog):
    with pytest.raises(CheckpointError, match=r"up to checkpoint-8.*resume_from_checkpoint=true.*another output_dir"):
        tiny_trainer(copied, triplets_of_module).train()
    tiny_trainer(tmp_path / "new", triplets_of_module, max_steps=1).train(resume_from_checkpoint=True)
    assert "no checkpoint to resume: training begins at the beginning" in caplog.text


def test_two_runs_cannot_write_one_folder(tmp_path, triplets_of_module):
    trainer = tiny_trainer(tmp_path, triplets_of_module, max_steps=1)
    with FileLock(tmp_path / "_lock"), pytest.raises(CheckpointError, match=f"another run is writing {tmp_path}: wait"):
        trainer.train()
    trainer.train()  # the file is still there, but nobody holds it


def test_resuming_a_finished_run_takes_no_step(copied, triplets_of_module):
    """A run killed after its last checkpoint; the schedule, too, would be beyond its end."""
    trainer = tiny_trainer(copied, triplets_of_module, max_steps=8)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 8
    saved = load_file(copied / "checkpoint-8" / "model.safetensors")
    assert all(torch.equal(trainer.model.state_dict()[name], tensor) for name, tensor in saved.items())


def test_changed_data_is_refused_at_resume(copied, triplets_of_module, caplog):
    fewer = triplets_of_module.select(range(2, 12))
    with pytest.raises(CheckpointError, match=r"rows: 12 then, 10 now; content of the rows: \w+ then, \w+ now\)"):
        tiny_trainer(copied, fewer, max_steps=10).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match=r"\(seed: 42 then, 1 now; triplets in a batch.*: 8 then, 6 now; group_"):
        changed = tiny_trainer(
            copied, triplets_of_module, seed=1, per_device_train_batch_size=6, group_size=2, max_steps=10
        )
        changed.train(resume_from_checkpoint=True)
    trainer = tiny_trainer(copied, fewer, max_steps=10, allow_changed_data=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 10 and "going on all the same" in caplog.text


def test_other_words_are_refused_at_resume_whatever_is_allowed(tmp_path, triplets_of_module):
    """Rows of the word embeddings would be those of other words, or of another number."""
    options = {"max_steps": 2, "save_steps": 1, "allow_changed_data": True}
    tiny_trainer(tmp_path, triplets_of_module, processing_class=tiny_processor(), **options).train()
    other = tiny_processor()
    other.tokenizer.add_tokens(["lime"])
    with pytest.raises(CheckpointError, match=r"checkpoint-2 knows other words than this run.*new_words.*begin anew"):
        tiny_trainer(tmp_path, triplets_of_module, processing_class=other, **options).train(True)
    tiny_trainer(tmp_path, triplets_of_module, processing_class=tiny_processor(), **options).train(True)


def test_data_are_known_by_content_not_by_how_they_came(triplets_of_module):
    whole = checkpoints.data_identity(triplets_of_module)
    reordered = triplets_of_module.select(list(range(11, -1, -1)))
    assert whole == checkpoints.data_identity(triplets_of_module.select(list(range(12))))
    assert whole != checkpoints.data_identity(reordered)
    assert whole == checkpoints.data_identity(reordered.select(list(range(11, -1, -1))))
    reworded = triplets_of_module.map(lambda row: {"edit_caption": row["edit_caption"] + "s"})
    assert whole["rows"] == 12 and whole != checkpoints.data_identity(reworded)


def test_going_back_sets_later_checkpoints_aside(copied, triplets_of_module):
    """Else the next resume would take one of the run that was given up, and rotation count it."""
    trainer = tiny_trainer(copied, triplets_of_module, max_steps=6)
    trainer.train(resume_from_checkpoint=str(copied / "checkpoint-4"))
    assert names_of(copied) == ["_set_aside", "checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert names_of(copied / "_set_aside") == ["checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize("one_cycle", [True, False])
def test_a_resumed_run_takes_the_learning_rate_it_is_given(tmp_path, triplets_of_module, one_cycle):
    """The optimiser's state brings its own."""
    first = tiny_trainer(tmp_path, triplets_of_module, one_cycle=one_cycle, max_steps=4, logging_steps=1)
    first.train()
    slower = tiny_trainer(tmp_path, triplets_of_module, one_cycle=one_cycle, max_steps=4, learning_rate=1e-4)
    slower.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [[e["learning_rate"] for e in trainer.state.log_history if "loss" in e] for trainer in (first, slower)]
    assert len(rates[0]) == 4 and rates[1] == pytest.approx([*rates[0][:2], rates[0][2] / 10, rates[0][3] / 10])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("unexpected pos 64 vs 0")])
def test_full_disk_is_one_error_and_older_checkpoints_stay(copied, triplets_of_module, monkeypatch, error):
    """torch reports a full disk without saying so; what is half-written is removed."""
    save = torch.save

    def no_room(state, path):
        save(state, path)
        if Path(path).name == "optimizer.pt":
            raise error

    monkeypatch.setattr(torch, "save", no_room)
    trainer = tiny_trainer(copied, triplets_of_module, max_steps=10)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="unexpected pos"):  # there is room: some other error
            trainer.train(resume_from_checkpoint=True)
        trainer = tiny_trainer(copied, triplets_of_module, max_steps=10)
        full = OSError(errno.ENOSPC, "No space left")
        monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", lambda dir: (_ for _ in ()).throw(full))
    with pytest.raises(
        CheckpointError, match=r"no room for checkpoint-10 in .*needs about [\d,]+ bytes, [\d,]+ are fr"
    ):
        trainer.train(resume_from_checkpoint=True)
    assert newest_complete(copied) == copied / "checkpoint-8" and "_unfinished" not in names_of(copied)


def test_a_checkpoint_of_weights_alone_is_no_start(tmp_path, triplets_of_module):
    """The Trainer would go on from it with a new optimiser, and say nothing."""
    tiny_trainer(tmp_path, triplets_of_module, max_steps=2, save_only_model=True).train()
    with pytest.raises(CheckpointError, match="holds no optimiser state"):
        tiny_trainer(tmp_path, triplets_of_module).train(resume_from_checkpoint=True)
