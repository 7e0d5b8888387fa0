"""Text of others in the pages of this package: captions, paths and names stay text, whatever Markdown they hold."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from tiny import tiny_config, tiny_model
from tiny_run import tiny_trainer

import fafa
from fafa import FafaModel, convert_fafa_checkpoint
from fafa.dataset_builders.export import export_dataset
from fafa.dataset_builders.verify import verify_dataset
from fafa.evaluation import EvaluationReport
from fafa.evaluation.benchmark_page import benchmark_page
from fafa.evaluation.compare import compare_reports
from fafa.evaluation.robustness import RobustnessReport
from fafa.markdown_text import block, code, loadable, plain, public
from fafa.model_card import add_results_to_card, make_model_card
from fafa.synthesis.adapters import card as adapter_card
from fafa.synthesis.filtering import calibration_report
from fafa.synthesis.filtering.calibration import Pair, Verdict
from fafa.synthesis.filtering.thresholds import Bound, Thresholds
from fafa.synthesis.report import page as statistics_page
from fafa.synthesis.report.counting import count_people, count_triplets
from fafa.synthesis.report.measures import StatisticsSettings
from fafa.synthesis.report.page import StatisticsStage
from fafa.synthesis.report.people import PeopleStatistics
from fafa.synthesis.report.triplets import TripletStatistics
from fafa.training.card import RunFacts

markdown_it = pytest.importorskip("markdown_it", reason="the pages are read by a parser of Markdown")

HOSTILE = [
    "x\n\n# Heading\n\n---\nlicense: mit\n---\n",
    "# Heading",
    "Heading\n===",
    "<script>alert(1)</script><h1>Heading</h1><img src=x onerror=alert(1)>",
    "&lt;b&gt; &#60;b&#62;",
    "a | b | c\n|---|---|\n| d",
    "```\n# Heading\n<script>\n```",
    "`` ` ``` <b> `",
    "[a link](javascript:alert(1)) ![an image](http://a/b.png) [x]: http://c",
    "*strong* __strong__ ~~gone~~ $x$ \\* \\<b>",
    "- item\n- item",
    "1. item",
    "> quoted",
    "</details><!-- \u202eright to left\u202c\x1b[31m\x07",
    "bytes that are no UTF-8: \udce9\udcff",
    '"); import os; ("',
    "{braces} {0} {title} %s",
]
ABOUT = "One paragraph."


def shown(page: str) -> tuple[list[str], str]:
    """The headings of a page and all its text, as a reader of Markdown shows them; what is not text is refused."""
    page.encode()
    page = re.sub(r"\A---\n.*?\n---\n", "", page, count=1, flags=re.DOTALL)
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    headings, texts = [], []
    for number, token in enumerate(tokens):
        if token.type == "html_block":
            ours = ("<details>", "</details>", "<summary>The same as a command</summary>", "")
            rest = re.sub("|".join(map(re.escape, filter(None, ours))), "", token.content).strip()
            assert not rest, f"HTML: {token.content!r}"
        if token.type == "heading_open":
            headings.append(tokens[number + 1].content)
        if token.type in ("fence", "code_block"):
            texts.append(token.content)
        for part in token.children or ():
            assert part.type not in ("html_inline", "s_open"), f"{part.type}: {part.content!r}"
            if part.type in ("link_open", "image"):
                target = part.attrs.get("href") or part.attrs["src"]
                assert re.fullmatch(r"(https://(arxiv\.org|huggingface\.co)/\S*|[\w.]+\.(png|jpg))", target), target
            texts.append(part.content)
        if token.type.endswith("_close"):
            texts.append("\n")
    return headings, "".join(texts)


def as_line(text: str) -> str:
    """How a page shows a text on one line."""
    return fafa.files.printable(re.sub(r"[\t\r\n]+", " ", text)).strip()


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_code_and_blocks_show_what_they_are_given(text):
    for written in (f"{plain(text)}", f"- {plain(text)}", f"| h |\n|---|\n| {plain(text)} |\n\nafter", code(text)):
        headings, read = shown(written)
        assert not headings and as_line(text) in read
    headings, read = shown(f"{block(text, 'yaml')}\n\nafter")
    assert not headings and read == text.encode("utf-8", "backslashreplace").decode().rstrip() + "\nafter\n"


def test_names_and_numbers_stay_readable_in_the_source():
    for text in (
        "in a dark-blue coat, size 1.5 (no bag)",
        "per_device_train_batch_size",
        "-1",
        "+0.5",
        "black & white",
    ):
        assert plain(text) == text
    assert len(plain("a" * 10**6)) == 501 and plain("a" * 10**6).endswith("…")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/someone/data/SynCPR", "SynCPR"),
        ("/home/someone/data/SynCPR/", "SynCPR"),
        ("~/data/SynCPR", "SynCPR"),
        ("../data/SynCPR", "SynCPR"),
        ("C:\\Users\\someone\\SynCPR", "SynCPR"),
        ("\\\\server\\share\\someone\\SynCPR", "SynCPR"),
        ("file:///home/someone/SynCPR", "SynCPR"),
        ("/", "a folder"),
        ("~", "a folder"),
        ("a1557811266/SynCPR", "a1557811266/SynCPR"),
        ("world/SynCPR", "world/SynCPR"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ({"data": ["/a/b", 1, None], "on": True}, {"data": ["b", 1, None], "on": True}),
    ],
)
def test_of_a_path_of_this_machine_a_page_has_the_name(path, expected):
    assert public(path) == expected
    if isinstance(path, str) and path != expected:
        assert loadable(path) == f'"path/to/{expected}"'


def of_verify(folder: Path, text: str) -> tuple[str, list[str]]:
    """A file that cannot be found, copies of one picture, and a source, all of this name."""
    name = text.replace("/", "∕").replace("\0", "").replace("\\", "")
    root = folder / f"data {name}"
    root.mkdir()
    for number in range(2):
        Image.new("RGB", (4, 8)).save(root / f"{number} {name}.png")
    record = {"person_id": 1, "instance_id": 0, "datasets": name}
    files = {"a": f"0 {name}.png", "b": f"1 {name}.png", "c": f"2 {name}.png"}
    records = {letter: record | {"file_path": file} for letter, file in files.items()}
    (root / "gallery.json").write_text(json.dumps([records["a"], records["b"], records["c"]]))
    (root / "query.json").write_text(json.dumps([records["a"] | {"caption": f"coat {name}"}]))
    verify_dataset(root, folder / "out", num_workers=1, show_progress=False)
    head, _, page = (folder / "out/report.md").read_text(encoding="utf-8").partition("\n")
    assert head.startswith("# Check of ")
    return page, [as_line(name)] * 4


def of_export(folder: Path, text: str) -> tuple[str, list[str]]:
    """Captions and sources in statistics and the example, the licence and the title, and a world's parameters."""
    (folder / "data").mkdir()
    Image.new("RGB", (4, 8)).save(folder / "data/a.png")
    record = {"person_id": 1, "instance_id": 0, "datasets": text, "file_path": "a.png"}
    (folder / "data/gallery.json").write_text(json.dumps([record]))
    (folder / "data/query.json").write_text(json.dumps([record | {"caption": f"coat {text}"}]))
    (folder / "data/world.json").write_text(json.dumps({"title": text}))
    head = yaml.safe_dump({"license": text, "pretty_name": text})
    (folder / "about.md").write_text(f"---\n{head}---\n{ABOUT}", encoding="utf-8")
    export_dataset(
        "ITCPR",
        "query",
        data_dir=folder / "data",
        output_dir=folder / "out",
        about=folder / "about.md",
        cache_dir=folder / "cache",
        show_progress=False,
    )
    page = (folder / "out/README.md").read_text(encoding="utf-8")
    assert DatasetCard(page).data.pretty_name == text
    return page, [as_line(text)] * 2


def of_model_card(folder: Path, text: str) -> tuple[str, list[str]]:
    """The title, the model of an adapter, a data set of results, and the head."""
    facts = FafaModel.card_facts(tiny_config())
    card = make_model_card(facts, 1, f"FAFA {text}", ABOUT, {}, {"model_name": text}, folder=text, adapter_of=text)
    (folder / "README.md").write_text(card, encoding="utf-8")
    name = f"data {text}"
    for _ in range(2):  # the second replaces the first
        add_results_to_card(folder, name, {"image": {"rank-1": 50.0}}, 1, 1)
    page = (folder / "README.md").read_text(encoding="utf-8")
    loaded = ModelCard.load(folder / "README.md")
    assert loaded.data.model_name == text and len(loaded.data.eval_results) == 1
    return page, []


def of_converter(folder: Path, text: str) -> tuple[str, list[str]]:
    file = folder / (text.replace("/", "∕").replace("\0", "")[:200])
    file.write_bytes(b"")
    conversion = convert_fafa_checkpoint.Conversion(tiny_config(), {}, {}, {}, {})
    return convert_fafa_checkpoint._model_card(conversion, text, [file]), [as_line(file.name)]


def of_report(folder: Path, text: str) -> tuple[str, list[str]]:
    """A source, the caption, the model and the data; and the comparison of two such reports."""
    first = report_of(text)
    return first.to_page(), [as_line(text)] * 3


def of_benchmark(folder: Path, text: str) -> tuple[str, list[str]]:
    """The model, and a file for the server."""
    record = {"benchmark": "CIRR", "split": "test", "model": f"model {text}", "mode": "image+caption"}
    record |= {"num_queries": 1, "num_gallery": 2, "metrics": {}}
    return benchmark_page(record, [Path(f"file {as_line(text)}")]), [as_line(text)]


def of_robustness(folder: Path, text: str) -> tuple[str, list[str]]:
    """The model."""
    metrics = {"rank-1": 50.0, "mAP": 60.0}
    intervals = {name: [value, 0.0, 100.0] for name, value in metrics.items()}
    corruption = {"name": "noise", "half": "image", "severity": 1, "num_changed": 1, "metrics": metrics}
    conflict = {"half": "image", "strength": 0.5, "own": metrics, "other": metrics, "own_wins": [50.0, 0.0, 100.0]}
    wordings = {"num_wordings": 1, "metrics": [metrics], "median_rank_ratio": 1.0, "always_first": 0.0}
    report = RobustnessReport(
        clean=intervals,
        conditions=[corruption | {"relative": intervals}],
        conflicts=[conflict],
        wordings=wordings | {"ever_first": 0.0, "are_given": False},
        negations=dict.fromkeys(("negated", "without", "with"), metrics) | {"falls": 0.0, "same": 1.0},
        num_queries=1,
        num_gallery=2,
        settings={"model": f"model {text}"},
    )
    return report.to_page(), [as_line(text)]


def of_comparison(folder: Path, text: str) -> tuple[str, list[str]]:
    first, second = report_of(text), report_of(text)
    second.queries[0]["results"]["image"] |= {"first_rank": 2, "ranks": [2]}
    return compare_reports(first, second, names=(f"a {text}", f"b {text}")), [as_line(text)] * 3


def report_of(text: str) -> EvaluationReport:
    groups = {"overall": {"rank-1": 50.0}, text: {"rank-1": 50.0}, "B": {"rank-1": 50.0}}
    results = {"first_rank": 1, "ranks": [1], "matches": [0], "average_precision": 1.0, "top_images": [0]}
    query = {"index": 0, "image_path": text, "caption": text, "source": text, "instance_id": 0}
    return EvaluationReport(
        metrics={"image": groups},
        intervals={"image": {name: {"rank-1": [0.0, 100.0]} for name in groups}},
        chance=groups,
        groups={"source": [text, "B"]},
        num_queries=dict.fromkeys(groups, 1),
        num_gallery=2,
        gallery_fingerprint="",
        ks=[1],
        queries=[query | {"results": {"image": results | {"top_scores": [0.5]}}}],
        settings={"model": f"model {text}", "data": {text: f"data {text}"}},
    )


def of_statistics(folder: Path, text: str) -> tuple[str, list[str]]:
    """The name, reasons, scores, values and measures of a synthesis."""
    stage = TripletStatistics(StatisticsSettings(), 0, ["filter"], "SynCPR", Thresholds())
    counted = count_triplets([], "cpr_id") | {"kept of all possible triplets": None, "scores": {}}
    return written_by(stage, folder, counted, text)


def of_text_image_statistics(folder: Path, text: str) -> tuple[str, list[str]]:
    stage = PeopleStatistics(StatisticsSettings(), 0, ["captions"])
    return written_by(stage, folder, count_people([]) | {"edits painted": {text: 1}}, text)


def written_by(stage: StatisticsStage, folder: Path, counted: dict, text: str) -> tuple[str, list[str]]:
    stages = {f"a {text}": {"items": 2, "rejected": {text: 1}}}
    found = {"name": f"my {text}", "stages": stages, "coverage": {text: {text: 1.0}}, "measures": {text: 1.0}}
    stage.write(folder, counted | found, {}, {})
    page = (folder / "statistics.md").read_text(encoding="utf-8")
    return page, [as_line(text)] * 3


def of_calibration(folder: Path, text: str) -> tuple[str, list[str]]:
    """The run's name, reasons that people wrote, and names of scores."""
    verdicts = [
        Verdict(Pair({"id": str(number), "quadruple": "1"}, {text: float(number)}), "ab", number > 1, text)
        for number in range(4)
    ]
    bounds = Thresholds(bounds={f"a {text}": Bound(at_least=1.0)})
    source = f"run {text}"
    calibration_report.write_report(folder, source, (verdicts, verdicts), 0, 0.9, Thresholds(), bounds)
    page = (folder / "report.md").read_text(encoding="utf-8")
    found = yaml.safe_load((folder / "thresholds.yaml").read_text(encoding="utf-8"))
    assert list(found["filter"]["bounds"]) == [f"a {text}"]
    return page, [as_line(text)] * 2


def of_adapter_card(folder: Path, text: str) -> tuple[str, list[str]]:
    """The base model, a prompt, and the settings."""
    about = {
        "diptychs": 1,
        "rejected diptychs": 0,
        "size": (64, 64),
        "parameters": 1,
        "takes guidance": True,
        "prompt": text,
    }
    settings = {"model": text, "steps": 1, "batch_size": 1, "photographs": f"/home/someone/{text}"}
    log = [{"step": 1, "loss": 1.0, "learning_rate": 1.0, "seconds": 1.0}]
    adapter_card.write_card(folder, settings, about, log, [])
    return (folder / "README.md").read_text(encoding="utf-8"), [as_line(public(text))]


def of_training_card(folder: Path, text: str) -> tuple[str, list[str]]:
    """The data, the base model, and the settings as YAML and as a command."""
    trainer = TRAINED["trainer"]
    trainer.facts = RunFacts(
        about=f"Trained from {code(public(text))}.",
        dataset=f"data {text}",
        base_model=text,
        settings={"model": text, "data_dir": f"/home/someone/{text}", text: [text]},
        script="examples/train.py",
    )
    trainer.create_model_card(text)
    assert ModelCard.load(Path(trainer.args.output_dir, "README.md")).data.model_name == text
    return Path(trainer.args.output_dir, "README.md").read_text(encoding="utf-8"), [as_line(public(text))]


TRAINED = {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training run of one step, without curves; and statistics without charts, which hold no text of others."""
    folder = tmp_path_factory.mktemp("run")
    rows = []
    for number in range(4):
        Image.new("RGB", (8, 16), (60 * number, 0, 0)).save(folder / f"{number}.png")
        images = {f"{side}_image": {"path": str(folder / f"{number}.png")} for side in ("reference", "target")}
        paths = {f"{side}_image_path": f"{number}.png" for side in ("reference", "target")}
        rows.append(images | paths | {"edit_caption": "in a red coat", "target_caption": "a coat", "cpr_id": number})
    trainer = tiny_trainer(
        folder / "out", Dataset.from_list(rows), tiny_model(), eval_dataset=None, max_steps=1, save_strategy="no",
        per_device_train_batch_size=4,
    )  # fmt: skip
    trainer.train()
    TRAINED["trainer"] = trainer
    yield
    TRAINED.clear()


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(statistics_page, "draw_charts", lambda folder, charts: None)
    monkeypatch.setattr(calibration_report, "draw_curves", lambda *args: None)
    monkeypatch.setattr(adapter_card, "draw_curves", lambda *args: [])
    monkeypatch.setattr("fafa.training.card.draw_curves", lambda *args: [])


WRITERS = {
    "dataset_builders/verify.py": of_verify,
    "dataset_builders/dataset_card.py": of_export,
    "model_card.py": of_model_card,
    "convert_fafa_checkpoint.py": of_converter,
    "training/card.py": of_training_card,
    "evaluation/benchmark_page.py": of_benchmark,
    "evaluation/report.py": of_report,
    "evaluation/compare.py": of_comparison,
    "evaluation/robustness/report.py": of_robustness,
    "synthesis/report/triplets.py": of_statistics,
    "synthesis/report/people.py": of_text_image_statistics,
    "synthesis/filtering/calibration_report.py": of_calibration,
    "synthesis/adapters/card.py": of_adapter_card,
}


SHOWS_PATHS_AND_SETTINGS = (
    *("model_card.py", "convert_fafa_checkpoint.py", "training/card.py", "evaluation/report.py"),
    "evaluation/benchmark_page.py",
    *("evaluation/compare.py", "evaluation/robustness/report.py", "synthesis/adapters/card.py"),
)


@pytest.mark.parametrize("writer", WRITERS)
def test_no_page_obeys_text_of_others(writer, tmp_path, trained, without_pictures):
    folder = tmp_path / "plain"
    folder.mkdir()
    expected = [heading.replace("harmless", "…") for heading in shown(WRITERS[writer](folder, "harmless")[0])[0]]
    for number, text in enumerate(HOSTILE):
        if "\udce9" in text and writer not in SHOWS_PATHS_AND_SETTINGS:  # captions and the like are held to be Unicode
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        page, lines = WRITERS[writer](folder, text)
        headings, read = shown(page)
        own = plain(text).replace("\\", "")
        assert [heading.replace("\\", "").replace(own, "…") for heading in headings] == expected, text
        assert "/home/someone" not in page
        for line in set(lines):
            assert read.count(line) >= lines.count(line), (text, line)
        shutil.rmtree(folder)


def test_every_module_that_writes_a_page_is_tried():
    root = Path(fafa.__file__).parent
    rooms = ("", "dataset_builders", "evaluation", "models", "retrieval", "synthesis", "training")
    modules = {file for room in rooms for file in (root / room).glob("**/*.py" if room else "*.py")}
    writes = re.compile(r'\|-{3}|-{3} \||["\']#{1,3} |```(json|yaml|python|bash)\n|\.md"')
    found = {file.relative_to(root).as_posix() for file in modules if writes.search(file.read_text(encoding="utf-8"))}
    no_pages_of_their_own = {
        *("markdown_text.py", "model_folder.py", "setup.py", "verify.py"),
        *("captions_fafa.py", "processing_fafa.py", "image_processing_fafa.py"),  # examples in docstrings
        *("dataset_builders/__init__.py", "dataset_builders/export.py", "evaluation/report_folder.py"),
        "evaluation/run.py",  # it writes what the reports make
        *("evaluation/robustness/__init__.py", "models/coalign/convert.py", "models/dual_encoder/__main__.py"),
        "models/word4per/__main__.py",  # they call `make_model_card`
        *("synthesis/report/page.py", "training/checks.py"),
    }
    assert found - no_pages_of_their_own == {*WRITERS}
