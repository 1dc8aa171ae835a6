"""JSON and XML as structure: what is indexed is their content, not their punctuation; hostile input costs nothing."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.errors import LimitExceeded, ParseError
from penstock.core.records import Block, Gap
from penstock.parsers import Parsers
from penstock.parsers import json as jsons
from penstock.parsers import xml as xmls
from tests.parsers.conftest import Read, item, text_of

Parts = list[Block | Gap]


@pytest.fixture(scope="module")
def here() -> Iterator[Read]:
    """Parsers that run in this process, so that limits can be changed."""
    with Parsers(isolate=False) as parsers:
        yield lambda data, name: list(parsers.parse(item(data, name)).blocks)


def test_an_array_of_objects_is_a_table(read: Read) -> None:
    data = [{"name": "Aare", "flow": {"min": 1.50, "gauged": True}, "tags": ["a", "b"]}, {"name": "Reuss", "x": None}]
    assert read(json.dumps(data).encode(), "a.json") == [
        Block("name: Aare\nflow.min: 1.5\nflow.gauged: true\ntags: a, b\n\n", unit=True, metadata={"row": 1}),
        Block("name: Reuss\n\n", unit=True, metadata={"row": 2}),
    ]


def test_an_object_is_lines_with_dotted_names(read: Read) -> None:
    data = b'{"name": "p", "version": 1.10, "a": {"b": {"c": "x y"}}, "steps": [{"run": 1}, {"run": 2}], "no": {}}'
    assert read(data, "package.json") == [Block("name: p\nversion: 1.10\na.b.c: x y\nsteps.1.run: 1\nsteps.2.run: 2\n")]


def test_a_large_array_within_an_object_is_a_table_too(read: Read) -> None:
    rows = [{"id": n, "text": "word " * 400} for n in range(20)]
    parts = read(json.dumps({"type": "set", "data": {"rows": rows}, "end": 1}).encode(), "a.json")
    assert parts[0] == Block("type: set\n")
    assert parts[-1] == Block("end: 1\n")
    assert [part.metadata for part in parts[1:-1] if isinstance(part, Block) and part.unit] == [
        {"row": n, "path": "data.rows"} for n in range(1, 21)
    ]


def test_json_lines_under_the_name_of_json(read: Read) -> None:
    assert read(b'{"a": 1}\n{"a": 2}\n', "a.json") == read(b'{"a": 1}\n{"a": 2}\n', "a.jsonl")


@pytest.mark.parametrize(
    "text", ['{"a": 1, // why\n "b": 2}', "not json", '{"a": ', '{"a" 1}', "[1 2]", "{'a': 1}", '{"a": tru}', "]"]
)
def test_a_small_file_that_is_no_json_is_text(read: Read, text: str) -> None:
    assert read(text.encode(), "tsconfig.json") == [Block(text)]


def test_a_large_file_that_breaks_is_read_to_where_it_does_and_the_rest_as_text(read: Read) -> None:
    good = ",".join(json.dumps({"n": n, "text": "word " * 200}) for n in range(2000))
    parts = read(f"[{good}, oops".encode(), "a.json")
    assert sum(isinstance(part, Block) and part.unit for part in parts) == 2000
    (gap,) = (part for part in parts if isinstance(part, Gap))
    assert gap.cause.startswith("not valid JSON from about character")
    assert text_of(parts[-1:]).strip() == "oops"


def test_json_as_deep_as_can_be_is_refused(read: Read) -> None:
    for depth in (2_000, 3_000_000):
        with pytest.raises(LimitExceeded, match="nested"):
            read(b'{"a":' * depth, "a.json")
        with pytest.raises(ParseError, match="nested"):
            read(b"[" * depth, "a.json")


def test_a_string_too_long_is_a_gap(here: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsons, "VALUE", 100_000)
    for long in ("x" * 700_000, r"\\" * 300_000, r"a\"" * 200_000, "\\" * 600_000):
        parts = here(f'{{"a": 1, "long": "{long}", "b": 2, "list": [{{"c": "{long}"}}]}}'.encode(), "a.json")
        assert text_of(parts) == "a: 1\nb: 2\n"
        assert [part.cause[:6] for part in parts if isinstance(part, Gap)] == ["long: ", "list.1"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(values, st.integers(8, 64))
def test_json_says_the_same_wherever_it_is_entered(value: Any, step: int) -> None:
    """Each string of it, whatever is small enough to be taken whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsons, "_LISTED", step)
        patch.setattr(jsons, "_STEP", step)
        with Parsers(isolate=False) as parsers:
            data = json.dumps([value, {"k": value}], indent=1).encode()
            parts = list(parsers.parse(item(data, "a.json")).blocks)
    assert not any(isinstance(part, Gap) for part in parts)
    text = text_of(parts)
    assert all(word in text for word in _strings(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value if isinstance(value, list) else value.values():
            yield from _strings(inner)


def test_json_is_streamed(here: Read) -> None:
    row = json.dumps({"text": "word " * 500})
    data = ("[" + ",".join([row] * 8000) + "]").encode()
    with Parsers(isolate=False) as parsers:
        tracemalloc.start()
        count = sum(1 for _ in parsers.parse(item(data, "a.json")).blocks)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 8000
    assert len(data) > 20_000_000
    assert peak < 8_000_000


# ---------------------------------------------------------------- XML

FEED = b"""<?xml version="1.0" encoding="iso-8859-1"?>
<rss version="2.0"><channel><title>Weirs</title>
  <item><title>Gr\xf6\xdfe</title><link>http://a/1</link><category>x</category><category>y</category></item>
  <item><title>Flow <b>and</b> head</title><source url="u" lang="de"/></item>
</channel></rss>"""


def test_elements_that_repeat_are_units(read: Read) -> None:
    assert read(FEED, "a.xml") == [
        Block("version: 2.0\nchannel.title: Weirs\n"),
        Block(
            "title: Größe\nlink: http://a/1\ncategory: x\ncategory: y\n\n",
            unit=True,
            metadata={"row": 1, "path": "channel.item"},
        ),
        Block(
            "title: Flow and head\nsource.url: u\nsource.lang: de\n\n",
            unit=True,
            metadata={"row": 2, "path": "channel.item"},
        ),
    ]


def test_sentences_with_marks_in_them_are_sentences(read: Read) -> None:
    data = b"<doc><p>Water <em>flows</em> down.</p><p>And\n   rests.</p><list><li>a</li><li>b</li></list></doc>"
    assert read(data, "a.xml") == [Block("p: Water flows down.\np: And\nrests.\nlist.li: a\nlist.li: b\n")]


def test_a_drawing_is_its_words(read: Read) -> None:
    data = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9"><title>Weir</title><path d="M1 2"/><path d="M3 4"/></svg>'
    )
    assert read(data, "a.svg") == [Block("title: Weir\n")]


def test_xml_that_is_not_well_formed_is_text(read: Read) -> None:
    for text in ("<a>{{ x }} & b</a>", "<a><b></a>", "<a/><b/>", "no xml"):
        assert read(text.encode(), "a.xml") == [Block(text)]


def test_large_xml_is_read_as_far_as_it_is_well_formed(read: Read) -> None:
    parts = read(b"<r>" + b"<i><a>%s</a><b/></i>" % (b"word " * 200) * 2000 + b"<oops", "a.xml")
    assert sum(isinstance(part, Block) and part.unit for part in parts) == 2000
    assert isinstance(parts[-1], Gap)


@pytest.mark.parametrize(
    "dtd",
    [
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY b SYSTEM "file:///etc/passwd">',
        '<!ENTITY % p SYSTEM "http://127.0.0.1:1/x.dtd"> %p;',
    ],
)
def test_entities_are_refused(read: Read, dtd: str) -> None:
    with pytest.raises(ParseError, match="declares entities"):
        read(f"<!DOCTYPE r [{dtd}]><r>&b;</r>".encode(), "a.xml")


def test_a_document_type_alone_is_no_harm(read: Read) -> None:
    data = b'<!DOCTYPE r PUBLIC "-//X" "http://127.0.0.1:1/x.dtd"><r><a>one</a><b>two</b></r>'
    assert read(data, "a.xml") == [Block("a: one\nb: two\n")]


def test_xml_as_deep_or_wide_as_can_be(read: Read) -> None:
    with pytest.raises(LimitExceeded, match="nested"):
        read(b"<a>" * 150_000, "a.xml")
    with pytest.raises(LimitExceeded, match="nested"):
        read(b"<a>" * 300 + b"x" + b"</a>" * 300, "a.xml")
    with pytest.raises(LimitExceeded, match="a tag or comment of more than"):
        read(b"<a><!--" + b"x" * (20 << 20), "a.xml")


@pytest.mark.parametrize(("small", "nodes"), [(1, 5000), (30, 5000), (200, 3), (1 << 16, 5000)])
def test_no_word_is_lost_wherever_an_element_is_entered(
    here: Read, small: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xmls, "SMALL", small)
    monkeypatch.setattr(xmls, "_NODES", nodes)
    words = [f"w{n}" for n in range(60)]
    items = "".join(
        f"<item id='{a}'><t>{b} <b>{c}</b> {d}</t><u v='{e}'/></item>"
        for a, b, c, d, e in zip(*[iter(words)] * 5, strict=True)
    )
    parts = here(f"<r><head>start</head>{items}<x><y>deep</y></x>end</r>".encode(), "a.xml")
    text = text_of(parts)
    for word in [*words, "start", "deep", "end"]:
        assert word in text.replace("\n", " ").split(), word


def test_xml_is_streamed(here: Read) -> None:
    data = b"<r>" + b"<i><a>%s</a><b/></i>" % (b"word " * 500) * 8000 + b"</r>"
    with Parsers(isolate=False) as parsers:
        tracemalloc.start()
        count = sum(1 for _ in parsers.parse(item(data, "a.xml")).blocks)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 8000
    assert peak < 12_000_000


def test_what_lies_very_deep_is_json_itself(read: Read) -> None:
    data = {"a": 1}
    for _ in range(60):
        data = {"k": data}  # type: ignore[dict-item]
    (block,) = read(json.dumps([data]).encode(), "a.json")
    assert isinstance(block, Block)
    assert '{"a": "1"}}' in block.text
