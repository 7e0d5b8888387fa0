"""The released code's numbers: features, scores, losses and gradients, within 1e-4 (gradients 2e-4)."""

import json

import pytest
import torch
from tiny_word4per import GOLDEN, golden, golden_config, golden_model
from torch.nn import functional as F

from fafa.evaluation import retrieval_metrics
from fafa.models.word4per.losses import cmpm_loss, id_loss, itc_loss, masked_word_errors, sdm_loss


@pytest.fixture(scope="module")
def model():
    return golden_model()


def assert_near(result: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)


def composed(model, **options) -> torch.Tensor:
    """One of the captions holds a "*" of its own, behind that of the template."""
    return model.get_query_features(golden()["in.images"], golden()["in.caption_with_blank_ids"], **options)


def test_features_of_both_towers_before_normalisation(model):
    vectors = golden()
    assert_near(model.image_features(vectors["in.images"]), vectors["out.image_feat"])
    assert_near(model.image_features(vectors["in.gallery_images"]), vectors["out.gallery_feat"])
    assert_near(model.caption_features(vectors["in.caption_ids"]), vectors["out.text_feat"])
    assert_near(model.tinets["text"](vectors["out.image_feat"]), vectors["out.token_text"])
    assert_near(model.tinets["image"](vectors["out.image_feat"]), vectors["out.token_img"])


def test_composed_queries_of_each_tinet_and_fused(model):
    vectors = golden()
    text, image = F.normalize(vectors["out.composed_text"]), F.normalize(vectors["out.composed_img"])
    assert_near(composed(model, tinet="text"), text)
    assert_near(composed(model, tinet="image"), image)
    assert_near(composed(model), F.normalize(text + image))
    assert_near(composed(model, tinet=["image", "text"]), F.normalize(text + image))


def test_scores_and_metrics_of_every_kind_of_query(model):
    vectors = golden()
    expected = json.loads((GOLDEN / "word4per_public.json").read_text())["eval_results_percent"]
    targets = model.get_target_features(vectors["in.gallery_images"])
    queries = {
        "img": model.get_query_features(vectors["in.images"]),
        "text": model.get_query_features(input_ids=vectors["in.caption_ids"]),
        "com_text": composed(model, tinet="text"),
        "com_img": composed(model, tinet="image"),
        "com": composed(model),
    }
    for name, query in queries.items():
        scores = model.score(query, targets)
        assert_near(scores, vectors[f"out.sim_{name}"])
        metrics = retrieval_metrics(scores, vectors["in.q_ids"], vectors["in.g_ids"])
        for ours, theirs in {"rank-1": "R1", "rank-5": "R5", "mAP": "mAP", "mINP": "mINP"}.items():
            assert metrics[ours] == pytest.approx(expected[name][theirs], abs=1e-3), (name, ours)


def test_the_prompt_of_the_second_stage(model):
    """The released code inserts the pseudo-word before the end; with a "*" there it is the same."""
    vectors = golden()
    bare = vectors["in.stage2_prompt_ids"][0]
    end = int((bare == golden_config()["eot_id"]).nonzero())
    prompt = torch.cat([bare[:end], torch.tensor([golden_config()["star"]]), bare[end:-1]])
    features = model._composed_features(vectors["out.image_feat"], prompt.expand(7, -1), ["text"])[:, 0]
    assert_near(features, vectors["out.stage2_text"])


def test_sdm_is_the_sum_of_both_directions_at_a_scale_of_50():
    vectors = golden()
    image, text = (vectors[f"obj.{side}_features"].requires_grad_() for side in ("image", "text"))
    loss = sdm_loss(image, text, vectors["obj.pid"])
    assert_near(loss, vectors["obj.sdm"])
    gradients = torch.autograd.grad(loss, [image, text])
    assert_near(gradients[0], vectors["obj.sdm_grad_image"], 2e-4)
    assert_near(gradients[1], vectors["obj.sdm_grad_text"], 2e-4)
    by_image = sdm_loss(image, text, vectors["obj.pid"], image_ids=vectors["obj.image_id"], other_images=0.3)
    assert_near(by_image, vectors["obj.sdm_with_image_id_factor0.3"])


def test_the_other_losses():
    vectors = golden()
    image, text, identities = (vectors[f"obj.{name}"] for name in ("image_features", "text_features", "pid"))
    assert_near(itc_loss(image, text, vectors["obj.logit_scale"].item()), vectors["obj.itc"])
    assert_near(cmpm_loss(image, text, identities), vectors["obj.cmpm"])
    assert_near(id_loss(vectors["obj.id_image_logits"], vectors["obj.id_text_logits"], identities), vectors["obj.id"])
    errors, count = masked_word_errors(vectors["obj.mlm_scores"][None], vectors["obj.mlm_labels"][None])[0]
    assert count == 4
    assert_near(errors / count, vectors["obj.mlm"])
