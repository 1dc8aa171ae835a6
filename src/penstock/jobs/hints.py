"""Why a filtered search found nothing: fields that no chunk has, with the nearest one that some chunks have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from penstock.core import fields
from penstock.core.contracts import Index
from penstock.core.errors import PenstockError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import FIELDS, metadata_fields
from penstock.core.options import nearest
from penstock.core.records import Hit, Vector

SAMPLE = 200
"""Hits whose fields are looked at."""
MAX_FIELDS = 5
"""Fields of a filter that are looked for: each takes a search."""
MAX_NAMES = 1000
MAX_LENGTH = 100
"""Characters of a name in a hint."""


def hint(index: Index, vector: Vector, where: Mapping[str, Any] | None, using: str) -> str | None:
    """What to say of a filter that nothing passes: None where some chunk has each of the fields that it asks for."""
    asked = metadata_fields(parse_filter(where))[:MAX_FIELDS]
    if not asked:
        return None
    try:
        sample = index.search(vector, SAMPLE if index.max_k is None else min(SAMPLE, index.max_k), None, using=using)
        if not sample:
            return None
        used = _used(sample)
        missing = [name for name in asked if name not in used and _is_missing(index, vector, name, using)]
    except PenstockError:  # a store that cannot tell, or fails meanwhile: the search itself went well
        return None
    return _text(missing, used) if missing else None


def _is_missing(index: Index, vector: Vector, name: str, using: str) -> bool:
    return not index.search(vector, 1, {fields.PREFIX + name: {"$exists": True}}, using=using)


def _used(hits: Sequence[Hit]) -> dict[str, None]:
    """The fields of metadata that the hits have, in the order in which they occur."""
    return dict.fromkeys(".".join(path) for hit in hits for path, _ in fields.leaves(hit.chunk.metadata))


def _text(missing: Sequence[str], used: Mapping[str, None]) -> str:
    own = [*FIELDS, "type"]
    known = own + [fields.PREFIX + name if name in own else name for name in islice(used, MAX_NAMES)]
    short = [name[:MAX_LENGTH] for name in missing]
    near = list(dict.fromkeys(name for one in short if (name := nearest(one, known))))
    text = f"no chunk has the field{'s' if len(short) > 1 else ''} {', '.join(map(repr, short))}"
    return f"{text}; did you mean {', '.join(map(repr, near))}?" if near else text
