"""The house as docs/design.md draws it: who may import whom, and what a bare import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import penstock

SRC = Path(penstock.__file__).parent
ROOMS = ("sources", "parsers", "chunkers", "embedders", "sinks")
ALLOWED = {
    "records.py": set(),
    "errors.py": set(),
    "contracts.py": {"records", "errors"},
    "registry.py": {"errors"},
    "locks.py": set(),
    "ledger.py": {"errors", "locks"},
    "engine": {"engine", "records", "errors", "contracts", "ledger"},
    "fetching.py": {"errors"},
    "sources": {"sources", "records", "errors", "contracts", "registry", "fetching", "images"},
    "parsers": {"parsers", "records", "errors", "contracts", "registry", "images"},
    "chunkers": {"chunkers", "records", "errors", "contracts"},
    "images.py": {"errors"},
    "cores.py": set(),
    "embedders": {"embedders", "cores", "records", "errors", "contracts", "models", "images"},
    "places.py": {"contracts", "errors"},
    "copying.py": {"records", "errors", "contracts", "engine", "pipeline", "places"},
    "filters.py": {"records", "errors"},
    "sinks": {"sinks", "records", "errors", "contracts", "filters", "locks"},
    "parts": {
        "parts",
        "records",
        "errors",
        "contracts",
        "engine",
        "ledger",
        "locks",
        "parsers",
        "pipeline",
        "places",
        "images",
        "sinks",
        "sources",
        "chunkers",
        "copying",
        "registry",
        "reindexing",
    },
    "serve": {
        "serve",
        "engine",
        "__version__",
        "records",
        "errors",
        "contracts",
        "registry",
        "places",
        "filters",
        "search",
        "results",
        "images",
        "ledger",
        "pipeline",
        "bulletin",
        "fetching",
        "sources",
    },
    "bulletin.py": {"engine"},
    "search.py": {"records", "errors", "contracts", "registry", "pipeline", "places"},
}


def imports(path: Path) -> Iterator[str]:
    """Rooms of this package that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("penstock"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("penstock."))


def test_arrows_point_down() -> None:
    for place, allowed in ALLOWED.items():
        for path in [SRC / place] if place.endswith(".py") else sorted((SRC / place).rglob("*.py")):
            assert set(imports(path)) <= allowed, f"{path.relative_to(SRC)} imports {set(imports(path)) - allowed}"


def test_nothing_imports_the_command_line() -> None:
    for path in SRC.rglob("*.py"):
        if path.name not in ("cli.py", "display.py", "results.py", "__main__.py") and path.parent.name != "commands":
            assert not {"cli", "display"} & set(imports(path)), path


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
    for path in SRC.rglob("*.py"):
        assert "raise NotImplementedError" not in path.read_text(), path
