"""Checkpoints that are run from their ONNX files, of the kinds that exporters make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.core.errors import ModelError
from penstock.embedders.onnx import OnnxEmbedder

Small = Callable[[str], Path]
ROWS = [[5, 6, 7, 8], [9, 10], [11]]


@pytest.fixture
def table() -> np.ndarray:
    return np.random.RandomState(0).standard_normal((400, 64)).astype(np.float32)


@pytest.fixture
def folder(small: Small, tmp_path: Path, cache: Path) -> Path:
    """A checkpoint of a type without a graph."""
    folder = tmp_path / "exported"
    shutil.copytree(small("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "deberta-v2"}))
    (folder / "modules.json").unlink()
    return folder


def export(path: Path, inputs: Sequence[str], output: tuple[str, int, Sequence[Any]], nodes: Any, table: Any) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    name, kind, shape = output
    graph = helper.make_graph(
        nodes,
        "export",
        [helper.make_tensor_value_info(each, TensorProto.INT64, ["b", "l"]) for each in inputs],
        [helper.make_tensor_value_info(name, kind, shape)],
        [numpy_helper.from_array(table, "table")],
    )
    path.parent.mkdir(exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(path))


def vectors(model: str | Path) -> np.ndarray:
    with OnnxEmbedder(model) as embedder:
        embedder.open()
        assert embedder.session is not None
        return embedder.session.run(ROWS)


def means(table: np.ndarray) -> np.ndarray:
    return np.array([table[row].mean(axis=0) for row in ROWS])


def test_positions_are_given_to_an_export_that_wants_them(folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Add", ["input_ids", "position_ids"], ["places"]),
        helper.make_node("Gather", ["table", "places"], ["last_hidden_state"]),
    ]
    output = ("last_hidden_state", TensorProto.FLOAT, ["b", "l", 64])
    export(folder / "onnx/model.onnx", ("input_ids", "attention_mask", "position_ids"), output, nodes, table)
    expected = [table[np.array(row) + np.arange(len(row))].mean(axis=0) for row in ROWS]
    np.testing.assert_allclose(vectors(folder), expected, atol=1e-5)


def test_half_precision_becomes_single(folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    output = ("last_hidden_state", TensorProto.FLOAT16, ["b", "l", 64])
    export(folder / "onnx/model.onnx", ("input_ids",), output, nodes, table.astype(np.float16))
    found = vectors(folder)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, means(table), atol=2e-3)


def test_pooled_vectors_are_taken_as_they_are(folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("ReduceMax", ["tokens"], ["sentence_embedding"], axes=[1], keepdims=0),
    ]
    output = ("sentence_embedding", TensorProto.FLOAT, ["b", 64])
    export(folder / "onnx/model.onnx", ("input_ids",), output, nodes, table)
    np.testing.assert_allclose(vectors(folder)[0], table[ROWS[0]].max(axis=0), atol=1e-6)
    with pytest.raises(ModelError, match="sentence_embedding \\(2 axes\\): pooling= needs vectors of tokens"):
        vectors(f"{folder}?pooling=cls")


def test_a_file_is_chosen_and_its_vectors_are_a_space_of_their_own(folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    output = ("last_hidden_state", TensorProto.FLOAT, ["b", "l", 64])
    export(folder / "onnx/model.onnx", ("input_ids",), output, nodes, table)
    export(folder / "onnx/model_int8.onnx", ("input_ids",), output, nodes, np.round(table))
    other = f"{folder}?file=onnx/model_int8.onnx&dim=8"
    np.testing.assert_allclose(vectors(other), means(np.round(table))[:, :8], atol=1e-5)
    spaces = {OnnxEmbedder(model).describe().fingerprint for model in (folder, other, f"{folder}?dim=8")}
    assert len(spaces) == 3
    with pytest.raises(ModelError, match=r"no ONNX file 'onnx/q4\.onnx': it has onnx/model\.onnx, onnx/model_int8"):
        vectors(f"{folder}?file=onnx/q4.onnx")


def test_dense_modules_follow_an_export(folder: Path, small: Small, table: np.ndarray) -> None:
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file

    shutil.copy(small("bert") / "modules.json", folder)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    output = ("last_hidden_state", TensorProto.FLOAT, ["b", "l", 64])
    export(folder / "onnx/model.onnx", ("input_ids",), output, nodes, table)
    dense = load_file(folder / "2_Dense/model.safetensors")
    expected = np.tanh(table[[row[0] for row in ROWS]] @ dense["linear.weight"].T + dense["linear.bias"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(folder), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("past_key_values.0.key", "wants past_key_values: it was exported to write text"),
        ("pixel_values", "wants pixel_values, which Penstock does not give: expected an export"),
    ],
)
def test_an_export_with_other_inputs_is_refused(extra: str, message: str, folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    output = ("last_hidden_state", TensorProto.FLOAT, ["b", "l", 64])
    export(folder / "onnx/model.onnx", ("input_ids", extra), output, nodes, table)
    with pytest.raises(ModelError, match=message):
        vectors(folder)


def test_an_export_of_another_width_than_the_configuration_is_refused(folder: Path, table: np.ndarray) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    output = ("last_hidden_state", TensorProto.FLOAT, ["b", "l", "h"])
    export(folder / "onnx/model.onnx", ("input_ids",), output, nodes, np.ascontiguousarray(table[:, :32]))
    with pytest.raises(ModelError, match="32 dimensions, expected 64"):
        vectors(folder)
