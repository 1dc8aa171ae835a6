"""The chunker's promises, with tokenizers made on the spot: WordPiece, whose ids add up, and byte-level BPE."""

from __future__ import annotations

import itertools
import pickle
import random
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.chunkers import bind, spec, text
from penstock.chunkers.fitted import Fitted
from penstock.chunkers.sizes import Chunking, parse_chunking
from penstock.chunkers.text import TextChunker
from penstock.core.errors import UsageError
from penstock.core.records import Block, Piece

_WORDS = """the of and to in is that for with as water turbine gate pressure pipe stream river flow leads opens closes
holds memory budget index vector chunk document block table ledger source sink never always often again until while"""
WORDS = _WORDS.split()


class Adapter:
    max_tokens = 512

    def __init__(self, inner: Any, additive: bool) -> None:
        self.inner, self.additive = inner, additive

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.inner.encode_batch_fast(list(texts), add_special_tokens=False)]


def wordpiece() -> Adapter:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    marks = ".,;:!?()[]{}#*`-_/\\|<>=+\"'"
    vocabulary = ["[UNK]", *letters, *("##" + c for c in letters), *marks, *WORDS, "##ing", "##er", "水", "。"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    )
    inner.normalizer = tokenizers.normalizers.BertNormalizer()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return Adapter(inner, additive=True)


def bpe() -> Adapter:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return Adapter(inner, additive=False)


class Grudging:
    """The worst that `additive = False` allows: a text's first characters are free; a whole is more than its parts."""

    max_tokens, additive, free = 512, False, 6

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in t[self.free :]] for t in texts]


WORDPIECE, BPE, GRUDGING = wordpiece(), bpe(), Grudging()
SHORT, LEAN = copy(WORDPIECE), copy(WORDPIECE)
SHORT.max_tokens, LEAN.max_tokens = 7, 128
"""Take less than most chunks of so many characters."""


def prose(seed: int, paragraphs: int, per: int = 5) -> str:
    """Paragraphs of sentences, as unlike each other as those of a text are."""
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(5, 18))).capitalize() + f" {rng.randint(0, 999)}. "

    return "\n\n".join(
        "".join(sentence() for _ in range(rng.randint(1, 2 * per - 1))).rstrip() for _ in range(paragraphs)
    )


def one(document: str) -> list[Block]:
    return [Block(document)]


def check(chunker: TextChunker, document: str, pieces: Sequence[Piece]) -> None:
    """All that is promised of the pieces of any document."""
    size, unit, overlap = chunker.chunking
    covered, last = 0, -1
    for piece in pieces:
        begin, end = piece.span
        assert document[begin:end] == piece.text
        assert piece.text
        assert not piece.text[0].isspace()
        assert not piece.text[-1].isspace()
        assert begin > last, "out of order"
        assert begin >= covered or overlap, "overlap that nobody asked for"
        assert not document[covered : max(begin, covered)].strip(), "left out"
        last, covered = begin, max(covered, end)
    assert not document[covered:].strip(), "left out"
    texts = [piece.text for piece in pieces]
    if unit == "characters":
        assert all(len(t) <= size for t in texts)
    if texts and chunker.tokenizer is not None:
        rows = chunker.tokenizer.encode(texts)
        most = size if unit == "tokens" else chunker.tokenizer.max_tokens
        assert all(len(row) <= most or len(t) == 1 for row, t in zip(rows, texts, strict=True))
        assert [list(piece.tokens or ()) for piece in pieces] == rows


FRAGMENTS = st.one_of(
    st.sampled_from(
        ["\n", "\n\n", "\r\n", " ", "\t", ". ", "! ", "```\n", "\n```py\n", "\n# Head\n", "- item\n", "| a | b |\n"]
    ),
    st.sampled_from(
        ["水水水。水水", "é", "é", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\xa0", "\u200b", "\u3000", "ﷺ"]
    ),
    st.sampled_from(["👩\u200d👩\u200d👧", " " * 50, "\n" * 40, "=" * 60, "x" * 150, "QUJD+RA/" * 20, ". " * 20]),
    st.sampled_from(WORDS).map(lambda w: w + " "),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
DOCUMENTS = st.lists(FRAGMENTS, max_size=60).map("".join)
CHUNKERS = st.builds(
    lambda size, share, kind: TextChunker(
        size, "characters" if kind in (None, SHORT) else "tokens", int(size * share), kind
    ),
    st.integers(8, 40),
    st.sampled_from([0.0, 0.0, 0.2, 0.5, 0.95]),
    st.sampled_from([None, WORDPIECE, BPE, GRUDGING, SHORT]),
)
slow = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def cut_up(document: str, places: list[int]) -> list[Block]:
    edges = sorted({0, len(document), *(p % (len(document) + 1) for p in places)})
    return [Block(document[a:b]) for a, b in itertools.pairwise(edges)]


@slow
@given(DOCUMENTS, CHUNKERS)
def test_pieces_are_slices_in_order_that_cover_the_text_and_fit(document: str, chunker: TextChunker) -> None:
    check(chunker, document, list(chunker(one(document))))


@slow
@given(DOCUMENTS, CHUNKERS, st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([200, 700, 1 << 16]))
def test_the_pieces_do_not_depend_on_how_the_text_was_handed_over(
    document: str, chunker: TextChunker, places: list[int], window: int
) -> None:
    """Neither the blocks' edges nor the window that is held at a time shows in the result."""
    whole = list(chunker(one(document)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "WINDOW", window)
        assert list(chunker(cut_up(document, places))) == whole


@pytest.mark.parametrize("kind", [None, WORDPIECE, BPE, GRUDGING], ids=["characters", "wordpiece", "bpe", "grudging"])
@pytest.mark.parametrize("overlap", [0, 5])
def test_many_windows_give_the_pieces_of_one(kind: Any, overlap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred windows of text with code, sections and long stretches without a seam, in blocks of any length."""
    rng = random.Random(7)
    hard = [
        "\n\n",
        "\n\n    ",
        "\n",
        ". ",
        ".)    ",
        "\n```\n",
        " " * 70,
        "\n \n" * 20,
        "x" * 90,
        "水水。",
        "a,b;" * 20,
    ]
    chunker = TextChunker(12, "tokens" if kind else "characters", overlap, kind)
    for _ in range(6):
        parts = [rng.choice(hard) if rng.random() < 0.25 else rng.choice(WORDS) + " " for _ in range(2500)]
        blocks = [Block("".join(parts[at : at + 250]), page=at // 500) for at in range(0, 2500, 250)]
        whole = list(chunker(blocks))
        with monkeypatch.context() as patch:
            patch.setattr(text, "WINDOW", 16)
            cut = [
                Block(part.text, page=b.page) for b in blocks for part in cut_up(b.text, rng.sample(range(9999), 40))
            ]
            assert list(chunker(cut)) == whole


@slow
@given(st.lists(st.tuples(DOCUMENTS, st.integers(0, 2), st.booleans()), max_size=6), CHUNKERS)
def test_units_are_alone_and_pieces_carry_where_they_begin(
    parts: list[tuple[str, int, bool]], chunker: TextChunker
) -> None:
    blocks = [Block(t, page=page, headings=(f"h{page}",), unit=unit) for t, page, unit in parts]
    document = "".join(block.text for block in blocks)
    pieces = list(chunker(blocks))
    check(chunker, document, pieces)
    edges, at = [], 0
    for block in blocks:
        edges.append((at, at + len(block.text), block))
        at += len(block.text)
    for piece in pieces:
        begin, end = piece.span
        _, stop, block = next(edge for edge in edges if edge[0] <= begin < edge[1])
        assert (piece.page, piece.headings) == (block.page, block.headings)
        assert end <= stop or not block.unit
        assert not any(b.unit and begin < a < end for a, _, b in edges)


@pytest.mark.parametrize(
    "chunker",
    [TextChunker(64, tokenizer=WORDPIECE), TextChunker(64, tokenizer=BPE), TextChunker(300, "characters")],
    ids=["wordpiece", "bpe", "characters"],
)
@pytest.mark.parametrize("shape", ["paragraphs", "one line", "log lines", "no punctuation"])
def test_an_edit_changes_only_the_chunks_near_it(chunker: TextChunker, shape: str) -> None:
    """A sentence put into the middle of more than 100 chunks: few are new (the mean is printed), none far away."""
    changed = []
    for seed in range(10):
        document, seam = prose(seed, 120), ". "
        if shape != "paragraphs":
            document = document.replace("\n\n", " ")
        if shape == "log lines":
            document, seam = document.replace(". ", "\n"), "\n"
        if shape == "no punctuation":
            document, seam = document.replace(". ", " ").replace(".", ""), " "
        middle = document.index(seam, len(document) // 2) + len(seam)
        edited = document[:middle] + "A new gate 1000 holds the river" + seam + document[middle:]
        before, after = ([piece.text for piece in chunker(one(text))] for text in (document, edited))
        assert len(before) > 100
        changed.append(len(set(after) - set(before)))
        assert before[:40] == after[:40]
        assert before[-30:] == after[-30:]
    print(f"{chunker.spec}, {shape}: {sum(changed) / len(changed)} of {len(before)} chunks are new")
    assert sum(changed) / len(changed) < (12 if shape == "no punctuation" else 6)


def test_a_section_that_fits_stays_whole() -> None:
    """A short section before one that just fits does not make it overflow."""
    short, long = "# One\n\n" + "the gate. " * 6, "# Two\n\n" + "the gate opens. " * 60
    chunker = TextChunker(256, tokenizer=WORDPIECE)
    blocks = [Block(short, headings=("One",)), Block(long, headings=("Two",)), Block(short * 30, headings=("Three",))]
    pieces = list(chunker(blocks))
    assert [piece.text for piece in pieces[:2]] == [short.strip(), long.strip()]
    assert [piece.headings for piece in pieces[:3]] == [("One",), ("Two",), ("Three",)]


def test_small_sections_share_a_chunk() -> None:
    blocks = [Block(f"Page {n} of the ledger. ", page=n) for n in range(200)]
    pieces = list(TextChunker(500, "characters")(blocks))
    assert len(pieces) < 50
    assert all(piece.text.startswith(f"Page {piece.page} ") for piece in pieces)


def test_a_code_fence_that_fits_is_not_cut() -> None:
    code = "```python\n" + "\n\n".join(f"gate_{n} = open({n})" for n in range(8)) + "\n```\n\n"
    document = "".join(prose(seed, 2, 3) + "\n\n" + code for seed in range(30))
    whole = [piece for piece in TextChunker(1000, "characters")(one(document)) if "```" in piece.text]
    assert whole
    assert all(piece.text.count("```") % 2 == 0 for piece in whole)


def test_code_is_cut_between_definitions() -> None:
    body = "    total = 0\n\n    for row in rows:\n        total += row\n\n    return total\n"
    document = "\n\n".join(f"def sum_{n}(rows):\n{body}" for n in range(60))
    pieces = list(TextChunker(600, "characters")(one(document)))
    assert len(pieces) > 8
    assert all(piece.text.startswith("def sum_") for piece in pieces)


def test_sentences_are_not_cut_where_they_fit() -> None:
    document = prose(5, 1, 200)
    pieces = list(TextChunker(256, tokenizer=WORDPIECE)(one(document)))
    assert all(piece.text.endswith(".") for piece in pieces)


def outline(seed: int) -> list[Block]:
    """Sections of a sentence to several chunks, as in Markdown."""
    rng = random.Random(seed)
    texts = [f"## Gate {n}\n\n{prose(seed * 1000 + n, rng.choice((1, 1, 2, 4, 9)))}\n\n" for n in range(60)]
    return [Block(text, headings=(text.split("\n")[0],)) for text in texts]


@pytest.mark.parametrize(
    "chunker",
    [TextChunker(128, tokenizer=WORDPIECE), TextChunker(600, "characters"), TextChunker(4000, "characters", 0, LEAN)],
    ids=["tokens", "characters", "as many characters as the model takes"],
)
def test_chunks_are_well_filled(chunker: TextChunker) -> None:
    """Of prose, and of sections of any length; where the model takes fewer tokens than the size, of what it takes."""
    for blocks in (one(prose(1, 300)), outline(1), outline(2)):
        pieces = list(chunker(blocks))
        if chunker.tokenizer is None:
            fill = [len(piece.text) / 600 for piece in pieces]
        else:
            fill = [len(piece.tokens or ()) / 128 for piece in pieces]
        assert sum(fill) / len(fill) > 0.75
    assert (chunker.shortened > 0) == (chunker.chunking.size == 4000)


def test_an_edit_of_a_section_changes_only_the_chunks_near_it() -> None:
    """A word put into a section, a section removed: on average less than three chunks are new, the rest as before."""
    chunker, changed = TextChunker(128, tokenizer=WORDPIECE), []
    for seed in range(8):
        blocks = outline(seed)
        before = [piece.text for piece in chunker(blocks)]
        for edited in ([*blocks[:30], *blocks[31:]], [*blocks[:30], replace(blocks[30], text="gate"), *blocks[31:]]):
            after = [piece.text for piece in chunker(edited)]
            changed.append(len(set(after) - set(before)))
            assert after[:10] == before[:10]
            assert after[-10:] == before[-10:]
    assert sum(changed) / len(changed) < 3


def test_text_without_spaces_is_cut_at_its_own_full_stops() -> None:
    """Chinese or Japanese: about a token a character, sentences of 5 to 40, no white space at all."""
    rng = random.Random(4)
    document = "".join(
        "水火山川"[rng.randrange(4)] * 2 + "".join(rng.choices("水火山川", k=rng.randint(3, 38))) + "。"
        for _ in range(800)
    )
    for chunker in (
        TextChunker(128, tokenizer=WORDPIECE),
        TextChunker(128, tokenizer=BPE),
        TextChunker(128, "characters"),
    ):
        pieces = list(chunker(one(document)))
        check(chunker, document, pieces)
        if chunker.tokenizer is not BPE:  # which takes three tokens a character
            assert sum(piece.text.endswith("。") for piece in pieces) > 0.8 * len(pieces)
            assert sum(len(piece.text) for piece in pieces) / len(pieces) > 128 * 0.55


def test_a_small_overlap_does_not_make_small_units() -> None:
    """However small it is, sentences stay whole: what would not fit into the overlap is not repeated."""
    document = prose(6, 1, 200)
    for overlap in (1, 4):
        pieces = list(TextChunker(256, "tokens", overlap, WORDPIECE)(one(document)))
        check(TextChunker(256, "tokens", overlap, WORDPIECE), document, pieces)
        assert sum(piece.text.endswith(".") for piece in pieces) > 0.9 * len(pieces)


@pytest.mark.parametrize("chunker", [TextChunker(64, "tokens", 16, WORDPIECE), TextChunker(400, "characters", 100)])
def test_overlap_repeats_the_end_of_the_piece_before(chunker: TextChunker) -> None:
    pieces = list(chunker(one(prose(3, 60))))
    shared = [a.span[1] - b.span[0] for a, b in itertools.pairwise(pieces)]
    assert sum(n > 0 for n in shared) > 0.9 * len(shared)
    for a, n in zip(pieces, shared, strict=False):
        limit = chunker.chunking.overlap
        tail = a.text[len(a.text) - n :] if n > 0 else ""
        assert (len(tail) if chunker.tokenizer is None else len(WORDPIECE.encode([tail])[0])) <= limit


def test_overlap_does_not_reach_into_another_section() -> None:
    blocks = [Block(prose(n, 3) + "\n\n", headings=(str(n),)) for n in range(20)]
    document = "".join(block.text for block in blocks)
    starts = [0, *itertools.accumulate(len(block.text) for block in blocks)]
    pieces = list(TextChunker(64, "tokens", 16, WORDPIECE)(blocks))
    for a, b in itertools.pairwise(pieces):
        fresh = next(at for at in range(a.span[1], len(document)) if not document[at].isspace())
        assert b.span[0] >= max(start for start in starts if start <= fresh)
    assert sum(a.span[1] > b.span[0] for a, b in itertools.pairwise(pieces)) > len(pieces) // 2
    assert {piece.headings[0] for piece in pieces} == {str(n) for n in range(20)}


def endless(kind: str, total: int) -> Iterator[Block]:
    """One line, a few kilobytes at a time."""
    portion = {"words": "the gate opens to the river ", "base64": "QUJDRA+/" * 4, "blanks": " " * 64}[kind] * 512
    for _ in range(total // len(portion)):
        yield Block(portion)


@pytest.mark.parametrize("kind", ["words", "base64", "blanks"])
@pytest.mark.parametrize("total", [4_000_000, pytest.param(200_000_000, marks=pytest.mark.heavy)], ids=["4MB", "200MB"])
def test_one_endless_line_flows_through_in_constant_memory(kind: str, total: int) -> None:
    """A few windows are held while the last 2 MB pass (tracing is slow); nothing is left out, and pieces are full."""
    end = count = 0

    def traced(last: int = 2_000_000) -> Iterator[Block]:
        yield from endless(kind, total - last)
        tracemalloc.start()
        yield from endless(kind, last)

    try:
        for piece in TextChunker(1000, "characters")(traced()):
            assert piece.span[0] - end <= 1
            end, count = piece.span[1], count + 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    if kind == "blanks":
        assert count == 0
    else:
        assert end > total - 40_000
        assert count < total / 550


@pytest.mark.parametrize("portion", ["the gate opens to the river ", "QUJDRA+/", "       ", "水水水。"])
def test_a_long_line_in_tokens_needs_no_more_memory_than_a_short_one(portion: str) -> None:
    chunker = TextChunker(256, tokenizer=WORDPIECE)
    peaks = []
    for length in (80_000, 160_000):
        tracemalloc.start()
        try:
            for piece in chunker(Block(portion * 512) for _ in range(length // len(portion) // 512)):
                assert len(piece.text) <= 16 * 256
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.25 + 100_000


def test_one_chunker_serves_two_documents_at_once() -> None:
    """Turn by turn in one thread, and in two threads."""
    chunker = TextChunker(64, "tokens", 8, WORDPIECE)
    documents = [prose(seed, 300) for seed in range(2)]
    alone = [list(chunker(one(document))) for document in documents]
    turns = list(itertools.zip_longest(*(chunker(one(document)) for document in documents)))
    assert [[piece for piece in column if piece] for column in zip(*turns, strict=True)] == alone
    together = threading.Barrier(2, timeout=10)

    def cut(document: str) -> list[Piece]:
        together.wait()
        return list(chunker(one(document)))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(cut, documents * 4)) == alone * 4


def test_it_pickles_and_cuts_the_same() -> None:
    chunker = TextChunker(64, "tokens", 8, WORDPIECE)
    again = pickle.loads(pickle.dumps(chunker))
    assert list(again(one(prose(1, 20)))) == list(chunker(one(prose(1, 20))))


def test_pieces_come_before_the_document_is_read_whole() -> None:
    read = 0

    def stream() -> Iterator[Block]:
        nonlocal read
        for seed in range(50):
            read += 1
            yield Block(prose(seed, 120))

    next(iter(TextChunker(64, tokenizer=WORDPIECE)(stream())))
    assert read < 5


def test_an_image_is_a_piece_and_keeps_its_caption() -> None:
    blocks = [Block("Before. "), Block(image=b"png", page=2), Block("A turbine.", image=b"jpg"), Block(" After.")]
    pieces = list(TextChunker(100, "characters")(blocks))
    assert [(p.text, p.image, p.span) for p in pieces] == [
        ("Before.", None, (0, 7)),
        ("", b"png", (8, 8)),
        ("A turbine.", b"jpg", (8, 18)),
        ("After.", None, (19, 25)),
    ]


def test_metadata_parts_sections() -> None:
    blocks = [Block("the gate. " * 30, metadata={"sheet": n}) for n in range(3)]
    pieces = list(TextChunker(300, "characters")(blocks))
    assert [p.metadata["sheet"] for p in pieces] == [0, 1, 2]


@pytest.mark.parametrize("document", ["", " \n\t ", "\x1c\x85", "\n" * 100_000])
def test_nothing_to_read_yields_nothing(document: str) -> None:
    assert list(TextChunker(tokenizer=WORDPIECE)(one(document))) == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("256", Chunking(256)),
        ("256 tokens", Chunking(256)),
        (" 1000 chars ", Chunking(1000, "characters")),
        ("1000characters", Chunking(1000, "characters")),
        ("256/32", Chunking(256, "tokens", 32)),
        ("1000/100 chars", Chunking(1000, "characters", 100)),
        ("256 tokens, overlap 32", Chunking(256, "tokens", 32)),
    ],
)
def test_chunking_is_read_from_a_few_words_and_from_what_it_says_itself(said: str, meant: Chunking) -> None:
    assert parse_chunking(said) == meant
    assert parse_chunking(str(meant)) == meant
    assert TextChunker(*meant).spec == str(meant)


@pytest.mark.parametrize(
    "said", ["", "abc", "-5", "0", "7", "2 words", "256/256", "256/32 tokens, overlap 8", "1e3", "٢٥٦"]
)
def test_a_chunking_that_cannot_be_meant_is_refused(said: str) -> None:
    with pytest.raises(UsageError):
        parse_chunking(said)


def test_chunks_the_model_would_truncate_are_refused() -> None:
    with pytest.raises(UsageError, match="512"):
        TextChunker(513, tokenizer=WORDPIECE)
    with pytest.raises(UsageError, match="tokenizer"):
        list(TextChunker(256)(one("text")))


def test_binding_gives_the_chunker_that_is_meant() -> None:
    """And its spec, known without a tokenizer, is the same."""

    def own(blocks: Any) -> list[Piece]:
        return []

    assert ".own (code " in spec(own, tokens=True)
    for chunk in (None, 128, "128/16", "900 chars", TextChunker(100)):
        bound = bind(chunk, WORDPIECE)
        assert isinstance(bound, TextChunker | Fitted)
        assert bound.tokenizer is WORDPIECE
        inner = bound.chunker if isinstance(bound, Fitted) else bound
        assert isinstance(inner, TextChunker)
        assert inner.spec == spec(chunk, tokens=True)
    unsized = bind(None, None)
    assert isinstance(unsized, TextChunker)
    assert unsized.spec == spec(None, tokens=False) == "1000 characters"
    with pytest.raises(UsageError, match="truncated"):
        bind("600", WORDPIECE)
