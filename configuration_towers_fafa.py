"""Configuration of BLIP-2's two towers, which FAFA and CoAlign share."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.models.blip_2.configuration_blip_2 import Blip2QFormerConfig, Blip2VisionConfig
from transformers.utils import logging

from .names import meant

logger = logging.get_logger(__name__)

BERT_VOCAB_WITH_DEC = 30523

# Least and most. The most is far above every model that anybody trains, and far below what hangs a machine.
_WHOLE_NUMBERS = {
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 262_144),
    "num_hidden_layers": (1, 1_000),
    "num_attention_heads": (1, 1_024),
    "image_size": (1, 4_096),
    "patch_size": (1, 4_096),
    "vocab_size": (1, 10_000_000),
    "max_position_embeddings": (1, 65_536),
    "cross_attention_frequency": (1, 1_000),
    "num_query_tokens": (1, 4_096),
    "num_top_tokens": (1, 4_096),
    "projection_dim": (1, 65_536),
    "max_text_length": (3, 65_536),  # [CLS], a token, [SEP]
    "chunk_size_feed_forward": (0, 65_536),
}
_NUMBERS = {
    **dict.fromkeys(("itc_weight", "temperature_init"), (0, 1e6)),
    **dict.fromkeys(("vision_norm_eps", "layer_norm_eps"), (0, 1)),
    **dict.fromkeys(("attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), (0, 1)),
    "initializer_range": (0, 100),
}
# What transformers, its Trainer and quantisation add to a configuration without declaring it.
_INHERITED = {
    *("model_type", "name_or_path", "auto_map", "quantization_config", "torch_dtype", "num_labels", "use_cache"),
    *("attn_implementation", "experts_implementation", "output_attentions", "tie_word_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id"),
}
# Other methods' names of settings; transformers would drop the first two as parameters of text generation.
_OTHER_NAMES = {"temperature": "temperature_init", "top_k": "num_top_tokens", "embed_dim": "projection_dim"}
_MOST_PATCHES = 65_536  # attention over them takes their square
_MOST_WEIGHTS = 10**11  # a hundred times the released model; 400 GB in float32


class TowersConfig(PreTrainedConfig):
    """What a configuration says of BLIP-2's two towers; each method adds its losses, see `FafaConfig`.

    Args:
        vision_config: the vision tower, a `Blip2VisionConfig` or its fields as a dict.
        qformer_config: the Q-Former, a `Blip2QFormerConfig` or its fields as a dict. `encoder_hidden_size` and
            `use_qformer_text_input` are set from the rest of the model.
        num_query_tokens: learned query tokens, and so feature vectors per target image.
        projection_dim: size of the space in which queries and targets are compared.
        vision_norm_eps: epsilon of the LayerNorm after the vision tower (released code: 1e-5, the blocks have 1e-6).
        num_top_tokens: k of the score, the mean of the k largest query-token similarities.
        temperature_init: τ before training; it is learned.
        itc_weight: weight of the caption-to-image contrastive term of BLIP-2's first stage, used when captions are
            passed to the model. 0 for a start from BLIP-2's weights; for training from random weights.
        freeze_vision: train the Q-Former side only; the LayerNorm after the tower is trained, as in the released code.
        max_text_length: tokens of a caption, [CLS] and [SEP] among them; read by the processor's builders.
        vocabulary_hash: hash of the tokenizer that the weights belong to (see `processing_fafa`); None: unknown.
    """

    sub_configs = {"vision_config": Blip2VisionConfig, "qformer_config": Blip2QFormerConfig}
    keys_to_ignore_at_inference = [
        "logits",
        *("hidden_states", "vision_hidden_states", "target_hidden_states", "target_vision_hidden_states"),
        *("attentions", "cross_attentions", "vision_attentions"),
        *("target_attentions", "target_cross_attentions", "target_vision_attentions"),
    ]
    # What a method adds: settings of its losses with their least and most, the setting that is the size of the network
    # that predicts masked entries, and what a tiny preset has beside tiny towers.
    whole_numbers_of_losses: ClassVar[dict[str, tuple[int, int]]] = {}
    numbers_of_losses: ClassVar[dict[str, tuple[float, float]]] = {}
    predictor_size: ClassVar[str] = ""
    tiny_losses: ClassVar[dict[str, Any]] = {}

    vision_config: dict | PreTrainedConfig | None = None
    qformer_config: dict | PreTrainedConfig | None = None
    num_query_tokens: int = 32
    projection_dim: int = 256
    vision_norm_eps: float | int = 1e-5
    num_top_tokens: int = 6
    temperature_init: float | int = 0.07
    itc_weight: float | int = 0.0
    freeze_vision: bool = True
    max_text_length: int = 32
    vocabulary_hash: str | None = None

    def __post_init__(self, **kwargs):
        _refuse_unknown("", type(self), kwargs)
        for name, part in self.sub_configs.items():
            given = getattr(self, name)
            if isinstance(given, dict):
                _refuse_unknown(f"{name}.", part, given)
            elif not isinstance(given, (part, type(None))):
                raise ValueError(
                    f"{name} is of type {type(given).__name__}, expected {part.__name__}, or its fields as a dict"
                )
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = Blip2VisionConfig(**(self.vision_config or {}))
        if not isinstance(self.qformer_config, PreTrainedConfig):
            self.qformer_config = Blip2QFormerConfig(
                **{"vocab_size": BERT_VOCAB_WITH_DEC, **(self.qformer_config or {})}
            )
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self.qformer_config.use_qformer_text_input = True
        if self.chunk_size_feed_forward:
            self.qformer_config.chunk_size_feed_forward = self.chunk_size_feed_forward
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "TowersConfig | tuple[TowersConfig, dict[str, Any]]":
        """Like transformers' own, for a saved configuration and changes to it (`kwargs`), which are checked, too.

        Unknown settings in a file, misspelt or from a newer version or another tool, are left out with a warning. An
        unknown change that resembles a setting is refused; the rest is for the model.
        """
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(
                f"this is the configuration of a {kind} model, expected {cls.model_type}: load it by AutoModel, or by "
                "the class of its method"
            )
        config_dict = _without_unknown("", cls, config_dict)
        for name, part in cls.sub_configs.items():
            if isinstance(config_dict.get(name), dict):
                config_dict[name] = _without_unknown(f"{name}.", part, config_dict[name])
            if isinstance(kwargs.get(name), dict):
                config_dict[name] = {**(config_dict.get(name) or {}), **kwargs.pop(name)}
        wants_rest = kwargs.pop("return_unused_kwargs", False)
        config, rest = super().from_dict(config_dict, **kwargs, return_unused_kwargs=True)
        _refuse_unknown("", cls, [name for name in rest if _meant(cls, name)])
        if rest and not wants_rest:
            logger.warning("settings that %s does not know are left out: %s", cls.__name__, ", ".join(sorted(rest)))
        config.validate()
        return (config, rest) if wants_rest else config

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The part with the vocabulary, which `resize_token_embeddings` changes."""
        return self.qformer_config

    def sizes(self) -> dict[str, str]:
        """How large each tower is, for a card."""
        vision, qformer = self.vision_config, self.qformer_config
        return {
            "vision tower": f"{vision.num_hidden_layers} blocks of width {vision.hidden_size}, {vision.image_size} "
            "pixels",
            "Q-Former": f"{qformer.num_hidden_layers} layers of width {qformer.hidden_size}, "
            f"{self.num_query_tokens} query tokens",
        }

    @classmethod
    def tiny(cls, vocab_size: int = 512, **kwargs) -> "TowersConfig":
        """A model of 2 million parameters, for learning the small painted world on a CPU, and for tests.

        It has 16 patches of 24 pixels, so that large batches are cheap, a trainable vision tower and no dropout.
        Weights start at a scale that fits the width: with BLIP-2's own (1e-10 for the tower, 0.02 for the Q-Former)
        all images are alike at first, which costs hundreds of steps.
        """
        vision = {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 24,
            "initializer_range": 0.07,
        }
        qformer = {
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "initializer_range": 0.07,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": 64,
        }
        small = {"num_query_tokens": 8, "projection_dim": 64, **cls.tiny_losses}
        defaults = {"vision_config": vision, "qformer_config": qformer, "freeze_vision": False, **small}
        return cls(**changed(defaults, kwargs))

    def _parts(self) -> dict[str, PreTrainedConfig]:
        return {"": self, "vision_config.": self.vision_config, "qformer_config.": self.qformer_config}

    def validate_numbers(self):
        """Part of `@strict`: all numbers are finite and in their ranges, before anything is allocated."""
        for where, part in self._parts().items():
            for name, (least, most) in (_WHOLE_NUMBERS | self.whole_numbers_of_losses).items():
                value = getattr(part, name, least)
                is_none = value is None and getattr(type(part), name, least) is None  # by default, so it may be
                if not is_none and (type(value) is not int or not least <= value <= most):
                    raise ValueError(
                        f"{where}{name} is {_short(value)}, expected a whole number from {least} to {most:,}"
                    )
            for name, (low, high) in (_NUMBERS | self.numbers_of_losses).items():
                check_number(f"{where}{name}", getattr(part, name, low), low, high)
        if self.temperature_init == 0:
            raise ValueError(f"temperature_init is {self.temperature_init}, expected a number above 0")
        if self.num_top_tokens > self.num_query_tokens:
            raise ValueError(
                f"num_top_tokens is {self.num_top_tokens}, expected 1 to num_query_tokens = {self.num_query_tokens}"
            )
        positions = self.qformer_config.max_position_embeddings
        if self.max_text_length > positions:
            raise ValueError(f"max_text_length is {self.max_text_length}, but the Q-Former has {positions} positions")
        pad = self.qformer_config.pad_token_id
        if pad is not None and (type(pad) is not int or not 0 <= pad < self.qformer_config.vocab_size):
            raise ValueError(f"qformer_config.pad_token_id is {_short(pad)}, expected an id of the vocabulary, or None")

    def validate_sizes(self):
        """Part of `@strict`: sizes fit one another, and a machine can hold the model."""
        vision, qformer = self.vision_config, self.qformer_config
        for where, part in {"vision_config": vision, "qformer_config": qformer}.items():
            if part.hidden_size % part.num_attention_heads:
                raise ValueError(
                    f"{where}.hidden_size is {part.hidden_size}, expected a multiple of its num_attention_heads, "
                    f"{part.num_attention_heads}"
                )
        if vision.patch_size > vision.image_size or (vision.image_size // vision.patch_size) ** 2 > _MOST_PATCHES:
            raise ValueError(
                f"vision_config.patch_size is {vision.patch_size} for an image_size of {vision.image_size}: expected "
                f"one that cuts it into 1 to {_MOST_PATCHES:,} patches"
            )
        width, inner = vision.hidden_size, qformer.hidden_size
        weights = vision.num_hidden_layers * width * (4 * width + 2 * vision.intermediate_size)
        weights += qformer.num_hidden_layers * inner * (6 * inner + 2 * width + 4 * qformer.intermediate_size)
        weights += inner * (qformer.vocab_size + qformer.max_position_embeddings)
        weights += inner * (2 * self.projection_dim + 3 * getattr(self, self.predictor_size) + self.num_query_tokens)
        if weights > _MOST_WEIGHTS:
            raise ValueError(
                f"the sizes come to some {weights:,} weights, expected at most {_MOST_WEIGHTS:,}: see hidden_size, "
                "intermediate_size, num_hidden_layers and vocab_size of vision_config and qformer_config"
            )

    def validate_inherited(self):
        """Part of `@strict`: settings that transformers' own classes do not check."""
        for where, part in self._parts().items():
            act = getattr(part, "hidden_act", None)
            if act is not None and act not in ACT2FN:
                raise ValueError(f"{where}hidden_act is {_short(act)}, expected one of {', '.join(sorted(ACT2FN))}")
            if not (part.is_encoder_decoder is None or part.is_encoder_decoder is False):
                raise ValueError(
                    f"{where}is_encoder_decoder is {_short(part.is_encoder_decoder)}: the model has no decoder"
                )
            for name in ("return_dict", "output_hidden_states", "output_attentions"):
                if not isinstance(getattr(part, name), (bool, type(None))):
                    raise ValueError(f"{where}{name} is {_short(getattr(part, name))}, expected true or false")

    def validate_vocabulary(self):
        """Part of `@strict`: the hash of a vocabulary has the form that `vocabulary_hash` gives it."""
        if self.vocabulary_hash is not None and not re.fullmatch(r"\d{1,9}:[0-9a-f]{32}", self.vocabulary_hash):
            raise ValueError(
                f"vocabulary_hash is {_short(self.vocabulary_hash)}, expected what "
                "processing_fafa.vocabulary_hash gives, or None"
            )


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Refuses a setting that is no number in its range.

    Raises:
        ValueError: it names the setting.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:  # NaN is in none
        raise ValueError(f"{name} is {_short(value)}, expected a number from {least} to {most:g}")


def _refuse_unknown(where: str, config_class: type[PreTrainedConfig], names: Iterable[str]) -> None:
    for name in _unknown(config_class, names):
        hint = _meant(config_class, name, "; ") or ": its documentation lists them"
        raise ValueError(f"{where}{name} is no setting of {config_class.__name__}{hint}")


def _without_unknown(where: str, config_class: type[PreTrainedConfig], settings: dict[str, Any]) -> dict[str, Any]:
    if unknown := _unknown(config_class, settings):
        logger.warning(
            "the saved configuration has settings that FAFA does not know, and they are left out: %s. Either they are "
            "misspelt, or another tool or a newer version wrote them; if they matter, correct them or update FAFA.",
            ", ".join(f"{where}{name}{_meant(config_class, name, '; ')}" for name in sorted(unknown)),
        )
    return {name: value for name, value in settings.items() if name not in unknown}


def _unknown(config_class: type[PreTrainedConfig], names: Iterable[str]) -> list[str]:
    known = {field.name for field in fields(config_class)} | _INHERITED
    return [name for name in names if name not in known and not name.startswith("_")]


def _meant(config_class: type[PreTrainedConfig], name: str, before: str = "") -> str:
    """The nearest setting to an unknown one, as `names.meant` says it; "" if none is near, or the name is known."""
    if not _unknown(config_class, [name]):
        return ""
    own = sorted(field.name for field in fields(config_class))
    return meant(_OTHER_NAMES.get(name, name), own, before, likeness=0.8)


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, some of them changed; where both hold a dict, only what the change names is changed within it."""
    inner = {
        name: changed(settings[name], change)
        for name, change in changes.items()
        if isinstance(change, Mapping) and isinstance(settings.get(name), Mapping)
    }
    return {**settings, **changes, **inner}


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a number of very many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["TowersConfig", "changed", "check_number"]
