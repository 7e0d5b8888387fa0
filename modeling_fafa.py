"""FAFA: composed person retrieval on BLIP-2's vision tower and Q-Former (arXiv 2311.16515)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from .citation_fafa import CITATION
from .configuration_fafa import FafaConfig
from .gathering_fafa import TripletStates, whole_batch
from .losses_fafa import (
    alignment_loss,
    caption_loss,
    distribution_uncertainty,
    feature_diversity_loss,
    group_labels,
    masked_feature_reasoning_loss,
    masked_predictor,
    sample_mask,
)
from .modeling_towers_fafa import TowersModel
from .retriever import CardFacts


@dataclass
class FafaOutput(ModelOutput):
    """What `FafaModel.forward` returns; fields that were not asked for are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_fda: scalar, fine-grained dynamic alignment.
        loss_fd: scalar, feature diversity, before its weight.
        loss_mfr: scalar, masked feature reasoning, before its weight.
        loss_itc: scalar, caption-to-image contrastive term, before its weight; only with captions.
        logits: `(batch_size, batch_size)`, scores of query i and target j over the temperature, fp32.
        query_embeds: `(batch_size, projection_dim)`, unit length.
        target_embeds: `(batch_size, num_query_tokens, projection_dim)`, each token of unit length.
        hidden_states: the Q-Former's states for each query, before its first layer and after each: tuple of
            `(batch_size, num_query_tokens + text_length, qformer_hidden_size)`, with fewer tokens if there is no image
            or no caption; `output_hidden_states` asks for these and the next three.
        vision_hidden_states: the vision tower's states for reference images, before the LayerNorm behind it: tuple of
            `(batch_size, num_patches + 1, vision_hidden_size)`.
        target_hidden_states, target_vision_hidden_states: the same for targets.
        attentions: the Q-Former's weights for each query, one entry per layer: tuple of `(batch_size, num_heads,
            num_tokens, num_tokens)`; `output_attentions` asks for these and the next five.
        cross_attentions: weights from its query tokens to the image, for each layer that has them: tuple of
            `(batch_size, num_heads, num_query_tokens, num_patches + 1)`.
        vision_attentions: the vision tower's weights for reference images, one entry per layer.
        target_attentions, target_cross_attentions, target_vision_attentions: the same for targets.
    """

    loss: Tensor | None = None
    loss_fda: Tensor | None = None
    loss_fd: Tensor | None = None
    loss_mfr: Tensor | None = None
    loss_itc: Tensor | None = None
    logits: Tensor | None = None
    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    target_hidden_states: tuple[Tensor, ...] | None = None
    target_vision_hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    target_attentions: tuple[Tensor, ...] | None = None
    target_cross_attentions: tuple[Tensor, ...] | None = None
    target_vision_attentions: tuple[Tensor, ...] | None = None


class FafaPreTrainedModel(TowersModel):
    """Loading, saving and initialisation of FAFA models."""

    config: FafaConfig
    config_class = FafaConfig
    base_model_prefix = "fafa"
    output_class = FafaOutput


class FafaModel(FafaPreTrainedModel):
    """Composed person retrieval: queries of an image and a caption, or either alone, against target images.

    A query becomes one vector, a target image `num_query_tokens` vectors, all of unit length in one space; their score
    is the mean of the k largest dot products.

    Example:
        >>> import torch
        >>> from fafa import FafaConfig, FafaModel
        >>> model = FafaModel(FafaConfig.tiny(vocab_size=100)).eval()
        >>> pixels, ids = torch.randn(3, 3, 96, 96), torch.randint(100, (2, 12))
        >>> queries = model.get_query_features(pixel_values=pixels[:2], input_ids=ids)
        >>> targets = model.get_target_features(pixel_values=pixels)
        >>> model.score(queries, targets).shape
        torch.Size([2, 3])
    """

    settings_of_losses = TowersModel.settings_of_losses | {
        *("distribution_uncertainty", "fda_alpha", "fda_divergence"),
        *("fd_weight", "fd_margin", "fd_scope", "fd_sample_size", "mfr_weight", "mfr_mask_ratio", "mfr_hidden_size"),
    }
    weights_of_losses = TowersModel.weights_of_losses | {"mfr_predictor"}
    lora_trained_whole = (*TowersModel.lora_trained_whole, "mfr_predictor")

    def __init__(self, config: FafaConfig):
        super().__init__(config)
        self.mfr_predictor = masked_predictor(config.qformer_config.hidden_size, config.mfr_hidden_size)
        self.post_init()
        if config.freeze_vision:
            self.freeze_vision_tower()

    def warmup_settings(self, contrastive: bool, captions: bool) -> dict[str, Any]:
        """The forward divergence, and the caption-to-image term.

        BLIP-2's weights come from contrastive training; a model from random weights needs the like, because the reverse
        divergence of FDA has hardly a gradient while all scores are alike.
        """
        return ({"fda_divergence": "forward"} if contrastive else {}) | ({"itc_weight": 1.0} if captions else {})

    @classmethod
    def card_facts(cls, config: FafaConfig) -> CardFacts:
        """Facts about the paper, and the sizes of the two towers."""
        return CardFacts(
            method="FAFA",
            paper="arXiv [2311.16515](https://arxiv.org/abs/2311.16515)",
            sizes=config.sizes(),
            citation=CITATION,
            tags=("fafa",),
        )

    def losses(
        self, states: TripletStates, group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> FafaOutput:
        """The second half of `forward`: embeddings, logits and losses of a batch, which compare its triplets.

        Args:
            states: what `training_states` returned.
            group_ids: `(batch_size,)`; see `forward`, likewise `gather_across_processes`.

        Raises:
            ValueError, TypeError: `group_ids` are not one integer per triplet.
        """
        states, group_ids = whole_batch(states, group_ids, gather_across_processes)
        config = self.config
        query_embeds = self._project(self.text_projection, states.query)
        target_embeds = self._project(self.vision_projection, self._resample_statistics(states.target))
        logits = self._scores(query_embeds, target_embeds) / self.temperature.float()
        loss_fda = alignment_loss(logits, group_labels(group_ids, config.fda_alpha), config.fda_divergence)
        loss_fd = feature_diversity_loss(
            target_embeds, config.fd_margin, config.fd_scope, config.fd_sample_size, at_random=self.training
        )
        loss_mfr = masked_feature_reasoning_loss(
            states.query,
            states.target.mean(dim=1),
            self.mfr_predictor,
            query_mask=self._sample_mask(states.query),
            target_mask=self._sample_mask(states.query),
        )
        loss = loss_fda + config.fd_weight * loss_fd + config.mfr_weight * loss_mfr
        loss_itc = None
        if states.caption is not None:
            caption_embeds = self._project(self.text_projection, states.caption)
            loss_itc = caption_loss(self._scores(caption_embeds, target_embeds) / self.temperature.float(), group_ids)
            loss = loss + config.itc_weight * loss_itc
        # Made at once: as a tuple it has the order in which fields were set, and its first entry is taken for the loss.
        return FafaOutput(loss, loss_fda, loss_fd, loss_mfr, loss_itc, logits, query_embeds, target_embeds)

    def _resample_statistics(self, target_states: Tensor) -> Tensor:
        # Only for the states that are projected: masked feature reasoning sees them unchanged (released code).
        probability = self.config.distribution_uncertainty
        if not self.training or probability == 0.0 or target_states.shape[0] < 2:  # one image has no batch statistics
            return target_states
        mean_noise, std_noise = torch.randn(2, *target_states.shape[1:], device=target_states.device)
        # The choice stays a tensor: a branch on it would break the graph of a compiled step.
        chosen = torch.rand((), device=target_states.device) < probability
        return torch.where(chosen, distribution_uncertainty(target_states, mean_noise, std_noise), target_states)

    def _sample_mask(self, states: Tensor) -> Tensor:
        return sample_mask(states, self.config.mfr_mask_ratio, self.training)


__all__ = ["FafaModel", "FafaOutput", "FafaPreTrainedModel"]
