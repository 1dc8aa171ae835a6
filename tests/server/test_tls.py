"""TLS by files: errors before anything listens, certificates renewed without a restart, slow handshakes."""

from __future__ import annotations

import datetime
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from penstock.core.errors import UsageError
from penstock.server import peers, tls
from penstock.server.peers import Peers
from penstock.server.settings import Settings
from penstock.server.turns import CONNECTION, Turns
from penstock.sinks.memory import forget
from tests.live import until
from tests.server.raw import rest
from tests.server.serving import Client, chunk, fill, served, with_settings

URL = "memory://serve-tls"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


def certificate(folder: Path, name: str = "first", days: tuple[int, int] = (-1, 30), password: str = "") -> Settings:
    """Settings with a certificate of its own signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days[0]))
        .not_valid_after(now + datetime.timedelta(days[1]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encrypting: Any = serialization.NoEncryption()
    if password:
        encrypting = serialization.BestAvailableEncryption(password.encode())
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    cert, secret = folder / "cert.pem", folder / "key.pem"
    for path, content in ((cert, made.public_bytes(pem)), (secret, key.private_bytes(pem, kind, encrypting))):
        path.with_suffix(".new").write_bytes(content)
        os.replace(path.with_suffix(".new"), path)
    return with_settings(tls_cert=cert, tls_key=secret)


def hello() -> bytes:
    """What a client sends first."""
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def ask(client: Client, trusted: Path, **options: Any) -> tuple[int, str, str]:
    """Status, the certificate's name, and the TLS version of a request that checks the certificate."""
    context = ssl.create_default_context(cafile=str(trusted))
    for name, value in options.items():
        setattr(context, name, value)
    connection = http.client.HTTPSConnection("localhost", client.base_url.port, context=context, timeout=10)
    connection.connect()
    names = {key: value for ((key, value),) in connection.sock.getpeercert()["subject"]}
    version = connection.sock.version()
    connection.request("GET", "/v1/search?q=line")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, names["commonName"], version


def test_searches_by_https(tmp_path: Path) -> None:
    settings = certificate(tmp_path)
    with served(URL, settings) as client:
        assert str(client.base_url).startswith("https://")
        assert ask(client, tmp_path / "cert.pem") == (200, "first", "TLSv1.3")
        assert ask(client, tmp_path / "cert.pem", maximum_version=ssl.TLSVersion.TLSv1_2)[2] == "TLSv1.2"
        old = {"minimum_version": ssl.TLSVersion.TLSv1, "maximum_version": ssl.TLSVersion.TLSv1_1}
        with pytest.warns(DeprecationWarning, match="TLS"), pytest.raises((ssl.SSLError, ConnectionError)):
            ask(client, tmp_path / "cert.pem", **old)
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as plain:
            plain.settimeout(10)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"HTTP/1.1 200" not in rest(plain)


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it fits its key; until then the one before serves on."""
    monkeypatch.setattr(tls, "EVERY", 0.0)
    settings = certificate(tmp_path)
    first = (tmp_path / "cert.pem").read_bytes()
    (tmp_path / "first.pem").write_bytes(first)
    with served(URL, settings) as client:
        certificate(tmp_path, "second")
        assert ask(client, tmp_path / "cert.pem")[1] == "second"
        second = (tmp_path / "cert.pem").read_bytes()
        (tmp_path / "second.pem").write_bytes(second)
        (tmp_path / "cert.pem").write_bytes(first)
        assert ask(client, tmp_path / "second.pem")[1] == "second", "a certificate without its key"
        (tmp_path / "cert.pem").unlink()
        assert ask(client, tmp_path / "second.pem")[1] == "second"
        certificate(tmp_path, "third")
        assert ask(client, tmp_path / "cert.pem")[1] == "third"


def test_errors_before_anything_listens(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    certificate(other)
    settings = certificate(tmp_path, password="sesame")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    cases = [
        ({"tls_cert": tmp_path / "none.pem"}, r"cannot read .*none\.pem \(--tls-cert\): No such file"),
        ({"tls_key": tmp_path / "none.pem"}, r"cannot read .*none\.pem \(--tls-key\): No such file"),
        ({"tls_key": tmp_path}, r"cannot read .* \(--tls-key\): Is a directory"),
        ({"tls_cert": text}, "are no certificate and key: expected PEM"),
        ({"tls_key": text}, "are no certificate and key: expected PEM"),
        ({"tls_key": other / "key.pem"}, "does not belong to the certificate"),
        ({}, "is encrypted and PENSTOCK_TLS_KEY_PASSWORD is not set"),
        ({"tls_password": "wrong"}, "is encrypted and PENSTOCK_TLS_KEY_PASSWORD is wrong"),
    ]
    for changes, message in cases:
        fields = {"tls_cert": settings.tls_cert, "tls_key": settings.tls_key} | changes
        with pytest.raises(UsageError, match=message) as error, served(URL, with_settings(**fields)):
            pass
        assert "sesame" not in str(error.value)
    right = with_settings(tls_cert=settings.tls_cert, tls_key=settings.tls_key, tls_password="sesame")
    assert "sesame" not in repr(right)
    with served(URL, right) as client:
        assert ask(client, tmp_path / "cert.pem")[0] == 200


@pytest.mark.parametrize(
    ("days", "warning"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet"), ((-1, 9), "")], ids=str
)
def test_dates_that_clients_refuse(
    tmp_path: Path, days: tuple[int, int], warning: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(URL, certificate(tmp_path, days=days)):
        pass
    told = capfd.readouterr().err
    assert (warning in told and "clients will refuse it" in told) if warning else not told


def test_who_never_shakes_hands_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After a time; and such connections count before, so that they do not take all files."""
    monkeypatch.setattr(tls, "HANDSHAKE", 1)
    monkeypatch.setattr(peers, "MAX_EACH", 5)
    with served(URL, certificate(tmp_path)) as client:
        address = ("127.0.0.1", client.base_url.port or 0)
        silent = [socket.create_connection(address) for _ in range(5)]
        silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")
        time.sleep(0.2)
        for connection in [socket.create_connection(address) for _ in range(3)]:
            connection.settimeout(0.5)
            with suppress(ConnectionError):
                assert connection.recv(1) == b"", "refused at once"
            connection.close()
        for connection in silent:
            connection.settimeout(5)
            rest(connection)
            connection.close()
        time.sleep(0.1)
        assert ask(client, tmp_path / "cert.pem")[0] == 200
        with socket.create_connection(address) as nonsense:
            nonsense.settimeout(5)
            nonsense.sendall(b"nonsense, no TLS")
            rest(nonsense)
        late = socket.create_connection(address)
    late.close()
    assert capfd.readouterr().err == ""


def test_handshakes_have_their_turns_and_are_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that one client sends at once others wait for none."""
    flooder, entered, spent = "127.0.0.2", list[str](), list[float]()
    waits, free, enter = threading.Event(), threading.Event(), Peers.enter

    def noted(self: Peers, peer: Any) -> Any:
        entered.append(peer.network)
        return enter(self, peer)

    def spend(self: Turns, network: str, seconds: float) -> None:
        if network == flooder and seconds != CONNECTION:
            spent.append(seconds)

    def wait(self: Turns, network: str) -> float:
        return 0.01 if network == flooder and waits.is_set() and not free.is_set() else 0.0

    for kind, name, function in ((Peers, "enter", noted), (Turns, "spend", spend), (Turns, "wait", wait)):
        monkeypatch.setattr(kind, name, function)
    with served(URL, certificate(tmp_path)) as client, ExitStack() as held:
        address = ("127.0.0.1", client.base_url.port or 0)
        lines = [held.enter_context(socket.create_connection(address, 30, (flooder, 0))) for _ in range(5)]
        until(lambda: entered.count(flooder) == 5)
        waits.set()
        for one in lines:
            one.sendall(hello())
        assert ask(client, tmp_path / "cert.pem")[0] == 200
        assert not spent
        free.set()
        for one in lines:
            assert one.recv(1) == b"\x16", "the server's part of a handshake"
        until(lambda: len(spent) >= len(lines))
        assert all(seconds > 0 for seconds in spent)
