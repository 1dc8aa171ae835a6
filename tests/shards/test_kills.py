"""Killed anywhere, and started again as often as it takes: at most one part is embedded again for each kill."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from penstock.shards import verify
from penstock.sources.files import Files

from .world import PixelEmbedder, embedded, pictures, start, uris

ROWS = 8
MOMENTS = [
    ("penstock.shards.store:Folder", "put", 1, False),  # the first part does not exist yet
    ("penstock.shards.store:Folder", "put", 1, True),  # it exists, and no account of it
    ("penstock.shards.store:Folder", "put", 4, True),
    ("penstock.shards.store:Folder", "create", 1, True),  # a folder, and nothing in it
    ("penstock.shards.store:Folder", "create", 2, True),  # a lease
    ("penstock.shards.writer:Writer", "add", 3, True),  # embedded, in no part
    ("penstock.shards.folder:Folder", "finish", 1, False),  # all parts exist, no record of the shard
    ("penstock.shards.folder:Folder", "finish", 1, True),
]


def names(source: Path) -> list[str]:
    return sorted(path.as_uri() for path in source.rglob("*.png"))


def repeated(*logs: Path) -> int:
    """Count the images embedded more than once, each as often as it was embedded again."""
    lines = [line.partition(" ")[2] for log in logs if log.exists() for line in log.read_text().splitlines()]
    return sum(count - 1 for count in Counter(lines).values())


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[1]}-{moment[2]}-{moment[3]}")
def test_killed_at_a_moment(moment: tuple[str, str, int, bool], tmp_path: Path) -> None:
    """The next worker resumes, with nothing but the parts."""
    source, out, log = pictures(tmp_path / "in", 40), tmp_path / "out", tmp_path / "log"
    with start(source, out, log, rows=ROWS, moment=moment) as worker:
        assert worker.wait(60) == -signal.SIGKILL
    half = [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]
    assert len(half) <= 1, "what a kill tears is not seen: its name begins with a dot"
    assert embedded(source, out, log, rows=ROWS).open == 0
    assert uris(out) == names(source)
    assert repeated(log) <= ROWS
    found = verify(out, source=Files(str(source)))
    assert found.ok, found.troubles


def spot(tmp_path: Path, images: int, shards: int, kills: int, seed: int, seconds: float = 0.02) -> tuple[int, int]:
    """Workers that claim, killed and replaced at random like spot machines. Gives kills, and images embedded again."""
    rng = random.Random(seed)
    source, out, log = pictures(tmp_path / "in", images), tmp_path / "out", tmp_path / "log"

    def new() -> object:
        return start(source, out, log, rows=ROWS, claim=True, pieces=shards, seconds=seconds, ttl=2.0)

    running = [new() for _ in range(3)]
    killed = 0
    until = time.monotonic() + 240
    while running and time.monotonic() < until:
        time.sleep(rng.uniform(0.05, 0.6))
        running = [worker for worker in running if worker.poll() is None]  # type: ignore[attr-defined]
        if running and killed < kills and log.exists():
            victim = rng.choice(running)
            os.kill(victim.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            victim.wait()  # type: ignore[attr-defined]
            running.remove(victim)
            running.append(new())
            killed += 1
    assert not running, "the workers do not end"
    found = verify(out, source=Files(str(source)))
    assert found.ok, found.troubles
    assert uris(out) == names(source)
    return killed, repeated(log)


def test_spot_machines(tmp_path: Path) -> None:
    """Three workers, killed five times: the exact images, and less than a part again for each kill."""
    killed, again = spot(tmp_path, images=150, shards=6, kills=5, seed=1)
    assert killed
    assert again <= ROWS * killed


@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_spot_machines_for_long(seed: int, tmp_path: Path) -> None:
    """The same for longer."""
    killed, again = spot(tmp_path, images=900, shards=16, kills=25, seed=seed, seconds=0.08)
    assert killed > 10
    assert again < ROWS * killed


def test_a_machine_that_stands_still_is_overtaken(tmp_path: Path) -> None:
    """Another worker finishes its shard; awake again, it sees the newer lease, and ends without error."""
    source, out, log = pictures(tmp_path / "in", 60), tmp_path / "out", tmp_path / "log"
    with start(source, out, log, rows=ROWS, claim=True, pieces=2, seconds=0.05, ttl=0.6) as sleeper:
        until = time.monotonic() + 30
        while not list(out.glob("*.parquet")):
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(sleeper.pid, signal.SIGSTOP)
        try:
            # The sleeper's process is there, so it is silence that tells.
            done = embedded(source, out, log, rows=ROWS, claim=True, pieces=2, ttl=0.6)
        finally:
            os.kill(sleeper.pid, signal.SIGCONT)
        assert sleeper.wait(60) == 0
    assert done.finished
    assert uris(out) == names(source)
    found = verify(out)
    assert found.ok, found.troubles
    assert repeated(log) <= ROWS


def test_ctrl_c_keeps_what_was_embedded(tmp_path: Path) -> None:
    """In a part of its own; nothing is embedded again."""
    source, out, log = pictures(tmp_path / "in", 60), tmp_path / "out", tmp_path / "log"
    with start(source, out, log, rows=ROWS, seconds=0.5) as worker:
        until = time.monotonic() + 30
        while not log.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(worker.pid, signal.SIGINT)
        assert worker.wait(60) == 1
    assert 0 < len(uris(out)) < 60
    done = embedded(source, out, log, rows=ROWS, model=PixelEmbedder(str(log)))
    assert done.ok
    assert uris(out) == names(source)
    assert repeated(log) == 0
