"""Auto classes and `load_dataset` know FAFA whatever was imported first."""

import subprocess
import sys

import pytest

AUTO = "from fafa import FafaConfig; assert type(AutoModel.from_config(FafaConfig.tiny())).__name__ == 'FafaModel'"
ORDERS = {
    "fafa first": f"import fafa; from transformers import AutoModel; {AUTO}",
    "transformers first": f"from transformers import AutoModel; import fafa; {AUTO}",
    "a class of ours first": f"from fafa import FafaModel; from transformers import AutoModel; {AUTO}",
    # Trainer's module imports the Auto classes in the middle of its own import.
    "by way of Trainer": f"import fafa; from transformers import Trainer, AutoModel; {AUTO}",
    "configuration alone": "import fafa; from transformers import AutoConfig; AutoConfig.for_model('fafa')",
    # transformers looks for datasets without importing it: that must not use up the hook.
    "a search for a spec": "import fafa, sys, pytest; from importlib.util import find_spec; find_spec('datasets'); "
    "assert 'datasets' not in sys.modules; import datasets; "
    "pytest.raises(FileNotFoundError, datasets.load_dataset, 'SynCPR', data_dir='nowhere').match('no such folder')",
}


@pytest.mark.parametrize("order", ORDERS)
def test_registered_in_any_order_of_imports(order, tmp_path):
    """In a fresh process each, since registration happens once."""
    run = subprocess.run(
        [sys.executable, "-c", ORDERS[order]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_command_line_modules_run(tmp_path):
    """`python -m` asks the import system for more than a module: for its code."""
    command = [sys.executable, "-m", "fafa.convert_fafa_checkpoint", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "SOURCE" in run.stdout, run.stderr
