"""What is behind lists of urls, fetched from a server in this process."""

from __future__ import annotations

import http.server
import io
import itertools
import json
import os
import pickle
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock import Pipeline, Report, open_index
from penstock.compose import embed
from penstock.core.errors import LimitExceeded, MissingExtra, ParseError, SourceError, UsageError
from penstock.core.records import Item, ListingEnd, Unreadable, Upsert
from penstock.ledger import Ledger
from penstock.shards import verify
from penstock.shards.listing import Listing, share
from penstock.sinks.memory import forget
from penstock.sources import from_url
from penstock.sources.urls import LINE, Urls
from penstock.support import fetching
from penstock.support.addresses import near
from penstock.support.fetching import Fetched, Fetcher, Manners
from penstock.testing import hostile_host as bad
from penstock.testing.embedders import HashingEmbedder
from penstock.testing.hostile_host import HostileHost
from penstock.testing.source_suite import MakeSource, Put, Remove, SourceSuite

Image = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "tests" / "data" / "shapes-clip")


class Site(http.server.ThreadingHTTPServer):
    """Answers by path, and notes what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.asked.append(self.path)
        try:
            page = site.pages.get(self.path.partition("?")[0][1:])
            if callable(page):
                page(self)
            else:
                answer(self, 404 if page is None else 200, page or b"")
        except OSError:
            pass  # who asked has gone

    def log_message(self, *_: object) -> None:
        pass


def answer(
    request: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    length: int | None = None,
    **headers: str,
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(fetching, "_manners", Manners())  # hosts forget between two tests
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (48, 40), colour).save(file, "PNG")
    return file.getvalue()


def listed(source: Urls) -> tuple[dict[str, Item], list[str]]:
    """Items by uri; and causes, all else being well."""
    changes = list(source.changes())
    assert changes[-1] == ListingEnd()
    found = {change.item.uri: change.item for change in changes if type(change) is Upsert}
    return found, [change.cause for change in changes if type(change) is Unreadable and not change.listing]


class TestUrls(SourceSuite):
    """The list says with a column that the content is another."""

    @pytest.fixture
    def write(self, site: Site, tmp_path: Path) -> Any:
        versions = itertools.count()
        rows: dict[str, int] = {}

        def write(name: str, content: bytes | None) -> None:
            rows[name] = next(versions)
            site.pages[f"s/{name}"] = content or b""
            if content is None:
                del rows[name]
            lines = [f"{site.url('s/' + name)},{version}\n" for name, version in sorted(rows.items())]
            (tmp_path / "list.csv").write_text("url,version\n" + "".join(lines))

        return write

    @pytest.fixture
    def make_source(self, tmp_path: Path) -> MakeSource:
        return lambda: Urls(f"urls://{tmp_path}/list.csv?private=1")

    @pytest.fixture
    def put(self, write: Any) -> Put:
        return lambda name, content: write(name, content)

    @pytest.fixture
    def remove(self, write: Any) -> Remove:
        return lambda name: write(name, None)

    @pytest.fixture
    def break_listing(self, tmp_path: Path) -> Any:
        """A quote that is not closed: nobody knows which urls there were."""
        return lambda: (tmp_path / "list.csv").write_text('url,version\nhttp://x.example/a,"1\n' + "x,2\n" * 50_000)


def test_lists_of_all_kinds(tmp_path: Path) -> None:
    """The same two rows in each; broken lines are named by number, and what is secret is not."""
    one, two = "https://example.org/1.jpg?size=9", "http://example.org/2"
    rows = [{"URL": one, "TEXT": "a cat", "n": 1}, {"URL": two, "TEXT": None, "n": 2}]
    (tmp_path / "a.txt").write_text(
        f"\ufeff{one}\n\n# a comment\n{two}\nno url\nhttps://user:pw@example.org/x\n{'x' * LINE}\n"
    )
    (tmp_path / "b.csv").write_text(f'url,caption,n\n{one},"a\ncat",1\n{two},,2\n,,\n')
    (tmp_path / "c.tsv").write_text(f"url\tcaption\tn\n{one}\ta cat\t1\n{two}\t\t2\n")
    (tmp_path / "d.jsonl").write_text("\n".join([*map(json.dumps, rows), "[]", "{", "[" * 9999, "{}"]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    for name, caption, causes in (
        ("a.txt", None, ["row 5: this is no url", "row 6: this is no url", f"row 7: it has more than {LINE:,} bytes"]),
        ("b.csv", "a\ncat", ["row 5: it names no image"]),
        ("c.tsv", "a cat", []),
        ("d.jsonl", "a cat", [*(f"row {n}: it is no JSON object" for n in (3, 4, 5)), "row 6: it names no image"]),
        ("e.parquet", "a cat", []),
    ):
        found, bad = listed(Urls(tmp_path / name))
        assert list(found) == [one, two], name
        assert found[one].metadata.get("caption") == caption
        assert caption is None or str(found[one].metadata["n"]) == "1"
        assert [cause[: len(wanted)] for cause, wanted in zip(bad, causes, strict=True)] == causes
        assert "pw" not in "".join(bad)
    source = from_url([f"urls://{tmp_path}/"], skip=[tmp_path / "a.txt"])
    assert isinstance(source, Urls)
    assert list(listed(source)[0]) == [one, two]
    assert source.passed_over["duplicate"] == 6


def test_what_is_unclear_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\nx,y\n")
    (tmp_path / "b.csv").write_text("https://u:pw@example.org/a.jpg?key=secret\n")
    with pytest.raises(UsageError, match=r"url=NAME\. There are: 'a', 'b'"):
        Urls(tmp_path / "a.csv").open()
    with pytest.raises(UsageError, match=r"There are: 'https://example\.org/a\.jpg'$"):
        Urls(tmp_path / "b.csv").open()
    with pytest.raises(
        UsageError, match=r"unknown option 'image' of urls://.*: it takes url, caption, key, private, robots, contact$"
    ):
        Urls(f"urls://{tmp_path}/a.csv?image=b")
    (tmp_path / "a.csv").write_text("a,b\nhttp://example.org/,y\n")
    assert list(listed(Urls(f"urls://{tmp_path}/a.csv?url=a"))[0]) == ["http://example.org/"]


def test_signatures_are_not_kept(tmp_path: Path) -> None:
    """They are no part of a name; two urls that are one without them are not taken for one in silence."""
    url = "https://example.org/{}.jpg?X-Amz-Signature={}"
    (tmp_path / "a.txt").write_text("\n".join([url.format("a", 1), url.format("a", 2), url.format("b", 1)]))
    source = Urls(tmp_path / "a.txt")
    found, causes = listed(source)
    assert list(found) == ["https://example.org/a.jpg", "https://example.org/b.jpg"]
    assert len(causes) == 1
    assert "secret" in causes[0]
    assert "Signature" not in repr(found) + repr(source) + causes[0]


def fetched(url: str, private: bool = True) -> bytes:
    with closing(Fetched(url, private)()) as stream:
        return stream.read()


def test_what_passes_and_what_does_not(site: Site) -> None:
    """Nothing there, not public and too much are final; the rest may pass."""
    site.pages |= {
        "good": b"x",
        "to/good": lambda it: answer(it, 302, Location="/good"),
        "gone": lambda it: answer(it, 410),
        "broken": lambda it: answer(it, 500),
        "denied": lambda it: answer(it, 403),
        "cut": lambda it: answer(it, 200, b"half", length=8),
        "packed": lambda it: answer(it, 200, b"x", Content_Encoding="gzip"),
        "large": b"x" * 5000,
        "to/cloud": lambda it: answer(it, 302, Location="http://169.254.169.254/keys"),
        "round": lambda it: answer(it, 302, Location="/round"),
    }
    assert fetched(site.url("good")) == fetched(site.url("to/good")) == b"x"
    for path, kind, said in (
        ("none", ParseError, "404"),
        ("gone", ParseError, "410"),
        ("to/cloud", ParseError, "not public"),
        ("round", ParseError, "more than 4 times"),
        ("broken", SourceError, "500"),
        ("denied", SourceError, "403"),
        ("cut", SourceError, "broke off after 4 of 8"),
        ("packed", SourceError, "gzip"),
    ):
        with pytest.raises(kind, match=said) as error:
            fetched(site.url(path + "?key=secret"))
        assert "secret" not in str(error.value)
    with pytest.raises(LimitExceeded, match="4,000"):
        Fetcher(most=4000, judge=near)(site.url("large"), io.BytesIO())
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetched("http://127.0.0.1:1/")
    site.asked.clear()
    with pytest.raises(ParseError, match="not public"):
        fetched(site.url("good"), private=False)
    assert not site.asked


def test_who_is_outside_does_not_lead_inside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although addresses of one's own network are allowed."""
    site.pages |= {"in": b"x", "out": lambda it: answer(it, 302, Location=site.url("in"))}
    answers = iter([True, False])
    monkeypatch.setattr(fetching, "public", lambda address: next(answers))
    with pytest.raises(ParseError, match="not public"):
        Fetcher(judge=lambda address: True)(site.url("out"), io.BytesIO())
    assert site.asked == ["/out"]


@pytest.mark.parametrize(
    ("address", "good"),
    [
        *((address, True) for address in ("127.0.0.1", "10.0.0.1", "::1", "fd00::1", "8.8.8.8", "::ffff:10.0.0.1")),
        *((address, False) for address in ("169.254.169.254", "0.0.0.0", "fe80::1", "224.0.0.1", "255.255.255.255")),
        *((address, False) for address in ("::ffff:169.254.169.254", "::", "ff02::1")),
    ],
)
def test_ones_own_network(address: str, good: bool) -> None:
    assert near(address) is good


def test_a_slow_drip_ends(site: Site) -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    site.pages["drip"] = drip
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Fetcher(seconds=0.4, judge=near, manners=Manners())(site.url("drip"), io.BytesIO())
    assert time.monotonic() - began < 2


def test_hosts_are_not_pressed(site: Site) -> None:
    """Two connections at once; a moment is waited for that the host names; longer, it is left alone."""
    busy = iter([True, False])
    inside: list[int] = []
    seen: list[int] = []

    def slow(request: http.server.BaseHTTPRequestHandler) -> None:
        inside.append(1)
        time.sleep(0.05)
        seen.append(len(inside))
        inside.pop()
        answer(request, 200, b"x")

    def soon(request: http.server.BaseHTTPRequestHandler) -> None:
        answer(request, 429, Retry_After="1") if next(busy) else answer(request, 200, b"y")

    site.pages |= {"slow": slow, "soon": soon, "later": lambda it: answer(it, 503, Retry_After="500")}
    threads = [threading.Thread(target=fetched, args=(site.url("slow"),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) == 2
    began = time.monotonic()
    assert fetched(site.url("soon")) == b"y"
    assert time.monotonic() - began > 0.9
    with pytest.raises(SourceError, match="503"):
        fetched(site.url("later"))
    site.asked.clear()
    with pytest.raises(SourceError, match=r"left alone for (500|499) seconds more"):
        fetched(site.url("slow"))
    assert not site.asked


def test_manners_forget() -> None:
    """A list may have a host a line."""
    manners = Manners()
    for number in range(10_000):
        with manners.turn(f"{number}.example"):
            manners.leave_alone(f"{number}.example", 0.0 if number < 9000 else 9e9)
    assert not manners._busy
    assert len(manners._until) <= 4096
    assert 3599 < manners.wait("9001.example") <= 3600


# ---------------------------------------------------------------- end to end


def test_a_list_of_images_through_a_pipeline(site: Site, tmp_path: Path) -> None:
    """What may pass is tried again by the next run, what is final is not, until the list is another; what it no longer
    has, the index has not."""
    busy = iter([True, False])
    site.pages |= {
        "red.png": picture("red"),
        "blue.png": picture("blue"),
        "page.png": b"<html><body>not found</body></html>",
        "busy.png": lambda it: answer(it, 503) if next(busy) else answer(it, 200, picture("green")),
    }
    names = ["red.png", "blue.png", "page.png", "none.png", "busy.png"]
    (tmp_path / "list.csv").write_text("url,alt,by\n" + "".join(f"{site.url(n)},{n[:-4]} field,me\n" for n in names))
    url = f"memory://{tmp_path}"
    pipeline = Pipeline(
        f"urls://{tmp_path}/list.csv?private=1", into=url, model=MODEL, state=tmp_path / "ledger.db", workers=4
    )
    try:
        first = pipeline.run()
        assert (first.embedded, first.counts["failed"]) == (2, 3)
        site.asked.clear()
        second = pipeline.run()
        assert (second.embedded, second.counts["failed"]) == (1, 0)
        assert site.asked == ["/busy.png"]
        with open_index(url) as index:
            hit = index.search("red", k=1)[0].chunk
            assert (hit.uri, hit.text, hit.metadata["by"]) == (site.url("red.png"), "red field", "me")
        site.pages["none.png"] = picture("white")
        assert pipeline.retry().embedded == 1
        (tmp_path / "list.csv").write_text(f"url,alt,by\n{site.url('blue.png')},blue field,you\n")
        site.asked.clear()
        third = pipeline.run(allow_mass_delete=True)
        assert site.asked == ["/blue.png"]
        assert third.embedded == 0
        assert third.counts["deleted"] == 4
    finally:
        forget(url)


def test_a_list_of_documents_through_a_pipeline(site: Site, tmp_path: Path) -> None:
    site.pages |= {"a": b"<html><body><p>All about penstocks.</p></body></html>", "b.md": b"# Gates\n\nThey open."}
    (tmp_path / "list.txt").write_text(f"{site.url('a')}\n{site.url('b.md')}\n")
    url = f"memory://{tmp_path}"
    model = HashingEmbedder(8)
    try:
        report = Pipeline(
            f"urls://{tmp_path}/list.txt?private=1", into=url, model=model, state=tmp_path / "ledger.db"
        ).run()
        assert report.ok
        with open_index(url, model=model) as index:
            texts = {hit.chunk.uri: hit.chunk.text for hit in index.search("penstocks", k=5)}
        assert "All about penstocks." in texts[site.url("a")]
    finally:
        forget(url)


def test_a_list_into_parts(site: Site, tmp_path: Path) -> None:
    """Claimed piece by piece; what is not there is accounted for, and what may pass is tried again."""
    site.pages |= {f"{n}.png": picture(f"#{n:02x}0000") for n in range(12)}
    site.pages["12.png"] = lambda it: answer(it, 500)
    (tmp_path / "list.txt").write_text("\n".join(site.url(f"{n}.png") for n in range(14)))
    source = f"urls://{tmp_path}/list.txt?private=1"
    made = embed(source, MODEL, tmp_path / "parts", claim=True, pieces=3)
    assert made.counts["embedded"] == 12
    assert made.counts["failed"] == 2
    assert verify(tmp_path / "parts").counts["failed"] == 2
    item = next(iter(listed(Urls(source))[0].values()))
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize("claim", [False, True])
def test_a_list_in_an_archive_is_shared_out(tmp_path: Path, claim: bool) -> None:
    """A bucket's tar is one worker's whole, but not what lists in it lead to."""
    lines = "\n".join(f"https://example.org/{number}.jpg" for number in range(12)).encode()
    with fsspec.open("memory://lists/all.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("list.txt")
        member.size = len(lines)
        tar.addfile(member, io.BytesIO(lines))
    source = Urls("urls+memory://lists/")
    listing = Listing(source, 4)
    changes = [change for n in range(1, 5) for change in (listing.of(n) if claim else share(source, n, 4))]
    listing.close()
    assert sorted(c.item.uri for c in changes if isinstance(c, Upsert)) == sorted(lines.decode().split("\n"))
    assert sum(isinstance(change, ListingEnd) for change in changes) == 4


def test_a_url_is_named_as_it_is(tmp_path: Path) -> None:
    """Up to what the server never sees; a word that has `auth` in it is no secret."""
    urls = [
        "https://e.org/a",
        "https://e.org/a/",
        "https://e.org/x/?q=1",
        "https://e.org/?author=1",
        "https://e.org/?author=2",
    ]
    (tmp_path / "list.txt").write_text("\n".join([*urls, "https://e.org/a#top"]))
    source = Urls(tmp_path / "list.txt")
    assert [change.item.uri for change in source.changes() if isinstance(change, Upsert)] == urls
    assert source.passed_over["duplicate"] == 1


def test_a_list_written_anew_while_it_is_read_is_not_whole(tmp_path: Path) -> None:
    """Cut short in place, it ends without an error: what it does not name any more need not be gone."""
    path = tmp_path / "list.txt"
    path.write_text("".join(f"https://e.org/{number:05}\n" for number in range(20_000)))
    changes = iter(Urls(path).changes())
    so_far = [next(changes) for _ in range(10)]
    os.truncate(path, 100_000)
    so_far += changes
    assert not any(isinstance(change, ListingEnd) for change in so_far)
    assert isinstance(so_far[-1], Unreadable)
    assert so_far[-1].listing


def test_many_addresses_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns a name says how many it has."""

    def nobody(line: socket.socket, address: object) -> None:
        time.sleep(line.gettimeout() or 60)
        raise TimeoutError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **b: [(0, 0, 0, "", (f"1.1.1.{n}", 80)) for n in range(1, 9)])
    monkeypatch.setattr(socket.socket, "connect", nobody)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Fetcher(seconds=0.3)("http://e.org/", io.BytesIO())
    assert time.monotonic() - began < 2


# ---------------------------------------------------------------- pages


@pytest.fixture
def pages() -> Iterator[HostileHost]:
    with HostileHost() as host:
        yield host


def test_documents_are_fetched_by_many_threads_and_read_by_few(pages: HostileHost, tmp_path: Path) -> None:
    """Compressed ones too. Pages that hang hold up no others, and are tried again by the next run."""
    body = b"<html><body><p>All about penstocks.</p></body></html>"
    pages.pages |= {f"/{number}": bad.compressed(body + b" " * number) for number in range(20)}
    with HostileHost("127.0.0.2") as slow:
        slow.other = lambda it: (it.wait(0.5), bad.content(body)(it))[1]
        urls = [slow.url(f"/{number}") for number in range(4)] + [pages.url(f"/{number}") for number in range(20)]
        (tmp_path / "list.txt").write_text("\n".join(urls))
        url = f"memory://{tmp_path}"
        try:
            report = Pipeline(
                f"urls://{tmp_path}/list.txt?private=1",
                into=url,
                model=HashingEmbedder(8),
                state=tmp_path / "ledger.db",
                workers=1,
            ).run()
            assert report.ok
            with open_index(url, model=HashingEmbedder(8)) as index:
                assert {hit.chunk.uri for hit in index.search("penstocks", k=50)} == set(urls)
        finally:
            forget(url)
        # One thread reads, and the pages of the slow host are fetched beside the others.
        first = pages.requests[0]
        assert len(pages.requests) == 20
        assert slow.busiest == 2
        assert first.headers["Accept-Encoding"].startswith("gzip")


def test_a_host_with_more_pages_than_threads_holds_up_no_other(pages: HostileHost, tmp_path: Path) -> None:
    """Its pages are all fetched in the end, though it never answers more than two at once."""
    body = b"<html><body><p>All about penstocks.</p></body></html>"
    pages.other = bad.content(body)
    others_are_done = threading.Event()
    with HostileHost("127.0.0.2") as slow:
        slow.other = lambda it: (others_are_done.wait(20), bad.content(body)(it))[1]
        urls = [slow.url(f"/{number}") for number in range(2 * Urls.fetchers)]
        urls += [pages.url(f"/{number}") for number in range(20)]
        (tmp_path / "list.txt").write_text("\n".join(urls))
        url, model = f"memory://{tmp_path}", HashingEmbedder(8)

        def progress(now: object) -> None:
            if len(pages.requests) == 20:
                others_are_done.set()

        try:
            pipeline = Pipeline(
                f"urls://{tmp_path}/list.txt?private=1", into=url, model=model, state=tmp_path / "ledger.db"
            )
            report = pipeline.run(progress)
            assert (report.counts["documents"], report.counts["failed"]) == (len(urls), 0)
            assert others_are_done.is_set()
            assert slow.busiest == 2
        finally:
            forget(url)


def test_robots_txt_is_heeded_where_that_is_asked_for(pages: HostileHost, tmp_path: Path) -> None:
    """The option changes nothing of what is listed, so the same ledger goes on; what is forbidden is final."""
    pages.pages |= {
        "/robots.txt": bad.content(b"User-agent: *\nDisallow: /no", Content_Type="text/plain"),
        "/yes": bad.content(b"Yes, a page."),
        "/no": bad.content(b"Not a page."),
    }
    path = tmp_path / "list.txt"
    path.write_text(f"{pages.url('/yes')}\n")
    url, model = f"memory://{tmp_path}", HashingEmbedder(8)

    def run(options: str) -> Report:
        return Pipeline(f"urls://{path}?private=1{options}", into=url, model=model, state=tmp_path / "ledger.db").run()

    try:
        assert run("").embedded == 1
        assert pages.asked == ["/yes"]
        path.write_text(f"{pages.url('/yes')}\n{pages.url('/no')}\n")
        report = run("&robots=1&contact=https://example.org/bot")
        assert (report.embedded, report.counts["unchanged"], report.counts["failed"]) == (0, 1, 1)
        assert pages.asked == ["/yes", "/robots.txt"]
        assert pages.requests[-1].headers["User-Agent"] == "penstock (+https://example.org/bot)"
    finally:
        forget(url)


@pytest.mark.parametrize("follow", [False, True], ids=["once", "live"])
def test_a_run_ends_soon_although_pages_hang(pages: HostileHost, tmp_path: Path, follow: bool) -> None:
    """Within five seconds; that they were given up is no failure of theirs, and the next run fetches them."""
    answers = bad.in_turn(bad.hanging(), bad.hanging(), bad.slow_head(), bad.content(b"A page, at last."))
    pages.pages |= {f"/{number}": answers for number in range(3)}
    (tmp_path / "list.txt").write_text("\n".join(pages.url(path) for path in pages.pages))
    url, model = f"memory://{tmp_path}", HashingEmbedder(8)
    pipeline = Pipeline(f"urls://{tmp_path}/list.txt?private=1", into=url, model=model, state=tmp_path / "ledger.db")
    stopped: list[float] = []

    def stop(progress: object) -> None:
        if len(pages.asked) >= 2 and not stopped:
            stopped.append(time.monotonic())
            raise KeyboardInterrupt

    try:
        first = pipeline.watch(stop) if follow else pipeline.run(stop)
        assert time.monotonic() - stopped[0] < 5
        assert first.counts["failed"] == 0
        with Ledger.reader(tmp_path / "ledger.db") as ledger:
            assert not list(ledger.failures())
        pages.pages |= dict.fromkeys(pages.pages, bad.content(b"A page, at last."))
        second = pipeline.run()
        assert (second.embedded, second.counts["failed"]) == (3, 0)
    finally:
        forget(url)


def test_options_of_pages_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.txt").write_text("https://example.org/\n")
    for url in (f"urls://{tmp_path}/list.txt?contact=me", f"urls://{tmp_path}/list.txt?robots=perhaps"):
        with pytest.raises(UsageError, match="invalid"):
            Urls(url)
    plain, heeding = (
        Urls(f"urls://{tmp_path}/list.txt{options}") for options in ("", "?robots=1&contact=mailto:a@b.c")
    )
    assert plain.name == heeding.name
    monkeypatch.setitem(sys.modules, "protego", None)
    plain.open()
    with pytest.raises(MissingExtra, match=r"penstock\[pages\]"):
        heeding.open()
