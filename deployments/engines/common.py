"""Code that engines share: find the model, refuse texts it cannot read, scale vectors to length 1.

Ids are checked here because engines do not check them and callers can send their own
(`token_ids: "model"`). For an id outside the vocabulary, vLLM's CPU kernels return a meaningless
vector and the CUDA kernels end the process.
"""

import os
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from deployments.engines.base import Batch, Embedded, EngineError, InvalidText, TextTooLong
from router.arrays import TokenIds, Vectors
from router.model_config import resolve_path


def model_source(source: str, base_dir: str | None) -> str:
    """Resolve `source` to a folder or a hub id; a folder switches the hub off in this process.

    Raises FileNotFoundError with a message if it is neither.
    """
    try:
        folder = resolve_path(source, base_dir)
    except FileNotFoundError:
        if source.count("/") == 1 and not source.startswith((".", "/", "~", "package:")):
            return source
        raise
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(folder)


def token_ids(batch: Batch) -> Sequence[TokenIds]:
    """The batch's token ids; raises EngineError if it holds texts."""
    if batch.ids is None:
        raise EngineError(
            "this engine takes token ids, not text: set the model's `tokenizer` to its "
            "tokenizer.json"
        )
    return batch.ids


def unreadable(ids: Sequence[TokenIds], max_tokens: int, vocabulary: int) -> dict[int, EngineError]:
    """The rows that a model with this context and vocabulary cannot read, each with its reason."""
    sizes = [len(text) for text in ids]
    if sizes and min(sizes) > 0 and max(sizes) <= max_tokens:  # the usual case: one check for all
        together = np.concatenate(ids)
        if together.min() >= 0 and together.max() < vocabulary:
            return {}
    failed: dict[int, EngineError] = {}
    for row, text in enumerate(ids):
        if len(text) > max_tokens:
            failed[row] = TextTooLong(row, len(text), max_tokens)
        elif not len(text):
            failed[row] = InvalidText(f"text {row} has no tokens: there is nothing to embed")
        elif text.min() < 0 or text.max() >= vocabulary:
            failed[row] = InvalidText(
                f"text {row} has token id {max(text.max(), -text.min(), key=abs)}, the model "
                f"knows 0 to {vocabulary - 1}: "
                "tokenise with the model's own tokenizer"
            )
    return failed


def normalise(vectors: Vectors) -> dict[int, EngineError]:
    """Scale every row to length 1 in place; returns zero and non-finite rows as failures."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    usable = np.isfinite(squares) & (squares > 0.0)
    if usable.all():
        if squares.size and np.abs(squares - 1.0).max() > 1e-6:
            vectors /= np.sqrt(squares)[:, None]
        return {}
    vectors[usable] /= np.sqrt(squares[usable])[:, None]
    return {
        int(row): EngineError(
            f"the model's vector for text {row} is "
            f"{'zero' if squares[row] == 0.0 else 'not finite'}"
        )
        for row in np.flatnonzero(~usable)
    }


def require_dimensions(got: int, wanted: int) -> None:
    """Raise EngineError unless the model's vectors are as wide as the config says."""
    if got != wanted:
        raise EngineError(
            f"the model gives {got} dimensions, the config says {wanted}: set `dimensions: {got}`"
        )


async def probe(embed: Callable[[Batch], Awaitable[Embedded]], batch: Batch) -> None:
    """Embed the batch as a health check; raises the EngineError of the first failed text."""
    answer = await embed(batch)
    for error in answer.failed.values():
        raise error


def pieces_of(rows: Sequence[int], tokens: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Split rows, in order, into runs of at most `batch_tokens` tokens or one longer text."""
    pieces: list[list[int]] = []
    room = 0
    for row in rows:
        if not pieces or tokens[row] > room:
            pieces.append([])
            room = batch_tokens
        pieces[-1].append(row)
        room -= tokens[row]
    return pieces
