"""The noise-robust losses of SynTBPR (arXiv 2503.22171) and TBPS-CLIP, plain contrast, and SigLIP's own."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...losses_fafa import group_labels, row_divergence

MAX_SCALE = 100.0  # released code: of the learnt scale of cosines
SOFT_LABELS = ("sigmoid", "softmax")


def noise_robust_losses(
    image_features: Tensor,
    text_features: Tensor,
    soft_image_features: Tensor,
    soft_text_features: Tensor,
    group_ids: Tensor,
    log_scale: Tensor | float,
    alpha: float = 0.005,
    soft_label: str | None = "sigmoid",
    epsilon: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """N-ITC and R-ITC of SynTBPR (released code): both directions, soft labels from a second pass of the same weights.

    With s = scale * cosine, and s' that of the second pass, the label of a row is α·σ(s') + (1 - α)·y, divided by its
    sum, where y is even over the images or captions of the same identity. N-ITC is the cross-entropy of softmax(s)
    against it; R-ITC is KL(softmax(s) ‖ label + ε). Both are means over the batch, and over the two directions.

    α acts by the size of the batch: σ is near 1 for every positive cosine, so that at 0.005 and 320 pairs more than
    half of a row's label lies on other people's captions.

    Args:
        image_features: `(batch_size, dim)`, not normalised; likewise `text_features`.
        soft_image_features: `(batch_size, dim)`, of the second pass, not normalised; no gradient flows into them.
            Likewise `soft_text_features`.
        group_ids: `(batch_size,)`, the identities: pairs of one are all correct for one another.
        log_scale: scalar, the logarithm of the scale, which is clamped at 100. A clamped one still gets the gradient,
            so that it may come down again.
        alpha: share of the second pass in the label.
        soft_label: σ, `"sigmoid"` or `"softmax"`; None: the label is y.
        epsilon: ε of R-ITC.

    Returns:
        N-ITC and R-ITC, scalars in fp32.

    Raises:
        ValueError: shapes that do not fit, an unknown `soft_label`, α outside [0, 1] or ε not above 0.
    """
    check_loss_settings(alpha, soft_label, epsilon)
    _check_features(image_features, text_features, soft_image_features, soft_text_features, group_ids=group_ids)
    logits = scaled_cosines(image_features, text_features, log_scale)
    labels = (hard := group_labels(group_ids, 1.0)), hard
    if soft_label is not None:
        with torch.no_grad():
            soft = scaled_cosines(soft_image_features, soft_text_features, log_scale)
            labels = [_softened(hard, half, alpha, soft_label) for half in (soft, soft.mT)]
    directions = list(zip((logits, logits.mT), labels, strict=True))
    n_itc = sum(_cross_entropy(rows, label) for rows, label in directions) / 2
    r_itc = sum(row_divergence(rows, label, epsilon=epsilon) for rows, label in directions) / 2
    return n_itc, r_itc


def sigmoid_loss(logits: Tensor, group_ids: Tensor) -> Tensor:
    """SigLIP's own loss (arXiv 2303.15343, algorithm 1): every pair by itself, correct or not.

    Args:
        logits: `(batch_size, batch_size)`, scale * cosine + bias.
        group_ids: `(batch_size,)`, identities.

    Returns:
        scalar: the sum over a row, mean over rows.
    """
    signs = 2.0 * (group_ids[:, None] == group_ids[None, :]).float() - 1.0
    return -F.logsigmoid(signs * logits.float()).sum(dim=1).mean()


def scaled_cosines(image_features: Tensor, text_features: Tensor, log_scale: Tensor | float) -> Tensor:
    """Cosines of images and captions, over the temperature: `(num_images, num_captions)`, fp32."""
    log_scale = torch.as_tensor(log_scale, dtype=torch.float32, device=image_features.device)
    surplus = (log_scale.detach() - math.log(MAX_SCALE)).clamp(min=0.0)
    with torch.autocast(image_features.device.type, enabled=False):
        images, texts = (F.normalize(features.float(), dim=-1) for features in (image_features, text_features))
        return (log_scale - surplus).exp() * (images @ texts.mT)


def check_loss_settings(alpha: float, soft_label: str | None, epsilon: float) -> None:
    """Refuses settings under which the losses say nothing.

    Raises:
        ValueError: it names the setting.
    """
    if isinstance(alpha, bool) or not 0.0 <= alpha <= 1.0:  # NaN is nowhere
        raise ValueError(f"alpha is {alpha}, expected a number from 0 to 1")
    if soft_label is not None and soft_label not in SOFT_LABELS:
        raise ValueError(f"soft_label is {soft_label!r:.60}, expected {', '.join(map(repr, SOFT_LABELS))} or None")
    if isinstance(epsilon, bool) or not 0.0 < epsilon < 1.0:
        raise ValueError(f"epsilon is {epsilon}, expected a number above 0 and below 1")


def _check_features(*features: Tensor, group_ids: Tensor) -> None:
    shapes = [tuple(each.shape) for each in features]
    if features[0].ndim != 2 or len(set(shapes)) > 1 or tuple(group_ids.shape) != shapes[0][:1]:
        raise ValueError(
            "expected features of images, captions and their second pass, (batch_size, dim) all four, and group_ids "
            f"(batch_size,), got {', '.join(map(str, shapes))} and {tuple(group_ids.shape)}"
        )
    if shapes[0][0] == 0:
        raise ValueError("the features hold no pair: leave empty batches out")


def _softened(hard: Tensor, logits: Tensor, alpha: float, soft_label: str) -> Tensor:
    soft = logits.sigmoid() if soft_label == "sigmoid" else logits.softmax(dim=1)
    labels = alpha * soft + (1.0 - alpha) * hard
    return labels / labels.sum(dim=1, keepdim=True)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return -(labels * logits.log_softmax(dim=1)).sum(dim=1).mean()
