"""A pipeline over a dictionary, whose index outlives the runs over it, and what that index should hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.core.contracts import Sink, Source
from penstock.pipeline import Pipeline
from penstock.sinks.memory import MemorySink, forget
from penstock.testing.chaos import Contents, Lines, contents
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.faults import EmbedFaults, FaultyEmbedder
from penstock.testing.sources import ListSource

_numbers = itertools.count()


class World:
    """Ledger and index live as long as the world; pipelines come and go, as processes do."""

    def __init__(self, folder: Path, documents: Mapping[str, str] | None = None, source: Source | None = None) -> None:
        self.folder = folder
        self.url = f"memory://{next(_numbers)}-{folder}"
        self.listed = ListSource()
        self.source: Source = source or self.listed
        self.embedder = FaultyEmbedder(HashingEmbedder(8, workers=2), EmbedFaults())
        if documents is not None:
            self.tell(documents)

    def tell(self, documents: Mapping[str, str]) -> None:
        self.listed.entries = {uri: text.encode() for uri, text in documents.items()}

    def pipeline(self, wrap: Callable[[Sink], Sink] = lambda sink: sink) -> Pipeline:
        return Pipeline(
            self.source,
            into=wrap(MemorySink(self.url)),
            model=self.embedder,
            chunk=Lines(),
            memory="8MiB",
            state=self.folder / "ledger.db",
        )

    def run(self, **options: Any) -> Any:
        return self.pipeline().run(**options)

    def embedded(self) -> list[str]:
        """Ids given a vector since this was last asked."""
        ids, self.embedder.embedded = self.embedder.embedded, []
        return ids

    def sink(self) -> MemorySink:
        return MemorySink(self.url)

    def held(self) -> Contents:
        return contents(self.sink())

    def forget(self) -> None:
        forget(self.url)


def undisturbed(documents: Mapping[str, str], folder: Path) -> Contents:
    """What an index holds that never saw anything but these documents."""
    place = folder / f"undisturbed-{next(_numbers)}"
    place.mkdir()
    world = World(place, documents)
    report = world.run()
    assert report.ok
    try:
        return world.held()
    finally:
        world.forget()
