"""Manifests: how they are kept with an index, and whether a sink can be opened with one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from penstock.core import filters
from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, SinkUnavailable, SpaceMismatch, UsageError
from penstock.core.filters import Filter
from penstock.core.precision import FP32, PRECISIONS
from penstock.core.records import NOTHING, VECTOR
from penstock.core.schema import IndexSchema, Manifest, from_dict, from_space, to_dict
from penstock.support import durable
from penstock.support.turns import turn

STATE = ".penstock"
"""The folder, where a run is started, of ledgers and of whatever lies beside them, unless they are named."""
TURN = 30.0
"""Seconds until others have to be done with a manifest, and with what belongs to it."""
SETTLE = 0.5
"""Seconds after which a server without conditional changes is asked whose manifest it kept."""
METRICS = ("cosine", "dot", "l2")
PRODUCTS: Mapping[str, Sequence[str]] = dict.fromkeys(("Sparse", "MultiVector"), ("cosine", "dot"))
"""Metrics by kind, of stores that compare only dense vectors by their distance."""


def numbered(url: str, number: int | str) -> str:
    """The url of a generation, or of another index beside this one: `scheme://store/notes_1?option=value`."""
    head, mark, options = url.partition("?")
    return f"{head.rstrip('/')}_{number}{mark}{options}"


FORMAT = 3
"""The format of manifests. 1 had one vector space (`space`), and at first one `owner`; 2 has vectors of fp32 alone, and
is still what these are written in."""


def to_json(manifest: Manifest) -> str:
    plain = all(spec.precision == FP32 for spec in manifest.schema.vectors.values())
    kept = {
        "penstock": 2 if plain else FORMAT,
        "schema": to_dict(manifest.schema),
        "owners": dict(manifest.owners),
        "current": manifest.current,
        "former": manifest.former,
    }
    return json.dumps(kept, indent=2)


def from_json(text: str | bytes, url: str) -> Manifest:
    try:
        kept = json.loads(text)
        if not isinstance(kept, dict):
            raise ValueError(f"expected an object, not a {type(kept).__name__}")
        if (version := kept.get("penstock", 1)) > FORMAT:
            raise SinkError(
                f"the manifest of {url} was written by a newer Penstock (format {version}; this one reads up to"
                f" {FORMAT}): upgrade with `pip install --upgrade penstock`"
            )
        owners = kept.get("owners") or ({"": kept["owner"]} if kept.get("owner") else {})
        schema = from_dict(kept["schema"]) if version > 1 else from_space(kept["space"])
        return Manifest(schema, _owners(owners), _generation(kept.get("current", 0)), _former(kept.get("former")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SinkError(f"the manifest of {url} cannot be read: {type(error).__name__}: {error!s:.300}") from error


def _owners(kept: Any) -> Mapping[str, str]:
    if not isinstance(kept, dict) or not all(isinstance(owner, str) for owner in kept.values()):
        raise ValueError("invalid owners: expected the id of a ledger for each namespace")
    return kept


def _generation(kept: Any) -> int:
    """It becomes part of a table's or a folder's name."""
    if type(kept) is not int or not 0 <= kept < 1 << 31:
        raise ValueError("invalid generation: expected a whole number, 0 or more")
    return kept


def _former(kept: Any) -> int | None:
    return None if kept is None else _generation(kept)


def read(path: Path, url: str) -> Manifest | None:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SinkError(f"{url} cannot be read: {error.strerror}") from error
    return from_json(text, url)


def keep(path: Path, manifest: Manifest) -> None:
    """Replace the manifest. Within a `changing`, unless nobody else can have a reason to."""
    durable.replace(path, to_json(manifest).encode())


@contextmanager
def changing(path: Path, url: str) -> Iterator[None]:
    """Have those that create, change or remove a manifest take turns, so that none acts on one that is outdated."""
    try:
        with turn(path.with_name(f".{path.name}.lock"), TURN):
            yield
    except TimeoutError as error:
        raise SinkUnavailable(f"{url}: {error}") from error


def exchange(path: Path, url: str, old: Manifest, new: Manifest) -> bool:
    """Replace the manifest if it is still `old`."""
    with changing(path, url):
        if read(path, url) != old:
            return False
        keep(path, new)
        return True


def check_schema(kept: IndexSchema, wanted: IndexSchema, url: str) -> None:
    """Raise SpaceMismatch unless one index can hold both; the names of models may differ."""
    if not kept.same_space(wanted):
        raise SpaceMismatch(
            f"{url} holds {kept}; this run makes {wanted}. Index into another url, or have `penstock reindex` build a"
            " new generation beside it"
        )


def check_filterable(schema: IndexSchema, wanted: Filter | None, url: str) -> None:
    """Raise UsageError where a filter asks for metadata that an older index keeps only in one text."""
    if filters.metadata_fields(wanted):
        check_fields(schema, url)


def check_fields(schema: IndexSchema, url: str) -> None:
    """Raise UsageError unless the points have their metadata in the store's own fields."""
    if not schema.filterable:
        raise UsageError(
            f"{url} was made by an earlier version, whose metadata cannot be filtered by: `penstock reindex` makes it"
            " anew, and `penstock copy` another one, without its source"
        )


def supported(schema: IndexSchema, sink: Sink, metrics: Mapping[str, Sequence[str]] = NOTHING) -> None:
    """Raise UsageError unless the sink can hold vectors of this schema: their number, names, kinds and metrics.

    `metrics` has the metrics of each kind for which the store does not know all.
    """
    if not sink.named and schema.vectors.keys() != {VECTOR}:
        raise UsageError(
            f"{sink.url} holds one vector a chunk, without a name; this model makes {', '.join(schema.vectors)}. Use a"
            " single model, or a store that holds named vectors"
        )
    kinds = {kind.__name__ for kind in sink.accepts}
    for spec in schema.vectors.values():
        if spec.kind not in kinds:
            raise UsageError(f"{sink.url} takes {' and '.join(sorted(kinds))} vectors, not {spec.kind}")
        kept = sink.precisions if spec.kind == "MultiVector" else {FP32}
        if spec.precision not in kept:
            raise UsageError(
                f"{sink.url} keeps {spec.kind} vectors in {', '.join(p for p in PRECISIONS if p in kept)}, not"
                f" {spec.precision}: choose the model's option precision= accordingly, or another store"
            )
        if spec.metric not in (known := metrics.get(spec.kind, METRICS)):
            of_kind = f" for {spec.kind} vectors" if spec.kind in metrics else ""
            raise UsageError(f"{sink.url} knows the metrics {', '.join(known)}{of_kind}, not {spec.metric!r}")


def dense_names(schema: IndexSchema, url: str) -> list[str]:
    """The names of the dense vectors, of which a store is to have copies in fewer bits. Raises UsageError where there
    are none."""
    names = [name for name, spec in schema.vectors.items() if spec.kind == "Dense"]
    if not names:
        raise UsageError(f"{url}: quantization= is for dense vectors, and there are none: leave it out")
    return names


def admit(sink: Sink, kept: Manifest | None, wanted: Manifest, metrics: Mapping[str, Sequence[str]] = NOTHING) -> None:
    """Raise SpaceMismatch where the index is of another schema, and UsageError where the sink cannot hold this one."""
    if kept is not None:
        check_schema(kept.schema, wanted.schema, sink.url)
    supported(wanted.schema, sink, metrics)


def state_of(folder: Path, pattern: str) -> str:
    """The names and times of files that never change, as one hash."""
    files = blake2b(digest_size=16)
    for path in sorted(folder.glob(pattern)):
        with suppress(FileNotFoundError):
            files.update(f"{path.name} {path.stat().st_mtime_ns}\n".encode())
    return files.hexdigest()


def make_folder(folder: Path, url: str) -> None:
    """Create the folder and check that it can be written to, so that a run ends before it reads anything."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise SinkError(f"{url} cannot be written to: {folder}: {error.strerror}") from error
