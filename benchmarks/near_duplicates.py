"""How long it takes to find near-duplicates among as many quadruples as SynCPR has, and how many are found.

    python benchmarks/near_duplicates.py

140,500 quadruples of made-up captions, worded as language models word them. One in ten is planted: an earlier one with
a few words more or less, in other capitals and with other edits, or with A and B exchanged. Another one in ten is an
earlier one with one garment in another colour, which is another quadruple and must stay. In a process of its own, so
that peak memory is that of this work.

Takes a few minutes on one core. Results go to benchmarks/results/near_duplicates.json and near_duplicates.md.
"""

import argparse
import json
import os
import platform
import random
import resource
import time
from collections import Counter
from datetime import date
from pathlib import Path

QUADRUPLES = 140_500
RESULTS = Path(__file__).parent / "results"
COLOURS = [
    "red",
    "blue",
    "green",
    "black",
    "white",
    "grey",
    "brown",
    "navy",
    "beige",
    "olive",
    "teal",
    "pink",
    "purple",
]
POOLS = {
    "person": ["a young {sex}", "an older {sex}", "a {sex}", "a tall {sex}", "a {sex} with glasses"],
    "sex": ["man", "woman"],
    "before": ["{colour} {fabric} {piece}", "{colour} {piece}"],
    "after": ["{colour} {fabric} {piece}", "{colour} {piece}"],
    "other": ["{colour} {fabric} {piece}", "{colour} {piece}"],
    "colour": COLOURS,
    "fabric": ["denim", "leather", "linen", "woollen", "corduroy", "striped", "checked", "quilted", "faded"],
    "piece": [
        "jacket",
        "coat",
        "shirt",
        "sweater",
        "hoodie",
        "blazer",
        "cardigan",
        "skirt",
        "jeans",
        "trousers",
        "shorts",
    ],
    "doing": [
        "walks",
        "waits",
        "stands",
        "carries a bag",
        "holds a cup",
        "sits",
        "reads",
        "talks",
        "runs",
        "looks around",
    ],
    "place": ["in a park", "at a bus stop", "on a bridge", "in a café", "at the station", "by a river", "on a square"],
}


def make_quadruples(count: int) -> tuple[list[dict], dict[str, str]]:
    """Records in order, and for those that are made from an earlier one, how."""
    from fafa.synthesis.quadruples.sampling import Template

    template = Template("{person}|in {before}|in {after}|and {other} {doing} {place}", POOLS)
    rng = random.Random(0)
    records, origins = [], {}
    for number in range(count):
        way = rng.random()
        if number < 100 or way > 0.2:
            person, before, after, rest = template.sample(number)[0].split("|")
            record = {"caption_a": f"{person} {before} {rest}", "caption_b": f"{person} {after} {rest}"}
            record |= {"edit_ab": f"now {after}", "edit_ba": f"now {before}"}
        else:
            earlier = records[rng.randrange(number)]
            origins[str(number)], record = alter(earlier, way, rng)
        records.append({**record, "id": str(number)})
    return records, origins


def alter(record: dict, way: float, rng: random.Random) -> tuple[str, dict]:
    """Another record made of an earlier one, and how."""
    caption_a, caption_b = record["caption_a"], record["caption_b"]
    if way < 0.03:
        return "a word more", record | {"caption_a": f"{caption_a} today", "caption_b": f"{caption_b} today"}
    if way < 0.06:
        edits = {"edit_ab": "something else is asked for", "edit_ba": "and back again"}
        return "other edits", record | edits | {"caption_a": caption_a.capitalize() + "!"}
    if way < 0.08:
        return "exchanged", record | {"caption_a": caption_b, "caption_b": caption_a}
    if way < 0.1:
        return "a word less", record | {"caption_b": caption_b.rsplit(" ", 1)[0]}
    old = rng.choice([colour for colour in COLOURS if colour in caption_a.split()])
    new = rng.choice([colour for colour in COLOURS if colour != old])
    return "another colour", record | {
        "caption_a": caption_a.replace(old, new),
        "caption_b": caption_b.replace(old, new),
    }


def measure(count: int) -> dict:
    """Time, peak memory and what was found."""
    from fafa.synthesis.quadruples.near_duplicates import (
        NearDuplicateSettings,
        jaccard,
        reject_near_duplicates,
        trigrams_of,
    )

    settings = NearDuplicateSettings()
    records, origins = make_quadruples(count)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load = os.getloadavg()[0]
    wall_start, cpu_start = time.perf_counter(), time.process_time()
    found = reject_near_duplicates(records, settings)
    wall, cpu = time.perf_counter() - wall_start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    made, rejected = Counter(origins.values()), Counter(origins.get(item, "none") for item in found)
    planted = [item for item, way in origins.items() if way != "another colour"]
    trigrams = {item: trigrams_of(records[int(item)]) for pair in found.items() for item in pair}
    false = sum(jaccard(trigrams[later], trigrams[earlier]) < settings.threshold for later, earlier in found.items())
    return {
        "quadruples": count,
        "seconds": round(wall, 1),
        "cpu seconds": round(cpu, 1),
        "load before": round(load, 1),
        "records MB": round(peak_before / 1024),
        "peak MB": round(peak / 1024),
        "rejected": len(found),
        "planted": len(planted),
        "planted found": round(sum(item in found for item in planted) / len(planted), 4),
        "found by way": {way: round(rejected[way] / made[way], 4) for way in sorted(made)},
        "untouched rejected": rejected["none"],
        "rejected below the threshold": false,
        "threshold": settings.threshold,
    }


def write_results(result: dict) -> None:
    """As JSON, and as a page."""
    from fafa.tables import markdown_table

    about = {"date": date.today().isoformat(), "python": platform.python_version(), "machine": platform.machine()}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"about": about, "result": result}, indent=1)
    (RESULTS / "near_duplicates.json").write_text(text + "\n", encoding="utf-8")
    found = {
        "time": f"{result['seconds']} s at a load of {result['load before']}; {result['cpu seconds']} s of one core",
        "peak memory": f"{result['peak MB']} MB, of which the records and Python take {result['records MB']} MB",
        "planted near-duplicates found": f"{100 * result['planted found']:.2f} % of {result['planted']:,}",
        f"rejected below the threshold of {result['threshold']}": result["rejected below the threshold"],
        "rejected, though not made from an earlier one": result["untouched rejected"],
    }
    ways = [[way, f"{100 * share:.1f} %"] for way, share in result["found by way"].items()]
    page = f"""# Near-duplicates among {result["quadruples"]:,} quadruples

Made by `python benchmarks/near_duplicates.py` on {about["date"]} (Python {about["python"]}, {about["machine"]}).

{markdown_table(["", ""], list(found.items()))}

{markdown_table(["made from an earlier one by", "rejected"], ways)}

"Another colour" is another quadruple: these should stay, unless two that were made from the same one come out alike.
"""
    (RESULTS / "near_duplicates.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=QUADRUPLES, help="of quadruples (default: %(default)s)")
    arguments = parser.parse_args()
    write_results(measure(arguments.count))
