"""ONNX Runtime, on one thread a session: threads that call it side by side share the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.core.errors import ModelError


def session(model: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    model_or_path = str(model) if isinstance(model, Path) else model
    slower = ["SkipLayerNormFusion"]  # made one with the sum before it, a norm takes several times as long as both
    try:
        return onnxruntime.InferenceSession(
            model_or_path, options, providers=["CPUExecutionProvider"], disabled_optimizers=slower
        )
    # The runtime raises types of its own, which share no base but Exception.
    except Exception as error:
        raise ModelError(f"{model if isinstance(model, Path) else 'a graph'} cannot be loaded: {error}") from error
