"""CoAlign's losses equal what numpy makes of our reading of them, on both backbones."""

import numpy as np
import pytest
import torch
from tiny_coalign import clip_model, small_model

from fafa.gathering_fafa import TripletStates

GROUPS = torch.tensor([4, 9, 4])


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def kl(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * (np.log(first) - np.log(second))).sum(axis=1).mean())


def states_of(model, num_tokens: int) -> TripletStates:
    size = 128 if num_tokens > 1 else 64
    generator = torch.Generator().manual_seed(1)
    return TripletStates(
        torch.randn(3, size, generator=generator), torch.randn(3, num_tokens, size, generator=generator)
    )


@pytest.fixture(params=["blip2", "clip"])
def model_and_states(request):
    model = small_model() if request.param == "blip2" else clip_model()
    return model, states_of(model, 8 if request.param == "blip2" else 1)


@pytest.mark.parametrize(("beta", "divergence"), [(0.5, "reverse"), (0.25, "forward"), (0.0, "reverse")])
def test_global_contrastive_alignment(model_and_states, beta, divergence):
    """Labels 1 on the diagonal and β for the same TID, over the maximum over tokens, both ways."""
    model, states = model_and_states
    model.config.gca_beta, model.config.gca_divergence = beta, divergence
    with torch.no_grad():
        output = model.losses(states, GROUPS)
        queries, targets, _ = (None if one is None else one.double().numpy() for one in model.embed(states))
    scores = np.einsum("qd,ntd->qnt", queries, targets).max(axis=2) / 0.07
    labels = np.array([[1, 0, beta], [0, 1, 0], [beta, 0, 1]])
    labels = labels / labels.sum(axis=1, keepdims=True)
    if divergence == "reverse":
        expected = (kl(softmax(scores), labels + 1e-8) + kl(softmax(scores.T), labels + 1e-8)) / 2
    else:  # 0 log 0 is 0
        floor = np.maximum(labels, 1e-8) + 1e-8
        expected = (
            sum((labels * (np.log(floor) - np.log(softmax(one)))).sum(1).mean() for one in (scores, scores.T)) / 2
        )
    assert output.loss_gca.item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(output.logits.double(), torch.from_numpy(scores), rtol=0, atol=1e-4)


def test_local_contextual_reasoning(model_and_states):
    """Squared error on masked entries over their number, of both directions; 0.3 of the entries are masked."""
    model, states = model_and_states
    model.train()
    torch.manual_seed(3)
    masks = [(torch.rand(states.query.shape) < 0.3).numpy() for _ in range(2)]
    torch.manual_seed(3)
    with torch.no_grad():
        output = model.losses(states, GROUPS)
        weights = [tensor.double().numpy() for tensor in model.lcr_predictor.parameters()]
    query, target = states.query.double().numpy(), states.target.double().numpy().mean(axis=1)

    def error(masked, whole, mask):
        given = np.concatenate([np.where(mask, 0, masked), whole], axis=1)
        predicted = np.maximum(given @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]
        return ((predicted - masked) ** 2)[mask].mean()

    expected = (error(query, target, masks[0]) + error(target, query, masks[1])) / 2
    assert output.loss_lcr.item() == pytest.approx(expected, abs=1e-4)
    assert output.loss.item() == pytest.approx(output.loss_gca.item() + 0.5 * expected, abs=1e-4)
    shapes = [tensor.shape for tensor in weights]
    size, hidden = query.shape[1], model.config.lcr_hidden_size
    assert shapes == [(hidden, 2 * size), (hidden,), (size, hidden), (size,)]


def test_in_eval_mode_the_loss_repeats_and_draws_nothing(model_and_states):
    model, states = model_and_states
    before = torch.get_rng_state()
    assert torch.equal(model.losses(states, GROUPS).loss, model.losses(states, GROUPS).loss)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_local_reasoning_global_alignment_is_all(model_and_states):
    model, states = model_and_states
    model.config.lcr_weight = 0.0
    output = model.losses(states, GROUPS)
    assert torch.equal(output.loss, output.loss_gca)


def test_fusion_on_clip_begins_as_the_sum():
    model = clip_model()
    torch.nn.init.zeros_(model.fusion[-1].weight)
    pixels, ids = torch.randn(2, 3, 96, 96), torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    mask = (ids > 0).long()
    image, caption = model.get_query_features(pixel_values=pixels), model.get_query_features(None, ids, mask)
    torch.testing.assert_close(
        model.get_query_features(pixels, ids, mask), torch.nn.functional.normalize(image + caption, dim=-1)
    )
    torch.testing.assert_close(model.get_target_features(pixels)[:, 0], image)
