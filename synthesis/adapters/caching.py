"""Diptychs and prompts as FLUX.1 sees them, encoded once and kept on disk.

A file is named by what it is the encoding of (the picture's bytes or the prompt, the model and its revision), so that
several runs may share a folder. Files are written whole or not at all, with a checksum; one that is damaged is made
anew.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from ..pictures import open_picture
from ..settings import Settings
from ..stages import read_lines

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
            size = inspect_image(picture, decode=False)[1:]
        except (OSError, UnreadableImageError) as error:
            raise SynthesisError(f"{file}, line {number}: {picture} cannot be read ({error})") from None
        diptychs.append(Diptych(picture, content, size, record["prompt"]))
    if not diptychs:
        raise SynthesisError(f"{file}: there is no diptych in it to train on")
    return diptychs, len(records) - len(diptychs)


def common_size(diptychs: Sequence[Diptych], multiple: int) -> tuple[int, int]:
    """Width and height of all diptychs, in pixels.

    Raises:
        SynthesisError: a picture has another size, or one that FLUX.1 cannot paint.
    """
    width, height = diptychs[0].size
    for diptych in diptychs:
        if diptych.size != (width, height):
            found = " x ".join(map(str, diptych.size))
            raise SynthesisError(f"{diptych.file}: is {found}, the first is {width} x {height}")
    if width % multiple or height % multiple:
        raise SynthesisError(f"{diptychs[0].file}: is {width} x {height}; the model needs multiples of {multiple}")
    return width, height


class Cache:
    """A folder of encodings.

    Args:
        folder: Made if need be.
        settings: Of the training: its model, and how prompts are encoded.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder, self._settings = Path(folder), settings

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
        encode = _Encoding(self._settings, device)
        for kind, what in tqdm(lacking, desc="encoding", unit="item"):
            tensors = encode.picture(pictures[what]) if kind == LATENTS else encode.prompt(what)
            tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            with whole_file(self._file(kind, what)) as part:
                save_file(tensors, part, {_CHECKSUM: _hash_of(tensors)})
        if encode.num_cut:
            longest = self._settings.max_sequence_length
            logger.warning(
                "%d prompts were cut: they have more than max_sequence_length = %d tokens", encode.num_cut, longest
            )
        del encode
        free_memory()

    def _file(self, kind: str, what: str) -> Path:
        settings = self._settings
        key = [what, settings.model, settings.revision]
        key += [settings.max_sequence_length, settings.dtype] if kind == TEXT else []
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


def _hash_of(tensors: dict[str, torch.Tensor]) -> str:
    """Of contiguous tensors on the CPU, by name."""
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Encoding:
    """The encoders of a FLUX.1 pipeline, loaded; its transformer stays on disk.

    Attributes:
        num_cut: Prompts so far that were longer than the T5 encoder was to read.
    """

    def __init__(self, settings: Settings, device: torch.device):
        self.num_cut = 0
        self._device, self._longest = device, settings.max_sequence_length
        # It warns of every prompt that CLIP cuts at 77 tokens, which is as it should be.
        logging.getLogger("diffusers.pipelines.flux.pipeline_flux").setLevel(logging.ERROR)
        source = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision}
        # The autoencoder in full precision: it is small, and half precision costs detail.
        vae = AutoencoderKL.from_pretrained(**source, subfolder="vae", dtype=torch.float32)
        dtype = getattr(torch, settings.dtype)
        self._pipeline = FluxPipeline.from_pretrained(**source, transformer=None, vae=vae, dtype=dtype).to(device)

    @torch.no_grad()
    def picture(self, file: Path) -> dict[str, torch.Tensor]:
        """The mode of the encoder's distribution: it is so narrow that drawing from it would change nothing visible."""
        vae = self._pipeline.vae
        pixels = self._pipeline.image_processor.preprocess(open_picture(file)).to(self._device, torch.float32)
        latents = vae.encode(pixels).latent_dist.mode()[0]
        return {"latents": (latents - vae.config.shift_factor) * vae.config.scaling_factor}

    @torch.no_grad()
    def prompt(self, text: str) -> dict[str, torch.Tensor]:
        self.num_cut += len(self._pipeline.tokenizer_2(text).input_ids) > self._longest
        embeds, pooled, _ = self._pipeline.encode_prompt(text, device=self._device, max_sequence_length=self._longest)
        return {"prompt_embeds": embeds[0], "pooled_prompt_embeds": pooled[0]}
