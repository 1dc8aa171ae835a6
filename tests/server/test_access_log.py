"""The access log and the audit log: what is in them, what is not, and what happens when they cannot be written."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.pipeline import Pipeline
from penstock.server import access_log, audit, keys_file
from penstock.server.audit import Audit
from penstock.server.clients import Client as Asker
from penstock.server.json_log import MAX_WAITING, JsonLog, line
from penstock.server.settings import Settings
from penstock.sinks.memory import forget
from penstock.testing.chaos import Lines
from penstock.testing.embedders import HashingEmbedder, OtherEmbedder
from penstock.testing.sources import ListSource
from tests import live
from tests.server.serving import Client, chunk, either, fill, picture, served, with_settings

URL = "memory://serve-access-log"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def index() -> Iterator[None]:
    fill(URL, [chunk(n, f"line {n}") for n in range(3)])
    yield
    forget(URL)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.jsonl"


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in file.read_text("ascii").splitlines()] if file.exists() else []


def last(file: Path) -> dict[str, Any]:
    """Nothing where none is written yet."""
    return records(file)[-1] if records(file) else {}


until = partial(live.until, seconds=10, describe=lambda: "what is waited for was not written")
"""Logs are written twenty times a second; a much longer wait is a fault."""


def lost(client: Client) -> int:
    match = re.search(r'penstock_log_lost_total\{log="access"\} (\d+)', client.get("/metrics").text)
    return int(match[1]) if match else 0


def test_a_line_for_each_request(file: Path, tmp_path: Path) -> None:
    """Who, what, how much and how long; whatever it ended with."""
    secret, _ = keys_file.add(tmp_path / "keys.toml", "reader", ["search"])
    headers = {"X-API-Key": secret}
    settings = with_settings(access_log=str(file), keys_file=tmp_path / "keys.toml", origins=("https://a.example",))
    with served(URL, settings) as client:
        body = json.dumps({"text": "line 1"}).encode()
        found = client.post("/v1/search", content=body, headers={**headers, "content-type": "application/json"})
        assert found.status_code == 200
        client.get(f"/v1/points/{1:032x}", headers=headers)
        client.get("/v1/search?q=line")
        client.get("/nothing/here", headers=headers)
        client.options("/v1/search", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
    search, point, refusal, nothing, preflight = records(file)
    assert list(search)[:4] == ["time", "event", "id", "client"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", search["time"])
    assert (search["event"], search["client"], search["key"]) == ("request", "127.0.0.1", "reader")
    assert (search["method"], search["route"], search["status"]) == ("POST", "/v1/search", 200)
    assert (search["bytes_in"], search["bytes_out"]) == (len(body), len(found.content))
    assert set(search["stages"]) == {"embed", "search", "rerank", "queue"}
    assert 0 < search["seconds"] < 10
    assert sum(search["stages"].values()) <= search["seconds"] * 1.5, "both in seconds"
    assert (point["route"], point["path"]) == ("/v1/points/{id}", f"/v1/points/{1:032x}")
    assert (refusal["status"], refusal["key"], refusal["route"]) == (401, None, None)
    assert (nothing["status"], nothing["path"]) == (404, "/nothing/here")
    assert (preflight["method"], preflight["status"]) == ("OPTIONS", 200)
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o007 == 0, "addresses are not for everybody"


def test_ids_of_requests(file: Path) -> None:
    """That of the client where it is sane, else a new one; returned as a header, and in the log."""
    with served(URL, with_settings(access_log=str(file))) as client:
        for sent, kept in (
            ("0af7651916cd43dd:8448eb211c80319c", True),
            ("Root=1-67891233-abcdef012345678912345678", True),
            ("x" * 100, True),
            ("x" * 101, False),
            ("", False),
            ("a b", False),
            ("a\x1b[31m", False),
            ("ä", False),
            ('"},{"event":"start', False),
        ):
            answer = client.get("/v1/search?q=line", headers={b"X-Request-ID": sent.encode()})  # type: ignore[arg-type]
            if answer.status_code == 200:  # a parser may refuse ESC by itself
                returned = answer.headers["x-request-id"]
                assert (returned == sent) is kept
                assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]+", returned)
                until(lambda id=returned: records(file) and records(file)[-1]["id"] == id)  # type: ignore[misc]


def test_texts_of_queries_are_logged_only_if_asked_for(file: Path) -> None:
    """Not in the path, not in the body; and of uploads never."""

    def ask(settings: Settings) -> None:
        with served(URL, settings) as client:
            client.get("/v1/search?q=confidential")
            client.post("/v1/search", json={"text": "confidential"})
            client.post("/v1/search", json={"text": "confidential", "unknown": 1})
            client.post("/v1/search", files={"image": ("confidential.png", picture("red"))}, data={"text": "red"})

    ask(with_settings(access_log=str(file), audit_log=str(file)))
    assert "confidential" not in file.read_text()
    file.unlink()
    ask(with_settings(access_log=str(file), log_queries=True))
    by_url, by_body, wrong, upload = records(file)
    assert by_url["query"] == "q=confidential"
    assert json.loads(by_body["body"]) == {"text": "confidential"}
    assert "confidential" in wrong["body"]
    assert upload["body"] == ""
    with pytest.raises(UsageError, match="access_log"):
        Settings(log_queries=True)


def test_nothing_that_a_client_sends_forges_a_line(file: Path) -> None:
    """Control characters, escapes of terminals, line separators of Unicode and bytes that are no text are escaped."""
    evil = ["\n{}", "\r\n", "\x00", "\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", '"', "\\", "\udcff", "🦭"]
    for text in evil:
        written = line({"path": text})
        assert written.endswith(b"\n")
        assert written[:-1].decode("ascii").isprintable()
        assert json.loads(written) == {"path": text}
    with served(URL, with_settings(access_log=str(file), audit_log=str(file), log_queries=True, keys=("k",))) as client:
        for text in ("%0a%7b%7d", "%1b%5b2J", "%e2%80%a8", "%ff%fe", "a" * 5000):
            line_ = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=20)
            line_.request("GET", f"/v1/points/{text}?q={text}", headers={"X-Forwarded-For": "1.2.3.4\t{}"})
            line_.getresponse().read()
            line_.close()
    text = file.read_text("ascii")
    assert text.replace("\n", "").isprintable()
    assert [one["status"] for one in records(file) if one["event"] == "request"] == [401] * 5
    assert max(map(len, text.splitlines())) < 4000
    assert {one["client"] for one in records(file) if "client" in one} == {"127.0.0.1"}


@pytest.mark.parametrize("how", ["create", "copytruncate", "remove"])
def test_rotation_needs_no_signal(file: Path, how: str) -> None:
    """As logrotate does it, and as an administrator in a hurry does."""
    old = file.with_suffix(".1")
    with served(URL, with_settings(access_log=str(file))) as client:
        client.get("/healthz")
        until(lambda: len(records(file)) == 1)
        if how == "create":
            file.rename(old)
            file.touch(0o640)
        elif how == "copytruncate":
            shutil.copy(file, old)
            os.truncate(file, 0)
        else:
            file.unlink()
        client.get("/readyz")
        until(lambda: len(records(file)) == 1)
    assert records(file)[0]["route"] == "/readyz"
    if how != "remove":
        assert [one["route"] for one in records(old)] == ["/healthz"]


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_full_disk_ends_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """Lines are lost and counted, and the log says so, once."""
    with served(URL, with_settings(access_log="/dev/full")) as client:
        for _ in range(5):
            assert client.get("/v1/search?q=line").status_code == 200
        until(lambda: lost(client) >= 5)
    assert caplog.text.count("No space left on device") == 1


def test_a_line_that_was_half_written_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up in the midst of a line, and has room again later."""
    count: list[int] = []
    log = JsonLog(str(tmp_path / "log"), lambda: count.append(1))
    write, room = os.write, [25]

    def limited(file: int, data: bytes) -> int:
        if file != log._file:
            return write(file, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        some = data[: room[0]]
        room[0] -= len(some)
        return write(file, some)

    monkeypatch.setattr(os, "write", limited)
    log._write([line({"n": n}) for n in range(4)])  # of 8 bytes each: three, and an eighth of the fourth
    assert len(count) == 1
    log._write([line({"n": 4})])
    assert len(count) == 2
    room[0] = 1000
    log._write([line({"n": 5})])
    log.close()
    assert (tmp_path / "log").read_text() == '{"n":0}\n{"n":1}\n{"n":2}\n{\n{"n":5}\n'


def test_a_pipe_whose_reader_stops_holds_up_nothing(tmp_path: Path) -> None:
    """Neither a reader that reads nothing, nor one that has gone; nor does the server wait for it when it stops."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="cannot be written"), served(URL, with_settings(access_log=str(pipe))):
        pass
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with served(URL, with_settings(access_log=str(pipe))) as client:
        log_of = [thread for thread in threading.enumerate() if thread.name == "penstock-log"]
        slowest = 0.0
        for _ in range(700):  # twice what a pipe holds
            began = time.perf_counter()
            assert client.get("/healthz").status_code == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 5.0, "a request waited for the log"
        began = time.monotonic()
    assert time.monotonic() - began < 20.0, "the server waited for the log"
    os.close(reader)
    for thread in log_of:
        thread.join(5)


def test_a_pipe_whose_reader_has_gone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with served(URL, with_settings(access_log=str(pipe))) as client:
        os.close(reader)
        for _ in range(3):
            assert client.get("/healthz").status_code == 200
        until(lambda: lost(client) >= 3)


def test_what_waits_is_bounded(tmp_path: Path) -> None:
    count: list[int] = []
    log = JsonLog(str(tmp_path / "log"), lambda: count.append(1))
    for n in range(MAX_WAITING + 5):
        log.write({"n": n})
    assert len(count) == 5
    log.start()
    log.close()
    assert len(records(tmp_path / "log")) == MAX_WAITING


def test_a_log_that_cannot_be_opened_is_said_at_the_start(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "none" / "log"):
        with pytest.raises(UsageError, match="cannot be written"), served(URL, with_settings(audit_log=str(target))):
            pass


def test_the_audit_log(tmp_path: Path) -> None:
    """Start, keys, refusals with their reason, and stop."""
    file, keys = tmp_path / "audit.jsonl", tmp_path / "keys.toml"
    reader, _ = keys_file.add(keys, "reader", ["search"])
    with served(URL, with_settings(audit_log=str(file), keys_file=keys, keys=("sesame",))) as client:
        client.get("/v1/search?q=confidential")
        client.get("/metrics", headers={"X-API-Key": reader})
        client.get("/v1/search?q=line", headers={"X-API-Key": reader})
        client.post("/v1/search", json={"image_url": "http://169.254.169.254/"}, headers={"X-API-Key": reader})
        keys_file.add(keys, "second", ["embed"])
        until(lambda: last(file).get("event") == "keys_changed")
        keys_file.revoke(keys, "second")
        until(lambda: last(file).get("revoked") == ["second"])
        keys.write_text("garbage")
        until(lambda: last(file).get("event") == "keys_unreadable")
    start, missing, scope, changed, revoked, unreadable, stop = records(file)
    assert (start["event"], start["index"], start["keys"]) == ("start", URL, ["environment:1", "reader"])
    assert (missing["event"], missing["client"], missing["status"]) == ("refused", "127.0.0.1", 401)
    assert (missing["why"], missing["path"], missing["key"]) == ("missing key", "/v1/search", None)
    assert (scope["status"], scope["why"], scope["key"]) == (403, "no scope metrics", "reader")
    assert changed["added"] == ["second"]
    assert revoked["revoked"] == ["second"]
    assert "TOML" in unreadable["cause"]
    assert stop["event"] == "stop"
    assert reader not in file.read_text()
    assert "confidential" not in file.read_text()


def test_a_generation_that_is_followed_is_in_the_audit_log(tmp_path: Path) -> None:
    file, url = tmp_path / "audit.jsonl", "memory://serve-audited"
    source = ListSource({"doc:1": b"one line"})

    def pipeline(model: HashingEmbedder) -> Pipeline:
        return Pipeline(source, into=url, model=model, chunk=Lines(), state=tmp_path / "ledger.db")

    pipeline(HashingEmbedder(64)).run()
    settings = with_settings(audit_log=str(file))
    with served(url, settings, opener=either(HashingEmbedder(64), OtherEmbedder(64))):
        pipeline(OtherEmbedder(64)).reindex()
        until(lambda: [one for one in records(file) if one["event"] == "generation_followed"])
    assert [one["index"] for one in records(file) if one["event"] == "generation_followed"] == [f"{url}_1"]
    for name in ("", "_1"):
        forget(url + name)


def test_a_flood_of_refusals_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a client, status and minute, with how many there were; and so many lines of all clients together."""
    file = tmp_path / "audit.jsonl"
    with served(URL, with_settings(audit_log=str(file), keys=("sesame",))) as client:
        for n in range(60):
            client.get("/v1/search?q=line", headers={"X-API-Key": f"guess {n}"})
    assert [one["status"] for one in records(file) if one["event"] == "refused"] == [401, 429]
    log = JsonLog(str(tmp_path / "many.jsonl"))
    trail = Audit(log)
    for n in range(30_000):
        trail.refused(Asker(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"), 401)
    assert len(trail._recent) == audit.MAX_CLIENTS
    monkeypatch.setattr(audit, "PERIOD", 0.0)
    trail.refused(Asker("10.0.117.47"), 401)
    log.start()
    log.close()
    lines = records(tmp_path / "many.jsonl")
    assert len(lines) == audit.MAX_REFUSALS + 2
    assert lines[-2]["event"] == "refusals_omitted"
    assert lines[-2]["count"] == 30_000 - audit.MAX_REFUSALS
    assert lines[-1]["omitted"] == 1


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_opens_its_logs_anew_on_a_hangup(tmp_path: Path) -> None:
    """SIGHUP, which ends other programs, and ends a server that has neither logs nor a file of keys."""
    file, url = tmp_path / "access.jsonl", f"lance://{tmp_path}/index"
    fill(url, [chunk(1, "line")])
    settings = {"port": 0, "drain": 0.0, "access_log": str(file), "audit_log": "-"}
    command = [sys.executable, "-m", "tests.server.process", url, json.dumps(settings)]
    running = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert running.stdout is not None
        assert running.stderr is not None
        at = running.stderr.readline().rpartition(" at ")[2].strip()
        assert json.loads(running.stdout.readline())["event"] == "start", "stdout has JSON and nothing else"
        with Client(at) as client:
            client.get("/healthz")
            until(lambda: len(records(file)) == 1)
            file.rename(tmp_path / "access.1")
            running.send_signal(signal.SIGHUP)
            until(file.exists)
            client.get("/readyz")
            until(lambda: len(records(file)) == 1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        assert json.loads(running.stdout.read())["event"] == "stop"
        assert running.stderr.read() == ""
    finally:
        running.kill()
        running.communicate()


def test_a_client_that_goes_away_is_logged(file: Path) -> None:
    """With the status that other servers log for it, and what came of its body."""
    with served(URL, with_settings(access_log=str(file))) as client:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line_:
            head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\n"
            head += "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            line_.sendall(head.encode())
            time.sleep(0.2)
        until(lambda: records(file))
    [record] = records(file)
    assert (record["status"], record["bytes_in"], record["bytes_out"]) == (499, 1, 0)


def test_noting_stages_outside_of_a_request_does_nothing() -> None:
    access_log.note_stages({"embed": 1.0})
