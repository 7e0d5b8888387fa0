"""Released weights of any size become a model; what does not fit is refused by name."""

from itertools import pairwise

import pytest
import torch
from PIL import Image
from tiny_word4per import golden, golden_model, golden_states, tiny_model, tiny_processor
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from fafa.model_folder import load_model
from fafa.models.word4per import __main__, convert_released, from_clip
from fafa.weights_fafa import UnsoundModelError


def released_states(
    width=64, depth=3, patch=4, grid=(5, 3), text_width=128, text_depth=1, vocab=40, positions=12, dim=20,
    tinets=({"hidden": (7, 9, 11)},),
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:  # fmt: skip
    """Random weights by the released names, of any sizes."""
    torch.manual_seed(0)

    def blocks(prefix: str, size: int, count: int) -> dict[str, Tensor]:
        return {
            f"{prefix}.resblocks.{number}.{name}": torch.randn(*shape) * 0.1
            for number in range(count)
            for name, shape in {
                "ln_1.weight": (size,), "ln_1.bias": (size,), "ln_2.weight": (size,), "ln_2.bias": (size,),
                "attn.in_proj_weight": (3 * size, size), "attn.in_proj_bias": (3 * size,),
                "attn.out_proj.weight": (size, size), "attn.out_proj.bias": (size,),
                "mlp.c_fc.weight": (4 * size, size), "mlp.c_fc.bias": (4 * size,),
                "mlp.c_proj.weight": (size, 4 * size), "mlp.c_proj.bias": (size,),
            }.items()
        }  # fmt: skip

    clip = {
        **blocks("visual.transformer", width, depth),
        **blocks("transformer", text_width, text_depth),
        "visual.conv1.weight": torch.randn(width, 3, patch, patch),
        "visual.class_embedding": torch.randn(width),
        "visual.positional_embedding": torch.randn(1 + grid[0] * grid[1], width),
        **{
            f"visual.{name}.{kind}": torch.randn(width) for name in ("ln_pre", "ln_post") for kind in ("weight", "bias")
        },
        "visual.proj": torch.randn(width, dim),
        "token_embedding.weight": torch.randn(vocab, text_width),
        "positional_embedding": torch.randn(positions, text_width),
        **{f"ln_final.{kind}": torch.randn(text_width) for kind in ("weight", "bias")},
        "text_projection": torch.randn(text_width, dim),
        "logit_scale": torch.tensor(3.0),
    }
    made = []
    for entry in tinets:
        sizes = [dim, *entry["hidden"]]
        tinet = {}
        for number, (takes, gives) in enumerate(pairwise(sizes)):
            tinet |= {
                f"layers.{number}.0.weight": torch.randn(gives, takes),
                f"layers.{number}.0.bias": torch.randn(gives),
            }
        tinet |= {
            "fc_out.weight": torch.randn(text_width, sizes[-1]),
            "fc_out.bias": torch.randn(text_width),
        }
        made.append(tinet)
    return clip, made


IDS = {"pseudo_token_id": 3, "eos_token_id": 39}


@pytest.mark.parametrize(
    ("sizes", "image_size", "stride", "heads"),
    [
        ({}, (20, 12), 4, (1, 2)),
        ({"patch": 8, "grid": (7, 3), "width": 192, "text_width": 24}, (32, 16), 4, (3, 3)),
        ({"patch": 6, "grid": (4, 9), "depth": 1, "dim": 50, "positions": 5, "vocab": 90}, (15, 30), 3, (1, 2)),
    ],
)
def test_sizes_are_read_from_the_tensors(sizes, image_size, stride, heads):
    """Widths, depths, heads by CLIP's rule, patch, stride, image ratio, vocabulary, context, TINets."""
    clip, (first, second) = released_states(**sizes, tinets=({"hidden": (7, 9, 11)}, {"hidden": (5,)}))
    model = convert_released(clip, {"one": first, "an-other": second}, **IDS, image_size=image_size)
    towers = model.config.clip_config
    assert (model.config.stride or towers.vision_config.patch_size) == stride
    assert (towers.vision_config.num_attention_heads, towers.text_config.num_attention_heads) == heads
    assert [entry["hidden_sizes"] for entry in model.config.tinets] == [[7, 9, 11], [5]]
    ids = torch.tensor([[1, 3, 5, 39], [1, 7, 3, 39]])
    queries = model.get_query_features(torch.randn(2, 3, *image_size), ids, tinet="an-other")
    assert queries.shape == (2, clip["visual.proj"].shape[1]) == (2, model.feature_shape[1])


def test_one_tinet_or_three_or_none():
    vectors = golden()
    ids = vectors["in.caption_with_blank_ids"]
    one = golden_model("text")
    both = golden_model()
    assert torch.equal(
        one.get_query_features(vectors["in.images"], ids),
        both.get_query_features(vectors["in.images"], ids, tinet="text"),
    )
    clip, tinets = golden_states()
    three = convert_released(
        clip, {"a": tinets["text"], "b": tinets["image"], "c": tinets["text"]}, pseudo_token_id=7, eos_token_id=59,
        image_size=(24, 16),
    )  # fmt: skip
    text, image = (both.get_query_features(vectors["in.images"], ids, tinet=name) for name in ("text", "image"))
    fused = torch.nn.functional.normalize(2 * text + image, dim=-1)
    torch.testing.assert_close(three.get_query_features(vectors["in.images"], ids), fused)
    with pytest.raises(ValueError, match="has no TINet"):
        convert_released(clip, {}, pseudo_token_id=7, eos_token_id=59, image_size=(24, 16)).get_query_features(
            vectors["in.images"], ids
        )


def test_a_whole_file_of_the_first_stage_is_taken():
    """With its prefix, its losses' layers, sizes beside the weights, and half precision."""
    clip, tinets = golden_states()
    file = {f"base_model.{name}": weight.half() for name, weight in clip.items()}
    file |= {"classifier.weight": torch.ones(3, 32), "mlm_head.fc.weight": torch.ones(3, 32)}
    file |= {"base_model.input_resolution": torch.tensor(224), "base_model.vocab_size": torch.tensor(60)}
    vectors = golden()
    model = convert_released(file, tinets, pseudo_token_id=7, eos_token_id=59, image_size=(24, 16))
    torch.testing.assert_close(model.image_features(vectors["in.images"]), vectors["out.image_feat"], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip, tinets: clip.pop("ln_final.bias"), "weights are missing: clip.text_model.final_layer_norm.bias"),
        (lambda clip, tinets: clip.update(extra=torch.ones(1)), "weights have no place in the model: clip.extra"),
        (lambda clip, tinets: clip.pop("visual.proj"), "visual.proj missing among"),
        (lambda clip, tinets: clip.update({"ln_final.bias": torch.ones(5)}), "other weights ask for"),
        (
            lambda clip, tinets: tinets["text"].update({"layers.0.0.weight": torch.ones(40, 33)}),
            "trained on another CLIP",
        ),
        (lambda clip, tinets: tinets["text"].update({"fc_out.weight": torch.ones(25, 40)}), "trained on another CLIP"),
        (lambda clip, tinets: tinets["text"].pop("fc_out.bias"), "weights are missing: tinets.text.projection.bias"),
        (lambda clip, tinets: tinets["text"].clear(), r"TINet text: expected weights layers\.0\.0"),
    ],
)
def test_foreign_and_missing_weights_are_named(change, message):
    clip, tinets = golden_states()
    change(clip, tinets)
    with pytest.raises(UnsoundModelError, match=message):
        convert_released(clip, tinets, pseudo_token_id=7, eos_token_id=59, image_size=(24, 16))


def test_a_clip_of_another_image_size_is_refused_or_its_positions_interpolated():
    clip, tinets = released_states(grid=(4, 4))
    with pytest.raises(
        UnsoundModelError, match=r"positions of 16 patches \(4 x 4\), but an image of 20 x 12 .*has 5 x 3"
    ):
        convert_released(clip, {"one": tinets[0]}, **IDS, image_size=(20, 12))
    model = convert_released(clip, {"one": tinets[0]}, **IDS, image_size=(20, 12), interpolate_positions=True)
    assert model.get_target_features(torch.randn(1, 3, 20, 12)).shape == (1, 1, 20)
    positions = model.clip.vision_model.embeddings.position_embedding.weight
    assert torch.equal(positions[0], clip["visual.positional_embedding"][0])
    with pytest.raises(UnsoundModelError, match="no square"):
        clip = released_states(grid=(5, 3))[0]
        convert_released(clip, {}, **IDS, image_size=(40, 12), interpolate_positions=True)


def test_a_clip_of_transformers_is_a_start(tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 600, "max_position_embeddings": 12, "eos_token_id": 2}
    config = CLIPConfig(vision_config={**tower, "image_size": 24, "patch_size": 8}, text_config=text, projection_dim=8)
    clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    words = {"template_ids": None, "prompt_ids": None, "stage": 1}
    square = from_clip(tmp_path, image_height=24, image_width=24, **words)
    pixels, ids = torch.randn(2, 3, 24, 24), torch.tensor([[1, 5, 599, 0], [1, 5, 6, 599]])
    torch.testing.assert_close(square.image_features(pixels), clip.get_image_features(pixels).pooler_output)
    torch.testing.assert_close(square.caption_features(ids), clip.get_text_features(ids).pooler_output)
    with pytest.raises(UnsoundModelError, match=r"images of 24 x 24 pixels .* and 48 x 16 have 6 x 2"):
        from_clip(tmp_path, image_height=48, image_width=16, **words)
    tall = from_clip(tmp_path, image_height=48, image_width=16, interpolate_positions=True, **words)
    assert tall.get_target_features(torch.randn(1, 3, 48, 16)).shape == (1, 1, 8)
    assert tall.config.clip_config.text_config.eos_token_id == 599 and tiny_model().config.stage == 2


def test_the_command_writes_folders_that_load(tmp_path, capsys):
    """Of a CLIP of transformers', and of files by the released names."""
    tokenizer = tiny_processor().tokenizer
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        vision_config={**tower, "image_size": 8, "patch_size": 4}, text_config={**tower, **ids}, projection_dim=8
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    size = ["--image-size", "20", "12"]
    __main__.main([str(tmp_path / "clip"), str(tmp_path / "start"), *size, "--interpolate-positions"])
    model, processor = load_model(tmp_path / "start")
    assert (model.config.stage, model.image_shape, processor.image_processor.size["height"]) == (1, (20, 12), 20)
    assert "a start for training" in (tmp_path / "start" / "README.md").read_text(encoding="utf-8")

    clip, (tinet,) = released_states(text_width=64, vocab=len(tokenizer), positions=77)
    torch.save({"model": clip}, tmp_path / "best.pth")
    torch.save(tinet, tmp_path / "text.pt")
    files = [str(tmp_path / "best.pth"), str(tmp_path / "word4per"), "--tinet", f"text={tmp_path / 'text.pt'}"]
    __main__.main([*files, *size, "--tokenizer", str(tmp_path / "clip")])
    model, processor = load_model(tmp_path / "word4per")
    query = processor(images=Image.new("RGB", (30, 50)), text="in a red coat", return_tensors="pt")
    assert model.get_query_features(**query).shape == (1, 20) and model.config.tinet_names == ["text"]
    assert capsys.readouterr().out.count("written: ") == 2
    with pytest.raises(SystemExit, match="it is a CLIP of another image size"):
        __main__.main([str(tmp_path / "clip"), str(tmp_path / "other"), *size])
