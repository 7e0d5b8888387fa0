"""Stopping a run that has collapsed, while there is a good checkpoint to go back to."""

import math
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from ...files import write_json
from . import checkpoints

COLLAPSE = "collapse.json"
SPREADS = ("query_spread", "target_spread")
WELL_ABOVE_CHANCE = 5.0  # times the mAP of a random order (or half way to perfect); mAP below tells nothing
GOOD_SHARE = 0.9  # of the best mAP; a checkpoint to go back to must have as much
SMALLEST_BATCH = 8  # triplets; the spread of a smaller batch says nothing
# Spreads measured on the painted world: 0.02 to 0.1 at random weights, of which a run may lose nearly all before it
# learns (1.6e-4 was seen); 0.4 to 0.9 once it has; 1e-10 and less after a collapse.
APART, NOTHING = 0.1, 1e-6


class TrainingCollapsed(RuntimeError):
    """Training was stopped because it had gone wrong; the message names step, likely cause and where to go on."""


def embedding_spread(output) -> dict[str, torch.Tensor]:
    """How far the embeddings of a batch are apart: 0 if all are equal, at most 1 (for unit vectors).

    Args:
        output: with `query_embeds` `(batch_size, dim)` and `target_embeds` `(batch_size, num_tokens, dim)`.

    Returns:
        `query_spread` and `target_spread`: variance over the batch, summed over dimensions, mean over tokens.
    """
    embeddings = (output.query_embeds, output.target_embeds)
    with torch.no_grad():
        spreads = (each.float().var(dim=0, correction=0).sum(dim=-1).mean() for each in embeddings)
        return dict(zip(SPREADS, spreads, strict=True))


class CollapseGuard(TrainerCallback):
    """Raises `TrainingCollapsed`, and writes the same to `collapse.json`, when a run has gone wrong.

    - The loss, the gradient norm or a weight is not finite. The loss is looked at in every step without waiting for
      the device; all are judged when something is logged, and weights before they are evaluated or saved.
    - The spread of query or target embeddings (`embedding_spread`) falls below `collapse_spread` times its highest
      logged value, if that was above 0.1; or below 1e-6: all people look alike to the model. In batches of at least 8.
    - Held-out mAP falls below `collapse_share` times its best so far, where that was well above chance.

    The last good checkpoint is the newest up to an evaluation within a tenth of the best mAP; while mAP tells nothing
    yet, the newest before a line of the log that passed. Rotation keeps it.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.watching = False

    def on_train_begin(self, args, state, control, **kwargs):
        """Takes what the log of a resumed run holds as passed."""
        self.watching = True
        self._first_bad, self._batch_size = torch.tensor(-1, device=args.device), 0
        self._good_evaluation, best = 0, 0.0
        for entry in state.log_history:
            best = max(best, entry.get("eval_mAP", 0.0))
            self._note_evaluation(entry["step"], entry.get("eval_mAP", 0.0), best)
        self._passed_log = max((entry["step"] - 1 for entry in state.log_history if "loss" in entry), default=0)

    def on_train_end(self, args, state, control, **kwargs):
        """Looks at what was not logged or saved since; what is evaluated afterwards is not judged."""
        self._check_weights(state)
        self.watching = False

    def observe(self, loss: torch.Tensor, batch_size: int) -> None:
        """Remembers the first step whose loss was not finite, and how many triplets were compared."""
        self._batch_size = batch_size
        is_first = ~torch.isfinite(loss.detach()) & (self._first_bad < 0)
        self._first_bad = torch.where(is_first, self.trainer.state.global_step + 1, self._first_bad)

    def on_step_end(self, args, state, control, **kwargs):
        """Looks at weights before they are evaluated or saved."""
        if control.should_save or control.should_evaluate:
            self._check_weights(state)

    on_epoch_end = on_step_end

    def _check_weights(self, state) -> None:
        if self.watching and self._first_bad >= 0:
            self._stop_not_finite(state, "the loss is")
        trained = [p for p in self.trainer.model.parameters() if p.requires_grad]
        if self.watching and not torch.stack([torch.isfinite(p).all().to(p.device) for p in trained]).all():
            self._stop_not_finite(state, "weights are")

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Judges loss, gradient norm and spread."""
        if not self.watching or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]) or self._first_bad >= 0:  # logging_nan_inf_filter hides it from the log
            self._stop_not_finite(state, "the loss is")
        # fp16 skips steps whose gradient overflows, and halves the scale of the loss until they do not.
        scale = self.trainer.accelerator.scaler.get_scale() if args.fp16 else math.inf
        if scale < 1.0 or (not args.fp16 and not math.isfinite(logs.get("grad_norm", 0.0))):
            self._stop_not_finite(state, "the gradient is")
        # Batches are filled to half at least, unless there are no more triplets.
        filled = args.train_batch_size * args.world_size >= SMALLEST_BATCH <= 2 * self._batch_size
        if args.collapse_spread and filled:
            for name in (name for name in SPREADS if name in logs):
                highest = max(entry[name] for entry in state.log_history if name in entry)
                if logs[name] < (args.collapse_spread * highest if highest > APART else NOTHING):
                    self._stop_all_alike(state, f"{name.replace('_', ' ')} of the embeddings", logs[name], highest)
        self._passed_log = state.global_step - 1

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Judges held-out retrieval."""
        if not self.watching or "eval_mAP" not in metrics:
            return
        best = max(entry["eval_mAP"] for entry in state.log_history if "eval_mAP" in entry)
        now = metrics["eval_mAP"]
        if self._tells(best) and now < args.collapse_share * best:
            at_chance = ", which is chance" if now < 2.0 * self._chance() else ""
            self._stop(state, f"held-out mAP fell from {best:.1f} to {now:.1f}{at_chance}", self._rate(state))
        self._note_evaluation(state.global_step, now, best)

    def _chance(self) -> float:
        """mAP of a random order, percent: the mean of 1 / rank."""
        queries = self.trainer.eval_dataset
        num_queries = len(queries) if hasattr(queries, "__len__") else 1  # unknown: nothing is above chance
        return 100.0 * sum(1.0 / rank for rank in range(1, num_queries + 1)) / num_queries

    def _tells(self, best: float) -> bool:
        chance = self._chance()
        return best >= min(WELL_ABOVE_CHANCE * chance, (100.0 + chance) / 2)

    def _note_evaluation(self, step: int, mean_precision: float, best: float) -> None:
        if mean_precision >= GOOD_SHARE * best > 0.0 and self._tells(best):
            self._good_evaluation = step

    def last_good(self) -> Path | None:
        """The checkpoint to go back to, see above; None if there is none."""
        folder = self.trainer.run_folder
        found = checkpoints.newest_complete(folder, at_most=self._good_evaluation) if self._good_evaluation else None
        return found or checkpoints.newest_complete(folder, at_most=self._passed_log)

    def _rate(self, state) -> str:
        rates = [entry["learning_rate"] for entry in state.log_history if "learning_rate" in entry]
        return f"the learning rate is too high (it was {rates[-1]:.2g})" if rates else "the learning rate is too high"

    def _stop_not_finite(self, state, what: str) -> None:
        first = int(self._first_bad)
        since = f", first in step {first}" if 0 <= first < state.global_step else ""
        half = "fp16 overflowed (its largest number is 65,504), or " if self.trainer.args.fp16 else ""
        self._stop(state, f"{what} not finite{since}", half + self._rate(state))

    def _stop_all_alike(self, state, spread: str, now: float, highest: float) -> None:
        if highest >= NOTHING:
            cause = f"{self._rate(state)}: the model gives everybody nearly the same embedding"
            self._stop(state, f"the {spread} fell to {now:.2g}, from {highest:.2g}", cause)
        self._stop(
            state,
            f"the {spread} is {now:.2g}, and was no more at the beginning",
            "all images or captions are the same, or the model it starts from tells none apart",
            "Look at the training set (fafa verify FOLDER) and at that model.",
        )

    def _stop(self, state, what: str, cause: str, remedy: str = "") -> None:
        self.watching = False
        args, good = self.trainer.args, self.last_good()
        half = " --fp16 false --bf16 true" if args.fp16 else ""
        if not remedy and good is None:
            remedy = f"There is no good checkpoint yet: begin anew below learning_rate={args.learning_rate:g}.{half}"
        elif not remedy:
            remedy = (
                f"Go on from the last good checkpoint at a lower learning rate: --resume_from_checkpoint {good} "
                f"--learning_rate {args.learning_rate / 10:g}{half}"
            )
        if args.should_save:
            report = {
                "step": state.global_step,
                "what": what,
                "likely_cause": cause,
                "last_good_checkpoint": None if good is None else str(good),
                "last_good_step": 0 if good is None else checkpoints.step_of(good),
                "remedy": remedy,
            }
            write_json(self.trainer.run_folder / COLLAPSE, report)
        raise TrainingCollapsed(f"stopped after step {state.global_step}: {what}. Likely cause: {cause}. {remedy}")


class EarlyStopping(EarlyStoppingCallback):
    """Early stopping whose patience counts on after a resume, with the patience that is asked for now."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Counts again over the evaluations in the log; a run that had stopped stays stopped."""
        super().on_train_begin(args, state, control, **kwargs)
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        best, self.early_stopping_patience_counter = None, 0
        for value in (entry[name] for entry in state.log_history if name in entry):
            better = best is None or (value > best if args.greater_is_better else value < best)
            self.early_stopping_patience_counter = 0 if better else self.early_stopping_patience_counter + 1
            best = value if better else best
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
