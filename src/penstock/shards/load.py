"""`load`: parts into any store, next to what is there, which is replaced in one step when all is in.

One part at a time is in memory, and read while the one before it is written. Killed, it goes on after the last part
that the store acknowledged: a small file says which that was. On a machine that has no such file, what the store holds
already is compared, and not written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from penstock.core.contracts import Sink
from penstock.core.errors import OwnershipError, SinkError, SourceError, SpaceMismatch, UsageError
from penstock.core.generations import switch
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.retry import Retry
from penstock.core.schema import Manifest
from penstock.shards import store as stores
from penstock.shards.folder import Folder
from penstock.shards.format import Listed, Part, Row, records
from penstock.sinks.transfer import PAGE, held_equal, write_all

OWNER = "parts:"
"""What the owner of a place begins with that parts were loaded into."""


@dataclass(frozen=True, slots=True)
class Loaded:
    place: str
    """The url of the new collection."""
    parts: int
    of_parts: int
    written: int
    kept: int
    """Rows that were in the store already, from a load that broke off."""
    total: int
    """Rows in all parts."""
    refused: Mapping[str, str]
    """Ids that the store can never hold, and why."""
    gaps: tuple[str, ...] = ()
    """What was missing, and loaded without all the same."""
    switched: bool = False
    alias: str = ""
    """The store's own name for the current collection, where it has such."""
    trouble: str = ""
    """Why the switch was not made, or the alias not put to the new collection."""

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
    """Build a collection of all parts that count, and make it the current generation of `base`.

    The one that was current is kept until the next load. What the parts do not have, the new one does not have. Where
    the current one is a pipeline's, or of another model, this is refused: the latter but with `replace_model`.

    `incomplete`: also if pieces are not finished; of those, the parts that are there are taken.
    `state`: the file that says how far it is; by default one under `.penstock/`.
    """
    folder = Folder.there(stores.at(out, storage))
    parts, gaps = _wanted(folder, incomplete)
    if folder.space.kind not in {kind.__name__ for kind in base.accepts}:
        raise UsageError(f"{base.url} does not take {folder.space.kind} vectors")
    mark = hashlib.blake2b("".join(part.sha256 or part.name for part in parts).encode(), digest_size=16)
    mark.update(base.url.encode())
    owner = OWNER + mark.hexdigest()
    held = base.manifest()
    _may_replace(base, held, folder, replace_model)
    number, place = _place(base, held, owner)
    file = Path(state) if state is not None else Path(".penstock") / f"load-{mark.hexdigest()[:16]}.json"
    with place:
        loading = _Loading(folder, parts, place, _State(file, owner, place.url), progress)
        made = replace(loading.run(Manifest(folder.schema, {"": owner})), gaps=tuple(gaps))
    if made.trouble:
        return made
    with suppress(FileNotFoundError):
        file.unlink()
    if not number:
        return replace(made, switched=True)
    _switch(base, held, folder, number)
    try:
        return replace(made, switched=True, alias=base.alias(number))
    except SinkError as error:
        return replace(made, switched=True, trouble=f"the alias stands for the old one: {error}")


def _wanted(folder: Folder, incomplete: bool) -> tuple[list[Listed], list[str]]:
    """The parts that count, in order, and what is missing. Raises where that is not to be."""
    parts: list[Listed] = []
    gaps: list[str] = []
    there = set(folder.part_names())
    for piece, done in folder.all_done():
        if done is None:
            gaps.append(f"piece {piece} of {folder.pieces} is not finished")
            parts += [Listed(name, 0, "") for name in folder.part_names(piece)] if incomplete else []
            continue
        for part in done.parts:
            if part.name in there:
                parts.append(part)
            else:
                gaps.append(f"{part.name} is not there")
    if gaps and not incomplete:
        more = f" and {len(gaps) - 3} more" if len(gaps) > 3 else ""
        raise SourceError(f"{folder.store.url} is not complete: {'; '.join(gaps[:3])}{more}")
    return parts, gaps


# ---------------------------------------------------------------- where to


def _place(base: Sink, held: Manifest | None, owner: str) -> tuple[int, Sink]:
    """Where to build: the first place after the current one that is free, or ours. What earlier loads left there, and
    the collection before the current one, are removed."""
    if held is not None and held.former is not None:
        former = base.generation(held.former) if held.former else base
        kept = former.manifest()
        if kept is not None and not _loaded(kept):
            raise UsageError(
                f"{former.url}, which was current before, is still kept: drop it first (penstock reindex --drop)"
            )
        switch([base], held.current, None)
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
        place = base.generation(number)
        kept = place.manifest()
        if kept is None or owner in kept.owners.values():
            return number, place
        if _loaded(kept):
            place.drop()
            return number, place
    raise AssertionError("numbers do not end")


def _may_replace(base: Sink, held: Manifest | None, folder: Folder, replace_model: bool) -> None:
    current = base.generation(held.current).manifest() if held is not None and held.current else held
    if current is None or not current.owners:
        return
    if not _loaded(current):
        raise OwnershipError(f"{base.url} is filled by `penstock ingest`: load into another place")
    if not current.schema.same_space(folder.schema) and not replace_model:
        raise SpaceMismatch(
            f"{base.url} holds {current.schema}; the parts hold {folder.schema}: load into another url, or with"
            " --replace-model"
        )


def _loaded(manifest: Manifest) -> bool:
    """By a load, and by nothing since."""
    return all(owner.startswith(OWNER) for owner in manifest.owners.values()) and bool(manifest.owners)


def _switch(base: Sink, held: Manifest | None, folder: Folder, number: int) -> None:
    if held is None:
        # The place that people name holds nothing but the word where the collection is.
        word = Manifest(folder.schema, {}, current=number)
        with base:
            base.open(word)
            base.replace_manifest(word)
    else:
        there = base.manifest() or held
        if there.current != held.current:
            raise OwnershipError(f"{base.url} was built anew by somebody else meanwhile; load again")
        switch([base], number, held.current)


class _State:
    """How many parts the store has acknowledged."""

    def __init__(self, path: Path, owner: str, place: str) -> None:
        self._path = path
        self._facts = {"owner": owner, "place": place}

    def read(self) -> tuple[int, int] | None:
        """Parts, and their rows; None where nothing is known."""
        try:
            told = json.loads(self._path.read_bytes())
            if told["owner"] == self._facts["owner"] and told["place"] == self._facts["place"]:
                return int(told["parts"]), int(told["rows"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # torn or of something else: then the store is asked
        return None

    def write(self, parts: int, rows: int) -> None:
        from penstock.sinks.manifests import write_durably

        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps({**self._facts, "parts": parts, "rows": rows}).encode())


# ---------------------------------------------------------------- what is brought there


class _Loading:
    def __init__(
        self,
        folder: Folder,
        parts: Sequence[Listed],
        place: Sink,
        state: _State,
        progress: Callable[[Loaded], None] | None,
    ) -> None:
        self._folder, self._parts, self._place, self._state = folder, parts, place, state
        self._progress = progress
        self._retry = Retry()
        self._done = self._written = self._kept = 0
        self._refused: dict[str, str] = {}

    def run(self, manifest: Manifest) -> Loaded:
        begun = self._place.manifest() is not None
        self._place.open(manifest)
        known = self._state.read() if begun else None
        self._done, self._kept = known or (0, 0)
        compare = begun and self._place.readable
        for part in self._ahead(self._parts[self._done :]):
            # Of the first part after a kill some may be there; of all of them, where nobody knows how far it was.
            self._bring(part, compare)
            compare = compare and known is None
            self._retry.call("flush", self._place.flush)
            self._done += 1
            self._state.write(self._done, self._written + self._kept)
            self._tell()
        self._retry.call("flush", self._place.flush)
        self._place.maintain()
        made = self._so_far()
        if (there := self._place.count()) != made.written + made.kept:
            return replace(made, trouble=f"{self._place.url} has {there} points, of {made.written + made.kept} written")
        return made

    def _bring(self, part: Part, compare: bool) -> None:
        size = min(PAGE, self._place.max_rows) if compare else self._place.max_rows
        for points in _pages(part, size):
            same: set[str] = set()
            if compare:
                same = self._retry.call("read", partial(held_equal, self._place, points))
            missing = [point for point in points if point.id not in same] if same else points
            why = write_all(self._place, missing, self._retry)
            self._refused.update(why)
            self._written += len(missing) - len(why)
            self._kept += len(same)
            self._tell()

    def _ahead(self, parts: Sequence[Listed]) -> Iterator[Part]:
        """A part being read while the caller has the one before it."""
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
            raise SourceError(f"{listed.name} is not as it was when the piece was finished")
        foreign = set(part.table.column("model").unique().to_pylist()) - {self._folder.space.fingerprint}
        if foreign:
            raise SourceError(f"{listed.name} holds vectors of another model (fingerprint {min(foreign)[:12]})")
        return part

    def _tell(self) -> None:
        if self._progress:
            self._progress(self._so_far())

    def _so_far(self) -> Loaded:
        total = sum(part.rows for part in self._parts)
        done, parts = self._done, len(self._parts)
        return Loaded(self._place.url, done, parts, self._written, self._kept, total, self._refused)


def _pages(part: Part, size: int) -> Iterator[list[Point]]:
    page: list[Point] = []
    for row in records(part.table):
        page.append(_point(row))
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def _point(row: Row) -> Point:
    sized = {name: value for name, value in (("width", row.width), ("height", row.height)) if value is not None}
    metadata = {**sized, **json.loads(row.metadata)} if row.metadata != "{}" else sized
    chunk = Chunk(row.id, row.uri, 0, row.text, (0, len(row.text)), metadata=metadata, image=b"" if sized else None)
    return Point(chunk, {VECTOR: Dense(row.vector)})
