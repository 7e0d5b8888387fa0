"""Train a model on a data set in SynCPR's format: FAFA, or another that keeps the contract (docs/your-own-model.md).

    python examples/train.py --config examples/configs/quickstart.yaml      # a painted town, from the tiny model
    python examples/train.py --config examples/configs/world.yaml           # the painted world, from random weights
    python examples/train.py --config examples/configs/paper.yaml           # SynCPR, from BLIP-2's weights
    python examples/train.py --config examples/configs/coalign_world.yaml   # CoAlign instead, see docs/models.md

`fafa train` takes the same options and the same steps.

Every setting is a field of the YAML file, of the command line, or of both (the command line wins):

    python examples/train.py --config examples/configs/paper.yaml --data_dir /data/SynCPR --output_dir runs/1 --seed 7

A run that was stopped or killed goes on from its last checkpoint with `--resume_from_checkpoint true`.

What to expect: on the painted world, training from random weights takes eight to twelve minutes on two CPU cores and
reaches 68 % Rank-1 on its test set (see examples/evaluate_itcpr.py). The paper's recipe reports 46.5 % Rank-1 on ITCPR,
from 10 epochs over 1.15 million triplets in batches of 256; it needs GPUs with 80 GB.

How the tiny model learns. The real FAFA starts from BLIP-2, which has learnt by contrastive training what words look
like. FDA, KL(prediction ‖ label), has hardly any gradient while all scores are alike, so random weights need such
training first:

1. Three epochs of random batches with cross-entropy over the same scores, KL(label ‖ prediction), and a second term
   that matches whole captions to images (`caption_steps`). Hardly anybody else in such a batch wears what the caption
   asks for, so the model learns clothes.
2. Then batches in which four people each change clothes in the same way (`group_size`). Only their identity tells them
   apart, so Rank-1 doubles. With such batches from the first step on, it would learn slowly.
3. From step 950 FAFA's own loss (`contrastive_steps` ends), with α = 0: here only the own target counts as correct.

Large batches and few patches (16 an image) make the most of two cores. Where other processes are busy on them as well,
`OMP_WAIT_POLICY=passive` in the environment keeps torch's threads from spinning (the Makefile sets it).
"""

import logging

import fafa  # noqa: F401 - before what takes long, so that Ctrl-C is answered from here on  # isort: skip

from fafa.commands import command
from fafa.training import RetrieverTrainingArguments
from fafa.training.options import RunOptions, read_options
from fafa.training.run import kept_of, make_model, make_trainer, read_sets, save, start, train


def parse_arguments() -> tuple[RunOptions, RetrieverTrainingArguments, dict]:
    """Reads `--config FILE.yaml` and the command line; also returns the settings given, to repeat the run."""
    return read_options(description=__doc__)


def main(options: RunOptions, training: RetrieverTrainingArguments, recipe: dict) -> None:
    """Runs the steps below."""
    # 1. The seed, before anything random happens. If nothing can be written, it is better to know before.
    start(options, training)

    # 2. Data, and whole quadruples of it held out for validation: the test set never selects a model. Images are
    #    paths, which the collator opens.
    train_set, validation_set = read_sets(options, training)

    # 3. Model and processor, and what of the model trains: all of it, some blocks of its vision tower, or adapters.
    model, processor = make_model(options, train_set)

    # 4. The trainer: batches, augmentation, held-out metrics, the guard against collapse.
    trainer = make_trainer(options, training, recipe, model, processor, train_set, validation_set)

    # 5. Training, from the start or from a checkpoint.
    train(trainer)

    # 6. The result: a folder that AutoModel and AutoProcessor load, with a card that says how it came about.
    save(trainer, options.merge_adapter)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    with command():
        settings = parse_arguments()
    with command(kept_of(settings[1])):
        main(*settings)
