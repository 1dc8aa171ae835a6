"""Filters that are as large, as deep and as odd as a client may send them; run as a program, on one store.

`python -m tests.attack.filters SCHEME URL` writes a few points and prints a line of JSON for each filter: its name and
`ok`, or the error's type and message. A store that ends the process is seen by what is missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.compose import make_index, make_sink
from penstock.core.schema import Manifest, VectorSpec, single
from penstock.testing.points import DIM, point

Where = Mapping[str, Any]


def nested(inner: Where, levels: int, kinds: str = "no") -> Where:
    """A filter within `levels` others: of `n` a negation, of `a` an $and of two, of `o` an $or of two."""
    other: Where = {"page": {"$gte": 1}}
    for level in range(levels):
        kind = kinds[level % len(kinds)]
        inner = {"$not": inner} if kind == "n" else {"$and" if kind == "a" else "$or": [inner, other]}
    return inner


def hostile() -> Iterator[tuple[str, Where]]:
    leaves: dict[str, Any] = {
        "page": lambda n: {"page": n},
        "uri": lambda n: {"uri": f"file:///{n}"},
        "id": lambda n: {"id": f"{n:032x}"},
        "text": lambda n: {"text": {"$prefix": f"text {n}"}},
        "type": lambda n: {"type": "text"},
        "number": lambda n: {"year": n},
        "word": lambda n: {"team": f"team {n}"},
        "order": lambda n: {"year": {"$gt": n}},
        "prefix": lambda n: {"team": {"$prefix": f"team {n}"}},
        "exists": lambda n: {"team": {"$exists": bool(n % 2)}},
        "fields": lambda n: {f"field{n}": n},
        "deep field": lambda n: {".".join(["author"] * 16): n},
        "flag": lambda n: {"draft": True},
        "several": lambda n: {"year": [n, n + 1], "page": {"$ne": n}},
    }
    for name, leaf in leaves.items():
        for number in (2, 199, 500, 999):
            terms = [leaf(n) for n in range(number)]
            yield f"$or of {number} of {name}", {"$or": terms}
            yield f"$and of {number} of {name}", {"$and": terms}
            yield f"$or of {number} negated of {name}", {"$or": [{"$not": term} for term in terms]}
            yield f"not $or of {number} of {name}", {"$not": {"$or": terms}}
    for number in (1000, 10_000):
        yield f"$in of {number} pages", {"page": list(range(number))}
        yield f"$in of {number} years", {"year": list(range(number))}
        yield f"$nin of {number} years", {"year": {"$nin": list(range(number))}}
        yield f"$in of {number} teams", {"team": [f"team {n}" for n in range(number)]}
        yield f"$nin of {number} teams", {"team": {"$nin": [f"team {n}" for n in range(number)]}}
        yield f"$in of {number} ids", {"id": [f"{n:032x}" for n in range(number)]}
        yield f"$nin of {number} uris", {"uri": {"$nin": [f"file:///{n}" for n in range(number)]}}
        yield f"$all of {number // 11} teams", {"team": {"$all": [f"team {n}" for n in range(number // 11)]}}
        yield f"mixed $in of {number}", {"team": [*range(number), *map(str, range(number)), True, False, 1.5]}
    for kinds in ("n", "a", "o", "ao", "no", "nao"):
        for levels in (8, 13, 15):
            yield f"{levels} levels of {kinds}", nested({"page": 1}, levels, kinds)
            yield f"{levels} levels of {kinds}, metadata", nested({"year": 1}, levels, kinds)
            yield (
                f"{levels} levels of {kinds}, wide",
                nested({"$or": [{"year": n} for n in range(400)]}, levels - 1, kinds),
            )
    branches: Where = {"year": 1}
    for _ in range(9):
        branches = {"$or": [{"$and": [branches, {"page": 1}]}, {"$not": branches}]} if _ % 2 else {"$not": branches}
    yield "a tree of branches", branches
    for size in (1 << 10, 1 << 16, 1 << 20):
        text = "x" * size
        for value in (text, {"$prefix": text}, {"$gt": text}, [text, text + "y"]):
            yield f"text of {size}: {str(value)[:12]}", {"team": value}
            yield f"uri of {size}: {str(value)[:12]}", {"uri": value}
        yield f"field of {size}", {text: 1}
    for number in (
        2**53,
        -(2**53),
        2**53 - 1,
        2**63 - 1,
        -(2**63),
        10**400,
        1e308,
        -1e308,
        5e-324,
        -0.0,
        float("inf"),
        float("nan"),
    ):
        for sign in ("$eq", "$gt", "$lte"):
            yield f"year {sign} {str(number)[:30]}", {"year": {sign: number}}
            yield f"page {sign} {str(number)[:30]}", {"page": {sign: number}}
    for text in (
        "\0",
        "'",
        '"',
        "\\",
        "%",
        "_",
        "`",
        "\n",
        "\r\n",
        "\u2028",
        "\ufffe",
        "\U0010ffff",
        "$",
        "{{",
        "?",
        ":x",
        "' OR 1=1 --",
    ):
        yield f"text {text!r}", {"team": text}
        yield f"prefix {text!r}", {"team": {"$prefix": text}}
        yield f"uri {text!r}", {"uri": text}
        yield f"field {text!r}", {f"a{text}b": 1}
        yield f"exists {text!r}", {f"a{text}b": {"$exists": True}}


def main(url: str) -> None:
    sink = make_sink(url)
    sink.open(Manifest(single(VectorSpec("a model", DIM, "f" * 32), "256 tokens"), owners={"": "ledger 1"}))
    meta = {"year": 2020, "team": "team 1", "draft": True, "author": {"name": "A"}}
    sink.write([point(n, page=n + 1, metadata={**meta, "year": n}) for n in range(8)])
    sink.flush()
    sink.close()
    index = make_index(url)
    index.open()
    vector = point(1).vectors["vector"]
    for name, where in hostile():
        began = time.monotonic()
        result: dict[str, Any] = {"filter": name}
        try:
            index.search(vector, 3, where)
            index.facets(["year"], where)
            result["error"] = ""
        except Exception as error:
            result |= {"error": type(error).__name__, "message": str(error)[:400]}
        result["seconds"] = round(time.monotonic() - began, 2)
        print(json.dumps(result), flush=True)
    assert len(index.search(vector, 3)) == 3
    index.close()


if __name__ == "__main__":
    main(sys.argv[1])
