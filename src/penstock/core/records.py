"""The records that flow through a pipeline.

    Change -> Item -> Block -> Piece -> Chunk -> Point -> (search) -> Hit

Records are frozen, slotted and free of behaviour, but for the few lines that say how big they are: the
memory budget is counted in these bytes. No vendor type appears here; vectors are numpy arrays by convention
and this module does not import numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, dataclass_transform

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _many(kind: type[T]) -> type[T]:
    """For records that are made by the million: frozen to the type checker. That Python enforces it as well makes
    them take three times as long to make, which is a twentieth of a run without a model."""
    return dataclass(slots=True, unsafe_hash=True)(kind)


Metadata = Mapping[str, Any]
"""JSON-like: strings, numbers, booleans, None, lists and mappings of them."""


class _Nothing(Mapping[str, Any]):
    """The empty mapping: one for all, and hashable, so that it can be a default."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"

    def __reduce__(self) -> str:
        return "NOTHING"


NOTHING: Metadata = _Nothing()


# ---------------------------------------------------------------- from sources


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a source. `opener` is called, possibly in another process, to read its bytes."""

    uri: str
    """Its name, for good: a URI such as `file:///srv/docs/a.md` or `s3://bucket/key`. Chunk ids are made of it."""
    fingerprint: str
    """Changes when the content may have changed: an etag, size+mtime, a version or a hash."""
    opener: Callable[[], BinaryIO]
    size: int | None = None
    media_type: str | None = None
    """What the source says it is (a Content-Type header); detection has the last word."""
    path: str | None = None
    """Where it lies on this machine, if it does."""
    metadata: Metadata = NOTHING
    modified: float | None = None
    """When it was changed last, in seconds since 1970, where the source knows it. Not part of its fingerprint."""
    created: float | None = None
    revision: str = ""
    """Changes when metadata may have changed and the content has not: a score, a flag. Where it alone differs, the
    document is not opened, and its points get the fields of `metadata`; one that is gone is given as None."""
    heard: float | None = field(default=None, compare=False)
    """When something was heard of it, by the monotonic clock; None: when it is named."""
    at_hand: bool = False
    """Opening it waits for nothing, so it need not pass the fetchers of its source."""

    def open(self) -> BinaryIO:
        return self.opener()

    @property
    def nbytes(self) -> int:
        metadata = sum(100 + len(value) if isinstance(value, str) else 100 for value in self.metadata.values())
        return 800 + len(self.uri) + metadata


@dataclass(frozen=True, slots=True)
class Upsert:
    """The item is there: new, changed or as before (the ledger knows which)."""

    item: Item


@dataclass(frozen=True, slots=True)
class Delete:
    """The item is gone. State sources need not say it: a complete listing tells what is missing."""

    uri: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that should have been read could not be. It is listed as a failure and nothing is deleted for it.

    `listing=True`: a directory or a page of the listing, so the listing is not complete.
    """

    uri: str
    cause: str
    listing: bool = False


@dataclass(frozen=True, slots=True)
class ListingBegin:
    """The source is listed whole from here on. Only a source that is followed says it: it is listed again and again,
    with events between."""

    at: float | None = field(default=None, compare=False)
    """When that began, by the wall clock."""


@dataclass(frozen=True, slots=True)
class ListingEnd:
    """A state source has listed everything: what it did not name is gone."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A feed resumes after this cursor, once all that came before it is in the index."""

    cursor: str
    at: float | None = field(default=None, compare=False)
    """By the wall clock: all that the source knew of by then was named before. 0: nobody knows; None: now."""


Change = Upsert | Delete | Unreadable | ListingBegin | ListingEnd | Checkpoint


# ---------------------------------------------------------------- from parsers and chunkers


@_many
class Block:
    """A piece of a parsed document. The document's text is its blocks' texts, joined by nothing: spans count in it.

    Neighbours with the same page, headings and metadata are one run of text, however a parser cut it.
    """

    text: str = ""
    image: bytes | None = None
    page: int | None = None
    headings: tuple[str, ...] = ()
    unit: bool = False
    """A unit of its own (a table's row, a slide): its chunks hold nothing of its neighbours."""
    metadata: Metadata = NOTHING

    @property
    def nbytes(self) -> int:
        return sys.getsizeof(self.text) + len(self.image or b"") + 300


@dataclass(frozen=True, slots=True)
class Gap:
    """A part of a document that could not be read (one page of many); the rest goes on. Listed as a failure."""

    cause: str
    page: int | None = None
    passing: bool = False
    """It may be read later: a run that follows its source tries again."""


@_many
class Piece:
    """What a chunker cuts: `document_text[span[0]:span[1]] == text`, always."""

    text: str
    span: tuple[int, int]
    page: int | None = None
    headings: tuple[str, ...] = ()
    metadata: Metadata = NOTHING
    tokens: Sequence[int] | None = None
    """The text's token ids, without special tokens, where the chunker has them and they are what the
    tokenizer would say of the text alone."""
    image: bytes | None = None


@_many
class Chunk:
    """What is embedded: a piece of a document, with a name."""

    id: str
    """32 hexadecimal digits, a hash of document uri, content and occurrence: the same in every run."""
    uri: str
    ordinal: int
    text: str
    span: tuple[int, int]
    page: int | None = None
    headings: tuple[str, ...] = ()
    metadata: Metadata = NOTHING
    tokens: Sequence[int] | None = field(default=None, compare=False)
    image: bytes | None = None
    """What is embedded, if not the text. An index keeps no images: there it is empty, and says that it was one."""

    @property
    def nbytes(self) -> int:
        return sys.getsizeof(self.text) + 4 * len(self.tokens or ()) + len(self.image or b"") + 600

    @property
    def length(self) -> int:
        """Tokens if they are known, else a guess from the characters: what batches are sorted and cut by."""
        return len(self.tokens) if self.tokens is not None else len(self.text) // 4 + 1


# ---------------------------------------------------------------- vectors


@dataclass(frozen=True, slots=True)
class Dense:
    values: NDArray[np.float32]
    """One row: shape (dim,)."""

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


@dataclass(frozen=True, slots=True)
class Sparse:
    indices: NDArray[np.int32]
    values: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.indices.nbytes + self.values.nbytes)


@dataclass(frozen=True, slots=True)
class MultiVector:
    values: NDArray[Any]
    """One row a token or patch: shape (n, dim) of float32, or what penstock.core.precision makes of them."""

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)


Vector = Dense | Sparse | MultiVector
VECTOR = "vector"
"""The name of a point's vector where it has but one."""


class Reused(dict[str, Sequence[Vector]]):
    """Vectors by name, one a chunk each, that a MultiEmbedder took from an index instead of making them."""

    def __init__(self, vectors: Mapping[str, Sequence[Vector]], chunks: int) -> None:
        super().__init__(vectors)
        self.chunks = chunks
        """Of how many chunks no vector was made."""


@_many
class Point:
    """A chunk with its named vectors: what a sink writes and gives back."""

    chunk: Chunk
    vectors: Mapping[str, Vector]

    @property
    def id(self) -> str:
        return self.chunk.id

    @property
    def uri(self) -> str:
        return self.chunk.uri

    @property
    def text(self) -> str:
        return self.chunk.text

    @property
    def metadata(self) -> Metadata:
        return self.chunk.metadata

    @property
    def vector(self) -> NDArray[Any]:
        """The values of its vector, where it has one alone and that is not sparse; else see `vectors`."""
        several = list(self.vectors.values())
        if len(several) != 1 or isinstance(several[0], Sparse):
            raise TypeError("the point has several vectors, or a sparse one: see Point.vectors")
        return several[0].values

    @property
    def nbytes(self) -> int:
        return self.chunk.nbytes + sum(v.nbytes for v in self.vectors.values()) + 550


# ---------------------------------------------------------------- search results


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. `score` is larger for nearer, whatever the store: for cosine spaces the cosine itself, for those
    of dot products the product, for l2 something that falls with the distance, by the store's own measure."""

    score: float
    chunk: Chunk
    legs: Mapping[str, int] = field(default=NOTHING, hash=False)
    """Of a hybrid search: each leg that found it, a vector or `words`, and its rank there, from 1."""
    rank_before: int | None = None
    """Of a reranked search: its rank before, from 1."""
