"""Names that the server answers to, pages of other origins, and proxies that say who their clients are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.core.errors import UsageError
from penstock.server.clients import Proxies
from penstock.server.hosts import Hosts
from penstock.server.problems import Problem
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from tests.server.serving import chunk, fill, refused, served, with_settings

URL = "memory://serve-hosts"
QUERY = {"text": "line 1", "k": 1}


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(5)])
    yield
    forget(URL)


def test_on_loopback_only_its_names_are_answered() -> None:
    """A page whose name is pointed here (DNS rebinding) reads nothing, not even the page or the API's document."""
    with served(URL) as client:
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8080", "localhost.", "[0:0:0:0:0:0:0:1]"):
            assert client.post("/v1/search", json=QUERY, headers={"Host": host}).status_code == 200, host
        for host in (
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
        ):
            for path in ("/v1/search?q=line", "/", "/openapi.json", "/metrics", "/health", "/indices-list", "/app.js"):
                refused(client.get(path, headers={"Host": host}), 421, host.partition(":")[0], "--allowed-host")
            refused(client.post("/v1/search", json=QUERY, headers={"Host": host}), 421)
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
            assert client.get("/readyz", headers={"Host": host}).status_code == 200


def test_names_that_are_allowed() -> None:
    with served(URL, with_settings(allowed_hosts=("Search.example.org", "*.example.net"))) as client:
        for host in ("search.example.org", "search.example.org:8080", "a.example.net", "a.b.example.net", "localhost"):
            assert client.get("/v1/search?q=line", headers={"Host": host}).status_code == 200, host
        for host in (
            "example.org",
            "a.search.example.org",
            "example.net",
            "evilexample.net",
            "example.net.evil.example",
        ):
            refused(client.get("/v1/search?q=line", headers={"Host": host}), 421)
    with served(URL, with_settings(allowed_hosts=("*",))) as client:
        assert client.get("/v1/search?q=line", headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "keys", "allowed", "accepts", "refuses"),
    [
        ("127.0.0.1", True, (), ("localhost", "127.0.0.1"), ("a.example", "10.0.0.1")),
        ("::1", False, (), ("[::1]:80", "localhost"), ("a.example", "[::2]")),
        ("localhost", False, (), ("localhost",), ("a.example",)),
        ("0.0.0.0", False, (), ("10.1.2.3", "10.1.2.3:80", "[fd00::1]", "localhost"), ("a.example", "1.2.3.4.example")),
        ("0.0.0.0", True, (), ("10.1.2.3", "a.example"), ()),
        ("0.0.0.0", True, ("b.example",), ("10.1.2.3", "b.example"), ("a.example",)),
        ("box.lan", False, (), ("box.lan", "box.lan:80"), ("a.example",)),
    ],
)
def test_names_by_where_the_server_listens(
    host: str, keys: bool, allowed: tuple[str, ...], accepts: tuple[str, ...], refuses: tuple[str, ...]
) -> None:
    """Addresses cannot be pointed elsewhere, so all of them pass where others can reach the server; and where keys are
    required a name is no key."""
    hosts = Hosts(host, allowed, (), keys, frozenset())
    for name in accepts:
        hosts.admit(scope(name))
    for name in refuses:
        with pytest.raises(Problem) as problem:
            hosts.admit(scope(name))
        assert problem.value.status == 421


def scope(host: str, client: str = "127.0.0.1", **headers: str) -> dict[str, Any]:
    fields = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    return {"type": "http", "path": "/v1/search", "method": "GET", "headers": pairs, "client": (client, 1)}


def test_pages_of_other_origins_are_refused_before_work_is_done() -> None:
    """By Origin, whatever the type of the body; and by Sec-Fetch-Site where a browser sends no Origin."""
    with served(URL, with_settings(origins=("https://a.example",))) as client:
        own = str(client.base_url).rstrip("/")
        searches: list[dict[str, Any]] = [
            {"url": "/v1/search", "json": QUERY},
            {"url": "/v1/search", "data": {"text": "line"}},
            {"url": "/v1/search", "files": {"text": (None, "line")}},
            {"url": "/v1/search", "content": b"{}", "headers": {"Content-Type": "text/plain"}},
            {"url": "/v1/embeddings", "content": b'{"input": "a"}'},
            {"url": "/search", "content": b'{"text": "a"}'},
            {"url": "/knn-service", "content": b'{"text": "a"}'},
            {"url": "/v1/facets", "json": {"names": ["type"]}},
        ]
        for origin in (
            "https://evil.example",
            "null",
            "http://localhost:1",
            f"{own}.evil.example",
            "file://",
            "",
            "[",
            own + "/",
        ):
            for search in searches:
                headers = {**search.get("headers", {}), "Origin": origin}
                refused(client.post(**{**search, "headers": headers}), 403, "--origin")
            for path in ("/v1/search?q=a", "/search?query=a", "/v1/facets?names=type", "/v1/points/a", "/metrics"):
                refused(client.get(path, headers={"Origin": origin}), 403)
        for origin in (own, own.replace("http:", "https:"), "https://a.example"):
            assert client.post("/v1/search", json=QUERY, headers={"Origin": origin}).status_code == 200
        for site in ("cross-site", "same-site"):
            fetched = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
            refused(client.get("/v1/search?q=a", headers=fetched), 403)
            refused(client.post("/v1/search", json=QUERY, headers=fetched), 403)
            assert client.get("/v1/thumbs/none", headers=fetched).status_code == 404, "a page of a.example shows it"
            framed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
            refused(client.get("/v1/search?q=a", headers=framed), 403)
            link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            assert client.get("/v1/search?q=a", headers=link).status_code == 200
            refused(client.post("/v1/search", json=QUERY, headers=link), 403)
            assert client.get("/", headers=framed).status_code == 200, "its own policy forbids frames"
        assert client.get("/v1/search?q=a", headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_the_page_works_behind_a_proxy_of_another_name() -> None:
    """By what the browser says of it, and by X-Forwarded-Host of a proxy that is trusted."""
    page = {"Origin": "https://search.example.org"}
    with served(URL) as client:
        refused(client.post("/v1/search", json=QUERY, headers=page), 403)
        same = {**page, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/search", json=QUERY, headers=same).status_code == 200
        refused(client.post("/v1/search", json=QUERY, headers={**page, "X-Forwarded-Host": "search.example.org"}), 403)
    trusting = with_settings(trusted_proxies=("127.0.0.1",), allowed_hosts=("search.example.org",))
    with served(URL, trusting) as client:
        forwarded = {**page, "Host": "backend", "X-Forwarded-Host": "search.example.org", "X-Forwarded-Proto": "https"}
        assert client.post("/v1/search", json=QUERY, headers=forwarded).status_code == 200
        refused(client.post("/v1/search", json=QUERY, headers={**forwarded, "X-Forwarded-Host": "evil.example"}), 421)
        for wrong in ("a b", "[", "a/b", "user@a"):
            refused(
                client.post("/v1/search", json=QUERY, headers={**forwarded, "X-Forwarded-Host": wrong}), 400, "Host"
            )


def test_json_is_required_by_its_type() -> None:
    """A page of another origin can send text/plain and forms unasked; clients of these routes send JSON."""
    with served(URL) as client:
        bodies = {
            "/v1/embeddings": b'{"input": "line"}',
            "/search": b'{"text": "line"}',
            "/knn-service": b'{"text": "line", "num_images": 1}',
            "/v1/search/batch": b'{"queries": [{"text": "line"}]}',
            "/v1/facets": b'{"names": ["type"]}',
        }
        for path, content in bodies.items():
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
                refused(client.post(path, content=content, headers={"Content-Type": kind}), 415, "application/json")
            untyped = client.post(path, content=content, headers={"Content-Type": ""})
            # clip-retrieval's client gives none.
            assert untyped.status_code == (415 if path.startswith("/v1/") and path != "/v1/embeddings" else 200)
            good = client.post(path, content=content, headers={"Content-Type": "application/json; charset=utf-8"})
            assert good.status_code == 200, path


def test_rates_count_the_clients_behind_a_trusted_proxy() -> None:
    """The right-most address that is not a trusted proxy's; what stands before it may be made up."""

    def ask(client: Any, forwarded: str) -> int:
        status: int = client.get("/v1/search?q=line", headers={"X-Forwarded-For": forwarded}).status_code
        return status

    with served(URL, with_settings(rate=0.001)) as client:
        assert [ask(client, f"10.0.0.{n}") for n in range(3)] == [200, 429, 429], "nobody is trusted by default"
    with served(URL, with_settings(rate=0.001, trusted_proxies=("127.0.0.0/8", "10.9.0.0/16"))) as client:
        assert [ask(client, f"10.0.0.{n}") for n in range(3)] == [200, 200, 200]
        assert [ask(client, f"1.2.3.{n}, 10.0.0.1") for n in range(2)] == [429, 429]
        assert ask(client, "10.0.0.1, 10.9.0.7") == 429, "through another trusted proxy"
        assert [ask(client, f"2001:db8::{n}") for n in range(2)] == [200, 429], "one /64"
        assert ask(client, "[2001:db8::9]:1234") == 429
        assert ask(client, "10.0.0.1:1234") == 429


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("", "10.0.0.1"),
        ("1.2.3.4", "1.2.3.4"),
        ("9.9.9.9, 1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, 10.0.0.2", "1.2.3.4"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("unknown", "10.0.0.1"),
        ("1.2.3.4, nonsense, 10.0.0.2", "10.0.0.2"),
        ("1.2.3.4,", "10.0.0.1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("fe80::1%eth0", "fe80::1"),
        ("<script>", "10.0.0.1"),
        ("," * 1000, "10.0.0.1"),
    ],
)
def test_forwarded_addresses(forwarded: str, address: str) -> None:
    request = scope("a", "10.0.0.1", x_forwarded_for=forwarded)
    Proxies(("10.0.0.0/8",)).resolve(request)
    assert request["client"][0] == address
    stranger = scope("a", "11.0.0.1", x_forwarded_for=forwarded, x_forwarded_host="b", x_forwarded_proto="https")
    before = dict(stranger)
    Proxies(("10.0.0.0/8",)).resolve(stranger)
    assert stranger == before


def test_odd_hosts_of_a_scope() -> None:
    for host in ("", "a b", "user@localhost", "localhost:0", "[", "localhost\n", "a" * 400):
        with pytest.raises(Problem) as problem:
            Hosts("127.0.0.1", (), (), False, frozenset()).admit(scope(host))
        assert problem.value.status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_hosts": ("a.example:80",)},
        {"allowed_hosts": ("http://a.example",)},
        {"allowed_hosts": ("a.*.example",)},
        {"allowed_hosts": ("",)},
        {"trusted_proxies": ("proxy.example",)},
        {"trusted_proxies": ("10.0.0.1/8",)},
        {"origins": ("https://[",)},
        {"origins": ("null",)},
        {"tls_cert": "cert.pem"},
    ],
)
def test_invalid_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Settings(**wrong)


def test_options_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Settings] = []
    monkeypatch.setattr("penstock.server.server.serve", lambda url, settings, **_: started.append(settings))
    monkeypatch.setenv("PENSTOCK_TLS_KEY_PASSWORD", "sesame")
    words = ["serve", "--index", URL, "--allowed-host", "a.example", "--allowed-host", "*.b.example"]
    words += ["--trusted-proxy", "10.0.0.0/8", "--tls-cert", f"{tmp_path}/cert.pem", "--tls-key", f"{tmp_path}/key.pem"]
    assert main(words) == 0
    [settings] = started
    assert settings.allowed_hosts == ("a.example", "*.b.example")
    assert settings.trusted_proxies == ("10.0.0.0/8",)
    assert (settings.tls_cert, settings.tls_key) == (tmp_path / "cert.pem", tmp_path / "key.pem")
    assert settings.tls_password == "sesame"
    assert "sesame" not in repr(settings)
