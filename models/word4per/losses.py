"""The losses of Word4Per, each a function of tensors (paper; released code)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...losses_fafa import alignment_loss, group_labels, row_divergence
from ...scoring_fafa import topk_mean_similarity

MLM_IGNORED = 0  # label of a word that is not masked


def sdm_loss(
    image_features: Tensor,
    text_features: Tensor,
    identities: Tensor,
    scale: float = 50.0,
    same_identity: float = 1.0,
    image_ids: Tensor | None = None,
    other_images: float = 0.3,
) -> Tensor:
    """Similarity-distribution matching: FDA's divergence over cosines, the *sum* of both directions, at a fixed scale.

    Args:
        image_features: `(batch_size, dim)`; any length. Likewise `text_features`.
        identities: `(batch_size,)`, integers.
        scale: of cosines; 50 is a temperature of 0.02.
        same_identity: label of a pair of the same identity, beside 1 of a pair's own.
        image_ids: `(batch_size,)`, of the images; then a pair of the same image has label 1, and one of another image
            of the same identity `other_images` (released code, an option that its script leaves off).
    """
    labels = group_labels(identities, same_identity)
    if image_ids is not None:
        identical, same_image = ((ids[:, None] == ids[None, :]).float() for ids in (identities, image_ids))
        labels = same_image + other_images * (identical - same_image)
        labels = labels / labels.sum(dim=0)  # of columns, so that a row need not sum to one (released code)
    return alignment_loss(_logits(image_features, text_features, scale), labels, directions="sum")


def itc_loss(image_features: Tensor, text_features: Tensor, scale: float = 50.0) -> Tensor:
    """Plain contrastive learning: cross-entropy of each row and column of cosines for its own, averaged."""
    logits = _logits(image_features, text_features, scale)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.mT, own)) / 2


def id_loss(image_logits: Tensor, text_logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of identities, by the image and by the text, averaged.

    Args:
        image_logits: `(batch_size, num_identities)`; likewise `text_logits`.
        classes: `(batch_size,)`.
    """
    return (F.cross_entropy(image_logits, classes) + F.cross_entropy(text_logits, classes)) / 2


def cmpm_loss(image_features: Tensor, text_features: Tensor, identities: Tensor) -> Tensor:
    """Cross-modal projection matching: a side's features are projected onto the other's directions; both ways, summed.

    Labels of a row have unit length here, where in SDM they sum to one (released code).
    """
    labels = F.normalize((identities[:, None] == identities[None, :]).float(), dim=1)
    images, texts = image_features.float(), text_features.float()
    with torch.autocast(images.device.type, enabled=False):  # it would turn these products into half precision
        by_image, by_text = images @ F.normalize(texts, dim=-1).mT, texts @ F.normalize(images, dim=-1).mT
    return row_divergence(by_image, labels) + row_divergence(by_text, labels)


def masked_word_errors(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropies of the words that were masked, a row for each caption; rows add up over a batch.

    The loss is the sum of the first column over that of the second (released code).

    Args:
        scores: `(batch_size, length, vocab_size)`.
        labels: `(batch_size, length)`, the word that was there, or `MLM_IGNORED` where none was masked.

    Returns:
        `(batch_size, 2)`: the sum of a caption's cross-entropies, and of how many words.
    """
    errors = F.cross_entropy(scores.flatten(0, 1).float(), labels.flatten(), ignore_index=MLM_IGNORED, reduction="none")
    return torch.stack([errors.view(labels.shape).sum(dim=1), (labels != MLM_IGNORED).sum(dim=1).float()], dim=1)


def _logits(image_features: Tensor, text_features: Tensor, scale: float) -> Tensor:
    texts, images = (F.normalize(features.float(), dim=-1) for features in (text_features, image_features))
    return scale * topk_mean_similarity(texts, images[:, None], 1)
