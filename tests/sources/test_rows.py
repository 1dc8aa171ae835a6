"""Images in Parquet files."""

from __future__ import annotations

import datetime
import io
import os
import pickle
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import Pipeline, open_index
from penstock.compose import embed
from penstock.core.errors import ParseError, SourceError, UsageError
from penstock.core.records import Change, Item, ListingEnd, Unreadable, Upsert
from penstock.shards import verify
from penstock.sinks.memory import forget
from penstock.sources import cells, from_url
from penstock.sources.files.local import LocalFile
from penstock.sources.rows import METADATA, Rows
from penstock.testing.source_suite import MakeSource, Put, Remove, SourceSuite
from tests.shards.world import PixelEmbedder, picture

pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "tests" / "data" / "shapes-clip")


def items(source: Rows) -> dict[str, Item]:
    return {change.item.uri.rpartition("/")[2]: change.item for change in source.changes() if type(change) is Upsert}


def others(changes: list[Change]) -> list[Change]:
    return [change for change in changes if type(change) is not Upsert]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Rows:
    pq.write_table(pa.table(columns), path, **options)
    return Rows(path)


class TestRows(SourceSuite):
    """A file a document: within a file a change of one row is a change of all."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Any:
        return lambda name: tmp_path / f"{name.replace('/', '-')}.parquet"

    @pytest.fixture
    def make_source(self, tmp_path: Path) -> MakeSource:
        return lambda: Rows(tmp_path)

    @pytest.fixture
    def put(self, file: Any) -> Put:
        return lambda name, content: write(file(name), {"key": [name], "image": [content]})

    @pytest.fixture
    def remove(self, file: Any) -> Remove:
        return lambda name: file(name).unlink()

    @pytest.fixture
    def break_listing(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        opened = LocalFile.__call__

        def refuse(self: LocalFile) -> Any:
            if self.path.endswith("b.md.parquet"):
                raise PermissionError(13, "Permission denied")
            return opened(self)

        return lambda: monkeypatch.setattr(LocalFile, "__call__", refuse)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """Bytes before where they may come from as well; a caption; other plain values, and no lists or vectors."""
    day = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
    columns = {
        "jpg": [b"one", None],
        "URL": ["https://example.org/a.jpg"] * 2,
        "TEXT": ["a cat", None],
        "__key__": ["a b", "c/d"],
        "width": [3, None],
        "score": [0.5, float("nan")],
        "day": pa.array([day, None], pa.timestamp("ns", "Europe/Paris")),
        "tags": [["x"], []],
        "vector": [b"\0", b"\0"],
    }
    found = items(write(tmp_path / "a.parquet", columns))
    one, two = found.values()
    assert [item.uri.partition("a.parquet")[2] for item in (one, two)] == ["/a%20b", "/c/d"]
    assert one.open().read() == b"one"
    url = "https://example.org/a.jpg"
    assert one.metadata == {
        "caption": "a cat",
        "URL": url,
        "width": 3,
        "score": 0.5,
        "day": "2026-11-20 12:00:00.000000000",
    }
    assert two.metadata == {"URL": url}
    with pytest.raises(ParseError, match="no image"):
        two.open()


def test_options_name_other_columns(tmp_path: Path) -> None:
    columns = {"a": [b"1"], "b": [b"2"], "alt": ["x"], "words": ["y"], "nr": [7], "id": [8]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (item,) = items(from_url(f"parquet://{tmp_path}/?image=b&caption=words&key=nr")).values()  # type: ignore[arg-type]
    assert item.uri.endswith("t.parquet/7")
    assert item.open().read() == b"2"
    assert item.metadata == {"caption": "y", "alt": "x", "id": 8}
    (item,) = items(Rows(f"parquet://{tmp_path}?image=a&key=")).values()
    assert item.uri.endswith("t.parquet/0")


@pytest.mark.parametrize(
    ("columns", "query", "said"),
    [
        ({"a": [b"1"], "b": [b"2"]}, "", "several .*'a', 'b'.*image=NAME"),
        ({"img": [b"1"], "image": [b"2"]}, "", "several"),
        ({"url": ["x"], "path": ["y"]}, "", "several"),
        ({"n": [1], "word": ["x"]}, "", "no column fits.*'n', 'word'"),
        ({"image": [b"1"]}, "?image=picture", "picture: no such column.*'image'"),
        ({"image": [b"1"]}, "?key=nr", "no such column"),
        ({"image": [b"1"], "n": [1]}, "?image=n", "neither images"),
        ({"image": [b"1"]}, "?colour=red", "unknown option 'colour'.*image, caption, key, private"),
    ],
)
def test_what_is_unclear_is_asked(tmp_path: Path, columns: dict[str, Any], query: str, said: str) -> None:
    """Before anything is read."""
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=said):
        Rows(f"parquet://{tmp_path}/t.parquet{query}").open()


def test_rows_are_numbered_without_a_key(tmp_path: Path) -> None:
    """Over row groups, from 0 on, also where there is nothing but images."""
    source = write(tmp_path / "a.parquet", {"image": [b"%d" % n for n in range(10)]}, row_group_size=3)
    found = items(source)
    assert list(found) == [str(n) for n in range(10)]
    for name in ("9", "0", "5", "4"):
        assert found[name].open().read().decode() == name
    assert source.lookup(found["7"].uri) == found["7"]


def test_no_row_is_lost_for_its_key(tmp_path: Path) -> None:
    """One that is another's, or none, is a failure; one that would lead out stays in."""
    keys = ["a", "a", None, "", "../../etc/passwd", ".", "x//y", "a?b#c", "%2E"]
    source = write(tmp_path / "a.parquet", {"image": [b"%d" % n for n in range(9)], "key": keys})
    changes = list(source.changes())
    listed = [change for change in changes if type(change) is Upsert]
    ends = [change.item.uri.partition(".parquet/")[2] for change in listed]
    assert ends == ["a", "..%2F..%2Fetc%2Fpasswd", ".", "x%2F%2Fy", "a%3Fb%23c", "%252E"]
    lost = [(change.cause, change.listing) for change in changes if type(change) is Unreadable]
    assert [listing for _, listing in lost] == [False] * 3
    assert lost[0][0].startswith("row 1: an earlier row has its 'key'")
    assert changes[-1] == ListingEnd()
    with pytest.raises(SourceError, match="an earlier row"):
        source.lookup(next(change.uri for change in changes if type(change) is Unreadable))


def test_paths_lead_to_files_beneath(tmp_path: Path) -> None:
    """With the files' own fingerprints; none leads out, by name or link; one that is named twice is counted."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "sub" / "ä b.jpg").write_bytes(b"one")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    good = ["sub/ä b.jpg", str(folder / "sub" / "ä b.jpg")]
    bad = [
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "link.jpg",
        "sub/../../secret.jpg",
        "none.jpg",
        "a\0b",
        "sub",
        None,
    ]
    source = write(folder / "t.parquet", {"image_path": good + bad, "caption": ["x"] * 10})
    (item,) = items(source).values()
    with item.open() as stream:
        assert stream.read() == b"one"
    assert item.path == str(folder / "sub" / "ä b.jpg")
    assert item.metadata == {"caption": "x"}
    assert source.passed_over["duplicate"] == 1
    listed = [change for change in source.changes() if type(change) is Unreadable]
    assert len(listed) == len(bad)
    assert "secret" not in "".join(change.cause for change in listed)
    (folder / "sub" / "ä b.jpg").write_bytes(b"another")
    found = source.lookup(item.uri)
    assert found is not None
    assert found.fingerprint != item.fingerprint


def test_a_bucket(s3: Any, storage: dict[str, Any]) -> None:
    """Images in the table, and beside it."""
    for name, columns in (("in", {"image": [b"one"], "id": ["a"]}), ("by", {"path": ["../in/t.parquet", "x.jpg"]})):
        s3.makedirs(f"rows-{name}", exist_ok=True)
        with s3.open(f"rows-{name}/t.parquet", "wb") as file:
            pq.write_table(pa.table(columns), file)
    s3.pipe_file("rows-by/x.jpg", b"two")
    for name, uri, content in (("in", "s3://rows-in/t.parquet/a", b"one"), ("by", "s3://rows-by/x.jpg", b"two")):
        with Rows(f"parquet+s3://rows-{name}/", storage=storage) as source:
            (item,) = items(source).values()
            assert item.uri == uri
            with item.open() as stream:
                assert stream.read() == content


@pytest.mark.parametrize("claim", [False, True])
def test_a_table_in_a_bucket_is_read_by_one_worker(
    s3: Any, storage: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claim: bool
) -> None:
    """Its images are read one after the other. Whatever the keys are like, and the folders, no row is forgotten, nor
    one that cannot be named by a key."""
    bucket = f"rows-shared-{claim:d}"
    s3.makedirs(bucket, exist_ok=True)
    keys = ["a", "x.tar/b", "y=1/c.parquet", "d.parq", "e.PARQUET/f", "g/h.tar"]
    names = (
        "1.parquet",
        "2.parq",
        "spark.parquet/part-0.parquet",
        "spark.parquet/of=a/part-0.c000.parquet",
        "3.tar/x.parq",
    )
    images = [picture(n) for n in range(len(keys) + 2)]
    for name in names:
        with s3.open(f"{bucket}/{name}", "wb") as file:
            pq.write_table(pa.table({"key": [*keys, None, "a"], "image": images}), file)
    opened: list[str] = []
    monkeypatch.setattr(
        Rows, "_table", lambda self, stream, file: opened.append(file.uri) or cells.ParquetTable(stream)
    )
    source = Rows(f"parquet+s3://{bucket}/", storage=storage)
    monkeypatch.setattr(Rows, "open", lambda self: setattr(self, "_elsewhere", False))  # it looks at the first file
    for number in (1, 2, 3):
        which = {"claim": True, "pieces": 3} if claim else {"partition": (number, 3)}
        assert embed(source, PixelEmbedder(), tmp_path / "out", **which).status == "done"
    assert sorted(opened) == sorted(f"s3://{bucket}/{name}" for name in names)
    checked = verify(tmp_path / "out", source=source)
    assert checked.ok
    assert checked.counts["failed"] == 2 * len(names)
    assert sum(checked.counts.values()) == len(images) * len(names)


def test_a_file_that_cannot_be_looked_at_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is listed by its own name, so that nothing of it is deleted."""
    (tmp_path / "x.jpg").write_bytes(b"x")
    source = write(tmp_path / "a.parquet", {"path": ["x.jpg"]})
    stat = os.stat

    def refuse(path: Any, **options: Any) -> Any:
        if str(path).endswith("x.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    listed = [change for change in source.changes() if type(change) is Unreadable]
    assert [change.uri for change in listed] == [f"file://{tmp_path}/x.jpg"]


def test_metadata_are_bounded(tmp_path: Path) -> None:
    """A field that is too long is left out and counted. In memory is a text once that a thousand rows have."""
    long = "x" * 5_000_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([long]))
    columns = {"image": [b"1"] * 1000, "caption": texts, "alt": ["y"] * 1000}
    source = write(tmp_path / "a.parquet", columns, compression="zstd", dictionary_pagesize_limit=1 << 30)
    pool = pa.default_memory_pool()
    del texts, columns
    before = pool.bytes_allocated()
    for change in source.changes():
        if type(change) is Upsert:
            assert change.item.metadata == {"alt": "y"}
        assert pool.bytes_allocated() - before < 200 << 20
    assert source.passed_over["long field"] == 1000
    assert METADATA < 1 << 16


def test_images_are_read_by_pages(tmp_path: Path) -> None:
    """Not by row groups; threads that come out of order get their own row, and what is kept is bounded."""
    count, size = 64, 1 << 20
    blob = os.urandom(size + count)
    images = [blob[n : n + size] for n in range(count)]
    source = write(
        tmp_path / "a.parquet", {"image": images}, use_dictionary=False, compression="none", write_batch_size=1
    )
    found = list(items(source).values())
    pool = pa.default_memory_pool()
    before, most, wrong = pool.bytes_allocated(), [0], []

    def read(first: int) -> None:
        for n in range(first, count, 4):
            if found[n].open().read() != images[n]:
                wrong.append(n)
            most[0] = max(most[0], pool.bytes_allocated() - before)

    threads = [threading.Thread(target=read, args=(first,)) for first in (3, 1, 0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert most[0] < 40 << 20
    assert sum(file._bytes for file in cells._shelf._open.values()) <= cells.KEPT
    source.close()
    assert not cells._shelf._open


def test_broken_files_and_trouble_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken is so until the file changes; what could not be read is tried again."""
    source = write(tmp_path / "b.parquet", {"image": [os.urandom(5000) for _ in range(40)]}, row_group_size=5)
    found = list(items(source).values())
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    data[30_000:60_000] = bytes(30_000)
    (tmp_path / "b.parquet").write_bytes(data)
    with pytest.raises(ParseError, match="broken"):
        assert all(item.open() for item in found)
    read = cells.Watched.readinto

    def refuse(self: Any, buffer: Any) -> int:
        try:
            raise ConnectionResetError("gone")
        except OSError as error:
            self.trouble = error
            raise

    monkeypatch.setattr(cells.Watched, "readinto", refuse)
    with pytest.raises(ConnectionResetError):
        pickle.loads(pickle.dumps(found[0])).open()
    listed = others(list(source.changes()))
    assert [type(change) for change in listed] == [Unreadable]
    assert "ConnectionResetError: gone" in listed[0].cause  # type: ignore[union-attr]
    assert listed[0].listing  # type: ignore[union-attr]
    monkeypatch.setattr(cells.Watched, "readinto", read)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    listed = others(list(Rows(tmp_path).changes()))
    assert [(type(change), getattr(change, "listing", None)) for change in listed] == [
        (Unreadable, False),
        (ListingEnd, None),
    ]
    with pytest.raises(SourceError, match="listed whole"):
        Rows(tmp_path).lookup(f"file://{tmp_path}/a.parquet/3")


def test_a_broken_table_of_paths_takes_nothing_with_it(tmp_path: Path) -> None:
    """Which files it named is unknown: the listing is not complete."""
    write(tmp_path / "a.parquet", {"path": ["x.jpg"]})
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    listed = others(list(Rows(tmp_path).changes()))
    assert [(type(change), getattr(change, "listing", None)) for change in listed] == [(Unreadable, True)]


def test_a_source_is_of_one_kind(tmp_path: Path) -> None:
    """Of a broken file it must be known whether its rows are named by it."""
    write(tmp_path / "a.parquet", {"image": [b"x"]})
    source = write(tmp_path / "b.parquet", {"url": ["https://example.org/"]})
    assert list(items(source))
    changes = list(Rows(tmp_path).changes())
    assert [type(change) for change in changes] == [Upsert, Unreadable]
    assert "not both" in changes[1].cause  # type: ignore[union-attr]


# ---------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def pictures() -> Iterator[list[tuple[str, bytes]]]:
    """Captions and images."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import make_shapes

    random = Random(7)
    scenes = zip(range(24), make_shapes.scenes(random), strict=False)
    yield [(scene.prompt, make_shapes.jpeg(make_shapes.draw(scene, random, 96, 96))) for _, scene in scenes]
    sys.path.remove(str(ROOT / "scripts"))


def test_a_table_in_a_sample(tmp_path: Path) -> None:
    """In an archive, beside a text of the same name."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"one", b"two"]}), buffer)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("t.parquet", buffer.getvalue())
        archive.writestr("t.txt", "a caption")
    found = [change.item.open().read() for change in Rows(tmp_path).changes() if isinstance(change, Upsert)]
    assert found == [b"one", b"two"]


def test_a_data_set_through_a_pipeline(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    """Found by words, with their captions; a row put before the others embeds one; what is no image is listed; a file
    that breaks takes nothing out of the index."""

    def make(rows: list[tuple[str, bytes]]) -> None:
        images = [{"bytes": image, "path": None} for _, image in rows]
        table = {"image": images, "caption": [caption for caption, _ in rows], "from": ["test"] * len(rows)}
        pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=10)

    url = f"memory://{tmp_path}"
    make(pictures[1:])
    pipeline = Pipeline(f"parquet://{tmp_path}/", into=url, model=MODEL, state=tmp_path / "ledger.db")
    try:
        assert pipeline.run().embedded == 23
        make([*pictures[:1], ("a page", b"<html>not found</html>"), *pictures[1:]])
        report = pipeline.run()
        assert (report.embedded, report.counts["failed"]) == (1, 1)
        with open_index(url) as index:
            hit = index.search(pictures[0][0], k=1)[0].chunk
        assert hit.text == pictures[0][0]
        assert hit.metadata["from"] == "test"
        assert hit.metadata["width"] == 96
        with pipeline.ledger as ledger:
            ledger.open(exclusive=False)
            assert [failure.uri.rpartition("/")[2] for failure in ledger.failures()] == ["1"]
        (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
        broken = pipeline.run()
        assert not broken.ok
        assert broken.counts["deleted"] == 0
    finally:
        forget(url)


def test_a_data_set_into_parts(tmp_path: Path, pictures: list[tuple[str, bytes]]) -> None:
    from penstock.shards import verify

    captions, images = zip(*pictures, strict=True)
    table = {"jpg": list(images), "caption": list(captions), "key": [f"{n:03}" for n in range(24)]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    source = f"parquet://{tmp_path}/a.parquet"
    counts = [embed(source, MODEL, tmp_path / "parts", partition=(n, 2)).counts["embedded"] for n in (1, 2)]
    assert sum(counts) == 24
    assert min(counts) > 0
    assert verify(tmp_path / "parts").ok
    rows = pq.read_table(sorted((tmp_path / "parts").rglob("*.parquet"))).to_pylist()
    assert {row["uri"].rpartition("/")[2]: row["text"] for row in rows} == {
        f"{n:03}": caption for n, caption in enumerate(captions)
    }
