"""Static models: a vector of a text is the mean of its tokens' rows in a table. By numpy alone.

Model2Vec's checkpoints, with tables of any precision, weights of tokens, and tokens that share rows (`mapping`); and
`StaticEmbedding` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ModelError
from penstock.core.records import Chunk, Dense
from penstock.core.schema import VectorSpec
from penstock.embedders import kinds, rows
from penstock.embedders.checkpoint import SENSELESS, inside
from penstock.embedders.onnx import located, space
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.tokenize import HFTokenizer

VERSION = 1
"""Part of a space's fingerprint: raise it when vectors change."""
NO_LIMIT = 1 << 30
"""Tokens of a text: a mean takes any number."""
MODEL2VEC, SENTENCE_TRANSFORMERS = "embeddings", "embedding.weight"
"""The table's name, by the library that wrote it. Model2Vec leaves unknown tokens out of a mean."""


@dataclass(frozen=True, slots=True)
class StaticCheckpoint:
    folder: Path
    name: str
    at: Path
    """The folder of table and tokenizer."""
    normalize: bool
    table: str
    dim: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.at / "model.safetensors", self.at / "tokenizer.json")

    @property
    def traits(self) -> Mapping[str, Any]:
        return {"static": VERSION, "normalize": self.normalize, "table": self.table}


def load(folder: Path, name: str) -> StaticCheckpoint:
    try:
        return _load(folder, name)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _load(folder: Path, name: str) -> StaticCheckpoint:
    modules = kinds.modules(folder) or [("StaticEmbedding", "")]
    normalize = bool(kinds.optional(folder / "config.json").get("normalize"))
    at = inside(folder, modules[0][1])
    for kind, _ in modules[1:]:
        if kind != "Normalize":
            raise ModelError(f"{folder} has a module that Penstock does not run: {kind:.200}")
        normalize = True
    shapes = _shapes(at / "model.safetensors")
    table = next((each for each in (MODEL2VEC, SENTENCE_TRANSFORMERS) if len(shapes.get(each, ())) == 2), None)
    if table is None:
        raise ModelError(
            f"{at / 'model.safetensors'} holds no table of tokens: it has {', '.join(sorted(shapes)):.300}"
        )
    return StaticCheckpoint(folder, name, at, normalize, table, shapes[table][1])


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


class StaticEmbedder(Embedder):
    """Embeds with a static model: a folder or a hub id. Texts of any length are taken whole.

    `workers`: by default as many as there are cores to use.
    """

    has_tokenizer = True
    batch_tokens = 1 << 15
    """A batch costs more than its texts where it is small; nothing is padded."""

    def __init__(self, model: str | Path, *, workers: int | None = None) -> None:
        self.model = model
        self.workers = workers or usable_cores()
        self._tokenizer: HFTokenizer | None = None
        self._table: _Table | None = None
        self.checkpoint: StaticCheckpoint | None = None

    def __repr__(self) -> str:
        return f"StaticEmbedder({str(self.model)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None, "_table": None, "checkpoint": None}

    def describe(self) -> VectorSpec:
        return space(self._load(), exact=True)

    def open(self) -> None:
        if self._table is not None:
            return
        from penstock.embedders.tokenize import HFTokenizer

        checkpoint = self._load()
        tokenizer = HFTokenizer(checkpoint.at / "tokenizer.json", NO_LIMIT)
        tokenizer.prefix, tokenizer.suffix = [], []  # the mean is of the text alone
        unknown = tokenizer.unknown if checkpoint.table == MODEL2VEC else None
        self._table, self._tokenizer = _Table(checkpoint, unknown), tokenizer

    def close(self) -> None:
        self._table = self._tokenizer = None

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._tokenizer

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        tokenizer, table = self._opened()
        return table.vectors(rows.passages(tokenizer, self._load().name, "", chunks))

    def query(self, texts: Sequence[str]) -> list[Dense]:
        tokenizer, table = self._opened()
        return table.vectors(rows.questions(tokenizer, self._load().name, "", texts))

    def _load(self) -> StaticCheckpoint:
        if self.checkpoint is None:
            self.checkpoint = load(*located(self.model))
        return self.checkpoint

    def _opened(self) -> tuple[HFTokenizer, _Table]:
        if self._tokenizer is None or self._table is None:
            raise EmbedError("the embedder is not open")
        return self._tokenizer, self._table


class _Table:
    def __init__(self, checkpoint: StaticCheckpoint, unknown: int | None) -> None:
        import numpy as np
        from safetensors.numpy import load_file

        path = checkpoint.at / "model.safetensors"
        try:
            tensors = load_file(path)
            self._rows = np.ascontiguousarray(tensors[checkpoint.table], np.float32)
            mapping, weights = tensors.get("mapping"), tensors.get("weights")
            tokens = len(self._rows) if mapping is None else len(mapping)
            self._mapping = None if mapping is None else mapping.astype(np.int32)
            self._weights = None if weights is None else weights.astype(np.float32)
        except Exception as error:  # safetensors raises types of its own, and numpy for those it does not know
            raise ModelError(f"{path} cannot be read: {error!s:.300}") from error
        if self._weights is not None and self._weights.shape != (tokens,):
            raise ModelError(f"{path} has {len(self._weights)} weights for {tokens} tokens")
        if self._mapping is not None and not (self._mapping.min() >= 0 and self._mapping.max() < len(self._rows)):
            raise ModelError(f"{path} maps tokens to rows that its table does not have")
        self._tokens, self._unknown, self._normalize = tokens, unknown, checkpoint.normalize

    def vectors(self, ids: Sequence[Sequence[int]]) -> list[Dense]:
        import numpy as np

        sums = np.zeros((len(ids), self._rows.shape[1]), np.float32)
        for i, row in enumerate(ids):
            tokens = np.asarray(row)  # of an array the chunker made: nothing is copied
            if self._unknown is not None:
                tokens = tokens[tokens != self._unknown]
            if len(tokens):
                self._mean(tokens, sums[i])
        if self._normalize:
            sums /= np.linalg.norm(sums, axis=1, keepdims=True) + 1e-32
        return [Dense(row) for row in sums]

    def _mean(self, tokens: NDArray[np.int_], out: NDArray[np.float32]) -> None:
        import numpy as np

        try:
            rows = self._rows[tokens if self._mapping is None else self._mapping[tokens]]
            shares = np.ones(len(tokens), np.float32) if self._weights is None else self._weights[tokens]
        except IndexError:
            raise EmbedError(
                f"the tokenizer names token {tokens.max()}; the model's table has {self._tokens} tokens"
            ) from None
        np.matmul(shares, rows, out=out)
        out /= len(tokens)
