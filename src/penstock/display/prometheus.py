"""The figures of a run, or of several, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

COUNTED = ("documents", "unchanged", "deleted", "failed", "skipped", "embedded", "moved", "written", "removed")


def run_text(progress: Mapping[str, Any], now: float | None = None) -> str:
    """Of a moment of a run, as its JSON has it."""
    return "\n".join(_lines(progress, time.time() if now is None else now)) + "\n"


def runs_text(runs: Mapping[str, Mapping[str, Any]], now: float | None = None) -> str:
    """Of moments of several runs, whose names become the label `pipeline`."""
    now = time.time() if now is None else now
    metrics: dict[str, list[str]] = {}
    for name, progress in runs.items():
        label = 'pipeline="' + name.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") + '"'
        for line in _lines(progress, now):
            if line.startswith("#"):
                lines = metrics.setdefault(line.split(" ", 3)[2], [])
                lines += [line] if len(lines) < 2 else []
            else:
                metric, value = line.rsplit(" ", 1)
                metric, _, labels = metric.rstrip("}").partition("{")
                metrics[metric].append(f"{metric}{{{','.join(filter(None, (label, labels)))}}} {value}")
    return "\n".join(line for lines in metrics.values() for line in lines) + "\n"


def _lines(progress: Mapping[str, Any], now: float) -> Iterator[str]:
    yield from _metric("penstock_run_seconds", "counter", "Seconds since the run began.", progress["seconds"])
    yield from header("penstock_run_total", "counter", "Documents and chunks of the run, by what became of them.")
    for name in COUNTED:
        yield f'penstock_run_total{{what="{name}"}} {progress[name]:g}'
    yield from header("penstock_run_per_second", "gauge", "Counts a second, over the last minute.")
    for name, value in progress["minute"].items():
        yield f'penstock_run_per_second{{what="{name}"}} {value:g}'
    waiting = "1 while a store or model that is away is waited for."
    yield from _metric("penstock_run_waiting", "gauge", waiting, bool(progress["waiting"]))
    yield from _metric("penstock_run_in_flight_bytes", "gauge", "Bytes in flight.", progress["in_flight"])
    yield from _freshness(progress["freshness"])
    if (live := progress["live"]) is not None:
        yield from _live(progress, live, now)


def _freshness(freshness: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Quantiles of the latest thousand documents of the last hour."""
    name = "penstock_freshness_seconds"
    until = "Until a document was searchable, since it was heard of, or changed: of the latest thousand."
    yield from header(name, "gauge", until)
    for since, found in freshness.items():
        for quantile, label in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"), ("max", "1")):
            if found[quantile] is not None:
                yield f'{name}{{since="{since}",quantile="{label}"}} {found[quantile]:g}'


def _live(progress: Mapping[str, Any], live: Mapping[str, Any], now: float) -> Iterator[str]:
    queued = progress["queued"] + live["hints"]
    yield from _metric("penstock_live_queued", "gauge", "Changes that wait or are worked on.", queued)
    oldest = "Seconds since the oldest of them was heard of."
    yield from _metric("penstock_live_oldest_seconds", "gauge", oldest, progress["oldest"] or 0.0)
    for name, key, description in (
        ("in_sync", "in_sync", "Seconds since the moment for which all is in the index."),
        ("heard", "heard", "Seconds since something was heard of the source."),
        ("listed", "listed", "Seconds since the last complete listing began."),
    ):
        if live[key] is not None:
            yield from _metric(f"penstock_live_{name}_age_seconds", "gauge", description, max(0.0, now - live[key]))
    trouble = "1 while the source is away, or not all of its changes are heard."
    yield from _metric("penstock_live_trouble", "gauge", trouble, bool(live["trouble"] or live["away"]))
    yield from _metric("penstock_live_retries", "gauge", "Documents that are to be tried again.", live["retries"])
    held = live["held"]["documents"] if live["held"] else 0
    yield from _metric("penstock_live_held", "gauge", "Documents whose deletion waits for approval.", held)


def _metric(name: str, kind: str, description: str, value: float) -> Iterator[str]:
    yield from header(name, kind, description)
    yield f"{name} {value:g}"


def header(name: str, kind: str, description: str) -> tuple[str, str]:
    """What comes before the values of a metric."""
    return f"# HELP {name} {description}", f"# TYPE {name} {kind}"
