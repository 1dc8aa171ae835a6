"""Sources that do as a test says."""

from __future__ import annotations

import pickle

import pytest

from penstock.core.errors import SourceError
from penstock.core.records import Checkpoint, Delete, ListingEnd, Unreadable, Upsert
from penstock.testing.sources import (
    ABORT,
    CUT,
    UNLISTED,
    UNOPENABLE,
    UNREADABLE,
    FeedSource,
    ListSource,
    Pause,
    document,
)


def test_a_list_does_as_told() -> None:
    """Sentinels in their place; without UNLISTED or CUT a ListingEnd ends it."""
    source = ListSource({"a": b"x", "b": UNREADABLE, "c": UNOPENABLE, "p": Pause(0), "d": b"y"})
    a, b, c, d, mark = source.changes()
    assert isinstance(a, Upsert)
    assert isinstance(b, Unreadable)
    assert not b.listing
    assert isinstance(c, Upsert)
    with pytest.raises(OSError, match="set not to open"):
        c.item.open()
    assert isinstance(d, Upsert)
    assert mark == ListingEnd()
    source.entries["e"] = UNLISTED
    assert ListingEnd() not in list(source.changes())
    source.entries = {"a": b"x", "stop": CUT, "b": b"y"}
    assert len(list(source.changes())) == 1


def test_a_list_aborts_once() -> None:
    """So that a test of recovery can simply run again."""
    source = ListSource({"a": b"x", "here": ABORT, "b": b"y"})
    stream = source.changes()
    next(stream)
    with pytest.raises(SourceError, match="here"):
        next(stream)
    assert len(list(source.changes())) == 3


def test_a_touch_changes_the_fingerprint_only() -> None:
    source = ListSource({"a": b"x"})
    before = source.lookup("a")
    source.touch("a")
    after = source.lookup("a")
    assert before is not None
    assert after is not None
    assert before.fingerprint != after.fingerprint
    assert before.open().read() == after.open().read()
    assert source.opened == ["a", "a"]
    assert pickle.loads(pickle.dumps(after)).open().read() == b"x"


@pytest.mark.parametrize("marks", [1, 2, 3])
def test_a_feed_resumes_after_any_cursor(marks: int) -> None:
    """What came before the cursor and what comes after it are the whole."""
    script = [document("a", b"1"), Delete("b"), Pause(0), document("a", b"2"), Unreadable("c", "lost"), Delete("a")]
    source = FeedSource(script, marks=marks)
    whole = list(source.changes())
    assert isinstance(whole[-1], Checkpoint)
    events = [change for change in whole if not isinstance(change, Checkpoint)]
    assert len(events) == 5
    for at, change in enumerate(whole):
        if isinstance(change, Checkpoint):
            before = [c for c in whole[:at] if not isinstance(c, Checkpoint)]
            after = [c for c in source.changes(change.cursor) if not isinstance(c, Checkpoint)]
            assert before + after == events
    assert source.lookup("a") is None


def test_a_feed_aborts_once_and_can_grow() -> None:
    source = FeedSource([document("a", b"1"), ABORT, document("b", b"2")])
    stream = source.changes()
    assert isinstance(next(stream), Upsert)
    mark = next(stream)
    assert isinstance(mark, Checkpoint)
    with pytest.raises(SourceError):
        next(stream)
    source.script.append(document("c", b"3"))
    uris = [change.item.uri for change in source.changes(mark.cursor) if isinstance(change, Upsert)]
    assert uris == ["b", "c"]
