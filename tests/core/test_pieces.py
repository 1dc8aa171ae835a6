"""How many points are read or written at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.core.pieces import FIRST, GROWTH, PIECE, SEVERAL, PieceSize, expected, portions
from penstock.core.records import Chunk, Dense, MultiVector, Point
from penstock.core.schema import VectorSpec

DENSE = {"vector": VectorSpec("dense", 384, "d")}
LATE = {"vector": VectorSpec("late", 128, "l", kind="MultiVector"), "title": VectorSpec("dense", 384, "d")}


def point(n: int, rows: int) -> Point:
    vectors = {"vector": MultiVector(np.zeros((rows, 128), np.float32)), "title": Dense(np.zeros(384, np.float32))}
    return Point(Chunk(f"{n:032x}", "doc", n, "text", (0, 4)), vectors)


class Store:
    def __init__(self, rows: Sequence[int]) -> None:
        self.points = {f"{n:032x}": point(n, each) for n, each in enumerate(rows)}
        self.answers: list[list[Point]] = []

    def fetch(self, ids: Sequence[str]) -> list[Point]:
        self.answers.append([self.points[id] for id in ids if id in self.points])
        return self.answers[-1]


def sizes(store: Store) -> list[int]:
    return [sum(point.nbytes for point in answer) for answer in store.answers]


def test_each_id_is_read_once_and_no_piece_is_larger_than_its_room() -> None:
    store = Store([1030] * 100)
    ids = list(store.points)
    read = [one for points in PieceSize(LATE, 1024).read(store.fetch, ids) for one in points]
    assert [one.id for one in read] == ids
    assert max(sizes(store)) <= PIECE
    assert len(store.answers) == 7


def test_small_points_are_soon_read_by_the_thousand() -> None:
    store = Store([1] * 5000)
    assert len(list(PieceSize(DENSE, 1024).read(store.fetch, list(store.points)))) == len(store.answers)
    assert [len(answer) for answer in store.answers[:3]] == [FIRST, FIRST * GROWTH, 1024]


def test_a_size_that_was_learned_holds_for_the_next_ids_and_a_larger_point_lowers_it() -> None:
    size = PieceSize(LATE, 1024, 1 << 20)
    store = Store([10] * 200 + [4097] + [10] * 3)
    ids = list(store.points)
    list(size.read(store.fetch, ids[:200]))
    assert size.rows == 4 * (1 << 20) // SEVERAL, "four times the room, should they all be pages of a thousand"
    list(size.read(store.fetch, ids[200:201]))
    assert size.rows == 1, "one that is larger than the room is read alone"
    for _ in range(9):
        list(size.read(store.fetch, ids[201:]))
    assert size.rows > 1, "and does not make all reads after it small"


def test_ids_that_are_not_there_tell_nothing() -> None:
    store = Store([])
    assert [*PieceSize(LATE, 1024).read(store.fetch, [f"{n:032x}" for n in range(33)])] == [[], [], []]


def test_what_is_expected_before_anything_was_read() -> None:
    assert expected(DENSE) == 4 * 384
    assert expected(LATE) == SEVERAL + 4 * 384
    assert PieceSize(LATE, 1024, 1 << 20).rows == 1
    assert PieceSize(DENSE, 1024, 1 << 20).rows == FIRST


def test_portions_keep_to_rows_and_bytes_and_leave_nothing_out() -> None:
    points = [point(n, 1 + 40 * (n % 7)) for n in range(100)] + [point(100, 4097)]
    parts = list(portions(points, 16, 200_000))
    assert [one for part in parts for one in part] == points
    assert max(map(len, parts)) <= 16
    assert all(len(part) == 1 or sum(one.nbytes for one in part) <= 200_000 for part in parts)
    assert len(parts[-1]) == 1
    assert list(portions([], 16, 1)) == []
