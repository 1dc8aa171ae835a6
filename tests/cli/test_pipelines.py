"""`penstock run` of a file with several pipelines."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock as ps
from penstock.cli.commands.several import combined
from penstock.cli.endpoint import SILENT, Healths
from penstock.core.errors import PenstockError, UsageError
from penstock.embedders import onnx
from penstock.engine.progress import COUNTERS, Progress
from penstock.support import inotify
from tests import live
from tests.cli.conftest import Run

SEVERAL = """
model = "{model}"
memory = "96MiB"
[[pipeline]]
source = "docs"
into = "lance://./first"
[[pipeline]]
source = "more"
into = "lance://./second"
every = "5m"
[[pipeline]]
name = "third"
source = "more"
into = "sqlite://./third.db"
memory = "16MiB"
"""


@pytest.fixture
def several(here: Path, model: str) -> Path:
    (here / "more").mkdir()
    (here / "more" / "a.txt").write_text("Something about turbines.")
    (here / "penstock.toml").write_text(SEVERAL.format(model=model))
    return here


def toml(text: str) -> ps.Pipelines:
    Path("penstock.toml").write_text(text)
    return ps.Pipelines.from_toml("penstock.toml")


ONE = '[[pipeline]]\nsource = "docs"\ninto = "memory://one"\n'
TWO = '[[pipeline]]\nsource = "docs"\ninto = "memory://two"\n'


# ---------------------------------------------------------------- the file


def test_tables_have_what_stands_above_them_and_their_own(several: Path) -> None:
    pipelines = ps.Pipelines.from_toml("penstock.toml")
    assert [*pipelines] == ["first", "second", "third"]
    assert len(pipelines) == 3
    assert [pipelines[name].components.budget >> 20 for name in pipelines] == [48, 48, 16]
    assert len({*pipelines.models.values()}) == 1
    assert [*ps.Pipelines.from_toml("penstock.toml", only=["third"])] == ["third"]
    with pytest.raises(
        UsageError, match=r"unknown pipeline 'thrid' of penstock.toml: did you mean 'third'\? It has first"
    ):
        ps.Pipelines.from_toml("penstock.toml", only=["thrid"])


def test_paths_are_from_the_folder_of_the_file(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (several / "elsewhere").mkdir()
    monkeypatch.chdir(several / "elsewhere")
    pipelines = ps.Pipelines.from_toml("../penstock.toml")
    assert pipelines["second"].source.name == (several / "more").as_uri()
    assert pipelines["third"].sink.url == f"sqlite://{several}/third.db"


def test_a_pipeline_is_called_by_its_name_or_namespace_or_index(here: Path) -> None:
    pipelines = toml(
        ONE
        + '[[pipeline]]\nsource = "docs"\ninto = "memory://shared"\nnamespace = "wiki"\n'
        + '[[pipeline]]\nsource = "docs"\ninto = "memory://shared"\nnamespace = "x"\nname = "handbook"\n'
    )
    assert [*pipelines] == ["one", "wiki", "handbook"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE + ONE, "two pipelines are called 'one': give each a `name` of its own"),
        (ONE + ONE + 'name = "x"\n', "the pipelines 'one' and 'x' fill the same index"),
        (ONE + "evrey = 60\n", r"\[\[pipeline\]\] 1: unknown option 'evrey' of file://: did you mean 'every'"),
        ("memroy = 1\n" + ONE, r"\[\[pipeline\]\] 1: unknown option 'memroy' of file://: did you mean 'memory'"),
        (ONE + TWO + 'colour = "red"', r"\[\[pipeline\]\] 2: unknown option 'colour'"),
        (ONE + 'name = "x"\nworkers = 0', r"\[\[pipeline\]\] 1 \(x\): invalid workers 0"),
        (ONE + 'every = "soon"', r"\[\[pipeline\]\] 1: invalid time 'soon': expected one such as 30s, 10m or 2h"),
        (ONE + "every = true", r"\[\[pipeline\]\] 1: invalid every True: expected a time such as 30s"),
        (ONE + 'live = "yes"', r"\[\[pipeline\]\] 1: invalid live 'yes': expected true or false"),
        (ONE + 'name = ""', r"\[\[pipeline\]\] 1: invalid name '': expected a text that is not empty"),
        (ONE + "name = 1", r"\[\[pipeline\]\] 1: invalid name 1: expected a text that is not empty"),
        ('[[pipeline]]\nsource = "docs"', r"\[\[pipeline\]\] 1: into must be given"),
        ('source = "docs"\ninto = "memory://x"\n' + ONE, "source and into above the .* tables are no pipeline but"),
        ('state = "x.db"\n' + ONE, "state is that of one pipeline: write it into a"),
        ('[pipeline]\nsource = "docs"', r"invalid pipeline: expected tables, each of which begins with"),
        ("pipeline = []", "invalid pipeline: expected tables"),
        ('[[pipelines]]\nsource = "docs"', r"unknown tables \[\[pipelines\]\]: expected \[\[pipeline\]\]"),
        ('memory = "8MiB"\n' + ONE + TWO, "invalid memory '8MiB' of 2 pipelines together: expected at least 8MiB"),
        ('memory = "x"\n' + ONE, "invalid memory 'x': expected a size"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_said_with_its_place(here: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toml(text)
    assert not Path(".penstock").exists()


def test_a_file_without_tables_is_one_pipeline(here: Path, run: Run, model: str) -> None:
    Path("penstock.toml").write_text(f'source = "docs"\ninto = "memory://single"\nmodel = "{model}"\nstate = "s.db"\n')
    assert [*ps.Pipelines.from_toml("penstock.toml")] == [""]
    ran = run("run", "penstock.toml", "--json")
    assert (ran.status, ran.lines[-1]["event"]) == (0, "report")
    assert "pipeline" not in ran.lines[-1]
    assert "no tables" in run("run", "penstock.toml", "--only", "x").err
    Path("tables.toml").write_text(ONE)
    with pytest.raises(UsageError, match=r"tables.toml has tables of pipelines: use Pipelines.from_toml"):
        ps.Pipeline.from_toml("tables.toml")


# ---------------------------------------------------------------- runs


def test_a_model_is_loaded_once_for_all(several: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    session = onnx.session
    monkeypatch.setattr(onnx, "session", lambda model: loaded.append(model) or session(model))
    ran = run("run", "penstock.toml")
    assert ran.status == 0, ran.err
    assert len(loaded) == 1
    assert [line for line in ran.out.splitlines() if line.endswith(":")] == ["first:", "second:", "third:"]
    pipelines = ps.Pipelines.from_toml("penstock.toml")
    assert run("verify", "--state", str(pipelines["second"].ledger.path)).status == 0
    ran = run("run", "penstock.toml", "--only", "third", "--only", "first")
    assert [line for line in ran.out.splitlines() if line.endswith(":")] == ["first:", "third:"]
    assert ran.out.count("0 changed") == 2
    assert len(loaded) == 1


def test_each_line_names_its_pipeline(several: Path, run: Run) -> None:
    (several / "docs" / "broken.pdf").write_bytes(b"%PDF-1.7\nnot at all")
    ran = run("run", "penstock.toml", "--json")
    assert ran.status == 1
    assert {line["pipeline"] for line in ran.lines} == {"first", "second", "third"}
    assert {line["pipeline"]: line["ok"] for line in ran.lines if line["event"] == "report"} == {
        "first": False,
        "second": True,
        "third": True,
    }
    ran = run("run", "penstock.toml", "--log-format", "json")
    events = [json.loads(line) for line in ran.err.splitlines()]
    assert {event["pipeline"] for event in events} == {"first", "second", "third"}
    ends = {event["pipeline"]: event["exit_status"] for event in events if event["event"] == "end"}
    assert ends == {"first": 1, "second": 0, "third": 0}
    ran = run("run", "penstock.toml", "-q")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("penstock: first: docs/broken.pdf: parse: ")


def test_one_that_fails_is_told_and_the_others_finish(several: Path, run: Run) -> None:
    with Path("penstock.toml").open("a") as file:
        file.write('[[pipeline]]\nname = "lost"\nsource = "nowhere"\ninto = "sqlite://./lost.db"\n')
    ran = run("run", "penstock.toml")
    assert ran.status == 3
    assert "penstock: lost: cannot read " in ran.err
    assert ran.out.count("added") == 3
    ran = run("run", "penstock.toml", "--log-format", "json")
    errors = [event for event in map(json.loads, ran.err.splitlines()) if event["event"] == "error"]
    assert [(error["pipeline"], error["level"]) for error in errors] == [("lost", "error")]


def test_exit_statuses_of_several() -> None:
    for statuses, expected in [
        ((0, 0), 0),
        ((0, 1), 1),
        ((4, 4), 4),
        ((0, 4), 4),
        ((2, 0), 2),
        ((1, 3), 3),
        ((2, 4), 3),
        ((0, 130), 130),
        ((1, 130), 130),
        ((3, 130), 3),
    ]:
        assert combined(statuses) == expected, statuses


def test_nothing_to_follow_is_said(here: Path, run: Run) -> None:
    Path("penstock.toml").write_text(ONE + "live = false\n")
    ran = run("run", "penstock.toml", "--live")
    assert (ran.status, "nothing to follow: one have live = false" in ran.err) == (2, True)
    assert "--every is of --live" in run("run", "penstock.toml", "--every", "1m").err


def test_a_file_names_the_ledgers_of_its_pipelines(several: Path, run: Run) -> None:
    assert run("run", "penstock.toml", "-q").status == 0
    assert run("status", "--state", "penstock.toml:second", "--json").lines[0]["index"].endswith("/second")
    assert run("verify", "--state", "penstock.toml:third").out.endswith("source, ledger and index agree\n")
    assert run("plan", "--state", "penstock.toml:first").status == 0
    told = run("status", "--state", "penstock.toml")
    assert told.status == 2
    assert "choose one:\n  --state penstock.toml:first\n  --state penstock.toml:second" in told.err
    assert "unknown pipeline 'x'" in run("status", "--state", "penstock.toml:x").err
    Path("one.toml").write_text('source = "docs"\ninto = "lance://./first"\n')
    assert run("status", "--state", "one.toml", "--json").lines[0]["index"].endswith("/first")


def test_the_health_of_several() -> None:
    """One that rests until it begins again, for good even, is not stuck; nor is one that may have ended."""
    healths = Healths(["a", "b"])
    for name in ("a", "b"):
        healths[name]._seen = time.monotonic() - SILENT - 1
    assert healths.trouble.startswith("a: no sign of life for 61 s; b: no sign")
    healths["a"].rest(math.inf)
    healths["b"](Progress(1.0, dict.fromkeys(COUNTERS, 0), (), 1, listing=False, queued_bytes=0))
    healths["b"]._seen = 0
    assert not healths.trouble
    healths["b"](Progress(1.0, dict.fromkeys(COUNTERS, 0), (), 1, listing=True, queued_bytes=0))
    healths["b"]._seen = 0
    assert healths.trouble.startswith("b: no sign of life")


# ---------------------------------------------------------------- a service


class Service:
    """`penstock run penstock.toml --live` in a process of its own, and what it tells systemd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[str] = []
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(folder / "notify"))
        self._manager.setblocking(False)
        self.port = live.free_port()
        self.begin()

    def begin(self) -> None:
        argv = [sys.executable, "-m", "penstock", "run", "penstock.toml", "--live", "--stop-ok", "--json"]
        argv += ["--metrics", f"127.0.0.1:{self.port}"]
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "400000"}
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            self.process = subprocess.Popen(argv, cwd=self.folder, stdout=out, stderr=err, env=environment)

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def tells(self, message: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append(self._manager.recv(1000).decode())
        return message in self.told

    def until(self, condition: Callable[[], object]) -> None:
        def met() -> object:
            assert self.process.poll() is None, self.err
            return condition()

        live.until(met, 60, lambda: self.err)

    def get(self, path: str) -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return str(answer.read().decode())
        return ""

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._manager.close()


@pytest.fixture
def service(several: Path) -> Iterator[Service]:
    one = Service(several)
    yield one
    one.close()


def texts(url: str, model: str) -> set[str]:
    try:
        with ps.open_index(url, model) as index:
            return {hit.chunk.text for hit in index.search("text", k=50)}
    except PenstockError:  # it is about to be made
        return set()


INDEXES = ("lance://./first", "lance://./second", "sqlite://./third.db")


@pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")
def test_several_are_followed_killed_and_followed_again(service: Service, model: str) -> None:
    folder = service.folder
    with (folder / "penstock.toml").open("a") as file:
        file.write("live = false\n")  # the third
    service.end(signal.SIGTERM)
    service.begin()

    def followed(url: str, text: str) -> bool:
        return text in texts(url, model)

    service.until(lambda: service.tells("READY=1"))
    service.until(lambda: all(followed(url, "Something about turbines.") for url in INDEXES[1:]))
    (folder / "docs" / "new.txt").write_text("Something new.")
    (folder / "more" / "new.txt").write_text("Something else.")
    service.until(lambda: followed(INDEXES[0], "Something new.") and followed(INDEXES[1], "Something else."))
    assert service.end(signal.SIGKILL) == -signal.SIGKILL
    (folder / "docs" / "new.txt").unlink()
    (folder / "docs" / "newer.txt").write_text("Something newer.")
    service.told.clear()
    service.begin()
    service.until(lambda: followed(INDEXES[0], "Something newer.") and not followed(INDEXES[0], "Something new."))
    service.until(lambda: followed(INDEXES[2], "Something else."))  # read once, by each start
    service.until(lambda: 'penstock_live_retries{pipeline="second"} 0\n' in service.get("/metrics"))
    for name in ("first", "second", "third"):
        assert f'penstock_run_total{{pipeline="{name}",what="failed"}} 0\n' in service.get("/metrics")
    assert service.get("/healthz") == "alive\n"
    before = service.told.count("WATCHDOG=1")
    service.until(lambda: service.tells("WATCHDOG=1") and service.told.count("WATCHDOG=1") > before + 2)
    assert service.end(signal.SIGTERM) == 0, service.err
    assert service.tells("STOPPING=1")
    assert "Traceback" not in service.err
    reports = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    ended = {report["pipeline"]: report["status"] for report in reports if report["event"] == "report"}
    assert ended == {"first": "stopped", "second": "stopped", "third": "done"}
    pipelines = ps.Pipelines.from_toml("penstock.toml")
    assert all(pipelines[name].verify().ok for name in pipelines)


@pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")
def test_one_that_fails_in_a_service_is_begun_again_and_told(several: Path, model: str) -> None:
    with Path("penstock.toml").open("a") as file:
        file.write('[[pipeline]]\nname = "lost"\nsource = "nowhere"\ninto = "sqlite://./lost.db"\n')
    service = Service(several)
    try:
        service.until(lambda: service.tells("READY=1"))
        service.until(lambda: service.err.count("it begins again in") >= 2)
        assert "penstock: lost: cannot read " in service.err
        service.until(lambda: "Something about turbines." in texts(INDEXES[1], model))
        (several / "nowhere").mkdir()
        (several / "nowhere" / "found.txt").write_text("It was found.")
        service.until(lambda: "It was found." in texts("sqlite://./lost.db", model))
        assert service.end(signal.SIGTERM) == 0, service.err
    finally:
        service.close()
