"""Tokenizers that a tokenizer.json defines.

Texts are never cut or padded: truncation and padding of a tokenizer.json are switched off. Ids are
those of the model's own tokenizer, including added tokens that occur literally in a text.

Qwen's tokenizer runs on tiktoken, several times as fast as `tokenizers`, with ranks read from the
same tokenizer.json. docs/internals.md explains why the two give the same ids; `_ranks` checks the
conditions on the file.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any
from unicodedata import is_normalized

import numpy as np
import tiktoken
import tokenizers

from router.arrays import TokenIds
from router.tokenised_texts import TokenisedTexts, refuse_surrogates

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FAST_CHARACTERS = 900_000  # tiktoken's expression engine panics on a run of a million spaces
_WORDS = re.compile(r"[a-z0-9]+|[^a-z0-9 ]")
_WORDS_CHARACTERS = 2_000  # the library reads a longer text without Python's lock
_KNOWN_WORDS = 8_192
_FEW_IDS = 48  # up to here Python counts them faster than NumPy
_UNUSED = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def of_library(inner: tokenizers.Tokenizer, key: str, special_tokens: bool) -> "FileTokenizer":
    """Wrap a tokenizer of the library; `key` identifies everything that decides its ids."""
    inner.no_truncation()
    inner.no_padding()
    parts = json.loads(inner.to_str())
    if (ranks := _ranks(inner, parts)) is not None:
        return FastTokenizer(inner, parts, key, special_tokens, ranks)
    kind = WordTokenizer if _reads_words(parts) else FileTokenizer
    return kind(inner, parts, key, special_tokens)


class FileTokenizer:
    """A tokenizer.json run by `tokenizers`, the library that defines Hugging Face tokenizers."""

    def __init__(
        self, inner: tokenizers.Tokenizer, parts: dict[str, Any], key: str, special_tokens: bool
    ) -> None:
        self.key = key
        self._inner = inner
        self._special_tokens = special_tokens
        self._unknown = _unknown_id(inner, parts)
        added = parts["added_tokens"]
        self._has_added = _contains_any([token["content"] for token in added])
        self._ordinary_key = key
        # otherwise normalising a text can create an added token in it
        if not any(token["normalized"] for token in added):
            ordinary = json.dumps(
                {name: part for name, part in parts.items() if name != "added_tokens"},
                sort_keys=True,
            )
            self._ordinary_key = (
                f"{hashlib.sha256(ordinary.encode()).hexdigest()}{'+' if special_tokens else '-'}"
            )

    def key_for(self, texts: Sequence[str]) -> str:
        return self.key if any(map(self._has_added, texts)) else self._ordinary_key

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        refuse_surrogates(texts)
        encodings = self._inner.encode_batch_fast(
            list(texts), add_special_tokens=self._special_tokens
        )
        ids = [self._ids(encoding) for encoding in encodings]
        return TokenisedTexts(ids, [len(row) for row in ids])

    def unread(
        self, texts: Sequence[str], tokens: TokenisedTexts, before: str, after: str
    ) -> list[float] | None:
        if self._unknown is None or tokens.ids is None:
            return None
        unknown = [_count(row, self._unknown) for row in tokens.ids]
        if not any(unknown):
            return None
        frame = self([before + after], "").counts[0]  # special tokens and prompt
        return [
            min(1.0, count / max(1, own - frame))
            for count, own in zip(unknown, tokens.counts, strict=True)
        ]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return list(self._inner.encode(text, add_special_tokens=False).offsets)

    def _ids(self, encoding: tokenizers.Encoding) -> TokenIds:
        return np.array(encoding.ids, np.int32)


class FastTokenizer(FileTokenizer):
    """Qwen's tokenizer on tiktoken; docs/internals.md explains why the ids are the same."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        parts: dict[str, Any],
        key: str,
        special_tokens: bool,
        ranks: dict[bytes, int],
    ) -> None:
        super().__init__(inner, parts, key, special_tokens)
        self._encoding = tiktoken.Encoding(
            key, pat_str=_QWEN_SPLIT, mergeable_ranks=ranks, special_tokens={}
        )
        self._normalise: Callable[[str], str] = inner.normalizer.normalize_str
        self._before, self._behind = _around(inner, special_tokens)

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        refuse_surrogates(texts)
        ids = [self._one(text) for text in texts]
        return TokenisedTexts(ids, [len(row) for row in ids])

    def _one(self, text: str) -> TokenIds:
        if len(text) > _FAST_CHARACTERS or self._has_added(text):
            return self._ids(self._inner.encode(text, add_special_tokens=self._special_tokens))
        if not (text.isascii() or is_normalized("NFC", text)):
            text = self._normalise(text)
        return np.array(
            [*self._before, *self._encoding.encode_ordinary(text), *self._behind], np.int32
        )


class WordTokenizer(FileTokenizer):
    """BERT's WordPiece. It reads a printable ASCII text word by word, whatever stands around them,
    so the ids of each word are remembered.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, parts: dict[str, Any], key: str, special_tokens: bool
    ) -> None:
        super().__init__(inner, parts, key, special_tokens)
        self._before, self._behind = _around(inner, special_tokens)
        tokenise = inner.model.tokenize
        self._word = lru_cache(_KNOWN_WORDS)(lambda word: [part.id for part in tokenise(word)])

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        if len(texts) != 1 or not self._is_plain(texts[0]):
            return super().__call__(texts, input_type)
        words = map(self._word, _WORDS.findall(texts[0].lower()))
        ids = np.array([*self._before, *chain.from_iterable(words), *self._behind], np.int32)
        return TokenisedTexts([ids], [len(ids)])

    def _is_plain(self, text: str) -> bool:
        short = len(text) <= _WORDS_CHARACTERS
        return short and text.isascii() and text.isprintable() and not self._has_added(text)


def _unknown_id(inner: tokenizers.Tokenizer, parts: dict[str, Any]) -> int | None:
    """The id of text that the vocabulary lacks; None if bytes stand for it."""
    model = parts["model"]
    if model.get("byte_fallback"):
        return None
    if model["type"] == "Unigram":
        unknown: int | None = model["unk_id"]
        return unknown
    token = model.get("unk_token")
    return None if token is None else inner.token_to_id(token)


def _count(ids: TokenIds, id: int) -> int:
    return ids.tolist().count(id) if len(ids) <= _FEW_IDS else int(np.count_nonzero(ids == id))


def _contains_any(tokens: Sequence[str]) -> Callable[[str], bool]:
    starts = sorted({token[0] for token in tokens})
    search = re.compile("|".join(map(re.escape, tokens))).search

    def contains(text: str) -> bool:
        for start in starts:  # finding one character is far cheaper than the expression
            if start in text:
                return search(text) is not None
        return False

    return contains


def _around(inner: tokenizers.Tokenizer, special_tokens: bool) -> tuple[list[int], list[int]]:
    """The special tokens before a text and after it."""
    whole, bare = (
        inner.encode("a", add_special_tokens=special).ids for special in (special_tokens, False)
    )
    start = whole.index(bare[0])
    return whole[:start], whole[start + len(bare) :]


def _reads_words(parts: dict[str, Any]) -> bool:
    """Whether a tokenizer reads lower-cased words as BERT's does."""
    normalizer = parts["normalizer"] or {}
    return (
        parts["model"]["type"] == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer["lowercase"]
        and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
        and not any(token["normalized"] for token in parts["added_tokens"])
    )


def _ranks(inner: tokenizers.Tokenizer, parts: dict[str, Any]) -> dict[bytes, int] | None:
    """The ids of all byte strings for tiktoken, or None if it could give other ids than
    `tokenizers`.
    """
    model, steps = parts["model"], (parts["pre_tokenizer"] or {}).get("pretokenizers") or []
    is_qwen = (
        model["type"] == "BPE"
        and not any(model[option] for option in _UNUSED)
        and parts["normalizer"] == {"type": "NFC"}
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and (steps[0]["pattern"], steps[0]["behavior"], steps[0]["invert"])
        == ({"Regex": _QWEN_SPLIT}, "Isolated", False)
        and not steps[1]["add_prefix_space"]
        and not steps[1]["use_regex"]
        and not any(token["normalized"] for token in parts["added_tokens"])
    )
    if not is_qwen:
        return None
    ids: dict[str, int] = model["vocab"]
    merges: list[tuple[str, str]] = model["merges"]
    byte_of = _bytes_by_character()
    if not all(byte_of.keys() >= set(token) for token in ids) or len(ids) != len(byte_of) + len(
        merges
    ):
        return None
    last = -1
    for left, right in merges:
        merged = ids[left + right]
        if not (ids[left] < merged > ids[right] and last < merged):
            return None
        last = merged
    tokenise = inner.model.tokenize
    if any(len(tokenise(token)) != 1 for token in ids):
        return None
    return {bytes(byte_of[character] for character in token): rank for token, rank in ids.items()}


def _bytes_by_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2's table: printable
    bytes are themselves).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
