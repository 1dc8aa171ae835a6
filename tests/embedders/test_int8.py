"""`int8:`: how near its vectors are to exact ones, what they depend on, and what cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import Pipeline, open_index
from penstock.core.errors import UsageError
from penstock.core.records import Chunk, Dense
from penstock.embedders import int8
from penstock.embedders.blocks import LEAST, product
from penstock.embedders.builder import Graph
from penstock.embedders.clip import ClipEmbedder
from penstock.embedders.names import from_name
from penstock.embedders.onnx import OnnxEmbedder
from penstock.embedders.runtime import session
from penstock.sinks.memory import forget
from tests.embedders.conftest import REFERENCE, SMALL, TRAINED, Make, reference

TEXTS: list[str] = json.loads((REFERENCE / "clip" / "texts.json").read_text("utf-8"))
PICTURES = [path.read_bytes() for path in sorted((REFERENCE / "clip").glob("[0-9].*"))]


def chunks(texts: list[str]) -> list[Chunk]:
    return [Chunk(f"{i:032}", "memory://doc", i, text, (0, len(text))) for i, text in enumerate(texts)]


def matrix(vectors: list[Dense]) -> np.ndarray:
    return np.stack([vector.values for vector in vectors])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def default() -> Any:
    with from_name("int8:") as embedder:
        embedder.open()
        yield embedder


def test_near_the_exact_vectors(default: OnnxEmbedder, texts: list[str]) -> None:
    """Of the default model, which was trained: what is found next to a text is what was found."""
    exact, found = reference("default")["passages"], matrix(default.embed(chunks(texts)))
    near = cosines(found, exact)
    assert near.min() >= 0.98, "of a text that is a question mark"
    assert 0.998 <= np.median(near) < 0.99999, "else it would not be of 8 bits"
    first, second = (exact @ exact.T - 2 * np.eye(len(exact))), (found @ found.T - 2 * np.eye(len(found)))
    same = [len({*np.argsort(-a)[:5]} & {*np.argsort(-b)[:5]}) / 5 for a, b in zip(first, second, strict=True)]
    assert np.mean(same) >= 0.93


def test_a_vector_does_not_depend_on_its_batch(default: OnnxEmbedder, texts: list[str]) -> None:
    """Nor on the padding that longer texts bring."""
    together = matrix(default.embed(chunks(texts)))
    alone = np.concatenate([matrix(default.embed([chunk])) for chunk in chunks(texts)])
    assert cosines(together, alone).min() >= 0.9999


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "distilbert"])
def test_every_family(name: str, small: Make, texts: list[str], cache: Path) -> None:
    with OnnxEmbedder(small(name), exact=False) as embedder:
        embedder.open()
        found = matrix(embedder.embed(chunks([text[:SMALL] for text in texts])))
    assert cosines(found, reference(name)["passages"]).min() >= 0.999


def test_images_and_texts_of_the_trained_model(cache: Path) -> None:
    with ClipEmbedder(TRAINED) as exact, ClipEmbedder(TRAINED, exact=False) as embedder:
        for one in (exact, embedder):
            one.open()
        texts = ["a red circle", "two blue squares", "a small green triangle on the left"]
        assert cosines(matrix(exact.query(texts)), matrix(embedder.query(texts))).min() >= 0.999
        pictures = [matrix(one.query_images(PICTURES)) for one in (exact, embedder)]
        assert cosines(*pictures).min() >= 0.999


@pytest.mark.parametrize("name", ["clip-quick", "siglip"])
def test_every_family_that_sees(name: str, made: Make, cache: Path) -> None:
    with np.load(REFERENCE / "clip" / f"{name}.npz") as golden, ClipEmbedder(made(name), exact=False) as embedder:
        embedder.open()
        assert cosines(matrix(embedder.query_images(PICTURES)), golden["images"]).min() >= 0.999
        assert cosines(matrix(embedder.query(TEXTS)), golden["texts"]).min() >= 0.999


def test_an_index_is_searched_as_it_was_made(tmp_path: Path) -> None:
    """The name that is kept with it says so; exact vectors are another space."""
    (tmp_path / "a.md").write_text("Otters hold hands while they sleep.")
    url = "memory://int8"
    try:
        assert Pipeline(tmp_path, into=url, model="int8:", state=tmp_path / "ledger.db").run().ok
        with open_index(url) as index:
            assert index.manifest.schema.only.model == f"int8:{OnnxEmbedder().describe().model}"
            assert index.search("sleeping otters")[0].score > 0.5
    finally:
        forget(url)
    exact, rounded = from_name(None).describe(), from_name("int8:").describe()
    assert exact.fingerprint != rounded.fingerprint
    assert from_name(rounded.model).describe() == rounded


def multiplied(values: np.ndarray, weights: np.ndarray, fine: bool, least: float | None = None) -> np.ndarray:
    from onnx import TensorProto, helper

    graph = Graph(exact=False)
    name = product(graph, "values", weights, fine=fine, least=least)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "product",
            [helper.make_tensor_value_info("values", TensorProto.FLOAT, [None, values.shape[1]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, weights.shape[1]])],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    found: np.ndarray = session(model.SerializeToString()).run(None, {"values": values})[0]
    return found


@pytest.mark.parametrize("fine", [False, True])
def test_a_product(fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of any size, each by its own; of nothing, nothing; the same with unsigned bytes."""
    chance = np.random.default_rng(1)
    values = chance.standard_normal((40, 96)).astype(np.float32) * np.logspace(-20, 20, 40, dtype=np.float32)[:, None]
    values[7], values[8, 3] = 0, 1e5
    weights = chance.standard_normal((96, 24)).astype(np.float32) * np.logspace(-3, 3, 24, dtype=np.float32)
    weights[:, 5] = 0
    found = multiplied(values, weights, fine)
    steps = np.abs(weights).max(axis=0) / 127
    # Off by half a step a term at most, of the matrix and of the row; where that is taken in two steps, of the finer.
    row = np.abs(values).max(axis=1, keepdims=True) / 127 * (0.5 / 127 if fine else 1)
    most = np.abs(values).sum(axis=1, keepdims=True) * steps / 2
    most = most + 96 * row / 2 * (np.abs(weights).max(axis=0) + steps)
    assert (np.abs(found - values.astype(np.float64) @ weights) <= 1.01 * most).all()
    assert not found[7].any()
    assert not found[:, 5].any()
    other = not int8.signed()
    monkeypatch.setattr(int8, "signed", lambda: other)
    np.testing.assert_array_equal(multiplied(values, weights, fine), found)


def test_long_rows_are_rounded_in_parts() -> None:
    """A number that is larger by far, of the values or the matrix, leaves the other parts as exact as they are."""
    chance = np.random.default_rng(2)
    size = 3 * int8.PART
    values, weights = (chance.standard_normal(shape).astype(np.float32) for shape in ((6, size), (size, 8)))
    values[:, int8.PART :] = 0
    exact = values.astype(np.float64) @ weights
    weights[-1] = 1000
    assert np.abs(multiplied(values, weights, False) - exact).max() < 2
    values[:, -1], weights[-1] = 1000, 0
    assert np.abs(multiplied(values, weights, False) - exact).max() < 2


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "silu", "relu"])
def test_values_that_are_no_less_than_the_least_of_an_activation(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have twice as many steps."""
    least = LEAST[activation]
    chance = np.random.default_rng(3)
    values = np.maximum(chance.standard_normal((50, 96)).astype(np.float32), least)
    values[0] = least
    weights = chance.standard_normal((96, 24)).astype(np.float32)
    exact = values.astype(np.float64) @ weights
    near, plain = (np.abs(multiplied(values, weights, False, one) - exact) for one in (least, None))
    assert near.max() < 0.5
    assert np.sqrt((near**2).mean()) < 0.8 * np.sqrt((plain**2).mean())
    found = multiplied(values, weights, False, least)
    other = not int8.signed()
    monkeypatch.setattr(int8, "signed", lambda: other)
    np.testing.assert_array_equal(multiplied(values, weights, False, least), found)


def test_no_value_of_an_activation_is_below_its_least() -> None:
    x = np.linspace(-20, 20, 400_001)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    values = {"gelu_new": x * (1 + tanh) / 2, "quick_gelu": x / (1 + np.exp(-1.702 * x)), "silu": x / (1 + np.exp(-x))}
    for name, each in values.items():
        assert LEAST[name] <= each.min() < LEAST[name] + 0.01


@pytest.mark.parametrize("exact", [False, True])
def test_signed_bytes_are_taken_where_their_sums_are_exact(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by processors that add them up in 16 bits."""

    class Adding:
        def run(self, _: object, given: Any) -> list[np.ndarray]:
            return [np.full((1, 16), 64 * 255 * 127 if exact else 32767, np.int32)]

    monkeypatch.setattr(int8, "session", lambda _: Adding())
    assert int8.signed.__wrapped__() == exact


def test_what_cannot_be_had_is_said() -> None:
    """PyTorch in 8 bits."""
    for name in (f"int8:torch:{TRAINED}", f"torch:int8:{TRAINED}"):
        with pytest.raises(UsageError, match="do not go together"):
            from_name(name)
    with pytest.raises(UsageError, match="without device="):
        ClipEmbedder(TRAINED, device="cpu", exact=False)
