"""Tracebacks that can be kept: of bounded size, and without secrets."""

from __future__ import annotations

import traceback

from penstock.support.redaction import hide_secrets

LIMIT = 8 << 10
"""Bytes of a traceback, at most."""
_HEAD = LIMIT // 4


def format_traceback(error: BaseException) -> str:
    """Files, lines and the message, of the errors that led to it as well; no values of variables. Where it is too long
    its middle is left out: the end names the error and where it was raised."""
    text = hide_secrets("".join(traceback.format_exception(error))).rstrip()
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) > LIMIT:
        mark = b"\n  [...]\n"
        encoded = encoded[:_HEAD] + mark + encoded[_HEAD + len(mark) - LIMIT :]
    return encoded.decode(errors="ignore")
