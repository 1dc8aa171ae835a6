from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock.core.records import Block, Gap, Item
from penstock.parsers import Parsers

ROOT = Path(__file__).parents[2]
Read = Callable[..., list[Block | Gap]]


def item(data: bytes | Path, name: str = "", hint: str | None = None) -> Item:
    """An item of these bytes, without a path; or of a file."""
    if isinstance(data, Path):
        return Item(data.as_uri(), "1", partial(data.open, "rb"), data.stat().st_size, hint, str(data))
    return Item(f"memory://{name}", "1", partial(io.BytesIO, data), len(data), hint)


def text_of(parts: list[Block | Gap]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Block))


@pytest.fixture(scope="session")
def parsers() -> Iterator[Parsers]:
    with Parsers(timeout=20) as parsers:
        yield parsers


@pytest.fixture(scope="session")
def read(parsers: Parsers) -> Read:
    def read(data: bytes | Path, name: str = "", hint: str | None = None) -> list[Block | Gap]:
        return list(parsers.parse(item(data, name, hint)).blocks)

    return read


@pytest.fixture(scope="session")
def documents() -> Path:
    return ROOT / "tests/data/documents"


@pytest.fixture(scope="session")
def make() -> Any:
    """The maker of the documents, for those that are broken or blown up on purpose."""
    spec = importlib.util.spec_from_file_location("make_documents", ROOT / "scripts/make_documents.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
