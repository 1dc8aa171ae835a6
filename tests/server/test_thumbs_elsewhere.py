"""Thumbnails of images in Parquet files, and at urls."""

from __future__ import annotations

import asyncio
import http.server
import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from penstock.core.errors import ParseError
from penstock.core.records import Chunk, Upsert
from penstock.engine.identity import content_of
from penstock.server import app, parquet_images, thumbnail_cache, thumbnails
from penstock.server.image_fetcher import ImageFetcher
from penstock.server.problems import Problem
from penstock.server.thumbnail_cache import Sizes, ThumbnailCache
from penstock.sinks.memory import forget
from penstock.sources.rows import Rows
from tests.server.serving import Client, chunk, fill, picture, refused, served, with_settings
from tests.server.test_thumbs import near, thumb

TABLES, URLS = "memory://serve-tables", "memory://serve-urls"
COLOURS = ("red", "green", "blue")
KEYS = ("a", "b ü/#1?", "../c")


def hidden(client: Client, number: int) -> None:
    refused(client.get(thumb(client, number)), 404, "no picture")


# ---------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "root"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def shown(root: Path) -> dict[int, str]:
    """Points by their numbers, and the colours that they have."""
    return {}


IDS: dict[int, int] = {}


def of(number: int, uri: str, image: bytes) -> Chunk:
    """A chunk by its own name, and ours."""
    id = blake2b(uri.encode() + content_of(b"", image), digest_size=16).hexdigest()
    IDS[number] = int(id, 16)
    return chunk(IDS[number], image=b"", uri=uri)


def row(client: Client, number: int, **params: str) -> str:
    return thumb(client, IDS[number], **params)


def keyed(path: Path, colours: tuple[str, ...] = COLOURS) -> None:
    images = [{"bytes": picture(colour), "path": "x.png"} for colour in colours]
    pq.write_table(pa.table({"key": KEYS, "image": images, "caption": colours}), path, row_group_size=2)


@pytest.fixture(scope="module")
def client(root: Path, shown: dict[int, str]) -> Iterator[Client]:
    outside = root.parent / "outside.parquet"
    for place in (root / "keyed.parquet", outside):
        keyed(place)
    pictures = [picture(colour) for colour in COLOURS]
    pq.write_table(pa.table({"jpg": pictures, "alt": COLOURS}), root / "numbered.PARQUET", row_group_size=2)
    pq.write_table(pa.table({"id": [2, 1, 0], "img": pictures, "alt": COLOURS}), root / "numbers.parq")
    pq.write_table(pa.table({"key": KEYS, "image": pictures[::-1], "other": pictures, "alt": COLOURS}), root / "2.parq")
    table = f"parquet://{root}/2.parq"
    chunks = []
    for change in chain(*(Rows(*told).changes() for told in ([root], [f"{table}?image=other"], [f"{table}?key="]))):
        if isinstance(change, Upsert):
            with change.item.open() as stream:
                image = stream.read()
            shown[len(chunks)] = COLOURS[pictures.index(image)]
            chunks.append(of(len(chunks), change.item.uri, image))
    (root / "linked.parquet").symlink_to(outside)
    (root / "secret.png").write_bytes(pictures[0])
    (root / "broken.parquet").write_bytes((root / "keyed.parquet").read_bytes()[:-40] + b"PAR1")
    pq.write_table(pa.table({"key": ["a"], "path": ["secret.png"]}), root / "paths.parquet")
    nothing = [picture("red"), None, b"none"]
    pq.write_table(pa.table({"image": nothing, "key": ["a", "b", "c"]}), root / "nothing.parquet")
    uris = [
        *(f"{outside.as_uri()}/a", f"{(root / 'linked.parquet').as_uri()}/a"),
        *(f"{(root / name).as_uri()}/a" for name in ("broken.parquet", "paths.parquet", "gone.parquet")),
        *(f"{(root / 'keyed.parquet').as_uri()}/{name}" for name in ("", "d", "5", "a/", "..%2Fsecret.png", "A")),
        *(f"{(root / 'numbered.PARQUET').as_uri()}/{name}" for name in ("3", "-1", "00", "²", "9" * 30, "0/0")),
        f"{(root / 'nothing.parquet').as_uri()}/b",
    ]
    chunks += [of(100 + number, uri, pictures[0]) for number, uri in enumerate(uris)]
    chunks.append(of(118, f"{(root / 'numbers.parq').as_uri()}/2", pictures[1]))  # the image of another row
    chunks.append(of(119, f"{(root / 'nothing.parquet').as_uri()}/c", b"none"))
    fill(TABLES, chunks)
    with served(TABLES, with_settings(roots=(root,))) as found:
        yield found
    forget(TABLES)


def test_rows_are_shown(client: Client, shown: dict[int, str]) -> None:
    """By their keys or their numbers, as the source names them, and of the columns it was told to read."""
    assert len(shown) == 18
    for number, colour in shown.items():
        answer = client.get(row(client, number))
        assert answer.status_code == 200, (number, answer.text)
        assert near(answer.content, (5, 5), colour), (number, colour)
        assert client.get(f"/v1/points/{IDS[number]:032x}").json()["thumb"]


def test_of_tables_nothing_else_is_shown(client: Client) -> None:
    """Outside of the root, damaged, without such a row, or with another image in it: all are one."""
    for number in range(100, 119):
        hidden(client, IDS[number])
    refused(client.get(row(client, 119)), 415)


def test_a_changed_table_shows_what_is_as_before(client: Client, root: Path) -> None:
    """A row with another image in it shows none, until the index knows."""
    place = root / "keyed.parquet"
    first = client.get(row(client, 3))
    same = client.get(row(client, 3), headers={"If-None-Match": first.headers["etag"]})
    assert (near(first.content, (5, 5), "red"), same.status_code) == (True, 304)
    before = place.read_bytes()
    keyed(place, COLOURS[::-1])
    try:
        assert near(client.get(row(client, 4)).content, (5, 5), "green")
        hidden(client, IDS[3])
    finally:
        place.write_bytes(before)


def test_keys_are_read_once(client: Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all pictures of a file; and a picture is made once, in all its sizes."""
    scans: list[str] = []
    reads: list[int] = []
    table_class, read_keys = parquet_images.ParquetTable, parquet_images._read_keys
    image = table_class.image
    monkeypatch.setattr(parquet_images, "_read_keys", lambda table, key: scans.append(key) or read_keys(table, key))
    monkeypatch.setattr(
        parquet_images.ParquetTable, "image", lambda self, *args: reads.append(args[1]) or image(self, *args)
    )
    keyed(root / "keyed.parquet")  # a new file
    for size in ("128", "256", "512"):
        for number in (3, 4, 5):
            assert client.get(row(client, number, size=size)).status_code == 200
    assert (scans, reads) == (["key"], [0, 1, 2])


def test_what_is_large_is_left_alone(client: Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image; a row group; a file of too many keys."""
    for holder, name, status in (
        (thumbnails, "MAX_BYTES", 413),
        (parquet_images, "MAX_GROUP", 404),
        (parquet_images, "MAX_KEYS", 404),
    ):
        keyed(root / "keyed.parquet")
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, 2)
            refused(client.get(row(client, 3)), status)


def test_places_of_the_latest_files_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_images, "MAX_KEYS", 7)
    keyed(place := root.parent / "one.parquet")
    found = parquet_images.ParquetImages()
    for stamp in ("1", "2", "1", "3"):
        assert found.image(stamp, partial(open, place, "rb"), "a", bool) == picture("red")
    assert list(found._keys) == ["1", "3"]


# ---------------------------------------------------------------- urls


class _Web(http.server.BaseHTTPRequestHandler):
    asked: Counter[str]
    go_on: threading.Event

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.asked[path] += 1
        content = {"/page.jpg": b"<html>", "/large.png": bytes(60_000)}.get(path, picture("green", size=(600, 300)))
        if path.startswith("/slow"):
            self.go_on.wait(5)
        elif path == "/once.png":
            time.sleep(0.1)
        self.send_response(302 if path == "/away.png" else 404 if path == "/gone.png" else 200)
        self.send_header("Location", f"http://127.0.0.2:{self.server.server_address[1]}/private.png")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


PATHS = (
    *("once.png", "gone.png", "page.jpg", "large.png", "away.png"),
    *("slow.png", "slow2.png", "slow3.png", "seen", "text.html"),
)


class Web:
    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.go_on = threading.Event()
        handler = type("Handler", (_Web,), {"asked": self.asked, "go_on": self.go_on})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Web]:
    found = Web()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,))
    thread.start()
    chunks = [
        chunk(
            number, image=None if "html" in name else b"", uri=f"{found.url}/{name if '.' in name else name + '.png'}"
        )
        for number, name in enumerate(PATHS)
    ]
    chunks.append(chunk(50, image=picture("red")))
    fill(URLS, chunks)
    try:
        yield found
    finally:
        found.go_on.set()
        found.server.shutdown()
        thread.join()
        found.server.server_close()
        forget(URLS)


def number_of(name: str) -> int:
    return PATHS.index(name)


@pytest.fixture
def fetching(web: Web, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(app, "ImageFetcher", partial(ImageFetcher, judge=lambda address: address == "127.0.0.1"))
    monkeypatch.setattr(thumbnails, "FETCH_THREADS", 3)  # of which one client has two
    with served(URLS, with_settings(fetch_urls=True, body=50_000, seconds=1.0)) as found:
        yield found


def test_urls_are_not_fetched_unless_told(web: Web) -> None:
    """And with no link, a page shows no broken picture. Told so, only public addresses are."""
    with served(URLS) as client:
        hidden(client, number_of("once.png"))
        assert client.get(f"/v1/points/{number_of('once.png'):032x}").json()["thumb"] is None
    with served(URLS, with_settings(fetch_urls=True)) as client:
        hidden(client, number_of("once.png"))
    assert not web.asked


def test_a_url_is_fetched_once_for_many(fetching: Client, web: Web) -> None:
    """For all who ask at once, and later, whatever the size; not at all for who has it."""
    one = number_of("once.png")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda size: fetching.get(thumb(fetching, one, size=size)), ("128", "256", "512") * 2))
    assert all(near(answer.content, (5, 5), "green") for answer in answers)
    widths = [Image.open(io.BytesIO(answer.content)).width for answer in answers]
    assert widths == [128, 256, 512] * 2
    etag = answers[0].headers["etag"]
    assert fetching.get(thumb(fetching, one, size="128"), headers={"If-None-Match": etag}).status_code == 304
    assert "max-age" in answers[0].headers["cache-control"]
    assert web.asked == {"/once.png": 1}
    hits = {hit["uri"]: hit["thumb"] for hit in fetching.get("/v1/search", params={"q": "x", "k": "50"}).json()["hits"]}
    assert hits[f"{web.url}/once.png"]
    assert hits[f"{web.url}/text.html"] is None
    hidden(fetching, number_of("text.html"))


def test_what_cannot_be_fetched(fetching: Client, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there, html, too large, led to a private address: a clear answer, remembered for a while."""
    for _ in range(2):
        hidden(fetching, number_of("gone.png"))
        hidden(fetching, number_of("away.png"))
        refused(fetching.get(thumb(fetching, number_of("page.jpg"))), 415, "HTML")
        refused(fetching.get(thumb(fetching, number_of("large.png"))), 413, "50,000 bytes")
    assert web.asked == {"/gone.png": 1, "/away.png": 1, "/page.jpg": 1, "/large.png": 1}
    with monkeypatch.context() as patch:
        later = time.monotonic() + thumbnail_cache.RETRY_AFTER
        patch.setattr(thumbnail_cache, "time", SimpleNamespace(monotonic=lambda: later))  # not that of the event loop
        hidden(fetching, number_of("gone.png"))
    assert web.asked["/gone.png"] == 2


def test_slow_hosts_hold_up_nobody_else(fetching: Client, web: Web) -> None:
    """Searches and pictures from here are answered; the slow one is given up, and then others have their turn."""
    with ThreadPoolExecutor(3) as pool:
        slow = [
            pool.submit(fetching.get, thumb(fetching, number_of(name)))
            for name in ("slow.png", "slow2.png", "slow3.png")
        ]
        while sum(web.asked.values()) < 2:
            time.sleep(0.01)
        began = time.monotonic()
        assert fetching.get("/v1/search", params={"q": "x"}).status_code == 200
        assert fetching.get(thumb(fetching, 50)).status_code == 200
        assert time.monotonic() - began < 0.5
        assert [answer.result().status_code for answer in slow] == [504] * 3
    assert fetching.get(thumb(fetching, number_of("seen"))).status_code == 200


# ---------------------------------------------------------------- made once


def run(task: Callable[[ThumbnailCache], Any], threads: int = 1) -> Any:
    async def begin() -> Any:
        return await task(ThumbnailCache("test", threads))

    return asyncio.run(begin())


def counted(calls: list[str], name: str, size: int = 1) -> Callable[[], Sizes]:
    return lambda: calls.append(name) or {128: bytes(size)}  # type: ignore[func-returns-value]


def test_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail_cache, "MAX_BYTES", 10)
    calls: list[str] = []

    async def task(kept: ThumbnailCache) -> None:
        for name in ("a", "b", "a", "c", "a", "b"):
            await kept.get(name, counted(calls, name, 4), "somebody")
        assert kept._bytes == 8
        await kept.get("d", counted(calls, "d", 11), "somebody")
        assert kept._bytes == 0

    run(task)
    assert calls == ["a", "b", "c", "b", "d"]


def test_what_nobody_waits_for_is_not_begun() -> None:
    """Who has waited long enough takes nothing from the others, and what has begun is kept for the next."""
    calls: list[str] = []
    go_on = threading.Event()

    def slow() -> Sizes:
        go_on.wait(5)
        return counted(calls, "slow")()

    async def task(kept: ThumbnailCache) -> None:
        first, second = (asyncio.create_task(kept.get("slow", slow, "somebody")) for _ in range(2))
        queued = asyncio.create_task(kept.get("queued", counted(calls, "queued"), "somebody"))
        await asyncio.sleep(0.02)
        first.cancel()
        queued.cancel()
        await asyncio.sleep(0.02)
        go_on.set()
        assert await second == {128: b"\0"}
        assert await kept.get("slow", slow, "somebody") == {128: b"\0"}
        await kept.get("next", counted(calls, "next"), "somebody")
        assert not kept._jobs

    run(task)
    assert calls == ["slow", "next"]


def test_failures_are_remembered_if_they_were_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them; a fault of our own is not."""
    monkeypatch.setattr(thumbnail_cache, "MAX_FAILURES", 1)
    calls: list[str] = []

    def fails(error: Exception) -> Sizes:
        calls.append(str(error))
        raise error

    async def task(kept: ThumbnailCache) -> None:
        for name in ("a", "a", "b", "a"):
            with pytest.raises((ParseError, Problem), match=name):
                await kept.get(name, partial(fails, ParseError(name)), "somebody")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await kept.get("0", partial(fails, ZeroDivisionError("0")), "somebody")

    run(task)
    assert calls == ["a", "b", "a", "0", "0"]
