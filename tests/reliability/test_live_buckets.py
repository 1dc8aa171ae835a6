"""A bucket that is followed, by listing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import penstock as ps
from penstock.core.errors import PenstockError
from penstock.jobs import changes
from penstock.sources.files import Files
from penstock.sources.files.remote import RemoteFile, RemoteTree
from penstock.testing.embedders import HashingEmbedder
from tests.live import Watched, until
from tests.s3 import moto


@pytest.fixture(scope="module")
def storage() -> Iterator[dict[str, Any]]:
    with moto() as url:
        yield {"key": "testing", "secret": "very-secret-key", "endpoint_url": url}


@pytest.fixture
def bucket(storage: dict[str, Any]) -> Any:
    s3 = pytest.importorskip("s3fs").S3FileSystem(**storage, use_listings_cache=False)
    if s3.exists("followed"):
        s3.rm("followed", recursive=True)
    s3.mkdir("followed")
    return s3


def test_a_bucket_is_followed_by_listing_it(
    bucket: Any, storage: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New, changed and deleted objects; what has not changed is not fetched again."""
    monkeypatch.setattr(changes, "FIRST_PAUSE", 0.1)
    open_file, opened = RemoteFile.__call__, Counter[str]()

    def counted(self: RemoteFile) -> BinaryIO:
        opened[self.path] += 1
        return open_file(self)

    monkeypatch.setattr(RemoteFile, "__call__", counted)
    walk, listings, away = RemoteTree.walk, [0], [False]

    def counting(self: RemoteTree) -> Any:
        listings[0] += 1
        if away[0]:
            raise ConnectionError("the bucket is away")
        return walk(self)

    monkeypatch.setattr(RemoteTree, "walk", counting)
    source = Files("s3://followed/docs", storage=storage)
    pipeline = ps.Pipeline(
        source, into=f"sqlite://{tmp_path}/index.db", model=HashingEmbedder(16), state=tmp_path / "ledger.db"
    )

    def texts() -> dict[str, str]:
        try:
            with ps.open_index(pipeline.sink.url, pipeline.embedder) as index:
                return {hit.chunk.uri.rpartition("/")[2]: hit.chunk.text for hit in index.search("text", k=50)}
        except PenstockError:  # it is about to be made
            return {}

    def becomes(expected: dict[str, str]) -> None:
        until(lambda: texts() == expected, 60, texts)

    def write(name: str, text: str) -> None:
        bucket.pipe(f"followed/docs/{name}", text.encode())

    write("a.md", "alpha")
    write("b.md", "beta")
    write("same.md", "never changed")
    with Watched(pipeline, every=0.3):
        becomes({"a.md": "alpha", "b.md": "beta", "same.md": "never changed"})
        write("a.md", "another alpha")
        write("c.md", "gamma")
        becomes({"a.md": "another alpha", "b.md": "beta", "c.md": "gamma", "same.md": "never changed"})
        bucket.rm("followed/docs/b.md")
        becomes({"a.md": "another alpha", "c.md": "gamma", "same.md": "never changed"})
        away[0], before = True, listings[0]
        until(lambda: listings[0] > before + 1, 60)
        write("d.md", "delta")
        away[0] = False
        becomes({"a.md": "another alpha", "c.md": "gamma", "d.md": "delta", "same.md": "never changed"})
        before = listings[0]
        until(lambda: listings[0] > before + 2, 60)
    assert opened == {
        "followed/docs/a.md": 2,
        "followed/docs/b.md": 1,
        "followed/docs/c.md": 1,
        "followed/docs/d.md": 1,
        "followed/docs/same.md": 1,
    }
