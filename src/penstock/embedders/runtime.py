"""ONNX Runtime, on one thread a session: threads that call it side by side share the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.core.errors import EmbedError, ModelError


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


def run(session: Any, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> Any:
    """The first of what the graph gives. Raises EmbedError where it cannot be run on these inputs: its weights may
    lack what its tokenizer names."""
    try:
        return session.run(outputs, inputs)[0]
    except Exception as error:  # as above
        raise EmbedError(f"the model cannot be run: {error!s:.300}") from error
