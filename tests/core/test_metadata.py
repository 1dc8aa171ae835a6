"""Metadata: what is known of any document, what a user may give, and the form that any store can hold."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from penstock.core.errors import UsageError
from penstock.core.metadata import FROM_PATH, PathFields, normalized, parse_metadata, pipeline_metadata, standard
from penstock.core.records import Item


def item(uri: str, **details: Any) -> Item:
    return Item(uri, "", io.BytesIO, **details)


@pytest.mark.parametrize(
    ("uri", "name", "folder", "extension"),
    [
        ("file:///srv/docs/a%20b.tar.GZ", "a b.tar.GZ", "/srv/docs", "gz"),
        ("file:///srv/docs/odd%3F%23.md", "odd?#.md", "/srv/docs", "md"),
        ("file:///srv/docs/%ff.md", "\ufffd.md", "/srv/docs", "md"),
        ("https://host/a/page.html?token=hush#top", "page.html", "https://host/a", "html"),
        ("s3://bucket/key/100%25 a?b.txt", "100%25 a?b.txt", "s3://bucket/key", "txt"),
        ("file:///srv/.profile", ".profile", "/srv", None),
        ("doc:7", "doc:7", None, None),
    ],
)
def test_a_document_is_named_by_its_uri(uri: str, name: str, folder: str | None, extension: str | None) -> None:
    found = standard(item(uri), "text/plain")
    assert (found["name"], found.get("folder"), found.get("extension")) == (name, folder, extension)
    assert "hush" not in json.dumps(found)


def test_times_are_texts_in_order() -> None:
    found = standard(item("a.md", size=0, modified=1.9, created=0.0), "text/markdown")
    assert found["modified"] == "1970-01-01T00:00:01Z"
    assert found["created"] == "1970-01-01T00:00:00Z"
    assert (found["size"], found["media_type"]) == (0, "text/markdown")
    assert "modified" not in standard(item("a.md", modified=1e300), "text/plain")


def test_dates_in_three_shapes_compare() -> None:
    zone = timezone(timedelta(hours=2))
    kept = normalized(
        {
            "day": date(2026, 11, 30),
            "utc": datetime(2026, 11, 30, 12, 0, tzinfo=UTC),
            "away": datetime(2026, 11, 30, 14, 0, 0, 5, tzinfo=zone),
            "text": "2026-11-30",
        }
    )
    assert kept == {
        "day": "2026-11-30",
        "utc": "2026-11-30T12:00:00Z",
        "away": "2026-11-30T12:00:00Z",
        "text": "2026-11-30",
    }


def test_what_stores_hold_is_kept() -> None:
    given = {"a": 1, "b": 2.5, "c": True, "d": ("x", None, "y"), "e": {"f": {"g": []}}, "none": None}
    given |= {"set": {"b", "a"}, "number": np.float32(0.5), "count": np.int64(7), "ordered": OrderedDict(z=1)}
    assert normalized(given) == {
        "a": 1,
        "b": 2.5,
        "c": True,
        "d": ["x", "y"],
        "e": {"f": {"g": []}},
        "set": ["a", "b"],
        "number": 0.5,
        "count": 7,
        "ordered": {"z": 1},
    }


DEEP: dict[str, Any] = {"a": {}}
for _ in range(20):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"a": object()}, "'a' is a object"),
        ({"a": {"b": b"raw"}}, "'a.b' is a bytes"),
        ({"a": float("nan")}, "no number"),
        ({"a": [1, float("inf")]}, "no number"),
        ({"a": 1 << 63}, "out of range"),
        ({"a.b": 1}, "without dots"),
        ({"$a": 1}, "leading"),
        ({1: "a"}, "named by a text"),
        ({"": "a"}, "named by a text"),
        ({"a": "\ud800"}, "surrogates"),
        ({"\ud800": 1}, "surrogates"),
        ({"a": np.zeros(3)}, "ndarray"),
        ({"a": "x" * 20_000}, "at most 16,384"),
        (DEEP, "more than 8 levels"),
        ([("a", 1)], "mapping of names to values, not a list"),
        (None, "not a NoneType"),
    ],
)
def test_what_no_store_holds_is_refused(value: object, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        normalized(value)


names = st.from_regex(r"\w{1,8}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@examples(st.dictionaries(names, json_values, max_size=4))
def test_normal_is_normal_and_json(values: dict[str, Any]) -> None:
    kept = normalized(values)
    assert normalized(kept) == kept == json.loads(json.dumps(kept))


# ---------------------------------------------------------------- what the user gives


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("docs/{team}/{year:int}/*", "/srv/docs/hr/2026/a.md", {"team": "hr", "year": 2026}),
        ("docs/{team}/{year:int}/*", "/srv/docs/hr/2026/sub/a.md", {}),
        ("docs/{team}/{year:int}/**", "/srv/docs/hr/2026/sub/a.md", {"team": "hr", "year": 2026}),
        ("docs/{team}/{year:int}/*", "/srv/docs/hr/late/a.md", {}),
        ("{day:date}-{title}.md", "/srv/2026-11-30-hello world.md", {"day": "2026-11-30", "title": "hello world"}),
        ("docs/{team}/*", "/srv/mydocs/hr/a.md", {}),
        ("a.b/{x}", "/srv/aXb/c", {}),
        ("/docs/{team}/*/", "/docs/h r/a.md", {"team": "h r"}),
        ("{team}/**/{name}.md", "/srv/hr/a/b/c.md", {"team": "srv", "name": "c"}),
        ("docs/**/v{major:int}.{minor:int}-*.md", "/docs/a/v1.20-x.md", {"major": 1, "minor": 20}),
        ("docs/**/v{major:int}.*", "/docs/v1.md", {"major": 1}),
        ("{a}-{b}", "/x--y", {"a": "x", "b": "-y"}),
        ("*{n:int}.md", "/docs/note17.md", {"n": 17}),
        ("{a}/{b}/{c}/{d}", "/docs/a.md", {}),
        ("a{x}a", "/aa", {}),
    ],
)
def test_fields_out_of_a_path(pattern: str, path: str, fields: dict[str, Any]) -> None:
    from pathlib import PurePosixPath

    assert dict(PathFields(pattern)(item(PurePosixPath(path).as_uri()))) == fields


@pytest.mark.parametrize(
    "pattern", ["docs/*", "{a:float}/x", "{a}/{a}", "{}", "{a", "{a b}", "{a}{b}", "**/{a}/**", "a**/{b}"]
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=f"{FROM_PATH}.*in braces"):
        pipeline_metadata({"from_path": pattern})


def test_a_pattern_does_not_take_for_ever() -> None:
    """A hostile name against many wildcards: no more than a glance."""
    code = """if True:
        import io
        from penstock.core.metadata import PathFields
        from penstock.core.records import Item
        uri = "file:///" + "a/-" * 300 + "/" + "-" * 5000
        PathFields("**/{a}-{b}-{c}-*-*-*-{x}-{y}.md")(Item(uri, "", io.BytesIO))"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_the_command_line_says() -> None:
    values = parse_metadata(
        ["team=hr", "year=2026", "draft=true", 'tags=["a", "b"]', "from_path=docs/{x}/*", "note=a=b"]
    )
    assert values == {
        "team": "hr",
        "year": 2026,
        "draft": True,
        "tags": ["a", "b"],
        "from_path": "docs/{x}/*",
        "note": "a=b",
    }
    for wrong in ("team", "=hr", ""):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            parse_metadata([wrong])


def test_invalid_metadata_of_a_pipeline_is_refused() -> None:
    for wrong, cause in (({"a": float("nan")}, "no number"), ({"from_path": 7}, "from_path 7"), ({"a.b": 1}, "dots")):
        with pytest.raises(UsageError, match=cause):
            pipeline_metadata(wrong)
    assert pipeline_metadata({}) is None


def test_other_metadata_has_another_fingerprint() -> None:
    several = [
        None,
        pipeline_metadata({"a": 1}),
        pipeline_metadata({"a": 2}),
        pipeline_metadata({"a": 1, "from_path": "{x}/*"}),
        pipeline_metadata({"from_path": "{y}/*"}),
    ]
    assert len({one and one.fingerprint for one in several}) == len(several)
    first, second = pipeline_metadata({"a": 1, "b": 2}), pipeline_metadata({"b": 2, "a": 1})
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint
