"""What a session reads, and what commands that change nothing leave alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import OwnershipError, SpaceMismatch
from penstock.core.records import Hit
from penstock.core.schema import Manifest
from penstock.ledger import Ledger
from penstock.sinks.memory import MemoryIndex, MemorySink
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.sources import ListSource

DOCUMENTS = {f"doc:{n}": f"document {n}".encode() for n in range(5)}


def pipeline(url: str, state: Path) -> ps.Pipeline:
    return ps.Pipeline(ListSource(DOCUMENTS), into=url, model=HashingEmbedder(8), state=state)


def test_verify_takes_nothing_over(tmp_path: Path) -> None:
    """An index without an owner, as after a copy: neither its manifest nor a ledger is changed by looking."""
    one, other = f"memory://{tmp_path}/one", f"memory://{tmp_path}/other"
    pipeline(one, tmp_path / "one.db").run()
    ps.copy(one, other)
    kept = MemorySink(other).manifest()
    with Ledger.writer(tmp_path / "other.db") as ledger:
        ledger.begin(["doc:of mine"], ledger.begin_run("space"))
    with pytest.raises(OwnershipError, match="penstock ingest"):
        pipeline(other, tmp_path / "other.db").verify()
    assert MemorySink(other).manifest() == kept
    assert kept is not None
    assert kept.owners == {}
    with Ledger.reader(tmp_path / "other.db") as ledger:
        assert ledger.counts().documents == 1
    assert pipeline(other, tmp_path / "other.db").run().embedded == 0
    assert pipeline(other, tmp_path / "other.db").verify().ok


def test_a_run_that_is_refused_leaves_no_ledger(tmp_path: Path) -> None:
    """A ledger without an index would be one more that commands ask to choose from."""
    url = f"memory://{tmp_path}/one"
    pipeline(url, tmp_path / "one.db").run()
    with pytest.raises(OwnershipError, match=r"filled by the ledger .*one.db. Use that one"):
        pipeline(url, tmp_path / "two.db").run()
    with pytest.raises(SpaceMismatch):
        ps.Pipeline(ListSource(DOCUMENTS), into=url, model=HashingEmbedder(4), state=tmp_path / "three.db").run()
    assert [path.name for path in tmp_path.glob("*.db")] == ["one.db"]


def test_a_run_asks_for_the_manifest_no_more_than_it_must(tmp_path: Path) -> None:
    """Each time that the sink is not open is a connection to a store."""
    asked: list[bool] = []

    class Asked(MemorySink):
        opened = False

        def open(self, manifest: Manifest) -> None:
            super().open(manifest)
            self.opened = True

        def manifest(self) -> Manifest | None:
            asked.append(self.opened)
            return super().manifest()

    def run() -> ps.Report:
        return ps.Pipeline(
            ListSource(DOCUMENTS),
            into=Asked(f"memory://{tmp_path}"),
            model=HashingEmbedder(8),
            state=tmp_path / "ledger.db",
        ).run()

    assert run().embedded == 5
    assert asked.count(False) == 1
    asked.clear()
    assert run().unchanged == 5
    assert asked.count(False) == 1


def test_a_run_that_waits_for_another_first_run_forgets_nothing(tmp_path: Path) -> None:
    """The other one makes the index after this one has looked for it, and ends before this one has the ledger."""
    url, state = f"memory://{tmp_path}", tmp_path / "ledger.db"

    class Slow(ListSource):
        def open(self) -> None:
            super().open()
            if not state.exists():
                assert pipeline(url, state).run().embedded == 5

    gone = dict(list(DOCUMENTS.items())[1:])
    report = ps.Pipeline(Slow(gone), into=url, model=HashingEmbedder(8), state=state).run()
    assert (report.embedded, report.unchanged, report.deleted) == (0, 4, 1)
    assert not report.notices
    assert MemorySink(url).count() == 4


def test_a_search_asks_for_the_manifest_once(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}"
    pipeline(url, tmp_path / "ledger.db").run()
    asked: list[bool] = []

    class Asked(MemoryIndex):
        def manifest(self) -> Manifest:
            asked.append(True)
            return super().manifest()

        def search(self, *args: Any, **options: Any) -> list[Hit]:
            return MemoryIndex(url).search(*args, **options)

    with ps.open_index(Asked(url), model=HashingEmbedder(8)) as index:
        assert index.search("document 3", k=1)
        asked.clear()
        for number in range(5):
            assert index.search(f"document {number}", k=1)
    assert not asked


def test_a_query_loads_no_engine_and_no_ledger(tmp_path: Path) -> None:
    code = f"""
import sys
import penstock as ps
from penstock.testing.embedders import HashingEmbedder
with ps.open_index("lance://{tmp_path}/index", model=HashingEmbedder(8)) as index:
    assert index.search("document 3", k=1)
loaded = [name for name in sys.modules if name.startswith(("penstock.engine", "penstock.ledger", "penstock.pipeline"))]
assert not loaded, loaded
"""
    pipeline(f"lance://{tmp_path}/index", tmp_path / "ledger.db").run()
    subprocess.run([sys.executable, "-c", code], check=True)
