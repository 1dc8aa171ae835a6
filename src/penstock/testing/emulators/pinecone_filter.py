"""Filters of the emulator of Pinecone, as tests of a record's metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


Test = Callable[[dict[str, Any]], bool]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: bool(a > b),
    "$gte": lambda a, b: bool(a >= b),
    "$lt": lambda a, b: bool(a < b),
    "$lte": lambda a, b: bool(a <= b),
}


def compile_filter(wanted: Any) -> Test:
    if not isinstance(wanted, dict) or not wanted:
        raise Refusal(400, "a filter is an object that is not empty")
    tests = [_term(name, test) for name, test in wanted.items()]
    return lambda metadata: all(test(metadata) for test in tests)


def _term(name: str, wanted: Any) -> Test:
    if name in ("$and", "$or"):
        if not isinstance(wanted, list) or not wanted:
            raise Refusal(400, f"{name} takes a list of filters")
        parts, of = [compile_filter(part) for part in wanted], all if name == "$and" else any
        return lambda metadata: of(part(metadata) for part in parts)
    if name.startswith("$"):
        raise Refusal(400, f"{name} is not a valid operator")
    if not isinstance(wanted, dict) or not wanted:
        raise Refusal(400, f"{name}: an operator is needed")
    tests = [_comparison(name, sign, value) for sign, value in wanted.items()]
    return lambda metadata: all(test(metadata) for test in tests)


def _comparison(name: str, sign: str, value: Any) -> Test:
    """A field that a record lacks passes no comparison, not even `$ne`. Of a list one value has to be as asked, and for
    `$ne` and `$nin` none."""
    if sign == "$exists":
        _check_value(sign, value, bool)
        return lambda m: (name in m) is value
    if sign in ("$eq", "$ne"):
        _check_value(sign, value, bool | str | int | float)
        wanted = (isinstance(value, bool), value)
        return lambda m: (
            name in m and any((isinstance(v, bool), v) == wanted for v in _held(m[name])) is (sign == "$eq")
        )
    if sign in ("$in", "$nin"):
        if not isinstance(value, list) or not 1 <= len(value) <= 10_000:
            raise Refusal(400, f"{sign} takes 1 to 10000 values")
        for part in value:
            _check_value(sign, part, str | int | float)
        several = set(value)
        return lambda m: name in m and any(v in several for v in _held(m[name])) is (sign == "$in")
    if sign in _ORDER:
        if isinstance(value, bool):
            raise Refusal(400, f"the {sign} operator must be followed by a number, got {value!r}")
        _check_value(sign, value, int | float)
        return lambda m: isinstance(m.get(name), float) and _ORDER[sign](m[name], value)
    raise Refusal(400, f"{sign} is not a valid operator")


def _held(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_value(sign: str, value: Any, kinds: Any) -> None:
    if not isinstance(value, kinds):
        raise Refusal(400, f"the {sign} operator cannot be followed by {value!r}")
