"""A day of Hacker News as a script, and an oracle: what an index of it should hold."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from typing import Any

from penstock.core.records import Point
from penstock.testing.hackernews import Event
from penstock.testing.hackernews_pages import READABLE, sentence

A_DAY = 12_600
"""Items of a day."""
PAGES = ("ok",) * 40 + ("redirect", "plain", "pdf", "missing", "error", "broken", "huge", "slow") + ("",) * 8
"""Kinds of the pages of stories, as often as they come; some have none."""


def tape(*, hours: float = 24.0, items: int | None = None, seed: int = 0, first: int = 1000) -> list[Event]:
    """Stories, asks, jobs, polls and comments, in the proportions that they have. Some are null at first; some are
    edited, deleted, killed and revived later on; scores change. The last tenth of the time brings nothing new."""
    rng = random.Random(seed)
    count = int(A_DAY * hours / 24) if items is None else items
    seconds = hours * 3600
    events: list[Event] = []
    roots: list[int] = []
    threads: list[int] = []
    for number in range(first, first + count):
        at = seconds * 0.9 * (number - first) / count
        fields = _item(number, rng, threads)
        if rng.random() < 0.3:
            events.append(Event(at, "null", number))
            at += rng.expovariate(1 / 20)
        events.append(Event(at, "put", number, fields))
        if "parent" not in fields:
            roots.append(number)
        threads.append(number)
        events += _later(number, fields, at, seconds * 0.95, rng)
    for _ in range(count // 4):
        number = rng.choice(roots)
        born = seconds * 0.9 * (number - first) / count + 120
        at = min(seconds * 0.95, born + rng.expovariate(1 / 3600))
        events.append(Event(at, "edit", number, {"score": rng.randrange(2, 900)}))
    return sorted(events, key=lambda event: event.at)


def _item(number: int, rng: random.Random, threads: list[int]) -> dict[str, Any]:
    fields: dict[str, Any] = {"by": f"user{rng.randrange(500)}"}
    if threads and rng.random() < 0.88:
        near = threads[-40:]
        text = f"Answer {number} &amp; more:<p>the gate of lock <i>{number * 31}</i> is open."
        return {**fields, "type": "comment", "parent": rng.choice(near), "text": text}
    fields |= {"score": 1, "descendants": 0}
    kind = rng.choices(("story", "ask", "job", "poll"), (85, 9, 3, 3))[0]
    if kind == "ask":
        return {**fields, "type": "story", "title": f"Ask HN: Question {number}?", "text": f"About lock {number}."}
    if kind == "poll":
        return {**fields, "type": "poll", "title": f"Poll {number}", "text": f"Which lock, {number}?"}
    page = rng.choice(PAGES)
    url = {"url": f"/page/{page}/{number}"} if page else {}
    return {**fields, "type": kind, "title": f"Title {number} of a {kind}", **url}


def _later(number: int, fields: Mapping[str, Any], at: float, end: float, rng: random.Random) -> list[Event]:
    def later(mean: float) -> float:
        return min(end, at + 30 + rng.expovariate(1 / mean))

    chance = rng.random()
    if chance < 0.06:
        return [Event(later(900), "delete", number)]
    if chance < 0.09:
        return [Event(later(900), "kill", number)]
    if chance < 0.10:
        killed = later(900)
        return [Event(killed, "kill", number), Event(min(end, killed + 600), "revive", number)]
    if chance < 0.13:
        edited = (
            {"text": fields["text"] + "<p>Edited."} if "text" in fields else {"title": f"{fields['title']}, edited"}
        )
        return [Event(later(900), "edit", number, edited)]
    return []


# ---------------------------------------------------------------- the oracle


@dataclass(frozen=True, slots=True)
class Expected:
    """A document as it should be: what its text says, each in its turn, and its metadata."""

    says: tuple[str, ...]
    metadata: Mapping[str, Any]


def documents(items: Mapping[int, Mapping[str, Any] | None], *, first: int = 0) -> dict[str, Expected]:
    """Uri -> document, of a server's items, from a number on. It knows nothing of the source, only of the API."""
    return {
        f"https://news.ycombinator.com/item?id={number}": _expected(number, item, items)
        for number, item in items.items()
        if number >= first and item is not None and not item.get("deleted") and not item.get("dead")
    }


def _expected(number: int, item: Mapping[str, Any], items: Mapping[int, Mapping[str, Any] | None]) -> Expected:
    text = item.get("text", "").replace("<i>", "").replace("</i>", "")
    says = [unescape(part) for part in (item.get("title", ""), *text.split("<p>")) if part]
    page = item.get("url", "").partition("/page/")[2]
    kind, _, own = page.partition("/")
    if kind in READABLE:
        says.append(sentence(int(own)))
    root, depth = number, 0
    while (parent := (items.get(root) or {}).get("parent")) is not None:
        root, depth = parent, depth + 1
    metadata = {name: item[name] for name in ("type", "by", "title", "url", "score", "descendants") if name in item}
    metadata |= {"number": number, "root": root, "depth": depth}
    metadata["time"] = datetime.fromtimestamp(item["time"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if "parent" in item:
        metadata["parent"] = item["parent"]
    if "kids" in item:
        metadata["kids"] = len(item["kids"])
    return Expected(tuple(says), metadata)


def differences(points: Iterable[Point], expected: Mapping[str, Expected]) -> list[str]:
    """What the points of an index have that they should not, or lack. Nothing where they are as they should be."""
    texts: dict[str, dict[int, str]] = {}
    found: list[str] = []
    for point in points:
        texts.setdefault(point.uri, {})[point.chunk.ordinal] = point.text
        for name, value in expected[point.uri].metadata.items() if point.uri in expected else ():
            if (own := point.metadata.get(name)) != value:
                found.append(f"{point.uri}: {name} is {own!r}, not {value!r}")
    found += [f"{uri}: should not be there" for uri in texts.keys() - expected.keys()]
    found += [f"{uri}: is not there" for uri in expected.keys() - texts.keys()]
    for uri in texts.keys() & expected.keys():
        text = " ".join(" ".join(part for _, part in sorted(texts[uri].items())).split())
        found += [f"{uri}: does not say {part!r}" for part in expected[uri].says if part not in text]
    return sorted(found)
