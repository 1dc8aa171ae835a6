"""Parts that earlier versions wrote are proved and loaded; those of later ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from penstock.compose import load
from penstock.core.errors import SinkError
from penstock.core.records import VECTOR, Dense
from penstock.core.schema import VectorSpec, single
from penstock.shards import verify
from penstock.shards.folder import Folder
from penstock.shards.format import records
from penstock.shards.store import at
from penstock.sinks.sqlite import SqliteSink

V1 = Path(__file__).parents[1] / "data" / "versions" / "v1" / "parts"
"""Made by `scripts/make_v1_parts.py`: format 1, with one vector space and its chunking, in two shards."""
SPACE = VectorSpec("letters", 8, "0123456789abcdef0123456789abcdef")


def test_parts_of_format_1_are_proved() -> None:
    """With their records, duplicates, failures and notes."""
    found = verify(V1)
    assert found.ok, found.troubles
    assert (found.shards, found.finished, found.parts, found.rows, found.total) == (2, 2, 4, 8, 8)
    assert found.counts == {"embedded": 8, "duplicate": 2, "failed": 2, "skipped": 2}
    assert sorted(why for _, why in found.failures) == ["its caption cannot be read"] * 2 + ["its header is torn"] * 2


def test_parts_of_format_1_are_loaded(tmp_path: Path) -> None:
    """Into an index of today's format, vector by vector."""
    folder = Folder.open(at(V1))
    assert folder.schema == single(SPACE, "whole images")
    done = load(V1, f"sqlite://{tmp_path}/index.db", state=tmp_path / "progress")
    assert done.ok, done.trouble
    rows = {row.id: row for name in folder.part_names() for row in records(folder.read(name).table)}
    with SqliteSink(done.url) as sink:
        manifest = sink.manifest()
        assert manifest is not None
        assert manifest.schema == folder.schema
        sink.open(manifest)
        points = {point.id: point for point in sink.fetch(list(rows))}
    assert len(points) == len(rows) == 8
    for id, point in points.items():
        vector = point.vectors[VECTOR]
        assert isinstance(vector, Dense)
        assert np.array_equal(vector.values, rows[id].vector)
        assert point.chunk.text == rows[id].text
        assert point.chunk.metadata == {"licence": "CC0", "width": 8, "height": 6}


def test_parts_of_format_1_are_continued(tmp_path: Path) -> None:
    """A shard whose record is missing is open; its parts still count, under the same names and facts."""
    out = tmp_path / "parts"
    shutil.copytree(V1, out)
    (out / "_done" / "0002-000001.json").unlink()
    folder = Folder.begin(at(out), single(SPACE, "whole images"), 2, "file:///pictures")
    assert folder.finished().keys() == {1}
    assert folder.read(folder.part_names(2)[0]).facts["piece"] == 2
    assert verify(out).troubles == ("shard 2 of 2 is not finished",)


def test_parts_of_a_later_version_are_refused(tmp_path: Path) -> None:
    """With a message that says so."""
    (tmp_path / "_penstock.json").write_text(json.dumps({"penstock_parts": 99}))
    with pytest.raises(SinkError, match="newer Penstock"):
        verify(tmp_path)
