"""The contents that the index has, for workers: what was moved or copied is found there, and not embedded again.

The coordinator writes pages, in the order of the contents: so many numbers, then as many ids. A worker puts them into
temporary files without names, the numbers into one, to be looked through by halves. So neither has them in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from penstock.core.errors import SourceError
from penstock.workers.place import CONTENTS, Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE = 1 << 18
"""Contents of a page, of 24 bytes each."""
NUMBER, ID = 8, 16
"""Bytes."""


def write(place: Place, contents: Iterable[Sequence[tuple[int, bytes]]]) -> None:
    """Write pages of (content, id), in the order of the contents."""
    place.remove_contents()
    for number, page in enumerate(_pages(row for some in contents for row in some)):
        place.store.put(f"{CONTENTS}/{number:06}.bin", page)


def _pages(rows: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    import numpy as np

    while page := list(islice(rows, PAGE)):
        yield np.array([content for content, _ in page], "<i8").tobytes() + b"".join(id for _, id in page)


class Contents:
    """The contents as one worker has them."""

    def __init__(self, place: Place) -> None:
        with ExitStack() as stack:
            numbers, ids = (stack.enter_context(tempfile.TemporaryFile(prefix="penstock-")) for _ in range(2))
            for name in place.store.names(CONTENTS):
                page = place.store.read(f"{CONTENTS}/{name}") or b""
                count, rest = divmod(len(page), NUMBER + ID)
                if rest:
                    raise SourceError(f"{place.url}/{CONTENTS}/{name} cannot be read: it has {len(page):,} bytes")
                numbers.write(page[: count * NUMBER])
                ids.write(page[count * NUMBER :])
            self._numbers, self._ids = _mapped(numbers, "<i8"), _mapped(ids, "V16")
            self._files = stack.pop_all()

    def find(self, contents: Sequence[int]) -> dict[int, bytes]:
        """For each of these that the index has: the id of a chunk that holds it."""
        import numpy as np

        if not len(self._numbers):
            return {}
        wanted = np.array(contents, np.int64)
        places = np.searchsorted(self._numbers, wanted).clip(max=len(self._numbers) - 1)
        same = self._numbers[places] == wanted
        return {int(number): self._ids[at].tobytes() for number, at in zip(wanted[same], places[same], strict=True)}

    def close(self) -> None:
        self._files.close()


def _mapped(file: IO[bytes], kind: str) -> NDArray[Any]:
    import numpy as np

    file.flush()
    return np.memmap(file, kind, "r") if file.tell() else np.empty(0, kind)
