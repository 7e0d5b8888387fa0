"""Queries as people think them: how to join terms, what minus terms and marks do, measured with simulated users.

    python benchmarks/query_terms.py --work DIR

On three painted worlds (sought_people.py) with the checkpoint that comes with the package: for each kind of term, one
vector (the weighted sum of the terms' vectors, of unit length) against late fusion (`retrieval.fusing`); minus terms by
their weight, and said in the sentence instead; simulated users (simulated_users.py) who mark results; two photographs
against one; eight wordings of one sentence. The constants in `retrieval` were chosen on worlds 11, 12 and 13.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from cells import RESULTS, told, told_difference, write_pages
from scoring import processor_name
from simulated_users import ROUNDS, SHOWN, USERS, collect, seek
from sought_people import NUM_WORDINGS, Searcher, World, encode, first_hits, load_tiny, make_sought
from torch import Tensor
from torch.nn import functional as F

from fafa.drawing.curves import band, chart
from fafa.drawing.palette import AMBER, BLUE, GREY, TEAL, VERMILION
from fafa.evaluation.intervals import intervals_over_groups, paired_bootstrap
from fafa.retrieval.feedback import WRONG
from fafa.retrieval.fusing import fuse
from fafa.retrieval.queries import MINUS_WEIGHT
from fafa.tables import markdown_table

ONE_VECTOR_MINUS = 0.5  # the best weight of a minus term for one vector, as MINUS_WEIGHT is for late fusion
NUM_CANDIDATES = (16, 48, 160)  # 1, 3 and 10 % of the gallery
MINUS_WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
STARTS = {"image+caption": BLUE, "caption": TEAL, "image": AMBER}


def encode_world(model, processor, world: World) -> dict[str, Tensor]:
    """Every vector that the page needs: name -> `(num_queries, dim)`."""
    one, two = ([person.references[number] for person in world.sought] for number in (0, 1))
    said = [person.captions[0] for person in world.sought]
    before = [world.paths[int(np.flatnonzero(row)[0])] for row in world.images("before")]
    upper, lower = ([getattr(person.after, slot) for person in world.sought] for slot in ("upper", "lower"))
    items = [person.item for person in world.sought]
    without = [f"{text.rstrip('.')}, without the {item.kind}" for text, item in zip(said, items, strict=True)]
    both = [f"a person in {_named(a)} and {_named(b)}" for a, b in zip(upper, lower, strict=True)]
    vectors = {
        "image+caption": encode(model, processor, one, said),
        "second+caption": encode(model, processor, two, said),
        "image": encode(model, processor, one),
        "second": encode(model, processor, two),
        "caption": encode(model, processor, None, said),
        "upper": encode(model, processor, None, [f"a person in {_named(item)}" for item in upper]),
        "lower": encode(model, processor, None, [f"a person in {_named(item)}" for item in lower]),
        "both": encode(model, processor, None, both),
        "without": encode(model, processor, one, without),
        "item": encode(model, processor, None, [f"a {item.kind}" for item in items]),
        "coloured item": encode(model, processor, None, [_named(item) for item in items]),
        "result+caption": encode(model, processor, before, said),
    }
    kept = world.features[[world.paths.index(path) for path in before]].mean(dim=1)
    vectors["result's features"] = F.normalize(kept, dim=1)
    for number in range(NUM_WORDINGS):
        wording = [person.captions[number] for person in world.sought]
        vectors[f"wording {number}"] = encode(model, processor, one, wording)
    return vectors


def _named(garment) -> str:
    words = (
        [garment.colour, garment.kind]
        if garment.pattern == "plain"
        else [garment.pattern, garment.colour, garment.kind]
    )
    text = " ".join(words)
    if garment.kind in ("jeans", "trousers", "shorts", "leggings"):
        return text
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def precisions(scores: Tensor, relevant: np.ndarray) -> np.ndarray:
    """Average precision, percent: `(num_queries,)`."""
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    hits = np.take_along_axis(relevant, order, axis=1)
    found = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return 100 * (found * hits).sum(axis=1) / hits.sum(axis=1)


def measure_terms(searcher: Searcher, v: Mapping[str, Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """kind of terms -> way -> `(num_queries, 2)`: Rank-1 and average precision of every query."""
    match, without = searcher.world.images("match"), searcher.world.images("without")

    def both(scores: Tensor, relevant: np.ndarray = match) -> np.ndarray:
        return np.stack([first_hits(scores, relevant), precisions(scores, relevant)], axis=1)

    def ways(
        names: Sequence[str], weights: Sequence[float], instead: Tensor, relevant: np.ndarray = match
    ) -> dict[str, np.ndarray]:
        terms = [v[name] for name in names]
        of_one = [weight if weight > 0 else -ONE_VECTOR_MINUS for weight in weights]
        return {
            "instead": both(instead, relevant),
            "one vector": both(searcher.one_vector(terms, of_one), relevant),
            "late fusion": both(searcher.late_fusion(terms, weights), relevant),
        }

    score = searcher.score
    single = (score(v["image+caption"]), score(v["second+caption"]))
    found = {
        "two photographs, each with the caption": ways(("image+caption", "second+caption"), (1, 1), single[0]),
        "two photographs alone": ways(("image", "second"), (1, 1), score(v["image"]), searcher.world.images("before")),
        "photograph and caption as two terms": ways(("image", "caption"), (1, 1), single[0]),
        "two sentences, on either garment": ways(("upper", "lower"), (1, 1), score(v["both"])),
        "the same, one weighing half": ways(("upper", "lower"), (1, 0.5), score(v["both"])),
        "a result's kept features and the caption": ways(
            ("result's features", "caption"), (1, 1), score(v["result+caption"])
        ),
        "four wordings, each with the photograph": ways([f"wording {n}" for n in range(4)], [1] * 4, single[0]),
        'minus "a backpack"': ways(("image+caption", "item"), (1, -MINUS_WEIGHT), score(v["without"]), without),
        'minus "a red backpack"': ways(
            ("image+caption", "coloured item"), (1, -MINUS_WEIGHT), score(v["without"]), without
        ),
    }
    # Of two photographs the page tells what one gives, whichever it is.
    alone = [both(scores) for scores in single]
    found["two photographs, each with the caption"]["instead"] = (alone[0] + alone[1]) / 2
    relevant = searcher.world.images("before")
    alone = [both(score(v[name]), relevant) for name in ("image", "second")]
    found["two photographs alone"]["instead"] = (alone[0] + alone[1]) / 2
    return found


def measure_minus(searcher: Searcher, v: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """way -> `(num_queries, 3)`: the first result lacks the item, has it, and whether it lacks it before it has it."""
    match, without = searcher.world.images("match"), searcher.world.images("without")

    def told_of(scores: Tensor) -> np.ndarray:
        best = [np.where(of, scores.numpy(), -np.inf).max(axis=1) for of in (without, match)]
        return np.stack([first_hits(scores, without), first_hits(scores, match), 100.0 * (best[0] > best[1])], axis=1)

    found = {
        "nothing said": told_of(searcher.score(v["image+caption"])),
        '"without the backpack" in the caption': told_of(searcher.score(v["without"])),
    }
    for name, term in (("backpack", "item"), ("red backpack", "coloured item")):
        for weight in MINUS_WEIGHTS:
            fused = searcher.late_fusion([v["image+caption"], v[term]], (1, -weight))
            found[f'minus "a {name}", {weight:g}'] = told_of(fused)
    fused = searcher.late_fusion([v["without"], v["item"]], (1, -MINUS_WEIGHT))
    found[f'in the caption and minus "a backpack", {MINUS_WEIGHT:g}'] = told_of(fused)
    return found


def measure_prefilter(searcher: Searcher, v: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """kind -> `(num_queries, len(NUM_CANDIDATES))`: how much of the exact top 10 is among so many nearest means."""
    means = searcher.world.features.mean(dim=1)
    kinds = {
        "one composed query": (("image+caption",), (1,)),
        "two photographs, each with the caption": (("image+caption", "second+caption"), (1, 1)),
        "photograph and caption as two terms": (("image", "caption"), (1, 1)),
        "composed query with a minus term": (("image+caption", "item"), (1, -MINUS_WEIGHT)),
    }
    found = {}
    for kind, (names, weights) in kinds.items():
        shares = []
        for vectors in torch.stack([v[name] for name in names], dim=1):
            scores = searcher.score(vectors)
            terms = fuse(vectors, torch.tensor(weights), scores[:, searcher.sample])
            best = terms.scores(scores).topk(10).indices
            order = (terms.direction @ means.T)[0].argsort(descending=True)
            shares.append([100 * torch.isin(best, order[:number]).float().mean().item() for number in NUM_CANDIDATES])
        found[kind] = np.array(shares)
    return found


def measure_wordings(searcher: Searcher, v: Mapping[str, Tensor]) -> np.ndarray:
    """`(num_queries, num_wordings)`: the rank of the best match by each wording."""
    match, ranks = searcher.world.images("match"), []
    for number in range(NUM_WORDINGS):
        scores = searcher.score(v[f"wording {number}"]).numpy()
        best = np.where(match, scores, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + (scores > best).sum(axis=1))
    return np.stack(ranks, axis=1)


def record_of(work: Path, seeds: Sequence[int]) -> dict:
    """All figures of the page."""
    model, processor = load_tiny()
    began = time.process_time()
    terms, minus, users, seekers, wordings, prefilter = [], [], [], [], [], []
    for seed in seeds:
        world = make_sought(work, seed, model, processor)
        searcher, v = Searcher(model, world), encode_world(model, processor, world)
        terms.append(measure_terms(searcher, v))
        minus.append(measure_minus(searcher, v))
        users.append(
            {start: {name: collect(searcher, v[start], seed, *of) for name, of in USERS.items()} for start in STARTS}
        )
        ways = {"ten further results": None, "wrong marks": WRONG}
        seekers.append({s: {name: seek(searcher, v[s], of) for name, of in ways.items()} for s in STARTS})
        wordings.append(measure_wordings(searcher, v))
        prefilter.append(measure_prefilter(searcher, v))
        print(f"world {seed}: done", flush=True)
    ranks = np.concatenate(wordings)
    return {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/query_terms.py --work DIR --seeds {' '.join(map(str, seeds))}",
        "processor": processor_name(),
        "torch": torch.__version__,
        "seeds": list(seeds),
        "cpu_seconds": round(time.process_time() - began),
        "num_queries": len(ranks),
        "gallery": len(world.kinds),
        "terms": {kind: _of_terms([of[kind] for of in terms]) for kind in terms[0]},
        "minus": {way: _told([of[way] for of in minus]) for way in minus[0]},
        "users": {s: {name: _told([of[s][name] for of in users]) for name in USERS} for s in STARTS},
        "gains": {s: _gain([of[s]["Rocchio"] for of in users]) for s in STARTS},
        "seekers": {s: {name: _told([of[s][name] for of in seekers]) for name in ways} for s in STARTS},
        "late - Rocchio": {
            s: _differing(*([of[s][name] for of in users] for name in ("Rocchio", "late fusion of the same")))
            for s in STARTS
        },
        "prefilter": {kind: _told([of[kind] for of in prefilter]) for kind in prefilter[0]},
        "wordings": {
            "rank-1": _told([100.0 * (of == 1) for of in wordings]),
            "always": _told([100.0 * (of == 1).all(axis=1, keepdims=True) for of in wordings])[0],
            "ever": _told([100.0 * (of == 1).any(axis=1, keepdims=True) for of in wordings])[0],
            "spread": np.percentile(ranks.max(axis=1) / ranks.min(axis=1), [50, 90, 100]).tolist(),
            "worst": np.percentile(ranks.max(axis=1), [50, 90, 100]).tolist(),
        },
    }


def _told(groups: Sequence[np.ndarray]) -> list[list[float]]:
    """Mean and 95 % interval of each column of `(num_queries, num_columns)`, a group for each world."""
    ends = intervals_over_groups(groups)
    means = np.mean([of.mean(axis=0) for of in groups], axis=0)
    return np.round(np.column_stack([means, ends]), 3).tolist()


def _differing(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[list[float]]:
    """Second - first of each column: mean, interval, p."""
    differences = np.concatenate(second) - np.concatenate(first)
    ends, p = paired_bootstrap(differences)
    return np.round(np.column_stack([differences.mean(axis=0), ends, p]), 4).tolist()


def _of_terms(of_worlds: Sequence[Mapping[str, np.ndarray]]) -> dict:
    columns = {way: [of[way] for of in of_worlds] for way in of_worlds[0]}
    told_of = {way: _told(of) for way, of in columns.items()}
    return told_of | {"late - one": _differing(columns["one vector"], columns["late fusion"])}


def _gain(of_worlds: Sequence[np.ndarray]) -> list[list[float]]:
    """After each round against none."""
    return _differing([of[:, :1].repeat(ROUNDS, axis=1) for of in of_worlds], [of[:, 1:] for of in of_worlds])


INSTEAD = {
    "two photographs, each with the caption": "one of them",
    "two photographs alone": "one of them",
    "photograph and caption as two terms": "one composed query",
    "two sentences, on either garment": "one sentence on both",
    "the same, one weighing half": "one sentence on both",
    "a result's kept features and the caption": "its file and the caption",
    "four wordings, each with the photograph": "one of them",
    'minus "a backpack"': '"without the backpack"',
    'minus "a red backpack"': '"without the backpack"',
}


def to_markdown(record: dict) -> str:
    """The record as a page."""
    rows = []
    for kind, of in record["terms"].items():
        cells = [INSTEAD[kind], *(f"{of[way][1][0]:.1f}" for way in ("instead", "one vector", "late fusion"))]
        first = [f"{of[way][0][0]:.1f}" for way in ("instead", "one vector", "late fusion")]
        rows.append([kind, *cells, *told_difference(of["late - one"][1]), " / ".join(first)])
    head = (
        "terms",
        "instead",
        "mAP instead",
        "one vector",
        "late fusion",
        "late - one vector",
        "p",
        "Rank-1 of the three",
    )
    parts = [
        "# Queries of several terms, minus terms and marks",
        f"{record['date']}, {record['processor']}, torch {record['torch']}: `{record['command']}`. "
        f"{record['cpu_seconds']} CPU-seconds.",
        f"{record['num_queries']} people sought in {len(record['seeds'])} painted worlds (seeds "
        f"{', '.join(map(str, record['seeds']))}) of {record['gallery']:,} images each, by `checkpoints/tiny`, which "
        "saw none of them. Percent, with 95 % intervals over the queries within each world. It is a small model and a "
        "painted world: what holds for FAFA's released weights on photographs is for you to measure; the order of the "
        "ways may differ.",
        "![Rank-1 over rounds of marking, and minus terms over their weight](query_terms.png)",
        "## One vector, or late fusion",
        "Right are the four photographs in the clothes asked for; with two photographs alone the one in their "
        "clothes; with a minus term the two in the clothes asked for but without the bag or hat, which the references "
        "show and of which the caption does not speak. (Each query says what it is: a backpack, a red cap.) A "
        f"minus term weighs {MINUS_WEIGHT:g} in late fusion and {ONE_VECTOR_MINUS:g} in one vector, which is best for "
        "each on other worlds. p is of the difference in mAP.",
        markdown_table(head, rows),
        f"{terms_conclusion(record)} `Gallery` fuses terms late, whatever they are, and moves vectors by marks.",
        "## Minus terms by their weight",
        markdown_table(
            ("", "Rank-1 without", "Rank-1 with it", "without before with"),
            [[way, *map(told, of)] for way, of in record["minus"].items()],
        ),
        minus_conclusion(record),
        "## A user who collects: Rank-1 over rounds of marking",
        "Ten results of the gallery's first half are marked in each round; Rank-1 is that of the second half, of which "
        "nothing is ever shown. Right is the right person in the clothes asked for, everything else is wrong.",
    ]
    names = [f"{number} rounds" if number != 1 else "1 round" for number in range(ROUNDS + 1)]
    for start, of in record["users"].items():
        gains = [
            f"after {names[n + 1]} {cell}, p {p}"
            for n, gain in enumerate(record["gains"][start])
            for cell, p in [told_difference(gain)]
        ]
        late = "; ".join(
            f"after {names[n]} {cell}, p {p}"
            for n, of_round in enumerate(record["late - Rocchio"][start][1:], start=1)
            for cell, p in [told_difference(of_round)]
        )
        parts += [
            f"### From {start}",
            markdown_table(("", *names), [[name, *map(told, found)] for name, found in of.items()]),
            f"Rocchio against no marks: {'; '.join(gains)}. Late fusion of the same against Rocchio {late}.",
        ]
    parts += [
        "## A user who seeks one photograph",
        "How many have been shown one of the four among the first results they looked at. Whoever has found it ends "
        "the search, so that only wrong marks are left to give.",
        markdown_table(
            ("", "", *(f"{SHOWN * (n + 1)} seen" for n in range(ROUNDS + 1))),
            [[start, name, *map(told, found)] for start, of in record["seekers"].items() for name, found in of.items()],
        ),
        "## What the mean vectors find of several terms",
        "Of more than 20,000 images only those with the nearest mean vectors are scored: nearest to the terms' "
        "vectors, added by the weights that late fusion gives their scores. How much of the exact top 10 is among "
        "them:",
        markdown_table(
            ("", *(f"{number} of {record['gallery']:,}" for number in NUM_CANDIDATES)),
            [[kind, *map(told, found)] for kind, found in record["prefilter"].items()],
        ),
        "## Eight wordings of one sentence",
        wordings_told(record),
    ]
    return "\n\n".join(parts) + "\n"


def terms_conclusion(record: dict) -> str:
    """What the differences say, and no more."""
    better, worse, even = [], [], []
    for kind, of in record["terms"].items():
        _, low, high, _ = of["late - one"][1]
        (better if low > 0 else worse if high < 0 else even).append(kind)
    parts = []
    for what, kinds in (("Late fusion is ahead", better), ("One vector is ahead", worse), ("Neither is", even)):
        if kinds:
            parts.append(f"{what}: {'; '.join(kinds)}.")
    below = [
        k
        for k, of in record["terms"].items()
        if max(of[w][1][0] for w in ("one vector", "late fusion")) < of["instead"][1][0]
    ]
    if below:
        parts.append(f"Neither reaches what stands beside it as the other way to ask: {'; '.join(below)}.")
    return " ".join(parts)


def minus_conclusion(record: dict) -> str:
    """Likewise."""
    of = record["minus"]
    said, plain = of['"without the backpack" in the caption'][0][0], of["nothing said"][0][0]
    coloured = of[f'minus "a red backpack", {MINUS_WEIGHT:g}'][0][0]
    bare = of[f'minus "a backpack", {MINUS_WEIGHT:g}'][0][0]
    together = of[f'in the caption and minus "a backpack", {MINUS_WEIGHT:g}'][0][0]
    return (
        f"A minus term of weight {MINUS_WEIGHT:g} lifts Rank-1 of the photographs without the item from {plain:.1f} to "
        f'{bare:.1f}, to {coloured:.1f} if its colour is named. A model that learnt "without the …" from captions '
        f"does it better when told so in the sentence: {said:.1f}; sentence and minus term together {together:.1f}."
    )


def wordings_told(record: dict) -> str:
    """A paragraph."""
    of = record["wordings"]
    each = [found[0] for found in of["rank-1"]]
    return (
        f"Each caption in {NUM_WORDINGS} wordings of the world's grammar, with the same photograph. Rank-1 by wording: "
        f"{min(each):.1f} to {max(each):.1f}. By every wording first: {told(of['always'])}; by one at least: "
        f"{told(of['ever'])}. A query's worst rank is {of['spread'][0]:.1f} times its best in the median, "
        f"{of['spread'][1]:.1f} times in the worst tenth, {of['spread'][2]:.0f} times at most; the worst rank itself "
        f"is {of['worst'][0]:.0f} in the median, {of['worst'][1]:.0f} in the worst tenth, {of['worst'][2]:.0f} at most."
    )


def draw(record: dict, file: Path) -> None:
    """Rank-1 over rounds of marking, and minus terms over their weight."""
    with chart(file, figsize=(9.2, 4.2)) as figure:
        left, right = figure.subplots(1, 2)
        for start, colour in STARTS.items():
            band(left, range(ROUNDS + 1), record["users"][start]["Rocchio"], colour, f"from {start}")
        left.set(xlabel="rounds of marking", ylabel="Rank-1 on what was never shown (%)", ylim=(0, 100))
        left.set_xticks(range(ROUNDS + 1))
        left.legend(fontsize=8)
        for name, colour in (("backpack", BLUE), ("red backpack", VERMILION)):
            found = [record["minus"][f'minus "a {name}", {weight:g}'][0] for weight in MINUS_WEIGHTS]
            band(right, (0, *MINUS_WEIGHTS), [record["minus"]["nothing said"][0], *found], colour, f'minus "a {name}"')
        said = record["minus"]['"without the backpack" in the caption'][0][0]
        right.axhline(said, color=GREY, linestyle="--", label="said in the caption")
        right.set(xlabel="weight of the minus term", ylabel="Rank-1 of those without it (%)", ylim=(0, 100))
        right.legend(fontsize=8)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the worlds")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the record, the page and its picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    record = record_of(arguments.work, arguments.seeds)
    write_pages(arguments.output, "query_terms", record, to_markdown, draw)


if __name__ == "__main__":
    main()
