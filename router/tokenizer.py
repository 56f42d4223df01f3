"""Turn texts into token ids, once for every model that reads the same ids.

Texts are never cut or padded: truncation and padding of a tokenizer.json are switched off. Ids are
those of the model's own tokenizer, including added tokens that occur literally in a text.

Qwen's tokenizer runs on tiktoken, several times as fast as `tokenizers`, with ranks read from the
same tokenizer.json. docs/internals.md explains why the two give the same ids; `_ranks` checks the
conditions on the file.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from unicodedata import is_normalized
from weakref import WeakValueDictionary

import numpy as np
import tiktoken
import tokenizers

from router.arrays import TokenIds
from router.model_config import resolve_path

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
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class TokenisedTexts(NamedTuple):
    """The tokens that a model reads of each text, in the order of the texts."""

    ids: list[TokenIds] | None  # None where the engine takes text
    counts: list[int]  # special tokens included


class Tokenizer(Protocol):
    """Tokenises texts, already in their prompt, for one model or several.

    Tokenizers of equal `key` give equal ids for every text, and those of equal `key_for(texts)` for
    these texts. Files that differ only in added tokens, such as those of Qwen3-Embedding's 0.6B and
    4B, share the texts that contain none of these tokens.
    """

    key: str

    def key_for(self, texts: Sequence[str]) -> str:
        """The key under which the tokens of exactly these texts can be shared."""

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        """Tokenise; raises ValueError naming the text that is not valid Unicode."""

    def unread(
        self, texts: Sequence[str], tokens: TokenisedTexts, before: str, after: str
    ) -> list[float] | None:
        """The share of each text's own tokens that the tokenizer does not know; None if it knows
        all. `tokens` are those of the texts between `before` and `after`.
        """

    def offsets(self, text: str) -> list[tuple[int, int]] | None:
        """The start and end, in characters, of each token except special ones; None if it only
        counts.
        """


def load(
    source: str,
    special_tokens: bool = True,
    base_dir: str | None = None,
    revision: str | None = None,
) -> Tokenizer:
    """Load the tokenizer that `source` names.

    Args:
        source: a tokenizer.json or a folder that holds one; `package:NAME/PATH`; a hub id
            `ORGANISATION/NAME`, downloaded unless it is cached; or `callable:MODULE:FUNCTION` for
            engines that take text. FUNCTION(texts, input_type) counts tokens; a function
            `unread(text)` of FUNCTION or of MODULE returns the share of a text's tokens that the
            engine does not know.
        special_tokens: whether the tokenizer's own post-processor adds its special tokens; a
            callable decides for itself.
        base_dir: where relative paths start.
        revision: the commit of a hub repository; its newest if none is given.

    Raises:
        FileNotFoundError: there is no such file, package or repository.
        ValueError: the source is not a tokenizer.
    """
    if source.startswith("callable:"):
        return _Counter(source)
    file = _find(source, base_dir, revision)
    data = file.read_bytes()
    key = f"{hashlib.sha256(data).hexdigest()}{'+' if special_tokens else '-'}"
    known = _loaded.get(key)
    if known is None:
        try:
            inner = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # it raises no narrower class
            raise ValueError(
                f"{source}: {file} is not a tokenizer.json that tokenizers can read ({error})"
            ) from error
        known = of_library(inner, key, special_tokens)
        _loaded[key] = known
    return known


def of_library(inner: tokenizers.Tokenizer, key: str, special_tokens: bool) -> "_FileTokenizer":
    """Wrap a tokenizer of the library; `key` identifies everything that decides its ids."""
    inner.no_truncation()
    inner.no_padding()
    parts = json.loads(inner.to_str())
    if (ranks := _ranks(inner, parts)) is not None:
        return FastTokenizer(inner, parts, key, special_tokens, ranks)
    kind = WordTokenizer if _reads_words(parts) else _FileTokenizer
    return kind(inner, parts, key, special_tokens)


class _FileTokenizer:
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


class FastTokenizer(_FileTokenizer):
    """Qwen's tokenizer on tiktoken; the top of this file explains why the ids are the same."""

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


class WordTokenizer(_FileTokenizer):
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


class _Counter:
    """Counts the tokens of an engine that has its own tokenizer."""

    def __init__(self, source: str) -> None:
        module, _, function = source.removeprefix("callable:").partition(":")
        try:
            imported = import_module(module)
            self._count: Callable[[Sequence[str], str], Iterable[int]] = getattr(imported, function)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{source}: expected callable:MODULE:FUNCTION that can be imported ({error})"
            ) from error
        self.key = source
        self._unread: Callable[[str], float] | None = getattr(
            self._count, "unread", getattr(imported, "unread", None)
        )

    def key_for(self, texts: Sequence[str]) -> str:
        return self.key

    def unread(
        self, texts: Sequence[str], tokens: TokenisedTexts, before: str, after: str
    ) -> list[float] | None:
        if self._unread is None:
            return None
        shares = [self._unread(text) for text in texts]
        return shares if any(shares) else None

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        refuse_surrogates(texts)
        counts = list(self._count(texts, input_type))
        if len(counts) != len(texts):
            raise ValueError(
                f"{self.key} counted {len(counts)} texts of {len(texts)}; it must return one "
                "count for each"
            )
        return TokenisedTexts(None, counts)

    def offsets(self, text: str) -> None:
        return None


def refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise ValueError naming the first text that holds half a surrogate pair, which no tokenizer
    can read.
    """
    for index, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"text {index} is not valid Unicode: character {error.start} is "
                    f"U+{ord(text[error.start]):04X}, half of a "
                    "surrogate pair; send both halves or leave it out"
                ) from None


# models with the same file share one copy in memory
_loaded: WeakValueDictionary[str, _FileTokenizer] = WeakValueDictionary()


def _find(source: str, base_dir: str | None, revision: str | None) -> Path:
    try:
        found = resolve_path(source, base_dir)
    except FileNotFoundError as error:
        if not _HUB_ID.fullmatch(source):
            raise
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(source, "tokenizer.json", revision=revision))
        except Exception as refused:  # its errors have no common class
            raise FileNotFoundError(
                f"{error}; nor could tokenizer.json be had from the hub: {refused}"
            ) from refused
    if found.is_dir():
        found = found / "tokenizer.json"
        if not found.exists():
            raise FileNotFoundError(f"{source}: the folder {found.parent} holds no tokenizer.json")
    return found


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


def _count(ids: TokenIds, one: int) -> int:
    return ids.tolist().count(one) if len(ids) <= _FEW_IDS else int(np.count_nonzero(ids == one))


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
