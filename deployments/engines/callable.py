"""Any Python function as an engine: `target: "module:factory"`, called once with the config's
`kwargs`.

The factory returns an object with the members of `Embedder` below. It runs on its own thread, one
piece of a batch at a time. Between pieces, other batches run and a cancelled batch leaves. Example:

    class Hashes:
        dimensions, max_tokens, batch_tokens = 64, 512, 4096

        def count(self, texts, input_type):
            return [len(text.split()) for text in texts]

        def embed(self, texts, input_type):
            return numpy.array([...], dtype=numpy.float32)
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from deployments.engines.base import Batch, Embedded, EngineDead, EngineError, Setup, TextTooLong
from deployments.engines.common import normalise, pieces_of, probe, require_dimensions
from router import engine_config

T = TypeVar("T")


class CallableEmbedder(Protocol):
    """The object that a factory returns; its methods are called from one thread."""

    dimensions: int
    max_tokens: int
    batch_tokens: int  # maximum per call of `embed`, except for a single longer text

    def embed(self, texts: Sequence[str], input_type: str) -> npt.NDArray[np.floating]:
        """Return vectors of shape (texts, dimensions) and any nonzero length; `input_type` is
        "query" or "document".
        """

    def count(self, texts: Sequence[str], input_type: str) -> list[int]:
        """Count the tokens the model reads of each text, including special tokens."""


def create(settings: engine_config.CallableEngineConfig, setup: Setup) -> "CallableEngine":
    """Create the engine without starting it."""
    return CallableEngine(settings, setup.dimensions, setup.max_tokens)


class CallableEngine:
    """An Embedder on its own thread."""

    def __init__(
        self, settings: engine_config.CallableEngineConfig, dimensions: int, max_tokens: int
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, max_tokens
        self._settings = settings
        self._embedder: CallableEmbedder | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="callable-engine")
        self._queued_tokens = 0

    async def start(self) -> None:
        """Call the factory and embed a word; raises EngineError if the target is missing or does
        not fit the config.
        """
        try:
            self._embedder = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._make
            )
            self.batch_tokens = self._embedder.batch_tokens
            require_dimensions(self._embedder.dimensions, self.dimensions)
            if self._embedder.max_tokens < self.max_tokens:
                raise EngineError(
                    f"{self._settings.target} reads {self._embedder.max_tokens} tokens: lower "
                    "`max_tokens` to that"
                )
            await self.check_health()
        except EngineError:
            await self.stop()
            raise

    def _make(self) -> CallableEmbedder:
        target = self._settings.target
        module, _, name = target.partition(":")
        try:
            factory = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise EngineError(
                f"engine.target {target!r} is not `module:factory`, or it cannot be imported: "
                f"{error}"
            ) from error
        try:
            embedder: CallableEmbedder = factory(**self._settings.kwargs)
        except Exception as error:
            raise EngineError(f"{target} failed: {type(error).__name__}: {error}") from error
        needed = ("dimensions", "max_tokens", "batch_tokens", "embed", "count")
        if missing := [name for name in needed if not hasattr(embedder, name)]:
            raise EngineError(
                f"what {target} returned has no {' and no '.join(missing)}: see "
                "deployments/engines/callable.py"
            )
        return embedder

    async def embed(self, batch: Batch) -> Embedded:
        """Embed texts piece by piece; texts that are too long fail alone."""
        embedder = self._embedder
        if embedder is None:
            raise EngineDead(f"{self._settings.target} is not running")
        if batch.texts is None:
            raise EngineError("a callable engine takes text, not token ids")
        tokens, waited_s = await self._call(embedder.count, batch.texts, batch.input_type)
        failed: dict[int, EngineError] = {
            row: TextTooLong(row, count, self.max_tokens)
            for row, count in enumerate(tokens)
            if count > self.max_tokens
        }
        # failed rows keep harmless values
        vectors = np.ones((len(tokens), self.dimensions), np.float32)
        pieces = pieces_of(
            [row for row in range(len(tokens)) if row not in failed], tokens, embedder.batch_tokens
        )
        left = sum(tokens[row] for piece in pieces for row in piece)
        self._queued_tokens += left
        try:
            for piece in pieces:
                made, late_s = await self._call(
                    embedder.embed, [batch.texts[row] for row in piece], batch.input_type
                )
                waited_s += late_s
                if made.shape != (len(piece), self.dimensions):
                    raise EngineError(
                        f"{self._settings.target} gave {made.shape} for {len(piece)} texts of "
                        f"{self.dimensions}"
                    )
                vectors[piece] = made
                done = sum(tokens[row] for row in piece)
                self._queued_tokens -= done
                left -= done
        finally:
            self._queued_tokens -= left
        return Embedded(vectors, tokens, normalise(vectors) | failed, waited_s)

    async def _call(
        self, method: Callable[[Sequence[str], str], T], texts: Sequence[str], input_type: str
    ) -> tuple[T, float]:
        """Call the method on the thread; returns its result and the seconds it waited."""
        sent_s = time.monotonic()

        def call() -> tuple[T, float]:
            waited_s = time.monotonic() - sent_s
            return method(texts, input_type), waited_s

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except EngineError:
            raise
        except Exception as error:
            if self._embedder is None:
                raise EngineDead(f"{self._settings.target} was stopped") from error
            raise EngineError(
                f"{self._settings.target} failed: {type(error).__name__}: {error}"
            ) from error

    def queued_tokens(self) -> int:
        """Tokens that were counted and not embedded yet."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed a word, queued among the pieces of other batches."""
        await probe(self.embed, Batch(texts=["health"], input_type="query"))

    async def stop(self) -> None:
        """Drop the embedder; the running piece still finishes."""
        self._embedder = None
        self._thread.shutdown(wait=False, cancel_futures=True)
