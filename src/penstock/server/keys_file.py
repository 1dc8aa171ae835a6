"""The file of API keys: read by the server, which follows its changes, and written by `penstock keys`.

It holds hashes, no secrets. A server never opens up because of it: where it is gone or invalid, the last keys stay.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from penstock.core.errors import LockedError, UsageError
from penstock.server.keys import NAME, PREFIX, SCOPES, KeptKey, Key, Keyring, digest
from penstock.support import durable
from penstock.support.locks import Held, Lockfile

log = logging.getLogger("penstock.server")

MAX_BYTES = 1 << 20
MAX_KEYS = 1000
LOCK_SECONDS = 10.0
"""The longest to wait for another process that changes the file."""
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_FIELDS = {"scopes", "hash", "created", "expires"}
_HEAD = "# API keys of `penstock serve --keys`, by their hashes. Written by `penstock keys`.\n"


def read(path: Path) -> list[KeptKey]:
    """Read the keys. Raises UsageError where the file is missing, invalid, or others may write it."""
    return parse(_content(path), path)


def _content(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would keep us waiting
    except FileNotFoundError:
        raise UsageError(f"there is no file of keys {path}: `penstock keys add NAME --file {path}` makes one") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is no file of keys: expected a regular file")
        if status.st_uid not in (0, os.geteuid()):
            raise UsageError(f"{path} belongs to user {status.st_uid}, who can let anybody in: chown it to this user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(f"{path} may be written by others (mode {status.st_mode & 0o777:o}): chmod 600 {path}")
        with open(file, "rb", closefd=False) as stream:
            content = stream.read(MAX_BYTES + 1)
    finally:
        os.close(file)
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES >> 20} MiB, which is no file of keys")
    return content


def parse(content: bytes, path: Path) -> list[KeptKey]:
    if not content:  # an editor is about to write it; a file whose last key was revoked has a comment
        raise UsageError(f"{path} is empty, so it holds no key: `penstock keys add NAME --file {path}` adds one")
    try:
        tables = tomllib.loads(content.decode())
    # Deep nesting ends in a RecursionError.
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    if len(tables) > MAX_KEYS:
        raise UsageError(f"{path} has {len(tables):,} keys; at most {MAX_KEYS:,} are allowed")
    keys = [_key(name, table, path) for name, table in tables.items()]
    if len({one.digest for one in keys}) < len(keys):
        raise UsageError(f"{path} has two keys with one hash: remove one of them")
    return keys


def _key(name: str, table: Any, path: Path) -> KeptKey:
    where = f"{path}: key {name[:100]!r}"
    if not NAME.fullmatch(name):
        raise UsageError(f"{where}: invalid name: expected 1 to 64 letters, digits, - and _")
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table with scopes and hash")
    if unknown := table.keys() - _FIELDS:
        raise UsageError(f"{where}: unknown field {min(unknown)[:100]!r}; expected {', '.join(sorted(_FIELDS))}")
    found, scopes = table.get("hash"), table.get("scopes")
    if not isinstance(found, str) or (match := _HASH.fullmatch(found)) is None:
        raise UsageError(f"{where}: invalid hash: expected sha256: and 64 hexadecimal digits")
    if not isinstance(scopes, list):
        raise UsageError(f"{where}: invalid scopes: expected a list such as {['search']}")
    created, expires = (_time(table, field, where) for field in ("created", "expires"))
    key = Key(name, _scopes(scopes, where), expires, generated=True)
    return KeptKey(key, bytes.fromhex(match[1]), created)


def _scopes(scopes: Collection[Any], where: str) -> frozenset[str]:
    for one in scopes:
        if not isinstance(one, str) or one not in SCOPES:
            raise UsageError(f"{where}: unknown scope {str(one)[:100]!r}; expected some of {', '.join(SCOPES)}")
    if not scopes:
        raise UsageError(f"{where}: no scope; expected some of {', '.join(SCOPES)}")
    return frozenset(scopes)


def _time(table: dict[str, Any], field: str, where: str) -> datetime | None:
    value = table.get(field)
    if value is not None and (not isinstance(value, datetime) or value.tzinfo is None):
        raise UsageError(f"{where}: invalid {field}: expected a time with its zone, such as 2027-01-31T00:00:00Z")
    return value


# ---------------------------------------------------------------- writing


def add(path: Path, name: str, scopes: Collection[str], days: int | None = None) -> tuple[str, Key]:
    """Add a key; returns its secret, which is kept nowhere."""
    if not NAME.fullmatch(name):
        raise UsageError(f"invalid name {name[:100]!r}: expected 1 to 64 letters, digits, - and _")
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        expires = None if days is None else now + timedelta(days=days)
    except OverflowError:
        raise UsageError(f"invalid days {days}: the calendar ends before") from None
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(name, _scopes(scopes, f"key {name!r}"), expires, generated=True)
    with _changing(path) as (target, keys):
        if any(one.key.name == name for one in keys):
            raise UsageError(f"{path} has a key {name!r} already: take another name, or revoke that one first")
        if len(keys) == MAX_KEYS:
            raise UsageError(f"{path} has {MAX_KEYS:,} keys already, which is the most: revoke some first")
        _write(target, [*keys, KeptKey(key, digest(secret.encode()), now)])
    return secret, key


def revoke(path: Path, name: str) -> None:
    with _changing(path) as (target, keys):
        left = [one for one in keys if one.key.name != name]
        if len(left) == len(keys):
            known = ", ".join(one.key.name for one in keys[:20]) or "none"
            raise UsageError(f"{path} has no key {name[:100]!r}; there are: {known}")
        _write(target, left)


@contextmanager
def _changing(path: Path) -> Iterator[tuple[Path, list[KeptKey]]]:
    """Lock the file that a path leads to, whatever links are on the way, and read its keys."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent} for a file of keys: make it first")
    try:
        lock = _lock(target.with_name(f".{target.name}.lock"))
    except OSError as error:
        raise UsageError(f"{path} cannot be changed: {target.parent}: {error.strerror}") from None
    try:
        yield target, read(target) if os.path.lexists(target) else []
    finally:
        lock.release()


def _lock(path: Path) -> Lockfile:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return Lockfile(path)
        except Held as error:
            if time.monotonic() > end:
                raise LockedError(f"{error} is changing the file of keys: try again when it is done") from None
            time.sleep(0.02)


def _write(path: Path, keys: Sequence[KeptKey]) -> None:
    try:
        durable.replace(path, (_HEAD + "".join(map(_table, keys))).encode(), 0o600)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _table(one: KeptKey) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in SCOPES if scope in one.key.scopes)
    lines = [f"\n[{one.key.name}]", f"scopes = [{scopes}]", f'hash = "sha256:{one.digest.hex()}"']
    for name, value in (("created", one.created), ("expires", one.key.expires)):
        if value is not None:
            lines.append(f"{name} = {value.isoformat()}")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- following


class FollowedKeys:
    """The keys of a file, as they change: `changed` is called with an event and its fields."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError where there is no key to begin with."""
        self._path, self._content = path, _content(path)
        self.keys = parse(self._content, path)
        if not self.keys:
            raise UsageError(f"{path} holds no key: `penstock keys add NAME --file {path}` adds one")
        self.trouble: str | None = None
        """Why the file cannot be read now, while the last keys that it had are in use."""
        self.changed: Callable[..., object] = lambda event, **fields: None
        if os.stat(path).st_mode & stat.S_IROTH:
            log.warning("%s can be read by others: it holds no secrets, but names; chmod 600 %s", path, path)

    def follow(self, keyring: Keyring) -> None:
        """Read the file again, if it has changed."""
        try:
            content = _content(self._path)
            if content == self._content and self.trouble is None:
                return
            keys = parse(content, self._path)
        except Exception as error:  # the thread has to go on, whatever the file makes a parser raise
            cause = str(error) if isinstance(error, UsageError) else f"{self._path}: {type(error).__name__}"
            if (trouble := f"the keys stay as they were: {cause}") != self.trouble:
                self.trouble = trouble
                log.warning("%s", trouble)
                self.changed("keys_unreadable", cause=cause)
            return
        before, after = ({one.key.name: one for one in some} for some in (self.keys, keys))
        self.keys, self._content, self.trouble = keys, content, None
        keyring.replace(keys)
        self.changed(
            "keys_changed",
            added=sorted(after.keys() - before.keys()),
            revoked=sorted(before.keys() - after.keys()),
            changed=sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        )
