"""A plain function as an embedder, and the embedders made for tests."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.core.errors import EmbedError
from penstock.core.records import Chunk
from penstock.embedders.functions import FunctionEmbedder
from penstock.embedders.named import Named
from penstock.testing.embedders import HashingEmbedder, NothingEmbedder


def lengths(texts: list[str]) -> list[list[float]]:
    return [[len(text), 1.0] for text in texts]


def other(texts: list[str]) -> np.ndarray:
    return np.ones((len(texts), 2))


def chunk(text: str, id: str = "a" * 32) -> Chunk:
    return Chunk(id, "memory://d", 0, text, (0, len(text)))


def test_a_function_embeds_and_tells_its_dimension() -> None:
    embedder = FunctionEmbedder(lengths)
    assert embedder.describe().dim == 2
    vectors = embedder.embed([chunk("abc"), chunk("")])
    assert [list(v.values) for v in vectors] == [[3.0, 1.0], [0.0, 1.0]]
    assert vectors[0].values.dtype == np.float32
    assert list(embedder.query(["ab"])[0].values) == [2.0, 1.0]
    assert list(FunctionEmbedder(lengths, query=other).query(["ab"])[0].values) == [1.0, 1.0]


def test_the_space_of_a_function_is_its_name_and_code_or_version() -> None:
    first = FunctionEmbedder(lengths).describe().fingerprint
    assert FunctionEmbedder(lengths, dim=2).describe().fingerprint == first
    assert FunctionEmbedder(lengths, version="2").describe().fingerprint != first
    assert FunctionEmbedder(other).describe().fingerprint != first
    assert FunctionEmbedder(lengths, query=other).describe().fingerprint != first


def test_two_lambdas_are_two_spaces() -> None:
    one, two = (
        FunctionEmbedder(lambda texts: [[1.0]] * len(texts)),
        FunctionEmbedder(lambda texts: [[2.0]] * len(texts)),
    )
    assert one.describe().model == two.describe().model
    assert not one.describe().same_space(two.describe())


def test_what_a_model_depends_on_unseen_is_said_unless_it_has_a_version() -> None:
    weights = [1.0, 2.0]
    embedder = FunctionEmbedder(lambda texts: [weights] * len(texts))
    assert embedder.uncompared == [f"weights of {__name__}.{one.__qualname__}" for one in [embedder.function]]
    assert not FunctionEmbedder(embedder.function, version="3").uncompared


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda texts: [1.0], "shape"),
        (lambda texts: np.zeros((len(texts) + 1, 2)), "shape"),
        (lambda texts: np.zeros((len(texts), 3)), "shape"),
        (lambda texts: [["x", "y"]], "did not give an array"),
        (lambda texts: [[float("nan"), 1.0]], "not finite"),
    ],
)
def test_a_function_that_gives_something_else_is_an_embed_error(wrong: object, message: str) -> None:
    with pytest.raises(EmbedError, match=message):
        FunctionEmbedder(wrong, dim=2).embed([chunk("abc")])  # type: ignore[arg-type]


def test_an_error_of_the_function_itself_is_not_hidden() -> None:
    def broken(texts: list[str]) -> np.ndarray:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        FunctionEmbedder(broken, dim=2).embed([chunk("abc")])


def test_the_hashing_embedder_finds_texts_that_share_words() -> None:
    embedder = HashingEmbedder()
    question, near, far, empty = (v.values for v in embedder.query(["resume a run", "a run can resume", "bananas", ""]))
    assert question @ near > 0.7 > 0.3 > question @ far
    for values in (question, near, far, empty):
        assert np.linalg.norm(values) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(embedder.embed([chunk("a run can resume")])[0].values, near)


def test_with_opens_a_model_and_closes_it() -> None:
    """One that was opened before stays as it is, and several under names are opened together."""
    with NothingEmbedder(dim=8) as embedder:
        vectors = embedder.query(["a"])
        embedder.open()
        assert embedder.query(["a"])[0] is vectors[0]
    with pytest.raises(IndexError):
        embedder.query(["a"])
    embedder.open()
    with embedder, Named({"one": NothingEmbedder(dim=2), "two": embedder}) as both:
        assert both.query(["a"], "one")[0].values.shape == (2,)
        assert both.query(["a"], "two")[0].values.shape == (8,)


def test_the_do_nothing_embedder_answers_by_the_chunks_id_alone() -> None:
    embedder = NothingEmbedder(dim=8)
    embedder.open()
    one, same, another, odd = embedder.embed(
        [chunk("x"), chunk("y"), chunk("x", "b" * 32), chunk("x", "no hexadecimal digits")]
    )
    assert np.array_equal(one.values, same.values)
    assert not np.array_equal(one.values, another.values)
    assert one.values.shape == odd.values.shape == (8,)
    again = NothingEmbedder(dim=8)
    again.open()
    assert np.array_equal(again.embed([chunk("x")])[0].values, one.values)
