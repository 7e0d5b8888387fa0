import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from fafa.dataset_builders import register_builders
from fafa.dataset_builders.syncpr import FEATURES


@pytest.mark.parametrize("imports", ["import datasets, fafa", "import fafa, datasets"])
def test_importing_fafa_before_or_after_datasets_registers_both_names(imports, syncpr_root):
    code = f"""
{imports}
import datasets
assert datasets.get_dataset_config_names("ITCPR") == ["query", "gallery"]
stream = datasets.load_dataset("SynCPR", data_dir={str(syncpr_root)!r}, split="train", streaming=True)
print(next(iter(stream))["cpr_id"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_registering_again_changes_nothing():
    before = datasets.load.dataset_module_factory
    register_builders()
    assert datasets.load.dataset_module_factory is before


def test_other_names_still_reach_the_stock_builders(load, tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"a": 1}]))
    assert load("json", data_files=str(tmp_path / "rows.json"), split="train")["a"][:] == [1]


def test_data_files_are_refused_not_ignored(load):
    with pytest.raises(ValueError, match="data_dir="):
        load("SynCPR", data_files="SynCPR.json")


@pytest.mark.parametrize("option", ["repo_id", "revision"])
def test_a_folder_and_a_hub_repository_exclude_one_another(load, syncpr_root, option):
    with pytest.raises(ValueError, match="either data_dir="):
        load("SynCPR", data_dir=syncpr_root, **{option: "me/mine"})


def test_an_option_that_does_not_exist_is_refused(load, syncpr_root):
    with pytest.raises(ValueError, match="colour"):
        load("SynCPR", data_dir=syncpr_root, colour="red")


def say(name: str, folder, *choices: str) -> str:
    return re.escape(" or ".join(f'load_dataset("{name}", {choice}data_dir="{folder}")' for choice in choices or ("",)))


@pytest.mark.parametrize("place", ["", "SynCPR.json", "datasets"])
def test_a_path_to_a_folder_of_ours_is_an_error_that_names_the_right_call(load, syncpr_root, place, monkeypatch):
    """By its path alone, datasets makes an imagefolder with one column of it."""
    if place == "datasets":
        (syncpr_root / place).mkdir()
        (syncpr_root / "SynCPR.json").rename(syncpr_root / place / "SynCPR.json")
        place = ""
    for path in (syncpr_root / place, Path("SynCPR", place), f"./SynCPR/{place}"):
        monkeypatch.chdir(syncpr_root.parent)
        if str(path) == "SynCPR":
            continue  # the name itself
        with pytest.raises(ValueError, match=say("SynCPR", syncpr_root)):
            load(str(path))
    with pytest.raises(ValueError, match=say("SynCPR", syncpr_root)):
        load(str(syncpr_root.parent), data_dir="SynCPR")


def test_a_path_to_itcpr_names_the_call_for_both_configurations(load, itcpr_root):
    expected = say("ITCPR", itcpr_root, '"query", ', '"gallery", ')
    for path in (itcpr_root, itcpr_root / "query.json", itcpr_root / "gallery.json"):
        with pytest.raises(ValueError, match=expected):
            load(str(path))


def test_folders_of_others_are_loaded_as_ever(load, tmp_path, syncpr_root):
    """Also with names like ours, or with a card that tells what is in them."""
    for name in ("query", "gallery"):
        (tmp_path / f"other/{name}.json").parent.mkdir(exist_ok=True)
        (tmp_path / f"other/{name}.json").write_text(json.dumps([{"a": 1}]))
    assert load(str(tmp_path / "other"), split="train").column_names == ["a"]
    card = "---\nconfigs:\n- config_name: default\n  data_files: SynCPR.json\n---\n"
    (syncpr_root / "README.md").write_text(card)
    assert "edit_caption" in load(str(syncpr_root), split="train").column_names


def test_wrong_places_of_the_annotations_are_errors_that_name_the_right_one(load, tmp_path, syncpr_root):
    for data_dir in (syncpr_root.parent, syncpr_root / "test2/sub_img", syncpr_root / "SynCPR.json"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"data_dir={str(syncpr_root)!r}")):
            load("SynCPR", data_dir=data_dir)
    for data_files in (syncpr_root / "SynCPR.json", [syncpr_root / "SynCPR.json"], {"train": syncpr_root / "a.json"}):
        with pytest.raises(ValueError, match=say("SynCPR", syncpr_root)):
            load("SynCPR", data_files=data_files)


def of_features(**changes) -> datasets.Features:
    return datasets.Features(dict(FEATURES) | changes)


# Every argument of `load_dataset`, and those of builders that it passes on: what becomes of it, or the refusal.
OPTIONS = [
    ("split", "train[:2]", lambda rows: len(rows) == 2),
    ("split", ["train[:1]", "train[1:]"], lambda parts: [len(part) for part in parts] == [1, 5]),
    ("split", "test", "Unknown split"),
    ("split", None, lambda splits: list(splits) == ["train"]),
    ("streaming", True, lambda rows: [row["cpr_id"] for row in rows] == [0, 0, 1, 1, 2, 2]),
    ("num_proc", 2, lambda rows: rows["cpr_id"][:] == [0, 0, 1, 1, 2, 2]),
    ("num_proc", 0, "at least 1"),
    ("keep_in_memory", True, lambda rows: not rows.cache_files),
    ("keep_in_memory", False, lambda rows: bool(rows.cache_files)),
    ("verification_mode", "all_checks", lambda rows: len(rows) == 6),
    ("verification_mode", "no_checks", lambda rows: len(rows) == 6),
    ("verification_mode", "most", "most"),
    ("features", FEATURES, lambda rows: rows.features == FEATURES),
    ("features", of_features(cpr_id=datasets.Value("string")), lambda rows: rows["cpr_id"][5] == "2"),
    ("features", of_features(target_image=datasets.Image(decode=False)), lambda rows: rows[0]["target_image"]["path"]),
    ("features", datasets.Features({"edit_caption": datasets.Value("string")}), "7 new columns"),
    ("features", of_features(edit_caption=datasets.Value("int64")), "edit_caption|int64|generating the dataset"),
    ("data_files", "SynCPR.json", r"no data_files=.*load_dataset\(\"SynCPR\", data_dir="),
    ("name", "default", lambda rows: len(rows) == 6),
    ("name", "query", "'query' not found"),
    ("revision", "main", "either data_dir="),
    ("token", "hf_secret", lambda rows: len(rows) == 6),  # for the Hub, see test_hub.py
    ("download_mode", "force_redownload", lambda rows: len(rows) == 6),
    ("download_mode", "never", "never"),
    ("download_config", datasets.DownloadConfig(force_download=True), lambda rows: len(rows) == 6),
    ("storage_options", {"key": "secret"}, r"takes no storage_options=.*data_dir="),
    ("save_infos", True, lambda rows: len(rows) == 6),  # asks for all checks, since datasets 4
    ("trust_remote_code", True, lambda rows: len(rows) == 6),  # datasets tells that it runs no such code any more
    ("path", "SynCPR", lambda rows: len(rows) == 6),
    ("cache_dir", "elsewhere", lambda rows: all("elsewhere" in file["filename"] for file in rows.cache_files)),
    ("data_dir", ["a", "b"], r"data_dir is \['a', 'b'\], expected the path of one folder"),
    ("data_dir", "s3://bucket/SynCPR", "no such folder"),
    ("repo_id", "someone/SynCPR", "either data_dir="),
    ("annotation_names", ("other.json",), "takes no annotation_names=: SynCPR reads SynCPR.json"),
    ("config_id", "mine", "takes no config_id="),
    ("version", "2.0.0", "takes no version="),
    ("batch_size", 2, "batch_size"),
    ("writer_batch_size", 2, lambda rows: len(rows) == 6),
]


@pytest.mark.parametrize(
    ("name", "value", "outcome"), OPTIONS, ids=[f"{name}={value}"[:50] for name, value, _ in OPTIONS]
)
def test_each_option_of_load_dataset_is_honoured_or_refused_by_name(load, syncpr_root, tmp_path, name, value, outcome):
    if name == "cache_dir":
        value = str(tmp_path / value)
    given = {"path": "SynCPR", "data_dir": str(syncpr_root), "split": "train"} | {name: value}
    before = {path.name for path in syncpr_root.iterdir()}
    if isinstance(outcome, str):
        with pytest.raises(
            (ValueError, TypeError, FileNotFoundError, datasets.exceptions.DatasetsError), match=outcome
        ):
            load(**given)
    else:
        assert outcome(load(**given))
    assert {path.name for path in syncpr_root.iterdir()} == before


def test_the_table_of_options_has_every_argument_of_load_dataset():
    arguments = set(inspect.signature(datasets.load_dataset).parameters) - {"config_kwargs"}
    assert arguments <= {name for name, _, _ in OPTIONS}
