"""Training of an adapter (LoRA) for the transformer of FLUX.1, by flow matching.

    FOLDER/training/cache/              latents of the diptychs and embeddings of the prompts
    FOLDER/training/checkpoint-<step>/  adapter, optimiser, step; only complete ones bear that name
    FOLDER/training/log.jsonl           a line per step: loss, learning rate, norm of the gradient, seconds
    FOLDER/training/validation/         a sheet of images every few steps, always of the same prompts and seeds
    FOLDER/adapter/                     what `pipeline.load_lora_weights` loads, with its card

Between a diptych's latents x and noise n lies x_t = (1 - t) x + t n. The transformer is shown x_t, t and the prompt,
and learns the velocity n - x by mean squared error, with the same weight for all t. t is sampled logit-normal,
t = sigmoid(z + m) with z ~ N(0, 1), where m is the shift that the model's own scheduler applies to its steps at this
image size: training sees most of what painting passes through.

What a step does follows from its number alone: which diptychs, noise, t and learning rate. So a run that was stopped
goes on as if it had not been, and on a CPU ends in the same adapter to the last bit.
"""

import logging
import math
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ...files import hash_file, whole_file, write_whole
from ...training.safety import checkpoints
from ..components import SynthesisError, seed_of
from ..models.pretrained import check_dtype, loading
from ..settings import BatchSize, Count, CountOrZero, Free, ModelName, NotNegative, Positive, Settings, Texts, deciding
from ..stages import Stage, Workspace, as_line, read_lines
from .caching import Cache, Diptych, common_size, read_diptychs
from .card import write_card
from .validation import Validation, paint_sheet

logger = logging.getLogger(__name__)

WEIGHTS = "pytorch_lora_weights.safetensors"
_OPTIMIZER, _LOG, _VALIDATION = "optimizer.safetensors", "log.jsonl", "validation"


class AdapterTraining(Settings):
    """How an adapter is trained.

    Attributes:
        model: Path or Hub id of a FluxPipeline.
        revision: Revision of the model on the Hub.
        rank: Rank of the adapter's matrices.
        alpha: The adapter's output is scaled by alpha / rank.
        targets: Ends of the names of the transformer's linear layers that are adapted.
        steps: Steps of the optimiser.
        batch_size: Diptychs that a step sees, over all processes.
        learning_rate: Learning rate after the warm-up.
        warmup_steps: Steps over which the learning rate grows from 0.
        schedule: "constant", or "cosine": down to 0 at the last step.
        weight_decay: Weight decay of AdamW.
        max_gradient_norm: Longer gradients are scaled down to it.
        guidance: What the transformer is told, if it was distilled to take guidance (dev, not schnell). 1 stands for
            images that are not steered away from anything.
        max_sequence_length: Tokens of a prompt that the T5 encoder reads.
        dtype: Type of the frozen model: "bfloat16" or "float32". The adapter is float32.
        seed: Decides the adapter's first weights, the order of the diptychs, noise and times.
        validation: Images painted while training goes on; None for none.
        device_batch_size: Diptychs that go through the model of a process at once; decides memory and speed.
        gradient_checkpointing: Whether to compute activations twice and hold fewer of them.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many checkpoints are kept, the newest.
        cache: Folder for latents and prompt embeddings, which several runs may share; None for one of its own.
    """

    model: ModelName = "black-forest-labs/FLUX.1-dev"
    revision: str | None = None
    rank: Annotated[int, Field(ge=1, le=65_536)] = 32
    alpha: Count = 32
    targets: Texts = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"]
    steps: Count = 2000
    batch_size: BatchSize = 8
    learning_rate: Positive = 1e-4
    warmup_steps: CountOrZero = 100
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: NotNegative = 0.01
    max_gradient_norm: Positive = 1.0
    guidance: NotNegative = 1.0
    max_sequence_length: Count = 512
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0
    validation: Validation | None = None
    device_batch_size: Free[BatchSize] = 1
    gradient_checkpointing: Free[bool] = True
    checkpoint_every: Free[Count] = 250
    keep_checkpoints: Free[Count] = 2
    cache: Free[str | None] = None


def train_adapter(settings: AdapterTraining, metadata: Path, folder: Path, max_steps: int | None = None) -> Path:
    """Trains an adapter, going on from the newest checkpoint in `folder` if there is one.

    Args:
        settings: How to train.
        metadata: JSONL file of the diptychs, as `composing` writes it.
        folder: Where everything is written.
        max_steps: Stop after this step, as if the run were interrupted there: the same call without it goes on.

    Returns:
        The adapter's folder.

    Raises:
        SynthesisError: the model is no FluxPipeline, the data cannot be used, or `folder` was begun with others.
    """
    work = Workspace(folder, num_chunks=0)
    try:
        _Training(settings, metadata, max_steps).run(work)
    except torch.OutOfMemoryError as error:
        raise SynthesisError(
            f"{work.root}: the device's memory is too small for device_batch_size {settings.device_batch_size}. Lower "
            "it, or turn gradient_checkpointing on; the same command then goes on from the last checkpoint."
        ) from error
    except SafetensorError as error:  # hides the operating system's error
        if not checkpoints.disk_is_full(work.root, error):
            raise
        raise SynthesisError(
            f"{work.root}: the disk is full. Make room and give the same command again: what is finished stays."
        ) from error
    return work.root / "adapter"


def join_processes() -> Accelerator:
    """The processes that accelerate or torchrun started, and their devices; or this process alone."""
    # Half precision is left to `autocast`: what Accelerator is told of it holds for all that the process ever does.
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")


def learning_rate_at(step: int, settings: AdapterTraining) -> float:
    """The learning rate of a step, the first of which is 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    progress = (step - settings.warmup_steps) / max(settings.steps - settings.warmup_steps, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch takes the diptychs."""
    generator = torch.Generator().manual_seed(seed_of(seed, "epoch", epoch))
    return torch.randperm(count, generator=generator).tolist()


class _Training(Stage):
    """One run, and everything that lives as long as it."""

    name, source = "training", None

    def __init__(self, settings: AdapterTraining, metadata: Path, max_steps: int | None):
        super().__init__()
        self._settings, self._metadata = settings, metadata
        self._last = min(settings.steps, max_steps or settings.steps)

    def run(self, work: Workspace) -> None:
        settings = self._settings
        self._folder = folder = work.folder(self.name)
        commit = _check_model(settings)
        self._accelerator = accelerator = join_processes()
        self._diptychs, num_rejected = read_diptychs(self._metadata)
        self._share, rest = divmod(settings.batch_size, accelerator.num_processes)
        if rest or self._share % settings.device_batch_size:
            raise SynthesisError(
                f"batch_size {settings.batch_size} must be a multiple of {accelerator.num_processes} processes x "
                f"device_batch_size {settings.device_batch_size}. Start another number of processes, or change "
                "batch_size before the run begins: it decides what the run ends in."
            )
        self.about = {"model": settings.model, "commit": commit, "processes": accelerator.num_processes}
        self.settings = deciding(settings) | {
            "diptychs": len(self._diptychs),
            "content": f"{seed_of(*(text for each in self._diptychs for text in (each.content, each.prompt))):016x}",
        }
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            self.check_settings(work)
            self._write_manifest(work, {})
            checkpoints.recover(folder)
        accelerator.wait_for_everyone()
        newest, passed_over = checkpoints.newest_sound(folder)
        start = checkpoints.step_of(newest) if newest else 0
        for path, fault in passed_over.items():
            logger.warning("passed over %s: %s", path, fault)
        accelerator.wait_for_everyone()  # all have looked
        if accelerator.is_main_process:
            checkpoints.set_aside_after(folder, start)
        adapter = work.root / "adapter"
        trained = adapter / WEIGHTS
        if start >= self._last and trained.exists() and hash_file(trained) == hash_file(newest / WEIGHTS):
            logger.info("%s has been trained for %d steps already", adapter, start)
            return

        self._fill_cache()
        self._load(newest)
        self._train(start, work.show_progress and accelerator.is_main_process)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            self._finish(adapter, num_rejected)
        accelerator.wait_for_everyone()

    def _fill_cache(self) -> None:
        settings, accelerator = self._settings, self._accelerator
        self._cache = Cache(Path(settings.cache or self._folder / "cache"), settings)
        self._prompts = [*(settings.validation.prompts if settings.validation else ())]
        self._prompts += [diptych.prompt for diptych in self._diptychs]
        self._vae = self._part(AutoencoderKL, "vae", dtype=getattr(torch, settings.dtype))
        self._size = common_size(self._diptychs, multiple=2 ** len(self._vae.config.block_out_channels))
        share = (accelerator.process_index, accelerator.num_processes)
        self._cache.fill(self._diptychs, self._prompts, accelerator.device, share)
        accelerator.wait_for_everyone()

    def _part(self, kind: Any, folder: str, **options: Any) -> Any:
        settings = self._settings
        return kind.from_pretrained(settings.model, subfolder=folder, revision=settings.revision, **options)

    def _load(self, newest: Path | None) -> None:
        """The model, its adapter and the optimiser, as they were at a checkpoint if there is one."""
        settings, accelerator = self._settings, self._accelerator
        self._scheduler = self._part(FlowMatchEulerDiscreteScheduler, "scheduler")
        transformer = self._part(FluxTransformer2DModel, "transformer", dtype=getattr(torch, settings.dtype))
        check_dtype(transformer, settings.dtype, settings.model)
        transformer.requires_grad_(False)
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(settings.seed, "adapter"))
            try:
                transformer.add_adapter(config)
            except ValueError as error:
                raise SynthesisError(f"targets {settings.targets} fit no layer of {settings.model} ({error})") from None
        cast_training_params(transformer.to(accelerator.device), torch.float32)
        if settings.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self._parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        if newest:
            _read_checkpoint(newest, transformer, self._optimizer)
            logger.info("going on from %s", newest)
        self._transformer, self._model = transformer, accelerator.prepare(transformer)
        # Lets the adapter, in float32, work inside a model in half precision.
        is_half = settings.dtype == "bfloat16"
        self._autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=is_half)

    def _train(self, start: int, show_progress: bool) -> None:
        settings, accelerator, folder = self._settings, self._accelerator, self._folder
        validation, log = settings.validation, folder / _LOG
        if accelerator.is_main_process:
            kept = [entry for entry in read_lines(log)[0] if entry["step"] <= start] if log.exists() else []
            write_whole(log, "".join(map(as_line, kept)))
        if validation and start == 0:
            self._validate(validation, 0)
        with tqdm(total=self._last, initial=start, desc="training", unit="step", disable=not show_progress) as bar:
            for step in range(start + 1, self._last + 1):
                began = time.monotonic()
                entry = {"step": step, **self._step(step - 1)}
                entry["seconds"] = round(time.monotonic() - began, 3)
                if accelerator.is_main_process:
                    with log.open("a", encoding="utf-8") as stream:
                        stream.write(as_line(entry))
                if validation and (step % validation.every == 0 or step == settings.steps):
                    self._validate(validation, step)
                is_due = step % settings.checkpoint_every == 0 or step == self._last
                if is_due and accelerator.is_main_process:
                    written = folder / checkpoints.UNFINISHED / f"checkpoint-{step}"
                    shutil.rmtree(written, ignore_errors=True)
                    written.mkdir(parents=True)
                    _write_checkpoint(written, self._transformer, self._optimizer)
                    checkpoints.publish(written, folder, {"step": step})
                    checkpoints.rotate(folder, settings.keep_checkpoints, kept=())
                bar.update()
                bar.set_postfix(loss=f"{entry['loss']:.4f}", refresh=False)

    def _step(self, step: int) -> dict[str, float]:
        """One step of the optimiser, counted from 0, and what the log says of it."""
        settings, accelerator, share = self._settings, self._accelerator, self._share
        rate = learning_rate_at(step, settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        total = torch.zeros((), device=accelerator.device)
        first = step * settings.batch_size + accelerator.process_index * share
        for start in range(0, share, settings.device_batch_size):
            positions = range(first + start, first + start + settings.device_batch_size)
            is_last = start + len(positions) == share
            with nullcontext() if is_last else accelerator.no_sync(self._model):
                loss = self._loss(positions) * (len(positions) / share)
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self._parameters, settings.max_gradient_norm)
        loss = accelerator.reduce(total, reduction="mean").item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise SynthesisError(
                f"{self._folder / _LOG}: loss {loss} and gradient norm {norm:.3g} at step {step + 1}. Lower "
                "learning_rate and begin anew with --redo training; the checkpoints so far stay until then."
            )
        self._optimizer.step()
        return {"loss": loss, "learning_rate": rate, "gradient_norm": float(norm)}

    def _diptych_at(self, position: int) -> Diptych:
        """The diptych at a position in an endless row of shuffled epochs."""
        epoch, place = divmod(position, len(self._diptychs))
        return self._diptychs[_shuffled(len(self._diptychs), self._settings.seed, epoch)[place]]

    def _loss(self, positions: Sequence[int]) -> torch.Tensor:
        """Mean squared error of the velocity, over the diptychs at these positions of the run."""
        device, config = self._accelerator.device, self._transformer.config
        diptychs = [self._diptych_at(position) for position in positions]
        latents = torch.stack([self._cache.latents(diptych) for diptych in diptychs])
        noises, times = [], []
        for position in positions:
            generator = torch.Generator().manual_seed(seed_of(self._settings.seed, "noise", position))
            noises.append(torch.randn(latents.shape[1:], generator=generator))
            times.append(torch.randn((), generator=generator))
        latents, noises = latents.to(device), torch.stack(noises).to(device)
        count, channels, height, width = latents.shape

        def packed(tensor: torch.Tensor) -> torch.Tensor:
            return FluxPipeline._pack_latents(tensor, count, channels, height, width)

        image_ids = FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, device, torch.float32)
        times = torch.sigmoid(torch.stack(times) + _time_shift(self._scheduler.config, len(image_ids))).to(device)
        mixed = times[:, None, None, None]
        texts = [self._cache.text(diptych.prompt) for diptych in diptychs]
        text = {name: torch.stack([entry[name] for entry in texts]).to(device) for name in texts[0]}
        with self._autocast:
            velocity = self._model(
                hidden_states=packed((1 - mixed) * latents + mixed * noises),
                timestep=times,
                guidance=times.new_full((count,), self._settings.guidance) if config.guidance_embeds else None,
                pooled_projections=text["pooled_prompt_embeds"],
                encoder_hidden_states=text["prompt_embeds"],
                txt_ids=torch.zeros(text["prompt_embeds"].shape[1], 3, device=device),
                img_ids=image_ids,
                return_dict=False,
            )[0]
        return torch.nn.functional.mse_loss(velocity.float(), packed(noises - latents))

    def _validate(self, validation: Validation, step: int) -> None:
        vae = self._vae.to(self._accelerator.device)
        pipeline = FluxPipeline(self._scheduler, vae, None, None, None, None, self._transformer)
        pipeline.set_progress_bar_config(disable=True)
        texts = {prompt: self._cache.text(prompt) for prompt in validation.prompts}
        with self._autocast:
            sheet = paint_sheet(pipeline, validation, texts, self._size, f"step {step:,}", self._accelerator)
        if sheet is not None:
            file = self._folder / _VALIDATION / f"step-{step:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(file)

    def _finish(self, adapter: Path, num_rejected: int) -> None:
        """Puts the adapter of the newest checkpoint, and its card, where they are loaded from."""
        adapter.mkdir(parents=True, exist_ok=True)
        with whole_file(adapter / WEIGHTS) as part:
            shutil.copyfile(checkpoints.newest_complete(self._folder) / WEIGHTS, part)
        write_card(
            adapter,
            settings=deciding(self._settings),
            about={
                "diptychs": len(self._diptychs),
                "rejected diptychs": num_rejected,
                "size": self._size,
                "parameters": sum(parameter.numel() for parameter in self._parameters),
                "takes guidance": self._transformer.config.guidance_embeds,
                "prompt": self._prompts[0],
            },
            log=read_lines(self._folder / _LOG)[0],
            sheets=sorted((self._folder / _VALIDATION).glob("step-*.png")),
        )


def _check_model(settings: AdapterTraining) -> str | None:
    """The commit that the model on the Hub has now; None for a folder. Refuses what is not a FluxPipeline."""
    remedy = (
        "Give a folder or an id of a FluxPipeline; for FLUX.1-dev accept its licence on the Hub and log in with `hf "
        "auth login`"
    )
    with loading(settings.model, "as a pipeline", remedy):
        config, commit = FluxPipeline.load_config(settings.model, revision=settings.revision, return_commit_hash=True)
    if (kind := config.get("_class_name")) != "FluxPipeline":
        raise SynthesisError(
            f"{settings.model}: is a {kind}; adapters are trained for a FluxPipeline only: FLUX.1-dev or FLUX.1-schnell"
        )
    return commit


def _time_shift(config: Any, num_tokens: int) -> float:
    """The shift of logit(t) by which the scheduler moves its steps, for an image of this many tokens."""
    if not config.use_dynamic_shifting:
        return math.log(config.shift)
    return calculate_shift(
        num_tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )


def _write_checkpoint(folder: Path, transformer: FluxTransformer2DModel, optimizer: torch.optim.Optimizer) -> None:
    # Without its configuration beside it, an adapter loads with alpha equal to its rank.
    config = transformer.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    state = {name: tensor.cpu().contiguous() for name, tensor in get_peft_model_state_dict(transformer).items()}
    FluxPipeline.save_lora_weights(
        folder, transformer_lora_layers=state, transformer_lora_adapter_metadata=config, weight_name=WEIGHTS
    )
    moments = {
        f"{index}.{name}": tensor.cpu().contiguous()
        for index, entry in optimizer.state_dict()["state"].items()
        for name, tensor in entry.items()
    }
    save_file(moments, folder / _OPTIMIZER)


def _read_checkpoint(folder: Path, transformer: FluxTransformer2DModel, optimizer: torch.optim.Optimizer) -> None:
    weights = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    set_peft_model_state_dict(transformer, weights)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / _OPTIMIZER).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
