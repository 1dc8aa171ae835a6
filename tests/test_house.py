"""The house as docs/design.md draws it: the layers, who may import whom, and what a bare import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import penstock

SRC = Path(penstock.__file__).parent
LAYERS = (
    ("core",),
    ("support", "registry"),
    ("engine", "chunkers"),
    ("ledger", "sources", "parsers", "embedders", "sinks"),
    ("shards",),
    ("workers",),
    ("jobs", "settings"),
    ("display",),
    ("compose",),
    ("pipeline",),
    ("pipelines",),
    ("testing", "server"),
    ("cli",),
    ("__init__", "__main__"),
)
"""The rooms of the house, the lowest layer first. A room imports from the layers below it and from itself; rooms of one
layer do not know each other. A room is a folder, or a file of the package's root."""
VERSION = {"server", "cli"}
"""Rooms that ask the package for its version."""
MODULES = sorted(SRC.rglob("*.py"))
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


def room(path: Path) -> str:
    """The folder or the root file that a file is in."""
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".py")


def name_of(path: Path) -> str:
    parts = ("penstock", *path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


@lru_cache(None)
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@lru_cache(None)
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, wherever in it, for the type checker alone too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            module = node.module or ""
            if module.partition(".")[0] == "penstock":
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in NAMES else module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "penstock")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_down(path: Path) -> None:
    """Every file imports from the layers below its own, and from its own room."""
    here = room(path)
    assert here in LAYER_OF, f"{here} has no layer: name it in LAYERS"
    for module in imports(path):
        there = module.split(".")[1] if "." in module else "__init__"
        if there == here or (there == "__init__" and here in VERSION):
            continue
        assert LAYER_OF[there] < LAYER_OF[here], f"{name_of(path)} (layer {here}) imports {module}"


def test_every_room_stands_in_the_table() -> None:
    rooms = {room(path) for path in MODULES}
    assert rooms == set(LAYER_OF)


def test_no_import_goes_in_a_circle() -> None:
    """Not between any two files, wherever in them the import stands."""
    graph = {name_of(path): set(imports(path)) - {name_of(path), "penstock"} for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_the_root_holds_what_a_user_meets() -> None:
    files = {path.name for path in SRC.iterdir() if path.is_file()}
    names = "__init__.py __main__.py pipeline.py pipelines.py settings.py compose.py registry.py py.typed"
    assert files == set(names.split())


def test_files_are_read_in_one_sitting() -> None:
    """No file of over 400 lines, no function of over 8 parameters, but for those that have a reason."""
    long = {name_of(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    assert long.keys() == LONG.keys(), long
    wide = {f"{name_of(path)}.{name}": count for path in MODULES for name, count in parameters(path) if count > 8}
    assert wide.keys() == WIDE.keys(), wide


LONG: dict[str, str] = {}
WIDE = {"penstock.pipeline.Pipeline.__init__": "each is an option that a user sets by its name"}


def parameters(path: Path) -> Iterator[tuple[str, int]]:
    """Functions, with how many parameters they have beside self."""
    for outer in ast.walk(tree(path)):
        for node in ast.iter_child_nodes(outer):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in arguments)
                yield f"{outer.name}.{node.name}" if isinstance(outer, ast.ClassDef) else node.name, count


def test_a_bare_import_loads_no_driver() -> None:
    code = "import sys, penstock; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy", "onnxruntime", "onnx", "tokenizers", "lancedb", "pyarrow", "fsspec", "rich", "sqlite3", "torch"}
    assert not heavy & set(loaded)


def test_public_names_exist_and_are_lazy() -> None:
    assert penstock.__all__ == sorted(penstock.__all__, key=lambda name: (name[0].islower(), name))
    for name in penstock.__all__:
        assert getattr(penstock, name).__name__ == name


def test_no_option_is_a_stub() -> None:
    for path in MODULES:
        assert "raise NotImplementedError" not in path.read_text(), path
