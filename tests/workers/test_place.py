"""Which parts of a shard count, whoever wrote them, and what files of others do."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import SourceError, UsageError
from penstock.core.records import Chunk, Dense, MultiVector, Sparse, Vector
from penstock.core.schema import IndexSchema, VectorSpec
from penstock.engine.journal import ChunkEntry
from penstock.shards.leases import Lease, LeaseLost, Leases
from penstock.workers import contents
from penstock.workers.part import Fault, Outcome, Part, Row, decode
from penstock.workers.place import PartName, Place, Taken, Work
from penstock.workers.shard import Listed, encode, encode_known
from penstock.workers.shard import decode as decode_shard
from penstock.workers.writer import PartWriter

SCHEMA = IndexSchema(
    {
        "dense": VectorSpec("m", 3, "d"),
        "late": VectorSpec("m", 2, "l", "MultiVector"),
        "bits": VectorSpec("m", 16, "b", "MultiVector", precision="bits"),
        "halves": VectorSpec("m", 2, "h", "MultiVector", precision="fp16"),
        "words": VectorSpec("m", 1 << 20, "s", "Sparse"),
    },
    "9 tokens",
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.at(f"shards://{tmp_path}/place")


def row(number: int, document: int = 0, moved: bytes | None = None) -> Row:
    chunk = Chunk(f"{number:032x}", f"file:///{document}", number, f"text {number} ü", (0, 9), 2, ("A", "B"), {"n": 1})
    vectors: dict[str, Vector] = {
        "dense": Dense(np.array([number, 1, 2], np.float32)),
        "late": MultiVector(np.full((number % 3, 2), number, np.float32)),
        "bits": MultiVector(np.full((number % 2 + 1, 2), number, np.uint8)),
        "halves": MultiVector(np.full((2, 2), number / 8, np.float16)),
        "words": Sparse(np.array([3, 9], np.int32), np.array([0.5, number], np.float32)),
    }
    return Row(document, number.to_bytes(16), 7, 8, 9, chunk, None if moved else vectors, moved)


def test_a_part_comes_back_as_it_was() -> None:
    rows = [row(1), row(2, 1), row(3, 1, moved=b"m" * 16), Row(0, b"k" * 16)]
    ending = Outcome(1, "f", "r", "open", {"chunks": 2}, [Fault("parse", "a cause", False, "page 3")])
    part = Part(SCHEMA)
    for one in rows:
        part.add(one)
    part.outcomes.append(ending)
    read = decode("part", part.encode({"shard": 1}), SCHEMA, ["file:///0", "file:///1"])
    assert list(read.outcomes) == [ending]
    found = [one for some in read.rows for one in some]
    for one, other in zip(found, rows, strict=True):
        assert (one.document, one.id, one.moved, one.chunk) == (other.document, other.id, other.moved, other.chunk)
        assert (one.vectors is None) == (other.vectors is None)
        for name, vector in (one.vectors or {}).items():
            assert other.vectors is not None
            assert np.array_equal(vector.values, other.vectors[name].values)
            assert vector.values.dtype == other.vectors[name].values.dtype
            if isinstance(vector, Sparse):
                assert vector.indices.tolist() == [3, 9]


@pytest.mark.parametrize("damage", ["cut", "other vectors", "other shard", "no part"])
def test_a_damaged_part_is_refused(damage: str) -> None:
    part = Part(SCHEMA)
    part.add(row(1, document=5))
    data = part.encode({})
    schema, uris = SCHEMA, ["file:///0"] * 6
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "other vectors":
        schema = IndexSchema({"dense": VectorSpec("m", 4, "d")})
    elif damage == "other shard":
        uris = ["file:///0"]
    else:
        data = b"no part"
    with pytest.raises(SourceError, match="cannot be read as a part"):
        list(decode("part", data, schema, uris).rows)


def writer(place: Place, lease: Lease) -> PartWriter:
    return PartWriter(place, SCHEMA, lease.shard, lease.term, check=lease.check, age=0.0)


def test_a_part_that_comes_after_the_lease_does_not_count(place: Place) -> None:
    place.put_shard(7, encode(7, [Listed("file:///0", "f")]), b"")
    mine, others = Leases(place, ttl=60.0), Leases(place, ttl=60.0)
    first = mine.take(7)
    assert first is not None
    assert others.take(7) is None
    writer(place, first).add_rows([row(1)])
    assert place.look().counted(7, 1) == [PartName(7, 1, 1)]
    first.release()  # as if it had expired: its holder does not know
    second = others.take(7)
    assert second is not None
    assert second.term == 2
    assert not second.after_death
    taken = [PartName(7, 1, 1)]
    place.store.put(str(PartName(7, 1, 2)), b"late")
    assert place.look().counted(7, 1) is None, "the first lease is not the latest any more"
    assert place.look().counted(7, 2) is None, "nobody has said yet what counts"
    place.put_taken(7, 2, Taken(parts=taken))
    writer(place, second).add_rows([row(2)])
    assert place.look().counted(7, 2) == [*taken, PartName(7, 2, 1)]
    with pytest.raises(LeaseLost):
        writer(place, first).add_rows([row(3)])
    second.release()


def test_what_is_known_of_a_document_comes_back() -> None:
    entries = [ChunkEntry(4, number.to_bytes(16), 5, number * 10, 1) for number in range(5000)]
    known = encode_known(1, [entries[:3000], entries[3000:]])
    listed = [Listed("file:///0", "a"), Listed("file:///1", "b", "r")]
    shard = decode_shard(3, encode(3, listed, afresh=True), known)
    assert (list(shard.documents), shard.afresh) == (listed, True)
    assert [one for page in shard.chunks() for one in page] == [(1, e.id, e.digest) for e in entries]
    for documents, chunks in ((encode(4, listed), known), (encode(3, listed[:1]), known), (b"{}", b""), (b"[", b"")):
        with pytest.raises(SourceError, match="shard 3 cannot be read"):
            decode_shard(3, documents, chunks)


def test_contents_are_found_by_halves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "PAGE", 10)
    rows = [(number * 3 - 60, number.to_bytes(16)) for number in range(45)]
    contents.write(place, [rows[:20], rows[20:]])
    assert len(place.store.names("_contents")) == 5
    with closing(contents.Contents(place)) as kept:
        assert kept.find([-60, -59, 0, 72, 73, 1 << 62]) == {-60: rows[0][1], 0: rows[20][1], 72: rows[44][1]}
    place.remove_contents()
    with closing(contents.Contents(place)) as kept:
        assert kept.find([1]) == {}


def test_what_is_to_be_done_is_checked(place: Place) -> None:
    work = Work("ledger", 3, {"model": "m"}, SCHEMA, "reading", "0.1")
    place.begin(work)
    assert place.work() == work
    for data in (b"", b"[]", b'{"penstock_work": 9}', work.to_json().replace(b'"run": 3', b'"run": "3"')):
        place.store.put("_penstock.json", data)
        with pytest.raises(UsageError, match="does not say what is to be done"):
            place.work()
