"""Vectors of a long job, kept in a folder so that an interrupted job can continue."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from router.arrays import Vectors
from router.files import replacing
from router.schema import Side

# model, texts, side -> vectors of the model's own size
Embed = Callable[[str, Sequence[str], Side], Awaitable[Vectors]]


class VectorStore:
    """An Embed that stores each chunk of another Embed's vectors as a file, in 16 bits.

    A file is named by the model, the side and a digest of the texts, and is either complete or
    absent. The name does not contain the model's weights: use one folder for each set of models.
    """

    def __init__(
        self,
        embed: Embed,
        folder: Path,
        texts_a_file: int,
        known: Callable[[int], object] = lambda texts: None,
    ) -> None:
        """`known` is called with the number of texts of each chunk that is already stored."""
        self._embed, self._folder, self._texts_a_file = embed, folder, texts_a_file
        self._known = known

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        size = self._texts_a_file
        starts = range(0, len(texts), size)
        made = [await self._chunk(model, texts[at : at + size], side) for at in starts]
        return np.concatenate(made).astype(np.float32)

    async def _chunk(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=12).hexdigest()
        file = self._folder / f"{model.replace('/', '_')}-{side}-{digest}.npy"
        if file.exists():
            self._known(len(texts))
            known: Vectors = np.load(file)
            return known
        made = (await self._embed(model, texts, side)).astype(np.float16)  # as it is read back
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            np.save(opened, made)
        rounded: Vectors = made.astype(np.float32)
        return rounded
