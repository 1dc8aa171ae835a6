"""How answers look: what was found, planned, verified, listed.

At a terminal lines are broken and drawn; into a file or a pipe they go whole. `clean` sees whatever goes out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from penstock.cli.display import clean, duration, moment, place, size, terminal
from penstock.jobs.snippets import snippet as snippet
from penstock.jobs.snippets import words_of as words_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from penstock.core.records import Hit
    from penstock.jobs.copy import Copied
    from penstock.jobs.plan import Plan
    from penstock.jobs.reindex import Reindexed
    from penstock.jobs.verify import Verification

Rows = list[tuple[str, str]]
"""Names and what they are."""


def say(*what: RenderableType, indent: int = 0) -> None:
    """Print results. Lines break at a terminal's edge, and nowhere when they go to a file or a pipe."""
    from rich.padding import Padding
    from rich.text import Text

    console = terminal(sys.stdout)
    for one in what:
        if isinstance(one, str):
            print(one)  # as it is: rich would turn tabs into spaces
        elif console.is_terminal:
            console.print(Padding(one, (0, 0, 0, indent)) if indent else one)
        else:
            console.print(Text(" " * indent) + one if isinstance(one, Text) else one, soft_wrap=True)


def hit_head(number: int, hit: Hit) -> Text:
    from rich.text import Text

    chunk = hit.chunk
    text = Text(f"{number}  ", style="cyan")
    text.append(f"{hit.score:.3f}  ", style="default").append(place(chunk.uri), style="bold default")
    if chunk.page is not None:
        text.append(f"  page {chunk.page}", style="default")
    elif chunk.image is None:
        text.append(f"  characters {chunk.span[0]}–{chunk.span[1]}", style="default")
    if chunk.headings:
        text.append("  " + clean(" › ".join(chunk.headings)), style="magenta")
    return text


def hit_body(hit: Hit, words: re.Pattern[str] | None, *, full: bool = False) -> list[Text]:
    """A snippet, or the whole chunk a line at a time, with the query's words emphasised."""
    from rich.text import Text

    body = [clean(line) for line in hit.chunk.text.split("\n")] if full else [snippet(hit.chunk.text, words)]
    if hit.chunk.image is not None:
        size = " × ".join(str(hit.chunk.metadata[name]) for name in ("width", "height") if name in hit.chunk.metadata)
        body = [f"image {size}".strip(), *filter(None, body)]
    shown = [Text(line) for line in body]
    for text in shown:
        if words:
            text.highlight_regex(words, style="bold yellow")
    return shown


def hit_json(hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "score": hit.score,
        "id": chunk.id,
        "uri": chunk.uri,
        "page": chunk.page,
        "span": list(chunk.span),
        "headings": list(chunk.headings),
        "metadata": dict(chunk.metadata),
        "text": chunk.text,
    }


def rows_text(rows: Iterable[tuple[str, str]]) -> Text:
    """Names and what they are, one a line."""
    from rich.text import Text

    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 2
    text = Text()
    for name, value in rows:
        text.append(f"{name:<{width}}", style="cyan").append(f"{clean(value)}\n")
    text.rstrip()
    return text


NARROW = {"stage": 7, "place": 9, "attempts": 8, "when": 19, "size": 10}
"""Columns of a width of their own, so that the pages of a table line up; the others share the rest."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], page: int = 100) -> Iterable[RenderableType | str]:
    """A table of any length, a page at a time: drawn at a terminal, else one line a row with tabs between."""
    if not sys.stdout.isatty():
        yield "\t".join(headings)
        for row in rows:
            yield "\t".join(map(clean, row))
        return
    from rich.table import Table
    from rich.text import Text

    def fresh(header: bool) -> Table:
        made = Table(box=None, expand=True, show_header=header, header_style="cyan", pad_edge=False)
        for heading in headings:
            width = NARROW.get(heading)
            made.add_column(heading, width=width, ratio=None if width else 1, overflow="fold")
        return made

    current, first = fresh(True), True
    for row in rows:
        current.add_row(*(Text(clean(cell)) for cell in row))
        if current.row_count == page:
            yield current
            current, first = fresh(False), False
    if first or current.row_count:
        yield current


def plan_rows(plan: Plan) -> Rows:
    about = "" if plan.exact else "about "
    return [
        (
            "documents",
            f"{plan.new:,} new · {plan.changed:,} changed · {plan.unchanged:,} unchanged · {plan.deleted:,} to delete"
            f" · {plan.unreadable:,} that could not be read",
        ),
        ("to read", size(plan.bytes)),
        ("to embed", f"{about}{plan.chunks:,} chunks · {about}{plan.tokens:,} tokens"),
        ("to keep", f"{about}{plan.kept:,} chunks of changed documents"),
        ("time", "not known before the first run" if plan.seconds is None else f"about {duration(plan.seconds)}"),
    ]


def verification_rows(found: Verification) -> Rows:
    """What there is, and those differences that there are."""
    differences = [
        ("missing", found.missing, "that the ledger has and the index has not"),
        ("orphans", found.orphans, "in the index that belong to no document"),
        ("doubled", found.doubled, "that the index holds more than once"),
        ("altered", found.altered, "whose vectors are not what the model makes of them"),
        ("behind", found.behind, "of the stores were away: the next run brings them up to date"),
        ("outdated", found.outdated, "documents that are new, changed or half done"),
        ("gone", found.gone, "documents that the source no longer has"),
        ("failing", found.failing, "documents that could not be brought in"),
    ]
    rows = [("documents", f"{found.documents:,}"), ("points", f"{found.points:,} in the index")]
    if found.sampled:
        rows.append(("sampled", f"{found.sampled:,} vectors made again and compared"))
    if found.unseen:
        rows.append(("unseen", f"{found.unseen:,} of the sample, whose images the source does not show as they were"))
    return rows + [(name, f"{number:,} {what}") for name, number, what in differences if number]


def copied_rows(copied: Copied) -> Rows:
    rows = [("points", f"{copied.written:,} written · {copied.kept:,} there already · {copied.total:,} in the source")]
    if copied.foreign:
        rows.append(("foreign", f"{copied.foreign:,} in the target that the source has not"))
    if copied.refused:
        rows.append(("refused", f"{len(copied.refused):,} that the target cannot hold"))
        rows += [(id[:12], clean(why)) for id, why in list(copied.refused.items())[:20]]
    return rows


def reindexed_rows(made: Reindexed) -> Rows:
    rows = [("new index", f"{clean(made.url)} · {made.points:,} points")]
    if made.missing:
        rows.append(("missing", f"{made.missing:,} points missing, foreign or doubled"))
    if not made.complete:
        rows.append(("source", "could not be listed whole, so documents would be missing"))
    if made.lost:
        rows.append(("lost", "documents that the old index has and the new one could not be given:"))
        rows += [("", clean(uri)) for uri in made.lost]
    if made.recall is not None:
        rows.append(("recall", f"{made.recall:.1%} of the true nearest are found"))
    if made.trouble:
        rows.append(("alias", f"not moved: {clean(made.trouble)}"))
    if made.alias:
        rows.append(("alias", clean(made.alias)))
    if made.switched:
        rows.append(
            ("current", "the new one, from now on; `reindex --rollback` goes back, `reindex --drop` removes the old")
        )
    else:
        rows.append(("current", "the old one, as before"))
    return rows


def status_rows(told: dict[str, Any]) -> Rows:
    yours = "(an object of your program)"
    return [
        ("source", ", ".join(told["source"] or [yours])),
        ("index", told["index"] or yours),
        ("ledger", f"{told['ledger']} ({size(told['ledger_bytes'])})"),
        (
            "documents",
            f"{told['documents']:,}: {told['done']:,} done · {told['open']:,} unfinished ·"
            f" {told['failed']:,} failed · {told['skipped']:,} skipped",
        ),
        ("chunks", f"{told['acknowledged']:,} in the index"),
        ("failures", f"{told['failures']:,}"),
        *((f"run {run['id']}", _run(run)) for run in told["runs"]),
    ]


def _run(run: dict[str, Any]) -> str:
    if run["ended"] is None:
        return f"{moment(run['started'])}  running, or killed: the next run makes up for it"
    told = f"{moment(run['started'])}  {run['status']} in {duration(run['ended'] - run['started'])}"
    if counts := run["report"].get("counts"):
        told += f" · {counts['documents']:,} documents · {counts['embedded']:,} chunks embedded"
        told += f" · {counts['deleted']:,} deleted · {counts['failed']:,} failed"
    return told


def origin_rows(told: dict[str, Any]) -> Rows:
    """Where a point comes from."""
    document, run, chunk, schema = told["document"], told["run"], told.get("chunk"), told.get("schema", {})
    rows = [
        ("id", told["id"]),
        ("document", place(told["uri"])),
        ("state", str(document.get("state"))),
        ("parser", f"{document.get('parser') or 'not known'} ({document.get('media_type') or 'type not known'})"),
        ("run", f"{run['id']}, {moment(run['started'])}" if run else "written down, not acknowledged by the index"),
        ("index", told["index"] or "an object of your program"),
    ]
    if chunk:
        rows.append(("chunk", f"number {chunk['ordinal']}, characters {chunk['span'][0]}–{chunk['span'][1]}"))
        if chunk["page"] is not None:
            rows.append(("page", str(chunk["page"])))
        if chunk["headings"]:
            rows.append(("headings", " › ".join(chunk["headings"])))
    for name, spec in schema.get("vectors", {}).items():
        label = "model" if len(schema["vectors"]) == 1 else f"model of {name}"
        rows.append((label, f"{spec['model']} ({spec['dim']} dimensions), {schema['chunking']}"))
    if note := told.get("index_says"):
        rows.append(("note", note))
    return rows
