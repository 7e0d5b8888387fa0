"""What a recipe would make and cost, from the assumptions that stand in it."""

from typing import TYPE_CHECKING

from .settings import NotNegative, Settings, Share

if TYPE_CHECKING:
    from .text_image.pipeline import TextImageRecipe
    from .triplets.pipeline import TripletRecipe


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


def plan_triplets(recipe: "TripletRecipe") -> str:
    """A table of stages: items, tokens, GPU-hours, disk, and what they come to."""
    assumed, count = recipe.estimates, recipe.count
    per_quadruple = recipe.diptychs.realistic + recipe.diptychs.diverse
    distinct = count * assumed.keep_texts
    diptychs = distinct * per_quadruple
    judged = diptychs * assumed.keep_gates if recipe.judge else 0
    triplets = 2 * diptychs * assumed.keep_gates * assumed.keep_triplets

    writing = _over(count * assumed.writing_output_tokens, assumed.output_tokens_per_second)
    judging = _over(judged, assumed.judgements_per_second)
    rows = [  # stage, items, tokens read and written, GPU-seconds, megabytes
        ("quadruples", count, assumed.writing_input_tokens, assumed.writing_output_tokens, writing, count * 1e-3),
        ("diptychs", diptychs, 0, 0, diptychs * assumed.picture_seconds, diptychs * assumed.picture_megabytes),
        ("split", diptychs, 0, 0, diptychs * assumed.split_seconds, diptychs * 2e-4),
        ("gates", diptychs, 0, 0, diptychs * assumed.gate_seconds, diptychs * 4e-4),
        ("judgements", judged, assumed.judgement_input_tokens, assumed.judgement_output_tokens, judging, judged * 3e-4),
        ("triplets", triplets, 0, 0, 0, triplets * 5e-4),
    ]
    return _as_table(assumed, rows)


def plan_pictures(recipe: "TextImageRecipe") -> str:
    """A table of stages: items, GPU-hours, disk, and what they come to."""
    assumed = recipe.estimates
    pictures = recipe.count * recipe.pictures.per_prompt
    kept = pictures * assumed.keep_gates
    edits = kept * recipe.edits.per_picture if recipe.edits else 0
    captioned = kept + edits * assumed.keep_gates
    captioning = _over(captioned, assumed.judgements_per_second)
    seen = (assumed.judgement_input_tokens, assumed.judgement_output_tokens)
    written = (assumed.writing_input_tokens, assumed.writing_output_tokens)
    writing = _over(recipe.count * assumed.writing_output_tokens, assumed.output_tokens_per_second)
    rows = [
        ("prompts", recipe.count, *written, writing, recipe.count * 1e-3),
        ("pictures", pictures, 0, 0, pictures * assumed.picture_seconds, pictures * assumed.picture_megabytes),
        ("poses", pictures, 0, 0, pictures * assumed.gate_seconds, pictures * 1e-3),
        ("edits", edits, 0, 0, edits * assumed.picture_seconds, edits * assumed.picture_megabytes),
        ("captions", captioned, *seen, captioning, captioned * 1e-3),
    ]
    return _as_table(assumed, rows)


def _as_table(assumed: Estimates, rows: list[tuple[str, float, float, float, float, float]]) -> str:
    lines = [f"{'':12} {'items':>11} {'tokens read':>14} {'written':>13} {'GPU-hours':>10} {'disk GB':>9}"]
    for name, items, read, written, seconds, megabytes in rows:
        tokens = f"{items * read:>14,.0f} {items * written:>13,.0f}"
        lines.append(f"{name:12} {items:>11,.0f} {tokens} {seconds / 3600:>10,.1f} {megabytes / 1024:>9,.1f}")
    hours, gigabytes = sum(row[4] for row in rows) / 3600, sum(row[5] for row in rows) / 1024
    lines.append(f"{'in all':12} {'':>11} {'':>14} {'':>13} {hours:>10,.1f} {gigabytes:>9,.1f}")
    if assumed.gpu_hour_price:
        lines.append(f"At {assumed.gpu_hour_price:g} a GPU-hour: {hours * assumed.gpu_hour_price:,.0f}.")
    if assumed == Estimates():
        lines.append("The recipe has no `estimates:`; time and disk are unknown.")
    return "\n".join(lines)


def _over(amount: float, rate: float) -> float:
    return amount / rate if rate else 0.0
