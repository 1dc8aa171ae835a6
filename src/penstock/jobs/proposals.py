"""Questions to begin an evaluation with, proposed from the headings and first sentences of an index's own chunks."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from penstock.core.contracts import Sink
from penstock.core.errors import SinkError, UsageError
from penstock.core.pieces import PieceSize
from penstock.core.records import Chunk

DRAWN = 16
"""Chunks that are looked at for each question that is wanted: some have none to give."""
WORDS = range(5, 61)
"""Words of a sentence that can be a question."""
_COMMON = re.compile(
    r"(abstract|acknowledgements|acknowledgments|appendix|background|bibliography|changelog|conclusion|conclusions|"
    r"contact|contents|copyright|discussion|example|examples|faq|features|help|home|imprint|index|introduction|"
    r"legal|license|licence|links|menu|motivation|navigation|notes|overview|preface|privacy|quickstart|references|"
    r"related|results|sources|summary|todo|usage)"
)
"""Headings that many documents have."""
_BOILERPLATE = re.compile(
    r"copyright|©|all rights reserved|licen[cs]ed? under|cookies|privacy policy|terms of (use|service)|subscribe"
    r"|sign (in|up)|click here|table of contents|see also|https?://|www\.|lorem ipsum",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^\s*(?:#{1,6}\s+|>+\s?|[-*+•]\s+|\d+[.)]\s+)")
_EMPHASIS = re.compile(r"[*`]{1,3}|(?<!\w)_+|_+(?!\w)")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?![a-zß-ÿ])|(?<=[。！？])")
_PARAGRAPH = re.compile(r"\n\s*\n|(?<=\S)\n(?=\s*(?:#{1,6}\s|[-*+•]\s|\d+[.)]\s|\|))|(?<=^)(?=#{1,6}\s)", re.MULTILINE)
_NO_PROSE = ("|", "<", "{", "$", ">>>", "#")
_FENCE = re.compile(r"^(```|~~~).*?(^\1|\Z)", re.MULTILINE | re.DOTALL)


class Proposal(NamedTuple):
    question: str
    uri: str
    page: int | None
    passage: str
    """The first sentence of the chunk, as it stands there."""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}


def propose_questions(
    sink: Sink, number: int, *, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Proposal]:
    """Propose up to so many questions on the documents of an index: the same ones each time, from as many documents as
    there are. Another `seed` gives others.

    They favour the words that stand in the text, so they are only a beginning: real questions use words of their own.
    """
    if number < 1:
        raise UsageError(f"invalid number {number}: expected at least 1")
    if (held := sink.manifest()) is None:
        raise SinkError(f"there is no index at {sink.url}")
    if not sink.readable:
        raise UsageError(f"{sink.url} cannot be read back, so no questions can be proposed from it")
    with sink:
        sink.open(held)
        total = sink.count()
        ids = heapq.nsmallest(DRAWN * number, _counted(sink, total, progress), key=lambda id: _draw(id, seed))
        chunks = _chunks(sink, ids, PieceSize(held.schema.vectors, sink.max_rows))
        return _chosen([found for chunk in chunks if (found := proposal(chunk)) is not None], number)


def _counted(sink: Sink, total: int, progress: Callable[[int, int], None] | None) -> Iterator[str]:
    done = 0
    for ids in sink.ids():
        yield from ids
        done += len(ids)
        if progress:
            progress(done, total)


def _draw(id: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{id}".encode(), digest_size=8).digest()


def _chunks(sink: Sink, ids: Sequence[str], size: PieceSize) -> Iterator[Chunk]:
    """The chunks of these ids, in their order."""
    places = {id: place for place, id in enumerate(ids)}
    for points in size.read(sink.fetch, ids):
        yield from sorted((point.chunk for point in points), key=lambda chunk: places[chunk.id])


def _chosen(proposals: Sequence[Proposal], number: int) -> list[Proposal]:
    """The first proposal of each document, then the second ones. A question that several chunks would answer is
    none."""
    times = Counter(_key(one.question) for one in proposals)
    of_document: Counter[str] = Counter()
    ranked = []
    for place, one in enumerate(proposals):
        if times[_key(one.question)] == 1:
            ranked.append((of_document[one.uri], place, one))
            of_document[one.uri] += 1
    return [one for *_, one in sorted(ranked)[:number]]


def _key(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.lower()))


def proposal(chunk: Chunk) -> Proposal | None:
    """The question that a chunk answers: the heading that it begins with, or else its first sentence. None where
    neither says anything."""
    if chunk.image is not None:
        return None
    headings = [*map(_plain, chunk.headings)]
    paragraphs = [one for one in _PARAGRAPH.split(_FENCE.sub("\n\n", chunk.text)) if one.strip()]
    heading = ""
    while paragraphs and _plain(paragraphs[0]) in headings:
        heading = _plain(paragraphs.pop(0))
    passage = next((found for one in paragraphs if (found := _first_sentence(one))), None)
    if passage is None:
        return None
    question = _plain(passage).rstrip(".")
    if heading and _is_telling(heading):
        above = headings[: headings.index(heading)][-1:]
        question = ": ".join([*above, heading])
    return Proposal(question, chunk.uri, chunk.page, passage)


def _first_sentence(paragraph: str) -> str | None:
    """The first whole sentence of running text, on one line but else as it stands there. None where there is none."""
    if paragraph.lstrip().startswith(_NO_PROSE):
        return None
    for sentence in _SENTENCES.split(paragraph.strip()):
        text = _MARKER.sub("", " ".join(sentence.split()))
        plain = _plain(text)
        letters = sum(one.isalpha() or one.isspace() for one in plain)
        if (
            plain[:1].isalnum()
            and not plain[:1].islower()
            and plain.endswith((".", "!", "?", *"。！？"))
            and len(_WORD.findall(plain)) in WORDS
            and letters >= 0.8 * len(plain)
            and not _BOILERPLATE.search(plain)
        ):
            return text
    return None


def _is_telling(heading: str) -> bool:
    """Whether a heading says what stands beneath it."""
    words = re.findall(r"[^\W\d_]{2,}", heading.lower())
    common = len(words) <= 2 and any(map(_COMMON.fullmatch, words))
    return bool(words) and not common and not _BOILERPLATE.search(heading)


def _plain(text: str) -> str:
    """A text on one line, without Markdown's marks."""
    return " ".join(_EMPHASIS.sub("", _MARKER.sub("", _LINK.sub(r"\1", text))).split())
