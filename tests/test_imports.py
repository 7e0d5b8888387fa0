"""No modules of the package import one another in a circle, imports within functions and for type checkers included.

python tests/test_imports.py      # prints the circles; needs nothing but Python
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules() -> dict[str, Path]:
    """The package's modules and packages by name, relative to `fafa`; the package itself is ""."""
    rooms = [file.parent for file in ROOT.glob("*/__init__.py")]
    files = [*ROOT.glob("*.py"), *(file for room in rooms for file in room.rglob("*.py"))]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    del found["setup"]
    return found


def imported_by(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that one names in an import, wherever in it. A package stands for its `__init__.py`."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            yield from (".".join(path[1:]) for path in paths if path[0] == "fafa")
        elif isinstance(node, ast.ImportFrom):
            path = node.module.split(".") if node.module else []
            if node.level:
                path = package[: len(package) - node.level + 1] + path
            elif path[0] == "fafa":
                path = path[1:]
            else:
                continue
            for alias in node.names:
                inner = ".".join([*path, alias.name])
                yield inner if inner in known else ".".join(path)


def circles() -> list[set[str]]:
    """The groups of modules each of which leads to all others of its group (strongly connected components)."""
    known = modules()
    reached = {name: set(imported_by(name, file, known)) & known.keys() - {name} for name, file in known.items()}
    is_growing = True
    while is_growing:
        is_growing = False
        for name, targets in reached.items():
            further = targets.union(*(reached[target] for target in targets))
            is_growing |= further != targets
            reached[name] = further
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in known}
    return sorted(map(set, groups - {frozenset()}), key=sorted)


def test_no_modules_import_one_another_in_a_circle():
    assert circles() == []


if __name__ == "__main__":
    for circle in circles():
        print(*sorted(circle))
