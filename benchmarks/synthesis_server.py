"""Whether texts get lost or are paid for twice when a server stumbles, restarts, and the client is killed.

    python benchmarks/synthesis_server.py --work /tmp/server

The first stage of the recipe syncpr asks a local stub server for 10,000 quadruples. One request in twenty fails with
error 500 and one answer in fifty is garbage. After a good quarter the server goes away for some seconds, with whatever
it was about to answer; after a good half the client is killed by SIGKILL and started again. The server counts what it
was asked for and what it answered.

Takes a few minutes on one core. Results go to benchmarks/results/synthesis_server.json and synthesis_server.md.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

import yaml
from scoring import processor_name

from fafa.synthesis.components import REJECTED
from fafa.synthesis.recipes import find_recipe, read_recipe
from fafa.synthesis.stages import RUNS, Workspace, run_stages
from fafa.tables import markdown_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from stub_server import StubServer

RESULTS = Path(__file__).parent / "results"
ITEMS, CONCURRENCY = 10_000, 32
DELAY, AWAY = 0.5, 5.0  # seconds that an answer takes, and that the server is away
FAULTS = {"500": 0.05, "garbage": 0.02}
PRICES = {"input_price": 0.4, "output_price": 1.2}  # of a million tokens; a stub's token is a word
STAGE = "quadruples"
GARMENTS = ["coat", "jacket", "shirt", "jumper", "cardigan", "hoodie", "dress", "blouse", "parka", "skirt"]
COLOURS = ["red", "blue", "green", "black", "white", "grey", "brown", "yellow", "pink", "purple", "orange", "beige"]
PEOPLE = ["A young woman", "An elderly man", "A tall man", "A woman with glasses", "A slim woman", "A man with a beard"]
PLACES = ["waits for the bus", "stands in a park", "crosses a street", "sits on a bench", "walks along a river"]


def answer(body: dict, chance: random.Random) -> str:
    """A quadruple that passes all checks, or what everybody can say."""
    if "response_format" not in body:
        return "Yes."
    person, place, garment = chance.choice(PEOPLE), chance.choice(PLACES), chance.choice(GARMENTS)
    before, after, below = chance.sample(COLOURS, 3)
    texts = {
        "caption_a": f"{person} in a {before} {garment} and {below} boots {place}.",
        "caption_b": f"{person} in a {after} {garment} and {below} boots {place}.",
        "edit_ab": f"Make the {garment} {after}.",
        "edit_ba": f"Make the {garment} {before}.",
    }
    return json.dumps(texts)


def write_recipe(file: Path, server: StubServer, items: int) -> None:
    """The recipe syncpr with the stub in place of its language model."""
    content = yaml.safe_load(find_recipe("syncpr").read_text(encoding="utf-8"))
    content["quadruples"]["count"] = items
    content["quadruples"]["writer"]["model"] = {
        "kind": "server",
        "model": server.model,
        "base_url": server.url,
        "concurrency": CONCURRENCY,
        **PRICES,
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")


def run_client(recipe_file: Path, folder: Path) -> None:
    """The stage, as `python -m fafa.synthesis` runs it before all others."""
    recipe = read_recipe(recipe_file)
    run_stages(recipe.stages()[:1], Workspace(folder, recipe.num_chunks))


class Client:
    """The stage in a process of its own; its progress bar goes to a file."""

    def __init__(self, recipe_file: Path, folder: Path, log: Path):
        self._folder, self._log = folder, log
        command = [sys.executable, __file__, "--client", str(recipe_file), str(folder)]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stderr=stream)

    def wait_for(self, num_records: int) -> None:
        """Until so many records are on disk."""
        while num_lines(self._folder) < num_records:
            if self._process.poll() is not None:
                raise SystemExit(f"the client ended too early, see {self._log}")
            time.sleep(0.1)

    def kill(self) -> None:
        """By SIGKILL."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Until it ends by itself."""
        if self._process.wait():
            raise SystemExit(f"the client failed, see {self._log}")

    def last_progress(self) -> str:
        """The last line of its progress bar."""
        lines = self._log.read_text(encoding="utf-8").replace("\r", "\n").splitlines()
        return [line.strip() for line in lines if line.startswith(STAGE)][-1]


def num_lines(folder: Path) -> int:
    """Records on disk, of finished chunks and others."""
    return sum(file.read_bytes().count(b"\n") for file in (folder / STAGE).glob("*.jsonl"))


def measure(work: Path, items: int) -> dict:
    """Run it all."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    folder, recipe_file = work / "made", work / "recipe.yaml"
    started = time.perf_counter()
    with StubServer(answer, faults=FAULTS, delay=DELAY) as server:
        write_recipe(recipe_file, server, items)
        client = Client(recipe_file, folder, work / "first.log")
        client.wait_for(int(0.27 * items))  # not at the end of a chunk, where little is under way
        server.stop()
        time.sleep(AWAY)
        server.start()
        client.wait_for(int(0.27 * items) + 2 * CONCURRENCY)
        doubled_by_restart = server.doubled
        client.wait_for(int(0.53 * items))
        client.kill()
        at_kill = num_lines(folder)
        doubled_before = server.doubled
        first_progress = client.last_progress()
        client = Client(recipe_file, folder, work / "second.log")
        client.finish()
    seconds = time.perf_counter() - started

    work_space = Workspace(folder, read_recipe(recipe_file).num_chunks)
    records = list(work_space.records(STAGE))
    ids = Counter(record["id"] for record in records)
    usage: Counter[str] = Counter()
    for line in (folder / RUNS).read_text(encoding="utf-8").splitlines():
        usage.update(json.loads(line)["usage"])
    return {
        "date": date.today().isoformat(),
        "command": "python benchmarks/synthesis_server.py --work FOLDER",
        "processor": processor_name(),
        "versions": {name: work_space.manifest(STAGE)["versions"].get(name) for name in ("torch", "openai")},
        "items": items,
        "concurrency": CONCURRENCY,
        "faults": FAULTS,
        "records": len(records),
        "lost": items - len(ids),
        "records_doubled": len(records) - len(ids),
        "rejected": dict(Counter(record[REJECTED] for record in records if REJECTED in record)),
        "attempts": dict(sorted(Counter(record["attempts"] for record in records).items())),
        "requests": len(server.bodies),
        "errors_500": server.counts["500"],
        "answers": server.counts["answers"],
        "garbage": server.counts["garbage"],
        "without_an_answer": len(server.bodies) - server.counts["500"] - server.counts["answers"],
        "answered_twice_after_restart": doubled_by_restart,
        "answered_twice_after_kill": server.doubled - doubled_before,
        "records_at_kill": at_kill,
        "seconds": round(seconds, 1),
        "rate": round(items / seconds, 1),
        "progress_before_kill": first_progress,
        "progress_at_end": client.last_progress(),
        "usage": usage,
        "prices": PRICES,
    }


def to_markdown(record: dict) -> str:
    """The record as a page."""
    usage = record["usage"]
    attempts = ", ".join(f"{number:,} × {tried}" for tried, number in record["attempts"].items())
    rejected = ", ".join(f"{number} {reason}" for reason, number in record["rejected"].items()) or "none"
    spent = ", ".join(f"{amount:,} {name}" for name, amount in sorted(usage.items()) if name != "cost")
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    counted = {
        "records in the end": f"{record['records']:,}",
        "lost": f"{record['lost']:,}",
        "doubled": f"{record['records_doubled']:,}",
        "rejected, after three answers that cannot be used": rejected,
        "attempts of an item": attempts,
        "requests that reached the server": f"{record['requests']:,}",
        "of these failed by error 500": f"{record['errors_500']:,}",
        "of these without an answer, because the server went away": f"{record['without_an_answer']:,}",
        "of these answered": f"{record['answers']:,}",
        "answers that were garbage": f"{record['garbage']:,}",
        "answered twice because the server went away": f"{record['answered_twice_after_restart']:,}",
        "answered twice because the client was killed": f"{record['answered_twice_after_kill']:,}",
    }
    return f"""# {record["items"]:,} quadruples from a server that stumbles

{record["date"]}, {record["processor"]}, {versions}; server and client share the machine. {record["concurrency"]}
requests were under way at once, 5 % of the requests failed and 2 % of the answers were garbage. The server went away
once for {AWAY:g} s, and the client was killed by SIGKILL when {record["records_at_kill"]:,} records were written.

{markdown_table(["", ""], list(counted.items()))}

What is answered twice was under way at the kill, {record["concurrency"]} requests at most. One of them is the question
with which every client begins.

It took {record["seconds"]:,.0f} s, {record["rate"]:g} records a second, with start-up, absence and back-off. The
progress bar said before the kill and at the end:

    {record["progress_before_kill"]}
    {record["progress_at_end"]}

The notes in runs.jsonl come to this, at {record["prices"]["input_price"]} and {record["prices"]["output_price"]} per
million tokens (the chunk that the kill interrupted has no note of its first part):

    cost {usage["cost"]:.2f}, {spent}
"""


def main() -> None:
    """Run, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for what is made; emptied first")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--client", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        run_client(*arguments.client)
        return
    if not arguments.work:
        parser.error("give --work")
    record = measure(arguments.work, arguments.items)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "synthesis_server.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (arguments.output / "synthesis_server.md").write_text(to_markdown(record), encoding="utf-8")
    print(to_markdown(record))


if __name__ == "__main__":
    main()
