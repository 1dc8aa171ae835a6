"""Text embedding by ONNX Runtime, without PyTorch.

One session of one thread, called by as many threads as there are cores: they share the weights, and none waits for
another, as the threads of one call would at every layer's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ModelError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.embedders import checkpoint as checkpoints
from penstock.embedders import int8, models, rows
from penstock.embedders.checkpoint import Checkpoint
from penstock.embedders.model_options import parted
from penstock.embedders.prefixes import INT8
from penstock.embedders.runtime import run, session
from penstock.embedders.variants import with_options
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.exported import Exported
    from penstock.embedders.tokenize import HFTokenizer


class OnnxEmbedder(Embedder):
    """Embeds with a sentence-transformers checkpoint: a folder, a hub id, or None for the default; with options
    (penstock.embedders.model_options) behind a question mark.

    `length` is the most tokens a text may have, special tokens included: by default what the model's authors set,
    at most what its position table holds. `workers`: by default as many as there are cores to use. `exact=False`: as
    `int8:` before its name (penstock.embedders.int8).
    """

    has_tokenizer = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        length: int | None = None,
        workers: int | None = None,
        exact: bool = True,
    ) -> None:
        self.model = model
        self.exact = exact
        self.length = length
        self.workers = workers or usable_cores()
        self._tokenizer: HFTokenizer | None = None
        self.session: _Fused | Exported | None = None
        self.checkpoint: Checkpoint | None = None

    def __repr__(self) -> str:
        return f"OnnxEmbedder({str(self.model or models.DEFAULT)!r}{'' if self.exact else ', exact=False'})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None, "session": None, "checkpoint": None}

    def describe(self) -> VectorSpec:
        checkpoint = self._load()
        return space(checkpoint, self.exact)

    def open(self) -> None:
        if self.session is not None:
            return
        from penstock.embedders.exported import Exported
        from penstock.embedders.tokenize import HFTokenizer

        checkpoint = self._load()
        length = self.length or checkpoint.length
        if length > checkpoint.positions:
            raise ModelError(f"{checkpoint.name} takes {checkpoint.positions} tokens at most, not {length}")
        self._tokenizer = HFTokenizer(
            checkpoint.folder / "tokenizer.json",
            length,
            lowercase=checkpoint.lowercase,
            prompt=checkpoint.passage_prompt,
        )
        self.session = _Fused(checkpoint, self.exact) if checkpoint.fused else Exported(checkpoint)

    def close(self) -> None:
        self.session = self._tokenizer = None

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._tokenizer

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        tokenizer, checkpoint = self._opened()
        return self._vectors(rows.passages(tokenizer, checkpoint.name, checkpoint.passage_prompt, chunks))

    def query(self, texts: Sequence[str]) -> list[Dense]:
        tokenizer, checkpoint = self._opened()
        return self._vectors(rows.questions(tokenizer, checkpoint.name, checkpoint.query_prompt, texts))

    def _load(self) -> Checkpoint:
        if self.checkpoint is None:
            folder, named = located(self.model)
            _, options = parted(str(self.model or ""))
            checkpoint = with_options(checkpoints.load(folder, named), options)
            if not checkpoint.fused and not self.exact:
                raise ModelError(
                    f"{checkpoint.name} has weights in ONNX only, which are run as they are: without int8:"
                )
            self.checkpoint = checkpoint
        return self.checkpoint

    def _opened(self) -> tuple[HFTokenizer, Checkpoint]:
        if self._tokenizer is None or self.checkpoint is None:
            raise EmbedError("the embedder is not open")
        return self._tokenizer, self.checkpoint

    def _vectors(self, ids: Sequence[Sequence[int]]) -> list[Dense]:
        if self.session is None:
            raise EmbedError("the embedder is not open")
        results: list[Any] = [None] * len(ids)
        for batch in batches([len(row) for row in ids], self.batch_tokens):
            values = self.session.run([ids[i] for i in batch])
            for i, vector in zip(batch, values, strict=True):
                results[i] = Dense(vector)
        return results


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indexes of rows, of like length together, at most so many tokens a batch with padding counted; longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def located(model: str | Path | None) -> tuple[Path, str]:
    """A model's folder, and its name as it is kept with an index: absolute, as searches run in any folder."""
    name = str(model or models.DEFAULT)
    folder, base = models.resolve(model), parted(name)[0]
    if Path(base).expanduser() == folder:
        return folder, str(folder.absolute()) + name.removeprefix(base)
    return folder, name


class Named(Protocol):
    """The parts of a checkpoint that decide its vectors."""

    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def folder(self) -> Path: ...
    @property
    def traits(self) -> Mapping[str, Any]: ...
    @property
    def files(self) -> Sequence[Path]: ...


def space(checkpoint: Named, exact: bool) -> VectorSpec:
    name = checkpoint.name if exact else INT8 + checkpoint.name
    return VectorSpec(model=name, dim=checkpoint.dim, fingerprint=fingerprint(checkpoint, exact))


def fingerprint(checkpoint: Named, exact: bool) -> str:
    traits = dict(checkpoint.traits) if exact else {**checkpoint.traits, "int8": int8.VERSION}
    try:
        return checkpoints.fingerprint(traits, [models.digest(path) for path in checkpoint.files])
    except OSError as error:
        raise ModelError(f"{checkpoint.folder} cannot be read: {error}") from error


class _Fused:
    """The graph built from safetensors: it pools and normalizes itself."""

    def __init__(self, checkpoint: Checkpoint, exact: bool) -> None:
        from penstock.embedders import builder, graph

        name = f"{fingerprint(checkpoint, exact)}-{graph.VERSION}{int8.suffix(exact)}"
        build = partial(graph.build, checkpoint, exact=exact)
        self._session = session(builder.cached(name, build, models.cache_folder()))
        self._pad = checkpoint.pad

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        filled, lengths = rows.padded(ids, self._pad)
        vectors: NDArray[np.float32] = run(self._session, {"ids": filled, "lengths": lengths})
        return vectors
