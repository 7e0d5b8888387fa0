"""Tiny ViTPoses, saved to disk so that tests load them with the real loaders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

_HEIGHT, _WIDTH, _PATCH = 64, 48, 16


def tiny_vitpose(folder: Path, seed: int = 0, num_experts: int = 1) -> Path:
    """A ViTPose with random weights: finds other keypoints in every picture. With several experts a ViTPose++."""
    torch.manual_seed(seed)
    model = _vitpose(num_experts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # initial weights are so small that all pictures would look alike
    return _save(model, folder)


def fixed_vitpose(folder: Path, scores: Sequence[float]) -> Path:
    """A ViTPose that finds every keypoint in the middle of the box, with these scores, whatever the picture."""
    model = _vitpose()
    backbone, hidden = model.backbone, model.config.backbone_config.hidden_size
    with torch.no_grad():
        for parameter in [*backbone.embeddings.parameters(), *backbone.encoder.parameters(), *model.head.parameters()]:
            parameter.zero_()
        # One patch says "here", the others nothing; the convolution turns that into the scores.
        columns = _WIDTH // _PATCH
        middle = 1 + (_HEIGHT // _PATCH // 2) * columns + columns // 2
        backbone.embeddings.position_embeddings[0, middle, :2] = torch.tensor([1.0, -1.0])
        here = backbone.layernorm(backbone.embeddings.position_embeddings[0, middle])[0].item()
        assert model.head.conv.in_channels == hidden
        model.head.conv.weight[:, 0, 1, 1] = torch.tensor(scores) / (
            here * 0.875**2
        )  # enlarging the map 4 times wears the peak down
    return _save(model, folder)


def _vitpose(num_experts: int = 1) -> VitPoseForPoseEstimation:
    backbone = VitPoseBackboneConfig(
        image_size=[_HEIGHT, _WIDTH],
        patch_size=[_PATCH, _PATCH],
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        mlp_ratio=2,
        num_experts=num_experts,
        part_features=8 if num_experts > 1 else 0,
        out_features=["stage1"],
    )
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))


def _save(model: VitPoseForPoseEstimation, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    VitPoseImageProcessorPil(size={"height": _HEIGHT, "width": _WIDTH}).save_pretrained(folder)
    return Path(folder)
