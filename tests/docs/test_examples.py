"""The example of Hacker News, as its README says it, against a server that is Hacker News."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.testing.hackernews import HackerNewsServer
from tests.live import free_port, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "hackernews"
BLOCKS = [
    block.splitlines() for block in re.findall(r"^```sh\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.M | re.S)
]
FIRST, BESIDE, ALONE, MILVUS = BLOCKS


@pytest.fixture
def hn() -> Iterator[HackerNewsServer]:
    with HackerNewsServer() as server:
        for number in range(1, 6):
            server.put(number, title=f"Memory {number}", score=number, url=server.page("ok", number))
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hn: HackerNewsServer) -> Path:
    settings = (EXAMPLE / "penstock.toml").read_text()
    assert settings.count('"hn://"') == 1
    (tmp_path / "penstock.toml").write_text(settings.replace('"hn://"', f'"{here(hn)}"'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def here(hn: HackerNewsServer) -> str:
    return f"hn://?api={hn.api}&poll=0.2&private=1"


class Commands:
    """The commands of a block, each in a process of its own, until the block ends; `pip` is left out."""

    def __init__(self, folder: Path, hn: HackerNewsServer) -> None:
        self.folder, self.hn = folder, hn
        self.store, self.page = free_port(), free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, line: str) -> None:
        line = line.replace("hn://", shlex.quote(here(self.hn))).replace("19530", str(self.store))
        words = shlex.split(line, comments=True)
        if words[0] == "pip":
            return
        if words[:2] == ["penstock", "serve"]:
            words += ["--port", str(self.page)]
        module = words[0].replace("-", "_")
        log = open(self.folder / f"{len(self._running)}.log", "wb")  # noqa: SIM115 - of the process
        with log:
            argv = [sys.executable, "-m", module, *words[1:]]
            self._running.append(subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ}))

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        try:
            for process in self._running:
                process.wait(30)
        finally:
            for process in self._running:
                process.kill()
                process.wait()

    def logs(self) -> str:
        assert all(process.poll() is None for process in self._running), self._text()
        return self._text()

    def _text(self) -> str:
        return "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.log")))

    def answers(self, port: int) -> bool:
        self.logs()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def numbers(self, **query: object) -> set[int]:
        """Of the items that the page finds."""
        body = json.dumps({"text": "memory", "k": 100, **query}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.page}/v1/search", body, {"Content-Type": "application/json"}
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20) as answer:
            return {hit["metadata"]["number"] for hit in json.load(answer)["hits"]}
        self.logs()
        return set()


@pytest.mark.timeout(240)
def test_one_command_fills_it_and_one_shows_it_as_it_comes(folder: Path, hn: HackerNewsServer) -> None:
    *_, run, serve = FIRST
    with Commands(folder, hn) as commands:
        commands.start(run)
        until(lambda: (folder / "hackernews").exists() and commands.logs(), 90, commands.logs)
        until(lambda: _documents(folder) >= 5, 90, commands.logs)
        commands.start(serve)
        until(lambda: commands.numbers() == {1, 2, 3, 4, 5}, 90, commands.logs)
        hn.put(6, "comment", parent=1, text="One more of memory")
        hn.delete(2)
        hn.edit(3, score=100)
        until(lambda: commands.numbers() == {1, 3, 4, 5, 6}, 60, commands.logs)
        until(lambda: commands.numbers(where={"score": {"$gte": 100}}) == {3}, 60, commands.logs)
        assert commands.numbers(where={"metadata.type": "comment", "root": 1}) == {6}
        for line in BESIDE:
            assert main(shlex.split(line, comments=True)[1:]) == 0, line


def _documents(folder: Path) -> int:
    from penstock.ledger import Ledger

    paths = [path for path in (folder / ".penstock").glob("*.db") if path.stat().st_size]
    if not paths:  # it is being created
        return 0
    (path,) = paths
    with Ledger.reader(path) as ledger:
        return ledger.counts().done


@pytest.mark.timeout(120)
def test_it_needs_no_file_of_settings(folder: Path, hn: HackerNewsServer) -> None:
    (line,) = ALONE
    (begins,) = re.findall(r"--since (\S+)", line)
    then = int(datetime.fromisoformat(begins).timestamp()) + 86400
    hn.put(6, title="A story of that time", time=then)
    hn.put(7, "comment", parent=6, text="None of the types", time=then)
    with Commands(folder, hn) as commands:
        commands.start(line)
        until(lambda: (folder / "stories").exists() and _documents(folder) >= 1, 60, commands.logs)
        assert _documents(folder) == 1


@pytest.mark.timeout(240)
def test_the_same_in_milvus_lite(folder: Path, hn: HackerNewsServer) -> None:
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    _, store, ingest, serve = MILVUS
    with Commands(folder, hn) as commands:
        commands.start(store)
        until(lambda: commands.answers(commands.store), 60, commands.logs)
        commands.start(ingest)
        until(lambda: _documents(folder) >= 5, 90, commands.logs)
        commands.start(serve)
        until(lambda: commands.numbers() == {1, 2, 3, 4, 5}, 90, commands.logs)
        hn.put(6, "comment", parent=1, text="One more of memory")
        until(lambda: 6 in commands.numbers(), 60, commands.logs)
