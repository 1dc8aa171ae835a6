"""Several pipelines in one process: one model, no starvation, and no failure of one that is the others'."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from penstock.core.errors import OwnershipError, PenstockError, SourceError, StageError, UsageError
from penstock.core.records import Chunk, Dense
from penstock.embedders.shared import SharedModel
from penstock.engine.progress import Progress
from penstock.jobs import progress_file, several
from penstock.ledger import Ledger
from penstock.sinks.memory import MemorySink, forget
from penstock.sinks.sqlite import SqliteSink
from penstock.testing.embedders import HashingEmbedder
from tests.live import until


class Folders:
    """Pipelines, each of a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = HashingEmbedder(16)

    def write(self, name: str, file: str, text: str) -> None:
        path = self.folder / name / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def pipeline(self, name: str, **options: Any) -> ps.Pipeline:
        (self.folder / name).mkdir(exist_ok=True)
        into = options.pop("into", f"sqlite://{self.folder}/{name}.index")
        options = {"model": self.model, "state": self.state(name), **options}
        return ps.Pipeline(self.folder / name, into=into, **options)

    def state(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def texts(self, pipeline: ps.Pipeline) -> set[str]:
        try:
            with ps.open_index(pipeline.sink.url, HashingEmbedder(16)) as index:
                return {hit.chunk.text for hit in index.search("text", k=500)}
        except PenstockError:  # it is about to be made
            return set()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


class Watching:
    """Pipelines that are followed in a thread, until they are stopped as by Ctrl-C."""

    def __init__(self, pipelines: ps.Pipelines, **options: Any) -> None:
        self.pipelines, self._options = pipelines, options
        self.outcomes: dict[str, ps.Outcome] = {}
        self.failures: list[tuple[str, BaseException, float | None]] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.outcomes = self.pipelines.watch(self._progress, on_failure=self._failed, **self._options)

    def _failed(self, name: str, error: BaseException, again: float | None) -> None:
        self.failures.append((name, error, again))

    def _progress(self, name: str, now: Progress) -> None:
        if self.stop.is_set():
            self.stop.clear()
            raise KeyboardInterrupt

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


# ---------------------------------------------------------------- the model


def test_equal_models_are_one(folders: Folders) -> None:
    def letters(texts: list[str]) -> Any: ...

    names: dict[str, Any] = {
        "default": None,
        "named": "sentence-transformers/all-MiniLM-L6-v2",
        "other": "int8:sentence-transformers/all-MiniLM-L6-v2",
        "object": folders.model,
        "same": folders.model,
        "function": letters,
        "mapping": {"a": letters, "b": folders.model},
        "mapped": {"a": letters, "b": folders.model},
    }
    models = ps.Pipelines({name: folders.pipeline(name, model=model) for name, model in names.items()}).models
    alike = [{name for name in names if models[name] is model} for model in {*models.values()}]
    assert sorted(map(sorted, alike)) == [
        ["default", "named"],
        ["function"],
        ["mapped", "mapping"],
        ["object", "same"],
        ["other"],
    ]


class Counting(HashingEmbedder):
    """Counts how often it is loaded, and how many calls there are at once."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(16, workers)
        self.opened = self.closed = self.calls = self.most = 0
        self.interrupted = 0
        self._lock = threading.Lock()

    def open(self) -> None:
        if self.opened == self.closed:
            self.opened += 1

    def close(self) -> None:
        self.closed += self.opened > self.closed

    def interrupt(self) -> None:
        self.interrupted += 1

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        assert self.opened > self.closed
        with self._lock:
            self.calls += 1
            self.most = max(self.most, self.calls)
        try:
            return super().embed(chunks)
        finally:
            with self._lock:
                self.calls -= 1


def test_runs_side_by_side_share_a_model_that_is_loaded_once(folders: Folders) -> None:
    folders.model = model = Counting()
    both = threading.Barrier(2, timeout=60)
    seen = set[str]()
    for name in ("one", "two"):
        for n in range(30):
            folders.write(name, f"{n}.md", f"text {n} of {name}")

    def meeting(item: ps.Item) -> Mapping[str, Any]:
        """Have neither end before the other has the model open."""
        if item.uri.endswith("/0.md"):
            both.wait()
        return {}

    pipelines = ps.Pipelines({name: folders.pipeline(name, metadata=meeting) for name in ("one", "two")})
    outcomes = pipelines.run(lambda name, now: seen.add(name))
    assert all(outcome.ok for outcome in outcomes.values()), outcomes
    assert seen == {"one", "two"}
    assert (model.opened, model.closed, model.most) == (1, 1, 1)
    for name in ("one", "two"):
        assert folders.texts(pipelines[name]) == {f"text {n} of {name}" for n in range(30)}
        assert pipelines[name].verify().ok
    assert pipelines.run()["one"].ok
    assert model.opened == model.closed


def chunk(text: str) -> Chunk:
    return Chunk(f"{abs(hash(text)) % 10**9:032x}", "doc:1", 0, text, (0, len(text)))


class Gated(Counting):
    """Records what it embeds, and waits before each call until it is let through."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self.batch_rows = 1
        self.seen: list[str] = []
        self.gate = threading.Semaphore(0)

    def embed(self, chunks: Sequence[Chunk]) -> list[Dense]:
        self.seen += [chunk.text for chunk in chunks]
        assert self.gate.acquire(timeout=60)
        return super().embed(chunks)


def test_a_live_document_passes_the_backlog_of_another_pipeline(folders: Folders) -> None:
    """By the order in which the model gets them, whatever the clock says."""
    folders.model = model = Gated()
    for n in range(60):
        folders.write("backlog", f"{n}.md", f"backlog {n}")
    pipelines = ps.Pipelines({name: folders.pipeline(name) for name in ("backlog", "live")})
    with Watching(pipelines) as watching:
        until(lambda: len(model.seen) == 1)
        for _ in range(10):
            model.gate.release()
        until(lambda: len(model.seen) == 11)
        folders.write("live", "new.md", "live text")
        until(lambda: pipelines.models["live"].places.waiting == 2)  # beside one of the backlog's
        model.gate.release()
        until(lambda: len(model.seen) == 12)
        assert model.seen[-1] == "live text"
        model.gate.release()
        until(lambda: "live text" in folders.texts(pipelines["live"]))
        assert len(model.seen) < 60
        for _ in range(100):
            model.gate.release()
        until(lambda: len(folders.texts(pipelines["backlog"])) == 60)
    assert {outcome.report and outcome.report.status for outcome in watching.outcomes.values()} == {"stopped"}
    assert (model.opened, model.closed) == (1, 1)


def test_backlogs_share_the_model_by_tokens(folders: Folders) -> None:
    """One with long texts gets as many tokens as one with short ones, not as many calls."""
    model = SharedModel(Gated())  # type: ignore[arg-type]
    gated: Any = model.embedder
    users = {name: model.user(name) for name in ("long", "short")}
    for user in users.values():
        user.open()

    def work(name: str, text: str, calls: int) -> None:
        for _ in range(calls):
            users[name].embed([chunk(text)])

    threads = [
        threading.Thread(target=work, args=(name, text, calls), name=name)
        for name, text, calls in (("long", "long " * 80, 5), ("short", "short " * 8, 20))
        for _ in range(users[name].workers)
    ]
    for thread in threads:
        thread.start()
    for call in range(50):
        until(lambda call=call: len(gated.seen) == call + 1)  # type: ignore[misc]
        until(lambda: model.places.waiting == sum(thread.is_alive() for thread in threads) - 1)
        gated.gate.release()
    for thread in threads:
        thread.join(60)
    half = gated.seen[:20]
    assert 1 <= sum(text.startswith("long") for text in half) <= 4, half


def test_what_one_gives_up_the_others_go_on_with(folders: Folders) -> None:
    model = SharedModel(Gated())  # type: ignore[arg-type]
    gated: Any = model.embedder
    one, other = model.user("one"), model.user("other")
    one.open()
    other.open()
    results: dict[str, object] = {}

    def embed(name: str, user: Any) -> None:
        try:
            results[name] = user.embed([chunk(name)])
        except BaseException as error:
            results[name] = error

    calling = threading.Thread(target=embed, args=("calling", other))
    calling.start()
    until(lambda: gated.seen == ["calling"])
    waiting = threading.Thread(target=embed, args=("waiting", one))
    waiting.start()
    until(lambda: model.places.waiting == 1)
    one.interrupt()
    waiting.join(60)
    assert isinstance(results["waiting"], InterruptedError)
    assert gated.interrupted == 0  # the call in progress is of one that goes on
    other.interrupt()
    assert gated.interrupted == 1
    gated.gate.release()
    calling.join(60)
    assert isinstance(results["calling"], Mapping | list), results
    one.open()  # by its next run
    gated.gate.release()
    embed("again", one)
    assert not isinstance(results["again"], BaseException)
    one.close()
    assert gated.closed == 0
    other.close()
    other.close()
    assert gated.closed == 1


# ---------------------------------------------------------------- apart from each other


def test_pipelines_that_are_in_each_others_way_are_refused(folders: Folders) -> None:
    """Before anything is opened."""
    index = f"sqlite://{folders.folder}/shared.index"

    def refused(message: str, **pipelines: ps.Pipeline) -> None:
        with pytest.raises(UsageError, match=message):
            ps.Pipelines(pipelines)

    refused("'a' and 'b' fill the same index", a=folders.pipeline("a", into=index), b=folders.pipeline("b", into=index))
    one = folders.pipeline("a", into=index, namespace="x")
    refused("give each a `namespace`", a=one, b=folders.pipeline("b", into=index, namespace="x"))
    refused("fill the same index", a=one, b=folders.pipeline("b", into=[f"memory://{folders.folder}", index]))
    refused("have the same ledger", a=folders.pipeline("a"), b=folders.pipeline("b", state=folders.state("a")))
    refused("at least one pipeline")
    assert sorted(path.name for path in folders.folder.iterdir()) == ["a", "b"]
    folders.write("a", "1.md", "one")
    folders.write("b", "2.md", "two")
    pipelines = ps.Pipelines({"a": one, "b": folders.pipeline("b", into=index, namespace="y")})
    assert all(outcome.ok for outcome in pipelines.run().values())
    assert folders.texts(one) == {"one", "two"}


class Broken(MemorySink):
    """A store that raises what no contract names, until it is mended."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.opens = self.writes = False

    def manifest(self) -> Any:
        self._check(self.opens)
        return super().manifest()

    def write(self, points: Any) -> None:
        self._check(self.writes)
        super().write(points)

    def _check(self, works: bool) -> None:
        if not works:
            raise RuntimeError(f"{self.url} is broken")


@pytest.fixture
def broken(folders: Folders) -> Iterator[Broken]:
    url = f"memory://{folders.folder.name}"
    yield Broken(url)
    forget(url)


def test_one_that_fails_does_not_end_the_others(folders: Folders, broken: Broken) -> None:
    folders.write("good", "1.md", "one")
    folders.write("bad", "2.md", "two")
    failures = []
    pipelines = ps.Pipelines({"bad": folders.pipeline("bad", into=broken), "good": folders.pipeline("good")})
    outcomes = pipelines.run(on_failure=lambda *failure: failures.append(failure))
    assert outcomes["good"].ok
    assert not outcomes["bad"].ok
    assert isinstance(outcomes["bad"].error, RuntimeError)
    assert [(name, again) for name, _, again in failures] == [("bad", None)]


def test_a_live_run_that_an_error_ends_begins_again(
    folders: Folders, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is told, and the others go on meanwhile."""
    monkeypatch.setattr(several, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(several, "LONGEST_PAUSE", 0.2)
    broken.opens = broken.writes = True
    folders.write("bad", "1.md", "one")
    pipelines = ps.Pipelines({"bad": folders.pipeline("bad", into=broken), "good": folders.pipeline("good")})
    assert all(outcome.ok for outcome in pipelines.run().values())  # so that there is a ledger
    broken.opens = False

    with Watching(pipelines) as watching:
        until(lambda: len(watching.failures) >= 3)
        assert {name for name, _, again in watching.failures if again is not None} == {"bad"}
        folders.write("good", "2.md", "two")
        until(lambda: "two" in folders.texts(pipelines["good"]))
        folders.write("bad", "3.md", "three")
        broken.opens = True
        until(lambda: "three" in folders.texts(pipelines["bad"]))
    assert watching.outcomes.keys() == {"bad", "good"}
    assert all(outcome.error is None for outcome in watching.outcomes.values())


def test_a_live_run_that_an_error_ends_half_way_begins_again(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the source and the model that were stopped with it; `status` says why it does not go on."""
    works, acknowledge = threading.Event(), Ledger.acknowledge
    monkeypatch.setattr(several, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(several, "LONGEST_PAUSE", 0.2)

    def acknowledged(ledger: Ledger, *values: Any) -> None:
        if ledger.path == folders.state("bad") and not works.is_set():
            raise RuntimeError("the ledger is broken")
        acknowledge(ledger, *values)

    monkeypatch.setattr(Ledger, "acknowledge", acknowledged)

    def waiting() -> str:
        noted = progress_file.read(folders.state("bad"))
        return str(noted["waiting"]) if noted else ""

    folders.write("bad", "old.md", "something old")
    pipelines = ps.Pipelines({"bad": folders.pipeline("bad"), "good": folders.pipeline("good")})
    with Watching(pipelines) as watching:
        until(lambda: watching.failures)
        until(lambda: "is broken" in waiting())
        works.set()
        until(lambda: "something old" in folders.texts(pipelines["bad"]))
        folders.write("bad", "new.md", "something new")
        until(lambda: "something new" in folders.texts(pipelines["bad"]))
    assert isinstance(watching.failures[0][1], StageError)
    assert watching.outcomes["bad"].report is not None


def test_a_live_run_that_cannot_be_carried_out_ends(folders: Folders) -> None:
    """Where another ledger fills the index, nothing is gained by another try."""
    folders.write("taken", "1.md", "one")
    assert folders.pipeline("taken", state=folders.state("other")).run().ok
    pipelines = ps.Pipelines({"taken": folders.pipeline("taken"), "good": folders.pipeline("good")})
    with Watching(pipelines) as watching:
        until(lambda: watching.failures)
        folders.write("good", "2.md", "two")
        until(lambda: "two" in folders.texts(pipelines["good"]))
    ((name, error, again),) = watching.failures
    assert (name, type(error), again) == ("taken", OwnershipError, None)
    assert watching.outcomes["taken"].error is error
    assert watching.outcomes["good"].error is None


def test_a_stop_does_not_wait_for_one_that_hangs_before_its_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several, "GRACE", 0.2)
    hangs, goes_on = threading.Event(), threading.Event()

    class Hanging(SqliteSink):
        def manifest(self) -> Any:
            hangs.set()
            goes_on.wait(60)
            raise SourceError("it was let go")

    pipelines = ps.Pipelines(
        {
            "hangs": folders.pipeline("hangs", into=Hanging(f"sqlite://{folders.folder}/x")),
            "good": folders.pipeline("good"),
        }
    )
    with Watching(pipelines) as watching:
        until(hangs.is_set)
        folders.write("good", "2.md", "two")
        until(lambda: "two" in folders.texts(pipelines["good"]))
    assert watching.outcomes["hangs"] == ps.Outcome()
    assert watching.outcomes["good"].report is not None
    goes_on.set()
