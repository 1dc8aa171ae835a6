"""Metadata: what each chunk says of its document, in a form that every store can hold.

Later ones win: what is known of any document (`standard`), what its source says of it (the columns of a table), what
the parser found, and what the user gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import blake2b
from typing import Any

from penstock.core.errors import UsageError
from penstock.core.path_fields import FROM_PATH, PathFields, path_of
from penstock.core.records import Item

STANDARD_VERSION = "1"
"""To be raised when `standard` gives other fields, which reach an index by reading its documents again."""
VOLATILE = ("size", "created", "modified")
"""Fields of `standard` that alone are no reason to write a chunk again: a fresh checkout of a repository has new times
for all that it holds. A chunk has those of the version of its document in which it was written."""
LONGEST = 16_384
"""Bytes of the metadata that a user gives a document, as JSON: stores limit it, Pinecone to 40,000 in all."""
DEPTH = 8

MetadataFunction = Callable[[Item], Mapping[str, Any]]
"""A function of the user's own. It is called where the document is read, in one of several threads."""


def standard(item: Item, media_type: str) -> dict[str, Any]:
    """What is known of any document."""
    folder, _, name = path_of(item.uri).rpartition("/")
    found = {
        "name": name,
        "folder": folder,
        "extension": name.rpartition(".")[2].lower() if "." in name[1:] else "",
        "size": item.size,
        "created": None if item.created is None else moment(int(item.created)),
        "modified": None if item.modified is None else moment(int(item.modified)),
        "media_type": media_type,
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def moment(seconds: float) -> str:
    """A point of time as it is kept, so that the order of the texts is that of the times."""
    try:
        return _stamp(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):  # a file system may say anything
        return ""


def _stamp(time: datetime) -> str:
    """To the second: with a fraction here and none there, texts would not be in the order of the times."""
    time = time.astimezone(UTC)  # one without a zone is local, as everywhere in Python
    return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def normalized(metadata: object) -> dict[str, Any]:
    """Metadata as it is kept: texts, numbers, booleans, lists and mappings of them; dates become texts, and what is
    None or an empty mapping is left out. Raises ValueError for what no store can hold."""
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata is a mapping of names to values, not {_kind(metadata)}")
    kept = _mapping(metadata, "", 1)
    if (size := len(json.dumps(kept, ensure_ascii=False).encode())) > LONGEST:
        raise ValueError(f"metadata of {size:,} bytes: expected at most {LONGEST:,}")
    return kept


def normalized_value(value: Any, name: str) -> Any:
    """One value of metadata as it is kept. Raises ValueError for what no store can hold."""
    return _value(value, name, 1)


def _mapping(values: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name or name.startswith("$") or "." in name:
            raise ValueError(f"a field of metadata is named by a text without dots or a leading $, not {name!r}")
        name.encode()
        value = None if value is None else _value(value, f"{path}{name}", depth)
        if value is not None and value != {}:
            kept[name] = value
    return kept


def _value(value: Any, path: str, depth: int) -> Any:
    if depth > DEPTH:
        raise ValueError(f"metadata {path!r}: more than {DEPTH} levels")
    match value:
        case bool() | str():
            if isinstance(value, str):
                value.encode()  # a lone surrogate has no UTF-8
            return value
        case int():
            if abs(value) >= 1 << 63:
                raise ValueError(f"metadata {path!r}: {value} is out of range")
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError(f"metadata {path!r}: {value} is no number that stores hold")
            return value
        case datetime():
            return _stamp(value)
        case date():
            return value.isoformat()
        case Mapping():
            return _mapping(value, f"{path}.", depth + 1)
        case Sequence() | set() | frozenset() if not isinstance(value, bytes | bytearray):
            ordered = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return [_value(one, path, depth + 1) for one in ordered if one is not None]
    if callable(single := getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        return _value(single(), path, depth)  # numpy's numbers
    raise ValueError(f"metadata {path!r} is {_kind(value)}: expected a text, number, date, list or mapping")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


# ---------------------------------------------------------------- what the user gives


@dataclass(frozen=True, slots=True)
class PipelineMetadata:
    """The metadata of a pipeline: fields that are the same for all documents, and those of their paths."""

    fields: Mapping[str, Any]
    path: PathFields | None = None

    def __call__(self, item: Item) -> Mapping[str, Any]:
        return {**self.fields, **self.path(item)} if self.path else self.fields

    def to_mapping(self) -> dict[str, Any]:
        return {**self.fields, FROM_PATH: self.path.pattern} if self.path else dict(self.fields)

    @property
    def fingerprint(self) -> str:
        text = json.dumps(self.to_mapping(), sort_keys=True)
        return blake2b(text.encode(), digest_size=16).hexdigest()


def pipeline_metadata(values: Mapping[str, Any]) -> PipelineMetadata | None:
    """The metadata that a mapping stands for; None for an empty one. Raises UsageError."""
    values = dict(values)
    path = values.pop(FROM_PATH, None)
    if not values and path is None:
        return None
    if path is not None and not isinstance(path, str):
        raise UsageError(f"invalid {FROM_PATH} {path!r}: expected a path with names in braces")
    try:
        return PipelineMetadata(normalized(values), None if path is None else PathFields(path))
    except ValueError as error:
        raise UsageError(f"invalid metadata: {error}") from error


def parse_metadata(texts: Sequence[str]) -> dict[str, Any]:
    """The mapping that `department=hr` and others stand for."""
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"invalid metadata {text!r}: expected NAME=VALUE, such as department=hr")
        values[name.strip()] = value if name.strip() == FROM_PATH else parse_value(value)
    return values


def parse_value(text: str) -> Any:
    """The value that a text on the command line stands for. JSON is taken as such: 3, true, "3", ["a"]; all else is a
    text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")
