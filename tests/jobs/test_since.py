"""Searches in windows of time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import UsageError
from penstock.core.metadata import moment
from penstock.core.records import Item
from penstock.testing.embedders import HashingEmbedder

NOW = time.time()


def times(item: Item) -> dict[str, Any]:
    """The first digits of a file's name are the hours since its `time`."""
    hours, _, name = Path(item.uri).stem.partition("-")
    return {"time": moment(NOW - 3600 * int(hours)), "modified": moment(NOW)} if name == "timed" else {}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ps.OpenIndex]:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("1-timed", "30-timed", "0-new"):
        (docs / f"{name}.md").write_text(f"text {name}")
    url, model = f"sqlite://{tmp_path}/index.db", HashingEmbedder(64)
    assert ps.Pipeline(docs, into=url, model=model, state=tmp_path / "ledger.db", metadata=times).run().ok
    with ps.open_index(url, model) as index:
        yield index


def names(hits: list[ps.Hit]) -> set[str]:
    return {Path(hit.chunk.uri).stem for hit in hits}


@pytest.mark.parametrize(
    "since",
    [
        *("2h", "120m", "7200s", "0.5d", timedelta(hours=2), datetime.fromtimestamp(NOW - 7200, UTC)),
        datetime.fromtimestamp(NOW - 7200, timezone(timedelta(hours=5))),
        datetime.fromtimestamp(NOW - 7200, UTC).isoformat(),
        datetime.fromtimestamp(NOW - 7200, UTC).replace(tzinfo=None).isoformat(),
    ],
    ids=lambda since: type(since).__name__,  # the processes of a run collect tests at different times
)
def test_since(index: ps.OpenIndex, since: Any) -> None:
    assert names(index.search("text", since=since)) == {"1-timed", "0-new"}


def test_since_and_other_options(index: ps.OpenIndex) -> None:
    assert names(index.search("text", since="3d")) == {"1-timed", "30-timed", "0-new"}
    assert names(index.search("text", since=date(1990, 1, 1))) == {"1-timed", "30-timed", "0-new"}
    assert names(index.search("text", since="2h", where={"name": {"$prefix": "1"}})) == {"1-timed"}
    assert names(index.search("text", since=None)) == {"1-timed", "30-timed", "0-new"}
    first = index.search("text", 1, since="2h")
    assert first.cursor is not None
    second = index.search("text", 1, since="2h", cursor=first.cursor)
    assert names(first) | names(second) == {"1-timed", "0-new"}
    with pytest.raises(UsageError, match="another query"):
        index.search("text", 1, since="3d", cursor=first.cursor)


@pytest.mark.parametrize("since", ["", "2", "h", "-2h", "2y", "yesterday", "99999999999d", "inf"])
def test_what_is_no_time_is_refused(index: ps.OpenIndex, since: str) -> None:
    with pytest.raises(UsageError, match="invalid since"):
        index.search("text", since=since)
