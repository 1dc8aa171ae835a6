"""A run that goes on and tells a webhook of what it finds, killed again and again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import penstock as ps
from penstock.support import inotify
from penstock.testing.embedders import HashingEmbedder
from tests.receiver import Message, Receiver

pytestmark = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")

FOLLOW = """
import sys
import penstock as ps
from penstock.jobs import deliver
from penstock.testing.embedders import HashingEmbedder
folder = sys.argv[1]
deliver.POLL = 0.01
pipeline = ps.Pipeline(folder + "/docs", into=f"sqlite://{folder}/index.db", model=HashingEmbedder(64),
                       state=folder + "/ledger.db")
print("following", flush=True)
pipeline.watch(every=5.0)
"""


@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.heavy)])
def test_every_match_arrives_though_runs_are_killed(tmp_path: Path, kills: int) -> None:
    """Each document has one key, whatever was written or sent twice, and its key arrives. The webhook fails as well."""
    choose = random.Random(kills)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "old.md").write_text("old text")
    pipeline = ps.Pipeline(
        docs, into=f"sqlite://{tmp_path}/index.db", model=HashingEmbedder(64), state=tmp_path / "ledger.db"
    )
    pipeline.run()

    def answer(message: Message) -> tuple[int, dict[str, str]]:
        return (503 if choose.random() < 0.02 else 204), {}

    written = 0
    with Receiver(answer) as receiver:
        pipeline.alerts.add("rust", 0.1, webhook=receiver.url)
        for _ in range(kills):
            with subprocess.Popen(
                [sys.executable, "-c", FOLLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "following\n"
                end = time.monotonic() + choose.uniform(0.2, 1.5)
                while time.monotonic() < end:
                    (docs / f"{written}.md").write_text(f"rust rust {written}")
                    written += 1
                    time.sleep(choose.uniform(0.0, 0.02))
                process.kill()
        receiver.answer = lambda message: (204, {})
        end = time.monotonic() + 300
        while pipeline.run() and (waiting := pipeline.alerts.list()[0].waiting):  # it may be about to be tried again
            assert time.monotonic() < end, waiting
        told = {message.headers["Idempotency-Key"]: message.fields["uri"] for message in receiver.messages}
    assert sorted(told.values()) == sorted((docs / f"{n}.md").as_uri() for n in range(written))
    (alert,) = pipeline.alerts.list()
    assert alert.matches == written
    assert alert.lost == 0
    assert pipeline.verify().ok
