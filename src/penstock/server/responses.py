"""JSON responses that can hold whatever a store holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse


class SafeJSONResponse(JSONResponse):
    """NaN and infinity become null, lone surrogates `?`, and objects that JSON does not know their text."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """The JSON of such a response. Large ones are rendered in parts, in a thread: each part holds Python's lock."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError:  # NaN or infinity, which JSON does not have
        text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode(errors="replace")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
