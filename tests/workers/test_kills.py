"""Workers and coordinators that are killed, stopped too long, or killed by what they read."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.ledger import Ledger
from penstock.workers.place import Place
from penstock.workers.writer import ROWS
from tests.live import until
from tests.workers.world import World

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def started(world: World) -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with process:  # closes its pipe
            process.kill()


def fill(world: World, documents: int, paragraphs: int = 3) -> None:
    for number in range(documents):
        world.tell(f"{number}.txt", *(f"document {number} paragraph {n} " + "word " * 30 for n in range(paragraphs)))


def lines(world: World) -> int:
    return len(world.log.read_text().split()) if world.log.exists() else 0


def test_a_worker_and_the_coordinator_are_killed(world: World, started: list[subprocess.Popen[str]]) -> None:
    fill(world, 300)
    coordinator, worker = world.start("coordinate"), world.start("work", "0.004")
    started += [coordinator, worker]
    until(lambda: lines(world) > 100, seconds=60)
    worker.kill()
    started.append(world.start("work", "0.001"))
    until(lambda: lines(world) > 300, seconds=60)
    coordinator.kill()
    again = world.start("coordinate")
    started.append(again)
    out, _ = again.communicate(timeout=100)
    assert again.returncode == 0, out
    assert json.loads(out)["complete"]
    assert lines(world) <= 900 + ROWS
    assert world.agrees()


def test_a_worker_that_was_stopped_for_long_changes_nothing(world: World, started: list[subprocess.Popen[str]]) -> None:
    """Its shard is another's by then, and its document was changed."""
    fill(world, 20)
    coordinator, slow = world.start("coordinate"), world.start("work", "0.2")
    started += [coordinator, slow]
    until(lambda: lines(world) > 16, seconds=60)
    slow.send_signal(signal.SIGSTOP)
    world.tell("3.txt", "another text", "word " * 40)
    started.append(world.start("work"))
    until(lambda: 2 in Place.at(world.place).terms().values() or coordinator.poll() is not None, seconds=60)
    slow.send_signal(signal.SIGCONT)
    out, _ = coordinator.communicate(timeout=100)
    assert coordinator.returncode == 0, out
    with suppress(subprocess.TimeoutExpired):
        slow.wait(1)
    world.run(workers=1)  # what was changed after it was listed
    assert world.agrees()


def test_a_document_that_kills_its_workers_is_a_failure(world: World, started: list[subprocess.Popen[str]]) -> None:
    fill(world, 10, paragraphs=1)
    world.tell("4.txt", "DEADLY")
    coordinator = world.start("coordinate")
    started.append(coordinator)
    workers = 0
    deadline = time.monotonic() + 150
    while coordinator.poll() is None and time.monotonic() < deadline:
        worker = world.start("work")
        started.append(worker)
        workers += 1
        until(lambda: worker.poll() is not None or coordinator.poll() is not None, seconds=100)  # noqa: B023
    out = coordinator.stdout.read() if coordinator.stdout else ""
    counts = json.loads(out)["counts"]
    assert (counts["documents"], counts["failed"]) == (9, 1)
    assert workers <= 6
    with Ledger.reader(world.folder / "index.ledger") as ledger:
        (failure,) = ledger.failures()
    assert failure.uri == world.uri("4.txt")
    assert failure.cause == "2 workers ended while they read it, and nothing else"
    assert not failure.permanent
