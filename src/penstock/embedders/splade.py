"""Sparse vectors over the vocabulary, by a masked-language model (SPLADE).

The weight of a word is the logarithm of the largest logit that any token of the text has for it. Questions go through
the same model, or, of an inference-free one, are the fixed weights of their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.core.errors import ModelError
from penstock.core.records import Chunk, Sparse, Vector
from penstock.embedders import heads, kinds, rows
from penstock.embedders.checkpoint import SENSELESS, Checkpoint, inside, module_weights, read
from penstock.embedders.prefixes import SPLADE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph
    from penstock.embedders.tokenize import HFTokenizer
    from penstock.embedders.weights import Weights

VERSION = 1
"""Part of a space's fingerprint: raise it when vectors change."""
BLOCK = 2048
"""Words whose logits are there at once, for all tokens of a batch."""
MOST_BYTES = 32 << 20
"""Of the result of a batch: a number for each word of the vocabulary and text."""


class Head(NamedTuple):
    """Names of the weights of a masked-language model."""

    dense: str
    norm: str
    decoder: str
    biases: tuple[str, ...]


HEADS = (
    Head(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder.weight",
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    ),
    Head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight", ("lm_head.bias", "lm_head.decoder.bias")),
    Head("vocab_transform", "vocab_layer_norm", "vocab_projector.weight", ("vocab_projector.bias",)),
    Head("head.dense", "head.norm", "decoder.weight", ("decoder.bias",)),
)
"""BERT; RoBERTa and MPNet; DistilBERT; ModernBERT. Where there is no decoder, it is the table of words."""
WORDS = ("embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight")


@dataclass(frozen=True, slots=True)
class SpladeCheckpoint:
    transformer: Checkpoint
    top: Path
    """The folder of the whole model."""
    vocabulary: int
    sums: bool
    """The weights of all tokens are added up, where otherwise the largest counts."""
    twice: bool
    """The logarithm is taken twice."""
    table: str
    """The folder of the weights of the tokens of questions; nothing where they go through the model."""
    name: str

    markers = ()

    @property
    def folder(self) -> Path:
        return self.top

    @property
    def dim(self) -> int:
        return self.vocabulary

    @property
    def length(self) -> int:
        return self.transformer.length

    @property
    def files(self) -> tuple[Path, ...]:
        table = (*module_weights(self.top, self.table), self.top / self.table / "tokenizer.json") if self.table else ()
        return (*self.transformer.weights, self.transformer.folder / "tokenizer.json", *table)

    @property
    def traits(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key not in ("transformer", "name", "top")}
        return {**self.transformer.traits, **own, "splade": VERSION}


def load(folder: Path, name: str) -> SpladeCheckpoint:
    try:
        return _load(folder, name)
    except SENSELESS as error:
        raise ModelError(f"{folder} has a configuration that makes no sense: {error!r:.300}") from error


def _load(folder: Path, name: str) -> SpladeCheckpoint:
    # A bare masked-language model has its head and nothing else.
    passage = kinds.modules(folder) or [("Transformer", ""), ("SpladePooling", "")]
    question = passage
    if passage[0][0] == "Router":
        router = read(inside(folder, passage[0][1]) / "router_config.json")
        question, passage = (
            [(kinds.class_name(router["types"][each]), each) for each in router["structure"][route]]
            for route in ("query", "document")
        )
    for kind, _ in [*passage, *question]:
        if kind not in ("Transformer", "MLMTransformer", "SpladePooling", "SparseStaticEmbedding"):
            raise ModelError(f"{folder} has a module that Penstock does not run: {kind:.200}")
    if [kind for kind, _ in passage][1:] != ["SpladePooling"] or not passage[0][0].endswith("Transformer"):
        raise ModelError(
            f"{folder} is no SPLADE model: passages go through {', '.join(kind for kind, _ in passage):.200}"
        )
    free = question[0][0] == "SparseStaticEmbedding"
    if not free and question != passage:
        raise ModelError(f"{folder} has models of their own for questions and passages, which Penstock does not run")
    at = inside(folder, passage[0][1])
    pooling = kinds.optional(inside(folder, passage[1][1]) / "config.json") if passage[1][1] else {}
    table = question[0][1] if free else ""
    if free:
        module_weights(folder, table)
    strategy, activation = pooling.get("pooling_strategy", "max"), pooling.get("activation_function", "relu")
    if strategy not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise ModelError(f"{folder} pools by {strategy!s:.100} and {activation!s:.100}, which Penstock does not know")
    return SpladeCheckpoint(
        transformer=heads.transformer(at, name),
        top=folder,
        vocabulary=int(read(at / "config.json")["vocab_size"]),
        sums=strategy == "sum",
        twice=activation == "log1p_relu",
        table=table,
        name=name,
    )


class SpladeEmbedder(heads.HeadEmbedder):
    """Embeds with a SPLADE model of sentence-transformers: a folder or a hub id. `splade:` before the name of a
    masked-language model that has nothing else says that it is one."""

    kind = "Sparse"
    metric = "dot"
    _table: _Table | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_table": None}

    def open(self) -> None:
        super().open()
        if self.loaded().table and self._table is None:
            self._table = _Table(self.loaded(), self.opened())

    def close(self) -> None:
        super().close()
        self._table = None

    @property
    def graph_name(self) -> str:
        return f"splade-{VERSION}"

    def load(self, folder: Path, name: str) -> SpladeCheckpoint:
        bare = not (folder / "modules.json").is_file()
        return load(folder, SPLADE + name if bare else name)

    def graph(self, checkpoint: SpladeCheckpoint) -> Any:
        from penstock.embedders.graph import build_with

        def head(graph: Graph, weights: Weights, hidden: str) -> None:
            _head(graph, checkpoint, weights, hidden)

        return build_with(head, checkpoint, checkpoint.transformer, exact=self.exact)

    def embed(self, chunks: Sequence[Chunk]) -> list[Vector]:
        return self._vectors(self.passages(chunks))

    def query(self, texts: Sequence[str]) -> list[Vector]:
        tokenizer, checkpoint = self.opened(), self.loaded()
        prompt = checkpoint.transformer.query_prompt
        if self._table is not None:
            return self._table.vectors([prompt + text for text in texts])
        return self._vectors(rows.questions(tokenizer, checkpoint.name, prompt, texts))

    def _vectors(self, ids: Sequence[Sequence[int]]) -> list[Vector]:
        checkpoint: SpladeCheckpoint = self.loaded()
        parts = self.run(ids, most=max(1, MOST_BYTES // (4 * checkpoint.vocabulary)))
        return heads.gathered(
            len(ids), ((places, [_sparse(row, checkpoint) for row in weights]) for places, weights in parts)
        )


def _sparse(weights: NDArray[np.float32], checkpoint: SpladeCheckpoint) -> Vector:
    import numpy as np

    indices = np.flatnonzero(weights != 0)  # of the numbers themselves it takes six times as long
    values = weights[indices]
    if not checkpoint.sums:
        for _ in range(1 + checkpoint.twice):
            values = np.log1p(values)
    return Sparse(indices.astype(np.int32), values)


class _Table:
    """The weights of the tokens of a question, each once; special tokens have none, as they are not added."""

    def __init__(self, checkpoint: SpladeCheckpoint, tokenizer: HFTokenizer) -> None:
        from penstock.embedders.tokenize import HFTokenizer
        from penstock.embedders.weights import read_tensors

        folder = checkpoint.top / checkpoint.table
        own = folder / "tokenizer.json"
        self._tokenizer = HFTokenizer(own, checkpoint.transformer.positions) if own.is_file() else tokenizer
        weights = read_tensors(module_weights(checkpoint.top, checkpoint.table)).get("weight")
        if weights is None or weights.shape != (checkpoint.vocabulary,):
            raise ModelError(f"{folder} holds no weights of {checkpoint.vocabulary} tokens")
        self._weights = weights

    def vectors(self, texts: Sequence[str]) -> list[Vector]:
        import numpy as np

        vectors: list[Vector] = []
        for ids in self._tokenizer.encode(texts):
            found = np.unique(np.array(ids, np.int64))
            found = found[(found < len(self._weights))]
            weights = self._weights[found]
            vectors.append(Sparse(found[weights != 0].astype(np.int32), weights[weights != 0]))
        return vectors


def _head(graph: Graph, checkpoint: SpladeCheckpoint, weights: Weights, hidden: str) -> None:
    import numpy as np

    from penstock.embedders.blocks import activated, normed, product

    head = next((each for each in HEADS if f"{each.dense}.weight" in weights), None)
    if head is None:
        raise ModelError(f"{checkpoint.folder} has no head of a masked-language model: it cannot be a SPLADE model")
    words = next((weights[name] for name in (head.decoder, *WORDS) if name in weights), None)
    if words is None or len(words) != checkpoint.vocabulary:
        raise ModelError(f"{checkpoint.folder} has no decoder of {checkpoint.vocabulary} words")
    size = checkpoint.transformer.hidden
    nothing = np.zeros(size, np.float32)
    dense = product(graph, hidden, np.ascontiguousarray(weights[f"{head.dense}.weight"].T))
    shift = graph.constant(weights.get(f"{head.dense}.bias", nothing))
    hidden = activated(graph, checkpoint.transformer.activation, dense, shift)
    norm = {f"{head.norm}.weight": weights[f"{head.norm}.weight"], f"{head.norm}.bias": nothing}
    hidden = normed(
        graph, norm | _given(weights, f"{head.norm}.bias"), head.norm, hidden, checkpoint.transformer.epsilon
    )
    bias = next((weights[name] for name in head.biases if name in weights), np.zeros(len(words), np.float32))
    real = _real(graph)
    if not checkpoint.sums:
        hidden = _without_padding(graph, hidden, real)
    blocks = []
    for start in range(0, len(words), BLOCK):
        matrix = np.ascontiguousarray(words[start : start + BLOCK].T)
        logits = product(graph, hidden, matrix)
        block = graph.constant(bias[start : start + BLOCK])
        if checkpoint.sums:
            blocks.append(_sum(graph, _saturated(graph, graph.add("Add", logits, block), checkpoint.twice), real))
        else:
            # The logarithm grows with the logit: that of the largest is enough, and taken of what is above 0.
            blocks.append(graph.add("Add", graph.add("ReduceMax", logits, axes=[1], keepdims=0), block))
    joined = graph.add("Concat", *blocks, axis=1)
    if not checkpoint.sums:
        graph.add("Relu", joined)


def _given(weights: Weights, name: str) -> dict[str, NDArray[np.float32]]:
    return {name: weights[name]} if name in weights else {}


def _saturated(graph: Graph, logits: str, twice: bool) -> str:
    import numpy as np

    one = graph.constant(np.array(1, np.float32))
    value = graph.add("Relu", logits)
    for _ in range(1 + twice):
        value = graph.add("Log", graph.add("Add", value, one))
    return str(value)


def _real(graph: Graph) -> str:
    """(batch, length): which tokens are no padding."""
    import numpy as np
    from onnx import TensorProto

    zero, one = graph.constant(np.array(0, np.int32)), graph.constant(np.array(1, np.int32))
    width = graph.add("Gather", graph.add("Shape", "ids"), graph.constant(np.array(1, np.int64)), axis=0)
    positions = graph.add("Range", zero, graph.add("Cast", width, to=TensorProto.INT32), one)
    lengths = graph.add("Unsqueeze", "lengths", graph.constant(np.array([1], np.int64)))
    return str(graph.add("Less", positions, lengths))


def _without_padding(graph: Graph, hidden: str, real: str) -> str:
    """Have padding say what the first token says: it changes no maximum, and costs less than masking the logits."""
    import numpy as np

    first = graph.add("Gather", hidden, graph.constant(np.array([0], np.int64)), axis=1)
    return str(graph.add("Where", graph.add("Unsqueeze", real, graph.constant(np.array([2], np.int64))), hidden, first))


def _sum(graph: Graph, values: str, real: str) -> str:
    import numpy as np
    from onnx import TensorProto

    axis = graph.constant(np.array([1], np.int64))
    share = graph.add("Unsqueeze", graph.add("Cast", real, to=TensorProto.FLOAT), axis)
    return str(graph.add("Squeeze", graph.add("MatMul", share, values), axis))
