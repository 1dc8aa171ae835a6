"""What a plan says of documents that a run would fail at, or take out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import penstock as ps
from penstock.core.deletions import parse_deletions
from penstock.core.errors import MassDeletion, UsageError
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


def test_what_would_go_is_counted_named_and_held_to_the_limit(tmp_path: Path) -> None:
    """As the run does it: a plan that shows no deletion, or one that a run then refuses, is no plan."""
    source = ListSource({f"doc:{n}": f"document {n}\n\nmore {n}".encode() for n in range(10)})

    def pipeline(max_delete: str | int) -> ps.Pipeline:
        return ps.Pipeline(
            source,
            into=f"memory://{tmp_path}",
            model=HashingEmbedder(8),
            chunk=lambda text: text.split("\n\n"),
            state=tmp_path / "ledger.db",
            max_delete=max_delete,
        )

    pipeline("50%").run()
    for uri in ("doc:3", "doc:7"):
        del source.entries[uri]
    for limit, refused in (("10%", True), ("19.9%", True), ("20%", False), (1, True), ("2", False)):
        plan = pipeline(limit).plan()
        assert (plan.deleted, plan.removed, plan.refused) == (2, 4, refused), limit
    assert plan.documents == (("deleted", "doc:3"), ("deleted", "doc:7"))
    with pytest.raises(MassDeletion, match="2 documents with 4 of 20 chunks, and at most 1 document may go"):
        pipeline(1).run()
    report = pipeline("10%").run(allow_mass_delete=True)
    assert (report.deleted, report.removed) == (plan.deleted, plan.removed)


@pytest.mark.parametrize("limit", ["110%", "half", "-1", "1.5", ""])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(UsageError, match="expected a share such as 10%, or a number"):
        parse_deletions(limit)
