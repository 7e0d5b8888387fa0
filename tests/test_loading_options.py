"""Every option of `from_pretrained` and `save_pretrained` is honoured by FafaModel, or refused by name."""

import inspect
import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_batch, tiny_config, tiny_model, tiny_processor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from fafa import FafaConfig, FafaImageProcessor, FafaModel, FafaProcessor
from fafa.model_folder import load_model
from fafa.training.adapters import add_lora


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    return features(tiny_model())


@torch.no_grad()
def features(model):
    batch = tiny_batch(2)
    query = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    targets = model.get_target_features(batch["pixel_values"].to(model.dtype))
    query["pixel_values"] = query["pixel_values"].to(model.dtype)
    return torch.cat([model.get_query_features(**query).flatten(), targets.flatten()]).float()


def is_same(model, expected, tolerance=0.0):
    return bool((features(model) - expected).abs().max() <= tolerance)


def in_a_cache(folder, cache, revision="main", name="somebody/fafa"):
    """Puts a model where the Hub's client keeps what it fetched."""
    repository = cache / f"models--{name.replace('/', '--')}"
    commit = f"{abs(hash(revision)):040x}"[:40]
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    return name


def renamed(folder, place):
    """The model, with other names for two weights."""
    shutil.copytree(folder, place)
    weights = load_file(place / "model.safetensors")
    weights = {name.replace("text_projection", "text_proj"): weight for name, weight in weights.items()}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


def as_pickle(folder, place, weights=None):
    shutil.copytree(folder, place)
    torch.save(weights or load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    return place


def from_the_hub(folder, tmp, expected):
    name = in_a_cache(folder, tmp / "cache")
    return is_same(FafaModel.from_pretrained(name, cache_dir=tmp / "cache", local_files_only=True), expected)


def another_revision(folder, tmp, expected):
    other = tmp / "other"
    tiny_model(seed=1).save_pretrained(other)
    name = in_a_cache(folder, tmp / "cache")
    in_a_cache(other, tmp / "cache", "v2")
    where = {"cache_dir": tmp / "cache", "local_files_only": True}
    old, new = (FafaModel.from_pretrained(name, revision=revision, **where) for revision in ("main", "v2"))
    return is_same(old, expected) and is_same(new, features(tiny_model(seed=1)))


def a_variant(folder, tmp, expected):
    tiny_model(seed=1).save_pretrained(tmp / "both", variant="fp16")
    shutil.copy(folder / "model.safetensors", tmp / "both")
    one = FafaModel.from_pretrained(tmp / "both", variant="fp16")
    return is_same(one, features(tiny_model(seed=1))) and is_same(FafaModel.from_pretrained(tmp / "both"), expected)


def offloaded(folder, tmp, expected, **options):
    """Weights on the disk, fetched layer by layer."""
    model = FafaModel.from_pretrained(folder, offload_folder=tmp / "offload", **options)
    return "disk" in set(model.hf_device_map.values()) and is_same(model, expected, 1e-6)


def split_over_places():
    parts = {name.partition(".")[0]: "cpu" for name in tiny_model().state_dict()}
    return parts | {"vision_model": "disk"}


def with_an_adapter(folder, tmp, expected):
    add_lora(FafaModel.from_pretrained(folder), rank=2).save_pretrained(tmp / "lora")
    model = FafaModel.from_pretrained(tmp / "lora", adapter_name="mine", adapter_kwargs={"revision": "main"})
    return list(model.peft_config) == ["mine"]


def raises(error, message, call):
    with pytest.raises(error, match=message):
        call()
    return True


# Option -> what shows that it is honoured: of a folder, an empty folder, and the features that its model gives.
HONOURED = {
    "config": lambda f, t, e: FafaModel.from_pretrained(f, config=tiny_config(fd_weight=0.5)).config.fd_weight == 0.5,
    "cache_dir": from_the_hub,
    "local_files_only": lambda f, t, e: raises(
        OSError, "cached", lambda: FafaModel.from_pretrained("somebody/fafa", cache_dir=t, local_files_only=True)
    ),
    "force_download": lambda f, t, e: is_same(FafaModel.from_pretrained(f, force_download=True), e),
    "token": lambda f, t, e: is_same(FafaModel.from_pretrained(f, token=False), e),
    "revision": another_revision,
    "subfolder": lambda f, t, e: (
        shutil.copytree(f, t / "inner")
        and is_same(FafaModel.from_pretrained(t, subfolder="inner"), e)
        and is_same(load_model(t, subfolder="inner")[0], e)
    ),
    "variant": a_variant,
    "use_safetensors": lambda f, t, e: (
        raises(OSError, "model.safetensors", lambda: FafaModel.from_pretrained(f, use_safetensors=False))
        and is_same(FafaModel.from_pretrained(as_pickle(f, t / "bin"), use_safetensors=False), e)
        and raises(OSError, "safetensors", lambda: FafaModel.from_pretrained(t / "bin", use_safetensors=True))
    ),
    "weights_only": lambda f, t, e: raises(
        Exception, "weights_only|unpickl", lambda: FafaModel.from_pretrained(as_pickle(f, t / "bin", {"code": print}))
    ),
    "state_dict": lambda f, t, e: is_same(
        FafaModel.from_pretrained(None, config=tiny_config(), state_dict=tiny_model().state_dict()).eval(), e
    ),
    "ignore_mismatched_sizes": lambda f, t, e: (
        FafaModel.from_pretrained(f, ignore_mismatched_sizes=True, projection_dim=8).text_projection.out_features == 8
    ),
    "key_mapping": lambda f, t, e: is_same(
        FafaModel.from_pretrained(renamed(f, t / "names"), key_mapping={r"^text_proj\.": "text_projection."}), e
    ),
    "output_loading_info": lambda f, t, e: (
        FafaModel.from_pretrained(f, output_loading_info=True)[1]["missing_keys"] == set()
    ),
    "dtype": lambda f, t, e: (
        FafaModel.from_pretrained(f, dtype="bfloat16").dtype == torch.bfloat16
        and FafaModel.from_pretrained(f, dtype=torch.float16).dtype == torch.float16
        and FafaModel.from_pretrained(f, dtype="auto").dtype == torch.float32
        and raises(ValueError, "int8", lambda: FafaModel.from_pretrained(f, dtype=torch.int8))
    ),
    "torch_dtype": lambda f, t, e: FafaModel.from_pretrained(f, torch_dtype="bfloat16").dtype == torch.bfloat16,
    "attn_implementation": lambda f, t, e: (
        FafaModel.from_pretrained(f, attn_implementation="eager").config._attn_implementation == "eager"
        and is_same(FafaModel.from_pretrained(f, attn_implementation="eager"), e, 1e-5)
        and raises(
            ValueError, "flash|Flash", lambda: FafaModel.from_pretrained(f, attn_implementation="flash_attention_2")
        )
    ),
    "device_map": lambda f, t, e: (
        is_same(FafaModel.from_pretrained(f, device_map="cpu"), e)
        and is_same(FafaModel.from_pretrained(f, device_map="auto"), e)
        and raises(ValueError, "nowhere", lambda: FafaModel.from_pretrained(f, device_map="nowhere"))
        and raises(ValueError, "offload_folder", lambda: FafaModel.from_pretrained(f, device_map=split_over_places()))
    ),
    "offload_folder": lambda f, t, e: offloaded(f, t, e, device_map=split_over_places()),
    "offload_buffers": lambda f, t, e: offloaded(f, t, e, device_map=split_over_places(), offload_buffers=True),
    "max_memory": lambda f, t, e: offloaded(f, t, e, device_map="auto", max_memory={"cpu": "5MB"}),
    "low_cpu_mem_usage": lambda f, t, e: is_same(FafaModel.from_pretrained(f, low_cpu_mem_usage=True), e),
    "disable_mmap": lambda f, t, e: is_same(FafaModel.from_pretrained(f, disable_mmap=True), e),
    "trust_remote_code": lambda f, t, e: is_same(FafaModel.from_pretrained(f, trust_remote_code=False), e),
    "adapter_kwargs": with_an_adapter,
    "adapter_name": with_an_adapter,
}
# Refused by name: option -> a value.
REFUSED = {
    **dict.fromkeys(("from_tf", "from_flax", "offload_state_dict", "_fast_init"), True),
    **dict.fromkeys(("mirror", "generation_config", "gguf_file", "experts_implementation"), "x"),
    **{name: {"x": "y"} for name in ("proxies", "fusion_config", "distributed_config", "device_mesh")},
    **{"tp_plan": "auto", "tp_size": 2},
}
# The library's own: bars of a download, kernels of the Hub (which want a package), quantisation (see below).
OF_THE_LIBRARY = {"tqdm_class", "use_kernels", "kernel_config", "allow_all_kernels", "quantization_config"}
INSIDE = {"_from_pipeline", "_from_auto", "_commit_hash"}  # what transformers' own parts tell one another


def test_the_tables_name_all_options_of_transformers():
    source = inspect.getsource(PreTrainedModel.from_pretrained)
    options = {*re.findall(r"kwargs\.pop\(\s*\"(\w+)\"", source), *re.findall(r"\"(\w+)\" in kwargs", source)}
    dropped = re.search(r"for name in \[(.*?)\]", source, re.DOTALL)[1]
    options |= set(re.findall(r"\"(\w+)\"", dropped)) | set(
        inspect.signature(PreTrainedModel.from_pretrained).parameters
    )
    options -= {"pretrained_model_name_or_path", "model_args", "kwargs"} | INSIDE
    assert options <= HONOURED.keys() | REFUSED.keys() | OF_THE_LIBRARY


@pytest.mark.parametrize("option", HONOURED)
def test_option_is_honoured(option, folder, expected, tmp_path):
    assert HONOURED[option](folder, tmp_path, expected)


@pytest.mark.parametrize(("option", "value"), REFUSED.items())
def test_option_that_nothing_would_come_of_is_refused_by_name(option, value, folder):
    for loader in (FafaModel, AutoModel):
        # AutoModel looks for the file before it looks for the class.
        message = "gguf_file|a file named x" if option == "gguf_file" else option
        with pytest.raises((TypeError, ValueError, OSError), match=message):
            loader.from_pretrained(folder, **{option: value})


@pytest.mark.parametrize("option", ["load_in_8bit", "fda_aplha", "unknown"])
def test_an_option_that_nobody_knows_is_refused_by_name(option, folder):
    with pytest.raises((TypeError, ValueError), match=option):
        FafaModel.from_pretrained(folder, **{option: True})


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(ValueError, match=r"revision='v2' cannot be honoured: .* is a folder"):
        FafaModel.from_pretrained(folder, revision="v2")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantisation_without_its_library_is_refused_by_name(folder):
    with pytest.raises(ImportError, match="bitsandbytes"):
        FafaModel.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="quantising needs bitsandbytes")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_load_save_and_load_again(bits, folder, expected, tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    model = FafaModel.from_pretrained(folder, quantization_config=config, device_map="cpu")
    model.save_pretrained(tmp_path)
    again = FafaModel.from_pretrained(tmp_path, device_map="cpu")
    first, second = features(model), features(again)
    assert torch.nn.functional.cosine_similarity(first, expected, dim=0) > 0.95
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "options", [{"max_shard_size": "2MB"}, {"safe_serialization": True}, {"variant": "fp16"}], ids=str
)
def test_saved_with_these_options_it_is_loaded_again(options, expected, tmp_path):
    tiny_model().save_pretrained(tmp_path, **options)
    shards = len(list(tmp_path.glob("*.safetensors")))
    assert shards > 1 if "max_shard_size" in options else shards == 1
    loaded = FafaModel.from_pretrained(tmp_path, variant=options.get("variant"))
    assert is_same(loaded, expected)


def test_a_shard_that_is_missing_is_named(tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="2MB")
    shard = sorted(tmp_path.glob("*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(OSError, match=re.escape(shard.name)):
        FafaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", [tiny_model, tiny_processor])
def test_pushing_without_a_network_fails_and_leaves_the_saved_folder_alone(part, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Exception, match=r"(?i)offline|token|log ?in"):
        part().save_pretrained(tmp_path, push_to_hub=True, repo_id="somebody/fafa", token="hf_none")


def test_parts_are_found_by_transformers_auto_classes(folder):
    assert type(AutoModel.from_pretrained(folder)) is FafaModel
    assert type(AutoProcessor.from_pretrained(folder)) is FafaProcessor
    assert type(AutoImageProcessor.from_pretrained(folder)) is FafaImageProcessor
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == tiny_processor().tokenizer.get_vocab()
    assert type(AutoModel.from_config(FafaConfig.from_pretrained(folder))) is FafaModel
