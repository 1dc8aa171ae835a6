"""Secrets taken out of texts that are kept or shown, such as the messages and tracebacks of other people's code."""

from __future__ import annotations

import os
import re

SECRET_NAME = re.compile(
    r"(^|[._-])(sig|key|auth|sas)([._-]|$)|(api|access|account|private|secret)[._-]?key|signature|token|secret"
    r"|authoriz|authentic|cred|passw|pwd|expires|connection_string|^x-(amz|goog|ms)-",
    re.IGNORECASE,
)
"""Names whose values are not shown: of parameters of a url, of options, of environment variables."""
LEAST = 4
"""Characters of a secret, at least: to hide shorter ones would garble the text."""

_FOLDERS = ("PWD", "OLDPWD")
"""Environment variables that a shell sets, and that are not about passwords."""
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#\"']+@")
_PARAMETER = re.compile(r"(?<=[?&;])([\w.%-]+)=[^\s&;\"']+")
_QUOTED = re.compile(r"(?<![\w.-])([\w.-]{1,64})([\"']?\s{0,4}[:=]\s{0,4}[a-zA-Z]{0,2})([\"'])(.*?)\3")
_GENERATED = re.compile(r"\bpsk_[\w-]{20,}")
"""Keys that `penstock keys` makes."""
_SCHEME = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


def hide_secrets(text: str) -> str:
    """Replace what looks like a secret: credentials in urls and headers, quoted values of names such as `api_key`, and
    the values of environment variables of such names, from which keys are taken."""
    names = [name for name in os.environ if SECRET_NAME.search(name) and name not in _FOLDERS]
    for value in sorted((os.environ[name] for name in names), key=len, reverse=True):
        if len(value) >= LEAST:
            text = text.replace(value, "***")
    text = _CREDENTIALS.sub("***@", text)
    text = _SCHEME.sub(r"\1 ***", text)
    text = _GENERATED.sub("psk_***", text)
    text = _PARAMETER.sub(lambda found: f"{found[1]}=***" if SECRET_NAME.search(found[1]) else found[0], text)
    return _QUOTED.sub(
        lambda found: f"{found[1]}{found[2]}{found[3]}***{found[3]}" if SECRET_NAME.search(found[1]) else found[0],
        text,
    )
