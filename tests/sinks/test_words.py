"""Full text beyond what the suite tests: words of all scripts, and stores that were made without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.sinks import words
from penstock.sinks.memory import MemoryIndex, MemorySink, forget
from penstock.testing.sink_suite import SinkSuite
from tests.sinks.worded import gets_full_text

pytest.importorskip("apsw")
pytest.importorskip("sqlite_vec")

Opens = Callable[[Path], tuple[Sink, Index]]


def in_sqlite(folder: Path) -> tuple[Sink, Index]:
    from penstock.sinks.sqlite import SqliteIndex, SqliteSink

    return SqliteSink(f"sqlite://{folder}/notes.db"), SqliteIndex(f"sqlite://{folder}/notes.db")


def in_lance(folder: Path) -> tuple[Sink, Index]:
    from penstock.sinks.lance import LanceIndex, LanceSink

    return LanceSink(f"lance://{folder}/index"), LanceIndex(f"lance://{folder}/index")


def in_memory(folder: Path) -> tuple[Sink, Index]:
    forget("memory://words")
    return MemorySink("memory://words"), MemoryIndex("memory://words")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ERR_4711 in foo_bar.baz(x86-64)", ["err_4711", "in", "foo_bar", "baz", "x86", "64"]),
        ("Größe, naïve ＡＢＣ ﬁ Ελληνικά", ["grosse", "naive", "abc", "fi", "ελληνικα"]),
        ("हिन्दी में लिखा।", ["हिन्दी", "में", "लिखा"]),
        ("東京都 に、x東京", ["東京", "京都", "に", "x", "東京"]),
        ("สวัสดี", ["สว", "วั", "ัส", "สด", "ดี"]),
        ("한국어 문서", ["한국어", "문서"]),
        ("a" * 100 + " " + "ä" * 100, ["a" * 64] * 2),
        ("\0 🌊 ‘’ — \ud800", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words.words(text) == expected


def test_words_that_count() -> None:
    """Each once, no stop words, and no more than a limit."""
    assert words.asked("What is the ERR of err_1, Err?") == ["err", "err_1"]
    assert words.as_written("What is the ERR of err_1, Err?") == ["ERR", "err_1", "Err"]
    assert words.as_written("Cafe\u0301te\u0301ria") == ["Cafétéria"], "as macOS writes it, one word"
    assert words.asked("the of ___ _") == words.as_written("the of ___ _") == []
    assert len(words.asked(" ".join(map(str, range(1000))))) == words.MOST_ASKED


@pytest.mark.parametrize("opens", [in_memory, in_sqlite, in_lance])
def test_scripts_without_spaces_and_accents(opens: Opens, tmp_path: Path) -> None:
    """A word in a sentence of Chinese or Japanese is found, and accents do not matter."""
    texts = ("彼は東京に住んでいます。", "我在北京工作", "Die GRÖSSE zählt", "a café", "हिन्दी में")
    sink, index = opens(tmp_path)
    with sink, index:
        sink.open(SinkSuite().manifest)
        sink.write([p for n, text in enumerate(texts) for p in SinkSuite().points(n, text=text)])
        sink.flush()
        index.open()
        for n, question in enumerate(("東京", "北京", "Größe", "cafe", "हिन्दी")):
            assert [h.chunk.ordinal for h in index.search_words(question)] == [n], question


@pytest.mark.parametrize("opens", [in_sqlite, in_lance])
def test_an_index_of_before_gets_full_text(opens: Opens, tmp_path: Path) -> None:
    sink, index = opens(tmp_path)

    def remove() -> None:
        if opens is in_sqlite:
            sink._opened()[0].all("DROP TABLE words")  # type: ignore[attr-defined]
        else:
            sink._table.drop_index("text_idx")  # type: ignore[attr-defined]

    gets_full_text(sink, index, remove)


def test_words_written_again_take_no_more_room(tmp_path: Path) -> None:
    """What writes and deletions leave in a SQLite file is merged, batch by batch."""
    sizes = []
    points = SinkSuite().points(*range(200), text=" ".join(f"word{n}" for n in range(200)))
    sink, _ = in_sqlite(tmp_path)
    with sink:
        sink.open(SinkSuite().manifest)
        for _ in range(6):
            for start in range(0, 200, 10):
                sink.delete([p.id for p in points[start : start + 5]])
                sink.write(points[start : start + 10])
            ((used,),) = sink._opened()[0].all("SELECT sum(length(block)) FROM words_data")  # type: ignore[attr-defined]
            sizes.append(used)
    assert max(sizes[2:]) < 2 * sizes[0], sizes


def test_a_question_of_a_store_without_it() -> None:
    """The contract's own answer."""

    class Without(MemoryIndex):
        finds_words = Index.finds_words
        search_words = Index.search_words

    index = Without("memory://without")
    assert not index.finds_words
    with pytest.raises(UsageError, match="memory://without has no full text"):
        index.search_words("text")
