"""Plans what a recipe would make and cost, from its own assumptions."""

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
        seconds: Seconds of one GPU.
        megabytes: Megabytes on disk.
    """

    stage: str
    items: float
    read: float = 0
    written: float = 0
    seconds: float = 0
    megabytes: float = 0


class Estimates(Settings):
    """Assumptions about one item, only for the plan; measure them with `--limit 20`, and write them here.

    Seconds are those for which a GPU is occupied, also while it waits for the CPU: seconds of one core, divided by the
    number of working cores.

    Attributes:
        writing_input_tokens: Tokens the language model reads per quadruple or prompt, repeated attempts included.
        writing_output_tokens: Tokens it writes.
        output_tokens_per_second: Speed of one GPU that serves the language model, over all requests under way.
        keep_texts: Share of the texts that pass their checks and are not near-duplicates.
        picture_seconds: Seconds of one GPU per diptych, or image of a person.
        picture_megabytes: Its megabytes on disk, with what is cut out of it.
        split_seconds: Seconds of one GPU per diptych, to cut it and to find the person in each half.
        keep_gates: Share of the images that can be cut and pass the gates, or the pose filter.
        gate_seconds: Seconds of one GPU per diptych for gates, or per image of a person for poses.
        judgement_input_tokens: Tokens the judge reads per pair, or to write captions; an image counts as several
            hundred.
        judgement_output_tokens: Tokens it writes.
        judgements_per_second: Speed of one GPU.
        keep_triplets: Share of the judged triplets that is kept.
        gpu_hour_price: Price in any currency.
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
