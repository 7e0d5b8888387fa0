"""Published weights become a FafaModel that computes the same; what does not fit is refused by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, Blip2Config, Blip2ForImageTextRetrieval

from fafa import FafaModel, FafaProcessor, convert_fafa_checkpoint
from fafa.convert_fafa_checkpoint import (
    config_from_tensors,
    convert_checkpoint,
    convert_state_dict,
    main,
)
from fafa.files import sha256_of
from fafa.processing_fafa import build_tokenizer
from fafa.released_weights import BLOCKS_OF_VISION_WIDTH, plan_conversion, released_names

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
VOCABULARY = GOLDEN / "vocab_public.txt"
HEADS = {"vision_heads": 4, "qformer_heads": 4}
OPTIONS = ["--vision-heads", "4", "--qformer-heads", "4", "--tokenizer", str(VOCABULARY)]


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "fafa_public_io.safetensors")


@pytest.fixture
def released() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "fafa_public.safetensors")


def convert(state_dict, folder, **options):
    torch.save(state_dict, folder / "source.pt")
    return convert_checkpoint(folder / "source.pt", folder / "model", tokenizer=VOCABULARY, **HEADS, **options)


def load(folder) -> FafaModel:
    model, info = FafaModel.from_pretrained(folder, num_top_tokens=3, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval()


def assert_equals_golden(model, io, tolerance=1e-4):
    with torch.no_grad():
        queries = model.get_query_features(io["in.pixel_values_ref"], io["in.input_ids"], io["in.attention_mask"])
        targets = model.get_target_features(io["in.pixel_values_target"])
        close = {"rtol": 0, "atol": tolerance}
        torch.testing.assert_close(queries, io["out.query_embed"], **close)
        torch.testing.assert_close(targets, io["out.target_feats"], **close)
        torch.testing.assert_close(model.score(queries, targets), io["out.score_topk_mean"], **close)


# The released FAFA file


@pytest.mark.parametrize("wrapping", ["epoch", "step", "bare"])
def test_released_checkpoint_computes_the_same_after_conversion(wrapping, released, io, tmp_path):
    content = released if wrapping == "bare" else {wrapping: 3, "model": released}
    conversion = convert(content, tmp_path)
    model = load(tmp_path / "model")
    assert_equals_golden(model, io)
    assert model.temperature.item() == pytest.approx(0.083)
    assert torch.equal(model.mfr_predictor[2].weight, released["mlm_predictor.predictor.2.weight"])
    assert not conversion.fresh and (wrapping in conversion.dropped) == (wrapping != "bare")


def test_mixed_precision_file_becomes_fp32(released, io, tmp_path):
    """A GPU-trained file holds the tower's Linear and Conv tensors in fp16, biases of q and v and norms in fp32."""
    for key, tensor in released.items():
        in_half = (".attn.proj.", ".attn.qkv.", ".mlp.", ".patch_embed.")
        if key.startswith("visual_encoder.") and any(part in key for part in in_half):
            released[key] = tensor.half()
    convert({"epoch": 1, "model": released}, tmp_path)
    model = load(tmp_path / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_equals_golden(model, io, tolerance=5e-3)


def test_dtype_option_sets_dtype_of_file_and_model(released, io, tmp_path):
    convert(released, tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load(tmp_path / "model").dtype == torch.bfloat16


def test_shards_hold_the_same_weights_as_one_file(released, io, tmp_path):
    convert(released, tmp_path, max_shard_size="200KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    assert_equals_golden(load(tmp_path / "model"), io)


def test_folder_is_complete(released, io, tmp_path):
    """AutoModel and AutoProcessor load it; captions become the released ids; the card names the source's hash."""
    convert(released, tmp_path)
    folder = tmp_path / "model"
    assert isinstance(AutoModel.from_pretrained(folder), FafaModel)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, FafaProcessor) and processor.image_processor.size["height"] == 56
    captions = json.loads((GOLDEN / "fafa_public_captions.json").read_text(encoding="utf-8"))["raw"]
    inputs = processor(text=captions, return_tensors="pt", padding="max_length")
    assert torch.equal(inputs["input_ids"], io["in.input_ids"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "source.pt" in card and "Intended use and limits" in card
    assert sha256_of(tmp_path / "source.pt") in card


def test_state_dict_loads_strictly_and_covers_the_model(released):
    config = config_from_tensors(released, **HEADS)
    converted = convert_state_dict(released, config)
    FafaModel(config).load_state_dict(converted, strict=True)
    qkv_bias = converted["vision_model.encoder.layers.1.self_attn.qkv.bias"]
    assert torch.equal(qkv_bias[48:96], torch.zeros(48)), "the key has no trained bias"
    assert torch.equal(qkv_bias[96:], released["visual_encoder.blocks.1.attn.v_bias"])


# The key map

KEY_MAP = {
    "query_tokens": "query_tokens",
    "temperature": "temp",
    "vision_model.embeddings.class_embedding": "visual_encoder.cls_token",
    "vision_model.embeddings.position_embedding": "visual_encoder.pos_embed",
    "vision_model.embeddings.patch_embedding.weight": "visual_encoder.patch_embed.proj.weight",
    "vision_model.encoder.layers.2.layer_norm1.bias": "visual_encoder.blocks.2.norm1.bias",
    "vision_model.encoder.layers.2.layer_norm2.weight": "visual_encoder.blocks.2.norm2.weight",
    "vision_model.encoder.layers.2.self_attn.qkv.weight": "visual_encoder.blocks.2.attn.qkv.weight",
    "vision_model.encoder.layers.2.self_attn.projection.weight": "visual_encoder.blocks.2.attn.proj.weight",
    "vision_model.encoder.layers.2.mlp.fc1.weight": "visual_encoder.blocks.2.mlp.fc1.weight",
    "vision_model.encoder.layers.2.mlp.fc2.bias": "visual_encoder.blocks.2.mlp.fc2.bias",
    "vision_model.post_layernorm.weight": "ln_vision.weight",
    "embeddings.word_embeddings.weight": "Qformer.bert.embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight": "Qformer.bert.embeddings.position_embeddings.weight",
    "qformer.layernorm.bias": "Qformer.bert.embeddings.LayerNorm.bias",
    "vision_projection.weight": "vision_proj.weight",
    "text_projection.bias": "text_proj.bias",
    "mfr_predictor.0.weight": "mlm_predictor.predictor.0.weight",
    "mfr_predictor.2.bias": "mlm_predictor.predictor.2.bias",
}
QFORMER_LAYER = {
    "attention.attention.query.weight": "attention.self.query.weight",
    "attention.output.LayerNorm.bias": "attention.output.LayerNorm.bias",
    "crossattention.attention.key.bias": "crossattention.self.key.bias",
    "crossattention.output.dense.weight": "crossattention.output.dense.weight",
    "intermediate.dense.weight": "intermediate.dense.weight",
    "output.LayerNorm.weight": "output.LayerNorm.weight",
    "intermediate_query.dense.bias": "intermediate_query.dense.bias",
    "output_query.dense.weight": "output_query.dense.weight",
}
KEY_MAP |= {
    f"qformer.encoder.layer.2.{ours}": f"Qformer.bert.encoder.layer.2.{key}" for ours, key in QFORMER_LAYER.items()
}


@pytest.mark.parametrize("name", KEY_MAP)
def test_key_map_is_pinned(name):
    assert released_names(name) == (KEY_MAP[name],)


def test_every_released_key_is_used_once_or_dropped_for_a_reason(released):
    conversion = plan_conversion(released, config_from_tensors(released, **HEADS))
    used = [key for keys in conversion.sources.values() for key in keys]
    assert len(used) == len(set(used)) and not set(used) & set(conversion.dropped)
    assert set(used) | set(conversion.dropped) == set(released)
    heads = ("Qformer.cls.predictions.", "itm_head.")
    assert {key for key in released if key.startswith(heads)} | {"Qformer.bert.embeddings.position_ids"} == set(
        conversion.dropped
    )


def test_default_heads_are_blip2s_and_unknown_widths_ask(released):
    """The wrong number of heads gives a model that loads and scores wrongly, so it is never guessed."""
    with pytest.raises(ValueError, match="--vision-heads"):
        config_from_tensors(released, qformer_heads=4)
    with pytest.raises(ValueError, match="--qformer-heads"):
        config_from_tensors(released, vision_heads=4)
    with pytest.raises(ValueError, match="does not divide"):
        config_from_tensors(released, vision_heads=5, qformer_heads=4)


# Refusals


@pytest.mark.parametrize(
    "key",
    [
        "query_tokens",  # tells a size
        "visual_encoder.blocks.1.attn.q_bias",  # half of a joint bias
        "Qformer.bert.encoder.layer.2.crossattention.self.value.weight",
        "mlm_predictor.predictor.0.bias",  # FAFA's own: initialised only when all of it is absent
        "temp",
    ],
)
def test_missing_key_is_refused_by_name(key, released, tmp_path):
    del released[key]
    with pytest.raises(ValueError, match="missing") as error:
        convert(released, tmp_path)
    assert key in str(error.value) and "source.pt" in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("key", ["foo.weight", "Qformer.cls.predictions.extra", "visual_encoder.blocks.1.attn.k_bias"])
def test_extra_key_is_refused_by_name(key, released, tmp_path):
    released[key] = torch.zeros(3)
    with pytest.raises(ValueError, match=f"unexpected  {key}"):
        convert(released, tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "text_proj.weight",
        "vision_proj.weight",  # tells a size
        "visual_encoder.pos_embed",  # tells a size
        "visual_encoder.blocks.0.attn.v_bias",
        "Qformer.bert.encoder.layer.3.output_query.dense.bias",
        "itm_head.bias",  # dropped, yet not the head that the reason speaks of
    ],
)
def test_mis_shaped_key_is_refused_by_name(key, released, tmp_path):
    released[key] = torch.cat([released[key], released[key]])
    if key == "visual_encoder.pos_embed":
        released[key] = released[key].reshape(1, 34, 48)
    with pytest.raises(ValueError, match="mis-shaped") as error:
        convert(released, tmp_path)
    assert key in str(error.value)


def test_one_error_lists_all_problems(released):
    config = config_from_tensors(released, **HEADS)
    del released["ln_vision.bias"], released["text_proj.bias"]
    released["stranger"] = torch.zeros(2)
    released["temp"] = torch.zeros(2)
    with pytest.raises(ValueError, match="4 keys") as error:
        convert_state_dict(released, config)
    assert all(key in str(error.value) for key in ("ln_vision.bias", "text_proj.bias", "stranger", "temp (2,)"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_malicious_pickle_is_refused_without_running(as_zip, tmp_path):
    trap, source = tmp_path / "was_run", tmp_path / "source.pt"
    torch.save({"model": {"temp": Malicious(trap)}}, source, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(ValueError, match=r"source\.pt was refused"):
        convert_checkpoint(source, tmp_path / "model", tokenizer=VOCABULARY, **HEADS)
    assert not trap.exists() and not (tmp_path / "model").exists()
    torch.load(source, weights_only=False)
    assert trap.exists(), "the trap would have worked"


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_broken_file_is_named(damage, released, tmp_path):
    source = tmp_path / "source.pt"
    torch.save(released, source)
    content = {"truncated": source.read_bytes()[:50_000], "empty": b"", "text": b"<html>Not found</html>"}[damage]
    source.write_bytes(content)
    with pytest.raises(ValueError, match=r"source\.pt was refused"):
        convert_checkpoint(source, tmp_path / "model", tokenizer=VOCABULARY, **HEADS)


def test_tokenizer_of_another_size_is_refused(released, tmp_path):
    words = VOCABULARY.read_text(encoding="utf-8").splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "surplus"]) + "\n", encoding="utf-8")
    torch.save(released, tmp_path / "source.pt")
    with pytest.raises(ValueError, match=r"175 tokens .* embeds 174"):
        convert_checkpoint(tmp_path / "source.pt", tmp_path / "model", tokenizer=tmp_path, **HEADS)


def test_output_that_holds_something_is_kept(released, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(FileExistsError, match="absent or empty"):
        convert(released, tmp_path)


# BLIP-2 in LAVIS's names


def split_tower(released) -> tuple[dict, dict]:
    """As LAVIS publishes: the pre-training without its frozen tower, and the tower whole, in a file of its own."""
    pretrained = {key: value for key, value in released.items() if not key.startswith(("visual_encoder.", "mlm_"))}
    tower = {
        key.removeprefix("visual_encoder."): value
        for key, value in released.items()
        if key.startswith("visual_encoder.")
    }
    last = {key.replace("blocks.2.", "blocks.3."): value for key, value in tower.items() if key.startswith("blocks.2.")}
    return pretrained, tower | last | {"norm.weight": torch.ones(48), "head.bias": torch.zeros(7)}


def test_lavis_pretraining_with_its_separate_tower(released, io, tmp_path, monkeypatch):
    monkeypatch.setitem(BLOCKS_OF_VISION_WIDTH, 48, 3)
    pretrained, tower = split_tower(released)
    torch.save(tower, tmp_path / "eva.pth")
    conversion = convert({"model": pretrained}, tmp_path, vision_weights=tmp_path / "eva.pth")
    model = load(tmp_path / "model")
    assert_equals_golden(model, io)
    assert model.temperature.item() == pytest.approx(0.083)
    assert set(conversion.fresh) == {f"mfr_predictor.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")}
    assert 0.01 < model.mfr_predictor[0].weight.std().item() < 0.03 and not model.mfr_predictor[0].bias.any()
    assert "norm.weight (of eva.pth)" in conversion.dropped and "head.bias (of eva.pth)" in conversion.dropped
    assert "blocks.3.attn.qkv.weight (of eva.pth)" in conversion.dropped
    assert "not a person retriever yet" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_lavis_pretraining_without_tower_asks_for_it(released, tmp_path):
    pretrained, _ = split_tower(released)
    with pytest.raises(ValueError, match="--vision-weights"):
        convert({"model": pretrained}, tmp_path)


def test_second_tower_is_refused(released, tmp_path):
    torch.save(split_tower(released)[1], tmp_path / "eva.pth")
    with pytest.raises(ValueError, match="leave out --vision-weights"):
        convert(released, tmp_path, vision_weights=tmp_path / "eva.pth")


def test_clip_tower_is_refused_with_the_reason(released, tmp_path):
    released["visual_encoder.ln_pre.weight"] = torch.ones(48)
    with pytest.raises(ValueError, match="CLIP's ViT-L"):
        convert(released, tmp_path)


# BLIP-2 in Hugging Face's names


@pytest.fixture
def blip2(tmp_path) -> Blip2ForImageTextRetrieval:
    """A tiny random `Blip2ForImageTextRetrieval`, saved with its tokenizer in two shards to `tmp_path / "blip2"`."""
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "initializer_range": 0.1}
    qformer = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    qformer |= {"vocab_size": 174, "use_qformer_text_input": True, "initializer_range": 0.1}
    config = Blip2Config(vision_config=vision, qformer_config=qformer, image_text_hidden_size=16, num_query_tokens=8)
    torch.manual_seed(0)
    model = Blip2ForImageTextRetrieval(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(tmp_path / "blip2", max_shard_size="100KB")
    tokenizer = build_tokenizer(VOCABULARY)
    tokenizer.add_tokens(["<image>"])  # as Blip2Processor does, beyond the rows of the word embeddings
    tokenizer.save_pretrained(tmp_path / "blip2")
    return model


def test_hugging_face_blip2_folder_gives_the_same_contrastive_features(blip2, tmp_path):
    conversion = convert_checkpoint(tmp_path / "blip2", tmp_path / "model")
    model = load(tmp_path / "model")
    model.vision_model.post_layernorm.eps = 1e-6  # transformers' class has the tower's epsilon there, BLIP-2 had 1e-5
    pixels, ids = torch.randn(3, 3, 28, 28), torch.randint(5, 174, (3, 7))
    with torch.no_grad():
        theirs = blip2(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
        captions, targets = model.get_query_features(input_ids=ids), model.get_target_features(pixel_values=pixels)
    torch.testing.assert_close(targets, theirs.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(captions, theirs.text_embeds, rtol=0, atol=1e-5)
    assert model.config.qformer_config.num_attention_heads == 3, "heads come from the folder's config.json"
    assert "temperature" in conversion.fresh and set(conversion.dropped) == {"itm_head.weight", "itm_head.bias"}
    assert len(AutoProcessor.from_pretrained(tmp_path / "model").tokenizer) == 174


def test_hugging_face_folder_with_a_foreign_key_is_refused(blip2, tmp_path):
    save_file(
        blip2.state_dict() | {"language_projection.bias": torch.zeros(3)}, tmp_path / "blip2" / "model.safetensors"
    )
    (tmp_path / "blip2" / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"unexpected  language_projection\.bias"):
        convert_checkpoint(tmp_path / "blip2", tmp_path / "model")


def test_hugging_face_folder_with_a_lost_shard_is_refused(blip2, tmp_path):
    min((tmp_path / "blip2").glob("model-*.safetensors")).unlink()
    with pytest.raises(FileNotFoundError, match="model-00001-of"):
        convert_checkpoint(tmp_path / "blip2", tmp_path / "model")


def test_hugging_face_folder_with_a_truncated_file_is_refused(blip2, tmp_path):
    shard = min((tmp_path / "blip2").glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model-00001-of-0000\d\.safetensors is broken"):
        convert_checkpoint(tmp_path / "blip2", tmp_path / "model")


def test_hub_id_is_fetched_with_weights_and_tokenizer_only(blip2, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, allow_patterns):
        asked[repo_id] = allow_patterns
        return str(tmp_path / "blip2")

    monkeypatch.setattr(convert_fafa_checkpoint, "snapshot_download", snapshot_download)
    convert_checkpoint("Salesforce/blip2-itm-vit-g", tmp_path / "model")
    assert asked == {"Salesforce/blip2-itm-vit-g": ["*.json", "*.safetensors", "vocab.txt"]}
    assert "converted from Salesforce/blip2-itm-vit-g" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


# The command line


def test_command_prints_what_it_dropped_and_how_to_check(released, tmp_path, capsys):
    torch.save({"epoch": 1, "model": released}, tmp_path / "source.pt")
    main([str(tmp_path / "source.pt"), str(tmp_path / "model"), *OPTIONS])
    printed = capsys.readouterr().out
    assert "itm_head.weight" in printed and "Qformer.cls.predictions.decoder.weight" in printed
    assert "fafa evaluate" in printed and "46.5" in printed


def test_command_fails_with_one_line_and_no_traceback(tmp_path, monkeypatch):
    def offline(repo_id, allow_patterns):
        raise OSError("offline")

    monkeypatch.setattr(convert_fafa_checkpoint, "snapshot_download", offline)
    with pytest.raises(SystemExit, match=r"absent\.pt: neither a file or folder here"):  # Python prints it, ends with 1
        main([str(tmp_path / "absent.pt"), str(tmp_path / "model")])
