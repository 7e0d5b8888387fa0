"""Plans what a recipe would make and cost, from its own assumptions."""

from collections.abc import Sequence
from typing import NamedTuple

from .settings import NotNegative, Settings, Share


class Amount(NamedTuple):
    """What a stage makes, and what each of its items takes."""

    stage: str  # its name
    items: float  # how many it works on
    read: float = 0  # tokens that a model reads
    written: float = 0  # tokens that it writes
    seconds: float = 0  # seconds of one GPU
    megabytes: float = 0  # megabytes on disk


class Estimates(Settings):
    """Assumptions about one item, only for the plan; measure them with `--limit 20`, and write them here.

    Seconds are those for which a GPU is occupied, also while it waits for the CPU: seconds of one core, divided by the
    number of working cores.
    """

    # tokens the language model reads per quadruple or prompt, repeated attempts included
    writing_input_tokens: NotNegative = 0
    writing_output_tokens: NotNegative = 0  # tokens it writes
    # speed of one GPU that serves the language model, over all requests under way
    output_tokens_per_second: NotNegative = 0
    keep_texts: Share = 1  # share of the texts that pass their checks and are not near-duplicates
    picture_seconds: NotNegative = 0  # seconds of one GPU per diptych, or image of a person
    picture_megabytes: NotNegative = 0  # its megabytes on disk, with what is cut out of it
    split_seconds: NotNegative = 0  # seconds of one GPU per diptych, to cut it and to find the person in each half
    keep_gates: Share = 1  # share of the images that can be cut and pass the gates, or the pose filter
    gate_seconds: NotNegative = 0  # seconds of one GPU per diptych for gates, or per image of a person for poses
    # tokens the judge reads per pair, or to write captions; an image counts as several hundred
    judgement_input_tokens: NotNegative = 0
    judgement_output_tokens: NotNegative = 0  # tokens it writes
    judgements_per_second: NotNegative = 0  # speed of one GPU
    keep_triplets: Share = 1  # share of the judged triplets that is kept
    gpu_hour_price: NotNegative = 0  # price in any currency

    def writing(self, stage: str, items: float) -> Amount:
        """What texts take."""
        read, written, speed = self.writing_input_tokens, self.writing_output_tokens, self.output_tokens_per_second
        return Amount(stage, items, read, written, written / speed if speed else 0.0, 1e-3)

    def painting(self, stage: str, items: float) -> Amount:
        """What images take."""
        return Amount(stage, items, seconds=self.picture_seconds, megabytes=self.picture_megabytes)

    def looking(self, stage: str, items: float, megabytes: float) -> Amount:
        """What a model takes to look at images and say something."""
        read, written, speed = self.judgement_input_tokens, self.judgement_output_tokens, self.judgements_per_second
        return Amount(stage, items, read, written, 1 / speed if speed else 0.0, megabytes)


def plan_table(assumed: Estimates, amounts: Sequence[Amount]) -> str:
    """A table of stages, with their sums: items, tokens, GPU-hours, disk."""
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
