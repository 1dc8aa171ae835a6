"""An argument parser that takes no abbreviated options, and names the nearest of its own for one that is unknown;
values of options."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any


class CommandParser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what this command does not know itself, since argparse would have the main parser do it, with the
        usage of that one."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            from penstock.core.options import nearest

            flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
            near = nearest(flags[0], self._option_string_actions) if flags else None
            self.error(f"unrecognized arguments: {' '.join(rest)}" + (f". Did you mean {near}?" if near else ""))
        return known, rest


def share(text: str) -> float:
    with suppress(ValueError):
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        if 0 <= number <= 1:
            return number
    raise argparse.ArgumentTypeError(f"invalid share {text!r}: expected one such as 1% or 0.01")


def partition(text: str) -> tuple[int, int]:
    with suppress(ValueError):
        part, of = (int(number) for number in text.split("/"))
        if 0 < part <= of:
            return part, of
    raise argparse.ArgumentTypeError(f"invalid share {text!r}: expected one such as 3/100")


def positive(text: str) -> int:
    with suppress(ValueError):
        if (number := int(text)) > 0:
            return number
    raise argparse.ArgumentTypeError(f"invalid number {text!r}: expected at least 1")
