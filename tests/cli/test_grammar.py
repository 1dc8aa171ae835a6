"""Commands and options: complete, quick to load, with exit statuses that scripts can use."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from penstock import __version__
from penstock.cli import main as cli
from penstock.cli.arguments import make_parser
from penstock.cli.commands import ledger
from penstock.core.errors import StageError, UsageError
from tests.cli.conftest import Run

HEAVY = ("rich", "numpy", "lancedb", "pyarrow", "onnxruntime", "tokenizers", "sqlite3", "fsspec", "asyncio")


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {pseudo.dest: pseudo.help for pseudo in action._choices_actions}
            for name, child in action.choices.items():
                assert helps.get(name), f"{name} has no help"
                assert child.description, f"{name} has no description"
                yield from parsers(child)
        else:
            yield parser.prog, parser, action


def test_every_command_and_option_says_what_it_is() -> None:
    seen = list(parsers(make_parser()))
    assert len(seen) > 40
    for prog, _, action in seen:
        assert action.help, f"{prog} {'/'.join(action.option_strings) or action.dest}"


def test_help_comes_at_once() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "penstock", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 1.0
    assert "exit status" in done.stdout
    assert done.stderr == ""


def test_the_grammar_loads_nothing_heavy() -> None:
    code = (
        "import sys; from penstock.cli.main import main; main(['ingest', '--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version(run: Run) -> None:
    ran = run("--version")
    assert (ran.status, ran.out.strip()) == (0, f"penstock {__version__}")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("nonsense",),
        ("ingest", "docs"),
        ("ingest", "--into", "lance://./index"),
        ("ingest", "docs", "--into", "nowhere"),
        ("ingest", "docs", "--into", "nosuch://index"),
        ("ingest", "docs", "--into", "lance://./index", "--workers", "0"),
        ("ingest", "docs", "--into", "lance://./index", "--memory", "tiny"),
        ("ingest", "docs", "--into", "lance://./index", "--memory", "1KiB"),
        ("ingest", "docs", "--into", "lance://./index", "--json", "--quiet"),
        ("ingest", "docs", "--int", "lance://./index"),
        ("search", "x", "--in", "lance://./index", "-k", "0"),
        ("explain", "not-an-id"),
        ("plan", "docs"),
        ("plan", "--into", "lance://./index"),
        ("run", "nosuch.toml"),
        ("status",),
        ("verify", "--state", "nosuch.db"),
    ],
)
def test_an_invalid_command_line_is_status_2_and_leaves_nothing_behind(
    run: Run, here: object, argv: tuple[str, ...]
) -> None:
    from pathlib import Path

    ran = run(*argv)
    assert ran.status == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert "penstock" in ran.err
    assert not Path("index").exists()
    assert not list(Path().glob(".penstock/*.db"))


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def status(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(ledger, "status", status)


def test_the_unexpected_is_one_line_that_says_how_to_see_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("by\x1b[31m nought"))
    ran = run("status")
    assert ran.status == 3
    assert ran.err.count("\n") == 1
    assert "ZeroDivisionError" in ran.err
    assert "PENSTOCK_DEBUG=1" in ran.err
    assert "\x1b" not in ran.err
    monkeypatch.setenv("PENSTOCK_DEBUG", "1")
    assert "Traceback" in run("status").err


def test_an_error_in_a_stage_names_stage_item_and_cause(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, StageError("embed", "s3://bucket/a.md", ValueError("bad shape")))
    ran = run("status")
    assert ran.status == 3
    assert "embed at s3://bucket/a.md: ValueError: bad shape" in ran.err


def test_an_option_that_turns_out_wrong_in_a_library_call_is_status_2(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, UsageError("no such thing"))
    ran = run("status")
    assert (ran.status, ran.err) == (2, "penstock: no such thing\n")


def test_ctrl_c_in_a_command_that_only_looks_is_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "status", status)
    monkeypatch.setattr(cli, "_leave_if_busy", lambda status: None)  # threads of other tests would end this process
    assert run("status").status == 130
