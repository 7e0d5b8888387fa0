"""Films of painted people who walk through a place, with a known answer: who, when and where.

    python benchmarks/walking_people.py --work DIR

A film has eight people of the test world, each of whom walks through the picture three times, in the same clothes, at
any distance and in front of one another. FFmpeg's program encodes what the painter paints. The package finds people,
follows them, encodes the best crops with the checkpoint that comes with it, and clusters them. Detectors of photographs
do not know painted people; so people are found by what differs from the empty place (`PlaceDetector`), and OpenCV's HOG
is measured beside it.
"""

import argparse
import json
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cells import RESULTS
from PIL import Image
from scoring import processor_name

from fafa import TINY_CHECKPOINT
from fafa.files import read_json, write_json, write_whole
from fafa.film_reading import Film
from fafa.model_folder import load_model
from fafa.people import Detector, FoundPerson, index_people, load_detector
from fafa.people.cluster_sheet import draw_cluster_sheet
from fafa.people.clusters import CLUSTER, NO_CLUSTER, cluster_people
from fafa.people.film_index import index_films
from fafa.people.tracks import CROPS
from fafa.retrieval import Entry, Gallery
from fafa.tables import markdown_table
from fafa.world.captions import describe_outfit
from fafa.world.walking import WalkingFilm, plan_film

NUM_PEOPLE, NUM_WALKS, SECONDS, PAINTED_RATE = 8, 3, 48, 10
RATES, MAIN_RATE = (2.0, 5.0, 10.0), 5.0
ANSWER, PLACE, HOG = "the answer, a little shaken", "what differs from the empty place", "OpenCV's HOG"
LEASTS = (2, 3)
_FOUND = 0.5  # intersection over union from which on a person is found
_HIDDEN = 0.6  # share of a person, from which on nobody sees them
_CROPPED = 0.3  # of a crop, which has a margin

Truth = dict[float, dict[int, Sequence[int]]]  # time -> walk -> box


class PlaceDetector(Detector):
    """Finds people by what differs from the empty place; who overlaps in the picture is one person to it."""

    name = "painted place"

    def __init__(self, place: Image.Image):
        self.place = np.asarray(place).astype(int)

    def find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        """The boxes of connected places that differ, at least 1/500 of the picture."""
        from scipy.ndimage import binary_closing, find_objects, label

        found = []
        for image in images:
            differs = np.abs(np.asarray(image).astype(int) - self.place).max(axis=2) > 40
            regions, _ = label(binary_closing(differs, np.ones((5, 5))))
            boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in find_objects(regions)]
            large = [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) > image.width * image.height / 500]
            found.append([FoundPerson(tuple(map(float, box)), 0.9) for box in large])
        return found


class AnswerDetector(Detector):
    """Finds everybody who is not mostly hidden, but for a few pixels: what the best of detectors could give.

    It is asked for a film's frames in order, `rate` a second.
    """

    name = "answer"

    def __init__(self, film: WalkingFilm, truth: Truth, rate: float):
        self.film, self.truth, self.rate = film, truth, rate
        self.rng, self.number = np.random.default_rng(0), 0

    def find(self, images: Sequence[Image.Image]) -> list[list[FoundPerson]]:
        """The boxes that are known, each side moved by 2 % of the height."""
        found = []
        for image in images:
            boxes, people = boxes_at(self.truth, self.number / self.rate), []
            for walk, box in boxes.items():
                nearer = [other for number, other in boxes.items() if self._floor(number) > self._floor(walk)]
                if all(_covered(box, other) < _HIDDEN for other in nearer):
                    moved = np.array(box) + self.rng.normal(size=4) * 0.02 * (box[3] - box[1])
                    left, top, right, bottom = moved.clip(0, (*image.size, *image.size)).tolist()
                    people.append(FoundPerson((left, top, right, bottom), 0.9))
            found.append(people)
            self.number += 1
        return found

    def _floor(self, walk: int) -> int:
        return self.film.walks[walk].floor


class TracksJudged(NamedTuple):
    """How tracks fit walks.

    Args:
        walks: how many there are. right: those with exactly one track, which shows nobody else.
        split: with several tracks. missed: with none. mixed: tracks that show several people. false: that show nobody.
    """

    walks: int
    tracks: int
    right: int
    split: int
    missed: int
    mixed: int
    false: int


def paint_film(film: WalkingFilm, folder: Path) -> tuple[Path, Truth]:
    """Has FFmpeg encode a film; returns its file and the answer, which are kept in a folder."""
    file, answer = folder / "walking.mp4", folder / "truth.json"
    if not answer.exists():
        folder.mkdir(parents=True, exist_ok=True)
        width, height = film.place.size
        command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", str(PAINTED_RATE), "-i", "-", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", file]
        truth = {}
        with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
            for frame in film.frames(PAINTED_RATE):
                encoder.stdin.write(frame.image.tobytes())
                truth[frame.time] = frame.boxes
        if encoder.returncode:
            raise SystemExit("ffmpeg could not encode the film")
        write_json(answer, truth)
    truth = read_json(answer)
    return file, {float(moment): {int(walk): box for walk, box in boxes.items()} for moment, boxes in truth.items()}


def boxes_at(truth: Truth, moment: float) -> dict[int, Sequence[int]]:
    """Who is where at a moment."""
    return truth[min(truth, key=lambda known: abs(known - moment))]


def _covered(box: Sequence[float], other: Sequence[float]) -> float:
    """Which share of a box another one covers."""
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def walk_of(truth: Truth, moment: float, box: Sequence[float], least: float = _CROPPED) -> int | None:
    """Whose walk a box shows at a moment; None: nobody's."""
    boxes = boxes_at(truth, moment)
    best = max(boxes, key=lambda walk: overlap(boxes[walk], box), default=None)
    return best if best is not None and overlap(boxes[best], box) >= least else None


def judge_detector(detector: Detector, file: Path, truth: Truth, rate: float) -> dict[str, float]:
    """How many of those who are to be seen are found, and how many of those found are there."""
    seen = found = right = 0
    with Film(file) as film:
        for moment, image in film.frames(rate):
            people = detector.find([image])[0]
            shown = {walk_of(truth, moment, person.box, _FOUND) for person in people} - {None}
            seen += len(boxes_at(truth, moment))
            found, right = found + len(people), right + len(shown)
    return {"seen": seen, "found": found, "right": right}


def judge_tracks(entries: Sequence[Entry], film: WalkingFilm, truth: Truth) -> TracksJudged:
    """Compares tracks, by their crops, with the walks that there were."""
    shown = shown_by_track(entries, truth)
    tracks_of = defaultdict(set)
    for track, walks in shown.items():
        for walk in walks - {None}:
            tracks_of[walk].add(track)
    people = {track: {film.walks[walk].person for walk in walks - {None}} for track, walks in shown.items()}
    right = sum(len(tracks) == 1 and len(people[min(tracks)]) == 1 for tracks in tracks_of.values())
    return TracksJudged(
        len(film.walks),
        len(shown),
        right,
        split=sum(len(tracks) > 1 for tracks in tracks_of.values()),
        missed=len(film.walks) - len(tracks_of),
        mixed=sum(len(who) > 1 for who in people.values()),
        false=sum(not who for who in people.values()),
    )


def shown_by_track(entries: Sequence[Entry], truth: Truth) -> dict[int, set[int | None]]:
    """The walks that the crops of each track show."""
    shown = defaultdict(set)
    for entry in entries:
        if "track" in entry.tags:
            shown[entry.tags["track"]].add(walk_of(truth, entry.time, entry.box))
    return dict(shown)


def judge_clusters(entries: Sequence[Entry], film: WalkingFilm, truth: Truth) -> dict[str, Any]:
    """Compares the clusters of tracks with who walked; a track that shows several people, or nobody, is left out."""
    from sklearn.metrics import adjusted_rand_score

    cluster_of = {entry.tags["track"]: entry.tags[CLUSTER] for entry in entries if "track" in entry.tags}
    person_of = {}
    for track, walks in shown_by_track(entries, truth).items():
        people = {film.walks[walk].person for walk in walks - {None}}
        if len(people) == 1:
            person_of[track] = people.pop()
    tracks = sorted(person_of)
    # Who is in no cluster is alone.
    clusters = [cluster_of[track] if cluster_of[track] != NO_CLUSTER else -1 - track for track in tracks]
    people = [person_of[track] for track in tracks]
    pairs = Counter(
        (people[a] == people[b], clusters[a] == clusters[b]) for a, b in combinations(range(len(tracks)), 2)
    )
    members = defaultdict(list)
    for cluster, person in zip(clusters, people, strict=True):
        if cluster >= 0:
            members[cluster].append(person)
    complete = [
        person
        for person in set(people)
        if any(set(inside) == {person} and len(inside) == people.count(person) for inside in members.values())
    ]
    return {
        "people": len(film.people),
        "tracks": len(tracks),
        "clusters": len(members),
        "pure": sum(len(set(inside)) == 1 for inside in members.values()),
        "exact": len(complete),
        "alone": sum(cluster < 0 for cluster in clusters),
        "precision": pairs[True, True] / max(1, pairs[True, True] + pairs[False, True]),
        "recall": pairs[True, True] / max(1, pairs[True, True] + pairs[True, False]),
        "rand": float(adjusted_rand_score(people, clusters)),
    }


def judge_search(gallery: Gallery, film: WalkingFilm, truth: Truth, rng: np.random.Generator) -> list[bool]:
    """Whether the first result for a sentence on each person's clothes opens a moment at which that person is there."""
    right = []
    for person, (_, outfit) in enumerate(film.people):
        entry = gallery.search(caption=describe_outfit(outfit, rng), top=1)[0].entry
        walk = None if entry.box is None else walk_of(truth, entry.time, entry.box)
        right.append(walk is not None and film.walks[walk].person == person)
    return right


def index_film(model: Any, processor: Any, file: Path, detector: Detector, rate: float, index: Path) -> Gallery:
    """A gallery of one film's people."""
    shutil.rmtree(index, ignore_errors=True)
    gallery = index_people(model, processor, [], detector, index, folder=file.parent, progress=False)
    index_films(gallery, [file], detector, rate=rate, progress=False)
    return gallery


def entries_of(gallery: Gallery) -> list[Entry]:
    """What is known of all images."""
    return gallery.state.entries(range(gallery.state.num_rows))


def measure(seed: int, work: Path, model: Any, processor: Any) -> dict[str, Any]:
    """All figures of one film."""
    rng = np.random.default_rng(seed)
    film = plan_film(rng, NUM_PEOPLE, NUM_WALKS, SECONDS, place=("street", "park", "square")[seed % 3])
    file, truth = paint_film(film, work / str(seed))
    place, hog = PlaceDetector(film.place), load_detector("hog")
    record: dict[str, Any] = {"detectors": {}, "tracks": {}, "clusters": {}, "search": {}}
    runs = [(ANSWER, AnswerDetector(film, truth, rate), rate) for rate in RATES]
    runs += [(PLACE, place, rate) for rate in RATES] + [(HOG, hog, MAIN_RATE)]
    for name, detector in ((ANSWER, AnswerDetector(film, truth, 2)), (PLACE, place), (HOG, hog)):
        record["detectors"][name] = judge_detector(detector, file, truth, rate=2)
    for name, detector, rate in runs:
        index = work / str(seed) / f"{detector.name.replace(' ', '-')}-{rate:g}.index"
        gallery = index_film(model, processor, file, detector, rate, index)
        record["tracks"][f"{name}, {rate:g}"] = judge_tracks(entries_of(gallery), film, truth)._asdict()
        if rate != MAIN_RATE or name == HOG:
            continue
        record["search"][name] = judge_search(gallery, film, truth, np.random.default_rng(seed))
        for least in LEASTS:
            clusters = cluster_people(index, least)
            gallery.refresh()
            record["clusters"][f"{name}, {least}"] = judge_clusters(entries_of(gallery), film, truth)
    draw_cluster_sheet(clusters, work / str(seed) / "clusters.png", title=f"People in film {seed}")
    return record


def added(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums over films."""
    return {name: sum(record[name] for record in records) for name in records[0]}


def to_markdown(record: Mapping[str, Any]) -> str:
    """The record as a page."""
    films = list(record["films"].values())
    detectors = []
    for name in films[0]["detectors"]:
        found = added([film["detectors"][name] for film in films])
        shares = 100 * found["right"] / found["seen"], 100 * found["right"] / max(1, found["found"])
        detectors.append([name, f"{found['seen']:,}", *(f"{share:.1f}" for share in shares)])
    tracks = []
    for name in films[0]["tracks"]:
        found = added([film["tracks"][name] for film in films])
        tracks.append([*name.rsplit(", ", 1), f"{found['right']} of {found['walks']}", *list(found.values())[1:2]])
        tracks[-1] += [found[kind] for kind in ("split", "missed", "mixed", "false")]
    clusters = []
    for name in films[0]["clusters"]:
        each = [film["clusters"][name] for film in films]
        found = added(each)
        means = [np.mean([one[name] for one in each]) for name in ("precision", "recall", "rand")]
        clusters.append([*name.rsplit(", ", 1), f"{found['exact']} of {found['people']}", found["clusters"]])
        clusters[-1] += [found["pure"], found["alone"], *(f"{mean:.2f}" for mean in means)]
    search = []
    for name in films[0]["search"]:
        right = [one for film in films for one in film["search"][name]]
        search.append(f"{sum(right)} of {len(right)} with {name}")
    head = ["people found by", "least", "people exact", "clusters", "of one person", "tracks in none"]
    return "\n".join(
        [
            "# People who walk through painted films",
            "",
            f"{record['date']}, {record['processor']}: `{record['command']}`, {record['cpu_minutes']:.0f} CPU-minutes.",
            "",
            f"{len(films)} films of {SECONDS} s, 640 x 360, encoded by FFmpeg (H.264), in a street, a park or a "
            f"square. In each, {NUM_PEOPLE} people of the test world walk through the picture {NUM_WALKS} times, in "
            "one set of clothes, near or far, and in front of one another. Who is where at any moment is known.",
            "",
            "## Who is found",
            "",
            "In two frames a second. Detectors that learnt from photographs do not know painted people, and no other "
            "can be had here; so two stand for one. The first gives the answer itself, each side of a box moved by 2 % "
            "of the height, without those who are mostly hidden. The second knows the empty place and takes what "
            "differs from it; to it people who overlap are one. OpenCV's HOG is what comes without a download.",
            "",
            markdown_table(["people found by", "to be seen", "found, %", "of those found, right, %"], detectors),
            "",
            "## Tracks",
            "",
            "A walk is right if there is exactly one track of it, whose crops show nobody else. Split: several tracks "
            "of one walk; mixed: a track whose crops show several people; false: one whose crops show nobody. "
            "ByteTrack goes by places alone; the colours of the clothes tell where it took one for another.",
            "",
            markdown_table(
                ["people found by", "frames a second", "walks right", "tracks", "split", "missed", "mixed", "false"],
                tracks,
            ),
            "",
            "## Clusters",
            "",
            f"Of the tracks at {MAIN_RATE:g} frames a second ({CROPS} crops each), by the tiny checkpoint's features; "
            "mixed tracks take part, but are not counted. Exact: people all of whose tracks, and nobody else's, are "
            "one cluster. Pairs of tracks: the share of those in one cluster that are of one person (precision), and "
            "of those of one person that are in one cluster (recall).",
            "",
            markdown_table([*head, "precision", "recall", "adjusted Rand index"], clusters),
            "",
            "## Who, when, where",
            "",
            "A sentence on the clothes of each person: how often the first result opens a moment at which that person "
            f"stands in its box: {'; '.join(search)}.",
            "",
            "![The clusters of the first film](walking_people.png)",
            "",
            "## Many people",
            "",
            "`cluster_people` over made vectors in groups of 20, as many as there are people seen: the time grows with "
            "the square, the memory with the number. Above 50,000 the command says beforehand that it takes minutes: "
            "100,000 take some ten, by the square of what is below.",
            "",
            markdown_table(
                ["seen", "seconds", "peak memory above the vectors, MiB"],
                [[f"{row['seen']:,}", f"{row['seconds']:.0f}", f"{row['mib']:.0f}"] for row in record["sizes"]],
            ),
            "",
        ]
    )


def cluster_size(number: int) -> dict[str, float]:
    """Time and memory of clustering; in a process of its own, since memory is counted by its peak."""
    code = (
        "import resource, time, numpy as np\n"
        "from fafa.people.clusters import _labels, _unit\n"
        "import sklearn.cluster, sklearn.decomposition\n"
        f"rng, number = np.random.default_rng(0), {number}\n"
        "centres = rng.normal(size=(number // 20, 256))\n"
        "vectors = centres.repeat(20, axis=0) + 0.6 * rng.normal(size=(len(centres) * 20, 256))\n"
        "vectors = _unit(vectors.astype(np.float32))\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, start = peak(), time.process_time()\n"
        "labels = _labels(vectors, 3)\n"
        "print(time.process_time() - start, peak() - before, len(set(labels)))\n"
    )
    import sys

    seconds, mib, clusters = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    return {"seen": number, "seconds": float(seconds), "mib": float(mib), "clusters": int(clusters)}


def main() -> None:
    """Paint, find, follow, cluster, write the page."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for films and galleries; films are kept")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the record, the page and its picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the films")
    parser.add_argument("--sizes", type=int, nargs="*", default=[5_000, 20_000], help="people to cluster")
    arguments = parser.parse_args()
    start = time.process_time()
    model, processor = load_model(TINY_CHECKPOINT)
    record = {
        "date": date.today().isoformat(),
        "processor": processor_name(),
        "command": f"python benchmarks/walking_people.py --work DIR --seeds {' '.join(map(str, arguments.seeds))}",
        "films": {seed: measure(seed, arguments.work, model, processor) for seed in arguments.seeds},
        "sizes": [cluster_size(number) for number in arguments.sizes],
    }
    record["cpu_minutes"] = (time.process_time() - start) / 60
    record = json.loads(json.dumps(record))  # all keys are texts
    page = to_markdown(record)
    write_json(arguments.output / "walking_people.json", record)
    write_whole(arguments.output / "walking_people.md", page)
    shutil.copy(arguments.work / str(arguments.seeds[0]) / "clusters.png", arguments.output / "walking_people.png")
    print(page)


if __name__ == "__main__":
    main()
