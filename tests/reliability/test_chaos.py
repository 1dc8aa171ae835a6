"""kill -9: child processes, a store on disk, a log that survives every kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.core.schema import single
from penstock.testing.chaos import Broken, JournalSink, check_log, note
from penstock.testing.faults import Fuse


def chaos(*options: str, limit: float = 100) -> Any:
    ran = subprocess.run(
        [sys.executable, "-m", "penstock.testing.chaos", "--json", *options],
        capture_output=True, text=True, timeout=limit,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("how", [["--kills", "30", "--seed", "7"], ["--kills", "20", "--seed", "11", "--feed"]])
def test_fifty_kills_leave_the_index_of_an_undisturbed_run(how: list[str]) -> None:
    """Of a listing and of a feed; nothing that was acknowledged is embedded again (the child checks its log)."""
    outcome = chaos(*how)
    assert outcome["kills"] == int(how[1])
    assert outcome["compared"] > 2
    assert outcome["moved_on"] > 2
    assert len(outcome["moments"]) > 5


@pytest.mark.parametrize("sink", ["lance"])
def test_a_few_kills_of_a_real_store(sink: str) -> None:
    assert chaos("--kills", "2", "--sink", sink, "--seed", "3", "--documents", "8")["kills"] == 2


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", [[], ["--feed"]], ids=["listing", "feed"])
def test_two_hundred_kills(seed: int, how: list[str]) -> None:
    assert chaos("--kills", "200", "--seed", str(seed), *how, limit=600)["kills"] == 200


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sink", ["lance", "sqlite"])
def test_fifty_kills_of_a_real_store(sink: str) -> None:
    assert chaos("--kills", "50", "--sink", sink, limit=600)["kills"] == 50


# ---------------------------------------------------------------- the test tools


def test_a_chunk_embedded_after_its_acknowledgement_is_detected(tmp_path: Path) -> None:
    log = tmp_path / "log"
    note(log, "embedded", ["a", "b"])
    note(log, "embedded", ["a"])  # in flight at a kill: allowed
    note(log, "acknowledged", ["a", "b"])
    note(log, "retracted", ["b"])
    note(log, "embedded", ["b"])
    assert check_log(log) == {"embedded": 4, "again": 2}
    note(log, "embedded", ["a"])
    with pytest.raises(Broken, match="embedded again"):
        check_log(log)


def test_a_fuse_blows_at_its_moment_and_at_every_one_after() -> None:
    blown: list[str] = []
    fuse = Fuse("after write", 2, blow=blown.append)
    for moment in ("before write", "after write", "before write", "after write", "before flush"):
        fuse(moment)
    assert blown == ["after write", "before flush"]


def test_a_torn_record_of_the_journal_is_left_out(tmp_path: Path) -> None:
    """And does not swallow what is written after it."""
    sink = JournalSink(f"journal://{tmp_path}")
    (tmp_path / "journal").write_bytes(b"\x00\x00\x01\x00torn")
    from penstock.core.records import Chunk, Dense, Point
    from penstock.core.schema import Manifest, VectorSpec

    with sink:
        sink.open(Manifest(single(VectorSpec("m", 2, "f"))))
        import numpy as np

        sink.write([Point(Chunk("ab" * 16, "doc:a", 0, "text", (0, 4)), {"vector": Dense(np.ones(2, np.float32))})])
        assert sink.count() == 1
