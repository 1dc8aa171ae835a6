"""Counters, gauges and histograms, in the text format of Prometheus."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from penstock.display.prometheus import header

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}
        self._bounds: dict[str, Sequence[float]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._counter("penstock_requests_total", "Requests answered, by route and status.")
        self._counter("penstock_refused_total", "Requests answered with 429, by reason.")
        self._counter("penstock_log_lost_total", "Lines that a log could not be written, by log: access, audit.")
        self._counter(
            "penstock_index_opened_total",
            "Openings of the index: at the start, and of each generation that is followed.",
        )
        self._histogram("penstock_request_seconds", "From a request's arrival to its answer, by route.", SECONDS)
        self._histogram(
            "penstock_stage_seconds", "Time spent in a stage: queue, embed, search, rerank, thumb, fetch.", SECONDS
        )
        self._histogram("penstock_batch_size", "Inputs embedded together, by kind.", SIZES)

    def _counter(self, name: str, description: str) -> None:
        self._help[name], self._counters[name] = ("counter", description), {}

    def _histogram(self, name: str, description: str, bounds: Sequence[float]) -> None:
        self._help[name], self._histograms[name], self._bounds[name] = ("histogram", description), {}, bounds

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        self._help[name], self._gauges[name] = ("gauge", description), value

    def count(self, name: str, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counters[name]
            counts[key] = counts.get(key, 0) + 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            histograms = self._histograms[name]
            if key not in histograms:
                histograms[key] = _Histogram(self._bounds[name])
            histograms[key].add(value)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe("penstock_stage_seconds", time.perf_counter() - began, stage=stage)

    def text(self) -> str:
        lines: list[str] = []
        with self._lock:
            for name, (kind, description) in self._help.items():
                lines += header(name, kind, description)
                if kind == "gauge":
                    lines.append(f"{name} {self._gauges[name]():g}")
                for key, value in sorted(self._counters.get(name, {}).items()):
                    lines.append(f"{name}{_labels(key)} {value:g}")
                for key, histogram in sorted(self._histograms.get(name, {}).items(), key=lambda pair: pair[0]):
                    lines += _lines(name, key, histogram)
        return "\n".join(lines) + "\n"


def _lines(name: str, key: Labels, histogram: _Histogram) -> list[str]:
    lines, seen = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        seen += count
        edge = "+Inf" if bound == float("inf") else f"{bound:g}"
        lines.append(f"{name}_bucket{_labels((*key, ('le', edge)))} {seen}")
    return [*lines, f"{name}_sum{_labels(key)} {histogram.total:.6f}", f"{name}_count{_labels(key)} {seen}"]


def _labels(key: Labels) -> str:
    escaped = (
        f'{name}="' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"' for name, value in key
    )
    return "{" + ",".join(escaped) + "}" if key else ""
