"""What a plan says of documents that a run would fail at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import penstock as ps
from penstock.core.records import Block, Piece
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource


def picky(blocks: Iterable[Block]) -> Iterator[Piece]:
    for block in blocks:
        if "3" in block.text:
            raise ValueError("no 3s")
        yield Piece(block.text, (0, len(block.text)))


def test_a_document_that_the_chunker_chokes_on_is_unreadable(tmp_path: Path) -> None:
    class Picky:
        def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
            return picky(blocks)

    documents = {f"doc:{n}": f"document {n}".encode() for n in range(5)}
    pipeline = ps.Pipeline(
        ListSource(documents),
        into=f"memory://{tmp_path}",
        model=HashingEmbedder(8),
        chunk=Picky(),
        state=tmp_path / "ledger.db",
    )
    plan = pipeline.plan()
    assert (plan.new, plan.chunks, plan.unreadable) == (5, 4, 1)
    report = pipeline.run()
    assert (report.embedded, report.failed) == (4, 1)
