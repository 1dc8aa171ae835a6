"""What a source, parser, chunker, embedder, sink and index promise.

Common to all components with a lifecycle (Source, Embedder, Sink, Index):

- The constructor stores its arguments and does nothing else: no import of a driver, no connection, no file.
  So every component pickles, and any runner can ship it. `open()` connects; `close()` may come twice, or
  without an `open()`. All are context managers that close; `with` opens a model as well.
- Methods are synchronous and raise what `penstock.core.errors` names. Concurrency belongs to the engine.
- Capabilities are data (class attributes), checked before any input is read.
- No secret appears in a repr, an error or a log line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol, Self, runtime_checkable

from penstock.core.errors import UsageError
from penstock.core.exchange import exchange
from penstock.core.fields import Scalar
from penstock.core.precision import FP32
from penstock.core.records import (
    Block,
    Chunk,
    Dense,
    Gap,
    Hit,
    Item,
    Piece,
    Point,
    Vector,
)
from penstock.core.schema import Manifest, VectorSpec
from penstock.core.sources import Component, Hints, Source, Watch

__all__ = [
    "Chunker",
    "Component",
    "Embedder",
    "Hints",
    "ImageQueries",
    "Index",
    "Location",
    "Model",
    "ModelSpec",
    "MultiEmbedder",
    "OneModel",
    "Parser",
    "Sink",
    "Source",
    "Tokenizer",
    "Watch",
]


class Parser(Protocol):
    """Turns a document's bytes into blocks, a piece at a time; never a list of the whole.

    A plain function does. Documents are read again by a changed one: by its code, or by its attribute `version` if it
    has one. It yields Blocks (or plain strings, which are blocks of text), and a Gap for a part
    it could not read; it raises ParseError when the document as a whole is unreadable. The stream is seekable.
    """

    def __call__(self, stream: BinaryIO, item: Item) -> Iterable[Block | Gap | str]: ...


class Chunker(Protocol):
    """Cuts blocks into pieces that an embedder takes whole; lazily, holding no more than a window of text.

    `document_text[piece.span] == piece.text`, where the document's text is its blocks' texts joined.
    Pieces come in order and between them hold every character of the document but white space.
    A plain function or method of a text that gives its parts, as other libraries' splitters do, is wrapped for you.
    """

    def __call__(self, blocks: Iterable[Block]) -> Iterable[Piece]: ...


@runtime_checkable
class Tokenizer(Protocol):
    """A model's tokenizer, as a chunker needs it."""

    max_tokens: int
    """How many tokens of text the model takes in one input, after special tokens and prompt."""
    additive: bool
    """True where cutting text at ASCII white space cuts its ids: ids(a) + ids(b) == ids(a + b) (WordPiece)."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: no special tokens, no prompt, nothing truncated. Releases the GIL."""
        ...


class Model(Component):
    """Capabilities of whatever makes vectors, or reranks."""

    embeds_images: bool = False
    """It embeds images as well: a chunk that has one as that image, any other as its text."""
    has_tokenizer: bool = False
    """It has a tokenizer once it is open, and chunks are sized by that if nothing else is said."""
    workers: int = 1
    batch_tokens: int = 1024
    batch_rows: int = 256

    def open(self) -> None:
        """Load the model. One that is loaded already stays as it is."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def interrupt(self) -> None:
        """Give up the calls of `embed` that wait for something: they raise whatever they like. Called from another
        thread when a run stops, perhaps often; calls that only compute run out."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer, once open, if it `has_tokenizer`."""
        return None

    @property
    def uncompared(self) -> Sequence[str]:
        """What the vectors depend on and `describe()` does not cover: a run says that a change of it goes unnoticed."""
        return ()


class Embedder(Model, ABC):
    """Turns chunks into vectors, one a chunk.

    - `describe()` says which space the vectors live in. It works before `open()` and is cheap, but for the first
      time, when the model may have to be fetched.
    - `embed(chunks)` returns one vector a chunk, in order. The engine calls it from `workers` threads at once,
      with batches of like length and at most `batch_tokens` tokens (one longer chunk may come alone).
      A chunk's `tokens` are used where they are given. It never truncates: a chunk it cannot take whole raises
      EmbedError.
    - `query(texts)` embeds questions, which some models treat otherwise than passages.
    - Transient trouble (HTTP 429, a timeout) raises Transient: the engine waits and tries again.
    """

    @abstractmethod
    def describe(self) -> VectorSpec: ...

    @abstractmethod
    def embed(self, chunks: Sequence[Chunk]) -> Sequence[Vector]: ...

    @abstractmethod
    def query(self, texts: Sequence[str]) -> Sequence[Vector]: ...


class MultiEmbedder(Model, ABC):
    """Turns chunks into several named vectors each, in one pass. Otherwise as an Embedder.

    The engine knows only this contract: an Embedder of one vector is wrapped in `embedders.named.Named`.
    """

    @abstractmethod
    def describe(self) -> Mapping[str, VectorSpec]:
        """The space of each name."""

    @abstractmethod
    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        """For each name one vector a chunk, in order."""

    @abstractmethod
    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        """Questions, as vectors of that name."""


class Reranker(Model, ABC):
    """Scores passages by how well they answer a question, larger for better: a cross-encoder, or a service.

    `score` is called by as many threads at once as search; a model that takes fewer calls has them wait. It never
    truncates silently: a passage that it cannot take whole is read in parts, or raises EmbedError.
    """

    @abstractmethod
    def describe(self) -> str:
        """Its name. Works before `open()`."""

    @abstractmethod
    def score(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        """The score of each text, in order."""


OneModel = str | Embedder | Callable[[list[str]], Any]
ModelSpec = OneModel | MultiEmbedder | Mapping[str, OneModel] | None
"""What a user may give as a model: a name, a component, a function; or several by the names of their vectors."""


@runtime_checkable
class ImageQueries(Protocol):
    """An embedder that takes images as questions."""

    def query_images(self, pictures: Sequence[bytes]) -> Sequence[Vector]:
        """One vector each. Raises ParseError for what cannot be decoded."""


class Location(Component, ABC):
    """Where an index is: what a Sink writes to and an Index searches.

    An index may be built anew beside itself, as another generation in the same store: `notes`, `notes_1`, `notes_2`.
    The manifest of the base (`notes`) says which generation is the current one.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """Where the points are, without secrets: `lance://./index`."""

    def generation(self, number: int) -> Self:
        """The generation of that number (1 or more), by the same client if one was given. Connects to nothing."""
        raise UsageError(f"{self.url} has no room for a second generation, so an index cannot be built anew there")

    @abstractmethod
    def manifest(self) -> Manifest | None:
        """What is kept with the index, before or after `open`; None where there is no index."""


class Sink(Location):
    """Holds points: an index of a vector store, a table, a folder of files.

    - `write(points)` is an idempotent upsert by id: when it returns, the store has acknowledged every point;
      written again, nothing changes; an id twice in one batch, the last one counts. It never leaves a point
      out without a word: it raises Transient (try the same batch again), TooLarge (try smaller ones) or
      Rejected (these ids can never be written; **the others of the batch were**), and anything else ends the
      run. After an exception some of the batch may have been written.
    - After `flush()` all that was written is visible to every reader and as durable as the store can make it.
    - A batch that the engine sends has at most `max_rows` points and about `max_bytes` bytes.
    - `write` and `delete` are called from `writers` threads at once, at most; `count`, `ids`, `fetch` from any other.
    - `manifest()` is cheap, works before `open()` and returns what an earlier `open` kept, or None where there is no
      index yet. `open(manifest)` creates the index, or opens it and raises SpaceMismatch where its space is another
      one; it keeps the manifest, owners included (`replace_manifest` changes it later, in one step for readers). Of
      several that create it at once one does so, and the others find that one's manifest once `open` has returned.
    - Sinks that can give points back (`readable`) do so in `ids` and `fetch`: verify, adopt and rename live on it.
    """

    accepts: frozenset[type[Vector]] = frozenset({Dense})
    precisions: frozenset[str] = frozenset({FP32})
    """In which it keeps MultiVectors (penstock.core.precision): they come back in the same."""
    named: bool = False
    """It holds several named vectors a point."""
    max_rows: int = 1024
    max_bytes: int = 16 << 20
    max_text: int | None = None
    """The longest text the store takes, in UTF-8 bytes, if it has a limit."""
    writers: int = 1
    readable: bool = True
    counts_exactly: bool = True
    """`count` is up to date once `flush` has returned, and nobody but Penstock writes to the index."""
    settle: float = 0.0  # seconds after which an exchanged manifest is read back, where no condition protects it

    @abstractmethod
    def open(self, manifest: Manifest) -> None: ...

    @abstractmethod
    def replace_manifest(self, manifest: Manifest) -> None: ...

    def exchange_manifest(self, old: Manifest, new: Manifest) -> bool:
        """Replace the manifest if it is still `old`; needs `open`. Of several that do so at once one succeeds, and the
        others get False. Override it where the store has such a step; here, the last one within `settle` wins."""
        return exchange(self.manifest, self.replace_manifest, old, new, self.settle)

    @abstractmethod
    def write(self, points: Sequence[Point]) -> None: ...

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> None:
        """Remove these; an id that is not there is no error. At most `max_rows` at a time."""

    @abstractmethod
    def flush(self) -> None: ...

    @abstractmethod
    def count(self) -> int: ...

    def ids(self) -> Iterator[Sequence[str]]:
        """Every id, in pages, in bounded memory. Order is the store's own."""
        raise UsageError(f"{self.url} cannot be read back: it only takes points")

    def fetch(self, ids: Sequence[str]) -> Sequence[Point]:
        """The points of these ids, vectors included, as they were written; those that are not there are left out."""
        raise UsageError(f"{self.url} cannot be read back: it only takes points")

    def state(self) -> str:
        """A text that is another one once points were written or deleted, or a backup was restored; nothing where it
        takes more to tell than a look at files. Needs no `open`."""
        return ""

    def drop(self) -> None:
        """Remove the generation with all that is in it; nothing there is no error. Needs no `open`, and closes."""
        raise UsageError(f"{self.url} cannot be removed from here")

    def alias(self, number: int) -> str:
        """Have the store's own alias `<name>_live` stand for the generation of that number, in one step, for
        programs that do not read manifests. Gives its name; nothing where the store has no aliases."""
        return ""

    def maintain(self) -> None:
        """Called at the end of a run that wrote: compact, build an ANN index if the size warrants it."""

    def maintain_beside(self) -> bool:
        """Called now and then in a run that goes on, while others write: begin what can be done beside them. Gives
        whether that is enough; otherwise they wait for `maintain`."""
        return False


class Index(Location):
    """Searches what a sink wrote: without a ledger, from any process, while a run writes, several threads at once."""

    max_k: int | None = None
    """The most hits of a search, if the store has a limit."""

    @property
    def finds_words(self) -> bool:
        """Whether the index has full text, once it is open. An index of an earlier version may have none yet."""
        return False

    @property
    def lacks_words(self) -> bool:
        """Whether it has no full text only because an earlier version made it: one that is made now has it from its
        first write on, and cannot get it later."""
        return False

    @abstractmethod
    def open(self) -> None:
        """Connect. Raises SinkError if there is no such index."""

    @abstractmethod
    def manifest(self) -> Manifest: ...

    @abstractmethod
    def search(
        self, vector: Vector, k: int = 10, where: Mapping[str, Any] | None = None, *, using: str | None = None
    ) -> list[Hit]:
        """The k nearest, nearest first, of those that pass `where` (penstock.core.filters). `using` names the vector
        that is compared; it may be left out where the index has one."""

    def search_words(self, text: str, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The k best chunks by the store's own full text, best first, of those that pass `where`.

        Any word of the text suffices; chunks are ranked by BM25, or by what the store has most like it. A text without
        a word that counts finds nothing. Quotes, operators and odd characters are never syntax, nor an error.
        """
        raise UsageError(f"{self.url} has no full text")

    @abstractmethod
    def fetch(self, ids: Sequence[str]) -> Sequence[Point]: ...

    @abstractmethod
    def count(self) -> int: ...

    def facets(
        self, names: Sequence[str], where: Mapping[str, Any] | None = None, *, limit: int = 20
    ) -> Mapping[str, Sequence[tuple[Scalar, int]]]:
        """For each of these fields of metadata, or `type`, its values and how many of the chunks that pass the filter
        have each: the most frequent first. A list counts once for each of its values."""
        raise UsageError(f"{self.url} cannot count the values of a field")
