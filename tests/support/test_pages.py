"""Pages fetched from hosts of this machine that behave badly."""

from __future__ import annotations

import gzip
import random
import socket
import ssl
import statistics
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import LimitExceeded, MissingExtra, ParseError, SourceError, Unsupported, UsageError
from penstock.support import decoding, fetching, hosts, robots
from penstock.support.addresses import near
from penstock.support.fetching import HostAway, NotPublic, NotStored
from penstock.support.hosts import Hosts
from penstock.support.pages import Page, PageFetcher, PageOpener, canonical
from penstock.support.robots import Forbidden, relevant
from penstock.testing import hostile_host as bad
from penstock.testing.hostile_host import HostileHost, content

HTML = b"<html><body><p>All about penstocks.</p></body></html>"


@pytest.fixture
def host() -> Iterator[HostileHost]:
    with HostileHost() as host:
        host.pages["/good"] = content(HTML)
        yield host


class Clock:
    """Time that passes as it does, and on demand: for what hosts and their rules are remembered by."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (hosts, robots):
        monkeypatch.setattr(module, "time", clock)
    return clock


def fetcher(seconds: float = 5.0, **options: object) -> PageFetcher:
    """One that may fetch from this machine, and asks for no robots.txt unless it is told to."""
    given = {"judge": near, "robots": False} | options
    return PageFetcher(seconds=seconds, **given)  # type: ignore[arg-type]


def text_of(page: Page) -> bytes:
    with closing(page.content):
        return page.content.read()


def test_a_page(host: HostileHost) -> None:
    """What it is, where it was found, and what asks for it again; who asks says so, and keeps no cookies."""
    host.pages["/page?q=1"] = content(
        HTML,
        Content_Type="Text/HTML; charset=utf-8",
        ETag='W/"1"',
        Last_Modified="Sun, 29 Nov 2026 10:00:00 GMT",
        Set_Cookie="a=b",
    )
    fetch = fetcher(contact="https://example.org/bot")
    for _ in range(2):
        page = fetch(host.url("/page?q=1#part"))
        assert text_of(page) == HTML
        assert (page.media_type, page.url, page.unchanged) == ("text/html", host.url("/page?q=1"), False)
        assert (page.etag, page.modified) == ('W/"1"', "Sun, 29 Nov 2026 10:00:00 GMT")
    for request in host.requests:
        assert request.headers["User-Agent"] == "penstock (+https://example.org/bot)"
        assert request.headers["Cookie"] is None
        assert "text/html" in request.headers["Accept"]
        assert not {"If-None-Match", "If-Modified-Since"} & set(request.headers.keys())


def test_who_asks_must_fit_into_a_header() -> None:
    with pytest.raises(UsageError, match="invalid agent"):
        fetcher(agent="a\r\nX: y")
    for contact in ("me", "https://example.org/a)b", "https://example.org/\r\nX: y"):
        with pytest.raises(UsageError, match="expected a url such as"):
            fetcher(contact=contact)


# ---------------------------------------------------------------- answers that are bad

_HOSTILE: list[tuple[str, bad.Answer, type[Exception], str]] = [
    ("hanging", bad.hanging(), TimeoutError, "too long"),
    ("slow head", bad.slow_head(), TimeoutError, "too long"),
    ("slow body", bad.slow_body(), TimeoutError, "too long"),
    ("endless body", bad.endless_body(), LimitExceeded, "more than 1,000,000 bytes"),
    ("endless chunks", bad.endless_body(chunked=True), LimitExceeded, "more than 1,000,000 bytes"),
    ("endless head", bad.endless_head(), SourceError, "cannot be fetched"),
    ("endless 100", bad.endless_continue(), TimeoutError, "too long"),
    ("says too much", content(b"x", Content_Length=10**12), LimitExceeded, "1,000,000,000,000 bytes"),
    ("cut", bad.cut(HTML, 10), SourceError, "broke off after 10 of"),
    ("cut chunk", bad.cut_chunk(HTML), SourceError, "cannot be fetched"),
    ("cut gzip", bad.cut(gzip.compress(HTML), 20, Content_Encoding="gzip"), SourceError, "broke off"),
    ("short gzip", content(gzip.compress(HTML)[:-9], Content_Encoding="gzip"), SourceError, "gzip data break off"),
    ("no gzip", content(HTML, Content_Encoding="gzip"), SourceError, "gzip data are broken"),
    ("no deflate", content(b"\xff\xff" + HTML, Content_Encoding="deflate"), SourceError, "deflate data are broken"),
    ("unknown coding", content(HTML, Content_Encoding="zstd"), SourceError, "zstd"),
    ("bomb", bad.bomb(64 << 20), LimitExceeded, "decompressed"),
    ("empty answer", bad.raw(b""), SourceError, "cannot be fetched"),
    ("garbage", bad.raw(b"\0" * 4096), SourceError, "cannot be fetched"),
    ("no status", bad.raw(b"HTTP/1.1 abc\r\n\r\n"), SourceError, "cannot be fetched"),
    ("bad chunks", bad.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), SourceError, "cannot be"),
    ("304 unasked", content(status=304), SourceError, "304"),
    ("403", content(status=403), SourceError, "403"),
    ("404", content(status=404), ParseError, "404"),
    ("410", content(status=410), ParseError, "410"),
    ("500", content(status=500), SourceError, "500"),
    ("busy for long", content(status=503, Retry_After=500), SourceError, "503"),
    ("busy for ever", content(status=429, Retry_After="9" * 500), SourceError, "429"),
    ("video", bad.endless_body("video/mp4"), Unsupported, "video/mp4"),
    ("archive", bad.endless_body("application/zip"), Unsupported, "application/zip"),
    ("to itself", bad.moved("/"), ParseError, "more than 4 times"),
    ("to a cloud", bad.moved("http://169.254.169.254/keys"), NotPublic, "not public"),
    ("to a file", bad.moved("file:///etc/passwd"), ParseError, "invalid url"),
    ("to a user", bad.moved("http://me:pw@example.org/"), ParseError, "invalid url"),
    ("to brackets", bad.moved("http://[::1"), ParseError, "no url"),
    ("to a long url", bad.moved("/" + "x" * 9000), ParseError, "8,000 characters"),
]


@pytest.mark.parametrize(
    ("answer", "kind", "said"), [row[1:] for row in _HOSTILE], ids=[row[0].replace(" ", "-") for row in _HOSTILE]
)
def test_a_bad_answer_ends_soon(host: HostileHost, answer: bad.Answer, kind: type[Exception], said: str) -> None:
    """With the right kind of error, in time, and another page of the host can be fetched afterwards."""
    host.pages["/"] = answer
    began = time.monotonic()
    with pytest.raises(kind, match=said) as caught:
        fetcher(1.0, most=1_000_000)(host.url("/"))
    assert time.monotonic() - began < 10
    assert "pw" not in str(caught.value)
    final = isinstance(caught.value, ParseError)
    assert final is issubclass(kind, ParseError)
    assert text_of(fetcher()(host.url("/good"))) == HTML


def test_a_bomb_takes_no_memory(host: HostileHost) -> None:
    """A gigabyte of zeros, in a megabyte."""
    import tracemalloc

    host.pages["/bomb"] = bad.bomb(256 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            fetcher()(host.url("/bomb"))
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_nothing_of_a_refused_body_is_fetched(host: HostileHost) -> None:
    host.pages["/video"] = bad.endless_body("video/mp4")
    began = time.monotonic()
    with pytest.raises(Unsupported):
        fetcher()(host.url("/video"))
    assert time.monotonic() - began < 3
    host.pages["/any"] = content(b"x", Content_Type="video/mp4")
    page = fetcher(media_types=("*",))(host.url("/any"))
    assert (text_of(page), page.media_type) == (b"x", "video/mp4")


def test_a_page_without_a_type_is_read(host: HostileHost) -> None:
    """What it is, its content tells."""
    host.pages["/bare"] = bad.raw(b"HTTP/1.0 200 OK\r\n\r\n" + HTML)
    host.pages["/odd"] = content(HTML, Content_Type="???")
    for path in ("/bare", "/odd"):
        page = fetcher()(host.url(path))
        assert page.media_type is None
        assert text_of(page) == HTML


def test_no_room_on_this_machine_is_no_fault_of_the_host(host: HostileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even ten times in a row."""

    @contextmanager
    def full() -> Iterator[object]:
        class Full:
            def write(self, data: bytes) -> None:
                raise OSError(28, "No space left on device")

        yield Full()

    fetch = fetcher()
    with monkeypatch.context() as patched:
        patched.setattr("penstock.support.pages.spooled", full)
        for _ in range(10):
            with pytest.raises(NotStored, match="No space left"):
                fetch(host.url("/good"))
    assert host.count("/good") == 10
    assert text_of(fetch(host.url("/good"))) == HTML


# ---------------------------------------------------------------- compressed


@pytest.mark.parametrize("coding", ["gzip", "deflate", "bare"])
def test_compressed(host: HostileHost, coding: str) -> None:
    body = HTML * 1000
    host.pages["/"] = bad.compressed(body, coding)
    assert text_of(fetcher()(host.url("/"))) == body
    assert "gzip" in host.requests[0].headers["Accept-Encoding"]


def test_brotli_is_asked_for_where_it_can_be_read(host: HostileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    brotli = pytest.importorskip("brotli")
    host.pages["/"] = content(brotli.compress(HTML), Content_Encoding="br")
    host.pages["/bomb"] = content(brotli.compress(b"\0" * (64 << 20), quality=1), Content_Encoding="br")
    assert text_of(fetcher()(host.url("/"))) == HTML
    assert host.requests[0].headers["Accept-Encoding"] == "gzip, deflate, br"
    with pytest.raises(LimitExceeded, match="250-fold"):
        fetcher()(host.url("/bomb"))
    monkeypatch.setattr(decoding, "_brotli", lambda: None)
    decoding.accepted.cache_clear()
    try:
        with pytest.raises(SourceError, match="sent as br, without being asked"):
            fetcher()(host.url("/"))
        assert host.requests[-1].headers["Accept-Encoding"] == "gzip, deflate"
    finally:
        decoding.accepted.cache_clear()


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    garbage=st.sampled_from([b"", b"\0\0\0", b"trailing"]),
    size=st.integers(1, 500),
    kind=st.sampled_from(["gzip", "deflate", "bare", "br"]),
)
def test_pieces_of_any_size_decode_to_the_same(members: list[bytes], garbage: bytes, size: int, kind: str) -> None:
    """Members of gzip follow each other, what follows them is left out."""
    if kind == "gzip":
        coding, packed, plain = "gzip", b"".join(map(gzip.compress, members)) + garbage, b"".join(members)
    elif kind == "br":
        coding, packed, plain = "br", pytest.importorskip("brotli").compress(members[0]), members[0]
    else:
        packer = zlib.compressobj(wbits=-15 if kind == "bare" else 15)
        coding, packed, plain = "deflate", packer.compress(members[0]) + packer.flush() + garbage, members[0]
    pieces = (packed[at : at + size] for at in range(0, len(packed), size))
    if kind == "bare" and packed[0] & 15 == 8 and int.from_bytes(packed[:2], "big") % 31 == 0:
        return  # nobody can tell these two bytes from zlib's
    assert b"".join(decoding.decoded(pieces, coding, 1 << 20)) == plain


# ---------------------------------------------------------------- asking again


def test_a_page_that_has_not_changed_is_not_sent(host: HostileHost) -> None:
    date = "Sun, 29 Nov 2026 10:00:00 GMT"
    host.pages["/"] = bad.conditional(HTML, '"1"', date)
    host.pages["/moved"] = bad.moved("/")
    fetch = fetcher()
    first = fetch(host.url("/"))
    assert text_of(first) == HTML
    for known in ({"etag": '"1"'}, {"modified": date}, {"etag": first.etag, "modified": first.modified}):
        for path in ("/", "/moved"):
            page = fetch(host.url(path), **known)
            assert page.unchanged
            assert text_of(page) == b""
            assert (page.etag, page.modified, page.url) == ('"1"', date, host.url("/"))
    page = fetch(host.url("/"), etag='"0"')
    assert (text_of(page), page.unchanged, page.etag) == (HTML, False, '"1"')


@pytest.mark.parametrize("etag", ['"a\tb"', '"' + "x" * 600 + '"', '"\u00e4"'])
def test_what_fits_no_header_is_neither_sent_nor_kept(host: HostileHost, etag: str) -> None:
    host.pages["/"] = content(HTML, ETag=etag)
    for known in (etag, etag + "\r\nX-Evil: 1"):
        page = fetcher()(host.url("/"), etag=known)
        assert (text_of(page), page.etag) == (HTML, "")
    assert {request.headers["If-None-Match"] for request in host.requests} == {None}
    assert {request.headers["X-Evil"] for request in host.requests} == {None}


# ---------------------------------------------------------------- where it leads


def test_redirects(host: HostileHost) -> None:
    """Followed, each with its own limits; a fragment is none of the url, characters that are not quoted are quoted."""
    host.pages |= {
        "/1": bad.moved("/2", 301),
        "/2": bad.moved("3#there", 307),
        "/3": bad.moved("/caf\u00e9 bar", 308),
        "/caf%C3%A9%20bar": content(HTML),
    }
    page = fetcher()(host.url("/1"))
    assert (text_of(page), page.url) == (HTML, host.url("/caf%C3%A9%20bar"))


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a#b", "https://example.org/a"),
        ("http://example.org:8080/?q=a b", "http://example.org:8080/?q=a%20b"),
        ("http://b\u00fccher.example/\u00fc?\u00e4=%C3%A4", "http://xn--bcher-kva.example/%C3%BC?%C3%A4=%C3%A4"),
        (" http://example.org/%7Ea/../b ", "http://example.org/%7Ea/../b"),
        ("http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
        *((url, None) for url in ("", "example.org", "ftp://example.org/", "http://", "http://me@example.org/")),
        *((url, None) for url in ("http://[::1", "http://example.org:99999/", "http://example.org:x/", "http:///a")),
        *(
            (url, None)
            for url in ("http://" + "a" * 70 + "\u00e4.example/", "javascript:alert(1)", "http://@example.org/")
        ),
    ],
)
def test_canonical_urls(url: str, same: str | None) -> None:
    if same is None:
        with pytest.raises(ParseError, match="expected one such as"):
            canonical(url)
    else:
        assert canonical(url) == canonical(same) == same


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40).map("http://example.org/".__add__) | st.text(max_size=40))
def test_a_canonical_url_stays(url: str) -> None:
    try:
        once = canonical(url)
    except ParseError:
        return
    assert canonical(once) == once
    assert "#" not in once
    assert once.isascii()


def test_private_addresses_are_refused(host: HostileHost) -> None:
    with pytest.raises(NotPublic):
        PageFetcher(robots=False)(host.url("/good"))
    with pytest.raises(NotPublic):
        PageFetcher(robots=True)(host.url("/good"))
    assert not host.asked


def test_who_is_outside_does_not_lead_inside(host: HostileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although addresses of one's own network are allowed."""
    host.pages["/out"] = bad.moved("/good")
    answers = iter([True, False])
    monkeypatch.setattr(fetching, "public", lambda address: next(answers))
    with pytest.raises(NotPublic):
        fetcher(judge=lambda address: True)(host.url("/out"))
    assert host.asked == ["/out"]


def test_the_address_that_was_judged_is_connected_to(host: HostileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another address at each look: it is looked up once a request."""
    looked_up: list[str] = []
    real = socket.getaddrinfo
    with HostileHost("127.0.0.2") as inside:
        inside.pages["/good"] = content(b"a secret")

        def rebinding(name: str, port: int, *rest: int, **options: int) -> list[tuple[object, ...]]:
            if name != "rebinding.example":
                return real(name, port, *rest, **options)
            looked_up.append(name)
            address = "127.0.0.1" if len(looked_up) % 2 else "127.0.0.2"
            return [(0, 0, 0, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        fetch = fetcher(judge=lambda address: address == "127.0.0.1")
        assert text_of(fetch(f"http://rebinding.example:{host.port}/good")) == HTML
        with pytest.raises(NotPublic):
            fetch(f"http://rebinding.example:{host.port}/good")
        assert looked_up == ["rebinding.example"] * 2
        assert not inside.asked
        assert host.requests[0].headers["Host"] == f"rebinding.example:{host.port}"


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody vouches for is refused; one that is trusted must be of that name."""
    context = _certificate(tmp_path, "example.org")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "both.pem"))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **options: real("127.0.0.1", *rest, **options))
    with HostileHost(wrap=lambda line: context.wrap_socket(line, server_side=True)) as host:
        host.pages["/"] = content(HTML)
        host.pages["/down"] = bad.moved("http://example.org/")
        with pytest.raises(SourceError, match="SSLCertVerificationError"):
            fetcher()(f"https://example.org:{host.port}/")
        monkeypatch.setattr(fetching, "_tls", lambda: trusting)
        assert text_of(fetcher()(f"https://example.org:{host.port}/")) == HTML
        with pytest.raises(SourceError, match="SSLCertVerificationError"):
            fetcher()(f"https://other.example:{host.port}/")
        with pytest.raises(ParseError, match="away from https"):
            fetcher()(f"https://example.org:{host.port}/down")


def test_a_slow_handshake_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(line: socket.socket) -> socket.socket:
        for _ in range(200):
            line.sendall(b"\x16")
            time.sleep(0.05)
        return line

    with HostileHost(wrap=drip) as host:
        began = time.monotonic()
        with pytest.raises((SourceError, TimeoutError)):
            fetcher(0.5)(host.url("/", "https"))
        assert time.monotonic() - began < 4


# ---------------------------------------------------------------- robots.txt


def allows(text: str, path: str, host: HostileHost, **options: object) -> bool:
    """Whether a page may be fetched where a robots.txt says so."""
    host.pages["/robots.txt"] = content(text.encode(), Content_Type="text/plain")
    host.pages[path] = content(HTML)
    try:
        return text_of(fetcher(robots=True, **options)(host.url(path))) == HTML
    except Forbidden:
        return False


@pytest.mark.parametrize(
    ("text", "path", "allowed"),
    [
        # As RFC 9309 has it: the longest match, allow where two are as long, groups put together, wildcards.
        ("", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /\nUser-agent: penstock\nDisallow: /b", "/a", True),
        ("User-agent: PenStock/2.0 (a comment)\nDisallow: /a", "/a", False),
        ("User-agent: pen\nDisallow: /", "/a", True),
        ("User-agent: penstock-images\nDisallow: /", "/a", True),
        ("User-agent: other\nUser-agent: penstock\nDisallow: /a", "/a", False),
        ("User-agent: penstock\nDisallow: /a\n\nUser-agent: penstock\nDisallow: /b", "/b", False),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b", True),
        ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),
        ("User-agent: *\nDisallow: /*.gif$", "/x.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x.gif/y", True),
        ("User-agent: *\nDisallow: /foo/bar?baz=%E3%83%84", "/foo/bar?baz=%E3%83%84", False),
        ("\ufeffUser-agent: *\r\nDisallow: /a # no", "/a", False),
        ("<html>There is no robots.txt here: Disallow: /</html>", "/a", True),
        ("\0\1\2" * 50, "/a", True),
    ],
)
def test_rules(host: HostileHost, text: str, path: str, allowed: bool) -> None:
    assert allows(text, path, host) is allowed


def test_the_agents_own_name_is_looked_for(host: HostileHost) -> None:
    text = "User-agent: mybot\nDisallow: /\nUser-agent: penstock\nDisallow:"
    assert allows(text, "/a", host)
    assert not allows(text, "/a", host, agent="MyBot/1.0 (by me)")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_no_robots_txt_allows_all(host: HostileHost, status: int) -> None:
    host.pages["/robots.txt"] = content(b"User-agent: *\nDisallow: /", status=status)
    assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML


@pytest.mark.parametrize(
    "answer",
    [content(status=500), content(status=429), bad.raw(b""), bad.slow_body(), bad.cut(b"User-agent: *", 5)],
    ids=["500", "429", "no-answer", "slow", "cut"],
)
def test_an_unreachable_robots_txt_forbids_until_it_answers(
    host: HostileHost, monkeypatch: pytest.MonkeyPatch, clock: Clock, answer: bad.Answer
) -> None:
    """It is not asked for at each page; when it answers, its rules hold."""
    monkeypatch.setattr(robots, "SECONDS", 0.3)
    host.pages["/robots.txt"] = bad.in_turn(answer, content(b"User-agent: *\nDisallow: /no"))
    fetch = fetcher(robots=True)
    for _ in range(3):
        with pytest.raises(HostAway, match="no page is fetched until it answers") as caught:
            fetch(host.url("/good"))
        assert caught.value.retry_after is not None
    assert host.asked == ["/robots.txt"]
    clock.advance(robots.AGAIN)
    assert text_of(fetch(host.url("/good"))) == HTML
    with pytest.raises(Forbidden):
        fetch(host.url("/no"))


def test_rules_hold_for_a_day_and_longer_while_they_cannot_be_read_again(host: HostileHost, clock: Clock) -> None:
    rules = content(b"User-agent: *\nDisallow: /no")
    host.pages["/robots.txt"] = bad.in_turn(rules, content(status=500), content(b"User-agent: *\nDisallow: /good"))
    fetch = fetcher(robots=True)
    for seconds, asked in ((0, 1), (80_000, 1), (10_000, 2), (10, 2)):
        clock.advance(seconds)
        text_of(fetch(host.url("/good")))
        with pytest.raises(Forbidden):
            fetch(host.url("/no"))
        assert host.count("/robots.txt") == asked
    clock.advance(60)
    with pytest.raises(Forbidden):
        fetch(host.url("/good"))


def test_redirects_of_robots_txt(host: HostileHost) -> None:
    """Five are followed, to another host too; of more it is as if there were none."""
    with HostileHost("127.0.0.3") as other:
        other.pages["/rules"] = content(b"User-agent: *\nDisallow: /good")
        host.pages["/robots.txt"] = bad.moved("/1")
        host.pages |= {f"/{n}": bad.moved(f"/{n + 1}") for n in range(1, 4)}
        host.pages["/4"] = bad.moved(other.url("/rules"))
        with pytest.raises(Forbidden):
            fetcher(robots=True)(host.url("/good"))
        host.pages["/4"] = bad.moved("/5")
        host.pages["/5"] = bad.moved(other.url("/rules"))
        assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML
        host.pages["/robots.txt"] = bad.moved("/robots.txt")
        assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML


def test_each_host_of_a_redirect_is_asked(host: HostileHost) -> None:
    with HostileHost("127.0.0.3") as other:
        other.pages |= {"/good": content(HTML), "/robots.txt": content(b"User-agent: *\nDisallow: /")}
        host.pages["/out"] = bad.moved(other.url("/good"))
        with pytest.raises(Forbidden):
            fetcher(robots=True)(host.url("/out"))
        assert other.asked == ["/robots.txt"]


def test_a_huge_robots_txt_is_read_as_far_as_500_kib(host: HostileHost) -> None:
    """Also an endless one, or one that names ten thousand crawlers for ten thousand rules."""
    rules = b"User-agent: *\nDisallow: /first\n" + b"Disallow: /x\n" * 39_400
    host.pages["/robots.txt"] = content(rules + b"Disallow: /go\n" * 9000)
    host.pages["/first"] = content(HTML)
    fetch = fetcher(robots=True)
    assert text_of(fetch(host.url("/good"))) == HTML
    with pytest.raises(Forbidden):
        fetch(host.url("/first"))
    host.pages["/robots.txt"] = bad.endless_body("text/plain")
    assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML
    host.pages["/robots.txt"] = bad.bomb(64 << 20)
    assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML
    many = b"".join(b"User-agent: a%d\n" % number for number in range(15_000))
    host.pages["/robots.txt"] = content(many + b"User-agent: *\n" + b"Disallow: /x\n" * 15_000)
    began = time.monotonic()
    assert text_of(fetcher(robots=True)(host.url("/good"))) == HTML
    assert time.monotonic() - began < 20


_LINES = st.sampled_from(
    [
        *("User-agent: *", "User-agent: penstock", "user-agent:PENSTOCK # me", "User-agent: other", "Useragent other"),
        *("Disallow: /a", "Disallow: /", "Allow: /a/b", "Allow: /", "disallow /b", "Dissallow: /b", "Disallow:"),
        *("", "# a comment", "Sitemap: https://example.org/map", "Host: example.org", "nonsense", "unknown: line"),
        *("Crawl-delay: 5", "Crawl delay: 7", "Request-rate: 1/5"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_LINES, max_size=14))
def test_the_rules_of_others_are_left_out_and_no_more(lines: list[str]) -> None:
    """Parsed as a whole, a robots.txt says the same."""
    protego = pytest.importorskip("protego").Protego
    whole, short = (protego.parse("\n".join(text)) for text in (lines, relevant(lines, "penstock")))
    for path in ("/", "/a", "/a/b", "/b", "/c"):
        url = f"http://example.org{path}"
        assert short.can_fetch(url, "penstock") == whole.can_fetch(url, "penstock"), path
    assert short.crawl_delay("penstock") == whole.crawl_delay("penstock")


def test_rules_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and in size; the crawl delay of a host that was forgotten still holds."""
    monkeypatch.setattr(robots, "ORIGINS", 3)
    monkeypatch.setattr(robots, "KEPT", 200)
    with ExitStack() as stack:
        several = [stack.enter_context(HostileHost()) for _ in range(5)]
        fetch = fetcher(robots=True)
        for host in several:
            host.pages |= {"/robots.txt": content(b"User-agent: *\nDisallow: /no"), "/good": content(HTML)}
            text_of(fetch(host.url("/good")))
        assert fetch._robots is not None
        assert len(fetch._robots._kept) == 3
        several[-1].pages["/robots.txt"] = content(b"#" * 300)
        text_of(fetch(several[0].url("/good")))
        assert several[0].count("/robots.txt") == 2
        assert fetch._robots._size <= 200


def test_many_threads_read_a_robots_txt_once(host: HostileHost) -> None:
    host.pages["/robots.txt"] = lambda it: (it.wait(0.1), content(b"")(it))[1]
    fetch = fetcher(robots=True, hosts=Hosts())
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: text_of(fetch(host.url("/good"))), range(16)))
    assert pages == [HTML] * 16
    assert host.count("/robots.txt") == 1


def test_without_a_parser_robots_txt_cannot_be_heeded(host: HostileHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said at once, and only where it is to be heeded."""
    monkeypatch.setitem(sys.modules, "protego", None)
    with pytest.raises(MissingExtra, match=r"penstock\[pages\]"):
        fetcher(robots=True)
    assert text_of(fetcher(robots=False)(host.url("/good"))) == HTML


# ---------------------------------------------------------------- limits of a host


def test_pauses_between_requests(host: HostileHost) -> None:
    """As the fetcher's own limits and the host's Crawl-delay ask for, whichever is longer."""
    host.pages["/robots.txt"] = content(b"User-agent: *\nCrawl-delay: 0.3")
    times: list[float] = []

    def page(exchange: bad.Exchange) -> None:
        times.append(time.monotonic())
        content(HTML)(exchange)

    host.pages["/"] = page
    for options in ({"robots": True, "hosts": Hosts()}, {"hosts": Hosts(pause=0.3)}):
        times.clear()
        fetch = fetcher(**options)  # type: ignore[arg-type]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, fetch=fetch: text_of(fetch(host.url("/"))), range(4)))
        assert times[-1] - times[0] > 0.6
    waits = Hosts(waiting=2)
    waits.set_delay("slow.example", 1e9)
    with waits.turn("slow.example"):
        pass
    with pytest.raises(HostAway, match="busy") as caught, waits.turn("slow.example"):
        pass
    assert 50 < (caught.value.retry_after or 0) <= 60


def test_few_connections_lead_to_a_host(host: HostileHost) -> None:
    host.pages["/slow"] = lambda it: (it.wait(0.05), content(HTML)(it))[1]
    fetch = fetcher(hosts=Hosts())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: text_of(fetch(host.url("/slow"))), range(12)))
    assert host.busiest == 2


def test_a_host_that_fails_is_left_alone(host: HostileHost, clock: Clock) -> None:
    """After five failures in a row nobody asks it, for a time that doubles when the trial fails; one success ends that.
    A page that is not there, or not given, is no failure of the host."""
    works = threading.Event()
    host.pages |= {
        "/": lambda it: content(HTML, 200 if works.is_set() else 500)(it),
        "/none": content(status=404),
        "/denied": content(status=403),
    }
    fetch = fetcher(hosts=Hosts())

    def ask(path: str = "/") -> SourceError | None:
        try:
            text_of(fetch(host.url(path)))
        except (SourceError, ParseError) as error:
            return error  # type: ignore[return-value]
        return None

    for path in ("/none", "/denied") * 4:
        assert not isinstance(ask(path), HostAway)
    for _ in range(4):
        ask()
    ask("/none")
    for _ in range(5):
        assert not isinstance(ask(), HostAway)
    asked = len(host.asked)
    for _ in range(20):
        error = ask()
        assert isinstance(error, HostAway)
        assert "host is away, again in" in str(error)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 30
    assert len(host.asked) == asked
    clock.advance(30)
    assert not isinstance(ask(), HostAway)  # the trial
    away = ask()
    assert isinstance(away, HostAway)
    assert 30 < (away.retry_after or 0) <= 60
    clock.advance(60)
    works.set()
    assert ask() is None
    works.clear()
    for _ in range(5):
        assert not isinstance(ask(), HostAway)
    again = ask()
    assert isinstance(again, HostAway)
    assert (again.retry_after or 99) <= 30


def test_one_thread_makes_the_trial(host: HostileHost, clock: Clock) -> None:
    limits = Hosts(waiting=2, failures=1)
    host.pages["/"] = bad.in_turn(content(status=500), bad.hanging())
    fetch = fetcher(1.0, hosts=limits)
    with pytest.raises(SourceError, match="500"):
        fetch(host.url("/"))
    clock.advance(30)
    with ThreadPoolExecutor(8) as pool:
        errors = [pool.submit(fetch, host.url("/")).exception() for _ in range(8)]
    assert Counter(map(type, errors)) == {TimeoutError: 1, HostAway: 7}
    assert host.asked == ["/"] * 2


def test_a_host_that_says_when_to_come_back(host: HostileHost) -> None:
    """A moment is waited for; a longer time holds no thread."""
    host.pages["/soon"] = bad.in_turn(content(status=429, Retry_After=1), content(HTML))
    host.pages["/later"] = content(status=503, Retry_After=10)
    fetch = fetcher()
    began = time.monotonic()
    assert text_of(fetch(host.url("/soon"))) == HTML
    assert time.monotonic() - began > 0.9
    began = time.monotonic()
    with pytest.raises(SourceError, match="503"):
        fetch(host.url("/later"))
    with pytest.raises(HostAway, match="away, again in") as caught:
        fetch(host.url("/good"))
    assert time.monotonic() - began < 8
    assert 0 < (caught.value.retry_after or 0) <= 10


def test_hosts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one used longest ago first, and none that is in use."""
    monkeypatch.setattr(hosts, "HOSTS", 100)
    limits = Hosts()
    with limits.turn("used.example"):
        for number in range(1000):
            with limits.turn(f"{number}.example"):
                limits.leave_alone(f"{number}.example", 9e9)
        assert len(limits._hosts) == 100
        assert "used.example" in limits._hosts
    assert 3599 < limits.wait("999.example") <= 3600
    assert limits.wait("1.example") == 0


def test_a_fetch_can_be_interrupted(host: HostileHost) -> None:
    """While it waits for its turn, for a robots.txt, in a pause that the host asked for, for a head or a body: within a
    moment, and no host is blamed."""
    host.pages |= {"/hangs": bad.hanging(), "/drips": bad.slow_body(), "/busy": content(status=429, Retry_After=20)}
    with HostileHost() as other:
        other.pages["/robots.txt"] = bad.hanging()
        fetch = fetcher(60.0, robots=True, hosts=Hosts(at_once=2, failures=1))
        with ThreadPoolExecutor(9) as pool:
            text_of(fetch(host.url("/good")))
            paths = ["/hangs", "/drips", "/good", "/good"]
            running = [pool.submit(fetch, host.url(path)) for path in paths]
            running += [pool.submit(fetch, other.url("/")) for _ in range(3)]
            deadline = time.monotonic() + 20
            while len(host.asked) < 4 or len(other.asked) < 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.2)
            began = time.monotonic()
            fetch.interrupt()
            while not all(each.done() for each in running):
                assert time.monotonic() < began + 5
                time.sleep(0.05)
                fetch.interrupt()
            for each in running:
                error = each.exception()
                if error is None:
                    each.result().content.close()
                assert error is None or isinstance(error, SourceError)
            busy = pool.submit(fetch, host.url("/busy"))
            time.sleep(0.3)
            while not busy.done():
                fetch.interrupt()
                time.sleep(0.05)
            assert isinstance(busy.exception(), SourceError)
            assert time.monotonic() < began + 10
    host.pages["/robots.txt"] = content(status=404)


def test_a_lookup_or_a_connection_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, or when it is interrupted: a resolver that does not answer, an address where nobody does."""
    ended = threading.Event()
    real = socket.getaddrinfo

    def resolve(name: str, *rest: int, **options: int) -> object:
        if name == "slow.example":
            ended.wait(30)
        return real("127.0.0.1", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full, ExitStack() as stack:
        for _ in range(4):  # a backlog that is full drops what would connect
            line = stack.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(full.getsockname())
        time.sleep(0.1)
        urls = ["http://slow.example/", f"http://127.0.0.1:{full.getsockname()[1]}/"]
        for url in urls:
            began = time.monotonic()
            with pytest.raises(TimeoutError, match="too long"):
                fetcher(0.4)(url)
            fetch = fetcher(30.0)
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(fetch, url)
                time.sleep(0.2)
                while not running.done():
                    fetch.interrupt()
                    time.sleep(0.05)
                assert isinstance(running.exception(), SourceError)
            assert time.monotonic() - began < 10, url
    ended.set()


def test_many_threads_get_what_each_asked_for() -> None:
    """An oracle says what each page is; hosts fail at random."""
    dice = random.Random(7)
    with ExitStack() as stack:
        several = [stack.enter_context(HostileHost(f"127.0.0.{number}")) for number in range(2, 10)]
        wanted: dict[str, bytes | int] = {}
        for host in several:
            host.pages["/robots.txt"] = content(b"User-agent: *\nDisallow: /no")
            for number in range(25):
                path = f"/{dice.choice(['yes', 'no'])}/{number}"
                status = dice.choice([200, 200, 200, 404])
                body = dice.randbytes(dice.randrange(20_000))
                answer = content(body, status) if dice.random() < 0.5 or status != 200 else bad.compressed(body)
                host.pages[path] = answer
                wanted[host.url(path)] = 403 if path.startswith("/no") else body if status == 200 else status
        fetch = fetcher(20.0, robots=True, hosts=Hosts())

        def ask(url: str) -> bytes | int:
            try:
                return text_of(fetch(url))
            except Forbidden:
                return 403
            except ParseError:
                return 404

        urls = [*wanted] * 2
        dice.shuffle(urls)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, urls)) == [wanted[url] for url in urls]
        assert all(host.count("/robots.txt") == 1 and host.busiest <= 2 for host in several)


@pytest.mark.parametrize("robots_hang", [False, True], ids=["pages", "robots"])
def test_a_host_that_hangs_does_not_hold_up_others(robots_hang: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the pages are on a host that hangs: what others wait for is their own answers.

    Pages that find their host busy or away fail at once; nothing else does."""
    monkeypatch.setattr(robots, "SECONDS", 2.0)
    with ExitStack() as stack:
        several = [stack.enter_context(HostileHost(f"127.0.0.{number}")) for number in range(2, 10)]
        hangs = stack.enter_context(HostileHost("127.0.0.99"))
        for host in several:
            host.pages["/"] = lambda it: (it.wait(0.02), content(HTML)(it))[1]
        hangs.pages["/robots.txt" if robots_hang else "/"] = bad.hanging()
        fetch = fetcher(2.0, robots=robots_hang)
        urls = [(several[n % 8] if n % 5 else hangs).url("/") for n in range(400)]
        took: dict[str, list[float]] = {}
        causes: Counter[str] = Counter()

        def ask(url: str) -> None:
            began = time.monotonic()
            try:
                text_of(fetch(url))
            except (SourceError, TimeoutError) as error:
                causes[url, type(error).__name__] += 1
            took.setdefault(url, []).append(time.monotonic() - began)

        began = time.monotonic()
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(ask, urls))
        # Were it to hold the threads, 80 pages of 2 s, two at a time, would take 80 s.
        assert time.monotonic() - began < 20
        assert {url for url, _ in causes} <= {hangs.url("/")} | {host.url("/") for host in several}
        assert causes[hangs.url("/"), "TimeoutError"] <= (0 if robots_hang else 5)
        assert sum(causes.values()) >= 80
        assert statistics.median([t for host in several for t in took[host.url("/")]]) < 2


def test_an_opener_fetches_by_the_same_limits(host: HostileHost) -> None:
    """As sources give them: sent to another process, it opens the same page."""
    import pickle

    opener = pickle.loads(pickle.dumps(PageOpener(host.url("/good"), private=True, robots=True)))
    with closing(opener()) as stream:
        assert stream.read() == HTML
    assert host.asked == ["/robots.txt", "/good"]
    assert "good" not in repr(opener)
    with pytest.raises(NotPublic):
        PageOpener(host.url("/good"))()


def _certificate(folder: Path, name: str) -> ssl.SSLContext:
    x509 = pytest.importorskip("cryptography.x509")
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "both.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context
