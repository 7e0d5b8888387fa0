"""Tiny detectors and CLIPs, saved to disk so that tests load them with the real loaders."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    DetrConfig,
    DetrForObjectDetection,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

LABELS = {0: "dog", 1: "person"}
_SIZE = {"shortest_edge": 64, "longest_edge": 64}


def fixed_detector(folder: Path, boxes: Sequence[tuple[str, float, tuple[float, float, float, float]]]) -> Path:
    """A YOLOS without layers, which finds the same in every picture.

    Args:
        folder: Where to save it.
        boxes: Label, score, and the box: its middle's x and y, width and height as shares of the picture it is given.
    """
    model = _yolos(layers=0, tokens=len(boxes))
    tokens, hidden = len(boxes), model.config.hidden_size
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.zero_()
        model.vit.embeddings.detection_tokens.copy_(8 * torch.eye(tokens, hidden))
        # Token i reaches the heads as a vector that is positive at i alone; they turn it into what is wanted.
        strength = model.vit.layernorm(model.vit.embeddings.detection_tokens)[0].diagonal()
        corners = torch.tensor([box for *_, box in boxes]).logit()
        classes = torch.full((tokens, len(LABELS) + 1), -30.0)
        classes[:, -1] = 0.0  # no object
        for row, (label, score, _) in enumerate(boxes):
            classes[row, list(LABELS.values()).index(label)] = torch.tensor(score).logit()
        for head, wanted in ((model.bbox_predictor, corners), (model.class_labels_classifier, classes)):
            for layer in head.layers:
                layer.bias.zero_()
                layer.weight.copy_(torch.eye(*layer.weight.shape))
            head.layers[-1].weight.zero_()
            head.layers[-1].weight[:, :tokens] = wanted.T / strength
    return _save(model, YolosImageProcessorPil(size=_SIZE), folder)


def tiny_yolos(folder: Path, seed: int = 0) -> Path:
    """A YOLOS with random weights: finds something else in every picture."""
    torch.manual_seed(seed)
    model = _yolos(layers=2, tokens=6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # initial weights are so small that all pictures would look alike
    return _save(model, YolosImageProcessorPil(size=_SIZE), folder)


def tiny_detr(folder: Path, seed: int = 0) -> Path:
    """A DETR with random weights and a backbone of transformers."""
    torch.manual_seed(seed)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = DetrConfig(
        backbone_config=backbone,
        num_queries=6,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        id2label=LABELS,
    )
    return _save(DetrForObjectDetection(config), DetrImageProcessorPil(size=_SIZE), folder)


def tiny_rtdetr(folder: Path, seed: int = 0) -> Path:
    """An RT-DETR with random weights, as large as half a megabyte."""
    torch.manual_seed(seed)
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[16, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        encoder_layers=1,
        d_model=16,
        num_queries=12,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_layers=2,
        num_denoising=0,
        id2label=LABELS,
    )
    return _save(RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 64, "width": 64}), folder)


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP with random weights and a vocabulary of single characters."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(model_max_length=77).train_new_from_iterator(["a person in red, blue"], vocab_size=600)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # initial weights are so small that all pictures would look alike
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return _save(model, CLIPProcessor(CLIPImageProcessorPil(**size), tokenizer), folder)


def _yolos(layers: int, tokens: int) -> YolosForObjectDetection:
    config = YolosConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=tokens,
        use_mid_position_embeddings=False,
        id2label=LABELS,
    )
    return YolosForObjectDetection(config)


def _save(model, processor, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
