from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.records import Block, Gap
from penstock.parsers import markdown
from penstock.parsers.text import BLOCK
from tests.parsers.conftest import Read, item, text_of


def outlined(*texts: str) -> list[Block]:
    return [part for part in markdown.outlined(iter(texts)) if isinstance(part, Block)]


def sections(*texts: str) -> list[tuple[tuple[str, ...], str]]:
    """Neighbours under the same headings as one, as the chunker takes them."""
    out: list[tuple[tuple[str, ...], str]] = []
    for block in outlined(*texts):
        if out and out[-1][0] == block.headings:
            out[-1] = (block.headings, out[-1][1] + block.text)
        else:
            out.append((block.headings, block.text))
    return out


def test_the_path_of_headings_is_kept() -> None:
    assert sections("intro\n# A\na\n## B ##\nb\n### C\nc\n## D\nd\n# E\n") == [
        ((), "intro\n"),
        (("A",), "# A\na\n"),
        (("A", "B"), "## B ##\nb\n"),
        (("A", "B", "C"), "### C\nc\n"),
        (("A", "D"), "## D\nd\n"),
        (("E",), "# E\n"),
    ]


def test_underlined_headings() -> None:
    assert sections("Title\n=====\ntext\n\nSub\n---\nmore\n") == [
        (("Title",), "Title\n=====\ntext\n\n"),
        (("Title", "Sub"), "Sub\n---\nmore\n"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```\n# no\n```\n",
        "~~~ py\n# no\n```\n# nor this\n~~~\n",
        "````\n```\n# no\n````\n",
        "```\n# a fence that nobody closes\n",
        "#no\n",
        "####### seven\n",
        "    # code\n",
        "text\n\n---\n\ntext\n",
        "- item\n---\n",
        "| a |\n---\n",
        "two lines\nof text\n---\n",
        "\n---\n",
        "===\n",
    ],
)
def test_no_heading(text: str) -> None:
    assert {block.headings for block in outlined(text)} == {()}


def test_a_heading_after_a_fence_is_one() -> None:
    assert sections("```sh\n# no\n```\n# Yes\n")[-1] == (("Yes",), "# Yes\n")


@pytest.mark.parametrize("last", ["# Last", "Last\n====", "# Last\n", "Last\n==="])
def test_a_heading_may_end_the_file(last: str) -> None:
    assert outlined("text\n\n" + last)[-1] == Block(last, headings=("Last",))


def test_front_matter_gives_the_title_and_goes(read: Read) -> None:
    front = b"---\ntitle: 'On pumps'\ntags:\n  - a\n# comment\nurl: http://x\n---\n# Pumps\n"
    assert read(front, "a.md") == [Block("# Pumps\n", headings=("Pumps",), metadata={"title": "On pumps"})]


def test_rules_at_the_start_are_no_front_matter(read: Read) -> None:
    text = b"---\nThis is a text between rules.\n---\nmore\n"
    assert text_of(read(text, "a.md")) == text.decode()


MARKDOWN = st.lists(
    st.sampled_from(
        ["# A", "## B", "###### F", "text", "```", "~~~", "````", "===", "---", "- x", "", "", "    c", "é" * 50, "# "]
    ),
    max_size=60,
).map(lambda lines: "\n".join(["first", *lines]))  # what begins with a rule may be front matter


@given(MARKDOWN, st.lists(st.integers(0, 400), max_size=6))
def test_where_the_pieces_are_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    """Pieces cut after any line give the same sections as the whole, and joined the same text."""
    lines = text.splitlines(keepends=True)
    bounds = sorted({0, len(lines), *(cut % (len(lines) + 1) for cut in cuts)})
    pieces = ["".join(lines[a:b]) for a, b in pairwise(bounds)]
    assert sections(*pieces) == sections(text)
    assert "".join(block.text for block in outlined(*pieces)) == text


@given(st.text(st.sampled_from("#`~=- \n\ta€"), max_size=200))
def test_joined_blocks_are_the_decoded_text(text: str) -> None:
    parts = list(markdown.parse(io.BytesIO(text.encode()), item(b"")))
    assert text_of(parts) == text


def test_a_heading_of_a_megabyte_and_a_deep_file_are_survived() -> None:
    blocks = outlined("# " + "x" * 1_000_000 + "\n", "## y\n" * 10_000)
    assert max(len(block.text) for block in blocks) <= BLOCK
    assert max(len(title) for block in blocks for title in block.headings) <= 200


def test_damage_is_a_gap(read: Read) -> None:
    parts = read("# Été\n".encode() * 60_000 + b"\xff\n", "a.md")
    assert sum(isinstance(part, Gap) for part in parts) == 1
