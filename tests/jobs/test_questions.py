"""Questions read from JSON lines and from Python, and held against hits."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock.core.errors import UsageError
from penstock.core.records import Chunk, Hit
from penstock.jobs.questions import MAX_LINE, Answer, Question, overlap, read_questions
from penstock.sources import uri_of

TEXT = "The gate decides how much water the pipe may hold. " * 10


def chunk(uri: str, text: str = TEXT, page: int | None = None) -> Chunk:
    return Chunk("0" * 32, uri, 0, text, (0, len(text)), page)


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "q.jsonl"
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))
    return path


def test_a_file_is_read_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(
        tmp_path,
        {"question": "how?", "uri": "docs/a.md", "page": 2},
        "",
        {"question": "why?", "answers": [{"uri": "s3://bucket/b", "grade": 2}, {"passage": "as \n it is"}]},
    )
    questions = read_questions(path)
    assert len(questions) == 2
    assert list(questions) == list(questions)
    how, why = questions
    assert how == Question("how?", (Answer("docs/a.md", 2, None, 1.0, uri_of(tmp_path / "docs/a.md")),))
    assert why.grades == [2, 1]
    assert why.answers[1].passage == "as it is"


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    line = json.dumps({"question": "how?", "uri": "a"})
    threading.Thread(target=pipe.write_text, args=(f"{line}\n{line}\n",)).start()
    questions = read_questions(pipe)
    assert [question.text for question in (*questions, *questions)] == ["how?"] * 4


def test_python_gives_mappings_and_questions(tmp_path: Path) -> None:
    question = Question("how?", (Answer("doc:1"),))
    first, _ = read_questions([question, {"question": "why?", "uri": tmp_path / "a.md"}])
    assert first is question
    with pytest.raises(UsageError, match=r"question 2: .*'uri'"):
        read_questions([question, {"question": "why?", "urI": "a"}])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "invalid JSON"),
        ("[" * 100_000, "invalid JSON"),
        ("[]", "invalid question '[]'"),
        ({"uri": "a"}, '"question" is missing'),
        ({"question": " ", "uri": "a"}, "expected a text"),
        ({"question": 5, "uri": "a"}, "expected a text"),
        ({"question": "\ud800", "uri": "a"}, "a lone surrogate"),
        ({"question": ["x" * 5000], "uri": "a"}, "invalid question"),
        ({"question": "how?"}, "no answer"),
        ({"question": "how?", "page": 3}, "no answer"),
        ({"question": "how?", "passage": "x", "page": 3}, 'beside a "uri"'),
        ({"question": "how?", "uri": "a", "page": "3"}, "invalid page '3'"),
        ({"question": "how?", "uri": "a", "pasage": "x"}, "unknown field 'pasage': did you mean 'passage'"),
        ({"question": "how?", "uri": "a", "answers": []}, "unknown field 'uri'"),
        ({"question": "how?", "answers": []}, "expected a list of at least one"),
        ({"question": "how?", "answers": ["a"]}, "invalid answer 'a'"),
        ({"question": "how?", "answers": [{"uri": "a", "grade": 0}]}, "invalid grade 0"),
        ({"question": "how?", "answers": [{"uri": "a", "grade": True}]}, "invalid grade True"),
        ({"question": "how?", "uri": "a\0"}, "invalid name"),
        (json.dumps({"question": "x" * MAX_LINE, "uri": "a"}), "longer than"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: Any, why: str) -> None:
    path = write(tmp_path, {"question": "how?", "uri": "a"}, line)
    with pytest.raises(UsageError) as refused:
        read_questions(path)
    assert str(refused.value).startswith(f"{path}, line 2: ")
    assert why in str(refused.value)
    assert len(str(refused.value)) < len(str(path)) + 450


def test_what_is_no_text_or_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UsageError, match="line 1: it is not UTF-8"):
        read_questions(tmp_path / "x")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_questions(tmp_path / "none")
    for none in (write(tmp_path, ""), []):
        with pytest.raises(UsageError, match="no question in"):
            read_questions(none)


def test_each_answer_has_the_rank_of_its_first_hit() -> None:
    hits = [
        Hit(1.0, one)
        for one in (chunk("doc:1"), chunk("doc:2", page=1), chunk("doc:2", page=2), chunk("doc:2", "Else.", page=2))
    ]
    answers = (
        Answer("doc:2"),
        Answer("doc:2", 2),
        Answer("doc:2", passage="Else."),
        Answer(passage="Else."),
        Answer("doc:3"),
        Answer("2", resolved="doc:2"),
    )
    assert Question("how?", answers).ranks(hits) == [2, 3, 4, 4, None, 2]


LONG = " ".join(f"word{n}" for n in range(100))


@pytest.mark.parametrize(
    ("text", "passage", "expected"),
    [
        ("before. The passage. after", "The passage.", True),
        ("something else", "The passage.", False),
        ("", "The passage.", False),
        ("the", "Where the pipe ends.", False),
        (LONG[200:400], LONG, True),
        ("before " + LONG[:120], LONG, True),
        (LONG[-120:] + " after", LONG, True),
        ("before " + LONG[:60], LONG, False),
        ("before. The pass", "The passage.", True),
        ("before. The", "The passage.", False),
        ("ababab before abab", "ababc", True),
    ],
)
def test_a_chunk_has_a_passage_in_whole_or_in_good_part(text: str, passage: str, expected: bool) -> None:
    assert overlap(text, passage) is expected


def test_white_space_does_not_count() -> None:
    assert Answer(passage="two words").is_in(chunk("doc:1", "There are two\n   words."))
