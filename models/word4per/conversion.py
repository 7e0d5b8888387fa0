"""From the released names (OpenAI's CLIP, the authors' TINets) to a `Word4PerModel`."""

import logging
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import CLIPModel

from ...weights_fafa import UnsoundModelError, refuse_incomplete
from .configuration import Word4PerConfig
from .modeling import Word4PerModel
from .towers import interpolated_positions

logger = logging.getLogger(__name__)

# Released name -> ours, without what is counted off below.
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_IN_A_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
# OpenAI's files name these sizes beside the weights, which tell them, too.
_SIZES = {"input_resolution", "context_length", "vocab_size"}
# Of the first stage's losses, on which no feature depends.
_HEADS = ("cross_attn.", "cross_modal_transformer.", "ln_pre_t.", "ln_pre_i.", "ln_post.", "mlm_head.", "classifier.")
_HEAD_DIM = 64


def convert_released(
    clip_state: Mapping[str, Tensor],
    tinet_states: Mapping[str, Mapping[str, Tensor]],
    *,
    pseudo_token_id: int,
    eos_token_id: int,
    image_size: tuple[int, int],
    stride: int | None = None,
    text_heads: int | None = None,
    vision_heads: int | None = None,
    interpolate_positions: bool = False,
    **settings: Any,
) -> Word4PerModel:
    """Makes a model of released weights; all dimensions are read from the tensors.

    Args:
        clip_state: OpenAI's CLIP by its own names, fine-tuned or not; those of a stage-1 file begin with `base_model.`.
        tinet_states: name -> weights of a TINet (`layers.N.0.*`, `fc_out.*`); any number, none too.
        pseudo_token_id: of "*", 265 in CLIP's vocabulary.
        eos_token_id: of the end of a text, 49407 in CLIP's vocabulary.
        image_size: height and width of the images, in pixels: (384, 128) as released.
        stride: pixels from one patch to the next; None: as the number of positions tells, of several the largest.
        text_heads: attention heads of the text tower, of which tensors say nothing; None: as many as are 64 wide
            (CLIP's rule), or 8 wide where the width is no multiple of 64. Likewise `vision_heads`.
        interpolate_positions: a CLIP of another image size: interpolate its positions (of a square grid), bilinear as
            released.
        settings: of the configuration, such as `template_ids` and `prompt_ids` of another vocabulary than CLIP's, or
            `pseudo_word_place="only"`; by default several "*" in a query are taken as released.

    Returns:
        the model, in eval mode, of stage 2; with CLIP's logit scale where the file has one.

    Raises:
        UnsoundModelError: a weight is missing, foreign, or of another size than the others ask for; a ValueError.
    """
    state = _plain_names(clip_state)
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    vocab_size, text_width = state["token_embedding.weight"].shape
    grid, stride = _grid(
        state["visual.positional_embedding"].shape[0] - 1, patch, image_size, stride, interpolate_positions
    )
    if len(state["visual.positional_embedding"]) != 1 + grid[0] * grid[1]:
        side = math.isqrt(len(state["visual.positional_embedding"]) - 1)
        state["visual.positional_embedding"] = interpolated_positions(
            state["visual.positional_embedding"], (side, side), grid
        )
    clip = {
        "projection_dim": state["text_projection"].shape[1],
        "vision_config": {
            **_tower(state, "visual.transformer", width, vision_heads),
            "patch_size": patch,
            "image_size": max(image_size),
        },
        "text_config": {
            **_tower(state, "transformer", text_width, text_heads),
            "vocab_size": vocab_size,
            "max_position_embeddings": state["positional_embedding"].shape[0],
            "eos_token_id": eos_token_id,
            "bos_token_id": max(0, eos_token_id - 1),
            "pad_token_id": eos_token_id,
        },
    }
    if pseudo_token_id != 265 or eos_token_id != 49407:  # another vocabulary, of which no words are known
        settings = {"template_ids": None, "prompt_ids": None, **settings}
    model = Word4PerModel(
        Word4PerConfig(
            clip_config=clip,
            image_height=image_size[0],
            image_width=image_size[1],
            stride=None if stride == patch else stride,
            tinets=[
                {"name": name, "hidden_sizes": _hidden_sizes(name, tinet, clip["projection_dim"], text_width)}
                for name, tinet in tinet_states.items()
            ],
            pseudo_token_id=pseudo_token_id,
            **{"pseudo_word_place": "first", **settings},
        )
    ).eval()
    converted = {f"clip.{name}": weight for name, weight in _clip_weights(state).items()}
    for name, tinet in tinet_states.items():
        converted |= {f"tinets.{name}.{ours}": weight for ours, weight in _tinet_weights(tinet).items()}
    converted.setdefault("clip.logit_scale", model.clip.logit_scale)
    _load(model, converted)
    model._name_clip()
    return model


def from_clip(
    source: str | os.PathLike,
    *,
    image_height: int = 384,
    image_width: int = 128,
    stride: int | None = None,
    interpolate_positions: bool = False,
    clip_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Word4PerModel:
    """Makes a model of a `CLIPModel` of transformers', to be trained.

    Args:
        source: its folder, or a repository of the Hub.
        image_height: of the images that the model shall take, in pixels; likewise `image_width`.
        stride: pixels from one patch to the next; None: the size of a patch.
        interpolate_positions: of a CLIP of another image size, such as OpenAI's own of 224 x 224 pixels.
        clip_options: of `CLIPModel.from_pretrained`: `revision`, say.
        settings: of the configuration: `stage=1` to train CLIP, `tinets`, weights of losses.

    Raises:
        UnsoundModelError: its images are of another size, and `interpolate_positions` is false; or weights are missing.
    """
    clip, info = CLIPModel.from_pretrained(source, output_loading_info=True, **(clip_options or {}))
    refuse_incomplete(source, info["missing_keys"], ())
    end = clip.config.text_config.eos_token_id
    if end == 2:  # as old configurations name it, while the feature is read at the highest id
        clip.config.text_config.eos_token_id = end = clip.config.text_config.vocab_size - 1
    model = Word4PerModel(
        Word4PerConfig(
            clip_config=clip.config.to_dict(),
            image_height=image_height,
            image_width=image_width,
            stride=stride,
            **settings,
        )
    ).eval()
    weights = {f"clip.{name}": weight for name, weight in clip.state_dict().items()}
    name = "clip.vision_model.embeddings.position_embedding.weight"
    vision = clip.config.vision_config
    side, grid = vision.image_size // vision.patch_size, model.config.patch_grid
    if (side, side) != grid:
        if not interpolate_positions:
            raise UnsoundModelError(
                f"{source}: it takes images of {vision.image_size} x {vision.image_size} pixels ({side} x {side} "
                f"patches), and {image_height} x {image_width} have {grid[0]} x {grid[1]}: it is a CLIP of another "
                "image size. Give its own, or interpolate_positions=True"
            )
        weights[name] = interpolated_positions(weights[name], (side, side), grid)
    own = model.state_dict()
    weights |= {name: own[name] for name in own if name.startswith("tinets.")}  # which begin anew
    _load(model, weights)
    return model


def _plain_names(clip_state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(clip_state)
    if any(name.startswith("base_model.") for name in state):
        heads = [name for name in state if name.startswith(_HEADS)]
        if heads:
            logger.info("left out, %d weights of the first stage's losses: %s ...", len(heads), heads[0])
        state = {name.removeprefix("base_model."): weight for name, weight in state.items() if name not in heads}
    state = {name: weight for name, weight in state.items() if name not in _SIZES}
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "token_embedding.weight")
    if missing := [name for name in (*needed, "positional_embedding", "text_projection") if name not in state]:
        hint = " (transformers' names: use from_clip)" if "text_model" in "".join(state) else ""
        raise UnsoundModelError(
            f"clip_state: {', '.join(missing)} missing among {len(state)} weights: expected OpenAI's CLIP with a "
            f"vision transformer, by its own names{hint}"
        )
    return state


def _grid(
    num_patches: int, patch: int, image_size: tuple[int, int], stride: int | None, interpolate: bool
) -> tuple[tuple[int, int], int]:
    """Rows and columns of patches, and the stride."""

    def grid(step: int) -> tuple[int, int]:
        return (image_size[0] - patch) // step + 1, (image_size[1] - patch) // step + 1

    if min(image_size) < patch:
        raise UnsoundModelError(f"image_size is {tuple(image_size)}, but a patch has {patch} x {patch} pixels")
    steps = range(patch, 0, -1) if stride is None else [stride]
    fitting = [step for step in steps if math.prod(grid(step)) == num_patches]
    even = [step for step in fitting if all((size - patch) % step == 0 for size in image_size)]
    if fitting:
        chosen = fitting[0] if fitting[0] == patch or not even else even[0]
        return grid(chosen), chosen
    step, side = stride or patch, math.isqrt(num_patches)
    rows, columns = grid(step)
    what = f"clip_state has positions of {num_patches} patches" + (
        f" ({side} x {side})" if side**2 == num_patches else ""
    )
    if not interpolate:
        raise UnsoundModelError(
            f"{what}, but an image of {image_size[0]} x {image_size[1]} pixels has {rows} x {columns} (patches of "
            f"{patch}, stride {step}): it is a CLIP of another image size. Give its own image_size and stride, or "
            "interpolate_positions=True for another"
        )
    if side**2 != num_patches:
        raise UnsoundModelError(f"{what}, which is no square: interpolate_positions is for a CLIP of square images")
    return (rows, columns), step


def _tower(state: Mapping[str, Tensor], prefix: str, width: int, num_heads: int | None) -> dict[str, int]:
    blocks = {int(match[1]) for name in state if (match := re.match(rf"{re.escape(prefix)}\.resblocks\.(\d+)\.", name))}
    first = f"{prefix}.resblocks.0.mlp.c_fc.weight"
    if blocks != set(range(len(blocks))) or first not in state:
        raise UnsoundModelError(f"clip_state: {prefix} has the blocks {sorted(blocks)}, expected 0, 1, 2, ...")
    if num_heads is None:
        num_heads = width // _HEAD_DIM if width % _HEAD_DIM == 0 else max(1, width // 8)
    if width % num_heads:
        raise UnsoundModelError(f"clip_state: {prefix} has a width of {width}, which {num_heads} heads cannot share")
    return {
        "hidden_size": width,
        "intermediate_size": state[first].shape[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": num_heads,
    }


def _clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = {}
    for name, weight in state.items():
        stem, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name)
        attention = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if attention:
            tower = "vision_model" if attention[1] else "text_model"
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                ours = f"{tower}.encoder.layers.{attention[2]}.self_attn.{part}_proj.{attention[3]}"
                converted[ours] = rows
        elif block and block[3] in _IN_A_BLOCK:
            tower = "vision_model" if block[1] else "text_model"
            converted[f"{tower}.encoder.layers.{block[2]}.{_IN_A_BLOCK[block[3]]}.{block[4]}"] = weight
        elif name in _NAMES:
            converted[_NAMES[name]] = weight
        elif stem in _NAMES:
            converted[f"{_NAMES[stem]}.{kind}"] = weight
        elif name in ("visual.proj", "text_projection"):  # used as rows times matrix there
            converted["visual_projection.weight" if "." in name else "text_projection.weight"] = weight.mT
        else:
            converted[name] = weight  # foreign, and refused as such
    return converted


def _tinet_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        re.sub(r"^layers\.(\d+)\.0\.", r"layers.\1.", name).replace("fc_out.", "projection."): weight
        for name, weight in state.items()
    }


def _hidden_sizes(name: str, state: Mapping[str, Tensor], dim: int, word_size: int) -> list[int]:
    """Of a TINet's layers; refuses one that takes other images' features, or makes other words than this CLIP's."""
    numbers = sorted(int(match[1]) for key in state if (match := re.fullmatch(r"layers\.(\d+)\.0\.weight", key)))
    if not numbers or "fc_out.weight" not in state or numbers != list(range(len(numbers))):
        raise UnsoundModelError(
            f"TINet {name}: expected weights layers.0.0.*, layers.1.0.*, ..., fc_out.*, got {sorted(state)[:6]}"
        )
    takes, gives = state["layers.0.0.weight"].shape[1], state["fc_out.weight"].shape[0]
    if takes != dim or gives != word_size:
        raise UnsoundModelError(
            f"TINet {name}: it takes features of size {takes} and makes words of size {gives}, and this CLIP has {dim} "
            f"and {word_size}: it was trained on another CLIP. Take the one that was released with it, or train anew"
        )
    return [state[f"layers.{number}.0.weight"].shape[0] for number in numbers]


def _load(model: Word4PerModel, weights: Mapping[str, Tensor]) -> None:
    """Every weight has its place, and every place its weight."""
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or foreign:
        raise UnsoundModelError(
            "; ".join(
                f"weights {what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                for what, names in (("are missing", missing), ("have no place in the model", foreign))
                if names
            )
        )
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise UnsoundModelError(
                f"{name} is {tuple(weight.shape)}, and the other weights ask for {tuple(own[name].shape)}"
            )
    model.load_state_dict({name: weight.to(own[name].dtype) for name, weight in weights.items()})


__all__ = ["convert_released", "from_clip"]
