"""The status tab."""

from __future__ import annotations

import time
from typing import Any

from tests.server.page.browsing import Browser
from tests.server.page.corpus import EVIL


def test_status(words: Browser) -> None:
    """The index, documents by state, failures, and the time of the last run."""
    words.click("#tab-status")
    words.until(lambda: words.shown(".card"))
    text = words.run("return document.querySelector('#status').innerText")
    for part in (
        "130\npoints",
        "hashing",
        "3\ndocuments",
        "2 in the index",
        "1 failing",
        "1 failure",
        "since the last run ended",
    ):
        assert part in text, text
    assert words.hash() == "#tab=status"
    assert not words.shown("#search")
    words.shot("status-light")
    with words.seen(theme="dark"):
        words.shot("status-dark")
    with words.seen(width=390, height=844, phone=True):
        assert words.run("return document.documentElement.scrollWidth") <= 390
    words.click("#tab-search")
    assert words.shown("#q")
    words.go("#tab=status")
    words.until(lambda: words.shown(".card"))


def test_status_of_a_run_in_progress(words: Browser) -> None:
    """Stages, queues, bytes of the budget and the bottleneck, from the run's progress."""
    text = words.driver.execute_async_script(
        "const [extra, done] = arguments; fetch('v1/status').then((it) => it.json()).then(async (status) => {"
        "const {renderStatus} = await import('./status.js'); document.querySelector('#search').hidden = true;"
        "document.querySelector('#status').hidden = false;"
        "document.querySelector('#status-body').replaceChildren(renderStatus({...status, ...extra}));"
        "done(document.querySelector('#status').innerText)})",
        {"pipeline": progress() | {"live": live()}, "trouble": f"gone {EVIL}"},
    )
    for part in (
        "Running now",
        "48.0 MiB in flight of a budget of 64.0 MiB",
        "bottleneck",
        "embed",
        "write",
        f"gone {EVIL}",
        "In sync as of\n",
        "Searchable after\n0.08 s, 95 % within 0.20 s",
        "deletion of 40 documents: penstock approve lets it go",
        f"the source is away {EVIL}",
    ):
        assert part in text, text
    widths = words.run("return [...document.querySelectorAll('.stages .full')].map(one => one.style.width)")
    assert widths == ["75%", "25%", "100%", "0%", "50%"]
    words.shot("running")


def live() -> dict[str, Any]:
    """How a run stands that follows its source."""
    now = time.time()
    return {
        "feed": False,
        "watching": True,
        "trouble": "",
        "away": f"the source is away {EVIL}",
        "hints": 2,
        "heard": now - 3,
        "listed": now - 200,
        "next_listing": now + 400,
        "in_sync": now - 1,
        "held": {"documents": 40},
        "retries": 2,
        "next_retry": now + 30,
    }


def progress() -> dict[str, Any]:
    """The progress of a run that waits for its model."""
    from penstock.engine.channel import ChannelStats
    from penstock.engine.progress import COUNTERS, Progress

    def channel(name: str, pieces: int, bytes: int, capacity: int) -> ChannelStats:
        fields = {"name": name, "pieces": pieces, "bytes": bytes, "capacity": capacity}
        empty = {key: 0 for key in ChannelStats.__dataclass_fields__ if key not in fields}
        return ChannelStats(**fields, **empty)

    mib = 1 << 20
    channels = (
        channel("items", 12, 4 * mib, 16 * mib),
        channel("chunks", 900, 40 * mib, 40 * mib),
        channel("points", 0, 0, 4 * mib),
        channel("commits", 3, 4 * mib, 8 * mib),
    )
    counts = {**dict.fromkeys(COUNTERS, 0), "documents": 1234, "embedded": 56_789, "written": 55_000, "failed": 2}
    within = {"documents": 7, "p50": 0.08, "p95": 0.2, "p99": 0.3, "max": 0.4}
    freshness = {"heard": within, "changed": within}
    return Progress(95.0, counts, channels, 64 * mib, True, 9 * mib, "", freshness=freshness).to_json()
