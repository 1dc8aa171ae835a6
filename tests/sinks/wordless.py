"""Indexes without full text, as earlier versions made them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.core.records import VECTOR
from penstock.testing.sink_suite import SinkSuite, holds, point


def without_words(sink: Sink, index: Index, age: Callable[[], None]) -> None:
    """It is written to and searched as before, and says that it has no full text. `age` makes it an earlier one."""
    points = [point(n, text="alpha") for n in range(3)]
    with sink, index:
        sink.open(SinkSuite().manifest)
        age()
        sink.write(points)
        holds(sink, points)
        index.open()
        assert index.search(points[1].vectors[VECTOR], k=1)[0].chunk == points[1].chunk
        assert not index.finds_words
        with pytest.raises(UsageError, match="no full text"):
            index.search_words("alpha")
