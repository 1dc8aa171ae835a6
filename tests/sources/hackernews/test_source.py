"""What the source says of Hacker News, by a server of which anything can be had."""

from __future__ import annotations

import json
import pickle
import random
import time
from collections.abc import Iterator

import pytest

from penstock.core.errors import SourceError, UsageError
from penstock.core.records import Change, Checkpoint
from penstock.sources import from_url
from penstock.sources.hackernews import HackerNews, agenda, reading
from penstock.testing.hackernews import HackerNewsServer
from penstock.testing.hackernews_tape import tape
from tests.live import until

from .harness import Told, following, once, source, uri, url


@pytest.fixture
def hn() -> Iterator[HackerNewsServer]:
    with HackerNewsServer() as server:
        yield server


def stories(hn: HackerNewsServer, *numbers: int) -> None:
    for number in numbers:
        hn.put(number, title=f"Title {number}")


def owed(told: Told) -> list[int]:
    return [number for number, *_ in json.loads(told.cursor or "{}").get("owed", [])]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("hn://news.ycombinator.com", "expected hn:// with options"),
        ("hn://?typs=story", "did you mean 'types'"),
        ("hn://?types=stories", "invalid types 'stories': expected some of story, ask"),
        ("hn://?poll=0", "expected at least 0.05 seconds"),
        ("hn://?api=ftp://127.0.0.1/v0", "invalid api"),
        ("hn://?since=yesterday", "invalid since 'yesterday'"),
        ("hn://?backfill=5&start=7", "backfill and start are both given"),
    ],
)
def test_an_invalid_option_is_refused_with_what_is_expected(wrong: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", "\\?")):
        from_url(wrong)


def test_options_may_stand_in_the_url_or_beside_it() -> None:
    beside = from_url("hn://", types=("story",), poll=2.0, api="http://127.0.0.1:1/v0/")
    within = from_url("hn://?types=story&poll=3&api=http://127.0.0.1:1/v0")
    assert beside.name == within.name == "hn://?api=http%3A%2F%2F127.0.0.1%3A1%2Fv0&types=story"
    assert from_url("hn://").name == "hn://"
    assert from_url("hn://?backfill=7&pages=0").name == "hn://"  # what is listed is the same in the end


def test_source_and_items_pickle(hn: HackerNewsServer) -> None:
    hn.put(1, title="One", text="Text")
    one = pickle.loads(pickle.dumps(source(hn, backfill=1)))
    assert isinstance(one, HackerNews)
    item = pickle.loads(pickle.dumps(once(hn, backfill=1).items[1]))
    with item.open() as stream:
        assert b"Text" in stream.read()


# ---------------------------------------------------------------- where it begins


def test_without_more_it_begins_with_what_is_new(hn: HackerNewsServer) -> None:
    stories(hn, 1, 2, 3)
    told = once(hn)
    assert told.items == {}
    stories(hn, 4, 5)
    assert once(hn, told.cursor).items.keys() == {4, 5}


def test_it_begins_with_the_newest_or_a_number_or_a_time(hn: HackerNewsServer) -> None:
    hn.null(20)
    for number in set(range(1, 41)) - {20}:
        hn.put(number, title=f"Title {number}", time=1_700_000_000 + 60 * number)
    assert once(hn, backfill=10).items.keys() == set(range(31, 41))
    assert once(hn, start=25).items.keys() == set(range(25, 41))
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_700_000_000 + 60 * 15))
    assert once(hn, since=since).items.keys() == set(range(15, 41)) - {20}


def test_a_longer_backfill_reads_what_lies_before(hn: HackerNewsServer) -> None:
    stories(hn, *range(1, 41))
    told = once(hn, backfill=10)
    hn.forget_changes()
    newest = set(range(31, 41))  # one of which may be read again for its age
    again = once(hn, told.cursor, backfill=10)
    assert again.items.keys() < newest
    assert once(hn, again.cursor, backfill=30).items.keys() - newest == set(range(11, 31))


def test_every_number_is_asked_for(hn: HackerNewsServer) -> None:
    stories(hn, *range(1, 700))
    once(hn, start=1)
    assert all(hn.asked[f"/v0/item/{number}.json"] for number in range(1, 700))


def test_types_narrow_it(hn: HackerNewsServer) -> None:
    hn.put(1, title="A story", url="https://example.org/")
    hn.put(2, title="Ask HN: Why?")
    hn.put(3, "comment", parent=1, text="Because")
    hn.put(4, "job", title="A job")
    hn.put(5, "poll", title="A poll")
    hn.put(6, "pollopt", poll=5, text="A choice")
    kinds = {"story": {1, 2}, "ask": {2}, "comment": {3}, "job": {4}, "poll": {5, 6}, "job,ask": {2, 4}}
    for types, numbers in kinds.items():
        assert once(hn, start=1, types=types).items.keys() == numbers
    with source(hn, start=1, types="job") as one:
        one.open()
        list(one.changes())
        assert one.passed_over == {"other type": 5}


# ---------------------------------------------------------------- what it says


def test_metadata_of_stories_and_comments(hn: HackerNewsServer) -> None:
    hn.put(1, title="A &amp; B", url="https://example.org/", score=7, descendants=0, time=1_700_000_000)
    hn.put(2, "comment", parent=1, text="One", time=1_700_000_060)
    hn.put(3, "comment", parent=2, text="Two", time=1_700_000_120)
    told = once(hn, start=3)  # parents are not part of the index
    assert told.items.keys() == {3}
    about = {"number": 3, "type": "comment", "by": "someone", "time": "2023-11-14T22:15:20Z"}
    assert told.items[3].metadata == about | {"parent": 2, "root": 1, "depth": 2}
    story = once(hn, start=1).items[1].metadata
    assert story["title"] == "A & B"
    assert (story["url"], story["score"], story["descendants"], story["kids"]) == ("https://example.org/", 7, 2, 1)
    assert (story["root"], story["depth"]) == (1, 0)


def test_content_and_metadata_have_versions_of_their_own(hn: HackerNewsServer) -> None:
    hn.put(1, title="One", score=1)
    before = once(hn, start=1).items[1]
    hn.edit(1, score=2)
    scored = once(hn, start=1).items[1]
    hn.edit(1, title="Another")
    edited = once(hn, start=1).items[1]
    assert (before.fingerprint == scored.fingerprint, before.revision == scored.revision) == (True, False)
    assert scored.fingerprint != edited.fingerprint


def test_wrong_fields_are_left_out(hn: HackerNewsServer) -> None:
    hn.put(1, title=["no"], by=7, score="many", kids="none", descendants=True, url={"a": 1}, text=1 << 90)
    item = once(hn, start=1).items[1]
    assert item.metadata.keys() == {"number", "type", "time", "root", "depth"}


def test_markup_is_no_text_and_long_links_are_whole(hn: HackerNewsServer) -> None:
    address = "https:&#x2F;&#x2F;example.org&#x2F;a"
    link = f'<a href="{address}&#x2F;long&#x2F;way" rel="nofollow">{address}...</a>'
    hn.put(1, title="One", text=f"It&#x27;s <i>so</i>:<p>{link}<p><pre><code>if a &lt; b:\n  c\n</code></pre>")
    with once(hn, start=1).items[1].open() as stream:
        head = json.loads(stream.read().splitlines()[1])
    assert head["text"] == "It's so:\n\nhttps://example.org/a/long/way\n\nif a < b:\n  c"


# ---------------------------------------------------------------- what happens


def test_deleted_and_dead_items_go(hn: HackerNewsServer) -> None:
    stories(hn, 1, 2, 3)
    with following(hn, start=1) as told:
        until(lambda: told.items.keys() == {1, 2, 3})
        hn.delete(1)
        hn.kill(2)
        until(lambda: told.items.keys() == {3})
        hn.revive(2)
        until(lambda: told.items.keys() == {2, 3})


def test_a_null_is_asked_for_again(hn: HackerNewsServer) -> None:
    stories(hn, 1)
    hn.null(2)
    stories(hn, 3)
    with following(hn, start=1) as told:
        until(lambda: told.items.keys() == {1, 3})
        hn.put(2, "comment", parent=3, text="Late")
        until(lambda: 2 in told.items)
    assert told.unreadable == {}


def test_a_null_that_stays_is_told_and_let_go(hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda, "TRIES", 2)
    stories(hn, 1)
    hn.null(2)
    with following(hn, start=1) as told:
        until(lambda: owed(told) == [2])
        assert told.unreadable == {}
        hn.skip(4000)
        stories(hn, 3)  # whose time says that an hour has passed
        until(lambda: 2 in told.unreadable)
        assert "the API has no item 2" in told.unreadable[2]


def test_a_comment_waits_for_a_parent_that_is_null(hn: HackerNewsServer) -> None:
    stories(hn, 1)
    hn.null(2)
    hn.put(3, "comment", parent=2, text="Early")
    with following(hn, start=3) as told:
        until(lambda: hn.asked["/v0/item/2.json"] >= 2)
        assert told.items == {}
        hn.put(2, "comment", parent=1, text="Late")
        until(lambda: 3 in told.items)
        assert told.items[3].metadata["root"] == 1


def test_a_comment_whose_parent_never_comes_goes_without_its_root(
    hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LENIENT", 1)
    hn.null(2)
    hn.put(3, "comment", parent=2, text="Alone")
    with following(hn, start=3) as told:
        until(lambda: 3 in told.items)
        assert told.items[3].metadata["parent"] == 2
        assert "root" not in told.items[3].metadata


def test_parents_in_a_circle_end(hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LENIENT", 1)
    hn.put(2, "comment", parent=3, text="Before")
    hn.put(3, "comment", parent=2, text="After")
    with following(hn, start=2) as told:
        until(lambda: told.items.keys() == {2, 3})


# ---------------------------------------------------------------- what may be missed


def test_changes_during_a_pause_are_found(hn: HackerNewsServer) -> None:
    stories(hn, *range(1, 31))
    told = once(hn, start=1)
    assert told.titles[7] == "Title 7"
    hn.edit(7, title="Another")
    hn.delete(8)
    hn.forget_changes()  # too long ago for the list
    hn.skip(600)
    stories(hn, 31)
    again = once(hn, told.cursor, start=1)
    assert again.titles[7] == "Another"
    assert 8 in again.deleted
    assert again.items.keys() == set(range(1, 32)) - {8}


def test_items_are_read_again_at_certain_ages(hn: HackerNewsServer) -> None:
    stories(hn, 1, 2)
    with following(hn, start=1) as told:
        until(lambda: len(told.items) == 2)
        for number, (seconds, title) in enumerate([(250, "a"), (250, "b"), (250, "c")], 3):
            hn.edit(1, title=title)
            hn.forget_changes()  # nobody says it
            hn.skip(seconds)
            stories(hn, number)
            until(lambda n=number: n in told.items)
        until(lambda: told.titles[1] == "c")  # at an age of ten minutes


def test_maxitem_that_goes_back_or_astray_changes_nothing(hn: HackerNewsServer) -> None:
    stories(hn, 1, 2, 3)
    with following(hn, start=1) as told:
        until(lambda: len(told.items) == 3)
        hn.say_maxitem(1, 10**15, 10**12, -4, "three", None, True, [3])
        stories(hn, 4)
        until(lambda: 4 in told.items and '"end":5' in (told.cursor or ""))
    state = json.loads(told.cursor or "")
    assert (state["first"], state["end"], state["spans"]) == (1, 5, [])


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("kind", ["status 500", "status 503", "status 404", "garbage", "cut", "drop", "other", "slow"])
def test_an_answer_that_fails_is_asked_for_again(hn: HackerNewsServer, kind: str) -> None:
    stories(hn, *range(1, 21))
    hn.fail("/v0/item/7.json", kind, 2)
    hn.fail("/v0/maxitem", kind, 1)
    hn.fail("/v0/updates", kind, 1)
    with following(hn, start=1) as told:
        until(lambda: told.items.keys() == set(range(1, 21)))
    assert told.unreadable == {}


def test_one_item_that_hangs_or_does_not_end_holds_up_no_other(
    hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.sources.hackernews.api.BYTES", 1 << 20)
    stories(hn, *range(1, 101))
    hn.fail("/v0/item/50.json", "hang", 9)
    hn.fail("/v0/item/51.json", "huge", 9)
    with following(hn, start=1) as told:
        until(lambda: told.items.keys() == set(range(1, 101)) - {50, 51})
        stories(hn, 101)
        until(lambda: 101 in told.items)


def test_an_item_that_stays_broken_is_told(hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agenda, "TRIES", 2)
    stories(hn, 1, 2)
    hn.fail("/v0/item/2.json", "garbage", 10_000)
    with following(hn, start=1) as told:
        until(lambda: owed(told) == [2])
        hn.skip(4000)
        stories(hn, 3)
        until(lambda: 2 in told.unreadable)
        assert "no JSON" in told.unreadable[2]


def test_an_api_that_is_away_is_waited_for_and_told(hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(reading, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(agenda, "TRIES", 1)
    stories(hn, 1, 2, 3)
    with following(hn, start=1, stream=0) as told:
        until(lambda: len(told.items) == 3)
        hn.fail("/v0/", "status 503", 1_000_000)
        stories(hn, 4, 5)
        hn.edit(1, title="Edited")
        until(lambda: "status 503" in told.source.trouble)  # type: ignore[attr-defined]
        before = hn.asked.total()
        time.sleep(0.5)
        assert hn.asked.total() - before < 50  # it is not stormed
        hn.heal()
        until(lambda: len(told.items) == 5 and told.titles[1] == "Edited")
        until(lambda: not told.source.trouble)  # type: ignore[attr-defined]
    assert told.unreadable == {}


def test_a_run_that_is_to_end_gives_up_on_an_api_that_is_away(
    hn: HackerNewsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.3)
    hn.fail("/v0/", "status 503", 1_000_000)
    with pytest.raises(SourceError, match="away"):
        once(hn)


def test_a_stop_does_not_wait_for_what_hangs(hn: HackerNewsServer) -> None:
    stories(hn, *range(1, 101))
    hn.fail("/v0/", "hang", 1_000_000)
    with following(hn, start=1):
        until(lambda: hn.asked.total() > 0)


# ---------------------------------------------------------------- the event stream


def test_the_event_stream_tells_before_the_next_poll(hn: HackerNewsServer) -> None:
    stories(hn, 1)
    with following(hn, start=1, poll=60) as told:
        until(lambda: 1 in told.items and hn.asked["/v0/maxitem.json stream"] > 0)
        stories(hn, 2)
        until(lambda: 2 in told.items, 10)


def test_a_stream_that_breaks_off_is_no_loss(hn: HackerNewsServer) -> None:
    stories(hn, 1)
    hn.cut_streams = 2
    with following(hn, start=1, poll=0.3) as told:
        for number in range(2, 6):
            stories(hn, number)
            until(lambda n=number: n in told.items)


def test_without_a_stream_it_polls(hn: HackerNewsServer) -> None:
    hn.streams = False
    stories(hn, 1)
    with following(hn, start=1) as told:
        stories(hn, 2)
        until(lambda: told.items.keys() == {1, 2})


# ---------------------------------------------------------------- cursors


def test_a_run_may_go_on_from_any_of_its_cursors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was told before a cursor, and what is told after it, are all there is."""
    monkeypatch.setattr(reading, "MARK", 0.0)
    with HackerNewsServer(tape(hours=1, items=300, seed=5), speed=0, faults=0.05, seed=5) as hn:
        hn.skip(1800)
        changes: list[Change] = []
        one = source(hn, start=1000)
        one.live = True
        one.open()
        for change in one.changes():
            changes.append(change)
            if hn.now < 3600:
                hn.skip(7)
            elif isinstance(change, Checkpoint) and len(changes) > 900:
                break
        one.close()
        marks = [n for n, change in enumerate(changes) if isinstance(change, Checkpoint)]
        hn.heal()
        expected = {
            number
            for number, item in hn.world.items.items()
            if item and not item.get("deleted") and not item.get("dead")
        }
        for mark in random.Random(1).sample(marks, 5):
            told = Told()
            for change in changes[: mark + 1]:
                told.add(change)
            rest = once(hn, told.cursor, start=1000)
            both = (told.items.keys() - rest.deleted) | rest.items.keys()
            assert both == expected
            for number, item in (told.items | rest.items).items():
                if number in expected:
                    title = (hn.world.items[number] or {}).get("title", "")
                    assert item.metadata.get("title", "") == title


def test_a_cursor_of_another_version_is_refused(hn: HackerNewsServer) -> None:
    with pytest.raises(SourceError, match="of another version"):
        once(hn, '{"version": 99}')


def test_a_cursor_stays_small(hn: HackerNewsServer) -> None:
    stories(hn, *range(1, 2000))
    assert len(once(hn, start=1).cursor or "") < 1000


# ---------------------------------------------------------------- one alone


def test_lookup_is_the_item_as_it_is_now(hn: HackerNewsServer) -> None:
    stories(hn, 1, 2, 3)
    hn.null(4)
    hn.kill(2)
    with source(hn) as one:
        one.open()
        found = one.lookup(uri(1))
        assert found is not None
        assert found.metadata["title"] == "Title 1"
        assert one.lookup(uri(2)) is None
        assert one.lookup("https://news.ycombinator.com/item?id=x") is None
        with pytest.raises(SourceError):
            one.lookup(uri(4))
    assert url(hn).startswith("hn://")
