"""The composed components of a pipeline: what every job works on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.chunkers import ChunkSpec, bind, longest, spec
from penstock.core.contracts import Chunker, MultiEmbedder, Parser, Sink, Source
from penstock.core.deletions import HALF, DeletionLimit
from penstock.core.generations import align
from penstock.core.metadata import STANDARD_VERSION, MetadataFunction, PipelineMetadata
from penstock.core.schema import IndexSchema, Manifest, new_schema
from penstock.engine.identity import id_prefix
from penstock.ledger import Ledger
from penstock.ledger.opening import check_path, real
from penstock.parsers import Parsers
from penstock.sinks.fanout import members
from penstock.support.code_fingerprint import code_fingerprint


@dataclass(slots=True, kw_only=True)
class Components:
    source: Source
    base: Sink
    """Where the index is, as people name it; its manifest says which generation is current."""
    embedder: MultiEmbedder
    state: Path
    """The ledger of generation 0. The others' lie beside it: `notes.1.db` beside `notes.db`."""
    budget: int
    """Bytes in flight, at most."""
    workers: int
    """Documents that are read at once."""
    chunk: ChunkSpec = None
    parsers: Mapping[str, Parser] = field(default_factory=dict)
    """The user's own, by media type."""
    metadata: MetadataFunction | None = None
    """What the user says of each document."""
    namespace: str = ""
    max_delete: DeletionLimit = HALF
    settings: str | None = None
    """The settings that say the same in words, in JSON, which the ledger keeps; None with components of the user's."""
    generation: int | None = None
    """The generation to work on; None for the current one, whichever that is."""
    sink: Sink = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.sink = self.base.generation(self.generation) if self.generation else self.base
        check_path(self.state)
        self.ledger = Ledger(numbered(self.state, self.generation or 0))

    def at(self, generation: int) -> Components:
        """The same, working on that generation, with a ledger of its own."""
        if generation == 0 and self.generation is None:
            one = copy(self)  # with the very sink and ledger
            one.generation = 0
            return one
        return replace(self, generation=generation)

    def current(self) -> tuple[Components, Manifest | None]:
        """The same, working on its generation or the current one, and that one's manifest; None where there is no
        index."""
        if self.generation is not None:
            return self, self.sink.manifest()
        if len(members(self.base)) > 1:
            align(members(self.base))
        held = self.base.manifest()
        if held is None or not held.current:
            return self.at(0), held
        # A run on generation 0 has its ledger open anyway, and says there that it is the current one.
        point_ledger(self.at(0).ledger, held.current)
        one = self.at(held.current)
        return one, one.sink.manifest()

    def schema(self) -> IndexSchema:
        """What the index must be made of, known before anything is opened."""
        return new_schema(self.embedder.describe(), spec(self.chunk, tokens=self.embedder.has_tokenizer))

    def chunker(self) -> Chunker:
        """The chunker, bound to the model's tokenizer; the embedder must be open."""
        return bind(self.chunk, self.embedder.tokenizer)

    def longest(self) -> int | None:
        """The most bytes that a chunk's text may have, where that is known."""
        return longest(self.chunk, tokens=self.embedder.has_tokenizer)

    @property
    def reading(self) -> str:
        """A fingerprint of what is read of a document beside its text."""
        metadata = self.metadata
        if metadata is None:
            return STANDARD_VERSION
        own = metadata.fingerprint if isinstance(metadata, PipelineMetadata) else code_fingerprint(metadata).digest
        return f"{STANDARD_VERSION}:{own}"

    def parser(self) -> Parsers:
        return Parsers(self.parsers, images=self.embedder.embeds_images)

    @property
    def id_prefix(self) -> bytes:
        return id_prefix(self.namespace)


def numbered(path: Path, generation: int) -> Path:
    """The ledger of a generation: `notes.1.db` beside `notes.db`, which may be a link to it."""
    path = real(path)
    return path.with_name(f"{path.stem}.{generation}{path.suffix}") if generation else path


def generations(path: Path) -> list[int]:
    """The generations beside the one of this ledger, and that one itself, whose ledgers are there."""
    path = real(path)
    name = re.compile(rf"{re.escape(path.stem)}(?:\.([1-9][0-9]*))?{re.escape(path.suffix)}")
    return sorted(
        int(match[1] or 0) for each in path.absolute().parent.iterdir() if (match := name.fullmatch(each.name))
    )


def current_ledger(path: Path) -> Path:
    """The ledger of the generation that is searched now, by what that of generation 0 says."""
    with Ledger.reader(path) as ledger:
        generation = ledger.current
    return numbered(path, generation)


def point_ledger(ledger: Ledger, generation: int) -> None:
    """Have the ledger of generation 0 name the current one, for commands that ask the ledger alone."""
    with ledger:
        ledger.open(exclusive=False)
        ledger.lead_to(generation)
