"""CLIP's two towers as Word4Per uses them: images that are no squares, texts in which a word is given as a vector."""

import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel
from transformers.masking_utils import create_causal_mask
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPVisionEmbeddings


class PersonVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's own, for a grid of patches of any shape, which may overlap.

    Args:
        config: of the vision tower.
        grid: rows and columns of patches.
        stride: pixels from one patch to the next.
    """

    def __init__(self, config, grid: tuple[int, int], stride: int):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(config.num_channels, self.embed_dim, self.patch_size, stride, bias=False)
        self.num_patches = grid[0] * grid[1]
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(num_images, num_patches + 1, hidden_size)` of images `(num_images, 3, height, width)`."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)  # a size that a trace (ONNX) keeps variable
        return torch.cat([first, patches], dim=1) + self.position_embedding(self.position_ids)


def person_clip(config: CLIPConfig, grid: tuple[int, int], stride: int) -> CLIPModel:
    """A `CLIPModel` that takes images of another shape than a square."""
    clip = CLIPModel._from_config(config)
    clip.vision_model.embeddings = PersonVisionEmbeddings(config.vision_config, grid, stride)
    return clip


def image_states(clip: CLIPModel, pixel_values: Tensor) -> Tensor:
    """States of an image, the one that pools its patches first: `(num_images, num_patches + 1, hidden_size)`."""
    tower = clip.vision_model
    states = tower.encoder(inputs_embeds=tower.pre_layrnorm(tower.embeddings(pixel_values))).last_hidden_state
    return tower.post_layernorm(states)


def text_states(tower: CLIPTextModel, input_ids: Tensor, words: Tensor | None = None) -> Tensor:
    """States of all tokens of texts, before projection: `(num_texts, length, hidden_size)`.

    What stands behind a token does not act on it (causal attention), so texts may be padded on the right with anything.

    Args:
        input_ids: `(num_texts, length)`.
        words: embeddings in the place of those of `input_ids`, before positions are added.
    """
    if words is None:
        words = tower.embeddings.token_embedding(input_ids)
    states = tower.embeddings(inputs_embeds=words)
    mask = create_causal_mask(config=tower.config, inputs_embeds=states, attention_mask=None, past_key_values=None)
    states = tower.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True).last_hidden_state
    return tower.final_layer_norm(states)


def at_end(states: Tensor, input_ids: Tensor, eos_token_id: int) -> Tensor:
    """The state at the end of each text, its first `eos_token_id`: `(num_texts, hidden_size)`."""
    ends = (input_ids == eos_token_id).int().argmax(dim=1)
    return states[torch.arange(states.shape[0], device=states.device), ends]


def interpolated_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Embeddings of the positions of one grid of patches for another, bilinear (released code).

    Args:
        positions: `(1 + rows * columns, hidden_size)`, the pooling one first.
    """
    first, patches = positions[:1], positions[1:]
    patches = patches.reshape(1, *grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches.float(), size=new_grid, mode="bilinear").to(positions.dtype)
    return torch.cat([first, patches.permute(0, 2, 3, 1).flatten(0, 2)])


def clip_fingerprint(clip: CLIPModel) -> str:
    """A hash over the weights of both towers, by which a TINet knows the CLIP that it was trained on.

    Rounded to bfloat16, so that a model stored in it is still the same.
    """
    digest = xxhash.xxh3_128()
    for name, weight in sorted(clip.state_dict().items()):
        if name != "logit_scale":
            digest.update(f"{name} {tuple(weight.shape)};".encode())
            digest.update(weight.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
