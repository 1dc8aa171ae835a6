"""Progress in a log of JSON."""

from __future__ import annotations

from penstock.cli.output.streams import complain, labelled, log
from penstock.display.progress import STOPPING, Display
from penstock.engine.progress import Progress


class Log(Display):
    """An event now and then."""

    every, idle = 5.0, 60.0

    def show(self, progress: Progress, news: bool) -> None:
        with labelled(self.name):
            if news:
                complain(STOPPING)
            else:
                log("progress", **progress.to_json())
