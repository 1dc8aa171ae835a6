"""OnnxEmbedder against what sentence-transformers said of the same texts."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from penstock.core.errors import EmbedError, ModelError, QueryMismatch
from penstock.core.records import Chunk, Dense
from penstock.embedders.checkpoint import load
from penstock.embedders.onnx import OnnxEmbedder, batches

from .conftest import REFERENCE, SMALL, reference

Small = Callable[[str], Path]
CHECKPOINTS = ("bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "last", "weighted")


def chunks(texts: Sequence[str], tokens: Sequence[Sequence[int] | None] | None = None) -> list[Chunk]:
    given = tokens or [None] * len(texts)
    return [
        Chunk(f"{i:032x}", "memory://doc", i, text, (0, len(text)), tokens=ids)
        for i, (text, ids) in enumerate(zip(texts, given, strict=True))
    ]


def matrix(vectors: Sequence[Dense]) -> np.ndarray:
    return np.array([vector.values for vector in vectors])


def worst_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(axis=1) / norms).min())


@pytest.fixture(scope="module")
def default() -> Iterator[OnnxEmbedder]:
    with OnnxEmbedder() as embedder:
        embedder.open()
        yield embedder


def test_default_model_gives_the_vectors_of_sentence_transformers(default: OnnxEmbedder, texts: list[str]) -> None:
    expected = reference("default")
    assert len(texts) >= 50
    assert worst_cosine(matrix(default.embed(chunks(texts))), expected["passages"]) >= 0.9999
    assert worst_cosine(matrix(default.query(texts[:8])), expected["queries"]) >= 0.9999


def test_token_ids_of_chunks_give_the_same_vectors_as_their_texts(default: OnnxEmbedder, texts: list[str]) -> None:
    assert default.tokenizer is not None
    with_ids = default.embed(chunks(["not looked at"] * len(texts), default.tokenizer.encode(texts)))
    assert worst_cosine(matrix(with_ids), reference("default")["passages"]) >= 0.9999


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_family_and_pooling_gives_the_vectors_of_sentence_transformers(
    name: str, small: Small, texts: list[str], cache: Path
) -> None:
    """Lengths too: most recipes do not normalize, so the vectors themselves must agree, not only their directions."""
    expected = reference(name)
    short = [text[:SMALL] for text in texts]
    with OnnxEmbedder(small(name)) as embedder:
        embedder.open()
        assert embedder.describe().dim == expected["passages"].shape[1]
        found, asked = matrix(embedder.embed(chunks(short))), matrix(embedder.query(short[:8]))
        assert embedder.tokenizer is not None
        assert embedder.tokenizer.additive == (name not in ("roberta", "xlm-roberta"))
        ids = matrix(embedder.embed(chunks(short, embedder.tokenizer.encode(short))))
    assert worst_cosine(found, expected["passages"]) >= 0.9999
    assert worst_cosine(asked, expected["queries"]) >= 0.9999
    np.testing.assert_allclose(found, expected["passages"], atol=2e-4)
    np.testing.assert_allclose(ids, found, atol=1e-5)


def test_a_vector_does_not_depend_on_the_batch_it_came_in(default: OnnxEmbedder, texts: list[str]) -> None:
    alone = np.concatenate([matrix(default.embed([chunk])) for chunk in chunks(texts)])
    together = matrix(default.embed(chunks(texts)))
    backwards = matrix(default.embed(chunks(texts)[::-1]))[::-1]
    assert worst_cosine(alone, together) >= 0.99999
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(alone, backwards, atol=1e-5)


def test_two_threads_at_once_get_their_own_vectors(default: OnnxEmbedder, texts: list[str]) -> None:
    expected = reference("default")["passages"]
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        order = np.random.default_rng(number).permutation(len(texts))
        vectors = matrix(default.embed(chunks([texts[i] for i in order])))
        found[number] = vectors[np.argsort(order)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2]
    assert min(worst_cosine(vectors, expected) for vectors in found.values()) >= 0.9999


def test_a_text_too_long_is_refused_and_never_cut(default: OnnxEmbedder) -> None:
    assert default.tokenizer is not None
    most = default.tokenizer.max_tokens
    assert most == 254
    fits = default.embed(chunks(["word " * most]))
    assert len(fits) == 1
    with pytest.raises(EmbedError, match=r"chunk 0{32} of memory://doc has 255 tokens; .* takes 254"):
        default.embed(chunks(["word " * (most + 1)]))
    with pytest.raises(EmbedError, match="has 255 tokens"):
        default.embed(chunks(["short"], [[2000] * 255]))
    with pytest.raises(QueryMismatch, match="query 'word word"):
        default.query(["word " * (most + 1)])


def test_a_longer_length_can_be_asked_for_up_to_the_position_table(small: Small, cache: Path) -> None:
    path = small("mpnet")
    with pytest.raises(ModelError, match="takes 512 tokens at most, not 513"):
        OnnxEmbedder(path, length=513).open()
    with OnnxEmbedder(path, length=512) as embedder:
        embedder.open()
        assert np.isfinite(matrix(embedder.embed(chunks(["!" * 90, "a " * 510])))).all()


def test_an_image_is_refused(default: OnnxEmbedder) -> None:
    with pytest.raises(EmbedError, match="is an image"):
        default.embed([Chunk("1" * 32, "file:///a.png", 0, "", (0, 0), image=b"\x89PNG")])


def test_nothing_in_nothing_out(default: OnnxEmbedder) -> None:
    assert default.embed([]) == []
    assert default.query([]) == []


def test_an_empty_text_has_a_vector(default: OnnxEmbedder) -> None:
    vector = default.embed(chunks([""]))[0].values
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_it_pickles_before_and_after_open(default: OnnxEmbedder) -> None:
    copy = pickle.loads(pickle.dumps(default))
    assert copy.describe() == default.describe()
    with pytest.raises(EmbedError, match="not open"):
        copy.query(["a"])
    copy.close()
    copy.close()


def test_describe_is_quick_the_second_time_and_loads_no_runtime(default: OnnxEmbedder) -> None:
    """In a process of its own: configuration and remembered hashes only."""
    code = (
        "import sys, penstock.embedders.onnx as o; o.OnnxEmbedder().describe();"
        "assert not {'onnxruntime', 'tokenizers', 'onnx'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    start = time.perf_counter()
    OnnxEmbedder().describe()
    assert time.perf_counter() - start < 0.2


def test_the_fingerprint_follows_the_content_and_not_the_place(small: Small, tmp_path: Path, cache: Path) -> None:
    here, there = small("mpnet"), tmp_path / "elsewhere"
    shutil.copytree(here, there)
    first = OnnxEmbedder(here).describe()
    assert OnnxEmbedder(there).describe().fingerprint == first.fingerprint
    (there / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    assert OnnxEmbedder(there).describe().fingerprint != first.fingerprint
    shutil.copy(here / "1_Pooling" / "config.json", there / "1_Pooling")
    weights = bytearray((there / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (there / "model.safetensors").write_bytes(weights)
    assert OnnxEmbedder(there).describe().fingerprint != first.fingerprint


def test_an_exported_onnx_file_is_run_where_there_is_no_graph_of_ours(
    small: Small, tmp_path: Path, cache: Path, texts: list[str]
) -> None:
    """A stand-in for an export: token vectors are a table's rows, so pooling can be checked by hand."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path / "exported"
    shutil.copytree(small("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "deberta-v2"}))
    (folder / "modules.json").unlink()
    table = np.random.RandomState(0).standard_normal((config["vocab_size"], 64)).astype(np.float32)
    inputs = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "export",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "l"]) for name in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "l", 64])],
        [numpy_helper.from_array(table, "table")],
    )
    (folder / "onnx").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(folder / "onnx" / "model.onnx"))
    short = [text[:SMALL] for text in texts[:12]]
    with pytest.raises(ModelError, match="without int8:"):
        OnnxEmbedder(folder, exact=False).describe()
    with OnnxEmbedder(folder) as embedder:
        embedder.open()
        found = matrix(embedder.embed(chunks(short)))
        tokenizer = embedder.tokenizer
        assert tokenizer is not None
        rows = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(short)]
    np.testing.assert_allclose(found, [table[row].mean(axis=0) for row in rows], atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "makes no sense"),
        (lambda f: (f / "model.safetensors").unlink(), "none of model.safetensors, pytorch_model.bin and onnx"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no file of PyTorch 1.6"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be read"),
        (lambda f: (f / "tokenizer.json").unlink(), "cannot be read"),
        (lambda f: (f / "1_Pooling" / "config.json").write_text('{"pooling_mode": "magic"}'), "magic"),
        (lambda f: (f / "modules.json").write_text('[{"type": "a.Transformer"}]'), "no pooling"),
        (lambda f: (f / "modules.json").write_text('[{"type": "a.Pooling", "path": "../../x"}]'), "outside itself"),
        (lambda f: (f / "modules.json").write_text('[{"type": "a.Asym", "path": ""}]'), "does not run: a.Asym"),
    ],
)
def test_a_spoilt_folder_is_a_model_error_that_says_what_is_wrong(
    spoil: Callable[[Path], object], message: str, small: Small, tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(small("mpnet"), folder)
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(folder).open()


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({"query": "q: ", "passage": "p: "}, None, ("p: ", "q: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, ("", "q: ")),
        ({"query": "q: "}, "query", ("", "q: ")),
        ({"all": "a: "}, "all", ("a: ", "a: ")),
        ({}, None, ("", "")),
    ],
)
def test_prompts_are_found_by_their_usual_names(
    prompts: dict[str, str], default: str | None, expected: tuple[str, str], small: Small, tmp_path: Path
) -> None:
    folder = tmp_path / "prompted"
    shutil.copytree(small("mpnet"), folder)
    settings = {"prompts": prompts, "default_prompt_name": default}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    checkpoint = load(folder, "prompted")
    assert (checkpoint.passage_prompt, checkpoint.query_prompt) == expected


def test_sharded_weights_are_read(small: Small, tmp_path: Path, cache: Path, texts: list[str]) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "sharded"
    shutil.copytree(small("mpnet"), folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"model-1.safetensors": sorted(weights)[::2], "model-2.safetensors": sorted(weights)[1::2]}
    for name, keys in halves.items():
        save_file({key: weights[key] for key in keys}, folder / name)
    shards = {key: name for name, keys in halves.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with OnnxEmbedder(folder) as embedder:
        embedder.open()
        found = matrix(embedder.embed(chunks([text[:SMALL] for text in texts])))
    assert worst_cosine(found, reference("mpnet")["passages"]) >= 0.9999


def test_batches_hold_every_row_once_within_their_tokens() -> None:
    lengths = [5, 900, 3, 3, 1200, 40, 512, 512, 1]
    made = list(batches(lengths, 1024))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 1024 for batch in made)
    assert [4] in made


@pytest.mark.peers
def test_live_comparison_with_sentence_transformers(default: OnnxEmbedder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from penstock.embedders import models

    texts = [text[:600] for text in json.loads((REFERENCE / "texts.json").read_text("utf-8"))]
    peer = sentence_transformers.SentenceTransformer(str(models.resolve()), device="cpu")
    assert worst_cosine(matrix(default.embed(chunks(texts))), peer.encode(texts)) >= 0.9999
