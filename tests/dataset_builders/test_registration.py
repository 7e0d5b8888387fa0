import json
import subprocess
import sys

import datasets
import pytest

from fafa.dataset_builders import register_builders


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
