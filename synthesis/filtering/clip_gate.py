"""The gate that asks CLIP whether captions fit their images."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from ..components import Gate, Record
from ..settings import BatchSize, Free, ModelName, Settings
from .thresholds import Scale


class ClipGate(Settings):
    """Settings of the gate that compares images and captions by CLIP.

    Its scores are cosine similarities: `clip_a` of the left image and caption A, `clip_b` of the right image and
    caption B, `clip_pair` of both images; and `clip_margin`, how much better the captions fit as they are than
    exchanged (mean per caption).

    Attributes:
        model: Folder or Hub id of a CLIP of transformers, or of a model with the same methods, such as SigLIP.
        revision: Branch, tag or commit of the model on the Hub.
        batch_size: Images or captions at a time.
        device: Such as "cuda:1"; by default a GPU if there is one.
    """

    kind: Literal["clip"] = "clip"
    names: ClassVar[tuple[str, ...]] = ("clip_a", "clip_b", "clip_pair", "clip_margin")
    scales: ClassVar[tuple[Scale, ...]] = ((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (-2.0, 2.0))

    model: ModelName = "openai/clip-vit-large-patch14"
    revision: str | None = None
    batch_size: BatchSize = 64
    device: Free[str | None] = None

    def load(self) -> Gate:
        """The gate.

        Raises:
            SynthesisError: the model cannot be loaded, or is no CLIP.
        """
        return _ClipGate(self)


class _ClipGate(Gate):
    names = ClipGate.names

    def __init__(self, settings: ClipGate):
        from ..models.clip import ClipEncoder

        super().__init__()
        self.encoder = ClipEncoder(settings.model, settings.revision, settings.batch_size, settings.device)
        self.about = self.encoder.about

    def score(
        self, records: Sequence[Record], images: Sequence[tuple[Image.Image, Image.Image]]
    ) -> list[dict[str, float]]:
        captions = [record[name] for record in records for name in ("caption_a", "caption_b")]
        distinct = list(dict.fromkeys(captions))  # pairs of one quadruple share theirs
        texts = dict(zip(distinct, self.encoder.encode_captions(distinct), strict=True))
        features = self.encoder.encode_images(half for pair in images for half in pair)
        scores = []
        for number, record in enumerate(records):
            halves = features[2 * number : 2 * number + 2]
            captions = np.stack([texts[record["caption_a"]], texts[record["caption_b"]]])
            (left_a, left_b), (right_a, right_b) = (halves @ captions.T).tolist()
            values = (left_a, right_b, float(halves[0] @ halves[1]), (left_a + right_b - left_b - right_a) / 2)
            scores.append({name: round(value, 4) for name, value in zip(self.names, values, strict=True)})
        return scores
