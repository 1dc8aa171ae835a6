"""A run that follows a folder, killed again and again while the folder changes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

import penstock as ps
from penstock.support import inotify
from penstock.testing.chaos import MOMENTS, check_log
from penstock.testing.chaos.child import LoggingEmbedder, wire_all

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")

FOLLOW = """
import sys
from pathlib import Path
import penstock as ps
from penstock.testing.chaos.child import LoggingEmbedder, wire_all
folder, moment, nth = sys.argv[1:]
log = Path(folder, "log")
pipeline = ps.Pipeline(folder + "/docs", into=f"sqlite://{folder}/index.db", model=LoggingEmbedder(log),
                       state=folder + "/ledger.db")
wire_all(pipeline, log, moment or None, int(nth))
print("following", flush=True)
pipeline.watch(every=5.0)
"""


def change(docs: Path, choose: random.Random) -> None:
    """Something that people do in a folder."""
    files = sorted(path for path in docs.rglob("*.md"))
    match choose.choice(("write", "write", "change", "delete", "rename", "folder")):
        case "change" if files:
            choose.choice(files).write_text(f"changed {choose.random()}")
        case "delete" if len(files) > 10:
            choose.choice(files).unlink()
        case "rename" if files:
            file = choose.choice(files)
            file.rename(file.with_name(f"renamed {choose.randrange(10**6)}.md"))
        case "folder":
            folders = sorted(path for path in docs.iterdir() if path.is_dir())
            if len(folders) > 2:
                choose.choice(folders).rename(docs / f"folder {choose.randrange(10**6)}")
            else:
                (docs / f"folder {len(folders)}").mkdir(exist_ok=True)
                (docs / f"folder {len(folders)}" / "first.md").write_text(f"first of {len(folders)}")
        case _:
            folders = [docs, *(path for path in sorted(docs.iterdir()) if path.is_dir())]
            (choose.choice(folders) / f"{choose.randrange(10**6)}.md").write_text(f"text {choose.random()}")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (4, 0),
        pytest.param(40, 1, marks=pytest.mark.heavy),
        *(pytest.param(40, seed, marks=pytest.mark.heavy, id=f"two_hundred_kills-{seed}") for seed in range(2, 6)),
    ],
)
def test_killed_again_and_again(tmp_path: Path, kills: int, seed: int) -> None:
    """In the end the index is the folder, nothing is missing and nothing is left over; and nothing that the ledger had
    as written was embedded again. Half of the kills are at a moment of a commit, the others at any time."""
    choose = random.Random(seed)
    moments = cycle(choose.sample(MOMENTS, len(MOMENTS)))
    docs = tmp_path / "docs"
    docs.mkdir()
    for n in range(30):
        (docs / f"{n}.md").write_text(f"document {n}")
    for kill in range(kills):
        moment, nth = (next(moments), choose.choice((1, 1, 2, 5))) if kill % 2 else ("", 0)
        command = [sys.executable, "-c", FOLLOW, str(tmp_path), moment, str(nth)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "following\n"
            end = time.monotonic() + choose.uniform(0.05, 1.5) + (1.0 if moment else 0.0)
            while time.monotonic() < end and process.poll() is None:
                change(docs, choose)
                time.sleep(choose.uniform(0.0, 0.02))
            process.kill()
        assert process.returncode == -signal.SIGKILL
    log = tmp_path / "log"
    pipeline = ps.Pipeline(
        docs, into=f"sqlite://{tmp_path}/index.db", model=LoggingEmbedder(log), state=tmp_path / "ledger.db"
    )
    wire_all(pipeline, log, None, 0)
    assert pipeline.run(allow_mass_delete=True).ok
    assert pipeline.verify().ok
    with ps.open_index(pipeline.sink.url, pipeline.embedder) as index:
        hits = index.search("text", k=4000)
    found = {hit.chunk.uri: hit.chunk.text for hit in hits}
    assert len(found) == len(hits)
    expected = {path.as_uri(): path.read_text() for path in docs.rglob("*.md")}
    assert found == expected
    check_log(log)
