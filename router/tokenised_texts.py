"""What every tokenizer returns, and the texts that none can read."""

from collections.abc import Sequence
from typing import NamedTuple

from router.arrays import TokenIds


class TokenisedTexts(NamedTuple):
    """The tokens that a model reads of each text, in the order of the texts."""

    ids: list[TokenIds] | None  # None where the engine takes text
    counts: list[int]  # special tokens included


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
