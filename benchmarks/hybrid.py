"""nDCG@10 of hybrid search against each of its legs, on a labelled set of prose, identifiers and rare words.

    python benchmarks/hybrid.py                                  # 1,500 documents in memory, 400 questions
    python benchmarks/hybrid.py --into sqlite:///tmp/hybrid.db   # in another store, which must be empty

Documents are the docstrings of Python's standard library without their first sentence. Some have an identifier of their
own, some one that seven others have too, some a rare word; all is drawn with a seed. A question has one right document:
- prose: the first sentence, which the document does not have;
- identifier: a sentence that asks for the document's own one;
- rare word: the same with a word that no other document has;
- mixture: the first sentence with the identifier that eight documents share.
As many questions are of each kind. Bars: hybrid search with equal weights has 0.02 more than the best leg alone, over
all questions; and each document that was just written is the first hit of a search for its identifier.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import random
import re
import statistics
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import MISSED, record

from penstock.compose import make_embedder, make_sink, open_index
from penstock.core.contracts import MultiEmbedder
from penstock.core.records import Chunk, Point
from penstock.core.schema import WORDS, IndexSchema, Manifest
from penstock.jobs.search import OpenIndex

K = 10
SHARING = 8
"""Documents that have one shared identifier."""
LONGEST = 600
"""Characters of a document, cut at the end of a line: shorter than what the default model takes."""
SMALL = 1000
"""With fewer documents it is a trial: bars do not count."""
BAR = 0.02
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
ASKED = ("where is {} described?", "what does {} mean?", "{}", "how do I get rid of {}", "the notes about {}")


@dataclass(slots=True)
class Document:
    summary: str
    text: str
    added: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    kind: str
    text: str
    answer: str
    """The id of its chunk."""


def docstrings() -> list[tuple[str, str]]:
    """First sentences and the rest, of the standard library; each first sentence and each rest once."""
    found: dict[str, str] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & {*path.parts}:
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # examples of the wrong
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first, _, rest = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n\n")
                first, rest = " ".join(first.split()), shortened(rest.strip())
                prose = sum(map(len, re.findall(r"[A-Za-z]+\s?", rest))) >= 0.8 * len(rest)  # no tables of digits
                if 4 <= len(first.split()) <= 30 and len(rest.split()) >= 12 and prose:
                    found.setdefault(first, rest)
    return sorted({rest: (first, rest) for first, rest in found.items()}.values())


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition("\n")[0]


def identifiers(draw: random.Random) -> Iterator[str]:
    """Part numbers, error codes, tickets and hashes, each once."""
    seen: set[str] = set()
    while True:
        letters = "".join(draw.choices("ABCDEFGHKLMNPRSTVXZ", k=draw.choice((2, 3))))
        number = draw.randrange(1000, 99_999)
        one = draw.choice(
            (f"{letters}-{number}", f"ERR_{letters}_{number}", f"{letters}{number}", f"{draw.randrange(1 << 32):08x}")
        )
        if one not in seen:
            seen.add(one)
            yield one


def rare_words(draw: random.Random) -> Iterator[str]:
    seen: set[str] = set()
    while True:
        word = "".join(draw.choices(SYLLABLES, k=draw.choice((3, 4)))) + draw.choice("nrsxl")
        if word not in seen:
            seen.add(word)
            yield word


def labelled(size: int, each: int, seed: int) -> tuple[list[Chunk], list[Question]]:
    """The chunks, and as many questions of each of four kinds, about different documents."""
    draw = random.Random(seed)
    documents = [Document(*one) for one in docstrings()]
    draw.shuffle(documents)
    del documents[size:]
    each = min(each, len(documents) // (SHARING + 3))
    names, words = identifiers(draw), rare_words(draw)
    questions: list[tuple[str, str, int]] = []
    taken = iter(range(len(documents)))
    for _ in range(each):
        of_prose, of_name, of_word, *sharing = (next(taken) for _ in range(SHARING + 3))
        name, word, shared = next(names), next(words), next(names)
        documents[of_name].added = f"See {name}."
        documents[of_word].added = f"This was measured at {word}."
        for one in sharing:
            documents[one].added = f"Part of {shared}."
        questions += [
            ("prose", documents[of_prose].summary, of_prose),
            ("identifier", draw.choice(ASKED).format(name), of_name),
            ("rare word", draw.choice(ASKED).format(word), of_word),
            ("mixture", f"{shared}: {documents[sharing[0]].summary}", sharing[0]),
        ]
    chunks = [chunk(n, f"{one.text}\n{one.added}".strip()) for n, one in enumerate(documents)]
    return chunks, [Question(kind, text, chunks[n].id) for kind, text, n in questions]


def chunk(number: int, text: str) -> Chunk:
    return Chunk(f"{number:032x}", f"doc:{number}", 0, text, (0, len(text)))


def points(embedder: MultiEmbedder, chunks: list[Chunk]) -> Iterator[list[Point]]:
    for start in range(0, len(chunks), 64):
        some = chunks[start : start + 64]
        vectors = embedder.embed(some)
        yield [Point(one, {name: vectors[name][n] for name in vectors}) for n, one in enumerate(some)]


def ndcg(index: OpenIndex, questions: list[Question], hybrid: Mapping[str, float] | bool) -> tuple[list[float], float]:
    """Of each question, with one right document; and the median milliseconds of a search."""
    gains, milliseconds = [], []
    for question in questions:
        began = time.perf_counter()
        hits = index.search(question.text, k=K, hybrid=hybrid)
        milliseconds.append(1e3 * (time.perf_counter() - began))
        ranks = [rank for rank, hit in enumerate(hits, 1) if hit.chunk.id == question.answer]
        gains.append(1 / math.log2(1 + ranks[0]) if ranks else 0.0)
    return gains, statistics.median(milliseconds)


def fresh(index: OpenIndex, embedder: MultiEmbedder, sink: Any, number: int, seed: int) -> float:
    """The share of documents that are the first hit for their identifier as soon as they are written."""
    found, names = 0, identifiers(random.Random(f"fresh {seed}"))
    for n, name in zip(range(number), names, strict=False):
        new = chunk((1 << 64) + n, f"What was written a moment ago about the pump is kept as {name}.")
        for some in points(embedder, [new]):
            sink.write(some)
        sink.flush()
        hits = index.search(f"where is {name} described?", k=1, hybrid=True)
        found += [hit.chunk.id for hit in hits] == [new.id]
    return found / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1500)
    parser.add_argument("--questions", type=int, default=100, help="of each kind (100)")
    parser.add_argument("--into", default="memory://hybrid", help="an empty index, of a store with full text")
    parser.add_argument("--model", help="the default model if not given")
    parser.add_argument(
        "--fresh", type=int, default=20, help="documents that are written and searched for at once (20)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chunks, questions = labelled(options.documents, options.questions, options.seed)
    store, reached = options.into.partition(":")[0], True
    with make_embedder(options.model) as embedder, make_sink(options.into) as sink:
        sink.open(Manifest(IndexSchema(embedder.describe())))
        for some in points(embedder, chunks):
            sink.write(some)
        sink.flush()
        size = f"{len(chunks):,} documents in {store}"
        print(f"{size}, {len(questions):,} questions\n")
        with open_index(options.into, embedder) as index:
            legs: dict[str, Mapping[str, float] | bool] = {name: {name: 1.0} for name in (*index.schema.vectors, WORDS)}
            means = {}
            kinds = list(dict.fromkeys(question.kind for question in questions))
            print("".join(f"{name:>12}" for name in ("nDCG@10", *kinds, "all", "median ms")))
            for name, hybrid in (legs | {"hybrid": True}).items():
                gains, milliseconds = ndcg(index, questions, hybrid)
                means[name] = statistics.mean(gains)
                of_kind = [
                    statistics.mean(gain for gain, one in zip(gains, questions, strict=True) if one.kind == kind)
                    for kind in kinds
                ]
                shown = "".join(f"{mean:>12.3f}" for mean in (*of_kind, means[name]))
                print(f"{name:>12}{shown}{milliseconds:>12.1f}", flush=True)
                record(f"nDCG@10 of {name}, {size}", means[name])
            gained = means["hybrid"] - max(means[name] for name in legs)
            share = fresh(index, embedder, sink, options.fresh, options.seed)
        print(f"\nhybrid - best leg: {gained:+.3f}; fresh documents found at once: {share:.0%}")
        record(f"nDCG@10 of hybrid - best leg, {size}", gained, bar=BAR)
        record(f"fresh documents found at once, {size}", share, bar=1.0)
        reached = gained >= BAR and share == 1
    sys.exit(0 if reached or len(chunks) < SMALL else MISSED)


if __name__ == "__main__":
    main()
