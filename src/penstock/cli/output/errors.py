"""Errors that end a command: their words, and its exit status."""

from __future__ import annotations

import os

from penstock.cli.output.streams import FAILED, LOCKED, USAGE, complain
from penstock.core.errors import LockedError, PenstockError, StageError, UsageError


def explain_error(error: BaseException) -> int:
    """Write what went wrong, and give the exit status."""
    if os.environ.get("PENSTOCK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    cause = error.__cause__ if isinstance(error, StageError) and error.__cause__ else error
    complain(message(error), "error", "error", **_fields(error, cause))
    if isinstance(error, UsageError):
        return USAGE
    return LOCKED if isinstance(cause, LockedError) else FAILED


def _fields(error: BaseException, cause: BaseException) -> dict[str, str | None]:
    """What a log has beside the message."""
    fields: dict[str, str | None] = {"cause": _cause(cause)}
    if isinstance(error, StageError):
        fields |= {"stage": error.stage, "document": error.item}
    if not isinstance(cause, PenstockError):
        from penstock.support.tracebacks import format_traceback

        fields["traceback"] = format_traceback(cause)
    return fields


def message(error: BaseException) -> str:
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
