"""What is shown of a run, and how results are worded."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import penstock
from penstock.cli.output import results
from penstock.cli.output.report import report_text
from penstock.core.errors import UsageError
from penstock.display import live, progress, several, text
from penstock.display.text import clean
from penstock.engine.channel import ChannelStats
from penstock.engine.progress import COUNTERS, Progress, Report
from penstock.jobs.snippets import snippet, words_of

MIB = 1 << 20


def moment(seconds: float, *, waiting: str = "", listing: bool = False, **counts: int) -> Progress:
    channel = ChannelStats("points", pieces=3, bytes=60 * MIB, capacity=64 * MIB, peak=0, largest=0, passed=9, full_s=0)
    return Progress(
        seconds=seconds,
        counts=dict.fromkeys(COUNTERS, 0) | counts,
        channels=(channel,),
        budget=128 * MIB,
        listing=listing,
        queued_bytes=1000,
        waiting=waiting,
    )


def drawn(what: object, width: int = 100) -> str:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False).print(what)
    return file.getvalue()


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = progress.Rates()
    for second in range(21):
        rates.add(moment(second, embedded=100 * min(second, 10)))
    assert rates.of("embedded") == 0
    rates = progress.Rates()
    rates.add(moment(2, embedded=10))
    assert rates.of("embedded") == 5
    for second in range(3, 9):
        rates.add(moment(second, embedded=10 * second))
    assert rates.of("embedded") == 10
    assert len(rates._seen) < 8


def test_a_picture_tells_all_that_matters() -> None:
    rates = progress.Rates()
    at = moment(
        10, listed=1234, unchanged=1000, documents=30, failed=4, bytes=20_000_000, embedded=250, listing=True,
        waiting="write: connection \x1brefused",
    )  # fmt: skip
    rates.add(at)
    shown = drawn(progress.frame("docs → lance://./index", at, rates, stopping=True))
    for part in (
        "docs → lance://./index",
        "1,034 of 1,234 and more",
        "4 failures",
        "25.0 chunks/s",
        "2.0 MB/s",
        "60.0 MiB of 128.0 MiB",
        "write · 10.0 s so far",
        "connection �refused",
        "Ctrl-C again to stop at once",
    ):
        assert part in shown
    assert "to go" in drawn(progress.frame("", replace(at, listing=False), rates))
    assert "1,034/1,234+ documents" in progress.line(at, rates)


@pytest.mark.parametrize("width", [1, 20, 60])
def test_a_narrow_terminal_gets_a_picture_too(width: int) -> None:
    rates = progress.Rates()
    rates.add(moment(1))
    assert max(map(len, drawn(progress.frame("x" * 200, moment(1), rates), width).splitlines())) <= width


def test_deletions_are_shown_as_they_go() -> None:
    """Of a listing's end it is known how many there are; a feed names one after the other."""
    rates = progress.Rates()
    rates.add(now := moment(2, listed=10, leaving=1200, deleted=300))
    assert "300 of 1,200 deleted" in progress.line(now, rates)
    assert "300 of 1,200 deleted" in drawn(progress.frame("docs", now, rates))
    assert "7 deleted" in progress.line(moment(2, deleted=7), rates)
    assert "deleted" not in progress.line(moment(2), rates)


def test_plain_lines_come_after_one_second_and_then_every_five(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.Lines()
    for tenth in range(130):
        lines(moment(tenth / 10))
    assert [line.split(" ")[0] for line in capsys.readouterr().err.splitlines()] == ["1", "6", "11"]
    lines.stopping()
    lines(moment(13))
    lines(moment(13.2))
    assert capsys.readouterr().err == f"penstock: {progress.STOPPING}\n"


def test_the_live_display_draws_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[float] = []
    shown = progress.LiveDisplay("docs")
    monkeypatch.setattr(shown, "show", lambda progress, news: drawings.append(progress.seconds))
    for hundredth in range(200):
        shown(moment(hundredth / 100))
    assert 15 < len(drawings) <= 21


def report(status: str = "done", failing: int = 0, notices: tuple[str, ...] = (), **counts: int) -> Report:
    return Report(
        run=3, status=status, seconds=2.0, counts=dict.fromkeys(COUNTERS, 0) | counts, failing=failing, complete=True,
        peak_bytes=3 * MIB, budget=512 * MIB, notices=notices,
    )  # fmt: skip


def test_a_report_has_every_count() -> None:
    shown = report_text(
        report(
            documents=5, added=3, unchanged=7, deleted=1, failed=2, skipped=4, embedded=50, kept=6, moved=8, removed=9,
            gaps=1, failing=2, tokens=10_000, bytes=4_000_000, notices=("adopted 5 points",),
        ),
        again=" --state x.db",
    ).plain  # fmt: skip
    for part in (
        "3 added · 2 changed · 7 unchanged · 1 deleted · 2 failed · 4 skipped",
        "50 embedded · 6 kept · 8 moved · 9 removed",
        "25.0 chunks/s · 5,000 tokens/s · 2.0 MB/s",
        "3.0 MiB of 512.0 MiB",
        "adopted 5 points",
        "1 part could",
        "2 documents could not be indexed whole",
        "`penstock retry --state x.db`",
    ):
        assert part in shown


def test_a_run_that_was_stopped_says_how_to_go_on() -> None:
    shown = report_text(report(status="stopped", failing=9)).plain
    assert "Run it again" in shown
    assert "retry" not in shown


def test_nothing_changed_is_one_line() -> None:
    assert report_text(report(unchanged=1200)).plain == "0 changed (1,200 documents) in 2.0 s"


def test_documents_that_failed_before_are_counted_and_not_called_unchanged() -> None:
    quiet = report_text(report(unchanged=10, parked=3, failing=3)).plain
    assert quiet.startswith(
        "0 changed (10 documents, 3 failed before) in 2.0 s\n3 documents could not be indexed whole"
    )
    busy = report_text(report(documents=1, added=1, unchanged=10, parked=3, failing=4, failed=1)).plain
    assert "10 unchanged · 0 deleted · 1 failed · 0 skipped · 3 failed before" in busy
    assert "failed before" not in report_text(report(documents=1, added=1, unchanged=10)).plain
    assert "13/20 documents" in progress.line(moment(1, listed=20, unchanged=10, parked=3), _rates())


def _rates() -> progress.Rates:
    rates = progress.Rates()
    rates.add(moment(1))
    return rates


@given(st.text())
def test_nothing_shown_can_command_a_terminal(text: str) -> None:
    shown = clean(text)
    assert all(character.isprintable() for character in shown)
    shown.encode()


@given(st.text(alphabet="abc \n", max_size=2000), st.integers(30, 300))
def test_a_snippet_is_a_stretch_of_the_text(text: str, width: int) -> None:
    shown = snippet(text, words_of("abc"), width)
    assert len(shown) <= width + 4
    assert shown.removeprefix("… ").removesuffix(" …") in " ".join(text.split())


def test_a_snippet_is_where_the_words_are() -> None:
    text = "filler " * 300 + "how a run resumes after a crash " + "filler " * 300
    words = words_of("How do I resume?")
    assert words is not None
    assert "resumes after a crash" in snippet(text, words)
    assert [match[0] for match in words.finditer("Resuming, resumes; how presume")] == ["resumes"]


def test_short_words_count_where_there_are_no_others() -> None:
    words = words_of("AI")
    assert words is not None
    assert re.findall(words, "an AI said") == ["AI"]
    assert words_of("?!") is None


@pytest.mark.parametrize(
    ("amount", "said"), [(0, "0 B"), (1536, "1.5 KiB"), (512 * MIB, "512.0 MiB"), (3 << 40, "3,072.0 GiB")]
)
def test_sizes(amount: int, said: str) -> None:
    assert text.size(amount) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0 s"), (59.5, "59.5 s"), (61, "1:01 min"), (3700, "1:01:40")])
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said


def test_the_pages_of_a_table_line_up_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    rows = [
        (f"docs/{n}.pdf", "parse", f"page {n}", "bad \x1b[31m " * (n % 7), str(n), "2026-11-21 02:00:00")
        for n in range(25)
    ]
    headings = ("document", "stage", "place", "cause", "attempts", "when")
    pages = [drawn(page, 120) for page in results.table(headings, iter(rows), per=10)]
    assert len(pages) == 3
    assert [("document" in page) for page in pages] == [True, False, False]
    starts = {line.index("parse") for page in pages for line in page.splitlines() if "parse" in line}
    assert len(starts) == 1
    assert all(f"docs/{n}.pdf" in "".join(pages) for n in range(25))
    assert "\x1b" not in "".join(pages)


def test_a_table_is_drawn_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def rows() -> Iterator[list[str]]:
        for number in range(1000):
            taken.append(number)
            yield [str(number)]

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    next(iter(results.table(["n"], rows(), per=10)))
    assert len(taken) == 10


def test_the_display_fits_where_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(as_json: bool = False, quiet: bool = False) -> type[progress.Display]:
        return type(progress.display("", as_json=as_json, quiet=quiet))

    assert chosen() is progress.Lines
    assert chosen(as_json=True) is progress.JsonLines
    assert chosen(quiet=True) is progress.Quiet
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert chosen() is progress.LiveDisplay
    monkeypatch.setenv("TERM", "dumb")
    assert chosen() is progress.Lines


def test_a_second_run_is_shown_from_its_beginning() -> None:
    """`reindex` makes several runs, and each counts from 0."""
    drawings: list[float] = []
    shown = progress.Lines()
    shown.show = lambda progress, news: drawings.append(progress.seconds)  # type: ignore[method-assign]
    for seconds in (100.0, 1.0, 2.0, 7.0):
        shown(moment(seconds, embedded=int(10 * seconds)))
    assert drawings == [100.0, 1.0, 7.0]
    assert shown.rates.of("embedded") == 10


class Shell:
    """What IPython gives in a notebook: a shell with a kernel, and handles of displays that can be updated."""

    kernel = object()

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[dict[str, str]] = []
        ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
        ipython.get_ipython = lambda: self  # type: ignore[attr-defined]
        displays.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", displays)

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Shell:
        assert raw
        assert display_id
        assert not self.shown, "a second output instead of an update"
        self.shown.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


def test_in_a_notebook_one_output_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(monkeypatch)
    with progress.watching(True, "docs → <b>x</b>") as show:
        assert isinstance(show, progress.NotebookDisplay)
        for tenth in range(21):
            show(moment(tenth / 10, embedded=tenth))
    assert 5 <= len(shell.shown) <= 7
    assert "docs → <b>x</b>" in shell.shown[0]["text/plain"]
    assert "docs → &lt;b&gt;x&lt;/b&gt;" in shell.shown[0]["text/html"]
    assert "2.0 s so far" in shell.shown[-1]["text/plain"]  # the last moment, though it came early
    monkeypatch.setattr(Shell, "kernel", None)  # IPython at a terminal
    assert isinstance(progress.display("docs"), progress.Lines)


def test_a_notebook_counts_in_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell(monkeypatch)
    with progress.counting("a → b") as update:
        for done in range(1001):
            update(done, 1000)
    assert shell.shown[0]["text/plain"] == "a → b: 0 of 1,000"
    assert shell.shown[-1]["text/plain"] == "a → b: 1,000 of 1,000"
    assert len(shell.shown) < 100


def test_progress_is_true_or_a_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every job that takes it."""
    (tmp_path / "a.txt").write_text("words")
    url, there = f"memory://{tmp_path}", f"memory://{tmp_path}/copy"
    pipeline = penstock.Pipeline(tmp_path / "a.txt", into=url, model=lambda texts: [[1.0, 2.0]] * len(texts))
    for job in (pipeline.run, pipeline.retry, pipeline.verify, pipeline.reindex, partial(penstock.copy, url, there)):
        with pytest.raises(UsageError, match="invalid progress 'yes': expected True, or a function"):
            job(progress="yes")  # type: ignore[operator]
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        patched.setenv("COLUMNS", "300")
        patched.setattr(progress.Lines, "first", 0.0)
        patched.setattr(progress.Lines, "show", lambda self, moment, news: shown.append("lines"))
        assert pipeline.run(progress=True).ok
        assert shown
        assert pipeline.verify(progress=True).ok
        assert penstock.copy(url, there, progress=True).ok
        shown.clear()
        assert penstock.ingest(tmp_path / "a.txt", f"{url}/2", model=_ones, progress=True).ok
        assert shown
        shown.clear()
        assert not pipeline.run(progress=False).embedded
    assert not shown
    assert "1/1" in capsys.readouterr().err


def _ones(texts: list[str]) -> list[list[float]]:
    return [[1.0, 2.0]] * len(texts)


def test_a_snippet_of_many_words_is_quick() -> None:
    """A long chunk that says one word over and over is looked through once."""
    text = "x " * 50 + "otters " * 200_000
    began = time.process_time()
    assert "otters otters" in snippet(text, words_of("otters"))
    assert time.process_time() - began < 5


def test_a_run_that_follows_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what an operator wants to know; while there is nothing to do it comes once a minute."""
    now = moment(10_000, documents=90)
    quiet = {
        **dict.fromkeys(("heard", "next_listing", "next_retry", "held"), None),
        "feed": False,
        "watching": True,
        "trouble": "",
        "away": "",
        "hints": 0,
        "retries": 0,
        "listed": 1_000.0,
        "in_sync": 1_180.0,
    }
    of = {"documents": 1, "p50": 0.08, "p95": 0.2, "p99": 0.3, "max": 0.4}
    none = {"documents": 0, **dict.fromkeys(("p50", "p95", "p99", "max"), None)}
    now = replace(now, live=quiet, minute={"documents": 0.25, "deleted": 0, "failed": 0}, waiting="")
    now = replace(now, freshness={"heard": of, "changed": none})
    line = live.live_line(now.to_json(), now=1_181.0)
    assert line.startswith("in sync as of 1970-01-01")
    assert line.endswith(", 1.0 s ago · listens, listed whole 3:01 min ago · last minute: 15 documents · 0 waiting")
    busy = {**quiet, "heard": 1_169.0, "next_listing": 1_601.0, "hints": 3, "retries": 2, "next_retry": 1_211.0}
    busy |= {"held": {"documents": 40}, "away": "the source cannot be listed: gone"}
    line = live.live_line(replace(now, live=busy, queued=4, oldest=12.0).to_json(), now=1_181.0)
    for part in (
        "next in 7:00 min, last heard 12.0 s ago",
        "7 waiting, the oldest for 12.0 s",
        "2 documents to try again, the next in 30.0 s",
        "40 deletions held",
        "the source cannot be listed: gone",
    ):
        assert part in line
    rows = dict(live.live_rows(now.to_json(), now=1_181.0))
    assert rows["searchable"] == "0.08 s after they were heard of (95 % within 0.20 s, 99 % within 0.30 s)"
    lines = progress.Lines()
    for second in range(1, 301):
        lines(replace(now, seconds=second))
    assert 5 <= len(capsys.readouterr().err.splitlines()) <= 7
    for second in range(301, 401):
        lines(replace(now, seconds=second, queued=1))
    assert 18 <= len(capsys.readouterr().err.splitlines()) <= 21


def test_several_are_shown_one_below_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    monkeypatch.setattr(progress, "terminal", lambda stream: Console(file=file, width=100, force_terminal=True))
    with several.Displays({"one": "one: docs", "two": "two: more"}) as shown:
        shown.show_of("one", moment(1, listed=1))
        shown.show_of("two", moment(1, listed=2))
        shown.show_of("one", moment(2, listed=3))
        shown.stopping(130)
        shown.show_of("two", moment(2.2, listed=2))
    assert (shown.stopped, shown.stop_status) == (True, 130)
    last = file.getvalue()[file.getvalue().rindex("one: docs") :]
    assert "0 of 3" in last
    assert "two: more" in last
    assert progress.STOPPING[:20] in last


def test_several_have_lines_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    with several.Displays({"one": "one: docs", "two": "two: more"}) as shown:
        shown.show_of("one", moment(1))
        shown.show_of("two", moment(2))
    assert [line.split(" s ")[0] for line in capsys.readouterr().err.splitlines()] == ["one: 1", "two: 2"]
    with several.Displays({"one": "docs"}, as_json=True) as shown:
        shown.show_of("one", moment(1))
    assert '"pipeline": "one"' in capsys.readouterr().out
