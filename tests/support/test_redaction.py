"""What is hidden of other people's messages, and how much of a traceback is kept."""

from __future__ import annotations

import pytest

from penstock.support.redaction import hide_secrets
from penstock.support.tracebacks import LIMIT, format_traceback


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("at https://me:hunter2@host/x", "at https://***@host/x"),
        ("GET /x?page=3&sig=abcd&token=efgh", "GET /x?page=3&sig=***&token=***"),
        ("{'api_key': 'sk-12345', 'model': 'small'}", "{'api_key': '***', 'model': 'small'}"),
        ('client = Client(password="hunter2", host="db")', 'client = Client(password="***", host="db")'),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("the server said hunter2-of-env", "the server said ***"),
        ("no such key: psk_yzg_5i3qtc7NFRiert5fo0C5UbVJGJm97aJdXMu2kZk.", "no such key: psk_***."),
        ("line 3, in tokenize: key 3 is missing", "line 3, in tokenize: key 3 is missing"),
    ],
)
def test_secrets_are_hidden_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch, text: str, hidden: str) -> None:
    monkeypatch.setenv("STORE_API_KEY", "hunter2-of-env")
    assert hide_secrets(text) == hidden


def test_the_working_directory_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/srv/notes")
    assert hide_secrets("/srv/notes/a.py") == "/srv/notes/a.py"


def raised(message: str) -> ValueError:
    kept_to_itself = "a value of a variable"
    assert kept_to_itself
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_traceback_has_files_and_lines_and_no_values() -> None:
    text = format_traceback(raised("bad shape"))
    assert f'File "{__file__}", line ' in text
    assert text.endswith("ValueError: bad shape")
    assert "a value of a variable" not in text


@pytest.mark.parametrize("letter", ["x", "é", "\udcff"])
def test_a_long_traceback_keeps_its_beginning_and_its_end(letter: str) -> None:
    text = format_traceback(raised(letter * 50_000 + " at last"))
    assert len(text.encode()) <= LIMIT
    assert text.startswith("Traceback")
    assert "[...]" in text
    assert text.endswith(" at last")


def test_no_secret_is_cut_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not be recognised any more."""
    monkeypatch.setenv("STORE_API_KEY", "hunter2" * 2000)
    assert "hunter2" not in format_traceback(raised("hunter2" * 2000))
