"""`load`: parts into any store, as a new generation of an index that becomes the current one when all is in.

One part is read while the one before it is written. Killed, it resumes after the last part that the store acknowledged:
a progress file has the number. On a machine without that file, points that the store holds already are compared, and
not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import LockedError, OwnershipError, SinkError, SourceError, SpaceMismatch, UsageError
from penstock.core.generations import switch
from penstock.core.pieces import PIECE, portions
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.retry import Retry
from penstock.core.schema import Manifest
from penstock.shards import store as stores
from penstock.shards.folder import Folder
from penstock.shards.format import Listed, Part, Row, records
from penstock.sinks.manifests import STATE
from penstock.sinks.transfer import PAGE, held_equal, write_all
from penstock.support import durable
from penstock.support.locks import Held, Lockfile

OWNER = "parts:"
"""Prefix of the owner of an index that was loaded from parts."""


@dataclass(frozen=True, slots=True)
class Loaded:
    url: str
    """Of the new generation."""
    parts: int
    of_parts: int
    written: int
    kept: int
    """Rows that were in the store already, from an interrupted load."""
    total: int
    """Rows in all parts."""
    refused: Mapping[str, str]
    """Ids that the store refused, and why."""
    gaps: tuple[str, ...] = ()
    """Missing shards and parts, with `incomplete`."""
    switched: bool = False
    alias: str = ""
    """The store's alias of the current generation, where it has aliases."""
    trouble: str = ""
    """Why the new generation did not become the current one, or did not get the alias."""

    @property
    def ok(self) -> bool:
        return self.switched and not self.refused and not self.trouble and not self.gaps

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def load(
    out: str | os.PathLike[str],
    base: Sink,
    progress: Callable[[Loaded], None] | None = None,
    *,
    incomplete: bool = False,
    replace_model: bool = False,
    state: str | os.PathLike[str] | None = None,
    storage: Mapping[str, Any] | None = None,
) -> Loaded:
    """Build a generation of all parts that count, and make it the current one of `base`.

    The former one is kept until the next load. Refused where the current one is filled by a pipeline, or of another
    model, unless `replace_model` says so.

    `incomplete`: load though shards are not finished, the parts of those included.
    `state`: the progress file; by default one under `.penstock/`.
    """
    folder = Folder.open(stores.at(out, storage))
    parts, gaps = _counted(folder, incomplete)
    if folder.space.kind not in {kind.__name__ for kind in base.accepts}:
        raise UsageError(f"{base.url} does not take {folder.space.kind} vectors")
    digest = hashlib.blake2b("".join(part.sha256 or part.name for part in parts).encode(), digest_size=16)
    digest.update(base.url.encode())
    owner = OWNER + digest.hexdigest()
    file = Path(state) if state is not None else Path(STATE) / f"load-{digest.hexdigest()[:16]}.json"
    with _alone(base, file.parent):
        return _load(folder, parts, gaps, base, owner, file, progress, replace_model=replace_model)


@contextmanager
def _alone(base: Sink, folder: Path) -> Iterator[None]:
    """Keep other loads into the same index out: what one has begun, another one would take for remains. Of those with
    another folder for progress files, the first to create the generation gets it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"load-{hashlib.blake2b(base.url.encode(), digest_size=8).hexdigest()}.lock"
    try:
        held = Lockfile(lock)
    except Held as other:
        raise LockedError(f"another load ({other}) is filling {base.url}: load again when it is through") from None
    try:
        yield
    finally:
        held.release()


def _load(
    folder: Folder,
    parts: Sequence[Listed],
    gaps: Sequence[str],
    base: Sink,
    owner: str,
    file: Path,
    progress: Callable[[Loaded], None] | None,
    *,
    replace_model: bool,
) -> Loaded:
    held = base.manifest()
    _may_replace(base, held, folder, replace_model)
    number, generation = _generation(base, held, owner)
    held = replace(held, former=None) if held is not None else None
    with generation:
        loading = _Loading(folder, parts, generation, _State(file, owner, generation.url), progress)
        loaded = replace(loading.run(Manifest(folder.schema, {"": owner})), gaps=tuple(gaps))
    if loaded.trouble:
        return loaded
    with suppress(FileNotFoundError):
        file.unlink()
    if not number:
        return replace(loaded, switched=True)
    _switch(base, held, folder, number)
    try:
        return replace(loaded, switched=True, alias=base.alias(number))
    except SinkError as error:
        return replace(loaded, switched=True, trouble=f"the alias still names the former one: {error}")


def _counted(folder: Folder, incomplete: bool) -> tuple[list[Listed], list[str]]:
    """The parts that count, in order, and a message for each that is missing. Raises for one unless `incomplete`."""
    parts: list[Listed] = []
    gaps: list[str] = []
    names = set(folder.part_names())
    for shard, done in folder.all_done():
        if done is None:
            gaps.append(f"shard {shard} of {folder.shards} is not finished")
            parts += [Listed(name, 0, "") for name in folder.part_names(shard)] if incomplete else []
            continue
        for part in done.parts:
            if part.name in names:
                parts.append(part)
            else:
                gaps.append(f"{part.name} is missing")
    if gaps and not incomplete:
        more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
        raise SourceError(f"{folder.store.url} is not complete: {'; '.join(gaps[:3])}{more}")
    return parts, gaps


# ---------------------------------------------------------------- generations


def _generation(base: Sink, held: Manifest | None, owner: str) -> tuple[int, Sink]:
    """The generation to build: the first one after the current that is free, or ours. Remains of other loads, and the
    former generation, are removed."""
    if held is not None and held.former is not None:
        former = base.generation(held.former) if held.former else base
        kept = former.manifest()
        if kept is not None and not _loaded(kept):
            raise UsageError(
                f"{former.url}, the former generation, is still kept: drop it first (penstock reindex --drop)"
            )
        switch([base], held.current, None, since=held)
        if held.former:
            former.drop()
        held = replace(held, former=None)
    try:
        base.generation(1)
    except UsageError:
        if held is None or owner in held.owners.values():
            return 0, base
        raise
    for number in count((held.current if held is not None else 0) + 1):
        generation = base.generation(number)
        kept = generation.manifest()
        if kept is None or owner in kept.owners.values():
            return number, generation
        if _loaded(kept):
            generation.drop()
            return number, generation
    raise AssertionError("numbers do not end")


def _may_replace(base: Sink, held: Manifest | None, folder: Folder, replace_model: bool) -> None:
    current = base.generation(held.current).manifest() if held is not None and held.current else held
    if current is None or not current.owners:
        return
    if not _loaded(current):
        raise OwnershipError(f"{base.url} is filled by `penstock ingest`: load into another url")
    if not current.schema.same_space(folder.schema) and not replace_model:
        raise SpaceMismatch(
            f"{base.url} holds {current.schema}; the parts hold {folder.schema}: load into another url, or with"
            " --replace-model"
        )


def _loaded(manifest: Manifest) -> bool:
    """Whether an index was filled by a load, and by nothing else since."""
    return all(owner.startswith(OWNER) for owner in manifest.owners.values()) and bool(manifest.owners)


def _switch(base: Sink, held: Manifest | None, folder: Folder, number: int) -> None:
    if held is None:
        # The base holds no points, only the number of the current generation.
        manifest = Manifest(folder.schema, {}, current=number)
        with base:
            base.open(manifest)
            if base.manifest() != manifest:
                raise OwnershipError(f"{base.url} was created by another process meanwhile: load into another url")
    else:
        switch([base], number, held.current, since=held)


class _State:
    """The progress file: how many parts the store has acknowledged."""

    def __init__(self, path: Path, owner: str, url: str) -> None:
        self._path = path
        self._facts = {"owner": owner, "place": url}

    def read(self) -> tuple[int, int] | None:
        """Parts, and their rows; None where they are unknown."""
        try:
            kept = json.loads(self._path.read_bytes())
            if kept["owner"] == self._facts["owner"] and kept["place"] == self._facts["place"]:
                return int(kept["parts"]), int(kept["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # torn, or another file: the store is compared then
        return None

    def write(self, parts: int, rows: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(self._path, json.dumps({**self._facts, "parts": parts, "rows": rows}).encode())


# ---------------------------------------------------------------- points


class _Loading:
    def __init__(
        self,
        folder: Folder,
        parts: Sequence[Listed],
        sink: Sink,
        state: _State,
        progress: Callable[[Loaded], None] | None,
    ) -> None:
        self._folder, self._parts, self._sink, self._state = folder, parts, sink, state
        self._progress = progress
        self._retry = Retry()
        self._done = self._written = self._kept = 0
        self._refused: dict[str, str] = {}

    def run(self, manifest: Manifest) -> Loaded:
        begun = self._sink.manifest() is not None
        self._sink.open(manifest)
        self._check_owner(manifest)
        known = self._state.read() if begun else None
        self._done, self._kept = known or (0, 0)
        compare = begun and self._sink.readable
        for part in self._ahead(self._parts[self._done :]):
            # After a kill, points of the first part may be in the store; of all parts, without a progress file.
            self._load(part, compare)
            compare = compare and known is None
            self._retry.call("flush", self._sink.flush)
            self._done += 1
            self._state.write(self._done, self._written + self._kept)
            self._report()
        self._retry.call("flush", self._sink.flush)
        self._check_owner(manifest)
        self._sink.maintain()
        loaded = self._so_far()
        expected = loaded.written + loaded.kept
        if (count := self._sink.count()) != expected:
            return replace(loaded, trouble=f"{self._sink.url} has {count} points; {expected} were written")
        return loaded

    def _check_owner(self, manifest: Manifest) -> None:
        """Raise OwnershipError where another process has made the generation its own."""
        if (kept := self._sink.manifest()) is None or kept.owners != manifest.owners:
            raise OwnershipError(f"{self._sink.url} is filled by another process: load again when it is through")

    def _load(self, part: Part, compare: bool) -> None:
        size = min(PAGE, self._sink.max_rows) if compare else self._sink.max_rows
        for points in portions(map(_point, records(part.table)), size, PIECE):
            same: set[str] = set()
            if compare:
                same = self._retry.call("read", partial(held_equal, self._sink, points))
            missing = [point for point in points if point.id not in same] if same else points
            why = write_all(self._sink, missing, self._retry)
            self._refused.update(why)
            self._written += len(missing) - len(why)
            self._kept += len(same)
            self._report()

    def _ahead(self, parts: Sequence[Listed]) -> Iterator[Part]:
        """Yield the parts; each is read while the caller has the one before it."""
        with ThreadPoolExecutor(1, thread_name_prefix="penstock-load") as reader:
            waiting: Future[Part] | None = None
            for listed in parts:
                following = reader.submit(self._retry.call, "read", partial(self._read, listed))
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            if waiting is not None:
                yield waiting.result()

    def _read(self, listed: Listed) -> Part:
        part = self._folder.read(listed.name)
        if listed.sha256 and part.sha256 != listed.sha256:
            raise SourceError(f"{listed.name} has changed since its shard was finished")
        foreign = set(part.table.column("model").unique().to_pylist()) - {self._folder.space.fingerprint}
        if foreign:
            raise SourceError(f"{listed.name} holds vectors of another model (fingerprint {min(foreign)[:12]})")
        return part

    def _report(self) -> None:
        if self._progress:
            self._progress(self._so_far())

    def _so_far(self) -> Loaded:
        total = sum(part.rows for part in self._parts)
        done, parts = self._done, len(self._parts)
        return Loaded(self._sink.url, done, parts, self._written, self._kept, total, self._refused)


def _point(row: Row) -> Point:
    sized = {name: value for name, value in (("width", row.width), ("height", row.height)) if value is not None}
    try:
        metadata = {**sized, **json.loads(row.metadata)} if row.metadata != "{}" else sized
    except (ValueError, TypeError, RecursionError) as error:
        raise SourceError(f"the metadata of {row.uri} in a part cannot be read: {error}") from error
    chunk = Chunk(row.id, row.uri, 0, row.text, (0, len(row.text)), metadata=metadata, image=b"" if sized else None)
    return Point(chunk, {VECTOR: Dense(row.vector)})
