"""Sources, by the urls that name them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from penstock.core.errors import UsageError
from penstock.core.options import Option, unknown
from penstock.registry import SOURCES, find, load, scheme

if TYPE_CHECKING:
    from penstock.core.contracts import Source

__all__ = ["check_options", "declared", "from_url", "name_of", "options_of", "owners", "uri_of"]

Spec = str | os.PathLike[str]
Specs = Spec | Sequence[Spec]


def from_url(source: Specs, *, skip: Sequence[Spec] = (), **options: Any) -> Source:
    """The source that a path or url names, or several of one kind.

    `options` are those that its class declares; an unknown one raises UsageError, unless it is an option of another
    source and says nothing (empty, False). `skip`: local paths that are never read, where the source reads such.
    """
    kind, _ = _kind(source)
    checked = check_options(source, options)
    if "skip" in {option.name for option in kind.options}:
        checked["skip"] = (*checked.get("skip", ()), *skip)
    return cast(Any, kind)(*_listed(source), **checked)  # type: ignore[no-any-return]


def declared(source: Specs) -> tuple[Option, ...]:
    """The options of the source that a path or url names."""
    return _kind(source)[0].options


def check_options(source: Specs, options: Mapping[str, Any], also: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a source that are said, checked. `also`: others that may stand beside them, for the hint at a
    misspelt one."""
    kind, owner = _kind(source)
    known = {option.name: option for option in kind.options}
    checked = {}
    for name, value in options.items():
        if name in known:
            checked[name] = known[name].check(value)
        elif not (others := owners(name)):
            raise UsageError(unknown(name, [*known, *also], owner))
        elif value:
            raise UsageError(f"{unknown(name, known, owner)}. It is an option of {', '.join(others)}")
    return checked


def owners(name: str) -> list[str]:
    """The built-in sources that have an option of this name, by their schemes."""
    return [schemes for schemes, options in options_of().items() if name in {option.name for option in options}]


def options_of() -> dict[str, tuple[Option, ...]]:
    """The options of every source, by the scheme of its urls. Sources of one class are together: `file://, s3://`."""
    schemes: dict[str, list[str]] = {}
    for name, row in SOURCES.items():
        schemes.setdefault(row[0], []).append(f"{name}://")
    return {", ".join(names): load(target).options for target, names in schemes.items()}


def uri_of(name: Spec) -> str:
    """The uri of a document, or of a folder of them, as people write it: a path, absolute or relative, or a uri."""
    from penstock.sources.files import local

    text = os.fspath(name)
    if not text or "\0" in text:
        raise UsageError(f"invalid name {text!r}: expected a path or uri of a document")
    if not (kind := scheme(text)):
        return local.uri_of(os.path.abspath(text))
    if kind == "file":
        return local.uri_of(os.path.normpath(local.path_of(text)))
    if text != text.encode(errors="replace").decode():
        raise UsageError(f"invalid uri {text!r}: expected UTF-8")
    return text.rstrip("/")


def name_of(uri: str) -> str:
    """A document's name for people: a local file by its path. It may hold any character."""
    return unquote(uri.removeprefix("file://")) if uri.startswith("file:///") else uri


def _listed(source: Specs) -> list[Spec]:
    return [source] if isinstance(source, str | os.PathLike) else list(source)


def _kind(source: Specs) -> tuple[type[Source], str]:
    """The class that reads these, and what its options are called by in messages."""
    names = {scheme(os.fspath(each)) or "file" for each in _listed(source)}
    if not names:
        raise UsageError("no source is named")
    kinds = {find(SOURCES, name) for name in names}
    if len(kinds) > 1:
        classes = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"one pipeline reads one kind of source, these are several: {classes}")
    kind = kinds.pop()
    if not hasattr(kind, "options"):
        raise UsageError(f"the plug-in behind {min(names)}:// is broken: {kind!r} is not a Source")
    return kind, f"{min(names)}://"
