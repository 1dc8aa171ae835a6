"""Promises of a pipeline from one run to the next: ownership, verification, plans, deletion, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import LockedError, MassDeletion, OwnershipError, SpaceMismatch, UsageError
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.pipeline import Pipeline
from penstock.sinks.memory import MemorySink
from penstock.testing.chaos import JournalSink, Lines, contents
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sources import FeedSource, ListSource, document

from .world import World, undisturbed

DOCUMENTS = {f"doc:{n}": "\n".join(f"document {n} line {m}" for m in range(9)) for n in range(12)}
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def w(tmp_path: Path) -> World:
    return World(tmp_path, DOCUMENTS)


def lose_the_ledger(w: World) -> None:
    for file in w.folder.glob("ledger.db*"):
        file.unlink()


def test_chunks_too_large_for_the_store_are_refused_before_anything_is_read(w: World) -> None:
    """A size in characters bounds the length of a text."""

    class Short(MemorySink):
        max_text = 4000

    def pipeline(size: str) -> Pipeline:
        state = w.folder / "ledger.db"
        return Pipeline(w.source, into=Short(w.url), model=w.embedder, chunk=size, state=state)

    with pytest.raises(UsageError, match=r"4,000 bytes.*4,004"):
        pipeline("1001 characters").run()
    assert w.listed.opened == []
    assert pipeline("1000 characters").run().ok


# ---------------------------------------------------------------- whose index it is


def test_an_index_of_another_ledger_is_left_alone_until_it_is_adopted(w: World) -> None:
    """Then nothing is embedded again, and stale points are found."""
    w.run()
    lose_the_ledger(w)
    changed = {**DOCUMENTS, "doc:1": DOCUMENTS["doc:1"] + "\none more"}
    del changed["doc:2"]
    w.tell(changed)
    w.embedded()
    before = w.held()
    with pytest.raises(OwnershipError, match="--adopt"):
        w.run()
    assert w.held() == before
    report = w.run(adopt=True)
    assert report.ok
    assert any("adopted 108 points" in notice for notice in report.notices)
    assert len(w.embedded()) == 1
    assert w.held() == undisturbed(changed, w.folder)
    assert w.pipeline().verify().ok
    assert w.run().counts["unchanged"] == len(changed)


def test_an_interrupted_adoption_is_repeated(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w.run()
    lose_the_ledger(w)
    w.embedded()
    with monkeypatch.context() as patch:
        patch.setattr(MemorySink, "exchange_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            w.run(adopt=True)
    with pytest.raises(OwnershipError):
        w.run()
    assert w.run(adopt=True).ok
    assert not w.embedded()
    assert w.held() == undisturbed(DOCUMENTS, w.folder)


def test_an_index_that_is_gone_is_filled_again_with_a_notice(w: World) -> None:
    w.run()
    w.embedded()
    w.forget()
    report = w.run()
    assert report.ok
    assert any("is gone" in notice for notice in report.notices)
    assert w.held() == undisturbed(DOCUMENTS, w.folder)
    assert len(w.embedded()) == 108


def test_another_space_is_refused_before_anything_is_read(w: World) -> None:
    w.run()
    opened = list(w.listed.opened)
    before = w.held()
    w.embedder = FaultyEmbedder(HashingEmbedder(16), EmbedFaults())
    for act in (w.run, w.pipeline().plan, w.pipeline().verify, w.pipeline().retry):
        with pytest.raises(SpaceMismatch):
            act()
    assert w.listed.opened == opened
    assert w.held() == before


def test_two_runs_on_one_ledger_exclude_each_other(w: World) -> None:
    w.run()
    with w.pipeline().ledger as held:
        held.open()
        with pytest.raises(LockedError):
            w.run()
        w.tell({**DOCUMENTS, "doc:new": "new"})
        assert w.pipeline().plan().new == 1, "looking is free"
    assert w.run().ok


def test_a_budget_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 8MiB"):
        Pipeline(ListSource(), into="memory://small", model=HashingEmbedder(8), memory="4MiB", state=tmp_path / "l.db")


# ---------------------------------------------------------------- verify


def test_verify_finds_and_repair_restores(w: World) -> None:
    """Missing points, orphans, and documents that changed, came or went meanwhile."""
    w.run()
    w.embedded()
    sink = w.sink()
    ids = sorted(w.held())
    stranger: Any = sink.fetch(ids[:1])[0]
    sink.write([Point(replace(stranger.chunk, id="ab" * 16, uri="doc:nobody"), stranger.vectors)])
    sink.delete(ids[10:13])
    changed = {**DOCUMENTS, "doc:1": DOCUMENTS["doc:1"] + "\none more", "doc:new": "new"}
    del changed["doc:2"]
    w.tell(changed)
    found = w.pipeline().verify()
    assert not found.ok
    assert (found.missing, found.orphans, found.outdated, found.gone, found.points) == (3, 1, 2, 1, 106)
    gone = sum(row[0] == "doc:2" for id, row in undisturbed(DOCUMENTS, w.folder).items() if id in ids[10:13])
    mended = w.pipeline().verify(repair=True)
    assert mended.ok
    assert mended.repaired is not None
    assert w.held() == undisturbed(changed, w.folder)
    assert len(w.embedded()) == 3 - gone + 2, "only what was missing or new"


def test_a_sample_finds_altered_points_and_repair_embeds_them_again(w: World) -> None:
    """A vector of another text, and a changed text: ids alone do not show them."""
    w.run()
    w.embedded()
    sink = w.sink()
    ids = sorted(w.held())
    one, two, other = sink.fetch(ids[:3])
    sink.write([Point(one.chunk, other.vectors), Point(replace(two.chunk, text="something else"), two.vectors)])
    assert w.pipeline().verify().ok
    found = w.pipeline().verify(sample=1)
    assert (found.sampled, found.altered, found.ok) == (len(ids), 2, False)
    assert w.pipeline().verify(sample=0.2).sampled < len(ids) / 2
    w.embedded()
    mended = w.pipeline().verify(repair=True, sample=1)
    assert (mended.ok, mended.altered) == (True, 0)
    assert mended.repaired is not None
    assert mended.repaired.counts["embedded"] == 2
    assert w.held() == undisturbed(DOCUMENTS, w.folder)
    with pytest.raises(UsageError, match="share"):
        w.pipeline().verify(sample=2)


def test_verify_finds_and_repair_removes_doubled_points(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store without a primary key, an id occurs twice."""
    w.run()
    id = min(w.held())
    doubled = [True]
    ids, delete = MemorySink.ids, MemorySink.delete

    def all_ids(self: MemorySink) -> Any:
        yield from ids(self)
        if doubled[0]:
            yield [id]

    def forget(self: MemorySink, gone: Any) -> None:
        doubled[0] &= id not in gone
        delete(self, gone)

    monkeypatch.setattr(MemorySink, "ids", all_ids)
    monkeypatch.setattr(MemorySink, "delete", forget)
    assert w.pipeline().verify().doubled == 1
    assert w.pipeline().verify(repair=True).ok
    assert w.held() == undisturbed(DOCUMENTS, w.folder)


def test_repairing_the_index_of_a_feed_reads_only_what_lacks_points(tmp_path: Path) -> None:
    """A feed sends each event once: documents that lack points are looked up, and the feed is not read again."""
    events = [document(uri, text.encode()) for uri, text in DOCUMENTS.items()]
    feed = FeedSource([document("doc:0", b"an old version"), *events], marks=1)
    w = World(tmp_path, source=feed)
    w.run()
    w.embedded()
    lost = [id for id, row in w.held().items() if row[0] == "doc:3"][:2]
    w.sink().delete(lost)
    found = w.pipeline().verify()
    assert (found.missing, found.ok) == (2, False)
    assert w.pipeline().verify(repair=True).ok
    assert w.held() == undisturbed(DOCUMENTS, w.folder)
    assert sorted(w.embedded()) == sorted(lost)


# ---------------------------------------------------------------- plan


@pytest.mark.parametrize("step", ["first", "nothing", "edits", "moved", "renamed"])
def test_a_run_does_what_its_plan_says(w: World, step: str) -> None:
    documents = dict(DOCUMENTS)
    if step != "first":
        w.run()
    if step == "edits":
        documents["doc:1"] = documents["doc:1"].replace("line 4", "line four")
        documents["doc:2"] += "\nand a last one"
        documents["doc:new"] = "quite\nnew"
        del documents["doc:3"]
    elif step == "moved":
        documents["doc:1"] = "a first line\n" + documents["doc:1"]
    elif step == "renamed":
        documents["doc:renamed"] = documents.pop("doc:5")
    w.tell(documents)
    plan, report = w.pipeline().plan(), w.run()
    counts = report.counts
    assert (plan.new, plan.unchanged, plan.deleted) == (counts["added"], counts["unchanged"], counts["deleted"])
    assert plan.changed == counts["documents"] - counts["added"]
    assert (plan.chunks, plan.tokens) == (counts["embedded"], counts["tokens"])
    assert plan.kept == counts["kept"] + counts["moved"]


# ---------------------------------------------------------------- deletion


def test_a_mass_deletion_asks_first(w: World) -> None:
    """And the next run asks again; what is new is in already."""
    w.run()
    few = {"doc:0": DOCUMENTS["doc:0"], "doc:new": "new"}
    w.tell(few)
    for _ in range(2):
        with pytest.raises(MassDeletion, match="allow-mass-delete"):
            w.run()
        assert len(w.held()) == 109
    assert w.run(allow_mass_delete=True).counts["deleted"] == 11
    assert w.held() == undisturbed(few, w.folder)


def test_a_document_that_becomes_unsupported_is_a_failure(w: World) -> None:
    """Its old chunks stay, as with one that breaks (an extra may be missing): so it must not pass as skipped."""
    w.run()
    binary = b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8
    w.listed.entries |= {"doc:3": binary, "doc:never-read": binary}
    report = w.run()
    assert (report.counts["failed"], report.counts["skipped"], report.failing) == (1, 1, 1)
    assert not report.ok
    assert not w.pipeline().verify().ok
    assert w.held() == undisturbed(DOCUMENTS, w.folder)
    w.listed.entries["doc:3"] = b"text again"
    assert w.run().ok
    assert w.held() == undisturbed({**DOCUMENTS, "doc:3": "text again"}, w.folder)


# ---------------------------------------------------------------- Ctrl-C

CHILD = """
import sys, time
from pathlib import Path
from tests.reliability.test_pipeline import slow_pipeline
pipeline = slow_pipeline(Path(sys.argv[1]), float(sys.argv[2]))
writing = []
def report(progress):
    if progress.counts["written"] and not writing:
        writing.append(1)
        print("writing", flush=True)
done = pipeline.run(report)
print(done.status, done.counts["written"], flush=True)
"""


class SlowSink(JournalSink):
    max_rows = 8

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url)
        self.seconds = seconds

    def write(self, points: Any) -> None:
        time.sleep(self.seconds)
        super().write(points)


def slow_pipeline(folder: Path, seconds: float = 0.0) -> Pipeline:
    slow = FaultyEmbedder(HashingEmbedder(8), EmbedFaults(seconds=0.05))
    slow.batch_rows = 2
    return Pipeline(
        ListSource({uri: text.encode() for uri, text in DOCUMENTS.items()}),
        into=SlowSink(f"journal://{folder / 'index'}", seconds),
        model=slow,
        chunk=Lines(),
        memory="8MiB",
        state=folder / "ledger.db",
    )


def child(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )  # fmt: skip
    assert process.stdout is not None
    return process


def test_ctrl_c_keeps_what_was_acknowledged_and_the_next_run_completes(tmp_path: Path) -> None:
    process = child(tmp_path, 0.02)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    status, written = out.split()
    assert (status, err, process.returncode) == ("stopped", "", 0)
    pipeline = slow_pipeline(tmp_path)
    with pipeline.ledger as ledger:
        ledger.open()
        assert 0 < int(written) == ledger.counts().acknowledged < 108
        assert ledger.runs()[0].status == "stopped"
    pipeline = slow_pipeline(tmp_path)
    report = pipeline.run()
    assert report.ok
    assert report.counts["embedded"] == 108 - int(written)
    assert report.added == report.documents  # what had only begun is no change
    with JournalSink(f"journal://{tmp_path / 'index'}") as sink:
        sink.open(sink.manifest() or Manifest(pipeline._components.schema()))
        assert contents(sink) == undisturbed(DOCUMENTS, tmp_path)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    """Though a write to the store is under way."""
    process = child(tmp_path, 60)
    deadline = time.monotonic() + 20
    while not (tmp_path / "index" / "journal").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # by now it writes
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first lets the write run out"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5
    assert process.returncode != 0
    assert slow_pipeline(tmp_path).run().ok


def test_verifying_an_index_that_is_gone_changes_nothing(w: World) -> None:
    """All points are reported missing; only a repair, or a run, fills the index again."""
    w.run()
    total = len(w.held())
    w.forget()
    found = w.pipeline().verify()
    assert (found.points, found.missing, found.ok) == (0, total, False)
    assert w.pipeline().sink.manifest() is None
    assert w.pipeline().verify().missing == total
    assert w.pipeline().verify(repair=True).ok
    assert len(w.held()) == total
