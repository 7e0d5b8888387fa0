"""CoAlign starts from BLIP-2's weights, or CLIP's, shares FAFA's towers, and refuses what cannot be right."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import GOLDEN, golden_config, golden_model, golden_tensors, tiny_batch, tiny_model
from tiny_coalign import clip_model, clip_processor, small_model, small_processor
from transformers import AutoModel, Blip2Config, Blip2ForImageTextRetrieval, CLIPModel

from fafa.model_folder import check_fit, load_model
from fafa.models.coalign import CoAlignClipConfig, CoAlignClipModel, CoAlignConfig, CoAlignModel
from fafa.models.coalign.convert import main as convert


def test_towers_are_fafas():
    """Features of the same weights are equal to the last bit; only the losses and k differ."""
    fafa, coalign = tiny_model(), small_model(1)
    shared = {name: weight for name, weight in fafa.state_dict().items() if not name.startswith("mfr_predictor")}
    missing = coalign.load_state_dict(shared, strict=False).missing_keys
    assert all(name.startswith("lcr_predictor") for name in missing) and len(missing) == 4
    batch = tiny_batch()
    query = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(fafa.get_query_features(**query), coalign.get_query_features(**query))
        targets = coalign.get_target_features(batch["target_pixel_values"])
        assert torch.equal(fafa.get_target_features(batch["target_pixel_values"]), targets)
        queries = coalign.get_query_features(**query)
        expected = (queries[:, None, None] * targets[None]).sum(-1).max(dim=2).values
        torch.testing.assert_close(coalign.score(queries, targets), expected)
        output = coalign(**batch, output_hidden_states=True)
    assert len(output.hidden_states) == 5 and output.target_hidden_states is not None


def test_defaults_are_our_reading():
    config = CoAlignConfig.tiny()
    assert (config.num_top_tokens, config.gca_beta, config.lcr_mask_ratio) == (1, 0.5, 0.3)
    assert CoAlignConfig.lcr_hidden_size == 512 and config.temperature_init == 0.07
    for options, message in (
        ({"gca_beta": 1.5}, "gca_beta is 1.5, expected a number from 0 to 1"),
        ({"lcr_mask_ratio": -0.1}, "lcr_mask_ratio is -0.1"),
        ({"gca_divergence": "both"}, "expected 'reverse' or 'forward'"),
        ({"lcr_hidden_size": 0}, "lcr_hidden_size is 0"),
    ):
        for kind in (CoAlignConfig, CoAlignClipConfig):
            with pytest.raises(Exception, match=message):
                kind.tiny(**options)
    with pytest.raises(ValueError, match="did you mean 'gca_beta'"):
        CoAlignConfig.tiny(gca_bata=0.1)
    with pytest.raises(Exception, match="fusion_hidden_size is 0"):
        CoAlignClipConfig.tiny(fusion_hidden_size=0)


def test_it_starts_from_blip2(tmp_path):
    """A folder of Hugging Face's BLIP-2 becomes one of CoAlign, whose towers compute what FAFA's do."""
    config = golden_config()
    blip2 = Blip2Config(
        vision_config=config.vision_config.to_dict(),
        qformer_config=config.qformer_config.to_dict(),
        num_query_tokens=config.num_query_tokens,
        image_text_hidden_size=config.projection_dim,
    )
    state = golden_model().state_dict()
    model = Blip2ForImageTextRetrieval(blip2)
    model.load_state_dict({name: state[name] for name in model.state_dict() if name in state}, strict=False)
    model.save_pretrained(tmp_path / "blip2")
    convert([str(tmp_path / "blip2"), str(tmp_path / "start"), "--tokenizer", str(GOLDEN / "vocab_public.txt")])
    loaded, processor = load_model(tmp_path / "start")
    assert type(loaded) is CoAlignModel and processor.image_processor.do_person_resize is False
    io = golden_tensors("fafa_public_io")
    with torch.no_grad():
        queries = loaded.get_query_features(io["in.pixel_values_ref"], io["in.input_ids"], io["in.attention_mask"])
    torch.testing.assert_close(queries, io["out.query_embed"], rtol=0, atol=1e-4)
    card = (tmp_path / "start" / "README.md").read_text(encoding="utf-8")
    assert "a starting point for training CoAlign" in card and "lcr_predictor" in card


def test_it_starts_from_the_released_file_of_blip2(tmp_path):
    """LAVIS's names; the file's own predictor is FAFA's, and has no place here."""
    released = load_file(GOLDEN / "fafa_public.safetensors")
    torch.save({"model": released}, tmp_path / "fafa.pt")
    options = ["--tokenizer", str(GOLDEN / "vocab_public.txt"), "--vision-heads", "4", "--qformer-heads", "4"]
    with pytest.raises(SystemExit, match="mlm_predictor"):
        convert([str(tmp_path / "fafa.pt"), str(tmp_path / "start"), *options])
    torch.save(
        {"model": {name: one for name, one in released.items() if "mlm_predictor" not in name}}, tmp_path / "b.pt"
    )
    convert([str(tmp_path / "b.pt"), str(tmp_path / "start"), *options])
    assert type(AutoModel.from_pretrained(tmp_path / "start")) is CoAlignModel


def test_it_starts_from_clip(tmp_path):
    clip = CLIPModel(CoAlignClipConfig.tiny(vocab_size=15).clip_config).eval()
    clip.save_pretrained(tmp_path / "clip")
    clip_processor().tokenizer.save_pretrained(tmp_path / "clip")
    clip_processor().image_processor.save_pretrained(tmp_path / "clip")
    convert([str(tmp_path / "clip"), str(tmp_path / "start")])
    loaded, processor = load_model(tmp_path / "start")
    assert type(loaded) is CoAlignClipModel
    check_fit(loaded, processor)
    pixels = torch.randn(2, 3, 96, 96)
    expected = torch.nn.functional.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
    torch.testing.assert_close(loaded.get_target_features(pixels)[:, 0], expected)
    with pytest.raises(SystemExit, match="vision_heads: of BLIP-2's files"):
        convert([str(tmp_path / "clip"), str(tmp_path / "other"), "--vision-heads", "2"])


def test_inputs_that_do_not_fit_are_refused():
    model, ids = clip_model(), torch.tensor([[2, 7, 3]])
    with pytest.raises(ValueError, match="needs pixel_values, input_ids or both"):
        model.get_query_features()
    with pytest.raises(ValueError, match="2 reference images for 1 captions"):
        model.get_query_features(torch.randn(2, 3, 96, 96), ids)
    with pytest.raises(ValueError, match="this model takes 96 x 96"):
        model.get_target_features(torch.randn(1, 3, 48, 48))
    with pytest.raises(ValueError, match="3 target images for 2 queries"):
        model(
            pixel_values=torch.randn(2, 3, 96, 96),
            input_ids=ids.expand(2, -1),
            attention_mask=None,
            target_pixel_values=torch.randn(3, 3, 96, 96),
        )
    long = " ".join(["red"] * 80)
    with pytest.raises(ValueError, match="query 7: the caption has 82 tokens, but CLIP reads 64: shorten it"):
        clip_processor().encode_captions(["red coat", long], ["query 6", "query 7"])
    cutting = clip_processor()
    cutting.cut_captions = True  # as the robustness suite sets it for captions that grow as they are spoilt
    assert cutting.encode_captions([long])["input_ids"].shape == (1, 64)
    assert small_processor().encode_captions([long])["input_ids"].shape == (1, 32)


def test_a_frozen_vision_tower_stays_as_it_is():
    model = clip_model(freeze_vision=True).train()
    assert not any(layer.training for layer in model.clip.vision_model.encoder.layers)
    model(**tiny_batch() | {"input_ids": torch.tensor([[2, 7, 8, 3, 0, 0, 0]] * 4)}).loss.backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert "fusion.0.weight" in grads and not any("vision_model.encoder" in name for name in grads)
