"""The command line: parses, calls the library, prints.

Nothing heavy is imported here at the top: `penstock --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from penstock.cli.arguments import make_parser
from penstock.cli.commands.answering import BROKEN_PIPE, FAILED, OK, STOPPED, USAGE, complain
from penstock.core.errors import PenstockError, StageError, UsageError
from penstock.registry import load

COMMANDS = {
    "ingest": "penstock.cli.commands.running:ingest",
    "run": "penstock.cli.commands.running:run",
    "retry": "penstock.cli.commands.running:retry",
    "verify": "penstock.cli.commands.running:verify",
    "reindex": "penstock.cli.commands.running:reindex",
    "copy": "penstock.cli.commands.running:copy",
    "search": "penstock.cli.commands.searching:search",
    "plan": "penstock.cli.commands.looking:plan",
    "status": "penstock.cli.commands.looking:status",
    "failures": "penstock.cli.commands.looking:failures",
    "explain": "penstock.cli.commands.looking:explain",
    "embed": "penstock.cli.commands.parts:embed",
    "load": "penstock.cli.commands.parts:load",
    "import": "penstock.cli.commands.parts:take",
    "serve": "penstock.cli.commands.serving:serve",
    "models": "penstock.cli.commands.models:models",
    "models fetch": "penstock.cli.commands.models:fetch",
}
"""Imported when they are called."""


def main(argv: Sequence[str] | None = None) -> int:
    _print_anything()
    gc.set_threshold(50_000, 20, 50)  # a run makes millions of small records, and hardly a cycle among them
    try:
        try:
            parser = make_parser()
            args = parser.parse_args(argv)
            if not args.command:
                parser.error("which command? `penstock --help` lists them")
            status: int = load(COMMANDS[args.command])(args)
        except SystemExit as end:  # argparse has said what there was to say
            status = end.code if isinstance(end.code, int) else OK
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # What is left in the buffer would make the interpreter complain when it flushes at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        _leave_if_busy()
        return STOPPED
    except Exception as error:
        return _explain_error(error)


def _explain_error(error: Exception) -> int:
    if os.environ.get("PENSTOCK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    complain(_told(error))
    return USAGE if isinstance(error, UsageError) else FAILED


def _told(error: Exception) -> str:
    if isinstance(error, StageError) and isinstance(error.__cause__, PenstockError):
        return f"{_at(error)}{error.__cause__}"
    if isinstance(error, StageError):
        cause = error.__cause__
        return f"{_at(error)}{type(cause).__name__}: {cause} (PENSTOCK_DEBUG=1 shows where)"
    if isinstance(error, PenstockError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (PENSTOCK_DEBUG=1 shows where)"


def _at(error: StageError) -> str:
    from penstock.cli.display import place

    return f"{error.stage}{' at ' + place(error.item) if error.item else ''}: "


def _print_anything() -> None:
    """Names of files may be in no encoding at all: what a stream cannot say is replaced. A closed one takes all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _leave_if_busy() -> None:
    """Threads that are still in native code would crash while the interpreter takes itself apart under them."""
    if any(thread.name.startswith("penstock-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a pipe that nobody reads
                stream.flush()
        os._exit(STOPPED)
