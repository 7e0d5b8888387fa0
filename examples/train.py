"""Train FAFA on a data set in SynCPR's format.

    python examples/train.py --config examples/configs/quickstart.yaml      # the painted world, from random weights
    python examples/train.py --config examples/configs/paper.yaml           # SynCPR, from BLIP-2's weights

Every setting is a field of the YAML file, of the command line, or of both (the command line wins):

    python examples/train.py --config examples/configs/paper.yaml --data_dir /data/SynCPR --output_dir runs/1 --seed 7

A run that was stopped goes on from its last checkpoint with `--resume_from_checkpoint true`.

What to expect: the quickstart trains for about nine minutes on two CPU cores and reaches 63 % Rank-1 on its test
set (see examples/evaluate_itcpr.py). The paper's recipe reports 46.5 % Rank-1 on ITCPR, from 10 epochs over 1.15
million triplets in batches of 256; it wants GPUs with 80 GB.

How the tiny model learns. The real FAFA starts from BLIP-2, which contrastive training has taught what words look like.
FDA, KL(prediction ‖ label), has hardly a gradient while all scores are alike, so random weights need the like first:

1. Three epochs of random batches with cross-entropy over the same scores, KL(label ‖ prediction), and a second term
   that matches whole captions to images (`caption_steps`). Hardly anybody else in such a batch wears what the caption
   asks for, so clothes are learnt.
2. Then batches of four people each in the same change of clothes (`group_size`). Only who they are tells them apart, so
   Rank-1 doubles. From the first step on, such batches learn slowly.
3. From step 950 FAFA's own loss (`contrastive_steps` ends), with α = 0: here only the own target counts as correct.

Large batches and few patches (16 an image) make the most of two cores.
"""

import difflib
import json
import logging
import sys
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path

import torch
import yaml
from datasets import Image, load_dataset
from transformers import AutoModel, AutoProcessor, HfArgumentParser, set_seed

from fafa import FafaConfig, FafaImageProcessor, FafaModel, FafaProcessor
from fafa.processing_fafa import build_tokenizer
from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments, build_vocabulary, hold_out_quadruples
from fafa.training.card import training_card
from fafa.training.trainer import held_out_rank_metrics

logger = logging.getLogger("train")


@dataclass
class ScriptArguments:
    """What to train, on what."""

    model: str = field(
        default="tiny",
        metadata={"help": "A FafaModel folder or Hub id to start from, or 'tiny': random weights, own vocabulary."},
    )
    model_options: dict | str | None = field(
        default=None, metadata={"help": "Fields of FafaConfig to set, as JSON: '{\"fda_alpha\": 1.0}'."}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of SynCPR.json and its images; none: the authors' Hub data set."}
    )
    validation_fraction: float = field(
        default=0.02, metadata={"help": "Share of the quadruples held out for validation."}
    )
    max_validation_triplets: int = field(default=2000, metadata={"help": "Use at most so many held-out triplets."})
    on_error: str = field(
        default="raise", metadata={"help": "'raise' or 'skip' (and report) an image that cannot be decoded."}
    )
    cache_images: bool = field(default=False, metadata={"help": "Keep decoded images in memory (small data sets)."})
    vision_dtype: str | None = field(
        default=None, metadata={"help": "Store the frozen vision tower in this dtype, such as bfloat16."}
    )

    def __post_init__(self):
        if isinstance(self.model_options, str):  # from the command line; a YAML file gives the fields themselves
            self.model_options = json.loads(self.model_options)
        self.model_options = self.model_options or {}


def main() -> None:
    """Runs the steps below."""
    # 1. Settings: YAML file first, command line over it. The seed comes before anything random happens.
    script, training, recipe = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    set_seed(training.seed)

    # 2. Data. Images stay paths: the collator opens them, batch by batch, so that a bad file is reported by its name.
    triplets = load_dataset("SynCPR", split="train", data_dir=script.data_dir)
    for column in ("reference_image", "target_image"):
        triplets = triplets.cast_column(column, Image(decode=False))

    # 3. Validation: whole quadruples of the training set are held out. The test set never selects a model.
    train_rows, validation_rows = hold_out_quadruples(
        triplets["cpr_id"][:],
        triplets["reference_image_path"][:],
        triplets["target_image_path"][:],
        fraction=script.validation_fraction,
        seed=training.seed,
    )
    train_set = triplets.select(train_rows)
    validation_set = triplets.select(validation_rows[: script.max_validation_triplets])

    # 4. Model and processor.
    if script.model == "tiny":
        model, processor = make_tiny_model(train_set, script.model_options)
    else:
        model = AutoModel.from_pretrained(script.model, **script.model_options)
        processor = AutoProcessor.from_pretrained(script.model)
    if script.vision_dtype is not None:
        model.freeze_vision_tower(getattr(torch, script.vision_dtype))

    # 5. Training. The trainer augments the training images only.
    trainer = FafaTrainer(
        model=model,
        args=training,
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=FafaDataCollator(
            processor,
            augment=True,
            with_captions=training.caption_steps > 0 or model.config.itc_weight > 0,
            on_error=script.on_error,
            cache_images=script.cache_images,
            seed=training.seed,
        ),
        compute_metrics=held_out_rank_metrics(model),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(training))

    # 6. The result: a folder that AutoModel and AutoProcessor load, with a card that says how it came about.
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    data = {
        "data set": "SynCPR's format, read by `load_dataset`",
        "training triplets": f"{len(train_set):,}",
        "held-out triplets": f"{len(validation_set):,}",
    }
    start = "random weights (`FafaConfig.tiny`)" if script.model == "tiny" else f"`{script.model}`"
    card = training_card(trainer, f"Trained from {start} by `examples/train.py`.", data, metrics, recipe)
    if trainer.is_world_process_zero():
        Path(training.output_dir, "README.md").write_text(card, encoding="utf-8")
    logger.info("held-out Rank-1 %.1f %%; the model is in %s", metrics["eval_rank-1"], training.output_dir)


def make_tiny_model(train_set, options: dict) -> tuple[FafaModel, FafaProcessor]:
    """A tiny FAFA with random weights, and its processor, whose vocabulary is that of the training captions."""
    captions = [*train_set["edit_caption"][:], *train_set["target_caption"][:]]
    tokenizer = build_tokenizer(build_vocabulary(captions))
    config = FafaConfig.tiny(vocab_size=len(tokenizer), **options)
    # People are stretched to the square that the released model pads them to: no patch is spent on black borders.
    square = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    image_processor = FafaImageProcessor(person_size=square, size=square)
    return FafaModel(config), FafaProcessor(image_processor, tokenizer, max_text_length=config.max_text_length)


def resume_checkpoint(training: FafaTrainingArguments) -> str | bool | None:
    """`true` means the last checkpoint of the output folder; anything else is the path of one."""
    given = training.resume_from_checkpoint
    return given.lower() == "true" if isinstance(given, str) and given.lower() in ("true", "false") else given


def parse_arguments() -> tuple[ScriptArguments, FafaTrainingArguments, dict]:
    """Reads `--config FILE.yaml` and the command line; also returns the settings given, to repeat the run."""
    parser = HfArgumentParser((ScriptArguments, FafaTrainingArguments), description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, help="YAML file of settings, which the command line overrides.")
    config_file = parser.parse_known_args()[0].config
    settings = {} if config_file is None else yaml.safe_load(config_file.read_text(encoding="utf-8"))
    known = [entry.name for entry in (*fields(ScriptArguments), *fields(FafaTrainingArguments))]
    for name in settings:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            parser.error(
                f"{config_file}: there is no setting {name!r}" + f"; did you mean {nearest[0]!r}?" * len(nearest)
            )
    parser.set_defaults(**settings)
    script, training, _ = parser.parse_args_into_dataclasses()
    flags = {argument.partition("=")[0] for argument in sys.argv[1:]}  # "--seed 7" or "--seed=7"
    on_command_line = [name for name in known if f"--{name}" in flags]
    given = {name: getattr(script if hasattr(script, name) else training, name) for name in on_command_line}
    plain = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
    return script, training, settings | plain


if __name__ == "__main__":
    main()
