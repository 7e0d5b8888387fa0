"""How `fafa serve` answers 50 programs that ask at the same time, and what those notice who do not break off.

    python benchmarks/serve_clients.py

Starts `fafa serve --demo` in a process of its own. Two minutes:

  50 clients           each asks again as soon as it has its answer: half by a sentence, a third by an upload and a
                       sentence, the others for images like one of the gallery; an answer counts if it has its results
  and one breaks off   the same, while another client sends questions and closes the connection before the answer, all
                       the time

Client and server share the machine's cores. Takes three minutes. Results go to benchmarks/results/serve_clients.json
and serve_clients.md.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scoring import processor_name

from fafa.files import write_json
from fafa.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
CLIENTS, SECONDS, TOP = 50, 60, 20
SENTENCES = (
    "now in a red coat",
    "with a green backpack",
    "wearing blue jeans and a cap",
    "a person in a striped sweater",
)


class Client:
    """One connection to the server, kept open; the least that speaks HTTP, so that it takes little from the server."""

    def __init__(self, port: int):
        self._port, self._cookie = port, ""

    async def open(self) -> None:
        """Connects."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def send(self, method: str, path: str, body: bytes = b"") -> None:
        """Sends one request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{self._cookie}"
        self._writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        await self._writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """The status and body of the answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.partition(": ")[::2] for line in head.split("\r\n")[1:]]
        length = next(int(value) for name, value in lines if name.lower() == "content-length")
        for name, value in lines:
            if name.lower() == "set-cookie":
                self._cookie = f"Cookie: {value.partition(';')[0]}\r\n"
        return int(head.split()[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Goes, whatever was asked."""
        self._writer.close()


async def ask(port: int, number: int, photo: bytes, until: float) -> tuple[list[float], list[str]]:
    """Asks until the time is up: seconds of each answer, and what failed."""
    client, rng = Client(port), np.random.default_rng(number)
    await client.open()
    await client.send("POST", "/api/uploads", photo)
    status, made = await client.receive()
    upload = json.loads(made)["id"] if status == 201 else ""
    taken, failed = [], [] if upload else [f"upload: {status}"]
    while time.monotonic() < until:
        sentence, kind = SENTENCES[rng.integers(len(SENTENCES))], rng.random()
        term = {"caption": sentence} | ({"image": upload} if kind >= 0.5 else {})
        begun = time.monotonic()
        if kind < 5 / 6:
            await client.send("POST", "/api/search", json.dumps({"terms": [term], "top": TOP}).encode())
        else:
            await client.send("GET", f"/api/similar?id={rng.integers(300)}&top={TOP}")
        status, answer = await client.receive()
        taken.append(time.monotonic() - begun)
        if status != 200 or len(json.loads(answer)["hits"]) != TOP:
            failed.append(f"{status}: {answer[:200]!r}")
    client.close()
    return taken, failed


async def break_off(port: int, until: float) -> int:
    """Asks and goes, again and again: how often."""
    number = 0
    while time.monotonic() < until:
        client = Client(port)
        await client.open()
        body = json.dumps({"terms": [{"caption": SENTENCES[number % len(SENTENCES)]}]}).encode()
        await client.send("POST", "/api/search", body)
        await asyncio.sleep(0.02)
        client.close()
        number += 1
    return number


async def minute(port: int, photos: list[bytes], seconds: float, breaking: bool) -> dict[str, Any]:
    """All clients for a minute."""
    until, load = time.monotonic() + seconds, os.getloadavg()[0]
    broken = asyncio.ensure_future(break_off(port, until)) if breaking else None
    answers = await asyncio.gather(*(ask(port, number, photo, until) for number, photo in enumerate(photos)))
    taken = 1_000 * np.array([one for of_client, _ in answers for one in of_client])
    failed = [one for _, of_client in answers for one in of_client]
    return {
        "clients": len(photos),
        "broken off": await broken if broken else 0,
        "answers": len(taken),
        "failed": len(failed),
        "first failures": failed[:3],
        "p50 ms": round(float(np.percentile(taken, 50))),
        "p99 ms": round(float(np.percentile(taken, 99))),
        "longest ms": round(float(taken.max())),
        "answers a second": round(len(taken) / seconds, 1),
        "fewest of a client": min(len(of_client) for of_client, _ in answers),
        "load average": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def serve(work: Path) -> tuple[subprocess.Popen, int, float]:
    """A server over the demo's gallery, its port, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, begun = (work / "server.log").open("w"), time.monotonic()
    command = [sys.executable, "-m", "fafa.cli", "serve", "--demo", "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"HF_HOME": str(work)}, stdout=log, stderr=log)
    while server.poll() is None:
        try:
            asyncio.run(_health(port))
            return server, port, time.monotonic() - begun
        except (ConnectionError, asyncio.IncompleteReadError):
            time.sleep(0.1)
    raise SystemExit((work / "server.log").read_text())


async def _health(port: int) -> None:
    client = Client(port)
    await client.open()
    await client.send("GET", "/health")
    await client.receive()
    client.close()


def measure(seconds: float) -> dict[str, Any]:
    """All that the page tells."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        server, _, first = serve(work)  # paints and encodes
        server.terminate()
        server.wait()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        server, port, again = serve(work)
        try:
            photos = sorted((work / "fafa").rglob("*.jpg"))
            photos = [file.read_bytes() for file in photos[:: len(photos) // CLIENTS][:CLIENTS]]
            runs = [asyncio.run(minute(port, photos, seconds, breaking)) for breaking in (False, True)]
            resident = Path(f"/proc/{server.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        finally:
            server.terminate()
            server.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "seconds of a run": seconds,
        "runs": runs,
        "server, CPU s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "server, peak MB": int(resident) // 1_000,
        "first start, s": round(first, 1),
        "start, s": round(again, 1),
    }


def page(told: dict[str, Any]) -> str:
    """The page of results."""
    names = [f"{CLIENTS} clients", f"{CLIENTS} clients, and one that breaks off"]
    rows = [
        [
            name,
            f"{run['answers']:,}",
            str(run["failed"]),
            f"{run['p50 ms']:,}",
            f"{run['p99 ms']:,}",
            f"{run['longest ms']:,}",
            f"{run['answers a second']:g}",
            f"{run['fewest of a client']:,}",
            f"{run['broken off']:,}",
            " to ".join(f"{load:g}" for load in run["load average"]),
        ]
        for name, run in zip(names, told["runs"], strict=True)
    ]
    header = ["", "answers", "failed", "p50 ms", "p99 ms", "longest ms", "answers a second", "fewest of a client"]
    start = f"{told['first start, s']:g} s after its first start, which paints and encodes the gallery, and"
    parts = [
        "# 50 programs that ask `fafa serve` at the same time",
        f"{told['date']}, {told['processor']}, {told['cores']} cores, which client and server share: "
        f"`python benchmarks/serve_clients.py`, {told['seconds of a run']:g} seconds a run",
        markdown_table([*header, "broken off", "load average"], rows),
        f"The load average counts what else ran; these runs alone make it some 2. Clients ask again at once, so p50 is "
        f"about {CLIENTS} divided by the answers a second.",
        f"The server took {told['server, CPU s']:g} CPU-seconds and {told['server, peak MB']:,} MB at most. It "
        f"answered {start} {told['start, s']:g} s after the next one.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    told = measure(arguments.seconds)
    write_json(arguments.output / "serve_clients.json", told)
    (arguments.output / "serve_clients.md").write_text(page(told), encoding="utf-8")
    print(page(told))


if __name__ == "__main__":
    main()
