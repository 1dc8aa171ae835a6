"""Questions with their answers, to measure searches by: read from JSON lines or from Python, and held against hits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from penstock.core.errors import UsageError, naming
from penstock.core.options import nearest
from penstock.core.records import Chunk, Hit
from penstock.sources import uri_of

MAX_LINE = 1 << 20
"""Bytes of a line of a file of questions."""
MAX_GRADE = 1_000_000
SHARED = 100
"""Characters of a long passage that a chunk has to share, where it does not hold the whole of it."""
EXPECTED = '{"question": "...", "uri": "docs/a.md"}, with "page" and "passage" where they are known'
_ANSWER = ("uri", "page", "passage", "grade")


@dataclass(frozen=True, slots=True)
class Answer:
    """What answers a question: a document, a page of it, or a passage."""

    uri: str | None = None
    """As the index has it, or a path."""
    page: int | None = None
    passage: str | None = None
    """A text that the chunk holds, or of which it holds a part: see `overlap`. White space does not count."""
    grade: float = 1.0
    """How good an answer it is beside the others."""
    resolved: str | None = None
    """The uri of the path that `uri` may be."""

    def is_in(self, chunk: Chunk) -> bool:
        """Whether the chunk has this answer."""
        return (
            (self.uri is None or chunk.uri in (self.uri, self.resolved))
            and (self.page is None or chunk.page == self.page)
            and (self.passage is None or overlap(_spaced(chunk.text), self.passage))
        )


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answers: tuple[Answer, ...]

    @property
    def grades(self) -> list[float]:
        return [answer.grade for answer in self.answers]

    def ranks(self, hits: Sequence[Hit]) -> list[int | None]:
        """For each answer the rank of the first hit that has it, from 1."""
        return [
            next((rank for rank, hit in enumerate(hits, 1) if answer.is_in(hit.chunk)), None) for answer in self.answers
        ]


class Questions(Protocol):
    """Questions that can be gone through again and again, and counted."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Question]: ...


QuestionsSpec = str | os.PathLike[str] | Iterable[Question | Mapping[str, Any]]


def read_questions(questions: QuestionsSpec) -> Questions:
    """The questions of a file, or of Python, all checked. Raises UsageError with the line of one that is wrong."""
    if isinstance(questions, str | os.PathLike):
        path = Path(questions).expanduser()
        # What is not a file, as a pipe, can be read once.
        read: Questions = QuestionFile(path) if path.is_file() else list(_of_file(path))
        where = str(path)
    else:
        read, where = [_of_python(one, number) for number, one in enumerate(questions, 1)], "the list"
    if not len(read):
        raise UsageError(f"no question in {where}: expected one a line, {EXPECTED}")
    return read


class QuestionFile:
    """The questions of a file, of any number: checked at once, and read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Question]:
        return _of_file(self._path)


def overlap(text: str, passage: str) -> bool:
    """Whether a chunk's text has the passage, or at a cut half of it or SHARED characters. Both have single spaces."""
    least = min((len(passage) + 1) // 2, SHARED)
    if passage in text or (len(text) >= least and text in passage):
        return True
    return _runs_into(text, passage, least) or _runs_into(passage, text, least)


def _runs_into(first: str, second: str, least: int) -> bool:
    """Whether an end of the first text, of at least so many characters, is the beginning of the second."""
    start = first.find(second[:least]) if len(second) >= least else -1
    while start >= 0:
        if second.startswith(first[start:]):
            return True
        start = first.find(second[:least], start + 1)
    return False


def _spaced(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- reading


def _of_file(path: Path) -> Iterator[Question]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    with naming(f"{path}, line {number}"):
                        yield _question(_parsed(line))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE + 1):
        yield line


def _of_python(one: Question | Mapping[str, Any], number: int) -> Question:
    if isinstance(one, Question):  # read and checked before
        return one
    with naming(f"question {number}"):
        return _question(one)


def _parsed(line: bytes) -> Any:
    if len(line) > MAX_LINE:
        raise UsageError(f"the line is longer than {MAX_LINE:,} bytes: expected JSON lines, {EXPECTED}")
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError("it is not UTF-8: expected JSON lines") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"invalid JSON ({error}): expected {EXPECTED}") from None


def _question(record: Any) -> Question:
    if not isinstance(record, Mapping):
        raise UsageError(f"invalid question {str(record)[:60]!r}: expected {EXPECTED}")
    several = "answers" in record
    _check_names(record, ("question", "answers") if several else ("question", *_ANSWER, "answers"))
    text = _text(record, "question")
    if text is None:
        raise UsageError(f'"question" is missing: expected {EXPECTED}')
    answers = record["answers"] if several else [{name: record[name] for name in _ANSWER if name in record}]
    if not isinstance(answers, list | tuple) or not answers:
        raise UsageError('"answers": expected a list of at least one, such as {"uri": "docs/a.md", "grade": 2}')
    return Question(text, tuple(map(_answer, answers)))


def _answer(record: Any) -> Answer:
    if not isinstance(record, Mapping):
        raise UsageError(
            f'invalid answer {str(record)[:60]!r}: expected one such as {{"uri": "docs/a.md", "grade": 2}}'
        )
    _check_names(record, _ANSWER)
    uri, passage, page, grade = _text(record, "uri"), _text(record, "passage"), record.get("page"), record.get("grade")
    if uri is None and passage is None:
        raise UsageError('no answer: expected "uri", or "passage", or both')
    if page is not None and (type(page) is not int or uri is None):
        raise UsageError(f'"page": invalid page {page!r:.60}: expected a whole number, beside a "uri"')
    grade = 1.0 if grade is None else grade
    if isinstance(grade, bool) or not isinstance(grade, int | float) or not 0 < grade <= MAX_GRADE:
        raise UsageError(f'"grade": invalid grade {str(grade)[:60]}: expected a number above 0, at most {MAX_GRADE:,}')
    resolved = None if uri is None else uri_of(uri)
    return Answer(uri, page, None if passage is None else _spaced(passage), float(grade), resolved)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise UsageError(f'"{name}": invalid {name} {value!r:.300}: expected a text')
    if value is not None and name != "uri" and value != value.encode(errors="replace").decode():
        raise UsageError(f'"{name}": a lone surrogate is not a character')  # as no model takes it
    return value


def _check_names(record: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in record:
        if name not in known:
            near = nearest(str(name), known)
            hint = f"did you mean {near!r}?" if near else f"expected {', '.join(known)}"
            raise UsageError(f"unknown field {name!r:.300}: {hint}")
