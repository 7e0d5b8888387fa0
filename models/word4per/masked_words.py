"""Masked-language modelling: words of a caption that are hidden are told from the image (paper, stage 1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig
from transformers.activations import QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPEncoder

from ...losses_fafa import spread_mask
from .losses import MLM_IGNORED

_AS_IT_IS, _ANOTHER_WORD = 0.1, 0.1  # of the words that are to be told; the rest is masked (released code, as BERT's)


class CrossModalTransformer(nn.Module):
    """Caption tokens look at image patches, then at one another; a head tells the masked words.

    Args:
        dim: of the projected features of either side.
        num_layers: after the cross-attention.
        vocab_size: of the words.
    """

    def __init__(self, dim: int, num_layers: int, vocab_size: int):
        super().__init__()
        num_heads = max(1, dim // 64)
        self.text_norm, self.image_norm, self.final_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        layers = CLIPTextConfig(
            hidden_size=dim, intermediate_size=4 * dim, num_hidden_layers=num_layers, num_attention_heads=num_heads
        )
        layers._attn_implementation = "sdpa"
        self.encoder = CLIPEncoder(layers)
        self.head = nn.Sequential(
            nn.Linear(dim, dim), QuickGELUActivation(), nn.LayerNorm(dim), nn.Linear(dim, vocab_size)
        )

    def forward(self, text: Tensor, image: Tensor, is_word: Tensor) -> Tensor:
        """Scores of all words for every token: `(batch_size, length, vocab_size)`.

        Args:
            text: `(batch_size, length, dim)`, projected states of the caption with masks.
            image: `(batch_size, num_patches + 1, dim)`, projected states of the image.
            is_word: `(batch_size, length)`, false at padding, at which nothing looks.
        """
        keys = self.image_norm(image)
        states = self.attention(self.text_norm(text), keys, keys, need_weights=False)[0]
        states = self.encoder(inputs_embeds=states, attention_mask=is_word[:, None, None, :]).last_hidden_state
        return self.head(self.final_norm(states))


def mask_words(
    input_ids: Tensor, may_mask: Tensor, share: float, mask_token_id: int, vocab_size: int, draw: bool = True
) -> tuple[Tensor, Tensor]:
    """Captions with some words masked, and the words that were there.

    Of the chosen words, 80 % become the mask, 10 % another word, and 10 % stay; a caption of which none was chosen
    gets its first word masked (released code).

    Args:
        input_ids: `(num_captions, length)`.
        may_mask: the same shape, true at words.
        share: of the words to choose.
        draw: False chooses evenly, so that the loss repeats, and masks all that it chooses.

    Returns:
        ids and labels of the same shape; a label is 0 where nothing is to be told.
    """
    shape, device = input_ids.shape, input_ids.device
    chances = torch.rand(shape, device=device) if draw else 1.0 - spread_mask(shape, share, device)
    chosen = (chances < share) & may_mask
    first = F.one_hot(may_mask.int().argmax(dim=1), shape[1]).bool() & may_mask
    chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, first)
    masked = torch.where(chosen, mask_token_id, input_ids)
    if draw:
        fate = torch.rand(shape, device=device)
        others = torch.randint(1, vocab_size, shape, device=device)
        masked = torch.where(chosen & (fate < _AS_IT_IS + _ANOTHER_WORD), others, masked)
        masked = torch.where(chosen & (fate < _AS_IT_IS), input_ids, masked)
    return masked, torch.where(chosen, input_ids, MLM_IGNORED)
