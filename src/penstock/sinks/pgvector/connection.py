"""A connection to PostgreSQL that is replaced when it is lost; errors as the contract has them.

The certificates that `tls=1` trusts are the system's, or those of the file PGSSLROOTCERT.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from penstock.core.errors import MissingExtra, SinkError, SinkUnavailable, UsageError
from penstock.sinks import address
from penstock.sinks.store import line

if TYPE_CHECKING:
    import psycopg

CONNECT, LOCK, TRANSACTION, BUILD, GRACE = 10, 10, 120, 4 * 3600, 15
"""Seconds: to connect, to wait for a lock, for a transaction, for one that builds an index, and beyond the server's own
limit, before the connection is cut."""

_LOCAL = """SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true),
    set_config('idle_in_transaction_session_timeout', %s, true), set_config('search_path', coalesce((
        SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
        WHERE extname = 'vector'), 'public'), true)"""
_PASSING = re.compile("starting up|shutting down|not yet accepting|in recovery|too many|connection slots|terminating")
_REFUSED = re.compile("FATAL|does not support SSL|SSL error|certificate|no password|service file|definition of service")


class Connection:
    """Opened when it is first needed, and again after it was lost; threads take turns with it. A connection of the
    user's is used as it is."""

    def __init__(self, at: address.Address, client: psycopg.Connection[Any] | None) -> None:
        self.at, self.url, self.client = at, at.url, client
        self._lock = threading.RLock()
        self._connection = client

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtra(f"{self.url} ({error.name})", "pgvector") from None
        if self._connection is not None and not self._connection.closed:
            return self._connection
        if self.client is not None:
            raise SinkError(f"{self.url}: the client is a closed connection; pass an open one")
        names = {
            "host": self.at.host,
            "port": self.at.port,
            "dbname": "".join(self.at.names[:-1]),
            "user": self.at.user,
        }
        # What the url leaves out is libpq's to find: in the service file, the environment, ~/.pgpass.
        login: dict[str, Any] = {name: value for name, value in names.items() if value}
        if service := self.at.options.get("service"):
            login["service"] = service
        if self.at.tls:
            login |= {"sslmode": "verify-full", "sslrootcert": os.environ.get("PGSSLROOTCERT") or "system"}
        try:
            self._connection = psycopg.connect(
                autocommit=True,
                client_encoding="UTF8",
                prepare_threshold=None,  # poolers hand statements from one server process to another
                connect_timeout=CONNECT,
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                application_name="penstock",
                **login,
            )
        except psycopg.Error as error:
            text = line(error)
            refused = not isinstance(error, psycopg.OperationalError)
            refused = refused or (_REFUSED.search(text) is not None and not _PASSING.search(text))
            raise (SinkError if refused else SinkUnavailable)(f"{self.url} cannot be reached: {text}") from error
        return self._connection

    @contextmanager
    def transaction(self, seconds: int = TRANSACTION, lock: int | None = None) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction. The server ends one that takes longer; where it does not answer, the connection is cut."""
        with self._watched(seconds) as connection, connection.transaction(), _cursor(connection) as cursor:
            cursor.execute(_LOCAL, (f"{seconds}s", f"{lock or LOCK}s", f"{seconds}s"))
            yield cursor

    def outside(self, sql: str, seconds: int) -> None:
        """Execute what no transaction can hold. Nothing happens on a connection of the user's that opens one itself."""
        with self._watched(seconds) as connection:
            if connection.autocommit:
                connection.execute(sql.encode())

    @contextmanager
    def _watched(self, seconds: int) -> Iterator[psycopg.Connection[Any]]:
        """The idle connection, cut where the server does not answer in time."""
        with self._lock:
            connection = self._connected()
            import psycopg  # installed, since _connected returned

            if not _idle(connection):
                raise UsageError(
                    f"{self.url}: the client is in a transaction, so nothing would be committed; end that first"
                )
            watch = threading.Timer(seconds + GRACE, _cut, (connection,))
            watch.daemon = True
            watch.start()
            try:
                yield connection
            except psycopg.Error as error:
                raise _kind(error, connection)(f"{self.url}: {line(error)}") from error
            finally:
                watch.cancel()
                if self.client is None and not _idle(connection):
                    connection.close()  # lost, or left in the middle: the next transaction connects again

    def all(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.transaction() as cursor:
            return list(cursor.execute(sql.encode(), values))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self.client is None:
                self._connection.close()
                self._connection = None


def _idle(connection: psycopg.Connection[Any]) -> bool:
    """Whether it is neither in a transaction nor lost."""
    return bool(connection.info.transaction_status.name == "IDLE")


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor whose rows are tuples, whatever those of the user's connection are."""
    from psycopg.rows import tuple_row

    return connection.cursor(row_factory=tuple_row)


def _cut(connection: psycopg.Connection[Any]) -> None:
    """End a wait for a server that is gone without a word."""
    family, kind = socket.AF_INET, socket.SOCK_STREAM
    with suppress(Exception), socket.fromfd(connection.fileno(), family, kind) as end:  # it may be closed meanwhile
        end.shutdown(socket.SHUT_RDWR)


def _kind(error: psycopg.Error, connection: psycopg.Connection[Any]) -> type[SinkError]:
    """SinkUnavailable: a lost connection, a serialization failure or deadlock, a time limit, no room, a shutdown,
    an id that another writer wrote at the same time."""
    state = error.sqlstate or ""
    passing = state.startswith(("08", "40", "53", "55P03", "57", "23505", "25P03"))
    return SinkUnavailable if passing or connection.broken else SinkError


def scalar(cursor: psycopg.Cursor[Any], sql: str, values: Sequence[Any] = ()) -> Any:
    """The first value of the first row; None where there is no row."""
    row = cursor.execute(sql.encode(), values).fetchone()
    return row[0] if row else None
