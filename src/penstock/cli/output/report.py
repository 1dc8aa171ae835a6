"""The report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.display.text import accepted_part, clean, count, duration, rate, size, speed

if TYPE_CHECKING:
    from rich.text import Text

    from penstock.engine.progress import Report


def report_text(report: Report, again: str = "", *, listed: bool = True) -> Text:
    """What a run did. `again`: the options that name this ledger to other commands, where it is not the only one.
    `listed`: it went through the whole source, not only through what had failed."""
    from rich.text import Text

    text = Text()
    counts = report.counts
    parked = f"{counts['parked']:,} failed before" if counts["parked"] else ""
    if report.status == "done" and not any(
        counts[name] for name in ("documents", "deleted", "failed", "skipped", "gaps", "removed")
    ):
        documents = ", ".join(filter(None, [count(counts["unchanged"], "document"), parked]))
        nothing = f"0 changed ({documents}) in {duration(report.seconds)}" if listed else "nothing to retry"
        text.append(f"{nothing}\n")
    else:
        for name, value in _rows(report, parked):
            text.append(f"{name:<11}", style="cyan").append(f"{value}\n")
    for notice in report.notices:
        text.append(f"note: {clean(notice)}\n", style="yellow")
    for line, style in _failures(report, again):
        text.append(f"{line}\n", style=style)
    text.rstrip()
    return text


def _rows(report: Report, parked: str) -> list[tuple[str, str]]:
    c = report.counts
    seconds = max(report.seconds, 1e-9)
    documents = (
        f"{c['added']:,} added · {c['documents'] - c['added']:,} changed · {c['unchanged']:,} unchanged"
        f" · {c['deleted']:,} deleted · {c['failed']:,} failed · {c['skipped']:,} skipped"
    )
    chunks = f"{c['embedded']:,} embedded · {c['kept']:,} kept · {c['moved']:,} moved · {c['removed']:,} removed"
    time = (
        f"{duration(report.seconds)} · {rate(c['embedded'] / seconds)} chunks/s"
        f" · {rate(c['tokens'] / seconds)} tokens/s · {speed(c['bytes'] / seconds)}"
    )
    return [
        ("documents", " · ".join(filter(None, [documents, parked]))),
        ("chunks", chunks),
        ("time", time),
        ("in flight", f"at most {size(report.peak_bytes)} of {size(report.budget)}"),
    ]


def _failures(report: Report, again: str) -> list[tuple[str, str]]:
    """What the report says about failures and an early end, with the style of each line."""
    gaps, skipped, why = report.counts["gaps"], report.counts["skipped"], f"`penstock failures{again}` says why"
    lines = []
    if gaps:
        style = "red" if report.unaccepted else "yellow"
        lines.append((f"{count(gaps, 'part')} could not be read, embedded or written: {why}", style))
    if skipped and report.status == "done" and not report.failing:
        lines.append((f"{count(skipped, 'document')} skipped: {why}", "yellow"))
    if report.failing and report.status == "done":
        missing = f"{count(report.failing, 'document')} could not be indexed whole"
        missing += accepted_part(report.failing, report.accepted)
        style = "yellow" if report.accepted == report.failing else "red"
        lines.append((f"{missing}: {why}, `penstock retry{again}` tries again", style))
    if report.status == "stopped":
        lines.append(("stopped; what was written is kept. Run it again to go on from here", "bold yellow"))
    return lines
