"""Results of commands: hits, plans, verifications, tables.

At a terminal lines are wrapped and coloured; into a file or a pipe they go whole.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.cli.conditions import typed
from penstock.display.text import accepted_part, clean, document_name, duration, moment, size, terminal
from penstock.jobs.snippets import snippet

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from penstock.core.records import Hit
    from penstock.engine.journal import Failure
    from penstock.jobs.copy import Copied
    from penstock.jobs.explain import Explanation, IndexedChunk
    from penstock.jobs.plan import Plan
    from penstock.jobs.reindex import Reindexed
    from penstock.jobs.remove import Removed
    from penstock.jobs.search import DistinctHit
    from penstock.jobs.verify import Verification
    from penstock.ledger import Document
    from penstock.shards.embed import Embedded
    from penstock.shards.foreign import Imported
    from penstock.shards.load import Loaded
    from penstock.sinks.facets import Facet

Rows = list[tuple[str, str]]
"""Names and values."""


def say(*parts: RenderableType, indent: int = 0) -> None:
    """Print results. Lines wrap at a terminal's edge, and nowhere when they go to a file or a pipe."""
    from rich.padding import Padding
    from rich.text import Text

    console = terminal(sys.stdout)
    for one in parts:
        if isinstance(one, str):
            print(one)  # as it is: rich would turn tabs into spaces
        elif console.is_terminal:
            console.print(Padding(one, (0, 0, 0, indent)) if indent else one)
        else:
            console.print(Text(" " * indent) + one if isinstance(one, Text) else one, soft_wrap=True)


def hit_head(number: int, hit: Hit, index: str = "") -> Text:
    """The first line of a hit, with its `index` where several are searched."""
    from rich.text import Text

    chunk = hit.chunk
    text = Text(f"{number}  ", style="cyan")
    text.append(f"{hit.score:.3f}  ", style="default").append(document_name(chunk.uri), style="bold default")
    if chunk.page is not None:
        text.append(f"  page {chunk.page}", style="default")
    elif chunk.image is None:
        text.append(f"  characters {chunk.span[0]}–{chunk.span[1]}", style="default")
    if chunk.headings:
        text.append("  " + clean(" › ".join(chunk.headings)), style="magenta")
    if index:
        text.append(f"  in {clean(index)}", style="bright_black")
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


def copies_line(distinct: DistinctHit) -> list[Text]:
    """A line on the hits that have the same text, if there are any."""
    from rich.text import Text

    if not distinct.copies:
        return []
    uris = [document_name(uri) for uri in distinct.uris]
    more = f" and {len(uris) - SHOWN_COPIES:,} other documents" if len(uris) > SHOWN_COPIES else ""
    return [Text(f"and {len(distinct.copies):,} more: {', '.join(uris[:SHOWN_COPIES])}{more}", style="bright_black")]


def hit_json(distinct: DistinctHit, index: str) -> dict[str, Any]:
    chunk = distinct.hit.chunk
    return {
        "index": index,
        "score": distinct.hit.score,
        "id": chunk.id,
        "uri": chunk.uri,
        "page": chunk.page,
        "span": list(chunk.span),
        "headings": list(chunk.headings),
        "metadata": dict(chunk.metadata),
        "text": chunk.text,
        "copies": list(distinct.uris),
    }


def facet_text(name: str, counts: Facet) -> Text:
    """The values of a field, as --where takes them, and how many chunks have each."""
    from rich.text import Text

    text = Text(clean(name), style="bold default")
    width = max((len(f"{number:,}") for _, number in counts), default=0)
    for value, number in counts:
        text.append(f"\n{number:>{width + 3},}", style="cyan").append(f"  {clean(typed(value))}", style="default")
    return text if counts else text.append("\n   no values", style="bright_black")


def rows_text(rows: Iterable[tuple[str, str]]) -> Text:
    """Names and values, one pair a line."""
    from rich.text import Text

    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0) + 2
    text = Text()
    for name, value in rows:
        text.append(f"{name:<{width}}", style="cyan").append(f"{clean(value)}\n")
    text.rstrip()
    return text


SHOWN_COPIES = 3
"""Documents that are named in the line on copies."""
NARROW = {"stage": 7, "place": 9, "attempts": 8, "when": 19, "size": 10, "accepted": 8}
NARROW |= {"state": 7, "chunks": 9, "changed": 19, "chunk": 32, "page": 5}
"""Columns of a width of their own, so that the pages of a table line up; the others share the rest."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], per: int = 100) -> Iterable[RenderableType | str]:
    """A table of any length, in pages of `per` rows: drawn at a terminal, else one line a row with tabs between."""
    if not sys.stdout.isatty():
        yield "\t".join(headings)
        for row in rows:
            yield "\t".join(map(clean, row))
        return
    from rich.table import Table
    from rich.text import Text

    def fresh(header: bool) -> Table:
        page = Table(box=None, expand=True, show_header=header, header_style="cyan", pad_edge=False)
        for heading in headings:
            width = NARROW.get(heading)
            page.add_column(heading, width=width, ratio=None if width else 1, overflow="fold")
        return page

    current, first = fresh(True), True
    for row in rows:
        current.add_row(*(Text(clean(cell)) for cell in row))
        if current.row_count == per:
            yield current
            current, first = fresh(False), False
    if first or current.row_count:
        yield current


FAILURE_COLUMNS = ("document", "stage", "place", "cause", "attempts", "when", "accepted")


def failure_row(failure: Failure) -> tuple[str, ...]:
    f = failure
    accepted = "yes" if f.accepted else ""
    return document_name(f.uri), f.stage, f.place, f.cause, str(f.attempts), moment(f.last), accepted


def failure_text(failure: Failure) -> Text:
    """A failure with its traceback, if it has one, a line at a time."""
    from rich.text import Text

    where = " · ".join(filter(None, [failure.stage, failure.place, "accepted" if failure.accepted else ""]))
    text = Text(document_name(failure.uri), style="bold").append(f" · {clean(where)}\n", style="default")
    text.append(f"   {clean(failure.cause)}\n", style="default")
    for line in failure.traceback.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        text.append(f"   {' ' * indent}{clean(line)}\n", style="default")
    text.rstrip()
    return text


def plan_rows(plan: Plan) -> Rows:
    about = "" if plan.exact else "about "
    documents = (
        f"{plan.new:,} new · {plan.changed:,} changed · {plan.unchanged:,} unchanged · {plan.deleted:,} to delete"
        f" · {plan.unreadable:,} that could not be read"
    )
    failing = f" · {plan.failing:,} failed before (`penstock retry` tries again)" if plan.failing else ""
    return [
        ("documents", documents + failing),
        ("to read", size(plan.bytes)),
        ("to embed", f"{about}{plan.chunks:,} chunks · {about}{plan.tokens:,} tokens"),
        ("to keep", f"{about}{plan.kept:,} chunks of changed documents"),
        *([("to delete", f"{plan.removed:,} chunks of {plan.deleted:,} documents")] if plan.deleted else []),
        ("time", "not known before the first run" if plan.seconds is None else f"about {duration(plan.seconds)}"),
    ]


def verification_rows(verification: Verification) -> Rows:
    """Documents and points, and of the differences those that are not 0."""
    v = verification
    differences = [
        ("missing", v.missing, "that the ledger has and the index has not"),
        ("orphans", v.orphans, "in the index that belong to no document"),
        ("doubled", v.doubled, "that the index holds more than once"),
        ("altered", v.altered, "whose vectors differ from those that the model makes"),
        ("behind", v.behind, "stores that were away: the next run brings them up to date"),
        ("outdated", v.outdated, "documents that are new, changed or half done"),
        ("gone", v.gone, "documents that the source no longer has"),
        ("failing", v.failing, f"documents that could not be indexed{accepted_part(v.failing, v.accepted)}"),
    ]
    rows = [("documents", f"{v.documents:,}"), ("points", f"{v.points:,} in the index")]
    if v.in_sync is not None:
        rows.append(("in sync", f"as of {moment(v.in_sync)}"))
    if v.sampled:
        rows.append(("sampled", f"{v.sampled:,} vectors made again and compared"))
    if v.unseen:
        rows.append(("unseen", f"{v.unseen:,} of the sample, whose images the source no longer has as they were"))
    return rows + [(name, f"{number:,} {meaning}") for name, number, meaning in differences if number]


def removed_rows(removed: Removed, *, undo: bool, dry_run: bool) -> Rows:
    """What was removed, or would be; with `undo`, what is let in again."""
    label = "let in" if undo else "removed"
    rows = [(label, document_name(uri)) for uri in removed.uris]
    if undo:
        rows.append(("next", f"a run {'would bring' if dry_run else 'brings'} in what the source has there"))
        return rows
    if dry_run:
        rows += [("would go", document_name(uri)) for uri in removed.named]
        if more := removed.documents - len(removed.named):
            rows.append(("", f"... and {more:,} more"))
    gone = "would go" if dry_run else "are out, and stay out"
    rows.append(("documents", f"{removed.documents:,} with {removed.chunks:,} chunks {gone}"))
    rows += [("pending", f"{url} is busy or away: its next run takes them out there") for url in removed.pending]
    return rows


def explanation_rows(explanation: Explanation, index: str) -> Rows:
    """Whether a document is in the index, and why."""
    e, document = explanation, explanation.document
    rows = [("document", document_name(e.uri)), ("verdict", e.verdict), ("reason", e.reason)]
    if document is not None:
        parser = f"{document.parser or 'not known'} ({document.media_type or 'type not known'})"
        run = f"{e.run.id}, {moment(e.run.started)}" if e.run else "not known"
        rows += [
            ("state", document.state),
            ("run", run),
            ("parser", parser),
            ("bytes", "not known" if document.bytes is None else size(document.bytes)),
            ("chunks", f"{e.chunks:,} in {index}"),
        ]
        if document.searchable is not None:
            rows.append(("indexed", _fresh(document)))
    for failure in e.failures:
        at = f" at {failure.place}" if failure.place else ""
        rows.append(("failure", f"{failure.stage}{at}: {failure.cause}"))
    return rows


def _fresh(document: Document) -> str:
    """When it became searchable as it is, and how soon."""
    assert document.searchable is not None
    parts = [moment(document.searchable)]
    for seconds, what in ((document.since_heard, "it was heard of"), (document.since_changed, "it was changed")):
        if seconds is not None:
            parts.append(f"{seconds:.2f} s after {what}")
    return " · ".join(parts)


def chunk_rows(chunks: Iterable[IndexedChunk]) -> Iterator[tuple[str, str, str]]:
    """Ids, pages and first words."""
    for chunk in chunks:
        words = "not to be read in the index" if chunk.text is None else snippet(chunk.text, None, 80)
        yield chunk.id, "" if chunk.page is None else str(chunk.page), words


def copied_rows(copied: Copied) -> Rows:
    rows = [("points", f"{copied.written:,} written · {copied.kept:,} there already · {copied.total:,} in the source")]
    if copied.foreign:
        rows.append(("foreign", f"{copied.foreign:,} in the target that the source has not"))
    if copied.refused:
        rows.append(("refused", f"{len(copied.refused):,} that the target cannot hold"))
        rows += [(id[:12], clean(why)) for id, why in list(copied.refused.items())[:20]]
    return rows


def reindexed_rows(reindexed: Reindexed) -> Rows:
    rows = [("new index", f"{clean(reindexed.url)} · {reindexed.points:,} points")]
    rows += [("taken over", f"{clean(name)}: {n:,} vectors of the old index") for name, n in reindexed.taken.items()]
    if reindexed.missing:
        rows.append(("missing", f"{reindexed.missing:,} points missing, foreign or doubled"))
    if not reindexed.complete:
        rows.append(("source", "could not be listed whole, so documents would be missing"))
    if reindexed.lost:
        rows.append(("lost", "documents that the old index has and that could not be put into the new one:"))
        rows += [("", clean(uri)) for uri in reindexed.lost]
    if reindexed.recall is not None:
        rows.append(("recall", f"{reindexed.recall:.1%} of the true nearest are found"))
    if reindexed.trouble:
        rows.append(("alias", f"not moved: {clean(reindexed.trouble)}"))
    if reindexed.alias:
        rows.append(("alias", clean(reindexed.alias)))
    if reindexed.switched:
        rows.append(
            ("current", "the new one, from now on; `reindex --rollback` goes back, `reindex --drop` removes the old")
        )
    else:
        rows.append(("current", "the old one, as before"))
    return rows


def embedded_rows(embedded: Embedded) -> Rows:
    shards = f"{embedded.finished:,} finished · {embedded.open:,} open · {embedded.lost:,} taken over by others"
    parts = f"{embedded.parts:,} written to {clean(embedded.out)}"
    return [inputs_row(embedded.counts), ("parts", parts), ("shards", shards)]


def loaded_rows(loaded: Loaded) -> Rows:
    rows = [
        ("rows", f"{loaded.written:,} written · {loaded.kept:,} there already · {loaded.total:,} in all"),
        ("parts", f"{loaded.parts:,} of {loaded.of_parts:,}"),
        ("index", f"{clean(loaded.url)}{' · current from now on' if loaded.switched else ''}"),
    ]
    rows += [("missing", clean(gap)) for gap in loaded.gaps]
    rows += [("refused", clean(f"{id}: {why}")) for id, why in list(loaded.refused.items())[:20]]
    rows += [("trouble", clean(loaded.trouble))] if loaded.trouble else []
    rows += [("alias", clean(loaded.alias))] if loaded.alias else []
    return rows


def imported_rows(imported: Imported) -> Rows:
    rows = [("files", f"{imported.files:,}"), inputs_row(imported.counts)]
    return rows + [("failed", clean(f"{uri}: {why}")) for uri, why in imported.failures]


def inputs_row(counts: Mapping[str, int]) -> tuple[str, str]:
    return "inputs", " · ".join(f"{number:,} {name}" for name, number in counts.items())


def origin_rows(origin: dict[str, Any]) -> Rows:
    """Where a point comes from."""
    document, run, chunk, schema = origin["document"], origin["run"], origin.get("chunk"), origin.get("schema", {})
    rows = [
        ("id", origin["id"]),
        ("document", document_name(origin["uri"])),
        ("state", str(document.get("state"))),
        ("parser", f"{document.get('parser') or 'not known'} ({document.get('media_type') or 'type not known'})"),
        ("run", f"{run['id']}, {moment(run['started'])}" if run else "written down, not acknowledged by the index"),
        ("index", origin["index"] or "an object of your program"),
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
    if note := origin.get("index_says"):
        rows.append(("note", note))
    return rows
