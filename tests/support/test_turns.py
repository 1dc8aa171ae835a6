"""Turns of threads and processes, whose lock file comes and goes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.support.turns import turn


def test_each_finds_what_the_one_before_left(tmp_path: Path) -> None:
    """No increment of a counter in a file is lost, though the lock file is removed and made anew all the time."""
    counter, lock = tmp_path / "counter", tmp_path / "lock"
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with turn(lock, 30):
                counter.write_text(str(int(counter.read_text()) + 1))

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(count) for _ in range(6)]:
            done.result(timeout=60)
    assert counter.read_text() == "300"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with turn(lock, 1), pytest.raises(TimeoutError, match="lock"), turn(lock, 0.05):
        pass
    with turn(lock, 0):
        assert lock.exists()


def test_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    """Its file is still there, and is taken by the next one."""
    lock = tmp_path / "lock"
    code = "import os, sys\nfrom pathlib import Path\nfrom penstock.support.turns import turn\n"
    code += "with turn(Path(sys.argv[1]), 1):\n    os.kill(os.getpid(), 9)"
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", code, str(lock)], env={**os.environ, "PYTHONPATH": path}, timeout=30)
    assert done.returncode == -9
    assert lock.exists()
    began = time.monotonic()
    with turn(lock, 5):
        assert time.monotonic() - began < 4
    assert not lock.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Else whoever may write to the folder could have any file of the user's opened, and removed."""
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / "lock").symlink_to(target)
    with pytest.raises(OSError), turn(tmp_path / "lock", 1):  # noqa: PT011 - the system's own
        pass
    assert target.read_text() == "kept"
