from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.sinks.memory import forget
from tests.server.serving import COLOURS, Client, chunk, fill, picture, served, with_settings

URL = "memory://serve-api"


@pytest.fixture(scope="package")
def client() -> Iterator[Client]:
    """A server of ten lines of text and three images, for tests that change nothing."""
    lines = [f"number {n} weighs {'much' if n % 2 else 'little'}" for n in range(10)]
    chunks = [chunk(n, line, page=n, headings=("Weights",), metadata={"n": n}) for n, line in enumerate(lines)]
    for n, colour in enumerate(COLOURS, 20):
        chunks.append(chunk(n, image=picture(colour), uri=f"doc:{colour}"))
    fill(URL, chunks)
    with served(URL, with_settings(pixels=2_000_000)) as client:
        yield client
    forget(URL)
