"""The noise-robust dual encoder: text-based person retrieval with the two towers of a CLIP or SigLIP.

SynTBPR (arXiv 2503.22171) and its parent TBPS-CLIP (arXiv 2308.10045) train them on captions that may be wrong.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, initialization
from transformers.utils import ModelOutput

from ...checks_fafa import check_captions, check_group_ids, check_images
from ...citation_fafa import SYNTBPR_CITATION
from ...gathering_fafa import gather_rows
from ...padding_fafa import moved_left
from ...recording_fafa import recorded_weights, weights_of_patches
from ...retriever import CardFacts, Retriever
from .configuration import DualEncoderConfig
from .losses import noise_robust_losses, scaled_cosines, sigmoid_loss


@dataclass
class DualEncoderOutput(ModelOutput):
    """What `DualEncoderModel.losses` returns; terms of weight 0 are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_n_itc: scalar, cross-entropy against soft labels, before its weight, as the next ones.
        loss_r_itc: scalar, divergence from the labels.
        loss_itc: scalar, plain contrast.
        loss_sigmoid: scalar, SigLIP's own.
        query_embeds: `(batch_size, dim)`, unit length: of the captions; in evaluation, where there are reference
            images, of the composed queries.
        target_embeds: `(batch_size, 1, dim)`, unit length.
    """

    loss: Tensor | None = None
    loss_n_itc: Tensor | None = None
    loss_r_itc: Tensor | None = None
    loss_itc: Tensor | None = None
    loss_sigmoid: Tensor | None = None
    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None


class PairStates(NamedTuple):
    """What the towers make of a batch, `(batch_size, dim)` each, not normalised.

    Args:
        image: of the target images.
        text: of the captions that describe them.
        soft_image, soft_text: the same of the second pass; None where it would be the same to the bit, or is not used.
        query: composed queries, of unit length; None in training, or without reference images.
    """

    image: Tensor
    text: Tensor
    soft_image: Tensor | None = None
    soft_text: Tensor | None = None
    query: Tensor | None = None


class DualEncoderPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config: DualEncoderConfig
    config_class = DualEncoderConfig
    base_model_prefix = "dual_encoder"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, DualEncoderModel):
            initialization.constant_(module.backbone.logit_scale, -math.log(self.config.temperature_init))


class DualEncoderModel(Retriever, DualEncoderPreTrainedModel):
    """Two towers: an image and a caption become one vector each; their cosine is the score.

    A caption alone finds people as it was trained to. An image alone is compared with images. A composed query is the
    late fusion of both, the normalised weighted sum of its two halves (`image_weight`): no training of it is needed.

    Trained on pairs of caption and image, or on triplets, of which it reads the target and the caption that describes
    it whole (without such captions: the relative one).
    """

    settings_of_losses = frozenset(
        (
            *("temperature_init", "logit_scale_init_value", "alpha", "alpha_ramp_epochs", "soft_label"),
            *("r_itc_soft_label", "r_itc_epsilon", "n_itc_weight", "r_itc_weight", "itc_weight", "sigmoid_weight"),
        )
    )
    weights_of_losses = frozenset({"logit_scale", "logit_bias"})
    weights_without_decay = ("logit_scale", "logit_bias", "class_embedding", "position_embedding", "probe")
    lora_targets = {
        "text": r"backbone\.text_model\..*\.(q_proj|v_proj)",
        "vision": r"backbone\.vision_model\..*\.(q_proj|v_proj)",
    }
    lora_parameters = ("backbone.logit_scale",)

    def __init__(self, config: DualEncoderConfig):
        config.validate()  # once more: settings given to `from_pretrained` change it after it was made
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        self._is_siglip = config.backbone_config.model_type == "siglip"
        self.post_init()
        with torch.no_grad():  # the backbone has had its own turn, and what is loaded comes later
            self.backbone.logit_scale.fill_(-math.log(config.temperature_init))
        self.freeze_as_configured()

    @classmethod
    def from_backbone(
        cls, source: str | os.PathLike, backbone_options: dict[str, Any] | None = None, **settings: Any
    ) -> "DualEncoderModel":
        """A model with the weights of a CLIP or SigLIP, and a scale that begins anew (`temperature_init`).

        Args:
            source: a folder of transformers', or a repository of the Hub.
            backbone_options: of `AutoModel.from_pretrained`: `revision`, `token`, `cache_dir` ...
            settings: of `DualEncoderConfig`.

        Raises:
            ValueError: it is neither, or a setting is impossible. OSError: it is not there.
        """
        backbone, info = AutoModel.from_pretrained(source, output_loading_info=True, **(backbone_options or {}))
        config = DualEncoderConfig(backbone_config=backbone.config, **settings)
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"])[:3])
            raise ValueError(f"{source}: weights of the backbone are missing ({missing}): fetch the folder again")
        model = cls(config)
        model.backbone.load_state_dict(backbone.state_dict())
        with torch.no_grad():
            model.backbone.logit_scale.fill_(-math.log(config.temperature_init))
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of captions."""
        return self.backbone.text_model.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings of captions."""
        self.backbone.text_model.embeddings.token_embedding = value

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """What comes before the tower's blocks, then each of them; what comes after them is of the trained side."""
        tower = self.backbone.vision_model
        first = [tower.embeddings, *([tower.pre_layrnorm] if hasattr(tower, "pre_layrnorm") else [])]
        return [nn.ModuleList(first), *tower.encoder.layers]

    def freeze_vision_tower(self, dtype: torch.dtype | None = None) -> "DualEncoderModel":
        """Stops training of the vision tower, and notes it in the configuration.

        Raises:
            ValueError: another dtype than the model's, which a tower of transformers' own does not take in parts.
        """
        if dtype not in (None, self.dtype):
            raise ValueError(
                f"the vision tower cannot be stored in {dtype} beside the rest in {self.dtype}: leave vision_dtype "
                "out; bf16=true computes in half precision"
            )
        return super().freeze_vision_tower()

    def freeze_as_configured(self) -> None:
        """Stops training of a frozen tower, and of a SigLIP's bias where its own loss has no weight."""
        super().freeze_as_configured()
        if self._is_siglip:
            self.backbone.logit_bias.requires_grad_(bool(self.config.sigmoid_weight))

    @property
    def lora_trained_whole(self) -> tuple[str, ...]:
        """The projections of CLIP; those of SigLIP's are parts of its towers."""
        return () if self._is_siglip else ("visual_projection", "text_projection")

    @property
    def feature_shape(self) -> tuple[int, int]:
        """One vector an image, of the width of the backbone's space."""
        backbone = self.config.backbone_config
        return 1, backbone.vision_config.hidden_size if self._is_siglip else backbone.projection_dim

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.config.image_shape

    @property
    def reads_target_captions(self) -> bool:
        """Of triplets: the caption of the target is what the tower of words is trained on."""
        return True

    def settings_at(self, epoch: float) -> dict[str, Any]:
        """α rises linearly from 0 (released code: over the first epoch)."""
        ramp = self.config.alpha_ramp_epochs
        return {"alpha": self.config.alpha * min(1.0, epoch / ramp)} if ramp else {}

    # Features

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """Images in the common space, not normalised: `(num_images, dim)`."""
        interpolate = {self.config.backbone_config.vision_config.image_size} != set(self.image_shape)
        return self.backbone.get_image_features(pixel_values, interpolate_pos_encoding=interpolate).pooler_output

    def text_states(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Captions in the common space, not normalised: `(num_captions, dim)`."""
        if self._is_siglip:  # it was trained on captions padded to their full length, without a mask
            attention_mask = None
        elif attention_mask is not None:
            input_ids, attention_mask = moved_left(input_ids, attention_mask)
        return self.backbone.get_text_features(input_ids, attention_mask=attention_mask).pooler_output

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries: image and caption, fused by their normalised weighted sum, or either alone.

        Args:
            pixel_values: `(num_queries, 3, height, width)`, reference images.
            input_ids: `(num_queries, text_length)`, captions.
            attention_mask: `(num_queries, text_length)`, 0 at padding, on either side; None: no padding.

        Returns:
            `(num_queries, dim)`, unit length.

        Raises:
            ValueError, TypeError: without image and caption, if their numbers differ, or if they are not what this
                model takes.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        if input_ids is not None:
            self._check_captions("input_ids", input_ids, attention_mask)
            text = _unit(self.text_states(input_ids, attention_mask))
            if pixel_values is None:
                return text
        check_images("pixel_values", pixel_values, self.image_shape)
        if input_ids is None:
            return _unit(self.image_states(pixel_values))
        if len(pixel_values) != len(input_ids):
            raise ValueError(f"{len(pixel_values)} reference images for {len(input_ids)} captions: one of each a query")
        return self.fuse(text, _unit(self.image_states(pixel_values)))

    def fuse(self, text: Tensor, image: Tensor) -> Tensor:
        """Late fusion of the halves of composed queries, each `(num_queries, dim)` of unit length."""
        weight = self.config.image_weight
        return _unit((1.0 - weight) * text + weight * image)

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images: `(num_images, 1, dim)`, unit length; arguments as for queries."""
        check_images("pixel_values", pixel_values, self.image_shape)
        return _unit(self.image_states(pixel_values))[:, None]

    @torch.no_grad()
    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Attention from the class token, which the feature is made of, to patches in the tower's last block.

        A SigLIP has no class token: it is the attention of the probe that pools its patches. Both are means over
        heads. What earlier blocks brought into the class token is not in it.

        Args:
            pixel_values: `(num_images, 3, height, width)`.

        Returns:
            `(num_images, 1, rows, columns)`, fp32.
        """
        tower, patch = self.backbone.vision_model, self.config.backbone_config.vision_config.patch_size
        grid = self.image_shape[0] // patch, self.image_shape[1] // patch
        pooling = tower.head.attention if self._is_siglip else tower.encoder.layers[-1].self_attn
        with recorded_weights(tower, [pooling]) as weights:
            self.get_target_features(pixel_values)
        if self._is_siglip:
            return weights[0].float().unflatten(-1, grid)  # (num_images, 1, num_patches) before
        return weights_of_patches(weights[0][:, :, :1], grid)

    def _check_captions(self, name: str, ids: Tensor, mask: Tensor | None) -> None:
        positions = self.config.get_text_config().max_position_embeddings
        check_captions(name, ids, mask, self.get_input_embeddings().num_embeddings, positions)
        if self._is_siglip and ids.shape[1] != positions:
            raise ValueError(
                f"{name}: the captions have {ids.shape[1]} tokens, and a SigLIP reads the last of {positions}: pad "
                "them to the full length, as the processor that was saved with the model does"
            )

    # Training

    def training_states(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
    ) -> PairStates:
        """What the towers make of each pair, or of each triplet's target and its caption.

        Args:
            pixel_values: `(batch_size, 3, height, width)`, reference images of triplets; None for pairs. They are read
                in evaluation alone, for `query_embeds`.
            input_ids: `(batch_size, text_length)`, captions of pairs, or the relative ones of triplets.
            attention_mask: `(batch_size, text_length)`.
            target_pixel_values: `(batch_size, 3, height, width)`.
            caption_input_ids: `(batch_size, caption_length)`, the whole captions of triplets' targets; likewise
                `caption_attention_mask`.

        Raises:
            ValueError, TypeError: captions or targets are missing, or the inputs do not fit one another or this model.
        """
        if input_ids is None or target_pixel_values is None:
            raise ValueError("training needs input_ids, the captions, and target_pixel_values, what they describe")
        given = (input_ids, attention_mask, "input_ids")
        if caption_input_ids is not None:
            given = (caption_input_ids, caption_attention_mask, "caption_input_ids")
        ids, mask, name = given
        self._check_captions(name, ids, mask)
        check_images("target_pixel_values", target_pixel_values, self.image_shape)
        if len(ids) != len(target_pixel_values):
            raise ValueError(f"{len(ids)} captions for {len(target_pixel_values)} target images: one of each a pair")
        image, text = self.image_states(target_pixel_values), self.text_states(ids, mask)
        soft = (None, None)
        if self._second_pass_differs:
            with torch.no_grad():
                soft = self.image_states(target_pixel_values), self.text_states(ids, mask)
        query = None
        if pixel_values is not None and not self.training:
            query = self.get_query_features(pixel_values, input_ids, attention_mask)
        return PairStates(image, text, *soft, query)

    @property
    def _second_pass_differs(self) -> bool:
        """Whether the second pass, for soft labels, gives anything else: dropout draws anew, all else repeats."""
        config = self.config
        is_used = (config.n_itc_weight and config.soft_label) or (config.r_itc_weight and self._r_itc_soft_label)
        parts = config.backbone_config.text_config, config.backbone_config.vision_config
        drops = any(part.attention_dropout for part in parts) or any(
            isinstance(module, nn.Dropout) and module.p for module in self.modules()
        )
        return bool(self.training and is_used and drops)

    @property
    def _r_itc_soft_label(self) -> str | None:
        config = self.config
        return config.soft_label if config.r_itc_soft_label == "same" else config.r_itc_soft_label

    def losses(
        self, states: PairStates, group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> DualEncoderOutput:
        """Embeddings and losses of a batch, which compare its pairs.

        Args:
            states: of `training_states`.
            group_ids: `(batch_size,)`, identities; None: every pair its own.
            gather_across_processes: of the batches of all processes together, as one process would.

        Raises:
            ValueError, TypeError: `group_ids` are not one integer a pair.
        """
        if group_ids is not None:
            check_group_ids(group_ids, len(states.image))
        if gather_across_processes:
            *gathered, group_ids = gather_rows(*states, group_ids)
            states = PairStates(*gathered)
        if group_ids is None:
            group_ids = torch.arange(len(states.image), device=states.image.device)
        image, text, soft_image, soft_text, query = states
        soft_image, soft_text = (
            (image, text) if soft_image is None else (soft_image, soft_text)  # no gradient flows into them
        )
        config, log_scale = self.config, self.backbone.logit_scale.float().reshape(())
        pairs = image, text, soft_image, soft_text, group_ids, log_scale

        def noise_robust(soft_label: str | None) -> tuple[Tensor, Tensor]:
            return noise_robust_losses(*pairs, config.alpha, soft_label, config.r_itc_epsilon)

        terms: dict[str, Tensor | None] = dict.fromkeys(("n_itc", "r_itc", "itc", "sigmoid"))
        if config.n_itc_weight:
            terms["n_itc"] = noise_robust(config.soft_label)[0]
        if config.r_itc_weight:
            terms["r_itc"] = noise_robust(self._r_itc_soft_label)[1]
        if config.itc_weight:
            terms["itc"] = noise_robust(None)[0]
        if config.sigmoid_weight:
            logits = scaled_cosines(image, text, log_scale) + self.backbone.logit_bias.float()
            terms["sigmoid"] = sigmoid_loss(logits, group_ids)
        loss = sum(getattr(config, f"{name}_weight") * term for name, term in terms.items() if term is not None)
        query_embeds = _unit(text) if query is None else query
        return DualEncoderOutput(loss, *terms.values(), query_embeds, _unit(image)[:, None])

    @classmethod
    def card_facts(cls, config: DualEncoderConfig) -> CardFacts:
        """The paper's, and the sizes of the two towers."""
        backbone = config.backbone_config
        vision, text = backbone.vision_config, backbone.text_config
        height, width = config.image_shape
        return CardFacts(
            method="Noise-robust dual encoder",
            paper="arXiv [2503.22171](https://arxiv.org/abs/2503.22171), on a backbone of type " + backbone.model_type,
            sizes={
                "vision tower": f"{vision.num_hidden_layers} blocks of width {vision.hidden_size}, {height} x {width} "
                "pixels",
                "text tower": f"{text.num_hidden_layers} blocks of width {text.hidden_size}",
            },
            citation=SYNTBPR_CITATION,
            tags=("text-based-person-retrieval",),
        )


def _unit(states: Tensor) -> Tensor:
    return F.normalize(states.float(), dim=-1).to(states.dtype)


__all__ = ["DualEncoderModel", "DualEncoderOutput", "DualEncoderPreTrainedModel"]
