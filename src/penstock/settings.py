"""The settings of a pipeline that can be said in words: each with its type, default, parser and help, once.

The command line, penstock.toml, `Pipeline(...)` and the ledger, which remembers them for the next command, all take
them from here. The options of a source belong to that source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.core.errors import UsageError

MEMORY = "512MiB"


@dataclass(frozen=True)
class Settings:
    source: tuple[str, ...]
    into: tuple[str, ...]
    model: str | None = None
    chunk: str | None = None
    memory: str = MEMORY
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    hidden: bool = False
    workers: int | None = None
    namespace: str = ""
    state: str | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Settings:
        known = set(cls.__dataclass_fields__)
        unknown = sorted(set(values) - known)
        if unknown:
            raise UsageError(f"{where}: unknown setting {unknown[0]!r}; there are: {', '.join(sorted(known))}")
        missing = sorted({"source", "into"} - set(values))
        if missing:
            raise UsageError(f"{where}: {' and '.join(missing)} must be given")
        plain = dict(values)
        for name in ("source", "into", "include", "exclude"):
            if name in plain:
                value = plain[name]
                plain[name] = (value,) if isinstance(value, str) else tuple(value)
        for name in ("chunk", "memory"):
            if isinstance(plain.get(name), int):
                plain[name] = str(plain[name])
        for name, value in plain.items():
            kinds: dict[str, type] = {
                "source": tuple,
                "into": tuple,
                "include": tuple,
                "exclude": tuple,
                "hidden": bool,
                "workers": int,
            }
            parts = value if isinstance(value, tuple) else ()
            if value is not None and not (
                isinstance(value, kinds.get(name, str)) and all(isinstance(part, str) for part in parts)
            ):
                raise UsageError(f"{where}: {name} = {value!r} cannot be meant")
        return cls(**plain)
