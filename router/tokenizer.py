"""Turn texts into token ids or counts, once for every model that reads the same ids."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import tokenizers

from router.file_tokenizers import FileTokenizer, of_library
from router.model_config import resolve_path
from router.tokenised_texts import TokenisedTexts, refuse_surrogates

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


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


# models with the same file share one copy in memory
_loaded: WeakValueDictionary[str, FileTokenizer] = WeakValueDictionary()


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
