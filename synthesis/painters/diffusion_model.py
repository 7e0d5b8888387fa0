"""A pipeline of diffusers at work: constant batches, prompt embeddings made once, the adapter's strength by row."""

import inspect
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from huggingface_hub import snapshot_download
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors import safe_open

from ...files import sha256_of
from ...names import meant
from ..components import ImageModel, ImageRequest, PaintedImage, SynthesisError
from ..images import open_rgb
from ..models.batches import Batches, is_out_of_memory
from ..models.pretrained import check_dtype, find_device, loading, one_line
from ..settings import Settings

logger = logging.getLogger(__name__)

# What `encode_prompt` of these pipelines returns first, by the names under which the call takes it; () if the call gets
# the prompts as texts. Each row depends on its own prompt only. This is not known of other pipelines (many pad to the
# longest prompt of a batch), so they paint one image at a time.
_FLUX = ("prompt_embeds", "pooled_prompt_embeds")
_STABLE_DIFFUSION = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_EMBEDDINGS = {
    "FluxPipeline": _FLUX,
    "FluxKontextPipeline": _FLUX,
    "StableDiffusionPipeline": _STABLE_DIFFUSION[:2],
    "StableDiffusionXLPipeline": _STABLE_DIFFUSION,
    "StableDiffusion3Pipeline": _STABLE_DIFFUSION,
    "StableDiffusionInstructPix2PixPipeline": (),
}
_PROMPTS_KEPT = 32  # embeddings of so many; 4 MB each with FLUX.1

_Box = tuple[int, int, int, int]


class DiffusionModel(ImageModel):
    """A loaded pipeline of diffusers; `DiffusionPainter` says what its settings mean.

    A batch always has one size, for the same seed gives other pixels at another size; the last batch is filled up.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.device = find_device(settings.device)
        self.pipeline, commit = _load_pipeline(settings)
        self._class = type(self.pipeline).__name__
        self.about = {"class": self._class, "model": settings.model, "revision": settings.revision, "commit": commit}
        self.about["diffusers"] = diffusers.__version__
        if settings.adapter is not None:
            self.about |= _load_adapter(self.pipeline, settings.adapter, settings.adapter_revision)
        if settings.tokens:
            _load_tokens(self.pipeline, settings.tokens)
        self._strengths = _RowStrengths(self.pipeline)
        self._edits = "image" in inspect.signature(self.pipeline.__call__).parameters
        self._arguments = self._checked_arguments()
        self._embeddings = _EMBEDDINGS.get(self._class, ())
        self._embed = lru_cache(_PROMPTS_KEPT)(self._embed_prompt)
        self._full_batch = settings.batch_size if self._class in _EMBEDDINGS else 1
        if self._full_batch < settings.batch_size:
            logger.warning("%s paints one image at a time: its rows may depend on one another", self._class)
        self.batches = Batches(self._full_batch, self._too_large_image, self.pipeline.maybe_free_model_hooks)
        self._place()

    def paint(self, requests: Iterable[ImageRequest]) -> Iterator[PaintedImage]:
        """One image per request, in their order.

        Raises:
            SynthesisError: memory is too small for one image, the pipeline refuses its arguments, or a request brings
                no image to a pipeline that edits, or one to a pipeline that does not.
        """
        return self.batches.map(self._paint_batch, requests)

    def _too_large_image(self, _: ImageRequest) -> SynthesisError:
        what = f"one image of {self.settings.width}x{self.settings.height} pixels"
        return self._too_large(what, "set offload: model, or sequential, or paint smaller")

    def _paint_batch(self, rows: list[ImageRequest]) -> Iterator[PaintedImage]:
        frames = [self._frame(request) for request in rows]
        arguments = self._arguments | self._prompt_arguments(rows)
        if self._edits:
            arguments["image"] = [image for image, _ in frames]
        self._strengths.set([request.strength for request in rows], self.device)
        arguments["generator"] = [torch.Generator("cpu").manual_seed(request.seed) for request in rows]
        try:
            output = self.pipeline(**arguments)
        except (ValueError, TypeError) as error:
            message = f"{self.settings.model}: {self._class} refuses {rows[0].id}: {one_line(error)}"
            raise SynthesisError(message) from error
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(rows)
        for request, image, is_unsafe, (_, box) in zip(rows, output.images, unsafe, frames, strict=True):
            yield self._finish(request, image, is_unsafe, box)

    def _finish(self, request: ImageRequest, image: Image.Image, unsafe: bool, box: _Box) -> PaintedImage:
        self.usage["images"] += 1
        if image.size != (self.settings.width, self.settings.height):
            raise SynthesisError(
                f"{self.settings.model}: {self._class} painted {image.width}x{image.height} pixels instead of "
                f"{self.settings.width}x{self.settings.height}; set a size that it can paint"
            )
        facts = {} if self.batches.size == self._full_batch else {"batch_size": self.batches.size}
        image = image.convert("RGB").crop(box)
        if unsafe:
            return PaintedImage(request.id, None, "refused as unsafe", facts)
        if image.getbbox() is None:
            # Silent safety checkers return black, and so do numbers that overflowed.
            return PaintedImage(request.id, None, "all black: refused as unsafe, or out of the range of dtype", facts)
        return PaintedImage(request.id, image, None, facts)

    def _frame(self, request: ImageRequest) -> tuple[Image.Image | None, _Box]:
        """The request's image in the size that is painted, its edges repeated around it, and the box where it lies.

        The edited image is cropped to that box, so that it has the shape of the first.
        """
        width, height = self.settings.width, self.settings.height
        if self._edits == (request.source is None):
            problem = "brings no image to edit" if self._edits else "brings an image, but this pipeline edits none"
            raise SynthesisError(f"{self.settings.model}: {self._class} cannot work: request {request.id} {problem}")
        if request.source is None:
            return None, (0, 0, width, height)
        image = open_rgb(request.source)
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        pixels = np.asarray(image.resize(inner, Image.Resampling.LANCZOS))
        margins = (top, height - inner[1] - top), (left, width - inner[0] - left), (0, 0)
        return Image.fromarray(np.pad(pixels, margins, mode="edge")), (left, top, left + inner[0], top + inner[1])

    def _prompt_arguments(self, rows: list[ImageRequest]) -> dict[str, Any]:
        if not self._embeddings:
            prompts = {"prompt": [request.prompt for request in rows]}
            negative = self.settings.negative_prompt
            return prompts if negative is None else prompts | {"negative_prompt": [negative] * len(rows)}
        # The embeddings depend on the strength only if the adapter changes a text encoder.
        found = [self._embed(request.prompt, request.strength if self._strengths.in_text else 1.0) for request in rows]
        return {name: torch.cat([entry[name] for entry in found]) for name in found[0]}

    @torch.no_grad()
    def _embed_prompt(self, prompt: str, strength: float) -> dict[str, torch.Tensor]:
        """The embeddings that the call takes instead of one prompt and the negative one: tensors of one row."""
        self._strengths.set([strength], self.device)
        parameters = inspect.signature(self.pipeline.encode_prompt).parameters
        known = self._arguments | {
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": True,  # the call ignores negatives that it does not need
            "negative_prompt": self.settings.negative_prompt,
            "prompt_2": None,
            "prompt_3": None,
        }
        options = {name: value for name, value in known.items() if name in parameters}
        found = dict(zip(self._embeddings, self.pipeline.encode_prompt(prompt, **options), strict=False))
        if self.settings.negative_prompt is not None and "negative_prompt" not in parameters:
            negative = self.pipeline.encode_prompt(self.settings.negative_prompt, **options)
            found |= {f"negative_{name}": value for name, value in zip(self._embeddings, negative, strict=False)}
        return {name: value for name, value in found.items() if value is not None}

    def _checked_arguments(self) -> dict[str, Any]:
        """The arguments of every call of the pipeline, except prompts, images and seeds.

        Raises:
            ValueError: the pipeline does not take a setting, or does not paint this size.
        """
        settings, parameters = self.settings, inspect.signature(self.pipeline.__call__).parameters
        optional = {"guidance_scale": settings.guidance, "max_sequence_length": settings.max_sequence_length}
        arguments = {"num_inference_steps": settings.steps, **settings.options}
        arguments |= {name: value for name, value in optional.items() if value is not None}
        for name in [*arguments, *(["negative_prompt"] if settings.negative_prompt is not None else [])]:
            if name not in parameters:
                hint = meant(name, parameters) or "leave it out"
                raise ValueError(f"{settings.model}: {self._class} takes no {name}; {hint}")
        if settings.negative_prompt is not None:
            scale = "true_cfg_scale" if "true_cfg_scale" in parameters else "guidance_scale"
            if arguments.get(scale, parameters[scale].default) <= 1:
                raise ValueError(f"{settings.model}: negative_prompt acts only where {scale} is above 1; set it")
        unit = self.pipeline.image_processor.config.vae_scale_factor if hasattr(self.pipeline, "image_processor") else 1
        if settings.width % unit or settings.height % unit:
            raise ValueError(
                f"{settings.model}: {self._class} paints sides that are multiples of {unit} pixels, "
                f"not {settings.width}x{settings.height}"
            )
        # By default, Kontext paints a megapixel, and resizes what it edits to one of its own sizes, so that a pixel has
        # another place there than in the painted image.
        size = {"width": settings.width, "height": settings.height, "max_area": settings.width * settings.height}
        known = {"_auto_resize": False} | arguments | size
        return {name: value for name, value in known.items() if name in parameters}

    def _place(self) -> None:
        """Moves the models to the device where they work."""
        vae = getattr(self.pipeline, "vae", None)
        if hasattr(vae, "use_slicing"):
            vae.enable_slicing()  # row by row: decoding ten images of 1024x1024 at once takes some 20 GB
        offload = self.settings.offload
        if offload != "none" and self.device.type == "cpu":
            raise ValueError(f"offload: {offload} needs a GPU, and there is none; leave it out")
        try:
            if offload == "model":
                self.pipeline.enable_model_cpu_offload(device=self.device)
            elif offload == "sequential":
                self.pipeline.enable_sequential_cpu_offload(device=self.device)
            else:
                self.pipeline.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large("the model", "set offload: model, or sequential") from error
        if self.settings.compile:
            (getattr(self.pipeline, "transformer", None) or self.pipeline.unet).compile()
        self.pipeline.set_progress_bar_config(disable=True)

    def _too_large(self, what: str, remedy: str) -> SynthesisError:
        """The error for what does not fit into memory; it tells whether another process holds the memory of a GPU."""
        if self.device.type == "cuda":
            try:
                free, total = torch.cuda.mem_get_info(self.device)
                own = torch.cuda.memory_reserved(self.device)
                found = f"of {total / 1e9:.1f} GB {free / 1e9:.1f} are free and {own / 1e9:.1f} held by this process"
            except RuntimeError:  # a full GPU refuses even to tell
                found = "there is next to none free"
            remedy = f"{found}; another process, such as a vLLM server, may hold the rest: stop it, or {remedy}"
        return SynthesisError(f"{self.settings.model}: memory is too small for {what}; {remedy}")


class _RowStrengths:
    """Gives every row of a batch its own strength of the adapter.

    diffusers sets one strength for all, so that a batch could not mix them. Here the strength times the layer's own
    scale multiplies the rows of what each LoRA layer adds: to the bit what `set_adapters(name, strength)` gives.
    """

    def __init__(self, pipeline: DiffusionPipeline):
        self.in_text = False  # whether the adapter also changes a text encoder
        self._factors: dict[float, torch.Tensor] = {}
        self._scales: set[float] = set()
        for name, layer in _lora_layers(pipeline):
            if layer.lora_variant or layer.lora_embedding_B:
                raise SynthesisError("the adapter is no plain LoRA (a DoRA, or one of embeddings); train a plain one")
            self.in_text |= name.startswith("text_encoder")
            for adapter, last in layer.lora_B.items():
                scale, layer.scaling[adapter] = layer.scaling[adapter], 1.0
                self._scales.add(scale)
                last.register_forward_hook(partial(self._multiply, scale))

    def set(self, strengths: list[float], device: torch.device) -> None:
        """Sets the strength of each row of the next batch."""
        self._factors = {
            scale: torch.tensor([strength * scale for strength in strengths], dtype=torch.float32, device=device)
            for scale in self._scales
        }

    def _multiply(self, scale: float, _layer: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        factors = self._factors[scale]
        # Guided pipelines stack the batch twice or three times. With more, rows can no longer be told apart.
        times, rest = divmod(len(output), len(factors))
        if rest or (times > 3 and len(factors) > 1):
            raise ValueError("its layers mix the rows of a batch; set batch_size: 1")
        factors = factors.repeat(times).view(-1, *[1] * (output.ndim - 1))
        return (output.float() * factors).to(output.dtype)


def _lora_layers(pipeline: DiffusionPipeline) -> Iterator[tuple[str, LoraLayer]]:
    """Layers with an adapter, each with the name of its component of the pipeline."""
    for name, component in pipeline.components.items():
        if isinstance(component, torch.nn.Module):
            yield from ((name, layer) for layer in component.modules() if isinstance(layer, LoraLayer))


def _load_pipeline(settings: Settings) -> tuple[DiffusionPipeline, str | None]:
    """The pipeline, and its commit if it came from the Hub."""
    remedy = "Give a folder with a model_index.json, or an id on the Hub (log in there if it is gated)"
    with loading(settings.model, "as a pipeline of diffusers", remedy):
        folder = Path(settings.model)
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(settings.model, revision=settings.revision, use_safetensors=True))
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, settings.dtype), use_safetensors=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            check_dtype(component, settings.dtype, settings.model)
    return pipeline, folder.name if folder.parent.name == "snapshots" else None


def _load_adapter(pipeline: DiffusionPipeline, adapter: str, revision: str | None) -> dict[str, Any]:
    """Puts a LoRA into the pipeline; returns its facts for the manifest."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"{adapter}: {type(pipeline).__name__} takes no adapter; leave it out")
    remedy = "Give a folder or an id on the Hub with one .safetensors file, made for this model"
    with loading(adapter, "as a LoRA", remedy):
        file = _adapter_file(adapter, revision)
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True)
    layers = [layer for _, layer in _lora_layers(pipeline)]
    with safe_open(file, "np") as weights:
        expected = max(1, sum(name.endswith(".lora_A.weight") for name in weights.keys()))  # noqa: SIM118
    if len(layers) < expected:  # diffusers silently leaves out what does not fit
        raise SynthesisError(
            f"{adapter}: of its weights, those of {len(layers)} layers fit {type(pipeline).__name__}, expected "
            f"{expected}; take an adapter that was made for this model"
        )
    return {
        "adapter": adapter,
        "adapter_revision": revision,
        "adapter_sha256": sha256_of(file),
        "rank": max(rank for layer in layers for rank in layer.r.values()),
    }


def _adapter_file(adapter: str, revision: str | None) -> Path:
    """The file of an adapter, fetched from the Hub if need be: the one with diffusers' usual name, or the only one."""
    path = Path(adapter)
    if path.is_file():
        return path
    if not path.is_dir():
        path = Path(snapshot_download(adapter, revision=revision, allow_patterns="*.safetensors"))
    named = path / LORA_WEIGHT_NAME_SAFE
    files = [named] if named.is_file() else list(path.glob("*.safetensors"))
    if len(files) != 1:
        raise OSError(f"found {len(files)} .safetensors files in {path}; name the file")
    return files[0]


def _load_tokens(pipeline: DiffusionPipeline, files: list[str]) -> None:
    if not hasattr(pipeline, "load_textual_inversion"):
        raise ValueError(f"{files[0]}: {type(pipeline).__name__} takes no tokens; leave them out")
    for file in files:
        with loading(file, "as tokens of textual inversion", "Give a .safetensors file made for this model"):
            pipeline.load_textual_inversion(file, use_safetensors=True)
