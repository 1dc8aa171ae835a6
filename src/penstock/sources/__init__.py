"""Sources, by the urls that name them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

from penstock.core.contracts import Source
from penstock.core.errors import UsageError
from penstock.core.options import Option, chosen, unknown
from penstock.registry import SOURCES, find, load, scheme

__all__ = ["from_url", "options_of"]

Spec = str | os.PathLike[str]


def from_url(source: Spec | Sequence[Spec], *, skip: Sequence[Spec] = (), **options: Any) -> Source:
    """The source that a path or url names, or several of one kind.

    `options` are those that its class declares; an unknown one raises UsageError, unless it is an option of another
    source and says nothing (empty, False). `skip`: local paths that are never read, where the source reads such.
    """
    specs = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not specs:
        raise UsageError("no source is named")
    names = {scheme(os.fspath(each)) or "file" for each in specs}
    kinds = {find(SOURCES, name, "kind of source") for name in names}
    if len(kinds) > 1:
        classes = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"one pipeline reads one kind of source, these are several: {classes}")
    kind: type[Source] = kinds.pop()
    declared = {option.name for option in kind.options}
    owner = f"{min(names)}://"
    values = {}
    for name, value in options.items():
        if name in declared:
            values[name] = value
        elif others := [other for other, known in options_of().items() if name in {option.name for option in known}]:
            if value:
                raise UsageError(f"{unknown(name, declared, owner)}. It is an option of {', '.join(others)}")
        else:
            raise UsageError(unknown(name, [option.name for option in kind.options], owner))
    if "skip" in declared:
        values["skip"] = skip
    return cast(Any, kind)(*specs, **chosen(kind.options, values, owner))  # type: ignore[no-any-return]


def options_of() -> dict[str, tuple[Option, ...]]:
    """The options of every source, by the scheme of its urls. Sources of one class are together: `file://, s3://`."""
    schemes: dict[str, list[str]] = {}
    for name, (target, _) in SOURCES.items():
        schemes.setdefault(target, []).append(f"{name}://")
    return {", ".join(names): load(target).options for target, names in schemes.items()}
