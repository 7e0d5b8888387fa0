"""The processor: captions and ids of the released code, pairs of picture and caption, saving and loading."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from fafa import TINY_CHECKPOINT, FafaImageProcessor, FafaProcessor, captions_fafa, processing_fafa
from fafa.captions_fafa import is_unread
from fafa.processing_fafa import build_tokenizer, clean_caption

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "fafa_public_captions.json").read_text()), load_file(
        GOLDEN / "fafa_public_io.safetensors"
    )


@pytest.fixture
def processor():
    image_processor = FafaImageProcessor(person_size={"height": 96, "width": 48}, size=96)
    return FafaProcessor(image_processor, build_tokenizer(GOLDEN / "vocab_public.txt"))


@pytest.fixture
def pictures():
    return [Image.new("RGB", (48, 96), colour) for colour in ("red", "green", "blue")]


class TestCleanCaption:
    @pytest.mark.parametrize("caption", json.loads((GOLDEN / "captions_public.json").read_text(encoding="utf-8")))
    def test_equals_released(self, caption):
        assert clean_caption(caption["raw"]) == caption["processed"]

    def test_word_limit(self):
        assert clean_caption("one two. three", max_words=2) == "one two"

    def test_docstring_examples(self):
        for module in (processing_fafa, captions_fafa):
            results = doctest.testmod(module)
            assert results.attempted > 0 and results.failed == 0


class TestTokenizer:
    def test_ids_equal_released(self, golden):
        captions, _ = golden
        tokenizer = build_tokenizer(GOLDEN / "vocab_public.txt")
        assert tokenizer(captions["processed"])["input_ids"] == captions["ids_unpadded_untruncated"]
        assert len(tokenizer) == captions["len_tokenizer"]
        assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("[DEC]", captions["dec_id"])
        for name in ("cls", "sep", "pad", "unk"):
            assert getattr(tokenizer, f"{name}_token_id") == captions[f"{name}_id"]

    def test_all_sources_of_a_vocabulary_are_equal(self, tmp_path):
        tokens = [*SPECIAL, "coat", "red", "##dish"]
        (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
        mapping = {token: tokens.index(token) for token in sorted(tokens)}
        for vocab in (tokens, iter(tokens), mapping, tmp_path / "vocab.txt", str(tmp_path / "vocab.txt")):
            tokenizer = build_tokenizer(vocab)
            assert tokenizer("Reddish coat blue")["input_ids"] == [2, 6, 7, 5, 1, 3]
            assert tokenizer.bos_token_id == 8

    def test_a_vocabulary_that_has_the_bos_token_keeps_its_place(self):
        tokenizer = build_tokenizer([*SPECIAL, "[DEC]", "coat"])
        assert tokenizer.bos_token_id == 5
        assert len(tokenizer) == 7

    @pytest.mark.parametrize(
        ("vocab", "message"),
        [
            (["[PAD]", "[UNK]", "[SEP]", "coat"], r"\[CLS\], \[MASK\] missing among 4"),
            ([*SPECIAL, "coat", "coat"], r"once, but \['coat'\]"),
            ({"[PAD]": 0, "coat": 7}, "ids 0 to 1"),
        ],
    )
    def test_bad_vocabulary(self, vocab, message):
        with pytest.raises(ValueError, match=message):
            build_tokenizer(vocab)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
            build_tokenizer(tmp_path / "absent.txt")


class TestCaptions:
    def test_padded_to_32_as_released(self, processor, golden):
        captions, io = golden
        inputs = processor(text=captions["raw"], padding="max_length", return_tensors="np")
        assert set(inputs) == {"input_ids", "attention_mask"}
        np.testing.assert_array_equal(inputs["input_ids"], io["in.input_ids"])
        np.testing.assert_array_equal(inputs["attention_mask"], io["in.attention_mask"])

    def test_longer_limit_as_released_for_text_alone(self, processor, golden):
        captions, io = golden
        expected = io["in.text_only_input_ids"]
        inputs = processor(text=captions["raw"], max_length=128, return_tensors="np")
        np.testing.assert_array_equal(inputs["input_ids"], expected)
        longer = FafaProcessor(processor.image_processor, processor.tokenizer, max_text_length=128)
        np.testing.assert_array_equal(longer(text=captions["raw"], return_tensors="np")["input_ids"], expected)

    def test_default_pads_to_the_longest(self, processor):
        inputs = processor(text=["black leather jacket", "black"], return_tensors="pt")
        assert inputs["input_ids"].tolist() == [[2, 138, 155, 114, 3], [2, 138, 3, 0, 0]]
        assert inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]

    def test_without_tensors_and_padding(self, processor):
        inputs = processor(text=["black leather jacket", "black"], padding=False)
        assert inputs["input_ids"] == [[2, 138, 155, 114, 3], [2, 138, 3]]

    def test_one_caption_is_a_batch_of_one(self, processor):
        one, batch = processor(text="Black!", return_tensors="pt"), processor(text=["Black!"], return_tensors="pt")
        assert one["input_ids"].tolist() == batch["input_ids"].tolist() == [[2, 138, 3]]

    def test_clean_up_can_be_switched_off(self, processor):
        raw = FafaProcessor(processor.image_processor, processor.tokenizer, clean_captions=False)
        assert processor(text="black: leather")["input_ids"] == [[2, 138, 155, 3]]
        assert raw(text="black: leather")["input_ids"] == [[2, 138, 1, 155, 3]]

    @pytest.mark.parametrize("empty", ["", "  ", "...!!", "\n\t", "\u200b"])
    def test_empty_caption(self, processor, empty):
        with pytest.raises(ValueError, match=r"text\[1\]: .*holds no word.*give none"):
            processor(text=["black", empty], return_tensors="pt")

    @pytest.mark.parametrize("broken", ["caf\udce9", "\ud800", "a coat " * 100 + "\udfff"])
    def test_caption_of_bytes_that_are_no_text(self, processor, broken):
        """As the command line hands them over; the tokenizer raised a TypeError that names nothing."""
        with pytest.raises(ValueError, match=r"^text\[1\]: the caption '[\x20-\x7e]+' holds bytes that are no text in"):
            processor(text=["black", broken])

    @pytest.mark.parametrize("wrong", [None, 3, ["black"], b"black"])
    def test_caption_that_is_no_string(self, processor, wrong):
        with pytest.raises(TypeError, match=rf"text\[1\]: expected a caption \(str\), got {type(wrong).__name__}"):
            processor(text=["black", wrong])
        with pytest.raises(TypeError, match=r"text\[0\]: expected a caption"):
            processor(text=3)

    def test_no_captions(self, processor):
        with pytest.raises(ValueError, match="text is empty"):
            processor(text=[])


class TestPairs:
    def test_composed_query(self, processor, pictures):
        inputs = processor(images=pictures, text=["black"] * 3, return_tensors="pt")
        assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"}
        assert inputs["pixel_values"].shape == (3, 3, 96, 96) and inputs["pixel_values"].dtype == torch.float32
        assert inputs["input_ids"].shape == (3, 3) and inputs["input_ids"].dtype == torch.int64
        assert inputs.to(torch.bfloat16)["pixel_values"].dtype == torch.bfloat16

    def test_halves_equal_the_pair(self, processor, pictures):
        pair = processor(images=pictures[0], text="black", return_tensors="pt")
        image, text = processor(pictures[0], return_tensors="pt"), processor(text="black", return_tensors="pt")
        assert set(image) == {"pixel_values"}
        torch.testing.assert_close(pair["pixel_values"], image["pixel_values"])
        assert pair["input_ids"].tolist() == text["input_ids"].tolist()

    def test_unequal_numbers(self, processor, pictures):
        with pytest.raises(ValueError, match="3 images but 2 captions"):
            processor(images=pictures, text=["black", "coat"])
        with pytest.raises(ValueError, match="3 images but 1 captions"):
            processor(images=pictures, text="black")

    def test_nothing(self, processor):
        with pytest.raises(ValueError, match="got neither"):
            processor()

    def test_bad_picture_is_named(self, processor, pictures):
        with pytest.raises(FileNotFoundError, match=r"images\[1\]: no file 'absent\.png'"):
            processor(images=[pictures[0], "absent.png"], text=["black", "coat"])


class TestSaving:
    def save(self, processor, folder):
        processor.max_text_length = 16
        processor.clean_captions = False
        processor.save_pretrained(folder)

    @pytest.mark.parametrize("auto", [False, True])
    def test_round_trip_keeps_all_settings(self, processor, pictures, tmp_path, auto):
        from transformers import AutoProcessor

        self.save(processor, tmp_path)
        again = (AutoProcessor if auto else FafaProcessor).from_pretrained(tmp_path)
        assert type(again) is FafaProcessor and type(again.image_processor) is FafaImageProcessor
        assert (again.max_text_length, again.clean_captions) == (16, False)
        assert again.to_dict() == processor.to_dict()
        assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        assert again.tokenizer.bos_token == "[DEC]"
        captions = ["Black leather: " * 20] * 3
        before = processor(pictures, captions, return_tensors="pt")
        after = again(pictures, captions, return_tensors="pt")
        assert set(before) == set(after) == {"pixel_values", "input_ids", "attention_mask"}
        assert before["input_ids"].shape == (3, 16)
        for name in before:
            assert torch.equal(before[name], after[name])

    def test_loading_may_replace_a_setting(self, processor, tmp_path):
        self.save(processor, tmp_path)
        assert FafaProcessor.from_pretrained(tmp_path, max_text_length=8).max_text_length == 8

    def test_remote_code_in_a_process_without_fafa_and_torchvision(self, processor, tmp_path, monkeypatch):
        """`trust_remote_code=True` with the saved folder alone gives the same inputs."""
        monkeypatch.setattr(FafaProcessor, "_auto_class", None)
        monkeypatch.setattr(FafaImageProcessor, "_auto_class", None)
        FafaProcessor.register_for_auto_class()
        self.save(processor, tmp_path / "model")
        saved = {path.name for path in (tmp_path / "model").glob("*.py")}
        own = ("processing", "captions", "image_processing", "image_reading", "image_metadata")
        of_the_contract = {
            "retriever.py",
            "checks_fafa.py",
            "scoring_fafa.py",
            "weights_fafa.py",
            "names.py",
            "threads.py",
            "workers.py",
        }
        assert saved == {f"{part}_fafa.py" for part in own} | of_the_contract
        script = """
import json, sys
sys.modules["fafa"] = sys.modules["torchvision"] = None
from PIL import Image
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained("model", trust_remote_code=True)
inputs = processor(Image.new("RGB", (20, 60), "red"), "black leather", return_tensors="np")
print(json.dumps([processor.max_text_length, inputs["input_ids"].tolist(), float(inputs["pixel_values"].sum())]))
"""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        max_text_length, input_ids, pixel_sum = json.loads(result.stdout.splitlines()[-1])
        expected = processor(Image.new("RGB", (20, 60), "red"), "black leather", return_tensors="np")
        assert max_text_length == 16
        assert input_ids == expected["input_ids"].tolist()
        assert pixel_sum == pytest.approx(float(expected["pixel_values"].sum()))


@pytest.mark.parametrize(
    "caption", ["a red coat в красном пальто с рюкзаком и шляпой", "xylophone quintet", "ein gruener Hut"]
)
def test_a_caption_that_is_spelt_letter_by_letter_is_told_once(caption, caplog):
    """Captions of other scripts and languages were ranked without a word."""
    processor = FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    processor.encode_captions([caption], ["--caption"])
    processor.encode_captions([caption], ["query 7"])
    assert caplog.text.count("most words of the caption") == 1
    assert f"--caption: most words of the caption '{caption}" in caplog.text


def test_captions_of_known_words_with_a_rare_one_are_not_told_as_spelt(caplog):
    processor = FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    captions = [
        "now in a red coat",
        "in a red coat",
        "now in a red coat, carrying a backpack",
        "a teal coat and gloves",
    ]
    processor.encode_captions(captions)
    assert not caplog.text


def test_scripts_are_known_by_the_vocabulary():
    """A model for Chinese reads signs one by one; an English one has some of them and has never learned from any."""

    class Signs:
        unk_token = "[UNK]"

        def __init__(self, known):
            self.known = {chr(0x4E00 + number): number for number in range(known)}

        def get_vocab(self):
            return self.known

        def tokenize(self, word):
            return [sign if sign in self.known else self.unk_token for sign in word]

    caption = "".join(map(chr, range(0x4E00, 0x4E0A)))
    assert is_unread(caption, Signs(300)) and not is_unread(caption, Signs(5000))


def test_what_is_not_read_of_a_caption_is_told():
    """The log tells it of the first caption alone; whoever asks by another one is to know it, too."""
    processor = FafaProcessor.from_pretrained(TINY_CHECKPOINT)
    assert processor.caption_remarks("Now in a red coat, carrying a backpack") == []
    [cut] = processor.caption_remarks("a red coat and a blue hat, " * 8)
    assert "is longer than the model reads: its end is left out" in cut
    [ignored] = processor.caption_remarks("a red zzz coat")
    assert ignored == "The model does not know, and ignores: zzz."
    assert "knows hardly a word" in processor.caption_remarks("zzz qqq xxx")[0]
