"""Every store through the one suite; and the suite through sources that are wrong."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from penstock.core.contracts import Source
from penstock.core.records import Change, Item, ListingEnd, Unreadable, Upsert
from penstock.sources.files import Files
from penstock.testing.source_suite import NAMES, MakeSource, Put, Remove, SourceSuite
from penstock.testing.sources import UNLISTED, Bytes, ListSource

fresh = itertools.count()


class TestLocal(SourceSuite):
    @pytest.fixture
    def make_source(self, tmp_path: Path) -> MakeSource:
        return lambda: Files(tmp_path)

    @pytest.fixture
    def put(self, tmp_path: Path) -> Put:
        def put(name: str, content: bytes) -> None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)

        return put

    @pytest.fixture
    def remove(self, tmp_path: Path) -> Remove:
        return lambda name: (tmp_path / name).unlink()

    @pytest.fixture
    def break_listing(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The tests run as root, whom no permission stops."""
        scandir = os.scandir

        def refuse(path: str) -> Any:
            if str(path).endswith("folder"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        return lambda: monkeypatch.setattr(os, "scandir", refuse)


class TestMemory(SourceSuite):
    @pytest.fixture
    def url(self) -> str:
        return f"memory://suite-{next(fresh)}"

    @pytest.fixture
    def make_source(self, url: str) -> MakeSource:
        return lambda: Files(url)

    @pytest.fixture
    def put(self, url: str) -> Put:
        return lambda name, content: fsspec.filesystem("memory").pipe_file(f"{url}/{name}", content)

    @pytest.fixture
    def remove(self, url: str) -> Remove:
        return lambda name: fsspec.filesystem("memory").rm_file(f"{url}/{name}")

    @pytest.fixture
    def break_listing(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        kind = fsspec.get_filesystem_class("memory")
        ls = kind.ls

        def refuse(self: Any, path: str, detail: bool = True, **options: Any) -> Any:
            if path.endswith("folder"):
                raise ConnectionResetError("connection lost")
            return ls(self, path, detail=detail, **options)

        return lambda: monkeypatch.setattr(kind, "ls", refuse)


class TestS3(SourceSuite):
    @pytest.fixture
    def bucket(self, s3: Any) -> str:
        bucket = f"suite-{next(fresh)}"
        s3.mkdir(bucket)
        return bucket

    @pytest.fixture
    def make_source(self, bucket: str, storage: dict[str, Any]) -> MakeSource:
        return lambda: Files(f"s3://{bucket}/docs", storage=storage)

    @pytest.fixture
    def put(self, bucket: str, s3: Any) -> Put:
        return lambda name, content: s3.pipe_file(f"{bucket}/docs/{name}", content)

    @pytest.fixture
    def remove(self, bucket: str, s3: Any) -> Remove:
        return lambda name: s3.rm_file(f"{bucket}/docs/{name}")

    @pytest.fixture
    def break_listing(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The first page comes, of two keys; the second does not."""
        import s3fs

        call = s3fs.S3FileSystem.call_s3

        def refuse(self: Any, method: str, *args: Any, **options: Any) -> Any:
            if "ContinuationToken" in options:
                raise PermissionError("Access Denied")
            return call(self, method, *args, **options, MaxKeys=2)

        return lambda: monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", refuse)


class TestListSource(SourceSuite):
    """The fake keeps the promises that the real ones keep."""

    @pytest.fixture
    def entries(self) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def make_source(self, entries: dict[str, Any]) -> MakeSource:
        return lambda: Shared(entries)

    @pytest.fixture
    def put(self, entries: dict[str, Any]) -> Put:
        return lambda name, content: entries.__setitem__(f"doc:{name}", content)

    @pytest.fixture
    def remove(self, entries: dict[str, Any]) -> Remove:
        return lambda name: entries.__delitem__(f"doc:{name}")

    @pytest.fixture
    def break_listing(self, entries: dict[str, Any]) -> Any:
        return lambda: entries.__setitem__("doc:folder", UNLISTED)

    @pytest.mark.skip(reason="a fake holds its content: there is nothing to read later")
    def test_listing_reads_no_content(self) -> None: ...


class Shared(ListSource):
    """Lists that are views of one dict, as the suite's sources are of one place."""

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__()
        self.entries = entries


# ---------------------------------------------------------------- wrong ones


class NoEnd(Shared):
    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        return (change for change in super().changes() if not isinstance(change, ListingEnd))


class AlwaysEnd(Shared):
    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        yield from (change for change in super().changes() if not isinstance(change, ListingEnd))
        yield ListingEnd()


class Twice(Shared):
    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        for change in super().changes():
            yield from [change] * (1 if isinstance(change, ListingEnd) else 2)


class Shuffled(Shared):
    turn = 0

    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        *changes, end = super().changes()
        Shuffled.turn += 1
        return iter([*(changes if Shuffled.turn % 2 else changes[::-1]), end])


class BySize(Shared):
    def _item(self, uri: str, content: bytes | None) -> Item:
        return Item(uri, "always", Bytes(uri, content))


class Random(Shared):
    def _item(self, uri: str, content: bytes | None) -> Item:
        return Item(uri, str(next(fresh)), Bytes(uri, content))


class Remembering(Shared):
    def changes(self, cursor: str | None = None) -> Iterator[Change]:
        self.seen = {**getattr(self, "seen", {}), **self.entries}
        return ListSource(self.seen).changes()


class Deaf(Shared):
    def lookup(self, uri: str) -> Item | None:
        return self._item(uri, b"three")


class Nameless(Shared):
    @property
    def name(self) -> str:
        return f"list:{next(fresh)}"


class Unpicklable(Shared):
    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.connection = lambda: None


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (NoEnd, "test_lists_every_document_and_then_ends"),
        (AlwaysEnd, "test_a_listing_that_fails_has_no_end"),
        (Twice, "test_lists_every_document_and_then_ends"),
        (Shuffled, "test_lists_in_the_same_order_again"),
        (BySize, "test_the_fingerprint_changes_with_the_content"),
        (Random, "test_the_fingerprint_changes_with_the_content"),
        (ListSource, "test_listing_reads_no_content"),
        (Remembering, "test_what_is_removed_is_told_no_more"),
        (Deaf, "test_lookup_is_the_listing_for_one"),
        (Nameless, "test_the_name_is_stable"),
        (Unpicklable, "test_pickles_before_it_is_opened"),
    ],
)
def test_the_suite_finds_what_is_wrong(wrong: Any, test: str) -> None:
    """A suite that nothing fails proves nothing."""
    entries: dict[str, Any] = {}
    given: dict[str, Any] = {
        "make_source": lambda: Shared(entries) if wrong is ListSource else wrong(entries),
        "put": lambda name, content: entries.__setitem__(f"doc:{name}", content),
        "remove": lambda name: entries.__delitem__(f"doc:{name}"),
        "break_listing": lambda: entries.__setitem__("doc:folder", UNLISTED),
    }
    check = getattr(SourceSuite, test)
    wanted = check.__code__.co_varnames[1 : check.__code__.co_argcount]
    with pytest.raises((AssertionError, AttributeError, TypeError, pickle.PicklingError)):
        check(SourceSuite(), **{name: given[name] for name in wanted})


def test_the_broken_listings_are_in_part(tmp_path: Path) -> None:
    """The suite's own trap: documents before and after the folder that fails are listed."""
    source: Source = ListSource({**{f"doc:{name}": b"x" for name in NAMES[:2]}, "doc:f": UNLISTED, "doc:z": b"x"})
    changes = list(source.changes())
    assert [type(change) for change in changes] == [Upsert, Upsert, Unreadable, Upsert]
