"""Word4Per's configuration."""

import re
from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import CLIPConfig, CLIPTextConfig, PreTrainedConfig

from ...configuration_towers_fafa import changed

SUPERVISIONS = ("text", "image", "both")
TINET_HIDDEN_SIZES = (512, 512)  # paper
# Of CLIP's own vocabulary: "*", "a * is ,", and "a photo of *" between the ends of a text.
_STAR, _TEMPLATE, _PROMPT = 265, (320, 265, 533, 267), (49406, 320, 1125, 539, 265, 49407)


@strict
class Word4PerConfig(PreTrainedConfig):
    """Architecture and losses of a Word4Per model.

    `Word4PerConfig()` is the paper's: CLIP ViT-B/16 over 384 x 128 pixels, and two TINets. Where paper and released
    code differ, the default is the paper, and the field says how to get the released behaviour.

    Args:
        clip_config: the two towers, a `CLIPConfig` or its fields as a dict. Of its vision tower, `image_size` is not
            read: `image_height` and `image_width` are.
        image_height: of the images, in pixels; likewise `image_width`.
        stride: pixels from one patch to the next; None: the size of a patch. Smaller ones make patches overlap.
        tinets: the networks that turn an image into a pseudo-word, each a dict of `name` (by which
            `get_query_features(tinet=...)` calls it), `supervision` ("text", "image" or "both": the features that its
            pseudo-word is trained to give), `hidden_sizes`, and `clip`, a hash of the CLIP that it was trained on,
            None as long as it was not.
        tinet_dropout: in TINets, after each hidden layer.
        pseudo_token_id: id of "*", whose embedding gives way to the pseudo-word.
        pseudo_word_place: `"only"`: a composed query holds "*" once, and several are refused; `"first"`: of several
            the first gives way, and the others stay words (released code).
        template_ids: what the processor puts before the caption of a composed query, "a * is ,", and what a query of a
            caption alone leaves out again. None: no template is known, and captions are read as they come.
        prompt_ids: "a photo of *" with both ends of a text, on which the second stage trains TINets.
        mask_token_id: of masked-language modelling; None: the id before the first token of a text, as released.
        stage: what trains: 1, CLIP, on images and captions; 2, the TINets, with CLIP frozen.
        scale: of cosines in all losses, fixed: 1 / the temperature of 0.02.
        sdm_weight: of similarity-distribution matching in stage 1.
        id_weight: of the identity loss in stage 1; 0: off.
        mlm_weight: of masked-language modelling in stage 1 (paper: off; the released script: 1.0).
        itc_weight: of plain contrastive learning in stage 1 (off in the paper; for a CLIP of random weights, which
            SDM's divergence hardly moves). Likewise `cmpm_weight`, of cross-modal projection matching.
        relative_weight: in stage 1, of the same matching between relative captions, in their template, and targets. 0
            in the paper, whose CLIP knows the words; for a CLIP of random weights.
        same_identity: label of a pair of the same identity in SDM beside a pair's own 1 (released code: 1.0).
        composed_weight: in stage 2, of plain contrastive learning over triplets: composed query to target image. 0 in
            the paper, which trains TINets without triplets.
        num_identities: classes of the identity loss; the trainer sets them by the data.
        mlm_layers: of the cross-modal transformer (paper: 4).
        mlm_share: of the words of a caption that are masked.
        freeze_vision: train stage 1 with the vision tower as it is.
    """

    model_type = "word4per"
    sub_configs = {"clip_config": CLIPConfig}
    keys_to_ignore_at_inference = [
        "loss_sdm",
        "loss_id",
        "loss_mlm",
        "loss_itc",
        "loss_cmpm",
        "loss_relative",
        "loss_composed",
    ]

    clip_config: dict | PreTrainedConfig | None = None
    image_height: int = 384
    image_width: int = 128
    stride: int | None = None
    tinets: list | tuple | None = None
    tinet_dropout: float | int = 0.1
    pseudo_token_id: int = _STAR
    pseudo_word_place: str = "only"
    template_ids: list | tuple | None = _TEMPLATE
    prompt_ids: list | tuple | None = _PROMPT
    mask_token_id: int | None = None
    stage: int = 2
    scale: float | int = 50.0
    sdm_weight: float | int = 1.0
    id_weight: float | int = 1.0
    mlm_weight: float | int = 0.0
    itc_weight: float | int = 0.0
    cmpm_weight: float | int = 0.0
    relative_weight: float | int = 0.0
    same_identity: float | int = 1.0
    composed_weight: float | int = 0.0
    num_identities: int = 0
    mlm_layers: int = 4
    mlm_share: float | int = 0.15
    freeze_vision: bool = False

    def __post_init__(self, **kwargs):
        if not isinstance(self.clip_config, PreTrainedConfig):
            default = {"vision_config": {"patch_size": 16, "hidden_size": 768}} if self.clip_config is None else {}
            self.clip_config = CLIPConfig(**(self.clip_config or default))
        self.clip_config.text_config.projection_dim = self.clip_config.projection_dim
        self.clip_config.vision_config.projection_dim = self.clip_config.projection_dim
        if self.tinets is None:
            self.tinets = [{"name": "text"}, {"name": "image"}] if self.stage == 2 else []
        self.tinets = [whole_tinet(entry) for entry in self.tinets]
        for name in ("template_ids", "prompt_ids"):
            if (ids := getattr(self, name)) is not None:
                setattr(self, name, list(ids))
        super().__post_init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> CLIPTextConfig:
        """The part with the vocabulary, which `resize_token_embeddings` changes."""
        return self.clip_config.text_config

    @property
    def tinet_names(self) -> list[str]:
        """In the order in which they are fused."""
        return [entry["name"] for entry in self.tinets]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = self.clip_config.vision_config.patch_size
        stride = self.stride or patch
        return (self.image_height - patch) // stride + 1, (self.image_width - patch) // stride + 1

    @classmethod
    def tiny(cls, vocab_size: int = 600, **kwargs) -> "Word4PerConfig":
        """A Word4Per of about half a million parameters, to learn the small painted world on a CPU, and for tests.

        96 x 48 pixels in 18 patches, so that large batches are cheap. Template and prompt are those of a tokenizer:
        `Word4PerProcessor.word_settings()` gives them.
        """
        tower = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
        clip = {
            "vision_config": {**tower, "patch_size": 16, "image_size": 96},
            "text_config": {
                **tower,
                "vocab_size": vocab_size,
                "max_position_embeddings": 77,
                "bos_token_id": vocab_size - 2,
                "eos_token_id": vocab_size - 1,
                "pad_token_id": vocab_size - 1,
            },
            "projection_dim": 96,
        }
        words = {"template_ids": None, "prompt_ids": None}
        return cls(**changed({"clip_config": clip, "image_height": 96, "image_width": 48, **words}, kwargs))

    def validate_image(self):
        """Part of `@strict`: patches fit the image."""
        patch = self.clip_config.vision_config.patch_size
        if not isinstance(patch, int):
            raise ValueError(
                f"clip_config.vision_config.patch_size is {patch!r:.60}, expected a number: patches are square"
            )
        for name in ("image_height", "image_width"):
            if not patch <= getattr(self, name) <= 4096:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a number from that of a patch, {patch}, to 4,096"
                )
        if self.stride is not None and not 1 <= self.stride <= patch:
            raise ValueError(
                f"stride is {self.stride}, expected 1 to {patch}, the size of a patch: others would leave pixels unseen"
            )

    def validate_tinets(self):
        """Part of `@strict`: TINets have names of their own, and a supervision."""
        for name in self.tinet_names:
            if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name) or hasattr(nn.ModuleDict, name):
                raise ValueError(f"tinets: {name!r:.60} is no name, expected letters, digits, '-' and '_': 'text', say")
        if len(set(self.tinet_names)) < len(self.tinets):
            raise ValueError(f"tinets: {', '.join(self.tinet_names)}: expected a name of its own for each")
        for entry in self.tinets:
            if entry["supervision"] not in SUPERVISIONS:
                raise ValueError(
                    f"tinets: {entry['name']}: supervision is {entry['supervision']!r:.60}, expected one of "
                    f"{', '.join(SUPERVISIONS)}"
                )
            sizes = entry["hidden_sizes"]
            if not all(type(size) is int and 1 <= size <= 65_536 for size in sizes):
                raise ValueError(
                    f"tinets: {entry['name']}: hidden_sizes are {sizes!r:.60}, expected whole numbers from 1 to 65,536"
                )

    def validate_words(self):
        """Part of `@strict`: ids are of the vocabulary; template and prompt hold the pseudo-word once."""
        text = self.clip_config.text_config
        for name, ids in {
            "pseudo_token_id": [self.pseudo_token_id],
            "mask_token_id": [self.mask_token_id or 0],
            "template_ids": self.template_ids or [],
            "prompt_ids": self.prompt_ids or [],
        }.items():
            if not all(type(one) is int and 0 <= one < text.vocab_size for one in ids):
                raise ValueError(
                    f"{name} is {ids!r:.60}, expected ids of the vocabulary of {text.vocab_size:,}: "
                    "Word4PerProcessor.word_settings() gives those of a tokenizer"
                )
        for name in ("template_ids", "prompt_ids"):
            ids = getattr(self, name)
            if ids is not None and ids.count(self.pseudo_token_id) != 1:
                raise ValueError(f"{name} are {ids!r:.60}, expected the pseudo_token_id {self.pseudo_token_id} once")
        if self.prompt_ids is not None and self.prompt_ids[-1] != text.eos_token_id:
            raise ValueError(f"prompt_ids end in {self.prompt_ids[-1]}, expected eos_token_id, {text.eos_token_id}")
        if self.pseudo_word_place not in ("only", "first"):
            raise ValueError(f"pseudo_word_place is {self.pseudo_word_place!r:.60}, expected 'only' or 'first'")

    def validate_training(self):
        """Part of `@strict`: weights and shares."""
        if self.stage not in (1, 2):
            raise ValueError(f"stage is {self.stage!r:.40}, expected 1 (CLIP trains) or 2 (the TINets train)")
        if self.stage == 1 and self.tinets:
            raise ValueError(
                f"stage 1 changes CLIP, to which the TINets {', '.join(self.tinet_names)} would not fit afterwards: "
                "set tinets to [], and train them anew in stage 2"
            )
        weights = ("sdm", "id", "mlm", "itc", "cmpm", "relative", "composed")
        for name in (f"{part}_weight" for part in weights):
            if not 0 <= getattr(self, name) <= 1e6:  # NaN is nowhere
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number from 0")
        if not 0 < self.scale <= 1e6:
            raise ValueError(f"scale is {self.scale}, expected a number above 0: 1 / temperature")
        for name in ("tinet_dropout", "same_identity", "mlm_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number in [0, 1]")
        if self.num_identities < 0 or self.mlm_layers < 1:
            raise ValueError(
                f"num_identities is {self.num_identities}, expected one from 0; mlm_layers {self.mlm_layers}, from 1"
            )


def whole_tinet(entry: Any) -> dict[str, Any]:
    """A TINet's settings with defaults for what is not given."""
    if not isinstance(entry, dict) or "name" not in entry:
        raise ValueError(
            f"tinets: {entry!r:.60} is no TINet, expected such as {{'name': 'text', 'supervision': 'text'}}"
        )
    known = {"name", "supervision", "hidden_sizes", "clip"}
    if unknown := sorted(entry.keys() - known):
        raise ValueError(f"tinets: {', '.join(unknown)} is no setting of a TINet, expected some of {', '.join(known)}")
    by_name = {"image": "image", "img": "image"}.get(entry["name"], "text")
    return {
        "name": entry["name"],
        "supervision": entry.get("supervision", by_name),
        "hidden_sizes": list(entry.get("hidden_sizes") or TINET_HIDDEN_SIZES),
        "clip": entry.get("clip"),
    }


__all__ = ["Word4PerConfig"]
