"""The command line: parse, call the library, print.

Nothing heavy is imported at the top: `penstock --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from penstock.cli.arguments import make_parser
from penstock.cli.output.streams import (
    BROKEN_PIPE,
    FAILED,
    LOCKED,
    OK,
    STOPPED,
    USAGE,
    Stopped,
    complain,
    set_log_format,
)
from penstock.core.errors import LockedError, PenstockError, StageError, UsageError
from penstock.registry import load


def main(argv: Sequence[str] | None = None) -> int:
    _replace_unencodable()
    set_log_format("text")
    gc.set_threshold(50_000, 20, 50)  # a run makes millions of small records, and hardly a cycle among them
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            parser = make_parser(only=words)
            args = parser.parse_args(words)
            if not args.command:
                parser.error("which command? `penstock --help` lists them")
            set_log_format(args.log_format)
            if args.long:
                from penstock.support.heap import tighten

                tighten()
            status: int = load(f"penstock.cli.commands.{args.target}")(args)
        except SystemExit as end:  # argparse has printed the error or the help
            status = end.code if isinstance(end.code, int) else OK
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The interpreter would complain when it flushes the rest of the buffer at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt as stop:
        status = stop.status if isinstance(stop, Stopped) else STOPPED
        _leave_if_busy(status)
        return status
    except Exception as error:
        return _explain_error(error)


def _explain_error(error: Exception) -> int:
    if os.environ.get("PENSTOCK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    cause = error.__cause__ if isinstance(error, StageError) and error.__cause__ else error
    complain(_message(error), "error", "error", **_fields(error, cause))
    if isinstance(error, UsageError):
        return USAGE
    return LOCKED if isinstance(cause, LockedError) else FAILED


def _fields(error: Exception, cause: BaseException) -> dict[str, str | None]:
    """What a log has beside the message."""
    fields: dict[str, str | None] = {"cause": _cause(cause)}
    if isinstance(error, StageError):
        fields |= {"stage": error.stage, "document": error.item}
    if not isinstance(cause, PenstockError):
        from penstock.support.tracebacks import format_traceback

        fields["traceback"] = format_traceback(cause)
    return fields


def _message(error: Exception) -> str:
    if isinstance(error, StageError) and isinstance(error.__cause__, PenstockError):
        return f"{_at(error)}{error.__cause__}"
    if isinstance(error, StageError):
        cause = error.__cause__
        return f"{_at(error)}{_cause(cause or error)} (PENSTOCK_DEBUG=1 shows where)"
    if isinstance(error, PenstockError):
        return str(error)
    return f"unexpected {_cause(error)} (PENSTOCK_DEBUG=1 shows where)"


def _cause(error: BaseException) -> str:
    from penstock.support.redaction import hide_secrets

    return hide_secrets(f"{type(error).__name__}: {error}")


def _at(error: StageError) -> str:
    from penstock.display.text import document_name

    return f"{error.stage}{' at ' + document_name(error.item) if error.item else ''}: "


def _replace_unencodable() -> None:
    """Have characters that a stream cannot encode replaced: names of files may have any bytes. Closed streams are
    replaced by the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _leave_if_busy(status: int) -> None:
    """End the process at once if threads of a run are still in native code: they would crash while the interpreter
    shuts down."""
    if any(thread.name.startswith("penstock-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the pipe has no reader
                stream.flush()
        os._exit(status)
