"""The flow, with everything around it faked: what is written, what is not, and what befalls it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import (
    EmbedError,
    LockedError,
    MassDeletion,
    ModelError,
    ParseError,
    Rejected,
    StageError,
    TooLarge,
    Transient,
    Unsupported,
)
from penstock.core.pieces import PieceSize
from penstock.core.records import Checkpoint, Delete, Dense, Gap, ListingEnd, Piece, Point, Unreadable, Upsert
from penstock.engine.channel import Channel
from penstock.engine.control import Control
from penstock.engine.identity import Namer
from penstock.engine.journal import Begun
from penstock.engine.progress import Progress
from penstock.engine.readback import Move, ReadBack
from penstock.engine.scan import Queued, Scan
from penstock.engine.stage import Stage
from penstock.engine.work import Document, Embedded, Event, Prepared
from penstock.ledger import Ledger

from .harness import SCHEMA, World, expected, item, lines, listing, parse, world


@pytest.fixture
def w(tmp_path: Path) -> World:
    return world(tmp_path)


def corpus(n: int = 20, size: int = 30) -> dict[str, str]:
    return {f"doc:{i}": "\n".join(f"document {i} line {j}" for j in range(size)) for i in range(n)}


def test_everything_arrives_once(w: World) -> None:
    documents = corpus()
    counts = w.run(listing(documents))
    assert w.held() == expected(documents)
    assert counts["written"] == counts["embedded"] == 600
    assert counts["documents"] == counts["added"] == 20
    assert w.running.complete


def test_a_second_run_embeds_nothing(w: World) -> None:
    documents = corpus()
    w.run(listing(documents))
    w.embedder.texts.clear()
    counts = w.run(listing(documents))
    assert counts["unchanged"] == 20
    assert not w.embedder.texts


def test_an_edit_embeds_only_what_it_touches(w: World) -> None:
    documents = corpus(3)
    w.run(listing(documents))
    w.embedder.texts.clear()
    documents["doc:1"] = documents["doc:1"].replace("line 7", "line seven")
    counts = w.run(listing(documents))
    assert w.embedder.texts == ["document 1 line seven"]
    assert counts["removed"] == 1
    assert w.held() == expected(documents)


def test_an_insertion_moves_the_rest_without_the_model(w: World) -> None:
    """What comes after it has another ordinal and span: written again, with the vectors the index had."""
    documents = corpus(2)
    w.run(listing(documents))
    w.embedder.texts.clear()
    documents["doc:0"] = "a new first line\n" + documents["doc:0"]
    counts = w.run(listing(documents))
    assert w.embedder.texts == ["a new first line"]
    assert counts["moved"] == 30
    assert w.held() == expected(documents)


def test_a_rename_costs_no_embedding(w: World) -> None:
    documents = corpus(3)
    w.run(listing(documents))
    w.embedder.texts.clear()
    documents["renamed"] = documents.pop("doc:2")
    counts = w.run(listing(documents))
    assert w.embedder.texts == []
    assert (counts["moved"], counts["deleted"]) == (30, 1)
    assert w.held() == expected(documents)


def test_what_a_complete_listing_does_not_name_is_deleted(w: World) -> None:
    documents = corpus()
    w.run(listing(documents))
    del documents["doc:3"]
    assert w.run(listing(documents))["deleted"] == 1
    assert w.held() == expected(documents)


@pytest.mark.parametrize("how", ["cut short", "broken"])
def test_an_incomplete_listing_deletes_nothing(w: World, how: str) -> None:
    documents = corpus()
    w.run(listing(documents))

    def cut():  # type: ignore[no-untyped-def]
        yield Upsert(item("doc:0", documents["doc:0"]))
        if how == "broken":
            raise OSError("connection lost")

    if how == "broken":
        with pytest.raises(StageError, match=r"scan.*connection lost"):
            w.run(cut())
    else:
        w.run(cut())
    assert w.held() == expected(documents)


def test_an_unreadable_entry_is_listed_and_not_deleted(w: World) -> None:
    documents = corpus(4)
    w.run(listing(documents))
    rest = {uri: text for uri, text in documents.items() if uri != "doc:2"}
    w.run([*(Upsert(item(*each)) for each in rest.items()), Unreadable("doc:2", "permission denied"), ListingEnd()])
    assert w.held() == expected(documents)
    assert [(f.uri, f.stage, f.cause) for f in w.failures] == [("doc:2", "list", "permission denied")]


def test_a_mass_deletion_needs_leave(w: World) -> None:
    documents = corpus()
    w.run(listing(documents))
    few = {"doc:0": documents["doc:0"]}
    with pytest.raises(MassDeletion, match="570 of 600 chunks"):
        w.run(listing(few))
    assert w.held() == expected(documents)
    w.run(listing(few), allow_mass_delete=True)
    assert w.held() == expected(few)


def test_new_chunks_are_in_before_stale_ones_go(w: World) -> None:
    w.run(listing({"a": "one\ntwo"}))
    order: list[str] = []
    write, delete = w.sink.write, w.sink.delete
    w.sink.write = lambda points: (order.append("write"), write(points))
    w.sink.delete = lambda ids: (order.append("delete"), delete(ids))
    w.run(listing({"a": "three\nfour"}))
    assert order == ["write", "delete"]
    assert w.held() == {"a": ["three", "four"]}


def test_equal_lines_are_different_chunks(w: World) -> None:
    documents = {"a": "same\nsame\nother\nsame", "b": "same"}
    w.run(listing(documents))
    assert w.held() == expected(documents)


def test_a_feed_resumes_after_its_last_settled_mark(w: World) -> None:
    w.run(
        [
            Upsert(item("a", "1")),
            Checkpoint("m1"),
            Upsert(item("b", "2")),
            Delete("a"),
            Checkpoint("m2"),
            Upsert(item("c", "3")),
        ],
        feed=True,
    )
    assert w.held() == {"b": ["2"], "c": ["3"]}
    from penstock.ledger import Ledger

    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        assert ledger.cursor("test") == "m2"


def test_versions_of_one_document_follow_each_other(w: World) -> None:
    w.run([change for i in range(10) for change in (Upsert(item("a", f"version {i}")), Checkpoint(str(i)))], feed=True)
    assert w.held() == {"a": ["version 9"]}


def test_a_document_that_cannot_be_parsed_is_listed_and_the_rest_goes_on(w: World) -> None:
    documents = corpus(5)

    def broken(item):  # type: ignore[no-untyped-def]
        if item.uri == "doc:3":
            raise ParseError("it is encrypted")
        return parse(item)

    counts = w.run(listing(documents), parse=broken)
    assert counts["failed"] == 1
    assert [(f.uri, f.stage, f.cause, f.permanent) for f in w.failures] == [("doc:3", "parse", "it is encrypted", True)]
    assert w.held() == expected({uri: text for uri, text in documents.items() if uri != "doc:3"})
    again = w.run(listing(documents))  # the same content would fail again: `retry` forces it
    assert (again["unchanged"], again["parked"], again["failed"]) == (4, 1, 0)
    w.run(listing(documents), force=True)
    assert w.held() == expected(documents)
    assert w.failures == []


def test_a_document_that_breaks_after_an_edit_keeps_its_old_chunks(w: World) -> None:
    w.run(listing({"a": "one\ntwo"}))

    def broken(item):  # type: ignore[no-untyped-def]
        raise ParseError("torn")

    w.run(listing({"a": "one\nthree"}), parse=broken)
    assert w.held() == {"a": ["one", "two"]}


def test_an_unsupported_document_is_counted_as_skipped(w: World) -> None:
    def unsupported(item):  # type: ignore[no-untyped-def]
        raise Unsupported("no parser for image/x-raw")

    counts = w.run(listing({"a": "x"}), parse=unsupported)
    assert (counts["skipped"], counts["failed"]) == (1, 0)
    assert w.ledger_counts.skipped == 1


def test_a_gap_is_listed_and_the_document_is_done(w: World) -> None:
    def gappy(item):  # type: ignore[no-untyped-def]
        parsed = parse(item)
        parsed.blocks.insert(0, Gap("page is torn", page=7))
        return parsed

    counts = w.run(listing({"a": "one"}), parse=gappy)
    assert (counts["gaps"], counts["documents"]) == (1, 1)
    assert [(f.place, f.cause) for f in w.failures] == [("page 7", "page is torn")]
    assert w.held() == {"a": ["one"]}


def test_an_unreadable_file_is_tried_again_by_the_next_run(w: World) -> None:
    def denied(item):  # type: ignore[no-untyped-def]
        raise PermissionError("denied")

    w.run(listing({"a": "one"}), parse=denied)
    assert [(f.stage, f.permanent) for f in w.failures] == [("read", False)]
    w.run(listing({"a": "one"}))
    assert w.held() == {"a": ["one"]}
    assert w.failures == []


def test_the_one_chunk_that_cannot_be_embedded_is_found(w: World) -> None:
    def poison(chunks):  # type: ignore[no-untyped-def]
        if any("line 13" in chunk.text for chunk in chunks):
            raise EmbedError("too strange")

    w.embedder.before = poison
    documents = corpus(1)
    counts = w.run(listing(documents))
    assert counts["embedded"] == 29
    assert [f.stage for f in w.failures] == ["embed"]
    assert len(w.held()["doc:0"]) == 29
    w.embedder.before = lambda chunks: None
    w.embedder.texts.clear()
    w.run(listing(documents), force=True)
    assert w.embedder.texts == ["document 0 line 13"]
    assert w.held() == expected(documents)


def test_a_store_that_is_away_is_waited_for(w: World) -> None:
    write, calls = w.sink.write, []

    def away(points):  # type: ignore[no-untyped-def]
        calls.append(len(points))
        if len(calls) < 4:
            raise Transient("connection refused")
        write(points)

    w.sink.write = away
    counts = w.run(listing(corpus(2)))
    assert counts["retries"] == 3
    assert w.held() == expected(corpus(2))


def test_a_store_that_stays_away_ends_the_run_with_its_name(w: World) -> None:
    def away(points):  # type: ignore[no-untyped-def]
        raise Transient("connection refused")

    w.sink.write = away
    with pytest.raises(StageError, match=r"write at doc:.*connection refused"):
        w.run(listing(corpus(2)), max_wait=0.2)


def test_batches_that_are_too_large_are_split(w: World) -> None:
    write = w.sink.write

    def small(points):  # type: ignore[no-untyped-def]
        if len(points) > 3:
            raise TooLarge("at most 3")
        write(points)

    w.sink.write = small
    w.run(listing(corpus(3)))
    assert w.held() == expected(corpus(3))


def test_refused_points_are_isolated(w: World) -> None:
    write = w.sink.write

    def picky(points):  # type: ignore[no-untyped-def]
        bad = {point.id: "no 5s" for point in points if point.chunk.text.endswith(" 5")}
        write([point for point in points if point.id not in bad])
        if bad:
            raise Rejected(bad)

    w.sink.write = picky
    counts = w.run(listing(corpus(2)))
    assert counts["written"] == 58
    assert {(f.stage, f.cause) for f in w.failures} == {("write", "no 5s")}
    assert counts["failed"] == 2


@pytest.mark.parametrize("stage", ["scan", "prepare", "embed", "write", "commit"])
def test_an_exception_anywhere_is_raised_with_stage_and_item(w: World, stage: str) -> None:
    """And nobody hangs, though the channels are small and full."""

    def boom(*_: object) -> None:
        raise RuntimeError("boom")

    def scan():  # type: ignore[no-untyped-def]
        yield from listing(corpus(), complete=False)
        boom()

    options = {}
    if stage == "prepare":
        options["parse"] = boom
    elif stage == "embed":
        w.embedder.before = boom
    elif stage == "write":
        w.sink.write = boom
    elif stage == "commit":
        w.sink.flush = boom
    with pytest.raises(StageError, match=f"{stage}.*RuntimeError: boom") as caught:
        w.run(scan() if stage == "scan" else listing(corpus()), **options)
    assert caught.value.stage == stage
    if stage in ("prepare", "embed", "write"):
        assert caught.value.item.startswith("doc:")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("penstock-")]


def test_stopping_keeps_what_was_acknowledged(w: World) -> None:
    documents = corpus(200)

    def slow(chunks):  # type: ignore[no-untyped-def]
        time.sleep(0.002)

    w.embedder.before = slow
    stopped = threading.Event()

    def changes():  # type: ignore[no-untyped-def]
        for number, change in enumerate(listing(documents)):
            if number == 60:
                w.flow_now.stop()
                stopped.set()
            yield change

    from penstock.ledger import Ledger

    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        w.flow_now = w.flow(changes(), ledger)
        w.flow_now.run(interval=0.01)
        assert stopped.is_set()
        assert not w.flow_now.complete
        acknowledged = ledger.counts().acknowledged
    held = w.held()
    assert sum(map(len, held.values())) == acknowledged
    before = len(w.embedder.texts)
    w.run(listing(documents))
    assert w.held() == expected(documents)
    assert len(w.embedder.texts) - before == 6000 - acknowledged


def test_what_was_embedded_before_the_model_failed_is_kept(w: World) -> None:
    """Also where the store is slower than the failure."""
    write = w.sink.write

    def fails(chunks):  # type: ignore[no-untyped-def]
        if len(w.embedder.texts) >= 100:
            raise ModelError("the model is gone")

    def slow(points):  # type: ignore[no-untyped-def]
        time.sleep(0.3)
        write(points)

    w.embedder.before, w.sink.write = fails, slow
    with pytest.raises(StageError, match="the model is gone"):
        w.run(listing(corpus(20)))
    assert w.ledger_counts.acknowledged == len(w.embedder.texts) >= 100


def test_a_stop_while_the_end_of_the_listing_is_on_its_way_is_no_error(w: World) -> None:
    """The stages below may have ended by then."""
    control, events = Control(1.0), Channel[Event]("commits", 1000)
    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        begin = ledger.begin

        def stopped(uris: Sequence[str], run: int) -> dict[str, Begun]:
            control.stop.set()
            events.close()
            return begin(uris, run)

        ledger.begin = stopped  # type: ignore[method-assign]
        items = Channel[Document]("items", 1000)
        Scan(
            changes=listing({"doc": "text"}),
            view=ledger,
            run=1,
            feed=False,
            force=False,
            items=items,
            at_hand=items,
            revisions=items,
            send=lambda event: events.put(event, 1),
            control=control,
            queued=Queued(),
        ).work()
    assert control.error is None


def test_bytes_in_flight_stay_under_the_budget(w: World) -> None:
    """Watched all the while, with a sink slowed to a crawl and one line larger than any share."""
    documents = corpus(300, 100)
    documents["doc:150"] += "\n" + "x" * 3_000_000
    write = w.sink.write
    slow = lambda points: (time.sleep(0.01), write(points))  # noqa: E731
    w.sink.write = slow
    budget = 8 << 20
    worst = 0
    largest = 0

    from penstock.ledger import Ledger

    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        flow = w.flow(listing(documents), ledger, budget=budget)
        done = threading.Event()

        def watch() -> None:
            nonlocal worst, largest
            while not done.is_set():
                progress = flow.progress()
                largest = max(largest, *(channel.largest for channel in progress.channels))
                worst = max(worst, progress.in_flight)
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        flow.run(interval=0.01)
        done.set()
        watcher.join()
        assert 0 < worst <= budget + largest
        for channel in flow.progress().channels:
            assert channel.peak <= max(channel.capacity, channel.largest)
            assert channel.bytes == 0
    assert w.held() == expected(documents)


def test_a_crash_between_write_and_commit_leaves_no_orphan(w: World) -> None:
    """Chunks of a version that never completed are known to the ledger as intended, and go with the next version."""
    w.run(listing({"a": "one\ntwo"}))
    w.sink.flush = lambda: (_ for _ in ()).throw(RuntimeError("power cut"))
    with pytest.raises(StageError):
        w.run(listing({"a": "one\nthree"}))
    del w.sink.flush
    w.run(listing({"a": "one\nfour"}))
    assert w.held() == {"a": ["one", "four"]}


def test_a_chunker_of_no_pieces_is_named(w: World) -> None:
    w.run(listing({"a": "one"}), chunker=lambda blocks: [len(list(lines(blocks)))])
    assert [(f.uri, f.stage) for f in w.failures] == [("a", "chunk")]
    assert "a chunker yields Pieces, not int" in w.failures[0].cause


def exits(*_: object) -> None:
    raise SystemExit("that is all")


def raises(*_: object) -> None:
    raise ValueError("not this one")


@pytest.mark.parametrize("error", [raises, exits])
@pytest.mark.parametrize("component", ["parser", "blocks", "chunker", "embedder", "sink"])
def test_what_a_component_raises_for_one_document_is_that_documents_failure(
    w: World, component: str, error: Callable[..., None]
) -> None:
    """The others are in the index, the culprit is named, and the next run does not meet it again."""
    documents = corpus(60, 5)
    write = w.sink.write

    def bad_parse(item):  # type: ignore[no-untyped-def]
        if item.uri == "doc:33" and component == "parser":
            error()
        parsed = parse(item)
        if item.uri == "doc:33" and component == "blocks":
            parsed.blocks = (error() for _ in range(2))
        return parsed

    def bad_chunker(blocks):  # type: ignore[no-untyped-def]
        for piece in lines(blocks):
            if component == "chunker" and piece.text == "document 33 line 3":
                error()
            yield piece

    def bad_embed(chunks):  # type: ignore[no-untyped-def]
        if component == "embedder" and any(chunk.uri == "doc:33" for chunk in chunks):
            error()

    def bad_write(points):  # type: ignore[no-untyped-def]
        if component == "sink" and any(point.chunk.uri == "doc:33" for point in points):
            error()
        write(points)

    w.embedder.before, w.sink.write = bad_embed, bad_write
    counts = w.run(listing(documents), parse=bad_parse, chunker=bad_chunker)
    assert counts["failed"] == 1
    assert {f.uri for f in w.failures} == {"doc:33"}
    cause = {f.cause for f in w.failures}.pop()
    assert ("not this one" in cause) == (error is raises)
    assert {"blocks": "parser"}.get(component, component) in cause
    whole = {uri: text for uri, text in documents.items() if uri != "doc:33"}
    assert {uri: texts for uri, texts in w.held().items() if uri != "doc:33"} == expected(whole)
    again = w.run(listing(documents), parse=bad_parse, chunker=bad_chunker)
    assert (again["unchanged"], again["parked"], again["embedded"]) == (59, 1, 0)


def test_reading_back_is_in_the_account(w: World) -> None:
    """Points read back are fetched a page at a time, as large as the budget allows."""
    documents = corpus(40, 100)
    w.run(listing(documents))
    fetch, largest = w.sink.fetch, []

    def watched(ids):  # type: ignore[no-untyped-def]
        points = fetch(ids)
        largest.append(sum(point.nbytes for point in points))
        return points

    w.sink.fetch = watched
    counts = w.run(
        listing({f"renamed {uri}": text for uri, text in documents.items()}), workers=8, allow_mass_delete=True
    )
    assert (counts["moved"], counts["embedded"]) == (4000, 0)
    (reads,) = (channel for channel in w.running.progress().channels if channel.name == "reads")
    assert reads.peak <= reads.capacity
    # By the largest point that was read before; some have a letter more.
    assert max(largest) <= 1.01 * reads.capacity / 2
    assert len(largest) >= 5


class PanicException(BaseException):
    """As drivers written in Rust raise it."""


@pytest.mark.parametrize("component", ["parser", "blocks", "chunker", "embedder", "sink"])
def test_a_panic_of_a_driver_is_that_documents_failure(w: World, component: str) -> None:
    def panics(*_: object) -> None:
        raise PanicException("index out of bounds")

    test_what_a_component_raises_for_one_document_is_that_documents_failure(w, component, panics)


def test_an_error_of_the_ledger_is_no_failure_of_a_document(w: World) -> None:
    documents = corpus(5)
    w.run(listing(documents))
    edited = {uri: f"{text}\nmore" for uri, text in documents.items()}

    def full(*_: object) -> dict[bytes, int]:
        raise sqlite3.OperationalError("disk I/O error")

    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        ledger.digests = full  # type: ignore[method-assign]
        with pytest.raises(StageError, match=r"prepare at doc:.*disk I/O error"):
            w.flow(listing(edited), ledger).run(interval=0.01)
        assert not list(ledger.failures())
    w.run(listing(edited))
    assert w.held() == expected(edited)


def test_a_lease_that_is_lost_is_no_failure_of_the_document_that_is_read(w: World) -> None:
    def lost(blocks: object) -> None:
        raise LockedError("another worker has it")

    with pytest.raises(StageError, match="LockedError"):
        w.run(listing(corpus(1)), parse=lost)
    assert not w.failures


def test_a_document_that_memory_is_too_small_for_is_named(w: World) -> None:
    def big(blocks: object) -> None:
        raise MemoryError

    with pytest.raises(StageError, match="prepare at doc:0: MemoryError"):
        w.run(listing(corpus(1)), chunker=big)


@pytest.mark.parametrize("fails", [False, True])
def test_a_chunker_that_keeps_its_blocks_holds_up_nobody(w: World, fails: bool) -> None:
    """It reads the first block of each document, which takes most of the room that blocks have."""
    kept = []

    def first(blocks):  # type: ignore[no-untyped-def]
        kept.append(blocks)
        yield Piece(next(blocks).text[:10], (0, 10))
        if fails:
            raise ValueError("one is enough")

    def parse_twice(item):  # type: ignore[no-untyped-def]
        parsed = parse(item)
        parsed.blocks *= 2
        return parsed

    def hurry(progress: Progress) -> None:
        assert progress.seconds < 20, "it hangs"

    with Ledger(w.folder / "ledger.db") as ledger:
        ledger.open()
        documents = {f"doc:{n}": f"{n} {'x' * 600_000}" for n in range(5)}
        flow = w.flow(listing(documents), ledger, chunker=first, parse=parse_twice, workers=1)
        flow.run(hurry, interval=0.05)
    assert len(kept) == 5
    counts = flow.counters.values()
    assert counts["failed" if fails else "documents"] == 5


def test_points_read_back_are_in_the_account_until_the_sink_has_them_in_its_own() -> None:
    """The sink takes nothing: two threads must not fetch a page each beside what waits for it."""
    moves = Channel[list[Move]]("reads", 10_000)
    points, chunks = Channel[list[Embedded]]("points", 1), Channel[list[Prepared]]("chunks", 1000)
    begun = Begun(1, 1, had=False)
    document = Document(item("doc", "text"), begun, 0)
    namer = Namer(document.item, begun)
    named = [namer.name(Piece(f"text {n}", (0, 6))) for n in range(40)]
    stored = {chunk.id: Point(chunk, {"vector": Dense(np.ones(500, np.float32))}) for chunk, _ in named}
    fetched = 0

    def fetch(ids: Sequence[str]) -> list[Point]:
        nonlocal fetched
        fetched += sum(stored[id].nbytes for id in ids)
        return [stored[id] for id in ids]

    def fill() -> None:
        for chunk, entry in named:
            read_back.put([Move(Prepared(document, entry, chunk, chunk.nbytes, chunk.length), entry.id)])
        moves.close()

    size = PieceSize(SCHEMA.vectors, 100, moves.capacity // 2)
    read_back = ReadBack(fetch, size, moves, chunks, points, Control(1.0), Queued())
    stages = [
        Stage("fill", 1, fill, moves.close, pytest.fail),
        Stage("read back", 2, read_back.work, points.close, pytest.fail),
    ]
    for stage in stages:
        stage.start()
    time.sleep(0.3)
    found, peak = 0, 0
    for some in points:
        found += len(some)
        fetched -= sum(one.point.nbytes for one in some)  # in the sink's account from now on
        peak = max(peak, fetched)
        time.sleep(0.01)
    assert found == len(named)
    assert 0 < peak <= moves.capacity
    assert all(stage.join(10) for stage in stages)


def test_documents_that_are_gone_leave_in_few_calls(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores make a version, a file or a transaction of each: as many as there are batches, not documents."""
    documents = corpus(300, 3)
    w.run(listing(documents))
    calls = {"delete": 0, "flush": 0}
    for name in calls:
        real = getattr(w.sink, name)

        def counted(*arguments: object, name: str = name, real: Callable[..., None] = real) -> None:
            calls[name] += 1
            real(*arguments)

        monkeypatch.setattr(w.sink, name, counted)
    left = dict(list(documents.items())[:50])
    counts = w.run(listing(left), allow_mass_delete=True)
    assert (counts["deleted"], counts["removed"]) == (250, 750)
    assert calls["delete"] == calls["flush"] == 1
    calls.update(delete=0, flush=0)
    edited = {uri: text.replace("line 1", "another") for uri, text in left.items()}
    assert w.run(listing(edited))["removed"] == 50
    assert calls["delete"] < 20
    assert w.held() == expected(edited)


def test_moved_documents_are_read_back_together(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may look through its whole table for one id, so that many are asked for at once."""
    documents = corpus(300, 1)
    w.run(listing(documents))
    fetch, calls = w.sink.fetch, 0

    def slow(ids: Sequence[str]) -> Sequence[Point]:
        nonlocal calls
        calls += 1
        time.sleep(0.05)
        return fetch(ids)

    monkeypatch.setattr(w.sink, "fetch", slow)
    moved = {f"moved/{uri}": text for uri, text in documents.items()}
    counts = w.run(listing(moved), allow_mass_delete=True)
    assert (counts["moved"], counts["embedded"], counts["deleted"]) == (300, 0, 300)
    assert calls < 60
    monkeypatch.undo()
    assert w.held() == expected(moved)


@pytest.mark.parametrize("component", ["parser", "chunker", "embedder", "sink"])
def test_an_error_of_a_component_is_kept_with_its_traceback(
    w: World, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    """Once for a document of many chunks, and without a second attempt's being mistaken for an error that led to it."""
    monkeypatch.setenv("MODEL_API_KEY", "hunter2")
    write = w.sink.write

    def culprit(text: str) -> None:
        if "document 2" in text:
            raise ValueError("bad shape, hunter2")

    def parser(item):  # type: ignore[no-untyped-def]
        culprit(f"document {item.uri[-1]}" if component == "parser" else "")
        return parse(item)

    def chunker(blocks):  # type: ignore[no-untyped-def]
        for piece in lines(blocks):
            culprit(piece.text if component == "chunker" else "")
            yield piece

    def embedder(chunks):  # type: ignore[no-untyped-def]
        for chunk in chunks if component == "embedder" else ():
            culprit(chunk.text)

    def sink(points):  # type: ignore[no-untyped-def]
        for point in points if component == "sink" else ():
            culprit(point.chunk.text)
        write(points)

    w.embedder.before, w.sink.write = embedder, sink
    w.embedder.batch_tokens = 1 << 20
    w.run(listing(corpus(4)), parse=parser, chunker=chunker)
    assert {failure.uri for failure in w.failures} == {"doc:2"}
    assert {failure.cause for failure in w.failures} == {f"ValueError: bad shape, *** (raised by the {component})"}
    (traceback,) = filter(None, (failure.traceback for failure in w.failures))
    assert f'File "{__file__}"' in traceback
    assert "in culprit" in traceback
    assert traceback.endswith("ValueError: bad shape, ***")
    assert traceback.count("Traceback") == 1
    assert "hunter2" not in traceback.replace("shape, hunter2", "")  # the line of this test that raises it


def test_a_failure_that_a_contract_names_has_no_traceback(w: World) -> None:
    def broken(item):  # type: ignore[no-untyped-def]
        raise ParseError("torn")

    w.run(listing(corpus(1)), parse=broken)
    assert [failure.traceback for failure in w.failures] == [""]
