"""A run in which everything is rejected is stopped, names the reason, and goes on after mending as if nothing had been.

Real models are stood in for by a server that thinks without end, refuses, or gives every pair the same marks, and by
tiny pipelines.
"""

import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import unpadded
from safetensors.torch import load_file, save_file
from stub_server import StubServer, schema_of
from tiny_pipelines import tiny_flux

from fafa.synthesis.__main__ import main
from fafa.synthesis.brakes import Brake, Braked, Brakes
from fafa.synthesis.components import SynthesisError
from fafa.synthesis.preflight import CANARY
from fafa.synthesis.report import page as statistics_page
from fafa.synthesis.settings import read_settings
from fafa.synthesis.stages import ItemStage, Workspace, run_stages

COLOURS = ["red", "blue", "green", "black", "white", "grey"]
MARKS = ["quality", "identity", "agreement_a", "agreement_b", "follows_ab", "follows_ba"]
THOUGHTS = "<think>The user wants two captions. Wait, let me think again about the coat."
# Prompts are not looked at by the painter of the small world, nor the texts of its grammar by the stub's judge.
WORLD = {
    "kind": "triplets",
    "quadruples": {"count": 60, "writer": {"kind": "grammar"}},
    "diptychs": {"realistic": 1, "diverse": 0, "painter": {"kind": "world", "height": 64, "width": 68}},
    "chunk_size": 60,
}


@pytest.fixture(autouse=True)
def no_charts(monkeypatch):
    """They take a second, and have tests of their own."""
    monkeypatch.setattr(statistics_page, "draw_charts", lambda folder, charts: None)


def writer_of(server: StubServer, **model: Any) -> dict[str, Any]:
    model = {"kind": "server", "model": server.model, "base_url": server.url, "concurrency": 4} | model
    return {
        "kind": "language-model",
        "model": model,
        "prompt": "Write about a {colour} coat.",
        "pools": {"colour": COLOURS},
        "attempts": 2,
    }


def judge_of(server: StubServer) -> dict[str, Any]:
    model = {"kind": "server", "model": server.model, "base_url": server.url, "concurrency": 4}
    texts = "{caption_a} {caption_b} {edit_ab} {edit_ba}"
    return {"kind": "language-model", "model": model, "questions": [{"prompt": f"Judge: {texts}", "scores": MARKS}]}


def run(folder: Path, recipe: dict[str, Any], *more: str) -> int:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return main([str(file), "--output", str(folder / "made"), "--quiet", *more])


def fails(folder: Path, recipe: dict[str, Any]) -> str:
    """What a run that cannot go on ends with."""
    with pytest.raises(SystemExit) as raised:
        run(folder, recipe)
    return str(raised.value)


def results(root: Path) -> dict[str, bytes]:
    """All that was made; not the canary, locks and hidden files, nor the notes on runs, which hold times."""
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    return {
        name: file.read_bytes()
        for name, file in files.items()
        if name != "runs.jsonl" and not name.startswith(f"{CANARY}/") and "/." not in f"/{name}"
    }


def thinks(body: dict[str, Any], chance: random.Random) -> str:
    return THOUGHTS


def refuses(body: dict[str, Any], chance: random.Random) -> str:
    return "I'm sorry, but I can't help with descriptions of people." if schema_of(body) else "Yes."


@pytest.mark.parametrize("answer", [thinks, refuses], ids=["thinks without end", "refuses"])
@pytest.mark.parametrize("is_tried", [True, False], ids=["preflight", "brake"])
def test_a_writer_that_never_gives_a_text_is_stopped_before_a_hundred_requests(tmp_path, answer, is_tried):
    with StubServer(answer) as server:
        recipe = WORLD | {"quadruples": {"count": 140_500, "writer": writer_of(server)}, "chunk_size": 500}
        message = fails(tmp_path, recipe | {"brakes": {"preflight": is_tried, "canary": 0}})
    assert f"stage quadruples: {'before the first item' if is_tried else 'all 24 items'}" in message
    assert ("let me think again" if answer is thinks else "I can't help") in message
    assert "give the same command again" in message
    assert len(server.bodies) < 100
    assert not (tmp_path / "made" / "diptychs").exists()


def test_a_painter_of_black_pictures_is_stopped_at_its_test_picture(tmp_path):
    """NaN weights: diffusers only warns of an invalid value in a cast, and paints black."""
    flux = tiny_flux(tmp_path / "flux")
    (file,) = (flux / "transformer").glob("*.safetensors")
    weights = load_file(file)
    save_file({name: tensor * float("nan") for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    painter = {"kind": "diffusers", "model": str(flux), "width": 64, "height": 64, "steps": 1, "batch_size": 2}
    painter |= {"dtype": "float32", "device": "cpu"}
    recipe = WORLD | {"diptychs": {"painter": painter}}
    message = fails(tmp_path, recipe)
    assert "stage diptychs: before the first item it was tried 3 times" in message and "black" in message
    assert "set dtype: bfloat16 or float32" in message
    assert not (tmp_path / "made" / "quadruples" / "00000.jsonl").exists()


def test_a_judge_that_always_says_9_is_stopped_by_its_controls(tmp_path):
    """It used to keep all pairs that are sharp, faulty ones among them, and nothing warned."""

    def nine(body: dict[str, Any], chance: random.Random) -> str:
        return json.dumps(dict.fromkeys(MARKS, 9)) if schema_of(body) else "Yes."

    with StubServer(nine) as server:
        recipe = WORLD | {"judge": judge_of(server), "filter": {"bounds": {"identity": {"at_least": 0.7}}}}
        message = fails(tmp_path, recipe | {"brakes": {"canary": 0}})
        assert "the judge (tiny) fails its controls" in message and "gave 0 lower marks" in message
        assert "--redo judgements" in message and "controls: {stop: false}" in message
        assert len(server.bodies) < 100

        assert run(tmp_path, recipe | {"brakes": {"canary": 0}, "controls": {"stop": False}}) == 0
    page = unpadded((tmp_path / "made" / "statistics" / "statistics.md").read_text(encoding="utf-8"))
    assert re.search(r"\| nothing changed \| (\d+) \| 0 \(0 %\) \| \1 \(100 %\) \|", page)
    assert "were decided on as before; a mark differed by 0.00" in page


def test_the_canary_finds_a_judge_that_says_9_before_all_others_are_painted(tmp_path):
    def nine(body: dict[str, Any], chance: random.Random) -> str:
        return json.dumps(dict.fromkeys(MARKS, 9)) if schema_of(body) else "Yes."

    with StubServer(nine) as server:
        recipe = WORLD | {"judge": judge_of(server), "brakes": {"canary": 6}}
        recipe["diptychs"] = WORLD["diptychs"] | {"realistic": 4, "diverse": 4}
        assert "fails its controls" in fails(tmp_path, recipe)
    made = tmp_path / "made"
    assert (made / CANARY / "judgements").exists() and not (made / "quadruples").exists()


def test_a_canary_that_passed_is_not_sent_again_and_changes_no_result(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def judge(body: dict[str, Any], chance: random.Random) -> str:
        return json.dumps({name: chance.randint(5, 10) for name in MARKS}) if schema_of(body) else "Yes."

    with StubServer(judge) as server:
        for name, canary in (("with", 2), ("without", 0)):
            (tmp_path / name).mkdir()
            recipe = WORLD | {"judge": judge_of(server), "brakes": {"canary": canary}}
            recipe["quadruples"] = WORLD["quadruples"] | {"count": 20}
            assert run(tmp_path / name, recipe, "--until", "gates") == 0
            assert run(tmp_path / name, recipe) == 0
        asked = len(server.bodies)
        assert run(tmp_path / "with", recipe | {"brakes": {"canary": 2}}) == 0
        assert len(server.bodies) == asked
    made = tmp_path / "with" / "made"
    assert (made / CANARY / "statistics" / "statistics.md").exists()
    with_canary, without = results(made), results(tmp_path / "without" / "made")
    assert {name: content for name, content in with_canary.items() if name != "recipe.yaml"} == {
        name: content for name, content in without.items() if name != "recipe.yaml"
    }


def test_all_models_are_tried_before_the_first_item(tmp_path):
    """Nothing is written and painted for days before it shows that the judge cannot be reached."""
    judge = {
        "kind": "language-model",
        "model": {"kind": "server", "model": "m", "base_url": "http://127.0.0.1:9/v1"},
        "questions": [{"prompt": "{caption_a}", "scores": ["quality"]}],
    }
    assert "http://127.0.0.1:9/v1: no answer" in fails(tmp_path, WORLD | {"judge": judge})
    assert not (tmp_path / "made" / "quadruples").exists()
    assert run(tmp_path, WORLD | {"judge": judge}, "--until", "gates", "--limit", "4") == 0  # it is not needed yet


class Squares(ItemStage):
    """A stage that rejects a stretch of its items while `broken`; every tenth it rejects for good cause."""

    name, source = "squares", None

    def __init__(self, broken: range = range(0)):
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.broken, self.made = broken, 0

    def items(self, work, chunk):
        return [{"id": f"{text}-{number}"} for text in range(20 * chunk, 20 * chunk + 20) for number in (1, 2)]

    def process(self, items, work, chunk):
        for item in items:
            self.made += 1
            text = int(item["id"].partition("-")[0])
            if text in self.broken:
                yield item | {"rejected": "all black"}
            elif text % 10 == 0:
                yield item | {"rejected": "no seam found"}
            else:
                yield item | {"square": text**2}


def stage_results(root: Path) -> dict[str, bytes]:
    return {name: content for name, content in results(root).items() if not name.endswith("manifest.json")}


def test_after_mending_the_result_is_as_if_nothing_had_happened(tmp_path):
    """What was rejected on the way to the stop is tried again, in chunks that were finished by then, too."""
    whole, mended = (Workspace(tmp_path / name, 5, show_progress=False) for name in ("whole", "mended"))
    run_stages([Squares()], whole)
    broken = Squares(broken=range(33, 99))
    with pytest.raises(SynthesisError, match="all 48 items of the last 24 texts were rejected, 48 of them") as error:
        run_stages([broken], mended)
    assert broken.made == 2 * (33 + 24)
    assert "all black" in str(error.value) and "40-1" not in str(error.value)
    looked_at = mended.braked("squares").read_text().splitlines()
    assert len(looked_at) == 48 and all("rejected" in line for line in looked_at)
    with pytest.raises(SynthesisError, match="24 texts"):  # nobody mended it: again no more than the brake allows
        run_stages([Squares(broken=range(33, 99))], mended)
    run_stages([Squares()], mended)
    assert stage_results(mended.root) == stage_results(whole.root)


def test_a_rate_stops_a_stage_that_now_and_then_keeps_something():
    brake = Brake("poses", Brakes(in_a_row=24, window=100))
    ids = [str(number) for number in range(1_000)]
    brake.begin(0, ids)
    with pytest.raises(Braked, match="of the last 100 texts 95 lost all their items, 95 of them for 'no person'"):
        for name in ids:
            brake.add({"id": name} | ({"rejected": "no person"} if int(name) % 20 else {}))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_a_stage_that_rejects_much_for_good_cause_goes_on(share):
    """Also where the ten pictures of a text share their fate, and where refusals come long before answers."""
    chance = random.Random(0)
    brake = Brake("split", Brakes(in_a_row=24 if share < 0.8 else 40))
    ids = [f"{text}-{number}" for text in range(3_000) for number in range(10)]
    lost = {str(text) for text in range(3_000) if chance.random() < share}
    records = [{"id": name} | ({"rejected": "x"} if name.partition("-")[0] in lost else {}) for name in ids]
    brake.begin(0, ids)
    for start in range(0, len(records), 64):
        for record in sorted(records[start : start + 64], key=lambda record: "rejected" not in record):
            brake.add(record)


def test_one_item_without_an_end_does_not_hide_that_all_others_are_rejected():
    brake = Brake("captions", Brakes())
    ids = [str(number) for number in range(10_000)]
    brake.begin(0, ids)
    with pytest.raises(Braked, match="the last 480 items in a row were all rejected"):
        for name in ids[1:]:
            brake.add({"id": name, "rejected": "refused"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_a_row": -1}, "in_a_row: expected at least 0, found -1"),
        ({"lost_at_most": 1.0}, "lost_at_most: expected less than 1.0, found 1.0"),
        ({"window": 3}, "at least 20 texts"),
        ({"in_row": 3}, "there is no setting 'in_row'; did you mean 'in_a_row'"),
    ],
)
def test_brakes_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_settings(Brakes, settings, "brakes")
