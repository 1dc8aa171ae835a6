"""What holds of facets in every store that has them."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.core.fields import kind
from penstock.sinks import facets
from penstock.testing.sink_suite import point

ORDERED: list[Any] = ["", -3, 1.5, 10, "10", 1e22, 2.0, 9, "9", False, True, "True", "Z", "a", "b", "ä"]


def equal_counts(sink: Sink, index: Index) -> None:
    """Values of equal counts are in the order of their texts, and so are those that a limit leaves."""
    sink.write([point(n, metadata={"v": [*reversed(ORDERED)], "w": ["b", 7][n:]}) for n in range(2)])
    sink.flush()
    for limit in (1, 3, 6, 9, 12, 16, 20):
        counts = index.facets(["v"], limit=limit)["v"]
        assert [(kind(value), value) for value, _ in counts] == [(kind(v), v) for v in ORDERED[:limit]], limit
        assert {count for _, count in counts} == {2}
    assert index.facets(["w"]) == {"w": [(7, 2), ("b", 1)]}


def too_many_values(sink: Sink, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused as soon as there are too many, in number or in length, whatever the corpus holds beside them."""
    sink.write([point(n, metadata={"v": f"value {n}", "few": n % 3, "nan": float("nan")}) for n in range(40)])
    sink.flush()
    assert len(index.facets(["v"], limit=100)["v"]) == 40
    with monkeypatch.context() as patch:
        patch.setattr(facets, "MOST_VALUES", 39)
        with pytest.raises(UsageError, match="'v' has too many different values"):
            index.facets(["few", "v"])
        assert len(index.facets(["v"], {"few": 1}, limit=100)["v"]) == 13
        assert index.facets(["few", "nan"], limit=1) == {"few": [(0, 14)], "nan": []}
    with monkeypatch.context() as patch:
        patch.setattr(facets, "MOST_CHARACTERS", 200)
        with pytest.raises(UsageError, match="'v' has too many different values"):
            index.facets(["v"])
