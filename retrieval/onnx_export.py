"""Exports both encoders of a model, of queries and of targets, to ONNX, for machines without PyTorch or without a GPU.

    python -m fafa.retrieval.onnx_export runs/paper exports/paper
    python -m fafa.retrieval.onnx_export runs/paper exports/paper-int8 --int8

MODEL is a folder or Hub name of a model with its processor; OUTPUT a folder to write, see `fafa/onnx_encoders.py` for
what is in it. `load_model` and every command that takes --model then take OUTPUT, too. A query has as many graphs as
the model has kinds of it (image and caption, caption alone, image alone); numbers of images and captions, and the
length of captions, vary freely. Each graph is compared with PyTorch on other inputs before anything is kept.

--int8 stores the weights of matrix products in 8 bits (onnxruntime's dynamic quantisation), a quarter of the size;
what that costs is measured in benchmarks/results/onnx_encoders.md.
"""

import argparse
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from ..commands import command, import_modules, loading
from ..files import (
    check_empty,
    check_output_folder,
    full_disk_told,
    printable,
    record_files,
    sealed,
    whole_folder,
    write_json,
)
from ..model_folder import check_fit, load_model
from ..onnx_encoders import FORMAT, MANIFEST, TARGET, VERSION, WEIGHTS, OnnxModel, require_onnx
from ..retriever import QUERY_MODES, Retriever, RetrieverProcessor
from .fingerprint import dtype_name, model_fingerprint

PARITY = 1e-4  # the largest difference of a feature's entry from PyTorch's
_OPSET = 20  # has GELU and LayerNorm as one operation each
_LEAST_SHARED = 1024  # bytes of a tensor that goes into the file of weights
_PAGE = 4096  # at whose multiples its tensors begin, so that they can be mapped
_LARGE = 1 << 30  # bytes of weights from which a graph cannot hold them: a protobuf message ends at 2 GiB


class _Encoder(nn.Module):
    """One encoder by itself, which takes its tensors in order."""

    def __init__(self, model: Retriever, name: str):
        super().__init__()
        self.model, self.name = model, name
        self.inputs = QUERY_MODES["image"] if name == TARGET else QUERY_MODES[name]

    def forward(self, *tensors: Tensor) -> Tensor:
        encode = self.model.get_target_features if self.name == TARGET else self.model.get_query_features
        return encode(**dict(zip(self.inputs, tensors, strict=True)))


@torch.no_grad()
def export_onnx(
    model: Retriever, processor: RetrieverProcessor, output: str | Path, int8: bool = False
) -> dict[str, float]:
    """Writes a model's encoders and its processor into a folder, whole or not at all.

    Args:
        model: in fp32, on the CPU; it is put into eval mode.
        output: absent or empty.
        int8: stores the weights of matrix products in 8 bits. Then features differ, and are not compared.

    Returns:
        for each encoder, the largest difference of any entry of its features from PyTorch's, on inputs of other sizes
        than those it was made with.

    Raises:
        ValueError: the model cannot be exported: the encoder is named, and the reason; or the exported one differs.
        FileExistsError: `output` holds something. OSError: it cannot be written.
        ImportError: onnx or onnxruntime is not installed.
    """
    require_onnx("onnx", "onnxruntime")
    check_empty(output)
    check_output_folder(Path(output).parent)
    check_fit(model, processor)
    precisions = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    if precisions != {torch.float32} or model.device.type != "cpu":
        found = ", ".join(sorted(map(dtype_name, precisions)))
        raise ValueError(f"the model is {found} on {model.device}: load it in float32 on the CPU to export it")
    model.eval()
    words = _words(processor)
    made, compared = (_inputs(model, processor, words, counts) for counts in ((2, 5), (1, 3, 8)))
    shortest, longest = (processor.encode_captions([" ".join(words[:count])])["input_ids"].shape[1] for count in (1, 8))
    is_fixed = shortest == longest  # all captions are padded to one length
    refused: dict[str, str] = {}
    for name in QUERY_MODES:
        try:
            _Encoder(model, name)(*_of(name, made))
        except ValueError as error:
            refused[name] = str(error)
    graphs = {
        name: f"{'query-' * (name != TARGET)}{name}.onnx" for name in (TARGET, *QUERY_MODES) if name not in refused
    }
    captions = {
        "words": model.get_input_embeddings().num_embeddings,
        "least": longest if is_fixed else 1,
        "most": longest if is_fixed else processor.caption_settings()["max_text_length"],
    }
    with whole_folder(output, last=MANIFEST) as folder, full_disk_told(folder):
        with (folder / WEIGHTS).open("xb") as weights:
            places: dict[str, tuple[int, int]] = {}
            for name, file in graphs.items():
                _write_graph(_Encoder(model, name), _of(name, made), folder / file, int8)
                _move_weights(folder / file, weights, places)
        processor.save_pretrained(folder)
        model.config.save_pretrained(folder)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "model": {
                "name": model.config._name_or_path,
                "revision": getattr(model.config, "_commit_hash", None),
                "fingerprint": model_fingerprint(model),
                "dtype": "int8" if int8 else "float32",
            },
            "feature_shape": list(model.feature_shape),
            "image_shape": list(model.image_shape),
            "num_top_tokens": model.num_top_tokens,
            "captions": captions,
            "graphs": graphs,
            "refused": refused,
            "files": record_files(folder, sorted(file.name for file in folder.iterdir() if file.name[0] != ".")),
        }
        write_json(folder / MANIFEST, sealed(manifest))
        differences = {}
        for name in graphs:
            # A model of its own each: graphs of a large model are not in memory together.
            expected = _Encoder(model, name)(*_of(name, compared))
            found = _Encoder(OnnxModel(folder), name)(*_of(name, compared))
            differences[name] = (found - expected).abs().max().item()
            if not int8 and not differences[name] <= PARITY:  # NaN is refused, too
                raise ValueError(
                    f"{type(model).__name__} cannot be exported to ONNX: its encoder of {name} gives features that "
                    f"differ from PyTorch's by {differences[name]:.2g}, more than {PARITY:g}"
                )
    return differences


def _words(processor: RetrieverProcessor) -> list[str]:
    """Words that a tokenizer knows, of whatever kind it is."""
    tokens = (token.removesuffix("</w>").lstrip("▁Ġ") for token in sorted(processor.tokenizer.get_vocab()))
    return [token for token in tokens if token.isalpha()]


def _inputs(
    model: Retriever, processor: RetrieverProcessor, words: Sequence[str], counts: Sequence[int]
) -> dict[str, Tensor]:
    """Noise for images, and captions of so many words, padded."""
    generator = torch.Generator().manual_seed(len(counts))
    pixels = torch.randn(len(counts), 3, *model.image_shape, generator=generator)
    return {"pixel_values": pixels, **processor.encode_captions([" ".join(words[:count]) for count in counts])}


def _of(name: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return tuple(inputs[one] for one in QUERY_MODES["image" if name == TARGET else name])


def _write_graph(encoder: _Encoder, inputs: tuple[Tensor, ...], file: Path, int8: bool) -> None:
    """Traces an encoder. (The exporter by `torch.export` takes nine times as long, and gives the same features.)"""
    axes = {name: {0: "batch"} if name == "pixel_values" else {0: "batch", 1: "length"} for name in encoder.inputs}
    plain = file.with_name(f"plain-{file.name}") if int8 else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing, which is what is wanted: all is compared afterwards
            torch.onnx.export(
                encoder,
                inputs,
                str(plain),
                input_names=list(encoder.inputs),
                output_names=["features"],
                dynamic_axes={**axes, "features": {0: "batch"}},
                opset_version=_OPSET,
                dynamo=False,
            )
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{type(encoder.model).__name__} cannot be exported to ONNX: its encoder of {encoder.name} ({reason:.300})"
        ) from error
    if int8:
        _quantise(plain, file)


def _quantise(plain: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    is_large = sum(part.stat().st_size for part in plain.parent.iterdir() if part.name != WEIGHTS) > _LARGE
    logger = logging.getLogger()
    before, logger.disabled = logger.disabled, True  # advice of the library's own on how to prepare graphs
    try:
        quantize_dynamic(
            plain,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large,
        )
    finally:
        logger.disabled = before
    plain.unlink()


def _move_weights(file: Path, weights: Any, places: dict[str, tuple[int, int]]) -> None:
    """Moves a graph's large tensors into the file of weights, where equal ones of other graphs may be already.

    Args:
        places: hash of a tensor's bytes -> offset and length; it is added to.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    graph = onnx.load(file)
    for tensor in graph.graph.initializer:
        data = tensor.raw_data
        if len(data) < _LEAST_SHARED:
            continue
        key = xxhash.xxh3_128_hexdigest(data)
        if key not in places:
            weights.write(b"\0" * (-weights.tell() % _PAGE))
            places[key] = weights.tell(), len(data)
            weights.write(data)
        set_external_data(tensor, WEIGHTS, *places[key])
        tensor.ClearField("raw_data")
    others = {file.name, WEIGHTS, *(other.name for other in file.parent.glob("*.onnx"))}
    for part in file.parent.iterdir():  # what the exporter wrote beside a large graph
        if part.name not in others and part.name[0] != ".":
            part.unlink()
    file.write_bytes(graph.SerializeToString())


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m fafa.retrieval.onnx_export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub name of a model with its processor")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write; absent or empty")
    parser.add_argument("--int8", action="store_true", help="store the weights of matrix products in 8 bits")
    parser.add_argument(
        "--import-modules", nargs="+", default=[], metavar="MODULE", help="Python modules that register its class"
    )
    given = parser.parse_args(arguments)
    with command(kept="Nothing was written: give the same command again."):
        require_onnx("onnx", "onnxruntime")
        check_empty(given.output)
        import_modules(given.import_modules)
        with loading(given.model):
            model, processor = load_model(given.model, dtype=torch.float32)
        differences = export_onnx(model, processor, given.output, given.int8)
        for name, difference in differences.items():
            print(f"{name}: differs from PyTorch by at most {difference:.1e}")
        print(f"written: {printable(given.output)}")


if __name__ == "__main__":
    main()
