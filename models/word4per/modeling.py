"""Word4Per: a person as a pseudo-word in the sentence that says what differs (arXiv 2311.16515, versions 1 to 3)."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization

from ...checks_fafa import check_captions, check_images
from ...citation_fafa import CITATION
from ...padding_fafa import moved_left
from ...recording_fafa import recorded_weights, weights_of_patches
from ...retriever import CardFacts, Retriever
from ...weights_fafa import UnsoundModelError, is_packed
from .configuration import Word4PerConfig, whole_tinet
from .loading import asked_otherwise
from .masked_words import CrossModalTransformer
from .stages import TwoStages, Word4PerOutput, check_pairs, is_traced
from .tinet import TINet
from .towers import at_end, clip_fingerprint, image_states, person_clip, text_states


class Word4PerPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of Word4Per models."""

    config: Word4PerConfig
    config_class = Word4PerConfig
    base_model_prefix = "word4per"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "PersonVisionEmbeddings"]
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^identities$", r"^cross_modal\."]  # stage 2 has none

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Word4PerModel) and module.classifier is not None:
            initialization.normal_(module.classifier.weight, std=0.001)  # released code
            initialization.zeros_(module.classifier.bias)


class Word4PerModel(TwoStages, Retriever, Word4PerPreTrainedModel):
    """Composed person retrieval with CLIP: queries of an image and a caption, or either alone, against target images.

    A TINet turns the reference image into a pseudo-word, which stands for "*" in "a * is , {caption}"; the text tower
    makes one vector of it. Queries of several TINets are fused: their sum, normalised.

    Example:
        >>> import torch
        >>> from fafa.models.word4per import Word4PerConfig, Word4PerModel
        >>> model = Word4PerModel(Word4PerConfig.tiny()).eval()
        >>> pixels, ids = torch.randn(3, 3, 96, 48), torch.tensor([[598, 64, 265, 70, 599], [598, 265, 71, 72, 599]])
        >>> queries = model.get_query_features(pixel_values=pixels[:2], input_ids=ids)
        >>> model.score(queries, model.get_target_features(pixel_values=pixels)).shape
        torch.Size([2, 3])
    """

    settings_of_losses = frozenset(
        (
            *("stage", "scale", "sdm_weight", "id_weight", "mlm_weight", "itc_weight", "cmpm_weight"),
            *(
                "composed_weight",
                "relative_weight",
                "same_identity",
                "num_identities",
                "mlm_layers",
                "mlm_share",
                "mask_token_id",
            ),
            *("prompt_ids", "tinet_dropout", "logit_scale_init_value", "initializer_factor"),
        )
    )
    weights_of_losses = frozenset({"logit_scale", "classifier", "identities", "cross_modal"})
    weights_without_decay = ("class_embedding", "position_embedding", "logit_scale")
    new_layers = ("classifier.", "cross_modal.")
    lora_trained_whole = ("visual_projection", "text_projection")

    def __init__(self, config: Word4PerConfig):
        config.tinets = [whole_tinet(entry) for entry in config.tinets]
        config.validate()  # once more: settings given to `from_pretrained` change it after it was made
        super().__init__(config)
        clip, dim = config.clip_config, config.clip_config.projection_dim
        self.clip = person_clip(clip, config.patch_grid, config.stride or clip.vision_config.patch_size)
        self.tinets = nn.ModuleDict(
            {
                entry["name"]: TINet(dim, entry["hidden_sizes"], clip.text_config.hidden_size, config.tinet_dropout)
                for entry in config.tinets
            }
        )
        self.classifier, self.cross_modal = None, None
        if config.stage == 1 and config.mlm_weight:
            self.cross_modal = CrossModalTransformer(dim, config.mlm_layers, clip.text_config.vocab_size)
        if config.stage == 1 and config.id_weight and config.num_identities:
            self._make_classifier(config.num_identities)
        self.post_init()
        self.freeze_as_configured()

    def _make_classifier(self, num_identities: int) -> None:
        weights = self.clip.visual_projection.weight
        self.classifier = nn.Linear(weights.shape[0], num_identities, device=weights.device, dtype=weights.dtype)
        self.identities = nn.Buffer(torch.arange(num_identities, device=weights.device))

    def freeze_as_configured(self) -> None:
        """CLIP in stage 2; in stage 1 its temperature (losses have a fixed scale), and where asked its vision tower."""
        if self.config.stage == 2:
            self.clip.requires_grad_(False)
        self.clip.logit_scale.requires_grad_(False)
        super().freeze_as_configured()

    # Loading and saving

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *model_args, allow_missing=None, allow_unexpected=None, **kwargs
    ):
        """Loads a model as every model of the package; TINets and losses that the folder lacks begin anew.

        `stage=2` on a folder of stage 1 makes the paper's two TINets, if `tinets` are not given; TINets that are not
        among given ones are left out.

        Raises:
            UnsoundModelError: also for TINets that were trained on another CLIP.
        """
        anew, left_out = asked_otherwise(pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            allow_missing=_allowed(allow_missing, anew),
            allow_unexpected=_allowed(allow_unexpected, left_out),
            **kwargs,
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._refuse_foreign_tinets(pretrained_model_name_or_path or "the state dict")
        return loaded

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Saves it as transformers does; TINets keep the fingerprint of the CLIP that they were trained on."""
        self._name_clip()
        return super().save_pretrained(*args, **kwargs)

    def _name_clip(self) -> None:
        if any(entry["clip"] is None for entry in self.config.tinets) and self._is_plain:
            fingerprint = clip_fingerprint(self.clip)
            for entry in self.config.tinets:
                entry["clip"] = entry["clip"] or fingerprint

    @property
    def _is_plain(self) -> bool:
        """Whether the weights are at hand, and of a precision in which they have their fingerprint."""
        weights = list(self.clip.parameters())
        return all(
            weight.dtype in (torch.float32, torch.bfloat16) and not weight.is_meta and not is_packed(weight)
            for weight in weights
        ) and not hasattr(self, "peft_config")

    def _refuse_foreign_tinets(self, source: object) -> None:
        known = {entry["name"]: entry["clip"] for entry in self.config.tinets if entry["clip"]}
        if not known or not self._is_plain:
            return
        fingerprint = clip_fingerprint(self.clip)
        if foreign := [name for name, clip in known.items() if clip != fingerprint]:
            raise UnsoundModelError(
                f"{source}: the TINets {', '.join(foreign)} were trained on another CLIP than the one beside them, and "
                "their pseudo-words mean nothing to it. Take both from one folder, or train TINets anew (stage 2)."
            )

    def add_tinet(self, name: str, other: "Word4PerModel") -> None:
        """Takes over a TINet of another model, which must have the same CLIP.

        Raises:
            UnsoundModelError: it was trained on another CLIP.
            ValueError: there is no such TINet there, or one of that name here.
        """
        if name not in other.tinets or name in self.tinets:
            raise ValueError(
                f"TINet {name!r}: expected one of {', '.join(other.tinets) or 'none'} (the other model's) that is none "
                f"of {', '.join(self.tinets) or 'none'} (this model's)"
            )
        entry = next(entry for entry in other.config.tinets if entry["name"] == name)
        own, clip = clip_fingerprint(self.clip), entry["clip"] or clip_fingerprint(other.clip)
        if own != clip:
            raise UnsoundModelError(
                f"the TINet {name} was trained on another CLIP ({clip:.8}) than this model's ({own:.8}), to which its "
                "pseudo-words mean nothing: train one on this CLIP (stage 2)"
            )
        sizes = self.config.clip_config.projection_dim, entry["hidden_sizes"], self.get_input_embeddings().embedding_dim
        tinet = TINet(*sizes, self.config.tinet_dropout)
        tinet.load_state_dict(other.tinets[name].state_dict())
        self.tinets[name] = tinet.to(self.device, self.dtype).train(self.training)
        self.config.tinets = [*self.config.tinets, {**entry, "clip": clip}]

    @property
    def lora_targets(self) -> Mapping[str, str]:
        """Of stage 1; in stage 2 none, since TINets would not fit a CLIP with adapters switched off or merged."""
        layers = r".*{}_model\.encoder\..*\.(q_proj|v_proj)"
        return {} if self.config.stage == 2 else {side: layers.format(side) for side in ("text", "vision")}

    # Shapes

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of captions."""
        return self.clip.text_model.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings of captions."""
        self.clip.text_model.embeddings.token_embedding = value

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """What comes before the blocks, then each of them; not the LayerNorm behind them."""
        tower = self.clip.vision_model
        return [nn.ModuleList([tower.embeddings, tower.pre_layrnorm]), *tower.encoder.layers]

    @property
    def feature_shape(self) -> tuple[int, int]:
        """`(1, projection_dim)`."""
        return 1, self.config.clip_config.projection_dim

    @property
    def image_shape(self) -> tuple[int, int]:
        """`(image_height, image_width)`."""
        return self.config.image_height, self.config.image_width

    @property
    def features_dtype(self) -> torch.dtype:
        """Of the features."""
        return self.clip.vision_model.post_layernorm.weight.dtype  # linear layers may be packed

    def train(self, mode: bool = True) -> "Word4PerModel":
        """Sets training mode; in stage 2, CLIP stays in eval mode."""
        super().train(mode)
        if self.config.stage == 2:
            self.clip.eval()
        return self

    # Features

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Projected features of images, not normalised, from which TINets make pseudo-words.

        Args:
            pixel_values: `(num_images, 3, image_height, image_width)`.

        Returns:
            `(num_images, projection_dim)`.

        Raises:
            ValueError, TypeError: the images are not what this model takes.
        """
        return self._image_states(pixel_values)[:, 0]

    def _image_states(self, pixel_values: Tensor) -> Tensor:
        """(num_images, num_patches + 1, projection_dim)"""
        check_images("pixel_values", pixel_values, self.image_shape)
        frozen = self.config.stage == 2 and not self._has_gradient
        with torch.no_grad() if frozen else contextlib.nullcontext():
            return self.clip.visual_projection(image_states(self.clip, pixel_values))

    @property
    def _has_gradient(self) -> bool:
        return any(weight.requires_grad for weight in self.clip.parameters())  # of adapters, say

    def caption_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Projected features of captions, not normalised; a template before a caption is left out.

        Args:
            input_ids: `(num_captions, length)`.
            attention_mask: `(num_captions, length)`, 0 at padding, on either side; None: padding on the right alone.

        Returns:
            `(num_captions, projection_dim)`.

        Raises:
            ValueError, TypeError: the captions are not what this model takes.
        """
        input_ids = self._without_template(self._checked(input_ids, attention_mask))
        return self._text_features(input_ids)

    def _text_features(self, input_ids: Tensor, words: Tensor | None = None) -> Tensor:
        states = text_states(self.clip.text_model, input_ids, words)
        return self.clip.text_projection(at_end(states, input_ids, self._eos))

    def _checked(self, input_ids: Tensor, attention_mask: Tensor | None, name: str = "input_ids") -> Tensor:
        """Ids that begin at the left, and end."""
        text = self.config.clip_config.text_config
        vocab_size = getattr(self.get_input_embeddings(), "num_embeddings", text.vocab_size)
        check_captions(name, input_ids, attention_mask, vocab_size, text.max_position_embeddings)
        if attention_mask is not None:
            input_ids, attention_mask = moved_left(input_ids, attention_mask)
        if not is_traced() and not (ends := (input_ids == self._eos).any(dim=1)).all():
            raise ValueError(
                f"{name}: caption {int((~ends).nonzero()[0])} has no end (id {self._eos}), at which CLIP reads its "
                "feature; Word4PerProcessor cuts long captions before it"
            )
        return input_ids

    @property
    def _eos(self) -> int:
        return self.config.clip_config.text_config.eos_token_id

    def _without_template(self, input_ids: Tensor) -> Tensor:
        template = self.config.template_ids
        if not template or input_ids.shape[1] < len(template) + 2:
            return input_ids
        first, last = 1, 1 + len(template)
        has = (input_ids[:, first:last] == input_ids.new_tensor(template)).all(dim=1, keepdim=True)
        padding = input_ids.new_full((input_ids.shape[0], len(template)), self._eos)
        return torch.where(has, torch.cat([input_ids[:, :first], input_ids[:, last:], padding], dim=1), input_ids)

    def _composed_features(self, image_features: Tensor, input_ids: Tensor, names: Sequence[str]) -> Tensor:
        """(num_queries, num_tinets, projection_dim), not normalised."""
        places = self._pseudo_word_places(input_ids)
        words = self.get_input_embeddings()(input_ids)
        features = []
        for name in names:
            pseudo_words = self.tinets[name](image_features).to(words.dtype)
            features.append(
                self._text_features(input_ids, torch.where(places[..., None], pseudo_words[:, None], words))
            )
        return torch.stack(features, dim=1)

    def _pseudo_word_places(self, input_ids: Tensor) -> Tensor:
        """Where the pseudo-word goes, once in every text: (num_queries, length), true or false."""
        ended = (input_ids == self._eos).int().cumsum(dim=1) > 0
        is_star = (input_ids == self.config.pseudo_token_id) & ~ended
        if not is_traced():
            counts = is_star.sum(dim=1)
            wrong = counts == 0 if self.config.pseudo_word_place == "first" else counts != 1
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise ValueError(
                    f"input_ids: caption {row} holds the pseudo-word's token (id {self.config.pseudo_token_id}, '*') "
                    f"{int(counts[row])} times, expected once, where the image's pseudo-word goes: "
                    "Word4PerProcessor(images=..., text=...) puts 'a * is ,' before a caption that holds no '*'"
                )
        return is_star & (is_star.int().cumsum(dim=1) == 1)

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        tinet: str | Sequence[str] | None = None,
    ) -> Tensor:
        """Features of queries: image and caption, caption alone, or image alone.

        Args:
            pixel_values: `(num_queries, 3, image_height, image_width)`, reference images.
            input_ids: `(num_queries, length)`, captions; with images they hold template and "*".
            attention_mask: `(num_queries, length)`, 0 at padding, on either side; None: padding on the right alone.
            tinet: the TINet that makes the pseudo-word, or several; None: all, fused.

        Returns:
            `(num_queries, projection_dim)`, unit length.

        Raises:
            ValueError, TypeError: without image and caption, if their numbers differ, if a composed caption holds no
                "*" or several, for an unknown TINet, or if the inputs are not what this model takes.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        if pixel_values is None or input_ids is None:
            if tinet is not None:
                raise ValueError(f"tinet is {tinet!r:.60}, but TINets are for queries of image and caption")
            if input_ids is None:
                return self._normalized(self.image_features(pixel_values))
            return self._normalized(self.caption_features(input_ids, attention_mask))
        names = self._tinet_names(tinet)
        input_ids = self._checked(input_ids, attention_mask)
        check_pairs(pixel_values, input_ids)
        return self._fused(self._composed_features(self.image_features(pixel_values), input_ids, names))

    def _tinet_names(self, tinet: str | Sequence[str] | None) -> list[str]:
        if not self.tinets:
            raise ValueError(
                "this model has no TINet, so that it takes an image or a caption alone: stage 2 trains TINets"
            )
        names = list(self.tinets) if tinet is None else [tinet] if isinstance(tinet, str) else list(tinet)
        if not names or any(name not in self.tinets for name in names):
            raise ValueError(f"tinet is {tinet!r:.60}, expected some of {', '.join(self.tinets)}, or None: all, fused")
        return names

    def _fused(self, features: Tensor) -> Tensor:
        """Features of several TINets as one (released code): (num_queries, projection_dim)"""
        return self._normalized(F.normalize(features.float(), dim=-1).sum(dim=1))

    def _normalized(self, features: Tensor) -> Tensor:
        return F.normalize(features.float(), dim=-1).to(self.features_dtype)

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images.

        Args:
            pixel_values: `(num_images, 3, image_height, image_width)`.

        Returns:
            `(num_images, 1, projection_dim)`, unit length.

        Raises:
            ValueError, TypeError: the images are not what this model takes.
        """
        return self._normalized(self.image_features(pixel_values))[:, None]

    @torch.no_grad()
    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Attention from the class token, which the feature is made of, to patches in the tower's last block.

        It is the mean over heads. What earlier blocks brought into the class token is not in it.

        Args:
            pixel_values: `(num_images, 3, image_height, image_width)`.

        Returns:
            `(num_images, 1, rows, columns)`, fp32; patches that overlap count as if they lay side by side.
        """
        tower = self.clip.vision_model
        with recorded_weights(tower, [tower.encoder.layers[-1].self_attn]) as weights:
            self.get_target_features(pixel_values)
        return weights_of_patches(weights[0][:, :, :1], self.config.patch_grid)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        group_ids: Tensor | None = None,
        gather_across_processes: bool = False,
        return_loss: bool = True,
        **batch: Tensor | None,
    ) -> Word4PerOutput:
        """The losses of a batch, or without targets the features of queries.

        Args:
            pixel_values: as `training_states`, and all others that it takes; without targets as `get_query_features`.
            group_ids: as `losses`; likewise `gather_across_processes`.
            return_loss: for transformers' Trainer.
        """
        if target_pixel_values is None and not batch:
            return Word4PerOutput(query_embeds=self.get_query_features(pixel_values, input_ids, attention_mask))
        states = self.training_states(pixel_values, input_ids, attention_mask, target_pixel_values, **batch)
        return self.losses(states, group_ids, gather_across_processes)

    @classmethod
    def card_facts(cls, config: Word4PerConfig) -> CardFacts:
        """The paper's, and the sizes of towers and TINets."""
        text, vision = config.clip_config.text_config, config.clip_config.vision_config
        return CardFacts(
            method="Word4Per",
            paper="arXiv [2311.16515](https://arxiv.org/abs/2311.16515), versions 1 to 3",
            sizes={
                "vision tower": f"{vision.num_hidden_layers} blocks of width {vision.hidden_size}, "
                f"{config.image_height} x {config.image_width} pixels",
                "text tower": f"{text.num_hidden_layers} blocks of width {text.hidden_size}",
                **{
                    f"TINet {entry['name']}": f"{len(entry['hidden_sizes'])} hidden layers, supervised by "
                    f"{entry['supervision']}"
                    for entry in config.tinets
                },
            },
            citation=CITATION,
            tags=("word4per", "clip"),
        )


def _allowed(given: bool | str | Sequence[str] | None, more: list[str]) -> bool | list[str]:
    return True if given is True else [*([given] if isinstance(given, str) else given or ()), *more]


__all__ = ["Word4PerModel", "Word4PerOutput", "Word4PerPreTrainedModel"]
