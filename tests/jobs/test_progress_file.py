"""Other processes see how a run is getting on, while it does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from penstock import Pipeline
from penstock.jobs import progress_file
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sources import ListSource


def test_a_run_can_be_watched(tmp_path: Path) -> None:
    """While it runs there is a note of it; afterwards, and after one that failed, there is none."""
    seen: list[dict[str, Any] | None] = []
    ledger = tmp_path / "ledger.db"
    slow = FaultyEmbedder(HashingEmbedder(8), EmbedFaults(seconds=0.8))
    source = ListSource({f"doc:{n}": b"some words" for n in range(40)})
    pipeline = Pipeline(source, into=f"memory://{tmp_path}", model=slow, state=ledger)
    report = pipeline.run(lambda moment: seen.append(progress_file.read(ledger)))
    assert report.ok
    assert any(note and note["in_flight"] >= 0 and note["channels"]["chunks"]["capacity"] > 0 for note in seen)
    assert progress_file.read(ledger) is None
    away = FaultyEmbedder(HashingEmbedder(8), EmbedFaults(transient=frozenset(range(100)), seconds=0.2))
    source.entries["doc:1"] = b"other words"
    with pytest.raises(Exception, match="embed"):
        Pipeline(source, into=f"memory://{tmp_path}", model=away, state=ledger).run(max_wait=0.1)
    assert progress_file.read(ledger) is None
    assert not [path for path in tmp_path.iterdir() if ".now" in path.name]


def test_a_note_of_a_run_that_died_is_not_believed(tmp_path: Path) -> None:
    """Nor one that is torn."""
    ledger, note = tmp_path / "ledger.db", tmp_path / "ledger.db.now"
    note.write_text(json.dumps({"at": time.time() - progress_file.FRESH - 1}))
    assert progress_file.read(ledger) is None
    note.write_text("{")
    assert progress_file.read(ledger) is None
    note.write_text(json.dumps({"at": time.time(), "seconds": 1}))
    assert progress_file.read(ledger) is not None


def test_a_draft_writes_over_nothing_that_somebody_put_there(tmp_path: Path) -> None:
    """Its name can be foreseen: a link of that name is replaced, and what it leads to is left alone."""
    ledger, victim = tmp_path / "ledger.db", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "ledger.db.now.new").symlink_to(victim)
    pipeline = Pipeline(
        ListSource({"doc:a": b"words"}), into=f"memory://{tmp_path}", model=HashingEmbedder(8), state=ledger
    )
    assert pipeline.run().ok
    assert victim.read_text() == "precious"
    assert not [path for path in tmp_path.iterdir() if ".now" in path.name]
