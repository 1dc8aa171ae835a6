"""Progress of a run: live at a terminal or in a notebook, in plain lines for a log, as JSON for machines."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from penstock.core.errors import UsageError
from penstock.display import live
from penstock.display.notebook import Cell, in_notebook
from penstock.display.text import clean, count, duration, rate, size, speed, terminal
from penstock.engine.progress import Rates

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from penstock.engine.progress import Progress

T = TypeVar("T")

STOPPING = "stopping: writing what is in flight (Ctrl-C again to stop at once)"


class Display:
    """A callback for a run's progress. `stopping` is set from a signal handler, so it only takes note."""

    every = 0.0
    """Seconds between two updates, at least."""
    idle = 0.0
    """... while a run that follows its source has nothing to do."""

    def __init__(self, name: str = "") -> None:
        """`name`: that of the pipeline, where it is one of several."""
        self.name = name
        self.rates = Rates()
        self._stopping = self._announced = False
        self.stop_status = 0
        """The exit status of a command that was stopped."""
        self._last: float | None = None
        self._idle = False
        """There was nothing to do at the last update."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc: object) -> None: ...

    @property
    def stopped(self) -> bool:
        return self._stopping

    def stopping(self, status: int = 0) -> None:
        self._stopping, self.stop_status = True, status

    def __call__(self, progress: Progress) -> None:
        self.rates.add(progress)
        news = self._stopping and not self._announced
        idle = progress.live is not None and not (progress.queued or progress.live["hints"])
        every = max(self.every, self.idle) if idle and self._idle else self.every
        if news or self.due(progress.seconds, every):
            self._last, self._announced, self._idle = progress.seconds, self._stopping, idle
            try:
                self.show(progress, news)
            except BrokenPipeError:
                self.show = _nothing  # type: ignore[method-assign]  # nobody looks any more: the run goes on

    def due(self, seconds: float, every: float) -> bool:
        return self._last is None or not 0 <= seconds - self._last < every

    def show(self, progress: Progress, news: bool) -> None: ...


def _nothing(progress: Progress, news: bool) -> None: ...


class Quiet(Display):
    """Says nothing."""


class JsonLines(Display):
    """One event a line, on stdout."""

    every = 1.0

    def show(self, progress: Progress, news: bool) -> None:
        name = {"pipeline": self.name} if self.name else {}
        print(json.dumps({"event": "progress", **name, **progress.to_json()}), flush=True)


class Lines(Display):
    """A line now and then, for logs."""

    every, idle = 5.0, 60.0
    first = 1.0

    def due(self, seconds: float, every: float) -> bool:
        return seconds >= self.first if self._last is None else super().due(seconds, every)

    def show(self, progress: Progress, news: bool) -> None:
        name = f"{clean(self.name)}: " if self.name else ""
        if news:
            print(f"penstock: {name}{STOPPING}", file=sys.stderr, flush=True)
        else:
            print(f"{name}{line(progress, self.rates)}", file=sys.stderr, flush=True)


class Board:
    """Pictures at a terminal, one below the other, which are replaced."""

    def __init__(self) -> None:
        self._pictures: dict[object, RenderableType] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Board:
        from rich.live import Live

        self._live = Live(console=terminal(sys.stderr), auto_refresh=False, transient=True)
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def draw(self, owner: object, picture: RenderableType) -> None:
        from rich.console import Group

        with self._lock:
            self._pictures[owner] = picture
            if self._live is not None:
                self._live.update(Group(*self._pictures.values()), refresh=True)


class LiveDisplay(Display):
    """One picture at a terminal, drawn anew at most ten times a second."""

    every = 0.1

    def __init__(self, title: str, board: Board | None = None) -> None:
        """`board`: where it is drawn with others; that one is opened by its owner."""
        super().__init__()
        self._title = title
        self._board = board or Board()
        self._owns_board = board is None

    def __enter__(self) -> LiveDisplay:
        if self._owns_board:
            self._board.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._owns_board:
            self._board.__exit__(*exc)

    def show(self, progress: Progress, news: bool) -> None:
        self._board.draw(self, frame(self._title, progress, self.rates, self._stopping))


class NotebookDisplay(Display):
    """One picture in a notebook, replaced twice a second at most; the last one stays."""

    every = 0.5

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._cell = Cell()
        self._latest: Progress | None = None

    def __enter__(self) -> NotebookDisplay:
        self._cell.show(clean(self._title))  # here, as a run that is awaited is shown from elsewhere than its cell
        return self

    def __exit__(self, *exc: object) -> None:
        if self._latest is not None:
            self.show(self._latest, news=False)

    def __call__(self, progress: Progress) -> None:
        self._latest = progress
        super().__call__(progress)

    def show(self, progress: Progress, news: bool) -> None:
        from rich.console import Console

        drawn = io.StringIO()
        Console(file=drawn, width=100).print(frame(self._title, progress, self.rates))
        self._cell.show("\n".join(map(str.rstrip, drawn.getvalue().splitlines())))


def display(
    title: str, name: str = "", *, board: Board | None = None, as_json: bool = False, quiet: bool = False
) -> Display:
    """The display that fits where we are. `name`, `board`: of one pipeline among several."""
    if as_json:
        return JsonLines(name)
    if quiet:
        return Quiet()
    if in_notebook():
        return NotebookDisplay(title)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(title, board)
    return Lines(name)


def _done(counts: dict[str, int]) -> int:
    return sum(counts[name] for name in ("documents", "unchanged", "parked", "barred", "failed", "skipped"))


def _pace(rates: Rates) -> str:
    return (
        f"{rate(rates.of('embedded'))} chunks/s · {rate(rates.of('tokens'))} tokens/s · {speed(rates.of('bytes'))} read"
    )


def _leaving(counts: dict[str, int]) -> str:
    """How far the deletion of documents is that the source no longer has."""
    if not counts["deleted"] and not counts["leaving"]:
        return ""
    of = f" of {counts['leaving']:,}" if counts["leaving"] else ""
    return f"{counts['deleted']:,}{of} deleted"


def line(progress: Progress, rates: Rates) -> str:
    """A moment of a run in one line."""
    if progress.live is not None and (progress.live["feed"] or progress.live["listed"]):
        return live.live_line(progress.to_json())
    counts = progress.counts
    parts = [
        f"{progress.seconds:.0f} s",
        f"{_done(counts):,}/{counts['listed']:,}{'+' if progress.listing else ''} documents",
        _pace(rates),
        f"{size(progress.in_flight)} of {size(progress.budget)} in flight",
        f"bottleneck {progress.bottleneck}",
    ]
    if progress.eta:  # nothing left to read is not yet the end
        parts.append(f"{duration(progress.eta)} to go")
    if leaving := _leaving(counts):
        parts.append(leaving)
    if lost := counts["failed"] + counts["gaps"]:
        parts.append(count(lost, "failure"))
    if progress.workers is not None:
        parts.append(count(progress.workers, "worker"))
    if progress.waiting:
        parts.append(f"waiting for {clean(progress.waiting)}")
    return " · ".join(parts)


def frame(title: str, progress: Progress, rates: Rates, stopping: bool = False) -> RenderableType:
    """A moment of a run as a picture."""
    from rich.table import Table
    from rich.text import Text

    counts = progress.counts
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("penstock", Text(clean(title), style="bold"))
    documents = Text(f"{_done(counts):,} of {counts['listed']:,}{' and more' if progress.listing else ''}")
    if leaving := _leaving(counts):
        documents.append(f" · {leaving}")
    if lost := counts["failed"] + counts["gaps"]:
        documents.append(f" · {count(lost, 'failure')}", style="red")
    grid.add_row("documents", documents)
    grid.add_row("rate", Text(_pace(rates)))
    share = min(1.0, progress.in_flight / progress.budget) if progress.budget else 0.0
    full = round(28 * share)
    bar = Text("━" * full, style="green").append("━" * (28 - full), style="bright_black")
    grid.add_row("in flight", bar.append(f" {size(progress.in_flight)} of {size(progress.budget)}", style="default"))
    to_go = f" · {duration(progress.eta)} to go" if progress.eta else ""
    grid.add_row("bottleneck", Text(f"{progress.bottleneck} · {duration(progress.seconds)} so far{to_go}"))
    if progress.workers is not None:
        grid.add_row("workers", Text(f"{progress.workers:,}"))
    if progress.waiting:
        grid.add_row("waiting for", Text(clean(progress.waiting), style="yellow"))
    if progress.live is not None:
        for name, value in live.live_rows(progress.to_json()):
            grid.add_row(name, Text(value, style="yellow" if name in ("trouble", "held") else ""))
    if stopping:
        grid.add_row("", Text(STOPPING, style="bold yellow"))
    return grid


@contextmanager
def counting(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Progress bar; yields `update(done, total)`."""
    if in_notebook() and not quiet:
        yield _counted(title)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=terminal(sys.stderr), disable=quiet) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _counted(title: str) -> Callable[[int, int], None]:
    cell, due = Cell(), 0.0

    def update(done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due or done >= total:
            due = time.monotonic() + NotebookDisplay.every
            cell.show(f"{clean(title)}: {done:,} of {total:,}")

    return update


def callback(progress: Callable[[T], None] | bool | None) -> Callable[[T], None] | None:
    """The function that a `progress` argument is, if it is one. Raises UsageError for what is no progress."""
    if progress is None or isinstance(progress, bool):
        return None
    if not callable(progress):
        raise UsageError(f"invalid progress {progress!r}: expected True, or a function of a moment's progress")
    return progress


@contextmanager
def watching(
    progress: Callable[[Progress], None] | bool | None, title: str
) -> Iterator[Callable[[Progress], None] | None]:
    """The callback of a run: the user's, or with True that of a display that fits where we are."""
    if progress is True:
        with display(title) as shown:
            yield shown
    else:
        yield callback(progress)
