"""Time of one key's searches while another key floods the server.

    python benchmarks/floods.py                      # 5,000 chunks, ten seconds a flood
    python benchmarks/floods.py --only texts

A server with the default model, which decodes images as well, in a process of its own, without a rate. One key searches
by words, one search after another; the other sends as much of one kind as it can, from a further process. On a machine
of two cores that process takes its part of them, too: the first line is of one that only computes.
Bar: the 95th percentile of the searches at most three times that of a quiet server, and none of them refused.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from figures import MISSED, record
from PIL import Image

from penstock.compose import open_index
from penstock.core.records import VECTOR, Chunk, Dense, Point
from penstock.core.schema import Manifest, single
from penstock.embedders.onnx import OnnxEmbedder
from penstock.sinks.lance import LanceSink
from penstock.support.images import decode
from penstock.support.process import configure

SHORT = 5.0
"""Seconds of a flood with fewer of which it is a trial: bars do not count."""
BAR = 3.0
"""Times the quiet 95th percentile."""
WORDS = ("water", "pipe", "valve", "press", "flow", "gate", "dam", "mill", "wheel", "river", "stone", "iron", "wood")
FLOODING = "127.0.0.2"
"""Where very many connections come from: of one address not all are accepted, and the searches are of another."""
COMPUTING = "none, only computing"
FLOODER, SEARCHER = {"X-API-Key": "flooder"}, {"X-API-Key": "searcher"}
JSON = {"Content-Type": "application/json"}


class Seeing(OnnxEmbedder):
    """The default model, with images of its space: they are decoded, and stand for a word."""

    def query_images(self, pictures: Sequence[bytes]) -> list[Dense]:
        return self.query([WORDS[decode(picture).width % len(WORDS)] for picture in pictures])


def sentence(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def picture(side: int) -> bytes:
    out = io.BytesIO()
    noise = Image.effect_noise((side // 4, side // 4), 80).resize((side, side))
    noise.convert("RGB").save(out, "PNG", compress_level=1)
    return out.getvalue()


def build(url: str, folder: Path, count: int) -> list[str]:
    """Chunks of text, and a few images as files; returns the ids of these."""
    for number in range(24):
        (folder / f"{number}.png").write_bytes(picture(1200))
    embedder = Seeing()
    with LanceSink(url) as sink, embedder:
        sink.open(Manifest(single(embedder.describe())))
        chunks = [Chunk(f"{n:032x}", f"doc:{n}", 0, sentence(12, n), (0, 0)) for n in range(count)]
        images = [
            Chunk(f"{n:032x}", (folder / f"{n - count}.png").as_uri(), 0, sentence(3, n), (0, 0))
            for n in range(count, count + 24)
        ]
        for start in range(0, len(chunks), 500):
            some = [*chunks[start : start + 500], *(images if start == 0 else ())]
            vectors = embedder.query([chunk.text for chunk in some])
            sink.write([Point(c, {VECTOR: v}) for c, v in zip(some, vectors, strict=True)])
        sink.flush()
    return [image.id for image in images]


# ---------------------------------------------------------------- floods

Flood = Callable[[str, int], object]
"""Sends until it is ended: to a url, as one of several senders."""


def posts(path: str, body: bytes) -> Flood:
    def send(url: str, number: int) -> None:
        with httpx.Client(base_url=url, headers=FLOODER | JSON, trust_env=False, timeout=60) as client:
            while True:
                if client.post(path, content=body).status_code == 429:
                    time.sleep(0.01)

    return send


def computing(url: str, number: int) -> None:
    while True:
        pass


def gets(paths: Sequence[str]) -> Flood:
    def send(url: str, number: int) -> None:
        with httpx.Client(base_url=url, headers=FLOODER, trust_env=False, timeout=60) as client:
            turn = number
            while True:
                client.get(paths[turn % len(paths)])
                turn += 1

    return send


def slow_bodies(url: str, number: int) -> None:
    """Forty connections a sender, each with half a large body and then a byte from time to time."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: {host}:{port}\r\nX-API-Key: flooder\r\nContent-Type: application/json\r\n"
        "Content-Length: 8000000\r\n\r\n"
    )
    lines: list[socket.socket] = []
    while True:
        lines = [line for line in lines if _drip(line)]
        while len(lines) < 40:
            line = socket.create_connection((host, int(port)), 5, (FLOODING, 0))
            line.settimeout(0.01)
            with suppress(OSError):
                line.sendall(head.encode() + b" " * 4_000_000)
            lines.append(line)
        time.sleep(0.2)


def _drip(line: socket.socket) -> bool:
    try:
        line.send(b" ")
    except TimeoutError:
        return True
    except OSError:
        line.close()
        return False
    return True


def floods(ids: Sequence[str]) -> dict[str, Flood]:
    texts = json.dumps({"input": [sentence(220, n) for n in range(256)]}).encode()
    image = json.dumps({"image": base64.b64encode(picture(1600)).decode()}).encode()
    numbers = b'{"vector": [' + b"0.25," * ((16 << 20) // 5 - 10) + b"1]}"
    allowed = b'{"vector": [' + b"0.123456789," * 90_000 + b"1]}"
    batch = json.dumps({"queries": [{"text": sentence(150, n), "k": 200} for n in range(32)]}).encode()
    return {
        COMPUTING: computing,
        "texts": posts("/v1/embeddings", texts),
        "images": posts("/v1/search", image),
        "large bodies": posts("/v1/search", numbers),
        "large bodies within limits": posts("/v1/search", allowed),
        "slow bodies": slow_bodies,
        "batch searches": posts("/v1/search/batch", batch),
        "thumbnails": gets([f"/v1/thumbs/{id}?size=512" for id in ids]),
    }


def flood(name: str, url: str, ids: Sequence[str], senders: int) -> None:
    os.nice(19)  # it would be on another machine
    send = floods(ids)[name]
    threads = [threading.Thread(target=_forever, args=(send, url, n), daemon=True) for n in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _forever(send: Flood, url: str, number: int) -> None:
    while True:
        try:
            send(url, number)
        except (OSError, httpx.HTTPError):
            time.sleep(0.01)


# ---------------------------------------------------------------- the server and the searcher


def run(url: str, folder: str, addresses: Any) -> None:
    from penstock.server.server import serve
    from penstock.server.settings import Settings

    configure(long=True, serves=True)  # as the command line does
    settings = Settings(port=0, drain=0.0, keys=("flooder", "searcher"), roots=(Path(folder),))
    serve(url, settings, opener=lambda url: open_index(url, Seeing()), started=lambda _, at: addresses.put(at))


def searches(url: str, seconds: float) -> tuple[list[float], int]:
    """Seconds of each search, and how many were refused."""
    took, refused = [], 0
    with httpx.Client(base_url=url, headers=SEARCHER, trust_env=False, timeout=60) as client:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            number += 1
            began = time.perf_counter()
            answer = client.post("/v1/search", json={"text": sentence(6, number), "k": 10})
            took.append(time.perf_counter() - began)
            refused += answer.status_code != 200
            time.sleep(0.02)
    return took, refused


def p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1] * 1e3 if len(seconds) > 1 else seconds[0] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each flood")
    parser.add_argument("--senders", type=int, default=8, help="connections that flood")
    parser.add_argument("--only", metavar="NAME", help="this flood only")
    options = parser.parse_args()
    process = multiprocessing.get_context("spawn")
    missed = False
    with tempfile.TemporaryDirectory() as name:
        url = f"lance://{name}/floods"
        ids = build(url, Path(name), options.chunks)
        addresses = process.Queue()
        server = process.Process(target=run, args=(url, name, addresses), daemon=True)
        server.start()
        at = addresses.get(timeout=120)
        try:
            searches(at, options.seconds / 5)
            quiet = p95(searches(at, options.seconds)[0])
            print(f"{'':28}{'p95 ms':>9}{'x quiet':>9}{'refused':>9}{'searches':>9}{'ready':>9}")
            print(f"{'quiet':28}{quiet:>9.1f}", flush=True)
            record(f"quiet, {options.chunks:,} chunks: p95", quiet, "ms", better="lower")
            for kind in floods(ids):
                if kind == COMPUTING or options.only in (None, kind):
                    sender = process.Process(target=flood, args=(kind, at, ids, options.senders), daemon=True)
                    sender.start()
                    time.sleep(2 + options.seconds / 5)
                    took, refused = searches(at, options.seconds)
                    ready = httpx.get(f"{at}readyz", timeout=30, trust_env=False).status_code
                    sender.terminate()
                    sender.join()
                    time.sleep(1)
                    times = p95(took) / quiet
                    print(f"{kind:28}{p95(took):>9.1f}{times:>9.1f}{refused:>9}{len(took):>9}{ready:>9}", flush=True)
                    size = f"{kind}, {options.chunks:,} chunks"
                    record(f"{size}: p95", p95(took), "ms", better="lower")
                    floor = kind == COMPUTING
                    record(f"{size}: times the quiet p95", times, bar=None if floor else BAR, better="lower")
                    record(f"{size}: refused", refused, bar=0, better="lower")
                    missed |= not floor and (times > BAR or refused > 0)
        finally:
            server.terminate()
            server.join()
    sys.exit(MISSED if missed and options.seconds >= SHORT else 0)


if __name__ == "__main__":
    main()
