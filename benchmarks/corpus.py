"""A Markdown corpus of any size: prose, headings, lists and code, the same for a seed everywhere, no two chunks alike.

    python benchmarks/corpus.py FOLDER --size 160MB                     # files of about 16 kB
    python benchmarks/corpus.py FOLDER --size 2GB --one-file            # one huge file
    python benchmarks/corpus.py FOLDER --size 2GB --one-file --one-line

Sentences come from a grammar with a technical vocabulary (about 4.7 characters a token for BERT). Some ten thousand are
made once; documents are drawn from them, which is as fast as joining strings. A chunk of ten sentences is one of
10^40, so none comes twice but by the grace of chance.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path


def _listed(text: str) -> list[str]:
    return " ".join(text.split()).split("; ")


SUBJECTS = _listed("""
the scheduler; a worker; the coordinator; every replica; the write-ahead log; this endpoint; the cache; an idle
connection; the query planner; a background task; the operator; the billing service; a new tenant; the index; a
reader; the storage layer; an expired token; the load balancer; our team; the nightly job; a failed request; the
migration script; each partition; the gateway; the client library; a checkpoint; the retention policy; the on-call
engineer; the compiler; a malformed record; the parser; the second region; an auditor; the sensor; the turbine; a
reservoir; the control room; the maintenance window; the archive; the customer’s export""")
VERBS = _listed("""
reads; rejects; rebuilds; acknowledges; compresses; forwards; delays; replaces; validates; publishes; shares; splits;
measures; ignores; restores; schedules; encrypts; counts; merges; observes; throttles; documents; inspects; releases;
keeps; moves; repeats; signs; deletes; renames""")
OBJECTS = _listed("""
the oldest segment; a batch of events; its own configuration; the remaining work; the signed manifest; two thirds of
the traffic; the whole history; any message without a key; the primary copy; an empty response; the daily report; the
pressure readings; a stale lease; the first page; the schema; its neighbours; the public dashboard; a temporary file;
the audit trail; an estimate; the error budget; the rollback plan; the previous release; both queues; the access list;
a snapshot; several gigabytes of text; the naïve default; the café’s order book; the user’s preferences""")
WHEN = _listed("""
before the deadline; when memory runs low; on every restart; after the upgrade to version 2; unless the flag is set;
within 30 seconds; during a failover; if nobody objects; as described above; in the worst case; at midnight UTC; for
each region in turn; without holding the lock; while the gate is closed; according to RFC 9110; only once; in the
order of arrival; under heavy load; since the last incident; for historical reasons""")
NAMES = _listed("""
index; queue; token; batch; cursor; shard; replica; budget; window; offset; stream; record; schema; ledger; gate;
turbine; valve; sample; metric; tenant""")
LINKS = ["However, ", "In practice ", "As a result, ", "Note that ", "Usually ", "By contrast, ", *[""] * 6]

POOL = 12_000


class Writer:
    """Draws documents. The pool is the same for every seed; what is drawn from it is the seed's."""

    def __init__(self) -> None:
        chance = random.Random("the pool")
        self._sentences = [_sentence(chance) for _ in range(POOL)]
        self._items = [f"- {_item(chance)}" for _ in range(POOL // 4)]
        self._code = [_line(chance) for _ in range(POOL // 8)]
        self._titles = [_title(chance) for _ in range(POOL // 8)]

    def blocks(self, seed: int | str) -> Iterator[str]:
        """Headings, paragraphs, lists and code without end."""
        chance = random.Random(f"{seed}")
        choices, uniform = chance.choices, chance.random
        section = 0
        yield f"# {choices(self._titles)[0]}\n\n"
        while True:
            section += 1
            yield f"{'#' * (2 + section % 3)} {section}. {choices(self._titles)[0]}\n\n"
            for _ in range(2 + int(4 * uniform())):
                kind = uniform()
                if kind < 0.78:
                    yield " ".join(choices(self._sentences, k=2 + int(6 * uniform()))) + "\n\n"
                elif kind < 0.92:
                    yield "\n".join(choices(self._items, k=3 + int(5 * uniform()))) + "\n\n"
                else:
                    lines = "\n".join(choices(self._code, k=3 + int(8 * uniform())))
                    yield f"```python\n{lines}\n```\n\n"

    def pieces(self, seed: int | str, size: int, one_line: bool = False) -> Iterator[bytes]:
        """A document of `size` bytes of UTF-8, about a megabyte at a time; the last block is cut to fit."""
        parts: list[str] = []
        held = 0
        for block in self.blocks(seed):
            parts.append(block)
            held += len(block)
            if held >= min(size, 1 << 20):
                text = "".join(parts)
                piece = (text.replace("\n", " ") if one_line else text).encode()[:size]
                size -= len(piece)
                yield piece if size else _whole(piece)
                parts, held = [], 0
                if not size:
                    return


def make(
    folder: Path, size: int, *, file_size: int = 16_000, seed: int = 0, one_file: bool = False, one_line: bool = False
) -> int:
    """Write a corpus of `size` bytes into `folder`; gives the number of files. Sizes vary by half around file_size."""
    writer = Writer()
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    count = 0
    while size > 0:
        own = size if one_file else min(size, int(file_size * (0.5 + chance.random())))
        place = folder if one_file else folder / f"part-{count // 1000:04}"
        place.mkdir(exist_ok=True)
        with (place / f"doc-{count:06}.md").open("wb") as file:
            for piece in writer.pieces(f"{seed}/{count}", own, one_line):
                file.write(piece)
        size -= own
        count += 1
    return count


def _sentence(chance: random.Random) -> str:
    text = f"{chance.choice(LINKS)}{chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(OBJECTS)}"
    kind = chance.random()
    if kind < 0.45:
        text += f" {chance.choice(WHEN)}"
    elif kind < 0.65:
        text += f", and {chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(OBJECTS)} {chance.choice(WHEN)}"
    elif kind < 0.75:
        text += f" (see `{_identifier(chance)}` and [section {chance.randint(1, 90)}](#{chance.choice(NAMES)}))"
    elif kind < 0.85:
        text += f": **{chance.randint(2, 999)} {chance.choice(NAMES)}s** of {chance.randint(1000, 99_999)}"
    return text[0].upper() + text[1:] + chance.choice("......?")


def _item(chance: random.Random) -> str:
    if chance.random() < 0.3:
        return f"`{_identifier(chance)}`: {chance.choice(OBJECTS)}, {chance.randint(1, 500)} ms {chance.choice(WHEN)}"
    return f"{chance.choice(SUBJECTS).capitalize()} {chance.choice(VERBS)} {chance.choice(OBJECTS)}."


def _line(chance: random.Random) -> str:
    call = f"{chance.choice(NAMES)}.{_identifier(chance)}({chance.choice(NAMES)}, limit={chance.randint(1, 4096)})"
    return chance.choice([call, f"    {call}", f"{chance.choice(NAMES)} = {call}", f"    # {chance.choice(WHEN)}"])


def _title(chance: random.Random) -> str:
    return f"{chance.choice(SUBJECTS)} and {chance.choice(OBJECTS)}".capitalize()


def _identifier(chance: random.Random) -> str:
    return f"{chance.choice(VERBS)}_{chance.choice(NAMES)}_{chance.randint(0, 999)}"


def _whole(piece: bytes) -> bytes:
    """No half of a character at the end, and as long as before."""
    return piece.decode(errors="ignore").encode().ljust(len(piece), b".")


def main() -> None:
    from penstock.support.sizes import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=parse_size, default="16MB", help="of all files together (16MB)")
    parser.add_argument("--file-size", type=parse_size, default="16kB", help="of a file, about (16kB)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-file", action="store_true")
    parser.add_argument("--one-line", action="store_true", help="without a line break")
    options = parser.parse_args()
    began = time.perf_counter()
    count = make(
        options.folder,
        options.size,
        file_size=options.file_size,
        seed=options.seed,
        one_file=options.one_file,
        one_line=options.one_line,
    )
    took = time.perf_counter() - began
    print(f"{options.size / 1e6:.1f} MB in {count} files, {options.size / 1e6 / took:.0f} MB/s")


if __name__ == "__main__":
    main()
