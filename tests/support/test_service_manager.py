"""What a service of several parts says of itself."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.support.service_manager import Parts, ServiceManager


def test_a_manager_that_does_not_listen_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and that the service is ready is said once there is room for it."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        manager = ServiceManager()
        for _ in range(5000):  # more than a queue of datagrams holds
            manager.alive()
        manager.ready()
        with suppress(BlockingIOError):
            while True:
                assert listener.recv(100) == b"WATCHDOG=1"
        manager.ready()
        manager.ready()
        assert listener.recv(100) == b"READY=1"
        with pytest.raises(BlockingIOError):
            listener.recv(100)


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self) -> None:
        if "ready" not in self.said:  # once, as the service manager wants it
            self.said.append("ready")

    def alive(self) -> None:
        self.said.append("alive")

    def stopping(self) -> None:
        self.said.append("stopping")


def test_it_is_ready_when_all_parts_are() -> None:
    told = Told()
    parts = Parts(told, ["a", "b"])
    a, b = parts.part("a"), parts.part("b")
    a.ready()
    a.ready()
    assert told.said == []
    b.ready()
    assert told.said == ["ready"]


def test_it_is_alive_as_long_as_all_parts_are() -> None:
    told = Told()
    parts = Parts(told, ["a", "b"])
    a, b = parts.part("a"), parts.part("b")
    for _ in range(3):
        a.alive()
    assert told.said == []  # b hangs
    b.alive()
    b.alive()
    assert told.said == ["alive"]
    a.alive()
    assert told.said == ["alive", "alive"]


def test_a_part_that_has_ended_is_not_waited_for() -> None:
    told = Told()
    parts = Parts(told, ["a", "b"])
    parts.part("a").ready()
    parts.part("a").stopping()  # the others go on
    parts.ended("b")
    assert told.said == ["ready"]
    parts.part("a").alive()
    assert told.said == ["ready", "alive"]
    parts.ended("a")
    assert told.said == ["ready", "alive"]
