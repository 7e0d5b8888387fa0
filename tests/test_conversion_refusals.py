"""What is no trained model is not converted, absurd options are refused by name, and no run leaves half a model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_convert_fafa_checkpoint import HEADS, VOCABULARY, blip2, load  # noqa: F401 - a fixture
from tiny import GOLDEN

from fafa import convert_fafa_checkpoint
from fafa.convert_fafa_checkpoint import config_from_tensors, convert_checkpoint, convert_state_dict, main

SOURCE = GOLDEN / "fafa_public.safetensors"
MATRIX = "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"
BIAS = "text_proj.bias"


@pytest.fixture
def released() -> dict[str, torch.Tensor]:
    return load_file(SOURCE)


def convert(state_dict, folder: Path, **options):
    torch.save(state_dict, folder / "source.pt")
    return convert_checkpoint(folder / "source.pt", folder / "model", tokenizer=VOCABULARY, **HEADS | options)


def poked(value: float):
    def poke(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return poke


# What is no weight

NO_WEIGHTS = {
    "NaN": (MATRIX, poked(torch.nan), r"NaN or infinite"),
    "infinite": (BIAS, poked(torch.inf), r"NaN or infinite"),
    "zeros": (MATRIX, torch.zeros_like, r"all zeros"),
    "int8": (MATRIX, lambda tensor: tensor.to(torch.int8), "is int8, expected float32"),
    "int64": (BIAS, lambda tensor: tensor.long(), "is int64, expected"),
    "bool": (MATRIX, lambda tensor: tensor > 0, "is bool, expected"),
    "complex": (MATRIX, lambda tensor: tensor.to(torch.complex64), "is complex64, expected"),
    "float8": (MATRIX, lambda tensor: tensor.to(torch.float8_e4m3fn), "is float8_e4m3fn, expected"),
    "quantised": (MATRIX, lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "qint8, expected"),
    "sparse": (MATRIX, lambda tensor: tensor.to_sparse(), "sparse or nested, expected a dense tensor"),
    "meta": (MATRIX, lambda tensor: tensor.to("meta"), "without values"),
    "no tensor": (BIAS, lambda tensor: tensor.tolist(), "text_proj.bias list, expected"),
    "repeated": (MATRIX, lambda tensor: torch.ones(1, 1).expand_as(tensor), "4 bytes that are repeated"),
    "one number": (MATRIX, lambda tensor: torch.tensor(3.0), "expected 2 axes"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_what_is_no_finite_weight_is_refused_by_name(name, released, tmp_path):
    """They used to be converted, or to end in a traceback."""
    key, change, message = NO_WEIGHTS[name]
    released[key] = change(released[key])
    if name != "quantised":
        with pytest.raises(ValueError, match=message) as error:
            convert(released, tmp_path)
        assert key in str(error.value) and "source.pt" in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["source.pt"]
    with pytest.raises(ValueError, match=message):
        convert_state_dict(released, config_from_tensors(released, **HEADS))


def test_one_error_names_all_tensors_that_are_not_finite(released, tmp_path):
    released |= {key: torch.full_like(released[key], torch.nan) for key in (MATRIX, BIAS, "temp")}
    with pytest.raises(ValueError, match=r"tensors of the checkpoint hold no trained weights \(3\)") as error:
        convert(released, tmp_path)
    assert all(key in str(error.value) for key in (MATRIX, BIAS, "temp"))


def test_what_is_dropped_may_hold_anything(released, tmp_path):
    released["itm_head.weight"] = torch.full_like(released["itm_head.weight"], torch.nan)
    convert(released, tmp_path)


def test_weights_beyond_half_precision_are_refused_rather_than_infinite(released, tmp_path):
    released[BIAS] = poked(1e5)(released[BIAS])
    with pytest.raises(ValueError, match=r"text_projection\.bias: weights beyond what float16 can hold"):
        convert(released, tmp_path, dtype=torch.float16)
    assert not (tmp_path / "model").exists()
    convert(released, tmp_path, dtype=torch.bfloat16)


def test_one_storage_under_many_names_is_refused(released, tmp_path):
    """A file of a few bytes would become a model of any size."""
    storage = torch.ones(max(tensor.numel() for tensor in released.values()))
    released = {key: storage[: tensor.numel()].view(tensor.shape) for key, tensor in released.items()}
    with pytest.raises(ValueError, match=r"share .*the same under several names"):
        convert(released, tmp_path)


@pytest.mark.parametrize("prefix", ["visual_encoder.blocks.", "Qformer.bert.encoder.layer."])
@pytest.mark.parametrize("number", ["7", "2000000", "9" * 5000])
def test_a_layer_of_an_absurd_number_is_refused_before_a_model_of_that_size_is_made(prefix, number, released, tmp_path):
    released[f"{prefix}{number}.norm1.bias"] = torch.ones(48)
    with pytest.raises(ValueError, match=r"numbered up to|unexpected") as error:
        convert(released, tmp_path)
    assert prefix in str(error.value)


def test_an_error_on_very_many_keys_stays_readable(released, tmp_path):
    with pytest.raises(ValueError, match=r"unexpected  \.\.\. and 980 more") as error:
        convert(released | {f"stranger.{number}\n": torch.ones(1) for number in range(1000)}, tmp_path)
    assert len(str(error.value).splitlines()) < 30


# Options

ABSURD = [
    *(({"vision_heads": heads}, "--vision-heads is .*expected a whole number") for heads in (-4, 0, 10**9, 4.0, True)),
    *(({"qformer_heads": heads}, "--qformer-heads is .*expected a whole number") for heads in (-4, 0, 10**30, "4")),
    ({"vision_heads": 5}, "--vision-heads is 5, which does not divide the width 48"),
    *(({"dtype": dtype}, "dtype is .*expected one of") for dtype in (torch.int8, torch.complex64, "float32", None)),
]


@pytest.mark.parametrize(("options", "message"), ABSURD)
def test_absurd_options_are_refused_by_name(options, message, tmp_path):
    """`--vision-heads -4` used to be accepted, and 0 to mean the default."""
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(SOURCE, tmp_path / "model", tokenizer=VOCABULARY, **HEADS | options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vision-heads", "-4"], "--vision-heads is -4, expected a whole number from 1 to 1,024"),
        (["--qformer-heads", "0"], "--qformer-heads is 0, expected a whole number from 1 to 1,024"),
        (["--tokenizer", "{tmp}/vocab.txt"], "vocab.txt has 3 bytes|is no text|vocabulary"),
        (["--tokenizer", "{tmp}/list.json"], "list.json holds no WordPiece vocabulary"),
        (["--tokenizer", "{tmp}"], "no vocab.txt and no tokenizer.json|no text"),
        (["--vision-weights", "{tmp}/absent.pth"], "absent.pth"),
        (["--vision-weights", "{tmp}/vocab.txt"], "leave out --vision-weights"),
    ],
)
def test_the_command_refuses_options_in_one_sentence(arguments, message, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\n")
    (tmp_path / "list.json").write_text("[1, 2]")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    options = ["--vision-heads", "4", "--qformer-heads", "4", "--tokenizer", str(VOCABULARY), *given]
    with pytest.raises(SystemExit, match=message) as error:
        main([str(SOURCE), str(tmp_path / "model"), *options])
    assert "\n" not in str(error.value) and not (tmp_path / "model").exists()


def test_options_for_a_file_are_refused_for_a_folder(blip2, tmp_path):  # noqa: F811
    """They used to be ignored without a word."""
    for options in ({"vision_heads": 2}, {"qformer_heads": 3}, {"vision_weights": SOURCE}):
        with pytest.raises(ValueError, match=r"--.*: a folder says this itself"):
            convert_checkpoint(tmp_path / "blip2", tmp_path / "model", **options)


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"vision_config": {"num_hidden_layers": 2_000_000}},
        {"qformer_config": {"hidden_size": "wide"}},
        {"qformer_config": {"num_attention_heads": 5}},
        {"num_query_tokens": -1},
        {"vision_config": 7},
    ],
)
def test_a_damaged_or_absurd_configuration_is_named(change, blip2, tmp_path):  # noqa: F811
    file = tmp_path / "blip2" / "config.json"
    fields = json.loads(file.read_text())
    for name, value in change.items() if change else ():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(fields if change else change))
    with pytest.raises(SystemExit, match=r"config\.json"):
        main([str(tmp_path / "blip2"), str(tmp_path / "model")])
    assert not (tmp_path / "model").exists()


# Whole or not at all


def test_a_failed_conversion_leaves_nothing_and_can_be_started_again(released, tmp_path, monkeypatch):
    """It used to be refused: "exists already"."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert_fafa_checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"the disk is full .*give the same command again"):
        convert(released, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source.pt"]
    monkeypatch.undo()
    convert(released, tmp_path)
    load(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "source.pt"]


def test_a_full_disk_as_safetensors_tells_it_is_told_as_all_others(released, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise convert_fafa_checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(convert_fafa_checkpoint, "save_file", full)
    torch.save(released, tmp_path / "source.pt")
    with pytest.raises(SystemExit, match=r"the disk is full .*Nothing was written"):
        main([str(tmp_path / "source.pt"), str(tmp_path / "model"), *OPTIONS])


OPTIONS = ["--vision-heads", "4", "--qformer-heads", "4", "--tokenizer", str(VOCABULARY)]


@pytest.mark.parametrize("is_there", [False, True])
def test_what_a_killed_conversion_left_goes_with_the_next(is_there, tmp_path):
    """Whether the folder was there and empty, as a mount point is, or not."""
    output = tmp_path / "model"
    left = output / ".incomplete" if is_there else tmp_path / ".model.incomplete"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    main([str(SOURCE), str(output), *OPTIONS])
    load(output)
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and not (output / ".incomplete").exists()


def test_weights_may_be_read_by_whom_the_folder_may_be(tmp_path):
    """safetensors makes files that their owner alone can read."""
    convert_checkpoint(SOURCE, tmp_path / "model", tokenizer=VOCABULARY, **HEADS)
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1
