"""An embedding table as a model (WordLlama, model2vec): look up the ids, average their rows,
normalise.

The table keeps its saved type (float16 halves the memory of a replica). Only gathered rows become
float32, a piece at a time, so that 300,000 tokens do not take 300 MB. A text without tokens has no
vector and fails alone; WordLlama's own code would return NaN for it.
"""

import asyncio

import numpy as np
import numpy.typing as npt

from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, Setup
from deployments.engines.common import (
    normalise,
    pieces_of,
    probe,
    require_dimensions,
    token_ids,
    unreadable,
)
from router import engine_config
from router.arrays import TokenIds, Vectors
from router.model_config import resolve_path

# 1-2 ms of numpy at 256 dimensions: the longest this engine blocks the event loop
PIECE_TOKENS = 4096


def create(settings: engine_config.StaticEngineConfig, setup: Setup) -> "StaticEngine":
    """Create the engine without starting it."""
    return StaticEngine(settings, setup.dimensions, setup.max_tokens, setup.base_dir)


class StaticEngine:
    """A table of (vocabulary, dimensions) from a safetensors file."""

    def __init__(
        self,
        settings: engine_config.StaticEngineConfig,
        dimensions: int,
        max_tokens: int,
        base_dir: str | None,
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, PIECE_TOKENS
        self._settings, self._base_dir = settings, base_dir
        self._table: npt.NDArray[np.floating] | None = None
        self._queued_tokens = 0

    async def start(self) -> None:
        """Read the table; raises EngineError if the file or tensor does not match the config."""
        self._table = await asyncio.to_thread(self._read)
        await self.check_health()

    def _read(self) -> npt.NDArray[np.floating]:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(resolve_path(self._settings.weights, self._base_dir))
        except (OSError, SafetensorError) as error:
            raise EngineError(f"weights: {error}") from error
        name = self._settings.tensor
        if name is None and len(tensors) == 1:
            name = next(iter(tensors))
        if name is None or name not in tensors:
            raise EngineError(
                f"{self._settings.weights} holds {', '.join(tensors)}: set `tensor` to one of them"
            )
        table: npt.NDArray[np.floating] = tensors[name]
        if table.ndim != 2 or table.dtype not in (np.float16, np.float32):
            raise EngineError(
                f"tensor {name} is {table.dtype} {table.shape}: a table has two axes of float16 "
                "or float32"
            )
        require_dimensions(table.shape[1], self.dimensions)
        return table

    async def embed(self, batch: Batch) -> Embedded:
        """Average the rows of each text; batches over one piece run in a thread, piece by piece."""
        if self._table is None:
            raise EngineDead("the table is not loaded")
        table, ids = self._table, token_ids(batch)
        failed = unreadable(ids, self.max_tokens, len(table))
        tokens = [len(text) for text in ids]
        # failed rows keep harmless values
        vectors = np.ones((len(ids), self.dimensions), np.float32)
        readable = [row for row in range(len(ids)) if row not in failed]
        work = sum(tokens[row] for row in readable)
        if work <= PIECE_TOKENS:
            vectors[readable] = _means(table, [ids[row] for row in readable])
        else:
            self._queued_tokens += work
            try:
                for rows in pieces_of(readable, tokens, PIECE_TOKENS):
                    vectors[rows] = await asyncio.to_thread(
                        _means, table, [ids[row] for row in rows]
                    )
            finally:
                self._queued_tokens -= work
        return Embedded(vectors, tokens, normalise(vectors) | failed)

    def queued_tokens(self) -> int:
        """Tokens of the large batches in progress; small ones are embedded immediately."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed the first entry of the vocabulary."""
        await probe(self.embed, Batch(ids=[np.zeros(1, np.int32)]))

    async def stop(self) -> None:
        """Release the table."""
        self._table = None


def _means(table: npt.NDArray[np.floating], ids: list[TokenIds]) -> Vectors:
    """The average row of each text, summed in float32 a piece at a time."""
    sums = np.zeros((len(ids), table.shape[1]), np.float32)
    for row, text in enumerate(ids):
        for start in range(0, len(text), PIECE_TOKENS):
            sums[row] += table[text[start : start + PIECE_TOKENS]].sum(axis=0, dtype=np.float32)
        sums[row] /= len(text)
    return sums
