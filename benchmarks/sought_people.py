"""Painted worlds in which people are sought: several photographs of each, and what a searcher would say of them.

Nobody and no combination of garments in them was in any training set. For each person sought there are two reference
photographs in other clothes, and in the gallery

- "match": four photographs in the clothes asked for;
- "without": two in these clothes but for a bag or hat (`Sought.slot`), of which the caption does not speak, since the
  references show it, too;
- "before": one in the clothes of the references; "other": one in yet other clothes;
- "alike": three other people in the clothes asked for;

and strangers fill the gallery up. A tenth of all images is blurred or partly hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fafa import TINY_CHECKPOINT
from fafa.files import read_json, write_json
from fafa.model_folder import load_model
from fafa.retrieval.encoding import encode_images
from fafa.retrieval.fusing import SAMPLE, fuse
from fafa.retriever import Retriever, RetrieverProcessor
from fafa.world.captions import describe_change
from fafa.world.making import PlannedImage, paint_images
from fafa.world.people import (
    Garment,
    Identity,
    Outfit,
    look_different,
    sample_change,
    sample_identity,
    sample_outfit,
)

NUM_SOUGHT, NUM_STRANGERS, NUM_WORDINGS, SPOILT = 100, 500, 8, 0.1
_VERSION = 1  # raise it whenever the same seed gives other images


@dataclass(frozen=True)
class Sought:
    """One person sought.

    Args:
        references: paths of two photographs.
        captions: wordings of the same change, from the references' clothes to those asked for.
        slot: "bag" or "hat".
        item: what is worn there, in the references and in the matches.
        after: the clothes asked for.
    """

    references: tuple[str, str]
    captions: tuple[str, ...]
    slot: str
    item: Garment
    after: Outfit


@dataclass(frozen=True)
class World:
    """People sought and the gallery.

    Args:
        kinds: `(num_images,)`, str; owners: `(num_images,)`: whose the image is among `sought`, -1 for strangers.
        features: `(num_images, num_tokens, dim)`.
    """

    sought: list[Sought]
    kinds: np.ndarray
    owners: np.ndarray
    features: Tensor
    paths: list[str]

    def images(self, *kinds: str) -> np.ndarray:
        """`(num_sought, num_images)`, bool: each one's images of these kinds."""
        return (self.owners == np.arange(len(self.sought))[:, None]) & np.isin(self.kinds, kinds)


def load_tiny() -> tuple[Retriever, RetrieverProcessor]:
    """The checkpoint that comes with the package."""
    model, processor = load_model(TINY_CHECKPOINT)
    return model.eval(), processor


def make_sought(work: Path, seed: int, model: Retriever, processor: RetrieverProcessor) -> World:
    """Paints and encodes a world; what is there already is used again."""
    root = work / f"sought-{seed}"
    sought, gallery, images = _plan(root, seed)
    done, told = root / "done.json", {"version": _VERSION, "seed": seed, "images": len(images)}
    if not (done.exists() and read_json(done) == told):
        paint_images(images, root, (192, 96), seed, num_workers=1, spoilt=SPOILT)
        write_json(done, told)
    paths = [str(root / path) for _, _, path in gallery]
    features = encode_images(model, processor, paths, identify=False, progress=False).features
    kinds, owners = np.array([kind for kind, _, _ in gallery]), np.array([owner for _, owner, _ in gallery])
    return World(sought, kinds, owners, features, paths)


def _plan(root: Path, seed: int) -> tuple[list[Sought], list[tuple[str, int, str]], list[PlannedImage]]:
    """People sought; kind, owner and path of each gallery image; and all images to paint."""
    rng = np.random.default_rng(seed)
    askers: dict[Identity, None] = {}
    while len(askers) < NUM_SOUGHT:
        askers[sample_identity(rng, test=True)] = None
    sought: list[Sought] = []
    gallery: list[tuple[str, int, str]] = []
    images: list[PlannedImage] = []

    def bystander(unlike: Identity | None = None) -> Identity:
        while True:
            one = sample_identity(rng, test=True)
            if one not in askers and (unlike is None or look_different(one, unlike)):
                return one

    def plan(kind: str, owner: int, person: Identity, outfit: Outfit) -> str:
        path = f"{'references' if kind == 'reference' else 'gallery'}/{len(images):05d}.jpg"
        images.append(PlannedImage(path, person, outfit))
        if kind != "reference":
            gallery.append((kind, owner, path))
        return path

    for owner, person in enumerate(askers):
        before, after, slot = _sample_change(rng)
        references = tuple(str(root / plan("reference", owner, person, before)) for _ in range(2))
        captions = tuple(describe_change(before, after, rng) for _ in range(NUM_WORDINGS))
        sought.append(Sought(references, captions, slot, getattr(after, slot), after))
        other = after
        while other == after:
            other = sample_change(rng, before, test=True)
        without = replace(after, **{slot: None})
        for kind, count, outfit in (("match", 4, after), ("without", 2, without), ("before", 1, before)):
            for _ in range(count):
                plan(kind, owner, person, outfit)
        plan("other", owner, person, other)
        for _ in range(3):
            plan("alike", owner, bystander(person), after)
    for _ in range(NUM_STRANGERS):
        plan("stranger", -1, bystander(), sample_outfit(rng, test=True))
    return sought, gallery, images


def _sample_change(rng: np.random.Generator) -> tuple[Outfit, Outfit, str]:
    """Two outfits with the same bag or hat, and which of the two it is."""
    while True:
        before = sample_outfit(rng, test=True)
        after = sample_change(rng, before, test=True)
        kept = [
            slot for slot in ("bag", "hat") if getattr(after, slot) and getattr(after, slot) == getattr(before, slot)
        ]
        if kept:
            return before, after, kept[int(rng.integers(len(kept)))]


@torch.no_grad()
def encode(model: Retriever, processor: RetrieverProcessor, images=None, captions=None) -> Tensor:
    """Queries by images, captions or both: `(num_queries, dim)`."""
    given = {}
    if images is not None:
        crops = [processor.resize_crop(processor.open_crop(image)) for image in images]
        given["pixel_values"] = processor.to_pixels(crops)
    if captions is not None:
        given |= processor.encode_captions(captions)
    names = ("pixel_values", "input_ids", "attention_mask")
    return model.get_query_features(**{name: given[name] for name in names if name in given})


class Searcher:
    """Scores of one world's gallery."""

    def __init__(self, model, world: World):
        self.model, self.world = model, world
        self.sample = torch.arange(min(SAMPLE, len(world.kinds))) * len(world.kinds) // min(SAMPLE, len(world.kinds))

    def score(self, queries: Tensor, images: Tensor | slice = slice(None)) -> Tensor:
        """`(num_queries, num_images)`."""
        return self.model.score(queries, self.world.features[images])

    def one_vector(self, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """`(num_queries, num_images)` of queries whose terms' vectors are `(num_queries, dim)` each."""
        return self.score(F.normalize(sum(w * term for w, term in zip(weights, terms, strict=True)), dim=1))

    def late_fusion(self, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Likewise."""
        scores = torch.stack([self.score(term) for term in terms])  # (t, q, n)
        fused = [
            fuse(vectors, torch.tensor(weights), of_query[:, self.sample]).scores(of_query)
            for vectors, of_query in zip(torch.stack(list(terms), dim=1), scores.transpose(0, 1), strict=True)
        ]
        return torch.stack(fused)


def first_hits(scores: Tensor, relevant: np.ndarray) -> np.ndarray:
    """Whether the first image is relevant, percent: `(num_queries,)`."""
    return 100.0 * relevant[np.arange(len(relevant)), scores.argmax(dim=1).numpy()]
