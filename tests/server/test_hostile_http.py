"""Requests that two servers in a row could read differently, or that are no HTTP/1.1: one clear answer, then closed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from penstock.server.connections import Connection
from penstock.sinks.memory import forget
from tests.server.raw import line, reply, rest
from tests.server.serving import Client, chunk, fill, served

URL = "memory://serve-hostile"
SECOND = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
JSON = b"Content-Type: application/json\r\n"


def get(target: bytes = b"/healthz", *fields: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    fields = fields or (b"Host: localhost",)
    return b"\r\n".join((method + b" " + target + b" " + version, *fields, b"", b""))


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(b"/v1/search", b"Host: localhost", b"Content-Type: application/json", *fields, method=b"POST") + body


BODY = b'{"text": "line"}'
CHUNK = b"10\r\n" + BODY + b"\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 16"

REFUSED = {
    "both length and chunked": post(LENGTH, CHUNKED, body=CHUNK),
    "chunked and then length": post(CHUNKED, LENGTH, body=CHUNK),
    "length 0 and chunked": post(b"Content-Length: 0", CHUNKED, body=CHUNK),
    "two lengths that differ": post(LENGTH, b"Content-Length: 5", body=BODY),
    "two lengths that agree": post(LENGTH, LENGTH, body=BODY),
    "a list of lengths": post(b"Content-Length: 16, 16", body=BODY),
    "length with a sign": post(b"Content-Length: +16", body=BODY),
    "negative length": post(b"Content-Length: -1", body=BODY),
    "hexadecimal length": post(b"Content-Length: 0x10", body=BODY),
    "length with an underscore": post(b"Content-Length: 1_6", body=BODY),
    "length of 20 digits": post(b"Content-Length: 99999999999999999999", body=BODY),
    "empty length": post(b"Content-Length:", body=BODY),
    "length in other digits": post("Content-Length: ٣".encode(), body=BODY),
    "coding xchunked": post(b"Transfer-Encoding: xchunked", body=CHUNK),
    "coding identity": post(b"Transfer-Encoding: identity", body=BODY),
    "coding chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=CHUNK),
    "coding gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=CHUNK),
    "two codings": post(CHUNKED, b"Transfer-Encoding: identity", body=CHUNK),
    "coding after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=CHUNK),
    "chunked in HTTP/1.0": get(b"/v1/search", b"Host: localhost", CHUNKED, method=b"POST", version=b"HTTP/1.0") + CHUNK,
    "space before the colon": post(b"Content-Length : 16", body=BODY),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=CHUNK),
    "folded header": post(b"X: a\r\n b"),
    "folded coding": post(b"Transfer-Encoding:\r\n chunked", body=CHUNK),
    "space before the first header": get(b"/", b" Host: localhost"),
    "bare LF in a header": get(b"/", b"Host: localhost", b"X: a\nContent-Length: 5"),
    "bare LF everywhere": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "bare LF at the end": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare CR in a header": get(b"/", b"Host: localhost", b"X: a\rContent-Length: 5"),
    "bare CR as the end of a line": b"GET /healthz HTTP/1.1\rHost: localhost\r\r",
    "NUL in a value": get(b"/", b"Host: localhost", b"X: a\0b"),
    "NUL in a name": get(b"/", b"Host: localhost", b"X\0: a"),
    "DEL in a value": get(b"/", b"Host: localhost", b"X: a\x7fb"),
    "header without a colon": get(b"/", b"Host: localhost", b"nothing"),
    "header without a name": get(b"/", b"Host: localhost", b": a"),
    "name that is no token": get(b"/", b"Host: localhost", b"X(1): a"),
    "name that is not ASCII": get(b"/", b"Host: localhost", b"X\xe9: a"),
    "no Host": get(b"/", b"X: a"),
    "empty Host": get(b"/", b"Host:"),
    "two Hosts": get(b"/", b"Host: localhost", b"Host: localhost"),
    "two Hosts in HTTP/1.0": get(b"/", b"Host: localhost", b"Host: b", version=b"HTTP/1.0"),
    "Host with a user": get(b"/", b"Host: user:secret@localhost"),
    "Host with a path": get(b"/", b"Host: localhost/a"),
    "Host with a scheme": get(b"/", b"Host: http://localhost"),
    "list of Hosts": get(b"/", b"Host: localhost, evil.example"),
    "Host with a space": get(b"/", b"Host: local host"),
    "Host with an open bracket": get(b"/", b"Host: ["),
    "Host with no address in brackets": get(b"/", b"Host: [localhost]"),
    "Host with a zone": get(b"/", b"Host: [fe80::1%25eth0]"),
    "Host with a wrong port": get(b"/", b"Host: localhost:http"),
    "Host with port 65536": get(b"/", b"Host: localhost:65536"),
    "Host with an empty port": get(b"/", b"Host: localhost:"),
    "Host that is not ASCII": get(b"/", b"Host: l\xf6calhost"),
    "Host of 400 characters": get(b"/", b"Host: " + b"a" * 400),
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/0.9 with a version": get(version=b"HTTP/0.9"),
    "HTTP/2.0": get(version=b"HTTP/2.0"),
    "HTTP/1.2": get(version=b"HTTP/1.2"),
    "HTTP/1.10": get(version=b"HTTP/1.10"),
    "version in lower case": get(version=b"http/1.1"),
    "no version": b"GET /healthz \r\nHost: localhost\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "method in lower case": get(method=b"get"),
    "method that is no word": get(method=b"GE(T"),
    "method that nobody knows": get(method=b"STEAL"),
    "two spaces": b"GET  /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tab as the space": b"GET\t/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "space at the end": b"GET /healthz HTTP/1.1 \r\nHost: localhost\r\n\r\n",
    "space in the target": get(b"/a b"),
    "fragment in the target": get(b"/healthz#a"),
    "target that is not ASCII": get(b"/\xe9"),
    "control character in the target": get(b"/a\x01"),
    "absolute target": get(b"http://localhost/healthz"),
    "absolute target of another host": get(b"http://evil.example/healthz"),
    "authority as the target": get(b"localhost:80", method=b"CONNECT"),
    "CONNECT to a path": get(b"/", method=b"CONNECT"),
    "asterisk as the target": get(b"*", method=b"OPTIONS"),
    "chunk size that is no number": post(CHUNKED, body=b"zz\r\n\r\n"),
    "negative chunk size": post(CHUNKED, body=b"-1\r\n\r\n"),
    "chunk size with 0x": post(CHUNKED, body=b"0x10\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size of 20 digits": post(CHUNKED, body=b"F" * 20 + b"\r\n\r\n"),
    "chunk longer than its size": post(CHUNKED, body=b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk that ends with LF": post(CHUNKED, body=b"10\r\n" + BODY + b"\n0\r\n\r\n"),
    "chunk size that ends with LF": post(CHUNKED, body=b"10\n" + BODY + b"\r\n0\r\n\r\n"),
    "space after the chunk size": post(CHUNKED, body=b"10 \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "129 headers": get(b"/", b"Host: localhost", *(b"X%d: a" % n for n in range(128))),
    "headers of 70 KiB": get(b"/", b"Host: localhost", b"X: " + b"a" * 70_000),
}
"""Each is followed by a request that must not be answered."""

ANSWERED = {
    "plain": (get(), 200),
    "Host with a port": (get(b"/healthz", b"Host: LOCALHOST:123"), 200),
    "HTTP/1.0 without Host": (get(b"/healthz", b"X: a", version=b"HTTP/1.0"), 200),
    "empty line before": (b"\r\n" + get(), 200),
    "byte that is not ASCII in a value": (get(b"/healthz", b"Host: localhost", b"X: \xe9"), 200),
    "one length": (post(LENGTH, body=BODY), 200),
    "chunked": (post(CHUNKED, body=CHUNK), 200),
    "chunked, in capitals": (post(b"TRANSFER-ENCODING: Chunked", body=CHUNK), 200),
    "chunk extension": (post(CHUNKED, body=b"10;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"), 200),
    "trailer": (post(CHUNKED, body=b"10\r\n" + BODY + b"\r\n0\r\nX: a\r\n\r\n"), 200),
    "two line ends in a chunk": (post(CHUNKED, body=b"14\r\n" + BODY + b"\r\n\r\n" + b"\r\n0\r\n\r\n"), 200),
    "upgrade to WebSocket": (get(b"/healthz", b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket"), 200),
    "upgrade to HTTP/2": (get(b"/healthz", b"Host: a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), 200),
    "expects something odd": (get(b"/healthz", b"Host: localhost", b"Expect: the worst"), 200),
    "OPTIONS": (get(b"/v1/search", method=b"OPTIONS"), 405),
    "TRACE": (get(method=b"TRACE"), 405),
    "encoded NUL": (get(b"/%00"), 404),
    "encoded dots": (get(b"/..%2f..%2fetc%2fpasswd"), 404),
    "plain dots": (get(b"/../../etc/passwd"), 404),
    "overlong UTF-8": (get(b"/%c0%ae%c0%ae/"), 404),
    "encoding cut short": (get(b"/%"), 404),
    "two slashes": (get(b"//evil.example/"), 404),
    "encoded line end": (get(b"/v1/points/%0d%0aX:%20a"), 404),
    "query with odd characters": (get(b"/v1/search?q=a|b{c}^`%zz&k=1"), 200),
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    with served(URL) as client:
        yield client
    forget(URL)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_answer(client: Client, name: str) -> None:
    """4xx, closed, and the request behind it not answered: whole, and where it comes a byte at a time."""
    sent = REFUSED[name] + SECOND
    with line(client, sent) as connection:
        if (answer := rest(connection)) or len(sent) < 60_000:  # a reset, as bytes were left unread
            check_refused(answer)
    with line(client) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for at in range(0, len(sent), step := max(1, len(sent) // 300)):
                connection.sendall(sent[at : at + step])
        except ConnectionError:  # closed before the end was sent
            return
        if answer := rest(connection):
            check_refused(answer)


def check_refused(answer: bytes) -> None:
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")), answer
    assert b"connection: close" in head
    assert set(json.loads(content)["error"]) == {"type", "message"}, "one answer, no more"


@pytest.mark.parametrize("name", ANSWERED)
def test_answered_and_the_next_as_well(client: Client, name: str) -> None:
    sent, status = ANSWERED[name]
    with line(client, sent) as connection:
        assert reply(connection).startswith(b"HTTP/1.1 %d " % status)
        if b"HTTP/1.0" not in sent:
            connection.sendall(SECOND)
            assert rest(connection).startswith(b"HTTP/1.1 200 ")
    if b"HTTP/1.0" in sent:
        return
    with line(client, sent + SECOND) as connection:
        assert rest(connection).count(b"HTTP/1.1 ") == 2, "at once"
    with line(client) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(sent + SECOND)):
            connection.sendall((sent + SECOND)[at : at + 1])
        assert rest(connection).count(b"HTTP/1.1 ") == 2, "a byte at a time"


def test_the_parser_is_chosen() -> None:
    """Whatever else is installed."""
    assert Connection.__mro__[1].__name__ == "HttpToolsProtocol"
