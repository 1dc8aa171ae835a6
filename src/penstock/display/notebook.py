"""Output in a Jupyter notebook, where it is updated in place. IPython is there or not; it is never imported first."""

from __future__ import annotations

import sys
from html import escape
from importlib import import_module
from typing import Any


def in_notebook() -> bool:
    """Whether this program is run by a notebook's kernel. IPython at a terminal is a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Cell:
    """Text in the output of a notebook's cell, which each `show` replaces."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        display = import_module("IPython.display").display

        style = "line-height: 1.4; white-space: pre-wrap"
        shown = {"text/plain": text, "text/html": f'<pre style="{style}">{escape(text)}</pre>'}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
