"""Noise-robust text-based person retrieval with the two towers of a CLIP or SigLIP (SynTBPR, TBPS-CLIP).

from fafa.models.dual_encoder import DualEncoderModel, DualEncoderProcessor

model = DualEncoderModel.from_backbone("openai/clip-vit-base-patch16")
processor = DualEncoderProcessor.from_backbone("openai/clip-vit-base-patch16")
"""

from importlib import import_module

_EXPORTS = {
    "METHODS": "configuration",
    "DualEncoderConfig": "configuration",
    "DualEncoderModel": "modeling",
    "DualEncoderOutput": "modeling",
    "DualEncoderProcessor": "processing",
    "noise_robust_losses": "losses",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
