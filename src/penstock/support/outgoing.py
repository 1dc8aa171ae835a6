"""What is sent to receivers of the user's own: a webhook, or a command that is started for each message."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from penstock.core.errors import PenstockError, UsageError
from penstock.support.fetching import retry_after
from penstock.support.redaction import hide_secrets

SECRET = "PENSTOCK_WEBHOOK_SECRET"
"""The environment variable whose value signs what is sent, where no other is named."""
SECONDS = 10.0
"""The most that a webhook may take to answer."""
COMMAND_SECONDS = 30.0
SAID = 300
"""Bytes of what a receiver says that are kept as the cause."""
_FROM_ENVIRONMENT = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_PASSING = {408, 425, 429}
_POLL = 0.05


class NotDelivered(PenstockError):
    """A receiver did not take a message."""

    def __init__(self, message: str, *, refused: bool = False, retry_after: float | None = None) -> None:
        """`refused`: it will not take it later either."""
        super().__init__(message)
        self.refused, self.retry_after = refused, retry_after


def check_webhook(url: str) -> None:
    """Raise UsageError for what is no url of a webhook, and for one that a ledger must not keep."""
    if _FROM_ENVIRONMENT.fullmatch(url):
        return
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not _plain(url):
        raise UsageError("invalid webhook: expected a url such as https://example.org/hook, or env:NAME")
    if hide_secrets(url) != url:
        raise UsageError(
            "the url of the webhook holds a secret, which a ledger does not keep: put the url into an environment"
            " variable of the run, and name that: --webhook env:NAME"
        )


def check_command(command: str) -> None:
    """Raise UsageError for what is no command."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"invalid command: {error}") from None
    if not words:
        raise UsageError("the command is empty")


class Webhook:
    """Posts messages over one connection, which is kept open between them. For one thread; `cut` is for others."""

    def __init__(self, url: str, secret: str | None, seconds: float = SECONDS) -> None:
        """`url`, or `env:NAME`. `secret`: the environment variable that has it; None for SECRET, if that is set."""
        self._url, self._secret, self._seconds = url, secret, seconds
        self._connection: http.client.HTTPConnection | None = None
        self._address = ("", "")
        self._line: socket.socket | None = None

    def send(self, body: bytes, key: str) -> None:
        """Raises NotDelivered. `key`: the same whenever this message is sent."""
        headers = {"Content-Type": "application/json", "User-Agent": "penstock", "Idempotency-Key": key}
        if secret := self._key():
            stamp = str(int(time.time()))
            headers["Penstock-Signature"] = f"t={stamp},v1={signature(secret, stamp, body)}"
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.cut()

        timer = threading.Timer(self._seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            status, wait, said = self._post(body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            cause = f"no answer within {self._seconds:g} s" if late.is_set() else _cause(error)
            raise NotDelivered(f"the webhook cannot be reached: {cause}") from error
        finally:
            timer.cancel()
        if 200 <= status < 300:
            return
        cause = f"the webhook answered {status}{f': {said}' if said else ''}"
        if 300 <= status < 400:
            cause = f"the webhook answered {status}: redirects are not followed; name the url that it leads to"
        raise NotDelivered(cause, refused=300 <= status < 500 and status not in _PASSING, retry_after=wait)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float | None, str]:
        reused = self._connection is not None
        connection, target = self._connected()
        try:
            response = _ask(connection, target, body, headers)
        except (http.client.RemoteDisconnected, ConnectionError):
            if not reused:
                raise
            self.close()  # it was closed meanwhile, which is no failure
            connection, target = self._connected()
            response = _ask(connection, target, body, headers)
        said = response.read(SAID)
        if response.read(1) or response.will_close:
            self.close()
        wait = retry_after(response.getheader("Retry-After"))
        if _FROM_ENVIRONMENT.fullmatch(self._url):
            said = b""  # which may name the url
        return response.status, wait, hide_secrets(said.decode(errors="replace")).strip()

    def _connected(self) -> tuple[http.client.HTTPConnection, str]:
        url = _from_environment(self._url)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not _plain(url):
            raise NotDelivered("the url of the webhook is none, or has a user name: expected https://HOST/PATH")
        if self._connection is None or self._address != (parts.scheme, parts.netloc):
            self.close()
            if parts.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(
                    parts.hostname, parts.port, timeout=self._seconds, context=context
                )
            else:
                self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=self._seconds)
            self._address = (parts.scheme, parts.netloc)
            self._connection.connect()
            self._line = self._connection.sock
        return self._connection, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _key(self) -> bytes:
        if self._secret is None:
            return os.environ.get(SECRET, "").encode()
        return _variable(self._secret).encode()

    def cut(self) -> None:
        """Have a call in progress end, from another thread."""
        if (line := self._line) is not None:
            with suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)  # not ssl's own, which takes its state away

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._line = None


class Command:
    """Starts a command for each message, which it gets on stdin. Ended with all that it has started, where it takes too
    long."""

    def __init__(self, command: str, environment: Mapping[str, str], seconds: float = COMMAND_SECONDS) -> None:
        self._words, self._environment, self._seconds = shlex.split(command), environment, seconds
        self._stopped = threading.Event()

    def send(self, body: bytes, key: str) -> None:
        """Raises NotDelivered. `key`: the same whenever this message is sent."""
        environment = {**os.environ, **self._environment, "PENSTOCK_ALERT_KEY": key}
        with tempfile.TemporaryFile() as message, tempfile.TemporaryFile() as said:
            message.write(body)
            message.seek(0)
            try:
                process = subprocess.Popen(
                    self._words,
                    stdin=message,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    env=environment,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise NotDelivered(f"the command cannot be started: {_cause(error)}") from error
            status = self._wait(process)
            if status:
                end = said.seek(0, os.SEEK_END)
                said.seek(max(0, end - SAID))
                last = hide_secrets(said.read().decode(errors="replace")).strip()
                how = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
                raise NotDelivered(f"the command {how}{f': {last}' if last else ''}")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        end = time.monotonic() + self._seconds
        try:
            while not self._stopped.is_set() and time.monotonic() < end:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_POLL)
            cause = "was stopped" if self._stopped.is_set() else f"took more than {self._seconds:g} s"
            raise NotDelivered(f"the command {cause}")
        finally:
            if process.returncode is None:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def cut(self) -> None:
        """Have a call in progress end, from another thread."""
        self._stopped.set()

    def close(self) -> None:
        """There is nothing to close."""


def signature(secret: bytes, stamp: str, body: bytes) -> str:
    """What a receiver compares with: the HMAC-SHA256 of `TIME.BODY`, in hexadecimal digits."""
    return hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _ask(
    connection: http.client.HTTPConnection, target: str, body: bytes, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    connection.request("POST", target, body, headers)
    return connection.getresponse()


def _plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url


def _from_environment(text: str) -> str:
    match = _FROM_ENVIRONMENT.fullmatch(text)
    return _variable(match[1]) if match else text


def _variable(name: str) -> str:
    if not (value := os.environ.get(name, "")):
        raise NotDelivered(f"the environment variable {name} is not set in the run")
    return value


def _cause(error: BaseException) -> str:
    return hide_secrets(f"{type(error).__name__}: {error}")
