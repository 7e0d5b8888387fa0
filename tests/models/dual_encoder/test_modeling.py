"""Features, late fusion, the second pass, what is trained on, and loading of the dual encoder."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from tiny_dual_encoder import tiny_config, tiny_model, tiny_pairs, tiny_processor
from torch.nn import functional as F
from transformers import AutoModel, BlipConfig, CLIPConfig

from fafa.model_folder import load_model
from fafa.models.dual_encoder import METHODS, DualEncoderConfig, DualEncoderModel
from fafa.models.dual_encoder.__main__ import main


@pytest.fixture(params=["clip", "siglip"])
def kind(request):
    return request.param


def test_features_are_those_of_the_backbone_and_a_composed_query_is_the_sum_of_its_halves(kind):
    model, pairs = tiny_model(kind), tiny_pairs(4, kind)
    pixels, captions = pairs["target_pixel_values"], {n: pairs[n] for n in ("input_ids", "attention_mask")}
    targets = model.get_target_features(pixels)
    assert targets.shape == (4, *model.feature_shape)
    plain = model.backbone.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(targets[:, 0], F.normalize(plain, dim=-1))
    text, image = model.get_query_features(**captions), model.get_query_features(pixels)
    torch.testing.assert_close(image, targets[:, 0])
    torch.testing.assert_close(model.get_query_features(pixels, **captions), F.normalize(text + image, dim=-1))
    weighted = tiny_model(kind, image_weight=0.2)
    expected = F.normalize(0.8 * text + 0.2 * image, dim=-1)
    torch.testing.assert_close(weighted.get_query_features(pixels, **captions), expected)
    assert model.score(text, targets).shape == (4, 4)


def test_a_captions_feature_does_not_depend_on_the_batch_or_the_side_of_padding(kind):
    model, processor = tiny_model(kind), tiny_processor(kind)
    alone = processor.encode_captions(["a red coat"])
    together = processor.encode_captions(["a red coat", "a blue coat with a red bag in a hat"])
    expected = model.get_query_features(**alone)
    torch.testing.assert_close(model.get_query_features(**together)[:1], expected)
    if kind == "clip":
        left = {"input_ids": alone["input_ids"].clone(), "attention_mask": alone["attention_mask"]}
        left = {name: F.pad(ids, (3, 0)) for name, ids in left.items()}
        torch.testing.assert_close(model.get_query_features(**left), expected)
    else:
        with pytest.raises(ValueError, match="a SigLIP reads the last of 16: pad them to the full length"):
            model.get_query_features(input_ids=alone["input_ids"][:, :5])


def test_a_folder_of_a_backbone_becomes_a_model_and_needs_it_no_more(kind, tmp_path):
    source = tiny_model(kind)
    with torch.no_grad():
        source.backbone.logit_scale.fill_(4.0)
    source.backbone.save_pretrained(tmp_path / "backbone")
    tiny_processor(kind).tokenizer.save_pretrained(tmp_path / "backbone")
    tiny_processor(kind).image_processor.save_pretrained(tmp_path / "backbone")
    size = ["--image-size", "48", "24"]
    main([str(tmp_path / "backbone"), str(tmp_path / "made"), "--method", "tbps-clip", *size])
    (tmp_path / "backbone" / "model.safetensors").unlink()
    model, processor = load_model(tmp_path / "made")
    assert type(model) is type(AutoModel.from_pretrained(tmp_path / "made")) is DualEncoderModel
    assert float(model.backbone.logit_scale) == pytest.approx(2.6593, abs=1e-4)  # begins anew
    assert (model.config.alpha, model.config.soft_label, model.config.r_itc_soft_label) == (0.5, "softmax", None)
    pixels = tiny_pairs(3, kind)["target_pixel_values"]
    assert torch.equal(model.get_target_features(pixels), source.get_target_features(pixels))
    assert processor.image_settings()["image_mean"] == [0.485, 0.456, 0.406]  # ImageNet's, as released
    assert processor.caption_padding == ("max_length" if kind == "siglip" else "longest")
    assert "a start for training" in (tmp_path / "made" / "README.md").read_text()
    assert processor.encode_captions(["a hat"])["input_ids"].shape[1] == (16 if kind == "siglip" else 4)
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert ("backbone.logit_bias" in trains) is False and "backbone.logit_scale" in trains


def test_the_second_pass_is_another_where_dropout_draws_and_teaches_nothing():
    dropped = tiny_config().to_dict()["backbone_config"]
    dropped["vision_config"]["attention_dropout"] = 0.5
    model, pairs = tiny_model(backbone_config=dropped).train(), tiny_pairs(6)
    inputs = {name: pairs[name] for name in ("target_pixel_values", "input_ids", "attention_mask")}
    torch.manual_seed(0)
    states = model.training_states(**inputs)
    assert not torch.equal(states.image, states.soft_image) and not states.soft_image.requires_grad
    assert torch.equal(states.text, states.soft_text)  # without dropout in its tower
    assert model.eval().training_states(**inputs).soft_image is None
    plain = tiny_model().train()
    states = plain.training_states(**inputs)
    assert states.soft_image is None  # without dropout both passes are the same to the bit
    doubled = states._replace(soft_image=states.image.detach(), soft_text=states.text.detach())
    torch.testing.assert_close(plain.losses(states).loss, plain.losses(doubled).loss)


def test_terms_have_their_weights_and_methods_differ(kind):
    pairs = tiny_pairs(6, kind)
    outputs = {name: tiny_model(kind, **settings)(**pairs) for name, settings in METHODS.items()}
    syntbpr, tbps, plain = outputs["syntbpr"], outputs["tbps-clip"], outputs["plain"]
    torch.testing.assert_close(syntbpr.loss, syntbpr.loss_n_itc + syntbpr.loss_r_itc)
    assert plain.loss is not None and plain.loss == plain.loss_itc and plain.loss_n_itc is plain.loss_r_itc is None
    assert len({float(output.loss) for output in outputs.values()}) == 3
    hard = tiny_model(kind, **METHODS["tbps-clip"] | {"alpha": 0.1})(**pairs)
    torch.testing.assert_close(hard.loss_r_itc, tbps.loss_r_itc)  # of TBPS-CLIP against hard labels
    assert hard.loss_n_itc != tbps.loss_n_itc
    weighted = tiny_model(kind, itc_weight=0.5, r_itc_weight=2.0)(**pairs)
    torch.testing.assert_close(weighted.loss, weighted.loss_n_itc + 2 * weighted.loss_r_itc + 0.5 * weighted.loss_itc)


def test_siglips_own_loss_trains_its_bias():
    model = tiny_model("siglip", n_itc_weight=0.0, r_itc_weight=0.0, sigmoid_weight=1.0).train()
    output = model(**tiny_pairs(4, "siglip"))
    output.loss.backward()
    assert output.loss == output.loss_sigmoid and model.backbone.logit_bias.grad.abs() > 0
    with pytest.raises(StrictDataclassClassValidationError, match="the backbone is a clip, which has no bias"):
        tiny_config("clip", sigmoid_weight=1.0)


def test_of_triplets_the_whole_caption_trains_and_evaluation_composes():
    model, pairs = tiny_model(), tiny_pairs(4)
    whole = tiny_processor().encode_captions(["a red hat", "a blue hat", "a red coat", "a bag"])
    triplets = {name: pairs[name] for name in ("input_ids", "attention_mask", "target_pixel_values")}
    triplets |= {"caption_input_ids": whole["input_ids"], "caption_attention_mask": whole["attention_mask"]}
    references = torch.randn(4, 3, 48, 24, generator=torch.Generator().manual_seed(9))
    trained = model.train()(**triplets, pixel_values=references)
    torch.testing.assert_close(trained.query_embeds, model.get_query_features(**whole))
    evaluated = model.eval()(**triplets, pixel_values=references)
    asked = {name: pairs[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(evaluated.query_embeds, model.get_query_features(references, **asked))
    torch.testing.assert_close(evaluated.loss, trained.loss)  # of target and its own caption, both times


def test_alpha_rises_over_the_first_epoch():
    model = tiny_model(alpha=0.4)
    assert [model.settings_at(epoch)["alpha"] for epoch in (0.0, 0.25, 1.0, 3.0)] == [0.0, 0.1, 0.4, 0.4]
    assert tiny_model(alpha_ramp_epochs=2.0, alpha=0.4).settings_at(0.5)["alpha"] == pytest.approx(0.1)
    assert tiny_model(alpha_ramp_epochs=0.0).settings_at(0.5) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone_config": BlipConfig()}, "its model_type is 'blip', expected 'clip' or 'siglip'"),
        ({"backbone_config": {"hidden_size": 3}}, "its model_type is None"),
        ({"image_height": 50}, "image_height is 50, expected a multiple of the backbone's patches of 12 pixels"),
        ({"soft_label": "hard"}, "soft_label is 'hard'"),
        (
            {"r_itc_soft_label": "other"},
            "r_itc_soft_label is 'other', expected 'sigmoid', 'softmax' or None, or 'same'",
        ),
        ({"image_weight": 1.5}, "image_weight is 1.5, expected a number from 0 to 1"),
        ({"n_itc_weight": 0.0, "r_itc_weight": 0.0}, "are all 0, so that nothing trains"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused_by_name(settings, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        tiny_config(**settings)


def test_the_backbones_configuration_comes_back_as_it_was(tmp_path):
    tiny_config(image_weight=0.3).save_pretrained(tmp_path)
    config = DualEncoderConfig.from_pretrained(tmp_path)
    assert isinstance(config.backbone_config, CLIPConfig) and config.image_weight == 0.3
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["backbone_config"]["model_type"] == "clip"
    assert config.to_dict() == tiny_config(image_weight=0.3).to_dict()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "a query needs pixel_values, input_ids or both"),
        ({"pixel_values": torch.ones(2, 3, 48, 48)}, "this model takes 48 x 24"),
        ({"pixel_values": torch.ones(2, 3, 48, 24), "input_ids": torch.ones(3, 4).long()}, "2 reference images for 3"),
        ({"input_ids": torch.ones(1, 17).long()}, "17 tokens, but this model has 16 positions"),
    ],
    ids=["nothing", "size", "number", "length"],
)
def test_inputs_that_make_no_query_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().get_query_features(**inputs)


def test_a_frozen_tower_stays_frozen_and_in_the_models_precision(tmp_path):
    model = tiny_model(freeze_vision=True)
    model.save_pretrained(tmp_path)
    for one in (model, DualEncoderModel.from_pretrained(tmp_path)):
        assert not any(w.requires_grad for block in one.vision_blocks for w in block.parameters())
        assert one.backbone.visual_projection.weight.requires_grad
    with pytest.raises(ValueError, match=r"cannot be stored in torch.bfloat16 beside the rest"):
        model.freeze_vision_tower(torch.bfloat16)
