"""Diptychs and prompts as FLUX.1 sees them, encoded once and kept on disk.

A file is named by what it is the encoding of (the picture's bytes or the prompt, the model and its revision), so that
several runs may share a folder. Files are written whole or not at all, with a checksum; one that is damaged is made
anew.
"""

import gc
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from diffusers import AutoencoderKL, FluxPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ...image_reading_fafa import UnreadableImageError, inspect_image, open_image, read_image_file
from ..components import SynthesisError
from ..stages import REJECTED, read_lines

logger = logging.getLogger(__name__)

LATENTS, TEXT = "latents", "text"
_CHECKSUM = "xxh3_128"
_TENSORS = {LATENTS: {"latents"}, TEXT: {"prompt_embeds", "pooled_prompt_embeds"}}


@dataclass(frozen=True)
class Diptych:
    """A picture to train on.

    Attributes:
        file: Where it is.
        content: Hash of its bytes.
        prompt: What it shows.
    """

    file: Path
    content: str
    prompt: str


@dataclass(frozen=True)
class Encoders:
    """What decides an encoding.

    Attributes:
        model: Path or id of a FluxPipeline.
        revision: Of the model on the Hub.
        max_sequence_length: Tokens of a prompt that its T5 encoder reads.
        dtype: Of the text encoders and of what they give, as torch names it.
    """

    model: str
    revision: str | None
    max_sequence_length: int
    dtype: str


def read_diptychs(file: Path) -> tuple[list[Diptych], int]:
    """The diptychs of a metadata.jsonl, and how many of its lines are rejected ones.

    Raises:
        SynthesisError: the file is damaged, or a line has no picture or prompt.
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
        picture = file.parent / record["image"]
        try:
            content = hashlib.sha256(read_image_file(picture, "picture")).hexdigest()
        except (OSError, UnreadableImageError) as error:
            raise SynthesisError(f"{file}, line {number}: {picture} cannot be read ({error})") from None
        diptychs.append(Diptych(picture, content, record["prompt"]))
    if not diptychs:
        raise SynthesisError(f"{file}: there is no diptych in it to train on")
    return diptychs, len(records) - len(diptychs)


def common_size(diptychs: Sequence[Diptych], multiple: int) -> tuple[int, int]:
    """Width and height of all diptychs, in pixels; only headers are read.

    Raises:
        SynthesisError: a picture cannot be read, has another size, or one that FLUX.1 cannot paint.
    """
    size = None
    for diptych in diptychs:
        try:
            found = inspect_image(diptych.file, decode=False)[1:]
        except (OSError, UnreadableImageError):
            raise SynthesisError(f"{diptych.file}: is no readable picture; make it anew or remove its line") from None
        size = size or found
        if found != size:
            raise SynthesisError(f"{diptych.file}: is {found[0]} x {found[1]}, the first is {size[0]} x {size[1]}")
    if size[0] % multiple or size[1] % multiple:
        raise SynthesisError(f"{diptychs[0].file}: is {size[0]} x {size[1]}; the model needs multiples of {multiple}")
    return size


class Cache:
    """A folder of encodings.

    Args:
        folder: Made if need be.
        encoders: Of the model that is trained.
    """

    def __init__(self, folder: Path, encoders: Encoders):
        self.folder, self.encoders = Path(folder), encoders

    def latents(self, diptych: Diptych) -> torch.Tensor:
        """What the transformer learns to paint: float32 `(channels, height, width)` in latent pixels."""
        return load_file(self._file(LATENTS, diptych.content))["latents"]

    def text(self, prompt: str) -> dict[str, torch.Tensor]:
        """`prompt_embeds` `(max_sequence_length, width)` and `pooled_prompt_embeds` `(width,)`."""
        return load_file(self._file(TEXT, prompt))

    def fill(
        self, diptychs: Sequence[Diptych], prompts: Sequence[str], device: torch.device, share: tuple[int, int] = (0, 1)
    ) -> None:
        """Encodes what is not there yet or damaged.

        Args:
            diptychs: To encode.
            prompts: To encode, those of diptychs included.
            device: For the encoders, which are loaded only if there is something to do, and leave its memory after.
            share: `(i, n)`: only every n-th of them, from the i-th.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        pictures = {diptych.content: diptych.file for diptych in diptychs}
        tasks = [(LATENTS, content) for content in pictures] + [(TEXT, prompt) for prompt in dict.fromkeys(prompts)]
        lacking = [(kind, what) for kind, what in tasks[share[0] :: share[1]] if not self._is_whole(kind, what)]
        if not lacking:
            return
        encode = _Encoding(self.encoders, device)
        with _quiet("diffusers.pipelines.flux.pipeline_flux"):  # it warns of every prompt that CLIP cuts at 77 tokens
            for kind, what in tqdm(lacking, desc="encoding", unit="item"):
                tensors = encode.picture(pictures[what]) if kind == LATENTS else encode.prompt(what)
                self._write(self._file(kind, what), tensors)
        if encode.num_cut:
            logger.warning(
                "%d prompts were cut: they have more than max_sequence_length = %d tokens",
                encode.num_cut,
                self.encoders.max_sequence_length,
            )
        del encode
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _file(self, kind: str, what: str) -> Path:
        encoders = self.encoders
        key = [what, encoders.model, encoders.revision]
        key += [encoders.max_sequence_length, encoders.dtype] if kind == TEXT else []
        return self.folder / f"{kind}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def _is_whole(self, kind: str, what: str) -> bool:
        """Whether a file is there, and holds what was written; those of earlier versions have no checksum."""
        file = self._file(kind, what)
        if not file.exists():
            return False
        try:
            with safe_open(file, "pt") as tensors:
                noted = (tensors.metadata() or {}).get(_CHECKSUM)
                fault = "other tensors than expected" if set(tensors.keys()) != _TENSORS[kind] else None
                if not fault and noted:
                    found = {name: tensors.get_tensor(name) for name in _TENSORS[kind]}
                    fault = None if _hash_of(found) == noted else "its checksum"
            if not fault:
                return True
        except SafetensorError as error:
            fault = str(error)
        logger.warning("%s is damaged (%s): made anew", file, fault)
        return False

    def _write(self, file: Path, tensors: dict[str, torch.Tensor]) -> None:
        part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(tensors, part, {_CHECKSUM: _hash_of(tensors)})
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def _hash_of(tensors: dict[str, torch.Tensor]) -> str:
    """Of contiguous tensors on the CPU, by name."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger to errors."""
    loud = logging.getLogger(name)
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loud.setLevel(level)


class _Encoding:
    """The encoders of a FLUX.1 pipeline, loaded; its transformer stays on disk.

    Attributes:
        num_cut: Prompts so far that were longer than the T5 encoder was to read.
    """

    def __init__(self, encoders: Encoders, device: torch.device):
        self.num_cut = 0
        self._encoders, self._device = encoders, device
        source = {"pretrained_model_name_or_path": encoders.model, "revision": encoders.revision}
        # The autoencoder in full precision: it is small, and half precision costs detail.
        vae = AutoencoderKL.from_pretrained(**source, subfolder="vae", dtype=torch.float32)
        self._pipeline = FluxPipeline.from_pretrained(
            **source, transformer=None, vae=vae, dtype=getattr(torch, encoders.dtype)
        ).to(device)

    @torch.no_grad()
    def picture(self, file: Path) -> dict[str, torch.Tensor]:
        """The mode of the encoder's distribution: it is so narrow that drawing from it would change nothing visible."""
        vae = self._pipeline.vae
        try:
            image = open_image(file)
        except UnreadableImageError as error:
            raise SynthesisError(f"{error} Or make it anew, or remove its line.") from None
        except OSError as error:
            raise SynthesisError(str(error)) from None
        pixels = self._pipeline.image_processor.preprocess(image).to(self._device, torch.float32)
        latents = vae.encode(pixels).latent_dist.mode()[0]
        return {"latents": (latents - vae.config.shift_factor) * vae.config.scaling_factor}

    @torch.no_grad()
    def prompt(self, text: str) -> dict[str, torch.Tensor]:
        longest = self._encoders.max_sequence_length
        self.num_cut += len(self._pipeline.tokenizer_2(text).input_ids) > longest
        prompt_embeds, pooled, _ = self._pipeline.encode_prompt(text, device=self._device, max_sequence_length=longest)
        return {"prompt_embeds": prompt_embeds[0], "pooled_prompt_embeds": pooled[0]}
