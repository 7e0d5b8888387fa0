"""FAFA configuration."""

from huggingface_hub.dataclasses import strict

from .configuration_towers_fafa import TowersConfig


@strict
class FafaConfig(TowersConfig):
    """Architecture and loss of a FAFA model.

    `FafaConfig()` is the released model: EVA-CLIP ViT-g/14 at 224 pixels, a BERT-base Q-Former with 32 query tokens.
    Where the paper (arXiv 2311.16515) and the authors' code differ, the default is the paper and the field says how to
    get the released behaviour.

    Args:
        vision_config: the vision tower, a `Blip2VisionConfig` or its fields as a dict.
        qformer_config: the Q-Former, a `Blip2QFormerConfig` or its fields as a dict. `encoder_hidden_size` and
            `use_qformer_text_input` are set from the rest of the model.
        num_query_tokens: learned query tokens, and so feature vectors per target image.
        projection_dim: size of the space in which queries and targets are compared.
        vision_norm_eps: epsilon of the LayerNorm after the vision tower (released code: 1e-5, the blocks have 1e-6).
        num_top_tokens: k of the score, the mean of the k largest query-token similarities (paper: 6).
        temperature_init: τ before training; it is learned.
        fda_alpha: label of a pair from the same group in fine-grained dynamic alignment (paper: 0.5; the released
            code ignores its own option and uses 1.0).
        fda_divergence: `"reverse"`, KL(prediction ‖ label), is the paper; `"forward"`, KL(label ‖ prediction), has the
            gradient of cross-entropy and learns from random weights, where the former stalls.
        itc_weight: weight of the caption-to-image contrastive term of BLIP-2's first stage, used when captions are
            passed to the model. 0 in FAFA, which starts from BLIP-2's weights; for training from random weights.
        fd_weight: λ1, weight of feature diversity (paper: 1.0).
        fd_margin: cosine similarity above which two target tokens are pushed apart (paper: 0.5).
        fd_scope: `"batch"` compares all target tokens of a batch, as released; `"image"` those of one image.
        fd_sample_size: for `"batch"`, compare only so many tokens, sampled at random (released code: 1024); None: all.
        mfr_weight: λ2, weight of masked feature reasoning (paper: 0.5).
        mfr_mask_ratio: probability that an entry of a feature vector is masked.
        mfr_hidden_size: hidden size of the network that predicts masked entries.
        distribution_uncertainty: probability with which the statistics of target states are re-sampled in training
            (released code: 0.8; not in the paper).
        freeze_vision: train the Q-Former side only; the LayerNorm after the tower is trained, as in the released code.
        max_text_length: tokens of a caption, [CLS] and [SEP] among them; read by the processor's builders.
        vocabulary_hash: hash of the tokenizer that the weights belong to (see `processing_fafa`); None: unknown.
    """

    model_type = "fafa"
    keys_to_ignore_at_inference = [
        *("loss_fda", "loss_fd", "loss_mfr", "loss_itc"),
        *TowersConfig.keys_to_ignore_at_inference,
    ]
    whole_numbers_of_losses = {"mfr_hidden_size": (1, 65_536), "fd_sample_size": (1, 100_000_000)}
    numbers_of_losses = {
        **dict.fromkeys(("fd_weight", "mfr_weight"), (0, 1e6)),
        **dict.fromkeys(("fda_alpha", "mfr_mask_ratio", "distribution_uncertainty"), (0, 1)),
        "fd_margin": (-1, 1),
    }
    predictor_size = "mfr_hidden_size"
    tiny_losses = {"num_top_tokens": 2, "mfr_hidden_size": 128}

    fda_alpha: float | int = 0.5
    fda_divergence: str = "reverse"
    fd_weight: float | int = 1.0
    fd_margin: float | int = 0.5
    fd_scope: str = "batch"
    fd_sample_size: int | None = None
    mfr_weight: float | int = 0.5
    mfr_mask_ratio: float | int = 0.3
    mfr_hidden_size: int = 512
    distribution_uncertainty: float | int = 0.0

    def validate_choices(self):
        """Part of `@strict`: settings with named values."""
        if self.fda_divergence not in ("reverse", "forward"):
            raise ValueError(f"fda_divergence is {self.fda_divergence!r}, expected 'reverse' or 'forward'")
        if self.fd_scope not in ("batch", "image"):
            raise ValueError(f"fd_scope is {self.fd_scope!r}, expected 'batch' or 'image'")


__all__ = ["FafaConfig"]
