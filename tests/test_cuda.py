"""What a GPU must not change: features, scores, losses, metrics. Run on the CPU, too, to test the tests themselves."""

import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny import golden_model, tiny_batch, tiny_model, tiny_processor

from fafa.evaluation import retrieval_metrics
from fafa.scoring_fafa import topk_mean_similarity
from fafa.training import FafaDataCollator, FafaTrainer, FafaTrainingArguments

cuda = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
)
devices = pytest.mark.parametrize("device", ["cpu", cuda])


@pytest.fixture(autouse=True)
def exact_products():
    """TF32 keeps ten bits of a mantissa, and would hide what these tests look for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
    torch.set_float32_matmul_precision(before)


def on(device: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def query_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}


@torch.no_grad()
def features(model, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return model.get_query_features(**query_of(batch)), model.get_target_features(batch["target_pixel_values"])


@devices
def test_features_and_scores_are_those_of_the_cpu(device):
    model, batch = tiny_model(), tiny_batch(8)
    queries, targets = features(model, batch)
    model.to(device)
    on_device = features(model, on(device, batch))
    torch.testing.assert_close(on_device[0].cpu(), queries, atol=1e-5, rtol=0)
    torch.testing.assert_close(on_device[1].cpu(), targets, atol=1e-5, rtol=0)
    scores = model.score(*on_device)
    assert scores.device.type == device and scores.dtype == torch.float32
    torch.testing.assert_close(scores.cpu(), model.score(queries, targets), atol=1e-5, rtol=0)


@devices
def test_loss_and_gradients_are_those_of_the_cpu(device, monkeypatch):
    """Masked feature reasoning draws its masks on the device, so here they are given."""
    batch = tiny_batch(8)
    masks = (torch.rand(8, 128, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    results = []
    for place in ("cpu", device):
        model = tiny_model().to(place).train()
        monkeypatch.setattr(model, "_sample_mask", lambda states: masks.to(states.device))
        output = model(**on(place, batch))
        output.loss.backward()
        results.append((output, {name: tensor.grad.cpu() for name, tensor in model.named_parameters()}))
    (expected, gradients), (ours, our_gradients) = results
    for term in ("loss", "loss_fda", "loss_fd", "loss_mfr"):
        torch.testing.assert_close(ours[term].cpu(), expected[term], atol=1e-4, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, atol=1e-4, rtol=1e-3)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scoring_equals_the_plain_formula(device, dtype):
    """Its GPU path is another product than the CPU's, in blocks that do not divide the sizes."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(37, 64, generator=generator), dim=-1).to(dtype)
    targets = torch.nn.functional.normalize(torch.randn(53, 32, 64, generator=generator), dim=-1).to(dtype)
    products = torch.einsum("qd,gnd->qgn", queries.double(), targets.double())
    expected = products.topk(6, dim=-1).values.mean(dim=-1).float()
    for max_elements in (None, 32 * 7 * 5):
        scores = topk_mean_similarity(queries.to(device), targets.to(device), 6, max_elements)
        torch.testing.assert_close(scores.cpu(), expected, atol=2e-6, rtol=0)
    trained = topk_mean_similarity(queries.to(device).requires_grad_(), targets.to(device), 6)
    torch.testing.assert_close(trained.detach().cpu(), expected, atol=2e-6, rtol=0)


@devices
def test_bf16_moves_scores_and_metrics_little(device):
    """Targets are noisy copies of their references, so that metrics are neither 0 nor 100."""
    generator = torch.Generator().manual_seed(0)
    model = golden_model()
    size = model.config.vision_config.image_size
    count = 48
    references = torch.randn(count, 3, size, size, generator=generator)
    noise = torch.randn(count, 3, size, size, generator=generator)
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(device, dtype)
        with torch.no_grad():
            queries = model.get_query_features(references.to(device, dtype))
            targets = model.get_target_features((references + 1.5 * noise).to(device, dtype))
        scores.append(model.score(queries, targets).cpu())
    drift = (scores[0] - scores[1]).abs()
    assert drift.mean() < 0.02 and drift.max() < 0.1
    ids = list(range(count))
    exact, half = (retrieval_metrics(rows, ids, ids) for rows in scores)
    assert 5 < exact["mAP"] < 100
    assert exact["mAP"] == pytest.approx(half["mAP"], abs=2) and exact["rank-10"] == pytest.approx(
        half["rank-10"], abs=5
    )


@devices
def test_bf16_autocast_loss_is_near_fp32(device):
    """The loss itself is computed in fp32: only features are rounded."""
    model, batch = tiny_model().to(device), on(device, tiny_batch(8))
    torch.manual_seed(0)
    exact = model(**batch)
    torch.manual_seed(0)
    with torch.autocast(device, torch.bfloat16):
        half = model(**batch)
    assert half.loss.dtype == half.logits.dtype == torch.float32
    assert half.loss_fda.item() == pytest.approx(exact.loss_fda.item(), rel=0.02)


@pytest.fixture
def training_triplets(tmp_path):
    rows = []
    for index in range(8):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (48, 96), (30 * index, 90, 0)).save(path)
        image = {"path": str(path)}
        rows.append({"reference_image": image, "target_image": image, "edit_caption": "now in a red coat"})
        rows[-1] |= {"reference_image_path": path.name, "target_image_path": path.name, "target_caption": "a coat"}
        rows[-1] |= {"cpr_id": index // 2}
    return Dataset.from_list(rows)


@devices
@pytest.mark.filterwarnings("ignore:'pin_memory'")  # without a GPU there is nothing to pin for
def test_trainer_steps_with_pinned_memory_and_workers(device, tmp_path, training_triplets):
    """bf16, a frozen tower in bf16, the fused optimiser: as examples/configs/paper.yaml trains."""
    model = tiny_model().freeze_vision_tower(torch.bfloat16)
    trainer = FafaTrainer(
        model=model,
        args=FafaTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            bf16=True,
            use_cpu=device == "cpu",
            dataloader_pin_memory=True,
            dataloader_num_workers=2,
        ),
        train_dataset=training_triplets,
        data_collator=FafaDataCollator(tiny_processor(), augment=True),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
    assert model.query_tokens.device.type == device
