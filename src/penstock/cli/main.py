"""The command line: parse, call the library, print.

Nothing heavy is imported at the top: `penstock --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from penstock.cli.arguments import make_parser
from penstock.cli.output.errors import explain_error
from penstock.cli.output.streams import BROKEN_PIPE, OK, STOPPED, Stopped, set_log_format
from penstock.registry import load
from penstock.support.process import configure


def main(argv: Sequence[str] | None = None) -> int:
    _replace_unencodable()
    set_log_format("text")
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            parser = make_parser(only=words)
            args = parser.parse_args(words)
            if not args.command:
                parser.error("which command? `penstock --help` lists them")
            set_log_format(args.log_format)
            configure(args.long, serves=args.command == "serve")
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
        return explain_error(error)


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
