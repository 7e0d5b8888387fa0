"""FafaConfig: presets, round trips, and refused values."""

import pytest
from transformers import AutoConfig

from fafa import FafaConfig


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
    ],
)
def test_impossible_values_are_refused_by_name(options, message):
    with pytest.raises(Exception, match=message):
        FafaConfig(**options)
