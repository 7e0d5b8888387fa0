"""A folder that is no whole model, or whose parts do not fit, is refused by name; all honest ways of loading work."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import WORDS, tiny_model, tiny_processor
from transformers import AutoModel, AutoProcessor

from fafa import TINY_CHECKPOINT, FafaConfig, FafaImageProcessor, FafaModel, FafaProcessor
from fafa.commands import loading
from fafa.model_folder import check_fit, load_model
from fafa.processing_fafa import build_tokenizer, vocabulary_hash
from fafa.training.adapters import add_lora
from fafa.weights_fafa import UnsoundModelError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A model folder as training writes it."""
    folder = tmp_path_factory.mktemp("sound")
    processor = tiny_processor()
    tiny_model(vocabulary_hash=vocabulary_hash(processor.tokenizer)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(sound, tmp_path / "model")


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def change_json(file: Path, change) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def with_one(name, change):
    return lambda weights: weights | {name: change(weights[name])}


@pytest.mark.parametrize("loader", [FafaModel, AutoModel])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("text_projection.weight"), r"are missing and would be random numbers: text_projection\.weight\. "),
        (
            lambda w: {key.replace("text_projection", "text_proj"): value for key, value in w.items()},
            r"text_projection\.bias, text_projection\.weight; weights have no place in the model: text_proj\.bias, ",
        ),
        (lambda w: w | {"itm_head.weight": torch.ones(2)}, r"no place in the model: itm_head\.weight\. "),
        (with_one("text_projection.weight", lambda w: w * float("nan")), r"NaN or infinite values: text_projection\."),
        (with_one("query_tokens", lambda w: w.index_fill(2, torch.tensor(3), float("-inf"))), "infinite .*query_tok"),
        (with_one("text_projection.weight", lambda w: (w * 100).to(torch.int8)), "only whole numbers, .*text_proj"),
        (with_one("text_projection.weight", lambda w: w > 0), r"only whole numbers, .*text_projection\.weight"),
        (
            with_one("text_projection.weight", lambda w: w.to(torch.complex64)),
            r"complex numbers: text_projection\.weight",
        ),
    ],
    ids=["missing", "renamed", "foreign", "NaN", "infinite", "int8", "bool", "complex"],
)
def test_weights_that_give_wrong_scores_are_refused_by_name(folder, loader, change, message):
    change_weights(folder, change)
    with pytest.raises(UnsoundModelError, match=message) as error:
        loader.from_pretrained(folder)
    assert str(folder) in str(error.value) and isinstance(error.value, ValueError)


def test_weights_may_be_missing_or_left_over_where_the_caller_says_so(folder):
    change_weights(folder, lambda w: without("text_projection.weight")(w) | {"itm_head.weight": torch.ones(2)})
    allowed = {"allow_missing": ["text_*"], "allow_unexpected": "itm_head.weight"}
    model, info = FafaModel.from_pretrained(folder, output_loading_info=True, **allowed)
    assert info["missing_keys"] == {"text_projection.weight"} and model.text_projection.weight.std() > 0
    assert AutoModel.from_pretrained(folder, allow_missing=True, allow_unexpected=True).config.num_query_tokens == 8
    with pytest.raises(UnsoundModelError, match=r"itm_head\.weight.*name them in allow_unexpected="):
        FafaModel.from_pretrained(folder, allow_missing=True)
    with pytest.raises(UnsoundModelError, match=r"text_projection\.weight\. "):
        FafaModel.from_pretrained(folder, allow_missing=["vision_*"], allow_unexpected=True)
    with pytest.raises(TypeError, match="allow_missing is"):
        FafaModel.from_pretrained(folder, allow_missing=[3])


def test_another_head_is_allowed_by_transformers_own_option(folder):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        FafaModel.from_pretrained(folder, projection_dim=32)
    assert (
        FafaModel.from_pretrained(folder, projection_dim=32, ignore_mismatched_sizes=True).config.projection_dim == 32
    )


def test_position_ids_of_old_files_are_no_foreign_weights(folder):
    """A buffer of BERT's that files of older versions hold."""
    change_weights(folder, lambda w: w | {"embeddings.position_ids": torch.arange(64)[None]})
    FafaModel.from_pretrained(folder)


def test_weights_that_begin_as_zeros_or_ones_are_no_integers(tmp_path):
    model = tiny_model()
    torch.nn.init.zeros_(model.query_tokens)
    model.save_pretrained(tmp_path)
    FafaModel.from_pretrained(tmp_path)


def test_a_base_with_missing_weights_is_refused_under_an_adapter_too(folder, tmp_path):
    """Transformers' report of a model with an adapter tells of the adapter alone."""
    add_lora(FafaModel.from_pretrained(folder), rank=2).save_pretrained(tmp_path / "lora")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "lora"), FafaModel)
    change_weights(folder, without("query_tokens"))
    for loader in (AutoModel, FafaModel):
        with pytest.raises(UnsoundModelError, match="query_tokens"):
            loader.from_pretrained(tmp_path / "lora")


def test_an_adapter_finds_its_base_from_any_working_folder(folder, tmp_path, monkeypatch):
    """A relative name of the base was taken for a repository of the Hub from elsewhere."""
    monkeypatch.chdir(tmp_path)
    model = add_lora(FafaModel.from_pretrained("model"), rank=2)
    model.save_pretrained(tmp_path / "runs" / "lora")
    config = tmp_path / "runs" / "lora" / "adapter_config.json"
    change_json(config, lambda c: c.update(base_model_name_or_path="model"))
    monkeypatch.chdir("/")
    loaded = FafaModel.from_pretrained(tmp_path / "runs" / "lora")
    assert loaded.peft_config["default"].r == 2
    assert isinstance(PeftModel.from_pretrained(FafaModel.from_pretrained(folder), tmp_path / "runs/lora"), PeftModel)


def rotate(content):
    vocabulary = content["model"]["vocab"]
    words = [token for token in vocabulary if not token.startswith("[")]
    for token, following in zip(words, [*words[1:], words[0]], strict=True):
        content["model"]["vocab"][token] = WORDS.index(following)


def halve(content):
    content["model"]["vocab"] = {word: index for word, index in content["model"]["vocab"].items() if index < 9}


@pytest.mark.parametrize("loader", [FafaProcessor, AutoProcessor])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer: it knows no word"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer: it has no pad_token"),
        (lambda folder: change_json(folder / "tokenizer.json", rotate), "ids to other words than the one that this"),
        (lambda folder: change_json(folder / "tokenizer.json", halve), "ids to other words than the one that this"),
        (
            lambda folder: change_json(
                folder / "processor_config.json", lambda c: c["image_processor"].update(image_std=0)
            ),
            "image_std: expected numbers above 0",
        ),
        (
            lambda folder: change_json(
                folder / "processor_config.json", lambda c: c["image_processor"].update(do_padd=1)
            ),
            "unknown setting do_padd",
        ),
    ],
    ids=["no tokenizer.json", "no tokenizer_config.json", "rotated ids", "half the words", "std 0", "unknown setting"],
)
def test_a_damaged_processor_is_refused_when_it_is_loaded(folder, loader, damage, message):
    damage(folder)
    with pytest.raises((ValueError, TypeError), match=message):
        loader.from_pretrained(folder)


def swapped(**changes):
    """A processor that is sound by itself, but another model's."""
    words = changes.pop("words", WORDS)
    size = changes.pop("size", 96)
    return FafaProcessor(FafaImageProcessor(size=size), build_tokenizer(words), **changes)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (lambda: swapped(size=224), "makes images of 224 x 224 pixels, and the model reads 96 x 96"),
        (lambda: swapped(max_text_length=65), "may have 65 tokens .* the model has 64 positions"),
        (lambda: swapped(words=[*WORDS, "shoe"]), "has ids up to 15, and the model has 15 word embeddings"),
        (lambda: swapped(words=WORDS[:-1]), "has 14 tokens, and the model 15 word embeddings"),
        (lambda: swapped(words=[*WORDS[:5], *WORDS[:4:-1]]), "ids to other words than those that the model was saved"),
        (lambda: swapped(words=[*WORDS[1:5], WORDS[0], *WORDS[5:]]), r"\[PAD\] has the id 4, and the model's 0"),
    ],
    ids=["size", "text length", "more words", "fewer words", "other order", "padding elsewhere"],
)
def test_a_processor_of_another_model_is_refused(folder, processor, message):
    for file in folder.glob("*tokenizer*"):
        file.unlink()
    processor().save_pretrained(folder)
    with pytest.raises(UnsoundModelError, match=message):
        load_model(folder)


def test_a_tokenizer_of_no_recorded_hash_is_checked_by_what_sizes_tell(folder):
    """Folders of earlier versions have no hash."""
    for file in ("config.json", "processor_config.json"):
        change_json(folder / file, lambda content: content.pop("vocabulary_hash"))
    load_model(folder)
    change_json(folder / "tokenizer.json", halve)
    with pytest.raises(UnsoundModelError, match="10 tokens, and the model 15 word embeddings"):
        load_model(folder)


def test_words_added_later_do_not_make_it_another_tokenizer(folder, tmp_path):
    model, processor = load_model(folder)
    processor.tokenizer.add_tokens(["velvet"])
    model.resize_token_embeddings(16)
    check_fit(model, processor)
    processor.save_pretrained(tmp_path / "more")
    again = FafaProcessor.from_pretrained(tmp_path / "more")
    assert again.to_dict()["vocabulary_hash"].startswith("16:")
    check_fit(model, again)


def test_word_embeddings_padded_to_a_round_number_fit():
    model, processor = tiny_model(), tiny_processor()
    model.resize_token_embeddings(64)
    check_fit(model, processor)


def test_the_tiny_checkpoint_fits():
    model, processor = load_model(TINY_CHECKPOINT)
    assert model.config.vocabulary_hash == processor.vocabulary_hash == vocabulary_hash(processor.tokenizer)


def test_commands_tell_of_an_unsound_model_in_its_own_words(folder):
    change_weights(folder, without("query_tokens"))
    with pytest.raises(UnsoundModelError, match=r"^.*model: weights of the model are missing"), loading(str(folder)):
        load_model(folder)


def test_precision_and_place_hold_for_both_parts(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "inner" / "model")
    model, processor = load_model(tmp_path / "inner", subfolder="model", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and isinstance(processor, FafaProcessor)
    assert FafaConfig.from_pretrained(sound).vocabulary_hash == vocabulary_hash(processor.tokenizer)
