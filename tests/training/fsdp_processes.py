"""FafaTrainer on two processes under FSDP2, on a CPU, and on one: `python fsdp_processes.py FOLDER PORT`.

FOLDER holds the data set `triplets`, and gets models and losses. The settings are those of the launch configuration.
accelerate divides models among GPUs only, so it is told that these processes are some.
"""

import multiprocessing
import os
import sys
from datetime import timedelta
from pathlib import Path

import accelerate.state
import torch
import yaml
from accelerate.utils import DistributedType
from datasets import load_from_disk
from tiny import tiny_model, tiny_processor

from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments

LAUNCH = Path(__file__).parent.parent.parent / "examples" / "configs" / "accelerate" / "fsdp.yaml"


def train(folder: Path, name: str, **arguments) -> None:
    """Three steps of four triplets, into FOLDER/NAME; the losses into a file beside it."""
    triplets = load_from_disk(str(folder / "triplets"))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = FafaTrainer(
        model=tiny_model(),
        args=FafaTrainingArguments(
            output_dir=str(folder / name),
            max_steps=3,
            per_device_train_batch_size=4 // processes,
            learning_rate=1e-3,
            adam_epsilon=1e-4,  # AdamW would blow rounding up where a gradient is nothing but rounding
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            **arguments,
        ),
        train_dataset=triplets,
        data_collator=FafaDataCollator(tiny_processor(), augment=True),
    )
    assert trainer.is_fsdp_enabled == (processes > 1)
    trainer.train()
    trainer.save_model()
    losses = [str(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    rank = f"-{trainer.args.process_index}" if processes > 1 else ""
    (folder / f"{name}{rank}.txt").write_text(" ".join(losses))


def run(rank: int, folder: Path, port: str) -> None:
    """One process, in fp32 and in bf16."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    for name, value in yaml.safe_load(LAUNCH.read_text(encoding="utf-8"))["fsdp_config"].items():
        os.environ[name.upper().replace("TRANSFORMER_LAYER_CLS", "TRANSFORMER_CLS")] = str(value)
    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=2))
    accelerate.state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    accelerate.state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    for name, bf16 in {"fp32": False, "bf16": True}.items():
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        train(folder, name, bf16=bf16)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")  # what is imported is shared
    destination = Path(sys.argv[1])
    children = [context.Process(target=run, args=(rank, destination, sys.argv[2])) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    train(destination, "one")
    sys.exit(max(abs(child.exitcode) for child in children))
