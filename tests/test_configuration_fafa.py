"""FafaConfig: presets, round trips, and refused values."""

import json

import pytest
from transformers import AutoConfig

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


@pytest.mark.parametrize("preset", [FafaConfig, FafaConfig.vit_l, FafaConfig.tiny])
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
        ({"fda_alpha": 1.5}, r"fda_alpha is 1.5, expected a number in \[0, 1\]"),
        ({"mfr_mask_ratio": -0.1}, "mfr_mask_ratio"),
        ({"temperature_init": 0.0}, "temperature_init is 0.0, expected a number above 0"),
        ({"max_text_length": 600}, "the Q-Former has 512 positions"),
        ({"num_query_tokens": "many"}, "num_query_tokens"),
        ({"max_text_length": 2}, r"expected 3 at least: \[CLS\], a token, \[SEP\]"),
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
