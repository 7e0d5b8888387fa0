"""What each process of test_processes.py runs: `python process.py TASK FOLDER`, under RANK, WORLD_SIZE and so on."""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from safetensors.torch import save_file
from second_model import second_model, second_processor
from tiny import tiny_batch, tiny_model, tiny_processor
from tiny_run import tiny_trainer
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from fafa.training import TrainingPreempted, TripletCollator
from fafa.training.gradient_cache import average_gradients, cached_backward

OPTIONS = {"distribution_uncertainty": 1.0, "fd_sample_size": 20, "itc_weight": 0.5}


def batch_of_five() -> dict[str, torch.Tensor]:
    batch = tiny_batch(5)
    extra = tiny_batch(5, seed=1)
    return batch | {"caption_input_ids": extra["input_ids"], "caption_attention_mask": extra["attention_mask"]}


def one_step(folder: Path, chunk_size: int = 0) -> None:
    """Loss terms, embeddings and gradients of one batch of five, of which the first process gets three."""
    rank, parallel = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]) > 1
    model = tiny_model(**OPTIONS).train()
    batch = batch_of_five()
    if parallel:
        batch = {name: tensor[:3] if rank == 0 else tensor[3:] for name, tensor in batch.items()}
    torch.manual_seed(rank)  # the first process draws for all
    if chunk_size:
        output = cached_backward(model, batch, chunk_size, gather_across_processes=parallel)
        if parallel:
            average_gradients(model)
    else:
        wrapped = DistributedDataParallel(model) if parallel else model
        output = wrapped(**batch, gather_across_processes=parallel)
        output.loss.backward()
    gradients = {f"gradient of {name}": tensor.grad for name, tensor in model.named_parameters()}
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in (gradients | dict(output)).items()},
        folder / f"step-{chunk_size}-{rank}.safetensors",
    )


def train(folder: Path, chunk_size: int = 0) -> None:
    """Two epochs over twelve triplets in batches of five, and an evaluation."""
    collator = TripletCollator(tiny_processor(), augment=True, with_captions=True)
    model = tiny_model(distribution_uncertainty=0.5)
    train_model(f"run-{os.environ['WORLD_SIZE']}-{chunk_size}", folder, model, collator, chunk_size, caption_steps=2)


def second(folder: Path, chunk_size: int = 0) -> None:
    """The same of a model that shares nothing with FAFA, on a data set that calls its groups otherwise."""
    collator = TripletCollator(second_processor(), augment=True, group_column="who")
    name = f"second-{os.environ['WORLD_SIZE']}-{chunk_size}"
    train_model(name, folder, second_model(), collator, chunk_size, group_column="who")


def train_model(name: str, folder: Path, model, collator: TripletCollator, chunk_size: int, **options) -> None:
    triplets = load_from_disk(str(folder / "triplets"))
    triplets = triplets.remove_columns("cpr_id").add_column(collator.group_column, triplets["cpr_id"][:])
    trainer = tiny_trainer(
        folder / name,
        triplets.select(range(11)),
        model,
        eval_dataset=triplets.select(range(7)),
        data_collator=collator,
        max_steps=4,
        adam_epsilon=1e-4,  # AdamW would blow rounding up where a gradient is nothing but rounding
        batch_size=6,
        per_device_train_batch_size=None,
        per_device_eval_batch_size=5,
        group_size=2,
        gradient_cache_size=chunk_size,
        save_strategy="no",
        **options,
    )
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        ranks = {name: torch.tensor(value) for name, value in metrics.items() if "rank" in name or "mAP" in name}
        save_file(model.state_dict() | ranks, f"{trainer.args.output_dir}.safetensors")


def skip(folder: Path) -> None:
    """An evaluation of nine triplets, of which one cannot be read; its metrics, and what was left out."""
    triplets = load_from_disk(str(folder / "triplets"))
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    rows = [row | {"target_image": {"path": str(broken)}} if n == 1 else row for n, row in enumerate(triplets)]
    trainer = tiny_trainer(
        folder / "skip",
        triplets,
        eval_dataset=Dataset.from_list(rows[:9]),
        data_collator=TripletCollator(tiny_processor(), on_error="skip"),
        per_device_eval_batch_size=5,
    )
    metrics = trainer.evaluate()
    assert trainer.skipped_images == {str(broken): 1}, trainer.skipped_images
    values = {name: torch.tensor(metrics[f"eval_{name}"]) for name in ("rank-1", "rank-5", "mAP")}
    save_file(values, folder / f"skip-{trainer.args.process_index}.safetensors")


class TellTheLast(TrainerCallback):
    """One process alone is sent SIGTERM, in its second step."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def preempt(folder: Path) -> None:
    """All processes stop after the same step, or one would wait for the others for ever."""
    trainer = tiny_trainer(
        folder / "preempted",
        load_from_disk(str(folder / "triplets")),
        max_steps=4,
        batch_size=6,
        per_device_train_batch_size=None,
        save_steps=100,
        enable_jit_checkpoint=True,
        callbacks=[TellTheLast()],
    )
    try:
        trainer.train()
    except TrainingPreempted:
        (folder / f"preempted-{trainer.args.process_index}.txt").write_text(str(trainer.state.global_step))


if __name__ == "__main__":
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo", timeout=timedelta(minutes=2))
    for task in sys.argv[2:]:
        name, _, chunk = task.partition("-")
        {"step": one_step, "train": train, "second": second, "skip": skip, "preempt": preempt}[name](
            Path(sys.argv[1]), *map(int, chunk.split())
        )
