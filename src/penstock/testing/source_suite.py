"""The contract of a state source, as tests. Subclass, and say how documents come and go:

    class TestFiles(SourceSuite):
        @pytest.fixture
        def make_source(self, tmp_path): return lambda: Files(tmp_path)

        @pytest.fixture
        def put(self, tmp_path): return lambda name, content: write(tmp_path / name, content)

        @pytest.fixture
        def remove(self, tmp_path): return lambda name: (tmp_path / name).unlink()

`make_source()` gives a new source, not open, of the same place each time. `put(name, content)` makes or replaces a
document; names are like `a.md` and `folder/b.md`, and the document's uri ends with the name. A suite whose store can be
made to fail gives `break_listing` too: called, it lets the listing of what `put` made fail, in part or midway.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import islice

import pytest

from penstock.core.contracts import Source
from penstock.core.errors import SourceError
from penstock.core.records import Item, ListingEnd, Unreadable, Upsert

MakeSource = Callable[[], Source]
Put = Callable[[str, bytes], object]
Remove = Callable[[str], object]

NAMES = ("a.md", "b.md", "folder/c.md", "folder/deeper/d.md")


class SourceSuite:
    @pytest.fixture
    def make_source(self) -> MakeSource:
        pytest.fail("the suite needs a fixture make_source")

    @pytest.fixture
    def put(self) -> Put:
        pytest.fail("the suite needs a fixture put")

    @pytest.fixture
    def remove(self) -> Remove:
        pytest.fail("the suite needs a fixture remove")

    @pytest.fixture
    def break_listing(self) -> Callable[[], object]:
        pytest.skip("nothing here makes this listing fail")

    def test_lists_every_document_and_then_ends(self, make_source: MakeSource, put: Put) -> None:
        """A complete listing is Upserts, each uri once, and one ListingEnd, last."""
        for name in NAMES:
            put(name, name.encode())
        with make_source() as source:
            source.open()
            changes = list(source.changes())
        assert changes[-1] == ListingEnd()
        assert all(isinstance(change, Upsert) for change in changes[:-1])
        uris = [change.item.uri for change in changes if isinstance(change, Upsert)]
        assert len(uris) == len(set(uris)) == len(NAMES)
        assert all(any(uri.endswith(name) for uri in uris) for name in NAMES)

    def test_lists_in_the_same_order_again(self, make_source: MakeSource, put: Put) -> None:
        """Two listings of one state are equal, by another instance too."""
        for name in reversed(NAMES):
            put(name, b"x")
        assert list(_listing(make_source())) == list(_listing(make_source()))

    def test_an_item_opens_to_its_bytes(self, make_source: MakeSource, put: Put) -> None:
        """The stream is binary and seekable, its size is the listed one, and it opens any number of times."""
        content = bytes(range(256)) * 300
        put("a.md", content)
        item = _find(_listing(make_source()), "a.md")
        assert item.size in (None, len(content))
        for _ in range(2):
            with item.open() as stream:
                assert stream.seekable()
                assert stream.read(7) == content[:7]
                stream.seek(0)
                assert stream.read() == content

    def test_an_empty_document_is_a_document(self, make_source: MakeSource, put: Put) -> None:
        put("a.md", b"")
        with _find(_listing(make_source()), "a.md").open() as stream:
            assert stream.read() == b""

    def test_listing_reads_no_content(self, make_source: MakeSource, put: Put) -> None:
        """The content is that of the moment it is opened, not of the listing."""
        put("a.md", b"before")
        item = _find(_listing(make_source()), "a.md")
        put("a.md", b"after it")
        with item.open() as stream:
            assert stream.read() == b"after it"

    def test_the_fingerprint_changes_with_the_content(self, make_source: MakeSource, put: Put) -> None:
        """And of the other documents it stays."""
        put("a.md", b"one")
        put("b.md", b"same")
        before = _listing(make_source())
        put("a.md", b"another")
        after = _listing(make_source())
        assert _find(before, "a.md").uri == _find(after, "a.md").uri
        assert _find(before, "a.md").fingerprint != _find(after, "a.md").fingerprint
        assert _find(before, "b.md").fingerprint == _find(after, "b.md").fingerprint

    def test_what_is_removed_is_told_no_more(self, make_source: MakeSource, put: Put, remove: Remove) -> None:
        """By the same open source too: it keeps nothing of an earlier listing."""
        for name in NAMES:
            put(name, b"x")
        with make_source() as source:
            source.open()
            assert len(_listing(source)) == len(NAMES)
            remove("folder/c.md")
            left = _listing(source)
        assert len(left) == len(NAMES) - 1
        assert not any(uri.endswith("folder/c.md") for uri in left)

    def test_lookup_is_the_listing_for_one(self, make_source: MakeSource, put: Put, remove: Remove) -> None:
        """The same item as listed; None when it is gone; as it is now when it was changed."""
        put("a.md", b"one")
        put("folder/c.md", b"three")
        with make_source() as source:
            source.open()
            listed = _find(_listing(source), "folder/c.md")
            found = source.lookup(listed.uri)
            assert found is not None
            assert (found.uri, found.fingerprint, found.size) == (listed.uri, listed.fingerprint, listed.size)
            assert source.passes_over(listed.uri) == ""
            put("folder/c.md", b"three and more")
            changed = source.lookup(listed.uri)
            assert changed is not None
            assert changed.fingerprint != listed.fingerprint
            with changed.open() as stream:
                assert stream.read() == b"three and more"
            remove("folder/c.md")
            assert source.lookup(listed.uri) is None

    def test_the_name_is_stable(self, make_source: MakeSource, put: Put) -> None:
        """The ledger is filed under it: the same from every instance, open or not, whatever is listed."""
        first, second = make_source(), make_source()
        name = first.name
        assert name
        assert second.name == name
        put("a.md", b"x")
        with first:
            first.open()
            list(first.changes())
            assert first.name == name

    def test_pickles_before_it_is_opened(self, make_source: MakeSource, put: Put) -> None:
        put("a.md", b"one")
        source = pickle.loads(pickle.dumps(make_source()))
        assert source.name == make_source().name
        assert set(_listing(source)) == set(_listing(make_source()))

    def test_an_item_pickles(self, make_source: MakeSource, put: Put) -> None:
        """It is opened elsewhere, perhaps in another process."""
        put("a.md", b"one")
        item = _find(_listing(make_source()), "a.md")
        again = pickle.loads(pickle.dumps(item))
        assert (again.uri, again.fingerprint) == (item.uri, item.fingerprint)
        with again.open() as stream:
            assert stream.read() == b"one"

    def test_closes_twice_and_unopened(self, make_source: MakeSource, put: Put) -> None:
        put("a.md", b"one")
        source = make_source()
        source.close()
        with source:
            source.open()
            assert len(_listing(source)) == 1
        source.close()

    def test_can_be_left_midway_and_listed_again(self, make_source: MakeSource, put: Put) -> None:
        """A listing that was given up leaves nothing behind."""
        for name in NAMES:
            put(name, b"x")
        with make_source() as source:
            source.open()
            assert len(list(islice(source.changes(), 2))) == 2
            assert len(_listing(source)) == len(NAMES)

    def test_a_listing_that_fails_has_no_end(
        self, make_source: MakeSource, put: Put, break_listing: Callable[[], object]
    ) -> None:
        """What could not be listed is Unreadable, or SourceError comes before the first change; and no ListingEnd."""
        for name in NAMES:
            put(name, b"x")
        source = make_source()
        break_listing()
        try:
            stream = source.changes()
            changes = [next(stream)]
        except SourceError:
            return
        changes += list(stream)
        assert not any(isinstance(change, ListingEnd) for change in changes)
        assert any(isinstance(change, Unreadable) and change.listing for change in changes)


def _listing(source: Source) -> dict[str, Item]:
    return {change.item.uri: change.item for change in source.changes() if isinstance(change, Upsert)}


def _find(listing: dict[str, Item], name: str) -> Item:
    (found,) = (item for uri, item in listing.items() if uri.endswith(("/" + name, ":" + name)))
    return found
