"""Stages can be stopped anywhere, run in parts, and lose nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from pathlib import Path

import pytest
from damage import flip_a_byte

from fafa.files import write_whole
from fafa.synthesis.components import SynthesisError
from fafa.synthesis.images import save_image
from fafa.synthesis.stages import (
    ItemStage,
    PartStage,
    WholeStage,
    Workspace,
    WritingStage,
    discard_from,
    run_stages,
    verify_workspace,
)
from fafa.verify import main


class Numbers(ItemStage):
    """Writes each number's square, and a file for it; odd multiples of five are rejected."""

    name, source = "numbers", None

    def __init__(self, count=20, chunk_size=5, factor=1, fail_at=None, delay=0.0):
        super().__init__()
        self.count, self.chunk_size, self.factor = count, chunk_size, factor
        self.fail_at, self.delay = fail_at, delay
        self.settings = {"factor": factor, "chunk_size": chunk_size}
        self.made = Counter()

    def items(self, work, chunk):
        first = chunk * self.chunk_size
        return [{"id": str(number)} for number in range(first, min(first + self.chunk_size, self.count))]

    def files(self, record):
        return [record["file"]] if "file" in record else []

    def process(self, items, work, chunk):
        for item in reversed(items):  # records come in any order
            if item["id"] == self.fail_at:
                raise SynthesisError("the server is gone")
            time.sleep(self.delay)
            self.made[item["id"]] += 1
            number = int(item["id"])
            if number % 5 == 0 and number % 2:
                yield {"id": item["id"], "rejected": "odd multiple of five"}
                continue
            file = f"numbers/files/{number}.txt"
            (work.root / file).parent.mkdir(exist_ok=True)
            write_whole(work.root / file, "x")
            yield {"id": item["id"], "square": self.factor * number**2, "file": file}


class Sum(WholeStage):
    name, source = "sum", "numbers"

    def __init__(self):
        super().__init__()
        self.settings = {}
        self.runs = 0

    def make(self, work):
        self.runs += 1
        total = sum(record.get("square", 0) for record in work.records("numbers"))
        write_whole(work.folder(self.name) / "sum.json", json.dumps(total))
        return {"sum": total}


class Doubled(WholeStage):
    """Writes all records anew."""

    name, source = "doubled", "numbers"
    settings = {}

    def make(self, work):
        for chunk in range(work.num_chunks):
            work.write(self.name, chunk, [record | {"twice": True} for record in work.read("numbers", chunk)])
        return {}


def workspace(root, shard=(0, 1), num_chunks=4):
    return Workspace(root, num_chunks, shard, show_progress=False)


def contents(root: Path) -> dict[str, bytes]:
    """All results; not hidden files (locks, what a kill left), and not the notes on runs, which hold times."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.name != "runs.jsonl"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    run_stages([Numbers(), Sum()], workspace(root))
    return contents(root)


def test_records_are_in_order_and_rejected_ones_stay(tmp_path):
    work = workspace(tmp_path)
    run_stages([Numbers()], work)
    records = list(work.records("numbers"))
    assert [record["id"] for record in records] == [str(number) for number in range(20)]
    assert records[5] == {"id": "5", "rejected": "odd multiple of five"}
    assert len(work.kept("numbers", 1)) == 4
    assert work.manifest("numbers")["counts"] == {"items": 20, "rejected": {"odd multiple of five": 2}}
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(run["chunk"], run["items"]) for run in runs] == [(0, 5), (1, 5), (2, 5), (3, 5)]


def test_a_second_run_makes_nothing(tmp_path, expected):
    run_stages([Numbers(), Sum()], workspace(tmp_path))
    numbers, total = Numbers(), Sum()
    run_stages([numbers, total], workspace(tmp_path))
    assert (numbers.made.total(), total.runs) == (0, 0)
    assert contents(tmp_path) == expected


def test_four_shards_make_what_one_makes(tmp_path, expected):
    for number in range(4):
        stopped = run_stages([Numbers(), Sum()], workspace(tmp_path, shard=(number, 4)))
        assert (stopped is None) == (number == 3)
    assert contents(tmp_path) == expected


def test_an_early_shard_says_that_others_are_needed(tmp_path):
    message = run_stages([Numbers(), Sum()], workspace(tmp_path, shard=(1, 4)))
    assert "shard 1/4" in message and "sum needs all shards" in message and "start every shard again" in message


def test_after_an_error_only_what_is_missing_is_made(tmp_path, expected):
    first = Numbers(fail_at="7")
    with pytest.raises(SynthesisError, match="gone"):
        run_stages([first], workspace(tmp_path))
    second = Numbers()
    run_stages([second, Sum()], workspace(tmp_path))
    assert not first.made & second.made
    assert (first.made + second.made).total() == 20
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.35])
def test_killed_and_resumed_it_makes_the_same(tmp_path, expected, seconds):
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_stages import Numbers, Sum, run_stages, workspace\n"
        "print('begun', flush=True)\n"
        f"run_stages([Numbers(delay=0.02), Sum()], workspace({str(tmp_path)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run_stages([Numbers(), Sum()], workspace(tmp_path))
    assert contents(tmp_path) == expected


def test_killed_between_a_chunk_and_its_checksums_both_are_written(tmp_path, expected, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Workspace, "write_sums", stop)
        run_stages([Numbers()], workspace(tmp_path))
    assert (tmp_path / "numbers/00000.jsonl").exists() and not (tmp_path / "numbers/00000.sums.json").exists()
    again = Numbers()
    run_stages([again, Sum()], workspace(tmp_path))
    assert again.made.total() == 15
    assert contents(tmp_path) == expected


def test_a_torn_line_is_made_again(tmp_path, expected, caplog):
    with pytest.raises(SynthesisError):
        run_stages([Numbers(fail_at="6")], workspace(tmp_path))
    part = tmp_path / "numbers" / "00001.part.jsonl"
    part.write_bytes(part.read_bytes()[:-9])
    run_stages([Numbers(), Sum()], workspace(tmp_path))
    assert "1 damaged lines" in caplog.text
    assert contents(tmp_path) == expected


def test_a_truncated_shard_is_mended(tmp_path, expected):
    run_stages([Numbers()], workspace(tmp_path))
    file = tmp_path / "numbers" / "00002.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(SynthesisError, match=r"00002.jsonl: 1 of its lines are damaged; run stage numbers again"):
        workspace(tmp_path).read("numbers", 2)
    again = Numbers()
    run_stages([again, Sum()], workspace(tmp_path))
    assert again.made.total() == 1
    assert contents(tmp_path) == expected


def test_a_damaged_record_that_nobody_asks_for_is_cut_out(tmp_path):
    """Such as a judgement of a pair that other bounds let through: it must not keep others from being read."""
    run_stages([Numbers()], workspace(tmp_path))
    file = tmp_path / "numbers" / "00003.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"id": "99", "squ')
    run_stages([Numbers()], workspace(tmp_path))
    assert file.read_text() == whole


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-9])])
def test_what_a_whole_stage_made_is_mended(tmp_path, damage):
    stages = [Numbers(), Doubled()]
    run_stages(stages, workspace(tmp_path))
    before = contents(tmp_path)
    damage(tmp_path / "doubled" / "00002.jsonl")
    run_stages(stages, workspace(tmp_path))
    assert contents(tmp_path) == before


class Heavy(PartStage):
    """A stage with a part, which it may hold only while it works."""

    name, source = "heavy", None
    settings = {}

    def items(self, work, chunk):
        return [{"id": str(chunk)}]

    def process(self, items, work, chunk):
        for item in items:
            assert self.part.alive
            yield {"id": item["id"]}


class HeavyPart:
    loaded, alive, about, usage = 0, True, {"model": "heavy"}, Counter()

    def load(self):
        type(self).loaded += 1
        type(self).last = weakref.ref(part := HeavyPart())
        return part


def test_a_part_is_loaded_once_and_let_go_of_when_its_stage_is_done(tmp_path):
    run_stages([stage := Heavy(HeavyPart())], workspace(tmp_path))
    assert HeavyPart.loaded == 1 and HeavyPart.last() is None
    assert stage.about == workspace(tmp_path).manifest("heavy")["about"] == {"model": "heavy"}
    run_stages([Heavy(HeavyPart())], workspace(tmp_path))
    assert HeavyPart.loaded == 1


def test_a_lost_file_is_made_again(tmp_path, expected):
    run_stages([Numbers()], workspace(tmp_path))
    (tmp_path / "numbers" / "files" / "8.txt").unlink()
    again = Numbers()
    run_stages([again, Sum()], workspace(tmp_path))
    assert again.made == {"8": 1}
    assert contents(tmp_path) == expected


def test_another_recipe_is_refused_with_the_difference(tmp_path):
    run_stages([Numbers(), Sum()], workspace(tmp_path))
    with pytest.raises(SynthesisError, match=r"numbers\.factor: 1 -> 3.*--redo numbers"):
        run_stages([Numbers(factor=3)], workspace(tmp_path))
    stages = [Numbers(factor=3), Sum()]
    discard_from("numbers", stages, workspace(tmp_path))
    run_stages(stages, workspace(tmp_path))
    assert workspace(tmp_path).read("numbers", 0)[2]["square"] == 12


def test_discarding_an_unknown_stage_names_the_stages(tmp_path):
    with pytest.raises(SynthesisError, match="numbers, sum"):
        discard_from("nombers", [Numbers(), Sum()], workspace(tmp_path))


def test_more_items_may_follow(tmp_path, expected):
    run_stages([Numbers(count=7), Sum()], workspace(tmp_path, num_chunks=2))
    more = Numbers()
    run_stages([more, Sum()], workspace(tmp_path))
    assert more.made.total() == 13
    assert contents(tmp_path) == expected


def test_half_a_file_that_a_kill_left_behind_does_not_stop_the_next_run(tmp_path):
    """It was taken for a chunk, and its name for a number."""

    stage = WritingStage("texts", None, count=7, chunk_size=5, seed=0)
    work = workspace(tmp_path, num_chunks=2)
    work.folder("texts").mkdir()
    write_whole(work.file("texts", 1), "".join(f'{{"id": "{number}"}}\n' for number in (5, 6)))
    (work.folder("texts") / ".00001.jsonl").write_text('{"id": "5"}\n{"id"')
    stage.check_settings(work)
    write_whole(work.file("texts", 1), "".join(f'{{"id": "{number}"}}\n' for number in (5, 6, 7)))
    with pytest.raises(SynthesisError, match="holds 8 texts, and 7 are asked for"):
        stage.check_settings(work)


def test_two_processes_do_not_share_a_chunk(tmp_path):
    class Nested(Numbers):
        def process(self, items, work, chunk):
            run_stages([Numbers()], workspace(tmp_path))
            yield from super().process(items, work, chunk)

    with pytest.raises(SynthesisError, match="another process works on this chunk"):
        run_stages([Nested()], workspace(tmp_path))


def test_a_full_disk_loses_nothing(tmp_path, expected):
    class Full(Numbers):
        def process(self, items, work, chunk):
            for number, record in enumerate(super().process(items, work, chunk)):
                if number == 3:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
                yield record

    full, again = Full(), Numbers()
    with pytest.raises(OSError, match="somewhere"):
        run_stages([full], workspace(tmp_path))
    run_stages([again, Sum()], workspace(tmp_path))
    assert again.made.total() == 17
    assert contents(tmp_path) == expected


def test_a_picture_is_there_whole_or_not_at_all(tmp_path):
    class Torn:
        def save(self, file, **options):
            Path(file).write_bytes(b"half")
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError):
        save_image(Torn(), tmp_path / "a.png", quality=90)
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_in_any_file_of_a_workspace_is_named(tmp_path, capsys):
    """A changed caption or picture used to be taken without a word."""
    workspace = Workspace(tmp_path / "work", num_chunks=2, show_progress=False)
    run_stages([Numbers(count=4, chunk_size=2), Doubled()], workspace)
    assert verify_workspace(workspace.root) == []
    files = [
        file for file in workspace.root.rglob("*") if file.is_file() and file.suffix in (".jsonl", ".json", ".txt")
    ]
    files = [file for file in files if file.name not in ("runs.jsonl", "manifest.json")]
    assert len(files) == 2 * 2 + 4 + 2
    for file in files:
        whole = file.read_bytes()
        flip_a_byte(file, 0.4)
        assert any(file.parent.name in fault for fault in verify_workspace(workspace.root)), file
        assert main([str(workspace.root), "--quiet"]) == 1
        assert file.name in capsys.readouterr().out
        file.write_bytes(whole)
    assert verify_workspace(workspace.root) == []
    (workspace.root / "numbers/manifest.json").write_text("[" * 100_000)
    assert verify_workspace(workspace.root) == ["numbers/manifest.json is damaged: restore it, or --redo numbers"]


def test_an_edited_chunk_is_taken_as_it_is_and_told(tmp_path, caplog):
    workspace = Workspace(tmp_path, num_chunks=1, show_progress=False)
    run_stages([Numbers(count=2, chunk_size=2)], workspace)
    file = workspace.file("numbers", 0)
    file.write_text(file.read_text().replace('"square": 1', '"square": 7'))
    run_stages([again := Numbers(count=2, chunk_size=2)], workspace)
    assert not again.made and workspace.read("numbers", 0)[1]["square"] == 7
    assert "numbers/00000.jsonl is damaged" in caplog.text and "--redo numbers would make it anew" in caplog.text
