"""Options of a component, declared once as data: what a url, a command line and a file of settings can say of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from penstock.core.errors import UsageError

_Type = type[Any]
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_EXPECTED = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a mapping"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its name, what it takes, what it is where nothing is said, and a line of help.

    `type` is str, int, float, bool, dict, or tuple: several texts.
    """

    name: str
    type: _Type
    default: Any
    help: str

    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises UsageError."""
        if self.type is bool:
            if (word := text.strip().lower()) in (*_TRUE, *_FALSE):
                return word in _TRUE
        elif self.type is tuple:
            return tuple(part for each in text.split(",") if (part := each.strip()))
        elif self.type is str:
            return text
        elif self.type in (int, float):
            try:
                return self.type(text)
            except ValueError:
                pass  # raised below, as for the other types
        raise self._invalid(text)

    def check(self, value: Any) -> Any:
        """The value as the component takes it. Raises UsageError where it is of another type."""
        if value is None and self.default is None:
            return None
        if self.type is tuple:
            several = isinstance(value, Sequence | Set) and not isinstance(value, str)
            if several and all(isinstance(part, str | os.PathLike) for part in value):
                return tuple(value)
        elif self.type is dict:
            if isinstance(value, Mapping):
                return dict(value)
        elif isinstance(value, float | int if self.type is float else self.type) and (
            self.type is bool or not isinstance(value, bool)
        ):
            return value
        raise self._invalid(value)

    def _invalid(self, value: object) -> UsageError:
        expected = _EXPECTED.get(self.type, "a list of texts")
        return UsageError(f"invalid {self.name} {value!r}: expected {expected}")


def chosen(declared: Iterable[Option], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The values, checked. Raises UsageError for a name that is not declared, with the nearest one that is."""
    options = {option.name: option for option in declared}
    for name in values:
        if name not in options:
            raise UsageError(unknown(name, options, owner))
    return {name: options[name].check(value) for name, value in values.items()}


def unknown(name: str, known: Iterable[str], owner: str) -> str:
    names = list(known)
    near = get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? It" if near else "it"
    takes = f"{hint} takes {', '.join(names)}" if names else "it takes none"
    return f"unknown option {name!r} of {owner}: {takes}"
