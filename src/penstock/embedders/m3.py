"""Three vectors of a text from one pass of one model (BGE-M3): dense, sparse over the vocabulary, and one a token.

The dense vector is the first token's hidden state; `sparse_linear.pt` makes a weight of each token's, the largest of
which counts for a word, and `colbert_linear.pt` the vectors of all tokens but the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import MultiEmbedder
from penstock.core.errors import ModelError, UsageError
from penstock.core.records import Chunk, Dense, MultiVector, Sparse, Vector
from penstock.core.schema import VectorSpec
from penstock.embedders import heads, rows
from penstock.embedders.checkpoint import SENSELESS, Checkpoint, read
from penstock.embedders.model_options import parted
from penstock.embedders.onnx import space
from penstock.embedders.prefixes import M3

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph
    from penstock.embedders.tokenize import HFTokenizer
    from penstock.embedders.weights import Weights

VERSION = 1
"""Part of a space's fingerprint: raise it when vectors change."""
SPARSE_HEAD, LATE_HEAD = "sparse_linear.pt", "colbert_linear.pt"
DENSE, SPARSE, LATE = "dense", "sparse", "late"
"""The names of the vectors."""


@dataclass(frozen=True, slots=True)
class M3Checkpoint:
    transformer: Checkpoint
    vocabulary: int
    name: str

    markers = ()

    @property
    def folder(self) -> Path:
        return self.transformer.folder

    @property
    def dim(self) -> int:
        """The numbers of a token that the graph gives: a vector and a weight."""
        return self.transformer.hidden + 1

    @property
    def length(self) -> int:
        return self.transformer.length

    @property
    def files(self) -> tuple[Path, ...]:
        own = (self.folder / name for name in ("tokenizer.json", SPARSE_HEAD, LATE_HEAD))
        return (*self.transformer.weights, *own)

    @property
    def traits(self) -> Mapping[str, Any]:
        return {**self.transformer.traits, "vocabulary": self.vocabulary, "m3": VERSION}


def from_name(name: str) -> M3Embedder:
    return M3Embedder(name.removeprefix(M3))


class M3Embedder(MultiEmbedder):
    """Embeds with BGE-M3 or a model in its layout: a folder or a hub id. Of the three vectors, which are one pass's
    work, a store must take all."""

    has_tokenizer = True

    def __init__(self, model: str | Path, *, length: int | None = None, workers: int | None = None) -> None:
        self._pass = _Pass(model, length=length, workers=workers)
        self.workers = self._pass.workers

    def __repr__(self) -> str:
        return f"M3Embedder({str(self._pass.model)!r})"

    def describe(self) -> Mapping[str, VectorSpec]:
        dense = self._pass.describe()
        sparse = replace(dense, kind="Sparse", metric="dot", dim=self._pass.loaded().vocabulary)
        return {DENSE: dense, SPARSE: sparse, LATE: replace(dense, kind="MultiVector")}

    def open(self) -> None:
        self._pass.open()

    def close(self) -> None:
        self._pass.close()

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._pass.tokenizer

    def embed(self, chunks: Sequence[Chunk]) -> Mapping[str, Sequence[Vector]]:
        texts = self._pass.all_vectors(self._pass.passages(chunks))
        return {name: [text[name] for text in texts] for name in (DENSE, SPARSE, LATE)}

    def query(self, texts: Sequence[str], using: str) -> Sequence[Vector]:
        return [text[using] for text in self._pass.all_vectors(self._pass.questions(texts))]


class _Pass(heads.HeadEmbedder):
    """The model as one that makes the dense vector, with what else a pass gives."""

    kind = "Dense"
    metric = "cosine"

    @property
    def graph_name(self) -> str:
        return f"m3-{VERSION}"

    def load(self, folder: Path, name: str) -> M3Checkpoint:
        if refused := sorted(parted(name)[1].keys() - {"revision", "length"}):
            raise UsageError(f"{M3}{name} takes length, revision, not {', '.join(refused)}")
        if missing := [head for head in (SPARSE_HEAD, LATE_HEAD) if not (folder / head).is_file()]:
            raise ModelError(
                f"{folder} has no {' and no '.join(missing)}, as BGE-M3 has: without {M3} it may make dense vectors"
            )
        try:
            vocabulary = int(read(folder / "config.json")["vocab_size"])
        except SENSELESS as error:
            raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error
        return M3Checkpoint(heads.transformer(folder, name), vocabulary, M3 + name)

    def describe(self) -> VectorSpec:
        checkpoint: M3Checkpoint = self.loaded()
        return replace(space(checkpoint, self.exact), dim=checkpoint.transformer.hidden)

    def graph(self, checkpoint: M3Checkpoint) -> Any:
        from penstock.embedders.graph import build_with

        def head(graph: Graph, weights: Weights, hidden: str) -> None:
            _head(graph, checkpoint, hidden)

        return build_with(head, checkpoint, checkpoint.transformer, exact=self.exact, rows=("batch", "length"))

    def embed(self, chunks: Sequence[Chunk]) -> list[Vector]:
        return [text[DENSE] for text in self.all_vectors(self.passages(chunks))]

    def query(self, texts: Sequence[str]) -> list[Vector]:
        return [text[DENSE] for text in self.all_vectors(self.questions(texts))]

    def questions(self, texts: Sequence[str]) -> list[list[int]]:
        checkpoint: M3Checkpoint = self.loaded()
        return rows.questions(self.opened(), checkpoint.name, checkpoint.transformer.query_prompt, texts)

    def all_vectors(self, ids: Sequence[Sequence[int]]) -> list[Mapping[str, Vector]]:
        """All vectors of each row of ids."""
        checkpoint, tokenizer = self.loaded(), self.opened()
        special = {*tokenizer.prefix, *tokenizer.suffix, checkpoint.transformer.pad, tokenizer.unknown}
        results: list[Mapping[str, Vector]] = [{}] * len(ids)
        for places, values in self.run(ids):
            for i, tokens in zip(places, values, strict=True):
                read = tokens[: len(ids[i])]
                results[i] = {
                    DENSE: Dense(read[0, :-1].copy()),
                    SPARSE: _sparse(ids[i], read[:, -1], special),
                    LATE: MultiVector(read[1:, :-1].copy()),
                }
        return results


def _sparse(ids: Sequence[int], weights: NDArray[np.float32], special: set[int | None]) -> Sparse:
    import numpy as np

    best: dict[int, float] = {}
    for id, weight in zip(ids, weights.tolist(), strict=True):
        if weight > 0 and id not in special:
            best[id] = max(weight, best.get(id, 0.0))
    words = sorted(best)
    return Sparse(np.array(words, np.int32), np.array([best[word] for word in words], np.float32))


def _head(graph: Graph, checkpoint: M3Checkpoint, hidden: str) -> None:
    """The dense vector in the row of the first token, in the others theirs; behind each its weight."""
    import numpy as np

    from penstock.embedders.pickled import read_pickled

    def product(states: str, file: str, out: int) -> str:
        layer = read_pickled(checkpoint.folder / file)
        if layer["weight"].shape != (out, checkpoint.transformer.hidden):
            raise ModelError(f"{checkpoint.folder / file} has no weights from the transformer's size to {out}")
        result = graph.add("MatMul", states, graph.constant(np.ascontiguousarray(layer["weight"].T)))
        return str(graph.add("Add", result, graph.constant(layer["bias"])))

    def part(start: int, end: int) -> str:
        bounds = [graph.constant(np.array([bound], np.int64)) for bound in (start, end, 1)]
        return str(graph.add("Slice", hidden, *bounds))

    others = product(part(1, np.iinfo(np.int64).max), LATE_HEAD, checkpoint.transformer.hidden)
    vectors = graph.add("LpNormalization", graph.add("Concat", part(0, 1), others, axis=1), axis=-1, p=2)
    graph.add("Concat", vectors, graph.add("Relu", product(hidden, SPARSE_HEAD, 1)), axis=-1)
