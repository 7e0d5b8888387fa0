import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import (
    tiny_adapter,
    tiny_flux,
    tiny_instruct_pix2pix,
    tiny_kontext,
    tiny_stable_diffusion,
)

from fafa.synthesis.components import ImageRequest, SynthesisError
from fafa.synthesis.models.pretrained import check_dtype
from fafa.synthesis.painters import DiffusionPainter

SMALL = {"width": 64, "height": 32, "steps": 2, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(scope="module")
def flux(folder) -> Path:
    return tiny_flux(folder / "flux")


@pytest.fixture(scope="module")
def adapter(folder, flux) -> Path:
    return tiny_adapter(folder / "adapter", flux)


@pytest.fixture(scope="module")
def painter(flux, adapter):
    """FLUX with a LoRA, three pictures at a time."""
    return DiffusionPainter(model=str(flux), adapter=str(adapter), batch_size=3, **SMALL).load()


def request(name: str, prompt: str = "a red coat", seed: int = 0, strength: float = 1.0, source=None) -> ImageRequest:
    return ImageRequest(name, prompt, seed, strength, source=source)


def pixels(painter, *requests: ImageRequest) -> dict[str, np.ndarray]:
    return {painted.id: np.asarray(painted.image) for painted in painter.paint(requests)}


def test_a_picture_does_not_depend_on_what_is_painted_with_it(painter):
    item = request("x", seed=7, strength=0.5)
    others = [request("a", "a blue hat", 1), request("b", seed=2, strength=0.0), request("c", "a dog", 3, 0.25)]
    alone = pixels(painter, item)["x"]
    assert alone.shape == (32, 64, 3) and alone.std() > 10
    for place in range(4):
        assert np.array_equal(pixels(painter, *others[:place], item, *others[place:])["x"], alone)


def test_prompt_seed_and_strength_change_the_picture(painter):
    base = request("base", strength=0.5)
    changed = [
        request("prompt", "a blue hat", strength=0.5),
        request("seed", seed=1, strength=0.5),
        request("strength"),
    ]
    painted = pixels(painter, base, *changed)
    for other in ("prompt", "seed", "strength"):
        assert np.abs(painted["base"].astype(int) - painted[other]).mean() > 0.1


def test_strength_nought_is_the_model_without_adapter_to_the_bit(painter, flux):
    plain = DiffusionPainter(model=str(flux), batch_size=3, **SMALL).load()
    mixed = pixels(painter, request("x", seed=3, strength=0.0), request("y", strength=1.0))
    assert np.array_equal(mixed["x"], pixels(plain, request("x", seed=3))["x"])


@pytest.mark.parametrize("make", [tiny_flux, tiny_stable_diffusion])
def test_mixed_strengths_are_those_of_stock_diffusers_to_the_bit(folder, make):
    """Of Stable Diffusion the text encoder is adapted, too, and its batch is doubled by guidance."""
    model = make(folder / f"mixed_{make.__name__}")
    adapter = tiny_adapter(folder / f"mixed_{make.__name__}_adapter", model)
    painter = DiffusionPainter(model=str(model), adapter=str(adapter), batch_size=3, **SMALL).load()
    strengths = [1.0, 0.3, 0.85]
    items = [request(str(seed), seed=seed, strength=strength) for seed, strength in enumerate(strengths)]
    painted = pixels(painter, *items)
    stock = DiffusionPipeline.from_pretrained(model)
    stock.vae.enable_slicing()
    stock.load_lora_weights(adapter, adapter_name="diptych")
    for item in items:
        stock.set_adapters("diptych", item.strength)
        images = stock(
            **embeddings_of(stock, item.prompt, rows=3),
            width=64,
            height=32,
            num_inference_steps=2,
            guidance_scale=3.5,
            generator=[torch.Generator().manual_seed(other.seed) for other in items],
        ).images
        assert np.array_equal(painted[item.id], np.asarray(images[item.seed]))


@torch.no_grad()
def embeddings_of(stock: DiffusionPipeline, prompt: str, rows: int) -> dict[str, torch.Tensor]:
    """The same prompt for every row, embedded alone, since the embeddings of a batch can differ in their last bits."""
    if hasattr(stock, "transformer"):
        found = zip(("prompt_embeds", "pooled_prompt_embeds"), stock.encode_prompt(prompt), strict=False)
    else:
        found = zip(
            ("prompt_embeds", "negative_prompt_embeds"), stock.encode_prompt(prompt, "cpu", 1, True), strict=True
        )
    return {name: torch.cat([tensor] * rows) for name, tensor in found}


def test_prompt_embeddings_are_made_once(painter, monkeypatch):
    calls = []
    encode = type(painter.pipeline).encode_prompt
    monkeypatch.setattr(
        type(painter.pipeline),
        "encode_prompt",
        lambda self, prompt=None, **options: (calls.append(prompt), encode(self, prompt, **options))[1],
    )
    pixels(painter, *(request(str(number), f"coat {number // 5}", number, number / 10) for number in range(10)))
    assert [prompt for prompt in calls if prompt is not None] == ["coat 0", "coat 1"]


def test_out_of_memory_halves_the_batch(flux, monkeypatch, caplog):
    painter = DiffusionPainter(model=str(flux), batch_size=4, **SMALL).load()
    limit_batches(monkeypatch, rows=2)
    items = [request(str(number), seed=number) for number in range(5)]
    with caplog.at_level(logging.WARNING):
        painted = list(painter.paint(items))
    assert [entry.id for entry in painted] == ["0", "1", "2", "3", "4"]
    assert all(entry.image is not None and entry.facts == {"batch_size": 2} for entry in painted)
    assert "going on in batches of 2, not 4" in caplog.text
    halves = DiffusionPainter(model=str(flux), batch_size=2, **SMALL).load()
    assert np.array_equal(np.asarray(painted[4].image), pixels(halves, items[4])["4"])


def test_too_little_memory_for_one_picture_ends_the_work_with_a_remedy(flux, monkeypatch):
    painter = DiffusionPainter(model=str(flux), batch_size=2, **SMALL).load()
    limit_batches(monkeypatch, rows=0)
    with pytest.raises(SynthesisError, match=r"memory is too small for one image.*set offload"):
        list(painter.paint([request("x")]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((1.2e9, 141e9), "of 141.0 GB 1.2 are free and 0.0 held by this process; another"),
        (RuntimeError("CUDA error: out of memory"), "there is next to none free; another"),
    ],
)
def test_a_gpu_that_another_process_holds_is_named(flux, monkeypatch, found, said):
    def no_room(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def memory(_):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(DiffusionPipeline, "to", no_room)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    with pytest.raises(
        SynthesisError, match=rf"too small for the model; {said} process.*stop it, or set offload"
    ) as error:
        DiffusionPainter(model=str(flux), **SMALL | {"device": "cuda:0"}).load()
    assert "paint smaller" not in str(error.value)


def limit_batches(monkeypatch, rows: int) -> None:
    forward = FluxTransformer2DModel.forward

    def limited(self, hidden_states, *args, **options):
        if len(hidden_states) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, hidden_states, *args, **options)

    monkeypatch.setattr(FluxTransformer2DModel, "forward", limited)


def test_negative_prompts_act_where_the_pipeline_can_use_them(folder, flux):
    with pytest.raises(ValueError, match="acts only where true_cfg_scale is above 1"):
        DiffusionPainter(model=str(flux), negative_prompt="blurred", **SMALL).load()
    options = {"options": {"true_cfg_scale": 3.0}, "batch_size": 2, **SMALL}
    blurred, dark = (
        DiffusionPainter(model=str(flux), negative_prompt=text, **options).load() for text in ("blurred", "dark")
    )
    assert not np.array_equal(pixels(blurred, request("x"))["x"], pixels(dark, request("x"))["x"])


def test_stable_diffusion_paints_and_its_refusals_are_faults(folder):
    settings = {"batch_size": 2, **SMALL, "guidance": 7.5, "negative_prompt": "blurred"}
    good = DiffusionPainter(model=str(tiny_stable_diffusion(folder / "sd")), **settings).load()
    items = [request("x", seed=1), request("y", "a blue hat", 2)]
    together = pixels(good, *items)
    assert np.array_equal(together["y"], pixels(good, items[1])["y"])
    strict = DiffusionPainter(model=str(tiny_stable_diffusion(folder / "strict", unsafe=True)), **settings).load()
    assert [(entry.image, entry.fault) for entry in strict.paint(items)] == [(None, "refused as unsafe")] * 2


def test_learnt_tokens_change_the_picture(folder):
    token = folder / "token.safetensors"
    save_file({"<person>": torch.full((2, 32), 0.5)}, token)
    settings = {"model": str(tiny_stable_diffusion(folder / "untaught")), "batch_size": 1, **SMALL}
    item = request("x", "a photograph of <person>")
    untaught, taught = DiffusionPainter(**settings).load(), DiffusionPainter(tokens=[str(token)], **settings).load()
    assert not np.array_equal(pixels(untaught, item)["x"], pixels(taught, item)["x"])


@pytest.mark.parametrize("make", ["kontext", "pix2pix"])
def test_editing_starts_from_the_source_and_keeps_its_shape(folder, flux, make):
    if make == "kontext":
        model, options = tiny_kontext(folder / make, flux), {}
    else:
        model, options = tiny_instruct_pix2pix(folder / make), {"image_guidance_scale": 1.5}
    painter = DiffusionPainter(model=str(model), options=options, batch_size=2, **SMALL).load()
    red, blue = (Image.new("RGB", (20, 40), colour) for colour in ("red", "blue"))
    blue.save(folder / "blue.png")
    edited = pixels(painter, request("red", source=red), request("blue", source=folder / "blue.png"))
    assert edited["red"].shape == edited["blue"].shape == (32, 16, 3)
    assert not np.array_equal(edited["red"], edited["blue"])
    assert np.array_equal(edited["blue"], pixels(painter, request("blue", source=blue))["blue"])
    with pytest.raises(SynthesisError, match="request x brings no image"):
        list(painter.paint([request("x")]))


def test_the_vae_works_at_one_picture_at_a_time_at_the_size_painted(folder, flux, monkeypatch):
    """Kontext would rescale what it edits to a megapixel, where its pixels lie elsewhere than in the edit."""
    seen = []

    def watch(name: str, shape: tuple[int, ...]) -> None:
        whole = getattr(AutoencoderKL, name)

        def watched(self, batch):
            assert tuple(batch.shape) == shape
            seen.append(name)
            return whole(self, batch)

        monkeypatch.setattr(AutoencoderKL, name, watched)

    watch("_encode", (1, 3, 32, 64))
    watch("_decode", (1, 4, 16, 32))
    painter = DiffusionPainter(model=str(tiny_kontext(folder / "seen", flux)), batch_size=2, **SMALL).load()
    pixels(painter, *(request(colour, source=Image.new("RGB", (20, 40), colour)) for colour in ("red", "blue")))
    assert seen == ["_encode"] * 2 + ["_decode"] * 2


def test_options_may_leave_the_size_of_what_is_edited_to_kontext(folder, flux, monkeypatch):
    def refuse(_, batch):
        raise ValueError(f"seen {tuple(batch.shape)}")

    monkeypatch.setattr(AutoencoderKL, "_encode", refuse)
    model, options = tiny_kontext(folder / "chosen", flux), {"_auto_resize": True}
    painter = DiffusionPainter(model=str(model), options=options, batch_size=1, **SMALL).load()
    with pytest.raises(SynthesisError, match=r"seen \(1, 3, 720, 1456\)"):
        pixels(painter, request("x", source=Image.new("RGB", (20, 10))))


def test_the_manifest_tells_what_painted(painter, flux, adapter):
    about = painter.about
    assert (about["class"], about["model"], about["adapter"], about["rank"]) == (
        "FluxPipeline",
        str(flux),
        str(adapter),
        4,
    )
    assert len(about["adapter_sha256"]) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 66}, "multiples of 4 pixels, not 66x32"),
        ({"options": {"true_cfg_scal": 2.0}}, "takes no true_cfg_scal; did you mean 'true_cfg_scale'"),
        ({"offload": "model"}, "offload: model needs a GPU"),
    ],
)
def test_what_the_pipeline_does_not_take_is_refused_before_work(flux, settings, message):
    with pytest.raises(ValueError, match=message):
        DiffusionPainter(model=str(flux), **SMALL | settings).load()


def test_missing_and_unfit_models_are_one_clear_line(folder, flux, tmp_path):
    with pytest.raises(SynthesisError, match=r"nowhere/to/be: cannot be loaded .*model_index.json") as error:
        DiffusionPainter(model="nowhere/to/be", **SMALL).load()
    assert "\n" not in str(error.value)
    with pytest.raises(SynthesisError, match=r"cannot be loaded as a LoRA \(found 0 .safetensors files"):
        DiffusionPainter(model=str(flux), adapter=str(tmp_path), **SMALL).load()


def test_an_adapter_that_fits_in_part_is_refused(flux, adapter, tmp_path):
    """diffusers says nothing when it leaves out the layers that the model has not got."""
    weights = load_file(next(adapter.glob("*.safetensors")))
    deeper = {name.replace("blocks.0", "blocks.7"): weight.clone() for name, weight in weights.items()}
    save_file(weights | deeper, tmp_path / "deeper.safetensors")
    with pytest.raises(SynthesisError, match="those of 7 layers fit FluxPipeline, expected 14"):
        DiffusionPainter(model=str(flux), adapter=str(tmp_path), **SMALL).load()


@pytest.mark.parametrize("settings", [{"steps": 0}, {"dtype": "int8"}, {"offload": "disk"}])
def test_settings_are_checked_without_loading(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DiffusionPainter(model="any", **settings)


def test_a_pipeline_in_another_dtype_than_asked_for_is_refused(flux, monkeypatch):
    """diffusers before 0.40 leaves `dtype=` out: twice the memory, other pixels, and not a word."""
    load = DiffusionPipeline.from_pretrained
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda folder, dtype, **options: load(folder, **options))
    with pytest.raises(SynthesisError, match="was loaded in float32, asked for was bfloat16: install the versions of"):
        DiffusionPainter(model=str(flux), **SMALL | {"dtype": "bfloat16"}).load()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_of_the_recipe_is_that_of_the_weights(flux, dtype):
    pipeline = DiffusionPainter(model=str(flux), **SMALL | {"dtype": dtype}).load().pipeline
    for module in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        check_dtype(module, dtype, "flux")
    assert pipeline.transformer.dtype == getattr(torch, dtype)


def test_quantised_weights_count_for_no_dtype():
    """Packed weights have a dtype of their own; only what is plain can be of the wrong one."""
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    layers[0].weight = torch.nn.Parameter(torch.zeros(64, 8, dtype=torch.uint8), requires_grad=False)
    check_dtype(layers, "bfloat16", "packed")
    check_dtype(torch.nn.Identity(), "bfloat16", "without weights")
    check_dtype(torch.nn.Linear(2, 2), "auto", "as it is")
    with pytest.raises(SynthesisError, match="Linear was loaded in float32"):
        check_dtype(torch.nn.Linear(2, 2), "float16", "plain")
