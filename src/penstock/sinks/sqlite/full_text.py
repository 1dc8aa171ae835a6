"""Full text of a SQLite file: an FTS5 table of the words of each chunk, under its key.

It keeps no texts, only which words are where. Words are cut by `penstock.sinks.words`, since FTS5's own tokenizers take
a sentence of a script without spaces for one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from penstock.sinks import words
from penstock.sinks.sqlite.file import PAGE, File

TABLE = """CREATE VIRTUAL TABLE words USING fts5(
    text, content = '', contentless_delete = 1, tokenize = "ascii tokenchars '_'")"""


def exists(file: File) -> bool:
    """Whether the file has full text: one of an earlier version gets it by `maintain`."""
    return bool(file.all("SELECT 1 FROM sqlite_master WHERE name = 'words'"))


def query(question: str) -> str:
    """The question as FTS5 takes it; nothing where no word of it counts. What is cut is what a word begins with."""
    return " OR ".join(f'"{word}"{" *" * (len(word) >= words.LONGEST)}' for word in words.asked(question))


def write(file: File, texts: Iterable[tuple[int, str]]) -> None:
    """Replace the words of these keys, within a transaction."""
    if exists(file):
        _insert(file, texts)


def _insert(file: File, texts: Iterable[tuple[int, str]]) -> None:
    # Of plain ASCII, FTS5 cuts the same words itself, in half the time.
    rows = ((key, text if text.isascii() else " ".join(words.words(text))) for key, text in texts)
    file.connection.executemany("INSERT OR REPLACE INTO words(rowid, text) VALUES (?, ?)", rows)


def delete(file: File, keys: Sequence[tuple[int]]) -> None:
    """Remove the words of these keys, within a transaction."""
    if exists(file):
        file.connection.executemany("DELETE FROM words WHERE rowid = ?", keys)


def maintain(file: File) -> None:
    """Have full text, in one transaction. FTS5 itself merges what writes leave and lets go of what was deleted."""
    if exists(file):
        return
    with file.transaction():
        if not exists(file):
            file.connection.execute(TABLE)
            _insert(file, _texts(file))


def _texts(file: File) -> Iterator[tuple[int, str]]:
    last = -1
    while page := file.all('SELECT "key", text FROM chunks WHERE "key" > ? ORDER BY "key" LIMIT ?', (last, PAGE)):
        yield from page
        last = page[-1][0]
