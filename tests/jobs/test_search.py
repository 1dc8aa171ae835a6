"""Hits of the same text, put together."""

from __future__ import annotations

from penstock.core.records import Chunk, Hit
from penstock.jobs.search import DISTINCT_AMONG, collapse, distinct_hits


def hit(number: int, text: str, image: bytes | None = None) -> Hit:
    chunk = Chunk(f"{number:032x}", f"file:///{number}.md", 0, text, (0, len(text)), image=image)
    return Hit(1 - number / 10_000, chunk)


def test_the_nearest_of_each_text_stands_first_with_its_copies() -> None:
    """White space at the ends makes no difference; images are never copies, whatever their captions."""
    hits = [hit(1, "a"), hit(2, "b"), hit(3, "a\n"), hit(4, "b"), hit(5, "b"), hit(6, "a", b""), hit(7, ""), hit(8, "")]
    distinct = collapse(hits)
    assert [each.hit for each in distinct] == [hits[0], hits[1], hits[5], hits[6], hits[7]]
    assert [each.uris for each in distinct[:3]] == [("file:///3.md",), ("file:///4.md", "file:///5.md"), ()]


def test_an_index_is_asked_for_more_only_where_there_are_copies() -> None:
    asked: list[int] = []

    def nearest(k: int, texts: list[str]) -> list[Hit]:
        asked.append(k)
        return [hit(number, text) for number, text in enumerate(texts[:k])]

    assert len(distinct_hits(lambda k: nearest(k, ["a", "b", "c", "d"]), 3)) == 3
    assert asked == [3]
    asked.clear()
    distinct = distinct_hits(lambda k: nearest(k, ["a"] * 20 + ["b", "b", "c", "d"] * 50), 3)
    assert [each.hit.chunk.text for each in distinct] == ["a", "b", "c"]
    assert asked == [3, 12, 48]
    asked.clear()
    assert len(distinct_hits(lambda k: nearest(k, ["a"] * 9), 3)) == 1
    assert asked == [3, 12]
    asked.clear()
    assert len(distinct_hits(lambda k: nearest(k, ["a"] * 5000), 3)) == 1
    assert max(asked) == DISTINCT_AMONG
