"""Progress of several runs at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from penstock.display.progress import Board, Display, LiveDisplay, display

if TYPE_CHECKING:
    from penstock.engine.progress import Progress


class Displays(Display):
    """The displays of several pipelines, by their names: at a terminal one below the other."""

    def __init__(self, titles: Mapping[str, str], make: Callable[..., Display] = display, **options: Any) -> None:
        """`make` gets the title and the name of each, and these options."""
        super().__init__()
        self._board = Board()
        self._displays = {name: make(title, name, board=self._board, **options) for name, title in titles.items()}
        self._open = ExitStack()

    def __enter__(self) -> Displays:
        if any(isinstance(each, LiveDisplay) for each in self._displays.values()):
            self._open.enter_context(self._board)
        for each in self._displays.values():
            self._open.enter_context(each)
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def stopping(self, status: int = 0) -> None:
        super().stopping(status)
        for each in self._displays.values():
            each.stopping(status)

    def show_of(self, name: str, progress: Progress) -> None:
        self._displays[name](progress)
