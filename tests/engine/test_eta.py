"""How long a run has to go, by a clock that only the model moves: measured against how long it then took."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import penstock as ps
from penstock.core.contracts import Chunker
from penstock.core.errors import Unsupported
from penstock.core.records import Chunk
from penstock.engine.channel import ChannelStats
from penstock.engine.flow import Flow
from penstock.engine.progress import COUNTERS, Progress
from penstock.ledger import Ledger

from .harness import lines, listing, parse, world

LOADING = 60.0
"""Seconds that the model takes to load."""
A_TOKEN, A_BATCH = 0.01, 0.2


def document(rng: random.Random, count: int, length: int) -> str:
    return "".join(f"{rng.getrandbits(64):x} {'words ' * (length // 6)}\n" for _ in range(count))


def corpus() -> dict[str, str]:
    """300 documents of a few short lines, and 6 of a thousand long ones: nearly all of the text."""
    rng = random.Random(7)
    small = {f"memory://small/{n:03}": document(rng, rng.randint(1, 5), 12) for n in range(300)}
    return small | {f"memory://large/{n}": document(rng, 1000, 150) for n in range(6)}


def ordered(documents: dict[str, str], order: str) -> dict[str, str]:
    uris = sorted(documents, reverse=order == "small first")
    if order == "mixed":
        random.Random(3).shuffle(uris)
    return {uri: documents[uri] for uri in uris}


def behind(progress: Progress) -> bool:
    """Whether the model would wait for documents to be read: what this machine is busy with must not tell."""
    waiting = next(channel.pieces for channel in progress.channels if channel.name == "chunks")
    return progress.listing or (progress.queued_bytes > 0 and waiting < 4)


def estimates(folder: Path, monkeypatch: pytest.MonkeyPatch, documents: dict[str, str]) -> list[tuple[float, float]]:
    """(share of the run that has passed, estimate of what is left as a part of what was left) at each batch."""
    began = clock = 1000.0
    seen: list[tuple[float, float | None]] = []
    flow: Flow

    def ready() -> Chunker:
        nonlocal clock
        with loading:
            if clock == began:
                clock += LOADING
        return lines

    def work(chunks: Sequence[Chunk]) -> None:
        nonlocal clock
        while behind(flow.progress()):  # by this clock the source is listed, and documents are read, in no time
            time.sleep(0.001)
        clock += A_BATCH + A_TOKEN * sum(chunk.length for chunk in chunks)
        seen.append((clock, flow.progress().eta))

    one, loading = world(folder), threading.Lock()
    unchanged = {f"memory://known/{n:03}": f"known {n}\n" * 20 for n in range(200)}
    one.run(listing(unchanged))
    for module in ("flow", "control"):
        monkeypatch.setattr(f"penstock.engine.{module}.time", SimpleNamespace(monotonic=lambda: clock))
    one.embedder.before, one.embedder.workers, one.embedder.batch_tokens = work, 1, 1024
    with Ledger(folder / "ledger.db") as ledger:
        ledger.open()
        flow = one.flow(listing(documents | unchanged), ledger, budget=256 << 20, ready=ready)
        flow.run(interval=0.01)
    assert flow.counters.values()["unchanged"] == len(unchanged)
    shares = [((at - began) / (clock - began), (eta or 0.0) / max(0.1, clock - at)) for at, eta in seen]
    return [(share, ratio) for share, ratio in shares if 0.1 <= share <= 0.9]


@pytest.mark.parametrize("order", ["small first", "large first", "mixed"])
def test_the_estimate_is_right_within_30_percent_after_a_tenth_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    found = estimates(tmp_path, monkeypatch, ordered(corpus(), order))
    assert len(found) > 50
    wrong = [(f"{share:.0%}", f"{ratio:.2f}") for share, ratio in found if not 0.7 <= ratio <= 1.3]
    assert not wrong


def moment(*, full: str = "", listing: bool = False, queued_bytes: int = 0, **values: int) -> Progress:
    """Ten seconds of work after a minute of loading."""
    counts = dict.fromkeys(COUNTERS, 0) | {name: value for name, value in values.items() if name in COUNTERS}
    channels = [ChannelStats(name, 1, 90 if name == full else 1, 100, 90, 90, 9, 0.0) for name in ("chunks", "points")]
    queued_tokens = values.get("queued_tokens", 0)
    return Progress(70.0, counts, tuple(channels), 400, listing, queued_bytes, "", queued_tokens, loading=60.0)


@pytest.mark.parametrize(
    ("now", "eta"),
    [
        (moment(), None),
        (moment(listing=True, bytes=100, tokens=10), None),
        (moment(bytes=100, queued_tokens=10), None),  # nothing is known of the model's pace
        (moment(bytes=100, queued_bytes=50), 5.0),  # all of it was in the index
        (moment(bytes=100, tokens=10), 0.0),
        (moment(bytes=100, tokens=10, queued_tokens=30), 30.0),
        (moment(bytes=100, queued_bytes=100, tokens=10, queued_tokens=30), 70.0),
        (moment(bytes=100, tokens=10, embedded=100, written=40), 0.0),
        (moment(bytes=100, tokens=10, embedded=100, written=40, full="points"), 15.0),  # the store is slower
        (moment(bytes=100, queued_bytes=100, tokens=10, embedded=80, moved=20, written=40, full="points"), 40.0),
    ],
)
def test_the_slowest_stage_decides(now: Progress, eta: float | None) -> None:
    assert now.eta == (None if eta is None else pytest.approx(eta))


def test_documents_that_cannot_be_read_are_neither_left_nor_read(tmp_path: Path) -> None:
    def picky(item: ps.Item) -> Any:
        if "film" in item.uri:
            raise Unsupported("a film")
        return parse(item)

    one = world(tmp_path)
    counts = one.run(listing({"memory://film": "x" * 100_000, "memory://a": "one\ntwo\n"}), parse=picky)
    assert (counts["skipped"], counts["bytes"]) == (1, 8)
    assert one.running.progress().queued_bytes == 0


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    """Also where a moved document's vectors turn out to be missing, and its chunks go to the model after all."""
    one = world(tmp_path)
    one.run(listing({"memory://a": "one\ntwo\n", "memory://b": "three\n"}))
    one.sink.delete([id for page in one.sink.ids() for id in page])
    counts = one.run(listing({"memory://moved": "one\ntwo\n", "memory://b": "three\n", "memory://c": "four\n"}))
    assert (counts["moved"], counts["embedded"]) == (0, 3)
    last = one.running.progress()
    assert (last.queued_bytes, last.queued_tokens, last.eta) == (0, 0, 0.0)
