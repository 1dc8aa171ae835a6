"""The server that is attacked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.sinks.memory import forget
from tests.server.serving import Client, chunk, fill, picture, served, with_settings


@contextmanager
def attacked(url: str) -> Iterator[Client]:
    """One that has twenty lines with metadata, and a picture."""
    chunks = [chunk(n, f"line {n}", metadata={"n": n, "tags": ["a", "b"]}) for n in range(20)]
    fill(url, [*chunks, chunk(30, image=picture("red"), uri="doc:red")])
    with served(url, with_settings(seconds=5.0)) as client:
        yield client
    forget(url)
