"""N-ITC and R-ITC: equal to the released code, and to their formulas written out row by row."""

import json
import math

import pytest
import torch
from tiny import GOLDEN, golden_tensors
from torch.nn import functional as F

from fafa.models.dual_encoder import noise_robust_losses
from fafa.models.dual_encoder.losses import sigmoid_loss

CASES = json.loads((GOLDEN / "syntbpr_public.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_golden_vectors(case):
    golden, name = golden_tensors("syntbpr_public"), case["case"]
    image, text = (golden[f"in.{side}_features"].clone().requires_grad_() for side in ("image", "text"))
    log_scale = torch.tensor(case["log_scale"], requires_grad=True)
    n_itc, r_itc = noise_robust_losses(
        image,
        text,
        golden["in.soft_image_features"],
        golden["in.soft_text_features"],
        golden["in.ids"],
        log_scale,
        alpha=case["alpha"],
        soft_label=case["soft_label"] if case["softened"] else None,
        epsilon=case["epsilon"],
    )
    torch.testing.assert_close(n_itc, golden[f"{name}.nitc"], rtol=0, atol=1e-4)
    torch.testing.assert_close(r_itc, golden[f"{name}.ritc"], rtol=0, atol=1e-4)
    (n_itc + r_itc).backward()
    torch.testing.assert_close(image.grad, golden[f"{name}.grad_image"], rtol=0, atol=2e-4)
    torch.testing.assert_close(text.grad, golden[f"{name}.grad_text"], rtol=0, atol=2e-4)
    if math.exp(case["log_scale"]) <= 100:  # else it was clamped, elsewhere
        torch.testing.assert_close(log_scale.grad, golden[f"{name}.grad_log_scale"], rtol=0, atol=2e-4)


def features(size: int, dim: int = 5, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(size, dim, generator=generator, dtype=torch.float64) for _ in range(4)]


def by_hand(image, text, soft_image, soft_text, ids, log_scale, alpha, soft_label, epsilon) -> tuple[float, float]:
    """The docstring in loops: every row of either direction by itself, in Python's own numbers."""
    scale, size = min(math.exp(log_scale), 100.0), len(ids)

    def cosines(a, b):
        return (scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).mT).tolist()

    n_itc = r_itc = 0.0
    for rows, soft_rows in (
        (cosines(image, text), cosines(soft_image, soft_text)),
        (cosines(text, image), cosines(soft_text, soft_image)),
    ):
        for i in range(size):
            same = [float(ids[i] == ids[j]) for j in range(size)]
            label = [(1 - alpha) * y / sum(same) for y in same] if soft_label else [y / sum(same) for y in same]
            total = sum(math.exp(s) for s in soft_rows[i])
            for j in range(size if soft_label else 0):
                s = soft_rows[i][j]
                label[j] += alpha * (1 / (1 + math.exp(-s)) if soft_label == "sigmoid" else math.exp(s) / total)
            label = [t / sum(label) for t in label]
            logs = [s - math.log(sum(math.exp(other) for other in rows[i])) for s in rows[i]]
            n_itc -= sum(t * log for t, log in zip(label, logs, strict=True)) / (2 * size)
            r_itc += sum(math.exp(log) * (log - math.log(t + epsilon)) for t, log in zip(label, logs, strict=True)) / (
                2 * size
            )
    return n_itc, r_itc


@pytest.mark.parametrize(
    ("ids", "settings"),
    [
        ([4, 4, 7, 1, 4, 2, 7], (0.005, "sigmoid", 1e-8)),
        ([0, 1, 2], (0.5, "softmax", 1e-2)),
        ([3] * 4, (0.3, "sigmoid", 1e-8)),  # everybody is the same person
        ([9], (0.005, "sigmoid", 1e-8)),  # a batch of one
        ([9], (0.0, None, 1e-8)),
        ([5, 5, 6, 8], (0.7, None, 1e-4)),  # alpha does not act on plain labels
    ],
    ids=str,
)
def test_the_formulas_at_other_sizes(ids, settings):
    given = features(len(ids))
    log_scale = torch.tensor(1.3)
    found = noise_robust_losses(*given, torch.tensor(ids), log_scale, *settings)
    expected = by_hand(*given, ids, 1.3, *settings)
    assert [float(loss) for loss in found] == pytest.approx(expected, abs=1e-5)
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 for loss in found)


def test_the_loss_does_not_depend_on_the_length_of_features_and_teaches_nothing_to_the_second_pass():
    image, text, soft_image, soft_text = (given.float().requires_grad_() for given in features(4))
    ids = torch.tensor([0, 0, 1, 2])
    losses = noise_robust_losses(image, text, soft_image, soft_text, ids, 2.0, alpha=0.5)
    longer = noise_robust_losses(7 * image, text, soft_image, 0.1 * soft_text, ids, 2.0, alpha=0.5)
    torch.testing.assert_close(losses, longer)
    sum(losses).backward()
    assert soft_image.grad is soft_text.grad is None and image.grad.abs().max() > 0


def test_a_scale_beyond_100_counts_as_100_and_may_come_down_again():
    given, ids = features(5), torch.arange(5)
    log_scale = torch.tensor(6.0, requires_grad=True)
    losses = noise_robust_losses(*given, ids, log_scale)
    torch.testing.assert_close(losses, noise_robust_losses(*given, ids, math.log(100.0)))
    sum(losses).backward()
    assert log_scale.grad.abs() > 0


def test_autocast_does_not_reach_the_losses():
    given, ids = [each.float() for each in features(6)], torch.arange(6)
    expected = noise_robust_losses(*given, ids, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(noise_robust_losses(*given, ids, 2.0), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.5}, "alpha is 1.5, expected a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"soft_label": "hard"}, "soft_label is 'hard', expected 'sigmoid', 'softmax' or None"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"group_ids": torch.arange(3)}, r"group_ids \(batch_size,\), got .*\(3,\)"),
        ({"text_features": torch.ones(4, 6)}, "expected features of images, captions and their second pass"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_loss_is_refused(change, message):
    names = ("image_features", "text_features", "soft_image_features", "soft_text_features")
    given = dict(zip(names, features(4), strict=True)) | {"group_ids": torch.arange(4), "log_scale": 1.0}
    with pytest.raises(ValueError, match=message):
        noise_robust_losses(**(given | change))


def test_siglips_loss_of_two_pairs():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    expected = sum(math.log1p(math.exp(-z)) for z in (2.0, 1.0, -0.5, 3.0)) / 2
    assert float(sigmoid_loss(logits, torch.tensor([0, 1]))) == pytest.approx(expected)
