"""Pairs of a question and a passage as a cross-encoder takes them; a passage that is too long in several windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from penstock.core.errors import ModelError, QueryMismatch
from penstock.embedders.cross_checkpoint import AFTER, BEFORE, Answers, CrossCheckpoint
from penstock.embedders.tokenize import HFTokenizer, PairForm

LEAST = 32
"""Tokens of a passage that a question leaves room for."""
SHARED = 4
"""Of a window, one part in so many is in the next one as well: what stands at a border is read whole."""


class Pair(NamedTuple):
    text: int
    """Number of the text that it is of."""
    ids: Sequence[int]
    types: Sequence[int]
    """Of the tokens; nothing where all are of one."""


class Pairs:
    """Writes pairs for one model, of at most so many tokens each."""

    def __init__(self, checkpoint: CrossCheckpoint, tokenizer: HFTokenizer, length: int) -> None:
        self._checkpoint, self._tokenizer = checkpoint, tokenizer
        if checkpoint.answers is None:
            self._form = tokenizer.pair()
        else:
            before, after = tokenizer.encode([BEFORE, AFTER])
            self._form = PairForm(before, (), after, (0,) * 5)
        self.typed = checkpoint.typed and any(self._form.types)
        self._room = length - sum(map(len, self._form[:3]))
        """Tokens of question and passage."""
        if self._room < 2:
            raise ModelError(f"{checkpoint.name}: {length} tokens leave no room for a pair of texts")

    def of(self, question: str, texts: Sequence[str]) -> Iterator[Pair]:
        """The pairs of each text, one unless it is too long. Raises QueryMismatch for a question that is too long."""
        answering = self._checkpoint.answers is not None
        # Words of question and passage never run into what stands around them, as each begins with a space.
        task = self._checkpoint.instruction
        written = f"<Instruct>: {task}\n<Query>: {question}\n<Document>:" if answering else task + question
        passages = [f" {text}" for text in texts] if answering else list(texts)
        own, *others = self._tokenizer.encode([written, *passages])
        most = self._room - min(LEAST, self._room // 2)
        if len(own) > most:
            raise QueryMismatch(
                f"the query {question[:40]!r}... has {len(own):,} tokens; {self._checkpoint.name} takes {most:,} of"
                " one, to leave room for a passage: expected a shorter query, or no rerank"
            )
        before, between, after, types = self._form
        head, room = [*before, *own, *between], self._room - len(own)
        of_head = [types[0]] * len(before) + [types[1]] * len(own) + [types[2]] * len(between)
        for number, ids in enumerate(others):
            for window in windows(ids, room):
                of_rest = [types[3]] * len(window) + [types[4]] * len(after)
                yield Pair(number, [*head, *window, *after], [*of_head, *of_rest] if self.typed else ())


def windows(ids: Sequence[int], room: int) -> Iterator[Sequence[int]]:
    """The ids whole, or in windows of `room` that overlap; the last one ends with them."""
    start, step = 0, max(1, room - room // SHARED)
    while start + room < len(ids):
        yield ids[start : start + room]
        start += step
    yield ids[max(0, min(start, len(ids) - room)) :]


def answer_ids(tokenizer: HFTokenizer, checkpoint: CrossCheckpoint, answers: Answers) -> tuple[int, int | None]:
    """The ids of the answers. Raises ModelError for a word that the vocabulary lacks."""

    def id_of(answer: int | str) -> int:
        id = answer if isinstance(answer, int) else tokenizer.id_of(answer)
        if id is None:
            raise ModelError(f"{checkpoint.name}: its vocabulary has no word {answer!r} to answer with")
        return id

    return id_of(answers.yes), None if answers.no is None else id_of(answers.no)
