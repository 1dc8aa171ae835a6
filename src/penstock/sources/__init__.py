"""Where documents come from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from penstock.core.contracts import Source
from penstock.core.errors import UsageError
from penstock.registry import SOURCES, find, scheme

__all__ = ["from_url"]

Spec = str | os.PathLike[str]


def from_url(spec: Spec | Sequence[Spec], **options: Any) -> Source:
    """The source that a path or url names, or several of one kind; `options` are its constructor's."""
    specs = [spec] if isinstance(spec, str | os.PathLike) else list(spec)
    if not specs:
        raise UsageError("no source is named")
    kinds = {find(SOURCES, scheme(os.fspath(each)) or "file", "kind of source") for each in specs}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"one pipeline reads one kind of source, these are several: {names}")
    return cast(Source, kinds.pop()(*specs, **options))
