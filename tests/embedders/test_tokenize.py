"""The tokenizer's promises: nothing cut, nothing added, and additive where it says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.contracts import Tokenizer
from penstock.embedders import models, words
from penstock.embedders.tokenize import HFTokenizer

ODD = st.sampled_from(
    [
        "\u0301",
        "\u200d",
        "\x00",
        "\x0b",
        "\x85",
        "\u2028",
        "\u00a0",
        "Σ",
        "İ",
        "ﬁ",
        "𝒜",
        "中",
        "[CLS]",
        "##a",
        "\ufffd",
        "🙂",
    ]
)
TEXT = st.lists(st.one_of(st.text(max_size=20), ODD, st.text(alphabet="ab .,-'#\t\n", max_size=20)), max_size=8).map(
    "".join
)
SPACE = st.text(alphabet=" \t\r\n", min_size=1, max_size=3)


@pytest.fixture(scope="module")
def default() -> HFTokenizer:
    return HFTokenizer(models.resolve() / "tokenizer.json", 256)


@settings(max_examples=400, deadline=None)
@given(TEXT, SPACE, TEXT)
def test_wordpiece_ids_of_a_text_are_those_of_its_parts_cut_at_white_space(
    default: HFTokenizer, a: str, space: str, b: str
) -> None:
    assert default.additive
    whole, first, second, middle = default.encode([a + space + b, a, b, a + space])
    assert whole == first + second
    assert middle == first


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_ids_by_words_are_those_of_the_whole_text(default: HFTokenizer, texts: list[str]) -> None:
    expected = default.encode_uncached(texts)
    assert [default.encode(texts), default.encode(texts)] == [expected, expected]


def test_words_are_encoded_once_and_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", 5)
    encoded: list[str] = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        encoded.extend(texts)
        return [[len(word) for word in text.split()] for text in texts]

    encoder = words.Words(encode)
    assert encoder(["a bb a", "bb\ta\r\n", ""]) == [[1, 2, 1], [2, 1], []]
    assert encoder(["bb bb"]) == [[2, 2]]
    assert sorted(encoded) == ["a", "bb"]
    for text in ("ccc dddd eeeee", "1 22 333 4444 55555 666666 7777777", "ccc \u0301x", "x" * words.LONGEST + "y"):
        assert encoder([text]) == [[len(word) for word in text.split()]]
        assert len(encoder._kept) <= 5
    # A normalizer may join a mark to the white space before it; what hardly comes again is not kept.
    assert encoded[-3:] == ["ccc", "ccc \u0301x", "x" * words.LONGEST + "y"]


def test_padding_and_truncation_of_the_file_are_switched_off(default: HFTokenizer) -> None:
    """The default model's tokenizer.json pads and cuts to 128."""
    assert [len(ids) for ids in default.encode(["word", "word " * 700])] == [1, 700]
    assert (default.prefix, default.suffix, default.max_tokens) == ([101], [102], 254)
    assert isinstance(default, Tokenizer)


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta"])
def test_tokenizers_that_look_at_white_space_do_not_claim_to_be_additive(
    name: str, small: Callable[[str], Path]
) -> None:
    tokenizer = HFTokenizer(small(name) / "tokenizer.json", 512)
    assert not tokenizer.additive
    assert (tokenizer.prefix, tokenizer.suffix) == ([0], [2])


def test_a_prompt_takes_its_tokens_from_the_text(small: Callable[[str], Path]) -> None:
    path = small("bert") / "tokenizer.json"
    plain, asked = HFTokenizer(path, 100), HFTokenizer(path, 100, prompt="the key: ")
    assert plain.max_tokens - asked.max_tokens == len(plain.encode(["the key: "])[0]) > 1


def test_lowercasing_asked_for_by_the_checkpoint_is_done(small: Callable[[str], Path]) -> None:
    path = small("roberta") / "tokenizer.json"
    shout, whisper = HFTokenizer(path, 100, lowercase=True).encode(["LOUD", "loud"])
    assert shout == whisper
    loud, quiet = HFTokenizer(path, 100).encode(["LOUD", "loud"])
    assert loud != quiet
