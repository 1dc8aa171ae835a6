"""Parts hold every image of their shard once, and an entry for every other input."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.compose import embed
from penstock.core.errors import EmbedError, PenstockError, SpaceMismatch, Transient, UsageError
from penstock.core.records import Change, Chunk, Dense, Unreadable
from penstock.shards import format, verify
from penstock.shards.embed import Options
from penstock.shards.folder import Folder, shard_of
from penstock.shards.head import Writer
from penstock.shards.store import Bucket, at
from penstock.sources.files import Files
from penstock.testing.faults import FaultySource, SourceFaults

from .world import DIM, PixelEmbedder, embedded, entries, everything, picture, pictures, torn, uris


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pictures(tmp_path / "in", 40)


def names(source: Path) -> list[str]:
    return sorted(path.as_uri() for path in source.rglob("*.png"))


def test_every_image_has_one_row(source: Path, tmp_path: Path) -> None:
    """With all that the columns promise."""
    done = embedded(source, tmp_path / "out")
    assert done.ok
    assert done.counts == {"embedded": 40, "duplicate": 0, "failed": 0, "skipped": 0}
    assert uris(tmp_path / "out") == names(source)
    model = PixelEmbedder()
    ids = set()
    for part in everything(tmp_path / "out"):
        assert 0 < len(part.table) <= 8
        for row in part.table.to_pylist():
            raw = Path(row["uri"].removeprefix("file://")).read_bytes()
            assert row["vector"] == model.query_images([raw])[0].values.tolist()
            assert row["model"] == "pixels-1"
            assert (row["width"], row["height"]) == (8, 6)
            assert row["content_hash"] == __import__("hashlib").sha256(raw).hexdigest()
            assert json.loads(row["metadata"])["name"] == Path(row["uri"]).name
            ids.add(row["id"])
    assert len(ids) == 40


def test_other_tools_read_the_parts(source: Path, tmp_path: Path) -> None:
    """Arrow's datasets and LanceDB here; DuckDB and Polars where they are installed."""
    import pyarrow.dataset as ds

    embedded(source, tmp_path / "out")
    paths = [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    table = ds.dataset(paths).to_table()
    assert len(table) == 40
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIM)
    assert pq.read_schema(paths[0]).names == table.schema.names
    import lancedb

    made = lancedb.connect(tmp_path / "lance").create_table("images", table)
    wanted = table.slice(5, 1).to_pylist()[0]
    assert made.search(wanted["vector"]).limit(1).to_list()[0]["id"] == wanted["id"]


def test_duckdb_reads_the_parts(source: Path, tmp_path: Path) -> None:
    """By a glob, with the vector as an array of fixed or any size."""
    duckdb = pytest.importorskip("duckdb")
    embedded(source, tmp_path / "out")
    sql = f"SELECT count(DISTINCT id), min(len(vector)), max(width) FROM '{tmp_path}/out/*.parquet'"
    assert duckdb.sql(sql).fetchall() == [(40, DIM, 8)]


def test_polars_reads_the_parts(source: Path, tmp_path: Path) -> None:
    """With the vector as an array of its size."""
    polars = pytest.importorskip("polars")
    embedded(source, tmp_path / "out")
    frame = polars.scan_parquet(f"{tmp_path}/out/*.parquet").collect()
    assert frame.shape == (40, 9)
    assert frame.schema["vector"] == polars.Array(polars.Float32, DIM)


def test_every_input_is_accounted_for(source: Path, tmp_path: Path) -> None:
    """Inputs without a row are listed with the reason; files without an image's name are skipped."""
    whole = picture(1)
    (source / "cut.png").write_bytes(whole[:40])
    (source / "torn.png").write_bytes(torn())
    (source / "page.jpg").write_bytes(b"<!doctype html><html><body>no")
    (source / "empty.jpeg").write_bytes(b"")
    (source / "notes.txt").write_text("a text")
    (source / "twin.png").write_bytes(picture(3))
    done = embedded(source, tmp_path / "out")
    assert done.counts == {"embedded": 40, "duplicate": 1, "failed": 4, "skipped": 1}
    assert not done.ok
    states = entries(tmp_path / "out")
    assert {name: state for name, (state, _) in states.items() if state != "duplicate"} == {
        "cut.png": "failed",
        "torn.png": "failed",
        "page.jpg": "failed",
        "empty.jpeg": "failed",
        "notes.txt": "skipped",
    }
    assert "header" in states["cut.png"][1]
    assert "torn.png" in states["torn.png"][1]
    assert states["page.jpg"][1] == "it is named like an image, and is text/html"
    assert states["empty.jpeg"][1] == "it is named like an image, and is application/x-empty"
    twins = {(source / "twin.png").as_uri(), (source / "3" / "00003.png").as_uri()}
    (second,) = [uri for uri in twins if states.get(uri.rpartition("/")[2], ("",))[0] == "duplicate"]
    assert {second, states[second.rpartition("/")[2]][1]} == twins
    assert set(uris(tmp_path / "out")) == {*names(source), *twins} - {second} - {
        (source / name).as_uri() for name in ("cut.png", "torn.png")
    }
    assert verify(tmp_path / "out").ok


def test_many_of_one_content_are_embedded_once(tmp_path: Path) -> None:
    """Whatever is in flight meanwhile."""
    source, log = tmp_path / "in", tmp_path / "log"
    source.mkdir()
    for number in range(60):
        (source / f"{number}.png").write_bytes(picture(number % 3))
    done = embedded(source, tmp_path / "out", log)
    assert done.counts == {"embedded": 3, "duplicate": 57, "failed": 0, "skipped": 0}
    assert len(log.read_text().splitlines()) == 3
    assert verify(tmp_path / "out").ok


def test_a_duplicate_of_a_failure_has_failed(tmp_path: Path) -> None:
    """Its entry names the other one, or its own cause."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(9):
        (source / f"{number}.png").write_bytes(torn())
    done = embedded(source, tmp_path / "out")
    assert done.counts == {"embedded": 0, "duplicate": 0, "failed": 9, "skipped": 0}
    assert verify(tmp_path / "out").ok


def test_partitions_divide_the_source(source: Path, tmp_path: Path) -> None:
    """Each image is in one of them, and the shard depends on nothing but the uri."""
    for number in (3, 1, 2):
        done = embedded(source, tmp_path / "out", partition=(number, 3))
        assert done.ok
    assert uris(tmp_path / "out") == names(source)
    for part in everything(tmp_path / "out"):
        assert {shard_of(uri, 3) for uri in part.table.column("uri").to_pylist()} == {part.facts["piece"]}
    assert [shard_of(f"s3://bucket/{n}.jpg", 100) for n in range(4)] == [97, 15, 92, 71], "for good"
    found = verify(tmp_path / "out", source=Files(str(source)))
    assert found.ok, found.troubles
    assert (found.shards, found.finished, found.rows) == (3, 3, 40)


def test_a_share_may_be_empty(tmp_path: Path) -> None:
    """Then it is finished with nothing in it."""
    source = pictures(tmp_path / "in", 2)
    for number in range(1, 6):
        assert embedded(source, tmp_path / "out", partition=(number, 5)).ok
    assert verify(tmp_path / "out").ok
    assert len(uris(tmp_path / "out")) == 2


def test_workers_that_claim_finish_together(source: Path, tmp_path: Path) -> None:
    """Four at once, in threads here: no image twice, no shard left."""
    reports: list[Any] = []

    def work(number: int) -> None:
        reports.append(embedded(source, tmp_path / "out", tmp_path / f"log{number}", claim=True, pieces=7))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 4
    assert sum(report.finished for report in reports) == 7
    assert not any(report.open for report in reports)
    logged = [line for number in range(4) for line in _lines(tmp_path / f"log{number}")]
    assert len(logged) == 40
    assert uris(tmp_path / "out") == names(source)
    assert verify(tmp_path / "out").ok


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_a_finished_shard_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    """A second run embeds nothing and writes nothing."""
    log = tmp_path / "log"
    embedded(source, tmp_path / "out", log)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    done = embedded(source, tmp_path / "out", log)
    assert (done.status, done.finished, done.parts) == ("done", 0, 0)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len(_lines(log)) == 40


def test_no_more_than_a_part_is_at_risk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedded, and in no part: the promise that a kill costs at most one part, watched at every vector."""
    most = out = 0
    lock = threading.Lock()
    cut = Writer._cut

    class Watched(PixelEmbedder):
        def embed(self, chunks: Any) -> list[Dense]:
            nonlocal out, most
            with lock:
                out += len(chunks)
                most = max(most, out)
            return super().embed(chunks)

    def cutting(self: Writer) -> None:
        nonlocal out
        held = self._held()
        cut(self)
        with lock:
            out -= held - self._held()

    monkeypatch.setattr(Writer, "_cut", cutting)
    assert embedded(source, tmp_path / "out", rows=10, model=Watched(workers=4)).ok
    assert 1 < most <= 10


def test_a_source_that_breaks_off_leaves_its_shard_open(source: Path, tmp_path: Path) -> None:
    """Listed images are embedded, and the shard stays open. The next run finishes it."""
    log = str(tmp_path / "log")
    whole = Files(str(source))
    options = Options(rows=8, memory="64MiB")
    broken = FaultySource(whole, SourceFaults(cut=13))
    done = embed(broken, PixelEmbedder(log), tmp_path / "out", options=options)
    assert (done.open, done.ok) == (1, False)
    found = verify(tmp_path / "out")
    assert found.troubles == ("shard 1 of 1 is not finished",)
    done = embed(whole, PixelEmbedder(log), tmp_path / "out", options=options)
    assert done.ok
    assert uris(tmp_path / "out") == names(source)
    assert len(_lines(Path(log))) == 40
    assert verify(tmp_path / "out").ok


def test_claiming_ends_where_the_listing_is_broken(source: Path, tmp_path: Path) -> None:
    """Instead of going on for ever."""
    broken = FaultySource(Files(str(source)), SourceFaults(cut=13))
    done = embed(broken, PixelEmbedder(), tmp_path / "out", claim=True, pieces=3, options=Options(rows=8))
    assert (done.open, done.finished) == (3, 0)


def test_unreadable_images_are_tried_again(source: Path, tmp_path: Path) -> None:
    """With `again`; a broken one fails again. The last state counts."""
    (source / "torn.png").write_bytes(torn())
    gone = names(source)[7]
    faults = SourceFaults(unopenable=frozenset({gone}), unreadable=frozenset({names(source)[9]}))
    whole = Files(str(source))
    done = embed(FaultySource(whole, faults), PixelEmbedder(), tmp_path / "out", options=Options(rows=8))
    assert done.counts == {"embedded": 38, "duplicate": 0, "failed": 3, "skipped": 0}
    log = tmp_path / "log"
    embedded(source, tmp_path / "out", log)
    assert not log.exists(), "it was finished"
    again = Options(rows=8, again=True)
    done = embedded(source, tmp_path / "out", log, options=again)
    assert done.counts == {"embedded": 40, "duplicate": 0, "failed": 1, "skipped": 0}
    assert len(_lines(log)) == 2
    found = verify(tmp_path / "out", source=whole)
    assert found.ok, found.troubles
    assert [uri for uri, _ in found.failures] == [(source / "torn.png").as_uri()]


def test_an_input_that_vanished_is_a_listed_failure(source: Path, tmp_path: Path) -> None:
    """Listed, and gone when it is read."""

    class Late(FaultySource):
        def changes(self, cursor: str | None = None) -> Iterator[Change]:
            for number, change in enumerate(super().changes(cursor)):
                if number == 5:
                    os.unlink(change.item.path)  # type: ignore[union-attr]
                yield change

    done = embed(Late(Files(str(source)), SourceFaults()), PixelEmbedder(), tmp_path / "out", options=Options(rows=8))
    assert done.counts["failed"] == 1
    assert "No such file" in next(iter(entries(tmp_path / "out").values()))[1]


def test_a_vector_with_nan_fails_alone(source: Path, tmp_path: Path) -> None:
    """NaN is the failure of that one image."""

    class Broken(PixelEmbedder):
        def embed(self, chunks: Any) -> list[Dense]:
            found = super().embed(chunks)
            for chunk, vector in zip(chunks, found, strict=True):
                if chunk.uri.endswith("00007.png"):
                    vector.values[3] = float("nan")
            return found

    done = embedded(source, tmp_path / "out", model=Broken())
    assert done.counts["embedded"] == 39
    assert entries(tmp_path / "out") == {"00007.png": ("failed", "its vector holds NaN or infinity")}


def test_a_store_that_is_away_for_a_while_is_waited_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is embedded twice for it."""
    import fsspec

    put, calls = Bucket.put, 0

    def flaky(self: Bucket, name: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            raise Transient("503 Slow Down")
        put(self, name, data)

    monkeypatch.setattr(Bucket, "put", flaky)
    fsspec.filesystem("memory").store.clear()
    done = embedded(source, "memory://bucket/out", tmp_path / "log")
    assert done.ok
    assert len(_lines(tmp_path / "log")) == 40
    assert uris("memory://bucket/out") == names(source)
    assert verify("memory://bucket/out").ok


def test_captions_and_metadata_beside_the_image(source: Path, tmp_path: Path) -> None:
    """Fill the columns of that name."""
    (source / "0" / "00000.json").write_text('{"caption": "a bright é", "licence": "CC0", "tags": ["x"]}')
    (source / "1" / "00001.txt").write_text("the second\n")
    embedded(source, tmp_path / "out")
    assert set(entries(tmp_path / "out").values()) == {("skipped", "the caption of an image")}
    rows = {row["uri"][-9:]: row for part in everything(tmp_path / "out") for row in part.table.to_pylist()}
    assert rows["00000.png"]["text"] == "a bright é"
    metadata = json.loads(rows["00000.png"]["metadata"])
    assert (metadata["licence"], metadata["tags"], metadata["name"]) == ("CC0", ["x"], "00000.png")
    assert rows["00001.png"]["text"] == "the second"
    assert rows["00002.png"]["text"] == ""


def test_a_caption_that_cannot_be_read_is_noted(source: Path, tmp_path: Path) -> None:
    """The image is embedded all the same."""
    (source / "0" / "00000.json").write_text("{")
    done = embedded(source, tmp_path / "out")
    assert done.counts["embedded"] == 40
    state, why = entries(tmp_path / "out")["00000.png"]
    assert state == "noted"
    found = verify(tmp_path / "out")
    assert found.ok, found.troubles
    assert found.failures == (((source / "0" / "00000.png").as_uri(), why),)
    log = tmp_path / "log"
    for name in (tmp_path / "out" / "_done").iterdir():
        name.unlink()
    assert embedded(source, tmp_path / "out", log).ok
    assert not log.exists()


def test_progress_sums_up_all_shards(source: Path, tmp_path: Path) -> None:
    """Sums over all shards, so that a bar never goes back."""
    seen: list[int] = []
    done = embedded(
        source, tmp_path / "out", claim=True, pieces=3, progress=lambda now: seen.append(now.counts["embedded"])
    )
    assert done.ok
    assert seen == sorted(seen)
    assert seen[-1] == 40


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"partition": (0, 3)}, "from 1/3 to 3/3"),
        ({"partition": (4, 3)}, "from 1/3 to 3/3"),
        ({"partition": (1, 3), "claim": True}, "one of the two"),
        ({"claim": True, "pieces": 0}, "pieces"),
        ({"claim": True, "pieces": 100_000}, "pieces"),
        ({"options": Options(rows=0)}, "rows=0"),
        ({"options": Options(memory="1MiB")}, "at least 8MiB"),
        ({"model": lambda texts: texts}, "embeds no images"),
    ],
)
def test_invalid_options_are_refused(how: dict[str, Any], message: str, source: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=message):
        embedded(source, tmp_path / "out", **how)
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_workers_agree(source: Path, tmp_path: Path) -> None:
    """On the model, the number of shards and the source."""
    embedded(source, tmp_path / "out", partition=(1, 3))
    with pytest.raises(SpaceMismatch, match="another folder"):
        embedded(source, tmp_path / "out", partition=(2, 3), model=PixelEmbedder(model="other"))
    with pytest.raises(UsageError, match="in 3 shards, not in 4"):
        embedded(source, tmp_path / "out", partition=(2, 4))
    with pytest.raises(UsageError, match="the same source"):
        embedded(source / "1", tmp_path / "out", partition=(2, 3))


def test_parts_inside_the_source_are_not_listed(source: Path) -> None:
    """A folder of parts beneath the images is not listed."""
    done = embedded(source, source / "parts")
    assert done.counts["skipped"] == 0
    assert embedded(source, source / "parts").finished == 0


@pytest.mark.parametrize("rows", [8, 100])
def test_a_model_that_fails_for_every_image_ends_the_run(rows: int, tmp_path: Path) -> None:
    """Earlier rows are in a part; the images that the model failed for are tried again by the next run."""
    source = pictures(tmp_path / "in", 80)
    (source / "twin.png").write_bytes(picture(3))

    class Falling(PixelEmbedder):
        calls = 0

        def embed(self, chunks: Any) -> list[Dense]:
            self.calls += 1
            if self.calls > 3:
                raise RuntimeError("out of memory")
            return super().embed(chunks)

    log = str(tmp_path / "log")
    with pytest.raises(Exception, match="out of memory"):
        embedded(source, tmp_path / "out", rows=rows, model=Falling(log, workers=1))
    first = uris(tmp_path / "out")
    assert 0 < len(first) == len(_lines(Path(log)))
    done = embedded(source, tmp_path / "out", Path(log), rows=rows)
    assert done.counts == {"embedded": 80, "duplicate": 1, "failed": 0, "skipped": 0}
    assert len(uris(tmp_path / "out")) == 80
    assert len(_lines(Path(log))) == 80
    assert verify(tmp_path / "out").ok


def test_a_refused_batch_is_divided(source: Path, tmp_path: Path) -> None:
    """One image that the model cannot take costs the others nothing."""

    class Choosy(PixelEmbedder):
        def embed(self, chunks: Any) -> list[Dense]:
            for chunk in chunks:
                assert isinstance(chunk, Chunk)
                if chunk.uri.endswith("00009.png"):
                    raise EmbedError("not this one")
            return super().embed(chunks)

    assert embedded(source, tmp_path / "out", model=Choosy()).counts["embedded"] == 39
    assert entries(tmp_path / "out") == {"00009.png": ("failed", "not this one")}


def test_folders_that_cannot_be_listed_leave_the_shard_open(source: Path, tmp_path: Path) -> None:
    """Others are embedded."""

    class Partly(FaultySource):
        def changes(self, cursor: str | None = None) -> Iterator[Change]:
            yield Unreadable(f"{source.as_uri()}/locked/", "permission denied", listing=True)
            yield from (change for change in super().changes(cursor) if hasattr(change, "item"))

    done = embed(Partly(Files(str(source)), SourceFaults()), PixelEmbedder(), tmp_path / "out", options=Options(rows=8))
    assert done.open == 1
    assert uris(tmp_path / "out") == names(source)
    assert Folder.open(at(tmp_path / "out")).finished() == {}


def test_a_full_disk_is_reported_and_the_next_run_resumes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its cause, not a consequence."""

    class Full:
        def __init__(self, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(format.tempfile, "TemporaryFile", Full)
        with pytest.raises(PenstockError, match="No space left"):
            embedded(source, tmp_path / "out", rows=10)
    assert embedded(source, tmp_path / "out", rows=10).ok
