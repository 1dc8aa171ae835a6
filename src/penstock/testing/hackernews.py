"""A server that is Hacker News to the source `hn://`: its API, its event stream and the pages that stories lead to.

    with HackerNewsServer() as hn:                                   # by hand: what is done is so at once
        hn.put(1, "story", title="A story", url=hn.page("ok", 1))
        hn.kill(1)
    with HackerNewsServer(tape(hours=24), speed=100, faults=0.05) as hn:      # by a script, a hundred times as fast
        ...

Its address is `hn.api`: `hn://?api={hn.api}&poll=1&private=1`. `penstock.testing.hackernews_tape` has a script, and an
oracle of what an index should hold.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from penstock.core.records import NOTHING
from penstock.testing.hackernews_pages import page

FAULTS = ("status 500", "status 503", "garbage", "cut", "drop", "slow")
SLOW = 0.3
"""Seconds for which a slow answer waits."""
STREAMED = 0.05
"""Seconds between two looks of an event stream."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happens at a time of the tape, in its seconds.

    `null`: the number is given out and there is nothing to read yet. `put`: the item is there. `edit`: some of its
    fields are others. `delete`, `kill`, `revive`. `maxitem`: the API says that this is the last number, once.
    """

    at: float
    kind: str
    number: int
    fields: Mapping[str, Any] = NOTHING


@dataclass
class Fault:
    path: str
    """How the path begins."""
    kind: str
    times: int


@dataclass
class World:
    """The items as they are now."""

    items: dict[int, dict[str, Any] | None] = field(default_factory=dict)
    changed: dict[int, float] = field(default_factory=dict)
    """Number -> when it changed last, by the tape."""
    top: int = 0
    said: deque[Any] = field(default_factory=deque)
    """What maxitem says next, instead of the truth."""

    def apply(self, event: Event, born: int) -> None:
        number, fields = event.number, dict(event.fields)
        if event.kind == "maxitem":
            self.said.append(fields["value"])
            return
        item = self.items.get(number)
        match event.kind:
            case "null":
                self.items.setdefault(number, None)
            case "put":
                self.items[number] = {"id": number, "time": born, **fields}
                self._answered(self.items[number] or {}, event.at)
            case "edit" if item is not None:
                item.update(fields)
            case "delete" if item is not None:
                kept = ("id", "time", "type", "parent", "kids")
                self.items[number] = {name: item[name] for name in kept if name in item} | {"deleted": True}
            case "kill" if item is not None:
                item["dead"] = True
            case "revive" if item is not None:
                item.pop("dead", None)
        self.top = max(self.top, number)
        if event.kind != "null":
            self.changed[number] = event.at

    def _answered(self, item: dict[str, Any], at: float) -> None:
        """A comment changes what it answers, and the story at its root."""
        above = self.items.get(item.get("parent", 0))
        if above is not None:
            above.setdefault("kids", []).insert(0, item["id"])
            self.changed[above["id"]] = at
        passed: set[int] = set()
        while above is not None and "parent" in above and above["id"] not in passed:
            passed.add(above["id"])
            above = self.items.get(above["parent"])
        if above is not None:
            above["descendants"] = above.get("descendants", 0) + 1
            self.changed[above["id"]] = at


class HackerNewsServer:
    def __init__(
        self,
        tape: Iterable[Event] = (),
        *,
        speed: float = 1.0,
        base_time: int | None = None,
        window: float = 400.0,
        faults: float = 0.0,
        seed: int = 0,
        hosts: int = 1,
    ) -> None:
        """`base_time`: the time at the beginning of the tape, in seconds since 1970. `window`: the tape's seconds for
        which the list of changes goes back. `faults`: the share of requests that fail. `hosts`: on how many
        hosts the pages are; more than one are addresses of Linux' loopback."""
        self.world = World()
        self.asked: Counter[str] = Counter()
        """Path -> how often it was asked for, of the API and of pages."""
        self.cut_streams = 0
        """So many event streams more break off in the middle of an event."""
        self.streams = True
        self.window = window
        self.base_time = int(time.time()) - 86400 if base_time is None else base_time
        self._tape, self._speed = deque(sorted(tape, key=lambda event: event.at)), speed
        self._faults = faults
        self._planned: list[Fault] = []
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._skipped = 0.0
        self._closed = threading.Event()
        self._hosts = hosts
        self._http = _Server(("127.0.0.1" if hosts == 1 else "", 0), _handler(self))
        self.base = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.api = f"{self.base}/v0"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------ what happens

    @property
    def now(self) -> float:
        """The time of the tape."""
        return (time.monotonic() - self._began) * self._speed + self._skipped

    def wall(self, at: float) -> float:
        """When a time of the tape is, by time.monotonic()."""
        return self._began + (at - self._skipped) / self._speed

    def skip(self, seconds: float) -> None:
        """Let so much of the tape pass at once."""
        with self._lock:
            self._skipped += seconds

    def put(self, number: int, type: str = "story", *, time: int | None = None, **fields: Any) -> None:
        self._happen("put", number, {"type": type, "by": "someone", **fields}, time)

    def null(self, number: int) -> None:
        self._happen("null", number)

    def edit(self, number: int, **fields: Any) -> None:
        self._happen("edit", number, fields)

    def delete(self, number: int) -> None:
        self._happen("delete", number)

    def kill(self, number: int) -> None:
        self._happen("kill", number)

    def revive(self, number: int) -> None:
        self._happen("revive", number)

    def say_maxitem(self, *values: Any) -> None:
        """Have maxitem say these next, one by one, whatever is true."""
        with self._lock:
            self.world.said.extend(values)

    def forget_changes(self) -> None:
        """Have the list of changes be empty, as if they were long ago."""
        with self._lock:
            self.play()
            self.world.changed.clear()

    def fail(self, path: str, kind: str, times: int = 1) -> None:
        """Have requests for paths that begin like this fail: `status 503`, `garbage`, `cut`, `drop`, `slow`, `hang`,
        `other` (another item), `huge`."""
        with self._lock:
            self._planned.append(Fault(path, kind, times))

    def heal(self) -> None:
        """No more failures."""
        with self._lock:
            self._planned.clear()
            self._faults = 0.0

    def page(self, kind: str, number: int) -> str:
        """The url of a page: see `penstock.testing.hackernews_pages`."""
        return f"{self._page_base(number)}/page/{kind}/{number}"

    def _page_base(self, number: int) -> str:
        host = number % self._hosts
        return f"http://127.0.{host // 250}.{host % 250 + 1}:{self._http.server_address[1]}"

    def play(self) -> None:
        """Let everything happen that has its time by now."""
        with self._lock:
            while self._tape and self._tape[0].at <= self.now:
                event = self._tape.popleft()
                self.world.apply(self._addressed(event), self.base_time + int(event.at))

    @property
    def at_end(self) -> bool:
        with self._lock:
            self.play()
            return not self._tape

    def _happen(self, kind: str, number: int, fields: Mapping[str, Any] = NOTHING, born: int | None = None) -> None:
        with self._lock:
            self.play()
            at = self.now
            event = self._addressed(Event(at, kind, number, fields))
            self.world.apply(event, self.base_time + int(at) if born is None else born)

    def _addressed(self, event: Event) -> Event:
        """A tape does not know where its pages will be."""
        url = event.fields.get("url", "")
        if not isinstance(url, str) or not url.startswith("/page/"):
            return event
        return Event(event.at, event.kind, event.number, {**event.fields, "url": self._page_base(event.number) + url})

    # ------------------------------------------------------------ what is answered

    def fault(self, path: str) -> str:
        """How this request fails; nothing where it does not."""
        with self._lock:
            self.asked[path] += 1
            for planned in self._planned:
                if path.startswith(planned.path) and planned.times > 0:
                    planned.times -= 1
                    return planned.kind
            if self._faults and self._random.random() < self._faults:
                return self._random.choice(FAULTS)
            return ""

    def answer(self, path: str) -> Any:
        """The value at a path of the API."""
        with self._lock:
            self.play()
            if path == "/v0/maxitem.json":
                return self.world.said.popleft() if self.world.said else self.world.top
            if path == "/v0/updates.json":
                since = self.now - self.window
                recent = [number for number, at in self.world.changed.items() if at >= since]
                return {"items": recent, "profiles": ["someone"]}
            number = path.removeprefix("/v0/item/").removesuffix(".json")
            item = self.world.items.get(int(number)) if number.isdigit() else None
            return None if item is None else dict(item)

    @property
    def closed(self) -> threading.Event:
        return self._closed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the trial."""


def _handler(server: HackerNewsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if "event-stream" in self.headers.get("Accept", ""):
                self.events(path)
                return
            kind = server.fault(path)
            if kind.startswith("status"):
                self.send(int(kind.split()[1]), b'{"error": "planned"}', "application/json")
            elif kind == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif kind == "hang":
                server.closed.wait(60)
                self.close_connection = True
            elif path.startswith("/v0/"):
                self.value(path, kind)
            else:
                self.document(path, kind)

        def value(self, path: str, kind: str) -> None:
            if kind == "slow":
                server.closed.wait(SLOW)
            value = server.answer(path)
            if kind == "other" and isinstance(value, dict):
                value["id"] += 1
            data = json.dumps(value).encode()
            if kind == "garbage":
                data = b"<html>It is not JSON: " + data[: len(data) // 2]
            self.send(200, data, "application/json; charset=utf-8", cut=kind == "cut", huge=kind == "huge")

        def document(self, path: str, kind: str) -> None:
            answer = page(path)
            if answer.seconds or kind == "slow":
                server.closed.wait(max(answer.seconds, SLOW))
            # What a page says is what it is: a fault that can be told is one that breaks off.
            self.send(
                answer.status,
                answer.content,
                answer.media_type,
                {"Location": server.base + answer.location} if answer.location else {},
                cut=kind in ("cut", "garbage"),
                huge=answer.huge,
            )

        def send(
            self,
            status: int,
            data: bytes,
            media_type: str,
            headers: Mapping[str, str] = NOTHING,
            *,
            cut: bool = False,
            huge: bool = False,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            for name, value in headers.items():
                self.send_header(name, value)
            if huge:
                self.send_header("Connection", "close")
                self.end_headers()
                while not server.closed.is_set():
                    self.wfile.write(data * (1 + (1 << 20) // max(1, len(data))))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        def events(self, path: str) -> None:
            self.close_connection = True
            server.asked[f"{path} stream"] += 1
            if not server.streams:
                self.send(404, b"", "text/plain")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            before = None
            while not server.closed.wait(STREAMED):
                with server._lock:
                    server.play()
                    value = server.world.top
                if value == before:
                    continue
                event = f"event: put\ndata: {json.dumps({'path': '/', 'data': value})}\n\n".encode()
                if before is not None and server.cut_streams > 0:
                    server.cut_streams -= 1
                    self.wfile.write(event[: len(event) // 2])
                    return
                before = value
                self.wfile.write(event)
                self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler
