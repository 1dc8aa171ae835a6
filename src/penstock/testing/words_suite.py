"""Tests of full text: part of `sink_suite.SinkSuite`, for indexes with `finds_words`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from penstock.core.contracts import Index, Sink
from penstock.core.errors import UsageError
from penstock.core.records import Dense, Point
from penstock.sinks.words import bm25
from penstock.testing.points import MakeIndex, MakeSink
from penstock.testing.suite_base import SinkBase

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
NO_WORD = ("", "   ", "?!", "the", "The of AND, to!", "🌊", "\0", '"', "***", "- -", "()", "''", ":", "\\", "\ud800")
"""Texts without a word that counts."""
PLAIN = (
    'alpha"',
    '"alpha',
    "'alpha'",
    "alpha*",
    "+alpha",
    "-alpha",
    "!alpha",
    "alpha^2",
    "alpha~",
    "alpha:",
    "text:alpha",
    "NOT alpha",
    "alpha AND missing",
    'alpha AND NOT "beta"',
    "NEAR(alpha missing, 2)",
    "alpha & missing",
    "missing | !alpha",
    "missing <-> alpha",
    "(alpha",
    "alpha)))",
    "{alpha} [alpha] /alpha/",
    "alpha\0missing",
    "alpha \\ missing",
    "alpha' OR 1=1; --",
    "🌊alpha🌊",
    "missing\r\n\talpha\u2028missing",
    "%alpha% $1 ? %s {0}",
    "alpha && missing || (missing)",
    "alpha " + "missing " * 5000,
    "alpha " + " ".join(f"missing{n}" for n in range(5000)),
    "alpha " + "x" * 100_000,
)
"""Each has the word `alpha`; what else is in it means nothing."""


class Words(SinkBase):
    """Full text finds whole words by the store's own means, whatever else is in the question."""

    has_words: bool = False
    """Whether `search_words` is implemented. Set it where the index has `finds_words`."""

    @contextmanager
    def worded(
        self, make_sink: MakeSink, make_index: MakeIndex, points: Sequence[Point]
    ) -> Iterator[tuple[Sink, Index]]:
        """The sink, open, and an index of it that is open since these points were flushed."""
        if not self.has_words:
            pytest.skip("no full text here")
        if self.kind is not Dense:
            pytest.skip("tested once, with dense vectors")
        with self.opened(make_sink) as sink:
            sink.write(points)
            sink.flush()
            with make_index() as index:
                index.open()
                yield sink, index

    def texts(self, *texts: str, first: int = 0) -> list[Point]:
        """A point of each text."""
        return [point for n, text in enumerate(texts) for point in self.points(first + n, text=text, page=n + 1)]

    def test_an_index_tells_whether_it_has_full_text(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """One that has none says so when it is asked."""
        index = make_index()
        with self.opened(make_sink) as sink, index:
            sink.write(self.points(1))
            sink.flush()
            index.open()
            assert index.finds_words == self.has_words
            if not self.has_words:
                with pytest.raises(UsageError, match="no full text"):
                    index.search_words("text")

    def test_rare_words_are_found(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Identifiers of letters, digits, _, dots and hyphens, in upper and lower case, as one word of many."""
        rare = ("ERR_4711", "foo_bar.baz", "x86-64", "4711", "Größe", "snake_case_name", "0xDEADBEEF", "v2.13.7", SHA)
        filler = [f"The server reads file number {n} and writes text to the log, as before." for n in range(40)]
        spoken = [f"It stopped with {word}, and the log had a bar, a case and an err in it." for word in rare]
        with self.worded(make_sink, make_index, self.texts(*filler, *spoken)) as (_, index):
            for text, word in zip(spoken, rare, strict=True):
                for question in (word, f"What does {word} mean?", word.upper() if word.isascii() else word):
                    hits = index.search_words(question, k=3)
                    assert [h.chunk.text for h in hits][:1] == [text], (question, hits)

    def test_any_word_suffices(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """All chunks with one of the words are found, those with rarer and more of them first; `k` are given."""
        points = self.texts(*(f"common text of number {n}" for n in range(1, 9)), "zeppelin alone", "other words", "")
        with self.worded(make_sink, make_index, points) as (_, index):
            hits = index.search_words("common zeppelin nowhere", k=20)
            assert [h.chunk for h in hits][:1] == [points[8].chunk]
            assert sorted(h.chunk.ordinal for h in hits) == list(range(9))
            assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
            assert [h.chunk.ordinal for h in index.search_words("zeppelin", k=20)] == [8]
            assert len(index.search_words("common", k=3)) == 3
            assert index.search_words("common", k=0) == []
            assert index.search_words("nowhere") == []
            assert index.search_words("zepp") == []

    def test_the_order_is_like_that_of_bm25(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """The same chunks are found, and most of the ten best are the same, for texts of words as frequent as in any
        language."""
        rng = np.random.default_rng(5)
        drawn = (rng.zipf(1.3, size=int(length)) % 500 for length in rng.integers(10, 60, 150))
        points = self.texts(*(" ".join(f"w{n}q" for n in numbers) for numbers in drawn))
        agreed = 0
        with self.worded(make_sink, make_index, points) as (_, index):
            for n in range(20):
                question = [f"w{word}q" for word in {1 + n % 3, 5 + n, 30 + 2 * n, 100 + n}]
                scores = bm25([p.text for p in points], question)
                hits = index.search_words(" ".join(question), k=len(points))
                assert {h.chunk.ordinal for h in hits} == {at for at, score in enumerate(scores) if score}
                best = sorted(range(len(points)), key=lambda at: -scores[at])[:10]
                agreed += len({h.chunk.ordinal for h in hits[:10]} & set(best))
        assert agreed >= 140, f"{agreed} of 200"

    def test_words_within(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """`where` narrows before the best are chosen, by fields of metadata as well, and is checked."""
        points = [
            p for n in range(40) for p in self.points(n, text="alpha beta", page=n, metadata={"even": n % 2 == 0})
        ]
        points += self.texts("alpha gamma", first=40)
        with self.worded(make_sink, make_index, points) as (_, index):

            def found(where: dict[str, object], k: int = 100) -> set[int]:
                return {h.chunk.ordinal for h in index.search_words("beta", k, where)}

            assert found({"page": {"$gte": 38}}) == {38, 39}
            assert found({"page": 39}, k=1) == {39}
            assert found({"even": True}) == set(range(0, 40, 2))
            assert found({"uri": "' OR '1'='1"}) == set()
            assert found({"ordinal": 40}) == set()
            for question in ("beta", "?"):
                with pytest.raises(UsageError):
                    index.search_words(question, where={"$no such": 1})

    def test_no_word_that_counts(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Such a question finds nothing, and is no error."""
        texts = self.texts("the of and to", "alpha", "\" ' * 🌊", "")
        with self.worded(make_sink, make_index, texts) as (_, index):
            for question in NO_WORD:
                assert index.search_words(question) == [], repr(question)

    def test_a_question_is_plain_words(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Quotes, operators, odd characters and very long questions are neither syntax nor an error."""
        with self.worded(make_sink, make_index, self.texts("alpha", "gamma", "beta beta")) as (_, index):
            for question in PLAIN:
                found = [h.chunk.text for h in index.search_words(question) if h.chunk.text != "beta beta"]
                assert found == ["alpha"], repr(question[:100])

    def test_odd_texts_are_found(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Texts with NUL, quotes, markup, without spaces or very long ones have words as well."""
        odd = [
            "before\0alpha after",
            'it\'s "alpha"',
            "<b>alpha</b>&nbsp;",
            "https://example.com/alpha?beta=1",
            "x" * 5000 + " alpha",
            " ".join(f"word{n}" for n in range(5000)) + " alpha",
            "🌊 alpha 🌊 naïve Ελληνικά",
            "one/alpha,two",
        ]
        with self.worded(make_sink, make_index, self.texts(*odd, "beta")) as (_, index):
            found = {h.chunk.ordinal for h in index.search_words("alpha", k=20)}
            assert found == set(range(len(odd)))
            assert [h.chunk.ordinal for h in index.search_words("Ελληνικά")] == [6]

    def test_words_of_what_is_written_now(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """What was just flushed is found at once, by its new words alone; what was deleted is not; nor is any of it
        forgotten by maintenance."""
        first = self.texts(*(f"common before{n}" for n in range(20)))
        with self.worded(make_sink, make_index, first) as (sink, index):

            def found(question: str) -> list[int]:
                return sorted(h.chunk.ordinal for h in index.search_words(question, k=50))

            for maintained in (False, True):
                sink.write(self.texts("common after", first=3) + self.texts("common fresh", first=30))
                sink.delete([p.id for p in self.points(5, 6)])
                sink.flush()
                for _ in range(2):
                    assert found("before3") == found("before5") == found("before6") == []
                    assert found("after") == [3]
                    assert found("fresh") == [30]
                    assert found("common") == sorted({*range(20), 30} - {5, 6})
                    if not maintained:
                        break
                    sink.maintain()
                sink.write(first)
                sink.delete([p.id for p in self.points(30)])
                sink.maintain()
                sink.write(self.texts("common newest", first=40))
                sink.flush()
                assert found("before3") == [3]
                assert found("fresh") == found("after") == []
                assert found("newest") == [40]
                assert found("common") == [*range(20), 40]
                sink.delete([p.id for p in self.points(40)])

    def test_words_of_a_generation(self, make_sink: MakeSink, make_index: MakeIndex) -> None:
        """Another generation has words of its own."""
        if not self.generations:
            pytest.skip("this sink has no generations")
        with self.worded(make_sink, make_index, self.texts("alpha old")) as (sink, index):
            with sink.generation(1) as new:
                new.open(self.manifest)
                new.write(self.texts("alpha new"))
                new.flush()
            with index.generation(1) as searched:
                searched.open()
                assert [h.chunk.text for h in searched.search_words("alpha")] == ["alpha new"]
                assert searched.search_words("old") == []
            assert [h.chunk.text for h in index.search_words("alpha")] == ["alpha old"]
            sink.generation(1).drop()
