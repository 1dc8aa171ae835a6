"""The seam: a shard of text documents, by the same flow as images; each input gives one row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.chunkers.text import TextChunker
from penstock.core.schema import IndexSchema
from penstock.embedders.named import Named
from penstock.parsers import Parsers
from penstock.shards import verify
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Folder
from penstock.shards.head import Outcome, Setup, run
from penstock.shards.store import at
from penstock.shards.writer import Writer
from penstock.sources.files import Files
from penstock.testing.embedders import HashingEmbedder

from .world import entries, everything, uris

MODEL = HashingEmbedder(16, workers=2)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Files]:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.md").write_text(f"# Chapter {number}\n\nThe gate opens {number} times.\n")
    with Files(str(folder)) as files:
        files.open()
        yield files


def embedded(source: Files, out: Path, rows: int = 8, chunk: int = 1000, term: int = 1) -> Outcome:
    chunker = TextChunker(chunk, "characters")
    folder = Folder.begin(at(out), IndexSchema(Named(MODEL).describe(), chunker.spec), 1, source.name)
    accounts, parsers = Accounts(), Parsers()
    writer = Writer(folder, 1, term, rows, accounts)
    setup = Setup(
        embedder=Named(MODEL),
        chunker=chunker,
        parse=lambda item, _: parsers.parse(item),
        budget=64 << 20,
        workers=2,
        max_wait=10.0,
    )
    try:
        for name in folder.part_names(1):
            writer.take_in(folder.read(name))
        outcome = run(setup, writer, accounts, source.changes(), None)
        writer.flush() if accounts.open() else writer.finish()
        return outcome
    finally:
        writer.close()
        accounts.close()
        parsers.close()


def test_texts_are_embedded(source: Files, tmp_path: Path) -> None:
    """A row each, with its text and without a content hash; what cannot be read is accounted for."""
    (tmp_path / "in" / "torn.pdf").write_bytes(b"%PDF-1.4 torn")
    (tmp_path / "in" / "data.bin").write_bytes(bytes(range(256)))
    assert embedded(source, tmp_path / "out").status == "done"
    rows = [row for part in everything(tmp_path / "out") for row in part.table.to_pylist()]
    assert len(rows) == 30
    for row in rows:
        number = int(row["uri"][-5:-3])
        assert f"The gate opens {number} times." in row["text"]
        assert (row["content_hash"], row["width"], row["height"]) == (None, None, None)
        assert row["vector"] == MODEL.query([row["text"]])[0].values.tolist()
        assert json.loads(row["metadata"])["media_type"] == "text/markdown"
    assert {name: state for name, (state, _) in entries(tmp_path / "out").items()} == {
        "torn.pdf": "failed",
        "data.bin": "skipped",
    }
    found = verify(tmp_path / "out", source=source)
    assert found.ok, found.troubles


def test_a_shard_of_texts_resumes(source: Files, tmp_path: Path) -> None:
    """After its parts, with whatever is missing."""
    embedded(source, tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    parts[1].unlink()
    next((tmp_path / "out" / "_done").iterdir()).unlink()
    assert len(uris(tmp_path / "out")) < 30
    assert embedded(source, tmp_path / "out", term=2).status == "done"
    assert len(uris(tmp_path / "out")) == len(set(uris(tmp_path / "out"))) == 30
    assert verify(tmp_path / "out").ok


def test_a_document_of_several_chunks_fails(source: Files, tmp_path: Path) -> None:
    """As a whole: a row settles its input, so a kill between two rows would lose the rest in silence."""
    (tmp_path / "in" / "long.md").write_text("One sentence after the other. " * 100)
    assert embedded(source, tmp_path / "out").status == "done"
    assert len(uris(tmp_path / "out")) == 30
    cause = "it has more than one chunk: parts hold one row an input"
    assert entries(tmp_path / "out") == {"long.md": ("failed", cause)}
    assert verify(tmp_path / "out").ok
