"""What a recipe would make and cost, from the assumptions that stand in it."""

from collections.abc import Sequence
from typing import NamedTuple

from .settings import NotNegative, Settings, Share


class Amount(NamedTuple):
    """What a stage makes, and what each of its items takes.

    Attributes:
        stage: Its name.
        items: How many it works on.
        read: Tokens that a model reads.
        written: Tokens that it writes.
        seconds: Of one GPU.
        megabytes: On disk.
    """

    stage: str
    items: float
    read: float = 0
    written: float = 0
    seconds: float = 0
    megabytes: float = 0


class Estimates(Settings):
    """Assumptions about one item, for the plan alone; measure them with `--limit 20`, and write them here.

    Seconds are those for which a GPU is taken, also while it waits for the CPU: seconds of one core, divided by the
    cores at work.

    Attributes:
        writing_input_tokens: Read by the language model per quadruple or prompt, repeated attempts included.
        writing_output_tokens: Written by it.
        output_tokens_per_second: Of one GPU that serves the language model, over all requests under way.
        keep_texts: Share of the texts that pass their checks and are no near-duplicates.
        picture_seconds: Of one GPU per diptych, or picture of a person.
        picture_megabytes: On disk, with what is cut out of it.
        split_seconds: Of one GPU per diptych, to cut it and to find the person in each half.
        keep_gates: Share of the pictures that can be cut and pass the gates, or the pose filter.
        gate_seconds: Of one GPU per diptych, for gates; or per picture of a person, for poses.
        judgement_input_tokens: Read by the judge per pair, or to write captions; a picture counts as several hundred.
        judgement_output_tokens: Written by it.
        judgements_per_second: Of one GPU.
        keep_triplets: Share of the judged triplets that is kept.
        gpu_hour_price: In any currency.
    """

    writing_input_tokens: NotNegative = 0
    writing_output_tokens: NotNegative = 0
    output_tokens_per_second: NotNegative = 0
    keep_texts: Share = 1
    picture_seconds: NotNegative = 0
    picture_megabytes: NotNegative = 0
    split_seconds: NotNegative = 0
    keep_gates: Share = 1
    gate_seconds: NotNegative = 0
    judgement_input_tokens: NotNegative = 0
    judgement_output_tokens: NotNegative = 0
    judgements_per_second: NotNegative = 0
    keep_triplets: Share = 1
    gpu_hour_price: NotNegative = 0

    def writing(self, stage: str, items: float) -> Amount:
        """What texts take."""
        seconds = _over(self.writing_output_tokens, self.output_tokens_per_second)
        return Amount(stage, items, self.writing_input_tokens, self.writing_output_tokens, seconds, 1e-3)

    def painting(self, stage: str, items: float) -> Amount:
        """What pictures take."""
        return Amount(stage, items, seconds=self.picture_seconds, megabytes=self.picture_megabytes)

    def looking(self, stage: str, items: float, megabytes: float) -> Amount:
        """What it takes a model to look at pictures and say something."""
        read, written = self.judgement_input_tokens, self.judgement_output_tokens
        return Amount(stage, items, read, written, _over(1, self.judgements_per_second), megabytes)


def plan_table(assumed: Estimates, amounts: Sequence[Amount]) -> str:
    """A table of stages: items, tokens, GPU-hours, disk, and what they come to."""
    lines = [f"{'':12} {'items':>11} {'tokens read':>14} {'written':>13} {'GPU-hours':>10} {'disk GB':>9}"]
    for name, items, read, written, seconds, megabytes in amounts:
        tokens = f"{items * read:>14,.0f} {items * written:>13,.0f}"
        lines.append(
            f"{name:12} {items:>11,.0f} {tokens} {items * seconds / 3600:>10,.1f} {items * megabytes / 1024:>9,.1f}"
        )
    hours = sum(amount.items * amount.seconds for amount in amounts) / 3600
    gigabytes = sum(amount.items * amount.megabytes for amount in amounts) / 1024
    lines.append(f"{'in all':12} {'':>11} {'':>14} {'':>13} {hours:>10,.1f} {gigabytes:>9,.1f}")
    if assumed.gpu_hour_price:
        lines.append(f"At {assumed.gpu_hour_price:g} a GPU-hour: {hours * assumed.gpu_hour_price:,.0f}.")
    if assumed == Estimates():
        lines.append("The recipe has no `estimates:`; time and disk are unknown.")
    return "\n".join(lines)


def _over(amount: float, rate: float) -> float:
    return amount / rate if rate else 0.0
