"""CoAlign's losses: L = L_gca + lcr_weight * L_lcr.

No code and no formula of CoAlign (arXiv 2507.05970) is public. This is our best reading, of reviews of the paper, and
because the released code of FAFA, by the same authors, descends from CoAlign's: its data-set class and its options
still say CIRHS.

- GCA, global contrastive alignment: FAFA's fine-grained dynamic alignment with other labels and another score. A
  target's label is 1 for its own query, β for a query of the same triplet identity (TID), else 0; each row is
  normalised. The score is the maximum over the target's tokens, over a learned temperature that begins at 0.07; 1e-8 is
  added to labels before their logarithm. The divergence is taken over rows and over columns, and averaged.
- LCR, local contextual reasoning: FAFA's masked feature reasoning. 0.3 of a state's entries are masked, and a network
  of one hidden layer (2 * 768 -> 512 -> 768) predicts them from what is left and from the other side's state whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from ...gathering_fafa import TripletStates, whole_batch
from ...losses_fafa import alignment_loss, caption_loss, group_labels, masked_feature_reasoning_loss, sample_mask
from ...scoring_fafa import topk_mean_similarity

CITATION = """\
@misc{li2025automaticsynthesis,
  title         = {Automatic Synthesis of High-Quality Triplet Data for Composed Image Retrieval},
  author        = {Haiwen Li and Delong Liu and Zhaohui Hou and Zhicheng Zhao and Fei Su},
  year          = {2025},
  eprint        = {2507.05970},
  archivePrefix = {arXiv},
  primaryClass  = {cs.CV},
  url           = {https://arxiv.org/abs/2507.05970}
}
"""
PAPER = "our reading of arXiv [2507.05970](https://arxiv.org/abs/2507.05970), whose code is not public"


@dataclass
class CoAlignOutput(ModelOutput):
    """What CoAlign's `forward` returns; fields that were not asked for are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_gca: scalar, global contrastive alignment.
        loss_lcr: scalar, local contextual reasoning, before its weight.
        loss_itc: scalar, caption-to-image contrastive term, before its weight; only with captions.
        logits: `(batch_size, batch_size)`, scores of query i and target j over the temperature, fp32.
        query_embeds: `(batch_size, dim)`, unit length.
        target_embeds: `(batch_size, num_tokens, dim)`, each token of unit length.
        hidden_states, vision_hidden_states, target_hidden_states, target_vision_hidden_states, attentions,
            cross_attentions, vision_attentions, target_attentions, target_cross_attentions, target_vision_attentions:
            on BLIP-2 alone, see `FafaOutput`.
    """

    loss: Tensor | None = None
    loss_gca: Tensor | None = None
    loss_lcr: Tensor | None = None
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


class CoAlignLosses:
    """The losses as a model has them, whatever its backbone: it makes states, and embeddings of states.

    A model has `temperature`, `lcr_predictor` (`masked_predictor`), a configuration with `LossSettings` and
    `itc_weight`, and writes `embed`.
    """

    def embed(self, states: TripletStates) -> tuple[Tensor, Tensor, Tensor | None]:
        """Embeddings of queries `(batch_size, dim)`, targets `(batch_size, num_tokens, dim)` and whole captions."""
        raise NotImplementedError

    def losses(
        self, states: TripletStates, group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> CoAlignOutput:
        """Embeddings, logits and losses of a batch, which compare its triplets; see `Retriever.losses`.

        Args:
            states: of `training_states`.
            group_ids: `(batch_size,)`, the triplet identities; None: every triplet its own.
            gather_across_processes: of the batches of all processes together.

        Raises:
            ValueError, TypeError: `group_ids` are not one integer a triplet.
        """
        states, group_ids = whole_batch(states, group_ids, gather_across_processes)
        config, temperature = self.config, self.temperature.float()
        query_embeds, target_embeds, caption_embeds = self.embed(states)
        logits = topk_mean_similarity(query_embeds, target_embeds, self.num_top_tokens) / temperature
        loss_gca = alignment_loss(logits, group_labels(group_ids, config.gca_beta), config.gca_divergence)
        loss_lcr = masked_feature_reasoning_loss(
            states.query,
            states.target.mean(dim=1),
            self.lcr_predictor,
            query_mask=sample_mask(states.query, config.lcr_mask_ratio, self.training),
            target_mask=sample_mask(states.query, config.lcr_mask_ratio, self.training),
        )
        loss, loss_itc = loss_gca + config.lcr_weight * loss_lcr, None
        if caption_embeds is not None:
            caption_logits = topk_mean_similarity(caption_embeds, target_embeds, self.num_top_tokens) / temperature
            loss_itc = caption_loss(caption_logits, group_ids)
            loss = loss + config.itc_weight * loss_itc
        return CoAlignOutput(loss, loss_gca, loss_lcr, loss_itc, logits, query_embeds, target_embeds)

    def warmup_settings(self, contrastive: bool, captions: bool) -> Mapping[str, Any]:
        """The forward divergence, and the caption-to-image term: from random weights GCA learns no more than FDA."""
        return ({"gca_divergence": "forward"} if contrastive else {}) | ({"itc_weight": 1.0} if captions else {})


__all__ = ["CITATION", "PAPER", "CoAlignLosses", "CoAlignOutput"]
