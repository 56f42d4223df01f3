"""Vector spaces by id, and the cut that fits vectors to a space."""

from typing import NamedTuple, Self

import numpy as np

from router.arrays import Vectors
from router.errors import shorten


class Space(NamedTuple):
    """Vectors that can be compared with each other; written `MODEL/DIMENSIONS`, where the id of the
    model can contain slashes.
    """

    model: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.model}/{self.dimensions}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `MODEL/DIMENSIONS`; raises ValueError if it does not end in a slash and a size."""
        model, _, size = text.rpartition("/")
        if (
            not model
            or not size.isascii()
            or not size.isdecimal()
            or len(size) > 9
            or not int(size)
        ):
            raise ValueError(f"{shorten(text)} is not MODEL/DIMENSIONS")
        return cls(model, int(size))


def fit(vectors: Vectors, dimensions: int) -> Vectors:
    """Cut (n, native) vectors to (n, dimensions) and scale them to length 1 again; no copy if the
    width is already right.

    The result of a row does not depend on the rows beside it, so a cached vector equals a fresh
    one. A row of zeros stays zero. Raises ValueError if the vectors are too short.
    """
    native = vectors.shape[1]
    if dimensions == native:
        return vectors
    if dimensions > native:
        raise ValueError(f"vectors of {native} dimensions cannot be cut to {dimensions}")
    cut = vectors[:, :dimensions]
    lengths = np.sqrt(np.square(cut, dtype=np.float64).sum(axis=1, keepdims=True))
    lengths[lengths == 0.0] = 1.0
    fitted: Vectors = (cut / lengths).astype(np.float32)
    return fitted
