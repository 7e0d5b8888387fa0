"""What a recipe says of images painted by a pipeline; `diffusion_model` loads it, which takes torch and diffusers."""

from typing import Any, Literal

from pydantic import model_validator

from ..components import ImageModel
from ..settings import BatchSize, Count, Free, ModelName, Pixels, Settings


class DiffusionPainter(Settings):
    """Settings of a diffusers pipeline, which paints from text, or edits the images that the requests bring along.

    Diptychs are painted by FLUX.1 with a LoRA (`adapter`). Identities are edited by an instruction pipeline such as
    FluxKontextPipeline or StableDiffusionInstructPix2PixPipeline: a pipeline with an argument `image` edits.

    The same request gives the same image whatever else is painted with it, on one kind of device and at one batch
    size: the last batch is filled up. `device`, `offload` and `compile` may change the last bits of an image.

    Attributes:
        model: Folder or Hub id of any pipeline of diffusers.
        revision: Branch, tag or commit of the model on the Hub.
        adapter: LoRA: a folder, a file or a Hub id. The requests say how strongly it acts.
        adapter_revision: Revision of the adapter on the Hub.
        tokens: Files of textual inversion, whose tokens the prompts may use.
        width: Width of an image, in pixels. Images to be edited are fitted into width x height.
        height: Height of an image, in pixels.
        steps: Steps of denoising.
        guidance: The pipeline's `guidance_scale`; None for pipelines without.
        negative_prompt: What not to paint, for pipelines that take it.
        max_sequence_length: Longest prompt in tokens, for pipelines that take it; None for the pipeline's own.
        options: Further arguments of the pipeline's call, such as `true_cfg_scale` or `image_guidance_scale`.
        dtype: "bfloat16", "float16" or "float32".
        batch_size: Images at a time; halved, with a warning, when memory runs out.
        device: Such as "cuda:1"; by default this process's GPU, or the CPU if there is none.
        offload: What waits in main memory: "none", "model" (what is not in use), "sequential" (layer by layer).
        compile: Compile the denoiser, which pays after some hundred images.
    """

    kind: Literal["diffusers"] = "diffusers"

    model: ModelName
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None
    tokens: list[str] = []
    width: Pixels = 1024
    height: Pixels = 1024
    steps: Count = 28
    guidance: float | None = 3.5
    negative_prompt: str | None = None
    max_sequence_length: Count | None = None
    options: dict[str, Any] = {}
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    batch_size: BatchSize = 5
    device: Free[str | None] = None
    offload: Free[Literal["none", "model", "sequential"]] = "none"
    compile: Free[bool] = False

    @model_validator(mode="after")
    def _check_adapter(self) -> "DiffusionPainter":
        if self.adapter_revision is not None and self.adapter is None:
            raise ValueError(f"adapter_revision ({self.adapter_revision}) needs an adapter: set adapter, too")
        return self

    def load(self) -> ImageModel:
        """The pipeline, ready to paint.

        Raises:
            SynthesisError: a model is missing, broken, or too large for the memory.
            ValueError: the pipeline does not take these settings.
        """
        from .diffusion_model import DiffusionModel

        return DiffusionModel(self)
