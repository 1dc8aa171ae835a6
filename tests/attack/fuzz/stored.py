"""Targets of what is kept with an index and beside it: manifests, parts, leases, ledgers, progress files, settings."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sqlite3
import time
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from penstock.core.errors import PenstockError, SinkError, SourceError, UsageError
from penstock.jobs import progress_file
from penstock.ledger import Ledger
from penstock.shards import format as parts
from penstock.shards import proof
from penstock.shards.accounts import Accounts
from penstock.shards.folder import Folder
from penstock.shards.leases import Leases
from penstock.shards.load import _point
from penstock.shards.store import at
from penstock.sinks import manifests
from tests.attack.fuzz.queries import scratch
from tests.attack.fuzz.target import Target, allowed, check


def _fresh(name: str) -> Path:
    folder = scratch() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _manifest(data: bytes) -> None:
    with allowed(SinkError):
        manifest = manifests.from_json(data, "sqlite://x.db")
        again = manifests.from_json(manifests.to_json(manifest), "sqlite://x.db")
        check(again == manifest, "a manifest is another one after it is written and read")
        check(type(manifest.current) is int and manifest.current >= 0, f"generation {manifest.current!r}")
        check(manifest.former is None or type(manifest.former) is int, f"former generation {manifest.former!r}")
        check(all(isinstance(one, str) for pair in manifest.owners.items() for one in pair), "owners that are no texts")
        manifest.schema.same_space(manifest.schema)
        str(manifest.schema)
        hash(manifest.schema.chunking)
        for spec in manifest.schema.vectors.values():
            check(type(spec.dim) is int and spec.dim > 0, f"{spec.dim!r} dimensions")
            check(
                all(isinstance(one, str) for one in (spec.model, spec.fingerprint, spec.kind, spec.metric)), f"{spec}"
            )


def _part(data: bytes) -> None:
    """A Parquet file that is said to be a part."""
    with allowed(SourceError):
        _read_part(parts.decode("part-0001-000001-000001.parquet", data))


def _read_part(part: parts.Part) -> None:
    check(isinstance(part.facts, dict), f"facts of a part are a {type(part.facts).__name__}")
    for row in parts.records(part.table):
        check(isinstance(row.id, str) and isinstance(row.uri, str), f"a row {row[:2]!r}")
        point = _point(row)
        check(isinstance(point.chunk.metadata, dict), "metadata that is no mapping")
    accounts = Accounts()
    try:
        accounts.take_in(part)
        accounts.counts()
        accounts.digest()
    finally:
        accounts.close()


def _table(data: bytes) -> None:
    """A part by the description of its table: `{"types": {name: type}, "rows": [{...}], "facts", "account"}`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = json.loads(data)
        types = {
            name: getattr(pa, kind)() if isinstance(kind, str) and kind in _TYPES else pa.list_(pa.float32(), int(kind))
            for name, kind in described["types"].items()
        }
        fields = [pa.field(name, kind, nullable=name in described["nullable"]) for name, kind in types.items()]
        table = pa.Table.from_pylist(described["rows"], schema=pa.schema(fields))
        out = io.BytesIO()
        with pq.ParquetWriter(out, table.schema) as writer:
            writer.write_table(table)
            kept = {key: json.dumps(described[key]) for key in ("penstock.part", "penstock.account")}
            writer.add_key_value_metadata(kept)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, pa.ArrowException):
        return  # no description of a table
    with allowed(SourceError):
        _read_part(parts.decode("part-0001-000001-000001.parquet", out.getvalue()))


_TYPES = ("string", "int32", "int64", "float32", "binary", "large_string", "bool_", "date32", "null")


def _shards(data: bytes) -> None:
    """A folder of parts as a zip: facts, records, leases and parts, all of somebody else."""
    folder = _unpacked(data, "shards")
    if folder is None:
        return
    with allowed(PenstockError):
        held = Folder.open(at(folder))
        check(held.shards > 0, f"{held.shards!r} shards")
        for shard in range(1, min(held.shards, 3) + 1):
            with allowed(PenstockError):
                lease = Leases(held).take(shard)
                if lease is not None:
                    lease.release()
        if held.shards <= 100:
            with allowed(PenstockError):
                proof.verify(folder).to_json()
            _load(folder)


def _load(folder: Path) -> None:
    from penstock.shards.load import load
    from penstock.sinks.memory import MemorySink, forget

    try:
        with allowed(PenstockError):
            load(folder, MemorySink("memory://fuzz"), state=scratch() / "load.json", incomplete=True)
    finally:
        for name in ("fuzz", "fuzz_1"):
            forget(f"memory://{name}")


def _foreign(data: bytes) -> None:
    """Vectors of other programs, as a zip of their files, which are matrices, tables and pickles."""
    from penstock.shards import import_foreign

    folder = _unpacked(data, "foreign")
    if folder is not None:
        with allowed(PenstockError):
            import_foreign(folder, _fresh("imported"), "fuzz").to_json()


def _pickle(data: bytes) -> None:
    from penstock.embedders import pickled
    from penstock.shards import unpickling

    with allowed(ValueError):
        unpickling.loads(data)
    with allowed(Exception):  # which are errors of the model; it is to end, and to run nothing
        pickled._Unpickler(io.BytesIO(data)).load()


def _unpacked(data: bytes, name: str) -> Path | None:
    """The members of a zip in a folder; only those that a folder may have beneath it."""
    folder = _fresh(name)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist()[:40]:
                path = folder / info.filename.encode("utf-8", "replace").decode()
                if ".." in info.filename or info.filename.startswith("/") or info.file_size > 1 << 20:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(info))
    except Exception:  # whatever makes it no zip, or no names of files here
        return None
    return folder


# ---------------------------------------------------------------- the ledger


@cache
def _good_ledger() -> bytes:
    """A ledger with a row or more in every table."""
    from penstock import Pipeline
    from penstock.testing.embedders import HashingEmbedder

    folder = _fresh("good")
    docs = folder / "docs"
    docs.mkdir()
    for n in range(5):
        (docs / f"{n}.md").write_text(f"# Title {n}\n\nSome text about valve {n}.\n" * 5)
    (docs / "bad.json").write_bytes(b"\xff\xd8\xff nothing")
    (docs / "torn.pdf").write_bytes(b"%PDF-1.4 nothing")
    pipeline = Pipeline(docs, into="memory://ledger-fuzz", model=HashingEmbedder(), state=folder / "l.db")
    pipeline.run()
    (docs / "5.md").write_text("more")
    pipeline.run()
    with Ledger.writer(folder / "l.db") as ledger:
        ledger.add_removals(["file:///gone"])
        ledger.enlist({"memory://other": 1})
        ledger.fell_behind("memory://other", ["ab" * 16])
        ledger.refuse("memory://other", {"cd" * 16: ("file:///x", "why")})
        ledger.save_cursor("feed", "42")
    db = sqlite3.connect(folder / "l.db")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("VACUUM")
    db.close()
    return (folder / "l.db").read_bytes()


def _ledger(data: bytes) -> None:
    """A ledger after operations, in JSON: bytes overwritten, rows with values of other types, other schemas."""
    try:
        operations = json.loads(data)
    except (ValueError, RecursionError):
        return
    path = _fresh("ledger") / "l.db"
    if not _damage(path, operations):
        return
    with allowed(PenstockError):
        _read_ledger(path)


def _damage(path: Path, operations: Any) -> bool:
    path.write_bytes(_good_ledger())
    if not isinstance(operations, list):
        return False
    raw = [one for one in operations[:20] if isinstance(one, dict) and "at" in one]
    sql = [one for one in operations[:20] if isinstance(one, list) and one and isinstance(one[0], str)]
    db = sqlite3.connect(path, isolation_level=None)
    try:
        for statement, *values in sql:
            if "journal" in statement.lower() or "attach" in statement.lower():
                continue
            with suppress(sqlite3.Error, ValueError, OverflowError, TypeError):
                plain = [
                    one if isinstance(one, str | int | float | None) else json.dumps(one).encode() for one in values
                ]
                db.execute(statement, plain)
    finally:
        db.close()
    content = bytearray(path.read_bytes())
    for one in raw:
        with suppress(ValueError, TypeError, OverflowError, KeyError):
            at, written = int(one["at"]) % max(len(content), 1), base64.b64decode(one["bytes"])[:4096]
            content[at : at + len(written)] = written
            if one.get("end"):
                del content[at:]
    path.write_bytes(content)
    return True


def _read_ledger(path: Path) -> None:
    with Ledger.reader(path) as ledger:
        for read in (
            ledger.counts,
            lambda: ledger.listed("", 10),
            lambda: ledger.listed("", 10, failing=True),
            lambda: list(ledger.unfinished()),
            lambda: list(ledger.failures()),
            lambda: ledger.runs(),
            lambda: ledger.members(),
            lambda: list(ledger.removals()),
            lambda: ledger.known(["file:///x"]),
            lambda: ledger.get("settings"),
            lambda: (ledger.id, ledger.current, ledger.cursor("feed")),
            lambda: ledger.compare([["ab" * 16]]).close(),
            lambda: ledger.undeleted("memory://other", 10),
        ):
            with allowed(PenstockError):
                read()
    with Ledger.writer(path) as ledger:
        run = ledger.begin_run("{}")
        ledger.end_run(run, "done", {})


def _progress(data: bytes) -> None:
    ledger = _fresh("progress") / "l.db"
    ledger.with_name("l.db.now").write_bytes(data.replace(b"NOW", b"%d" % time.time()))
    found = progress_file.read(ledger)
    check(found is None or isinstance(found, dict), f"progress {found!r}"[:300])
    json.dumps(found)


def _toml(data: bytes) -> None:
    from penstock import Pipeline

    path = _fresh("toml") / "penstock.toml"
    path.write_bytes(data)
    with allowed(UsageError):
        Pipeline.from_toml(path)


TARGETS = (
    Target("manifest", _manifest, "json", ("penstock.sinks.manifests", "penstock.core.schema"), largest=1 << 15),
    Target("part", _part, "bytes", ("penstock.shards",), memory=6 << 30),
    Target("table", _table, "json", ("penstock.shards",), memory=6 << 30),
    Target("shards", _shards, "zip", ("penstock.shards",), memory=6 << 30),
    Target("foreign", _foreign, "zip", ("penstock.shards",), memory=6 << 30),
    Target("pickle", _pickle, "bytes", ("penstock.shards",), largest=1 << 13),
    Target("ledger", _ledger, "json", ("penstock.ledger",), memory=6 << 30, largest=1 << 15),
    Target("progress", _progress, "json", ("penstock.jobs.progress_file",), largest=1 << 13),
    Target("toml", _toml, "lines", ("penstock",), memory=6 << 30, largest=1 << 13),
)
