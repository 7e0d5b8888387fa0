"""An adapter trained for a few steps on a tiny FluxPipeline, saved to disk and loaded by the real loaders."""

import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from damage import flip_a_byte
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load_file
from tiny_pipelines import tiny_flux, tiny_stable_diffusion

from fafa.synthesis.adapters import card
from fafa.synthesis.adapters.caching import Cache, read_diptychs
from fafa.synthesis.adapters.training import WEIGHTS, AdapterTraining, learning_rate_at, train_adapter
from fafa.synthesis.adapters.validation import Validation
from fafa.synthesis.components import ImageRequest, SynthesisError
from fafa.synthesis.painters.diffusion import DiffusionPainter
from fafa.synthesis.train_adapter import main

WIDTH, HEIGHT = 32, 16
PROMPT = "two photographs of the same person side by side; left: in red; right: in blue"


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Path:
    return tiny_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def diptychs(tmp_path_factory) -> Path:
    """The metadata of three diptychs, and of one that was rejected."""
    folder = tmp_path_factory.mktemp("diptychs")
    records = [{"id": "3", "image": "3.png", "rejected": "no caption"}]
    for number in range(3):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[:, : WIDTH // 2, 0], image[:, WIDTH // 2 :, 2] = 255, 80 * number
        Image.fromarray(image).save(folder / f"{number}.png")
        records.append({"id": str(number), "image": f"{number}.png", "prompt": f"{PROMPT} {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "metadata.jsonl"


@pytest.fixture(scope="module")
def settings(flux) -> AdapterTraining:
    return AdapterTraining(
        model=str(flux),
        rank=4,
        alpha=8,
        steps=6,
        batch_size=4,
        device_batch_size=2,
        learning_rate=3e-2,
        warmup_steps=1,
        schedule="cosine",
        max_sequence_length=32,
        dtype="float32",
        gradient_checkpointing=False,
        checkpoint_every=4,
        validation=Validation(prompts=[PROMPT, f"{PROMPT} 1"], seeds=[0, 1, 2], every=4, steps=2),
    )


@pytest.fixture(scope="module")
def trained(settings, diptychs, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("run")
    train_adapter(settings, diptychs, folder)
    return folder


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    """Drawing takes longer than a tiny run; the run of `trained`, which comes before this, draws its curve."""
    monkeypatch.setattr(card, "draw_curves", lambda *_: [])


def paint(pipeline, seed=0) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    image = pipeline(PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=2, generator=generator).images[0]
    return np.asarray(image, dtype=int)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "training" / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / WEIGHTS)


def test_stock_diffusers_loads_the_adapter_with_its_alpha(flux, trained):
    pipeline = FluxPipeline.from_pretrained(flux)
    before = paint(pipeline)
    pipeline.load_lora_weights(trained / "adapter", adapter_name="diptych")
    assert np.abs(paint(pipeline) - before).max() > 3
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q
    assert layer.scaling["diptych"] == 8 / 4
    pipeline.set_adapters("diptych", 0.0)
    assert (paint(pipeline) == before).all()


def test_the_diptychs_painter_takes_the_adapter(flux, trained):
    options = {"width": WIDTH, "height": HEIGHT, "steps": 2, "max_sequence_length": 32, "dtype": "float32"}
    painter = DiffusionPainter(
        model=str(flux), adapter=str(trained / "adapter"), batch_size=1, device="cpu", **options
    ).load()
    requests = [ImageRequest(str(strength), PROMPT, seed=0, strength=strength) for strength in (0.0, 1.0)]
    plain, adapted = (np.asarray(painted.image, dtype=int) for painted in painter.paint(requests))
    assert np.abs(plain - adapted).max() > 3


def test_the_card_tells_of_the_run_and_shows_its_pictures(trained):
    text = (trained / "adapter" / "README.md").read_text()
    assert "6 steps, 24 diptychs seen, 8.0 times each" in text
    assert "3 diptychs of 32 x 16 pixels" in text and "(1 more were rejected" in text
    assert "Non-Commercial License" in text and "rank: 4" in text and PROMPT in text
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert pictures == ["loss.png", "first.png", "last.png"]
    for picture in pictures:
        with Image.open(trained / "adapter" / picture) as image:
            image.load()
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "diffusers"


def test_validation_sheets_show_what_diffusers_paints_with_the_adapter(flux, trained):
    """The last sheet's first cell is the picture that a user gets for the same prompt and seed."""
    sheets = sorted(path.name for path in (trained / "training" / "validation").iterdir())
    assert sheets == ["step-000000.png", "step-000004.png", "step-000006.png"]
    pipeline = FluxPipeline.from_pretrained(flux)
    for sheet in (sheets[0], sheets[-1]):
        if sheet != sheets[0]:
            pipeline.load_lora_weights(trained / "adapter")
        generator = torch.Generator().manual_seed(1)
        expected = pipeline(
            PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=2, max_sequence_length=32, generator=generator
        ).images[0]
        with Image.open(trained / "training" / "validation" / sheet) as image:
            pixels, cell = np.asarray(image), np.asarray(expected)
        windows = np.lib.stride_tricks.sliding_window_view(pixels, cell.shape)[:, :, 0]
        assert (windows == cell).all(axis=(2, 3, 4)).any(), sheet


def test_two_processes_paint_the_sheet_of_one_which_goes_on_with_their_run(settings, diptychs, trained, tmp_path):
    data = {"kind": "metadata", "file": str(diptychs)}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"data": data, "training": settings.model_dump()}))
    in_processes(2, str(tmp_path / "settings.yaml"), "--output", str(tmp_path / "run"), "--max-steps", "1")
    both, one = (folder / "training" / "validation" / "step-000000.png" for folder in (tmp_path / "run", trained))
    assert both.read_bytes() == one.read_bytes()
    train_adapter(settings, diptychs, tmp_path / "run")
    assert [entry["loss"] for entry in log(tmp_path / "run")] == [
        pytest.approx(entry["loss"], rel=1e-3) for entry in log(trained)
    ]


def in_processes(count: int, *arguments: str) -> None:
    """Runs the command as `accelerate launch` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared["CUDA_VISIBLE_DEVICES"] = ""  # the run that it is compared with may be on one GPU alone
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fafa.synthesis.train_adapter", *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    with ThreadPoolExecutor() as pool:  # all at once, or a full pipe would stop one
        errors = list(pool.map(lambda process: process.communicate(timeout=300)[1], processes))
    assert not any(process.returncode for process in processes), "\n".join(errors)


def test_an_interrupted_run_ends_in_the_same_adapter(settings, diptychs, trained, tmp_path):
    train_adapter(settings, diptychs, tmp_path, max_steps=3)
    assert "Stopped after 3 of 6 steps" in (tmp_path / "adapter" / "README.md").read_text()
    # A kill after the checkpoint: the log is ahead of it.
    with (tmp_path / "training" / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
    train_adapter(settings, diptychs, tmp_path)
    assert [entry["step"] for entry in log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [entry["loss"] for entry in log(tmp_path)] == [entry["loss"] for entry in log(trained)]
    expected = weights(trained)
    assert weights(tmp_path).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path).items())


def test_a_repeated_diptych_is_learned(settings, flux, diptychs, tmp_path):
    """The loss falls, and what stock diffusers paints from noise comes near the diptych's latents."""
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"image": str(diptychs.parent / "0.png"), "prompt": PROMPT}) + "\n")
    options = settings.replaced(steps=60, device_batch_size=4, validation=None, checkpoint_every=100)
    options = options.replaced(targets=["x_embedder", "to_out.0", "proj_out", "norm_out.linear"], learning_rate=2e-2)
    train_adapter(options, one, tmp_path / "run")
    losses = [entry["loss"] for entry in log(tmp_path / "run")]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])

    pipeline = FluxPipeline.from_pretrained(flux)
    target = Cache(tmp_path / "run" / "training" / "cache", settings).latents(read_diptychs(one)[0][0])

    def distance() -> float:
        latents = pipeline(
            PROMPT,
            width=WIDTH,
            height=HEIGHT,
            num_inference_steps=8,
            guidance_scale=1.0,
            max_sequence_length=32,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images
        latents = FluxPipeline._unpack_latents(latents, HEIGHT, WIDTH, pipeline.vae_scale_factor)[0]
        return (latents - target).square().mean().item()

    before = distance()
    pipeline.load_lora_weights(tmp_path / "run" / "adapter")
    assert distance() < 0.5 * before


def test_half_precision_trains_a_full_precision_adapter(settings, diptychs, tmp_path):
    train_adapter(settings.replaced(dtype="bfloat16", steps=2, gradient_checkpointing=True), diptychs, tmp_path)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    assert all(tensor.abs().sum() > 0 for tensor in weights(tmp_path).values())
    assert len(list((tmp_path / "training" / "validation").iterdir())) == 2


def test_how_many_diptychs_go_through_the_model_at_once_decides_nothing(settings, diptychs, trained, tmp_path):
    options = settings.replaced(device_batch_size=4, validation=None)
    train_adapter(options, diptychs, tmp_path)
    for name, tensor in weights(trained).items():
        torch.testing.assert_close(weights(tmp_path)[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "flipped"])
def test_a_damaged_encoding_is_made_anew(settings, diptychs, tmp_path, damage, caplog):
    cache = Cache(tmp_path, settings)
    pictures, num_rejected = read_diptychs(diptychs)
    assert (len(pictures), num_rejected) == (3, 1)

    def fill() -> dict[str, bytes]:
        cache.fill(pictures, [PROMPT], torch.device("cpu"))
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    before = fill()
    assert len(before) == 4
    latents, text = (next(tmp_path.glob(f"{kind}-*")) for kind in ("latents", "text"))
    if damage == "flipped":  # used to be trained on
        flip_a_byte(latents, 0.9)
    else:
        latents.write_bytes({"cut": latents.read_bytes()[:-8], "empty": b"", "other": text.read_bytes()}[damage])
    assert fill() == before
    assert caplog.text.count("made anew") == 1 and latents.name in caplog.text
    assert "1 prompts were cut" in caplog.text


def test_schnell_trains_without_guidance(settings, diptychs, tmp_path):
    model = tiny_flux(tmp_path / "schnell", guidance_embeds=False)
    options = settings.replaced(model=str(model), validation=None)
    train_adapter(options, diptychs, tmp_path / "run", max_steps=1)
    assert "Apache-2.0" in (tmp_path / "run" / "adapter" / "README.md").read_text()


def test_other_settings_and_other_data_are_refused(settings, diptychs, trained, tmp_path):
    with pytest.raises(SynthesisError, match=r"training.rank: 4 -> 8"):
        train_adapter(settings.replaced(rank=8), diptychs, trained)
    other = diptychs.parent / "other.jsonl"
    other.write_text("\n".join(diptychs.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(SynthesisError, match=r"training.diptychs: 3 -> 2"):
        train_adapter(settings, other, trained)


def test_bad_models_and_data_are_named(settings, diptychs, tmp_path):
    stable = tiny_stable_diffusion(tmp_path / "stable")
    with pytest.raises(SynthesisError, match="is a StableDiffusionPipeline; adapters are trained for a FluxPipeline"):
        train_adapter(settings.replaced(model=str(stable)), diptychs, tmp_path / "a")
    with pytest.raises(SynthesisError, match=r"nowhere: cannot be loaded as a pipeline .*an id of a FluxPipeline"):
        train_adapter(settings.replaced(model=str(tmp_path / "nowhere")), diptychs, tmp_path / "b")
    with pytest.raises(SynthesisError, match="batch_size 4 must be a multiple of 1 processes x device_batch_size 3"):
        train_adapter(settings.replaced(device_batch_size=3), diptychs, tmp_path / "e")
    with pytest.raises(SynthesisError, match=r"targets \['attn.to_x'\] fit no layer"):
        train_adapter(settings.replaced(targets=["attn.to_x"]), diptychs, tmp_path / "c")
    Image.new("RGB", (30, 16)).save(tmp_path / "odd.png")
    for picture, message in (
        ("odd.png", "30 x 16; the model needs multiples of 4"),
        ("gone.png", "gone.png cannot be"),
    ):
        (tmp_path / "bad.jsonl").write_text(json.dumps({"image": picture, "prompt": "p"}) + "\n")
        with pytest.raises(SynthesisError, match=message):
            train_adapter(settings, tmp_path / "bad.jsonl", tmp_path / "d")


def test_a_loss_that_is_no_number_stops_the_run(settings, diptychs, tmp_path):
    options = settings.replaced(learning_rate=1e30, warmup_steps=0, validation=None)
    with pytest.raises(SynthesisError, match=r"at step \d. Lower learning_rate"):
        train_adapter(options, diptychs, tmp_path)


def test_too_little_memory_says_what_to_change(settings, diptychs, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.functional, "mse_loss", fail)
    with pytest.raises(SynthesisError, match=r"too small for device_batch_size 2\. Lower it"):
        train_adapter(settings.replaced(validation=None), diptychs, tmp_path)


def test_the_learning_rate_warms_up_and_falls(settings):
    options = settings.replaced(learning_rate=1.0, warmup_steps=3, steps=11)
    rates = [learning_rate_at(step, options) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[7] == pytest.approx(0.5) and 0 < rates[-1] < 0.1
    assert learning_rate_at(10, options.replaced(schedule="constant")) == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule\n.*'constant' or 'cosine'"),
        ({"dtype": "float16"}, "dtype\n.*'bfloat16' or 'float32'"),
        ({"rank": 0}, "rank\n.*equal to 1"),
        ({"targets": []}, "targets\n.*at least 1 item"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        AdapterTraining(**changes)


def test_the_command_composes_and_trains_and_names_a_bad_key(flux, tmp_path):
    for person in ("ann", "bob"):
        for number in range(2):
            path = tmp_path / "people" / person / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (100 * number, 50, 0)).save(path)
    names = [f"{person}/{number}.png" for person in ("ann", "bob") for number in range(2)]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"image": name, "caption": name}) + "\n" for name in names))
    data = {"kind": "folders", "root": str(tmp_path / "people"), "captions": str(captions), "num_workers": 1}
    data |= {"width": WIDTH, "height": HEIGHT, "min_height": 16}
    training = {"model": str(flux), "steps": 2, "rank": 2, "max_sequence_length": 32, "dtype": "float32"}
    recipe = tmp_path / "adapter.yaml"
    command = [str(recipe), "--output", str(tmp_path / "out")]

    recipe.write_text(yaml.safe_dump({"data": data, "training": training | {"learning_rat": 1}}))
    with pytest.raises(SystemExit, match="there is no setting 'learning_rat'; did you mean 'learning_rate'"):
        main(command)
    recipe.write_text(yaml.safe_dump({"data": data, "training": training}))
    assert main([*command, "--compose-only"]) == 0
    assert not (tmp_path / "out" / "adapter").exists()
    assert main(command) == 0
    assert [entry["step"] for entry in log(tmp_path / "out")] == [1, 2]
    recipe.write_text(yaml.safe_dump({"data": data, "training": training | {"rank": 3}}))
    with pytest.raises(SystemExit, match="--redo training"):
        main(command)
    assert main([*command, "--redo", "training"]) == 0
    assert weights(tmp_path / "out")["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].shape[0] == 3
