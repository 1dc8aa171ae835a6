"""What models of several vectors a text, or of sparse ones, share: a transformer from safetensors with a head of its
own, and token ids in batches of like length."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ModelError
from penstock.core.records import Chunk, Vector
from penstock.core.schema import VectorSpec
from penstock.embedders import checkpoint as checkpoints
from penstock.embedders import int8, models, rows
from penstock.embedders.checkpoint import Checkpoint
from penstock.embedders.model_options import parted
from penstock.embedders.onnx import batches, fingerprint, located, space
from penstock.embedders.runtime import run, session
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.tokenize import HFTokenizer


class Headed(Protocol):
    """A transformer and the settings of what follows it."""

    @property
    def transformer(self) -> Checkpoint: ...
    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def dim(self) -> int: ...
    @property
    def length(self) -> int:
        """Tokens of a passage, special tokens and prompt included, by the authors' setting."""

    @property
    def markers(self) -> Sequence[str]:
        """Texts that the tokenizer reads as one token."""

    @property
    def traits(self) -> Mapping[str, Any]: ...
    @property
    def files(self) -> Sequence[Path]: ...


class HeadEmbedder(Embedder):
    """`length`: the most tokens a text may have, special tokens included; by default what the model's authors set.
    `workers`: by default as many as there are cores to use. `exact=False`: as `int8:` before its name."""

    has_tokenizer = True
    kind: str

    def __init__(
        self, model: str | Path, *, length: int | None = None, workers: int | None = None, exact: bool = True
    ) -> None:
        self.model = model
        self.length = length
        self.exact = exact
        self.workers = workers or usable_cores()
        self._tokenizer: HFTokenizer | None = None
        self._session: Any = None
        self._checkpoint: Any = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.model)!r}{'' if self.exact else ', exact=False'})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None, "_session": None, "_checkpoint": None}

    @abstractmethod
    def load(self, folder: Path, name: str) -> Headed:
        """Read the configuration."""

    @abstractmethod
    def graph(self, checkpoint: Any) -> Any:
        """Build the graph of ids and lengths -> what `embed` makes vectors of."""

    @property
    @abstractmethod
    def metric(self) -> str: ...

    @property
    @abstractmethod
    def graph_name(self) -> str:
        """What distinguishes the graph from others of the same fingerprint."""

    def describe(self) -> VectorSpec:
        return replace(space(self.loaded(), self.exact), kind=self.kind, metric=self.metric)

    def open(self) -> None:
        if self._session is not None:
            return
        from penstock.embedders import builder
        from penstock.embedders.tokenize import HFTokenizer

        checkpoint = self.loaded()
        transformer: Checkpoint = checkpoint.transformer
        length = (
            self.length or parted(str(self.model))[1].get("length") or min(checkpoint.length, transformer.positions)
        )
        if length > transformer.positions:
            raise ModelError(f"{checkpoint.name} takes {transformer.positions} tokens at most, not {length}")
        tokenizer = HFTokenizer(
            transformer.folder / "tokenizer.json",
            length,
            lowercase=transformer.lowercase,
            prompt=transformer.passage_prompt,
            markers=checkpoint.markers,
        )
        name = f"{fingerprint(checkpoint, self.exact)}-{self.graph_name}{int8.suffix(self.exact)}"
        graph = builder.cached(name, lambda: self.graph(checkpoint), models.cache_folder())
        self._session, self._tokenizer = session(graph), tokenizer

    def close(self) -> None:
        self._session = self._tokenizer = None

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._tokenizer

    def loaded(self) -> Any:
        if self._checkpoint is None:
            self._checkpoint = self.load(*located(self.model))
        return self._checkpoint

    def opened(self) -> HFTokenizer:
        if self._tokenizer is None or self._session is None:
            raise EmbedError("the embedder is not open")
        return self._tokenizer

    def passages(self, chunks: Sequence[Chunk]) -> list[Sequence[int]]:
        checkpoint = self.loaded()
        return rows.passages(self.opened(), checkpoint.name, checkpoint.transformer.passage_prompt, chunks)

    def run(
        self, ids: Sequence[Sequence[int]], *, read: Sequence[int] | None = None, most: int | None = None
    ) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        """Rows that are run together, at most `most`, and what the graph gives for them. Only the first `read` tokens
        of each are attended to, where that is set."""
        import numpy as np

        for batch in batches([len(row) for row in ids], self.batch_tokens):
            for start in range(0, len(batch), most or len(batch)):
                part = batch[start : start + (most or len(batch))]
                filled, lengths = rows.padded([ids[i] for i in part], self.loaded().transformer.pad)
                if read is not None:
                    lengths = np.array([read[i] for i in part], np.int32)
                yield part, run(self._session, {"ids": filled, "lengths": lengths})


def transformer(folder: Path, name: str) -> Checkpoint:
    """The transformer of a checkpoint with a head of another kind."""
    loaded = checkpoints.load_encoder(folder, name)
    if not loaded.fused:
        raise ModelError(f"{name}: only a model whose weights are here, of a known type, has such a head")
    return loaded


def gathered(count: int, parts: Iterator[tuple[list[int], list[Vector]]]) -> list[Vector]:
    """The vectors of parts, in the order of their rows."""
    results: list[Any] = [None] * count
    for places, vectors in parts:
        for i, vector in zip(places, vectors, strict=True):
            results[i] = vector
    return results
