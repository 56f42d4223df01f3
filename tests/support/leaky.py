"""An embedder that quotes its input in errors, as many libraries do."""

from collections.abc import Sequence

import numpy as np

from router.arrays import Vectors


class Leaky:
    """An embedder that fails on texts with `explode` in them."""

    dimensions, max_tokens, batch_tokens = 4, 1000, 1000

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        return [len(text.split()) for text in texts]

    def embed(self, texts: Sequence[str], input_type: str) -> Vectors:
        for text in texts:
            if "explode" in text:
                try:
                    raise KeyError(text)
                except KeyError as error:
                    raise ValueError(f"cannot embed {text!r}") from error
        return np.full((len(texts), 4), 0.5, np.float32)


def load() -> Leaky:
    return Leaky()


def count(texts: Sequence[str], input_type: str) -> list[int]:
    """Count tokens for the router; fail on `crash`."""
    for text in texts:
        if "crash" in text:
            raise ValueError(f"cannot count {text!r}")
    return [len(text.split()) for text in texts]
