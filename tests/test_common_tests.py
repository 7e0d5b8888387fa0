"""The benchmark that runs transformers' common tests: what it records; the tests themselves run in benchmarks/."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def common_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "common_tests", raising=False)
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("common_tests_script", BENCHMARKS / "common_tests.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_record_holds_no_failure_and_ten_exceptions_at_most(common_tests):
    record = json.loads((BENCHMARKS / "results" / "common_tests.json").read_text(encoding="utf-8"))
    assert not any(result["failed"] for result in record.values())
    assert sum(len(result["excepted"]) for result in record.values()) <= common_tests.MOST_EXCEPTIONS
    for part, result in record.items():
        assert result["excepted"] == common_tests.exceptions_of(common_tests.CASES / common_tests.PARTS[part])
    page = (BENCHMARKS / "results" / "common_tests.md").read_text(encoding="utf-8")
    assert page == common_tests.to_markdown(record)


def test_an_exception_that_passes_is_no_exception_any_more(common_tests, monkeypatch, tmp_path):
    case = tmp_path / "case.py"
    case.write_text(
        'EXCEPTIONS = {"test_b": "cannot " "hold", "test_c": "nor this"}\n'
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): raise ValueError('why')\n"
        "def test_c(): pass\n"
        "def test_d(): raise ValueError('new')\n"
        "def test_e(): pytest.skip('no video')\n"
    )
    monkeypatch.setattr(common_tests, "CASES", tmp_path)
    monkeypatch.setitem(common_tests.PARTS, "model", "case.py")
    result = common_tests.run("model", tmp_path, tmp_path)
    assert result["counts"] == {"passed": 1, "excepted": 1, "failed": 2, "does not apply": 1}
    assert result["excepted"] == {"test_b": "cannot hold"}
    assert result["failed"] == {"test_c": "passes now: take it off the exceptions", "test_d": "ValueError: new"}
