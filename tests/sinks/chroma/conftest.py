"""Stores that the tests write to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sinks.chroma import numbers
from tests.sinks.chroma.server import running


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server; the url to which a collection's name is added."""
    with running(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@pytest.fixture(params=["folder", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return f"chroma://{tmp_path}/notes"
    return f"{request.getfixturevalue('server')}/notes-{next(numbers)}"
