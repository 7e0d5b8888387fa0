"""Configurations of CoAlign: its losses, and the backbone that they train."""

from dataclasses import dataclass

from huggingface_hub.dataclasses import strict

from ...configuration_towers_fafa import TowersConfig, check_number

LOSS_SETTINGS = frozenset({"gca_beta", "gca_divergence", "lcr_weight", "lcr_mask_ratio", "lcr_hidden_size"})


@dataclass
class LossSettings:
    """Settings of CoAlign's two losses, whatever the backbone; see `losses.py` for what they are read from.

    Args:
        gca_beta: β, the label of a pair that shares a triplet identity (TID) in global contrastive alignment, beside 1
            for the own target. It was not published, so the default is ours: 0.5. Targets of one TID are other
            pictures of what the caption asks for, made from other reference pictures; they are right by the caption
            and not by the reference, hence half right. FAFA's paper, by the same authors, has 0.5 for the like.
        gca_divergence: `"reverse"`, KL(prediction ‖ label); `"forward"`, KL(label ‖ prediction), which learns from
            random weights, where the former stalls.
        lcr_weight: weight of local contextual reasoning. Not published; 0.5 is FAFA's of the same loss. 0 leaves
            global contrastive alignment alone.
        lcr_mask_ratio: probability that an entry of a state is masked.
        lcr_hidden_size: hidden size of the network that predicts masked entries.
    """

    gca_beta: float | int = 0.5
    gca_divergence: str = "reverse"
    lcr_weight: float | int = 0.5
    lcr_mask_ratio: float | int = 0.3
    lcr_hidden_size: int = 512

    def validate_losses(self):
        """Part of `@strict`: labels and probabilities lie in [0, 1], and the divergence is one of the two."""
        check_number("gca_beta", self.gca_beta, 0, 1)
        check_number("lcr_mask_ratio", self.lcr_mask_ratio, 0, 1)
        check_number("lcr_weight", self.lcr_weight, 0, 1e6)
        if self.gca_divergence not in ("reverse", "forward"):
            raise ValueError(f"gca_divergence is {self.gca_divergence!r}, expected 'reverse' or 'forward'")
        if type(self.lcr_hidden_size) is not int or not 1 <= self.lcr_hidden_size <= 65_536:
            raise ValueError(f"lcr_hidden_size is {self.lcr_hidden_size!r}, expected a whole number from 1 to 65,536")


@strict
class CoAlignConfig(LossSettings, TowersConfig):
    """Architecture and losses of CoAlign on BLIP-2.

    `CoAlignConfig()` has the sizes of BLIP-2 with ViT-g/14, as `FafaConfig()`. The score is the *maximum* over the
    target's query tokens (`num_top_tokens` 1), in which it differs from FAFA's.

    Args:
        vision_config, qformer_config, num_query_tokens, projection_dim, vision_norm_eps, num_top_tokens,
            temperature_init, itc_weight, freeze_vision, max_text_length, vocabulary_hash: see `TowersConfig`.
        gca_beta, gca_divergence, lcr_weight, lcr_mask_ratio, lcr_hidden_size: see `LossSettings`.
    """

    model_type = "coalign"
    keys_to_ignore_at_inference = [
        *("loss_gca", "loss_lcr", "loss_itc"),
        *TowersConfig.keys_to_ignore_at_inference,
    ]
    predictor_size = "lcr_hidden_size"
    tiny_losses = {"lcr_hidden_size": 128}

    num_top_tokens: int = 1


__all__ = ["LOSS_SETTINGS", "CoAlignConfig", "LossSettings"]
