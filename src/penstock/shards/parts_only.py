"""What the tail of a flow is made of where nothing but parts is written: a sink, and a journal without a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from penstock.core.contracts import Sink
from penstock.core.deletions import NOTHING_MISSING, Missing
from penstock.core.errors import PenstockError, SinkError, StageError, UsageError
from penstock.core.records import Point
from penstock.core.schema import Manifest
from penstock.engine.flow import Flow
from penstock.engine.journal import ChunkEntry, Known, Stale
from penstock.engine.progress import Progress
from penstock.shards.leases import LeaseLost


def run(flow: Flow, progress: Callable[[Progress], None] | None) -> None:
    """Run it. Raises LeaseLost where another worker has taken the shard over."""
    try:
        flow.run(progress)
    except StageError as error:
        if isinstance(error.__cause__, LeaseLost):
            raise error.__cause__ from None
        raise


class PartSink(Sink):
    """The current part. A kill loses it with the endings in it: no acknowledgement outlives its points."""

    readable = False

    def __init__(self, add: Callable[[Sequence[Point]], None], max_rows: int) -> None:
        self._add = add
        self.max_rows = max_rows

    @property
    def url(self) -> str:
        return "parts"

    def manifest(self) -> Manifest | None:
        return None

    def open(self, manifest: Manifest) -> None:
        """Where the parts go is open already."""

    def replace_manifest(self, manifest: Manifest) -> None:
        raise UsageError("parts have no manifest of their own")

    def write(self, points: Sequence[Point]) -> None:
        try:
            self._add(points)
        except (PenstockError, MemoryError):
            raise
        except Exception as error:  # some may be in the part: the engine must not write them again, one by one
            raise SinkError(f"rows cannot be added to a part: {type(error).__name__}: {error}") from error

    def delete(self, ids: Sequence[str]) -> None:
        raise UsageError("nothing is deleted from parts")

    def flush(self) -> None:
        """Nothing: points and endings are durable together, with their part."""

    def count(self) -> int:
        return 0


class PartsOnly:
    """What a journal answers, and does not do, that has no ledger behind it."""

    def known(self, uris: Sequence[str]) -> dict[str, Known]:
        return {}

    def removed(self, uris: Sequence[str]) -> set[str]:
        return set()

    def mark_seen(self, documents: Sequence[int], run: int) -> None: ...

    def mark_seen_under(self, uri: str, run: int) -> None: ...

    def entries(self, document: int, attempt: int) -> Iterator[list[ChunkEntry]]:
        return iter(())

    def tries(self, uris: Sequence[str]) -> dict[str, int]:
        return {}

    def stale(self, documents: Sequence[int], limit: int) -> list[Stale]:
        return []

    def outdate(self, documents: Sequence[int]) -> None: ...

    def retract(self, chunks: Sequence[Stale]) -> None: ...

    def forget(self, chunks: Sequence[Stale]) -> None: ...

    def remove(self, documents: Sequence[int]) -> None: ...

    def unseen(self, run: int, after: int = 0) -> list[tuple[int, str]]:
        return []

    def missing(self, run: int) -> Missing:
        return NOTHING_MISSING

    def clear_listing(self, run: int, in_sync: float = 0.0) -> None: ...

    def save_cursor(self, source: str, cursor: str, in_sync: float = 0.0) -> None: ...
