"""What the model refuses, which TINets fit which CLIP, and what begins anew."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_word4per import golden, golden_model, tiny_config, tiny_model, tiny_processor

from fafa.models.word4per import Word4PerConfig, Word4PerModel
from fafa.weights_fafa import UnsoundModelError


@pytest.fixture(scope="module")
def query():
    return torch.randn(2, 3, 48, 24), tiny_processor().encode_captions(["in a red coat", "a hat"])["input_ids"]


def test_no_pseudo_word_or_several_in_a_composed_query_are_refused(query):
    pixels, ids = query
    model = tiny_model()
    bare = tiny_processor()(text=["in a red coat", "a hat"], return_tensors="pt")["input_ids"]
    with pytest.raises(
        ValueError, match=r"caption 0 holds the pseudo-word's token \(id 265, '\*'\) 0 times, expected once"
    ):
        model.get_query_features(pixels, bare)
    several = ids.clone()
    several[1, 5] = 265
    with pytest.raises(ValueError, match=r"caption 1 .* 2 times"):
        model.get_query_features(pixels, several)
    released = tiny_model(pseudo_word_place="first").get_query_features(pixels, several)
    torch.testing.assert_close(released[0], model.get_query_features(pixels, ids)[0])
    assert (released[1] - model.get_query_features(pixels, ids)[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match="0 times"):
        golden_model().get_query_features(golden()["in.images"][:1], golden()["in.caption_ids"][:1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs pixel_values, input_ids or both"),
        ({"pixel_values": torch.zeros(2, 3, 48, 24), "tinet": "text"}, "TINets are for queries of image and caption"),
        ({"pixel_values": torch.zeros(2, 3, 24, 48)}, "24 x 48 pixels, but this model takes 48 x 24"),
        ({"input_ids": torch.tensor([[5, 320, 5]])}, "caption 0 has no end"),
        ({"input_ids": torch.tensor([[5000, 5]])}, "5000"),
        ({"input_ids": torch.zeros(1, 30, dtype=torch.long)}, "24"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().get_query_features(**arguments)


def test_unknown_tinets_and_unequal_numbers_are_refused(query):
    pixels, ids = query
    with pytest.raises(ValueError, match="tinet is 'img', expected some of text, image"):
        tiny_model().get_query_features(pixels, ids, tinet="img")
    with pytest.raises(ValueError, match="1 images for 2 captions"):
        tiny_model().get_query_features(pixels[:1], ids)


def test_tinets_of_another_clip_are_refused(tmp_path, query):
    """Theirs and this CLIP's sizes are the same: scores would look like scores."""
    model, other = tiny_model(), tiny_model(seed=1)
    model.save_pretrained(tmp_path)
    loaded = Word4PerModel.from_pretrained(tmp_path)
    assert len({entry["clip"] for entry in loaded.config.tinets} - {None}) == 1
    loaded.clip.load_state_dict(other.clip.state_dict())
    loaded.save_pretrained(tmp_path / "mixed")
    with pytest.raises(UnsoundModelError, match=r"TINets text, image were trained on another CLIP"):
        Word4PerModel.from_pretrained(tmp_path / "mixed")
    with pytest.raises(UnsoundModelError, match="the TINet text was trained on another CLIP"):
        tiny_model(seed=1, tinets=[]).add_tinet("text", model)
    one = tiny_model(tinets=[])
    one.clip.load_state_dict(model.clip.state_dict())
    one.add_tinet("text", model)
    assert torch.equal(one.get_query_features(*query), model.get_query_features(*query, tinet="text"))
    half = Word4PerModel.from_pretrained(tmp_path, dtype=torch.bfloat16)  # still the same CLIP
    assert half.get_query_features(query[0].bfloat16(), query[1]).dtype == torch.bfloat16


def test_stage_two_begins_with_the_first_ones_folder(tmp_path):
    first = tiny_model(stage=1, mlm_weight=1.0)
    first.meet_groups(torch.tensor([4, 4, 9]).numpy())
    first.save_pretrained(tmp_path)
    again = Word4PerModel.from_pretrained(tmp_path)
    assert again.identities.tolist() == [4, 9] and torch.equal(again.classifier.weight, first.classifier.weight)
    second = Word4PerModel.from_pretrained(tmp_path, stage=2)
    assert second.config.tinet_names == ["text", "image"] and second.classifier is None and second.cross_modal is None
    assert {name.partition(".")[0] for name, weight in second.named_parameters() if weight.requires_grad} == {"tinets"}
    assert torch.equal(second.clip.text_projection.weight, first.clip.text_projection.weight)
    second.save_pretrained(tmp_path / "second")
    with pytest.raises(
        StrictDataclassError, match="stage 1 changes CLIP, to which the TINets text, image would not fit"
    ):
        Word4PerModel.from_pretrained(tmp_path / "second", stage=1)
    assert not Word4PerModel.from_pretrained(tmp_path / "second", stage=1, tinets=[]).tinets
    one = Word4PerModel.from_pretrained(tmp_path / "second", tinets=[{"name": "new"}, {"name": "text"}])
    assert torch.equal(one.tinets["text"].projection.weight, second.tinets["text"].projection.weight)
    assert list(one.tinets) == ["new", "text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 13}, "stride is 13, expected 1 to 12"),
        ({"image_width": 8}, "image_width is 8, expected a number from that of a patch, 12"),
        ({"tinets": [{"name": "a"}, {"name": "a"}]}, "a name of its own"),
        ({"tinets": [{"name": "a.b"}]}, "'a.b' is no name"),
        ({"tinets": [{"name": "a", "supervision": "none"}]}, "supervision is 'none'"),
        ({"tinets": [{"nam": "a"}]}, "is no TINet"),
        ({"tinets": [{"name": "a", "hidden_sizes": [0]}]}, "hidden_sizes are"),
        ({"pseudo_token_id": 10**6}, "expected ids of the vocabulary"),
        ({"prompt_ids": [1, 265]}, "prompt_ids end in 265, expected eos_token_id"),
        ({"template_ids": [320]}, "expected the pseudo_token_id 265 once"),
        ({"pseudo_word_place": "last"}, "expected 'only' or 'first'"),
        ({"stage": 3}, "stage is 3"),
        ({"sdm_weight": -1}, "sdm_weight is -1"),
        ({"mlm_share": 2}, "mlm_share is 2"),
        ({"scale": 0}, "scale is 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        tiny_config(**options)


def test_the_default_configuration_is_the_papers():
    config = Word4PerConfig()
    vision, text = config.clip_config.vision_config, config.clip_config.text_config
    assert (vision.patch_size, vision.hidden_size, vision.num_hidden_layers) == (16, 768, 12)
    assert (text.hidden_size, text.max_position_embeddings, config.patch_grid) == (512, 77, (24, 8))
    assert [entry["hidden_sizes"] for entry in config.tinets] == [[512, 512]] * 2
