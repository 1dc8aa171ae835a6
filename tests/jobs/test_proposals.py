"""Questions proposed from an index: from headings and first sentences, of as many documents as there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import SinkError, UsageError
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, single
from penstock.jobs import proposals as jobs
from penstock.jobs.proposals import Proposal, proposal, propose_questions
from penstock.jobs.questions import read_questions
from penstock.sinks.functions import FunctionSink
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.embedders import HashingEmbedder

SENTENCE = "The gate decides how much water the pipe may hold."


def chunk(text: str, *headings: str, uri: str = "doc:1", id: int = 0, **details: Any) -> Chunk:
    return Chunk(f"{id:032x}", uri, 0, text, (0, len(text)), headings=headings, **details)


@pytest.mark.parametrize(
    ("text", "headings", "question"),
    [
        (f"{SENTENCE} More.", (), SENTENCE[:-1]),
        (f"## Gates and pipes\n\n{SENTENCE}", ("Plant", "Gates and pipes"), "Plant: Gates and pipes"),
        (f"Gates and pipes\n\n{SENTENCE}", ("Gates and pipes",), "Gates and pipes"),
        (f"# Introduction\n\n{SENTENCE}", ("Introduction",), SENTENCE[:-1]),
        (f"{SENTENCE}", ("Plant", "Gates and pipes"), SENTENCE[:-1]),
        (f"and so it ends there. {SENTENCE}", (), SENTENCE[:-1]),
        (f"- **The gate** decides how\n  much `water` the [pipe](x.md) may hold.\n- {SENTENCE}", (), SENTENCE[:-1]),
        (f"```sh\nThis is code and no sentence at all.\n```\n\n{SENTENCE}", (), SENTENCE[:-1]),
        (f"| This is a table and no sentence. |\n\n{SENTENCE}", (), SENTENCE[:-1]),
        (f"Copyright 2026 by the makers of all gates. {SENTENCE}", (), SENTENCE[:-1]),
        ("The name HF_TOKEN is that of a variable.", (), "The name HF_TOKEN is that of a variable"),
        ("闸门决定管道能容纳多少水。然后结束。", (), "闸门决定管道能容纳多少水。"),
        ("Home | Docs | Blog", (), None),
        ("Too short.", (), None),
        ("1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5.", (), None),
        ("no sentence begins here, and none ends", (), None),
        ("# Gates and pipes", ("Gates and pipes",), None),
        ("", (), None),
    ],
)
def test_a_chunk_gives_the_heading_that_it_begins_with_or_its_first_sentence(
    text: str, headings: tuple[str, ...], question: str | None
) -> None:
    one = chunk(text, *headings)
    found = proposal(one)
    assert (found.question if found else None) == question
    if found:
        (asked,) = read_questions([found.to_json()])
        assert asked.answers[0].is_in(one), "the chunk itself has the passage"


def test_images_are_asked_nothing() -> None:
    assert proposal(chunk(SENTENCE, image=b"")) is None


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[MemorySink]:
    sink = MemorySink(f"memory://{tmp_path}")
    yield sink
    forget(sink.url)


def fill(sink: MemorySink, chunks: list[Chunk]) -> None:
    with sink:
        sink.open(Manifest(single(HashingEmbedder(2).describe())))
        sink.write([Point(one, {VECTOR: Dense(np.ones(2, np.float32))}) for one in chunks])


def test_documents_come_in_turns_and_the_same_ones_each_time(sink: MemorySink) -> None:
    """A document of 400 chunks is asked no more than the others, whatever the order of the store."""
    texts = [(f"doc:{n % 10 if n < 100 else 0}", f"{SENTENCE[:-1]} of number {n}.") for n in range(500)]
    chunks = [chunk(text, uri=uri, id=n * 7919, page=3) for n, (uri, text) in enumerate(texts)]
    fill(sink, chunks)
    found = propose_questions(sink, 20)
    assert len({one.question for one in found}) == 20
    assert len({one.uri for one in found[:8]}) >= 8
    assert max([one.uri for one in found].count(uri) for uri in {one.uri for one in found}) <= 4
    forget(sink.url)
    fill(sink, chunks[::-1])
    assert propose_questions(sink, 20) == found
    assert propose_questions(sink, 20, seed=1) != found
    assert found[0].to_json().keys() == {"question", "uri", "page", "passage"}


def test_what_several_chunks_say_is_boilerplate(sink: MemorySink) -> None:
    same = [chunk(f"{SENTENCE} And {n}.", uri=f"doc:{n}", id=n) for n in range(5)]
    fill(sink, [*same, chunk("Only this sentence is like no other here.", uri="doc:9", id=9)])
    (one,) = propose_questions(sink, 10)
    assert one == Proposal(
        "Only this sentence is like no other here", "doc:9", None, "Only this sentence is like no other here."
    )


def test_few_points_are_fetched_however_many_there_are(sink: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are drawn."""
    fill(sink, [chunk(f"{SENTENCE[:-1]} of {n}.", uri=f"doc:{n}", id=n) for n in range(3000)])
    sizes: list[int] = []
    fetch = MemorySink.fetch
    monkeypatch.setattr(MemorySink, "fetch", lambda self, ids: sizes.append(len(ids)) or fetch(self, ids))
    seen: list[tuple[int, int]] = []
    assert len(propose_questions(sink, 5, progress=lambda *moment: seen.append(moment))) == 5
    assert sum(sizes) == 5 * jobs.DRAWN
    assert seen[-1] == (3000, 3000)


def test_what_cannot_be_read_is_refused(sink: MemorySink, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="there is no index"):
        propose_questions(sink, 5)
    with pytest.raises(UsageError, match="invalid number 0"):
        propose_questions(sink, 0)
    written = FunctionSink("notes", write=print, delete=print, manifest=tmp_path / "notes.json")
    written.open(Manifest(single(HashingEmbedder(2).describe())))
    with pytest.raises(UsageError, match="cannot be read back"):
        propose_questions(written, 5)
