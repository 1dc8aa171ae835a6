"""Stores in a folder: `maintain` gives back the room of what was deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.core.schema import Manifest
from penstock.registry import SINKS, find
from penstock.support.vacuum import vacuum
from penstock.testing.sink_suite import SinkSuite, holds, point

MANIFEST: Manifest = SinkSuite().manifest
TEXT = "x" * 2000


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "driver"), [("lance", "lancedb"), ("sqlite", "sqlite_vec"), ("qdrant", "qdrant_client")]
)
def test_deleted_points_leave_no_room_behind(tmp_path: Path, name: str, driver: str) -> None:
    """One of eight is left of what each block, fragment and page held: the index is hardly larger than a fresh one."""
    pytest.importorskip(driver)
    points = [point(n, text=TEXT) for n in range(5000)]
    left = points[::8]
    sizes = []
    for folder, written in ((tmp_path / "full", points), (tmp_path / "fresh", left)):
        with find(SINKS, name)(f"{name}://{folder}/notes") as sink:
            sink.open(MANIFEST)
            for start in range(0, len(written), sink.max_rows):
                sink.write(written[start : start + sink.max_rows])
            gone = [one.id for n, one in enumerate(points) if n % 8] if written is points else []
            for start in range(0, len(gone), sink.max_rows):
                sink.delete(gone[start : start + sink.max_rows])
            sink.flush()
            sink.maintain()
            holds(sink, left)
        sizes.append(size(folder))
    assert sizes[0] < 1.3 * sizes[1]


def test_a_few_free_pages_are_left_alone() -> None:
    """A copy of the whole file is made only where that gives back much."""
    done: list[str] = []
    for pages, free in ((100, 99), (100_000, 10_000), (10_000, 1_000)):

        def execute(sql: str, counts: tuple[int, int] = (pages, free)) -> list[tuple[int, int]]:
            done.append(sql)
            return [counts]

        vacuum(execute)
    assert "VACUUM" not in done
    assert len(done) == 3
