"""Parts into a store: all of them, or none is current; an interrupted load resumes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.compose import load
from penstock.core.contracts import Sink
from penstock.core.errors import (
    LockedError,
    OwnershipError,
    Rejected,
    SinkError,
    SourceError,
    SpaceMismatch,
    UsageError,
)
from penstock.core.generations import current
from penstock.core.records import Chunk, Dense, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.registry import SINKS, find
from penstock.shards import Loaded
from penstock.shards.folder import Done, Folder, facts_of
from penstock.shards.format import Digest, Listed, Row, decode
from penstock.shards.store import at
from penstock.sinks.memory import MemorySink, forget

from .world import PixelEmbedder, embedded, encode, pictures, uris


@pytest.fixture
def out(tmp_path: Path) -> Path:
    source = pictures(tmp_path / "in", 40)
    (source / "0" / "00000.json").write_text('{"caption": "a red dot", "licence": "CC0"}')
    embedded(source, tmp_path / "out", claim=True, pieces=3)
    return tmp_path / "out"


@pytest.fixture
def into(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/index.db"


def held(into: str | Sink) -> list[Point]:
    """The points of the current generation."""
    sink = find(SINKS, into.partition("://")[0])(into) if isinstance(into, str) else into
    with current(sink) as there:
        manifest = there.manifest()
        assert manifest is not None
        there.open(manifest)
        return [point for ids in there.ids() for point in there.fetch(ids)]


def loaded_uris(into: str | Sink) -> list[str]:
    return sorted(point.chunk.uri for point in held(into))


class Breaking(MemorySink):
    """Fails at the n-th write."""

    left = 1 << 30
    written: list[str]

    def write(self, points: Sequence[Point]) -> None:
        type(self).left -= 1
        if type(self).left < 0:
            raise SinkError("the store fell over")
        super().write(points)
        type(self).written += [point.id for point in points]


@pytest.fixture
def breaking() -> type[Breaking]:
    class Here(Breaking): ...

    Here.written = []
    for number in range(4):
        forget("memory://loading" + (f"_{number}" if number else ""))
    return Here


@pytest.mark.parametrize("kind", ["sqlite", "lance", "parquet"])
def test_every_row_is_loaded(kind: str, out: Path, tmp_path: Path) -> None:
    """With its vector, caption and metadata; and a search finds it."""
    url = f"{kind}://{tmp_path}/index"
    done = load(out, url, state=tmp_path / "state")
    assert done.ok
    assert (done.parts, done.written, done.kept, done.total) == (done.of_parts, 40, 0, 40)
    assert loaded_uris(url) == uris(out)
    points = {point.chunk.uri[-9:]: point for point in held(url)}
    first = points["00000.png"].chunk
    assert first.text == "a red dot"
    assert {**first.metadata, "width": 8, "height": 6, "licence": "CC0", "name": "00000.png"} == first.metadata
    model = PixelEmbedder()
    for point in points.values():
        raw = Path(point.chunk.uri.removeprefix("file://")).read_bytes()
        assert np.array_equal(point.vectors["vector"].values, model.query_images([raw])[0].values)
    assert not (tmp_path / "state").exists()
    if kind != "parquet":
        with ps.open_index(url, model) as index:
            assert len(index) == 40


def test_the_former_index_is_searched_until_the_new_one_is_complete(out: Path, tmp_path: Path, into: str) -> None:
    """And kept until the next load. Images that are gone are in neither the parts nor the new generation."""
    first = load(out, into, state=tmp_path / "state")
    (tmp_path / "in" / "3" / "00003.png").unlink()
    new = tmp_path / "new"
    embedded(tmp_path / "in", new)
    seen: list[int] = []
    second = load(new, into, lambda done: seen.append(len(held(into))), state=tmp_path / "state")
    assert set(seen) == {40}, "while it was built"
    assert len(held(into)) == 39
    assert "00003.png" not in {uri[-9:] for uri in loaded_uris(into)}
    old = find(SINKS, "sqlite")(first.url)
    assert old.manifest() is not None
    third = load(out, into, state=tmp_path / "state")
    assert old.manifest() is None, "the one before the one before is gone"
    assert len({first.url, second.url, third.url}) == 3
    assert len(held(into)) == 40


def test_progress_over_parts_and_rows(out: Path, tmp_path: Path, into: str) -> None:
    """It never decreases, and reaches the end."""
    seen: list[Loaded] = []
    load(out, into, seen.append, state=tmp_path / "state")
    rows = [one.written for one in seen]
    assert rows == sorted(rows)
    assert (seen[-1].written, seen[-1].parts) == (40, seen[-1].of_parts)
    assert json.dumps(seen[-1].to_json())


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_load_resumes_after_the_last_part(after: int, out: Path, tmp_path: Path, breaking: type[Breaking]) -> None:
    """Acknowledged points are not written again, and nothing is switched before the end."""
    breaking.left = after
    with pytest.raises(SinkError, match="fell over"):
        load(out, breaking("memory://loading"), state=tmp_path / "state")
    assert breaking("memory://loading").manifest() is None
    breaking.left = 1 << 30
    done = load(out, breaking("memory://loading"), state=tmp_path / "state")
    assert done.ok
    assert done.written + done.kept == 40
    assert len(breaking.written) == len(set(breaking.written)) == 40
    assert loaded_uris(breaking("memory://loading")) == uris(out)


def test_without_a_progress_file_the_store_is_compared(out: Path, tmp_path: Path, breaking: type[Breaking]) -> None:
    """Points that it holds are not written again."""
    breaking.left = 3
    with pytest.raises(SinkError, match="fell over"):
        load(out, breaking("memory://loading"), state=tmp_path / "state")
    breaking.left = 1 << 30
    done = load(out, breaking("memory://loading"), state=tmp_path / "another")
    assert done.ok
    assert done.kept > 0
    assert len(breaking.written) == 40


def test_other_parts_begin_anew(out: Path, tmp_path: Path, breaking: type[Breaking]) -> None:
    """Remains of an interrupted load are no part of another one."""
    breaking.left = 3
    with pytest.raises(SinkError, match="fell over"):
        load(out, breaking("memory://loading"), state=tmp_path / "state")
    breaking.left = 1 << 30
    embedded(pictures(tmp_path / "few", 5), tmp_path / "new")
    assert load(tmp_path / "new", breaking("memory://loading"), state=tmp_path / "state").ok
    assert len(held(breaking("memory://loading"))) == 5


def test_gaps_are_refused(out: Path, tmp_path: Path, into: str) -> None:
    """Before anything is written; unless they are allowed."""
    folder = Folder.open(at(out))
    lost = folder.part_names(1)[0]
    missing = len(folder.read(lost).table)
    folder.store.remove(lost)
    folder.store.remove("_done/0003-000001.json")
    with pytest.raises(SourceError, match=rf"{lost} is missing; shard 3 of 3 is not finished"):
        load(out, into, state=tmp_path / "state")
    assert not Path(into.partition("://")[2]).exists()
    done = load(out, into, incomplete=True, state=tmp_path / "state")
    assert (done.switched, done.ok, len(done.gaps)) == (True, False, 2)
    assert done.written == 40 - missing


def test_foreign_fingerprints_are_refused(out: Path, tmp_path: Path, into: str) -> None:
    """Whatever the record says; and nothing is switched."""
    folder = Folder.open(at(out))
    done = folder.done(2)
    assert done is not None
    name = done.parts[-1].name
    part = folder.read(name)
    other = part.table.set_column(8, part.table.schema.field("model"), [["other"] * len(part.table)])
    rows = [Row(*list(row.values())[:-2], np.array(row["vector"], np.float32)) for row in other.to_pylist()]
    space = VectorSpec("other", folder.space.dim, "other")
    data = encode(rows, [], space, part.facts)
    folder.store.put(name, data)
    with pytest.raises(SourceError, match="has changed"):
        load(out, into, state=tmp_path / "state")
    parts = [Listed(name, len(rows), decode(name, data).sha256) if p.name == name else p for p in done.parts]
    folder.finish(Done(2, 1, done.inputs, done.digest, done.counts, parts))
    with pytest.raises(SourceError, match="another model"):
        load(out, into, state=tmp_path / "state")
    assert find(SINKS, "sqlite")(into).manifest() is None


def test_an_index_of_a_pipeline_stays(out: Path, tmp_path: Path) -> None:
    """Its owner would lose its points."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a document")
    url = f"sqlite://{tmp_path}/mine.db"
    from penstock.testing.embedders import HashingEmbedder

    pipeline = ps.Pipeline(tmp_path / "docs", into=url, model=HashingEmbedder(), state=tmp_path / "ledger.db")
    pipeline.run()
    with pytest.raises(OwnershipError, match="load into another url"):
        load(out, url, state=tmp_path / "state")
    assert len(held(url)) == 1
    assert pipeline.run().ok
    assert pipeline.verify().ok


def test_an_index_of_another_model_stays_unless_replaced(out: Path, tmp_path: Path, into: str) -> None:
    other = tmp_path / "other"
    embedded(tmp_path / "in", other, model=PixelEmbedder(model="dots"))
    assert load(out, into, state=tmp_path / "state").ok
    with pytest.raises(SpaceMismatch, match=r"holds pixels .* hold dots .* --replace-model"):
        load(other, into, state=tmp_path / "state")
    assert load(other, into, state=tmp_path / "state", replace_model=True).ok


def test_refused_points_are_reported(out: Path, tmp_path: Path) -> None:
    """By id and cause; the others are loaded."""
    forget("memory://refusing_1")
    forget("memory://refusing")
    victim = uris(out)[0]

    class Refusing(MemorySink):
        def write(self, points: Sequence[Point]) -> None:
            super().write([point for point in points if point.chunk.uri != victim])
            if bad := {point.id: "not this one" for point in points if point.chunk.uri == victim}:
                raise Rejected(bad)

    done = load(out, Refusing("memory://refusing"), state=tmp_path / "state")
    assert (done.switched, done.ok, done.written) == (True, False, 39)
    assert list(done.refused.values()) == ["not this one"]


def test_points_that_vanish_stop_the_switch(out: Path, tmp_path: Path) -> None:
    """A store that counts fewer points than were written does not become current."""
    forget("memory://losing_1")
    forget("memory://losing")

    class Losing(MemorySink):
        def count(self) -> int:
            return super().count() - 1

    done = load(out, Losing("memory://losing"), state=tmp_path / "state")
    assert not done.switched
    assert "has 39 points; 40 were written" in done.trouble
    assert Losing("memory://losing").manifest() is None


def test_memory_does_not_grow_with_the_parts(tmp_path: Path) -> None:
    """It is the same for 2 and for 16 parts."""

    class Nowhere(MemorySink):
        readable = False
        taken = 0

        def write(self, points: Sequence[Point]) -> None:
            self.taken += len(points)

        def count(self) -> int:
            return self.taken

    peaks = []
    for number, parts in enumerate((2, 2, 16)):
        out = tmp_path / f"out{number}"
        synthetic(out, parts, 500, 64)
        forget(f"memory://nowhere{number}_1")
        forget(f"memory://nowhere{number}")
        tracemalloc.start()
        assert load(out, Nowhere(f"memory://nowhere{number}"), state=tmp_path / "state").written == parts * 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] * 1.5


def synthetic(out: Path, parts: int, rows: int, dim: int) -> None:
    """Parts of random vectors."""
    rng = np.random.default_rng(1)
    space = VectorSpec("random", dim, "random-1")
    folder = Folder.begin(at(out), single(space, "whole images"), 1, "nowhere")
    listed, digest = [], Digest()
    for number in range(1, parts + 1):
        uris = [f"mem://{number}/{n}" for n in range(rows)]
        for uri in uris:
            digest.add(uri)
        made = [
            Row(f"{number:016x}{n:016x}", uri, None, 1, 1, "", "{}", rng.standard_normal(dim, np.float32))
            for n, uri in enumerate(uris)
        ]
        name = folder.part_name(1, 1, number)
        data = encode(made, [], space, facts_of(1, 1, number, space))
        folder.store.put(name, data)
        listed.append(Listed(name, rows, decode(name, data).sha256))
    counts = {"embedded": parts * rows, "duplicate": 0, "failed": 0, "skipped": 0}
    folder.finish(Done(1, 1, parts * rows, str(digest), counts, listed))


def test_a_sink_without_generations(out: Path, tmp_path: Path) -> None:
    """Is filled itself, if it is empty; an interrupted load resumes there."""
    forget("memory://alone")

    class Alone(MemorySink):
        def generation(self, number: int) -> Any:
            raise UsageError("no places beside it")

    assert load(out, Alone("memory://alone"), state=tmp_path / "state").ok
    assert len(held(Alone("memory://alone"))) == 40
    assert load(out, Alone("memory://alone"), state=tmp_path / "state").kept == 40
    with Alone("memory://alone") as sink:
        sink.replace_manifest(Manifest(sink.manifest().schema, {"": "a ledger"}))  # type: ignore[union-attr]
    with pytest.raises(OwnershipError, match="load into another url"):
        load(out, Alone("memory://alone"), state=tmp_path / "state")


def test_a_progress_file_of_another_load_is_ignored(out: Path, tmp_path: Path, into: str) -> None:
    """Torn, or of another load."""
    (tmp_path / "state").write_text('{"owner": "parts:x", "place": "y", "parts": 99, "rows": 1}')
    assert load(out, into, state=tmp_path / "state").written == 40
    (tmp_path / "state").write_text("{")
    assert load(out, into, state=tmp_path / "state").written == 40


def test_points_equal_the_rows_of_the_parts() -> None:
    """The one way from a row to a point."""
    from penstock.shards.load import _point

    row = Row("a" * 32, "s3://b/é.jpg", "c", None, None, "cap", '{"k": [1]}', np.ones(3, np.float32))
    point = _point(row)
    assert point.chunk == Chunk("a" * 32, "s3://b/é.jpg", 0, "cap", (0, 3), metadata={"k": [1]})
    assert isinstance(point.vectors["vector"], Dense)


class Meanwhile(MemorySink):
    """Has something happen in its first write."""

    happens: Any = None

    def generation(self, number: int) -> Meanwhile:
        generation = super().generation(number)
        generation.happens = self.happens
        return generation

    def write(self, points: Sequence[Point]) -> None:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        super().write(points)


def test_a_second_load_into_the_same_index_waits_its_turn(out: Path, tmp_path: Path) -> None:
    """What the first one has begun would look to it like remains, which it removes."""
    url = f"memory://{tmp_path}/index"
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(LockedError) as raised:
            load(out, url, state=tmp_path / "state" / "second.json")
        refused.append(str(raised.value))

    sink = Meanwhile(url)
    sink.happens = second
    assert load(out, sink, state=tmp_path / "state" / "first.json").ok
    assert "another load (process" in refused[0]
    assert len(loaded_uris(sink)) == 40
    forget(url)


def test_a_load_whose_generation_was_taken_switches_nothing(out: Path, tmp_path: Path) -> None:
    """By a load of other parts on another machine, which does not see the lock: it removed what was there."""
    other = tmp_path / "other"
    embedded(pictures(tmp_path / "more", 10), other, claim=True, pieces=2)
    url = f"memory://{tmp_path}/index"
    sink = Meanwhile(url)
    sink.happens = lambda: load(other, url, state=tmp_path / "elsewhere" / "state.json")
    with pytest.raises(OwnershipError, match="is filled by another process"):
        load(out, sink, state=tmp_path / "here" / "state.json")
    kept = MemorySink(url).manifest()
    assert kept is not None
    assert kept.current == 1
    forget(url)
