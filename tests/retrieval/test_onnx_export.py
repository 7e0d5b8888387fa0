"""Encoders as ONNX: the features of every method's PyTorch model, galleries that both search, and what is refused."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_coalign
import tiny_dual_encoder
import torch
from every_model import EVERY_MODEL
from PIL import Image
from second_model import second_model, second_processor
from tiny import tiny_model
from transformers import AutoProcessor

from fafa.files import sealed
from fafa.model_folder import load_model
from fafa.onnx_encoders import OnnxModel
from fafa.retrieval import Gallery, onnx_export
from fafa.retrieval.fingerprint import model_fingerprint
from fafa.retrieval.onnx_export import export_onnx, main
from fafa.retriever import QUERY_MODES, Retriever, check_contract
from fafa.verify import verify

SHALLOW = {"vision_config": {"num_hidden_layers": 1}, "qformer_config": {"num_hidden_layers": 2}}  # quicker to export
MODELS = {name: (row.model, row.processor) for name, row in EVERY_MODEL.items()} | {
    "coalign": (lambda seed: tiny_coalign.small_model(seed, **SHALLOW), tiny_coalign.small_processor),
    "second": (second_model, second_processor),
}
CAPTIONS = ["a", "in a red coat with a blue bag", "now with a hat", "a red bag", "blue coat"]


@pytest.fixture(scope="session")
def model():
    return tiny_model(**SHALLOW)


@pytest.fixture(scope="session")
def exported(model, processor, tmp_path_factory):
    """The folder of a tiny FAFA's encoders."""
    folder = tmp_path_factory.mktemp("exported") / "fafa"
    assert max(export_onnx(model, processor, folder).values()) <= 1e-4
    return folder


@pytest.fixture(scope="session")
def in_int8(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "fafa"
    export_onnx(model, processor, folder, int8=True)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(5):
        coarse = rng.integers(0, 255, (4, 2, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 48)).save(folder / f"{number}.png")
    return folder


def inputs_of(model, processor) -> dict[str, torch.Tensor]:
    """Five queries: another number than any graph was made or compared with."""
    pixels = torch.randn(5, 3, *model.image_shape, generator=torch.Generator().manual_seed(5))
    return {"pixel_values": pixels, **processor.encode_captions(CAPTIONS)}


def check_parity(model, processor, folder) -> None:
    found, its_processor = load_model(folder)
    check_contract(found, Retriever)
    assert found.feature_shape == model.feature_shape and found.image_shape == model.image_shape
    assert found.num_top_tokens == model.num_top_tokens and model_fingerprint(found) == model_fingerprint(model)
    inputs = inputs_of(model, its_processor)
    with torch.no_grad():
        targets = model.get_target_features(inputs["pixel_values"])
        torch.testing.assert_close(found.get_target_features(inputs["pixel_values"]), targets, atol=1e-4, rtol=0)
        for mode, names in QUERY_MODES.items():
            given = {name: inputs[name] for name in names}
            try:
                queries = model.get_query_features(**given)
            except ValueError as error:
                with pytest.raises(ValueError, match=f"has no encoder of {re.escape(mode)}: {re.escape(str(error))}"):
                    found.get_query_features(**given)
                continue
            torch.testing.assert_close(found.get_query_features(**given), queries, atol=1e-4, rtol=0)
            torch.testing.assert_close(found.score(queries, targets), model.score(queries, targets))


@pytest.mark.parametrize("name", MODELS)
def test_every_method_has_the_features_of_its_pytorch_model(name, tmp_path):
    make_model, make_processor = MODELS[name]
    model, processor = make_model(0), make_processor()
    export_onnx(model, processor, tmp_path / "exported")
    check_parity(model, processor, tmp_path / "exported")


def test_fafas_graphs_share_their_weights_and_take_captions_of_any_length(model, processor, exported):
    check_parity(model, processor, exported)
    sizes = {file.name: file.stat().st_size for file in exported.iterdir()}
    weights = sum(weight.nbytes for weight in model.parameters())
    assert sizes["weights.bin"] < 1.1 * weights and max(sizes[name] for name in sizes if ".onnx" in name) < weights / 4
    found = OnnxModel(exported)
    for length in (3, 9, processor.max_text_length):
        ids = torch.arange(length)[None] % 9 + 5
        expected = model.get_query_features(input_ids=ids)
        torch.testing.assert_close(found.get_query_features(input_ids=ids), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="this model has 32 positions"):
        found.get_query_features(input_ids=torch.full((1, 33), 5))
    with pytest.raises(ValueError, match="this model knows ids from 0 to 14"):
        found.get_query_features(input_ids=torch.full((1, 3), 99))
    with pytest.raises(ValueError, match="the images have 48 x 96 pixels"):
        found.get_target_features(torch.zeros(1, 3, 48, 96))
    with pytest.raises(ValueError, match="2 reference images for 1 captions"):
        found.get_query_features(torch.zeros(2, 3, 96, 96), torch.full((1, 3), 5))


def test_a_gallery_is_searched_by_either_and_by_no_other(model, processor, exported, in_int8, photos, tmp_path):
    Gallery.from_folder(model, processor, photos, features_dir=tmp_path / "torch", progress=False)
    encoders, words = load_model(exported)
    Gallery.from_folder(encoders, words, photos, features_dir=tmp_path / "onnx", progress=False)
    query = {"image": photos / "2.png", "caption": "a red coat", "top": None}
    expected = Gallery.load(tmp_path / "torch", model, processor).search(**query)
    for index in ("torch", "onnx"):
        for searcher in (model, encoders, OnnxModel(in_int8)):
            found = Gallery.load(tmp_path / index, searcher, words).search(**query)
            least = 1e-4 if searcher is not model or index != "torch" else 0
            if "int8" in str(getattr(searcher, "folder", "")):
                least = 0.05
            scores = {result.path: result.score for result in found}
            assert [scores[result.path] for result in expected] == pytest.approx(
                [result.score for result in expected], abs=least
            )
    with pytest.raises(ValueError, match=r"model dtype float32 .now int8."):  # mixed, features would be neither's
        Gallery.from_folder(OnnxModel(in_int8), words, photos, features_dir=tmp_path / "torch", progress=False)
    other = tiny_model(seed=1, **SHALLOW)
    with pytest.raises(ValueError, match="model fingerprint"):
        Gallery.load(tmp_path / "onnx", other, processor)


def test_eight_bits_are_smaller_and_near(model, processor, in_int8, exported):
    found, inputs = OnnxModel(in_int8), inputs_of(model, processor)
    assert found.exported_from["dtype"] == "int8"
    size, full = ((folder / "weights.bin").stat().st_size for folder in (in_int8, exported))
    assert size < 0.45 * full  # word embeddings stay as they are
    for features, expected in (
        (found.get_query_features(**inputs), model.get_query_features(**inputs)),
        (found.get_target_features(inputs["pixel_values"]), model.get_target_features(inputs["pixel_values"])),
    ):
        likeness = torch.cosine_similarity(features, expected.detach(), dim=-1)
        assert likeness.min() > 0.99 and likeness.max() < 1 - 1e-7


@pytest.mark.parametrize("int8", [False, True])
def test_a_graph_too_large_for_one_file_has_its_weights_in_files_beside_it(
    model, processor, int8, tmp_path, monkeypatch
):
    """As of a model above 2 GB: forced here, of each tensor, as the exporter does it for all of a graph."""
    onnx, written = pytest.importorskip("onnx"), []
    export = torch.onnx.export

    def export_large(encoder, inputs, file, **options):
        export(encoder, inputs, file, **options)
        options = {"save_as_external_data": True, "all_tensors_to_one_file": False, "size_threshold": 0}
        onnx.save(onnx.load(file), file, **options)
        written.append(len(list(Path(file).parent.iterdir())))

    monkeypatch.setattr(torch.onnx, "export", export_large)
    monkeypatch.setattr(onnx_export, "_LARGE", 0)
    export_onnx(model, processor, tmp_path / "out", int8)
    assert min(written) > 20  # files of tensors
    graphs = {"target.onnx", *(f"query-{mode}.onnx" for mode in QUERY_MODES)}
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {name for name in files if not name.endswith((".json", ".jinja"))} == {*graphs, "weights.bin"}
    if int8:
        found, inputs = OnnxModel(tmp_path / "out"), inputs_of(model, processor)
        queries = found.get_query_features(**inputs), model.get_query_features(**inputs).detach()
        assert torch.cosine_similarity(*queries).min() > 0.99
    else:
        check_parity(model, processor, tmp_path / "out")


def damaged(exported, tmp_path, name: str, change) -> str:
    folder = shutil.copytree(exported, tmp_path / "damaged", dirs_exist_ok=True)
    change(folder / name)
    return str(folder)


def test_what_is_no_export_another_version_or_damaged_is_refused(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no exported encoders .no onnx.json.: python -m fafa.retrieval"):
        OnnxModel(tmp_path)

    def with_entry(name, value):
        def change(file):
            file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {name: value})))

        return change

    def flip(file):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    for name, change, told in (
        ("onnx.json", with_entry("version", 9), "an export of version 9, which this program, with version 1, does not"),
        ("onnx.json", with_entry("format", "fafa features"), "its onnx.json is none of exported encoders"),
        ("onnx.json", lambda file: file.write_text(file.read_text().replace("96", "97")), "is damaged"),
        ("weights.bin", flip, "weights.bin is damaged: its contents have changed"),
        ("target.onnx", lambda file: file.unlink(), "target.onnx is missing"),
        ("tokenizer.json", flip, "tokenizer.json is damaged"),
    ):
        folder = damaged(exported, tmp_path, name, change)
        with pytest.raises(ValueError, match=told):
            load_model(folder)
        [verdict] = verify(folder)
        assert verdict.kind == "exported encoders" and any(re.search(told, fault) for fault in verdict.faults)
    assert [(verdict.kind, verdict.faults) for verdict in verify(exported)] == [("exported encoders", [])]


def test_what_cannot_be_exported_is_refused_by_name_and_leaves_nothing(tmp_path, monkeypatch):
    model, processor = tiny_dual_encoder.tiny_model(), tiny_dual_encoder.tiny_processor()
    output = tmp_path / "exported"
    encode = type(model).get_target_features

    def by_number(self, pixel_values):  # a size that tracing takes for a constant
        return torch.nn.functional.normalize(encode(self, pixel_values) + len(pixel_values), dim=-1)

    monkeypatch.setattr(type(model), "get_target_features", by_number)
    with pytest.raises(
        ValueError, match="DualEncoderModel cannot be exported to ONNX: its encoder of target gives features"
    ):
        export_onnx(model, processor, output)
    monkeypatch.setattr(
        type(model), "get_target_features", lambda self, pixel_values: torch.linalg.qr(encode(self, pixel_values))[0]
    )
    with pytest.raises(
        ValueError, match=r"DualEncoderModel cannot be exported to ONNX: its encoder of target .*linalg_qr"
    ):
        export_onnx(model, processor, output)
    with pytest.raises(ValueError, match="the model is bfloat16 on cpu: load it in float32"):
        export_onnx(model.bfloat16(), processor, output)
    assert list(tmp_path.iterdir()) == []


def test_without_the_libraries_it_says_how_to_install_them(exported, model, processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for call in (lambda: OnnxModel(exported), lambda: export_onnx(model, processor, tmp_path / "exported")):
        with pytest.raises(ModuleNotFoundError, match=r"onnxruntime is not installed: pip install .*'\.\[onnx\]'"):
            call()


def test_it_stays_on_the_cpu_in_its_precision_and_does_not_train(exported):
    found, _ = load_model(exported, dtype=torch.float32)
    assert found.to("cpu") is found and found.eval() is found
    for elsewhere in ("cuda", torch.bfloat16):
        with pytest.raises(ValueError, match="exported encoders run on the CPU"):
            found.to(elsewhere)
    with pytest.raises(ValueError, match=r"exported encoders compute in float32, not in torch.bfloat16"):
        load_model(exported, dtype=torch.bfloat16)
    with pytest.raises(NotImplementedError, match="OnnxModel has no training_states"):
        found(pixel_values=torch.zeros(1))
    with pytest.raises(NotImplementedError, match=r"exported encoders do not tell where.*take the model that they"):
        found.target_attention(torch.zeros(1))


def test_the_command_exports_a_folder_and_refuses_one_that_is_full(tmp_path, capsys):
    source = tmp_path / "model"
    tiny_dual_encoder.tiny_model().save_pretrained(source)
    tiny_dual_encoder.tiny_processor().save_pretrained(source)
    main([str(source), str(tmp_path / "out"), "--int8"])
    assert re.findall(r"(.+): differs from PyTorch by at most", capsys.readouterr().out) == ["target", *QUERY_MODES]
    assert type(AutoProcessor.from_pretrained(tmp_path / "out")) is type(tiny_dual_encoder.tiny_processor())
    with pytest.raises(SystemExit, match="out exists already; name a folder that is absent or empty"):
        main([str(source), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="there is no folder"):
        main([str(tmp_path / "nowhere"), str(tmp_path / "other")])
