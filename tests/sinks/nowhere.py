"""What every sink and index with a client has to say of a server that is not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from penstock.contracts import Index, Sink
from penstock.errors import SinkError
from penstock.testing.sink_suite import SinkSuite

PATIENCE = 10.0


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that nobody listens at, nor will meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def is_told(sink: Sink, index: Index, secret: str) -> None:
    """Soon, in one line that names the place and holds no secret, whatever is asked first."""
    with closing(sink), closing(index):
        for call in (sink.manifest, lambda: sink.open(SinkSuite().manifest), index.manifest, index.open, sink.drop):
            start = time.monotonic()
            with pytest.raises(SinkError) as told:
                call()
            assert time.monotonic() - start < PATIENCE
            line = str(told.value)
            assert sink.url in line
            assert "\n" not in line
            assert len(line) < 600
            assert secret not in line
