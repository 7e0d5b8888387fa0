"""Diptychs and prompts as FLUX.1 sees them: latents and prompt embeddings, made once and kept on disk.

A file is named by what it was made from (the image's bytes or the prompt, the model and its revision), so that several
runs may share a folder. Files are written whole or not at all, with a checksum; a damaged one is made anew.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import xxhash
from diffusers import AutoencoderKL, FluxPipeline
from diffusers.training_utils import free_memory
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ...files import whole_file
from ...image_reading_fafa import UnreadableImageError, inspect_image, read_image_file
from ..components import REJECTED, SynthesisError
from ..images import open_rgb
from ..settings import Settings
from ..stages import read_lines

logger = logging.getLogger(__name__)

LATENTS, TEXT = "latents", "text"
_CHECKSUM = "xxh3_128"
_TENSORS = {LATENTS: {"latents"}, TEXT: {"prompt_embeds", "pooled_prompt_embeds"}}


class Diptych(NamedTuple):
    """An image to train on.

    Attributes:
        file: Where it is.
        content: Hash of its bytes.
        size: Width and height, in pixels.
        prompt: What it shows.
    """

    file: Path
    content: str
    size: tuple[int, int]
    prompt: str


def read_diptychs(file: Path) -> tuple[list[Diptych], int]:
    """The diptychs of a metadata.jsonl, and how many of its lines are rejected ones.

    Raises:
        SynthesisError: the file is damaged, or a line has no image or prompt.
    """
    try:
        records, damaged = read_lines(file)
    except OSError as error:
        raise SynthesisError(f"{file}: the diptychs cannot be read ({error.strerror})") from None
    if damaged:
        raise SynthesisError(f"{file}: {damaged} of its lines are no JSON objects; mend or remove them")
    diptychs = []
    for number, record in enumerate(records, start=1):
        if REJECTED in record:
            continue
        if not isinstance(record.get("image"), str) or not isinstance(record.get("prompt"), str):
            raise SynthesisError(f'{file}, line {number}: expected the texts "image" and "prompt"')
        image = file.parent / record["image"]
        try:
            content = hashlib.sha256(read_image_file(image)).hexdigest()
            size = inspect_image(image, decode=False)[1:]
        except (OSError, UnreadableImageError) as error:
            raise SynthesisError(f"{file}, line {number}: {image} cannot be read ({error})") from None
        diptychs.append(Diptych(image, content, size, record["prompt"]))
    if not diptychs:
        raise SynthesisError(f"{file}: there is no diptych in it to train on")
    return diptychs, len(records) - len(diptychs)


def common_size(diptychs: Sequence[Diptych], multiple: int) -> tuple[int, int]:
    """Width and height of all diptychs, in pixels.

    Raises:
        SynthesisError: a diptych has another size, or one that FLUX.1 cannot paint.
    """
    (width, height), first = diptychs[0].size, diptychs[0].file
    for file, _, size, _ in diptychs:
        if size != (width, height):
            raise SynthesisError(f"{file}: is {size[0]} x {size[1]}, the first is {width} x {height}")
    if width % multiple or height % multiple:
        raise SynthesisError(f"{first}: is {width} x {height}; the model needs multiples of {multiple}")
    return width, height


class Cache:
    """A folder of latents and prompt embeddings.

    Args:
        folder: Made if need be.
        settings: Settings of the training: its model, and how much of a prompt is read.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self._settings = Path(folder), settings

    def latents(self, diptych: Diptych) -> torch.Tensor:
        """What the transformer learns to paint: float32 `(channels, height, width)` in latent pixels."""
        return load_file(self._file(LATENTS, diptych.content))["latents"]

    def text(self, prompt: str) -> dict[str, torch.Tensor]:
        """`prompt_embeds` `(max_sequence_length, width)` and `pooled_prompt_embeds` `(width,)`."""
        return load_file(self._file(TEXT, prompt))

    @torch.no_grad()
    def fill(
        self, diptychs: Sequence[Diptych], prompts: Sequence[str], device: torch.device, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Makes what is missing or damaged.

        Args:
            diptychs: Diptychs whose latents are wanted.
            prompts: Prompts whose embeddings are wanted, those of the diptychs included.
            device: For the models, which are loaded only if there is something to do, and leave its memory afterwards.
            share: `(i, n)`: only every n-th of them, from the i-th.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {diptych.content: diptych.file for diptych in diptychs}
        tasks = [(LATENTS, content) for content in files] + [(TEXT, prompt) for prompt in dict.fromkeys(prompts)]
        lacking = [(kind, source) for kind, source in tasks[share[0] :: share[1]] if not self._is_sound(kind, source)]
        if not lacking:
            return
        pipeline, longest, num_cut = self._load(device), self._settings.max_sequence_length, 0
        for kind, source in tqdm(lacking, desc="latents and prompts", unit="item"):
            if kind == LATENTS:
                pixels = pipeline.image_processor.preprocess(open_rgb(files[source])).to(device, torch.float32)
                # The mode of the distribution, which is so narrow that a sample of it would look the same.
                mode, config = pipeline.vae.encode(pixels).latent_dist.mode()[0], pipeline.vae.config
                tensors = {"latents": (mode - config.shift_factor) * config.scaling_factor}
            else:
                num_cut += len(pipeline.tokenizer_2(source).input_ids) > longest
                embeds, pooled, _ = pipeline.encode_prompt(source, device=device, max_sequence_length=longest)
                tensors = {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}
            tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            with whole_file(self._file(kind, source)) as part:
                save_file(tensors, part, {_CHECKSUM: _hash_of(tensors)})
        if num_cut:
            logger.warning("%d prompts were cut: they have more than max_sequence_length = %d tokens", num_cut, longest)
        del pipeline
        free_memory()

    def _load(self, device: torch.device) -> FluxPipeline:
        """The pipeline without its transformer, which stays on disk."""
        settings = self._settings
        # It warns of every prompt that CLIP cuts at 77 tokens, which is as it should be.
        logging.getLogger("diffusers.pipelines.flux.pipeline_flux").setLevel(logging.ERROR)
        source = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision}
        # The autoencoder in full precision: it is small, and half precision costs detail.
        vae = AutoencoderKL.from_pretrained(**source, subfolder="vae", dtype=torch.float32)
        dtype = getattr(torch, settings.dtype)
        return FluxPipeline.from_pretrained(**source, transformer=None, vae=vae, dtype=dtype).to(device)

    def _file(self, kind: str, source: str) -> Path:
        settings = self._settings
        key = [source, settings.model, settings.revision]
        key += [settings.max_sequence_length, settings.dtype] if kind == TEXT else []
        return self.folder / f"{kind}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def _is_sound(self, kind: str, source: str) -> bool:
        """Whether a file is there and holds what was written."""
        file = self._file(kind, source)
        if not file.exists():
            return False
        try:
            with safe_open(file, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
                checksum = (opened.metadata() or {}).get(_CHECKSUM)
            if set(tensors) == _TENSORS[kind] and _hash_of(tensors) == checksum:
                return True
            fault = "other tensors or another checksum than expected"
        except SafetensorError as error:
            fault = str(error)
        logger.warning("%s is damaged (%s): made anew", file, fault)
        return False


def _hash_of(tensors: dict[str, torch.Tensor]) -> str:
    """A checksum of contiguous tensors on the CPU and their names."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
