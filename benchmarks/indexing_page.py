"""The page of what indexing.py measured."""

from collections.abc import Mapping
from typing import Any

from indexing_measures import BUSY
from indexing_turns import NUM_CROPS, PHOTOGRAPH

from fafa.tables import markdown_table


def to_markdown(record: Mapping[str, Any]) -> str:
    """The record as a page."""

    def compared(times: Mapping[str, Mapping[str, float]], label: str, a_second: bool) -> str:
        rows = []
        for name, took in times.items():
            cells = [f"{took[when]:.2f}" if when in took else "" for when in ("before", "now")]
            if a_second:
                cells += [f"{1e3 / took[when]:,.0f}" if when in took else "" for when in ("before", "now")]
            rows.append([name, *cells, f"{took['before'] / took['now']:.2f}" if "before" in took else ""])
        speeds = ["images/s before", "images/s now"] if a_second else []
        return markdown_table([label, "ms before", "ms now", *speeds, "times faster"], rows)

    steps = record["steps"]
    parts = [[part, f"{took:.2f}"] for part, took in record["queries"]["parts"].items()]
    lines = [
        "# Indexing images, and answering one query",
        "",
        f"{record['date']}, {record['processor']}, {record['cores']} cores (load average "
        f"{record['load_average']:.1f}), "
        f"torch {record['torch']}, Pillow {record['pillow']}: `{record['command']}`",
        "",
        "CPU time on one core, so that images a second are images a second and core: the least of some rounds, which "
        "other programs disturbed least. Before and now took turns in one process; before is the package at the commit "
        "named in the command. An index is a gallery's folder: before, features and a list of files; now also dates, "
        "means, codes of eight bits and checksums of each image, which take time here and save it in searches.",
        "",
        compared(record["reading"], "an image, from its file to pixel values, or into an index", a_second=True),
        "",
        "Where the time of one image goes now, CPU milliseconds, released sizes:",
        "",
        markdown_table(
            ["step", *steps],
            [
                [name, *(f"{steps[kind][name]:.3f}" if name in steps[kind] else "" for kind in steps)]
                for name in steps["photographs"]
            ],
        ),
        "",
        f"One query over {NUM_CROPS} images, tiny model, one core:",
        "",
        compared(record["queries"]["whole"], "query", a_second=False),
        "",
        markdown_table(["of a crop and a caption", "ms"], parts),
        "",
        f"Drafts of photographs of {PHOTOGRAPH[0]} x {PHOTOGRAPH[1]} pixels against whole ones; the margin says how "
        "many times larger than the person's size a draft is at least. Levels are of 255, after the resize to 384 x "
        "192; cosines of target tokens and scores are the tiny model's:",
        "",
        markdown_table(
            ["margin", "decoded at", "mean level", "largest", "least cosine", "largest change of a score"],
            [
                [margin, f"1/{row['scale']}", f"{row['mean_levels']:.2f}", row["most_levels"],
                 f"{row['least_cosine']:.5f}", f"{row['most_score_difference']:.5f}"]
                for margin, row in record["drafts"].items()
            ],
        ),
    ]  # fmt: skip
    if "busy" in record:
        busy = {f"{name}: {clock}": took for name, clocks in record["busy"].items() for clock, took in clocks.items()}
        lines += [
            "",
            f"Beside {BUSY} processes that never rest (and what else ran), torch's threads at their defaults, medians:",
            "",
            compared(busy, "an image, or a query", a_second=False),
        ]
    if libraries := record.get("libraries"):
        table = [
            [name, f"{row['photographs']:.1f}", f"{row['crops']:.2f}" if "crops" in row else "", row.get("levels", "")]
            for name, row in libraries.items()
        ]
        lines += [
            "",
            "Decoders of a whole file in memory, CPU milliseconds, and the largest difference from Pillow's levels:",
            "",
            markdown_table(["decoder", "photograph", "crop", "levels"], table),
        ]
    return "\n".join(lines) + "\n"
