"""The losses of FAFA, each a function of tensors: alignment, feature diversity, masked feature reasoning."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LABEL_EPSILON = 1e-8  # released code: added to the label distribution before its logarithm
UNCERTAINTY_EPSILON = 1e-6  # released code: added to variances in distribution uncertainty


def group_labels(group_ids: Tensor, alpha: float) -> Tensor:
    """Label distribution of a batch: 1 for the own target, α for others of its group; rows sum to one (paper, FDA).

    Args:
        group_ids: `(batch_size,)`, equal for triplets of one group (`cpr_id`).
        alpha: 1.0 treats a whole group as correct, as the released code does.

    Returns:
        `(batch_size, batch_size)`, fp32.
    """
    same_group = (group_ids[:, None] == group_ids[None, :]).float()
    own = torch.eye(group_ids.shape[0], device=group_ids.device)
    labels = alpha * same_group + (1.0 - alpha) * own
    return labels / labels.sum(dim=1, keepdim=True)


def alignment_loss(logits: Tensor, labels: Tensor, divergence: str = "reverse", directions: str = "mean") -> Tensor:
    """Divergence between softmax(logits) and labels, over rows and over columns, averaged (paper, FDA).

    Args:
        logits: `(batch_size, batch_size)`, scores over temperature.
        labels: `(batch_size, batch_size)`, symmetric up to row normalisation, rows summing to one.
        divergence: `"reverse"`, KL(softmax ‖ labels), the paper's; `"forward"`, KL(labels ‖ softmax).
        directions: `"sum"` adds the two instead of averaging them (SDM).
    """
    both = row_divergence(logits, labels, divergence) + row_divergence(logits.mT, labels, divergence)
    return both if directions == "sum" else both / 2


def row_divergence(
    logits: Tensor, labels: Tensor, divergence: str = "reverse", epsilon: float = LABEL_EPSILON
) -> Tensor:
    """Divergence between softmax(logits) and labels over rows, their mean; `epsilon` is added to the labels."""
    log_predictions = logits.log_softmax(dim=1)
    log_labels = (labels + epsilon).log()
    if divergence == "reverse":
        return (log_predictions.exp() * (log_predictions - log_labels)).sum(dim=1).mean()
    return (labels * (log_labels - log_predictions)).sum(dim=1).mean()


def caption_loss(logits: Tensor, group_ids: Tensor) -> Tensor:
    """Caption-to-image contrastive term of BLIP-2's first stage: whole captions against target images.

    Everybody in a group wears what the caption says, so it fits all of them alike.

    Args:
        logits: `(batch_size, batch_size)`, scores of captions and targets over temperature.
        group_ids: `(batch_size,)`, equal for triplets of one group.
    """
    return alignment_loss(logits, group_labels(group_ids, 1.0), "forward")


def feature_diversity_loss(
    target_embeds: Tensor,
    margin: float = 0.5,
    scope: str = "batch",
    sample_size: int | None = None,
    max_elements: int = 2**26,
    at_random: bool = True,
) -> Tensor:
    """Mean hinge on the cosine similarity of target tokens above a margin (paper, FD).

    More than `max_elements` similarities are computed block by block, and again for the gradient, so that memory stays
    that of one block, however large the batch is.

    Args:
        target_embeds: `(batch_size, num_tokens, dim)`.
        margin: similarity up to which a pair costs nothing.
        scope: `"batch"` compares all tokens of the batch (released code), `"image"` those of each image.
        sample_size: for `"batch"`, sample at most so many tokens at random (released code: 1024).
        max_elements: similarities in a block, for `"batch"`; by default all those of 256 triplets of 32 tokens.
        at_random: False spreads the sample evenly over the batch, so that the loss is reproducible.
    """
    tokens = F.normalize(target_embeds.float(), dim=-1)
    if scope == "batch":
        tokens = tokens.flatten(0, 1)
        if sample_size is not None and tokens.shape[0] > sample_size:
            if at_random:
                chosen = torch.randperm(tokens.shape[0], device=tokens.device)[:sample_size]
            else:
                chosen = torch.arange(sample_size, device=tokens.device) * tokens.shape[0] // sample_size
            tokens = tokens[chosen]
        if tokens.shape[0] ** 2 > max_elements:
            num_rows = max(1, max_elements // tokens.shape[0])
            sums = [
                checkpoint(
                    _sum_of_hinges, tokens, first, num_rows, margin, use_reentrant=False, preserve_rng_state=False
                )
                for first in range(0, tokens.shape[0], num_rows)
            ]
            return torch.stack(sums).sum() / tokens.shape[0] ** 2
    return _hinges(tokens, tokens, torch.arange(tokens.shape[-2], device=tokens.device), margin).mean()


def _sum_of_hinges(tokens: Tensor, first: int, num_rows: int, margin: float) -> Tensor:
    rows = torch.arange(first, min(first + num_rows, tokens.shape[0]), device=tokens.device)
    return _hinges(tokens[first : first + num_rows], tokens, rows, margin).sum()


def _hinges(some: Tensor, tokens: Tensor, rows: Tensor, margin: float) -> Tensor:
    """(..., num_some, num_tokens); `rows` are the places of `some` among the tokens."""
    with torch.autocast(tokens.device.type, enabled=False):  # it would turn this product into half precision
        similarities = some @ tokens.mT
    # A token is not compared with itself; the mean still counts the diagonal, as in the released code.
    itself = rows[:, None] == torch.arange(tokens.shape[-2], device=tokens.device)
    return (similarities.masked_fill(itself, -1.0) - margin).clamp(min=0.0)


def masked_feature_reasoning_loss(
    query_states: Tensor, target_states: Tensor, predictor: nn.Module, query_mask: Tensor, target_mask: Tensor
) -> Tensor:
    """Predicts masked entries of one state from the rest of it and the whole other state (paper, MFR).

    Args:
        query_states: `(batch_size, hidden_size)`, the query's [CLS] state before projection.
        target_states: `(batch_size, hidden_size)`, the mean of the target's token states before projection.
        predictor: maps `(batch_size, 2 * hidden_size)` = [masked ; whole] to `(batch_size, hidden_size)`.
        query_mask: `(batch_size, hidden_size)`, 1 where an entry is masked; likewise `target_mask`.

    Returns:
        scalar: squared error over the masked entries, mean of both directions.
    """
    from_target = _masked_error(query_states, target_states, predictor, query_mask)
    from_query = _masked_error(target_states, query_states, predictor, target_mask)
    return (from_target + from_query) / 2


def _masked_error(masked: Tensor, whole: Tensor, predictor: nn.Module, mask: Tensor) -> Tensor:
    visible = masked * (1.0 - mask).to(masked.dtype)  # a model in half precision stays in it
    prediction = predictor(torch.cat([visible, whole], dim=-1)).float()
    return ((prediction - masked.float()).square() * mask).sum() / mask.sum().clamp(min=1.0)


def masked_predictor(size: int, hidden_size: int) -> nn.Sequential:
    """The network of masked feature reasoning: from two states of `size` to one, by a hidden layer (paper, MFR)."""
    return nn.Sequential(nn.Linear(2 * size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, size))


def sample_mask(states: Tensor, share: float, at_random: bool) -> Tensor:
    """A mask of the shape of some states, 1 where an entry is masked, fp32; random, or as `spread_mask` makes it."""
    if not at_random:
        return spread_mask(states.shape, share, states.device)
    return (torch.rand(states.shape, device=states.device) < share).float()


def spread_mask(shape: torch.Size, share: float, device: torch.device) -> Tensor:
    """A reproducible mask for evaluation: it touches no random state, and is the same on every device.

    The fractions of the golden ratio's multiples are spread more evenly than random numbers (Weyl's sequence, in whole
    numbers of 32 bits).

    Returns:
        fp32 of this shape, 1 where an entry is masked, which is a `share` of them.
    """
    numbers = torch.arange(math.prod(shape), device=device) * 0x9E3779B9 % 2**32
    return (numbers < share * 2**32).float().view(shape)


def distribution_uncertainty(states: Tensor, mean_noise: Tensor, std_noise: Tensor) -> Tensor:
    """Re-samples the batch statistics of each token position (released code; not in the paper).

    Args:
        states: `(batch_size, num_tokens, hidden_size)`, at least two images.
        mean_noise: `(num_tokens, hidden_size)`, standard normal; likewise `std_noise`.

    Returns:
        `(batch_size, num_tokens, hidden_size)`.
    """
    mean = states.mean(dim=0)
    std = (states.var(dim=0) + UNCERTAINTY_EPSILON).sqrt()
    spread_of_mean = (mean.var(dim=0, keepdim=True) + UNCERTAINTY_EPSILON).sqrt()
    spread_of_std = (std.var(dim=0, keepdim=True) + UNCERTAINTY_EPSILON).sqrt()
    return (states - mean) / std * (std + std_noise * spread_of_std) + mean + mean_noise * spread_of_mean
