"""What each process of models/test_processes.py runs: `python every_model_process.py FOLDER`, under RANK and so on."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
from every_model import EVERY_MODEL, Row
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def one_step(row: Row, batch: dict[str, torch.Tensor], part: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Loss terms, embeddings and gradients of a batch, of which this process gets a part."""
    parallel = part != slice(None)
    model = row.model(0).train()
    model.meet_groups(batch["group_ids"].numpy())
    wrapped = DistributedDataParallel(model) if parallel else model
    output = wrapped(**{name: tensor[part] for name, tensor in batch.items()}, gather_across_processes=parallel)
    output.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: tensor.detach().contiguous() for name, tensor in (gradients | dict(output)).items()}


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    dist.init_process_group("gloo", timeout=timedelta(minutes=4))
    for name, row in EVERY_MODEL.items():
        step = one_step(row, load_file(folder / f"{name}.safetensors"), slice(3) if rank == 0 else slice(3, None))
        save_file(step, folder / f"{name}-{rank}.safetensors")
