"""Deliveries of what standing queries find: whatever the receivers do, each match arrives, and nothing waits for it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

import penstock as ps
from penstock.jobs import deliver
from penstock.ledger import Alert, FoundMatch, alerts
from penstock.support import inotify, outgoing
from penstock.testing.embedders import HashingEmbedder
from tests import live
from tests.live import Watched
from tests.receiver import Message, Receiver

QUERY = "rust async"
until = partial(live.until, seconds=60)


class World:
    """An index with alerts."""

    def __init__(self, folder: Path) -> None:
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.pipeline = ps.Pipeline(
            self.docs, into=f"sqlite://{folder}/index.db", model=HashingEmbedder(256), state=folder / "ledger.db"
        )
        self.write("old.md")
        self.run()

    def write(self, name: str) -> None:
        (self.docs / name).write_text(f"rust async, of {name}")

    def run(self) -> None:
        assert self.pipeline.run().ok

    @property
    def alert(self) -> Alert:
        (alert,) = self.pipeline.alerts.list()
        return alert

    @property
    def matches(self) -> dict[str, FoundMatch]:
        return {Path(match.uri).name: match for match in self.pipeline.alerts.matches(1000)}


@pytest.fixture
def w(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv(outgoing.SECRET, raising=False)
    monkeypatch.setattr(deliver, "POLL", 0.02)
    monkeypatch.setattr(deliver, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(deliver, "LONGEST_PAUSE", 0.1)
    return World(tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a run try each delivery once: what fails is not tried again before long."""
    monkeypatch.setattr(deliver, "FIRST_PAUSE", 1000.0)
    monkeypatch.setattr(deliver, "LONGEST_PAUSE", 1000.0)


def test_a_run_delivers_what_it_found(w: World, receiver: Receiver) -> None:
    w.pipeline.alerts.add(QUERY, webhook=receiver.url)
    for name in ("a.md", "b.md", "c.md"):
        w.write(name)
    w.run()
    assert receiver.names == ["a.md", "b.md", "c.md"]
    message = receiver.messages[0]
    match = w.matches[Path(message.fields["uri"]).name]
    assert message.fields == match.to_json()
    assert message.fields["text"].startswith("rust async, of")
    assert {"alert", "query", "score", "uri", "chunk", "time", "metadata", "key"} <= message.fields.keys()
    assert message.headers["Idempotency-Key"] == match.key
    assert message.headers["Content-Type"] == "application/json"
    assert "Penstock-Signature" not in message.headers
    assert (w.alert.matches, w.alert.delivered, w.alert.waiting) == (3, 3, 0)
    assert w.alert.last
    w.run()
    assert len(receiver.messages) == 3


@pytest.mark.parametrize("name", [outgoing.SECRET, "MY_HOOK_SECRET"])
def test_messages_are_signed(w: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "the secret")
    w.pipeline.alerts.add(QUERY, webhook=receiver.url, secret_env=None if name == outgoing.SECRET else name)
    w.write("a.md")
    w.run()
    (message,) = receiver.messages
    stamp, digest = (part.partition("=")[2] for part in message.headers["Penstock-Signature"].split(","))
    assert digest == hmac.new(b"the secret", f"{stamp}.".encode() + message.body, hashlib.sha256).hexdigest()
    for path in w.docs.parent.glob("ledger.db*"):
        assert b"the secret" not in path.read_bytes()


def test_a_secret_that_is_missing_is_told(w: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    w.pipeline.alerts.add(QUERY, webhook=receiver.url, secret_env="MY_HOOK_SECRET")
    once(monkeypatch)
    w.write("a.md")
    w.run()
    assert not receiver.tries
    assert w.alert.trouble == "the environment variable MY_HOOK_SECRET is not set in the run"
    monkeypatch.setenv("MY_HOOK_SECRET", "x")
    monkeypatch.setattr(deliver, "LONGEST_WAIT", 10.0)  # it is tried again
    w.run()
    assert receiver.names == ["a.md"]
    assert not w.alert.trouble


def test_a_url_may_be_a_secret(w: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_HOOK", receiver.url + "/T0/B0/abcdef")
    receiver.answer = lambda message: (404, {})
    w.pipeline.alerts.add(QUERY, webhook="env:MY_HOOK")
    w.write("a.md")
    w.run()
    assert len(receiver.tries) == deliver.REFUSALS
    assert w.alert.trouble == "the webhook answered 404"
    for path in w.docs.parent.glob("ledger.db*"):
        assert b"abcdef" not in path.read_bytes()


@pytest.mark.parametrize("status", [500, 503, 408, 429])
def test_what_fails_for_a_while_is_tried_again(w: World, receiver: Receiver, status: int) -> None:
    receiver.answer = lambda message: (status if len(receiver.tries) < 5 else 200, {})
    w.pipeline.alerts.add(QUERY, webhook=receiver.url)
    for name in ("a.md", "b.md"):
        w.write(name)
    w.run()
    assert receiver.names == ["a.md", "b.md"]
    assert len({message.headers["Idempotency-Key"] for message in receiver.tries}) == 2
    assert (w.alert.delivered, w.alert.lost, w.alert.trouble) == (2, 0, "")


@pytest.mark.parametrize("status", [400, 404, 410, 301])
def test_what_is_refused_is_given_up_and_told(w: World, receiver: Receiver, status: int) -> None:
    def answer(message: Message) -> tuple[int, dict[str, str]]:
        refused = message.fields["uri"].endswith("bad.md")
        return (status, {"Location": receiver.url}) if refused else (200, {})

    receiver.answer = answer
    w.pipeline.alerts.add(QUERY, webhook=receiver.url)
    for name in ("a.md", "bad.md", "c.md"):
        w.write(name)
    w.run()
    assert receiver.names == ["a.md", "c.md"], "it holds up no other"
    assert len(receiver.tries) == 2 + deliver.REFUSALS
    assert (w.alert.delivered, w.alert.waiting, w.alert.lost) == (2, 0, 1)
    assert w.alert.trouble.startswith(f"the webhook answered {status}")
    assert w.matches["bad.md"].state == "lost"


def test_what_the_receiver_asks_for_is_kept(w: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked earlier, also by a run after that one."""
    receiver.answer = lambda message: (503, {"Retry-After": "1000"})
    w.pipeline.alerts.add(QUERY, webhook=receiver.url)
    w.write("a.md")
    w.run()
    w.run()
    assert len(receiver.tries) == 1
    assert w.alert.waiting == 1
    receiver.answer = lambda message: (200, {})
    monkeypatch.setattr(deliver, "LONGEST_WAIT", 100.0)  # as where the clock was set back since
    w.run()
    assert receiver.names == ["a.md"]


def test_a_receiver_that_does_not_answer(w: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing.Webhook.__init__, "__defaults__", (0.3,))
    answer = threading.Event()

    def hang(message: Message) -> tuple[int, dict[str, str]]:
        if len(receiver.tries) == 1:
            answer.wait(30)
        return 200, {}

    receiver.answer = hang
    w.pipeline.alerts.add(QUERY, webhook=receiver.url)
    w.write("a.md")
    w.run()
    answer.set()
    assert len(receiver.tries) == 2
    assert w.alert.delivered == 1


def test_a_receiver_that_answers_a_byte_at_a_time(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    once(monkeypatch)
    monkeypatch.setattr(outgoing.Webhook.__init__, "__defaults__", (0.3,))
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle() -> None:
            while not done.is_set():
                connection, _ = server.accept()
                with connection:
                    try:
                        while not done.wait(0.05):
                            connection.sendall(b"H")
                    except OSError:
                        continue

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        w.pipeline.alerts.add(QUERY, webhook=f"http://127.0.0.1:{server.getsockname()[1]}/")
        w.write("a.md")
        w.run()
        done.set()
        assert w.alert.waiting == 1
        assert "no answer within 0.3 s" in w.alert.trouble
        with socket.create_connection(server.getsockname()):
            thread.join(10)


def test_a_connection_is_kept_and_one_that_was_closed_is_no_failure(w: World, receiver: Receiver) -> None:
    webhook = outgoing.Webhook(receiver.url, None)
    for _ in range(3):
        webhook.send(b"{}", "key")
    assert len(receiver.connections) == 1
    webhook.cut()
    webhook.send(b"{}", "key")
    webhook.close()
    assert len(receiver.messages) == 4
    assert len(receiver.connections) == 2


def test_more_than_may_wait(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WAIT", 2)
    monkeypatch.setattr("penstock.jobs.run.DELIVERING", 0.0)
    w.pipeline.alerts.add(QUERY, webhook="http://127.0.0.1:9/")
    for name in ("a.md", "b.md", "c.md"):
        w.write(name)
        w.run()
    assert (w.alert.waiting, w.alert.lost) == (2, 1)
    assert w.matches["a.md"].state == "lost"


# ---------------------------------------------------------------- commands

NOTE = """
import json, os, sys
with open(sys.argv[1], "a") as file:
    alert = {name: os.environ[name] for name in ("PENSTOCK_ALERT", "PENSTOCK_ALERT_KEY")}
    print(json.dumps([json.load(sys.stdin), alert]), file=file)
"""


def test_a_command_gets_each_match(w: World, tmp_path: Path) -> None:
    (tmp_path / "note.py").write_text(NOTE)
    w.pipeline.alerts.add(QUERY, name="mine", command=f"{sys.executable} {tmp_path}/note.py '{tmp_path}/the notes'")
    for name in ("a.md", "b.md"):
        w.write(name)
    w.run()
    notes = [json.loads(line) for line in (tmp_path / "the notes").read_text().splitlines()]
    assert [note for note, _ in notes] == [match.to_json() for match in w.matches.values()]
    assert [env for _, env in notes] == [
        {"PENSTOCK_ALERT": "mine", "PENSTOCK_ALERT_KEY": match.key} for match in w.matches.values()
    ]


def test_a_command_that_fails_is_tried_again(w: World, tmp_path: Path) -> None:
    script = f'import pathlib; p = pathlib.Path("{tmp_path}/tries"); n = len(p.read_text()) if p.exists() else 0\n'
    script += "p.write_text('x' * (n + 1))\nif n < 2: raise SystemExit('not yet')"
    (tmp_path / "fail.py").write_text(script)
    w.pipeline.alerts.add(QUERY, command=f"{sys.executable} {tmp_path}/fail.py")
    w.write("a.md")
    w.run()
    assert (tmp_path / "tries").read_text() == "xxx"
    assert w.alert.delivered == 1


@pytest.mark.parametrize(
    ("command", "trouble"),
    [
        ("false", "the command ended with 1"),
        ("sh -c 'echo torn >&2; exit 3'", "the command ended with 3: torn"),
        ("sh -c 'kill -9 $$'", "the command was ended by signal 9"),
        ("/nothing/there", "the command cannot be started: FileNotFoundError"),
    ],
)
def test_why_a_command_failed_is_told(w: World, monkeypatch: pytest.MonkeyPatch, command: str, trouble: str) -> None:
    once(monkeypatch)
    w.pipeline.alerts.add(QUERY, command=command)
    w.write("a.md")
    w.run()
    assert w.alert.trouble.startswith(trouble)
    assert w.alert.waiting == 1


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! > '{tmp_path}/child.part'; mv '{tmp_path}/child.part' '{tmp_path}/child'; wait"
    (tmp_path / "script").write_text(script)
    command = outgoing.Command(f"sh '{tmp_path}/script'", {}, seconds=1.0)
    while not (tmp_path / "child").exists():  # on a busy machine it may not come so far
        with pytest.raises(outgoing.NotDelivered, match="took more than 1 s"):
            command.send(b"{}", "key")
    child = int((tmp_path / "child").read_text())
    until(lambda: not _alive(child))


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- runs that go on

needs_inotify = pytest.mark.skipif(not inotify.available(), reason="there is no inotify on this system")


@needs_inotify
def test_a_webhook_that_is_down_holds_up_nothing_and_loses_nothing(w: World, receiver: Receiver) -> None:
    with Receiver() as away:
        port = away.port
    w.pipeline.alerts.add(QUERY, name="away", webhook=away.url)
    w.pipeline.alerts.add(QUERY, name="there", webhook=receiver.url)
    with Watched(w.pipeline):
        for n in range(20):
            w.write(f"{n}.md")
        until(lambda: len(receiver.messages) == 20)
        away_alert = w.pipeline.alerts.list()[0]
        assert (away_alert.waiting, away_alert.delivered) == (20, 0)
        until(lambda: "the webhook cannot be reached" in w.pipeline.alerts.list()[0].trouble)
        with Receiver(port=port) as back:
            until(lambda: len(back.messages) == 20)
            assert back.names == receiver.names
            until(lambda: w.pipeline.alerts.list()[0].delivered == 20)


@needs_inotify
def test_alerts_that_come_and_go_while_a_run_goes_on(w: World, receiver: Receiver) -> None:
    with Watched(w.pipeline):
        w.write("before.md")
        until(lambda: _searchable(w, "before.md"))
        w.pipeline.alerts.add(QUERY, webhook=receiver.url)
        numbers = count()

        def told() -> bool:
            w.write(f"{next(numbers)}.md")
            return bool(receiver.messages)

        until(told)
        assert "before.md" not in receiver.names
        w.pipeline.alerts.remove(QUERY)
        w.pipeline.alerts.add("green tea", name="tea", webhook=receiver.url)

        def of_tea() -> bool:
            number = next(numbers)
            (w.docs / f"tea {number}.md").write_text(f"green tea {number}")
            return any(message.fields["alert"] == "tea" for message in receiver.messages)

        until(of_tea)


def _searchable(w: World, name: str) -> bool:
    with ps.open_index(w.pipeline.sink.url, w.pipeline.embedder) as index:
        return any(hit.chunk.uri.endswith(name) for hit in index.search(name, 100))


@needs_inotify
def test_a_run_ends_though_receivers_hang(w: World, receiver: Receiver) -> None:
    """What was cut off is delivered by the next run."""
    answer = threading.Event()

    def hang(message: Message) -> tuple[int, dict[str, str]]:
        answer.wait(30)
        return 200, {}

    receiver.answer = hang
    w.pipeline.alerts.add(QUERY, name="hook", webhook=receiver.url)
    w.pipeline.alerts.add(QUERY, name="command", command=f"sh -c 'echo > {w.docs.parent}/started; sleep 1000'")
    with Watched(w.pipeline):
        w.write("a.md")
        until(lambda: receiver.tries and (w.docs.parent / "started").exists())
    assert [alert.waiting for alert in w.pipeline.alerts.list()] == [1, 1]
    assert [alert.trouble for alert in w.pipeline.alerts.list()] == ["", ""]
    answer.set()
    receiver.answer = lambda message: (200, {})
    w.pipeline.alerts.remove("command")
    w.run()
    assert receiver.names[-1:] == ["a.md"]
    assert w.alert.delivered == 1


def test_no_secret_of_the_environment_is_kept(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "wonderful")
    once(monkeypatch)
    w.pipeline.alerts.add(QUERY, command="sh -c 'echo $MY_API_KEY >&2; exit 1'")
    w.write("a.md")
    w.run()
    assert "***" in w.alert.trouble
    assert "wonderful" not in w.alert.trouble
    assert os.environ["MY_API_KEY"] == "wonderful"
