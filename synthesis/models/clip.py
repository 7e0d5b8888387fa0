"""CLIP: features of images and captions."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoProcessor

from ..components import SynthesisError
from ..images import open_rgb
from .batches import Batches
from .pretrained import find_device, load_pretrained


class ClipEncoder:
    """CLIP of transformers, or a model with the same methods, such as SigLIP; `about` names the model and its revision.

    Raises:
        SynthesisError: the model cannot be loaded, or is no CLIP.
    """

    def __init__(self, model: str, revision: str | None, batch_size: int, device: str | None):
        self.device = find_device(device)
        kind = MODEL_MAPPING.get(type(load_pretrained(AutoConfig, model, revision)), None)
        if not hasattr(kind, "get_text_features"):
            found = getattr(kind, "__name__", "another kind of model")
            raise SynthesisError(f"{model}: expected CLIP, found {found}; set `model`")
        self.processor = load_pretrained(AutoProcessor, model, revision, backend="pil")
        self.model = load_pretrained(AutoModel, model, revision).to(self.device).eval()
        self.batches = Batches(batch_size)
        self.about = {"model": model, "revision": getattr(self.model.config, "_commit_hash", None)}

    def encode_images(self, images: Iterable[Path | Image.Image]) -> np.ndarray:
        """Features (images, dimensions) of length 1, float32.

        Raises:
            SynthesisError: a file cannot be read.
        """
        return self._encode(
            self.model.get_image_features, images, lambda batch: {"images": [open_rgb(image) for image in batch]}
        )

    def encode_captions(self, captions: Iterable[str]) -> np.ndarray:
        """Features (captions, dimensions) of length 1, float32; captions that are too long are cut off."""
        # All are padded to one length: otherwise a caption's features would depend a little on its neighbours.
        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return self._encode(self.model.get_text_features, captions, lambda batch: {"text": batch, **options})

    def _encode(self, features: Any, items: Iterable[Any], inputs: Callable[[list[Any]], dict[str, Any]]) -> np.ndarray:
        def encode(batch: list[Any]) -> list[np.ndarray]:
            with torch.inference_mode():
                prepared = self.processor(**inputs(batch), return_tensors="pt").to(self.device)
                found = features(**prepared).pooler_output
            return list(torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy())

        return np.stack(list(self.batches.map(encode, items)))
