"""Estimated tokens, for models whose tokenizer the router does not have."""

import re
from collections.abc import Sequence

from router.tokenised_texts import TokenisedTexts, refuse_surrogates

_PIECE = re.compile(r"\s?\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")
_LONGEST_WORD = 32  # of prose; what is longer is base64, a key or the like
_BYTES_A_TOKEN = 3
_SPECIAL_TOKENS = 2  # that most models put around a text


class Estimate:
    """Estimated counts without a tokenizer, for a server that can cut long texts or compute them
    for minutes.
    """

    key = "estimate"

    def key_for(self, texts: Sequence[str]) -> str:
        return self.key

    def unread(self, texts: Sequence[str], tokens: TokenisedTexts, before: str, after: str) -> None:
        return None

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        refuse_surrogates(texts)
        return TokenisedTexts(None, [_SPECIAL_TOKENS + estimated_tokens(text) for text in texts])

    def offsets(self, text: str) -> None:
        return None


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text, so that few texts have more.

    A token for every three bytes, or for every word and mark if those are more. Words with digits
    and very long ones, such as numbers, hashes and base64, count a token for every character, and
    for the space in front; for every byte of digits that are not ASCII.
    """
    pieces = spelled = spelled_bytes = 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        digits = _DIGIT.findall(piece)
        if digits or len(piece) > _LONGEST_WORD:
            spelled += len(piece) - len(digits) + len("".join(digits).encode())
            spelled_bytes += len(piece.encode())
        else:
            pieces += 1
    return spelled + max(pieces, (len(text.encode()) - spelled_bytes) // _BYTES_A_TOKEN)
