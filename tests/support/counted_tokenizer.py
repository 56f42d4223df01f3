"""A tokenizer that counts the texts and characters it receives."""

from collections.abc import Sequence

from router.tokenised_texts import TokenisedTexts
from router.tokenizer import Tokenizer


class Counted:
    """Another tokenizer, counted."""

    def __init__(self, inner: Tokenizer) -> None:
        self._inner, self.key = inner, inner.key
        self.characters = self.texts = 0

    def key_for(self, texts: Sequence[str]) -> str:
        return self._inner.key_for(texts)

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        self.characters += sum(map(len, texts))
        self.texts += len(texts)
        return self._inner(texts, input_type)

    def unread(
        self, texts: Sequence[str], tokens: TokenisedTexts, before: str, after: str
    ) -> list[float] | None:
        return self._inner.unread(texts, tokens, before, after)

    def offsets(self, text: str) -> list[tuple[int, int]] | None:
        self.characters += len(text)
        return self._inner.offsets(text)
