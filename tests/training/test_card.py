"""The card of a training run: what it says of held-out results, of resumed and stopped runs, and what the Hub gets."""

import importlib.util
import shlex
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from tiny import tiny_model, tiny_processor
from tiny_run import tiny_trainer
from transformers import TrainerCallback

from fafa import FafaModel
from fafa.training import FafaTrainer
from fafa.training.adapters import add_lora
from fafa.training.card import RunClock, RunFacts
from fafa.training.curves import draw_curves, training_history

ROOT = Path(__file__).parent.parent.parent


def make_trainer(folder, triplets, model=None, evaluate=True, **options) -> FafaTrainer:
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": 2,
        "eval_dataset": triplets if evaluate else None,
        "processing_class": tiny_processor(),
    }
    return tiny_trainer(folder / "run", triplets, model, **{**settings, **options})


def read_card(trainer) -> ModelCard:
    trainer.create_model_card()
    return ModelCard.load(Path(trainer.args.output_dir) / "README.md")


def results_of(card) -> dict[str, float]:
    return {result.metric_type: result.metric_value for result in card.data.eval_results}


def test_card_holds_data_results_curves_and_the_run(tmp_path, triplets):
    trainer = make_trainer(tmp_path, triplets)
    trainer.facts = RunFacts(about="From random weights.", dataset="someone/triplets", base_model="someone/blip2")
    trainer.train()
    metrics = trainer.evaluate()
    card = read_card(trainer)
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    names = ("rank-1", "rank-5", "rank-10", "mAP")
    assert results_of(card) == {name: round(metrics[f"eval_{name}"], 2) for name in names}
    assert card.data.eval_results[0].dataset_type == "someone/triplets"
    assert card.data.datasets == "someone/triplets" and card.data.base_model == "someone/blip2"
    assert card.data.library_name == "transformers"
    for part in (
        "From random weights.",
        "| trained on |       12 |      6 |",
        "chance        |   8.33",
        "| 4, 1.3 epochs |",
        "4 triplets |",
        "adamw_torch_fused, learning rate 0.001, one-cycle, warm-up of 2%",
        f"loss_fda {last['loss_fda']:.3f}",
        f"torch {torch.__version__}",
        "must not be",
        "2311.16515",
    ):
        assert part in card.text, part
    assert "![Over the optimiser steps: loss, held-out ranking, learning rate](curves.png)" in card.text
    with Image.open(tmp_path / "run" / "curves.png") as picture:
        assert picture.width == 1600


def test_results_are_those_of_the_weights_in_the_folder(tmp_path, triplets):
    """With `load_best_model_at_end` they are the best checkpoint's, evaluated again or not; curves stay as logged."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(
        tmp_path, triplets, greater_is_better=True, learning_rate=3e-3, **best
    )  # the worst loss: the first
    trainer.train()
    first, last = [entry for entry in trainer.state.log_history if "eval_mAP" in entry]
    assert trainer.state.best_global_step == 2 and first["eval_mAP"] != last["eval_mAP"]
    before = read_card(trainer)
    trainer.evaluate()
    card = read_card(trainer)
    assert results_of(card) == results_of(before) and results_of(card)["mAP"] == round(first["eval_mAP"], 2)
    assert "of step 2, the best by loss" in card.text
    assert [e["step"] for e in training_history(trainer.state.log_history) if "eval_mAP" in e] == [2, 4]


def test_a_run_that_was_not_evaluated_says_so(tmp_path, triplets):
    trainer = make_trainer(tmp_path, triplets, evaluate=False, max_steps=1)
    trainer.train()
    card = read_card(trainer)
    assert not card.data.eval_results and "not evaluated" in card.text
    assert "curves.png" not in card.text  # a single step is no curve


def test_card_of_a_resumed_run_covers_all_of_it(tmp_path, triplets):
    first = make_trainer(tmp_path, triplets, save_strategy="steps", save_steps=2, max_steps=2)
    first.train()
    clock = next(entry for entry in first.callback_handler.callbacks if isinstance(entry, RunClock))
    resumed = make_trainer(tmp_path, triplets, tiny_model(seed=9))
    resumed.facts = RunFacts(settings={"max_steps": 4, "resume_from_checkpoint": "true"})
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert 0 < clock.seconds < next(e for e in resumed.callback_handler.callbacks if isinstance(e, RunClock)).seconds
    card = read_card(resumed)
    assert "| 4, 1.3 epochs; resumed at step 2 |" in card.text
    assert [entry["step"] for entry in training_history(resumed.state.log_history) if "loss" in entry] == [1, 2, 3, 4]
    assert "resume_from_checkpoint" not in card.text


class StopAtTwo(TrainerCallback):
    """Ends training early, and notes what a service of `report_to` would get."""

    def __init__(self):
        self.logged = set()

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2

    def on_log(self, args, state, control, logs, **kwargs):
        self.logged |= set(logs)


def test_stopped_run_says_what_was_planned_and_services_get_terms_and_metrics(tmp_path, triplets):
    callback = StopAtTwo()
    trainer = make_trainer(tmp_path, triplets, callbacks=[callback])
    trainer.train()
    assert "; stopped early, 4 were planned" in read_card(trainer).text
    assert {"loss", "loss_fda", "loss_fd", "loss_mfr", "learning_rate", "eval_rank-1", "eval_mAP"} <= callback.logged


def test_card_without_matplotlib_has_no_picture(tmp_path, triplets, monkeypatch, caplog):
    trainer = make_trainer(tmp_path, triplets, evaluate=False)
    trainer.train()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "curves.png" not in read_card(trainer).text
    assert "pip install -c constraints.txt '.[train]'" in caplog.text


def test_settings_repeat_the_run_as_file_and_as_command(tmp_path, triplets, monkeypatch):
    """Both are read back by the script; secrets are in neither."""
    spec = importlib.util.spec_from_file_location("train_example", ROOT / "examples" / "train.py")
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_example", example)
    spec.loader.exec_module(example)
    given = [
        "--output_dir",
        "my run",
        "--model_options",
        '{"fda_alpha": 0.25}',
        "--learning-rate=2e-06",
        "--bf16",
        "no",
    ]
    given += [
        "--config",
        str(ROOT / "examples/configs/quickstart.yaml"),
        "--report_to",
        "none",
        "--hub_token",
        "hf_123",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    script, training, recipe = example.parse_arguments()
    assert recipe["learning_rate"] == 2e-6 and recipe["group_size"] == 4

    trainer = make_trainer(tmp_path, triplets, evaluate=False, max_steps=1)
    trainer.facts = RunFacts(settings=recipe)
    text = read_card(trainer).text
    assert "hf_123" not in text and "token:" not in text
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    command = text.split("```bash\npython -m fafa.cli train")[1].split("```")[0]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    for arguments in (["--config", str(tmp_path / "run.yaml")], shlex.split(command.replace("\\\n", ""))):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        again = example.parse_arguments()
        assert again[0] == script
        not_shown = {"hub_token": 0, "resume_from_checkpoint": 0}
        assert again[1].to_dict() | not_shown == training.to_dict() | not_shown


def test_adapter_card_names_its_base(tmp_path, triplets):
    from peft import LoraConfig, get_peft_model

    tiny_model().save_pretrained(tmp_path / "base")
    base = type(tiny_model()).from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query", "value"]))
    trainer = make_trainer(tmp_path, triplets, model, evaluate=False, max_steps=1)
    card = read_card(trainer)
    assert card.data.library_name == "peft" and "lora" in card.data.tags
    assert card.data.base_model is None  # the Hub takes names of its own only
    assert 'base = AutoModel.from_pretrained("path/to/base")' in card.text


def test_curves_skip_what_was_not_logged(tmp_path):
    steps = [{"step": step, "loss": 1.0 / step, "learning_rate": 1e-3} for step in (1, 2)]
    evaluated = [{"step": 2, "eval_rank-1": 3.0, "eval_mAP": 5.0}]
    assert draw_curves(steps + evaluated, tmp_path / "curves.png") == ["loss", "learning rate"]
    assert draw_curves(steps[:1], tmp_path / "none.png") == [] and not (tmp_path / "none.png").exists()


class StubHub:
    """Keeps what it is given to upload: repository, message, and the text of the card among the files' names."""

    def __init__(self):
        self.created, self.uploads = [], []

    def create_repo(self, name, **options):
        self.created.append((name, options["private"]))
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, repo_id, folder_path, commit_message, run_as_future, ignore_patterns=None, **options):
        folder = Path(folder_path)
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        files = sorted(filter_repo_objects(names, ignore_patterns=ignore_patterns))
        card = (folder / "README.md").read_text(encoding="utf-8") if "README.md" in files else None
        arguments = torch.load(folder / "training_args.bin", weights_only=False)
        self.uploads.append(SimpleNamespace(repo=repo_id, message=commit_message, files=files, card=card))
        assert arguments.hub_token is None
        done = Future()
        done.set_result(None)
        return done if run_as_future else commit_message


@pytest.fixture
def hub(monkeypatch):
    hub = StubHub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def test_an_adapter_on_a_folder_of_this_machine_is_not_uploaded(tmp_path, triplets, hub):
    tiny_model().save_pretrained(tmp_path / "base")
    adapted = add_lora(FafaModel.from_pretrained(tmp_path / "base"))
    with pytest.raises(ValueError, match="upload the base first") as told:
        make_trainer(tmp_path, triplets, adapted, push_to_hub=True, hub_model_id="lab/adapter")
    assert str(tmp_path) not in str(told.value)


def test_push_to_hub_uploads_our_card_curves_and_processor(tmp_path, triplets, hub):
    """The Trainer's own `create_model_card` would overwrite ours with its draft."""
    options = {"push_to_hub": True, "hub_model_id": "lab/fafa-small", "hub_token": "hf_123", "hub_private_repo": True}
    trainer = make_trainer(tmp_path, triplets, **options)
    trainer.facts = RunFacts(about="A run of the laboratory.")
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(license="apache-2.0")
    assert hub.created == [("lab/fafa-small", True)]
    upload = hub.uploads[-1]
    assert upload.repo == "lab/fafa-small"
    assert {"README.md", "curves.png", "config.json", "model.safetensors", "processor_config.json"} <= set(upload.files)
    card = ModelCard(upload.card)
    assert card.data.license == "apache-2.0" and card.data.model_name == "fafa-small"
    assert "A run of the laboratory." in card.text and 'from_pretrained("lab/fafa-small")' in card.text
    assert results_of(card)["rank-1"] == round(trainer.state.log_history[-1]["eval_rank-1"], 2)


def test_pushing_every_save_leaves_checkpoint_folders_out(tmp_path, triplets, hub):
    options = {"push_to_hub": True, "hub_model_id": "lab/fafa-small", "hub_strategy": "every_save", "save_steps": 2}
    trainer = make_trainer(tmp_path, triplets, evaluate=False, save_strategy="steps", **options)
    trainer.train()
    assert [upload.message for upload in hub.uploads] == [f"Training in progress, step {step}" for step in (2, 4)]
    for upload in hub.uploads:
        assert {"config.json", "model.safetensors", "processor_config.json"} <= set(upload.files)
        assert not [name for name in upload.files if "/" in name or "optimizer" in name]


def test_what_is_uploaded_beside_the_model_names_no_folder_of_this_machine(tmp_path, triplets):
    options = {
        "max_steps": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "save_strategy": "steps",
        "load_best_model_at_end": True,
    }
    trainer = make_trainer(tmp_path, triplets, **options)
    trainer.facts = RunFacts(
        dataset=f"{tmp_path}/SynCPR",
        base_model=f"{tmp_path}/base",
        settings={"data_dir": f"{tmp_path}/SynCPR", "output_dir": Path(trainer.args.output_dir), "seed": 1},
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    card = read_card(trainer)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-2")
    assert "held-out quadruples of SynCPR" in str(card.data) and "data_dir: SynCPR" in card.text
    for file in (tmp_path / "run").iterdir():
        if file.suffix in (".json", ".md"):
            assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name
