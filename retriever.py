"""The contract: what every model of this package promises, and all that may be asked of one.

Trainer, collator, evaluation, feature store, gallery and cards ask for nothing else and name no model. A model is a
`PreTrainedModel` with `Retriever` before it in its bases, a processor a `ProcessorMixin` with `RetrieverProcessor`
before it; what is not written here has a default that fits most models. Classes are never compared, since a model's
remote code comes with a copy of this file: `lacking` tells what an object does not offer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .checks_fafa import check_scored
from .scoring_fafa import topk_mean_similarity

# Kinds of query: what each gives `get_query_features`.
QUERY_MODES = {
    "image+caption": ("pixel_values", "input_ids", "attention_mask"),
    "caption": ("input_ids", "attention_mask"),
    "image": ("pixel_values",),
}


@dataclass(frozen=True)
class CardFacts:
    """What a model's card says of its method; the run, the data and the figures come from elsewhere.

    Args:
        method: its name, for headings: "FAFA".
        summary: one sentence of Markdown: what it does, and its paper.
        sizes: part -> how large it is, the rows of the card's table of sizes.
        citation: BibTeX.
        tags: for the Hub, besides those that all models of the package have.
    """

    method: str
    summary: str
    sizes: Mapping[str, str] = field(default_factory=dict)
    citation: str = ""
    tags: Sequence[str] = ()


class Retriever:
    """What every model promises. Without a default are the first four and `feature_shape`.

    A query becomes one vector, a target image one or several, all of unit length in one space; the score of a query
    and a target is the mean of the query's `num_top_tokens` largest dot products with the target's vectors.
    """

    # Settings of the configuration, or of those within it, that provably decide no feature; whatever is not named, here
    # or in `retrieval.fingerprint`, counts. Likewise weights, by any part of their names: those of losses alone.
    settings_of_losses: frozenset[str] = frozenset()
    weights_of_losses: frozenset[str] = frozenset()
    # Weights that get no decay, by any part of their names, besides biases and norms.
    weights_without_decay: tuple[str, ...] = ()
    # LoRA: side -> regular expression of the layers it adapts; layers that train whole beside them; and parameters of
    # no layer that do, by name.
    lora_targets: Mapping[str, str] = {}
    lora_trained_whole: Sequence[str] = ()
    lora_parameters: Sequence[str] = ()

    # Features and scores

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries, of reference image and caption or of either alone: `(num_queries, dim)`, unit length."""
        raise NotImplementedError

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images: `(num_images, num_tokens, dim)`, each token of unit length."""
        raise NotImplementedError

    @property
    def feature_shape(self) -> tuple[int, int]:
        """`(num_tokens, dim)` of a target's features."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, int]:
        """`(height, width)` of the images that the model takes, in pixels."""
        raise NotImplementedError

    @property
    def features_dtype(self) -> torch.dtype:
        """Of the features."""
        return self.dtype

    @property
    def num_top_tokens(self) -> int:
        """How many of a target's vectors the score looks at."""
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

    # Training: the seam at which gradient caching and gathering cut

    def training_states(self, **batch: Tensor | None) -> tuple[Tensor | None, ...]:
        """What the model makes of each triplet of a batch by itself, a named tuple of tensors of as many rows, or None.

        Args:
            batch: what the collator makes, without `group_ids`: `pixel_values`, `input_ids`, `attention_mask`,
                `target_pixel_values`, and with `reads_target_captions` those of whole captions.
        """
        raise NotImplementedError

    def losses(
        self, states: tuple[Tensor | None, ...], group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> Any:
        """What compares the triplets of a batch, from their states.

        Args:
            states: of `training_states`.
            group_ids: `(batch_size,)`, equal for triplets of one group; None: every triplet its own.
            gather_across_processes: of the batches of all processes together, as one process would.

        Returns:
            a `ModelOutput` with `loss`, its terms as fields that begin with `loss_`, `query_embeds` `(batch_size, dim)`
            and `target_embeds` `(batch_size, num_tokens, dim)`.
        """
        raise NotImplementedError

    @property
    def reads_target_captions(self) -> bool:
        """Whether the loss reads captions that describe the targets whole."""
        return False

    def warmup_settings(self, contrastive: bool, captions: bool) -> dict[str, Any]:
        """Settings of the configuration while a warm-up lasts; after it they are what they were.

        Args:
            contrastive: within `contrastive_steps`, in which plain cross-entropy trains.
            captions: within `caption_steps`, in which whole captions train, too.
        """
        return {}

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        """The vision tower in the order in which it computes: what comes before its blocks, then each of them."""
        return ()

    # Words about itself

    def card_facts(self) -> CardFacts:
        """What its card says of the method."""
        return CardFacts(type(self).__name__, "")

    def check_processor(self, processor: Any) -> str | None:
        """What makes a processor not this model's own, beyond sizes and vocabulary, which `check_fit` compares."""
        return None


class RetrieverProcessor:
    """What every processor promises beside being called with `images` and `text`.

    An image goes three ways: opened as a crop, which training augments; made the size that the model takes, still of
    8-bit values, as it travels between processes; made into pixel values, many at once.
    """

    def open_crop(self, image: Any, name: str = "image") -> Any:
        """An image as a PIL image: upright, RGB. `name` is what errors call it.

        Raises:
            UnreadableImageError: it cannot be decoded. FileNotFoundError, InaccessibleImageError: it cannot be had.
        """
        raise NotImplementedError

    def resize_crop(self, crop: Any) -> Any:
        """A crop as an array of 8-bit values, of the size that the model takes."""
        raise NotImplementedError

    def to_pixels(self, crops: Sequence[Any]) -> Any:
        """Resized crops as `(num_images, 3, height, width)` of float32, rescaled and normalised."""
        raise NotImplementedError

    def encode_captions(self, captions: Sequence[str], names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Captions as `input_ids` and `attention_mask`, `(num_captions, length)`; `names` are what errors call them."""
        raise NotImplementedError

    def image_settings(self) -> dict[str, Any]:
        """All that decides the pixel values of an image, for a manifest."""
        raise NotImplementedError

    def caption_settings(self) -> dict[str, Any]:
        """All that decides the ids of a caption, for a manifest."""
        raise NotImplementedError


def lacking(thing: Any, contract: type) -> list[str]:
    """The names of a contract, `Retriever` or `RetrieverProcessor`, that an object does not offer."""
    return [name for name in vars(contract) if not name.startswith("_") and not hasattr(type(thing), name)]
