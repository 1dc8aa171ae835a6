"""A pipeline over a dictionary, with an index that outlives its runs, and the contents to expect."""

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
    """A ledger and an index, for several pipelines in turn, as processes would have them."""

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
        """Take the ids embedded since the last call."""
        ids, self.embedder.embedded = self.embedder.embedded, []
        return ids

    def sink(self) -> MemorySink:
        return MemorySink(self.url)

    def held(self) -> Contents:
        return contents(self.sink())

    def forget(self) -> None:
        forget(self.url)


def undisturbed(documents: Mapping[str, str], folder: Path) -> Contents:
    """The contents of a new index of these documents."""
    own = folder / f"undisturbed-{next(_numbers)}"
    own.mkdir()
    world = World(own, documents)
    report = world.run()
    assert report.ok
    try:
        return world.held()
    finally:
        world.forget()
