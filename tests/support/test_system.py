"""Which systems it runs on, one process at a time, and a heap that gives memory back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.support.bits import Bits
from penstock.support.locks import Held, Lockfile


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_windows_is_refused_at_once_and_in_words() -> None:
    done = run("import sys; sys.platform = 'win32'; import penstock")
    assert done.returncode
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: Penstock runs on Linux and macOS")


def test_a_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from penstock.support.locks import Lockfile;"
            "lock = Lockfile(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(Held, match=f"process {child.pid}$"):
            Lockfile(path)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stdin.close()
    lock = Lockfile(path)
    lock.release()


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_program_can_tighten_its_heap_without_a_number() -> None:
    shows = "print(os.environ['ARROW_DEFAULT_MEMORY_POOL'])"
    done = run(f"import os; from penstock.support.heap import tighten; tighten(); {shows}")
    assert done.stdout.strip() == "system", done.stderr


def test_bits_count_each_number_once() -> None:
    bits = Bits()
    bits.update([0, 9, 1000, 9])
    bits.update(range(3))
    assert len(bits) == 5
