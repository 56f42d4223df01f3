from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deployments.tools.vector_store import VectorStore
from router.arrays import Vectors
from router.schema import Side

TEXTS = [f"text {row}" for row in range(10)]


class Engine:
    """Makes a vector of each text's letters, and stops after so many texts."""

    def __init__(self, most: int = 1000) -> None:
        self.made, self._most = 0, most

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        if self.made + len(texts) > self._most:
            raise RuntimeError("stopped")
        self.made += len(texts)
        return np.array([[len(text), ord(text[-1]), len(side)] for text in texts], np.float32)


async def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        await VectorStore(Engine(most=8), tmp_path, 4)("m", TEXTS, "query")
    known: list[int] = []
    engine = Engine()
    made = await VectorStore(engine, tmp_path, 4, known.append)("m", TEXTS, "query")
    assert (engine.made, known) == (2, [4, 4])
    np.testing.assert_array_equal(made, await Engine()("m", TEXTS, "query"))


async def test_another_model_side_or_text_is_embedded_anew(tmp_path: Path) -> None:
    engine = Engine()
    store = VectorStore(engine, tmp_path, 4)
    await store("m", TEXTS[:4], "query")
    await store("n", TEXTS[:4], "query")
    await store("m", TEXTS[:4], "document")
    await store("m", TEXTS[1:5], "query")
    assert engine.made == 16
