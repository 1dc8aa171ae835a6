"""Metadata as a list of terms, for stores that find a text in a list: whatever the fields are, it is one list.

A chunk has a term for each field that has a value (`author.name`) and one for each value of it (`author.name="Ann`,
`year=2024`, `draft=true`), and one more if it is an image.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from penstock.core import fields
from penstock.core.fields import Path, Scalar

TERMS = "terms"
"""The key of the list."""
IMAGE = "=image"
"""The term of an image. No field's name begins so, but for those of 32 hexadecimal digits."""
LONGEST = 512
"""Characters of a text that its term has; of a longer one it has as many, and a hash of all."""
_LONGEST_NAME = 64


def listed(metadata: Mapping[str, Any]) -> list[str]:
    """The terms of metadata, each once."""
    found: dict[str, None] = {}
    for path, values in fields.leaves(metadata):
        found |= {named(path[:end]): None for end in range(1, len(path) + 1)}
        found |= {term(path, value): None for value in values}
    return list(found)


@lru_cache(4096)
def named(path: Path) -> str:
    """The name of a field, which is its term, too. Where its own is long or has a `=`, a hash stands for it."""
    name = ".".join(path)
    if len(name) > _LONGEST_NAME or "=" in name or any("." in part for part in path):
        return f"={_hash(json.dumps(path))}"
    return name


def term(path: Path, value: Scalar) -> str:
    """The term of a field that has that value."""
    if isinstance(value, bool):
        return f"{named(path)}={'true' if value else 'false'}"
    if isinstance(value, str):
        kept = value if len(value) <= LONGEST else f"{value[:LONGEST]}={_hash(value)}"
        return f'{named(path)}="{kept}'
    number = double(value)
    return f"{named(path)}={number + 0.0 if number == value else value!r}"  # -0.0 and 0 are one, as 1 and 1.0 are


def double(value: float) -> float:
    """The number as stores compare it: infinite where it is beyond all doubles."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
