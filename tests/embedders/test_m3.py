"""Three vectors from one pass, in the layout of BGE-M3, against their definitions in numpy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import Pipeline, open_index
from penstock.core.errors import EmbedError, ModelError, UsageError
from penstock.core.records import Dense, MultiVector, Sparse
from penstock.embedders import heads, rows
from penstock.embedders.m3 import LATE_HEAD, SPARSE_HEAD, M3Embedder
from penstock.embedders.names import from_name

from .pickles import save
from .test_onnx import chunks

TEXTS = ["resume the run from the index file", "the key", "the the the table", "?", "a key that resumes in time " * 9]
SIZE = 64


@pytest.fixture
def folder(small: Callable[[str], Path], tmp_path: Path, cache: Path) -> Path:
    """A small XLM-RoBERTa with both heads."""
    folder = Path(shutil.copytree(small("xlm-roberta"), tmp_path / "m3"))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}}))
    draw = np.random.default_rng(3)
    for name, out in ((SPARSE_HEAD, 1), (LATE_HEAD, SIZE)):
        # The states of a random transformer are alike: without a bias all weights would be negative, or none.
        layer = {"weight": draw.standard_normal((out, SIZE)), "bias": np.full(out, 9.0 if out == 1 else 0.1)}
        save(folder / name, {key: value.astype(np.float16) for key, value in layer.items()})
    return folder


@pytest.fixture
def model(folder: Path) -> Any:
    with M3Embedder(folder, workers=1) as model:
        model.open()
        yield model


class States(heads.HeadEmbedder):
    """The last hidden states of a transformer, which test_encoders compares with those of transformers."""

    kind, metric, graph_name = "MultiVector", "dot", "states"
    embed = query = None  # type: ignore[assignment]

    def load(self, folder: Path, name: str) -> Any:
        from penstock.embedders.m3 import M3Checkpoint

        return M3Checkpoint(heads.transformer(folder, name), 0, name)

    def graph(self, checkpoint: Any) -> Any:
        from penstock.embedders.graph import build_with

        def head(graph: Any, weights: Any, hidden: str) -> None:
            graph.add("Identity", hidden)

        return build_with(head, checkpoint.transformer, checkpoint.transformer, exact=True, rows=("batch", "length"))


def expected(folder: Path, text: str) -> tuple[Any, dict[int, float], Any]:
    from penstock.embedders.pickled import read_pickled

    with States(folder, workers=1) as transformer:
        transformer.open()
        tokenizer = transformer.opened()
        [ids] = rows.questions(tokenizer, "", "", [text])
        [(_, [states])] = transformer.run([ids])
    sparse, late = (read_pickled(folder / name) for name in (SPARSE_HEAD, LATE_HEAD))
    vectors = states[1:] @ late["weight"].T + late["bias"]
    weights: dict[int, float] = {}
    for id, weight in zip(ids, np.maximum(states @ sparse["weight"][0] + sparse["bias"], 0), strict=True):
        if id not in (0, 1, 2, 3) and weight > 0:  # <s>, <pad>, </s>, <unk>
            weights[id] = max(float(weight), weights.get(id, 0.0))
    return states[0] / np.linalg.norm(states[0]), weights, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def same(found: Any, wanted: tuple[Any, dict[int, float], Any]) -> None:
    dense, sparse, late = found
    assert isinstance(dense, Dense)
    assert isinstance(sparse, Sparse)
    assert isinstance(late, MultiVector)
    np.testing.assert_allclose(dense.values, wanted[0], atol=1e-5)
    assert sparse.indices.tolist() == sorted(wanted[1])
    np.testing.assert_allclose(sparse.values, [wanted[1][id] for id in sorted(wanted[1])], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(late.values, wanted[2], atol=1e-5)


def test_all_three_vectors_are_those_of_their_definitions(folder: Path, model: M3Embedder) -> None:
    """Of passages in one batch, and of questions."""
    together = model.embed(chunks(TEXTS))
    for number, text in enumerate(TEXTS):
        wanted = expected(folder, text)
        assert text == "?" or wanted[1]
        same([together[name][number] for name in ("dense", "sparse", "late")], wanted)
        same([model.query([text], name)[0] for name in ("dense", "sparse", "late")], wanted)


@pytest.mark.filterwarnings("ignore")
def test_an_index_is_filled_in_one_pass_and_searched_by_each(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by each name's model as the index keeps it."""
    passes = []
    real = heads.run
    monkeypatch.setattr(heads, "run", lambda session, inputs: passes.append(inputs) or real(session, inputs))
    docs = tmp_path / "docs"
    docs.mkdir()
    for number, text in enumerate(TEXTS[:3]):
        (docs / f"{number}.txt").write_text(text)
    url = f"qdrant://{tmp_path}/store/notes"
    pipeline = Pipeline(docs, into=url, model=f"m3:{folder}", state=tmp_path / "ledger.db")
    assert pipeline.run().embedded == 3
    assert sum(len(inputs["ids"]) for inputs in passes) == 3
    with open_index(url) as index:
        assert index.schema.vectors.keys() == {"dense", "sparse", "late"}
        for name in ("dense", "sparse", "late"):
            [hit] = index.search(TEXTS[1], k=1, using=name)
            assert hit.chunk.text == TEXTS[1]


def test_a_model_without_the_heads_is_refused(folder: Path) -> None:
    (folder / SPARSE_HEAD).unlink()
    with pytest.raises(ModelError, match=r"has no sparse_linear.pt, as BGE-M3 has"):
        from_name(f"m3:{folder}").describe()


def test_a_head_of_another_size_is_refused(folder: Path) -> None:
    save(folder / LATE_HEAD, {"weight": np.zeros((8, SIZE), np.float32), "bias": np.zeros(8, np.float32)})
    with pytest.raises(ModelError, match="to 64"):
        from_name(f"m3:{folder}").open()


def test_options_of_other_kinds_and_texts_too_long_are_refused(folder: Path, model: M3Embedder) -> None:
    with pytest.raises(UsageError, match="takes length, revision, not pool"):
        from_name(f"m3:{folder}?pool=2").describe()
    for model_name in (f"int8:m3:{folder}", f"torch:m3:{folder}"):
        with pytest.raises(UsageError, match="do not go together"):
            from_name(model_name)
    with pytest.raises(EmbedError, match="takes 510"):
        model.embed(chunks(["the " * 600]))
