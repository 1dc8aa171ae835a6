"""Options as data: what a text stands for, what a component takes, and the nearest name to a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.core.options import Option, chosen


def option(type: type[Any], default: Any = None) -> Option:
    return Option("limit", type, default, "a limit")


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        (str, " a ", " a "),
        (int, "12", 12),
        (float, "1.5", 1.5),
        (bool, "Yes", True),
        (bool, "0", False),
        (tuple, "*.md, *.txt,", ("*.md", "*.txt")),
        (tuple, "", ()),
    ],
)
def test_a_text_stands_for_a_value(type: type[Any], text: str, value: Any) -> None:
    assert option(type).parse(text) == value
    assert option(type).check(value) == value


@pytest.mark.parametrize(("type", "text"), [(int, "1.5"), (float, "x"), (bool, "maybe"), (dict, "a=1")])
def test_a_text_that_stands_for_none_says_what_was_expected(type: type[Any], text: str) -> None:
    with pytest.raises(UsageError, match=r"invalid limit '.*': expected"):
        option(type).parse(text)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (str, 1),
        (int, True),
        (int, 1.0),
        (bool, 1),
        (tuple, "*.md"),
        (tuple, [1]),
        (tuple, 5),
        (dict, [1]),
        (float, "1"),
    ],
)
def test_a_value_of_another_type_is_refused(type: type[Any], value: Any) -> None:
    with pytest.raises(UsageError, match=r"invalid limit .*: expected"):
        option(type, default=0).check(value)


def test_values_are_checked_and_made_their_own() -> None:
    declared = (Option("include", tuple, (), ""), Option("storage", dict, None, ""), Option("rate", float, 1.0, ""))
    values = {"include": [Path("a"), "b"], "storage": None, "rate": 2}
    assert chosen(declared, values, "x://") == {"include": (Path("a"), "b"), "storage": None, "rate": 2}
    with pytest.raises(UsageError, match="unknown option 'inclde' of x://: did you mean 'include'"):
        chosen(declared, {"inclde": ()}, "x://")
