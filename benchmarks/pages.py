"""Pages of many hosts while one hangs: what the others' pages wait.

    python benchmarks/pages.py                              # 100 hosts, 3 rounds of 30 s each way
    python benchmarks/pages.py --seconds 5 --hosts 20

Pages arrive at random at 40 a second, a tenth of them of one host, and are fetched by 16 threads, as in a live run; a
page whose host is busy or away comes again after as long as that says. Rounds in which that host answers and in which
it hangs take turns. Bar: p95 of the other hosts' pages, from arrival to the last byte, grows by less than 10 %.
"""

from __future__ import annotations

import argparse
import heapq
import queue
import random
import threading
import time

import numpy as np
from figures import record

from penstock.core.errors import SourceError
from penstock.support.addresses import near
from penstock.support.fetching import HostAway
from penstock.support.hosts import Hosts
from penstock.support.pages import PageFetcher
from penstock.testing.hostile_host import Exchange, HostileHost, content

THREADS = 16
RATE = 40.0
"""Pages a second."""
HANGS = "127.0.255.1"
TIMEOUT = 10.0


class Round:
    def __init__(self, host: HostileHost, hosts: int, seconds: float, seed: int) -> None:
        self.fetch = PageFetcher(judge=near, robots=False, seconds=TIMEOUT, hosts=Hosts(waiting=2))
        dice = random.Random(seed)
        self.pages: list[tuple[float, str]] = []
        at = 0.0
        while (at := at + dice.expovariate(RATE)) < seconds:
            address = HANGS if dice.random() < 0.1 else f"127.0.1.{dice.randrange(hosts) + 1}"
            self.pages.append((at, f"http://{address}:{host.port}/page?{dice.random()}"))
        self.took: list[float] = []
        self.fetches = 0
        self._due: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._again: list[tuple[float, float, str]] = []
        self._lock = threading.Lock()

    def run(self) -> float:
        """Fetch the pages as they arrive; returns the p95 of other hosts."""
        threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        for at, url in self.pages:
            while (left := began + at - time.monotonic()) > 0:
                time.sleep(min(left, 0.01))
                self._requeue()
            self._due.put((began + at, url))
        for _ in threads:
            self._due.put(None)
        self.fetch.interrupt()
        for thread in threads:
            thread.join()
        return float(np.percentile(self.took, 95))

    def _requeue(self) -> None:
        with self._lock:
            while self._again and self._again[0][0] <= time.monotonic():
                _, arrived, url = heapq.heappop(self._again)
                self._due.put((arrived, url))

    def _work(self) -> None:
        while (entry := self._due.get()) is not None:
            arrived, url = entry
            try:
                self.fetch(url).content.close()
            except HostAway as error:
                with self._lock:
                    heapq.heappush(self._again, (time.monotonic() + (error.retry_after or 1.0), arrived, url))
                continue
            except (SourceError, TimeoutError):
                continue
            if HANGS not in url:
                with self._lock:
                    self.took.append(time.monotonic() - arrived)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    hanging = threading.Event()
    body = b"<p>All about penstocks. " * 500
    dice = random.Random(0)

    def page(exchange: Exchange) -> None:
        # Half a tenth to two seconds, as on the web.
        exchange.wait(3600 if hanging.is_set() and HANGS in exchange.headers["Host"] else pause())
        content(body)(exchange)

    def pause() -> float:
        return min(2.0, dice.lognormvariate(-2, 0.7))

    p95: dict[bool, list[float]] = {False: [], True: []}
    with HostileHost("0.0.0.0") as host:  # all addresses of loopback
        host.other = page
        for number in range(options.rounds):
            for hangs in (False, True):
                hanging.set() if hangs else hanging.clear()
                p95[hangs].append(Round(host, options.hosts, options.seconds, number).run())
                print(
                    f"round {number + 1}, one host {'hangs' if hangs else 'answers'}: {p95[hangs][-1]:.3f} s",
                    flush=True,
                )
    before, after = (float(np.median(p95[hangs])) for hangs in (False, True))
    growth = 100 * (after / before - 1)
    record(f"growth of p95 while one of {options.hosts} hosts hangs", growth, "%", bar=10.0, better="lower")
    print(f"p95 of other hosts' pages: {before:.3f} s; while one hangs {after:.3f} s ({growth:+.1f} %)")


if __name__ == "__main__":
    main()
