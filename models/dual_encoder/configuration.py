"""Configuration of the noise-robust dual encoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ...configuration_towers_fafa import changed, check_number
from .losses import check_loss_settings

BACKBONES = ("clip", "siglip")  # model types, as their configurations name them

# Settings that make another method of it, for `DualEncoderConfig(**METHODS[name])`.
METHODS: dict[str, dict[str, Any]] = {
    "syntbpr": {},
    "tbps-clip": {
        "alpha": 0.5,
        "soft_label": "softmax",
        "r_itc_soft_label": None,
        "r_itc_epsilon": 1e-2,
    },
    "plain": {"n_itc_weight": 0.0, "r_itc_weight": 0.0, "itc_weight": 1.0},
}


@strict
class DualEncoderConfig(PreTrainedConfig):
    """Two towers of a CLIP or SigLIP, and the losses that train them; by default those of SynTBPR.

    `METHODS` holds the settings of others: TBPS-CLIP (its published constants), and plain contrast.

    Args:
        backbone_config: a `CLIPConfig` or `SiglipConfig`, or its fields as a dict with `model_type`; None: CLIP's own.
        image_height, image_width: of the images that the model takes, in pixels; None: the square of the backbone. For
            another size its positions are interpolated.
        image_weight: w of a composed query, the normalised (1 - w) · caption + w · image; 0.5 is the normalised sum.
        temperature_init: 1 / scale of the cosines before training; the scale is learnt, and clamped at 100 (released
            code: 0.07, whatever the backbone came with).
        alpha: share of the second pass in the soft labels (released code: 0.005; TBPS-CLIP: 0.5).
        alpha_ramp_epochs: epochs in which alpha rises from 0, linearly, as released; 0: none.
        soft_label: `"sigmoid"` (SynTBPR), `"softmax"` (TBPS-CLIP) or None, labels by identity alone, for N-ITC.
        r_itc_soft_label: the same for R-ITC; `"same"` as N-ITC has it (SynTBPR), None: the hard label (TBPS-CLIP).
        r_itc_epsilon: ε of R-ITC (SynTBPR: 1e-8; TBPS-CLIP: 1e-2).
        n_itc_weight, r_itc_weight: of the noise-robust losses (released code: 1 each); 0 leaves one out.
        itc_weight: of plain contrast, the cross-entropy against labels by identity.
        sigmoid_weight: of SigLIP's own loss, for a SigLIP backbone, which has the bias that it needs.
        freeze_vision: whether the vision tower is not trained.
    """

    model_type = "fafa_dual_encoder"
    sub_configs = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference = ["loss_n_itc", "loss_r_itc", "loss_itc", "loss_sigmoid"]

    backbone_config: dict | PreTrainedConfig | None = None
    image_height: int | None = None
    image_width: int | None = None
    image_weight: float | int = 0.5
    temperature_init: float | int = 0.07
    alpha: float | int = 0.005
    alpha_ramp_epochs: float | int = 1.0
    soft_label: str | None = "sigmoid"
    r_itc_soft_label: str | None = "same"
    r_itc_epsilon: float | int = 1e-8
    n_itc_weight: float | int = 1.0
    r_itc_weight: float | int = 1.0
    itc_weight: float | int = 0.0
    sigmoid_weight: float | int = 0.0
    freeze_vision: bool = False

    def __post_init__(self, **kwargs):
        if not isinstance(self.backbone_config, PreTrainedConfig):
            given = dict(self.backbone_config or {"model_type": "clip"})
            kind = given.pop("model_type", None)
            if kind in BACKBONES:
                self.backbone_config = CONFIG_MAPPING[kind](**given)
            else:
                self._refuse_backbone(kind)
        elif self.backbone_config.model_type not in BACKBONES:
            self._refuse_backbone(self.backbone_config.model_type)
        super().__post_init__(**kwargs)

    def _refuse_backbone(self, kind: object) -> None:
        raise ValueError(
            f"backbone_config: its model_type is {kind!r:.60}, expected {' or '.join(map(repr, BACKBONES))}: a CLIP or "
            "SigLIP, whose images and captions have one vector each in one space"
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The part with the vocabulary, which `resize_token_embeddings` changes."""
        return self.backbone_config.text_config

    @classmethod
    def tiny(cls, vocab_size: int = 512, vocabulary_hash: str | None = None, **kwargs) -> "DualEncoderConfig":
        """A CLIP of 1.5 million parameters, for the painted world on a CPU; its words are those of `build_tokenizer`.

        Images of 96 x 48 pixels in 18 patches.

        Args:
            vocabulary_hash: is not kept: the tokenizer's fingerprint tells its features from others'.
        """
        tower = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}  # [PAD], [CLS], [SEP]
        backbone = {
            "model_type": "clip",
            "projection_dim": 64,
            "vision_config": {**tower, "image_size": 96, "patch_size": 16},
            "text_config": {**tower, **special, "vocab_size": vocab_size, "max_position_embeddings": 48},
        }
        return cls(**changed({"backbone_config": backbone, "image_height": 96, "image_width": 48}, kwargs))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images that the model takes."""
        side = self.backbone_config.vision_config.image_size
        return self.image_height or side, self.image_width or side

    def validate_numbers(self):
        """Part of `@strict`: weights are finite and at least one acts; shares lie in [0, 1]."""
        names = ("n_itc_weight", "r_itc_weight", "itc_weight", "sigmoid_weight")
        weights = {name: getattr(self, name) for name in names}
        for name, value in weights.items():
            check_number(name, value, 0, 1e6)
        if not any(weights.values()):
            raise ValueError(f"{', '.join(weights)} are all 0, so that nothing trains: expected one above 0")
        check_number("image_weight", self.image_weight, 0, 1)
        check_number("temperature_init", self.temperature_init, 1e-2, 1e6)
        check_number("alpha_ramp_epochs", self.alpha_ramp_epochs, 0, 1e6)
        check_loss_settings(self.alpha, self.soft_label, self.r_itc_epsilon)
        if self.r_itc_soft_label != "same":
            try:
                check_loss_settings(self.alpha, self.r_itc_soft_label, self.r_itc_epsilon)
            except ValueError as error:
                raise ValueError(f"r_itc_{error}, or 'same'") from None

    def validate_images(self):
        """Part of `@strict`: images are of whole patches, as the positions are."""
        patch = self.backbone_config.vision_config.patch_size
        for name, value in zip(("image_height", "image_width"), self.image_shape, strict=True):
            if type(value) is not int or not patch <= value <= 4096 or value % patch:
                raise ValueError(f"{name} is {value}, expected a multiple of the backbone's patches of {patch} pixels")

    def validate_sigmoid(self):
        """Part of `@strict`: SigLIP's loss needs the bias of a SigLIP."""
        if self.sigmoid_weight and self.backbone_config.model_type != "siglip":
            raise ValueError(
                f"sigmoid_weight is {self.sigmoid_weight}, but the backbone is a {self.backbone_config.model_type}, "
                "which has no bias for SigLIP's loss: set it to 0"
            )


__all__ = ["BACKBONES", "METHODS", "DualEncoderConfig"]
