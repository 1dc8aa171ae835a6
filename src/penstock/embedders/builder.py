"""Building ONNX graphs: nodes and constants under fresh names, the finished model, the cache of built ones."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Graph:
    """Nodes and initializers under fresh names. `exact=False`: the large products are made in 8 bits."""

    def __init__(self, *, exact: bool = True) -> None:
        self.exact = exact
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.prefix = ""
        self.input = ""

    def constant(self, value: Any, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, fused: bool = False, **attributes: Any) -> Any:
        from onnx import helper

        names = [f"{self.prefix}{op}{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = "com.microsoft" if fused else ""
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def body(self, input: str) -> Graph:
        """A graph for `scan`, run for each value of that input; all values of this graph can be used in it."""
        body = Graph(exact=self.exact)
        body.initializers = self.initializers
        body.prefix, body.input = f"{self.prefix}{len(self.nodes)}/", input
        return body

    def scan(self, body: Graph, values: str, *, axis: int) -> Any:
        """The last value of the body for each of the values (int64), stacked along an axis."""
        from onnx import TensorProto, helper

        result = body.nodes[-1].output[0]
        given = helper.make_tensor_value_info(body.input, TensorProto.INT64, [])
        found = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        inner = helper.make_graph(body.nodes, f"{body.prefix}body", [given], [found])
        return self.add("Scan", values, body=inner, num_scan_inputs=1, scan_output_axes=[axis])


def finished(graph: Graph, inputs: Sequence[Any], dim: int, *, rows: Sequence[str] = ("batch",)) -> Any:
    """The model whose last node gives the vectors: one of each of `rows`."""
    from onnx import TensorProto, helper

    graph.nodes[-1].output[0] = "vectors"
    outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [*rows, dim])]
    return helper.make_model(
        helper.make_graph(graph.nodes, "penstock", inputs, outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )


def cached(name: str, build: Callable[[], Any], cache: Path) -> Path:
    """The graph of that name in the cache, built there on first use; two who build it at once do no harm."""
    folder = cache / "graphs" / name
    graph = folder / "model.onnx"
    if graph.is_file():
        return graph
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        save(build(), scratch / graph.name)
        try:
            os.rename(scratch, folder)
        except OSError:
            # Another process was first: its graph is the same.
            if not graph.is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return graph


def save(model: Any, path: Path) -> None:
    """Weights lie beside the graph: ONNX Runtime maps that file instead of reading it into memory."""
    import onnx

    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=1024)
