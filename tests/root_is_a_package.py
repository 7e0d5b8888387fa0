"""pytest plugin: collect the repository root as a plain folder.

The root holds an `__init__.py` (it is the package `fafa`), and pytest would import it a second time under the name of
the checkout folder, so that every class existed twice.
"""

import pytest


def pytest_collect_directory(path, parent):
    if path == parent.config.rootpath:
        return pytest.Dir.from_parent(parent, path=path)
    return None
