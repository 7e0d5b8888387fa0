"""The gate that asks CLIP whether captions fit their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..components import Gate, Record, SynthesisError, free
from ..pictures import open_picture
from .vision import Batches, find_device, load_pretrained

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ClipGate:
    """Settings of the gate that compares pictures and captions by CLIP.

    Its scores are cosine similarities: `clip_a` of the left picture and caption A, `clip_b` of the right picture and
    caption B, `clip_pair` of both pictures; and `clip_margin`, how much better the captions fit as they are than
    exchanged (mean per caption).

    Attributes:
        model: Folder or Hub id of a CLIP of transformers, or of a model with the same methods, such as SigLIP.
        revision: Of a model on the Hub.
        batch_size: Pictures or captions at a time.
        device: Such as "cuda:1"; by default a GPU where there is one.
    """

    kind: ClassVar[str] = "clip"

    model: str = "openai/clip-vit-large-patch14"
    revision: str | None = None
    batch_size: int = 64
    device: str | None = free(None)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1: {self.batch_size}")

    def load(self) -> Gate:
        """The gate.

        Raises:
            SynthesisError: the model cannot be loaded, or is no CLIP.
        """
        return _ClipGate(self)


class _ClipGate(Gate):
    names = ("clip_a", "clip_b", "clip_pair", "clip_margin")

    def __init__(self, settings: ClipGate):
        from transformers import AutoModel, AutoProcessor

        super().__init__()
        options = {"revision": settings.revision} if settings.revision else {}
        self.device = find_device(settings.device)
        self.processor = load_pretrained(AutoProcessor, settings.model, backend="pil", **options)
        self.model = load_pretrained(AutoModel, settings.model, **options).to(self.device).eval()
        if not hasattr(self.model, "get_text_features"):
            raise SynthesisError(f"{settings.model}: expected CLIP, found {type(self.model).__name__}; set `model`")
        self.batches = Batches(settings.batch_size)
        self.about = {"model": settings.model, "revision": getattr(self.model.config, "_commit_hash", None)}

    def score(self, records: Sequence[Record], folder: Path) -> list[dict[str, float]]:
        import torch

        files = [folder / record[side] for record in records for side in ("left", "right")]
        captions = [record[name] for record in records for name in ("caption_a", "caption_b")]
        distinct = list(dict.fromkeys(captions))  # pairs of one quadruple share theirs
        texts = dict(zip(distinct, self.batches.map(self._encode_captions, distinct), strict=True))
        images = self.batches.map(self._encode_images, files)
        scores = []
        for number, record in enumerate(records):
            pictures = torch.stack(images[2 * number : 2 * number + 2])
            captions = torch.stack([texts[record["caption_a"]], texts[record["caption_b"]]])
            (left_a, left_b), (right_a, right_b) = (pictures @ captions.T).tolist()
            values = (
                left_a,
                right_b,
                float(pictures[0] @ pictures[1]),
                (left_a + right_b - left_b - right_a) / 2,
            )
            scores.append({name: round(value, 4) for name, value in zip(self.names, values, strict=True)})
        return scores

    def _encode_images(self, files: list[Path]) -> "list[torch.Tensor]":
        return self._encode(self.model.get_image_features, images=[open_picture(file) for file in files])

    def _encode_captions(self, captions: list[str]) -> "list[torch.Tensor]":
        # Filled up to one length: with any other, a caption's embedding would depend a little on its neighbours.
        length = self.model.config.text_config.max_position_embeddings
        return self._encode(
            self.model.get_text_features, text=captions, padding="max_length", truncation=True, max_length=length
        )

    def _encode(self, features, **inputs) -> "list[torch.Tensor]":
        import torch

        with torch.inference_mode():
            found = features(**self.processor(**inputs, return_tensors="pt").to(self.device)).pooler_output
        return list(torch.nn.functional.normalize(found.float(), dim=-1).cpu())
