"""`scripts/fuzz TARGET ...|all --seconds N`: runs targets, as many at once as there are processors, and reports faults.

Exits with 1 if there were any. Their inputs are below .fuzz/found, one of each kind, with what was raised.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.attack.fuzz import loop

ROOT = Path(__file__).parents[3]
GRACE = 30.0
"""Seconds for imports, and for the end."""
MOST = 5
"""Processes of one target that may die before it is given up."""


@dataclass(frozen=True, slots=True)
class Ran:
    name: str
    inputs: int
    seconds: float
    faults: tuple[str, ...]


def main() -> int:
    args = _arguments()
    if args.replay:
        loop.replay(args.child, args.replay.read_bytes())
        return 0
    if args.child:
        loop.run(args.child, args.seconds, args.seed, args.corpus, args.found, args.current)
        return 0
    from tests.attack.fuzz.targets import TARGETS

    names = list(TARGETS) if args.targets == ["all"] else args.targets
    if unknown := [name for name in names if name not in TARGETS]:
        print(f"unknown target {unknown[0]!r}: expected all, or some of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    share = args.seconds * min(args.jobs, len(names)) / len(names)
    with ThreadPoolExecutor(args.jobs) as pool:
        ran = list(pool.map(lambda name: _run(name, share, args), names))
    for one in ran:
        print(f"{one.name:12} {one.inputs:9,} inputs {one.seconds:6.0f} s  {len(one.faults)} faults")
    faults = [fault for one in ran for fault in one.faults]
    print(f"{'in all':12} {sum(one.inputs for one in ran):9,} inputs {sum(one.seconds for one in ran):6.0f} s")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _run(name: str, seconds: float, args: argparse.Namespace) -> Ran:
    """Run one target for so long, in a process at a time: one that dies leaves the input that it died of."""
    from tests.attack.fuzz.targets import TARGETS

    work: Path = args.work
    (work / "current").mkdir(parents=True, exist_ok=True)
    found, current = loop.Found(work / "found" / name), work / "current" / name
    if not args.keep:
        shutil.rmtree(found.folder, ignore_errors=True)
    state, inputs, began, deaths = loop.Current(current), 0, time.monotonic(), 0
    while (left := seconds - (time.monotonic() - began)) > 1 and deaths < MOST:
        state.reset()
        options = ["--corpus", work / "corpus" / name, "--found", found.folder, "--current", current]
        seed = args.seed + deaths
        command = [sys.executable, "-m", __package__, "--child", name, "--seconds", f"{left:.0f}", "--seed", str(seed)]
        environment = {**os.environ, loop.WATCHED: json.dumps(TARGETS[name].watched)}
        # An input that hangs ends its process, by the target's own limit: what lasts longer is a process that does not
        # end, of threads of native code that libFuzzer's exit leaves behind.
        longest = left + 10 * TARGETS[name].seconds + GRACE
        try:
            ended = subprocess.run(
                [*command, *map(str, options)],
                capture_output=True,
                cwd=ROOT,
                env=environment,
                errors="replace",
                timeout=longest,
            )
        except subprocess.TimeoutExpired:
            inputs += state.count
            break
        inputs += state.count
        if ended.returncode == 0:
            break
        deaths += 1
        if not _dies(name, state.data, current.with_suffix(".replayed")):
            continue  # of the time that watching the coverage takes
        how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit status {ended.returncode}"
        where = next((line for line in ended.stderr.splitlines() if "/penstock/" in line), "")
        found.add(state.data, f"died: {how} {where}", ended.stderr[-6000:])
    faults = tuple(
        f"{path.with_suffix('')}: {path.read_text(errors='replace').splitlines()[0]}"
        for path in sorted(found.folder.glob("*.txt"))
    )
    return Ran(name, inputs, time.monotonic() - began, faults)


def _dies(name: str, data: bytes, file: Path) -> bool:
    """Whether a process dies of this input, or hangs, without anything beside the target."""
    file.write_bytes(data)
    command = [sys.executable, "-m", __package__, "--child", name, "--replay", str(file)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False).returncode != 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=["all"], metavar="TARGET", help="all, or names of targets")
    parser.add_argument("--seconds", type=float, default=60, help="in all, for all targets together (60)")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="processes at once")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (1)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".fuzz", help="folder of faults and of what coverage led to"
    )
    parser.add_argument("--keep", action="store_true", help="keep the faults of earlier runs")
    for name in ("child", "corpus", "found", "current", "replay"):
        parser.add_argument(f"--{name}", type=str if name == "child" else Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
