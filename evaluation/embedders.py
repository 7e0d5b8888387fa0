"""General embedders as rows of the same tables: any model of sentence-transformers, for text, image or both.

Baselines that every comparison needs: how far a model comes that knows nothing of persons or of edits, and how far
sentences alone come where the gallery has captions.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..captions_fafa import has_word
from ..checks_fafa import check_features
from ..files import read_json
from ..image_reading_fafa import open_image
from ..loading import undecoded
from ..retriever import QUERY_MODES
from ..scoring_fafa import topk_mean_similarity
from .itcpr import TestSet, check_columns, evaluate_features, sum_of_queries
from .report import EvaluationReport

if TYPE_CHECKING:
    import datasets
    from sentence_transformers import SentenceTransformer

SUMMED, JOINT = "sum of both embeddings", "both in one input"


class Cosine:
    """Scores features that have one vector for each image."""

    num_top_tokens = 1

    def score(self, queries: Tensor, targets: Tensor, num_top_tokens: int | None = None) -> Tensor:
        """Cosines, `(num_queries, num_images)`, of unit vectors `(num_queries, dim)` and `(num_images, 1, dim)`."""
        return topk_mean_similarity(queries, targets, num_top_tokens or 1)


def evaluate_embedder(
    model: "SentenceTransformer",
    queries: "datasets.Dataset",
    gallery: "datasets.Dataset",
    modes: Sequence[str] | None = None,
    captions: bool = False,
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 32,
    curves: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> EvaluationReport:
    """Ranks the gallery by the embeddings of a general model.

    Args:
        model: of sentence-transformers; its prompts for queries and documents are used where it has some.
        queries: see `evaluate_itcpr`.
        gallery: likewise.
        modes: of "image+caption", "caption", "image"; None: those that the model can embed. A model that takes no
            image and text together answers "image+caption" by the sum of both embeddings; the report's settings say so.
        captions: compare with the gallery's column `caption` instead of its images; then queries are captions.
        ks: the ranks k to report.
        batch_size: inputs embedded at a time.
        curves: see `evaluate_itcpr`.
        seed: of the bootstrap and of the parts of the gallery.
        progress: whether to show progress bars.

    Raises:
        ValueError: the model cannot embed what is asked for, a column is missing, a query has no match.
    """
    TestSet(queries, gallery, ks)
    kind = "caption" if captions else "image"
    if captions:
        check_columns(gallery, "gallery", ("caption",))
    can = [mode for mode in QUERY_MODES if _supports(model, mode) and not (captions and "image" in mode)]
    modes = can if modes is None else list(modes)
    if refused := [mode for mode in modes if mode not in can] or ([] if _supports(model, kind) and modes else [kind]):
        raise ValueError(
            f"the model embeds {', '.join(map(str, model.modalities))}; asked for {', '.join(refused)}"
            + (" against captions" if captions else "")
        )
    joint = model.supports(("image", "text"))
    query_features = {}
    for mode in modes:
        if mode == "image+caption" and not joint:
            halves = [query_features.get(half) for half in ("image", "caption")]
            for place, half in enumerate(("image", "caption")):
                if halves[place] is None:
                    halves[place] = _embed(model.encode_query, _Inputs(queries, half), half, batch_size, progress)
            query_features[mode] = sum_of_queries(*halves)
        else:
            query_features[mode] = _embed(model.encode_query, _Inputs(queries, mode), mode, batch_size, progress)
    targets = _embed(model.encode_document, _Inputs(gallery, kind), "gallery", batch_size, progress)[:, None]
    report = evaluate_features(Cosine(), query_features, targets, queries, gallery, ks, curves, seed, progress)
    report.settings["gallery"] = kind
    if "image+caption" in modes:
        report.settings["image+caption"] = JOINT if joint else SUMMED
    return report


def with_captions(gallery: "datasets.Dataset", file: str | os.PathLike) -> "datasets.Dataset":
    """A gallery with the column `caption`, from a file that says what each image shows.

    Args:
        gallery: with the column `image_path`.
        file: a JSON object of image paths and captions, or a JSON list, or lines (`.jsonl`), of objects with `caption`
            and `file_path` or `image_path`; so ITCPR's own gallery.json, where its records have captions. Captions of
            further images are left alone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, an image of the gallery has no caption in it, or two that differ.
    """
    check_columns(gallery, "gallery", ("image_path",))
    captions: dict[str, str] = {}
    for path, caption in _captions_in(Path(file)):
        if captions.setdefault(path, caption) != caption:
            raise ValueError(f"{file}: {path} has two captions, {captions[path]!r:.60} and {caption!r:.60}: keep one")
    paths = gallery["image_path"][:]
    if lacking := [path for path in dict.fromkeys(paths) if path not in captions]:
        raise ValueError(
            f"{file}: {lacking[0]} has no caption ({len(lacking):,} of {len(set(paths)):,} gallery images have none). "
            "Write one for each image, under its path as the gallery has it"
        )
    if wrong := [path for path in paths if not (isinstance(captions[path], str) and has_word(captions[path]))]:
        raise ValueError(f"{file}: the caption of {wrong[0]} is {captions[wrong[0]]!r:.60}, expected a text with words")
    if "caption" in gallery.column_names:
        gallery = gallery.remove_columns("caption")
    return gallery.add_column("caption", [captions[path] for path in paths])


def _captions_in(file: Path) -> Iterator[tuple[str, Any]]:
    """Paths and captions of a file, as it has them."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file. Pass one that has the captions of the gallery's images")
    if file.suffix == ".jsonl":
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            content: Any = [json.loads(line) for line in lines if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not all of its lines are JSON ({error})") from None
    else:
        content = read_json(file)
    if isinstance(content, dict):
        yield from content.items()
        return
    for number, record in enumerate(content if isinstance(content, list) else [content]):
        path = (record.get("file_path") or record.get("image_path")) if isinstance(record, dict) else None
        if not isinstance(path, str):
            raise ValueError(
                f"{file}: record {number} is {str(record)!r:.60}, expected an object with file_path (or image_path) "
                "and caption"
            )
        if "caption" in record:  # one without is told as an image without a caption
            yield path, record["caption"]


def _supports(model: "SentenceTransformer", mode: str) -> bool:
    return all(model.supports("text" if half == "caption" else "image") for half in mode.split("+"))


class _Inputs(Sequence):
    """The input of each row: a text, an image, or both; images are opened when they are asked for."""

    def __init__(self, table: "datasets.Dataset", mode: str):
        self.captions = table["caption"][:] if "caption" in mode else None
        self.images = undecoded(table)["image"] if "image" in mode else None

    def __len__(self) -> int:
        return len(self.captions if self.images is None else self.images)

    def __getitem__(self, row: int) -> Any:
        if self.images is None:
            return self.captions[row]
        image = open_image(self.images[row], f"image {row}")
        return image if self.captions is None else {"image": image, "text": self.captions[row]}


@torch.no_grad()
def _embed(encode: Callable[..., Tensor], inputs: _Inputs, label: str, batch_size: int, progress: bool) -> Tensor:
    """Embeddings `(num_rows, dim)` of unit length, fp32; a few images are open at a time."""
    rows, found = range(len(inputs)), []
    for start in tqdm(rows[::batch_size], f"embedding: {label}", unit="batch", disable=not progress):
        batch = rows[start : start + batch_size]
        options = {"batch_size": batch_size, "convert_to_tensor": True, "show_progress_bar": False}
        embedded = F.normalize(encode([inputs[row] for row in batch], **options).float(), dim=-1)
        check_features(embedded, "", [f"{label} {row}" for row in batch])
        found.append(embedded)
    return torch.cat(found)
