"""Addresses that are never fetched from, however they are written, and redirects that lead nowhere."""

from __future__ import annotations

import http.server
import io
import ipaddress
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.errors import LimitExceeded, ParseError, SourceError
from penstock.support.addresses import METADATA, near, public
from penstock.support.fetching import Fetcher, NotPublic

KEYS = [
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.42.42", "169.254.0.23", "169.254.169.253"),
    *("168.63.129.16", "192.0.0.192", "100.100.100.200"),
    *("fd00:ec2::254", "fd00:ec2::253", "fd00:ec2::123", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe"),
    *("fe80::a9fe:a9fe", "fe80::a9fe:a9fe%eth0", "fd00:42::42", "fd00:a9fe:a9fe::1"),
]
"""Where clouds hand their machines their keys."""


@pytest.mark.parametrize("address", KEYS)
def test_the_keys_of_machines_are_never_fetched(address: str) -> None:
    assert not public(address)
    assert not near(address)


def within(ip: ipaddress.IPv4Address) -> list[str]:
    """An IPv4 address as those of IPv6 hold it."""
    number = int(ip)
    high, low = f"{number >> 16:x}", f"{number & 0xFFFF:x}"
    return [
        f"::ffff:{ip}",
        f"::ffff:{high}:{low}",
        f"::ffff:0:{ip}",
        f"::{ip}",
        f"64:ff9b::{ip}",
        f"64:ff9b:1::{ip}",
        f"64:ff9b:1:fffe::{ip}",
        f"2002:{high}:{low}::",
        f"2002:{high}:{low}::1",
        f"2001:0:{high}:{low}:8000:63bf:3fff:fdd2",
        f"2001:0:4136:e378:8000:63bf:{0xFFFF ^ number >> 16:x}:{0xFFFF ^ number & 0xFFFF:x}",
        f"2606:4700::5efe:{ip}",
        f"2606:4700::200:5efe:{ip}",
        f"fe80::5efe:{ip}",
    ]


@pytest.mark.parametrize("address", [address for address in KEYS if ":" not in address])
def test_nor_within_addresses_of_ipv6(address: str) -> None:
    for written in within(ipaddress.IPv4Address(address)):
        assert not public(written), written
        assert not near(written), written


@given(st.integers(0, (1 << 32) - 1))
def test_what_an_address_holds_is_judged_as_well(number: int) -> None:
    """However it is written, what is not public by itself is not public within another."""
    ip = ipaddress.IPv4Address(number)
    if not public(str(ip)):
        assert not any(map(public, within(ip)))
    others = [
        written for written in within(ip) if "5efe" not in written and not ipaddress.ip_address(written).is_loopback
    ]
    assert near(str(ip)) or not any(map(near, others))


@pytest.mark.parametrize("address", ["fd00::5efe:8.8.8.8", "fe80::5efe:8.8.8.8", "fec0::5efe:8.8.8.8"])
def test_a_public_address_within_does_not_make_the_outer_one_public(address: str) -> None:
    assert not public(address)


@given(st.integers(0, (1 << 128) - 1))
def test_of_ipv6_only_global_unicast_is_public(number: int) -> None:
    ip = ipaddress.IPv6Address(number)
    if public(str(ip)) and ip.ipv4_mapped is None and ip not in ipaddress.ip_network("64:ff9b::/96"):
        assert ip in ipaddress.ip_network("2000::/3")
    assert near(str(ip)) in (True, False)


def test_networks_that_are_for_special_uses_are_not_public() -> None:
    special = ["192.0.0.1", "192.0.0.9", "192.88.99.1", "198.19.0.1", "3fff::1", "2001:20::1", "5f00::1", "100::1"]
    assert not any(map(public, special))
    assert not any(map(near, special))


def test_clouds_are_listed_once() -> None:
    assert len(set(METADATA)) == len(METADATA)


HOSTS = [
    *("2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "0.0.0.0", "[::]"),
    *("2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "[::ffff:a9fe:a9fe]"),
    "[0:0:0:0:0:ffff:7f00:1]",
    *("localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "[::1]", "[::1%25lo]", "[fe80::1%25lo]", "[fd00:ec2::254]"),
    *("192.0.0.192", "168.63.129.16", "100.100.100.200", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a9fe:a9fe]"),
    *("127。0。0。1", "１２７.0.0.1", "ⓛocalhost", "127%2e0%2e0%2e1", "a@127.0.0.1", "127.0.0.1\t"),
    *("127.0.0.1#@x", "x@[::1]"),
    *("", ".", "..", ".localhost", "a..b", "-", "[", "]", "[]", "[::", "[v1.x]", "*", "%00", "\0", "x" * 300, "xn--a"),
]  # fmt: skip
"""This machine and the keys of clouds as people write hosts to get past a check."""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_however_a_host_is_written(host: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is connected to, and the error is one of those that callers know."""

    def never(*args: object) -> None:
        raise AssertionError(f"a connection to {args}")

    monkeypatch.setattr(socket, "create_connection", never)
    for port in ("", ":80", ":0", ":99999", ":x"):
        with pytest.raises((ParseError, SourceError, NotPublic)):
            Fetcher(seconds=5)(f"{scheme}://{host}{port}/", io.BytesIO())


class _Leads(http.server.BaseHTTPRequestHandler):
    location = ""

    def do_GET(self) -> None:
        self.send_response(302)
        self.wfile.write(b"".join(self._headers_buffer))  # type: ignore[attr-defined]
        self._headers_buffer: list[bytes] = []
        self.wfile.write(b"Location: " + self.location.encode("latin-1", "replace") + b"\r\n\r\n")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def leads() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Leads)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    "location",
    [
        *("http://[", "http://]", "http://[::1", "//[", "http://[v1.]/", "http://[::1]x/", "http://a:b/", "http://a:-1/"),
        *("http://é/", "http://a b/", "http://\x7f/", "javascript:alert(1)", "file:///etc/passwd"),
        *("gopher://a/", "//", "?", "http:///a", "https:", "http:"),
        *("http://user:secret@127.0.0.1/", "http://169.254.169.254/", "http://192.0.0.192/"),
    ],
)  # fmt: skip
def test_a_redirect_to_what_is_no_url_is_an_error_of_the_document(
    leads: http.server.ThreadingHTTPServer, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Leads, "location", location)
    into = io.BytesIO()
    with pytest.raises((ParseError, SourceError)) as raised:
        Fetcher(seconds=5, judge=near)(f"http://127.0.0.1:{leads.server_port}/", into)
    assert not isinstance(raised.value, LimitExceeded)
    assert "secret" not in str(raised.value)
    assert not into.getvalue()
