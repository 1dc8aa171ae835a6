"""Late interaction: a vector of each token, compared by the best match of each of the question's (MaxSim).

A passage is [CLS] [D] text [SEP], without a vector of what the model skips (punctuation); a question is [CLS] [Q]
text [SEP], filled up by [MASK]s where the model was trained so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from penstock.core.errors import ModelError, UsageError
from penstock.core.precision import INT8, check, encoded, known
from penstock.core.records import Chunk, MultiVector, Vector
from penstock.core.schema import VectorSpec
from penstock.embedders import colbert_checkpoint, heads, rows
from penstock.embedders.checkpoint import module_weights
from penstock.embedders.colbert_checkpoint import ColbertCheckpoint, Pooling
from penstock.embedders.model_options import parted
from penstock.embedders.token_pooling import pooled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph
    from penstock.embedders.weights import Weights

GRAPH = 1
"""Part of the name of a cached graph: raise it when the graph changes."""


class ColbertEmbedder(heads.HeadEmbedder):
    """Embeds with a late-interaction model, saved by PyLate, Stanford's ColBERT or sentence-transformers: a folder or a
    hub id. `pool`: keep a vector for every so many tokens of a passage (2: half of them). `precision`: how the numbers
    of a passage's vectors are kept (penstock.core.precision). Both as `?pool=2&precision=int8` behind its name.
    A question is never cut: one that is longer than those that the model fills up is taken whole.
    """

    kind = "MultiVector"

    def __init__(
        self,
        model: str | Path,
        *,
        pool: float | None = None,
        precision: str | None = None,
        length: int | None = None,
        workers: int | None = None,
        exact: bool = True,
    ) -> None:
        if pool is not None and not 1 <= pool <= 64:
            raise UsageError(f"invalid pool {pool}: expected a number from 1 to 64")
        if precision is not None:
            known(precision)
        super().__init__(model, length=length, workers=workers, exact=exact)
        self.pool, self.precision = pool, precision

    def __repr__(self) -> str:
        chosen = "".join(f", {name}={value}" for name, value in self._chosen().items())
        return f"ColbertEmbedder({str(self.model)!r}{chosen}{'' if self.exact else ', exact=False'})"

    def _chosen(self) -> dict[str, str]:
        """Options that count before those in the model's name."""
        pool = {} if self.pool is None else {"pool": f"{self.pool:g}"}
        return pool if self.precision is None else {**pool, "precision": self.precision}

    def describe(self) -> VectorSpec:
        return replace(super().describe(), precision=self.loaded().precision)

    @property
    def metric(self) -> str:
        return "cosine" if self.loaded().normalize else "dot"

    @property
    def graph_name(self) -> str:
        return f"late-{GRAPH}"

    def load(self, folder: Path, name: str) -> ColbertCheckpoint:
        checkpoint = colbert_checkpoint.load(folder, name)
        base, options = parted(name)
        if chosen := self._chosen():
            options = {**options, **chosen}
            name = f"{base}?{urlencode(options)}"
        if (precision := options.get("precision")) is not None:
            check(precision, checkpoint.dim, name, unit=checkpoint.normalize)
            checkpoint = replace(checkpoint, precision=precision)
        if (factor := options.get("pool")) is not None:
            checkpoint = replace(checkpoint, pooling=Pooling(float(factor), 1, normalize=checkpoint.normalize))
        return replace(checkpoint, name=name)

    def graph(self, checkpoint: ColbertCheckpoint) -> Any:
        from penstock.embedders.graph import build_with

        def head(graph: Graph, weights: Weights, hidden: str) -> None:
            _head(graph, checkpoint, weights, hidden)

        return build_with(head, checkpoint, checkpoint.transformer, exact=self.exact, rows=("batch", "length"))

    def embed(self, chunks: Sequence[Chunk]) -> list[Vector]:
        checkpoint: ColbertCheckpoint = self.loaded()
        ids = self.passages(chunks)
        skipped = self._skipped()

        def vectors(places: list[int], hidden: NDArray[np.float32]) -> list[Vector]:
            return [
                MultiVector(self._passage(checkpoint, values[_kept(ids[i], skipped)]))
                for i, values in zip(places, hidden, strict=True)
            ]

        return heads.gathered(len(ids), ((places, vectors(places, hidden)) for places, hidden in self.run(ids)))

    def query(self, texts: Sequence[str]) -> list[Vector]:
        checkpoint: ColbertCheckpoint = self.loaded()
        tokenizer, expansion = self.opened(), checkpoint.expansion
        room = checkpoint.transformer.positions - len(tokenizer.prefix) - len(tokenizer.suffix)
        ids = rows.questions(tokenizer, checkpoint.name, checkpoint.transformer.query_prompt, texts, room)
        read = [len(row) for row in ids]
        if expansion is not None:
            mask = self._mask()
            ids = [[*row, *[mask] * (expansion.length - len(row))] for row in ids]
            if expansion.attended:
                read = [len(row) for row in ids]
        skipped = self._skipped() if checkpoint.skips_queries else frozenset()

        def vectors(places: list[int], hidden: NDArray[np.float32]) -> list[Vector]:
            return [
                MultiVector(values[_kept(ids[i], skipped)].copy()) for i, values in zip(places, hidden, strict=True)
            ]

        return heads.gathered(
            len(ids), ((places, vectors(places, hidden)) for places, hidden in self.run(ids, read=read))
        )

    def _skipped(self) -> frozenset[int]:
        """Ids of what has no vector. A word that the vocabulary lacks is left out: it would be any unknown token."""
        tokenizer = self.opened()
        found = {tokenizer.id_of(word) for word in self.loaded().skipped}
        return frozenset(id for id in found if id is not None and id != tokenizer.unknown)

    def _mask(self) -> int:
        expansion, tokenizer = self.loaded().expansion, self.opened()
        names = [expansion.token] if expansion.token else ["[MASK]", "<mask>", "</s>", "<|endoftext|>"]
        for name in names:
            if (id := tokenizer.id_of(name)) is not None:
                return id
        raise ModelError(f"{self.loaded().name} fills questions up by {names[0]}, which its tokenizer lacks")

    @staticmethod
    def _passage(checkpoint: ColbertCheckpoint, values: NDArray[np.float32]) -> NDArray[Any]:
        if (pooling := checkpoint.pooling) is not None:
            unit = pooling.normalize or checkpoint.precision == INT8
            values = pooled(values, pooling.factor, kept=pooling.kept, normalize=unit)
        return encoded(values, checkpoint.precision)


def _kept(ids: Sequence[int], skipped: frozenset[int]) -> list[int]:
    """Places of the tokens that have a vector."""
    return [i for i, id in enumerate(ids) if id not in skipped]


def _head(graph: Graph, checkpoint: ColbertCheckpoint, weights: Weights, hidden: str) -> None:
    import numpy as np

    from penstock.embedders.weights import read_tensors

    for projection in checkpoint.projections:
        layer = read_tensors(module_weights(checkpoint.folder, projection.folder)) if projection.folder else weights
        before = hidden
        hidden = graph.add("MatMul", hidden, graph.constant(np.ascontiguousarray(layer["linear.weight"].T)))
        if "linear.bias" in layer:
            hidden = graph.add("Add", hidden, graph.constant(layer["linear.bias"]))
        if projection.activation:
            hidden = graph.add(projection.activation, hidden)
        if projection.residual:
            if "residual.weight" in layer:
                shortcut = graph.constant(np.ascontiguousarray(layer["residual.weight"].T))
                before = graph.add("MatMul", before, shortcut)
            hidden = graph.add("Add", hidden, before)
    if checkpoint.normalize:
        graph.add("LpNormalization", hidden, axis=-1, p=2)
