"""Targets of what a search is asked with: filters, conditions, cursors, requests, and the uris of pictures."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cli.conditions import parse_conditions
from penstock.core.errors import UsageError
from penstock.core.filter_parser import parse_filter
from penstock.core.filters import passes
from penstock.core.records import VECTOR, Chunk, Dense, Hit, Point
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.jobs.measures import ndcg
from penstock.jobs.queries import Query, checked
from penstock.jobs.questions import read_questions
from penstock.server.problems import Problem
from penstock.server.queries import MAX_COMPARISONS, parse_facet_query, parse_query
from penstock.testing.points import point
from tests.attack.fuzz.target import Target, allowed, check

_METADATA: tuple[dict[str, Any], ...] = (
    {},
    {"a": 1, "b": "x", "c": True},
    {"a": 1.0, "b": "X", "c": False, "d": [1, "1", True, 1.5]},
    {"a": 2**53, "b": "", "d": []},
    {"a": -0.0, "b": "é", "d": ["x", "é", "\U0010ffff"]},
    {"a": {"b": {"c": 3}}, "b": {"x": [{"y": 1}]}},
    {"a": None, "b": "2024-01-02", "c": [True, False]},
    {"a": "1", "b": "￿￿", "e": {"f": "2024-01-02T03:04:05Z"}},
    {"a": 1e308, "b": "'\"`\\%_", "metadata": {"id": "x"}, "id": "own"},
    {"a": [[1], [2]], "b": [None], "c": "true", "page": 7},
    {"a": 1e-320, "b": "x" * 100, "type": "own"},
)


@cache
def scratch() -> Path:
    """A folder of this process, on the memory's file system where there is one."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="penstock-fuzz-", dir=base))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _points() -> list[Point]:
    made = [
        point(n, metadata=metadata, page=None if n % 3 == 0 else n, uri=f"file:///docs/{n % 4}é.md", text=f"text {n}")
        for n, metadata in enumerate(_METADATA)
    ]
    image = made[1].chunk
    seen = Chunk("f" * 32, image.uri, 99, "", (0, 0), image=b"", metadata={"a": 1})
    return [*made, Point(seen, {VECTOR: Dense(np.ones(8, np.float32) / 3)})]


@cache
def _index() -> Any:
    from penstock.sinks.sqlite import SqliteIndex, SqliteSink

    url = f"sqlite://{scratch()}/filters.db"
    with SqliteSink(url) as sink:
        sink.open(Manifest(single(VectorSpec("fuzz", 8, "fuzz"))))
        sink.write(_points())
        sink.flush()
    index = SqliteIndex(url)
    index.open()
    return index


def _filter(data: bytes) -> None:
    """A filter that is accepted means the same to memory and to SQLite."""
    where = _json(data)
    if where is None:
        return
    with allowed(UsageError):
        _compare(where)


def _compare(where: Any) -> None:
    wanted = parse_filter(where)
    if wanted is None:
        return
    try:
        json.dumps(where, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # `check_filter` refuses it
    expected = {one.chunk.id for one in _points() if passes(one.chunk, wanted)}
    from penstock.core.filters import leaves

    if sum(1 for _ in leaves(wanted)) > MAX_COMPARISONS:
        return
    found = {hit.chunk.id for hit in _index().search(Dense(np.ones(8, np.float32)), 100, where)}
    check(found == expected, f"memory {sorted(expected)}, SQLite {sorted(found)}: {where!r}"[:2000])


def _conditions(data: bytes) -> None:
    with allowed(UsageError):
        where = parse_conditions(data.decode("utf-8", "surrogateescape").split("\x1f"))
        if where is not None:
            _compare(where)


def _cursor(data: bytes) -> None:
    """After a zero byte the cursor itself, else what base64 makes it of."""
    import base64

    if data[:1] == b"\0":
        cursor = data[1:].decode("utf-8", "surrogateescape")
    else:
        cursor = base64.urlsafe_b64encode(data).decode().rstrip("=")
    query = Query(text="x")
    with allowed(UsageError):
        own = checked(query)
        check(own.offset == 0, "an offset without a cursor")
        cursor = cursor if cursor != "own" else own.cursor(20)
        moved = checked(query, cursor)
        check(type(moved.offset) is int and 0 <= moved.offset < moved.max_depth, f"offset {moved.offset!r}")


def _request(data: bytes) -> None:
    body = _json(data)
    with allowed(UsageError, Problem):
        parse_query(body)
    with allowed(UsageError, Problem):
        parse_facet_query(body)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@cache
def _thumbnails() -> Any:
    from penstock.server.image_fetcher import ImageFetcher
    from penstock.server.settings import Settings
    from penstock.server.thumbnails import Thumbnails

    root = scratch() / "pictures"
    root.mkdir()
    (root / "a.png").write_bytes(b"inside")
    (scratch() / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(scratch() / "secret.png")
    settings = Settings(roots=(root,))
    return Thumbnails(settings, ImageFetcher(settings))


def _picture(data: bytes) -> None:
    """The uri of a chunk that somebody else wrote into the store: no picture of it is of a file outside the roots."""
    thumbnails = _thumbnails()
    uri = data.decode("utf-8", "surrogateescape").replace("ROOT", str(scratch() / "pictures"))
    chunk = Chunk("0" * 32, uri, 0, "", (0, 0), image=b"")
    thumbnails.may_show(chunk)
    with allowed(Problem):
        picture = thumbnails.picture(chunk)
        picture.etag(128)
        check(picture.read() in (b"inside", b""), f"a file outside the roots was read: {uri!r}")


def _questions(data: bytes) -> None:
    """A file of questions and answers that is accepted can be asked, of whatever chunks."""
    path = scratch() / "questions.jsonl"
    path.write_bytes(data)
    with allowed(UsageError):
        questions = read_questions(path)
        check(len(questions) == len(list(questions)), "a file that has other questions each time")
        hits = [Hit(1.0, one.chunk) for one in _points()]
        for question in questions:
            ranks = question.ranks(hits)
            check(0 <= ndcg(question.grades, ranks) <= 1, f"nDCG of {question!r}"[:2000])


TARGETS = (
    Target("questions", _questions, "lines", ("penstock.jobs", "penstock.sources"), memory=4 << 30),
    Target("filter", _filter, "json", ("penstock.core", "penstock.sinks.sqlite"), memory=4 << 30, largest=1 << 14),
    Target("conditions", _conditions, "lines", ("penstock.core", "penstock.cli"), memory=4 << 30, largest=1 << 13),
    Target("cursor", _cursor, "json", ("penstock.jobs.queries",), memory=4 << 30, largest=1 << 13),
    Target("request", _request, "json", ("penstock.server", "penstock.core", "penstock.jobs"), memory=4 << 30),
    Target("picture", _picture, "lines", ("penstock.server", "penstock.sources"), memory=4 << 30, largest=1 << 13),
)
