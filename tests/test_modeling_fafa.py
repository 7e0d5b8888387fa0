"""FafaModel: equal to the released code on golden vectors, and a well-behaved PreTrainedModel."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import golden_model, golden_tensors, tiny_batch, tiny_config, tiny_model, tiny_processor
from transformers import AutoModel

from fafa import FafaConfig, FafaModel, modeling_fafa
from fafa.convert_fafa_checkpoint import released_names
from fafa.modeling_fafa import (
    alignment_loss,
    distribution_uncertainty,
    feature_diversity_loss,
    group_labels,
    masked_feature_reasoning_loss,
)
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
    monkeypatch.setattr(model, "_draw_mask", lambda states: next(masks))
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
    assert not model.vision_model.encoder.training and model.qformer.training
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
    original = modeling_fafa.topk_mean_similarity

    def counted(*args, **kwargs):
        calls.append(args)
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_fafa, "topk_mean_similarity", counted)
        tiny_model()(**tiny_batch())
    assert len(calls) == 1


def test_default_configuration_is_the_released_model():
    config = FafaConfig()
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1408, 39)
    assert (config.qformer_config.vocab_size, config.qformer_config.hidden_size) == (30523, 768)
    assert tiny_config().qformer_config.encoder_hidden_size == tiny_config().vision_config.hidden_size
