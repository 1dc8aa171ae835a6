"""Functions of the user's own that are edited: what was made by them is made anew, and no more than that."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import penstock as ps
from penstock import chunkers
from penstock.chunkers import text
from penstock.core.errors import SpaceMismatch, UsageError
from penstock.core.records import Item
from penstock.ledger import Ledger
from penstock.sinks.memory import MemorySink
from penstock.testing.embedders import HashingEmbedder

PARSER = "def parse(stream, item):\n    yield stream.read().decode()\n"


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str], ModuleType]:
    """A module `mine` of this source, as a program meets it that is edited and started again."""
    numbers = count()

    def module(source: str) -> ModuleType:
        path = tmp_path / f"mine{next(numbers)}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    return module


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., ps.Report]:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.log").write_text("one line\n\nanother line")
    (docs / "b.txt").write_text("a text\n\nof two paragraphs")
    (docs / "c.raw").write_bytes(bytes(range(256)) * 8)

    def run(**options: Any) -> ps.Report:
        values: dict[str, Any] = {"model": HashingEmbedder(8), "state": tmp_path / "ledger.db"}
        return ps.Pipeline(docs, into=f"memory://{tmp_path}", **values | options).run()

    return run


def texts(tmp_path: Path) -> set[str]:
    sink = MemorySink(f"memory://{tmp_path}")
    ids = [id for page in sink.ids() for id in page]
    return {point.chunk.text for point in sink.fetch(ids)}


def test_documents_of_a_changed_parser_are_read_again(run: Any, edited: Any, tmp_path: Path) -> None:
    first = run(parsers={"text/x-log": edited(PARSER).parse})
    assert (first.documents, first.embedded) == (2, 2)
    same = run(parsers={"text/x-log": edited("# A comment.\n" + PARSER).parse})
    assert (same.documents, same.unchanged) == (0, 3)
    changed = edited(PARSER.replace("decode()", "decode().upper()"))
    plan = ps.Pipeline(
        tmp_path / "docs", into=f"memory://{tmp_path}", model=HashingEmbedder(8), state=tmp_path / "ledger.db",
        parsers={"text/x-log": changed.parse},
    )  # fmt: skip
    assert plan.plan().documents == (("changed", (tmp_path / "docs" / "a.log").as_uri()),)
    assert plan.verify().outdated == 1
    second = run(parsers={"text/x-log": changed.parse})
    assert (second.documents, second.embedded, second.unchanged) == (1, 1, 2)
    assert texts(tmp_path) == {"ONE LINE\n\nANOTHER LINE", "a text\n\nof two paragraphs"}
    assert run(parsers={"text/x-log": changed.parse}).unchanged == 3
    assert plan.verify().ok


def test_no_vector_of_an_unchanged_text_is_made_again(run: Any, edited: Any) -> None:
    run(parsers={"text/x-log": edited(PARSER).parse})
    again = run(parsers={"text/x-log": edited(PARSER.replace("read()", "read(1 << 20)")).parse})
    assert (again.documents, again.embedded, again.written, again.removed) == (1, 0, 0, 0)


def test_documents_of_a_version_that_cut_otherwise_are_read_again(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan counts them, the report says so, and what is the same is kept."""
    lines = "".join(f"Line {n} of a text, as long as the others, which is cut. " for n in range(80))
    (tmp_path / "docs" / "b.txt").write_text(lines)
    pipeline = ps.Pipeline(
        tmp_path / "docs", into=f"memory://{tmp_path}", model=HashingEmbedder(8), state=tmp_path / "ledger.db"
    )
    with monkeypatch.context() as patch:
        patch.setattr(chunkers, "CUTTING", "1")
        patch.setattr(text, "pick", lambda text, ends: ends[-1])
        assert run().documents == 2
        assert pipeline.plan().changed == 0
    planned = pipeline.plan()
    assert planned.changed == 3  # with the one that was skipped
    assert planned.chunks > 0
    assert planned.kept > 0
    report = run()
    assert (report.documents, report.embedded, report.ok) == (2, planned.chunks, True)
    assert any("cuts text into other chunks" in notice for notice in report.notices)
    assert pipeline.verify().ok
    assert run().unchanged == 3


def test_a_parser_that_is_added_or_taken_away_counts_as_well(run: Any, edited: Any, tmp_path: Path) -> None:
    """Also for files that nothing read before."""
    assert run().documents == 2
    shout = edited("def parse(stream, item):\n    yield 'mine ' + item.media_type\n").parse
    added = run(parsers={"text/x-log": shout, "application/x-raw": shout})
    assert (added.documents, added.unchanged) == (2, 1)
    assert {"mine text/x-log", "mine application/x-raw"} < texts(tmp_path)
    assert run(parsers={"text/x-log": shout, "application/x-raw": shout}).unchanged == 3
    assert run().documents == 1
    assert "one line\n\nanother line" in texts(tmp_path)


def test_a_document_that_failed_is_tried_again_by_a_mended_parser(run: Any, edited: Any, tmp_path: Path) -> None:
    broken = edited("def parse(stream, item):\n    yield 1 / 0\n").parse
    assert run(parsers={"text/x-log": broken}).failing == 1
    assert run(parsers={"text/x-log": broken}).parked == 1
    mended = run(parsers={"text/x-log": edited(PARSER).parse})
    assert (mended.documents, mended.failing) == (1, 0)


def test_a_version_decides_instead_of_the_code(run: Any, edited: Any) -> None:
    versioned = PARSER + "parse.version = 1\n"
    run(parsers={"text/x-log": edited(versioned).parse})
    assert not run(parsers={"text/x-log": edited(versioned.replace("decode()", "decode('latin1')")).parse}).documents
    assert run(parsers={"text/x-log": edited(versioned.replace("= 1", "= 2")).parse}).documents == 1


def test_an_edited_chunker_is_another_chunking(run: Any, edited: Any) -> None:
    source = "def cut(text):\n    return text.split('\\n\\n')\n"
    assert run(chunk=edited(source).cut).embedded == 4
    assert run(chunk=edited(source).cut).unchanged == 3
    with pytest.raises(SpaceMismatch, match=r"mine.cut \(code .*mine.cut \(code "):
        run(chunk=edited(source.replace("text.split", "text.strip().split")).cut)


def test_an_edited_model_is_another_space(run: Any, edited: Any, tmp_path: Path) -> None:
    source = "def model(texts):\n    return [[len(text), 1.0] for text in texts]\n"
    run(model=edited(source).model)
    changed = edited(source.replace("1.0", "2.0")).model
    with pytest.raises(SpaceMismatch):
        run(model=changed)
    with pytest.raises(SpaceMismatch):
        ps.open_index(f"memory://{tmp_path}", model=changed)


def test_what_cannot_be_compared_is_said_once(run: Any, edited: Any) -> None:
    source = "class Cut:\n def __init__(self): self.words = ['a']\n def cut(self, text): return [text]\n"
    (notice,) = run(chunk=edited(source).Cut().cut).notices
    assert "words of mine.Cut" in notice
    assert "version" in notice
    assert run(chunk=edited(source).Cut().cut).notices == ()


def test_a_media_type_that_no_file_has_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    def parse(stream: Any, item: Item) -> Iterator[str]:
        yield ""

    with pytest.raises(UsageError, match="never be called: use 'text/x-python'"):
        ps.Pipeline(
            tmp_path / "nowhere", into=f"memory://{tmp_path}", parsers={"text/x-pyton": parse, "text/x-py": parse}
        )


def test_ledgers_from_before_are_read_again_where_a_parser_of_ones_own_reads(
    run: Any, edited: Any, tmp_path: Path
) -> None:
    parsers: Mapping[str, Any] = {"text/x-log": edited(PARSER).parse}
    run(parsers=parsers)
    with Ledger.writer(tmp_path / "ledger.db") as ledger:
        ledger._open().execute("UPDATE documents SET parser_code = NULL")
    again = run(parsers=parsers)
    assert (again.documents, again.embedded) == (1, 0)
