"""What stores do that were made before there was full text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.testing.sink_suite import SinkSuite


def gets_full_text(sink: Sink, index: Index, remove: Callable[[], object]) -> None:
    """Without full text, which `remove` removes, searches are refused, and writes go on; `maintain` makes it, of all
    that is there, once."""
    points = SinkSuite().points
    with sink, index:
        sink.open(SinkSuite().manifest)
        sink.write(points(1, text="alpha first") + points(2, text="alpha second"))
        sink.flush()
        remove()
        index.open()
        assert not index.finds_words
        with pytest.raises(UsageError, match="no full text yet"):
            index.search_words("alpha")
        sink.write(points(2, text="alpha changed") + points(3, text="alpha third"))
        sink.delete([p.id for p in points(1)])
        sink.flush()
        for _ in range(2):
            sink.maintain()
            assert index.finds_words
            assert sorted(h.chunk.ordinal for h in index.search_words("alpha")) == [2, 3]
            assert index.search_words("first") == index.search_words("second") == []
        sink.write(points(4, text="alpha fourth"))
        sink.flush()
        assert len(index.search_words("alpha")) == 3
