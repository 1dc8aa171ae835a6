"""Where things are: ledgers, and what relative paths and urls of a file of settings mean."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.core.errors import UsageError
from penstock.embedders.prefixes import named_prefix
from penstock.registry import SINKS, SOURCES, knows
from penstock.sinks.manifests import STATE

EMBEDDED = ("lance", "sqlite", "parquet", "delta")
"""Stores that are a folder or a file. Others are so where their url begins like a path, and end with a collection."""
SERVERS = ("pgvector",)
"""Stores whose urls name no folder, though they may lack a host: `pgvector:///database/table`."""
Paths = str | os.PathLike[str]


def default_state(source: str, sink: str, namespace: str = "") -> Path:
    """One ledger an index, or a namespace of it, with a name that people recognise. Where one has filled it already, as
    those of earlier versions, which were named by their source as well, it is that one."""
    from penstock.jobs.ledgers import filling  # here, as a search needs no ledger

    folder = Path(STATE)
    name = re.sub(r"[^A-Za-z0-9]+", "-", sink.partition("://")[2]).strip("-")[-40:] or "index"

    def named(*parts: str) -> Path:
        digest = hashlib.blake2b("\0".join(filter(None, parts)).encode(), digest_size=4).hexdigest()
        return folder / f"{name}-{digest}.db"

    path = named(absolute(sink), namespace)
    for known in (path, named(source, absolute(sink), namespace)):
        if known.exists():
            return known
    found = filling(folder, absolute(sink), namespace)
    if len(found) > 1:
        several = ", ".join(f"--state {one}" for one in found)
        raise UsageError(f"{sink} was filled by several ledgers; choose one: {several}")
    return found[0] if found else path


def absolute(path: str, base: Paths = "") -> str:
    """The same from any working directory: relative paths and `lance://./index` made absolute, as from `base`."""
    kind, mark, rest = path.partition("://")
    if not mark:
        return os.path.abspath(os.path.join(base, path))
    if kind in (*EMBEDDED, "urls") or (rest.startswith((".", "~")) and (knows(SINKS, kind) or knows(SOURCES, kind))):
        return f"{kind}://{os.path.abspath(os.path.join(base, os.path.expanduser(rest)))}"
    return path


def relative_to(base: Paths, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are written in a file of that folder: relative paths are from there."""
    if os.path.abspath(base) == os.getcwd():
        return dict(values)

    def from_there(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [from_there(one) for one in value]
        return absolute(value, base) if isinstance(value, str) else value

    paths = {name: from_there(values[name]) for name in ("source", "into", "state") if name in values}
    if (model := values.get("model")) is not None:
        paths["model"] = models_from(base, model)
    return {**values, **paths}


def models_from(base: Paths, model: Any) -> Any:
    """The model, or several by their names: one that is a folder, as seen from `base`, by its absolute path."""
    if isinstance(model, Mapping):
        return {name: models_from(base, one) for name, one in model.items()}
    if not isinstance(model, str):
        return model
    if prefix := named_prefix(model):
        rest = model.removeprefix(f"{prefix}:")
        return f"{prefix}:{models_from(base, rest)}" if rest else model
    folder, sign, options = os.path.join(base, model).partition("?")
    return os.path.abspath(folder) + sign + options if os.path.exists(folder) else model


def location_of(url: str) -> str:
    """The folder or file of this machine that a store keeps; nothing where it is on a server."""
    kind, _, rest = absolute(url).partition("?")[0].partition("://")
    if kind in EMBEDDED:
        return rest
    return (
        os.path.dirname(rest) if rest.startswith("/") and kind not in SERVERS else ""
    )  # `chroma:///folder/collection`
