"""Reranking by a cross-encoder on ONNX Runtime, without PyTorch: it reads a question and a passage together.

A passage that does not fit is read in windows that overlap, and its best one counts: nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.core.contracts import Reranker
from penstock.core.errors import EmbedError, ModelError
from penstock.embedders import builder, cross_checkpoint, int8, models
from penstock.embedders.cross_checkpoint import CrossCheckpoint
from penstock.embedders.exported import activated as activated_here
from penstock.embedders.exported import check_inputs, feeds
from penstock.embedders.model_options import parted
from penstock.embedders.onnx import batches, fingerprint, located
from penstock.embedders.pairs import Pair, Pairs, answer_ids
from penstock.embedders.prefixes import INT8
from penstock.embedders.rows import padded
from penstock.embedders.runtime import run, session
from penstock.support.cores import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from penstock.embedders.builder import Graph
    from penstock.embedders.tokenize import HFTokenizer
    from penstock.embedders.weights import Weights

    Scores = NDArray[np.float32]


class CrossEncoder(Reranker):
    """Scores pairs with a cross-encoder: a folder or a hub id, with options behind a question mark.

    `length`: the most tokens of a pair, special tokens included; by default what the model's authors set. `workers`:
    batches that are run at once, of all calls together; by default as many as there are cores to use. `exact=False`: as
    `int8:` before its name.
    """

    has_tokenizer = True

    def __init__(
        self, model: str | Path, *, length: int | None = None, workers: int | None = None, exact: bool = True
    ) -> None:
        self.model = model
        self.length = length
        self.workers = workers or usable_cores()
        self.exact = exact
        self._checkpoint: CrossCheckpoint | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._tokenizer: HFTokenizer | None = None
        self._pairs: Pairs | None = None
        self._scores: Callable[[Sequence[Pair]], Scores] | None = None

    def __repr__(self) -> str:
        return f"CrossEncoder({str(self.model)!r}{'' if self.exact else ', exact=False'})"

    def __getstate__(self) -> dict[str, Any]:
        own = ("_checkpoint", "_threads", "_tokenizer", "_pairs", "_scores")
        return self.__dict__ | dict.fromkeys(own)

    def describe(self) -> str:
        name = self._load().name
        return name if self.exact else INT8 + name

    def open(self) -> None:
        if self._scores is not None:
            return
        from penstock.embedders.tokenize import HFTokenizer

        checkpoint = self._load()
        encoder = checkpoint.transformer
        length = self.length or min(encoder.length, encoder.positions)
        if length > encoder.positions:
            raise ModelError(f"{checkpoint.name} takes {encoder.positions} tokens at most, not {length}")
        tokenizer = HFTokenizer(encoder.folder / "tokenizer.json", length, lowercase=encoder.lowercase)
        pairs = Pairs(checkpoint, tokenizer, length)
        made = _Built if encoder.fused else _Export
        run = made(checkpoint, tokenizer, pairs.typed, self.exact).run
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="rerank")
        self._tokenizer, self._pairs, self._scores = tokenizer, pairs, run

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self._threads = self._tokenizer = self._pairs = self._scores = None

    @property
    def tokenizer(self) -> HFTokenizer | None:
        return self._tokenizer

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        parts = self.batches(question, texts)
        if self._threads is None:
            raise EmbedError("the reranker is not open")
        best = [float("-inf")] * len(texts)
        for part, scores in zip(parts, self._threads.map(self.run, parts), strict=True):
            for pair, score in zip(part, scores.tolist(), strict=True):
                best[pair.text] = max(best[pair.text], score)
        return best

    def batches(self, question: str, texts: Sequence[str]) -> list[list[Pair]]:
        """The pairs of the texts, of like length together; a text that is too long has several."""
        if self._pairs is None:
            raise EmbedError("the reranker is not open")
        pairs = list(self._pairs.of(question, texts))
        return [[pairs[i] for i in batch] for batch in batches([len(pair.ids) for pair in pairs], self.batch_tokens)]

    def run(self, pairs: Sequence[Pair]) -> Scores:
        """The scores of pairs, in one call of the model."""
        if self._scores is None:
            raise EmbedError("the reranker is not open")
        return self._scores(pairs)

    def _load(self) -> CrossCheckpoint:
        if self._checkpoint is None:
            folder, name = located(self.model)
            loaded = cross_checkpoint.load(folder, name, parted(str(self.model))[1])
            if not loaded.transformer.fused and not self.exact:
                raise ModelError(f"{name} has weights in ONNX only, which are run as they are: without int8:")
            self._checkpoint = loaded
        return self._checkpoint


class _Built:
    """The graph built from safetensors: pairs to scores."""

    def __init__(self, checkpoint: CrossCheckpoint, tokenizer: HFTokenizer, typed: bool, exact: bool) -> None:
        from penstock.embedders.graph import VERSION, build_with

        answers = checkpoint.answers and answer_ids(tokenizer, checkpoint, checkpoint.answers)

        def head(graph: Graph, weights: Weights, hidden: str) -> None:
            _head(graph, checkpoint, answers, weights, hidden)

        def build() -> Any:
            return build_with(head, checkpoint, checkpoint.transformer, exact=exact, types=typed)

        name = f"{fingerprint(checkpoint, exact)}-{VERSION}-cross-{cross_checkpoint.VERSION}{int8.suffix(exact)}"
        self._session = session(builder.cached(f"{name}{'-typed' if typed else ''}", build, models.cache_folder()))
        self._pad, self._typed = checkpoint.transformer.pad, typed

    def run(self, pairs: Sequence[Pair]) -> Scores:
        ids, lengths = padded([pair.ids for pair in pairs], self._pad)
        inputs = {"ids": ids, "lengths": lengths}
        if self._typed:
            inputs["types"] = padded([pair.types for pair in pairs], 0)[0]
        scores: Scores = run(self._session, inputs)[:, 0]
        return scores


class _Export:
    """A checkpoint's own ONNX file: pairs to logits."""

    def __init__(self, checkpoint: CrossCheckpoint, tokenizer: HFTokenizer, typed: bool, exact: bool) -> None:
        self._checkpoint, self._typed = checkpoint, typed
        self._path = checkpoint.transformer.weights[0]
        self._session = session(self._path)
        self._inputs = {node.name for node in self._session.get_inputs()}
        check_inputs(self._path, self._inputs)
        outputs = {node.name: len(node.shape) for node in self._session.get_outputs()}
        self._output = next((name for name in ("logits", *outputs) if outputs.get(name) == 2), "")
        if not self._output or checkpoint.answers is not None:
            given = ", ".join(f"{name} ({axes} axes)" for name, axes in outputs.items())
            raise ModelError(
                f"{self._path} gives {given}: expected the logit of each pair, an output of 2 axes (optimum-cli export"
                " onnx --task text-classification)"
            )

    def run(self, pairs: Sequence[Pair]) -> Scores:
        import numpy as np

        encoder = self._checkpoint.transformer
        ids, lengths = padded([pair.ids for pair in pairs], encoder.pad)
        types = padded([pair.types for pair in pairs], 0)[0] if self._typed else None
        found = run(self._session, feeds(self._inputs, ids, lengths, encoder.offset, types), [self._output])
        if found.shape != (len(pairs), 1):
            raise ModelError(f"{self._path} gives {found.shape[1:]} numbers a pair, expected one: it is no reranker")
        scores: Scores = activated_here(self._checkpoint.activation, np.asarray(found[:, 0], np.float32))
        return scores


def _head(
    graph: Graph,
    checkpoint: CrossCheckpoint,
    answers: tuple[int, int | None] | None,
    weights: Weights,
    hidden: str,
) -> None:
    """The score of the last hidden states: (batch, 1)."""
    from penstock.embedders.blocks import pool

    state = pool(graph, checkpoint.pooling, hidden)
    if answers is not None:
        words = weights.get("lm_head.weight", weights.get("embed_tokens.weight"))
        if words is None:
            raise KeyError("lm_head.weight")
        yes, no = answers
        row = words[yes] if no is None else words[yes] - words[no]
        logit = graph.add("MatMul", state, graph.constant(row[:, None].copy()))
    else:
        logit = _classified(graph, checkpoint, weights, state)
    if checkpoint.activation:
        graph.add(checkpoint.activation, logit)


INNER = {
    "classifier.dense": "Tanh",
    "pre_classifier": "Relu",
    "head.dense": "",
    "dense": "",
    "pooler.dense": "Tanh",
}
"""The layer before the last one, and its activation; nothing: that of the configuration. RoBERTa and MPNet; DistilBERT;
ModernBERT; EuroBERT; BERT and the others."""


def _classified(graph: Graph, checkpoint: CrossCheckpoint, weights: Weights, state: str) -> str:
    from penstock.embedders.blocks import activated, norm

    def dense(name: str, value: str) -> str:
        product = graph.add("MatMul", value, graph.constant(weights[f"{name}.weight"].T.copy()))
        shift = weights.get(f"{name}.bias")
        return product if shift is None else str(graph.add("Add", product, graph.constant(shift)))

    layer = next((name for name in INNER if f"{name}.weight" in weights), "pooler.dense")
    last = "classifier.out_proj" if layer == "classifier.dense" else "classifier"
    if (found := weights[f"{last}.weight"].shape) != (1, checkpoint.transformer.hidden):
        raise ModelError(f"{checkpoint.folder} has a {last} of shape {found}: expected a reranker, which has one row")
    state = dense(layer, state)
    state = graph.add(INNER[layer], state) if INNER[layer] else activated(graph, checkpoint.inner, state)
    if (scale := weights.get("head.norm.weight")) is not None:
        state = norm(graph, "layer", state, scale, weights.get("head.norm.bias"), checkpoint.transformer.epsilon)
    return dense(last, state)
