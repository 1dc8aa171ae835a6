"""Generated command lines: each ends with one of the documented statuses, and none with an error that no line of ours
names."""

from __future__ import annotations

import argparse
import random

import pytest

from penstock.cli.arguments import make_parser
from tests.cli.conftest import Run

LASTING = {"serve", "models", "run"}
"""Commands that serve, fetch, or follow until they are stopped."""
WITHOUT = {"--help", "--version", "--live", "--watch", "--every", "--metrics", "--on", "--device"}
ODD = [
    *(
        "",
        " ",
        "-",
        "--",
        "0",
        "-1",
        "1",
        "1e9",
        "9" * 40,
        "0.5",
        "nan",
        "inf",
        "true",
        "a",
        "a=b",
        "=",
        "a=",
        "=b",
        ",",
        "a,b",
    ),
    *(
        "docs",
        "docs/none.md",
        "none",
        "docs/gates.md",
        "é",
        "\udcff",
        "a" * 5000,
        "*",
        "**/*",
        "[",
        "{}",
        '{"n": 1}',
        "n = 1",
    ),
    *(
        "n >",
        '"',
        "'",
        "((((",
        "1 KiB",
        "1TiB",
        "256 tokens",
        "-5 characters",
        "1h",
        "1d",
        "yesterday",
        "2026-02-30",
        "2026-11-30",
    ),
    *(
        "memory://none",
        "memory://",
        "sqlite://./none.db",
        "lance://",
        "nope://a",
        "://",
        "hashing",
        "nope:a",
        "%(a)s",
        "\n",
        "\x1b[31m",
    ),
    *("penstock.toml", "penstock.toml:a", ".", "none.toml", "none.json", "words", "vector"),
]


def lines(count: int, index: str) -> list[list[str]]:
    """A command with a few of its options, each with an odd value, and too few or too many other words."""
    rng = random.Random(12)
    parsers = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    made = []
    for _ in range(count):
        name = rng.choice(sorted(parsers.keys() - LASTING))
        words = [name]
        for action in rng.choices(parsers[name]._actions, k=rng.choice((0, 1, 2, 3))):
            flags = [flag for flag in action.option_strings if flag not in WITHOUT]
            if flags or not action.option_strings:
                value = (
                    str(rng.choice(list(action.choices))) if action.choices and rng.random() < 0.5 else rng.choice(ODD)
                )
                words += [*flags[:1], *([] if action.nargs == 0 else [rng.choice([value, index, "docs"])])]
        made.append(words + rng.choices([*ODD, "docs", index], k=rng.choice((0, 1, 1, 2))))
    return made


def send_all(run: Run, index: str, count: int) -> None:
    seen = set()
    for words in lines(count, index):
        ran = run(*words)
        seen.add(ran.status)
        assert ran.status in range(6), (words, ran.status, ran.err)
        assert "unexpected " not in ran.err, (words, ran.err)
        assert "Traceback" not in ran.err, (words, ran.err)
    assert {0, 2} <= seen


@pytest.mark.attack
def test_generated_commands(run: Run, ingest: Run, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "no")
    assert ingest().status == 0
    send_all(run, index, 1500)


def test_some_generated_commands(run: Run, ingest: Run, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "no")
    assert ingest().status == 0
    send_all(run, index, 40)
