"""The process that runs a target: guided by coverage where atheris is installed, else by mutation of its seeds alone.

It is expected to die: of a crash, or by a limit of time or memory. So what it runs is in a file that outlives it.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib.util
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.attack.fuzz.mutate import mutate
from tests.attack.fuzz.target import Fault, Target

Run = Callable[[bytes], None]

_HEAD = 16
ROOM = 1 << 20
WATCHED = "PENSTOCK_FUZZ_WATCHED"
"""The variable with the packages whose coverage guides."""


class Current:
    """The input that is being run and how many were, in a file that another process may read."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD + ROOM))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _HEAD + ROOM)

    @property
    def count(self) -> int:
        return int.from_bytes(self._map[:8], "little")

    @property
    def data(self) -> bytes:
        return bytes(self._map[_HEAD : _HEAD + int.from_bytes(self._map[8:_HEAD], "little")])

    def begin(self, data: bytes) -> None:
        self._map[:8] = (self.count + 1).to_bytes(8, "little")
        self._map[8:_HEAD] = len(data).to_bytes(8, "little")
        self._map[_HEAD : _HEAD + len(data)] = data

    def reset(self) -> None:
        self._map[:_HEAD] = bytes(_HEAD)


@dataclass
class Found:
    """A folder of faults: the first input of each kind, and what it raised."""

    folder: Path

    def add(self, data: bytes, signature: str, report: str) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.blake2b(signature.encode(), digest_size=6).hexdigest()
        if (self.folder / name).exists():
            return False
        (self.folder / f"{name}.txt").write_text(f"{signature}\n{report}", errors="replace")
        (self.folder / name).write_bytes(data)
        return True


def signature_of(error: BaseException) -> str:
    """What tells one fault from another: the error, and where in Penstock it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, Fault):
        frames = [frame for frame in frames if frame.name != "check"]
        return f"Fault {Path(frames[-1].filename).name}:{frames[-1].lineno}"
    own = [frame for frame in frames if "/penstock/" in frame.filename] or frames
    return f"{type(error).__name__} {Path(own[-1].filename).name}:{own[-1].lineno}"


def run(name: str, seconds: float, seed: int, corpus: Path, found: Path, current: Path) -> None:
    """Run the target until the time is over, of which imports are a part. Ends the process."""
    end = time.monotonic() + seconds
    guided = importlib.util.find_spec("atheris") is not None
    warnings.simplefilter("ignore")
    if guided:
        import atheris

        with atheris.instrument_imports(include=_watched(), enable_loader_override=False):
            from tests.attack.fuzz.targets import TARGETS
    else:
        from tests.attack.fuzz.targets import TARGETS
    target = TARGETS[name]
    _limit(target)
    state, faults = Current(current), Found(found)

    def once(data: bytes) -> None:
        state.begin(data)
        _set_timers(target)
        try:
            target.run(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if faults.add(data, signature_of(error), _report(error)):
                print(f"{name}: {signature_of(error)}", file=sys.stderr, flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
        faulthandler.register(number, all_threads=False, chain=True)
    faulthandler.enable(all_threads=False)
    seeds = [path.read_bytes() for path in target.seeds]
    left = max(3.0, end - time.monotonic())
    if guided:
        _guided(once, target, seeds, left, seed, corpus)
    else:
        mutate_seeds(once, target, seeds, left, seed)


def replay(name: str, data: bytes) -> None:
    """Run the target on one input, within its limits. What it raises is nothing new."""
    from tests.attack.fuzz.targets import TARGETS

    warnings.simplefilter("ignore")
    target = TARGETS[name]
    _limit(target)
    _set_timers(target)
    with suppress(Exception):
        target.run(data)


def _limit(target: Target) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (target.memory, target.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, 256 << 20))


def _set_timers(target: Target) -> None:
    signal.setitimer(signal.ITIMER_PROF, target.seconds)
    signal.alarm(int(target.seconds * 8))


def _report(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-6000:]


def _watched() -> list[str]:
    """The packages of the target, which is not imported yet: the parent says them."""
    return list(json.loads(os.environ.get(WATCHED, '["penstock"]')))


def mutate_seeds(once: Run, target: Target, seeds: list[bytes], seconds: float, seed: int) -> None:
    rng, end = Random(seed), time.monotonic() + seconds
    pool = list(seeds)
    while time.monotonic() < end:
        data = mutate(target.shape, rng, rng.choice(pool or [b""]), seeds, target.largest)
        once(data)
        # What was made of a seed is the seed of what differs more from it; the seeds themselves stay.
        if len(data) < target.largest // 2 and rng.random() < 0.1:
            pool[len(seeds) + rng.randrange(200) :] = [data]


def _guided(once: Run, target: Target, seeds: list[bytes], seconds: float, seed: int, corpus: Path) -> None:
    import atheris

    def mutated(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutate(target.shape, rng, data, seeds, most)

    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (corpus / hashlib.blake2b(data, digest_size=10).hexdigest()).write_bytes(data)
    options = [
        *(f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={target.largest}", "-rss_limit_mb=0"),
        *("-timeout=100000", "-print_final_stats=0", "-verbosity=0", "-handle_alrm=0", "-close_fd_mask=0"),
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once, custom_mutator=mutated)
    atheris.Fuzz()
