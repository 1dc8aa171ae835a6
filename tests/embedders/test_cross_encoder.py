"""Cross-encoders against sentence-transformers' CrossEncoder; pairs that are too long; what is no reranker."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import EmbedError, ModelError, QueryMismatch, UsageError
from penstock.embedders import graph, kinds, models
from penstock.embedders.cross_encoder import CrossEncoder
from penstock.embedders.names import from_name, reranker
from penstock.embedders.pairs import windows
from penstock.embedders.weights import read_tensors

from .conftest import Make, each_once, reference

FAMILIES = (
    "bert",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-long",
    "mpnet",
    "distilbert",
    "modernbert",
    "modernbert-mean",
    "gte",
    "nomic_bert",
    "eurobert",
    "qwen3",
)
QUESTIONS = ("the key", "how do I resume a run in the file?")


@pytest.fixture(scope="session")
def cross(scripts: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a small random cross-encoder by its recipe's name, once."""
    return each_once(import_module("make_cross_encoders").make, tmp_path_factory.mktemp("cross"))


def passages(texts: list[str], count: int) -> list[str]:
    """As scripts/make_cross_reference.py has them."""
    joined = " ".join(texts)
    return [*(text[:200] for text in texts[:12]), joined[:700], joined[300:2000], joined[1000:5000]][: count // 2]


def scores(folder: str | Path, some: list[str], **options: Any) -> np.ndarray:
    with CrossEncoder(folder, **options) as model:
        return np.array([score for question in QUESTIONS for score in model.score(question, some)])


def changed(source: Path, target: Path, name: str = "config.json", **settings: Any) -> Path:
    shutil.copytree(source, target)
    path = target / name
    old = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**old, **settings}), "utf-8")
    return target


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_scores_of_sentence_transformers(
    name: str, cross: Make, cache: Path, texts: list[str]
) -> None:
    """Pairs from a word to a few thousand tokens, where the model takes them; token types; each kind of activation."""
    first, second = np.split(reference("cross")[name], 2)
    some = passages(texts, 2 * len(first))
    with CrossEncoder(cross(name)) as model:
        np.testing.assert_allclose(model.score(QUESTIONS[0], some), first, atol=1e-4)
        # The long ones take most of the time: once is enough.
        np.testing.assert_allclose(model.score(QUESTIONS[1], some[:12]), second[:12], atol=1e-4)


def test_types_of_tokens_are_right_where_attention_is_in_blocks(
    cross: Make, cache: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "SHORT", 1)
    wanted = reference("cross")["bert"]
    np.testing.assert_allclose(scores(cross("bert"), passages(texts, len(wanted))), wanted, atol=1e-4)


def test_weights_under_the_names_of_jinas_own_code_are_read(
    cross: Make, cache: Path, texts: list[str], tmp_path: Path
) -> None:
    """jina-reranker-v2 is an XLM-RoBERTa, saved by code of its own."""
    from safetensors.numpy import save_file

    folder = tmp_path / "jina"
    shutil.copytree(cross("xlm-roberta"), folder)
    usual = read_tensors([folder / "model.safetensors"])
    names = {
        "roberta.embeddings.LayerNorm": "roberta.emb_ln",
        "encoder.layer.": "encoder.layers.",
        "attention.output.LayerNorm": "norm1",
        "attention.output.dense": "mixer.out_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "output.LayerNorm": "norm2",
    }
    tensors = {}
    for name, value in usual.items():
        if "attention.self.query" in name:
            parts = [usual[name.replace("query", part)] for part in ("query", "key", "value")]
            name, value = name.replace("attention.self.query", "mixer.Wqkv"), np.concatenate(parts)
        elif "attention.self." in name:
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        tensors[name] = value
    save_file(tensors, folder / "model.safetensors")
    wanted = reference("cross")["xlm-roberta"]
    np.testing.assert_allclose(scores(folder, passages(texts, len(wanted))), wanted, atol=1e-4)


def test_an_export_is_run_where_there_is_no_graph_of_ours(
    cross: Make, cache: Path, texts: list[str], tmp_path: Path
) -> None:
    """As mxbai-rerank v1, a DeBERTa, has one: its logits, by ids, mask and types."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = changed(cross("bert"), tmp_path / "export", model_type="deberta-v2", sentence_transformers={})
    with pytest.raises(ModelError, match="--task text-classification"):
        CrossEncoder(folder).open()
    table = np.random.RandomState(0).standard_normal((400, 1)).astype(np.float32)
    names = ("input_ids", "attention_mask", "token_type_ids")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Unsqueeze", ["token_type_ids", "last"], ["second"]),
        helper.make_node("Cast", ["second"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["words", "share"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "first"], ["logits"], keepdims=0),
    ]
    constants = {"table": table, "last": np.array([2], np.int64), "first": np.array([1], np.int64)}
    exported = helper.make_graph(
        nodes,
        "export",
        [helper.make_tensor_value_info(each, TensorProto.INT64, ["b", "l"]) for each in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    (folder / "onnx").mkdir()
    model = helper.make_model(exported, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(folder / "onnx" / "model.onnx"))
    some = texts[:5]
    with CrossEncoder(folder) as model:
        assert model.tokenizer is not None
        end = model.tokenizer.id_of("[SEP]")
        logits = np.array([table[[*ids, end]].sum() for ids in model.tokenizer.encode(some)])
        found = model.score("the key", some)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)
    with pytest.raises(ModelError, match="without int8:"):
        CrossEncoder(folder, exact=False).open()


def test_a_passage_that_is_too_long_counts_by_its_best_window(cross: Make, cache: Path, texts: list[str]) -> None:
    """Its end is read as well: nothing is cut off."""
    word, long, question = "a file", " ".join(texts[:12]), "the key"
    with CrossEncoder(cross("bert"), length=64) as model:
        tokenizer = model.tokenizer
        assert tokenizer is not None
        asked, ids = tokenizer.encode([question, long])
        room = 64 - 3 - len(asked)  # but for three special tokens
        parts = [list(part) for part in windows(ids, room)]
        assert len(parts) > 3
        assert parts[-1] == list(ids[-room:])
        rows = [row for batch in model.batches(question, [word, long]) for row in batch]
        assert [row.text for row in rows] == [1] * len(parts) + [0]
        assert {len(row.ids) for row in rows[:-1]} == {64}
        own = model.run(rows).tolist()
        found = model.score(question, [word, long])
    np.testing.assert_allclose(found, [own[-1], max(own[:-1])], atol=1e-6)


@pytest.mark.parametrize(("count", "room"), [(0, 8), (1, 8), (8, 8), (9, 8), (25, 8), (100, 1), (7, 3)])
def test_windows_overlap_and_leave_nothing_out(count: int, room: int) -> None:
    parts = [list(part) for part in windows(list(range(count)), room)]
    assert len(parts) == 1 or all(len(part) == room for part in parts)
    assert sorted({i for part in parts for i in part}) == list(range(count))
    shared = [set(one) & set(other) for one, other in pairwise(parts)]
    assert all(len(one) >= room // 4 for one in shared)


def test_a_question_that_leaves_no_room_for_a_passage_is_refused(cross: Make, cache: Path) -> None:
    with CrossEncoder(f"{cross('bert')}?length=100") as model:
        assert len(model.score("a " * 65, ["b"])) == 1  # 100 tokens, but for three special ones and 32 of a passage
        with pytest.raises(QueryMismatch, match=r"has 66 tokens; .*takes 65 of one, to leave room for a passage"):
            model.score("a " * 66, ["b"])
        with pytest.raises(EmbedError, match="not open"):
            CrossEncoder(cross("bert")).score("a", ["b"])
    with pytest.raises(ModelError, match="takes 512 tokens at most, not 600"):
        CrossEncoder(cross("bert"), length=600).open()


def test_odd_texts_have_a_score_and_none_have_none(cross: Make, cache: Path) -> None:
    odd = ["", " ", "\0", "[SEP] [CLS]", "中文", "x" * 5000]
    for name in ("bert", "qwen3"):
        with CrossEncoder(cross(name)) as model:
            assert np.isfinite(model.score("?", odd)).all()
            assert model.score("?", []) == []


def test_scores_do_not_depend_on_what_is_scored_with_them(cross: Make, cache: Path, texts: list[str]) -> None:
    some = [text[:200] for text in texts[:30]]
    with CrossEncoder(cross("modernbert-mean"), workers=3) as model:
        together = model.score("the key", some)
        np.testing.assert_allclose([model.score("the key", [text])[0] for text in some], together, atol=1e-5)
        copy = pickle.loads(pickle.dumps(model))
    with copy:
        np.testing.assert_allclose(copy.score("the key", some), together, atol=1e-6)


def test_the_task_of_qwen3_is_an_option(cross: Make, cache: Path, tmp_path: Path) -> None:
    folder = cross("qwen3")
    with CrossEncoder(folder) as usual, CrossEncoder(f"{folder}?query=Find%20a%20recipe") as other:
        assert usual.score("a key", ["b"]) != other.score("a key", ["b"])
    prompts = {"prompts": {"query": "Find a recipe"}, "default_prompt_name": "query"}
    own = changed(folder, tmp_path / "own", "config_sentence_transformers.json", **prompts)
    with CrossEncoder(own) as model, CrossEncoder(f"{folder}?query=Find%20a%20recipe") as other:
        assert model.score("a key", ["b"]) == other.score("a key", ["b"])


def test_in_8_bits_scores_are_near_the_exact_ones(cross: Make, cache: Path, texts: list[str]) -> None:
    some = [text[:200] for text in texts[:20]]
    exact, rounded = scores(cross("xlm-roberta"), some), scores(cross("xlm-roberta"), some, exact=False)
    assert 0 < np.abs(exact - rounded).max() < 0.1
    assert reranker(f"int8:{cross('bert')}").describe().startswith("int8:/")


def test_what_is_no_reranker_is_refused(cross: Make, small: Callable[[str], Path], cache: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[Path, str]] = {
        "embedder": (small("bert"), "has a module Pooling"),
        "labels": (changed(cross("bert"), tmp_path / "labels", id2label={"0": "no", "1": "yes"}), "tells 2 labels"),
        "default": (changed(cross("bert"), tmp_path / "default", id2label=None), "tells 2 labels"),
        "task": (changed(cross("bert"), tmp_path / "task", architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        "word": (
            changed(cross("bert"), tmp_path / "word", architectures=["Qwen2ForCausalLM"], model_type="qwen2"),
            "is a qwen2: of such rerankers Penstock runs Qwen3-Reranker",
        ),
        "classified": (
            changed(cross("qwen3"), tmp_path / "classified", architectures=["Qwen3ForSequenceClassification"]),
            "Qwen3ForCausalLM",
        ),
        "late": (changed(cross("eurobert"), tmp_path / "late", classifier_pooling="late"), "classifies by 'late'"),
        "odd": (
            changed(cross("bert"), tmp_path / "odd", sentence_transformers={"activation_fn": "torch.nn.Softplus"}),
            "torch.nn.Softplus",
        ),
        "nonsense": (changed(cross("bert"), tmp_path / "nonsense", id2label=7), "makes no sense"),
        "words": (changed(cross("bert"), tmp_path / "words", type_vocab_size="two"), "makes no sense"),
    }
    for folder, message in cases.values():
        with pytest.raises(ModelError, match=message):
            CrossEncoder(folder).open()
    for name, match in (("pooling=cls", "takes file, length, query, revision"), ("dim=3", "not dim")):
        with pytest.raises(UsageError, match=match):
            reranker(f"{cross('bert')}?{name}")


def test_answers_may_be_ids_of_the_checkpoint(cross: Make, cache: Path, tmp_path: Path, texts: list[str]) -> None:
    """As sentence-transformers saves it: the score is of tokens that a module names."""
    folder = changed(cross("qwen3"), tmp_path / "saved", "config_sentence_transformers.json", model_type="CrossEncoder")
    modules = [("", "base.modules.transformer.Transformer"), ("1_LogitScore", "cross_encoder.modules.LogitScore")]
    rows = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(rows), "utf-8")
    (folder / "1_LogitScore").mkdir()
    ids = {"true_token_id": model_id(folder, "yes"), "false_token_id": model_id(folder, "no")}
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(ids), "utf-8")
    some = [text[:200] for text in texts[:5]]
    np.testing.assert_allclose(scores(folder, some), scores(cross("qwen3"), some), atol=1e-6)
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": ids["false_token_id"]}), "utf-8")
    assert np.abs(scores(folder, some) - scores(cross("qwen3"), some)).max() > 0.01


def model_id(folder: Path, word: str) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(word))


def test_a_reranker_is_no_model_for_vectors(cross: Make, cache: Path, tmp_path: Path) -> None:
    saved = changed(cross("bert"), tmp_path / "saved", "config_sentence_transformers.json", model_type="CrossEncoder")
    for folder in (cross("bert"), saved):
        assert models.kind(str(folder)) == kinds.RERANKER
        with pytest.raises(UsageError, match=r"is a reranker, which makes no vectors: .*--rerank"):
            from_name(str(folder))
