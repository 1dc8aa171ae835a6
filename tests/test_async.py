"""Penstock beside an event loop: runs and searches that are awaited, and models that are async."""

from __future__ import annotations

import asyncio
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.core.errors import EmbedError, UsageError
from penstock.core.records import Chunk
from penstock.embedders.functions import FunctionEmbedder

TIMEOUT = 30.0


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) + 1 for letter in "etaoin"] for text in texts], np.float32)


def corpus(folder: Path, documents: int = 12) -> Path:
    docs = folder / "docs"
    docs.mkdir()
    for number in range(documents):
        (docs / f"{number:02}.txt").write_text(f"document {number} of tin and oat")
    return docs


def pipeline(folder: Path, model: Any, **options: Any) -> ps.Pipeline:
    return ps.Pipeline(corpus(folder), into=f"memory://{folder}", model=model, state=folder / "ledger.db", **options)


class Gate:
    """An async function that holds its calls until it is opened, and counts those in flight."""

    def __init__(self) -> None:
        self.opened: asyncio.Event | None = None
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.loops: set[Any] = set()
        self.inside = self.most = 0

    async def __call__(self, texts: list[str]) -> np.ndarray:
        self.loops.add(asyncio.get_running_loop())
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.set()
        try:
            await (self.opened or asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.inside -= 1
        return letters(texts)


def test_an_async_function_embeds_on_one_loop_in_several_calls(tmp_path: Path) -> None:
    loops = set()

    async def model(texts: list[str]) -> np.ndarray:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return letters(texts)

    first = pipeline(tmp_path, model)
    assert first.run().embedded == 12
    (tmp_path / "docs" / "new.txt").write_text("one more")
    assert first.run().embedded == 1
    with ps.open_index(f"memory://{tmp_path}", model=model) as index:
        assert len(index.search("tin", k=3)) == 3
    assert len(loops) == 1


def test_so_many_calls_are_in_flight_at_once() -> None:
    barrier: list[Any] = []
    inside = 0
    met = threading.Event()

    async def model(texts: list[str]) -> np.ndarray:
        nonlocal inside
        inside += 1
        if inside == 3:
            met.set()
            for future in barrier:
                future.set_result(None)
        else:
            barrier.append(asyncio.get_running_loop().create_future())
            await barrier[-1]
        return letters(texts)

    embedder = FunctionEmbedder(model, dim=6, concurrency=3)
    assert embedder.workers == 3
    assert FunctionEmbedder(model).workers == 8
    assert FunctionEmbedder(letters).workers == 1
    assert FunctionEmbedder(Gate()).workers == 8
    threads = [threading.Thread(target=embedder.query, args=(["tin"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert met.is_set()


def test_an_async_function_is_checked_as_a_plain_one_is() -> None:
    async def wrong(texts: list[str]) -> list[float]:
        return [1.0]

    async def broken(texts: list[str]) -> Any:
        raise ValueError("mine")

    with pytest.raises(EmbedError, match="shape"):
        FunctionEmbedder(wrong, dim=2).query(["tin"])
    with pytest.raises(ValueError, match="mine"):
        FunctionEmbedder(broken, dim=2).query(["tin"])
    with pytest.raises(UsageError, match="concurrency 0"):
        FunctionEmbedder(letters, concurrency=0)


def test_an_embedder_of_a_function_pickles() -> None:
    copied = pickle.loads(pickle.dumps(FunctionEmbedder(letters)))
    assert np.array_equal(copied.query(["tin"])[0].values, letters(["tin"])[0])


def test_interrupting_a_model_ends_calls_that_wait() -> None:
    gate = Gate()
    embedder = FunctionEmbedder(gate, dim=6)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            embedder.embed([Chunk("a" * 32, "memory://d", 0, "tin", (0, 3))])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert gate.entered.wait(TIMEOUT)
    embedder.interrupt()
    thread.join(TIMEOUT)
    assert gate.cancelled.wait(TIMEOUT)
    assert len(errors) == 1


async def _arun(pipeline: ps.Pipeline, **options: Any) -> ps.Report:
    return await asyncio.wait_for(pipeline.arun(**options), TIMEOUT)


def test_a_run_is_awaited_and_its_progress_comes_on_the_loop(tmp_path: Path) -> None:
    threads: set[int] = set()

    async def main() -> ps.Report:
        async def note(moment: ps.Progress) -> None:
            await asyncio.sleep(0)
            threads.add(threading.get_ident())

        return await _arun(pipeline(tmp_path, letters), progress=note)

    report = asyncio.run(main())
    assert report.ok
    assert report.embedded == 12
    assert threads == {threading.get_ident()}


def test_an_error_of_the_run_or_its_callback_is_raised(tmp_path: Path) -> None:
    def refuse(moment: ps.Progress) -> None:
        raise ValueError("no more")

    one = pipeline(tmp_path, letters)
    with pytest.raises(ValueError, match="no more"):
        asyncio.run(_arun(one, progress=refuse))
    (tmp_path / "docs").rename(tmp_path / "elsewhere")
    with pytest.raises(ps.PenstockError, match="docs"):
        asyncio.run(_arun(one))


def test_a_cancelled_run_stops_as_ctrl_c_does(tmp_path: Path) -> None:
    """What was embedded is written, calls of the model that wait are cancelled, and the next run goes on."""
    gate = Gate()

    async def model(texts: list[str]) -> np.ndarray:
        if any("document 7" in text for text in texts):
            return await gate(texts)
        return letters(texts)

    one = pipeline(tmp_path, ps.FunctionEmbedder(model, dim=6))
    one.embedder.batch_rows = 1

    async def main() -> None:
        running = asyncio.create_task(one.arun())
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(running), TIMEOUT)

    asyncio.run(main())
    assert gate.cancelled.wait(TIMEOUT)
    with one.ledger.reader(one.ledger.path) as ledger:
        last = next(iter(ledger.runs()))
        assert not list(ledger.failures())
    assert last.status == "stopped"
    gate.opened = asyncio.Event()
    gate.opened.set()
    report = one.run()
    assert report.ok
    assert len(ps.open_index(f"memory://{tmp_path}", model=ps.FunctionEmbedder(model, dim=6))) == 12


def test_searches_are_awaited_beside_each_other(tmp_path: Path) -> None:
    """A model is opened once, and is called by no more threads at once than it allows."""
    inside, most, opened = 0, 0, 0
    lock, two = threading.Lock(), threading.Event()

    class Model(FunctionEmbedder):
        def open(self) -> None:
            nonlocal opened
            opened += 1

        def query(self, texts: Any) -> Any:
            nonlocal inside, most
            with lock:
                inside, most = inside + 1, max(most, inside + 1)
                if inside > 1:
                    two.set()
            two.wait(0.01)  # so that a second one would be seen
            try:
                return super().query(texts)
            finally:
                with lock:
                    inside -= 1

    pipeline(tmp_path, FunctionEmbedder(letters)).run()

    async def main() -> list[list[ps.Hit]]:
        with ps.open_index(f"memory://{tmp_path}", model=Model(letters)) as index:
            return await asyncio.gather(*(index.asearch("tin", 2, using="vector") for _ in range(20)))

    found = asyncio.run(main())
    assert [len(hits) for hits in found] == [2] * 20
    assert (most, opened) == (1, 1)
