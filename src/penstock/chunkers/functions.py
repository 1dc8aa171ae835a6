"""A plain function as a chunker: the text in, strings out, as the splitters of other libraries are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from penstock.core.errors import ParseError
from penstock.core.records import Block, Piece
from penstock.support.code_fingerprint import CodeFingerprint, code_fingerprint, qualified_name


class FunctionChunker:
    """Gives each run of text (a page, a section; or the whole document) to `split` and locates the strings it returns.

    The run is held whole: a splitter that wants the text at once pays for it.
    """

    def __init__(self, split: Callable[[str], Iterable[str]]) -> None:
        self.split = split

    @property
    def spec(self) -> str:
        return function_spec(self.split, code_fingerprint(self.split))

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Piece]:
        base = 0
        numbered = ((number if block.unit or block.image else -1, block) for number, block in enumerate(blocks))
        for _, run in groupby(
            numbered, key=lambda pair: (pair[0], pair[1].page, pair[1].headings, dict(pair[1].metadata))
        ):
            held = [block for _, block in run]
            text = "".join(block.text for block in held)
            first = held[0]
            if first.image is not None:
                yield Piece(
                    text, (base, base + len(text)), first.page, first.headings, first.metadata, image=first.image
                )
            else:
                for start, part in self._located(text):
                    span = (base + start, base + start + len(part))
                    yield Piece(part, span, first.page, first.headings, first.metadata)
            base += len(text)

    def _located(self, text: str) -> Iterator[tuple[int, str]]:
        at = 0
        for part in self.split(text):
            if not part.strip():
                continue
            start = text.find(part, at)
            if start < 0:
                name = qualified_name(self.split)
                raise ParseError(f"{name} returned a text that is not in the document, or not in order: {part[:60]!r}")
            yield start, part
            at = start + 1  # the next may overlap this one, but comes after it


def function_spec(function: Callable[..., object], code: CodeFingerprint) -> str:
    """The chunking of a function or object of the user's own, which is another one once its code has changed."""
    return f"{qualified_name(function)} (code {code.digest})"
