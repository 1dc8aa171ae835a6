"""Exit statuses; JSON on stdout; messages on stderr, as lines for people or as JSON for a log."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from penstock.display.text import clean

OK, INCOMPLETE, USAGE, FAILED, LOCKED, STOPPED, BROKEN_PIPE = 0, 1, 2, 3, 4, 130, 141
STATUSES = {
    OK: "all well",
    INCOMPLETE: "done, but documents or parts of them failed; or verify found differences; or what explain or documents"
    " is asked for is not there, or not as in the source; or remove was not confirmed",
    USAGE: "the command line or a setting is invalid",
    FAILED: "an error ended it: a stage failed, the store is away, a mass deletion was refused ...",
    LOCKED: "another run holds the ledger: nothing was done",
    STOPPED: "stopped by Ctrl-C or SIGTERM: run it again to go on",
    BROKEN_PIPE: "the reader of the output is gone",
}


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM has ended the command, whose exit status this is."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class _Format:
    json = False


_pipeline: ContextVar[str] = ContextVar("pipeline", default="")


@contextmanager
def labelled(pipeline: str) -> Iterator[None]:
    """Have what is said meanwhile name one of several pipelines."""
    token = _pipeline.set(pipeline)
    try:
        yield
    finally:
        _pipeline.reset(token)


def _label() -> dict[str, str]:
    return {"pipeline": name} if (name := _pipeline.get()) else {}


def set_log_format(name: str) -> None:
    """How messages of this process are written on stderr: `text` or `json`."""
    _Format.json = name == "json"


def confirmed(question: str) -> bool:
    """Whether somebody at the terminal says yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def interactive() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def emit(record: dict[str, Any]) -> None:
    event = {"event": record["event"]} if "event" in record else {}
    print(json.dumps({**event, **_label(), **record}, default=str), flush=True)


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write an event to the log, if it is one of JSON."""
    if _Format.json:
        from datetime import UTC, datetime  # here, as the help of a command does without it

        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        _print(json.dumps({"time": time, "level": level, "event": event, **_label(), **fields}, default=str))


def complain(message: str, event: str = "notice", level: str = "warning", **fields: Any) -> None:
    """Write a message for people, or an event with it and these fields."""
    if _Format.json:
        log(event, level, message=message, **fields)
    else:
        lines = [line for line in map(clean, message.split("\n")) if line]
        name = f"{clean(_pipeline.get())}: " if _pipeline.get() else ""
        _print(f"penstock: {name}" + "\n  ".join(lines))


def _print(text: str) -> None:
    with suppress(OSError, ValueError):  # stderr is closed
        print(text, file=sys.stderr, flush=True)
