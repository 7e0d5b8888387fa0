"""FafaModel: equal to the released code on golden vectors, and a well-behaved PreTrainedModel."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import golden_model, golden_tensors, tiny_batch, tiny_config, tiny_model, tiny_processor
from transformers import AutoModel, BitsAndBytesConfig

from fafa import FafaConfig, FafaModel, modeling_towers_fafa
from fafa.losses_fafa import (
    alignment_loss,
    distribution_uncertainty,
    feature_diversity_loss,
    group_labels,
    masked_feature_reasoning_loss,
    spread_mask,
)
from fafa.released_weights import released_names
from fafa.scoring_fafa import topk_mean_similarity

OUTPUTS = {"rtol": 0, "atol": 1e-4}
GRADIENTS = {"rtol": 0, "atol": 2e-4}
equal = torch.testing.assert_close


@pytest.fixture(scope="module")
def io():
    return golden_tensors("fafa_public_io")


@pytest.fixture(scope="module")
def losses():
    return golden_tensors("losses_public")


def golden_inputs(io, monkeypatch, model):
    """Inputs of the golden forward; its masks replace the random ones, the query's first."""
    masks = iter([io["in.mfr_mask_query"], io["in.mfr_mask_target"]])
    monkeypatch.setattr(model, "_sample_mask", lambda states: next(masks))
    return {
        "pixel_values": io["in.pixel_values_ref"],
        "input_ids": io["in.input_ids"],
        "attention_mask": io["in.attention_mask"],
        "target_pixel_values": io["in.pixel_values_target"],
        "group_ids": io["in.query_id"],
    }


# Equal to the released code


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_and_scores_equal_released(io, attention):
    model = golden_model()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        equal(model.encode_images(io["in.pixel_values_ref"]), io["out.vision_embeds_ref"], **OUTPUTS)
        queries = model.get_query_features(io["in.pixel_values_ref"], io["in.input_ids"], io["in.attention_mask"])
        targets = model.get_target_features(io["in.pixel_values_target"])
        captions = model.get_query_features(
            input_ids=io["in.text_only_input_ids"], attention_mask=io["in.text_only_attention_mask"]
        )
    equal(queries, io["out.query_embed"], **OUTPUTS)
    equal(targets, io["out.target_feats"], **OUTPUTS)
    equal(captions, io["out.text_only_feats"][:, 0], **OUTPUTS)
    equal(model.score(queries, targets), io["out.score_topk_mean"], **OUTPUTS)
    equal(topk_mean_similarity(queries, targets, 1), io["out.score_max"], **OUTPUTS)


def test_losses_and_gradients_equal_released(io, monkeypatch):
    """Training mode, all three losses, every published gradient, and the norm of all of them."""
    model = golden_model().train()
    output = model(**golden_inputs(io, monkeypatch, model))
    for name in ("loss_fda", "loss_fd", "loss_mfr"):
        equal(output[name], io[f"loss.{name}"], **OUTPUTS)
    equal(output.loss, io["loss.total"], **OUTPUTS)

    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    published = {key.removeprefix("grad."): value for key, value in io.items() if key.startswith("grad.")}
    ours = {released_names(name)[0]: gradient for name, gradient in gradients.items()}
    assert len(published) == 17
    for name, gradient in published.items():
        equal(ours[name], gradient, **GRADIENTS, msg=lambda text, name=name: f"{name}: {text}")
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    equal(norm, io["grad_norm.all_trainable"], rtol=1e-5, atol=0)


def test_distribution_uncertainty_equals_released(io, monkeypatch):
    """It changes what is projected; masked feature reasoning sees the states as they were."""
    golden = golden_tensors("dsu_public")
    equal(distribution_uncertainty(golden["in"], golden["noise_mu"], golden["noise_std"]), golden["out"], **OUTPUTS)

    model = golden_model(distribution_uncertainty=1.0).train()
    noise = torch.stack([golden["noise_mu"], golden["noise_std"]])
    monkeypatch.setattr(torch, "randn", lambda *size, **options: noise)
    output = model(**golden_inputs(io, monkeypatch, model))
    for name in ("loss_fda", "loss_fd", "loss_mfr"):
        equal(output[name], golden[f"forward.{name}"], **OUTPUTS)


def test_alignment_loss_equals_released(losses):
    logits = losses["sdm.sim"].requires_grad_()
    loss = alignment_loss(logits, group_labels(losses["sdm.ids"], alpha=1.0))
    loss.backward()
    equal(loss, losses["sdm.loss"], **OUTPUTS)
    equal(logits.grad, losses["sdm.grad_sim"], **GRADIENTS)


def test_feature_diversity_equals_released(losses):
    features = losses["fd.features"].requires_grad_()
    loss = feature_diversity_loss(features, losses["fd.margin"].item())
    loss.backward()
    equal(loss, losses["fd.loss"], **OUTPUTS)
    equal(features.grad, losses["fd.grad"], **GRADIENTS)


def test_feature_diversity_samples_tokens_as_released(losses, monkeypatch):
    monkeypatch.setattr(torch, "randperm", lambda size, device=None: losses["fd_big.randperm"])
    loss = feature_diversity_loss(losses["fd_big.features"], losses["fd_big.margin"].item(), sample_size=1024)
    equal(loss, losses["fd_big.loss"], **OUTPUTS)
    assert abs(feature_diversity_loss(losses["fd_big.features"]) - loss) > 1e-6  # all tokens are another sample


def test_masked_feature_reasoning_equals_released(losses):
    predictor = torch.nn.Sequential(torch.nn.Linear(20, 14), torch.nn.ReLU(), torch.nn.Linear(14, 10))
    weights = {key.removeprefix("mfr.predictor."): value for key, value in losses.items() if "mfr.predictor" in key}
    predictor.load_state_dict(weights)
    query, target = losses["mfr.feat_query"].requires_grad_(), losses["mfr.feat_target"].requires_grad_()
    loss = masked_feature_reasoning_loss(query, target, predictor, losses["mfr.mask_query"], losses["mfr.mask_target"])
    loss.backward()
    equal(loss, losses["mfr.loss"], **OUTPUTS)
    equal(query.grad, losses["mfr.grad_query"], **GRADIENTS)
    equal(target.grad, losses["mfr.grad_target"], **GRADIENTS)


def test_evaluation_scores_equal_released(losses):
    scores = topk_mean_similarity(losses["eval_sim.qfeats"], losses["eval_sim.gfeats"], 6)
    equal(scores, losses["eval_sim.top6_mean"], **OUTPUTS)


# The losses


def test_alpha_weighs_others_of_the_group():
    """The released code parses α and never uses it."""
    labels = group_labels(torch.tensor([7, 7, 1]), alpha=0.5)
    equal(labels, torch.tensor([[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 1]]))
    batch = tiny_batch()
    paper = tiny_model(fda_alpha=0.5)(**batch).loss_fda
    released = tiny_model(fda_alpha=1.0)(**batch).loss_fda
    assert abs(paper - released) > 1e-3


def test_forward_divergence_is_cross_entropy_with_soft_labels():
    logits, labels = torch.randn(5, 5), group_labels(torch.tensor([0, 0, 1, 2, 2]), 0.5)
    cross_entropy = torch.nn.functional.cross_entropy
    entropy = -(labels * labels.clamp(min=1e-30).log()).sum(1).mean()
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.mT, labels)) / 2 - entropy
    equal(alignment_loss(logits, labels, "forward"), expected, rtol=1e-4, atol=1e-5)


def test_feature_diversity_of_an_image_ignores_other_images():
    tokens = torch.nn.functional.normalize(torch.randn(1, 4, 8), dim=-1)
    twice = torch.cat([tokens, tokens])
    once = feature_diversity_loss(tokens, margin=0.0, scope="image")
    equal(feature_diversity_loss(twice, margin=0.0, scope="image"), once)
    assert feature_diversity_loss(twice, margin=0.0, scope="batch") > once


def test_feature_diversity_in_blocks_equals_the_whole_without_its_memory():
    """Blocks of three, and a last one of two, of 20 tokens; what is kept for the gradient are the tokens alone."""
    results, kept = [], []
    for max_elements in (400, 70):
        tokens = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            loss = feature_diversity_loss(tokens, margin=0.1, max_elements=max_elements)
        loss.backward()
        results.append((loss, tokens.grad))
        kept.append(max(sizes))
    assert results[0][0] > 0.01 and kept[0] >= 400 and kept[1] <= tokens.numel()
    equal(results[1], results[0], rtol=0, atol=1e-6)


def test_caption_term_counts_only_with_weight_and_captions():
    batch = tiny_batch()
    captions = {"caption_input_ids": batch["input_ids"], "caption_attention_mask": batch["attention_mask"]}
    assert tiny_model()(**batch, **captions).loss_itc is None
    model = tiny_model(itc_weight=0.5, mfr_weight=0.0)
    assert model(**batch).loss_itc is None
    output = model(**batch, **captions)
    equal(output.loss, output.loss_fda + output.loss_fd + 0.5 * output.loss_itc)


def test_batch_of_one_has_a_finite_loss():
    batch = {name: value[:1] for name, value in tiny_batch().items()}
    model = tiny_model(distribution_uncertainty=1.0, mfr_mask_ratio=0.0).train()
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss) and output.loss_mfr == 0.0


# A PreTrainedModel


def test_save_and_load_is_bit_equal(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "first")
    loaded, info = AutoModel.from_pretrained(tmp_path / "first", output_loading_info=True)
    loaded.save_pretrained(tmp_path / "second")
    assert not any(info.values())
    assert isinstance(loaded, FafaModel) and loaded.vision_model.post_layernorm.eps == model.config.vision_norm_eps
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    batch = tiny_batch()
    with torch.no_grad():  # positions are a buffer that no file holds
        assert torch.equal(
            loaded.get_query_features(None, batch["input_ids"]), model.get_query_features(None, batch["input_ids"])
        )
    first, second = (tmp_path / folder / "model.safetensors" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_a_resized_vocabulary_survives_saving(tmp_path):
    model, batch = tiny_model(), tiny_batch()
    before = model.get_query_features(None, batch["input_ids"])
    assert model.config.get_text_config() is model.config.qformer_config
    model.resize_token_embeddings(40)
    assert model.config.qformer_config.vocab_size == 40
    model.save_pretrained(tmp_path)
    loaded = FafaModel.from_pretrained(tmp_path).eval()
    assert loaded.get_input_embeddings().num_embeddings == 40
    equal(loaded.get_query_features(None, batch["input_ids"]), before, rtol=0, atol=0)
    loaded.get_query_features(None, torch.full((1, 3), 39))
    with pytest.raises(ValueError, match="the id 40, but this model knows ids from 0 to 39"):
        loaded.get_query_features(None, torch.full((1, 3), 40))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_quantised_weights_give_nearly_the_same_scores(tmp_path, bits, dtype):
    """Their dtype is that of packed integers: in it, features were zeros, and every score 0."""
    pytest.importorskip("bitsandbytes", reason="4-bit and 8-bit weights need bitsandbytes")
    model, batch = tiny_model(itc_weight=1.0), tiny_batch(8)
    model.save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    quantised = FafaModel.from_pretrained(tmp_path, quantization_config=how, dtype=dtype).eval()
    kept = [quantised.temperature, quantised.query_tokens, quantised.vision_model.post_layernorm.weight]
    kept += [weight for name, weight in quantised.named_parameters() if "norm" in name.lower() or "embedding" in name]
    assert {tensor.dtype for tensor in kept} == {dtype} and quantised.features_dtype == dtype
    assert quantised.vision_projection.weight.dtype in (torch.uint8, torch.int8)
    with torch.no_grad():
        targets = quantised.get_target_features(batch["target_pixel_values"])
        exact_targets = model.get_target_features(batch["target_pixel_values"])
        for pixels in (batch["pixel_values"], None):
            query = pixels, batch["input_ids"], batch["attention_mask"]
            exact = model.score(model.get_query_features(*query), exact_targets)
            queries = quantised.get_query_features(*query)
            assert queries.dtype == targets.dtype == dtype
            equal(quantised.score(queries, targets), exact, rtol=0, atol=0.2 if bits == 4 else 0.03)
        assert torch.isfinite(quantised(**batch).loss)


class Packed(torch.nn.Module):
    """A layer as quantisers leave it: its weight is integers of another shape, and it computes in what it is given."""

    def __init__(self, layer):
        super().__init__()
        self.layer = [layer]  # no child: its weights are not the model's any more
        self.weight = torch.nn.Parameter(torch.zeros(7, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, states):
        assert states.is_floating_point()
        return torch.nn.functional.linear(states, *(part.to(states.dtype) for part in self.layer[0].parameters()))


@torch.no_grad()
def test_features_do_not_take_their_dtype_from_packed_weights():
    """In unsigned bytes all features were zeros, and every score 0."""
    model, batch = tiny_model(), tiny_batch(4)
    query = batch["pixel_values"], batch["input_ids"], batch["attention_mask"]
    expected = model.get_query_features(*query), model.get_target_features(batch["target_pixel_values"])
    model.vision_projection, model.text_projection = Packed(model.vision_projection), Packed(model.text_projection)
    equal(model.get_query_features(*query), expected[0], rtol=0, atol=0)
    equal(model.get_target_features(batch["target_pixel_values"]), expected[1], rtol=0, atol=0)


def test_missing_weights_are_initialised_as_in_a_new_model(tmp_path):
    """A BLIP-2 file holds neither temperature nor the reasoning network."""
    model = tiny_model(temperature_init=0.05)
    own = ("temperature", "mfr_predictor", "query_tokens")
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(own)}
    model.save_pretrained(tmp_path, state_dict=state)
    allowed = ["temperature", "mfr_predictor.*", "query_tokens"]
    loaded, info = FafaModel.from_pretrained(tmp_path, output_loading_info=True, allow_missing=allowed)
    assert {name.split(".")[0] for name in info["missing_keys"]} == set(own)
    assert loaded.temperature.item() == pytest.approx(0.05)
    assert loaded.query_tokens.std().item() == pytest.approx(model.config.qformer_config.initializer_range, rel=0.2)
    assert loaded.mfr_predictor[0].weight.std() > 0.01


def test_random_weights_tell_images_apart():
    """BLIP-2's own initialisation gives every image the same features."""
    targets = tiny_model().get_target_features(tiny_batch()["pixel_values"])
    assert (targets[0] - targets[1]).abs().max() > 1e-3


def test_tuple_equals_dict_and_repeats():
    model, batch = tiny_model(mfr_mask_ratio=1.0), tiny_batch()
    as_dict, as_tuple = model(**batch), model(**batch, return_dict=False)
    for ours, other in zip(as_dict.to_tuple(), as_tuple, strict=True):
        assert torch.equal(ours, other)


def test_loss_in_eval_mode_repeats_and_leaves_the_random_state_alone():
    """An evaluation loss that draws masks differs from one evaluation to the next by chance alone."""
    model, batch = tiny_model(fd_sample_size=5, distribution_uncertainty=1.0), tiny_batch()
    before = torch.get_rng_state()
    first = model(**batch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    equal(model(**batch).to_tuple(), first.to_tuple(), rtol=0, atol=0)
    model.train()
    assert model(**batch).loss != model(**batch).loss


def test_masks_of_evaluation_hide_the_share_that_was_asked_for():
    for share in (0.0, 0.3, 1.0):
        mask = spread_mask(torch.Size([64, 128]), share, torch.device("cpu"))
        assert mask.mean().item() == pytest.approx(share, abs=0.001)
        assert (mask.mean(0) - share).abs().max() < 0.15 and (mask.mean(1) - share).abs().max() < 0.05


def test_a_tuple_begins_with_the_loss():
    """The Trainer takes the first of a tuple for it; it was the query's embeddings, the loss coming last."""
    model, batch = tiny_model(), tiny_batch()
    model.config.return_dict = False
    outputs = model(**batch)
    assert outputs[0].ndim == 0
    assert torch.equal(outputs[0], model(**batch, return_dict=True).loss)


def test_hidden_states_and_attention_weights_come_on_request():
    model, batch = tiny_model(itc_weight=1.0), tiny_batch()
    plain = model(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    with pytest.raises(
        ValueError, match=r'sdpa attention gives no weights; call model.set_attn_implementation\("eager'
    ):
        model(**batch, output_attentions=True)
    model.set_attn_implementation("eager")
    model.config.output_hidden_states = True
    captions = {"caption_input_ids": batch["input_ids"], "caption_attention_mask": batch["attention_mask"]}
    output = model(**batch, **captions, output_attentions=True)
    for name in ("hidden_states", "target_hidden_states"):
        assert len(output[name]) == 1 + model.config.qformer_config.num_hidden_layers
    for name in ("vision_hidden_states", "target_vision_hidden_states"):
        assert len(output[name]) == 1 + model.config.vision_config.num_hidden_layers
    assert [tuple(states.shape) for states in (output.hidden_states[0], output.target_hidden_states[0])] == [
        (4, 15, 128), (4, 8, 128),
    ]  # fmt: skip
    equal(model._project(model.text_projection, output.hidden_states[-1][:, 8]), output.query_embeds)
    equal(model._project(model.vision_projection, output.target_hidden_states[-1]), output.target_embeds)
    assert [weights.shape[-2:] for weights in output.attentions] == [(15, 15)] * 4
    assert [weights.shape[-2:] for weights in output.cross_attentions] == [(8, 17)] * 2
    assert [weights.shape[-2:] for weights in output.target_vision_attentions] == [(17, 17)] * 3
    query = model(input_ids=batch["input_ids"], output_attentions=True)
    assert query.attentions[0].shape[-2:] == (7, 7) and query.vision_attentions is None
    equal(model(**batch, output_hidden_states=False).to_tuple(), plain.to_tuple(), rtol=1e-4, atol=1e-5)


def test_exports_with_a_batch_and_captions_of_any_size():
    """`len(tensor)` freezes a size; the loss is exported with the features."""
    config, batch = tiny_config(), tiny_batch()
    config.vision_config.num_hidden_layers, config.qformer_config.num_hidden_layers = 1, 1
    model = FafaModel(config).eval()
    some = torch.export.Dim.DYNAMIC
    sizes = {name: {0: some, 1: some} if name in ("input_ids", "attention_mask") else {0: some} for name in batch}
    with torch.no_grad():
        program = torch.export.export(model, (), batch, dynamic_shapes=sizes).module()
        for number, length in ((1, 7), (6, 5)):
            inputs = tiny_batch(number)
            inputs |= {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask")}
            exported, output = program(**inputs), model(**inputs)
            for name in ("loss", "query_embeds", "target_embeds"):
                equal(exported[name], output[name], rtol=0, atol=1e-5)


def test_eager_equals_sdpa():
    model, batch = tiny_model(mfr_mask_ratio=1.0), tiny_batch()
    model.set_attn_implementation("sdpa")
    sdpa = model(**batch)
    model.set_attn_implementation("eager")
    equal(model(**batch).to_tuple(), sdpa.to_tuple(), rtol=1e-4, atol=1e-5)


def test_padding_of_captions_changes_nothing():
    model, batch = tiny_model(), tiny_batch()
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5)),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
    }
    for pixels in (None, batch["pixel_values"]):
        short = model.get_query_features(pixels, batch["input_ids"], batch["attention_mask"])
        equal(model.get_query_features(pixels, **padded), short, rtol=1e-4, atol=1e-5)


def test_captions_padded_on_the_left_are_those_padded_on_the_right():
    """Positions and [CLS] begin at a caption's first token: position 0 cost four points of Rank-1, silently."""
    model, batch = tiny_model(itc_weight=1.0), tiny_batch()
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    ids[mask == 0] = 0
    left_ids, left_mask = ids.clone(), mask.clone()
    left_ids[2:], left_mask[2:] = ids[2:].roll(2, 1), mask[2:].roll(2, 1)
    assert left_mask[2, 0] == 0 and left_mask[2, -1] == 1
    for pixels in (None, batch["pixel_values"]):
        right = model.get_query_features(pixels, ids, mask)
        equal(model.get_query_features(pixels, left_ids, left_mask), right, rtol=0, atol=1e-6)
        equal(model.get_query_features(pixels, left_ids, left_mask.bool()), right, rtol=0, atol=1e-6)
    losses = [
        model(
            **batch | {"input_ids": words, "attention_mask": shown},
            caption_input_ids=words,
            caption_attention_mask=shown,
        ).to_tuple()
        for words, shown in ((ids, mask), (left_ids, left_mask))
    ]
    equal(losses[1], losses[0], rtol=0, atol=1e-5)


def test_all_kinds_of_query_have_unit_length_and_differ():
    model, batch = tiny_model(), tiny_batch()
    pixels, ids = batch["pixel_values"], batch["input_ids"]
    kinds = [
        model.get_query_features(pixels, ids),
        model.get_query_features(pixels),
        model.get_query_features(None, ids),
    ]
    for features in kinds:
        assert features.shape == (4, model.config.projection_dim)
        equal(features.norm(dim=-1), torch.ones(4))
    assert (kinds[0] - kinds[1]).abs().max() > 1e-2 and (kinds[0] - kinds[2]).abs().max() > 1e-3
    tokens = model.get_target_features(pixels)
    equal(kinds[1], torch.nn.functional.normalize(tokens.mean(1), dim=-1))


def test_wrong_queries_are_refused():
    model, batch = tiny_model(), tiny_batch()
    with pytest.raises(ValueError, match="pixel_values, input_ids or both"):
        model.get_query_features()
    with pytest.raises(ValueError, match="4 reference images for 2 captions"):
        model.get_query_features(batch["pixel_values"], batch["input_ids"][:2])
    with pytest.raises(ValueError, match=r"\(3, 96, 96\)"):
        model.get_target_features(batch["pixel_values"][0])
    with pytest.raises(ValueError, match="forward composes"):
        model(pixel_values=batch["pixel_values"], target_pixel_values=batch["pixel_values"])


def test_frozen_vision_tower_stays_as_it_is():
    """No gradients and eval mode for the tower; its LayerNorm belongs to the trained side, as released."""
    model = tiny_model(freeze_vision=True).train()
    model(**tiny_batch()).loss.backward()
    for name, parameter in model.vision_model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("post_layernorm"), name
    assert not any(block.training for block in model.vision_blocks) and model.qformer.training
    assert model.query_tokens.grad is not None


def test_vision_tower_trains_unless_frozen():
    model = tiny_model(freeze_vision=False).train()
    model(**tiny_batch()).loss.backward()
    assert model.vision_model.encoder.training
    for name, parameter in model.vision_model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frozen_vision_tower_may_be_stored_in_half_precision(tmp_path):
    model, batch = tiny_model(), tiny_batch()
    exact = model.get_target_features(batch["pixel_values"])
    model.freeze_vision_tower(torch.bfloat16).train()
    assert model.vision_model.encoder.layers[0].mlp.fc1.weight.dtype == torch.bfloat16
    output = model(**batch)
    output.loss.backward()
    assert output.target_embeds.dtype == model.query_tokens.grad.dtype == torch.float32
    equal(model.eval().get_target_features(batch["pixel_values"]), exact, rtol=0, atol=0.05)
    model.save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in FafaModel.from_pretrained(tmp_path).parameters()} == {torch.float32}


def test_bf16_model_is_close_to_fp32():
    model, batch = tiny_model(), tiny_batch()
    exact = model.score(
        model.get_query_features(batch["pixel_values"], batch["input_ids"]),
        model.get_target_features(batch["pixel_values"]),
    )
    model.to(torch.bfloat16)
    queries = model.get_query_features(batch["pixel_values"], batch["input_ids"])
    assert queries.dtype == torch.bfloat16
    equal(model.score(queries, model.get_target_features(batch["pixel_values"])), exact, rtol=0, atol=0.05)


def test_autocast_loss_is_fp32_and_close():
    model, batch = tiny_model(mfr_mask_ratio=1.0), tiny_batch()
    exact = model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**batch)
    assert half.loss.dtype == half.logits.dtype == half.query_embeds.dtype == torch.float32
    equal(half.loss_fda, exact.loss_fda, rtol=0.05, atol=0.0)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(mfr_mask_ratio=1.0).train()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # renamed in 5.2x
        model(**tiny_batch()).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    equal(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_training_step_compiles_to_one_graph():
    """No graph breaks in our own code (nor in transformers'), with every loss and option on."""
    torch._dynamo.reset()
    model = tiny_model(mfr_mask_ratio=1.0, itc_weight=1.0, distribution_uncertainty=0.5).train()
    batch = tiny_batch()
    batch |= {"caption_input_ids": batch["input_ids"], "caption_attention_mask": batch["attention_mask"]}
    explanation = torch._dynamo.explain(lambda: model(**batch).loss)()
    assert explanation.graph_break_count == 0, explanation.break_reasons


def test_lora_adapters_train_the_qformer():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["query", "value"], r=2))
    model(**tiny_batch()).loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name and "qformer" in name for name in trained)


REMOTE = """
import sys, json, torch
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fafa":
            raise ImportError("fafa is not installed here")
sys.meta_path.insert(0, Blocked())
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = processor(images=[torch.full((3, 20, 10), 0.5)], text=["a red coat"], return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model.get_query_features(**inputs)[0].tolist()))
"""


def test_remote_code_works_without_fafa_installed(tmp_path):
    """A saved folder with its code, in a fresh process that cannot import fafa: the same features."""
    model, processor = tiny_model(), tiny_processor()
    for cls in (FafaConfig, FafaModel, type(processor)):
        cls.register_for_auto_class()
    try:
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
    finally:
        for cls in (FafaConfig, FafaModel, type(processor), type(processor.image_processor)):
            cls._auto_class = None
    inputs = processor(images=[torch.full((3, 20, 10), 0.5)], text=["a red coat"], return_tensors="pt")
    command = [sys.executable, "-c", REMOTE, str(tmp_path / "model")]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        expected = model.get_query_features(**inputs)[0]
    equal(torch.tensor(json.loads(run.stdout.splitlines()[-1])), expected, rtol=0, atol=1e-6)


def test_scoring_has_one_home():
    """Model and losses call the function that search and evaluation call."""
    calls = []
    original = modeling_towers_fafa.topk_mean_similarity

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_towers_fafa, "topk_mean_similarity", counted)
        tiny_model()(**tiny_batch())
    assert len(calls) == 1


def test_default_configuration_is_the_released_model():
    config = FafaConfig()
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1408, 39)
    assert (config.qformer_config.vocab_size, config.qformer_config.hidden_size) == (30523, 768)
    assert tiny_config().qformer_config.encoder_hidden_size == tiny_config().vision_config.hidden_size
