"""One check of a record: what `load_dataset` takes, `verify` calls sound and training trains on, and nothing else."""

import json
import math
import unicodedata

import datasets
import pytest
import torch
from PIL import Image
from tiny import WORDS, tiny_model, tiny_processor

from fafa import FafaProcessor
from fafa.captions_fafa import clean_caption, has_word
from fafa.dataset_builders.export import export_dataset
from fafa.dataset_builders.records import DataFormatError
from fafa.dataset_builders.verify import verify_dataset
from fafa.processing_fafa import build_tokenizer
from fafa.training import FafaDataCollator

ACCENTS, NO_WIDTH = "\u0301\u0308", "\u200b\u200d\ufeff"
WORDLESS = {
    "dots": "...",
    "all that the clean-up takes": '.!"()*#:;~ ',
    "punctuation that the clean-up leaves": ", - ? 、 ，",
    "blanks of no width": NO_WIDTH,
    "accents without a letter": ACCENTS,
    "spacing accents of Hindi": "\u093e\u093f",
    "a replacement character": "\ufffd\ufffd",
    "private use": "\ue000\uf8ff",
    "control characters": "\x00\x07\x1b",
    "marks of direction": "\u202e\u2066\u2069",
    "a variation selector": "\ufe0f",
    "emoji": "👍🏽",
    "words beyond the fiftieth": ", " * 60 + "coat",
}
REFUSED = {
    **{f"edit_caption: {name}": {"edit_caption": text} for name, text in WORDLESS.items()},
    "target_caption: dots": {"target_caption": "..."},
    "reference_caption: dots": {"reference_caption": "..."},
    "edit_caption: half a surrogate pair": {"edit_caption": "a red \ud83d coat"},
    "edit_caption: a list": {"edit_caption": ["a red coat"]},
    "edit_caption: nested": {"edit_caption": json.loads("[" * 500 + "]" * 500)},
    "edit_caption: null": {"edit_caption": None},
    "edit_caption: NaN": {"edit_caption": math.nan},
    "cpr_id: beyond 64 bits": {"cpr_id": 2**63},
    "cpr_id: as a text beyond 64 bits": {"cpr_id": str(2**63)},
    "cpr_id: below 64 bits": {"cpr_id": -(2**63) - 1},
    "cpr_id: 1.0": {"cpr_id": 1.0},
    "cpr_id: '1.0'": {"cpr_id": "1.0"},
    "cpr_id: 1e3": {"cpr_id": 1e3},
    "cpr_id: NaN": {"cpr_id": math.nan},
    "cpr_id: infinity": {"cpr_id": math.inf},
    "cpr_id: true": {"cpr_id": True},
    "cpr_id: null": {"cpr_id": None},
    "cpr_id: blank": {"cpr_id": " "},
    "cpr_id: digits of another script": {"cpr_id": "١٢"},
    "path: blanks": {"target_image_path": "   "},
    "path: a NUL": {"target_image_path": "a\x00.png"},
    "path: half a surrogate pair": {"target_image_path": "a\udcff.png"},
    "path: blanks of no width": {"target_image_path": NO_WIDTH},
    "path: a Windows drive": {"target_image_path": "C:/images/a.png"},
    "path: backslashes": {"target_image_path": "..\\..\\a.png"},
    "path: a folder": {"target_image_path": "test2/"},
    "path: here": {"target_image_path": "."},
    "path: control characters of a terminal": {"target_image_path": "\x1b[31m\x07.png"},
}
ACCEPTED = {
    "a caption of half a megabyte": {"edit_caption": "red coat " * 60_000},
    "a caption of one letter": {"edit_caption": "a"},
    "a caption of one digit": {"edit_caption": "…7…"},
    "a word behind punctuation": {"edit_caption": "., -- ()" * 4 + " coat"},
    "a word with accents apart": {"edit_caption": "cafe\u0301 coat"},
    "control characters beside a word": {"edit_caption": "red\x00 \x1b[31m coat\u202e"},
    "a caption of Markdown and HTML": {"edit_caption": "# red\n\n<script>alert(1)</script> | coat ```"},
    "cpr_id: the largest": {"cpr_id": 2**63 - 1},
    "cpr_id: the smallest": {"cpr_id": -(2**63)},
    "cpr_id: -1": {"cpr_id": -1},
    "cpr_id: as a text": {"cpr_id": "-17"},
}


def write_json(file, content) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def processor():
    return FafaProcessor(tiny_processor().image_processor, build_tokenizer([*WORDS, "7"]))


def change(root, records, changes) -> None:
    write_json(root / "SynCPR.json", [*records[:3], records[3] | changes, *records[4:]])


@pytest.mark.parametrize("case", REFUSED)
def test_what_loading_refuses_verify_finds_in_the_same_record(load, syncpr_root, syncpr_records, case):
    change(syncpr_root, syncpr_records, REFUSED[case])
    with pytest.raises(DataFormatError, match=r"record 3 \(") as error:
        load("SynCPR", data_dir=syncpr_root)
    message = str(error.value)
    assert message.replace("\n", "").isprintable() and len(message) < 1_000
    problems = verify_dataset(syncpr_root, num_workers=1, show_progress=False)["files"]["SynCPR.json"]["problems"]
    (problem,) = problems
    assert problem in message
    assert [found["record"] for found in problems[problem]["found"]] == [3]


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_loading_takes_verify_calls_sound_and_training_takes(load, syncpr_root, syncpr_records, processor, case):
    change(syncpr_root, syncpr_records, ACCEPTED[case])
    dataset = load("SynCPR", data_dir=syncpr_root, split="train")
    assert verify_dataset(syncpr_root, num_workers=1, show_progress=False)["sound"]
    dataset = dataset.cast_column("reference_image", datasets.Image(decode=False))
    dataset = dataset.cast_column("target_image", datasets.Image(decode=False))
    collator = FafaDataCollator(processor, with_captions=True)
    collator.check_captions(dataset)
    batch = collator([dataset[row] for row in range(2, 5)])
    assert batch["group_ids"].tolist() == dataset["cpr_id"][2:5]


def test_groups_are_told_apart_whatever_their_numbers(processor):
    model = tiny_model()
    images = [Image.new("RGB", (20, 40), (80 * shade, 0, 0)) for shade in range(3)]
    inputs = processor(images=images, text=["a red coat", "a blue bag", "a hat"], return_tensors="pt")
    inputs["target_pixel_values"] = inputs["pixel_values"].flip(0)
    plain, odd = ([7, 7, 8], [-(2**63), -(2**63), -1])
    with torch.no_grad():
        losses = []
        for ids in (plain, odd):
            torch.manual_seed(0)
            losses.append(float(model(**inputs, group_ids=torch.tensor(ids)).loss_fda))
    assert losses[0] == losses[1]


def test_a_word_is_what_the_tokenizer_makes_a_token_of(processor):
    """A caption with a letter or digit of any script never comes out empty; of Unicode's large blocks some serve."""
    codes = [*range(0x3400), *range(0x3400, 0x110000, 37)]
    letters = [char for code in codes if has_word(char := chr(code))]
    ids = processor.tokenizer([clean_caption(char) for char in letters])["input_ids"]
    assert len(letters) > 10_000 and min(map(len, ids)) == 3
    assert not any(map(has_word, WORDLESS.values()))
    assert {unicodedata.category(char)[0] for char in letters} == {"L", "N"}


def test_queries_and_captions_of_pictures_are_held_to_the_same_rule(load, itcpr_root, itcpr_records, tmp_path):
    queries, _ = itcpr_records
    write_json(itcpr_root / "query.json", [queries[0], queries[1] | {"caption": NO_WIDTH}])
    with pytest.raises(DataFormatError, match=r"without a word \(1\): record 1 \(caption is '\\u200b"):
        load("ITCPR", "query", data_dir=itcpr_root)

    def tell(**changes):
        record = {"image_path": "a.png", "captions": ["a coat"], "person_id": 1, "provenance": {"source": "edited"}}
        write_json(tmp_path / "SynTBPR/SynTBPR.json", [record | changes])
        with pytest.raises(DataFormatError) as error:
            load("SynTBPR", data_dir=tmp_path / "SynTBPR")
        verified = verify_dataset(tmp_path / "SynTBPR", num_workers=1, show_progress=False)
        return str(error.value), next(iter(verified["files"]["SynTBPR.json"]["problems"]))

    Image.new("RGB", (4, 8)).save(tmp_path.joinpath("SynTBPR").mkdir() or tmp_path / "SynTBPR/a.png")
    for changes, expected in (
        ({"captions": ["a coat", "..."]}, "record 0 (captions[1] is '...')"),
        ({"provenance": {"source": "edited", "prompt": "\ud800"}}, "provenance holds half a surrogate pair"),
        ({"provenance": {"source": "edited", "seed": math.nan}}, "without NaN and infinity"),
        ({"provenance": {"source": "edited", "parents": [math.inf]}}, "without NaN and infinity"),
    ):
        message, problem = tell(**changes)
        assert expected in message and problem in message


def test_an_export_refuses_what_loading_refuses_before_it_writes(syncpr_root, syncpr_records, tmp_path):
    change(syncpr_root, syncpr_records, {"edit_caption": "..."})
    with pytest.raises(DataFormatError, match="record 3"):
        export_dataset(
            "SynCPR",
            data_dir=syncpr_root,
            output_dir=tmp_path / "out",
            cache_dir=tmp_path / "cache",
            show_progress=False,
        )
    assert not [*tmp_path.joinpath("out").rglob("*.parquet")]


def test_a_person_numbered_minus_one_is_no_distractor(tmp_path):
    for number in range(2):
        Image.new("RGB", (4, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    write_json(
        tmp_path / "SynTBPR.json",
        [
            {"image_path": f"{number}.png", "captions": ["a coat"], "person_id": -1, "provenance": {"source": "edited"}}
            for number in range(2)
        ],
    )
    report = verify_dataset(tmp_path, num_workers=1, show_progress=False)
    ids = report["files"]["SynTBPR.json"]["statistics"]["ids"]["person_id"]
    assert (ids["groups"], ids["records"], ids["distractors"]) == (1, 2, 0)
