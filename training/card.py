"""The model card of a training run: what was trained on what, how, for how long, and how well it ranks."""

import json
import logging
import platform
import resource
import shlex
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..evaluation import chance_metrics
from ..files import write_whole
from ..markdown_text import block, code, public
from ..model_card import hub_id, make_model_card, percent_table, registering_module, retrieval_results
from ..names import counted
from ..tables import markdown_table
from .curves import draw_curves

logger = logging.getLogger(__name__)

CARD, CURVES = "README.md", "curves.png"
_LIBRARIES = ("fafa", "torch", "transformers", "datasets", "accelerate", "huggingface_hub")
_RANKING = ("rank-1", "rank-5", "rank-10", "mAP")  # mINP equals mAP where a query has a single match, as here


@dataclass
class RunFacts:
    """What a card says beyond what the trainer knows; each may be left out.

    Args:
        about: one paragraph on where the weights started from.
        dataset: the training set: a name on the Hub, or the folder as it was given.
        base_model: the model that training started from, if any.
        settings: what a YAML file for `script` would set.
        script: the program that takes these settings.
    """

    about: str = ""
    dataset: str | None = None
    base_model: str | None = None
    settings: dict[str, object] = field(default_factory=dict)
    script: str = "-m fafa.cli train"


class RunClock(TrainerCallback, ExportableState):
    """The time of a run through all its resumes, without what a kill undid, and how many parameters train.

    Checkpoints carry the time. The number is noted because a merged adapter no longer tells it.
    """

    def __init__(self):
        self.seconds, self.resumed_at, self.num_trained = 0.0, [], 0
        self._since = time.monotonic()

    def on_train_begin(self, args, state, control, model, **kwargs):
        """Goes on from the checkpoint's count."""
        self.num_trained = model.num_parameters(only_trainable=True)
        stored = state.stateful_callbacks.get("RunClock", {}).get("attributes", {}) if state.global_step else {}
        self.seconds, self.resumed_at = stored.get("seconds", 0.0), list(stored.get("resumed_at", []))
        if state.global_step:
            self.resumed_at.append(state.global_step)
        self._since = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        """What is done after training does not count."""
        self._count()

    def state(self) -> dict:
        """For the checkpoint that is being written."""
        self._count()
        return {"args": {}, "attributes": {"seconds": self.seconds, "resumed_at": self.resumed_at}}

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now


def write_training_card(trainer, model_name: str | None = None, **metadata) -> None:
    """Writes README.md and curves.png of a run of `RetrieverTrainer` into its output folder.

    Args:
        trainer: after `train()`; its `facts` say what it does not know itself.
        model_name: by default that of the repository on the Hub, or of the output folder.
        metadata: further arguments of `huggingface_hub.ModelCardData`, such as `license`.
    """
    args, facts, model, folder = trainer.args, trainer.facts, trainer.model, Path(trainer.args.output_dir)
    marks = {}
    if 0 < args.contrastive_steps < trainer.state.global_step:
        marks[args.contrastive_steps] = "the model's own loss"
    if best := _best_step(trainer):
        marks[best] = "best"
    panels: list[str] = []
    try:
        panels = draw_curves(trainer.state.log_history, folder / CURVES, marks)
    except ImportError as error:
        logger.warning("the card has no picture: %s", error)
    adapter = getattr(model, "peft_config", {}).get("default")
    base_model = facts.base_model or getattr(adapter, "base_model_name_or_path", None)
    held_out, dataset = _held_out_metrics(trainer), facts.dataset or "the training set"
    results = retrieval_results(held_out, dataset, f"held-out quadruples of {public(dataset)}", dataset_split="train")
    sections = {
        "Held-out results": _results_section(trainer, held_out),
        "Training data": _data_section(trainer),
        "Training": _run_section(trainer, panels),
        "Settings": _settings_section(facts, args.world_size),
    }
    method = model.card_facts(model.config)
    card = make_model_card(
        method,
        num_parameters=model.num_parameters(),
        title=f"{method.method} for composed person retrieval",
        about=facts.about,
        sections={heading: text for heading, text in sections.items() if text},
        metadata={
            "model_name": model_name or Path(trainer.hub_model_id or folder.resolve()).name,
            "base_model": hub_id(base_model),
            "datasets": hub_id(facts.dataset),
            "eval_results": results or None,
            **metadata,
        },
        folder=trainer.hub_model_id or "path/to/this/folder",
        adapter_of=(base_model or "path/to/the/base/model") if adapter is not None else None,
        module=registering_module(model.get_base_model() if hasattr(model, "get_base_model") else model),
    )
    write_whole(folder / CARD, card)


def _best_step(trainer) -> int | None:
    """The step whose weights `load_best_model_at_end` brought back."""
    state = trainer.state
    return state.best_global_step if trainer.args.load_best_model_at_end and state.best_model_checkpoint else None


def _held_out_metrics(trainer) -> dict[str, float]:
    """Metrics of the weights that training ended with: evaluated after it, or within it at their step."""
    history = trainer.state.log_history
    evaluated = [entry for entry in history if "eval_rank-1" in entry]
    if evaluated and not any("train_runtime" in entry for entry in history[history.index(evaluated[-1]) :]):
        own = evaluated[-1]
    else:
        step = _best_step(trainer) or trainer.state.global_step
        own = next((entry for entry in evaluated if entry["step"] == step), {})
    return {name: own[f"eval_{name}"] for name in _RANKING if f"eval_{name}" in own}


def _results_section(trainer, metrics: dict[str, float]) -> str:
    if not metrics:
        return "These weights were not evaluated on held-out triplets."
    count = len(trainer.eval_dataset)
    chance = chance_metrics(np.ones(count, dtype=int), count)
    return (
        f"{count:,} queries of quadruples that were not trained on, each against all their {count:,} targets, of which "
        f"one is correct; percent.\n\n{percent_table({'image+caption': metrics, 'chance': chance}, corner='query')}"
    )


def _data_section(trainer) -> str:
    rows, lines, column = [], [], trainer.args.group_column
    for name, dataset in {"trained on": trainer.train_dataset, "held out": trainer.eval_dataset}.items():
        if column in (getattr(dataset, "column_names", None) or []):
            groups = len(np.unique(np.asarray(dataset[column][:])))
            rows.append([name, f"{len(dataset):,}", f"{groups:,}"])
    if trainer.facts.dataset:
        lines.append(f"{code(public(trainer.facts.dataset))}; a group is a quadruple's one direction (`{column}`).")
    if rows:
        lines.append(markdown_table(["part", "triplets", "groups"], rows))
    if trainer.skipped_images:
        images, times = len(trainer.skipped_images), trainer.skipped_images.total()
        by_whom = ", as the first process counted" if trainer.args.world_size > 1 else ""
        left_out = f"triplets were left out {counted(times, 'time')} for it{by_whom}."
        lines.append(f"{counted(images, 'image')} could not be read; {left_out}")
    return "\n\n".join(lines)


def _run_section(trainer, panels: list[str]) -> str:
    args, state = trainer.args, trainer.state
    clock = next(entry for entry in trainer.callback_handler.callbacks if isinstance(entry, RunClock))
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = f"{state.global_step:,}, {state.epoch:.1f} epochs"
    if state.global_step < state.max_steps:
        steps += f"; stopped early, {state.max_steps:,} were planned"
    if clock.resumed_at:
        steps += f"; resumed at step {', '.join(f'{step:,}' for step in clock.resumed_at)}"
    best, weights = _best_step(trainer), []
    if best:
        weights.append(f"of step {best:,}, the best by {args.metric_for_best_model} ({state.best_metric:.2f})")
    if args.ema_decay:
        weights.append(f"exponential moving average, decay {args.ema_decay:g}")
    shares = f"{args.world_size} processes × {args.train_batch_size} × {args.gradient_accumulation_steps} accumulated"
    compared = f"; the loss compares {batch // args.gradient_accumulation_steps:,} at a time"
    compared *= args.gradient_accumulation_steps > 1
    schedule = "one-cycle" if args.one_cycle else args.lr_scheduler_type.value
    warmup = counted(int(args.warmup_steps), "step") if args.warmup_steps >= 1 else f"{args.warmup_steps:.0%}"
    last = next((entry for entry in reversed(state.log_history) if "loss" in entry), {})
    terms = {name: value for name, value in last.items() if name.startswith("loss")}
    versions = (f"{name} {version(name)}" for name in _LIBRARIES)
    rows = {
        "steps": steps,
        "weights": "; ".join(weights),
        "batch": counted(batch, "triplet") + (f" ({shares})" if batch > args.train_batch_size else "") + compared,
        "optimiser": f"{args.optim.value}, learning rate {args.learning_rate:g}, {schedule}, warm-up of {warmup}, "
        f"weight decay {args.weight_decay:g}, gradient norm at most {args.max_grad_norm:g}",
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "trained": clock.num_trained and f"{clock.num_trained:,} of {trainer.model.num_parameters():,} parameters",
        "last loss": ", ".join(f"{name} {value:.3f}" for name, value in sorted(terms.items())),
        "machine": _machine(args.world_size),
        "time": f"{_duration(clock.seconds)}, {state.global_step * batch / max(clock.seconds, 1e-9):,.3g} triplets/s, "
        "evaluation and checkpoints included",
        "memory": _peak_memory(),
        "software": ", ".join((f"Python {platform.python_version()}", *versions)),
    }
    picture = f"![Over the optimiser steps: {', '.join(panels)}]({CURVES})\n\n" if panels else ""
    return picture + markdown_table(["run", ""], [[name, value] for name, value in rows.items() if value])


def _machine(world_size: int) -> str:
    if torch.cuda.is_available():
        return f"{world_size} × {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    each = f"{threads} thread{'s' * (threads > 1)}"
    return f"CPU ({platform.machine()}), {each if world_size == 1 else f'{world_size} processes of {each}'}"


def _peak_memory() -> str:
    """The most memory of this process in this session."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the GPU's at most, a process"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB at most, a process"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _settings_section(facts: RunFacts, world_size: int) -> str:
    """The YAML file and the command that repeat the run; access tokens and folders of this machine stay out of both."""
    written = json.loads(json.dumps(facts.settings, default=str))  # enumerations and paths as they are written
    settings = {
        name: public(value)
        for name, value in written.items()
        if name != "resume_from_checkpoint" and not name.endswith("_token")
    }
    if not settings:
        return ""
    launch = "python" if world_size == 1 else f"accelerate launch --num_processes {world_size}"
    lines = [f"{launch} {facts.script}", *(_flag(name, value) for name, value in settings.items() if value is not None)]
    command = " \\\n  ".join(lines)
    return (
        f"All that was set; the rest are defaults. Paths of the machine are names here. As a file for `--config`:\n\n"
        f"{block(yaml.safe_dump(settings, sort_keys=False), 'yaml')}\n\n"
        f"<details><summary>The same as a command</summary>\n\n{block(command, 'bash')}\n\n</details>"
    )


def _flag(name: str, value: object) -> str:
    if isinstance(value, list):
        return " ".join([f"--{name}", *(shlex.quote(str(entry)) for entry in value)])
    text = value if isinstance(value, str) else json.dumps(value)  # true, 0.5, {"fda_alpha": 0.0}
    return f"--{name} {shlex.quote(text)}"
