"""What each part of FAFA's loss does on the painted world, and what its relatives would do.

    python benchmarks/ablation.py --work DIR          # 15 variants x 3 seeds; about 40 minutes on two cores

The real FAFA starts from BLIP-2's contrastive weights and is tuned with its loss. So here: for each seed a tiny FAFA is
first trained contrastively from random weights (cross-entropy over composed queries and over whole captions, random
batches), once; then every variant goes on from those same weights for the same number of steps, in batches of four
people each in the same change of clothes. Only the loss differs.

Reported: Rank-1 and mAP of image + caption on 345 queries over three galleries of 500 images of people never trained
on, mean and standard deviation over the seeds. The test galleries choose nothing: no setting was tuned on them.

The first rows switch FAFA's parts off, one at a time. "No FDA" is cross-entropy with one correct target over the same
scores, which is what FDA replaces. The rows below "+" add to all of FAFA:

    focal           FDA's rows weighted by (1 - p)^2, p the own target's probability (named in the authors' settings)
    R-Drop          two passes with 10 % dropout, symmetric KL between their predictions (named there, too); the row
                    with dropout alone is what to compare it with
    HN-NCE          InfoNCE with negatives weighted by exp(0.5 logit), normalised (an option in the released code)
    MMD, CORAL      draw the distributions of queries and targets together (options in the released code): Gaussian
                    kernels' mean discrepancy; squared distance of the covariances
    uncertainty     `distribution_uncertainty` 0.8, as the released code trains
    EMA             the moving average of the weights, decay 0.99
"""

import argparse
import json
import os
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
from datasets import Image, load_dataset
from scoring import processor_name
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback, set_seed

from fafa import FafaConfig, FafaImageProcessor, FafaModel, FafaOutput, FafaProcessor
from fafa.evaluation import retrieval_metrics
from fafa.losses_fafa import group_labels
from fafa.processing_fafa import build_tokenizer
from fafa.tables import markdown_table
from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments, build_vocabulary
from fafa.workers import in_processes
from fafa.world import make_world

PRETRAINING_STEPS, STEPS = 560, 100
TEST_SEEDS = (101, 102, 103)
RESULTS = Path(__file__).parent / "results"

CROSS_ENTROPY = {"fda_divergence": "forward", "fda_alpha": 0.0}
# name -> fields of FafaConfig, and the class that computes the loss.
PARTS = {
    "FAFA: FDA + FD + MFR": {},
    "no FDA": CROSS_ENTROPY,
    "no FD": {"fd_weight": 0.0},
    "no MFR": {"mfr_weight": 0.0},
    "none of them": CROSS_ENTROPY | {"fd_weight": 0.0, "mfr_weight": 0.0},
    "FDA with α = 0": {"fda_alpha": 0.0},
    "FDA with α = 1 (released)": {"fda_alpha": 1.0},
}


class Focal(FafaModel):
    """FDA whose rows count the less, the surer the own target is."""

    def losses(self, states, group_ids=None, gather_across_processes=False) -> FafaOutput:
        """As `FafaModel.losses`."""
        output = super().losses(states, group_ids, gather_across_processes)
        labels = group_labels(group_ids, self.config.fda_alpha)
        output.loss = output.loss - output.loss_fda
        output.loss_fda = (_focal(output.logits, labels) + _focal(output.logits.mT, labels)) / 2
        output.loss = output.loss + output.loss_fda
        return output


def _focal(logits: Tensor, labels: Tensor) -> Tensor:
    log_predictions = logits.log_softmax(dim=1)
    predictions = log_predictions.exp()
    rows = (predictions * (log_predictions - (labels + 1e-8).log())).sum(dim=1)
    return ((1 - predictions.diagonal()).square() * rows).mean()


class RDrop(FafaModel):
    """Two passes with other dropout must predict the same."""

    def forward(self, group_ids=None, return_loss=True, **inputs) -> FafaOutput:
        """As `FafaModel.forward`."""
        if not self.training:
            return super().forward(group_ids=group_ids, return_loss=return_loss, **inputs)
        first, second = (super(RDrop, self).forward(group_ids=group_ids, **inputs) for _ in range(2))
        one, other = (output.logits.log_softmax(dim=1) for output in (first, second))
        apart = F.kl_div(one, other, reduction="batchmean", log_target=True)
        apart = apart + F.kl_div(other, one, reduction="batchmean", log_target=True)
        first.loss = (first.loss + second.loss) / 2 + apart / 2
        return first


class HardNegatives(FafaModel):
    """Adds InfoNCE whose negatives count by their own score."""

    def losses(self, states, group_ids=None, gather_across_processes=False) -> FafaOutput:
        """As `FafaModel.losses`."""
        output = super().losses(states, group_ids, gather_across_processes)
        output.loss = output.loss + (_hard_negative_nce(output.logits) + _hard_negative_nce(output.logits.mT)) / 2
        return output


def _hard_negative_nce(logits: Tensor, beta: float = 0.5) -> Tensor:
    own = torch.eye(len(logits), dtype=torch.bool)
    weights = (beta * logits.detach()).masked_fill(own, float("-inf")).softmax(dim=1) * (len(logits) - 1)
    weighted = logits + torch.where(own, torch.ones_like(weights), weights).clamp(min=1e-20).log()
    return -(logits.diagonal() - weighted.logsumexp(dim=1)).mean()


class Discrepancy(FafaModel):
    """Adds the maximum mean discrepancy of queries and targets, Gaussian kernels of three widths."""

    def losses(self, states, group_ids=None, gather_across_processes=False) -> FafaOutput:
        """As `FafaModel.losses`."""
        output = super().losses(states, group_ids, gather_across_processes)
        output.loss = output.loss + _mean_discrepancy(*_both_sides(output))
        return output


class Correlation(FafaModel):
    """Adds the squared distance of the covariances of queries and targets."""

    def losses(self, states, group_ids=None, gather_across_processes=False) -> FafaOutput:
        """As `FafaModel.losses`."""
        output = super().losses(states, group_ids, gather_across_processes)
        queries, targets = _both_sides(output)
        output.loss = output.loss + (queries.mT.cov() - targets.mT.cov()).square().sum()
        return output


def _both_sides(output: FafaOutput) -> tuple[Tensor, Tensor]:
    return output.query_embeds, F.normalize(output.target_embeds.mean(dim=1), dim=-1)


def _mean_discrepancy(queries: Tensor, targets: Tensor) -> Tensor:
    both = torch.cat([queries, targets])
    distances = 2 - 2 * both @ both.mT
    kernel = sum((-distances / width).exp() for width in (0.25, 0.5, 1.0))
    side = len(queries)
    return kernel[:side, :side].mean() + kernel[side:, side:].mean() - 2 * kernel[:side, side:].mean()


RELATIVES = {
    "+ focal": ({}, Focal),
    "+ dropout": ({}, FafaModel),
    "+ dropout and R-Drop": ({}, RDrop),
    "+ HN-NCE": ({}, HardNegatives),
    "+ MMD": ({}, Discrepancy),
    "+ CORAL": ({}, Correlation),
    "+ uncertainty": ({"distribution_uncertainty": 0.8}, FafaModel),
}
VARIANTS = {name: (options, FafaModel) for name, options in PARTS.items()} | RELATIVES
AVERAGED = {"FAFA: FDA + FD + MFR": "+ EMA"}


class Average(TrainerCallback):
    """Keeps the moving average of the weights."""

    def __init__(self, model: FafaModel):
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Takes the new weights in."""
        self.average.update_parameters(model)


def run_seed(work: Path, seed: int) -> dict[str, dict[str, float]]:
    """Pretrains once and tunes every variant; metrics per variant, each in a file, so that a stopped run goes on."""
    torch.set_num_threads(1)
    triplets = load_dataset("SynCPR", data_dir=str(work / "world" / "SynCPR"), split="train")
    for column in ("reference_image", "target_image"):
        triplets = triplets.cast_column(column, Image(decode=False))
    tokenizer = build_tokenizer(build_vocabulary([*triplets["edit_caption"][:], *triplets["target_caption"][:]]))
    size = {"height": 96, "width": 96}
    processor = FafaProcessor(FafaImageProcessor(person_size=size, size=size), tokenizer, max_text_length=32)
    collator = FafaDataCollator(processor, augment=True, with_captions=True, cache_images=True, seed=seed)

    def train(model: FafaModel, steps: int, learning_rate: float, **settings) -> FafaTrainer:
        arguments = FafaTrainingArguments(
            output_dir=str(work / f"runs-{seed}"),
            max_steps=steps,
            per_device_train_batch_size=128,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            **settings,
        )
        average = Average(model)
        trainer = FafaTrainer(model, arguments, train_dataset=triplets, data_collator=collator, callbacks=[average])
        trainer.train()
        trainer.average = average.average.module
        return trainer

    test_sets = read_test_sets(work, processor)
    start = work / f"pretrained-{seed}"
    if not (start / "done").exists():
        set_seed(seed)
        model = FafaModel(FafaConfig.tiny(vocab_size=len(tokenizer)))
        train(
            model, PRETRAINING_STEPS, 1.5e-3, group_size=0, contrastive_steps=10**6, caption_steps=10**6
        ).model.save_pretrained(start)
        (start / "done").touch()
    results = {"before": measure(FafaModel.from_pretrained(start), test_sets)}
    for name, (options, model_class) in VARIANTS.items():
        record = work / f"result-{seed}-{list(VARIANTS).index(name)}.json"
        if not record.exists():
            set_seed(seed)
            model = model_class.from_pretrained(start, **options)
            if "dropout" in name:
                for module in model.qformer.modules():
                    if isinstance(module, torch.nn.Dropout):
                        module.p = 0.1
            trainer = train(model, STEPS, 3e-4, group_size=4)
            found = {name: measure(trainer.model, test_sets)}
            if name in AVERAGED:
                found[AVERAGED[name]] = measure(trainer.average, test_sets)
            record.write_text(json.dumps(found))
        results |= json.loads(record.read_text())
    return results


def read_test_sets(work: Path, processor: FafaProcessor) -> list[tuple[dict, Tensor, list[int], list[int]]]:
    """Per test gallery: inputs of its queries, pixels of its images, and the instance ids of both."""
    sets = []
    for seed in TEST_SEEDS:
        folder = str(work / f"test-{seed}" / "ITCPR")
        queries, gallery = (load_dataset("ITCPR", name, data_dir=folder, split="test") for name in ("query", "gallery"))
        inputs = processor(images=queries["image"][:], text=queries["caption"][:], return_tensors="pt")
        pixels = processor(images=gallery["image"][:], return_tensors="pt")["pixel_values"]
        sets.append((inputs, pixels, queries["instance_id"][:], gallery["instance_id"][:]))
    return sets


@torch.no_grad()
def measure(model: FafaModel, test_sets: list[tuple[dict, Tensor, list[int], list[int]]]) -> dict[str, float]:
    """Rank-1 and mAP of image + caption, mean over the test galleries."""
    model.eval()
    found = []
    for inputs, pixels, query_ids, gallery_ids in test_sets:
        scores = model.score(model.get_query_features(**inputs), model.get_target_features(pixels))
        found.append(retrieval_metrics(scores, query_ids, gallery_ids))
    return {name: mean(metrics[name] for metrics in found) for name in ("rank-1", "mAP")}


def to_markdown(record: dict) -> str:
    """The record as a page."""
    lines = [
        "# Ablation of FAFA's loss on the painted world",
        "",
        f"{record['date']}, {record['processor']}, torch {record['torch']}: `{record['command']}`",
        "",
        f"{record['pretraining_steps']} contrastive steps from random weights, then {record['steps']} steps with each "
        f"loss; batch 128; mean ± standard deviation over seeds {', '.join(record['seeds'])}. Percent, image + "
        f"caption, {record['queries']} queries over {len(TEST_SEEDS)} galleries of 500 images of people unseen.",
        "",
    ]
    rows = [
        [name, *(f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0:.1f}" for values in metrics.values())]
        for name, metrics in record["results"].items()
    ]
    lines.append(markdown_table(["loss", "Rank-1", "mAP"], rows))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for world, weights and records; a rerun goes on"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for ablation.json and ablation.md")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at a time, one core each")
    arguments = parser.parse_args()

    make_world(arguments.work / "world", num_diptychs=12_000, num_queries=1, gallery_size=10, seed=0)
    for seed in TEST_SEEDS:
        make_world(arguments.work / f"test-{seed}", num_diptychs=1, num_queries=115, gallery_size=500, seed=seed)
    per_seed = list(in_processes(partial(run_seed, arguments.work), arguments.seeds, arguments.jobs, per_task=1))
    record = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/ablation.py --work DIR --seeds {' '.join(map(str, arguments.seeds))}",
        "processor": processor_name(),
        "torch": torch.__version__,
        "pretraining_steps": PRETRAINING_STEPS,
        "steps": STEPS,
        "seeds": list(map(str, arguments.seeds)),
        "queries": 115 * len(TEST_SEEDS),
        "results": {
            name: {metric: [results[name][metric] for results in per_seed] for metric in ("rank-1", "mAP")}
            for name in per_seed[0]
        },
    }
    (arguments.output / "ablation.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    (arguments.output / "ablation.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
