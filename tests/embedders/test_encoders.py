"""Encoders newer than BERT, built from safetensors: against sentence-transformers, and against their definitions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from penstock.core.errors import ModelError, UsageError
from penstock.embedders import attention
from penstock.embedders.checkpoint import load, load_encoder
from penstock.embedders.onnx import OnnxEmbedder
from penstock.embedders.weights import read_tensors

from . import plain
from .conftest import each_once, reference
from .test_onnx import chunks, matrix, worst_cosine

FAMILIES = (
    "modernbert",
    "nomic_bert",
    "gte",
    "gemma3_text",
    "qwen3",
    "eurobert",
    "eurobert-llama3",
    "qwen3-yarn",
    "gemma3-causal",
    "xlm-roberta-long",
)
Encoder = Callable[[str], Path]


@pytest.fixture(scope="session")
def maker(scripts: None) -> ModuleType:
    return import_module("make_encoders")


@pytest.fixture(scope="session")
def encoder(maker: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Makes the small checkpoint of that name, once."""
    return each_once(maker.make, tmp_path_factory.mktemp("encoders"))


def run(embedder: OnnxEmbedder, rows: list[list[int]]) -> np.ndarray:
    """The vectors of rows, short ones in batches of several lengths."""
    embedder.open()
    assert embedder.session is not None
    parts = [rows[:4], rows[4:8], *([row] for row in rows[8:])]
    return np.concatenate([embedder.session.run(part) for part in parts if part])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_vectors_of_sentence_transformers(
    name: str, encoder: Encoder, maker: ModuleType, cache: Path, texts: list[str]
) -> None:
    """Lengths of 1 to 8,192 tokens (2,048 where that is the model's most), prompts, Dense modules, 16-bit weights.

    The bar is stricter than for users: a window that is one token too wide makes a cosine of 0.99997.
    """
    folder, expected = encoder(name), reference(name)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    rows = maker.rows(name, vocabulary)
    assert max(map(len, rows)) == maker.RECIPES[name].positions
    with OnnxEmbedder(folder) as embedder:
        assert worst_cosine(run(embedder, rows), expected["rows"]) >= 0.999999
        short = [text[:300] for text in texts[:12]]
        assert worst_cosine(matrix(embedder.embed(chunks(short))), expected["passages"]) >= 0.9999
        assert worst_cosine(matrix(embedder.query(short)), expected["queries"]) >= 0.9999


@pytest.mark.parametrize("name", plain.ENCODERS)
def test_what_transformers_lacks_agrees_with_its_definition(
    name: str, encoder: Encoder, maker: ModuleType, cache: Path
) -> None:
    folder = encoder(name)
    weights = {key: value.astype(np.float64) for key, value in read_tensors([folder / "model.safetensors"]).items()}
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    rows = [row for row in maker.rows(name, vocabulary) if len(row) <= 513]
    cls = maker.OURS[name].pooling == "cls"
    hidden = [plain.ENCODERS[name](weights, row) for row in rows]
    with OnnxEmbedder(folder) as embedder:
        found = run(embedder, rows)
    assert worst_cosine(found, np.array([x[0] if cls else x.mean(axis=0) for x in hidden])) >= 0.999999


def test_transformers_5_names_of_weights_and_settings_are_read(
    encoder: Encoder, tmp_path: Path, cache: Path, maker: ModuleType
) -> None:
    """A checkpoint saved anew by transformers has layers and rotary settings under its own names."""
    folder = tmp_path / "renamed"
    shutil.copytree(encoder("gte"), folder)
    names = {
        "new.": "",
        "encoder.layer.": "layers.",
        "attention.o_proj": "self_attn.o_proj",
        "attn_ln": "post_attention_layernorm",
        "mlp_ln": "post_mlp_layernorm",
    }
    tensors = {}
    for name, value in read_tensors([folder / "model.safetensors"]).items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "qkv_proj" in name:
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                tensors[name.replace("attention.qkv_proj", f"self_attn.{part}_proj")] = np.ascontiguousarray(piece)
        elif "up_gate_proj" in name:
            for part, piece in zip(("up", "gate"), np.split(value, 2), strict=True):
                tensors[name.replace("up_gate_proj", f"{part}_proj")] = np.ascontiguousarray(piece)
        else:
            tensors[name] = value
    maker.save(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    rows = maker.rows("gte", config["vocab_size"])[:6]
    with OnnxEmbedder(folder) as embedder:
        assert worst_cosine(run(embedder, rows), reference("gte")["rows"][:6]) >= 0.9999


def test_in_8_bits_vectors_are_near_the_exact_ones(encoder: Encoder, maker: ModuleType, cache: Path) -> None:
    folder = encoder("modernbert")
    rows = maker.rows("modernbert", 269)[:6]
    with OnnxEmbedder(folder, exact=False) as embedder:
        assert worst_cosine(run(embedder, rows), reference("modernbert")["rows"][:6]) >= 0.98


def test_the_size_of_blocks_changes_no_vector(
    encoder: Encoder, maker: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = maker.rows("modernbert", 269)[3:8]
    monkeypatch.setattr(attention, "BLOCK", 7)
    with OnnxEmbedder(encoder("modernbert")) as embedder:
        assert worst_cosine(run(embedder, rows), reference("modernbert")["rows"][3:8]) >= 0.9999


def test_a_vector_does_not_depend_on_its_batch(encoder: Encoder, maker: ModuleType, cache: Path) -> None:
    rows = maker.rows("qwen3", 269)[:7]
    with OnnxEmbedder(encoder("qwen3")) as embedder:
        embedder.open()
        assert embedder.session is not None
        together = embedder.session.run(rows)
        apart = np.concatenate([embedder.session.run([row]) for row in rows])
    np.testing.assert_allclose(together, apart, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, r"its type 't5' has no graph of ours, .*optimum-cli export onnx"),
        ({"num_experts": 8}, "known, but not with a NomicBERT with prenorm, use_rms_norm or experts"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary positions scaled by 'longrope'"),
        ({"n_head": 0, "num_attention_heads": 0}, "makes no sense"),
        ({"n_layer": 10**12, "num_hidden_layers": 10**12}, "makes no sense"),
        ({"rope_parameters": {"rope_type": "linear"}}, "makes no sense.*factor of the scaling linear"),
        ({"rope_parameters": {"rope_type": "linear", "factor": {}}}, "makes no sense"),
        ({"rope_parameters": {"rope_type": "ntk", "factor": 0}}, "makes no sense"),
        ({"hidden_act": "snake", "activation_function": "snake"}, "activation snake"),
    ],
)
def test_an_architecture_without_a_graph_is_named_with_what_would_work(
    changes: dict[str, object], message: str, encoder: Encoder, tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "unknown"
    shutil.copytree(encoder("nomic_bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=message):
        OnnxEmbedder(folder).open()


def test_a_weight_that_is_missing_is_named(encoder: Encoder, maker: ModuleType, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "lacking"
    shutil.copytree(encoder("eurobert"), folder)
    tensors = read_tensors([folder / "model.safetensors"])
    del tensors["model.layers.1.mlp.up_proj.weight"]
    maker.save(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the weight 'layers\.1\.mlp\.up_proj\.weight'"):
        OnnxEmbedder(folder).open()


# ---------------------------------------------------------------- options of a name


def test_options_of_a_name_change_the_vectors_and_the_fingerprint(
    encoder: Encoder, cache: Path, texts: list[str]
) -> None:
    folder = encoder("nomic_bert")
    some = chunks([text[:300] for text in texts[:6]])

    def of(options: str) -> tuple[np.ndarray, np.ndarray, str, str]:
        with OnnxEmbedder(f"{folder}{options}") as embedder:
            embedder.open()
            spec = embedder.describe()
            question = matrix(embedder.query(["the index"]))
            return matrix(embedder.embed(some)), question, str(spec.fingerprint), spec.model

    usual, usual_query, fingerprint, _ = of("")
    short, _, other, name = of("?dim=16")
    assert name == f"{folder.absolute()}?dim=16"
    assert short.shape == (6, 16)
    cut = usual[:, :16] / np.linalg.norm(usual[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(short, cut, atol=1e-6)
    clustered, clustered_query, *_ = of("?prompt=clustering")
    given, given_query, *_ = of("?passage=a%20cluster:%20&query=a+cluster:+")
    np.testing.assert_allclose(clustered, given, atol=1e-6)
    np.testing.assert_allclose(clustered_query, given_query, atol=1e-6)
    assert not np.allclose(clustered, usual, atol=1e-3)
    assert not np.allclose(clustered_query, usual_query, atol=1e-3)
    cls, *_ = of("?pooling=cls")
    assert not np.allclose(cls, usual, atol=1e-3)
    names = ("?prompt=clustering", "?pooling=cls", "?query=x", "?passage=x")
    assert len({fingerprint, other, *(of(each)[2] for each in names)}) == 2 + len(names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("?poling=cls", UsageError, "unknown option 'poling' of the model .*: did you mean 'pooling'?"),
        ("?pooling=best", ModelError, "invalid pooling 'best': expected one of cls, max, mean"),
        ("?prompt=questions", ModelError, "has no prompt 'questions': it has 'query', 'document', 'clustering'"),
        ("?dim=65", ModelError, "invalid dim 65: vectors of .* have 64 dimensions"),
        ("?dim=0", UsageError, "invalid dim 0: expected at least 1"),
        ("?dim=many", UsageError, "invalid dim 'many': expected a whole number"),
        ("?length=4096", ModelError, "takes 2048 tokens at most, not 4096"),
        ("?file=onnx/none.onnx", ModelError, "there is no model at|has no ONNX file"),
        ("?file=../x.onnx", ModelError, "outside itself"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_could(
    options: str, error: type[Exception], message: str, encoder: Encoder, cache: Path
) -> None:
    with pytest.raises(error, match=message):
        OnnxEmbedder(f"{encoder('nomic_bert')}{options}").open()


def test_length_bounds_the_tokens_of_a_text(encoder: Encoder, cache: Path) -> None:
    with OnnxEmbedder(f"{encoder('gte')}?length=100") as embedder:
        embedder.open()
        assert embedder.tokenizer is not None
        assert embedder.tokenizer.room == 98


def test_an_encoder_is_read_whatever_modules_follow_it(encoder: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "headed"
    shutil.copytree(encoder("modernbert"), folder)
    (folder / "modules.json").write_text('[{"type": "pylate.models.ColBERT", "path": ""}]')
    with pytest.raises(ModelError, match="does not run"):
        load(folder, "headed")
    found = load_encoder(folder, "headed")
    assert found.family == "modernbert"
    assert (found.hidden, found.positions) == (64, 8192)
