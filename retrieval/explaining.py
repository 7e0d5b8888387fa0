"""Why this one: where in a result the model found what it scored, and which words of the caption mattered.

    heat = heat_map(model, processor, result, image="me.jpg", caption="in a red coat")
    words = word_drops(model, processor, result, image="me.jpg", caption="in a red coat")
    draw_explanation("why.png", heat, words, image="me.jpg")

Neither proves a cause: attention says where a model looked, and a word left out also changes how the others are read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..image_reading_fafa import open_image
from ..model_folder import check_fit
from ..retriever import Retriever, RetrieverProcessor
from .query_encoding import encode_pairs
from .searching import SearchResult

_LONGEST_SIDE = 1024  # of the picture by which a processor shows where it puts what
_GREY = 128  # of that picture: what filters add to it at its edges stays within 8 bits


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where in a target image its winning tokens looked.

    Args:
        image: the target, upright, in its own size.
        heat: `(height, width)`, fp32, over the image: 1 where attention is what it would be if it were spread evenly
            over all that the model sees, 2 where it is twice that; 0 where the model does not see the image.
        tokens: the numbers of the target's tokens that make the score, best first.
        score: of query and target.
        beside: the share of the attention that fell on padding, where there is no image.
    """

    image: Image.Image
    heat: np.ndarray
    tokens: list[int]
    score: float
    beside: float


@dataclass(frozen=True)
class WordDrop:
    """A word of a caption, and how much lower the score is without it.

    Args:
        word: as it stands in the caption.
        drop: the score with all words less the score without this one; below 0 if the word stood in the way. None if
            the query has nothing to search by without it.
    """

    word: str
    drop: float | None


@torch.no_grad()
def heat_map(
    model: Retriever, processor: RetrieverProcessor, target: Any, image: Any = None, caption: str | None = None
) -> HeatMap:
    """Where the model looked for the tokens of a target that won: those whose mean similarity is the score.

    The model computes attention anew for this one image (`Retriever.target_attention`, which says over what it is a
    mean), and the map is laid over the target through all that the processor does to it: resizing, padding, cropping.

    Args:
        target: the target image, as `open_image` takes it, or a result of a search: of a person in a photograph or a
            film, the person's crop.
        image: the query's reference image, likewise; `caption`: its caption; one of them at least.

    Raises:
        NotImplementedError: this model does not tell where it looks.
        ValueError, TypeError: neither image nor caption, or as for `Gallery.search`; or the processor does more to
            images than resizing, padding and cropping.
        UnreadableImageError, FileNotFoundError, InaccessibleImageError: an image cannot be read.
    """
    check_fit(model, processor)
    model.eval()
    target = _opened(target)
    query = encode_pairs(model, processor, [(image, caption)])[0]
    pixels = _pixels_of(model, processor, target)
    attention = model.target_attention(pixels)[0]  # first: a model that has none says so
    tokens = model.get_target_features(pixel_values=pixels)  # (1, num_tokens, dim)
    score = model.score(query[None], tokens).item()
    winners = (tokens[0].float() @ query.float()).topk(model.num_top_tokens).indices
    grid = attention[winners].mean(dim=0).float().cpu().numpy()
    height, width = model.image_shape
    seen = np.asarray(Image.fromarray(grid / grid.mean()).resize((width, height), Image.Resampling.BILINEAR))
    photograph = open_image(target)
    (x_scale, left), (y_scale, top), inside = _placement(processor, photograph.size)
    to_model = (x_scale / photograph.width, 0, left, 0, y_scale / photograph.height, top)
    heat = Image.fromarray(seen).transform(
        photograph.size, Image.Transform.AFFINE, to_model, Image.Resampling.BILINEAR, fillcolor=0
    )
    beside = float(seen[~inside].sum() / seen.sum())
    return HeatMap(photograph, np.asarray(heat), winners.tolist(), score, beside)


@torch.no_grad()
def word_drops(
    model: Retriever, processor: RetrieverProcessor, target: Any, caption: str, image: Any = None
) -> list[WordDrop]:
    """Which words of a caption matter for a target: each is left out in turn, and all such queries run as one batch.

    Args:
        target, image, caption: as for `heat_map`.

    Returns:
        a drop for each word; signs between blanks, without a letter or digit, are no words.

    Raises:
        ValueError, TypeError: the caption holds no word, or one alone and there is no image; and as for `heat_map`.
    """
    check_fit(model, processor)
    model.eval()
    processor.encode_captions([caption], ["caption"])  # refuses what is no caption
    parts = caption.split()
    places = [place for place, part in enumerate(parts) if any(map(str.isalnum, part))]
    shortened = {place: " ".join(parts[:place] + parts[place + 1 :]) for place in places}
    readable = {place: short for place, short in shortened.items() if _is_readable(processor, short)}
    if not readable and image is None:
        raise ValueError(f"caption {caption!r:.60}: it has one word to search by, so none can be left out")
    features = encode_pairs(model, processor, [(image, words) for words in (caption, *readable.values())])
    targets = model.get_target_features(pixel_values=_pixels_of(model, processor, _opened(target)))
    scores = model.score(features, targets)[:, 0].tolist()
    without: dict[int, float] = dict(zip(readable, scores[1:], strict=True))
    if len(readable) < len(places) and image is not None:  # without that word, the image searches alone
        alone = model.score(encode_pairs(model, processor, [(image, None)]), targets).item()
        without |= {place: alone for place in places if place not in readable}
    return [WordDrop(parts[place], scores[0] - without[place] if place in without else None) for place in places]


def _opened(target: Any) -> Any:
    return target.open() if isinstance(target, SearchResult) else target


def _is_readable(processor: RetrieverProcessor, caption: str) -> bool:
    try:
        processor.encode_captions([caption], ["caption"])
    except ValueError:  # it holds no word, or none that the model knows
        return False
    return True


def _pixels_of(model: Retriever, processor: RetrieverProcessor, image: Any) -> Tensor:
    return processor.to_pixels([processor.resize_crop(processor.open_crop(image))]).to(model.device)


def _placement(
    processor: RetrieverProcessor, size: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float], np.ndarray]:
    """Where a processor puts an image of a size, found by what it does to a picture whose colours are its coordinates.

    Returns:
        for columns and for rows (scale, offset): what lies at a share u of the image's width or height comes to
        `scale * u + offset` in the model's pixels; and which of these show the image at all, `(height, width)`.
    """
    shrink = min(1.0, _LONGEST_SIDE / max(size))
    width, height = (max(1, round(shrink * side)) for side in size)
    coordinates = np.full((height, width, 3), _GREY, np.uint8)
    coordinates[..., 0] = (_GREY * (0.5 + (np.arange(width) + 0.5) / width)).round()
    coordinates[..., 1] = (_GREY * (0.5 + (np.arange(height) + 0.5) / height)).round()[:, None]
    shown = processor.resize_crop(processor.open_crop(Image.fromarray(coordinates))).astype(np.float64)
    inside = shown[..., 2] > _GREY / 2
    axes = []
    for channel, places in enumerate(reversed(np.indices(inside.shape) + 0.5)):
        # A filter darkens all channels alike at the edges, so their ratio is what it would be without any.
        shares = (shown[..., channel] / np.maximum(shown[..., 2], 1) - 0.5)[inside]
        places = places[inside]
        if len(places) == 0 or np.ptp(shares) == 0:
            raise ValueError(f"an image of {size[0]} x {size[1]} pixels is too thin to say where it is in the model's")
        scale, offset = np.polyfit(shares, places, 1)
        if np.abs(scale * shares + offset - places).mean() > 0.02 * inside.shape[1 - channel]:
            raise ValueError(
                f"{type(processor).__name__} does more to images than resizing, padding and cropping, so no heat map "
                "can be laid over them"
            )
        axes.append((float(scale), float(offset)))
    return axes[0], axes[1], inside
