"""Whatever decides features changes a fingerprint, and nothing else does: a gallery serves the model that made it."""

import json

import pytest
import torch
from tiny import WORDS, tiny_processor
from tokenizers import normalizers, pre_tokenizers, processors

from fafa import FafaConfig, FafaModel, FafaProcessor
from fafa.processing_fafa import build_tokenizer
from fafa.retrieval.fingerprint import NOT_DECIDING, feature_settings, model_fingerprint
from fafa.retriever import tokenizer_fingerprint

SMALL = {
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 24,
    },
    "qformer_config": {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "num_query_tokens": 4,
    "projection_dim": 8,
    "num_top_tokens": 2,
    "mfr_hidden_size": 8,
    "freeze_vision": False,
}


def small_model(**options):
    torch.manual_seed(0)
    model = FafaModel(FafaConfig(**{**SMALL, **options})).eval()
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight)  # by default it is next to nothing
    return model


@pytest.fixture
def model():
    return small_model()


def test_one_value_of_any_weight_or_buffer_changes_it(model):
    """A sample of 256 values a tensor took another model's features for this one's."""
    before, tensors = model_fingerprint(model), [*model.named_parameters(), *model.named_buffers()]
    missed = []
    for name, tensor in tensors:
        place = tensor.data.view(-1)[-1:]
        kept = place.clone()
        place.copy_(kept * 1.5 + 1)  # in place, by .data: nothing that torch counts
        if model_fingerprint(model) == before:
            missed.append(name)
        place.copy_(kept)
    assert {name.split(".")[0] for name in missed} == FafaModel.weights_of_losses, "these alone decide no feature"
    assert model_fingerprint(model) == before


def test_a_step_of_training_changes_it(model):
    before = model_fingerprint(model)
    weights = [weight for name, weight in model.named_parameters() if name.split(".")[0] not in model.weights_of_losses]
    optimizer = torch.optim.AdamW(weights, lr=1e-5)
    sum(weight.square().sum() for weight in weights).backward()
    optimizer.step()
    assert model_fingerprint(model) != before


def settings_of(config, prefix=""):
    for name, value in config.to_dict().items():
        if isinstance(value, dict) and hasattr(config, name) and not isinstance(getattr(config, name), dict):
            yield from settings_of(getattr(config, name), f"{prefix}{name}.")
        else:
            yield config, name, f"{prefix}{name}"


def test_every_setting_counts_that_is_not_known_to_decide_nothing(model):
    """Other activations, numbers of heads, epsilons and patch sizes were taken for the same model."""
    before, counted, left_out = model_fingerprint(model), set(), set()
    for config, name, path in list(settings_of(model.config)):
        value = getattr(config, name, None)
        config.__dict__[name] = "another"
        if config.to_dict()[name] == "another":  # not of the class
            (left_out if model_fingerprint(model) == before else counted).add(path)
        config.__dict__[name] = value
    decide = {"hidden_act", "num_attention_heads", "layer_norm_eps"}
    assert {f"{part}.{name}" for part in ("vision_config", "qformer_config") for name in decide} < counted
    assert {"vision_config.patch_size", "vision_norm_eps", "num_query_tokens", "projection_dim"} < counted
    assert {path.split(".")[-1] for path in left_out} <= NOT_DECIDING | FafaModel.settings_of_losses
    assert {"num_top_tokens", "fd_weight", "vision_config.initializer_range"} < left_out


def test_a_setting_that_is_new_counts(model):
    before = model_fingerprint(model)
    model.config.vision_config.rope_theta = 1e4
    changed = model_fingerprint(model)
    model.config.pooling = "mean"
    assert len({before, changed, model_fingerprint(model)}) == 3


def test_the_same_model_keeps_it(model, tmp_path):
    before = model_fingerprint(model)
    model.save_pretrained(tmp_path)
    assert model_fingerprint(FafaModel.from_pretrained(tmp_path)) == before
    assert model_fingerprint(FafaModel.from_pretrained(tmp_path, dtype=torch.bfloat16)) == before
    assert model_fingerprint(small_model().to(torch.bfloat16)) == before
    assert model_fingerprint(torch.compile(model)) == before
    model.train().gradient_checkpointing_enable()
    assert model_fingerprint(model.requires_grad_(False)) == before
    assert model_fingerprint(small_model(fd_weight=0.3, num_top_tokens=1)) == before


def test_adapters_count_by_their_weights_their_strength_and_which_acts(model):
    peft = pytest.importorskip("peft")
    options = {"target_modules": ["query", "value"], "r": 2, "init_lora_weights": False}
    adapted = peft.get_peft_model(small_model(), peft.LoraConfig(**options, lora_alpha=2), adapter_name="one")
    adapted.add_adapter("two", peft.LoraConfig(**options, lora_alpha=2))
    seen = {"base": model_fingerprint(model), "one": model_fingerprint(adapted)}
    adapted.set_adapter("two")
    seen["two"] = model_fingerprint(adapted)
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["two"] *= 2
    seen["two, twice as strong"] = model_fingerprint(adapted)
    with adapted.disable_adapter():
        seen["none of them"] = model_fingerprint(adapted)
    assert len(set(seen.values())) == 5, seen
    adapted.set_adapter("one")
    assert model_fingerprint(adapted) == seen["one"]


def test_quantised_weights_count(model):
    def quantised(model):
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})

    other = small_model()
    other.qformer.encoder.layer[0].attention.attention.query.weight.data[-1, -1] += 1
    with pytest.warns(DeprecationWarning):
        fingerprints = [model_fingerprint(quantised(each)) for each in (model, small_model(), other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_weights_that_are_not_in_memory_are_no_model():
    with torch.device("meta"):
        model = FafaModel(FafaConfig(**SMALL))
    with pytest.raises(ValueError, match="is not in memory"):
        model_fingerprint(model)


TOKENIZERS = {
    "vocabulary": lambda it: build_tokenizer([*WORDS[:5], *WORDS[:4:-1]]),
    "a word more": lambda it: it.add_tokens(["scarf"]) and it,
    "normaliser": lambda it: setattr(it.backend_tokenizer, "normalizer", normalizers.BertNormalizer(lowercase=False)),
    "splitting": lambda it: setattr(it.backend_tokenizer, "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
    "what is put around": lambda it: setattr(
        it.backend_tokenizer, "post_processor", processors.BertProcessing(("[SEP]", 3), ("[DEC]", 14))
    ),
    "special tokens": lambda it: setattr(it, "pad_token", "[MASK]"),
    "the end that is cut": lambda it: setattr(it, "truncation_side", "left"),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
def test_all_of_a_tokenizer_counts(change):
    tokenizer = tiny_processor().tokenizer
    before = tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(change(tokenizer) or tokenizer) != before


def test_a_tokenizer_is_the_same_after_use_and_after_saving(tmp_path):
    processor = tiny_processor()
    before = tokenizer_fingerprint(processor.tokenizer)
    processor(text=["a red coat", "red"], return_tensors="pt", max_length=4)
    assert tokenizer_fingerprint(processor.tokenizer) == before
    processor.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(FafaProcessor.from_pretrained(tmp_path).tokenizer) == before


def test_settings_of_features_stand_in_json_as_they_are(model, tmp_path):
    processor = tiny_processor()
    processor.save_pretrained(tmp_path)
    settings = [
        feature_settings(model, each, "query", (1, 64), captions=True)
        for each in (processor, FafaProcessor.from_pretrained(tmp_path))
    ]
    assert settings[0] == settings[1] == json.loads(json.dumps(settings[0]))
    processor.max_text_length = 16
    assert feature_settings(model, processor, "query", (1, 64), captions=True)["captions"] != settings[0]["captions"]
