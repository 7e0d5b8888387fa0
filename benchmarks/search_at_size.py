"""Search in galleries of 10,000 to 1,000,000 images: time, memory, what it misses; beside faiss and milvus-lite.

    python benchmarks/search_at_size.py --work /tmp/search-at-size                       # half an hour, 26 GB of disk
    python benchmarks/search_at_size.py --work /tmp/search-at-size --sizes 10000 30000   # minutes, 1 GB

One gallery in WORK grows from size to size through the package's own writer, and is measured at each in a process of
its own. A rerun goes on; `--output` keeps what was measured. The features are made, not those of a model: 32 tokens of
256 dimensions, each token the unit vector along

    place / 2 + look / 2 + person / 2 + 0.35 image + 0.6 noise

of unit vectors in random directions: one place for each of the 32 tokens, 2,000 looks (people dressed alike), people
with 5 images each, one for each image, one for each token. So tokens of one image have a cosine of about 0.4, of one
person 0.35, of one look 0.2. The 5 images of a person lie at random among 10,000 others. A query is made from a target
that was drawn from the gallery, its planted match: the unit vector along the mean of 6 of its tokens, as a unit vector,
and a random one (cosine 0.7). Scores are the mean of the 6 largest of 32 products.

  exact         `find_best(exact=True)`: all codes in eight bits, and the tokens of what may be among the best
  top-10        `find_best`: candidates by mean vectors, scored exactly; its recall is the share of the exact top-10
  faiss         an `IndexFlatIP` of the same mean vectors, as many candidates, and the same exact scores
  milvus-lite   a FLAT index (IP) of the same mean vectors, likewise

"first" is a query that no one has asked before, whose candidates' tokens may have to come from the disk; "warm" the
same query once more. Times are medians of single queries. Memory is that of the process without mapped files, which
the system keeps in memory as far as there is room.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import write_pages
from scoring import processor_name
from tiny_features import measure_tiny, recall, tiny_markdown
from torch import Tensor
from torch.nn.functional import normalize

from fafa.drawing.curves import chart, check_charts, log_ticks
from fafa.drawing.palette import AMBER, BLUE, TEAL, VERMILION
from fafa.files import read_json, write_json
from fafa.retrieval.finding import candidates, find_best, score_rows
from fafa.retrieval.metadata import Entry
from fafa.retrieval.segment_list import GalleryFolder
from fafa.retrieval.state import GalleryState
from fafa.retrieval.token_pooling import pool_tokens, pooled_top_tokens
from fafa.scoring_fafa import topk_mean_similarity
from fafa.tables import markdown_table

TOKENS, DIM, K, TOP = 32, 256, 6, 10
LOOKS, IMAGES_OF_A_PERSON, CHUNK = 2_000, 5, 10_000
PER_COMMIT = 50_000
QUERIES, TIMED, BATCH = 64, 20, 64
CANDIDATES = (100, 200, 500, 1_000, 2_000, 4_000)
SHOWN = 1_000  # of candidates: what `find_best` takes for ten results
FILTERED = 'camera == "camera 7"'  # one image in a hundred
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RESULTS = Path(__file__).parent / "results"
SETTINGS = {
    "model": {"fingerprint": "made features", "dtype": "float32"},
    "features": {"kind": "target", "dtype": "float16", "shape": [TOKENS, DIM]},
}


def units(generator: torch.Generator, *shape: int) -> Tensor:
    """Unit vectors in random directions."""
    return normalize(torch.randn(*shape, DIM, generator=generator), dim=-1)


def make_tokens(chunk: int) -> Iterator[Tensor]:
    """Tokens of the images of one chunk, 1,000 at a time: `(1000, 32, 256)`, fp16; as the head of this file says."""
    common = torch.Generator().manual_seed(0)
    places, looks = units(common, TOKENS), units(common, LOOKS)
    own = torch.Generator().manual_seed(1 + chunk)
    count = CHUNK // IMAGES_OF_A_PERSON
    people = looks[torch.randint(LOOKS, (count,), generator=own)] / 2 + units(own, count) / 2
    order = torch.arange(CHUNK)[torch.randperm(CHUNK, generator=own)] // IMAGES_OF_A_PERSON
    for of_images in order.split(1_000):
        images = people[of_images] + 0.35 * units(own, len(of_images))
        noise = torch.randn(len(of_images), TOKENS, DIM, generator=own).mul_(0.6 / DIM**0.5)
        yield normalize(noise.add_(images[:, None]).add_(places / 2), dim=-1).half()


def make_queries(state: GalleryState, number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Queries `(number, 256)` and the rows of their planted matches."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(state.num_rows, (number,), generator=generator)
    chosen = torch.stack([torch.randperm(TOKENS, generator=generator)[:K] for _ in range(number)])
    tokens = state.tokens(targets).float().gather(1, chosen[..., None].expand(-1, -1, DIM))
    return normalize(normalize(tokens.mean(dim=1), dim=-1) + units(generator, number), dim=-1), targets


def grow(folder: GalleryFolder, size: int) -> dict[str, float]:
    """Appends images up to a size; returns what it took beside making the features."""
    seconds, making = 0.0, 0.0
    while (there := folder.read().num_rows) < size:
        tokens = torch.empty(min(PER_COMMIT, size - there), TOKENS, DIM, dtype=torch.float16)
        start = time.perf_counter()
        for first in range(0, len(tokens), CHUNK):
            for number, block in enumerate(make_tokens((there + first) // CHUNK)):
                tokens[first + 1_000 * number :][: len(block)] = block
        making += time.perf_counter() - start
        entries = [
            Entry(f"{row}.jpg", str(row), camera=f"camera {row * 7919 % 100}")
            for row in range(there, there + len(tokens))
        ]
        start = time.perf_counter()
        with folder.writing() as writer:
            writer.append(tokens, entries)
            writer.commit()
        seconds += time.perf_counter() - start
    return {"write_seconds": seconds, "make_seconds": making}


def anonymous_mb() -> float:
    """Memory of this process without mapped files, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def timed(function: Callable, *arguments, **options) -> tuple[float, Any]:
    """Milliseconds, and what the function returned."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return 1e3 * (time.perf_counter() - start), result


def median(times: list[float]) -> float:
    """Of milliseconds."""
    return round(float(np.median(times)), 2)


class Excluded(logging.Handler):
    """Keeps the shares of images that codes alone excluded, as `find_best` logs them."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.shares: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        if "codes alone" in record.msg:
            self.shares.append(record.args[0])


def measure(path: Path, without: list[str]) -> dict[str, Any]:
    """All of one size, in this process."""
    before = anonymous_mb()
    opening, state = timed(GalleryFolder(path).read)
    row: dict[str, Any] = {"open_ms": round(opening, 1), "open_mb": round(anonymous_mb() - before, 1)}
    excluded, logger = Excluded(), logging.getLogger("fafa.retrieval.finding")
    logger.addHandler(excluded)
    logger.setLevel(logging.DEBUG)
    queries, targets = make_queries(state, QUERIES)
    singles = queries[:TIMED].split(1)
    find = lambda query, **options: find_best(query, state.parts, K, TOP, **options)  # noqa: E731

    # All of the tokens do not fit beside all codes into 24 GB: what needs no codes comes first.
    candidates(queries[:1], state.parts, SHOWN)  # means come from the disk
    row["first_ms"] = median([timed(find, query, num_candidates=SHOWN)[0] for query in singles])
    row["by_candidates"] = {}
    found = {}
    for number in CANDIDATES:
        found[number] = find(queries, num_candidates=number)[1]  # this warms them
        times = [timed(find, query, num_candidates=number)[0] for query in singles]
        row["by_candidates"][number] = {"ms": median(times), "slowest_ms": round(max(times), 2)}
    row["means_ms"] = median([timed(candidates, query, state.parts, SHOWN)[0] for query in singles])
    row["batch_ms"] = round(timed(find, queries, num_candidates=SHOWN)[0] / len(queries), 2)

    row["filter_ms"], allowed = timed(state.matching, FILTERED)
    row["filtered_images"] = int(allowed.sum())
    for query in singles:
        find(query, num_candidates=SHOWN, allowed=allowed)
    times = [timed(find, query, num_candidates=SHOWN, allowed=allowed)[0] for query in singles]
    row["filtered_ms"] = median(times)
    filtered = find(queries, num_candidates=SHOWN, allowed=allowed)[1]
    row["filtered_results"] = int((filtered >= 0).sum(dim=1).min())

    others = {"faiss": Faiss, "milvus": MilvusLite}
    row["others"] = {name: beside(others[name], state, singles, path) for name in others if name not in without}

    row["check_codes_ms"], _ = timed(find, queries[:1], exact=True)  # reads and checks all codes, from the disk
    excluded.shares.clear()
    few = singles[: 5 if state.num_rows > 100_000 else TIMED]
    row["exact_ms"] = median([timed(find, query, exact=True)[0] for query in few])
    row["excluded_percent"] = min(excluded.shares)
    batch, (_, exact) = timed(find, queries, exact=True)
    row["exact_batch_ms"] = round(batch / len(queries), 2)
    row["matches_first"] = float((exact[:, 0] == targets).double().mean())
    for number, rows in found.items():
        row["by_candidates"][number]["recall"] = recall(rows, exact)
    row["filtered_recall"] = recall(filtered, find(queries, exact=True, allowed=allowed)[1])
    row["peak_mb"] = round(anonymous_mb() - before, 1)
    if state.num_rows <= 10_000:
        row["plain_is_equal"] = bool(torch.equal(plain(queries, state), exact))
        row["pooling"] = pooling(state, queries, targets, exact)
    return row


def plain(queries: Tensor, state: GalleryState) -> Tensor:
    """Rows of the top-10 by a plain score of everything."""
    scores = torch.cat([topk_mean_similarity(queries, part.tokens, K) for part in state.parts], dim=1)
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :TOP]


class Faiss:
    """Candidates by a flat index of inner products."""

    def __init__(self, state: GalleryState, path: Path):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = faiss.IndexFlatIP(DIM)
        for part in state.parts:
            self.index.add(part.means.numpy())

    def candidates(self, query: Tensor) -> Tensor:
        """Rows."""
        return torch.from_numpy(self.index.search(query.numpy(), min(SHOWN, self.index.ntotal))[1][0])

    def close(self) -> None:
        """Frees the memory."""
        self.index.reset()


class MilvusLite:
    """Candidates by milvus-lite's flat index of inner products."""

    def __init__(self, state: GalleryState, path: Path):
        from pymilvus import DataType, MilvusClient

        self.file = path.parent / "milvus.db"
        self.close()
        self.client = MilvusClient(str(self.file))
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("mean", DataType.FLOAT_VECTOR, dim=DIM)
        index = self.client.prepare_index_params()
        index.add_index("mean", index_type="FLAT", metric_type="IP")
        self.client.create_collection("images", schema=schema, index_params=index)
        row = 0
        for part in state.parts:
            for block in part.means.split(5_000):
                entries = [{"id": row + place, "mean": mean} for place, mean in enumerate(block.numpy())]
                self.client.insert("images", entries)
                row += len(block)
        self.client.flush("images")  # a search is slow before
        self.client.load_collection("images")

    def candidates(self, query: Tensor) -> Tensor:
        """Rows."""
        (hits,) = self.client.search("images", data=list(query.numpy()), anns_field="mean", limit=SHOWN)
        return torch.tensor([hit["id"] for hit in hits])

    def close(self) -> None:
        """Frees memory and disk."""
        if hasattr(self, "client"):
            self.client.close()
        if self.file.is_dir():
            shutil.rmtree(self.file)
        else:
            self.file.unlink(missing_ok=True)


def beside(kind: type, state: GalleryState, singles: list[Tensor], path: Path) -> dict[str, float]:
    """Another search for candidates, and the same exact scores of them."""

    def search(query: Tensor) -> Tensor:
        rows = index.candidates(query).sort().values
        return rows[score_rows(query, state.parts, rows, K)[0].sort(descending=True, stable=True).indices[:TOP]]

    before = anonymous_mb()
    building, index = timed(kind, state, path)
    memory = anonymous_mb() - before
    found = [search(query) for query in singles]
    times = [timed(search, query)[0] for query in singles]
    ours = [find_best(query, state.parts, K, TOP, num_candidates=SHOWN)[1][0] for query in singles]
    index.close()
    same = recall(torch.stack(found), torch.stack(ours))
    return {"build_s": round(building / 1e3, 2), "mb": round(memory, 1), "ms": median(times), "same": same}


def pooling(state: GalleryState, queries: Tensor, targets: Tensor, exact: Tensor) -> list[dict[str, float]]:
    """What fewer tokens an image change."""
    rows = []
    every = torch.cat([part.tokens for part in state.parts])
    for number in (TOKENS, 16, 10, 8, 4, 2, 1):
        k = pooled_top_tokens(K, TOKENS, number)
        seconds, pooled = timed(
            lambda number=number: torch.cat([pool_tokens(own, number) for own in every.split(1_000)])
        )
        found = topk_mean_similarity(queries, pooled, k).sort(dim=1, descending=True, stable=True).indices[:, :TOP]
        first = float((found[:, 0] == targets).double().mean())
        rows.append(
            {"tokens": number, "k": k, "ms": seconds / len(every), "first": first, "top10": recall(found, exact)}
        )
    return rows


def bytes_of(folder: Path) -> int:
    """Of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def to_markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    sizes = record["sizes"]
    last, shown = sizes[-1], sizes[-1]["by_candidates"][str(SHOWN)]
    lines = [
        "# Search at size",
        f"{record['date']}, {record['processor']}, {record['threads']} of {record['cores']} cores, "
        f"{record['memory_gb']:.0f} GB of memory, torch {record['torch']}: "
        f"`{record['command']}`",
        "The features are made (`search_at_size.py` says how), not those of a model: times hold for any, recall only "
        f"for the like. {TOKENS} tokens of {DIM} dimensions in fp16 an image, with codes in eight bits beside them.",
        f"- {last['images']:,} images: the top-10 in {shown['ms']:.0f} ms (slowest of {TIMED}: "
        f"{shown['slowest_ms']:.0f} ms), with recall {shown['recall']:.4f} of the exact ones at {SHOWN:,} candidates. "
        "Asked for: 150 ms on two cores, 0.995.",
        f"- The exact top-10 in {last['exact_ms']:,.0f} ms; codes alone excluded {last['excluded_percent']:.3f} % of "
        f"the images. In batches of {BATCH}: {last['batch_ms']:.1f} ms a query, exact {last['exact_batch_ms']:.0f} ms.",
        f"- The planted match is first for {100 * last['matches_first']:.0f} % of {QUERIES} queries.",
        "![Times by size](search_at_size.png)",
        "## The gallery",
        markdown_table(
            ["images", "written in s", "images a s", "GB on disk", "open ms", "open MB", "most MB while measured"],
            [
                [
                    f"{size['images']:,}",
                    f"{size['write_seconds']:.1f}",
                    f"{size['images'] / size['write_seconds']:,.0f}",
                    f"{size['bytes'] / 1e9:.2f}",
                    f"{size['open_ms']:.0f}",
                    f"{size['open_mb']:.0f}",
                    f"{size['peak_mb']:,.0f}",
                ]
                for size in sizes
            ],
        ),
        f"Written through the package's writer, {PER_COMMIT:,} images at most to a commit; the time adds up over all "
        "commits, without making the features. Memory is without mapped files, over that before opening; the most "
        "includes faiss and milvus-lite. The load of the machine before the first "
        f"was {sizes[0]['load']:.1f}.",
        "## The top-10, by number of candidates",
        markdown_table(
            ["images", "", *(f"{number:,}" for number in CANDIDATES)],
            [
                [
                    f"{size['images']:,}",
                    name,
                    *(text.format(size["by_candidates"][str(number)][key]) for number in CANDIDATES),
                ]
                for size in sizes
                for name, key, text in (("ms, warm", "ms", "{:.1f}"), ("recall", "recall", "{:.4f}"))
            ],
        ),
        "## Ways to search",
        f"Milliseconds a query; {SHOWN:,} candidates.",
        markdown_table(
            ["images", "first", "warm", "of it means", f"batch of {BATCH}", "1 % let through", "exact", "exact, batch"],
            [
                [
                    f"{size['images']:,}",
                    f"{size['first_ms']:.1f}",
                    f"{size['by_candidates'][str(SHOWN)]['ms']:.1f}",
                    *(f"{size[name]:.1f}" for name in ("means_ms", "batch_ms", "filtered_ms")),
                    *(f"{size[name]:,.1f}" for name in ("exact_ms", "exact_batch_ms")),
                ]
                for size in sizes
            ],
        ),
        f"The filter `{FILTERED}` lets one image in a hundred through; finding those took {last['filter_ms']:.0f} ms "
        f"at {last['images']:,} images, which counts once for all queries; each query found {last['filtered_results']} "
        f"images, with recall {last['filtered_recall']:.4f}. The first exact search of a process also checks all codes "
        f"against their checksums: {last['check_codes_ms'] / 1e3:.1f} s, reading them from the disk.",
        "## Beside other searches for candidates",
        markdown_table(
            ["images", "", "built in s", "MB of memory", "ms", "times as long as here", "same top-10"],
            [
                [
                    f"{size['images']:,}",
                    name,
                    f"{other['build_s']:.1f}",
                    f"{other['mb']:,.0f}",
                    f"{other['ms']:.1f}",
                    f"{other['ms'] / size['by_candidates'][str(SHOWN)]['ms']:.1f}",
                    f"{other['same']:.4f}",
                ]
                for size in sizes
                for name, other in size["others"].items()
            ],
        ),
        "Both hold the same mean vectors in a flat index; the exact scores of the candidates are computed here.",
    ]
    if pooled := next((size["pooling"] for size in sizes if "pooling" in size), None):
        lines += [
            "## Fewer tokens",
            markdown_table(
                ["tokens", "k", "ms an image", "planted match first", "of the exact top-10"],
                [
                    [
                        str(row["tokens"]),
                        str(row["k"]),
                        f"{row['ms']:.2f}",
                        f"{100 * row['first']:.1f} %",
                        f"{row['top10']:.3f}",
                    ]
                    for row in pooled
                ],
            ),
            f"`pool_tokens` on {sizes[0]['images']:,} images. Noise of these tokens is independent, which real tokens' "
            "need not be: the loss of a model must be measured with its own features.",
        ]
    return "\n\n".join([*lines, *tiny_markdown(record["tiny"])]) + "\n"


def draw(record: dict[str, Any], file: Path) -> None:
    """Times by size."""
    sizes = record["sizes"]
    images = [size["images"] for size in sizes]
    curves = [
        ("exact", AMBER, [size["exact_ms"] for size in sizes]),
        ("faiss + exact scores", VERMILION, [size["others"].get("faiss", {}).get("ms") for size in sizes]),
        ("milvus-lite + exact scores", TEAL, [size["others"].get("milvus", {}).get("ms") for size in sizes]),
        ("top-10", BLUE, [size["by_candidates"][str(SHOWN)]["ms"] for size in sizes]),
    ]
    with chart(file) as figure:
        axes = figure.subplots()
        for label, colour, times in curves:
            if None not in times:
                axes.plot(images, times, color=colour, marker="o", label=label)
        axes.set_yscale("log")
        log_ticks(axes, images)
        axes.set_xlabel("images")
        axes.set_ylabel("ms a query, warm")
        axes.set_title(f"Top-10 of a gallery, {SHOWN:,} candidates")
        axes.legend()


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the gallery; a rerun goes on")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help=f"multiples of {CHUNK:,}")
    parser.add_argument("--without", nargs="+", default=[], choices=["faiss", "milvus"], help="not to be measured")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the record, the page and its picture")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    gallery = arguments.work / "gallery"
    if arguments.measure:
        print(json.dumps(measure(gallery, arguments.without)))
        return
    sizes = sorted(arguments.sizes)
    if any(size < CHUNK or size % CHUNK for size in sizes):
        parser.error(f"--sizes must be multiples of {CHUNK:,}")
    check_charts()
    written = {"write_seconds": 0.0, "make_seconds": 0.0}
    arguments.work.mkdir(parents=True, exist_ok=True)
    folder = GalleryFolder.create(gallery, SETTINGS, "float16")
    rows = []
    for size in sizes:
        kept = arguments.work / f"{size}.json"
        if kept.exists():
            rows.append(read_json(kept))
            written = {name: rows[-1][name] for name in written}
            continue
        if folder.read().num_rows > size:
            raise SystemExit(f"{gallery} has grown past {size:,} images: delete it, or choose another --work")
        written = {name: seconds + written[name] for name, seconds in grow(folder, size).items()}
        load = os.getloadavg()[0]
        command = [sys.executable, __file__, "--measure", "--work", str(arguments.work)]
        command += ["--without", *arguments.without] if arguments.without else []
        measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append({"images": size, "load": load, "bytes": bytes_of(gallery), **written, **measured})
        write_json(kept, rows[-1])
        print(f"{size:,} images: measured", flush=True)
    record = {
        "date": date.today().isoformat(),
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/search_at_size.py --work DIR --sizes "
        + " ".join(map(str, sizes)),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "torch": torch.__version__,
        "sizes": json.loads(json.dumps(rows)),
        "tiny": json.loads(json.dumps(measure_tiny(arguments.work))),
    }
    write_pages(arguments.output, "search_at_size", record, to_markdown, draw)


if __name__ == "__main__":
    main()
