"""CoAlign on CLIP's two towers. The paper has BLIP-2 alone; its reviewers asked for this.

CLIP has no Q-Former in which image and caption meet, so they need a fusion, and its result is the state that local
contextual reasoning masks and predicts. The paper says nothing of it; this is our reading, kept as small as it can be:

    r, c    the projected embeddings of reference image and caption, scaled to a mean square of 1 an entry, which is
            the scale of the Q-Former's states
    query   r + c + F([r ; c]), scaled likewise; F has one hidden layer, and begins at 0: training starts from the sum
            of both embeddings, which needs no training
    target  the projected embedding of the target image, scaled likewise: one token, whose maximum is itself

Both losses are those of `losses.py`. A caption alone is c, an image alone the state that it has as a target.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)

from ...checks_fafa import check_captions, check_images, check_triplets
from ...configuration_towers_fafa import changed, check_number
from ...gathering_fafa import TripletStates
from ...losses_fafa import masked_predictor
from ...recording_fafa import recorded_weights, weights_of_patches
from ...retriever import CardFacts, Retriever, RetrieverProcessor
from .configuration import LOSS_SETTINGS, LossSettings
from .losses import CITATION, PAPER, CoAlignLosses


@strict
class CoAlignClipConfig(LossSettings, PreTrainedConfig):
    """Architecture and losses of CoAlign on CLIP.

    Args:
        clip_config: the two towers, a `CLIPConfig` or its fields as a dict.
        fusion_hidden_size: hidden size of the fusion.
        temperature_init: τ before training; it is learned.
        itc_weight: weight of the caption-to-image term, see `TowersConfig`.
        freeze_vision: train the text tower, the projections and the fusion only.
        gca_beta, gca_divergence, lcr_weight, lcr_mask_ratio, lcr_hidden_size: see `LossSettings`.
    """

    model_type = "coalign_clip"
    sub_configs = {"clip_config": CLIPConfig}
    keys_to_ignore_at_inference = ["loss_gca", "loss_lcr", "loss_itc", "logits"]

    clip_config: dict | PreTrainedConfig | None = None
    fusion_hidden_size: int = 512
    temperature_init: float | int = 0.07
    itc_weight: float | int = 0.0
    freeze_vision: bool = False

    def __post_init__(self, **kwargs):
        if not isinstance(self.clip_config, PreTrainedConfig):
            self.clip_config = CLIPConfig(**(self.clip_config or {}))
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Part of `@strict`: what is not among CoAlign's losses."""
        if type(self.fusion_hidden_size) is not int or not 1 <= self.fusion_hidden_size <= 65_536:
            raise ValueError(
                f"fusion_hidden_size is {self.fusion_hidden_size!r}, expected a whole number from 1 to 65,536"
            )
        check_number("itc_weight", self.itc_weight, 0, 1e6)
        check_number("temperature_init", self.temperature_init, 1e-6, 1e6)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The part with the vocabulary, which `resize_token_embeddings` changes."""
        return self.clip_config.text_config

    @classmethod
    def tiny(cls, vocab_size: int = 512, vocabulary_hash: str | None = None, **kwargs) -> "CoAlignClipConfig":
        """A model of less than 2 million parameters, for a CPU and for tests; words are those of BERT's tokenizers.

        Args:
            vocabulary_hash: is not kept: CLIP's tokenizers need none.
        """
        tower = {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "initializer_factor": 1.0,
            "attention_dropout": 0.0,
        }
        cls_id, sep_id = 2, 3  # of `build_tokenizer`; the text tower reads its feature at the last one
        text = {"vocab_size": vocab_size, "max_position_embeddings": 64, "bos_token_id": cls_id, "eos_token_id": sep_id}
        clip = {
            "vision_config": {**tower, "image_size": 96, "patch_size": 24},
            "text_config": {**tower, **text, "pad_token_id": 0},
            "projection_dim": 64,
        }
        return cls(**changed({"clip_config": clip, "lcr_hidden_size": 128, "fusion_hidden_size": 128}, kwargs))


class CoAlignClipModel(CoAlignLosses, Retriever, PreTrainedModel):
    """Composed image retrieval on CLIP, see the module; one vector per image, compared by the cosine.

    Example:
        >>> import torch
        >>> from fafa.models.coalign import CoAlignClipConfig, CoAlignClipModel
        >>> model = CoAlignClipModel(CoAlignClipConfig.tiny(vocab_size=100)).eval()
        >>> queries = model.get_query_features(torch.randn(2, 3, 96, 96), torch.tensor([[2, 7, 3], [2, 8, 3]]))
        >>> model.score(queries, model.get_target_features(torch.randn(4, 3, 96, 96))).shape
        torch.Size([2, 4])
    """

    config: CoAlignClipConfig
    config_class = CoAlignClipConfig
    base_model_prefix = "coalign_clip"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = CLIPModel._no_split_modules

    settings_of_losses = LOSS_SETTINGS | {"temperature_init", "itc_weight", "logit_scale_init_value"}
    weights_of_losses = frozenset({"temperature", "lcr_predictor", "logit_scale"})
    weights_without_decay = ("temperature", "class_embedding", "position_embedding")
    lora_targets = {"text": r".*text_model.*\.(q_proj|v_proj)", "vision": r".*vision_model.*\.(q_proj|v_proj)"}
    lora_trained_whole = ("visual_projection", "text_projection", "fusion", "lcr_predictor")
    lora_parameters = ("temperature",)

    def __init__(self, config: CoAlignClipConfig):
        config.validate()
        super().__init__(config)
        size = config.clip_config.projection_dim
        self.clip = CLIPModel._from_config(config.clip_config)
        scale = self.clip.logit_scale.detach()  # CLIP's own is kept, but does not train: the losses have `temperature`
        del self.clip.logit_scale
        self.clip.register_buffer("logit_scale", scale)
        self.fusion = masked_predictor(size, config.fusion_hidden_size)
        self.temperature = nn.Parameter(torch.tensor(float(config.temperature_init)))
        self.lcr_predictor = masked_predictor(size, config.lcr_hidden_size)
        self.post_init()
        if config.freeze_vision:
            self.freeze_vision_tower()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, CoAlignClipModel):
            initialization.constant_(module.temperature, self.config.temperature_init)
            initialization.zeros_(module.fusion[-1].weight)
            initialization.zeros_(module.fusion[-1].bias)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of captions."""
        return self.clip.text_model.embeddings.token_embedding

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """The embeddings of patches and the LayerNorm behind them, then each block."""
        tower = self.clip.vision_model
        return [nn.ModuleList([tower.embeddings, tower.pre_layrnorm]), *tower.encoder.layers]

    @property
    def feature_shape(self) -> tuple[int, int]:
        """One vector of CLIP's projection."""
        return 1, self.config.clip_config.projection_dim

    @property
    def image_shape(self) -> tuple[int, int]:
        """A square, in pixels."""
        size = self.config.clip_config.vision_config.image_size
        return size, size

    def _image_states(self, pixel_values: Tensor) -> Tensor:
        return _scaled(self.clip.get_image_features(pixel_values).pooler_output)

    def _caption_states(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return _scaled(self.clip.get_text_features(input_ids, attention_mask).pooler_output)

    def _query_states(self, images: Tensor, captions: Tensor) -> Tensor:
        return _scaled(images + captions + self.fusion(torch.cat([images, captions], dim=-1)))

    def _check_captions(self, name: str, ids: Tensor, mask: Tensor | None) -> None:
        words = self.get_input_embeddings().num_embeddings
        check_captions(name, ids, mask, words, self.config.clip_config.text_config.max_position_embeddings)

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries, of reference image and caption or of either alone: `(num_queries, dim)`, unit length.

        Raises:
            ValueError, TypeError: without image and caption, if their numbers differ, or if they are not what this
                model takes.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        if pixel_values is not None:
            check_images("pixel_values", pixel_values, self.image_shape)
        if input_ids is not None:
            self._check_captions("input_ids", input_ids, attention_mask)
        check_triplets(pixel_values, input_ids)
        parts = [
            *([] if pixel_values is None else [self._image_states(pixel_values)]),
            *([] if input_ids is None else [self._caption_states(input_ids, attention_mask)]),
        ]
        return F.normalize(parts[0] if len(parts) == 1 else self._query_states(*parts), dim=-1)

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images: `(num_images, 1, dim)`, unit length."""
        check_images("pixel_values", pixel_values, self.image_shape)
        return F.normalize(self._image_states(pixel_values), dim=-1)[:, None]

    @torch.no_grad()
    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Attention from the class token, which the feature is made of, to patches in the tower's last block.

        It is the mean over heads. What earlier blocks brought into the class token is not in it.

        Args:
            pixel_values: `(num_images, 3, height, width)`.

        Returns:
            `(num_images, 1, rows, columns)`, fp32.
        """
        tower = self.clip.vision_model
        side = self.image_shape[0] // self.config.clip_config.vision_config.patch_size
        with recorded_weights(tower, [tower.encoder.layers[-1].self_attn]) as weights:
            self.get_target_features(pixel_values)
        return weights_of_patches(weights[0][:, :, :1], (side, side))

    def training_states(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        target_pixel_values: Tensor,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
    ) -> TripletStates:
        """What the towers make of each triplet by itself; see `Retriever.training_states`.

        Raises:
            ValueError, TypeError: the inputs do not fit one another or this model.
        """
        for name, pixels in {"pixel_values": pixel_values, "target_pixel_values": target_pixel_values}.items():
            check_images(name, pixels, self.image_shape)
        self._check_captions("input_ids", input_ids, attention_mask)
        check_triplets(pixel_values, input_ids, target_pixel_values, caption_input_ids)
        caption = None
        if caption_input_ids is not None and self.config.itc_weight > 0.0:
            self._check_captions("caption_input_ids", caption_input_ids, caption_attention_mask)
            caption = self._caption_states(caption_input_ids, caption_attention_mask)
        return TripletStates(
            query=self._query_states(self._image_states(pixel_values), self._caption_states(input_ids, attention_mask)),
            target=self._image_states(target_pixel_values)[:, None],
            caption=caption,
        )

    def embed(self, states: TripletStates) -> tuple[Tensor, Tensor, Tensor | None]:
        """States are embeddings already, but for their length."""
        embeds = (None if one is None else F.normalize(one, dim=-1) for one in states)
        return tuple(embeds)

    @property
    def reads_target_captions(self) -> bool:
        """For the caption-to-image term."""
        return self.config.itc_weight > 0.0

    @classmethod
    def card_facts(cls, config: CoAlignClipConfig) -> CardFacts:
        """The paper's, and the sizes of the two towers."""
        vision, text = config.clip_config.vision_config, config.clip_config.text_config
        sizes = {
            "vision tower": f"{vision.num_hidden_layers} blocks of width {vision.hidden_size}, {vision.image_size} "
            "pixels",
            "text tower": f"{text.num_hidden_layers} blocks of width {text.hidden_size}",
        }
        return CardFacts("CoAlign on CLIP", PAPER, sizes, CITATION, ("coalign",))


def _scaled(embeds: Tensor) -> Tensor:
    """The same direction, with a mean square of 1 an entry."""
    return F.normalize(embeds, dim=-1) * math.sqrt(embeds.shape[-1])


class CoAlignClipProcessor(RetrieverProcessor, CLIPProcessor):
    """Prepares queries and targets for `CoAlignClipModel`, with CLIP's image processor and tokenizer.

    Args:
        image_processor, tokenizer: CLIP's.
        cut_captions (`bool`): Whether captions beyond CLIP's length are cut; False refuses them.
    """

    def __init__(self, image_processor=None, tokenizer=None, cut_captions=False):
        super().__init__(image_processor, tokenizer)
        self.cut_captions = cut_captions

    @classmethod
    def tiny(cls, tokenizer: Any, config: CoAlignClipConfig) -> "CoAlignClipProcessor":
        """The processor of a tiny model, with one of BERT's tokenizers; images are stretched to its square."""

        clip = config.clip_config
        square = {"height": clip.vision_config.image_size, "width": clip.vision_config.image_size}
        tokenizer.model_max_length = clip.text_config.max_position_embeddings
        return cls(CLIPImageProcessorPil(size=square, do_center_crop=False), tokenizer)

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """See `RetrieverProcessor.encode_captions`; without `cut_captions`, one beyond CLIP's length is refused."""
        encoded = super().encode_captions(captions, names)
        if self.cut_captions:
            return encoded
        most = self.tokenizer.model_max_length
        for row in (encoded["attention_mask"].sum(dim=1) == most).nonzero().flatten().tolist():
            length = len(self.tokenizer(captions[row], verbose=False)["input_ids"])
            if length > most:
                name = f"captions[{row}]" if names is None else names[row]
                raise ValueError(
                    f"{name}: the caption has {length} tokens, but CLIP reads {most}: shorten it, {captions[row]!r:.60}"
                )
        return encoded


__all__ = ["CoAlignClipConfig", "CoAlignClipModel", "CoAlignClipProcessor"]
