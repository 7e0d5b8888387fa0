"""Encoders that left PyTorch: a folder of ONNX graphs, run by onnxruntime on the CPU, is a model of this package.

    python -m fafa.retrieval.onnx_export runs/paper exports/paper          # makes the folder
    model, processor = load_model("exports/paper")                         # `fafa.model_folder`; then as ever

It keeps the contract in `retriever.py` as far as search needs it, and has the fingerprint of the model that it was
exported from: galleries of either are searched by both. The graphs need neither PyTorch nor this package.

    folder/onnx.json              the manifest: the model, shapes, which graph answers what, checksums
    folder/target.onnx, query-image+caption.onnx, ...     without their weights
    folder/weights.bin            of all graphs, each tensor once
    folder/config.json, processor_config.json, tokenizer ...
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from .checks_fafa import check_captions, check_images, check_triplets
from .extras import not_installed
from .files import faults_of, is_sealed, printable, read_json
from .retriever import QUERY_MODES, Retriever

MANIFEST, WEIGHTS = "onnx.json", "weights.bin"
FORMAT, VERSION = "fafa onnx encoders", 1
TARGET = "target"  # the graph of targets; those of queries are called by their kinds
_MAKE = "python -m fafa.retrieval.onnx_export MODEL FOLDER makes such a folder"


def is_export(folder: str | os.PathLike) -> bool:
    """Whether a folder holds exported encoders."""
    return Path(folder, MANIFEST).is_file()


def require_onnx(*modules: str) -> None:
    """Checks that libraries of the extra `onnx` are installed; else raises an ImportError that says how."""
    for module in modules:
        try:
            __import__(module)
        except ImportError as error:
            raise not_installed(module, "encoders in ONNX need it") from error


class OnnxModel(Retriever, nn.Module):
    """A retriever whose encoders are ONNX graphs. It answers on the CPU, in fp32, and cannot be trained.

    Args:
        folder: what `fafa.retrieval.onnx_export` wrote. All of it is compared with its checksums.

    Raises:
        FileNotFoundError: there are no exported encoders in it.
        ValueError: they are damaged, or of another version.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        require_onnx("onnxruntime")
        self.folder = Path(folder)
        self._manifest = _read_manifest(self.folder)
        if fault := next(faults_of(self.folder, self._manifest["files"]), None):
            raise ValueError(f"{printable(self.folder)}: {fault}: export the model again")
        self.config = AutoConfig.from_pretrained(self.folder)
        self.exported_from = self._manifest["model"]
        self._sessions: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> "OnnxModel":
        """The same as calling the class."""
        return cls(folder)

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries, each an image and a caption or either alone: `(num_queries, dim)`, unit length.

        Raises:
            ValueError, TypeError: neither is given, the model that was exported has no such queries, or the inputs are
                not what it takes.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        given = {}
        if pixel_values is not None:
            given["pixel_values"] = pixel_values
        if input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            self._check_captions(input_ids, mask)
            given |= {"input_ids": input_ids, "attention_mask": mask}
        check_triplets(pixel_values, input_ids)
        mode = next(mode for mode, names in QUERY_MODES.items() if set(names) == set(given))
        return self._run(mode, given)

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images: `(num_images, num_tokens, dim)`, each token of unit length."""
        return self._run(TARGET, {"pixel_values": pixel_values})

    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Not in an export.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{printable(self.folder)}: exported encoders do not tell where in an image their features come from, so "
            "there are no heat maps: take the model that they come from. Which words matter can be asked all the same"
        )

    def _check_captions(self, ids: Tensor, mask: Tensor) -> None:
        words, least, most = (self._manifest["captions"][name] for name in ("words", "least", "most"))
        check_captions("input_ids", ids, mask, words, most)
        if ids.shape[1] < least:
            raise ValueError(
                f"input_ids: the captions have {ids.shape[1]} tokens, and these encoders take from {least} to {most}: "
                "use the processor in their folder"
            )

    def _run(self, encoder: str, given: Mapping[str, Tensor]) -> Tensor:
        if reason := self._manifest["refused"].get(encoder):
            raise ValueError(f"{printable(self.folder)} has no encoder of {encoder}: {reason}")
        if "pixel_values" in given:
            check_images("pixel_values", given["pixel_values"], self.image_shape)
        session = self._session(encoder)
        arrays = {
            name: (tensor.float() if tensor.is_floating_point() else tensor.long()).numpy(force=True)
            for name, tensor in given.items()
        }
        feed = {entry.name: arrays[entry.name] for entry in session.get_inputs()}  # some read no mask
        return torch.from_numpy(session.run(None, feed)[0])

    def _session(self, encoder: str) -> Any:
        if encoder not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()  # not one a core, whatever the process may use
            self._sessions[encoder] = onnxruntime.InferenceSession(
                self.folder / self._manifest["graphs"][encoder], options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[encoder]

    @property
    def feature_shape(self) -> tuple[int, int]:
        """`(num_tokens, dim)`."""
        return tuple(self._manifest["feature_shape"])

    @property
    def image_shape(self) -> tuple[int, int]:
        """`(height, width)`, in pixels."""
        return tuple(self._manifest["image_shape"])

    @property
    def num_top_tokens(self) -> int:
        """k of the score."""
        return self._manifest["num_top_tokens"]

    @property
    def features_dtype(self) -> torch.dtype:
        """fp32, also where weights are int8."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def to(self, device: Any = None, **options: Any) -> "OnnxModel":
        """Stays where it is.

        Raises:
            ValueError: it is to be elsewhere, or in another precision.
        """
        wanted = {str(one) for one in (device, *options.values()) if one is not None}
        if wanted - {"cpu", "torch.float32"}:
            raise ValueError(
                f"{printable(self.folder)}: exported encoders run on the CPU, in the precision that they were exported "
                f"in, not on {', '.join(sorted(wanted))}. Load the model that they come from instead"
            )
        return self

    def get_input_embeddings(self) -> nn.Module:
        """A stand-in for the word embeddings, which tells their number."""
        return nn.Embedding(self._manifest["captions"]["words"], 1, device="meta")


def faults_of_export(folder: Path, show_progress: bool = False) -> list[str]:
    """A sentence for each file of an export that is missing or damaged; all of them are read."""
    try:
        return list(faults_of(folder, _read_manifest(folder)["files"], show_progress=show_progress))
    except ValueError as error:
        return [str(error)]


def _read_manifest(folder: Path) -> dict[str, Any]:
    name = printable(folder)
    if not is_export(folder):
        raise FileNotFoundError(f"{name} holds no exported encoders (no {MANIFEST}): {_MAKE}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{name}: its {MANIFEST} is none of exported encoders: {_MAKE}")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{name} is an export of version {manifest.get('version')!r:.40}, which this program, with version "
            f"{VERSION}, does not read: export the model again"
        )
    if not is_sealed(manifest):
        raise ValueError(f"{name}: its {MANIFEST} is damaged (checksum): export the model again")
    return manifest


__all__ = ["OnnxModel", "faults_of_export", "is_export", "require_onnx"]
