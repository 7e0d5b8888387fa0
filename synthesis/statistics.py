"""The page about a finished synthesis: what is in the data set, what was rejected on the way, and how it looks.

    statistics.md      the page to read; written last, so where it is, the rest is whole
    statistics.json    every number on it
    *.png, *.jpg       group sizes, lengths, acceptance, scores; some pairs that were kept, and some that were not

Triplets, records and scores are read once, one by one; memory holds counts, the distinct words and n-grams, and four
bytes per score. `text_image.statistics` writes the page of text-image sets with the same parts.
"""

import json
import logging
import re
from array import array
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..markdown_text import plain
from .components import Record, SynthesisError, seed_of
from .filtering.controls import LOST, SPOILT, TURNED
from .stages import REJECTED, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PUBLISHED = {  # what the papers say of the published data sets, by the names of `summarise`
    "SynCPR": {
        "triplets": "1,153,230",
        "groups": "177,530",
        "triplets per group, mean": "6.5",
        "words per caption, mean": "13.3",
        "distinct words": "4,370",
        "kept of all possible triplets": "41 %",
    },
    "CIRHS": {"triplets": "534 thousand", "words per edit, mean": "10.2"},
}

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_ATTRIBUTES = ("constraints", "outfits", "outfit")  # fields of a record that say what it is about
_MOST_VALUES, _MOST_REASONS = 12, 12  # listed on the page
_KEPT_SHOWN, _REJECTED_SHOWN = 12, 18  # cards on a sheet
_BINS = 40

_OVERVIEW_NOTE = (
    "Words are runs of letters and digits, in lower case. A group is what one quadruple gives in one direction. Two "
    "triplets are possible of every diptych that was to be painted."
)


def write_statistics(
    folder: Path,
    name: str,
    triplets: Iterable[Mapping[str, Any]],
    *,
    id_field: str = "cpr_id",
    stages: Mapping[str, Mapping[str, Any]] | None = None,
    quadruples: Iterable[Record] = (),
    scores: Iterable[Mapping[str, float]] = (),
    controls: Mapping[str, Any] | None = None,
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    kept: Iterable[Record] = (),
    rejected: Iterable[Record] = (),
    images: Path = Path(),
    measures: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the page, its numbers and its pictures.

    Args:
        folder: Where they go; made if need be.
        name: Of the data set; published figures of this name stand beside the own ones.
        triplets: Records in the form of SynCPR.json.
        id_field: Of a triplet's group.
        stages: By name and in order: `{"items": number, "rejected": {reason: number}}`. The possible triplets are two
            per item of "diptychs".
        quadruples: Those kept, for diversity and for what they are about.
        scores: Of each pair, by name.
        controls: Of the judge, see `filtering.controls.ControlTally.as_dict`; None where there are none.
        bounds: Of scores: lowest and highest that is kept, drawn into their histograms.
        kept: Triplets that were kept: `id`, `left`, `right`, `edit_ab`, `edit_ba`, and "ab" or "ba" as `direction`.
        rejected: Triplets or pairs that were rejected: the same, and the reason as `rejected`. Where there are no
            halves, the diptych under `image` is shown.
        images: What their image paths are relative to.
        measures: Further numbers to list, such as an embedding spread, CLIPScore, FID.
        seed: Of the choice of pairs that are shown.

    Returns:
        What statistics.json holds.

    Raises:
        SynthesisError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counted = count_triplets(triplets, id_field)
    if not counted["triplets"]:
        logger.warning("%s: no triplet was kept; statistics.md tells why", folder)
    stages = dict(stages or {})
    coverage, diversity = count_quadruples(quadruples)
    columns = _as_columns(scores)
    possible = 2 * stages["diptychs"]["items"] if "diptychs" in stages else None
    found = {
        "name": name,
        **counted,
        "kept of all possible triplets": counted["triplets"] / possible if possible else None,
        "stages": stages,
        "scores": {score: _describe(values) for score, values in columns.items()},
        **({"controls": dict(controls)} if controls else {}),
        "coverage": coverage,
        "measures": diversity | dict(measures or {}),
    }
    pictures = draw_charts(folder, _charts(found, columns, bounds or {}))
    for file, title, records in (
        ("kept.jpg", "Kept pairs", choose_records(kept, _KEPT_SHOWN, seed)),
        ("rejected.jpg", "Rejected pairs", choose_records(rejected, _REJECTED_SHOWN, seed)),
    ):
        if records:
            _draw_sheet(folder / file, title, f"{name}: drawn at random (seed {seed})", records, images)
            pictures.append(file)
    write_page(folder, found, _page(found, pictures))
    return found


# Counting


def count_triplets(triplets: Iterable[Mapping[str, Any]], id_field: str) -> dict[str, Any]:
    """Counts of triplets, groups and words, and how often each size and length occurs."""
    groups: Counter[int] = Counter()
    lengths = {"caption": Counter(), "edit": Counter()}
    words: dict[str, set[str]] = {"caption": set(), "edit": set()}
    num_triplets = 0
    for triplet in triplets:
        num_triplets += 1
        groups[triplet[id_field]] += 1
        for field in ("reference_caption", "target_caption", "edit_caption"):
            found = words_of(triplet[field])
            kind = "edit" if field == "edit_caption" else "caption"
            lengths[kind][len(found)] += 1
            words[kind].update(found)
    sizes = Counter(groups.values())
    return {
        "triplets": num_triplets,
        "groups": len(groups),
        "triplets per group, mean": mean_of(sizes),
        "words per caption, mean": mean_of(lengths["caption"]),
        "words per edit, mean": mean_of(lengths["edit"]),
        "distinct words": len(words["caption"] | words["edit"]),
        "distinct words in edits": len(words["edit"]),
        "group sizes": dict(sorted(sizes.items())),
        "caption lengths": dict(sorted(lengths["caption"].items())),
        "edit lengths": dict(sorted(lengths["edit"].items())),
    }


def count_quadruples(quadruples: Iterable[Record]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What quadruples are about, and how varied their texts are.

    Returns:
        For every attribute, the share of quadruples in which each value occurs, most frequent first; and distinct-1 to
        distinct-3 of captions and of edits: distinct n-grams as a share of all.
    """
    coverage, captions, edits = Coverage(), WordRuns(), WordRuns()
    for record in quadruples:
        coverage.add(record)
        for runs, fields in ((captions, ("caption_a", "caption_b")), (edits, ("edit_ab", "edit_ba"))):
            for field in fields:
                runs.add(record[field])
    return coverage.shares(), captions.distinct("captions") | edits.distinct("edits")


class Coverage:
    """Counts in how many records a value of an attribute occurs."""

    def __init__(self) -> None:
        self._count = 0
        self._values: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, record: Record) -> None:
        """Count a record, by its fields that say what it is about."""
        self._count += 1
        about = {pair for field in _ATTRIBUTES for pair in _attributes(record.get(field), "")}
        for attribute, value in about:
            self._values[attribute][value] += 1

    def shares(self) -> dict[str, dict[str, float]]:
        """For every attribute, the share of records in which each value occurs, most frequent first."""
        return {
            attribute: {
                value: found / self._count
                for value, found in sorted(counter.items(), key=lambda one: (-one[1], one[0]))
            }
            for attribute, counter in sorted(self._values.items())
        }


class WordRuns:
    """Counts runs of one to three words in texts."""

    def __init__(self) -> None:
        self._found: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
        self._totals: Counter[int] = Counter()

    def add(self, text: str) -> None:
        """Count the runs of a text."""
        words = words_of(text)
        for n, found in self._found.items():
            runs = [hash(words[i : i + n]) for i in range(len(words) - n + 1)]
            found.update(runs)
            self._totals[n] += len(runs)

    def distinct(self, kind: str) -> dict[str, float]:
        """distinct-1 to distinct-3 of texts of this kind: different runs as a share of all."""
        return {f"distinct-{n} of {kind}": len(found) / self._totals[n] for n, found in self._found.items() if found}


def _attributes(content: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every single value in nested mappings and lists, with the keys that lead to it."""
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield from _attributes(inner, f"{name} {key}".strip())
    elif isinstance(content, (list, tuple)):
        for inner in content:
            yield from _attributes(inner, name)
    elif content is not None:
        yield name, str(content)


@lru_cache(maxsize=4096)  # the triplets of a quadruple follow one another
def words_of(text: str) -> tuple[str, ...]:
    """Runs of letters and digits, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def mean_of(counts: Mapping[int, int]) -> float:
    """The mean of numbers that occur so often; 0 of none."""
    return sum(value * count for value, count in counts.items()) / max(1, sum(counts.values()))


def _as_columns(scores: Iterable[Mapping[str, float]]) -> dict[str, np.ndarray]:
    columns: dict[str, array] = defaultdict(lambda: array("f"))
    for of_pair in scores:
        for name, score in of_pair.items():
            columns[name].append(score)
    return {name: np.frombuffer(column, dtype=np.float32) for name, column in columns.items()}


def _describe(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, (5, 50, 95)).tolist()
    return {"count": len(values), "mean": float(values.mean(dtype=float)), "5 %": low, "median": median, "95 %": high}


def choose_records(records: Iterable[Record], most: int, seed: int) -> list[Record]:
    """Some records of every reason, drawn at random, whatever their order; the most frequent reasons first."""
    chosen: dict[str, list[tuple[int, str, Record]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for record in records:
        reason = record.get(REJECTED, "")
        counts[reason] += 1
        insort(
            chosen[reason], (seed_of(seed, "sheet", record["id"]), record["id"], record), key=lambda entry: entry[:2]
        )
        del chosen[reason][most:]
    per_reason = max(2, most // max(1, len(chosen)))
    return [record for reason, _ in counts.most_common() for *_, record in chosen[reason][:per_reason]][:most]


# The page


def summarise(found: Mapping[str, Any]) -> dict[str, str]:
    """The numbers of the overview, as text."""
    share = found["kept of all possible triplets"]
    return {
        "triplets": f"{found['triplets']:,}",
        "groups": f"{found['groups']:,}",
        "triplets per group, mean": f"{found['triplets per group, mean']:.1f}",
        "words per caption, mean": f"{found['words per caption, mean']:.1f}",
        "words per edit, mean": f"{found['words per edit, mean']:.1f}",
        "distinct words": f"{found['distinct words']:,}",
        "kept of all possible triplets": "not known" if share is None else f"{100 * share:.0f} %",
    }


def _page(found: Mapping[str, Any], pictures: Sequence[str]) -> dict[str, list[str]]:
    name, published = found["name"], PUBLISHED.get(found["name"], {})
    overview = [
        [key, value, *([published.get(key, "")] if published else [])] for key, value in summarise(found).items()
    ]
    scores = [
        [score, f"{entry['count']:,}", *(f"{entry[key]:.3g}" for key in ("mean", "5 %", "median", "95 %"))]
        for score, entry in found["scores"].items()
    ]
    return {
        f"# {plain(name)}: statistics of the synthesis": [
            table(["", "here", *(["published"] if published else [])], overview),
            _OVERVIEW_NOTE,
            *shown(pictures, "groups.png", "lengths.png"),
        ],
        "## Acceptance": acceptance_section(found["stages"], pictures),
        "## Scores": [
            table(["score", "pairs", "mean", "5 % below", "median", "95 % below"], scores),
            "Dashed lines in the picture are the bounds between which a triplet is kept.",
            *shown(pictures, "scores.png"),
        ],
        **({"## The judge's controls": control_section(found["controls"])} if "controls" in found else {}),
        "## What the quadruples are about": [
            "The share of the quadruples in which a value occurs.",
            coverage_table(found["coverage"]),
        ],
        "## Diversity and quality": [
            "distinct-n: different runs of n words, as a share of all such runs in the quadruples.",
            measure_table(found["measures"]),
        ],
        "## Pairs": shown(pictures, "kept.jpg", "rejected.jpg"),
    }


def control_section(tally: Mapping[str, Any], bounds: str = "the judge's bounds") -> list[str]:
    """Paragraphs and a table for a page: what is known of how well the judge looks.

    Args:
        tally: What `ControlTally.as_dict` gives.
        bounds: What the bounds are called on this page.
    """
    rows = []
    for kind in SPOILT:
        if found := tally.get(kind):
            shown, told, kept = found["shown"], found["told apart"], found["kept by the bounds"]
            kept_text = "no bounds" if kept is None else f"{kept:,} ({100 * kept / shown:.0f} %)"
            rows.append([kind, f"{shown:,}", f"{told:,} ({100 * told / shown:.0f} %)", kept_text])
    section = [
        "Some pairs were shown to the judge once more, spoilt on purpose. Told apart are those that got lower marks "
        "than the pair that they were made of. Marks without a look tell half of them apart at most; bounds that keep "
        "many of them keep faulty pairs.",
        *([table(["spoilt pairs", "shown", "told apart", f"kept by {bounds}"], rows)] if rows else []),
    ]
    if (turned := tally[TURNED])["shown"]:
        section.append(
            f"Shown once more with left and right exchanged, texts and all, {turned['same decision']:,} of "
            f"{turned['shown']:,} pairs were decided on as before; a mark differed by "
            f"{turned['mean difference of a mark']:.2f} in the mean."
        )
    if lost := tally[LOST]:
        section.append(
            f"{lost:,} more of these pairs say nothing: the judge gave no usable marks, then or for the sound pair."
        )
    return section


def write_page(folder: Path, found: Mapping[str, Any], sections: Mapping[str, Sequence[str]]) -> None:
    """Write statistics.json and then statistics.md, which holds a heading and its parts for each section."""
    write_whole(folder / "statistics.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    parts = (part for heading, parts in sections.items() for part in (heading, *parts))
    write_whole(folder / "statistics.md", "\n\n".join(parts) + "\n")


def acceptance_section(stages: Mapping[str, Mapping[str, Any]], pictures: Sequence[str]) -> list[str]:
    """What each stage kept, and why it rejected the rest; `stages` as for `write_statistics`."""
    rows = [
        [stage, f"{counts['items']:,}", f"{_num_kept(counts):,}", percent(_num_kept(counts), counts["items"])]
        for stage, counts in stages.items()
    ]
    return [
        table(["stage", "items", "kept", ""], rows),
        *shown(pictures, "acceptance.png"),
        "Rejected, the most frequent reasons of each stage first:",
        table(["stage", "reason", "items", ""], _reason_rows(stages)),
    ]


def shown(pictures: Sequence[str], *names: str) -> list[str]:
    """The pictures of these names that were drawn, in Markdown."""
    return [f"![{name.split('.')[0]}]({name})" for name in names if name in pictures]


def _reason_rows(stages: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for stage, counts in stages.items():
        reasons = sorted(counts["rejected"].items(), key=lambda entry: -entry[1])
        for reason, number in reasons[:_MOST_REASONS]:
            rows.append([stage, reason, f"{number:,}", percent(number, counts["items"])])
        if rest := reasons[_MOST_REASONS:]:
            number = sum(count for _, count in rest)
            rows.append([stage, f"{len(rest):,} other reasons", f"{number:,}", percent(number, counts["items"])])
    return rows


def coverage_table(coverage: Mapping[str, Mapping[str, float]]) -> str:
    """The most frequent values of every attribute; `coverage` as `Coverage.shares` gives it."""
    rows = []
    for attribute, shares in coverage.items():
        listed = [f"{value} {100 * share:.1f} %" for value, share in list(shares.items())[:_MOST_VALUES]]
        more = f"; and {len(shares) - _MOST_VALUES:,} more values" if len(shares) > _MOST_VALUES else ""
        rows.append([attribute, ", ".join(listed) + more])
    return table(["attribute", "values"], rows)


def measure_table(measures: Mapping[str, float]) -> str:
    """Measures, four digits of each."""
    return table(["measure", "value"], [[key, f"{value:.4g}"] for key, value in measures.items()])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; "None." without rows."""
    if not rows:
        return "None."
    lines = [" | ".join(map(plain, line)) for line in (header, *rows)]
    lines.insert(1, " | ".join(["---"] * len(header)))
    return "\n".join(f"| {line} |" for line in lines)


def _num_kept(counts: Mapping[str, Any]) -> int:
    return counts["items"] - sum(counts["rejected"].values())


def percent(part: float, whole: float) -> str:
    """A share as text; empty where there is nothing to share."""
    return f"{100 * part / whole:.1f} %" if whole else ""


# Pictures


def draw_charts(folder: Path, charts: Mapping[str, Callable[["Figure"], None]]) -> list[str]:
    """Draw charts by the names of their files, in the look of evaluation reports; returns these names.

    Raises:
        SynthesisError: matplotlib is missing.
    """
    try:
        from ..evaluation.pictures import STYLE, Figure, matplotlib
    except ImportError as error:
        raise SynthesisError(f"{folder}: the charts cannot be drawn: {error}") from None

    with matplotlib.rc_context(STYLE):
        for file, draw in charts.items():
            figure = Figure()
            draw(figure)
            figure.savefig(folder / file)
    return list(charts)


def _charts(
    found: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    bounds: Mapping[str, tuple[float | None, float | None]],
) -> dict[str, Callable[["Figure"], None]]:
    """All charts there is something for."""
    charts: dict[str, Callable[[Figure], None]] = {}
    if found["triplets"]:
        lengths = {"captions": found["caption lengths"], "edits": found["edit lengths"]}
        charts["groups.png"] = partial(size_chart, found["group sizes"], "groups", "triplets")
        charts["lengths.png"] = partial(length_chart, lengths)
    if found["stages"]:
        charts["acceptance.png"] = partial(acceptance_chart, found["stages"])
    if columns:
        charts["scores.png"] = partial(_score_chart, columns, bounds)
    return charts


def size_chart(sizes: Mapping[int, int], groups: str, members: str, figure: "Figure") -> None:
    """Which share of the groups has how many members; `groups` and `members` say what these are, in the plural."""
    from ..evaluation.pictures import COLOURS, GREY

    axes = figure.subplots()
    total = sum(sizes.values())
    shares = [100 * count / total for count in sizes.values()]
    bars = axes.bar(list(sizes), shares, color=COLOURS["image+caption"], width=0.8)
    if len(sizes) <= 12:
        axes.set_xticks(list(sizes))
        axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=2, color=GREY, fontsize=10)
    axes.grid(visible=False)
    axes.margins(y=0.1)
    axes.set(xlabel=members, ylabel=f"{groups} (%)", title=f"{total:,} {groups} by their number of {members}")


def length_chart(lengths: Mapping[str, Mapping[int, int]], figure: "Figure") -> None:
    """How long texts are, in words: of each kind (two at most), which share has which length."""
    from ..evaluation.pictures import COLOURS, DASHES

    axes = figure.subplots()
    for (kind, counter), mode in zip(lengths.items(), ("image+caption", "caption"), strict=False):
        positions = range(min(counter), max(counter) + 1)
        total = sum(counter.values())
        axes.plot(
            positions,
            [100 * counter.get(position, 0) / total for position in positions],
            color=COLOURS[mode],
            linestyle=DASHES[mode],
            marker=".",
            label=f"{kind}, mean {mean_of(counter):.1f}",
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="words", ylabel="texts (%)", title=f"Lengths of {' and '.join(lengths)}")
    axes.legend()


def acceptance_chart(stages: Mapping[str, Mapping[str, Any]], figure: "Figure") -> None:
    """A bar per stage, in order: what it kept of what came to it, with the numbers."""
    from ..evaluation.pictures import COLOURS, GREY

    figure.set_figheight(0.9 + 0.42 * len(stages))
    axes = figure.subplots()
    for place, counts in enumerate(stages.values()):
        kept, items = _num_kept(counts), counts["items"]
        share = 100 * kept / items if items else 0.0
        axes.barh(place, 100, color="#e3e8ee", height=0.7)
        axes.barh(place, share, color=COLOURS["image"], height=0.7)
        axes.annotate(
            f"{kept:,} of {items:,}, {share:.1f} %",
            (101.5, place),
            va="center",
            color=GREY,
            fontsize=10,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(stages)), list(stages))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set(xlim=(0, 100), xlabel="kept of what came to the stage (%)", title="Acceptance per stage")


def _score_chart(
    columns: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[float | None, float | None]], figure: "Figure"
) -> None:
    """A small histogram per score, between its 0.2 % and 99.8 % quantiles: single outliers would flatten the rest."""
    from ..evaluation.pictures import COLOURS

    num_columns = min(3, len(columns))
    num_rows = -(-len(columns) // num_columns)
    figure.set_size_inches(3.2 * num_columns, 2.3 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, (name, values) in zip(grid, columns.items(), strict=False):
        limits = [limit for limit in bounds.get(name, ()) if limit is not None]
        ends = [*np.percentile(values, (0.2, 99.8)).tolist(), *limits]
        axes.hist(values, bins=_BINS, range=(min(ends), max(ends)), color=COLOURS["image+caption"])
        for limit in limits:
            axes.axvline(limit, color=COLOURS["caption"], linestyle="--", linewidth=1.5)
        axes.set_title(name)
        axes.set_yticks([])
        axes.grid(visible=False)
    for axes in grid[len(columns) :]:
        axes.set_axis_off()


def _draw_sheet(file: Path, title: str, subtitle: str, records: Sequence[Record], images: Path) -> None:
    from .pair_sheet import PairCard, draw_pairs

    cards = []
    for record in records:
        direction = record.get("direction", "ab")
        sides = ("left", "right") if direction == "ab" else ("right", "left")
        paths = [record[side] for side in sides] if "left" in record else [record["image"]]
        note, is_kept = record.get(REJECTED, record["id"]), REJECTED not in record
        cards.append(PairCard([images / path for path in paths], record[f"edit_{direction}"], note, is_kept))
    draw_pairs(cards, title, subtitle).save(file, quality=90)
