"""The ledgers of a folder: which there are, what each fills, and which are of no use any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from penstock.core.contracts import Sink
from penstock.core.errors import PenstockError, UsageError
from penstock.core.generations import current
from penstock.jobs.components import generations, numbered
from penstock.ledger import Ledger

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """A ledger, as its folder has it."""

    path: Path
    source: tuple[str, ...] = ()
    """What it was last filled from; nothing where that was a component of the user's own."""
    into: tuple[str, ...] = ()
    namespace: str = ""
    documents: int = 0
    chunks: int = 0
    bytes: int = 0
    last: float | None = None
    """When the last run began."""
    status: str = ""
    error: str = ""
    """Why it cannot be read."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}


def paths(folder: Path) -> list[Path]:
    """The ledgers of a folder, without those of generations (`notes.1.db` beside `notes.db`)."""
    return sorted(path for path in folder.glob("*.db") if not path.with_suffix("").suffix)


def databases(path: Path) -> list[Path]:
    """A ledger and those of its generations."""
    return [numbered(path, generation) for generation in generations(path)]


def files(path: Path) -> list[Path]:
    """All files of a ledger and its generations: SQLite's, the lock, the progress of a run."""
    beside = ("", "-wal", "-shm", ".lock", ".now", ".now.new")
    found = (one.with_name(one.name + end) for one in databases(path) for end in beside)
    return [file for file in found if file.exists()]


def size(path: Path) -> int:
    """Bytes on the disk."""
    return sum(file.stat().st_size for file in files(path))


def remembered(ledger: Ledger) -> dict[str, Any]:
    """The settings of the last run; empty where it had components of the user's own. Raises UsageError where the
    ledger holds something else in their place."""
    try:
        settings = json.loads(ledger.get("settings") or "{}")
    except (ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict):
        if isinstance(settings.get("into"), str):  # as ledgers from before there could be several
            settings["into"] = [settings["into"]]
        several = [settings.get(name, []) for name in ("source", "into")]
        if isinstance(settings.get("namespace", ""), str) and all(map(_is_texts, several)):
            return settings
    raise UsageError(
        f"the ledger {ledger.path} is damaged: what it remembers of its pipeline are no options; `penstock ingest`"
        " with all of them writes them anew"
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def summary(path: Path) -> Summary:
    try:
        with Ledger.reader(path) as ledger:
            settings, counts, runs = remembered(ledger), ledger.counts(), ledger.runs(1)
            return Summary(
                path=path,
                source=tuple(settings.get("source", ())),
                into=tuple(settings.get("into", ())),
                namespace=settings.get("namespace", ""),
                documents=counts.documents,
                chunks=counts.chunks,
                bytes=size(path),
                last=runs[0].started if runs else None,
                status=runs[0].status if runs else "",
            )
    except PenstockError as error:
        return Summary(path, error=str(error))


def holder(folder: Path, id: str) -> Path | None:
    """The ledger of that id, if the folder has it."""
    return next((path for path in paths(folder) if _id(path) == id), None)


def filling(folder: Path, into: str, namespace: str) -> list[Path]:
    """The ledgers by which that index, or its part of that namespace, was filled."""

    def fills(path: Path) -> bool:
        settings = _read(path, remembered) or {}
        return (settings.get("into", [])[:1], settings.get("namespace", "")) == ([into], namespace)

    return [path for path in paths(folder) if fills(path)]


def dead(folder: Path, make_sink: Callable[[Sequence[str]], Sink]) -> Iterator[tuple[Path, str]]:
    """Ledgers that fill nothing any more, and why: their index is gone, or filled by another one. One whose index
    cannot be reached, or is not known, is kept."""
    for path in paths(folder):
        if not (settings := _read(path, remembered)):
            continue
        try:
            with current(make_sink(settings["into"])) as sink:
                manifest = sink.manifest()
        except PenstockError:
            continue
        index = " + ".join(settings["into"])
        if manifest is None:
            yield path, f"{index} is gone"
        elif (owner := manifest.owners.get(settings.get("namespace", ""))) and owner not in map(_id, databases(path)):
            yield path, f"{index} is filled by another ledger"


def _read(path: Path, what: Callable[[Ledger], T]) -> T | None:
    """None where the ledger cannot be read."""
    try:
        with Ledger.reader(path) as ledger:
            return what(ledger)
    except PenstockError:
        return None


def _id(path: Path) -> str | None:
    return _read(path, lambda ledger: ledger.id)


def prune(path: Path) -> None:
    """Remove the files of a ledger. LockedError while a run is using it."""
    with Ledger.writer(path):
        doomed = files(path)
        if path.is_symlink():
            doomed.append(path)
    for file in doomed:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot remove {file}: {error.strerror}") from error
