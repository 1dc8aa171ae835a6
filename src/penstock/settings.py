"""The options of a pipeline: each has its name, type, default, check and help here, once.

The command line, penstock.toml, `Pipeline(...)` and the ledger, which remembers the last run's, all go by them. The
options of a source are declared by that source.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from penstock.core.deletions import parse_deletions
from penstock.core.errors import MissingExtra, UsageError
from penstock.core.metadata import pipeline_metadata
from penstock.core.options import Option, unknown
from penstock.support.sizes import parse_budget

if TYPE_CHECKING:
    from penstock.core.contracts import Source

MEMORY = "512MiB"
MAX_DELETE = "50%"


def _option(type: type[Any], default: Any, help: str, metavar: str, **details: Any) -> Any:
    """A field of Settings, with what makes an Option of it; `...` for one that has to be given."""
    declared = {"type": type, "help": help, "metavar": metavar, **details}
    return field(metadata=declared) if default is ... else field(default=default, metadata=declared)


def _chunk(text: str) -> None:
    from penstock.chunkers.sizes import parse_chunking

    parse_chunking(text)


@dataclass(frozen=True)
class Settings:
    """The options of a pipeline, as they are written down."""

    source: tuple[str, ...] = _option(
        tuple, ..., "a file, a folder or a url such as s3://bucket/docs", "PATH", expected="a path or url, or several"
    )
    into: tuple[str, ...] = _option(
        tuple, ..., "the index: lance://./index; may come again, for several that are filled together", "URL",
        expected="a url such as lance://./index, or several",
    )  # fmt: skip
    model: str | Mapping[str, str] | None = _option(
        str, None, "a sentence-transformers model: a name or a folder; NAME=M for each of several vectors", "M",
        named=True, expected="the name or folder of a model, or a mapping of names to models",
    )  # fmt: skip
    chunk: str | None = _option(
        str, None, 'the size of chunks: "256 tokens", "1000 characters"', "SIZE", numeric=True, validate=_chunk,
        expected='a size such as "256 tokens"',
    )  # fmt: skip
    memory: str = _option(
        str, MEMORY, "the most bytes in flight", "SIZE", numeric=True, validate=parse_budget,
        expected="a size such as 512MiB",
    )  # fmt: skip
    workers: int | None = _option(int, None, "documents read at once (as many as cores)", "N", least=1)
    metadata: Mapping[str, Any] | None = _option(
        dict, None, "a field of metadata for each document; from_path=docs/{team}/* takes fields from its path",
        "NAME=VALUE", validate=pipeline_metadata, expected="a mapping of names to values",
    )  # fmt: skip
    namespace: str = _option(str, "", "fill a part of an index that others fill, too", "NAME")
    max_delete: str = _option(
        str, MAX_DELETE, "the most that a run may take out: a share of the chunks, or a number of documents", "LIMIT",
        numeric=True, validate=parse_deletions, expected="a share such as 10%, or a number of documents",
    )  # fmt: skip
    state: str | None = _option(str, None, "the ledger (one for each pipeline, under .penstock/)", "FILE")
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the source, by their names."""

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str, *, also: Collection[str] = ()) -> Settings:
        """Settings by their names, those of the source among them or in `options`. Raises UsageError, which says
        `where` they were written, for one that is unknown, invalid or missing. `also`: other names that may stand
        there, for the hint at a misspelt one."""
        return cls(**check(values, where, also=also))

    def to_mapping(self) -> dict[str, Any]:
        """The settings by their names, those of the source among them."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return values | dict(self.options)

    def to_json(self) -> str:
        """The settings as the ledger remembers them."""
        import json  # here, as the help of a command does without it

        return json.dumps(asdict(self), default=os.fspath)


_DECLARED = [each for each in fields(Settings) if each.metadata]
_REQUIRED = [each.name for each in _DECLARED if each.default is MISSING]
OPTIONS = {
    each.name: Option(name=each.name, default=None if each.default is MISSING else each.default, **each.metadata)
    for each in _DECLARED
}
"""The options of a pipeline, whatever its source."""


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a file such as penstock.toml. Raises UsageError for one that cannot be read."""
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def check(
    values: Mapping[str, Any], where: str, *, components: Collection[str] = (), also: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of Settings. Those that `components` names are components, not words, and stay as they are."""
    values = dict(values)
    table = values.pop("options", {})
    try:
        if not isinstance(table, Mapping):
            raise UsageError(f"invalid options {table!r}: expected a table of the source's options")
        if twice := next((name for name in table if name in values), None):
            raise UsageError(f"the option {twice!r} is there twice: keep it in the table of options, or beside it")
        if missing := [name for name in _REQUIRED if values.get(name) in (None, "", [], ())]:
            raise UsageError(f"{' and '.join(missing)} must be given")
        settings = {
            name: values[name] if name in components else _checked(option, values[name])
            for name, option in OPTIONS.items()
            if name in values
        }
        rest = {name: value for name, value in (values | dict(table)).items() if name not in OPTIONS}
        settings["options"] = _of_source(settings["source"], rest, [*OPTIONS, *also])
    except MissingExtra:
        raise
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return settings


def _checked(option: Option, value: Any) -> Any:
    if option.type is tuple:
        return tuple(map(os.fspath, option.check(_several(value))))
    if option.named and isinstance(value, Mapping):
        return option.check({name: _text(one) for name, one in value.items()})
    return option.check(_text(value))


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _several(value: Any) -> Any:
    """A text alone as a list of it, which is how one may write it."""
    return (value,) if isinstance(value, str | os.PathLike) else value


def _of_source(source: Source | tuple[str, ...], values: Mapping[str, Any], beside: Collection[str]) -> dict[str, Any]:
    """The options of the source, checked."""
    from penstock.sources import check_options, declared, owners

    if isinstance(source, tuple):
        several = {option.name for option in declared(source) if option.type is tuple}
        return check_options(
            source, {name: _several(v) if name in several else v for name, v in values.items()}, beside
        )
    for name, value in values.items():
        if not owners(name):
            raise UsageError(unknown(name, OPTIONS, "a pipeline"))
        if value:
            raise UsageError(f"{name} is an option of paths and urls: give it to your own source instead")
    return {}
