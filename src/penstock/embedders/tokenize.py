"""A checkpoint's tokenizer, run by Hugging Face `tokenizers`, which knows nothing of models and needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock.core.errors import EmbedError, ModelError


class HFTokenizer:
    """Implements penstock.core.contracts.Tokenizer over a tokenizer.json.

    `length` is how many tokens the model takes, special tokens and prompt included.
    """

    def __init__(self, path: Path, length: int, *, lowercase: bool = False, prompt: str = "") -> None:
        import tokenizers

        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
            # Of the file itself: written out anew it has an entry for each id up to the highest, billions perhaps.
            self.additive = _additive(json.loads(path.read_bytes()))
            self._prepare(inner, length, lowercase, prompt)
        # The binding raises a bare Exception for a file that is missing or malformed, or that cannot encode a letter.
        except Exception as error:
            raise ModelError(f"{path} cannot be read: {error!s:.300}") from error
        if self.max_tokens < 1:
            raise ModelError(f"{path.parent}: {length} tokens leave no room for text")

    def _prepare(self, inner: Any, length: int, lowercase: bool, prompt: str) -> None:
        import tokenizers

        # Fixed padding and truncation are saved in the file by whoever exported it.
        inner.no_padding()
        inner.no_truncation()
        if lowercase:
            lower = tokenizers.normalizers.Lowercase()
            inner.normalizer = tokenizers.normalizers.Sequence([lower, inner.normalizer]) if inner.normalizer else lower
        self._inner = inner
        self.prefix, self.suffix = _specials(inner)
        self.room = length - len(self.prefix) - len(self.suffix)
        """Tokens of text and prompt."""
        # Where ids cannot be cut, those of prompt and text may be one more together than apart.
        spent = len(self.encode([prompt])[0]) + (not self.additive) if prompt else 0
        self.max_tokens = self.room - spent

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        # As above: a vocabulary may lack what its model falls back on.
        except Exception as error:
            raise EmbedError(f"the model's tokenizer cannot encode a text: {error!s:.300}") from error
        return [encoding.ids for encoding in encodings]


def _specials(inner: Any) -> tuple[list[int], list[int]]:
    """Special tokens before and after a text: [CLS] and [SEP]."""
    encoding = inner.encode("a")
    mask = encoding.special_tokens_mask
    if 0 not in mask:
        return list(encoding.ids), []
    first, after = mask.index(0), len(mask) - mask[::-1].index(0)
    return list(encoding.ids[:first]), list(encoding.ids[after:])


def _additive(settings: dict[str, Any]) -> bool:
    """WordPiece behind BERT's splitting: nothing it does looks across ASCII white space."""
    kinds = [(settings.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    plain = all(
        not token.get("single_word")
        and not token.get("lstrip")
        and not token.get("rstrip")
        and not set(token["content"]) & set(" \t\r\n")
        for token in settings.get("added_tokens", [])
    )
    cleans = (settings.get("normalizer") or {}).get("clean_text", False)
    return plain and cleans and kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
