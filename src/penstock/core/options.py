"""Options, declared once as data: what a url, a command line, a file of settings and Python can say of a component."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass
from typing import Any

from penstock.core.errors import UsageError

_Type = type[Any]
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_EXPECTED = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list of texts",
    dict: "a mapping",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name, type, default and a line of help.

    `type` is str, int, float, bool, dict, or tuple: several texts.
    """

    name: str
    type: _Type
    default: Any
    help: str
    _: KW_ONLY
    metavar: str = "VALUE"
    """The name of its value in the help of a command."""
    expected: str = ""
    """What the message on an invalid value asks for, where the type alone says too little."""
    least: int | None = None
    """The smallest valid number."""
    numeric: bool = False
    """A number stands for the text of it: `chunk = 256`."""
    validate: Callable[[Any], object] | None = None
    """Raises UsageError for a value that is invalid though of the right type."""
    flag: bool = False
    """The command line has it, too, though it belongs to a source."""
    named: bool = False
    """A mapping of names to values does as well."""
    secret: bool = False
    """It may hold keys, so it is never written down."""

    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises UsageError."""
        if self.type is bool:
            if (word := text.strip().lower()) in (*_TRUE, *_FALSE):
                return word in _TRUE
        elif self.type is tuple:
            return tuple(part for each in text.split(",") if (part := each.strip()))
        elif self.type is str:
            return self.check(text)
        elif self.type in (int, float):
            try:
                return self.check(self.type(text))
            except ValueError:
                pass  # raised below, as for the other types
        raise self._invalid(text)

    def check(self, value: Any) -> Any:
        """The value as the component takes it. Raises UsageError where it is of another type, or invalid."""
        if value is None and self.default is None:
            return None
        if isinstance(value, str) and "\0" in value:
            raise self._invalid(value)
        if self.named and isinstance(value, Mapping):
            return {name: self.check(one) for name, one in value.items()}
        if self.numeric and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if self.type is tuple:
            several = isinstance(value, Sequence | Set) and not isinstance(value, str | bytes)
            if several and all(isinstance(part, str | os.PathLike) and "\0" not in os.fspath(part) for part in value):
                return tuple(value)
        elif self.type is dict:
            if isinstance(value, Mapping):
                if self.validate is not None:
                    self.validate(value)
                return dict(value)
        elif isinstance(value, float | int if self.type is float else self.type) and (
            self.type is bool or not isinstance(value, bool)
        ):
            if self.least is not None and value < self.least:
                raise UsageError(f"invalid {self.name} {value!r}: expected at least {self.least}")
            if self.validate is not None:
                self.validate(value)
            return value
        raise self._invalid(value)

    def _invalid(self, value: object) -> UsageError:
        return UsageError(f"invalid {self.name} {value!r}: expected {self.expected or _EXPECTED[self.type]}")


def chosen(declared: Iterable[Option], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The values, checked. Raises UsageError for a name that is not declared, with the nearest one that is."""
    options = {option.name: option for option in declared}
    for name in values:
        if name not in options:
            raise UsageError(unknown(name, options, owner))
    return {name: options[name].check(value) for name, value in values.items()}


def unknown(name: str, known: Iterable[str], owner: str) -> str:
    """The message for an option that `owner` does not have, with the nearest one of those it has."""
    names = list(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}? It" if near else "it"
    takes = f"{hint} takes {', '.join(names)}" if names else "it takes none"
    return f"unknown option {name!r} of {owner}: {takes}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, if any is."""
    from difflib import get_close_matches  # 5 ms that only a mistake should cost

    return next(iter(get_close_matches(name, list(known), 1)), None)
