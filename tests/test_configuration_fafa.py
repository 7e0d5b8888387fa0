"""FafaConfig: presets, round trips, and refused values."""

import json
import logging
import math
from dataclasses import fields

import pytest
from transformers import AutoConfig, AutoModel, CLIPVisionConfig, PreTrainedConfig

from fafa import FafaConfig, FafaModel


def test_default_is_the_released_model():
    config = FafaConfig()
    vision, qformer = config.vision_config, config.qformer_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1408, 39, 16)
    assert (qformer.hidden_size, qformer.num_hidden_layers, qformer.vocab_size) == (768, 12, 30523)
    assert qformer.use_qformer_text_input and qformer.encoder_hidden_size == 1408
    assert (config.num_query_tokens, config.projection_dim, config.num_top_tokens) == (32, 256, 6)
    assert (config.vision_norm_eps, vision.layer_norm_eps) == (1e-5, 1e-6)


def test_default_loss_is_the_paper():
    config = FafaConfig()
    assert (config.fda_alpha, config.fd_weight, config.mfr_weight) == (0.5, 1.0, 0.5)
    assert (config.fda_divergence, config.fd_sample_size, config.distribution_uncertainty) == ("reverse", None, 0.0)


@pytest.mark.parametrize("preset", [FafaConfig, FafaConfig.tiny])
def test_presets_survive_saving(preset, tmp_path):
    config = preset(fda_alpha=0.25, mfr_weight=1)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is FafaConfig and loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}


def test_parts_may_be_given_as_fields():
    config = FafaConfig(vision_config={"hidden_size": 64, "num_attention_heads": 4}, qformer_config={"hidden_size": 96})
    assert config.qformer_config.encoder_hidden_size == 64 and config.qformer_config.vocab_size == 30523


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_top_tokens": 33}, "num_top_tokens is 33, expected 1 to num_query_tokens = 32"),
        ({"num_top_tokens": 0}, "num_top_tokens is 0"),
        ({"fda_divergence": "both"}, "expected 'reverse' or 'forward'"),
        ({"fd_scope": "all"}, "expected 'batch' or 'image'"),
        ({"fda_alpha": 1.5}, "fda_alpha is 1.5, expected a number from 0 to 1"),
        ({"mfr_mask_ratio": -0.1}, "mfr_mask_ratio"),
        ({"temperature_init": 0.0}, "temperature_init is 0.0, expected a number above 0"),
        ({"max_text_length": 600}, "the Q-Former has 512 positions"),
        ({"num_query_tokens": "many"}, "num_query_tokens"),
        ({"max_text_length": 2}, "max_text_length is 2, expected a whole number from 3"),
        # Absurd sizes used to hang, or to end in MemoryError, when the model was made
        ({"num_query_tokens": 10**9}, "num_query_tokens is 1000000000, expected a whole number from 1 to 4,096"),
        ({"projection_dim": 10**9}, "projection_dim is 1000000000"),
        ({"projection_dim": 10**5000}, "projection_dim is a number of very many digits"),
        ({"projection_dim": True}, "projection_dim"),
        ({"mfr_hidden_size": -1}, "mfr_hidden_size is -1"),
        ({"fd_sample_size": 0}, "fd_sample_size is 0"),
        ({"fd_margin": float("nan")}, "fd_margin is nan, expected a number from -1 to 1"),
        ({"mfr_weight": float("inf")}, "mfr_weight is inf"),
        ({"fda_alpha": float("nan")}, "fda_alpha is nan"),
        ({"temperature_init": float("nan")}, "temperature_init is nan"),
        ({"vision_norm_eps": -1.0}, r"vision_norm_eps is -1\.0"),
        ({"freeze_vision": "no"}, "freeze_vision"),
        ({"vision_config": {"num_hidden_layers": 10**9}}, r"vision_config\.num_hidden_layers is 1000000000"),
        ({"vision_config": {"num_hidden_layers": "3"}}, "num_hidden_layers"),
        ({"vision_config": {"hidden_size": 10**9}}, r"vision_config\.hidden_size is 1000000000"),
        ({"vision_config": {"hidden_size": 100, "num_attention_heads": 3}}, "a multiple of its num_attention_heads, 3"),
        ({"vision_config": {"image_size": 50_000}}, r"vision_config\.image_size is 50000, .* from 1 to 4,096"),
        ({"vision_config": {"image_size": [224, 224]}}, r"image_size is \[224, 224\], expected a whole number"),
        ({"vision_config": {"patch_size": 0}}, r"vision_config\.patch_size is 0"),
        ({"vision_config": {"patch_size": -14}}, r"vision_config\.patch_size is -14"),
        ({"vision_config": {"patch_size": 300}}, "patch_size is 300 for an image_size of 224: expected one"),
        ({"vision_config": {"image_size": 4096, "patch_size": 1}}, "1 to 65,536 patches"),
        ({"vision_config": {"layer_norm_eps": float("nan")}}, r"vision_config\.layer_norm_eps is nan"),
        (
            {"vision_config": {"hidden_size": 65_536, "num_hidden_layers": 1_000}},
            "the sizes come to some 17,[0-9,]+ we",
        ),
        ({"qformer_config": {"vocab_size": 10**12}}, r"qformer_config\.vocab_size is 1000000000000"),
        ({"qformer_config": {"num_attention_heads": 0}}, r"qformer_config\.num_attention_heads is 0"),
        ({"qformer_config": {"cross_attention_frequency": 0}}, r"qformer_config\.cross_attention_frequency is 0"),
        ({"qformer_config": {"hidden_dropout_prob": 2}}, r"qformer_config\.hidden_dropout_prob is 2"),
    ],
)
def test_impossible_values_are_refused_by_name(options, message):
    with pytest.raises(Exception, match=message):
        FafaConfig(**options)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("vision_config", "num_hidden_layers"), 10**9, "num_hidden_layers is 1000000000"),
        (("num_query_tokens",), 10**12, "num_query_tokens is 1000000000000"),
        (("fd_weight",), float("nan"), "fd_weight is nan"),
        (("vision_config", "patch_size"), 0, "patch_size is 0"),
        (("projection_dim",), "64", "projection_dim"),
    ],
)
def test_a_folder_of_absurd_settings_is_refused_before_anything_is_allocated(tmp_path, where, value, message):
    FafaConfig.tiny().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    place = fields if len(where) == 1 else fields[where[0]]
    place[where[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(Exception, match=message):
        FafaModel.from_pretrained(tmp_path)


def test_settings_changed_after_loading_are_checked_by_the_model():
    """`from_pretrained(folder, num_query_tokens=...)` sets them on a config that was checked before."""
    config = FafaConfig.tiny()
    config.num_query_tokens = 10**9
    with pytest.raises(Exception, match="num_query_tokens is 1000000000"):
        FafaModel(config)


# Every field of the configuration and its parts: which of these absurd values it may have.
ABSURD = [0, -1, 1.5, math.nan, math.inf, 10**30, True, "x", "", [], {}, None]
ALLOWED = {
    "vision_config": [{}, None],
    "qformer_config": [{}, None],
    "vision_norm_eps": [0],
    "temperature_init": [1.5],
    "fda_alpha": [0],
    "itc_weight": [0, 1.5],
    "fd_weight": [0, 1.5],
    "mfr_weight": [0, 1.5],
    "fd_margin": [0, -1],
    "fd_sample_size": [None],
    "mfr_mask_ratio": [0],
    "distribution_uncertainty": [0],
    "freeze_vision": [True],
    "attention_dropout": [0],
    "hidden_dropout_prob": [0],
    "attention_probs_dropout_prob": [0],
    "initializer_range": [1.5],
    "qkv_bias": [True],
    "pad_token_id": [0, None],
    "chunk_size_feed_forward": [0],
    "vocabulary_hash": [None],
    "return_dict": [True, None],
    "output_hidden_states": [True, None],
    "output_attentions": [True, None],
    "is_encoder_decoder": [None],
}
# Set from the rest of the model, whatever is given.
SET_BY_FAFA = {"encoder_hidden_size", "use_qformer_text_input"}
# What only describes: versions, and labels of classes, which FAFA has none of.
DESCRIBING = {"transformers_version", "architectures", "dtype", "id2label", "label2id", "problem_type"}


@pytest.mark.parametrize("where", ["", "vision_config", "qformer_config"])
def test_no_field_takes_an_absurd_value(where):
    """`projection_dim=0`, `fd_weight=-1` and their like trained, or ended in NaN."""
    part = FafaConfig.sub_configs[where] if where else FafaConfig
    names = {entry.name for entry in fields(part)} | {"output_attentions"}
    base = getattr(FafaConfig.tiny(), where).to_dict() if where else {}
    for name in sorted(names - DESCRIBING - SET_BY_FAFA):
        for value in ABSURD:
            changed = {where: {**base, name: value}} if where else {name: value}
            if any(value == allowed and type(value) is type(allowed) for allowed in ALLOWED.get(name, [])):
                FafaConfig.tiny(**changed)
                continue
            with pytest.raises(Exception, match=name):
                FafaConfig.tiny(**changed)
                pytest.fail(f"{where} {name} = {value!r} is taken", pytrace=False)


MISSPELT = {
    "fda_aplha": ({"fda_aplha": 1.0}, "fda_aplha is no setting of FafaConfig; did you mean 'fda_alpha'?"),
    "temperature": ({"temperature": 0.05}, "temperature is no setting .* did you mean 'temperature_init'?"),
    "top_k": ({"top_k": 6}, "did you mean 'num_top_tokens'?"),
    "a part's": (
        {"vision_config": {"hiden_size": 64}},
        r"vision_config\.hiden_size is no setting of Blip2VisionConfig; did you mean 'hidden_size'?",
    ),
    "unlike any": ({"colour": "red"}, "colour is no setting of FafaConfig: its documentation lists them"),
}


@pytest.mark.parametrize(("options", "message"), MISSPELT.values(), ids=MISSPELT)
def test_misspelt_settings_are_refused_with_the_right_name(options, message):
    """They were kept as if they meant something, and the default trained."""
    with pytest.raises(ValueError, match=message):
        FafaConfig(**options)


@pytest.mark.parametrize("load", [FafaConfig.from_pretrained, FafaModel.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("options", [{"fda_aplha": 1.0}, {"vision_config": {"hiden_size": 64}}], ids=str)
def test_misspelt_changes_to_a_folder_are_refused(tmp_path, load, options):
    FafaConfig.tiny().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean '(fda_alpha|hidden_size)'"):
        load(tmp_path, **options)


def test_changes_to_a_folder_are_honoured_and_checked(tmp_path):
    FafaConfig.tiny().save_pretrained(tmp_path)
    config = FafaConfig.from_pretrained(tmp_path, fda_alpha=0.25, vision_config={"hidden_size": 64}, return_dict=False)
    assert config.fda_alpha == 0.25 and config.return_dict is False
    assert config.vision_config.hidden_size == config.qformer_config.encoder_hidden_size == 64
    assert config.vision_config.image_size == 96
    with pytest.raises(Exception, match="fd_weight is -1"):
        FafaConfig.from_pretrained(tmp_path, fd_weight=-1)


def test_unknown_settings_of_a_saved_configuration_are_told_and_left_out(tmp_path, caplog):
    """A newer version's, another tool's, or misspelt by hand: the folder loads, and a warning names them."""
    fields = FafaConfig.tiny(fda_alpha=0.25).to_dict()
    fields |= {"some_tool_version": "1.0", "fda_aplha": 1.0, "bos_token_id": 5}
    fields["vision_config"]["layer_scale"] = True
    (tmp_path / "config.json").write_text(json.dumps(fields))
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        config = AutoConfig.from_pretrained(tmp_path)
    assert r"left out: fda_aplha; did you mean 'fda_alpha'?, some_tool_version." in caplog.text
    assert "left out: vision_config.layer_scale." in caplog.text
    assert config.fda_alpha == 0.25 and config.bos_token_id == 5 and not hasattr(config, "fda_aplha")


def test_what_transformers_adds_to_a_configuration_is_taken():
    added = {
        "torch_dtype": "float16",
        "attn_implementation": "eager",
        "output_attentions": True,
        "num_labels": 3,
        "name_or_path": "somewhere",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "auto_map": {"AutoModel": "modeling_fafa.FafaModel"},
        "_attn_implementation_autoset": True,
        "chunk_size_feed_forward": 2,
    }
    config = FafaConfig.tiny(**added)
    assert config.output_attentions and config.quantization_config["load_in_4bit"]
    assert config.qformer_config.chunk_size_feed_forward == 2  # the part that it is for
    assert isinstance(config.get_text_config(), PreTrainedConfig) and config.get_text_config().vocab_size == 512


def test_parts_of_another_model_and_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="vision_config is of type CLIPVisionConfig, expected Blip2VisionConfig"):
        FafaConfig(vision_config=CLIPVisionConfig())
    with pytest.raises(Exception, match=r"qformer_config\.hidden_act is 'gleu', expected one of .*gelu"):
        FafaConfig.tiny(qformer_config={"hidden_act": "gleu"})


def test_the_folder_of_another_method_is_told_by_its_kind(tmp_path):
    """It used to be built as a FAFA of 39 layers, and refused after 100 lines for the weights that it lacked."""
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    for loader in (FafaConfig, FafaModel):
        with pytest.raises(ValueError, match="configuration of a clip model, expected fafa"):
            loader.from_pretrained(tmp_path)
