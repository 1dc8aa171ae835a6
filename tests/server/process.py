"""A server as a process of its own: `python -m tests.server.process URL SETTINGS`. Texts with `slow` take a while."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from penstock.core.records import Dense
from penstock.server.server import serve
from penstock.server.settings import Settings
from tests.server.serving import ColourEmbedder, either


class Slow(ColourEmbedder):
    def query(self, texts: Sequence[str]) -> list[Dense]:
        if any("slow" in text for text in texts):
            time.sleep(1.2)
        return super().query(texts)


if __name__ == "__main__":
    serve(sys.argv[1], Settings(**json.loads(sys.argv[2])), opener=either(Slow()))
