"""Options in a model's name: `NAME?pooling=cls&dim=256`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from penstock.core.errors import UsageError
from penstock.core.options import Option, unknown
from penstock.core.precision import PRECISIONS, known

OPTIONS = {
    option.name: option
    for option in (
        Option("revision", str, None, "branch, tag or commit on the model hub"),
        Option("file", str, None, "the ONNX file that is run, such as onnx/model_int8.onnx"),
        Option("pooling", str, None, "how the tokens' vectors become one"),
        Option("prompt", str, None, "name of a prompt of the checkpoint, for passages and queries"),
        Option("passage", str, None, "text put before each passage"),
        Option("query", str, None, "text put before each query"),
        Option("length", int, None, "the most tokens of a text", least=1),
        Option("pool", float, None, "tokens of a passage for each vector that is kept (late interaction)", least=1),
        Option(
            "precision",
            str,
            None,
            f"how the numbers of stored vectors are kept: {', '.join(PRECISIONS)} (late interaction)",
            validate=known,
        ),
        Option("dim", int, None, "dimensions kept of each vector (Matryoshka)", least=1),
    )
}


def parted(name: str) -> tuple[str, Mapping[str, Any]]:
    """A model's name without its options, and these. Raises UsageError for one that is unknown or invalid."""
    base, mark, text = name.partition("?")
    if not mark or os.path.exists(name):
        return name, {}
    options: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in OPTIONS:
            raise UsageError(unknown(key, OPTIONS, f"the model {base}"))
        options[key] = OPTIONS[key].parse(value)
    return base, options
