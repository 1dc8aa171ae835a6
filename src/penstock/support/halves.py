"""Products of float16, each number widened as it is read: numpy takes longer to widen them than to multiply floats."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def product(rows: NDArray[np.float16], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix product, in float32, on this thread alone."""
    found: NDArray[np.float32] = _session().run(None, {"rows": rows, "columns": columns})[0]
    return found


@lru_cache(1)
def _session() -> Any:
    import onnxruntime
    from onnx import TensorProto, helper

    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT16, ["n", "dim"])
    columns = helper.make_tensor_value_info("columns", TensorProto.FLOAT, ["dim", "width"])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["n", "width"])
    cast = helper.make_node("Cast", ["rows"], ["floats"], to=TensorProto.FLOAT)
    multiply = helper.make_node("MatMul", ["floats", "columns"], ["found"])
    graph = helper.make_graph([cast, multiply], "product", [rows, columns], [found])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
