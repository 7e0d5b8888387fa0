"""The contract: what every model of this package promises, and all that may be asked of one.

Trainer, collator, evaluation, feature store, gallery and cards use nothing else and name no model. A model is a
`PreTrainedModel` with `Retriever` before it in its bases, a processor a `ProcessorMixin` with `RetrieverProcessor`
before it; what is not abstract has a default that fits most models. Classes are never compared, since a model's remote
code comes with a copy of this file: `check_contract` says what an object lacks.
"""

import copy
import hashlib
import json
import logging
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from .captions_fafa import is_unread
from .checks_fafa import check_scored
from .image_reading_fafa import open_image
from .scoring_fafa import topk_mean_similarity
from .weights_fafa import beside_adapter, refuse_incomplete, refuse_options, refuse_unsound_weights

logger = logging.getLogger(__name__)

# Kinds of query, and the arguments of `get_query_features` that each gives.
QUERY_MODES = {
    "image+caption": ("pixel_values", "input_ids", "attention_mask"),
    "caption": ("input_ids", "attention_mask"),
    "image": ("pixel_values",),
}


@dataclass(frozen=True)
class CardFacts:
    """What a model's card says about its method; the run, the data and the figures come from elsewhere."""

    method: str  # its name, for headings: "FAFA"
    paper: str = ""  # Markdown that names it: "arXiv [2311.16515](https://arxiv.org/abs/2311.16515)"
    sizes: Mapping[str, str] = field(default_factory=dict)  # part -> its size, for the card's table of sizes
    citation: str = ""  # BibTeX
    tags: Sequence[str] = ()  # for the Hub, besides those that all models of the package have


class Retriever(metaclass=ABCMeta):  # a subclass of `ABC` has a layout that FSDP cannot work with
    """What every model promises. It must write the abstract methods, and to be trained `training_states` and `losses`.

    A query becomes one vector, a target image one or several, all of unit length in one space; the score of a query
    and a target is the mean of the query's `num_top_tokens` largest dot products with the target's vectors.
    """

    accepts_loss_kwargs = False  # the loss is a mean over a batch of pairs: Trainer must not rescale it

    # Settings of the configuration, or of its parts, that certainly decide no feature; all others count, except those
    # that `retrieval.fingerprint` names. Likewise weights that only losses use, by any part of their names.
    settings_of_losses: frozenset[str] = frozenset()
    weights_of_losses: frozenset[str] = frozenset()
    # Weights that get no decay, by any part of their names, besides biases and norms.
    weights_without_decay: Sequence[str] = ()
    # Layers that training adds to pre-trained ones, by what their names hold; they may learn at a rate of their own.
    new_layers: Sequence[str] = ()
    # LoRA: side -> regular expression of the layers it adapts, the usual side first, the vision tower's called
    # "vision"; layers that train whole beside them; and single parameters that do, on which no feature depends.
    lora_targets: Mapping[str, str] = {}
    lora_trained_whole: Sequence[str] = ()
    lora_parameters: Sequence[str] = ()
    # What a manifest says of a model whose weights are elsewhere, in another form: name, revision, fingerprint, dtype.
    exported_from: Mapping[str, Any] | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        allow_missing=None,
        allow_unexpected=None,
        output_loading_info=False,
        **kwargs,
    ):
        """Loads a model as transformers does, but refuses one if weights are missing, foreign or unsound.

        Args:
            pretrained_model_name_or_path: a folder, or a repository of the Hub, of a model or of an adapter (LoRA).
            allow_missing: names or patterns (`"mfr_predictor.*"`) of weights that may be missing and are initialised,
                or True. `ignore_mismatched_sizes=True` allows weights of another shape.
            allow_unexpected: names or patterns of weights that may be left over, or True.
            output_loading_info: return a pair of the model and what transformers reports about the loading.
            kwargs: all other options of `PreTrainedModel.from_pretrained`.

        Raises:
            UnsoundModelError: weights are missing, foreign, not finite, or integers; a ValueError.
            TypeError: an option cannot be honoured.
        """
        refuse_options(pretrained_model_name_or_path, kwargs)
        source = beside_adapter(pretrained_model_name_or_path, kwargs)
        model, info = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        own = model.__dict__.pop("_loading_info", None)  # for a model with an adapter, `info` is the adapter's
        missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
        if own is not None:
            missing, unexpected = missing | own.missing_keys, unexpected | own.unexpected_keys
        name = pretrained_model_name_or_path or "the state dict"
        refuse_incomplete(name, missing, unexpected, allow_missing, allow_unexpected)
        refuse_unsound_weights(name, model)
        model.freeze_as_configured()
        return (model, info) if output_loading_info else model

    def _adjust_missing_and_unexpected_keys(self, loading_info):
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self._loading_info = loading_info

    # Features and scores

    @abstractmethod
    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries, each an image and a caption or either alone: `(num_queries, dim)`, unit length."""

    @abstractmethod
    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images: `(num_images, num_tokens, dim)`, each token of unit length."""

    @property
    @abstractmethod
    def feature_shape(self) -> tuple[int, int]:
        """`(num_tokens, dim)`: the shape of a target's features."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """`(height, width)`: the size of the images that the model takes, in pixels."""

    @property
    def features_dtype(self) -> torch.dtype:
        """The dtype of the features."""
        return self.dtype

    @property
    def num_top_tokens(self) -> int:
        """How many of a target's vectors count in the score."""
        return 1

    def score(self, queries: Tensor, targets: Tensor, num_top_tokens: int | None = None) -> Tensor:
        """Scores of queries against targets, see `topk_mean_similarity`.

        Args:
            queries: `(num_queries, dim)`.
            targets: `(num_images, num_tokens, dim)`.
            num_top_tokens: another number than the model's.

        Returns:
            `(num_queries, num_images)`, fp32, higher is better.

        Raises:
            ValueError, TypeError: no such tensors, or features that cannot be right, see `check_scored`.
        """
        check_scored(queries, targets)
        return topk_mean_similarity(queries, targets, num_top_tokens or self.num_top_tokens)

    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Where each vector of a target's features comes from: how much its making attends to each part of the image.

        Args:
            pixel_values: `(num_images, 3, height, width)`, target images.

        Returns:
            `(num_images, num_tokens, rows, columns)`, fp32, at least 0: weights of the cells of a grid that divides
            the image evenly.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not tell where in an image its features come from, so there are no heat maps: "
            "write its target_attention (retriever.py says what it returns). Which words matter can be asked all the "
            "same"
        )

    # Training: the seam at which gradient caching and gathering cut

    def training_states(self, **batch: Tensor | None) -> tuple[Tensor | None, ...]:
        """What the model computes for each triplet by itself: a named tuple of tensors of one row per triplet, or None.

        Args:
            batch: what the collator makes, without `group_ids`: `pixel_values`, `input_ids`, `attention_mask`,
                `target_pixel_values`, and, if collated, `caption_input_ids` and `caption_attention_mask` of captions
                that describe the whole targets.
        """
        raise NotImplementedError(f"{type(self).__name__} has no training_states: it answers, and cannot be trained")

    def losses(
        self, states: tuple[Tensor | None, ...], group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> Any:
        """The losses of a batch, which compare its triplets by their states.

        Args:
            states: what `training_states` returned.
            group_ids: `(batch_size,)`, equal for triplets of one group; None: each triplet is its own group.
            gather_across_processes: compare the batches of all processes, as one process would (`gather_rows`).

        Returns:
            a `ModelOutput` with `loss`, its terms as fields that begin with `loss_`, `query_embeds` `(batch_size, dim)`
            and `target_embeds` `(batch_size, num_tokens, dim)`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses: it answers, and cannot be trained")

    def forward(
        self,
        group_ids: Tensor | None = None,
        gather_across_processes: bool = False,
        return_loss: bool = True,
        **batch: Tensor | None,
    ) -> Any:
        """The losses of a batch; it takes the arguments of `training_states` and `losses`."""
        return self.losses(self.training_states(**batch), group_ids, gather_across_processes)

    @property
    def reads_target_captions(self) -> bool:
        """Whether the loss reads captions that describe the whole targets."""
        return False

    @property
    def reads_references(self) -> bool:
        """Whether training, or its held-out figures, read reference images."""
        return True

    def warmup_settings(self, contrastive: bool, captions: bool) -> dict[str, Any]:
        """Changes to the configuration's settings during a warm-up; after it they are restored.

        Args:
            contrastive: whether it is within `contrastive_steps`, which train by plain cross-entropy.
            captions: whether it is within `caption_steps`, which also train on whole captions.
        """
        return {}

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        """The parts of the vision tower in order of computation: what comes before its blocks, then each block."""
        return ()

    def meet_groups(self, group_ids: np.ndarray) -> None:
        """Looks at the groups of the training set before training; a model that has a class for each makes room.

        Args:
            group_ids: `(num_triplets,)`, integers.

        Raises:
            ValueError: the model's loss cannot do with such groups.
        """
        return None

    def settings_at(self, epoch: float) -> dict[str, Any]:
        """Settings of the configuration that change while training goes on; after it they are what they were.

        Args:
            epoch: how many epochs are done; 0.5 in the middle of the first.
        """
        return {}

    def freeze_as_configured(self) -> None:
        """Stops training of what the configuration freezes; loading makes every weight train."""
        if getattr(self.config, "freeze_vision", False):
            self.freeze_vision_tower()

    def freeze_vision_tower(self, dtype: torch.dtype | None = None) -> "Retriever":
        """Stops training of the vision tower (not of what comes after its blocks), and notes it in the configuration.

        Args:
            dtype: also convert the tower to this dtype.
        """
        self.config.freeze_vision = True
        for module in self.vision_blocks:
            module.requires_grad_(False).eval().to(dtype=dtype)
        return self

    def train(self, mode: bool = True) -> "Retriever":
        """Sets training mode; a frozen vision tower, or its frozen blocks, stay in eval mode."""
        super().train(mode)
        for module in self.vision_blocks:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    # Words about itself

    @classmethod
    def card_facts(cls, config: Any) -> CardFacts:
        """What the card of a model with this configuration says about the method."""
        return CardFacts(cls.__name__)


class RetrieverProcessor:
    """What every processor promises besides being called with `images` and `text`.

    The defaults fit an image processor and a tokenizer of transformers. An image takes three steps: it is opened as a
    crop, which training augments; it is resized to the model's size, still with 8-bit values, to travel between
    processes; and many become pixel values at once.
    """

    # Whether a caption beyond what the model reads is cut; False: refused.
    cut_captions = True

    def open_crop(self, image: Any, name: str = "image") -> Image.Image:
        """An image as a PIL image: upright, RGB. `name` is what errors call it.

        Raises:
            UnreadableImageError: it cannot be decoded. FileNotFoundError, InaccessibleImageError: it cannot be read.
        """
        return open_image(image, name)

    def resize_crop(self, crop: Image.Image) -> np.ndarray:
        """A crop in the model's size, as uint8 `(height, width, 3)`."""
        resized = self.image_processor(crop, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.asarray(resized["pixel_values"][0]).transpose(1, 2, 0).astype(np.uint8)

    def to_pixels(self, crops: Sequence[np.ndarray]) -> Tensor:
        """Resized crops as `(num_images, 3, height, width)` of float32, rescaled and normalised."""
        pixels = self.image_processor(
            list(crops), do_resize=False, input_data_format="channels_last", return_tensors="pt"
        )
        return pixels["pixel_values"].float()

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Captions as `input_ids` and `attention_mask`, `(num_captions, length)`; errors call them by `names`.

        Raises:
            ValueError: a caption is no text, or holds no word.
        """
        for number, caption in enumerate(captions):
            if not isinstance(caption, str) or not caption.strip():
                name = f"captions[{number}]" if names is None else names[number]
                raise ValueError(f"{name}: expected what the target looks like, got {caption!r:.60}")
        encoded = self.tokenizer(
            list(captions), padding=True, truncation=True, return_attention_mask=True, return_tensors="pt"
        )
        for number, length in enumerate(encoded["attention_mask"].sum(dim=1).tolist()):
            name = f"captions[{number}]" if names is None else names[number]
            self._warn_if_unread(name, captions[number], length)
        return encoded

    def caption_remarks(self, caption: str) -> list[str]:
        """What the model will not read of a caption, a sentence each, for who asks by it; empty if it reads all."""
        text, remarks = self._as_read(caption), []
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        longest = getattr(self, "max_text_length", self.tokenizer.model_max_length)
        if len(ids) > longest:
            remarks.append(f"“{caption:.40}…” is longer than the model reads: its end is left out.")
        if is_unread(caption, self.tokenizer):
            remarks.append(f"The model knows hardly a word of “{caption:.40}”: what is found by it means nothing.")
        elif unknown := list(dict.fromkeys(self._unknown_words(text))):
            remarks.append(f"The model does not know, and ignores: {', '.join(unknown[:10])}.")
        return remarks

    def _as_read(self, caption: str) -> str:
        """A caption as the tokenizer gets it."""
        return caption

    def _unknown_words(self, text: str) -> list[str]:
        """The words of a caption, as it is read, that the vocabulary lacks."""
        bare = {"add_special_tokens": False, "verbose": False}
        return [
            word for word in text.split() if self.tokenizer.unk_token_id in self.tokenizer(word, **bare)["input_ids"]
        ]

    def _warn_if_unread(self, name: str, caption: str, num_tokens: int) -> bool:
        """Warns, once, of a caption whose words the vocabulary does not know; see `is_unread`.

        Args:
            num_tokens: of the whole caption. Where there are few for its length, it is not looked at more closely.
        """
        is_spelt = 2 * num_tokens >= len(caption) or not caption.isascii()
        if not is_spelt or "unread" in self.__dict__.get("_warned", ()) or not is_unread(caption, self.tokenizer):
            return False
        if self._is_first("unread"):
            logger.warning(
                "%s: most words of the caption %r are not in this model's vocabulary, which spells them letter by "
                "letter or leaves them out: what is ranked by it means nothing. Write it in the language that the "
                "model was trained in. There are no warnings of further captions like it.",
                *(name, caption[:200]),
            )
        return True

    def _is_first(self, what: str) -> bool:
        """Whether to warn now of a kind of captions: once per process, and among workers only in the first."""
        warned, worker = self.__dict__.setdefault("_warned", set()), get_worker_info()
        if what in warned or (worker is not None and worker.id > 0):
            return False
        warned.add(what)
        return True

    def augment_crop(self, crop: Image.Image, rng: np.random.Generator) -> Image.Image | None:
        """A crop as training sees it, changed at random; None: as `training.augmentation` changes it, for FAFA."""
        return None

    def augment_caption(self, caption: str, rng: np.random.Generator) -> str:
        """A caption as training sees it, changed at random; here as it is."""
        return caption

    def for_images(self) -> "RetrieverProcessor":
        """A copy for images only, without the tokenizer: small enough to travel with every batch."""
        for_images = copy.copy(self)
        for_images.tokenizer = None
        return for_images

    def image_settings(self) -> dict[str, Any]:
        """All that decides the pixel values of an image, for a manifest."""
        return json.loads(self.image_processor.to_json_string())  # through JSON, as a manifest gives it back: no tuples

    def caption_settings(self) -> dict[str, Any]:
        """All that decides the ids of a caption, for a manifest."""
        return {
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_text_length": self.tokenizer.model_max_length,
        }

    def misfit(self, model: Retriever) -> str | None:
        """Why it is not the processor of a model, apart from the sizes of images and vocabulary; None if it is."""
        return None


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A hash over all that turns captions into ids: vocabulary, normaliser, splitting, special tokens, truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        whole = {
            "vocabulary": tokenizer.get_vocab(),
            "settings": tokenizer.init_kwargs,
            "class": type(tokenizer).__name__,
        }
    else:
        whole = json.loads(backend.to_str())
        del whole["truncation"], whole["padding"]  # those of the last call; a processor passes them with every call
    whole["special tokens"] = tokenizer.special_tokens_map
    whole["sides"] = [tokenizer.truncation_side, tokenizer.padding_side]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:32]


def check_contract(thing: Any, contract: type) -> None:
    """Refuses what lacks a part of a contract, `Retriever` or `RetrieverProcessor`.

    Raises:
        TypeError: the message names what is missing.
    """
    thing = thing.get_base_model() if hasattr(thing, "get_base_model") else thing  # within peft's
    lacking = [name for name in vars(contract) if not name.startswith("_") and not hasattr(type(thing), name)]
    if lacking:
        raise TypeError(
            f"{type(thing).__name__} is no {contract.__name__}: it lacks {', '.join(lacking[:5])}. "
            "docs/your-own-model.md says how to write one"
        )


__all__ = ["QUERY_MODES", "CardFacts", "Retriever", "RetrieverProcessor", "check_contract", "tokenizer_fingerprint"]
