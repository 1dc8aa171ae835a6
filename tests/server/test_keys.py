"""Keys with names and scopes: in a file that is followed, and how guessing them is bounded."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from penstock.core.errors import EmbedError, QueryMismatch, UsageError
from penstock.core.records import Dense
from penstock.core.schema import VectorSpec
from penstock.jobs.search import OpenIndex
from penstock.server import authorization, keys, keys_file
from penstock.server.app import Api
from penstock.server.generations import ServedIndex
from penstock.server.keys import SCOPES, KeptKey, Key, Keyring, WrongKeys, digest
from penstock.server.limits import PUBLIC
from penstock.server.metrics import Metrics
from penstock.server.problems import Problem
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from tests import live
from tests.server.serving import Client, ColourEmbedder, chunk, either, fill, refused, served, with_settings

URL = "memory://serve-keys"


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(3)])
    yield
    forget(URL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def status(client: Client, secret: str, path: str = "/v1/search?q=line") -> int:
    return client.get(path, headers={"X-API-Key": secret}).status_code


until = partial(live.until, seconds=10, describe=lambda: "the server did not follow the file")
"""Every tenth of a second it looks at it."""


def test_scopes(file: Path) -> None:
    """A key does what it is for, and nothing else; 403 says which scope is missing."""
    secrets = {scope: keys_file.add(file, scope, [scope])[0] for scope in SCOPES}
    texts = {"input": "x"}
    with served(URL, with_settings(keys_file=file)) as client:
        for scope, secret in secrets.items():
            headers = {"Authorization": f"Bearer {secret}"}
            for needed, answer in (
                ("search", client.get("/v1/search?q=line", headers=headers)),
                ("search", client.get(f"/v1/points/{0:032x}", headers=headers)),
                ("search", client.post("/search", json={"text": "x"}, headers=headers)),
                ("search", client.get("/indices-list", headers=headers)),
                ("embed", client.post("/v1/embeddings", json=texts, headers=headers)),
                ("metrics", client.get("/metrics", headers=headers)),
            ):
                if needed == scope:
                    assert answer.status_code == 200, (scope, answer.text)
                else:
                    refused(answer, 403, f"no scope {needed}")
                    assert f'scope="{needed}"' in answer.headers["www-authenticate"]
                assert secret not in answer.text
            assert client.get("/v1/status", headers=headers).status_code == 200
        refused(client.get("/v1/search?q=line"), 401, "missing key")


def test_every_route_is_public_or_needs_a_key(file: Path) -> None:
    """Also those that are added later: what is not named as public is refused without one."""
    keys_file.add(file, "reader", ["search"])
    settings = Settings()
    api = Api(ServedIndex("memory://none", either(), settings, Metrics()), settings, Metrics())
    routes = [route for route in api.routes() if route.path != "/{name}"]  # type: ignore[attr-defined]
    assert set(authorization.ROUTES) <= {route.path for route in routes}  # type: ignore[attr-defined]
    with served(URL, with_settings(keys_file=file)) as client:
        for route in routes:
            for method in route.methods:  # type: ignore[attr-defined]
                path: str = route.path  # type: ignore[attr-defined]
                answer = client.request(method, path.replace("{id}", "x"))
                assert (answer.status_code == 401) is (path not in PUBLIC), (method, path, answer.status_code)
        # What routing would read otherwise than the check of scopes does.
        reader = {"X-API-Key": keys_file.add(file, "second", ["search"])[0]}
        until(lambda: client.get("/v1/status", headers=reader).status_code == 200)
        for path in ("/metrics", "/%6detrics", "/metrics?x", "/metrics/", "//metrics", "/./metrics", "/x/../metrics"):
            line = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=20)
            line.request("GET", path, headers=reader)
            assert line.getresponse().status in (403, 404), path
            line.close()


def test_what_a_key_without_metrics_does_not_see(file: Path, tmp_path: Path) -> None:
    """Where the index is, what its ledger says, and trouble: hosts, accounts, paths and names of documents."""
    reader, _ = keys_file.add(file, "reader", ["search"])
    operator, _ = keys_file.add(file, "operator", ["metrics"])
    with served(URL, with_settings(keys_file=file, state=tmp_path / "none.db")) as client:
        seen = client.get("/v1/status", headers={"X-API-Key": reader})
        assert [seen.json()[name] for name in ("index", "ledger", "pipeline", "trouble")] == [None] * 4
        assert seen.json()["points"] == 3
        assert URL not in seen.text
        assert client.get("/indices-list", headers={"X-API-Key": reader}).json() == ["index"]
        whole = client.get("/v1/status", headers={"X-API-Key": operator}).json()
        assert whole["index"] == URL
        assert whole["ledger"] is not None
    with served(URL) as client:
        assert client.get("/v1/status").json()["index"] == URL
        assert client.get("/indices-list").json() == [URL]


class Located(ColourEmbedder):
    """A model that is named by its folder, as those are that are given as one."""

    def describe(self) -> VectorSpec:
        return VectorSpec(model="int8:/home/alice/models/small", dim=self.dim, fingerprint="located")

    def query(self, texts: Sequence[str]) -> list[Dense]:
        if "long" in texts:
            raise EmbedError("the query has 90 tokens; /home/alice/models/small takes 77")
        return super().query(texts)


def test_where_the_model_is_stays_with_the_operator(file: Path) -> None:
    """Its name does not: clients see which model it is."""
    reader, _ = keys_file.add(file, "reader", ["search", "embed"])
    operator, _ = keys_file.add(file, "operator", ["metrics", "embed"])
    url = "memory://serve-located"
    fill(url, [chunk(1, "line")], Located())
    with served(url, with_settings(keys_file=file), opener=either(Located())) as client:
        for secret, named in ((reader, "int8:…/small"), (operator, "int8:/home/alice/models/small")):
            headers = {"X-API-Key": secret}
            status = client.get("/v1/status", headers=headers).json()
            assert {status["model"]["model"], status["vectors"][0]["model"]} == {named}
            assert client.post("/v1/embeddings", json={"input": "x"}, headers=headers).json()["model"] == named
        refused(client.get("/v1/search?q=long", headers={"X-API-Key": reader}), 400, "; …/small takes 77")
        asked = {"input": "x", "dimensions": 3}
        answer = client.post("/v1/embeddings", json=asked, headers={"X-API-Key": reader})
        refused(answer, 400, "small has")
        assert "alice" not in answer.text
    forget(url)


def test_only_folders_are_left_out_of_messages() -> None:
    for text, shown in (
        ("/srv/models/clip is gone", "…/clip is gone"),
        ("at https://example.org/a/b.jpg", "at https://example.org/a/b.jpg"),
        ("expected image/png or text/html/x", "expected image/png or text/html/x"),
        ("'/etc/passwd'", "'…/passwd'"),
        ("3/4 of 1/2", "3/4 of 1/2"),
    ):
        assert Problem(400, "bad_request", text).message == shown


def test_the_file_is_followed(file: Path) -> None:
    """Added and revoked keys count at once; also the last revocation does not open the server."""
    first, _ = keys_file.add(file, "first", ["search"])
    with served(URL, with_settings(keys_file=file)) as client:
        assert status(client, first) == 200
        second, _ = keys_file.add(file, "second", ["search"])
        until(lambda: status(client, second) == 200)
        keys_file.revoke(file, "first")
        until(lambda: status(client, first) == 401)
        assert status(client, second) == 200
        keys_file.revoke(file, "second")
        until(lambda: status(client, second) == 401)
        refused(client.get("/v1/search?q=line"), 401)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda file: file.unlink(), "no file of keys"),
        (lambda file: file.write_text(""), "is empty"),
        (lambda file: file.write_text("[reader"), "not valid TOML"),
        (lambda file: file.write_text("a = " + "[" * 20_000), "not valid TOML"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "not valid TOML"),
        (lambda file: file.write_bytes(b"#" * (2 << 20)), "more than 1 MiB"),
        (lambda file: file.write_text("[reader]\nscopes = ['search', 'root']\nhash = 'x'"), "invalid hash"),
        (lambda file: file.write_text(f"[reader]\nscopes = ['root']\nhash = 'sha256:{'0' * 64}'"), "unknown scope"),
        (lambda file: file.chmod(0o666), "written by others"),
        (lambda file: (file.unlink(), file.mkdir()), "expected a regular file"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "expected a regular file"),
    ],
)
def test_a_file_that_becomes_invalid_changes_nothing(file: Path, spoil: Callable[[Path], Any], cause: str) -> None:
    """The last good keys stay, the status says so, and a mended file is followed again."""
    secret, _ = keys_file.add(file, "operator", ["search", "metrics"])
    good = file.read_bytes()

    def trouble() -> Any:
        return client.get("/v1/status", headers={"X-API-Key": secret}).json()["trouble"]

    with served(URL, with_settings(keys_file=file)) as client:
        spoil(file)
        until(lambda: cause in (trouble() or ""))
        assert "the keys stay as they were" in trouble()
        assert status(client, secret) == 200
        refused(client.get("/v1/search?q=line"), 401)
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(good)
        file.chmod(0o600)
        until(lambda: trouble() is None)
        assert status(client, secret) == 200


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "holds no key"),
        ("# nobody\n", "holds no key"),
        ("reader = 1", "expected a table"),
        ("['ev il']\nscopes = ['search']", "invalid name"),
        ("[reader]\nscopes = ['search']", "invalid hash"),
        ("[reader]\nscopes = 'search'\nhash = 'HASH'", "invalid scopes"),
        ("[reader]\nscopes = []\nhash = 'HASH'", "no scope"),
        ("[reader]\nscopes = [['search']]\nhash = 'HASH'", "unknown scope"),
        ("[reader]\nscope = ['search']\nhash = 'HASH'", "unknown field 'scope'"),
        ("[reader]\nscopes = ['search']\nhash = 'HASH'\nexpires = 2027-01-01", "invalid expires"),
        ("[reader]\nscopes = ['search']\nhash = 'HASH'\nexpires = 2027-01-01T00:00:00", "invalid expires"),
        ("[a]\nscopes = ['search']\nhash = 'HASH'\n[b]\nscopes = ['embed']\nhash = 'HASH'", "two keys with one hash"),
        ("".join(f"k{n} = 1\n" for n in range(1001)), "at most 1,000"),
    ],
)
def test_a_server_does_not_start_with_an_invalid_file(file: Path, content: str, cause: str) -> None:
    """Nor without one."""
    with pytest.raises(UsageError, match="no file of keys"), served(URL, with_settings(keys_file=file)):
        pass
    file.write_text(content.replace("HASH", f"sha256:{'0' * 64}"))
    file.chmod(0o600)
    with pytest.raises(UsageError, match=cause), served(URL, with_settings(keys_file=file)):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    keys_file.add(file, "reader", ["search"])
    os.chown(file, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to user 12345"):
        keys_file.read(file)


def test_a_file_that_others_can_read_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret, _ = keys_file.add(file, "reader", ["search"])
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    file.chmod(0o644)
    with served(URL, with_settings(keys_file=file)) as client:
        assert status(client, secret) == 200
    assert "can be read by others" in caplog.text


def test_an_expired_key_is_refused(file: Path) -> None:
    """By its name, which only who has the key learns."""
    secret, _ = keys_file.add(file, "guest", ["search"], 1)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    lines = [f"expires = {past}" if line.startswith("expires") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    with served(URL, with_settings(keys_file=file)) as client:
        refused(client.get("/v1/search?q=line", headers={"X-API-Key": secret}), 401, "expired key guest")


def test_keys_cannot_be_guessed_without_a_rate_either(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 20 wrong ones a network is refused for a minute, and with it keys that people chose. Generated keys pass,
    as nobody guesses 256 bits: who shares the address of a guesser is not shut out."""
    generated, _ = keys_file.add(file, "reader", ["search", "metrics"])
    with served(URL, with_settings(keys=("sesame",), keys_file=file)) as client:
        codes = [status(client, f"guess {n}") for n in range(30)]
        assert codes == [401] * 20 + [429] * 10
        answer = client.get("/v1/search?q=line", headers={"X-API-Key": "guess"})
        refused(answer, 429, "too many wrong keys")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        refused(client.get("/v1/search?q=line", headers={"X-API-Key": "sesame"}), 429)
        assert status(client, generated) == 200
        refused(client.get("/v1/search?q=line"), 401)
        text = client.get("/metrics", headers={"X-API-Key": generated}).text
        assert 'penstock_refused_total{reason="keys"} 12' in text
    monkeypatch.setattr(keys, "PERIOD", 0.2)
    with served(URL, with_settings(keys=("sesame",))) as client:
        for n in range(25):
            status(client, f"guess {n}")
        until(lambda: status(client, "sesame") == 200)


def test_wrong_keys_remember_only_so_many() -> None:
    wrong = WrongKeys()
    for n in range(20_000):
        wrong.add(f"network {n}")
    assert len(wrong._windows) == 10_000


def test_finding_a_key_compares_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it takes as long for the first as for the last, and for none."""
    kept = [KeptKey(Key(f"k{n}", generated=True), digest(b"%d" % n)) for n in range(5)]
    ring = Keyring(("a", "b"), kept)
    calls = []
    compare = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: bool(calls.append((len(a), len(b)))) or compare(a, b))
    for secret, name in ((b"a", "environment:1"), (b"0", "k0"), (b"4", "k4"), (b"none" * 1000, None)):
        calls.clear()
        key = ring.find(secret)
        assert (key and key.name) == name
        assert calls == [(32, 32)] * 7, "hashes: so that the length of a secret is not measured either"
    assert "b'a'" not in repr(vars(ring))


def test_two_who_add_keys_at_once_lose_none(file: Path) -> None:
    """Each adds four; also through a link to the file."""
    keys_file.add(file, "zero", ["search"])
    link = file.with_name("link.toml")
    link.symlink_to(file)

    def add(who: int) -> None:
        for n in range(4):
            keys_file.add(link if who % 2 else file, f"k{who}-{n}", ["search"])

    threads = [threading.Thread(target=add, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys_file.read(file)) == 17
    assert link.is_symlink()


def test_errors_do_not_say_where_the_index_is() -> None:
    """What a store says of a query names its url, with host and account."""

    def opener(url: str) -> OpenIndex:
        opened = either(ColourEmbedder())(url)
        index, search = opened.index, opened.index.search

        def picky(vector: Any, k: int, *args: Any, **more: Any) -> Any:
            if k > 90:
                raise QueryMismatch(f"{index.url} finds at most 90 results")
            return search(vector, k, *args, **more)

        index.search = picky
        return opened

    with served(URL, opener=opener) as client:
        answer = client.post("/v1/search", json={"text": "line", "k": 99})
        refused(answer, 400, "the index finds at most 90 results")
        assert URL not in answer.text


def test_no_content_of_a_file_ends_the_following(file: Path) -> None:
    """Whatever is written into it is refused as invalid, or read; and a mended file counts again."""
    good, _ = keys_file.add(file, "reader", ["search", "metrics"])
    content = file.read_bytes()
    followed = keys_file.FollowedKeys(file)
    ring = Keyring((), followed.keys)
    random = Random(12)
    pieces = [
        b"[",
        b"]",
        b"=",
        b'"',
        b"\n",
        b"sha256:",
        b"expires = ",
        b"0001-01-01T00:00:00+23:59",
        b"9" * 5000,
        b"{",
        b"\x00",
    ]
    for _ in range(1500):
        spoilt = bytearray(content)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(spoilt))
            spoilt[at : at + random.choice((0, 1, 20))] = random.choice(pieces)
        file.write_bytes(spoilt)
        followed.follow(ring)
        for one in followed.keys:
            assert isinstance(one.key.expired, bool)
            assert one.key.scopes <= set(SCOPES)
        assert ring
        assert ring.find(b"") is None
    file.write_bytes(content)
    followed.follow(ring)
    assert followed.trouble is None
    key = ring.find(good.encode())
    assert key is not None
    assert key.name == "reader"
