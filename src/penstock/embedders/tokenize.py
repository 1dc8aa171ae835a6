"""A checkpoint's tokenizer, run by Hugging Face `tokenizers`, which knows nothing of models and needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from penstock.core.errors import EmbedError, ModelError
from penstock.embedders.words import Words


class PairForm(NamedTuple):
    """Special tokens before, between and after the two texts of a pair."""

    before: Sequence[int]
    between: Sequence[int]
    after: Sequence[int]
    types: Sequence[int]
    """Of the tokens of each part: before, question, between, passage, after."""


class HFTokenizer:
    """Implements penstock.core.contracts.Tokenizer over a tokenizer.json.

    `length` is how many tokens the model takes, special tokens and prompt included. `markers` are read as one token
    where the vocabulary has them, or their first word, as one.
    """

    def __init__(
        self, path: Path, length: int, *, lowercase: bool = False, prompt: str = "", markers: Sequence[str] = ()
    ) -> None:
        import tokenizers

        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
            # Of the file itself: written out anew it has an entry for each id up to the highest, billions perhaps.
            settings = json.loads(path.read_bytes())
            self.additive = _additive(settings)
            self.unknown = _unknown(settings, inner)
            """The token that stands for what the vocabulary lacks, if there is one."""
            self._prepare(inner, length, lowercase, prompt, markers)
        # The binding raises a bare Exception for a file that is missing or malformed, or that cannot encode a letter.
        except Exception as error:
            raise ModelError(f"{path} cannot be read: {error!s:.300}") from error
        if self.max_tokens < 1:
            raise ModelError(f"{path.parent}: {length} tokens leave no room for text")

    def _prepare(self, inner: Any, length: int, lowercase: bool, prompt: str, markers: Sequence[str]) -> None:
        import tokenizers

        # Fixed padding and truncation are saved in the file by whoever exported it.
        inner.no_padding()
        inner.no_truncation()
        if lowercase:
            lower = tokenizers.normalizers.Lowercase()
            inner.normalizer = tokenizers.normalizers.Sequence([lower, inner.normalizer]) if inner.normalizer else lower
        for marker in markers:
            _mark(inner, marker)
        self._inner = inner
        self.encode = Words(self.encode_uncached) if self.additive else self.encode_uncached
        self.prefix, self.suffix = _specials(inner)
        self.room = length - len(self.prefix) - len(self.suffix)
        """Tokens of text and prompt."""
        # Where ids cannot be cut, those of prompt and text may be one more together than apart.
        spent = len(self.encode([prompt])[0]) + (not self.additive) if prompt else 0
        self.max_tokens = self.room - spent

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary; None for what it lacks."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def encode_uncached(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        # As above: a vocabulary may lack what its model falls back on.
        except Exception as error:
            raise EmbedError(f"the model's tokenizer cannot encode a text: {error!s:.300}") from error
        return [encoding.ids for encoding in encodings]

    def pair(self) -> PairForm:
        """The special tokens around the texts of a pair, and the types of all tokens. Raises ModelError for a tokenizer
        that takes no pairs."""
        try:
            encoding = self._inner.encode("a", "a")
            texts = encoding.sequence_ids
            ends = [(texts.index(n), len(texts) - texts[::-1].index(n)) for n in (0, 1)]
        except Exception as error:  # as above
            raise ModelError(f"the model's tokenizer takes no pairs of texts: {error!s:.300}") from error
        (first, first_end), (second, second_end) = ends
        ids, types = list(encoding.ids), list(encoding.type_ids)
        parts = (slice(first), slice(first, first_end), slice(first_end, second), slice(second, second_end))
        return PairForm(
            ids[parts[0]],
            ids[parts[2]],
            ids[second_end:],
            tuple(next(iter(types[part]), 0) for part in (*parts, slice(second_end, None))),
        )


def _specials(inner: Any) -> tuple[list[int], list[int]]:
    """Special tokens before and after a text: [CLS] and [SEP]."""
    encoding = inner.encode("a")
    mask = encoding.special_tokens_mask
    if 0 not in mask:
        return list(encoding.ids), []
    first, after = mask.index(0), len(mask) - mask[::-1].index(0)
    return list(encoding.ids[:first]), list(encoding.ids[after:])


def _mark(inner: Any, marker: str) -> None:
    """Have the marker, or its first word, read as one token, if the vocabulary has it."""
    import tokenizers

    for token in (marker, *marker.split(None, 1)[:1]):
        if (id := inner.token_to_id(token)) is not None:
            if inner.encode(token, add_special_tokens=False).ids != [id]:
                inner.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True)])
            return


def _unknown(settings: dict[str, Any], inner: Any) -> int | None:
    model = settings.get("model") or {}
    if model.get("unk_token") is not None:
        id: int | None = inner.token_to_id(model["unk_token"])
        return id
    return model.get("unk_id")


def _additive(settings: dict[str, Any]) -> bool:
    """Whether nothing looks across ASCII white space: WordPiece behind BERT's splitting; any model of words that are
    split at white space first and marked each by itself, as Model2Vec's are."""
    added = settings.get("added_tokens", [])
    if any(set(token["content"]) & set(" \t\r\n") for token in added):
        return False
    normalizer, splitting, model = ((settings.get(part) or {}) for part in ("normalizer", "pre_tokenizer", "model"))
    steps = splitting.get("pretokenizers") or []
    if splitting.get("type") == "Sequence" and [step.get("type") for step in steps] == ["WhitespaceSplit", "Metaspace"]:
        # A normalizer that replaces patterns may replace some with white space in them.
        return steps[1].get("prepend_scheme") == "always" and normalizer.get("type") in (
            None,
            "Precompiled",
            "Lowercase",
        )
    plain = not any(token.get("single_word") or token.get("lstrip") or token.get("rstrip") for token in added)
    kinds = [part.get("type") for part in (normalizer, splitting, model)]
    return bool(plain and normalizer.get("clean_text") and kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"])
