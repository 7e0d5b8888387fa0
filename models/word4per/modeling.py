"""Word4Per: the person of a reference image as a pseudo-word in the sentence that says what differs (arXiv 2311.16515)."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization
from transformers.utils import ModelOutput

from ...checks_fafa import check_captions, check_group_ids, check_images
from ...citation_fafa import CITATION
from ...gathering_fafa import gather_rows
from ...padding_fafa import moved_left
from ...retriever import CardFacts, Retriever
from ...weights_fafa import UnsoundModelError, is_packed
from .configuration import Word4PerConfig
from .losses import cmpm_loss, id_loss, itc_loss, sdm_loss
from .masked_words import CrossModalTransformer, mask_words, masked_word_errors
from .tinet import TINet
from .towers import at_end, clip_fingerprint, image_states, person_clip, text_states


@dataclass
class Word4PerOutput(ModelOutput):
    """What `Word4PerModel.forward` returns; terms that do not count are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_sdm: scalar, similarity-distribution matching: of image and caption in stage 1; in stage 2 of "a photo of
            *" and what supervises it, summed over TINets. Likewise `loss_itc` and `loss_cmpm`.
        loss_id: scalar, the identity loss.
        loss_mlm: scalar, masked-language modelling.
        loss_composed: scalar, of composed queries and their targets, summed over TINets.
        query_embeds: `(batch_size, projection_dim)`, unit length: captions in stage 1, composed queries in stage 2, or
            while those do not train, "a photo of *".
        target_embeds: `(batch_size, 1, projection_dim)`, unit length.
    """

    loss: Tensor | None = None
    loss_sdm: Tensor | None = None
    loss_id: Tensor | None = None
    loss_mlm: Tensor | None = None
    loss_itc: Tensor | None = None
    loss_cmpm: Tensor | None = None
    loss_composed: Tensor | None = None
    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None


class ClipStates(NamedTuple):
    """What stage 1 makes of each pair of image and caption; features are not normalised.

    Args:
        image: `(batch_size, projection_dim)`, of the target; likewise `caption`, of what describes it whole.
        masked_words: `(batch_size, 2)`, see `masked_word_errors`; None without masked-language modelling.
    """

    image: Tensor
    caption: Tensor
    masked_words: Tensor | None = None


class TinetStates(NamedTuple):
    """What stage 2 makes of each triplet; features are not normalised.

    Args:
        prompt: `(batch_size, num_tinets, projection_dim)`, "a photo of *" with the target's pseudo-word of each TINet.
        image: `(batch_size, projection_dim)`, of the target.
        caption: `(batch_size, projection_dim)`, of what describes it whole; None where nothing is supervised by it.
        composed: `(batch_size, num_tinets, projection_dim)`, of reference image and relative caption; None where it is
            not asked for.
    """

    prompt: Tensor
    image: Tensor
    caption: Tensor | None = None
    composed: Tensor | None = None


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


class Word4PerModel(Retriever, Word4PerPreTrainedModel):
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
            *("composed_weight", "same_identity", "num_identities", "mlm_layers", "mlm_share", "mask_token_id"),
            *("prompt_ids", "tinet_dropout", "logit_scale_init_value", "initializer_factor"),
        )
    )
    weights_of_losses = frozenset({"logit_scale", "classifier", "identities", "cross_modal"})
    weights_without_decay = ("class_embedding", "position_embedding", "logit_scale")
    new_layers = ("classifier.", "cross_modal.")
    lora_targets = {
        "text": r".*text_model\.encoder\..*\.(q_proj|v_proj)",
        "vision": r".*vision_model\.encoder\..*\.(q_proj|v_proj)",
    }
    lora_trained_whole = ("visual_projection", "text_projection")

    def __init__(self, config: Word4PerConfig):
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
        """CLIP in stage 2; in stage 1 its temperature, since losses have a fixed scale, and where asked its vision tower."""
        if self.config.stage == 2:
            self.clip.requires_grad_(False)
        self.clip.logit_scale.requires_grad_(False)
        super().freeze_as_configured()

    # Loading and saving

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, allow_missing=None, **kwargs):
        """Loads a model as every model of the package; other TINets and losses than the folder's begin anew.

        `stage=2` on a folder of stage 1 makes the paper's two TINets, if `tinets` are not given.

        Raises:
            UnsoundModelError: also for TINets that were trained on another CLIP.
        """
        anew = _begins_anew(pretrained_model_name_or_path, kwargs)
        if anew and allow_missing is not True:
            given = [allow_missing] if isinstance(allow_missing, str) else allow_missing or []
            allow_missing = [*given, *anew]
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, allow_missing=allow_missing, **kwargs
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
        if not _is_traced() and not (ends := (input_ids == self._eos).any(dim=1)).all():
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
        padding = input_ids.new_full((len(input_ids), len(template)), self._eos)
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
        ended = (input_ids == self._eos).cumsum(dim=1) > 0
        is_star = (input_ids == self.config.pseudo_token_id) & ~ended
        if not _is_traced():
            counts = is_star.sum(dim=1)
            wrong = counts == 0 if self.config.pseudo_word_place == "first" else counts != 1
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise ValueError(
                    f"input_ids: caption {row} holds the pseudo-word's token (id {self.config.pseudo_token_id}, '*') "
                    f"{int(counts[row])} times, expected once, where the image's pseudo-word goes: "
                    "Word4PerProcessor(images=..., text=...) puts 'a * is ,' before a caption that holds no '*'"
                )
        return is_star & (is_star.cumsum(dim=1) == 1)

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
        _check_pairs(pixel_values, input_ids)
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

    # Training

    @property
    def reads_target_captions(self) -> bool:
        """Stage 1 always; stage 2 where a TINet is supervised by text."""
        return self.config.stage == 1 or any(entry["supervision"] != "image" for entry in self.config.tinets)

    def warmup_settings(self, contrastive: bool, captions: bool) -> dict[str, Any]:
        """Plain contrastive learning in SDM's place, whose divergence has hardly a gradient while all scores are alike."""
        return {"itc_weight": 1.0, "sdm_weight": 0.0} if contrastive else {}

    def meet_groups(self, group_ids: np.ndarray) -> None:
        """Makes a class for each identity of the training set, where the identity loss counts.

        Raises:
            ValueError: no identity occurs twice, or the classes of the model are of another training set.
        """
        if self.config.stage != 1 or not self.config.id_weight:
            return
        identities, counts = np.unique(group_ids, return_counts=True)
        if counts.max() < 2:
            raise ValueError(
                f"id_weight is {self.config.id_weight:g}, but each of the {len(identities):,} identities of the "
                "training set occurs once, so that there are none to tell apart: name the column of identities by "
                "group_column, or set id_weight to 0"
            )
        known = None if self.classifier is None else self.identities.tolist()
        if known == identities.tolist():
            return
        if hasattr(self, "peft_config") or self.get_input_embeddings().weight.is_meta:
            raise ValueError("the identity loss needs a class for each identity before adapters are added: id_weight 0")
        self.config.num_identities = len(identities)
        self._make_classifier(len(identities))
        nn.init.normal_(self.classifier.weight, std=0.001)  # released code
        nn.init.zeros_(self.classifier.bias)
        self.identities.copy_(torch.from_numpy(identities))

    def training_states(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
        reference_features: Tensor | None = None,
        target_features: Tensor | None = None,
        caption_features: Tensor | None = None,
    ) -> ClipStates | TinetStates:
        """What the towers, or the TINets, make of each triplet by itself.

        Args:
            pixel_values: `(batch_size, 3, image_height, image_width)`, reference images; read in stage 2 alone. None: a
                pair of image and caption.
            input_ids: `(batch_size, length)`, relative captions with template and "*", read in stage 2 alone; of pairs
                the whole ones, with or without a template.
            attention_mask: `(batch_size, length)`.
            target_pixel_values: `(batch_size, 3, image_height, image_width)`.
            caption_input_ids: `(batch_size, length)`, captions that describe the targets whole.
            caption_attention_mask: `(batch_size, length)`.
            reference_features: `(batch_size, projection_dim)`, of `image_features`, in the place of images where CLIP is
                frozen; likewise `target_features`, and `caption_features` of captions.

        Raises:
            ValueError, TypeError: what the stage needs is missing, or the inputs do not fit one another or this model.
        """
        is_triplet = pixel_values is not None or reference_features is not None
        if not is_triplet and caption_input_ids is None:  # a pair, whose caption is the whole one
            caption_input_ids, caption_attention_mask = input_ids, attention_mask
        if self.config.stage == 1:
            return self._clip_states(target_pixel_values, caption_input_ids, caption_attention_mask)
        if not self.tinets or self.config.prompt_ids is None:
            raise ValueError(
                "stage 2 trains TINets on a prompt: set tinets, and prompt_ids (Word4PerProcessor.word_settings())"
            )
        names = list(self.tinets)
        if target_features is None:
            target_features = self._images("target_pixel_values", target_pixel_values)
        if caption_features is None and self.reads_target_captions:
            ids = self._captions("caption_input_ids", caption_input_ids, caption_attention_mask)
            with torch.no_grad():
                caption_features = self._text_features(self._without_template(ids))
        prompt = torch.tensor([self.config.prompt_ids], device=target_features.device).expand(len(target_features), -1)
        composed = None
        if self.config.composed_weight or (is_triplet and not self.training):
            ids = self._captions("input_ids", input_ids, attention_mask)
            if reference_features is None:
                reference_features = self._images("pixel_values", pixel_values)
            composed = self._composed_features(reference_features, ids, names)
        return TinetStates(
            self._composed_features(target_features, prompt, names), target_features, caption_features, composed
        )

    def _clip_states(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> ClipStates:
        ids = self._without_template(self._captions("caption_input_ids", input_ids, attention_mask))
        if pixel_values is None:
            raise ValueError("target_pixel_values are missing: stage 1 trains CLIP on images and their captions")
        _check_pairs(pixel_values, ids)
        image, masked_words = self._image_states(pixel_values), None
        if self.cross_modal is not None:
            config, text = self.config, self.config.clip_config.text_config
            is_word = (ids == self._eos).cumsum(dim=1) == 0
            may_mask = is_word.clone()
            may_mask[:, 0] = False  # the beginning
            mask_id = text.bos_token_id - 1 if config.mask_token_id is None else config.mask_token_id
            masked, labels = mask_words(ids, may_mask, config.mlm_share, mask_id, text.vocab_size, draw=self.training)
            states = self.clip.text_projection(text_states(self.clip.text_model, masked))
            masked_words = masked_word_errors(self.cross_modal(states, image, is_word), labels)
        return ClipStates(image[:, 0], self._text_features(ids), masked_words)

    def _images(self, name: str, pixels: Tensor | None) -> Tensor:
        if pixels is None:
            raise ValueError(f"{name} are missing: stage 2 makes pseudo-words of images, or of their features")
        return self.image_features(pixels)

    def _captions(self, name: str, ids: Tensor | None, mask: Tensor | None) -> Tensor:
        if ids is None:
            raise ValueError(
                f"{name} are missing, which this stage trains on: TripletCollator(processor, with_captions=True)"
            )
        return self._checked(ids, mask, name)

    def losses(
        self,
        states: ClipStates | TinetStates,
        group_ids: Tensor | None = None,
        gather_across_processes: bool = False,
    ) -> Word4PerOutput:
        """What compares the triplets of a batch.

        Args:
            states: of `training_states`.
            group_ids: `(batch_size,)`, identities; None: every triplet its own.
            gather_across_processes: of the batches of all processes together, as one process would.

        Raises:
            ValueError, TypeError: `group_ids` are not one integer a triplet, or the identity loss has no class of one.
        """
        if group_ids is not None:
            check_group_ids(group_ids, len(states.image))
        if gather_across_processes:
            *gathered, group_ids = gather_rows(*states, group_ids)
            states = type(states)(*gathered)
        known = group_ids is not None
        if not known:
            group_ids = torch.arange(len(states.image), device=states.image.device)
        if isinstance(states, ClipStates):
            terms = self._matching(states.image, states.caption, group_ids)
            if self.config.id_weight and self.training:
                terms["loss_id"] = self._id_loss(states, group_ids if known else None)
            if states.masked_words is not None:
                errors, count = states.masked_words.sum(dim=0)
                terms["loss_mlm"] = errors / count
            query = states.caption[:, None]
        else:
            terms = {}
            for number, entry in enumerate(self.config.tinets):
                sides = {"text": [states.caption], "image": [states.image], "both": [states.caption, states.image]}
                for side in sides[entry["supervision"]]:
                    for name, term in self._matching(side, states.prompt[:, number], group_ids).items():
                        terms[name] = terms.get(name, 0.0) + term
                if self.config.composed_weight and states.composed is not None:
                    term = itc_loss(states.image, states.composed[:, number], self.config.scale)
                    terms["loss_composed"] = terms.get("loss_composed", 0.0) + term
            query = states.prompt if states.composed is None else states.composed
        weights = {name: getattr(self.config, f"{name.removeprefix('loss_')}_weight") for name in terms}
        loss = sum(weights[name] * term for name, term in terms.items())
        return Word4PerOutput(
            loss=loss,
            **{name: terms.get(name) for name in weights},
            query_embeds=self._fused(query),
            target_embeds=self._normalized(states.image)[:, None],
        )

    def _matching(self, image: Tensor, text: Tensor, identities: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms = {}
        if config.sdm_weight:
            terms["loss_sdm"] = sdm_loss(image, text, identities, config.scale, config.same_identity)
        if config.itc_weight:
            terms["loss_itc"] = itc_loss(image, text, config.scale)
        if config.cmpm_weight:
            terms["loss_cmpm"] = cmpm_loss(image, text, identities)
        return terms

    def _id_loss(self, states: ClipStates, identities: Tensor | None) -> Tensor:
        if identities is None or self.classifier is None:
            raise ValueError(
                "the identity loss needs the identities of a batch (group_ids), and a class for each of the training "
                "set (meet_groups, which the trainer calls): give them, or set id_weight to 0"
            )
        classes = torch.searchsorted(self.identities, identities).clamp(max=len(self.identities) - 1)
        if not _is_traced() and identities.device.type == "cpu" and (self.identities[classes] != identities).any():
            unknown = identities[self.identities[classes] != identities][:5].tolist()
            raise ValueError(f"identities {unknown} are none of the training set, of which the identity loss knows")
        return id_loss(self.classifier(states.image).float(), self.classifier(states.caption).float(), classes)

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


def _begins_anew(source: Any, options: dict[str, Any]) -> list[str]:
    """Patterns of weights that a folder lacks because another stage, or other TINets and losses, are asked for.

    `options`, of `from_pretrained`, get the paper's TINets where stage 2 follows stage 1.
    """
    if source is None:
        return []
    where = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
    saved, _ = Word4PerConfig.get_config_dict(source, **{name: options[name] for name in where if name in options})
    config = options.get("config")
    asked = {**saved, **(options if config is None else config.to_dict())}
    if asked.get("stage") == 2 and saved.get("stage") == 1 and not asked.get("tinets"):
        asked["tinets"] = [{"name": "text"}, {"name": "image"}]
        if config is None:
            options["tinets"] = asked["tinets"]
        else:
            config.tinets = Word4PerConfig(tinets=asked["tinets"]).tinets
    had = {entry["name"] for entry in saved.get("tinets") or []}
    anew = [f"tinets.{entry['name']}.*" for entry in asked.get("tinets") or [] if entry["name"] not in had]
    if asked.get("stage") == 1:
        was_first = saved.get("stage") == 1
        anew += [] if was_first and saved.get("mlm_weight") else ["cross_modal.*"]
        anew += [] if was_first and saved.get("id_weight") else ["classifier.*", "identities"]
    return anew


def _check_pairs(pixel_values: Tensor, input_ids: Tensor) -> None:
    if pixel_values.shape[0] != input_ids.shape[0]:
        raise ValueError(f"{pixel_values.shape[0]} images for {input_ids.shape[0]} captions: one of each a query")


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


__all__ = ["Word4PerModel", "Word4PerOutput", "Word4PerPreTrainedModel"]
