"""The command line: parses, calls the library, prints.

Nothing heavy is imported here at the top: `penstock --help` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError, StageError, UsageError
from penstock.grammar import COMPOSING, make_parser

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.display import Display
    from penstock.engine.progress import Progress, Report
    from penstock.ledger import Ledger
    from penstock.pipeline import Pipeline

OK, INCOMPLETE, USAGE, FAILED, BROKEN_PIPE, STOPPED = 0, 1, 2, 3, 141, 130


def main(argv: Sequence[str] | None = None) -> int:
    _print_anything()
    gc.set_threshold(50_000, 20, 50)  # a run makes millions of small records, and hardly a cycle among them
    try:
        try:
            parser = make_parser()
            args = parser.parse_args(argv)
            if not args.command:
                parser.error("which command? `penstock --help` lists them")
            status = COMMANDS[args.command](args)
        except SystemExit as end:  # argparse has said what there was to say
            status = end.code if isinstance(end.code, int) else OK
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # What is left in the buffer would make the interpreter complain when it flushes at its end.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        _leave_if_busy()
        return STOPPED
    except Exception as error:
        return _explain_error(error)


def _explain_error(error: Exception) -> int:
    if os.environ.get("PENSTOCK_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    _complain(_told(error))
    return USAGE if isinstance(error, UsageError) else FAILED


def _told(error: Exception) -> str:
    if isinstance(error, StageError) and isinstance(error.__cause__, PenstockError):
        return f"{_at(error)}{error.__cause__}"
    if isinstance(error, StageError):
        cause = error.__cause__
        return f"{_at(error)}{type(cause).__name__}: {cause} (PENSTOCK_DEBUG=1 shows where)"
    if isinstance(error, PenstockError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (PENSTOCK_DEBUG=1 shows where)"


def _at(error: StageError) -> str:
    from penstock.display import place

    return f"{error.stage}{' at ' + place(error.item) if error.item else ''}: "


def _complain(what: str) -> None:
    from penstock.display import clean

    lines = [line for line in map(clean, what.split("\n")) if line]
    with suppress(OSError, ValueError):  # stderr is closed: nobody is left to tell
        print("penstock: " + "\n  ".join(lines), file=sys.stderr, flush=True)


def _print_anything() -> None:
    """Names of files may be in no encoding at all: what a stream cannot say is replaced. A closed one takes all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _leave_if_busy() -> None:
    """Threads that are still in native code would crash while the interpreter takes itself apart under them."""
    if any(thread.name.startswith("penstock-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a pipe that nobody reads
                stream.flush()
        os._exit(STOPPED)


# ---------------------------------------------------------------- commands that run


def _ingest(args: argparse.Namespace) -> int:
    return _bring(_pipeline(args), args)


def _run(args: argparse.Namespace) -> int:
    from penstock.pipeline import Pipeline

    return _bring(Pipeline.from_toml(args.file), args)


def _bring(pipeline: Pipeline, args: argparse.Namespace) -> int:
    return _go(
        pipeline, args, lambda tell: pipeline.run(tell, allow_mass_delete=args.allow_mass_delete, adopt=args.adopt)
    )


def _retry(args: argparse.Namespace) -> int:
    from penstock.pipeline import Pipeline

    pipeline = Pipeline.from_state(_ledger_path(args))
    return _go(pipeline, args, pipeline.retry)


def _go(pipeline: Pipeline, args: argparse.Namespace, work: Callable[[Callable[[Progress], None]], Report]) -> int:
    with _shown(pipeline, args) as tell:
        report = work(tell)
    if args.json:
        emit({"event": "report", "ok": _status_of(report) == OK, **report.to_json()})
    elif not args.quiet:
        _show_report(report, pipeline)
    return _status_of(report)


def _show_report(report: Report, pipeline: Pipeline) -> None:
    from penstock.display import report_text
    from penstock.results import say

    say(report_text(report, again=_again(pipeline.ledger.path)))
    if report.status == "done" and not report.complete and not pipeline.source.feed:
        _complain("the source could not be listed whole, so nothing was deleted on the strength of it")


def _status_of(report: Report) -> int:
    if report.status == "stopped":
        return STOPPED
    return OK if report.ok else INCOMPLETE


@contextmanager
def _shown(pipeline: Pipeline, args: argparse.Namespace) -> Iterator[Display]:
    from penstock.display import display, place

    title = f"{place(pipeline.source.name)} → {pipeline.sink.url}"
    with display(title, as_json=args.json, quiet=args.quiet) as shown, interruptible(shown):
        yield shown


@contextmanager
def interruptible(shown: Display) -> Iterator[None]:
    """Ctrl-C: the first lets what is in flight run out, the second gives up, the third does not even tidy.

    SIGTERM is the same: a machine that is taken away says so a little before."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    presses = 0

    def pressed(number: int, at: object) -> None:
        nonlocal presses
        presses += 1
        if presses > 2:
            os._exit(STOPPED)
        shown.stopping()
        raise KeyboardInterrupt

    # Whoever started us in the background, where Ctrl-C is ignored, meant it.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pressed) for number in heard}
    try:
        yield
    except KeyboardInterrupt:
        _complain("stopped; what was written is kept. Run it again to go on from there")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _verify(args: argparse.Namespace) -> int:
    if args.parts:
        if args.repair or args.sample or args.state or args.allow_mass_delete:
            raise UsageError("a folder of parts is verified whole: no other option goes with it")
        return _of("penstock.commands.parts:verify")(args)
    from penstock.pipeline import Pipeline
    from penstock.results import rows_text, say, verification_rows

    pipeline = Pipeline.from_state(_ledger_path(args))
    with _shown(pipeline, args) as tell:
        found = pipeline.verify(
            repair=args.repair, sample=args.sample, progress=tell, allow_mass_delete=args.allow_mass_delete
        )
    if args.json:
        emit({"event": "verification", **found.to_json()})
    elif not args.quiet:
        if found.repaired is not None:
            _show_report(found.repaired, pipeline)
        say(rows_text(verification_rows(found)))
        again = _again(pipeline.ledger.path)
        if found.ok:
            say("source, ledger and index agree")
        elif not found.complete:
            say("the source could not be listed whole")
        elif found.failing == sum(number for _, number in found.differences):
            say(f"`penstock failures{again}` says why")
        elif found.repaired is None:
            say(f"they differ: `penstock verify --repair{again}` mends what can be mended")
    if found.repaired is not None and found.repaired.status == "stopped":
        return STOPPED
    return OK if found.ok else INCOMPLETE


# ---------------------------------------------------------------- commands that look


def _search(args: argparse.Namespace) -> int:
    from penstock.results import hit_body, hit_head, hit_json, say, words_of
    from penstock.search import open_index

    where = _filter(args.where)
    if args.document:
        where = {"$and": [where, {"uri": _uri(args.document)}]} if where else {"uri": _uri(args.document)}
    with open_index(args.index) as index:
        hits = index.search(args.query, args.k, where)
    if args.json:
        for hit in hits:
            emit(hit_json(hit))
        return OK
    words = words_of(args.query)
    for number, hit in enumerate(hits, 1):
        say(hit_head(number, hit))
        say(*hit_body(hit, words, full=args.full), indent=3)
    if not hits:
        _complain("nothing found")
    return OK


def _filter(text: str | None) -> dict[str, Any]:
    import json

    try:
        where = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"--where is no JSON ({error}); write it like '{{\"page\": 3}}'") from None
    if not isinstance(where, dict):
        raise UsageError("--where takes a JSON object, such as '{\"page\": 3}'")
    return where


def _uri(document: str) -> str:
    from pathlib import Path

    return document if "://" in document else Path(os.path.abspath(document)).as_uri()


def _plan(args: argparse.Namespace) -> int:
    from penstock.display import place
    from penstock.pipeline import Pipeline
    from penstock.results import plan_rows, rows_text, say

    if args.path and args.into:
        pipeline = _pipeline(args)
    elif args.path or any(getattr(args, name) is not None for name in COMPOSING):
        raise UsageError("plan takes PATH and --into, or neither: then it plans for the pipeline that the ledger knows")
    else:
        pipeline = Pipeline.from_state(_ledger_path(args))
    plan = pipeline.plan()
    if args.json:
        emit(plan.to_json())
        return OK
    say(rows_text(plan_rows(plan)))
    if plan.documents:
        say(rows_text((kind, place(uri)) for kind, uri in plan.documents))
    if (rest := plan.new + plan.changed - len(plan.documents)) > 0:
        say(f"... and {rest:,} more")
    if not plan.complete and not pipeline.source.feed:
        _complain("the source could not be listed whole: nothing would be deleted")
    return OK


def _status(args: argparse.Namespace) -> int:
    from penstock.results import rows_text, say, status_rows

    with _ledger(args) as ledger:
        settings = _settings_of(ledger)
        told: dict[str, Any] = {
            "ledger": str(ledger.path),
            "ledger_bytes": _bytes_of(ledger.path),
            "index": _places(settings),
            "source": settings.get("source"),
            **ledger.counts(),
            "runs": ledger.runs(5),
        }
    if args.json:
        emit(told)
        return OK
    say(rows_text(status_rows(told)))
    return OK


def _failures(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from penstock.display import moment, place
    from penstock.results import say, table

    with _ledger(args) as ledger:
        failures = ledger.failures()
        if args.json:
            for failure in failures:
                emit(asdict(failure))
            return OK
        rows = ((place(f.uri), f.stage, f.place, f.cause, str(f.attempts), moment(f.last)) for f in failures)
        if not ledger.counts()["failures"]:
            say("no failures")
            return OK
        for part in table(("document", "stage", "place", "cause", "attempts", "when"), rows):
            say(part)
    return OK


def _explain(args: argparse.Namespace) -> int:
    from rich.text import Text

    from penstock.display import clean
    from penstock.results import origin_rows, rows_text, say

    try:
        id = bytes.fromhex(args.id)
    except ValueError:
        id = b""
    if len(id) != 16:
        raise UsageError(f"{args.id!r} is no id: 32 hexadecimal digits, as `penstock search --json` shows them")
    with _ledger(args) as ledger:
        found = ledger.find_chunk(id)
        if found is None:
            _complain(f"the ledger {ledger.path} knows no point {id.hex()}")
            return INCOMPLETE
        document = ledger.document(found["uri"]) or {}
        newest = ledger.runs(1)[0]["id"]
        # Runs are numbered without gaps, so this many back is the one that wrote the point.
        run = ledger.runs(newest - found["run"] + 1)[-1] if found["run"] else None
        settings = _settings_of(ledger)
    told: dict[str, Any] = {"id": id.hex(), "uri": found["uri"], "document": document, "run": run}
    told |= {"index": _places(settings)} | _from_index(next(iter(settings.get("into") or ()), None), id.hex())
    if args.json:
        emit(told)
        return OK
    say(rows_text(origin_rows(told)))
    if chunk := told.get("chunk"):
        say(*(Text(clean(part)) for part in chunk["text"].split("\n")), indent=3)
    return OK


def _from_index(url: str | None, id: str) -> dict[str, Any]:
    """What the index itself knows of a point; where it cannot be read, why."""
    from dataclasses import asdict

    from penstock.places import current
    from penstock.registry import INDEXES, find, scheme

    if url is None or scheme(url) not in INDEXES:
        return {"index_says": "the index cannot be read back from here"}
    try:
        with current(find(INDEXES, scheme(url), "index")(url)) as index:
            index.open()
            told: dict[str, Any] = {"space": asdict(index.manifest().space)}
            points = index.fetch([id])
    except PenstockError as error:
        return {"index_says": str(error)}
    if not points:
        return told | {"index_says": "the index does not hold this point: `penstock verify --repair`"}
    c = points[0].chunk
    chunk = {"ordinal": c.ordinal, "span": list(c.span), "page": c.page, "headings": list(c.headings)}
    return told | {"chunk": chunk | {"metadata": dict(c.metadata), "text": c.text}}


def _reindex(args: argparse.Namespace) -> int:
    from penstock.pipeline import Pipeline
    from penstock.results import reindexed_rows, rows_text, say

    changes = {name: value for name in ("model", "chunk") if (value := getattr(args, name)) is not None}
    if (args.rollback or args.drop) == bool(changes):
        raise UsageError("reindex takes --model or --chunk or both; or --rollback; or --drop")
    pipeline = Pipeline.from_state(_ledger_path(args), **changes)
    if args.rollback or args.drop:
        urls = [pipeline.rollback()] if args.rollback else pipeline.drop_former()
        if args.json:
            emit({"current" if args.rollback else "dropped": urls})
        elif not args.quiet:
            say("\n".join(f"{'current: ' if args.rollback else 'dropped: '}{url}" for url in urls) or "nothing to drop")
        return OK
    with _shown(pipeline, args) as tell:
        made = pipeline.reindex(tell, least_recall=args.recall, incomplete=args.incomplete)
    if args.json:
        emit(made.to_json())
    elif not args.quiet:
        for report in made.reports[:-1] or made.reports:  # the last has found nothing new
            _show_report(report, pipeline)
        say(rows_text(reindexed_rows(made)))
    if made.reports[-1].status == "stopped":
        return STOPPED
    return OK if made.switched and not made.trouble and made.reports[-1].ok else INCOMPLETE


def _copy(args: argparse.Namespace) -> int:
    from penstock.copying import copy
    from penstock.display import clean, counting
    from penstock.results import copied_rows, rows_text, say

    title = clean(f"{args.index} → {args.into}")
    with counting(title, quiet=args.quiet or args.json) as tell:
        copied = copy(args.index, args.into, lambda done: tell(done.written + done.kept, done.total))
    if args.json:
        emit(copied.to_json())
    elif not args.quiet:
        say(rows_text(copied_rows(copied)))
    return OK if copied.ok else INCOMPLETE


def _models(args: argparse.Namespace) -> int:
    from penstock.display import size
    from penstock.models import list_models
    from penstock.results import say, table

    found = list_models()
    if args.json:
        for model in found:
            folder = str(model.folder) if model.folder else None
            emit({"name": model.name, "folder": folder, "bytes": model.size})
        return OK
    rows = (
        (m.name, size(m.size), str(m.folder)) if m.folder else (m.name, "", f"not here: penstock models fetch {m.name}")
        for m in found
    )
    for part in table(("model", "size", "folder"), rows):
        say(part)
    return OK


def _fetch(args: argparse.Namespace) -> int:
    from penstock.display import clean
    from penstock.models import resolve

    folder = str(resolve(args.name))
    if args.json:
        emit({"folder": folder})
    else:
        print(clean(folder))
    return OK


# ---------------------------------------------------------------- what they share


def _pipeline(args: argparse.Namespace) -> Pipeline:
    from penstock.pipeline import Settings

    given = {name: value for name in (*COMPOSING, "state") if (value := getattr(args, name)) is not None}
    return Settings.from_mapping(given | {"source": args.path}, "command line").pipeline()


def _ledger_path(args: argparse.Namespace) -> Path:
    """The ledger that is meant: the one named, else the only one there is."""
    from pathlib import Path

    from penstock.pipeline import STATE

    if args.state:
        return Path(args.state)
    found = _ledgers()
    if not found:
        raise UsageError(
            f"there is no ledger in {STATE}/ here: begin with `penstock ingest PATH --into lance://./index`,"
            " or name a ledger with --state FILE"
        )
    if len(found) > 1:
        raise UsageError(
            "there are several ledgers here; choose one:\n"
            + "\n".join(f"--state {path}{_fills(path)}" for path in found)
        )
    return found[0]


def _ledgers() -> list[Path]:
    from pathlib import Path

    from penstock.pipeline import STATE

    return sorted(path for path in Path(STATE).glob("*.db") if not path.with_suffix("").suffix)  # not `notes.1.db`


def _fills(path: Path) -> str:
    from penstock.ledger import Ledger

    try:
        with Ledger(path) as ledger:
            ledger.open(exclusive=False, create=False)
            settings = _settings_of(ledger)
    except PenstockError as error:
        return f"   ({error})"
    return f"   {', '.join(settings['source'])} → {_places(settings)}" if settings else ""


def _again(path: Path) -> str:
    """The option that names this ledger, where other commands would not find it by themselves."""
    found = [known.absolute() for known in _ledgers()]
    return "" if found == [path.absolute()] else f" --state {path}"


@contextmanager
def _ledger(args: argparse.Namespace) -> Iterator[Ledger]:
    from penstock.ledger import Ledger
    from penstock.pipeline import current_ledger

    with Ledger(current_ledger(_ledger_path(args))) as ledger:
        ledger.open(exclusive=False, create=False)
        yield ledger


def _settings_of(ledger: Ledger) -> dict[str, Any]:
    import json

    told: dict[str, Any] = json.loads(ledger.get("settings") or "{}")
    if isinstance(told.get("into"), str):  # as ledgers from before there could be several
        told["into"] = [told["into"]]
    return told


def _places(settings: dict[str, Any]) -> str | None:
    return " + ".join(settings["into"]) if settings else None


def _bytes_of(path: Path) -> int:
    """The ledger's size, with what its write-ahead log holds."""
    from pathlib import Path

    return sum(p.stat().st_size for p in (path, Path(f"{path}-wal")) if p.exists())


def emit(record: dict[str, Any]) -> None:
    import json

    print(json.dumps(record, default=str), flush=True)


def _of(target: str) -> Callable[[argparse.Namespace], int]:
    """A command that is imported when it is called."""

    def call(args: argparse.Namespace) -> int:
        from penstock.registry import load

        status: int = load(target)(args)
        return status

    return call


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ingest": _ingest,
    "run": _run,
    "search": _search,
    "plan": _plan,
    "status": _status,
    "failures": _failures,
    "retry": _retry,
    "verify": _verify,
    "explain": _explain,
    "reindex": _reindex,
    "copy": _copy,
    "embed": _of("penstock.commands.parts:embed"),
    "load": _of("penstock.commands.parts:load"),
    "import": _of("penstock.commands.parts:take"),
    "serve": _of("penstock.commands.serving:serve"),
    "models": _models,
    "models fetch": _fetch,
}
