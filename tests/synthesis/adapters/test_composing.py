"""Diptychs composed of photographs whose names tell who is on them."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_model import Ready, ScriptedModel
from stub_server import StubServer

from fafa.synthesis.adapters.composing import FolderDiptychs, Photograph, fill, next_pair
from fafa.synthesis.components import SynthesisError, TextModel, TextReply
from fafa.synthesis.models import ChatModel, ServerModel

BY_FOLDER = FolderDiptychs.model_fields["pattern"].default
FLAT = r"^(?P<identity>\d{4})_(?P<camera>c\d)"


def photograph(path: Path, colour, size=(64, 128)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def crops(tmp_path) -> Path:
    """Three people as Market-1501 names them: 0001 and 0002 seen by two cameras, 0003 once; and a distractor."""
    root = tmp_path / "crops"
    for number, name in enumerate(
        ["0001_c1_0", "0001_c1_1", "0001_c2_0", "0002_c1_0", "0002_c2_0", "0003_c1_0", "-1_c1_0"]
    ):
        photograph(root / f"{name}.png", (30 * number + 20, 100, 50))
    return root


def settings(root: Path, **changes) -> FolderDiptychs:
    captions = root.parent / "captions.jsonl"
    if not captions.exists():
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
        captions.write_text("".join(json.dumps({"image": name, "caption": f"seen in {name}"}) + "\n" for name in names))
    defaults = {"pattern": FLAT, "width": 64, "height": 64, "min_height": 64, "captions": str(captions)}
    return FolderDiptychs(root=str(root), **{**defaults, "num_workers": 1, **changes})


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    skipped = ("manifest.json", "runs.jsonl")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in skipped and path.suffix != ".lock"
    }


def test_pairs_join_cameras_and_captions_follow_their_side(crops, tmp_path):
    metadata = settings(crops, per_identity=1).load(tmp_path / "out")
    diptychs = lines(metadata)
    assert [diptych["identity"] for diptych in diptychs] == ["0001", "0002"]
    for diptych in diptychs:
        left, right = diptych["sources"]
        assert {left[4:7], right[4:7]} == {"_c1", "_c2"}
        assert diptych["caption_a"] == f"seen in {left}" and diptych["caption_b"] == f"seen in {right}"
        assert diptych["prompt"] == (
            "two photographs of the same person side by side; "
            f"left: {diptych['caption_a']}; right: {diptych['caption_b']}"
        )
        with Image.open(tmp_path / "out" / diptych["image"]) as image, Image.open(crops / left) as source:
            assert image.size == (64, 64)
            assert image.getpixel((10, 30)) == source.getpixel((0, 0)) != image.getpixel((40, 30))


def test_folders_of_identities_need_no_pattern(tmp_path):
    for person in ("ann", "bob"):
        for number in range(2):
            photograph(tmp_path / "people" / person / f"{number}.png", (90, 40 * number, 0))
    options = settings(tmp_path / "people", pattern=BY_FOLDER)
    assert {diptych["identity"] for diptych in lines(options.load(tmp_path / "out"))} == {"ann", "bob"}


def test_clothes_matter_before_cameras_and_photographs_take_turns():
    people = [Photograph("a", "1", "red"), Photograph("b", "2", "red"), Photograph("c", "1", "blue")]
    assert {each.path for each in next_pair(people, Counter(), set())} == {"a", "c"}
    pair = next_pair(people, Counter("aac"), {frozenset("ac")})
    assert {each.path for each in pair} == {"b", "c"}
    every = {frozenset(pair) for pair in ("ab", "bc", "ac")}
    assert next_pair(people, Counter(), every) is None


def test_a_half_is_filled_without_distortion_and_heads_stay():
    square = Image.new("RGB", (100, 100), "white")
    square.paste("red", (40, 0, 60, 20))  # 20 x 20 in the middle of the upper edge
    tall = Image.new("RGB", (100, 400), "white")
    tall.paste("red", (0, 0, 100, 100))
    for image, expected in ((square, (10, 0, 30, 20)), (tall, (0, 0, 50, 50))):
        filled = np.asarray(fill(image, width=expected[2] + expected[0], height=100))
        rows, columns = np.where(filled[..., 1] < 128)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(box, expected)).max() <= 1


def test_bad_photographs_are_named_and_others_take_their_place(crops, tmp_path, caplog):
    (crops / "0001_c2_0.png").write_bytes((crops / "0001_c2_0.png").read_bytes()[:60])
    photograph(crops / "0002_c2_0.png", "red", size=(20, 40))
    photograph(crops / "0002_c3_0.png", "red", size=(200, 128))
    metadata = settings(crops).load(tmp_path / "out")
    assert [set(diptych["sources"]) for diptych in lines(metadata)] == [{"0001_c1_0.png", "0001_c1_1.png"}]
    people = {person["id"]: person for person in lines(tmp_path / "out" / "pictures" / "00000.jsonl")}
    assert set(people["0001"]["unusable"]) == {"0001_c2_0.png"}
    assert people["0002"]["rejected"] == "fewer than two usable photographs"
    assert people["0002"]["unusable"] == {
        "0002_c2_0.png": "40 pixels high, at least 64 wanted",
        "0002_c3_0.png": "200 x 128 would lose 68% of its area in 32 x 64",
    }
    assert caplog.text.count("is not used") == 3


class Captioner(ChatModel):
    """A model that answers with the picture's name, as models do: in quotes, over two lines; one it refuses."""

    model: str = "stub"
    stop_after: int = 100

    def load(self) -> TextModel:
        return LoadedCaptioner(self.stop_after)


class LoadedCaptioner(TextModel):
    asked: list[str] = []

    def __init__(self, stop_after: int):
        super().__init__()
        self.stop_after = stop_after

    def answer(self, requests: Iterable):
        for number, request in enumerate(requests):
            if number == self.stop_after:
                raise SynthesisError("the server is gone")
            self.asked.append(request.id)
            name = Path(request.images[0]).name
            assert Path(request.images[0]).is_file() and request.messages[-1]["content"]
            if name == "0002_c2_0.png":
                yield TextReply(request.id, "", "refused")
            else:
                yield TextReply(request.id, f'"Somebody is seen\n in {name}."')


def test_a_model_captions_what_the_file_lacks_and_goes_on_after_a_stop(crops, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "0001_c1_0.png", "caption": "from the file"}\n')
    LoadedCaptioner.asked = []
    once = settings(crops, captioner=Captioner(stop_after=2), attempts=1)
    with pytest.raises(SynthesisError, match="the server is gone"):
        once.load(tmp_path / "out")
    assert len(LoadedCaptioner.asked) == 2
    metadata = once.load(tmp_path / "out")
    assert sorted(LoadedCaptioner.asked) == ["0001_c1_1.png", "0001_c2_0.png", "0002_c1_0.png", "0002_c2_0.png"]
    captions = {}
    for diptych in lines(metadata):
        if "rejected" not in diptych:
            captions |= dict(zip(diptych["sources"], (diptych["caption_a"], diptych["caption_b"]), strict=True))
    assert captions["0001_c1_0.png"] == "from the file"
    assert captions["0001_c2_0.png"] == "Somebody is seen in 0001_c2_0.png"
    rejected = [diptych for diptych in lines(metadata) if "rejected" in diptych]
    assert [diptych["rejected"] for diptych in rejected] == ["0002_c2_0.png: refused"]


def test_what_a_captioner_prints_around_a_caption_stays_out_and_what_is_none_is_asked_for_again(
    crops, tmp_path, caplog
):
    """Thoughts, greetings, refusals and half sentences went into the prompts that the adapter was trained on."""
    replies = {
        "0001_c1_0.png": ["<think>A man?</think>\n**Caption:** A man in a red coat walks by."],
        "0001_c1_1.png": ["Sure! Here is the caption:\n\nA man in a red coat waits."],
        "0001_c2_0.png": ["A man in a red coat and", "N/A", "A man in a red coat sits."],
        "0002_c1_0.png": ["很抱歉，我无法描述图片中的人物。"],
        "0002_c2_0.png": ["A woman in blue boots runs.\n\nNote: her face is not visible."],
        "left.png": ["A painted man walks by."],  # what is tried before the first photograph
    }

    def answer(request):
        texts = replies[Path(request.id).name]
        return texts.pop(0) if len(texts) > 1 else texts[0]

    model = ScriptedModel(answer)
    (tmp_path / "captions.jsonl").write_text("")
    metadata = settings(crops, captioner=Ready(part=model), captions=None).load(tmp_path / "out")
    prompts = [line["prompt"] for line in lines(metadata) if "rejected" not in line]
    assert prompts and all("A man in a red coat " in prompt for prompt in prompts)
    assert not any(word in prompt for prompt in prompts for word in ("think", "Caption", "Sure", "N/A", "coat and;"))
    records = {record["id"]: record for record in lines(tmp_path / "out" / "captions" / "00000.jsonl")}
    assert records["0001_c2_0.png"]["faults"] == ["stops in mid-sentence", "no answer"]
    assert records["0002_c1_0.png"]["rejected"] == "refused" and len(records["0002_c1_0.png"]["answers"]) == 3
    assert records["0002_c2_0.png"]["caption"] == "A woman in blue boots runs"
    assert "1 photographs have no caption: refused" in caplog.text


def test_a_captioner_that_refuses_is_found_before_diptychs_are_composed(crops, tmp_path):
    model = ScriptedModel(lambda r: "I'm sorry, but I can't describe people.")
    with pytest.raises(SynthesisError, match=r"stage captions: before the first item it was tried .*'refused'"):
        settings(crops, captioner=Ready(part=model), captions=None, attempts=1).load(tmp_path / "out")
    assert not list((tmp_path / "out").glob("pictures/*.jsonl")) and len(model.asked) < 10


def test_one_picture_twice_is_no_pair(tmp_path):
    """The adapter would learn that both halves are the same picture."""
    root = tmp_path / "people"
    for name, colour in (("ann/a", "red"), ("ann/b", "red"), ("ann/c", "blue"), ("bob/a", "red"), ("bob/b", "red")):
        photograph(root / f"{name}.png", colour)
    metadata = settings(root, pattern=BY_FOLDER, per_identity=3).load(tmp_path / "out")
    (diptych,) = lines(metadata)
    assert "ann/c.png" in diptych["sources"]
    ann, bob = lines(tmp_path / "out" / "pictures" / "00000.jsonl")
    ((path, reason),) = ann["unusable"].items()
    assert {path, reason} in [
        {"ann/a.png", "the same picture as ann/b.png"},
        {"ann/b.png", "the same picture as ann/a.png"},
    ]
    assert bob["rejected"] == "fewer than two usable photographs"


def test_a_photograph_stored_on_its_side_is_upright_in_the_diptych_and_before_the_captioner(tmp_path):
    shown = []

    def look(body, chance):
        for part in body["messages"][-1]["content"]:
            if isinstance(part, dict) and part["type"] == "image_url":
                code = part["image_url"]["url"].partition("base64,")[2]
                shown.append(Image.open(io.BytesIO(base64.b64decode(code))).size)
        return "A man in a red coat walks by."

    root = tmp_path / "people" / "ann"
    root.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (128, 64), colour).save(root / f"{number}.jpg", exif=exif)
    with StubServer(look) as server:
        captioner = ServerModel(model=server.model, base_url=server.url)
        options = {"pattern": BY_FOLDER, "captions": None, "captioner": captioner, "min_height": 128}
        (diptych,) = lines(settings(root.parent, **options).load(tmp_path / "out"))
    assert "rejected" not in diptych
    assert shown.count((64, 128)) == 2 and (128, 64) not in shown  # others are tried before the first photograph


def test_doing_it_again_changes_nothing_and_lost_pictures_come_back(crops, tmp_path):
    for number in range(10, 14):  # enough for two processes
        for camera in "12":
            photograph(crops / f"00{number}_c{camera}_0.png", (number, 0, 20))
    metadata = settings(crops).load(tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out" / lines(metadata)[0]["image"]).unlink()
    settings(crops, num_workers=2).load(tmp_path / "out")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 128}, r"pictures.width: 64 -> 128.*--redo pictures"),
        ({"pattern": r"^(?P<identity>\d+)_"}, r"pictures.pattern"),
        ({"captions": None, "captioner": Captioner()}, r"captions.captioner"),
    ],
)
def test_other_settings_are_refused(crops, tmp_path, changes, message):
    settings(crops).load(tmp_path / "out")
    with pytest.raises(SynthesisError, match=message):
        settings(crops, **changes).load(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "("}, "pattern is no regular expression"),
        ({"pattern": "x"}, "identity"),
        ({"pattern": "(?P<identity>.)(?P<cam>.)"}, "not cam"),
        ({"prompt": "left: {caption_a}"}, "caption_b"),
        ({"prompt": "{caption_a} {caption_b} {who}"}, "no field {who}"),
        ({"prompt": "{caption_a} {caption_b} {}"}, "no field {}"),
        ({"prompt": "{caption_a} {caption_b:>9}"}, "without a format"),
        ({"prompt": "{caption_a} {caption_b} {0}"}, "no field {0}"),
        ({"prompt": "{caption_a} {caption_b} }"}, "no other braces"),
        ({"instruction": "Describe {person}."}, "no field {person}; nothing is filled in there"),
        ({"attempts": 0}, "attempts"),
        ({"language": "klingon"}, "language 'klingon' is unknown"),
        ({"width": 63}, "even"),
        ({"max_cut": 1.0}, "max_cut"),
        ({"captions": None}, "captioner"),
    ],
)
def test_settings_are_checked(crops, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(crops, **changes)


def test_a_folder_without_pairs_says_so(crops, tmp_path):
    with pytest.raises(SynthesisError, match="nobody has two photographs there; 7 do not fit the pattern"):
        settings(crops, pattern="^(?P<identity>nobody)").load(tmp_path / "out")
    with pytest.raises(SynthesisError, match="there is no such folder"):
        settings(crops).__class__(root=str(tmp_path / "none"), captions="x").load(tmp_path / "out")


def test_a_damaged_caption_file_is_named(crops, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.png"}\n{"image": "b.png", "caption": "ok"}\nnonsense\n')
    with pytest.raises(SynthesisError, match=r"captions.jsonl: 2 lines are not"):
        settings(crops).load(tmp_path / "out")
